//! What strangers send.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use codec::wire::control::{Control, Hello, Role};
use codec::{DATAGRAM_BYTES, Sequence};

use crate::daemon::Daemon;
use crate::peer::{secret, stream_through};

const HELLOS: u64 = 100_000;
const SOURCES: u8 = 200;

/// Everything that is needed for it, all of it touched (`uring/budget.rs`).
const RECEIVE_BUFFER_BYTES: u64 = 34 << 20;

const MIB: u64 = 1 << 20;

/// Strangers at as many addresses; their `Hello`s, and the answers to them, in bytes.
struct Flood {
    sources: Vec<UdpSocket>,
    to: SocketAddr,
    sent_bytes: u64,
    answered_bytes: u64,
}

impl Flood {
    fn new(to: SocketAddr) -> Flood {
        let source = |number| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, number), 0)).expect("a loopback address");
            socket.set_nonblocking(true).unwrap();
            socket
        };
        Flood { sources: (2..2 + SOURCES).map(source).collect(), to, sent_bytes: 0, answered_bytes: 0 }
    }

    /// Sends `HELLOS` greetings without a cookie.
    fn run(&mut self) {
        let key = secret(9).key();
        for number in 0..HELLOS {
            let hello = Hello {
                role: Role::Subscribe,
                key,
                nonce: number,
                from: Sequence(0),
                cookie: [0; 16],
                signature: [0; 64],
            };
            let bytes = Control::Hello(hello).encode();
            assert_eq!(bytes.len(), DATAGRAM_BYTES);
            let source = &self.sources[number as usize % self.sources.len()];
            // A full socket buffer loses it, as a network would.
            if source.send_to(&bytes, self.to).is_ok() {
                self.sent_bytes += bytes.len() as u64;
            }
            self.answered_bytes += answers(source);
        }
        self.answered_bytes += self.sources.iter().map(answers).sum::<u64>();
    }
}

fn answers(source: &UdpSocket) -> u64 {
    let mut buffer = [0; 2_048];
    std::iter::from_fn(|| source.recv(&mut buffer).ok()).map(|length| length as u64).sum()
}

#[test]
fn greetings_of_strangers_cost_the_daemon_no_memory() {
    let daemon = Daemon::start("127.0.0.1:0", &["--open"]);
    let mut flood = Flood::new(daemon.address());
    let before = daemon.resident_bytes();
    flood.run();
    let warm = daemon.resident_bytes();
    flood.run();
    let after = daemon.resident_bytes();
    println!(
        "resident memory: {} KiB, {} KiB, {} KiB; {} bytes sent, {} answered",
        before / 1024,
        warm / 1024,
        after / 1024,
        flood.sent_bytes,
        flood.answered_bytes
    );
    assert!(flood.sent_bytes > HELLOS * DATAGRAM_BYTES as u64, "hardly anything was sent");
    assert!(flood.answered_bytes > 0, "it answers strangers");
    assert!(flood.answered_bytes <= flood.sent_bytes, "an amplifier");
    assert!(warm <= before + RECEIVE_BUFFER_BYTES + 16 * MIB);
    assert!(after <= warm + 4 * MIB);
    stream_through(daemon.address(), daemon.address(), secret(1));
}

#[test]
fn garbage_of_any_length_is_survived() {
    let mut daemon = Daemon::start("127.0.0.1:0", &["--open"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let seed: u64 = 0x5eed;
    println!("seed {seed}");
    let mut random = seed;
    for length in 0..=1_500 {
        // Noise; and noise that starts as datagrams of this protocol do, of each kind and one that is none.
        let kinds = std::iter::once(None).chain((0..=8).map(Some));
        for kind in kinds {
            let mut bytes: Vec<u8> = std::iter::repeat_with(|| next_byte(&mut random)).take(length).collect();
            if let Some(kind) = kind {
                let preamble = [b'S', b'P', 1, kind];
                let shared = length.min(preamble.len());
                bytes[..shared].copy_from_slice(&preamble[..shared]);
            }
            socket.send_to(&bytes, daemon.address()).unwrap();
        }
    }
    assert!(daemon.is_running());
    stream_through(daemon.address(), daemon.address(), secret(1));
    assert!(daemon.is_running());
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
}

/// Xorshift64 (Marsaglia 2003).
fn next_byte(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as u8
}
