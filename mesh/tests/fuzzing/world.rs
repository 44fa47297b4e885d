//! A publisher, two relays, two viewers and some strangers, and the datagrams that are under way between them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use codec::wire::control::{Control, SessionHeader};
use codec::{ChannelSecret, DATAGRAM_BYTES, Fec, MAX_SHARDS, Sequence};
use mesh::{
    Admission, ChannelId, DialId, Handover, Limits, Node, NodeConfig, Outbox, Progress, SLOT_BYTES,
    SinkConfig, Time,
};

use super::checks::{Metered, Unproven, Written, repair_is_within_credit};
use super::steps::{Patch, Place, Setup};

pub(crate) const PUBLISHER: usize = 0;
pub(crate) const RELAYS: [usize; 2] = [1, 2];
pub(crate) const VIEWERS: [usize; 2] = [3, 4];
const HOSTS: usize = 5;

/// Hosts first. Of the strangers one shares its address with a viewer, two are in one /64, and one writes its address
/// otherwise than it is seen.
const ADDRESSES: [&str; 11] = [
    "10.0.0.1:7450",
    "10.0.0.2:7450",
    "10.0.0.3:7450",
    "10.0.0.4:7450",
    "[2001:db8::5]:7450",
    "10.0.0.4:9000",
    "10.0.9.1:1",
    "[2001:db8:9::1]:1",
    "[2001:db8:9::2]:2",
    "[::ffff:10.0.9.2]:2",
    "127.0.0.1:7450",
];

const START: Time = Time(1_700_000_000_000_000);
const HOP: Duration = Duration::from_millis(1);
const UNDER_WAY_MAX: usize = 20_000;
const PUSHED_MAX: usize = 8 << 20;
/// A poll takes a message at least; queues hold no more than that, of 24 trains each.
const POLLS_MAX: usize = 100_000;
/// What is due may make something else due at once, but not for ever.
const ROUNDS_MAX: usize = 8;

pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) dials: Vec<DialId>,
    slots: usize,
    written: Written,
    unproven: Unproven,
    metered: Metered,
    repairs: u64,
}

struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    pub(crate) channel: ChannelId,
    under_way: VecDeque<Datagram>,
    pushed: Vec<u8>,
    random: u64,
    /// What was last sent: by whom, to whom, of which kind.
    said: BTreeMap<(SocketAddr, SocketAddr, u8), Vec<u8>>,
    pub(crate) config: NodeConfig,
    /// What relays handed over was changed on the way: they owe nobody anything.
    pub(crate) is_tampered: bool,
    pub(crate) has_ended: bool,
    /// Somebody is kept out, or was told to go elsewhere.
    pub(crate) is_parted: bool,
    sessions: u64,
    /// Shards of chunks that strangers published.
    shards: u64,
    pub(crate) fec: Fec,
}

pub(crate) fn secret(channel: u8) -> ChannelSecret {
    ChannelSecret::from_seed(&[42 + channel; 32])
}

pub(crate) fn address(place: Place) -> SocketAddr {
    ADDRESSES[usize::from(place) % ADDRESSES.len()].parse().expect("an address")
}

pub(crate) fn relay_of(place: Place) -> usize {
    RELAYS[usize::from(place) % RELAYS.len()]
}

pub(crate) fn viewer_of(place: Place) -> usize {
    VIEWERS[usize::from(place) % VIEWERS.len()]
}

fn new_node(config: NodeConfig, seed: u8, slots: usize) -> Node {
    Node::new(config, [seed; 32], Box::new(vec![0; slots * SLOT_BYTES]))
}

