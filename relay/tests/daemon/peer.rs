//! A peer of a relay: a node on a plain socket.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use codec::wire::control::{ByeReason, RefuseReason};
use codec::{ChannelKey, ChannelSecret, DATAGRAM_BYTES, Sequence};
use mesh::{
    Admission, Anchor, ChannelId, Event, Limits, LostReason, Node, NodeConfig, Outbox, Progress, SLOT_BYTES,
    SinkConfig, Time,
};

use crate::wait::DEADLINE;

/// A channel of a test's own.
pub(crate) fn secret(number: u8) -> ChannelSecret {
    ChannelSecret::from_seed(&[number; 32])
}

pub(crate) struct Peer {
    socket: UdpSocket,
    node: Node,
    clock: Anchor,
    outbox: Outbox,
    channel: ChannelId,
    pub(crate) events: Vec<Event>,
    /// What the channel brought.
    pub(crate) output: Vec<u8>,
    pub(crate) ended: bool,
    /// What came in, with the headers of IPv4 and UDP.
    pub(crate) ip_bytes: u64,
    /// What was sent, likewise.
    pub(crate) ip_bytes_sent: u64,
}

impl Peer {
    /// Publishes the channel of this secret at `relay`.
    pub(crate) fn publisher(relay: SocketAddr, secret: ChannelSecret) -> Peer {
        Peer::publisher_from(loopback(relay), relay, secret)
    }

    /// The same, from an address of this machine.
    pub(crate) fn publisher_from(ip: IpAddr, relay: SocketAddr, secret: ChannelSecret) -> Peer {
        Peer::new(ip, relay, |node, now| node.add_source(now, secret))
    }

    /// Watches the channel of this key at `relay`.
    pub(crate) fn viewer(relay: SocketAddr, key: ChannelKey) -> Peer {
        Peer::viewer_from(loopback(relay), relay, key)
    }

    /// The same, from an address of this machine.
    pub(crate) fn viewer_from(ip: IpAddr, relay: SocketAddr, key: ChannelKey) -> Peer {
        let config = SinkConfig { delay: Duration::from_secs(5), from: Sequence(0) };
        Peer::new(ip, relay, |node, _| node.add_sink(&key, config).expect("a channel's key"))
    }

    fn new(ip: IpAddr, relay: SocketAddr, add: impl FnOnce(&mut Node, Time) -> ChannelId) -> Peer {
        let socket = UdpSocket::bind((ip, 0)).expect("a socket on loopback");
        let clock = Anchor::new(SystemTime::now(), Instant::now());
        let now = clock.time_at(Instant::now());
        let config = NodeConfig::new(Admission::Nobody, Limits::default());
        // Nodes draw their nonces from it: no two peers of one relay may have the same.
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let mut node = Node::new(config, seed, Box::new(vec![0; 300 * SLOT_BYTES]));
        let channel = add(&mut node, now);
        node.dial(now, channel, relay);
        let outbox = Outbox::new(64);
        let (events, output) = (Vec::new(), Vec::new());
        Peer {
            socket,
            node,
            clock,
            outbox,
            channel,
            events,
            output,
            ended: false,
            ip_bytes: 0,
            ip_bytes_sent: 0,
        }
    }

    /// Publishes or watches at another relay too.
    pub(crate) fn also(mut self, relay: SocketAddr) -> Peer {
        let now = self.now();
        self.node.dial(now, self.channel, relay);
        self
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.time_at(Instant::now())
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let now = self.now();
        self.node.next_is_join_point(self.channel);
        self.node.push(now, self.channel, bytes);
    }

    pub(crate) fn finish(&mut self) {
        let now = self.now();
        self.node.finish(now, self.channel);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.node.is_drained(self.channel)
    }

    pub(crate) fn is_connected(&self) -> bool {
        let last = self.events.iter().rev().find(|event| !matches!(event, Event::Unanswered { .. }));
        matches!(last, Some(Event::Connected { .. }))
    }

    pub(crate) fn was_told_bye(&self, reason: ByeReason) -> bool {
        let is_bye = |event: &Event| matches!(event, Event::Lost { reason: LostReason::Bye(got), .. } if *got == reason);
        self.events.iter().any(is_bye)
    }

    pub(crate) fn was_refused(&self, reason: RefuseReason) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Refused { reason: got, .. } if *got == reason))
    }

    /// Sends, waits a little for what comes, and takes it in.
    pub(crate) fn turn(&mut self) {
        self.socket.set_nonblocking(false).unwrap();
        self.socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        self.go_on();
    }

    /// The same, without waiting.
    pub(crate) fn turn_at_once(&mut self) {
        self.socket.set_nonblocking(true).unwrap();
        self.go_on();
    }

    fn go_on(&mut self) {
        self.send();
        let mut buffer = [0; 65_535];
        for _ in 0..256 {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let now = self.now();
                    self.ip_bytes += length as u64 + 28;
                    self.node.handle_datagram(now, from, &buffer[..length]);
                }
                // Nobody listens there: the node finds out by silence.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    break;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        let now = self.now();
        self.node.handle_timeout(now);
        self.events.extend(std::iter::from_fn(|| self.node.poll_event()));
        while let Some(chunk) = self.node.next_chunk(now, self.channel) {
            self.output.extend(self.node.payload(&chunk).flatten());
            self.ended |= chunk.header.last;
        }
        self.send();
    }

    fn send(&mut self) {
        loop {
            self.outbox.clear();
            let now = self.now();
            let progress = self.node.poll_transmit(now, &mut self.outbox);
            for transmit in self.outbox.transmits() {
                for datagram in self.node.bytes_of(transmit, &self.outbox).chunks(DATAGRAM_BYTES) {
                    // What the system refuses is lost, like anything on the way.
                    if self.socket.send_to(datagram, transmit.to).is_ok() {
                        self.ip_bytes_sent += datagram.len() as u64 + 28;
                    }
                }
            }
            if progress == Progress::Idle {
                return;
            }
        }
    }

    /// Goes on until `done`.
    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&Peer) -> bool) {
        all_until(&mut [self], what, |peers| done(&*peers[0]));
    }
}

fn loopback(relay: SocketAddr) -> IpAddr {
    match relay.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
    }
}

/// All peers go on until `done`.
pub(crate) fn all_until(peers: &mut [&mut Peer], what: &str, done: impl Fn(&[&mut Peer]) -> bool) {
    let give_up_at = Instant::now() + DEADLINE;
    while !done(peers) {
        let events: Vec<_> = peers.iter().map(|peer| &peer.events).collect();
        assert!(Instant::now() < give_up_at, "not within {DEADLINE:?}: {what}; {events:?}");
        peers.iter_mut().for_each(|peer| peer.turn());
    }
}

/// Connects a publisher at one address of a relay and a viewer at another, and checks that a stream comes through.
pub(crate) fn stream_through(publish_at: SocketAddr, watch_at: SocketAddr, secret: ChannelSecret) {
    let key = secret.key();
    let mut publisher = Peer::publisher(publish_at, secret);
    let mut viewer = Peer::viewer(watch_at, key);
    all_until(&mut [&mut publisher, &mut viewer], "both are connected", |peers| {
        peers.iter().all(|peer| peer.is_connected())
    });
    let published: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).take(200_000).collect();
    for piece in published.chunks(20_000) {
        publisher.push(piece);
        publisher.turn();
        viewer.turn();
    }
    publisher.finish();
    all_until(&mut [&mut publisher, &mut viewer], "the stream has come through", |peers| peers[1].ended);
    assert!(viewer.output == published, "{} of {} bytes", viewer.output.len(), published.len());
}
