//! What only a ring does; the rest is in `plane/tests.rs`.

use std::net::UdpSocket;
use std::time::Instant;

use codec::{DATAGRAM_BYTES, MAX_SHARDS};
use mesh::{Memory, SLOT_BYTES, SlotIndex};

use super::*;

/// A plane that sends every train of its slots without a copy, and a socket to send to. The kernel copies what goes
/// over loopback once more than it was asked to, but holds and notifications are those of any device.
fn zero_copy(slots: usize) -> (Plane, SlotMemory, UdpSocket) {
    let memory = SlotMemory::map(slots).unwrap();
    let plane =
        Plane::open(Socket::open("127.0.0.1:0".parse().unwrap()).unwrap(), memory.region(), 1).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    (plane, memory, socket)
}

/// How long something may take that takes no time on an idle machine.
const DEADLINE: Duration = Duration::from_secs(20);

fn train(socket: &UdpSocket, slot: usize, count: usize) -> Outbox {
    let mut outbox = Outbox::new(1);
    outbox.push_train(socket.local_addr().unwrap(), SlotIndex(slot as u32), 0, count);
    outbox
}

fn until(what: &str, plane: &mut Plane, there: impl Fn(&Plane) -> bool) {
    let begin = Instant::now();
    while !there(plane) {
        assert!(begin.elapsed() < DEADLINE, "{what}");
        plane.wait(Some(Duration::from_millis(1))).unwrap();
    }
}

#[test]
fn a_slot_is_held_from_the_send_until_the_kernel_has_done_with_it() {
    let (mut plane, slots, socket) = zero_copy(2);
    let slot = SlotIndex(1);
    let mut outbox = Outbox::new(3);
    for _ in 0..3 {
        outbox.push_train(socket.local_addr().unwrap(), slot, 0, 4);
    }
    plane.transmit(&outbox);
    assert_eq!(plane.zero_copy.in_flight(), 3, "nobody has asked for notifications yet");
    assert!(slots.is_held(slot) && !slots.is_held(SlotIndex(0)));
    until("the kernel lets go", &mut plane, |_| !slots.is_held(slot));
    assert_eq!(plane.zero_copy.in_flight(), 0);
    assert_eq!((plane.common.counters.trains_sent, plane.common.counters.send_errors), (3, 0));
}

#[test]
fn sends_that_fail_hold_nothing_and_are_counted_once() {
    let (mut plane, slots, _socket) = zero_copy(1);
    let mut outbox = Outbox::new(1);
    // Out of reach from a socket that is bound to loopback.
    outbox.push_train("192.0.2.1:9".parse().unwrap(), SlotIndex(0), 0, 4);
    plane.transmit(&outbox);
    until("the kernel lets go", &mut plane, |_| !slots.is_held(SlotIndex(0)));
    let counters = &plane.common.counters;
    assert_eq!((counters.trains_sent, counters.send_errors, counters.gso_refused), (0, 1, 0));
    assert_eq!((counters.copied_bytes, counters.zero_copy_bytes), (0, 0));
}

#[test]
fn slots_that_are_used_again_as_soon_as_nobody_holds_them_arrive_as_they_were_sent() {
    const SLOTS: usize = 3 * budget::SEGMENT_SLOTS_MIN;
    let (mut plane, mut slots, socket) = zero_copy(SLOTS);
    let mut buffer = [0; 2048];
    for round in 0..200 {
        // Every segment has its turn.
        let slot = (round * 31) % SLOTS;
        until("the kernel lets go", &mut plane, |_| !slots.is_held(SlotIndex(slot as u32)));
        let bytes = slots.bytes_mut(slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES);
        bytes
            .iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte = (at / 7 + at / DATAGRAM_BYTES + round) as u8);
        plane.transmit(&train(&socket, slot, MAX_SHARDS));
        for shard in 0..MAX_SHARDS {
            let (length, _) = socket.recv_from(&mut buffer).unwrap();
            let start = slot * SLOT_BYTES + shard * DATAGRAM_BYTES;
            assert!(
                buffer[..length] == *slots.bytes(start..start + DATAGRAM_BYTES),
                "round {round}, {shard}"
            );
        }
    }
    assert_eq!(plane.common.counters.trains_sent, 200);
    assert_eq!(plane.common.counters.zero_copy_pauses, 0, "all of them were asked for without a copy");
}

#[test]
fn where_the_kernel_copies_all_the_same_it_is_told_to_before_long() {
    let (mut plane, slots, socket) = zero_copy(1);
    let mut buffer = [0; 2048];
    let mut sent = 0;
    while plane.common.counters.zero_copy_pauses == 0 {
        assert!(sent < 10_000, "loopback always copies");
        plane.transmit(&train(&socket, 0, 2));
        sent += 2;
        (0..2).for_each(|_| assert_eq!(socket.recv_from(&mut buffer).unwrap().0, DATAGRAM_BYTES));
        until("the kernel lets go", &mut plane, |_| !slots.is_held(SlotIndex(0)));
    }
    plane.transmit(&train(&socket, 0, 2));
    assert!(!slots.is_held(SlotIndex(0)) && plane.zero_copy.in_flight() == 0);
    let counters = &plane.common.counters;
    assert_eq!(counters.copied_bytes, (sent + 2) * DATAGRAM_BYTES as u64);
    assert_eq!(counters.copied_bytes, counters.bytes_sent);
    assert_eq!(counters.zero_copy_bytes, 0);
}

#[test]
fn no_more_is_under_way_at_once_than_completions_have_room_for() {
    let (mut plane, slots, socket) = zero_copy(1);
    let mut outbox = Outbox::new(3 * budget::ZERO_COPY_IN_FLIGHT);
    while outbox.room() > 0 {
        outbox.push_train(socket.local_addr().unwrap(), SlotIndex(0), 0, 1);
    }
    plane.transmit(&outbox);
    assert!(plane.zero_copy.in_flight() <= budget::ZERO_COPY_IN_FLIGHT);
    until("the kernel lets go", &mut plane, |_| !slots.is_held(SlotIndex(0)));
    let counters = &plane.common.counters;
    assert_eq!((counters.trains_sent, counters.cq_overflow), (3 * budget::ZERO_COPY_IN_FLIGHT as u64, 0));
    assert_eq!(counters.copied_bytes, counters.bytes_sent);
}

#[test]
fn a_plane_that_goes_lets_go_of_what_it_sends() {
    for _ in 0..20 {
        let (mut plane, slots, socket) = zero_copy(1);
        let listen = plane.common.socket.local_addr();
        plane.transmit(&train(&socket, 0, 8));
        assert!(slots.is_held(SlotIndex(0)));
        drop(plane);
        assert!(!slots.is_held(SlotIndex(0)));
        UdpSocket::bind(listen).expect("the port is free");
    }
}

#[test]
fn receiving_goes_on_after_all_buffers_were_taken() {
    const BURST: u64 = 64;
    let slots = SlotMemory::map(1).unwrap();
    let mut plane =
        Plane::open(Socket::open("127.0.0.1:0".parse().unwrap()).unwrap(), slots.region(), 0).unwrap();
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