impl World {
    pub(crate) fn new(setup: &Setup) -> World {
        let limits = Limits {
            channels_max: 3,
            subscribers_max: 6,
            sessions_per_address_max: 4,
            window: Duration::from_secs(3),
            window_bytes_max: 16 * SLOT_BYTES,
            egress_bps_max: setup.cap_mbps.map(|cap| u64::from(cap) * 1_000_000),
            ..Limits::default()
        };
        let nodes = [address(1), address(2)].into_iter().collect();
        let config = NodeConfig { others: nodes, ..NodeConfig::new(Admission::Open, limits) };
        let edge = NodeConfig::new(Admission::Nobody, Limits::default());
        let host = |place: usize| {
            let is_relay = RELAYS.contains(&place);
            let slots = if is_relay { 1 + usize::from(setup.slots) % 40 } else { 40 };
            let config = if is_relay { config.clone() } else { edge.clone() };
            Host {
                node: new_node(config, place as u8, slots),
                dials: Vec::new(),
                slots,
                written: Written::default(),
                unproven: Unproven::default(),
                metered: Metered::default(),
                repairs: 0,
            }
        };
        let mut hosts: Vec<Host> = (0..HOSTS).map(host).collect();
        let publisher = &mut hosts[PUBLISHER];
        let channel = publisher.node.add_source(START, secret(0));
        publisher.dials.push(publisher.node.dial(START, channel, address(1)));
        let second = if setup.is_chained { RELAYS[1] } else { PUBLISHER };
        let key = secret(0).key();
        let dial = match setup.is_chained {
            true => hosts[second].node.pull(START, &key, address(1)).expect("a valid key"),
            false => hosts[second].node.dial(START, channel, address(2)),
        };
        hosts[second].dials.push(dial);
        if setup.is_chained {
            hosts[second].unproven.prove(address(1));
        }
        for (viewer, relays) in VIEWERS.into_iter().zip([&RELAYS[..], &RELAYS[..1]]) {
            let sink = SinkConfig { delay: Duration::from_millis(500), from: Sequence(0) };
            let Host { node, dials, .. } = &mut hosts[viewer];
            let channel = node.add_sink(&key, sink).expect("a valid key");
            dials.extend(relays.iter().map(|relay| node.dial(START, channel, address(*relay as u8))));
        }
        World {
            now: START,
            hosts,
            channel,
            under_way: VecDeque::new(),
            pushed: Vec::new(),
            random: 1,
            said: BTreeMap::new(),
            config,
            is_tampered: false,
            has_ended: false,
            is_parted: false,
            sessions: 0,
            shards: 0,
            fec: Fec::new(),
        }
    }

    /// More of the stream: bytes that do not repeat.
    pub(crate) fn push(&mut self, bytes: usize, joins: bool) {
        if self.has_ended || self.pushed.len() + bytes > PUSHED_MAX {
            return;
        }
        let before = self.pushed.len();
        for _ in 0..bytes.div_ceil(8) {
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            self.pushed.extend((self.random ^ self.random >> 29).to_be_bytes());
        }
        self.pushed.truncate(before + bytes);
        let (now, channel, node) = (self.now, self.channel, &mut self.hosts[PUBLISHER].node);
        node.push(now, channel, &self.pushed[before..]);
        if joins {
            node.mark_join_point(now, channel, bytes);
        }
    }

    /// The datagram arrives, wherever that is.
    fn arrive(&mut self, datagram: &Datagram) {
        if let Some(host) = (0..HOSTS).find(|host| address(*host as u8) == datagram.to) {
            self.tell(host, datagram.from, &datagram.bytes);
        }
    }

    /// A host hears a datagram as if it came from there.
    pub(crate) fn tell(&mut self, host: usize, from: SocketAddr, bytes: &[u8]) {
        let host = &mut self.hosts[host];
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        host.unproven.receive(from, bytes);
        host.node.handle_datagram(self.now, from, bytes);
    }

    /// One of those under way, if there is one.
    fn take(&mut self, which: u8) -> Option<Datagram> {
        let place = usize::from(which) % self.under_way.len().max(1);
        self.under_way.remove(place)
    }

    pub(crate) fn deliver(&mut self, count: u8) {
        for _ in 0..count {
            let Some(datagram) = self.under_way.pop_front() else { return };
            self.arrive(&datagram);
        }
    }

