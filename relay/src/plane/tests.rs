//! Each plane against plain sockets, on loopback.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Instant;

use codec::wire::control::{Challenge, Control, Hello, Role};
use codec::{ChannelKey, DATAGRAM_BYTES, MAX_SHARDS, Sequence};
use mesh::{Memory, Outbox, SLOT_BYTES, SlotIndex};

use super::*;
use crate::uring::{SlotMemory, Steering, set_option};

/// How long something may take that takes no time on an idle machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// A plane with its trains copied or, as far as it can, not.
#[derive(Clone, Copy)]
struct Way {
    io: Io,
    zero_copy_from_bytes: u32,
}

const URING: Way = Way { io: Io::Uring, zero_copy_from_bytes: 0 };
const ZERO_COPY: Way = Way { io: Io::Uring, zero_copy_from_bytes: 1 };
const MMSG: Way = Way { io: Io::Mmsg, zero_copy_from_bytes: 0 };

impl Way {
    fn open(self, listen: SocketAddr, slots: &SlotMemory) -> Result<Plane, OpenError> {
        Plane::open(self.io, listen, slots.region(), self.zero_copy_from_bytes)
    }
}

fn open(way: Way, listen: &str) -> (Plane, SlotMemory) {
    let slots = SlotMemory::map(4).unwrap();
    (way.open(listen.parse().unwrap(), &slots).unwrap(), slots)
}

fn peer(bind: &str) -> UdpSocket {
    let socket = UdpSocket::bind(bind).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// The plane's port at a loopback address.
fn at(ip: &str, plane: &Plane) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), plane.local_addr().port())
}

/// Runs the plane until `enough` says so, and returns what arrived.
fn receive_until(
    plane: &mut Plane,
    enough: impl Fn(&[(SocketAddr, Vec<u8>)]) -> bool,
) -> Vec<(SocketAddr, Vec<u8>)> {
    let begin = Instant::now();
    let mut arrived = Vec::new();
    while !enough(&arrived) {
        let left = DEADLINE.checked_sub(begin.elapsed()).expect("what was sent arrives within the deadline");
        plane.receive(|from, datagram| arrived.push((from, datagram.to_vec())));
        if !enough(&arrived) {
            plane.wait(Some(left)).unwrap();
        }
    }
    arrived
}

/// More than either plane has.
const RECEIVE_BUFFERS: usize = 512;

/// Datagrams that any socket buffer has room for.
const BURST: u64 = 64;

fn send_numbers(socket: &UdpSocket, to: SocketAddr, numbers: std::ops::Range<u64>) {
    for number in numbers {
        socket.send_to(&number.to_ne_bytes(), to).unwrap();
    }
}

fn numbers_of(arrived: &[(SocketAddr, Vec<u8>)]) -> impl Iterator<Item = u64> {
    arrived.iter().map(|(_, datagram)| u64::from_ne_bytes(datagram[..].try_into().unwrap()))
}

/// Shards that differ from each other in every byte that matters.
fn fill_slot(slots: &mut SlotMemory, slot: usize, seed: u8) {
    let bytes = slots.bytes_mut(slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES);
    for (shard, datagram) in bytes.chunks_mut(DATAGRAM_BYTES).enumerate() {
        for (at, byte) in datagram.iter_mut().enumerate() {
            *byte = (at as u8) ^ (shard as u8).wrapping_mul(37) ^ seed;
        }
    }
}

fn shard_of(slots: &dyn Memory, slot: usize, shard: usize) -> &[u8] {
    let start = slot * SLOT_BYTES + shard * DATAGRAM_BYTES;
    slots.bytes(start..start + DATAGRAM_BYTES)
}

fn train(to: SocketAddr, slot: u32, first: usize, count: usize) -> Outbox {
    let mut outbox = Outbox::new(1);
    outbox.push_train(to, SlotIndex(slot), first, count);
    outbox
}

