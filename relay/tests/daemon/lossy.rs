//! A way between two relays on which datagrams are lost.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use codec::wire::{SHARD, kind_of};

/// Passes on what one peer and a relay say to each other, but not every so many'th of the relay's shards.
pub(crate) struct Lossy {
    pub(crate) address: SocketAddr,
    lost: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lossy {
    pub(crate) fn to(relay: SocketAddr, one_lost_in: u64) -> Lossy {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        far.connect(relay).unwrap();
        let address = near.local_addr().unwrap();
        let (lost, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, stopped) = (Arc::clone(&lost), Arc::clone(&stop));
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        }
        let body = move || {
            let (mut buffer, mut peer, mut shards) = ([0; 2_048], None, 0_u64);
            while !stopped.load(Ordering::Relaxed) {
                while let Ok((length, from)) = near.recv_from(&mut buffer) {
                    peer = Some(from);
                    // What is not passed on is lost, like the rest.
                    let _ = far.send(&buffer[..length]);
                }
                while let Ok(length) = far.recv(&mut buffer) {
                    let datagram = &buffer[..length];
                    shards += u64::from(kind_of(datagram) == Some(SHARD));
                    if kind_of(datagram) == Some(SHARD) && shards.is_multiple_of(one_lost_in) {
                        counted.fetch_add(1, Ordering::Relaxed);
                    } else if let Some(peer) = peer {
                        let _ = near.send_to(datagram, peer);
                    }
                }
            }
        };
        Lossy { address, lost, stop, thread: Some(thread::spawn(body)) }
    }

    /// Shards lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