    pub(crate) fn lose(&mut self, which: u8) {
        drop(self.take(which));
    }

    pub(crate) fn overtake(&mut self, which: u8, again: bool) {
        let Some(datagram) = self.take(which) else { return };
        self.arrive(&datagram);
        if again {
            self.under_way.push_back(datagram);
        }
    }

    pub(crate) fn corrupt(&mut self, which: u8, patch: &Patch) {
        let Some(mut datagram) = self.take(which) else { return };
        apply(&mut datagram.bytes, patch);
        self.arrive(&datagram);
    }

    /// One poll, and what it gives goes on its way.
    pub(crate) fn poll(&mut self, host: usize, room: usize) -> Progress {
        let from = address(host as u8);
        let mut outbox = Outbox::new(room);
        let progress = self.hosts[host].node.poll_transmit(self.now, &mut outbox);
        assert!(progress == Progress::Idle || !outbox.is_empty(), "more to send, and nothing sent");
        for transmit in outbox.transmits() {
            let bytes = self.hosts[host].node.bytes_of(transmit, &outbox).to_vec();
            assert!(!bytes.is_empty());
            for datagram in bytes.chunks(DATAGRAM_BYTES) {
                self.sent(host, Datagram { from, to: transmit.to, bytes: datagram.to_vec() });
            }
        }
        self.check(host);
        progress
    }

    fn sent(&mut self, host: usize, datagram: Datagram) {
        let Datagram { from, to, bytes } = &datagram;
        let is_relay = RELAYS.contains(&host);
        match Control::parse(bytes) {
            Ok(Control::Welcome(_)) => self.sessions += 1,
            Ok(_) => {}
            Err(_) => assert!(codec::ShardView::parse(bytes).is_ok(), "neither control nor a shard"),
        }
        if is_relay && !self.is_tampered {
            self.hosts[host].unproven.send(*to, bytes);
            let cap = self.config.limits.egress_bps_max.filter(|cap| *cap >= 2_000_000);
            if let Some(cap) = cap {
                self.hosts[host].metered.send(self.now, *to, bytes.len(), cap);
            }
        }
        self.said.insert((*from, *to, bytes[3]), bytes.clone());
        if self.under_way.len() < UNDER_WAY_MAX {
            self.under_way.push_back(datagram);
        }
    }

    /// What holds after every poll.
    fn check(&self, host: usize) {
        let Host { node, slots, repairs, .. } = &self.hosts[host];
        let limits = &self.config.limits;
        assert!(node.window_bytes() <= slots * SLOT_BYTES);
        if RELAYS.contains(&host) && !self.is_tampered {
            let chunks = self.hosts[PUBLISHER].node.counters().chunks;
            let shards = self.shards + chunks * MAX_SHARDS as u64;
            repair_is_within_credit(repairs + node.counters().repairs_sent, self.sessions, shards);
            let subscribers: usize = node.channels().map(|channel| channel.subscribers).sum();
            assert!(subscribers <= limits.subscribers_max, "{subscribers} subscribers");
            assert!(node.channels().count() <= limits.channels_max);
        }
    }