fn assert_train_arrives(socket: &UdpSocket, slots: &dyn Memory, slot: usize, first: usize, count: usize) {
    let mut buffer = [0; 2048];
    for shard in first..first + count {
        let (bytes, _) = socket.recv_from(&mut buffer).unwrap();
        assert!(buffer[..bytes] == *shard_of(slots, slot, shard), "shard {shard} of a train of {count}");
    }
}

/// Runs the plane until nobody holds the slot.
fn until_let_go(plane: &mut Plane, slots: &SlotMemory, slot: SlotIndex) {
    let begin = Instant::now();
    while slots.is_held(slot) {
        assert!(begin.elapsed() < DEADLINE, "the kernel lets go");
        // Not long: what ends the holding may have come before the plane sleeps.
        plane.wait(Some(Duration::from_millis(1))).unwrap();
    }
}

/// Makes three tests of each function.
macro_rules! every_way {
    ($($test:ident),+ $(,)?) => {
        mod on_io_uring {
            $(#[test] fn $test() { super::$test(super::URING) })+
        }
        mod on_io_uring_zero_copy {
            $(#[test] fn $test() { super::$test(super::ZERO_COPY) })+
        }
        mod on_mmsg {
            $(#[test] fn $test() { super::$test(super::MMSG) })+
        }
    };
}

every_way!(
    one_dual_stack_port_takes_singles_of_both_families_with_their_sources,
    aggregates_are_handed_over_as_single_datagrams,
    trains_of_every_length_arrive_as_their_shards_in_order,
    control_datagrams_arrive_unchanged,
    a_batch_larger_than_the_ring_is_sent_whole,
    a_flood_leaves_the_plane_as_it_was,
    oversized_datagrams_are_dropped_and_counted,
    a_waiting_plane_is_woken_from_another_thread,
    a_wake_between_two_waits_is_not_lost,
    timeouts_are_kept,
    a_destination_that_cannot_be_sent_to_stops_no_other,
    where_segmentation_is_refused_shards_go_singly_and_trains_come_back,
    a_used_port_gives_an_error_that_says_so,
    a_foreign_address_gives_an_error_that_says_so,
    planes_share_a_port_and_free_it_when_they_go,
    a_peer_is_heard_by_the_plane_that_its_address_names,
    a_plane_can_go_with_datagrams_unread_and_undelivered,
    what_arrives_while_a_plane_takes_anothers_place_is_received_by_one_of_them,
    a_socket_that_does_not_fit_is_not_taken,
    the_probe_names_calls_address_and_buffers,
);

fn one_dual_stack_port_takes_singles_of_both_families_with_their_sources(way: Way) {
    let (mut plane, _slots) = open(way, "[::]:0");
    let (v4, v6) = (peer("127.0.0.1:0"), peer("[::1]:0"));
    v4.send_to(b"four", at("127.0.0.1", &plane)).unwrap();
    v6.send_to(b"six", at("::1", &plane)).unwrap();
    v4.send_to(b"", at("127.0.0.1", &plane)).unwrap();

    let arrived = receive_until(&mut plane, |arrived| arrived.len() == 3);
    for (from, datagram) in [(&v4, "four"), (&v6, "six"), (&v4, "")] {
        assert!(
            arrived.contains(&(from.local_addr().unwrap(), datagram.into())),
            "{datagram:?}: {arrived:?}"
        );
    }
    assert_eq!(plane.counters().bytes_received, 7);
}

fn aggregates_are_handed_over_as_single_datagrams(way: Way) {
    for (listen, ip) in [("[::]:0", "127.0.0.1"), ("[::]:0", "::1"), ("127.0.0.1:0", "127.0.0.1")] {
        let (mut plane, _slots) = open(way, listen);
        let (mut sender, mut slots) = open(way, &SocketAddr::new(ip.parse().unwrap(), 0).to_string());
        fill_slot(&mut slots, 1, 5);
        sender.transmit(&train(at(ip, &plane), 1, 0, MAX_SHARDS));

        let arrived = receive_until(&mut plane, |arrived| arrived.len() == MAX_SHARDS);
        for (shard, (from, datagram)) in arrived.iter().enumerate() {
            assert_eq!(*from, sender.local_addr());
            assert!(*datagram == shard_of(&slots, 1, shard), "shard {shard}");
        }
        let messages = plane.counters().messages_received;
        assert!(messages < MAX_SHARDS as u64, "loopback keeps a train together: {messages} messages");
    }
}

fn trains_of_every_length_arrive_as_their_shards_in_order(way: Way) {
    let (mut plane, mut slots) = open(way, "[::]:0");
    for socket in [peer("127.0.0.1:0"), peer("[::1]:0")] {
        for count in 1..=MAX_SHARDS {
            fill_slot(&mut slots, 2, count as u8);
            let first = MAX_SHARDS - count;
            plane.transmit(&train(socket.local_addr().unwrap(), 2, first, count));
            // Nothing of the batch is needed any more, once the slot is not held.
            until_let_go(&mut plane, &slots, SlotIndex(2));
            let all = 0..4 * SLOT_BYTES;
            let sent = slots.bytes(all.clone()).to_vec();
            slots.bytes_mut(all).fill(0);
            assert_train_arrives(&socket, &sent, 2, first, count);
        }
    }
    let counters = plane.counters();
    assert_eq!(counters.trains_sent, 2 * MAX_SHARDS as u64);
    assert_eq!(counters.datagrams_sent, (MAX_SHARDS * (MAX_SHARDS + 1)) as u64);
    assert_eq!(counters.bytes_sent, counters.datagrams_sent * DATAGRAM_BYTES as u64);
    assert_eq!((counters.send_errors, counters.gso_refused, counters.gave_up), (0, 0, 0));
}

fn control_datagrams_arrive_unchanged(way: Way) {
    let (mut plane, _slots) = open(way, "[::]:0");
    let short = Control::Challenge(Challenge { nonce: 7, cookie: [8; 16] });
    let long = Control::Hello(Hello {
        role: Role::Subscribe,
        key: ChannelKey([1; 32]),
        nonce: 2,
        from: Sequence(3),
        cookie: [4; 16],
        signature: [5; 64],
    });
    assert_eq!((short.encode().len(), long.encode().len()), (32, DATAGRAM_BYTES));
    for socket in [peer("127.0.0.1:0"), peer("[::1]:0")] {
        let mut outbox = Outbox::new(2);
        outbox.push_control(socket.local_addr().unwrap(), &short);
        outbox.push_control(socket.local_addr().unwrap(), &long);
        plane.transmit(&outbox);
        let mut buffer = [0; 2048];
        for control in [&short, &long] {
            let (bytes, _) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..bytes], control.encode()[..]);
        }
    }
    assert_eq!((plane.counters().control_sent, plane.counters().datagrams_sent), (4, 4));
}

fn a_batch_larger_than_the_ring_is_sent_whole(way: Way) {
    let (mut plane, mut slots) = open(way, "0.0.0.0:0");
    fill_slot(&mut slots, 0, 1);
    // Many receivers, so that no receiver's own buffer overflows.
    let sockets: Vec<UdpSocket> = (0..50).map(|_| peer("127.0.0.1:0")).collect();
    let mut outbox = Outbox::new(1_500);
    for shard in 0..30 {
        for socket in &sockets {
            outbox.push_train(socket.local_addr().unwrap(), SlotIndex(0), shard, 1);
        }
    }
    plane.transmit(&outbox);
    for socket in &sockets {
        assert_train_arrives(socket, &slots, 0, 0, 30);
    }
    assert_eq!((plane.counters().trains_sent, plane.counters().cq_overflow), (1_500, 0));
}

fn a_flood_leaves_the_plane_as_it_was(way: Way) {
    const DATAGRAMS: u64 = 100_000;
    let (mut plane, mut slots) = open(way, "[::]:0");
    fill_slot(&mut slots, 0, 9);
    let to = at("127.0.0.1", &plane);
    let flood = std::thread::spawn(move || {
        let socket = peer("127.0.0.1:0");
        // A kernel that is short of memory, or filters, refuses some: they are lost as well.
        (0..DATAGRAMS).filter(|number| socket.send_to(&[*number as u8; 500], to).is_ok()).count()
    });
    // What the socket's buffer has no room for is lost, however large it may be here.
    let mut datagrams = 0;
    while !flood.is_finished() {
        datagrams += plane.receive(|_, _| {});
        plane.wait(Some(Duration::from_millis(1))).unwrap();
    }
    let sent = flood.join().unwrap();
    while plane.receive(|_, _| datagrams += 1) > 0 {}
    assert!(datagrams > 2 * RECEIVE_BUFFERS, "every buffer was used again: {datagrams} of {sent}");

    let socket = peer("127.0.0.1:0");
    for round in 0..3 * RECEIVE_BUFFERS as u64 / BURST {
        let numbers = round * BURST..(round + 1) * BURST;
        send_numbers(&socket, to, numbers.clone());
        let arrived = receive_until(&mut plane, |arrived| arrived.len() as u64 == BURST);
        assert!(numbers_of(&arrived).eq(numbers), "in order, nothing lost, nothing twice");
    }
    plane.transmit(&train(socket.local_addr().unwrap(), 0, 0, 8));
    assert_train_arrives(&socket, &slots, 0, 0, 8);
    let counters = plane.counters();
    assert_eq!((counters.truncated, counters.receive_errors, counters.cq_overflow), (0, 0, 0));
}

fn oversized_datagrams_are_dropped_and_counted(way: Way) {
    let (mut plane, _slots) = open(way, "127.0.0.1:0");
    let socket = peer("127.0.0.1:0");
    socket.send_to(&[1; 65_507], plane.local_addr()).unwrap();
    socket.send_to(b"fits", plane.local_addr()).unwrap();
    let arrived = receive_until(&mut plane, |arrived| !arrived.is_empty());
    assert_eq!(arrived[0].1, b"fits");
    assert_eq!(plane.counters().truncated, 1);
}

fn a_waiting_plane_is_woken_from_another_thread(way: Way) {
    let (mut plane, _slots) = open(way, "[::]:0");
    for _ in 0..100 {
        let waker = plane.waker();
        let other = std::thread::spawn(move || waker.wake());
        let begin = Instant::now();
        // A spurious return would pass here; `timeouts_are_kept` shows that there are none.
        plane.wait(Some(DEADLINE)).unwrap();
        assert!(begin.elapsed() < DEADLINE);
        other.join().unwrap();
    }
}

fn a_wake_between_two_waits_is_not_lost(way: Way) {
    let (mut plane, _slots) = open(way, "[::]:0");
    plane.waker().wake();
    plane.waker().wake();
    // The wake is noticed here; it still has to end the wait.
    plane.receive(|_, _| {});
    plane.transmit(&Outbox::new(1));
    let begin = Instant::now();
    plane.wait(Some(DEADLINE)).unwrap();
    assert!(begin.elapsed() < DEADLINE);
}

fn timeouts_are_kept(way: Way) {
    let (mut plane, _slots) = open(way, "[::]:0");
    plane.waker().wake();
    plane.wait(Some(DEADLINE)).unwrap();
    for timeout in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(30)] {
        let begin = Instant::now();
        plane.wait(Some(timeout)).unwrap();
        assert!(begin.elapsed() >= timeout, "{:?} instead of {timeout:?}", begin.elapsed());
    }
}

