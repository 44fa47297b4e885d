//! What a relay that makes lost shards anew is worth: chunks of 32 data and 8 parity shards over two hops, without repair.

use std::net::SocketAddr;
use std::time::Duration;

use codec::wire::control::{Control, Hello, Report, Role, Sender, SessionHeader};
use codec::{ChannelSecret, ChunkHeader, DATAGRAM_BYTES, Fec, Sequence, ShardSet, SlotLayout, seal_chunk};
use mesh::{Admission, Limits, Node, NodeConfig, Outbox, Payload, Progress, SLOT_BYTES, Time};

use crate::link::{Link, LinkConfig, Losses, clean};

const LAYOUT: SlotLayout = SlotLayout::new(32, 8).expect("counts within bounds");
const PUBLISHER: ([u8; 4], u16) = ([10, 0, 0, 1], 1);
const VIEWER: ([u8; 4], u16) = ([10, 0, 0, 2], 2);

struct Relay {
    node: Node,
    now: Time,
    outbox: Outbox,
}

impl Relay {
    fn take(&mut self, from: ([u8; 4], u16), bytes: &[u8]) {
        self.node.handle_datagram(self.now, SocketAddr::from(from), bytes);
    }

    /// What leaves now: shards to the viewer, and the last control datagram.
    fn sent(&mut self) -> (Vec<usize>, Option<Control>) {
        let (mut shards, mut control) = (Vec::new(), None);
        loop {
            self.outbox.clear();
            let progress = self.node.poll_transmit(self.now, &mut self.outbox);
            for sent in self.outbox.transmits() {
                let bytes = self.node.bytes_of(sent, &self.outbox);
                match &sent.payload {
                    Payload::Train { .. } => {
                        let indices = bytes.chunks(DATAGRAM_BYTES).map(|shard| usize::from(shard[5]));
                        shards.extend(indices);
                    }
                    Payload::Control(_) => control = Control::parse(bytes).ok(),
                }
            }
            if progress == Progress::Idle {
                return (shards, control);
            }
        }
    }

    fn greet(&mut self, from: ([u8; 4], u16), secret: &ChannelSecret, role: Role) -> SessionHeader {
        let (cookie, signature) = ([0; 16], [0; 64]);
        let mut hello = Hello { role, key: secret.key(), nonce: 1, from: Sequence(0), cookie, signature };
        self.take(from, &Control::Hello(hello).encode());
        let Some(Control::Challenge(challenge)) = self.sent().1 else { panic!("a Hello is challenged") };
        hello.cookie = challenge.cookie;
        hello.signature = secret.sign_hello(hello.nonce, &hello.cookie);
        self.take(from, &Control::Hello(hello).encode());
        let Some(Control::Welcome(welcome)) = self.sent().1 else { panic!("it is let in") };
        let sender = if role == Role::Publish { Sender::Upstream } else { Sender::Subscriber };
        SessionHeader { sender, tag: secret.key().tag(), session: welcome.session }
    }
}

/// The part of the chunks that a viewer cannot make whole: with a relay that makes the shards it lacks, and with one that
/// only passes on what came, drawn with the same losses.
fn residual(chunks: u64, share: f64) -> (f64, f64) {
    let config = NodeConfig::new(Admission::Open, Limits::default());
    let node = Node::new(config, [1; 32], Box::new(vec![0; 64 * SLOT_BYTES]));
    let mut relay = Relay { node, now: Time(1_700_000_000_000_000), outbox: Outbox::new(64) };
    let secret = ChannelSecret::from_seed(&[7; 32]);
    let publisher = relay.greet(PUBLISHER, &secret, Role::Publish);
    let viewer = relay.greet(VIEWER, &secret, Role::Subscribe);
    let losses = LinkConfig { losses: Losses::Uniform(share), ..clean(0) };
    let (mut up, mut down) = (Link::new(losses, 1), Link::new(losses, 2));
    let (mut fec, mut slot) = (Fec::new(), vec![0; LAYOUT.slot_bytes()]);
    let payload = vec![7; LAYOUT.payload_bytes_max()];
    let (mut lost, mut lost_without) = (0, 0);
    for number in 0..chunks {
        let sequence = Sequence(relay.now.0);
        let header = ChunkHeader::new(secret.key().tag(), sequence, LAYOUT, payload.len());
        let mut header = header.expect("a full payload fits");
        header.capture_us = relay.now.0;
        seal_chunk(&mut slot, &header, [&payload[..]], &secret, &mut fec);
        let mut came = ShardSet::EMPTY;
        for index in 0..LAYOUT.shards_total() {
            if up.pass(relay.now, DATAGRAM_BYTES).is_some() {
                came.insert(index);
                relay.take(PUBLISHER, &slot[index * DATAGRAM_BYTES..][..DATAGRAM_BYTES]);
            }
        }
        let sent = relay.sent().0;
        let arrives: Vec<bool> =
            (0..LAYOUT.shards_total()).map(|_| down.pass(relay.now, DATAGRAM_BYTES).is_some()).collect();
        // Of losses the relay hears with the reports.
        let counts = number > 60;
        lost += u64::from(counts && sent.iter().filter(|&&index| arrives[index]).count() < 32);
        lost_without += u64::from(came.iter().filter(|&index| arrives[index]).count() < 32);
        relay.now = relay.now.after(Duration::from_millis(33));
        relay.node.handle_timeout(relay.now);
        if number % 30 == 0 {
            // Every tenth shard is said to be lost, and no time for repair: it is sent all parity there is.
            let (counted, expected) = (number as u32 + 30, 32 * (number as u32 + 30));
            let report = Report {
                chunks: counted,
                expected,
                lost: (expected / 10).into(),
                recovered: (expected / 10).into(),
                lost_squares: expected,
                received: expected.into(),
                ..Report::new(viewer)
            };
            relay.take(VIEWER, &Control::Report(report).encode());
            let alive = Report::new(publisher);
            relay.take(PUBLISHER, &Control::Report(alive).encode());
            relay.sent();
        }
    }
    (lost as f64 / chunks as f64, lost_without as f64 / chunks as f64)
}

#[test]
fn a_relay_that_makes_lost_shards_anew_loses_a_hundredth_of_the_chunks() {
    let chunks = std::env::var("CHUNKS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let (with, without) = residual(chunks, 0.03);
    println!("{chunks} chunks: lost {with:.1e} with shards made anew, {without:.1e} without");
    assert!(with <= 1e-5, "{with}");
    assert!((1e-4..1e-3).contains(&without), "{without}: theory says 4.5e-4");
}
