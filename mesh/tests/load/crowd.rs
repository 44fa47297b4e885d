//! A relay's node among peers that are addresses only: thousands of them cost nothing but what the node keeps of them.

use std::net::SocketAddr;
use std::time::Duration;

use codec::wire::control::{Control, Hello, Repair, Report, Role, Sender, SessionHeader, Wanted};
use codec::{ChannelSecret, ChunkHeader, DATAGRAM_BYTES, Fec, Sequence, ShardSet, SlotLayout, seal_chunk};
use mesh::{Admission, Limits, Node, NodeConfig, Outbox, Payload, Progress, SLOT_BYTES, Time, Verdict};

/// Messages of a batch, as a relay's worker has it.
pub(crate) const BATCH: usize = 256;

pub(crate) struct Crowd {
    pub(crate) node: Node,
    pub(crate) now: Time,
    /// The last batch.
    pub(crate) outbox: Outbox,
}

/// Who is at an address of a channel: 0 is the publisher.
pub(crate) fn address(channel: u8, number: u32) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    SocketAddr::from(([10 + channel, a, b, c], 9_000))
}

impl Crowd {
    pub(crate) fn new(slots: usize) -> Crowd {
        Crowd::capped(slots, None)
    }

    /// With a cap on what the node sends.
    pub(crate) fn capped(slots: usize, egress_bps_max: Option<u64>) -> Crowd {
        let limits = Limits { subscribers_max: 100_000, egress_bps_max, ..Limits::default() };
        let config = NodeConfig::new(Admission::Open, limits);
        Crowd {
            node: Node::new(config, [1; 32], Box::new(vec![0; slots * SLOT_BYTES])),
            now: Time(1_700_000_000_000_000),
            outbox: Outbox::new(BATCH),
        }
    }

    /// A channel with its publisher and subscribers.
    pub(crate) fn channel(&mut self, number: u8, subscribers: u32) -> Channel {
        let secret = ChannelSecret::from_seed(&[number; 32]);
        let mut channel = Channel {
            number,
            publisher: self.greet(address(number, 0), &secret, Role::Publish),
            subscribers: Vec::new(),
            secret,
            fec: Fec::new(),
            slot: vec![0; SLOT_BYTES],
            next: Sequence(self.now.0),
        };
        channel.subscribers = (1..=subscribers)
            .map(|subscriber| self.greet(address(number, subscriber), &channel.secret, Role::Subscribe))
            .collect();
        channel
    }

    /// Lets a peer in.
    fn greet(&mut self, from: SocketAddr, secret: &ChannelSecret, role: Role) -> SessionHeader {
        let mut hello = hello(secret, role);
        let Control::Challenge(challenge) = self.ask(from, &Control::Hello(hello)) else {
            panic!("a Hello is challenged")
        };
        hello.cookie = challenge.cookie;
        hello.signature = secret.sign_hello(hello.nonce, &hello.cookie);
        let Control::Welcome(welcome) = self.ask(from, &Control::Hello(hello)) else {
            panic!("who met the challenge is let in")
        };
        let sender = match role {
            Role::Publish => Sender::Upstream,
            Role::Subscribe => Sender::Subscriber,
        };
        SessionHeader { sender, tag: secret.key().tag(), session: welcome.session }
    }

    fn ask(&mut self, from: SocketAddr, question: &Control) -> Control {
        self.take(from, &question.encode());
        self.batch();
        Control::parse(self.outbox.control_bytes()).expect("one answer")
    }

    pub(crate) fn take(&mut self, from: SocketAddr, datagram: &[u8]) {
        assert_eq!(self.node.handle_datagram(self.now, from, datagram), Verdict::Kept);
    }

    /// What goes out next; it is in the outbox then.
    pub(crate) fn batch(&mut self) -> Progress {
        self.outbox.clear();
        self.node.poll_transmit(self.now, &mut self.outbox)
    }

    /// Everything that is to go out now: how many messages.
    pub(crate) fn drain(&mut self) -> usize {
        let mut messages = 0;
        loop {
            let progress = self.batch();
            messages += self.outbox.transmits().len();
            if progress == Progress::Idle {
                return messages;
            }
        }
    }

    pub(crate) fn after(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
        self.node.handle_timeout(self.now);
    }