fn a_destination_that_cannot_be_sent_to_stops_no_other(way: Way) {
    let socket = peer("127.0.0.1:0");
    let (mut plane, mut slots) = open(way, "127.0.0.1:0");
    fill_slot(&mut slots, 0, 3);
    // Of another family; out of reach from a socket that is bound to loopback; no port.
    let bad = ["[::1]:9", "192.0.2.1:9", "127.0.0.1:0"].map(|address| address.parse().unwrap());
    let mut outbox = Outbox::new(8);
    for &to in &bad {
        outbox.push_train(to, SlotIndex(0), 0, 4);
        outbox.push_train(socket.local_addr().unwrap(), SlotIndex(0), 0, 4);
    }
    plane.transmit(&outbox);
    plane.transmit(&outbox);
    for _ in 0..2 * bad.len() {
        assert_train_arrives(&socket, &slots, 0, 0, 4);
    }
    assert_eq!(plane.counters().send_errors, 2 * bad.len() as u64);
    assert_eq!(plane.counters().gso_refused, 0, "segmentation is not what was refused");
    let mut refused: Vec<SocketAddr> = plane.refused().collect();
    refused.sort();
    let mut expected = bad.to_vec();
    expected.sort();
    assert_eq!(refused, expected);
    assert_eq!(plane.refused().count(), 0);
}

