//! A network of nodes on virtual time: datagrams are lost, delayed, reordered and duplicated by one seed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use codec::wire::control::{Control, Report};
use codec::{ChannelKey, ChannelSecret, DATAGRAM_BYTES, Sequence};
use mesh::{
    Admission, ChannelId, DialId, Event, Ledger, Limits, Node, NodeConfig, Outbox, Progress, SLOT_BYTES,
    Siblings, SinkConfig, Time, Verdict,
};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What happens to datagrams between two nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Of 1,000 shard datagrams.
    pub(crate) loss_permille: u32,
    /// Of 1,000 control datagrams.
    pub(crate) control_loss_permille: u32,
    pub(crate) duplicate_permille: u32,
    pub(crate) delay: Duration,
    /// Up to this much more, at random: datagrams overtake each other.
    pub(crate) jitter: Duration,
}

pub(crate) const CLEAN: Link = Link {
    loss_permille: 0,
    control_loss_permille: 0,
    duplicate_permille: 0,
    delay: Duration::from_millis(1),
    jitter: Duration::ZERO,
};

pub(crate) const LOSSY: Link = Link {
    loss_permille: 50,
    control_loss_permille: 50,
    duplicate_permille: 10,
    delay: Duration::from_millis(10),
    jitter: Duration::from_millis(5),
};

struct Host {
    address: SocketAddr,
    node: Option<Node>,
    outbox: Outbox,
    sink: Option<ChannelId>,
    /// What the sink wrote, and the numbers of its chunks.
    output: Vec<u8>,
    chunks: Vec<Sequence>,
    ended: bool,
    events: Vec<Event>,
}

struct InFlight {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

pub(crate) struct Net {
    pub(crate) now: Time,
    random: ChaCha12Rng,
    hosts: Vec<Host>,
    in_flight: BTreeMap<(Time, u64), InFlight>,
    order: u64,
    pub(crate) link: Link,
    /// Of the hosts that are metered: when they sent how much, headers of IP and UDP included.
    pub(crate) metered: BTreeMap<usize, Vec<(Time, u64)>>,
    /// Of what these hosts send.
    pub(crate) links: BTreeMap<usize, Link>,
    /// How these hosts falsify the reports that they send.
    pub(crate) liars: BTreeMap<usize, fn(&mut Report)>,
    /// Every shard datagram that was sent, when it is to be kept.
    pub(crate) recorded: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
}

pub(crate) fn secret() -> ChannelSecret {
    ChannelSecret::from_seed(&[42; 32])
}

pub(crate) fn key() -> ChannelKey {
    secret().key()
}

pub(crate) fn relay_config() -> NodeConfig {
    NodeConfig::new(Admission::Open, Limits::default())
}

pub(crate) fn edge_config() -> NodeConfig {
    NodeConfig::new(Admission::Nobody, Limits::default())
}

pub(crate) fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (host >> 8) as u8, host as u8], 7450))
}

impl Net {
    pub(crate) fn new(seed: u64, link: Link) -> Net {
        println!("network seed {seed}, {link:?}");
        Net {
            now: Time(1_700_000_000_000_000),
            random: ChaCha12Rng::seed_from_u64(seed),
            hosts: Vec::new(),
            in_flight: BTreeMap::new(),
            order: 0,
            link,
            metered: BTreeMap::new(),
            links: BTreeMap::new(),
            liars: BTreeMap::new(),
            recorded: None,
        }
    }

    pub(crate) fn add(&mut self, config: NodeConfig) -> usize {
        self.hosts.push(Host {
            address: address(self.hosts.len()),
            node: None,
            outbox: Outbox::new(64),
            sink: None,
            output: Vec::new(),
            chunks: Vec::new(),
            ended: false,
            events: Vec::new(),
        });
        let host = self.hosts.len() - 1;
        self.start(host, config);
        host
    }

    /// Starts a host's node, anew if it had one.
    pub(crate) fn start(&mut self, host: usize, config: NodeConfig) {
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        self.hosts[host].node = Some(Node::new(config, seed, Box::new(vec![0; 600 * SLOT_BYTES])));
    }

    /// Adds a node that keeps its caps with others by one ledger. It hears for itself what it sends.
    pub(crate) fn add_with(&mut self, ledger: &Arc<Ledger>, config: NodeConfig) -> usize {
        let host = self.add(config.clone());
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        let siblings = Siblings { count: 0, ledger: Arc::clone(ledger) };
        let memory = Box::new(vec![0; 600 * SLOT_BYTES]);
        self.hosts[host].node = Some(Node::among(siblings, config, seed, memory));
        host
    }