    /// A host does all that is due.
    pub(crate) fn service(&mut self, host: usize) {
        let mut rounds = 0;
        loop {
            self.hosts[host].node.handle_timeout(self.now);
            let mut polls = 0;
            while self.poll(host, 64) == Progress::More {
                polls += 1;
                assert!(polls < POLLS_MAX, "no end of sending");
            }
            self.play(host);
            let node = &self.hosts[host].node;
            if node.next_timeout().is_none_or(|at| at > self.now) {
                return;
            }
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "host {host} always has something due");
        }
    }

    fn play(&mut self, host: usize) {
        let channel = self.channel;
        let Host { node, written, .. } = &mut self.hosts[host];
        while node.poll_event().is_some() {}
        if !VIEWERS.contains(&host) {
            return;
        }
        while let Some(chunk) = node.next_chunk(self.now, channel) {
            let payload: Vec<u8> = node.payload(&chunk).flatten().copied().collect();
            written.write(chunk.header.sequence, &payload, &self.pushed);
        }
    }

    /// Lets time pass; of what is sent, the datagrams whose bits are set are lost.
    pub(crate) fn run(&mut self, duration: Duration, losses: u16) {
        let (end, mut count) = (self.now.after(duration), 0_u32);
        loop {
            (0..HOSTS).for_each(|host| self.service(host));
            if self.under_way.is_empty() {
                let due = self.hosts.iter().filter_map(|host| host.node.next_timeout()).min();
                self.now = due.unwrap_or(end).max(self.now).min(end);
                if self.now == end {
                    return;
                }
                continue;
            }
            self.now = self.now.after(HOP);
            for _ in 0..self.under_way.len() {
                let Some(datagram) = self.under_way.pop_front() else { break };
                count += 1;
                if losses >> (count % 16) & 1 == 0 {
                    self.arrive(&datagram);
                }
            }
            if self.now >= end {
                return;
            }
        }
    }

    /// What the peer said last to this node, of a kind.
    pub(crate) fn said(&self, by: SocketAddr, to: SocketAddr, kind: u8) -> Option<&Vec<u8>> {
        self.said.get(&(by, to, kind))
    }

    /// The session that a relay granted last to whoever is there, as the peer writes it.
    pub(crate) fn session_of(
        &self,
        peer: SocketAddr,
        relay: SocketAddr,
        sender: codec::wire::control::Sender,
    ) -> Option<SessionHeader> {
        let welcome = self.said(relay, SocketAddr::new(peer.ip().to_canonical(), peer.port()), 3)?;
        match Control::parse(welcome) {
            Ok(Control::Welcome(welcome)) => {
                Some(SessionHeader { sender, tag: secret(0).key().tag(), session: welcome.session })
            }
            _ => None,
        }
    }

    pub(crate) fn note_shards(&mut self, shards: u64) {
        self.shards += shards;
    }

    /// Another node in a relay's place. Its predecessor leaves what it knows, if it gets to.
    pub(crate) fn replace(&mut self, relay: usize, left: Option<Handover>) {
        let config = self.config.clone();
        let (now, host) = (self.now, &mut self.hosts[relay]);
        host.repairs += host.node.counters().repairs_sent;
        host.node = new_node(config, relay as u8 + 16, host.slots);
        host.metered = Metered::default();
        if let Some(left) = left {
            host.node.resume(now, left);
        }
        if let Some(dial) = host.dials.first_mut() {
            *dial = host.node.pull(now, &secret(0).key(), address(RELAYS[0] as u8)).expect("a valid key");
        }
    }

    /// Goes on under other bounds.
    pub(crate) fn configure(&mut self, relay: usize) {
        let Host { node, metered, .. } = &mut self.hosts[relay];
        node.configure(self.config.clone());
        *metered = Metered::default();
    }

    /// The network is whole again: every viewer gets something of the stream that was not yet pushed.
    pub(crate) fn heal(&mut self) {
        let before = self.pushed.len();
        for _ in 0..HEALED_WITHIN_S {
            for _ in 0..10 {
                self.push(2_000, true);
                self.run(Duration::from_millis(100), 0);
            }
            if VIEWERS.iter().all(|viewer| self.hosts[*viewer].written.is_after(before)) {
                return;
            }
        }
        panic!("not every viewer has the stream again after {HEALED_WITHIN_S} s");
    }
}

/// Longer than any line rests, any refusal holds, and any window.
const HEALED_WITHIN_S: usize = 150;

pub(crate) fn apply(bytes: &mut [u8], patch: &Patch) {
    let at = usize::from(patch.at) % bytes.len().max(1);
    bytes.iter_mut().skip(at).zip(patch.with.to_be_bytes()).for_each(|(byte, with)| *byte = with);
}