fn where_segmentation_is_refused_shards_go_singly_and_trains_come_back(way: Way) {
    let (mut plane, mut slots) = open(way, "127.0.0.1:0");
    let socket = peer("127.0.0.1:0");
    let batch = train(socket.local_addr().unwrap(), 0, 0, 8);
    fill_slot(&mut slots, 0, 4);
    // The kernel refuses to segment for a socket that leaves checksums out (net/ipv4/udp.c, udp_send_skb).
    set_option(plane.socket(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    for refusals in [1, 2, 2, 2] {
        plane.transmit(&batch);
        assert_train_arrives(&socket, &slots, 0, 0, 8);
        assert_eq!(plane.counters().gso_refused, refusals);
    }
    assert_eq!((plane.counters().trains_sent, plane.counters().datagrams_sent), (0, 32));
    assert_eq!((plane.counters().send_errors, plane.refused().count()), (0, 0));

    set_option(plane.socket(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 0).unwrap();
    let mut batches = 0;
    while plane.counters().trains_sent == 0 {
        plane.transmit(&batch);
        assert_train_arrives(&socket, &slots, 0, 0, 8);
        batches += 1;
        assert!(batches < 100, "trains are tried again");
    }
    plane.transmit(&batch);
    assert_eq!(plane.counters().trains_sent, 2);
}

fn a_used_port_gives_an_error_that_says_so(way: Way) {
    let taken = peer("127.0.0.1:0");
    let slots = SlotMemory::map(1).unwrap();
    let error = way.open(taken.local_addr().unwrap(), &slots).err().unwrap();
    assert!(matches!(error, OpenError::AddressInUse { .. }), "{error:?}");
    let port = taken.local_addr().unwrap().port();
    let message = error.to_string();
    assert!(message.contains("in use") && message.contains(&format!("sport = :{port}")), "{message}");
}

fn a_foreign_address_gives_an_error_that_says_so(way: Way) {
    let slots = SlotMemory::map(1).unwrap();
    let error = way.open("192.0.2.1:7000".parse().unwrap(), &slots).err().unwrap();
    assert!(error.to_string().starts_with("cannot bind UDP 192.0.2.1:7000"), "{error}");
}

fn planes_share_a_port_and_free_it_when_they_go(way: Way) {
    let (first, _slots) = open(way, "127.0.0.1:0");
    let listen = first.local_addr();
    let (second, _more_slots) = open(way, &listen.to_string());
    UdpSocket::bind(listen).expect_err("the port is taken");
    drop(first);
    UdpSocket::bind(listen).expect_err("the port is still taken");
    drop(second);
    UdpSocket::bind(listen).expect("the port is free");
}

fn a_peer_is_heard_by_the_plane_that_its_address_names(way: Way) {
    let (first, _slots) = open(way, "[::]:0");
    let steering = Steering::new(3, 0x9e37_79b1);
    first.socket().steer(steering).unwrap();
    let listen = first.local_addr();
    let (second, _slots) = open(way, &listen.to_string());
    let (third, _slots) = open(way, &listen.to_string());
    let mut planes = [first, second, third];
    let peers = (1..=20).map(|host| format!("127.0.0.{host}:0")).chain(["[::1]:0".to_owned()]);
    for (number, from) in peers.enumerate() {
        let socket = peer(&from);
        let source = socket.local_addr().unwrap();
        let to = SocketAddr::new(
            if source.is_ipv4() { [127, 0, 0, 1].into() } else { source.ip() },
            listen.port(),
        );
        socket.send_to(&[number as u8; 100], to).unwrap();
        let expected = &mut planes[steering.worker_of(source.ip())];
        let arrived = receive_until(expected, |arrived| arrived.len() == 1);
        assert_eq!(arrived[0], (source, vec![number as u8; 100]));
    }
}

/// Opens a plane on the socket of another one, which is a plane of any way.
fn follow(way: Way, before: Plane, slots: &SlotMemory) -> Plane {
    let (kept, listen) = (before.socket().as_fd().try_clone_to_owned().unwrap(), before.local_addr());
    drop(before);
    let socket = Socket::adopt(kept, listen).expect("it fits where it was");
    Plane::open_on(way.io, socket, slots.region(), way.zero_copy_from_bytes).unwrap()
}

fn what_arrives_while_a_plane_takes_anothers_place_is_received_by_one_of_them(way: Way) {
    let (mut plane, slots) = open(way, "127.0.0.1:0");
    let (socket, to) = (peer("127.0.0.1:0"), plane.local_addr());
    for round in 0..40 {
        let (begin, middle, end) = (round * BURST, round * BURST + BURST / 2, (round + 1) * BURST);
        let mut arrived = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| send_numbers(&socket, to, begin..middle));
            plane.receive(|from, datagram| arrived.push((from, datagram.to_vec())));
            plane.stop_receiving();
            while plane.receive(|from, datagram| arrived.push((from, datagram.to_vec()))) > 0 {}
        });
        send_numbers(&socket, to, middle..end);
        plane.wait(Some(Duration::ZERO)).unwrap();
        // The other way than before, each time.
        plane = follow(if round % 2 == 0 { MMSG } else { way }, plane, &slots);
        let (sent, before) = (BURST as usize, arrived.len());
        arrived.extend(receive_until(&mut plane, |more| before + more.len() == sent));
        assert!(numbers_of(&arrived).eq(begin..end), "{before} by the first");
    }
}