    /// Kills a host's node without a word.
    pub(crate) fn kill(&mut self, host: usize) {
        self.hosts[host].node = None;
    }

    /// What a host's node leaves to its successor, as it is written down. It goes without a word.
    pub(crate) fn hand_over(&mut self, host: usize) -> Vec<u8> {
        self.service(host);
        while let Some(at) = self.peek(host).held_back_until() {
            self.run(at.since(self.now));
        }
        let node = self.hosts[host].node.take().expect("a running host");
        postcard::to_stdvec(&node.hand_over(self.now, 8 << 20)).expect("a handover is written")
    }

    /// Another node takes up what one left.
    pub(crate) fn resume(&mut self, host: usize, config: NodeConfig, left: &[u8]) {
        self.start(host, config);
        let now = self.now;
        self.node(host).resume(now, postcard::from_bytes(left).expect("a handover is read"));
    }

    pub(crate) fn node(&mut self, host: usize) -> &mut Node {
        self.hosts[host].node.as_mut().expect("a running host")
    }

    pub(crate) fn peek(&self, host: usize) -> &Node {
        self.hosts[host].node.as_ref().expect("a running host")
    }

    pub(crate) fn publisher(&mut self, relay: usize) -> (usize, ChannelId) {
        self.publisher_of(relay, secret())
    }

    pub(crate) fn publisher_of(&mut self, relay: usize, secret: ChannelSecret) -> (usize, ChannelId) {
        let host = self.add(edge_config());
        let now = self.now;
        let channel = self.node(host).add_source(now, secret);
        self.node(host).dial(now, channel, address(relay));
        (host, channel)
    }

    pub(crate) fn viewer(&mut self, relay: usize, from: Sequence) -> (usize, DialId) {
        self.viewer_from(relay, key(), from)
    }

    pub(crate) fn viewer_of(&mut self, relay: usize, key: ChannelKey) -> (usize, DialId) {
        self.viewer_from(relay, key, Sequence(0))
    }

    fn viewer_from(&mut self, relay: usize, key: ChannelKey, from: Sequence) -> (usize, DialId) {
        let host = self.add(edge_config());
        let (now, config) = (self.now, SinkConfig { delay: Duration::from_secs(1), from });
        let channel = self.node(host).add_sink(&key, config).expect("a valid key");
        let dial = self.node(host).dial(now, channel, address(relay));
        self.hosts[host].sink = Some(channel);
        (host, dial)
    }

    pub(crate) fn sink(&self, host: usize) -> ChannelId {
        self.hosts[host].sink.expect("a viewer")
    }

    pub(crate) fn output(&self, host: usize) -> &[u8] {
        &self.hosts[host].output
    }

    pub(crate) fn chunks(&self, host: usize) -> &[Sequence] {
        &self.hosts[host].chunks
    }

    pub(crate) fn has_ended(&self, host: usize) -> bool {
        self.hosts[host].ended
    }

    pub(crate) fn events(&self, host: usize) -> &[Event] {
        &self.hosts[host].events
    }

    /// Hands a node a datagram at once, as if it came from `from`.
    pub(crate) fn inject(&mut self, host: usize, from: SocketAddr, bytes: &[u8]) -> Verdict {
        let now = self.now;
        self.node(host).handle_datagram(now, from, bytes)
    }

    /// What a node sends now, taken from the network: (to, bytes).
    pub(crate) fn take_sent(&mut self, host: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let (now, host) = (self.now, &mut self.hosts[host]);
        let node = host.node.as_mut().expect("a running host");
        let mut sent = Vec::new();
        loop {
            host.outbox.clear();
            let progress = node.poll_transmit(now, &mut host.outbox);
            for transmit in host.outbox.transmits() {
                let bytes = node.bytes_of(transmit, &host.outbox);
                sent.extend(bytes.chunks(DATAGRAM_BYTES).map(|datagram| (transmit.to, datagram.to_vec())));
            }
            if progress == Progress::Idle {
                return sent;
            }
        }
    }

