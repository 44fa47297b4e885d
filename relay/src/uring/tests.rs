//! What only a ring does; the rest is in `plane/tests.rs`.

use std::net::UdpSocket;

use super::*;

#[test]
fn receiving_goes_on_after_all_buffers_were_taken() {
    const BURST: u64 = 64;
    let slots = SlotMemory::map(1).unwrap();
    let mut plane = Plane::open("127.0.0.1:0".parse().unwrap(), slots.region(), 0).unwrap();
    let (socket, to) = (UdpSocket::bind("127.0.0.1:0").unwrap(), plane.common.socket.local_addr());
    // Nothing is handed over while the kernel fills what it has.
    let mut sent = 0;
    while plane.common.counters.no_buffers == 0 {
        assert!(sent < 2 * u64::from(budget::RECEIVE_BUFFERS), "the kernel never ran out of buffers");
        for number in sent..sent + BURST {
            socket.send_to(&number.to_ne_bytes(), to).unwrap();
        }
        sent += BURST;
        plane.ring.enter();
        plane.sort_completions();
    }
    assert_eq!(plane.arrived.len(), usize::from(budget::RECEIVE_BUFFERS));
    let mut arrived = Vec::new();
    while (arrived.len() as u64) < sent {
        plane.receive(|_, datagram| arrived.push(u64::from_ne_bytes(datagram.try_into().unwrap())));
        // All that was sent is there before it is asked for, so none of these waits is long.
        plane.wait(Some(Duration::from_millis(10))).unwrap();
    }
    assert!(arrived.into_iter().eq(0..sent), "in order, nothing lost, nothing twice");
    assert!(plane.common.counters.rearmed > 0);
}