    /// The trains of the last batch to subscribers of a channel.
    pub(crate) fn trains_to(&self, channel: u8) -> usize {
        let is_train = |payload: &Payload| matches!(payload, Payload::Train { .. });
        let to_channel =
            |to: SocketAddr| to.is_ipv4() && to.ip().to_string().starts_with(&format!("{}.", 10 + channel));
        self.outbox.transmits().iter().filter(|sent| is_train(&sent.payload) && to_channel(sent.to)).count()
    }

    /// The control datagrams of the last batch.
    pub(crate) fn controls(&self) -> Vec<(SocketAddr, Control)> {
        let bytes = self.outbox.control_bytes();
        let sent = self.outbox.transmits().iter();
        sent.filter_map(|sent| match &sent.payload {
            Payload::Control(range) => {
                Some((sent.to, Control::parse(&bytes[range.clone()]).expect("control")))
            }
            Payload::Train { .. } => None,
        })
        .collect()
    }
}

pub(crate) fn hello(secret: &ChannelSecret, role: Role) -> Hello {
    Hello { role, key: secret.key(), nonce: 1, from: Sequence(0), cookie: [0; 16], signature: [0; 64] }
}

/// A channel's peers and what they say.
pub(crate) struct Channel {
    pub(crate) number: u8,
    pub(crate) secret: ChannelSecret,
    pub(crate) publisher: SessionHeader,
    pub(crate) subscribers: Vec<SessionHeader>,
    fec: Fec,
    slot: Vec<u8>,
    next: Sequence,
}

impl Channel {
    /// Makes the next chunk and gives the node those of its shards that are not lost on the way. Returns its number.
    pub(crate) fn publish(&mut self, crowd: &mut Crowd, layout: SlotLayout, lost: ShardSet) -> Sequence {
        let sequence = self.seal(crowd.now, layout);
        for index in layout.all_shards().minus(lost).iter() {
            self.give(crowd, index);
        }
        sequence
    }

    /// Makes the next chunk.
    pub(crate) fn seal(&mut self, now: Time, layout: SlotLayout) -> Sequence {
        let (tag, sequence) = (self.secret.key().tag(), self.next);
        let header = ChunkHeader::new(tag, sequence, layout, layout.payload_bytes_max());
        let mut header = header.expect("a full payload fits");
        header.capture_us = now.0;
        let piece = [7; DATAGRAM_BYTES];
        let payload = (0..layout.payload_bytes_max()).step_by(DATAGRAM_BYTES);
        let payload = payload.map(|start| &piece[..DATAGRAM_BYTES.min(layout.payload_bytes_max() - start)]);
        let slot = &mut self.slot[..layout.slot_bytes()];
        seal_chunk(slot, &header, payload, &self.secret, &mut self.fec);
        self.next = sequence.next();
        sequence
    }

    /// Gives the node one shard of the chunk that was made last.
    pub(crate) fn give(&self, crowd: &mut Crowd, index: usize) {
        let datagram = &self.slot[index * DATAGRAM_BYTES..][..DATAGRAM_BYTES];
        crowd.take(address(self.number, 0), datagram);
    }

    /// A subscriber's report; without it its lease runs out.
    pub(crate) fn report(&self, crowd: &mut Crowd, subscriber: u32, totals: (u64, u64)) {
        let report = report(self.subscribers[subscriber as usize - 1], crowd.now, totals);
        crowd.take(address(self.number, subscriber), &report.encode());
    }

    /// The publisher's report.
    pub(crate) fn report_of_publisher(&self, crowd: &mut Crowd) {
        crowd.take(address(self.number, 0), &report(self.publisher, crowd.now, (0, 0)).encode());
    }

    /// A subscriber asks for shards again.
    pub(crate) fn ask(&self, crowd: &mut Crowd, subscriber: u32, sequence: Sequence, shards: ShardSet) {
        let wanted = [Wanted { sequence, shards }].into_iter().collect();
        let repair = Repair { header: self.subscribers[subscriber as usize - 1], number: 0, wanted };
        crowd.take(address(self.number, subscriber), &Control::Repair(repair).encode());
    }
}

fn report(header: SessionHeader, now: Time, (received, lost): (u64, u64)) -> Control {
    // One lost shard a chunk at most, and no time for repair.
    let lost_squares = lost as u32;
    let (chunks, expected) = (((received + lost) / 20) as u32, (received + lost) as u32);
    Control::Report(Report {
        stamp_us: now.0,
        received,
        lost,
        chunks,
        expected,
        lost_squares,
        ..Report::new(header)
    })
}