    fn send_all(&mut self, host: usize) {
        let from = self.hosts[host].address;
        let link = *self.links.get(&host).unwrap_or(&self.link);
        let lie = self.liars.get(&host).copied();
        for (to, mut bytes) in self.take_sent(host) {
            if let (Some(lie), Ok(Control::Report(mut report))) = (lie, Control::parse(&bytes)) {
                lie(&mut report);
                bytes = Control::Report(report).encode().to_vec();
            }
            if let Some(sent) = self.metered.get_mut(&host) {
                sent.push((self.now, bytes.len() as u64 + 28));
            }
            if let Some(recorded) = &mut self.recorded
                && bytes[3] == 0
            {
                recorded.push((from, to, bytes.clone()));
            }
            let loss = if bytes[3] == 0 { link.loss_permille } else { link.control_loss_permille };
            let copies = 1 + usize::from(self.draw(1_000) < link.duplicate_permille);
            for _ in 0..copies {
                if self.draw(1_000) >= loss {
                    let jitter = self.draw(link.jitter.as_micros() as u32 + 1);
                    let at = self.now.after(link.delay + Duration::from_micros(u64::from(jitter)));
                    self.order += 1;
                    self.in_flight.insert((at, self.order), InFlight { from, to, bytes: bytes.clone() });
                }
            }
        }
    }

    fn draw(&mut self, below: u32) -> u32 {
        self.random.next_u32() % below
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        self.run_until(end, |_| false);
    }

    /// Lets time pass until `done`; panics when that takes longer than `limit`.
    pub(crate) fn run_to(&mut self, limit: Duration, what: &str, done: impl Fn(&Net) -> bool) {
        let end = self.now.after(limit);
        self.run_until(end, &done);
        assert!(done(self), "not within {limit:?}: {what}");
    }

    fn run_until(&mut self, end: Time, done: impl Fn(&Net) -> bool) {
        (0..self.hosts.len()).for_each(|host| self.service(host));
        while !done(self) {
            let timeouts =
                self.hosts.iter().filter_map(|host| host.node.as_ref().and_then(Node::next_timeout));
            let packet = self.in_flight.keys().next().map(|(at, _)| *at);
            let Some(next) = timeouts.chain(packet).min().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            let next = next.max(self.now);
            self.now = next;
            let mut touched: Vec<usize> = self.deliver();
            touched.extend((0..self.hosts.len()).filter(|&host| {
                let timeout = self.hosts[host].node.as_ref().and_then(Node::next_timeout);
                timeout.is_some_and(|at| at <= next)
            }));
            touched.sort_unstable();
            touched.dedup();
            touched.into_iter().for_each(|host| self.service(host));
        }
    }

    /// Hands over what arrives now.
    fn deliver(&mut self) -> Vec<usize> {
        let mut touched = Vec::new();
        while let Some(entry) = self.in_flight.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let packet = entry.remove();
            let host = self.hosts.iter().position(|host| host.address == packet.to);
            if let Some(node) = host.and_then(|host| self.hosts[host].node.as_mut()) {
                node.handle_datagram(self.now, packet.from, &packet.bytes);
                touched.extend(host);
            }
        }
        touched
    }

    fn service(&mut self, host: usize) {
        let now = self.now;
        let Some(node) = self.hosts[host].node.as_mut() else { return };
        node.handle_timeout(now);
        self.send_all(host);
        let host = &mut self.hosts[host];
        let node = host.node.as_mut().expect("a running host");
        host.events.extend(std::iter::from_fn(|| node.poll_event()));
        let Some(sink) = host.sink else { return };
        while let Some(chunk) = node.next_chunk(now, sink) {
            host.output.extend(node.payload(&chunk).flatten());
            host.chunks.push(chunk.header.sequence);
            host.ended |= chunk.header.last;
        }
    }

    /// Publishes random bytes for some seconds of virtual time, with a join point each second. Returns them.
    pub(crate) fn stream(&mut self, host: usize, channel: ChannelId, seconds: u64, rate: usize) -> Vec<u8> {
        (0..seconds).flat_map(|_| self.push_pieces(host, channel, 100, rate, true)).collect()
    }

    /// Publishes `pieces` of random bytes, 10 ms each, without a join point.
    pub(crate) fn stream_without_join_point(
        &mut self,
        host: usize,
        channel: ChannelId,
        pieces: usize,
        rate: usize,
    ) -> Vec<u8> {
        self.push_pieces(host, channel, pieces, rate, false)
    }

    fn push_pieces(
        &mut self,
        host: usize,
        channel: ChannelId,
        pieces: usize,
        bytes_per_second: usize,
        join: bool,
    ) -> Vec<u8> {
        let mut published = Vec::new();
        for number in 0..pieces {
            let mut piece = vec![0; bytes_per_second / 100];
            self.random.fill_bytes(&mut piece);
            let now = self.now;
            self.node(host).push(now, channel, &piece);
            if join && number == 0 {
                self.node(host).mark_join_point(now, channel, piece.len());
            }
            published.extend(piece);
            self.run(Duration::from_millis(10));
        }
        published
    }
}
