//! What a relay's node costs without a kernel: one chunk in, fanned out to its subscribers. See `README.md`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use codec::wire::control::{Control, Hello, Role};
use codec::{ChannelSecret, ChunkHeader, DATAGRAM_BYTES, Fec, Sequence, SlotLayout, seal_chunk};
use criterion::{BenchmarkId, Criterion, Throughput};
use mesh::{Admission, Limits, Node, NodeConfig, Outbox, Progress, SLOT_BYTES, Time, Verdict};

/// A chunk of a 4 Mbit/s stream: 40 ms.
const LAYOUT: SlotLayout = SlotLayout::new(19, 10).expect("counts within bounds");

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("node");
    for subscribers in [1, 100, 1_000, 10_000] {
        group.throughput(Throughput::Elements(subscribers));
        group.bench_function(BenchmarkId::new("chunk to subscribers", subscribers), |bencher| {
            let mut relay = Relay::new(subscribers as u32);
            bencher.iter_custom(|rounds| (0..rounds).map(|_| relay.carry_chunk()).sum());
        });
    }
    group.finish();
    criterion.final_summary();
}

/// A node with a publisher and subscribers, all of them addresses only.
struct Relay {
    node: Node,
    outbox: Outbox,
    secret: ChannelSecret,
    fec: Fec,
    slot: Vec<u8>,
    now: Time,
    next: Sequence,
    subscribers: u32,
}

const PUBLISHER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 7450);

fn subscriber(number: u32) -> SocketAddr {
    SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 9_000))
}

impl Relay {
    fn new(subscribers: u32) -> Relay {
        let limits = Limits { subscribers_max: 100_000, ..Limits::default() };
        let config = NodeConfig::new(Admission::Open, limits);
        let mut relay = Relay {
            node: Node::new(config, [1; 32], Box::new(vec![0; 300 * SLOT_BYTES])),
            outbox: Outbox::new(256),
            secret: ChannelSecret::from_seed(&[1; 32]),
            fec: Fec::new(),
            slot: vec![0; LAYOUT.slot_bytes()],
            now: Time(1_700_000_000_000_000),
            next: Sequence(1_700_000_000_000_000),
            subscribers,
        };
        relay.greet(PUBLISHER, Role::Publish);
        (0..subscribers).for_each(|number| relay.greet(subscriber(number), Role::Subscribe));
        assert_eq!(relay.node.sessions(), subscribers as usize + 1);
        relay
    }

    fn greet(&mut self, from: SocketAddr, role: Role) {
        let key = self.secret.key();
        let mut hello = Hello { role, key, nonce: 1, from: Sequence(0), cookie: [0; 16], signature: [0; 64] };
        self.node.handle_datagram(self.now, from, &Control::Hello(hello).encode());
        self.outbox.clear();
        self.node.poll_transmit(self.now, &mut self.outbox);
        let Ok(Control::Challenge(challenge)) = Control::parse(self.outbox.control_bytes()) else {
            panic!("a Hello is challenged")
        };
        hello.cookie = challenge.cookie;
        hello.signature = self.secret.sign_hello(hello.nonce, &hello.cookie);
        self.node.handle_datagram(self.now, from, &Control::Hello(hello).encode());
        self.outbox.clear();
        self.node.poll_transmit(self.now, &mut self.outbox);
    }

    /// One chunk's data shards in and out; making them does not count.
    fn carry_chunk(&mut self) -> Duration {
        // Short enough that no lease runs out within a million rounds; the window turns over by its slots.
        self.now = self.now.after(Duration::from_micros(5));
        let tag = self.secret.key().tag();
        let header = ChunkHeader::new(tag, self.next, LAYOUT, LAYOUT.payload_bytes_max());
        let payload = vec![7; LAYOUT.payload_bytes_max()];
        let header = header.expect("a full payload fits");
        seal_chunk(&mut self.slot, &header, [payload.as_slice()], &self.secret, &mut self.fec);
        self.next = self.next.next();

        let begun = Instant::now();
        for datagram in self.slot.chunks(DATAGRAM_BYTES).take(LAYOUT.data_shards()) {
            assert_eq!(self.node.handle_datagram(self.now, PUBLISHER, datagram), Verdict::Kept);
        }
        let mut sent = 0;
        loop {
            self.outbox.clear();
            let progress = self.node.poll_transmit(self.now, &mut self.outbox);
            sent += self.outbox.transmits().len();
            if progress == Progress::Idle {
                break;
            }
        }
        let elapsed = begun.elapsed();
        assert_eq!(sent, self.subscribers as usize, "one train each");
        elapsed
    }
}
