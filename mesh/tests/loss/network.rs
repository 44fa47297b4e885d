//! A publisher, a relay and its viewers, and the links between them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use codec::{ChannelSecret, DATAGRAM_BYTES, Sequence};
use mesh::{
    Admission, ChannelId, Counters, Event, Limits, Node, NodeConfig, Outbox, Progress, SLOT_BYTES,
    SinkConfig, Time,
};

use crate::link::{Link, LinkConfig};

/// The host of the relay.
pub(crate) const RELAY: usize = 0;
pub(crate) const PUBLISHER: usize = 1;

/// Headers of IPv4 and UDP.
const HEADERS_BYTES: usize = 28;

struct Host {
    node: Node,
    sink: Option<ChannelId>,
    events: Vec<Event>,
    /// Between the relay and this host, each way.
    up: Link,
    down: Link,
}

/// What was sent to a host as shards.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Sent {
    pub(crate) shards: u64,
    pub(crate) chunks_skipped: u64,
    pub(crate) chunks_delivered: u64,
    /// Data shards of the stream meanwhile.
    pub(crate) data: u64,
}

impl Sent {
    /// Shards sent beyond the stream's own, as a part of these.
    pub(crate) fn overhead(&self) -> f64 {
        self.shards as f64 / self.data as f64 - 1.0
    }

    pub(crate) fn loss_of_chunks(&self) -> f64 {
        self.chunks_skipped as f64 / (self.chunks_delivered + self.chunks_skipped).max(1) as f64
    }
}

pub(crate) struct Network {
    pub(crate) now: Time,
    hosts: Vec<Host>,
    outbox: Outbox,
    in_flight: BTreeMap<(Time, u64), (usize, usize, Vec<u8>)>,
    order: u64,
    channel: ChannelId,
    /// Shards sent to each host.
    shards_to: HashMap<usize, u64>,
    seen: HashSet<Sequence>,
    data: u64,
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8], 7450))
}

fn secret() -> ChannelSecret {
    ChannelSecret::from_seed(&[42; 32])
}

fn node(host: usize, admission: Admission) -> Node {
    node_of_seed(host as u8 + 1, admission)
}

fn node_of_seed(seed: u8, admission: Admission) -> Node {
    let config = NodeConfig::new(admission, Limits::default());
    Node::new(config, [seed; 32], Box::new(vec![0; 600 * SLOT_BYTES]))
}

impl Network {
    /// A relay, and a publisher behind links of this kind, one each way.
    pub(crate) fn new(uplink: LinkConfig) -> Network {
        let now = Time(1_700_000_000_000_000);
        let mut publisher = node(PUBLISHER, Admission::Nobody);
        let channel = publisher.add_source(now, secret());
        publisher.dial(now, channel, address(RELAY));
        let mut network = Network {
            now,
            hosts: Vec::new(),
            outbox: Outbox::new(64),
            in_flight: BTreeMap::new(),
            order: 0,
            channel,
            shards_to: HashMap::new(),
            seen: HashSet::new(),
            data: 0,
        };
        network.add(node(RELAY, Admission::Open), None, uplink);
        network.add(publisher, None, uplink);
        network
    }

    fn add(&mut self, node: Node, sink: Option<ChannelId>, link: LinkConfig) -> usize {
        let host = self.hosts.len();
        let (up, down) = (Link::new(link, 2 * host as u64), Link::new(link, 2 * host as u64 + 1));
        self.hosts.push(Host { node, sink, events: Vec::new(), up, down });
        host
    }

    /// A viewer with this playout delay behind links of this kind.
    pub(crate) fn viewer(&mut self, delay: Duration, link: LinkConfig) -> usize {
        let mut viewer = node(self.hosts.len(), Admission::Nobody);
        let sink = viewer.add_sink(&secret().key(), SinkConfig { delay, from: Sequence(0) });
        let sink = sink.expect("a valid key");
        viewer.dial(self.now, sink, address(RELAY));
        self.add(viewer, Some(sink), link)
    }

    pub(crate) fn events(&self, host: usize) -> &[Event] {
        &self.hosts[host].events
    }

    pub(crate) fn counters(&self, host: usize) -> &Counters {
        self.hosts[host].node.counters()
    }

    pub(crate) fn sent_to(&self, host: usize) -> Sent {
        let Host { node, sink, .. } = &self.hosts[host];
        let counters = sink.map(|sink| *node.channel_counters(sink)).unwrap_or_default();
        Sent {
            shards: self.shards_to.get(&host).copied().unwrap_or(0),
            chunks_skipped: counters.chunks_skipped,
            chunks_delivered: counters.chunks_delivered,
            data: self.data,
        }
    }

