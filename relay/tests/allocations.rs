//! What a running relay allocates while a stream goes through it. Alone in its process, for the counts are the process's:
//! the peers are written so that they allocate nothing.

use std::alloc::System;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use codec::wire::control::{Control, Hello, Repair, Report, Role, Sender, SessionHeader, Wanted};
use codec::{ChannelSecret, ChunkHeader, DATAGRAM_BYTES, Fec, Sequence, ShardSet, SlotLayout, seal_chunk};
use relay::config::{LimitsConfig, Workers};
use relay::plane::Io;
use relay::{Config, Relay};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CHUNK: SlotLayout = SlotLayout::new(8, 4).expect("counts within bounds");
const SUBSCRIBERS: usize = 16;
/// A window of 8 MiB holds 141 chunks: after these the oldest make room.
const WARM_UP_CHUNKS: u64 = 1_000;
const CHUNKS: u64 = 2_000;
const DEADLINE: Duration = Duration::from_secs(30);

struct Peer {
    socket: UdpSocket,
    session: SessionHeader,
}

impl Peer {
    fn greet(relay: SocketAddr, secret: &ChannelSecret, role: Role) -> Peer {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(relay).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let key = secret.key();
        let mut hello = Hello { role, key, nonce: 1, from: Sequence(0), cookie: [0; 16], signature: [0; 64] };
        let ask = |hello: Hello| {
            socket.send(&Control::Hello(hello).encode()).unwrap();
            let mut answer = [0; DATAGRAM_BYTES];
            let length = socket.recv(&mut answer).expect("an answer");
            Control::parse(&answer[..length]).unwrap()
        };
        let Control::Challenge(challenge) = ask(hello) else { panic!("a Hello is challenged") };
        hello.cookie = challenge.cookie;
        hello.signature = secret.sign_hello(hello.nonce, &hello.cookie);
        let Control::Welcome(welcome) = ask(hello) else { panic!("who met the challenge is let in") };
        let sender = match role {
            Role::Publish => Sender::Upstream,
            Role::Subscribe => Sender::Subscriber,
        };
        Peer { socket, session: SessionHeader { sender, tag: key.tag(), session: welcome.session } }
    }

    fn say(&self, control: &Control) {
        self.socket.send(&control.encode()).unwrap();
    }

    fn report(&self) {
        self.say(&Control::Report(Report { stamp_us: 1, ..Report::new(self.session) }));
    }

    /// Waits until so many shards and reports have come.
    fn expect(&self, mut shards: usize, mut reports: usize) {
        let mut datagram = [0; DATAGRAM_BYTES];
        while shards + reports > 0 {
            let received = self.socket.recv(&mut datagram);
            let length = received
                .unwrap_or_else(|error| panic!("{error}; {shards} shards, {reports} reports are to come"));
            match Control::parse(&datagram[..length]) {
                Ok(Control::Report(_)) => reports -= 1,
                Ok(Control::Repair(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(_) => shards -= 1,
            }
        }
    }
}

struct Stream {
    relay: Relay,
    secret: ChannelSecret,
    publisher: Peer,
    subscribers: Vec<Peer>,
    fec: Fec,
    slot: Vec<u8>,
    next: Sequence,
}

impl Stream {
    fn new(io: Io, workers: usize) -> Stream {
        let config = Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            open: true,
            io,
            workers: Workers::Fixed(workers),
            limits: LimitsConfig { window_mib: 8, ..LimitsConfig::default() },
            ..Config::default()
        };
        let relay = Relay::start(&config).unwrap();
        let secret = ChannelSecret::from_seed(&[1; 32]);
        let greet = |role| Peer::greet(relay.local_addr(), &secret, role);
        let subscribers = (0..SUBSCRIBERS).map(|_| greet(Role::Subscribe)).collect();
        let publisher = greet(Role::Publish);
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        let (fec, slot) = (Fec::new(), vec![0; CHUNK.slot_bytes()]);
        Stream { relay, secret, publisher, subscribers, fec, slot, next: Sequence(now_us) }
    }

    /// One chunk to everybody; one subscriber reports and has a shard repaired.
    fn chunk(&mut self) {
        let tag = self.secret.key().tag();
        let header = ChunkHeader::new(tag, self.next, CHUNK, CHUNK.payload_bytes_max()).unwrap();
        let piece = [7; DATAGRAM_BYTES];
        let payload =
            std::iter::successors(Some(header.payload_bytes()), |left| left.checked_sub(DATAGRAM_BYTES))
                .map(|left| &piece[..left.min(DATAGRAM_BYTES)]);
        seal_chunk(&mut self.slot, &header, payload, &self.secret, &mut self.fec);
        // In turns nothing is lost on the way in, and two data shards.
        let lost = if self.next.0.is_multiple_of(2) { ShardSet::EMPTY } else { ShardSet::range(2, 4) };
        for index in CHUNK.all_shards().minus(lost).lowest(CHUNK.data_shards()).iter() {
            self.publisher.socket.send(&self.slot[index * DATAGRAM_BYTES..][..DATAGRAM_BYTES]).unwrap();
        }
        self.subscribers.iter().for_each(|subscriber| subscriber.expect(CHUNK.data_shards(), 0));

        let turn = (self.next.0 % SUBSCRIBERS as u64) as usize;
        if turn == 0 {
            self.publisher.report();
            self.publisher.expect(0, 1);
        }
        let subscriber = &self.subscribers[turn];
        let wanted = [Wanted { sequence: self.next, shards: ShardSet::range(5, 6) }].into_iter().collect();
        subscriber.report();
        subscriber.say(&Control::Repair(Repair { header: subscriber.session, number: 0, wanted }));
        subscriber.expect(1, 1);
        self.next = self.next.next();
    }
}

/// A worker's snapshot lists the channels and who gives them: two allocations a second, by design.
fn nothing_but_snapshots_is_allocated(io: Io, workers: usize) {
    let mut stream = Stream::new(io, workers);
    (0..WARM_UP_CHUNKS).for_each(|_| stream.chunk());
    let begun = Instant::now();
    let mut snapshots = 0;
    let region = Region::new(ALLOCATOR);
    for _ in 0..CHUNKS {
        stream.chunk();
        snapshots += usize::from(stream.relay.take_snapshot().is_some());
    }
    let change = region.change();
    let allocations = change.allocations + change.reallocations;
    println!(
        "{io:?}, {workers} workers: {allocations} allocations, {snapshots} snapshots, {:?}",
        begun.elapsed()
    );
    // One snapshot of each worker may wait to be taken, before and after; those taken are put together here.
    let by_workers = 2 * workers * (snapshots + 1);
    assert!(allocations <= by_workers + snapshots, "{change:?}, {snapshots} snapshots");
    let counted = stream.relay.stop().expect("the worker did not panic").node;
    assert!(counted.chunks >= WARM_UP_CHUNKS + CHUNKS, "{counted:?}");
    assert!(counted.chunks_restored >= CHUNKS / 2, "{counted:?}");
}

#[test]
fn a_relay_that_has_warmed_up_allocates_nothing_but_its_snapshots() {
    nothing_but_snapshots_is_allocated(Io::Uring, 1);
    nothing_but_snapshots_is_allocated(Io::Mmsg, 1);
    nothing_but_snapshots_is_allocated(Io::Uring, 2);
}