fn a_socket_that_does_not_fit_is_not_taken(way: Way) {
    let (plane, _slots) = open(way, "127.0.0.1:0");
    let (kept, port) = (|| plane.socket().as_fd().try_clone_to_owned().unwrap(), plane.local_addr().port());
    let fits = |listen: &str, kept| Socket::adopt(kept, listen.parse().unwrap()).is_some();
    assert!(fits("127.0.0.1:0", kept()) && fits(&format!("127.0.0.1:{port}"), kept()));
    assert!(!fits(&format!("127.0.0.1:{}", port ^ 1), kept()));
    assert!(!fits(&format!("127.0.0.2:{port}"), kept()) && !fits("[::1]:0", kept()));
    assert!(!fits("127.0.0.1:0", peer("127.0.0.1:0").into()), "nobody else could listen there");
    assert!(!fits("127.0.0.1:0", std::net::TcpListener::bind("127.0.0.1:0").unwrap().into()));
    assert!(!fits("127.0.0.1:0", tempfile::tempfile().unwrap().into()));
}

fn a_plane_can_go_with_datagrams_unread_and_undelivered(way: Way) {
    for _ in 0..20 {
        let (mut plane, slots) = open(way, "127.0.0.1:0");
        let socket = peer("127.0.0.1:0");
        for _ in 0..100 {
            socket.send_to(&[1; 1000], plane.local_addr()).unwrap();
        }
        plane.receive(|_, _| {});
        drop(slots);
        drop(plane);
    }
}

fn the_probe_names_calls_address_and_buffers(way: Way) {
    let (plane, _slots) = open(way, "[::1]:0");
    let line = plane.probe().to_string();
    let calls = if way.io == Io::Mmsg { "recvmmsg and sendmmsg" } else { "io_uring" };
    assert!(line.starts_with(&format!("{calls} on UDP {}", plane.local_addr())), "{line}");
    assert!(plane.probe().receive_buffer_bytes > 0 && plane.probe().send_buffer_bytes > 0, "{line}");
}