    /// What was sent since then.
    pub(crate) fn sent_since(&self, host: usize, before: Sent) -> Sent {
        let now = self.sent_to(host);
        Sent {
            shards: now.shards - before.shards,
            chunks_skipped: now.chunks_skipped - before.chunks_skipped,
            chunks_delivered: now.chunks_delivered - before.chunks_delivered,
            data: now.data - before.data,
        }
    }

    /// The relay is another one from now on, which knows nothing of what was.
    pub(crate) fn restart_relay(&mut self) {
        self.hosts[RELAY].node = node(RELAY, Admission::Open);
    }

    /// The publisher is started anew, behind links of this kind.
    pub(crate) fn restart_publisher(&mut self, uplink: LinkConfig) {
        let mut publisher = node_of_seed(200, Admission::Nobody);
        self.channel = publisher.add_source(self.now, secret());
        publisher.dial(self.now, self.channel, address(RELAY));
        let host = &mut self.hosts[PUBLISHER];
        (host.node, host.up, host.down) = (publisher, Link::new(uplink, 2), Link::new(uplink, 3));
    }

    /// From now on nothing comes through between publisher and relay, or everything does again.
    pub(crate) fn cut_uplink(&mut self, is_cut: bool) {
        self.hosts[PUBLISHER].up.is_cut = is_cut;
        self.hosts[PUBLISHER].down.is_cut = is_cut;
    }

    /// Publishes for so long.
    pub(crate) fn stream(&mut self, duration: Duration, bps: usize) {
        let (end, piece) = (self.now.after(duration), vec![7; bps / 8 / 100]);
        while self.now < end {
            let (now, channel) = (self.now, self.channel);
            let publisher = &mut self.hosts[PUBLISHER].node;
            publisher.next_is_join_point(channel);
            publisher.push(now, channel, &piece);
            self.run(Duration::from_millis(10));
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        (0..self.hosts.len()).for_each(|host| self.service(host));
        loop {
            let timeouts = self.hosts.iter().filter_map(|host| host.node.next_timeout()).min();
            let arrival = self.in_flight.keys().next().map(|(at, _)| *at);
            let next = timeouts.into_iter().chain(arrival).min().unwrap_or(end).max(self.now);
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
            let mut touched = 0_u64;
            while let Some(entry) = self.in_flight.first_entry().filter(|entry| entry.key().0 <= next) {
                let (from, to, bytes) = entry.remove();
                self.hosts[to].node.handle_datagram(next, address(from), &bytes);
                touched |= 1 << to;
            }
            for host in 0..self.hosts.len() {
                let is_due = self.hosts[host].node.next_timeout().is_some_and(|at| at <= next);
                if is_due || touched >> host & 1 == 1 {
                    self.service(host);
                }
            }
        }
    }

    fn service(&mut self, index: usize) {
        let now = self.now;
        self.hosts[index].node.handle_timeout(now);
        loop {
            self.outbox.clear();
            let progress = self.hosts[index].node.poll_transmit(now, &mut self.outbox);
            for transmit in self.outbox.transmits() {
                let to = usize::from(match transmit.to.ip() {
                    std::net::IpAddr::V4(ip) => ip.octets()[3],
                    std::net::IpAddr::V6(_) => panic!("all hosts have IPv4"),
                });
                let bytes = self.hosts[index].node.bytes_of(transmit, &self.outbox).to_vec();
                for datagram in bytes.chunks(DATAGRAM_BYTES) {
                    if datagram[3] == 0 {
                        *self.shards_to.entry(to).or_default() += 1;
                        let sequence = Sequence(u64::from_be_bytes(datagram[16..24].try_into().unwrap()));
                        if index == PUBLISHER && self.seen.insert(sequence) {
                            self.data += u64::from(datagram[6]);
                        }
                    }
                    let link = match index {
                        RELAY => &mut self.hosts[to].down,
                        _ => &mut self.hosts[index].up,
                    };
                    if let Some(at) = link.pass(now, datagram.len() + HEADERS_BYTES) {
                        self.order += 1;
                        self.in_flight.insert((at, self.order), (index, to, datagram.to_vec()));
                    }
                }
            }
            if progress == Progress::Idle {
                break;
            }
        }
        let host = &mut self.hosts[index];
        host.events.extend(std::iter::from_fn(|| host.node.poll_event()));
        if let Some(sink) = host.sink {
            while host.node.next_chunk(now, sink).is_some() {}
        }
    }

    /// The relay's host as a receiver, for what the publisher sends to it.
    pub(crate) fn uplink(&self) -> Sent {
        self.sent_to(RELAY)
    }
}
