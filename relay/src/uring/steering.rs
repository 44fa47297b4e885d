//! Which worker a peer's datagrams go to: always the same one, by the peer's address.
//!
//! Everything that is bounded by address is then bounded exactly, and whoever dials knows at which worker the answer
//! arrives. The kernel's own choice (`SO_REUSEPORT`) hashes ports too, with a secret of its own.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use libc::{
    BPF_ABS, BPF_ALU, BPF_B, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET,
    BPF_RSH, BPF_TAX, BPF_W, BPF_X, BPF_XOR, SKF_NET_OFF, sock_filter, sock_fprog,
};

/// How a relay spreads its peers: by multiplicative hashing (Knuth, The Art of Computer Programming, vol. 3, 6.4) with a
/// multiplier of its own, so that whoever has many addresses cannot aim them all at one worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steering {
    workers: u32,
    multiplier: u32,
}

impl Steering {
    /// Among so many workers, by a random number.
    pub(crate) fn new(workers: usize, random: u32) -> Steering {
        // Odd, so that no two words collide before the lower half is cut off, and large, so that close ones part.
        Steering { workers: workers as u32, multiplier: random | 0x8000_0001 }
    }

    /// What [`Steering::new`] makes the same of again.
    pub(crate) fn multiplier(self) -> u32 {
        self.multiplier
    }

    /// The number of the worker that hears this peer: the upper half of the hash of an IPv4 address or an IPv6 /64.
    pub(crate) fn worker_of(self, peer: IpAddr) -> usize {
        let word = match peer.to_canonical() {
            IpAddr::V4(ip) => u32::from(ip),
            IpAddr::V6(ip) => {
                let network = (u128::from(ip) >> 64) as u64;
                (network >> 32) as u32 ^ network as u32
            }
        };
        ((word.wrapping_mul(self.multiplier) >> 16) % self.workers) as usize
    }
}

/// Has the kernel choose in this way among the sockets that share `socket`'s port, which number themselves in the order
/// in which they are bound. While there are fewer of them than workers, it chooses by itself where the chosen one is missing.
pub(super) fn steer(socket: &impl AsFd, steering: Steering) -> io::Result<()> {
    // Negative offsets count from the network header (Linux, Documentation/networking/filter.rst).
    let network = |offset: i32| (SKF_NET_OFF + offset) as u32;
    let load = |size, offset| op(BPF_LD | size | BPF_ABS, network(offset));
    let mut program = [
        load(BPF_B, 0),
        op(BPF_ALU | BPF_RSH | BPF_K, 4),
        // Version 6 jumps over the next two.
        sock_filter { jt: 2, ..op(BPF_JMP | BPF_JEQ | BPF_K, 6) },
        load(BPF_W, 12),
        op(BPF_JMP | BPF_JA, 4),
        load(BPF_W, 8),
        op(BPF_MISC | BPF_TAX, 0),
        load(BPF_W, 12),
        op(BPF_ALU | BPF_XOR | BPF_X, 0),
        op(BPF_ALU | BPF_MUL | BPF_K, steering.multiplier),
        op(BPF_ALU | BPF_RSH | BPF_K, 16),
        op(BPF_ALU | BPF_MOD | BPF_K, steering.workers),
        op(BPF_RET | BPF_A, 0),
    ];
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let descriptor = socket.as_fd().as_raw_fd();
    let length = size_of_val(&program) as libc::socklen_t;
    // SAFETY: promise 6: the program and its instructions live until the end of this function, and are as long as said.
    let result = unsafe {
        let value = std::ptr::from_ref(&program).cast();
        libc::setsockopt(descriptor, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, value, length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns what the calculation came to, not a constant (linux/bpf_common.h; the libc crate does not have it).
const BPF_A: u32 = 0x10;

fn op(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_spread_evenly_and_a_network_of_ipv6_is_one_peer() {
        for (workers, random) in [(2, 0x9e37_79b1), (3, 0x1234_5678), (7, 0xdead_beef), (64, 0x7fed_cba9)] {
            let steering = Steering::new(workers, random);
            let mut counts = vec![0; workers];
            for number in 0..64_000_u32 {
                counts[steering.worker_of(IpAddr::from((0x0a61_0000 + number).to_be_bytes()))] += 1;
            }
            let fair = 64_000 / workers;
            assert!(
                counts.iter().all(|&count| count > fair * 9 / 10 && count < fair * 11 / 10),
                "{counts:?}"
            );
        }
        let of = |peer: &str| Steering::new(64, 0x9e37_79b1).worker_of(peer.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
