//! The node: what comes in, what goes out, what is kept in between.

mod accepting;
mod capping;
mod control;
mod dialling;
mod event;
mod handover;
mod inbound;
mod kicking;
mod local;
mod repairing;
mod sessions;
mod sharing;
mod striping;
mod timers;
mod transmit;
mod upstreams;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use codec::wire::control::{ByeReason, Control, Nodes, RefuseReason, Sender};
use codec::wire::{SHARD, kind_of};
use codec::{ChannelKey, ChannelTag, Fec, Sequence, ShardSet};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use slab::Slab;

use crate::allowance::Allowance;
use crate::arena::{Arena, SlotRef};
use crate::channel::Channel;
use crate::control_queue::ControlQueue;
use crate::cookie::{CookieJar, OwnHellos};
use crate::dial::Dial;
use crate::egress::Cap;
use crate::fair::FairQueue;
use crate::fanout::Fanout;
use crate::hash::{SeededMap, SeededState};
use crate::ledger::Ledger;
use crate::limits::{ANSWER_QUEUE_MAX, CONTROL_QUEUE_MAX, ChannelLimits, EVENTS_PER_DIAL_MAX, Limits};
use crate::memory::Memory;
use crate::outbox::{Outbox, Payload, Transmit};
use crate::session::{Backlog, PeerKey, Session};
use crate::stats::{ChannelCounters, Counters, DropReason, Verdict};
use crate::time::Time;
pub use upstreams::UpstreamSummary;

pub use event::{Event, LostReason};
use kicking::Kicked;
pub use kicking::Whom;

/// Whose `Hello`s a node grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Nobody's: it only dials.
    Nobody,
    /// Those for these channels.
    Listed(HashSet<ChannelKey>),
    /// Those for any channel.
    Open,
}

impl Admission {
    fn allows(&self, channel: &ChannelKey) -> bool {
        match self {
            Admission::Nobody => false,
            Admission::Listed(keys) => keys.contains(channel),
            Admission::Open => true,
        }
    }
}

/// What a node is told when it is made.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Whose sessions it grants.
    pub admission: Admission,
    /// Its bounds.
    pub limits: Limits,
    /// The bounds of single channels.
    pub channel_limits: HashMap<ChannelKey, ChannelLimits>,
    /// Nodes that it names to those whom it refuses or lets go.
    pub others: Nodes,
}

impl NodeConfig {
    /// A node that names no others, with the same bounds for all channels.
    pub fn new(admission: Admission, limits: Limits) -> NodeConfig {
        NodeConfig { admission, limits, channel_limits: HashMap::new(), others: Nodes::new() }
    }
}

/// The nodes of a process that stand behind one address and serve their subscribers from the same slots; a node alone has
/// none. What comes in at one of them goes to the others by [`Node::share`] and [`Node::handle_share`].
#[derive(Clone, Debug, Default)]
pub struct Siblings {
    /// How many others: 63 at most.
    pub count: usize,
    /// What they keep the caps by; the same for all.
    pub ledger: Arc<Ledger>,
}

/// Names a channel with a local source or sink.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ChannelId(usize);

/// Names a dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct DialId(usize);

/// Whether [`Node::poll_transmit`] has more to give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Everything is in the outbox.
    Idle,
    /// The outbox is full: send it, clear it, poll again.
    More,
}

/// What a node carries, for those who look after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSummary {
    /// The channel.
    pub key: ChannelKey,
    /// Sessions that take it.
    pub subscribers: usize,
    /// How much of it they want together, in thousandths: 1,000 for each that takes all of it from here.
    pub wanted_permille: u64,
    /// Shards sent to them, to any that there were.
    pub shards_sent: u64,
    /// How many may.
    pub subscribers_max: usize,
    /// IP bits of it that may leave in any second, if there is a bound.
    pub egress_bps_max: Option<u64>,
    /// IP bit/s that its subscribers are promised, at all nodes of the process.
    pub promised_bps: u64,
    /// Sessions that give it.
    pub upstreams: usize,
    /// The live edge; 0 before the first chunk.
    pub edge: Sequence,
    /// Chunks in the window.
    pub chunks: usize,
    /// Its counts.
    pub counters: ChannelCounters,
}

/// Bits of IP per second that leave all nodes of a process: payload, and 28 (IPv4) or 48 (IPv6) bytes of headers for each
/// datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// The cap, if there is one.
    pub bps_max: Option<u64>,
    /// What subscribers are promised.
    pub promised_bps: u64,
}

impl ChannelSummary {
    /// Adds what another node of the same process has of the channel.
    pub fn add(&mut self, other: &ChannelSummary) {
        assert_eq!(self.key, other.key, "two summaries of one channel");
        self.subscribers += other.subscribers;
        self.wanted_permille += other.wanted_permille;
        self.shards_sent += other.shards_sent;
        self.promised_bps = self.promised_bps.max(other.promised_bps);
        self.upstreams += other.upstreams;
        self.edge = self.edge.max(other.edge);
        self.chunks = self.chunks.max(other.chunks);
        self.counters += other.counters;
    }
}

/// What peers at one address hold and have used up.
struct AddressUse {
    /// Granted sessions.
    sessions: usize,
    /// Grants, of which there are so many at once and so many a second.
    grants: Allowance,
}

/// Shards to be sent once more, or for the first time, to one subscriber.
struct Answer {
    to: SocketAddr,
    slot: SlotRef,
    shards: ShardSet,
}

/// One node. It is driven by one loop:
///
/// ```
/// # use std::net::{SocketAddr, UdpSocket};
/// # use mesh::{Admission, Limits, Node, NodeConfig, Outbox, Payload, Progress, SLOT_BYTES, Time};
/// # fn now() -> Time { Time(1) }
/// # fn receive(_: Option<Time>) -> Option<(SocketAddr, Vec<u8>)> { None }
/// # fn send(_: &Outbox) {}
/// # let config = NodeConfig::new(Admission::Open, Limits::default());
/// let memory = Box::new(vec![0; 64 * SLOT_BYTES]);
/// let mut node = Node::new(config, [7; 32], memory);
/// let mut outbox = Outbox::new(256);
/// # let mut rounds = 0;
/// loop {
///     // Sleeps until a datagram came or the time is reached. Drain all that arrived before polling: what one
///     // wake-up brought of a chunk goes out as one train.
///     while let Some((from, datagram)) = receive(node.next_timeout()) {
///         node.handle_datagram(now(), from, &datagram);
///     }
///     node.handle_timeout(now());
///     loop {
///         outbox.clear();
///         let progress = node.poll_transmit(now(), &mut outbox);
///         send(&outbox); // Trains name slot memory: it stays as it is until the next call into the node.
///         if progress == Progress::Idle {
///             break;
///         }
///     }
/// #   rounds += 1;
/// #   if rounds == 2 { break }
/// }
/// ```
pub struct Node {
    admission: Admission,
    limits: Limits,
    channel_limits: HashMap<ChannelKey, ChannelLimits>,
    /// What [`Limits::egress_bps_max`] comes to.
    cap: Option<Cap>,
    others: Nodes,
    /// Why nobody new is let in.
    closed_because: Option<RefuseReason>,
    /// Why nobody new is let in who wants to take a channel.
    closed_to_subscribers: Option<RefuseReason>,
    kicked: Kicked,
    random: ChaCha12Rng,
    cookies: CookieJar,
    arena: Arena,
    fec: Fec,
    channels: Slab<Channel>,
    channels_by_tag: SeededMap<ChannelTag, usize>,
    sessions: Slab<Session>,
    sessions_by_peer: SeededMap<PeerKey, usize>,
    /// What peers at one address hold and have used up.
    addresses: SeededMap<IpAddr, AddressUse>,
    /// Signature checks of publishers' handshakes.
    hello_checks: Allowance,
    /// Subscribers let go because of their lines.
    lines_let_go: Allowance,
    /// When trains that were to be sent were last left out.
    skipped_at: Time,
    /// How many had been by then.
    skipped: u64,
    dials: Slab<Dial>,
    /// Channels with a local source.
    sources: Vec<usize>,
    /// Control datagrams to be sent.
    control: ControlQueue,
    /// Answers to requests for repair, and until when each is of use.
    answers: FairQueue<(Time, Answer)>,
    /// Chunks with shards that are not yet in the fan-out: channel and number.
    fresh: Vec<(usize, Sequence)>,
    siblings: Siblings,
    /// This one's number among those of the ledger.
    number: u32,
    own_hellos: OwnHellos,
    /// When there will be enough under a cap for what waits.
    capped_until: Option<Time>,
    /// When costs of subscribers are looked at next.
    costs_at: Time,
    /// Chunks with shards that the siblings were not told of: channel and number.
    unshared: Vec<(usize, Sequence)>,
    /// Channels of which the siblings are to hear although nothing came.
    news: Vec<usize>,
    /// A slot was needed and the siblings held all: they may have missed what is wanted back.
    lacks_slots: bool,
    fanout: Fanout,
    /// What joiners are owed; the first one's turn it is.
    backlogs: VecDeque<Backlog>,
    tick_at: Option<Time>,
    sweep_at: Time,
    /// Once the node closes: the next session to be told goodbye.
    closing: Option<usize>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Node {
    /// A node with nothing to do. `seed` must be random and secret where peers are strangers; equal seeds and equal
    /// calls give equal behaviour. `memory` holds at least one slot of [`crate::SLOT_BYTES`]; it bounds all windows
    /// together.
    pub fn new(config: NodeConfig, seed: [u8; 32], memory: Box<dyn Memory>) -> Node {
        Node::among(Siblings::default(), config, seed, memory)
    }

    /// A node that serves with others of its process; `memory` is its part of what they have together. See
    /// [`Node::share`].
    pub fn among(siblings: Siblings, config: NodeConfig, seed: [u8; 32], memory: Box<dyn Memory>) -> Node {
        assert!(siblings.count < 64, "{} siblings, 63 at most", siblings.count);
        let mut random = ChaCha12Rng::from_seed(seed);
        let mut cookie_secret = [0; 16];
        random.fill_bytes(&mut cookie_secret);
        let (number, own_hellos) = siblings.ledger.join(cookie_secret);
        let hashing = SeededState::new([random.next_u64(), random.next_u64()]);
        Node {
            admission: config.admission,
            cap: config.limits.egress_bps_max.map(Cap::new),
            limits: config.limits,
            channel_limits: config.channel_limits,
            others: config.others,
            closed_because: None,
            closed_to_subscribers: None,
            kicked: Kicked::new(hashing),
            random,
            cookies: CookieJar::new(cookie_secret),
            arena: Arena::new(memory),
            fec: Fec::new(),
            channels: Slab::new(),
            channels_by_tag: SeededMap::with_hasher(hashing),
            sessions: Slab::new(),
            sessions_by_peer: SeededMap::with_hasher(hashing),
            addresses: SeededMap::with_hasher(hashing),
            hello_checks: Allowance::new(Time::default()),
            lines_let_go: Allowance::new(Time::default()),
            skipped_at: Time::default(),
            skipped: 0,
            dials: Slab::new(),
            sources: Vec::new(),
            control: ControlQueue::default(),
            answers: FairQueue::new(ANSWER_QUEUE_MAX),
            fresh: Vec::new(),
            number,
            own_hellos,
            siblings,
            capped_until: None,
            costs_at: Time::default(),
            unshared: Vec::new(),
            news: Vec::new(),
            lacks_slots: false,
            fanout: Fanout::new(),
            backlogs: VecDeque::new(),
            tick_at: None,
            sweep_at: Time::default(),
            closing: None,
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Goes on under another configuration. Granted sessions end whose channels are not admitted any more, and the newest
    /// where egress exceeds a cap; of whatever exceeds another lower bound, nothing is let go, but windows get shorter.
    pub fn configure(&mut self, config: NodeConfig) {
        (self.admission, self.limits, self.others) = (config.admission, config.limits, config.others);
        self.channel_limits = config.channel_limits;
        self.cap = self.limits.egress_bps_max.map(Cap::new);
        for (_, channel) in &mut self.channels {
            channel.set_limits(self.channel_limits.get(&channel.verifier.key()));
        }
        self.end_unadmitted();
    }

    fn end_unadmitted(&mut self) {
        for index in 0..self.sessions.capacity() {
            let granted = self.sessions.get(index).filter(|session| session.dial().is_none());
            let Some(channel) = granted.map(|session| &self.channels[session.channel]) else { continue };
            if !self.admission.allows(&channel.verifier.key()) {
                self.say_bye(index, ByeReason::Closing);
                self.end_session(index);
            }
        }
    }

    /// Refuses newcomers for this reason from now on, whatever they ask for; with `None` they are let in again. Granted
    /// sessions stay.
    pub fn close_to_newcomers(&mut self, reason: Option<RefuseReason>) {
        self.closed_because = reason;
    }

    /// The same for newcomers who want to take a channel: a publisher that comes back is let in, for those who stay.
    pub fn close_to_subscribers(&mut self, reason: Option<RefuseReason>) {
        self.closed_to_subscribers = reason;
    }

    /// Ends at most `sessions_max` granted sessions, each with a goodbye that names the other nodes: those who take first,
    /// then those who give. Returns how many; fewer when there are no more.
    pub fn let_go(&mut self, sessions_max: usize) -> usize {
        let room = CONTROL_QUEUE_MAX - self.control.len();
        let granted = |session: &Session, sender| session.dial().is_none() && session.peer.peer == sender;
        let of = |sender| {
            let all = self.sessions.iter();
            all.filter(move |(_, session)| granted(session, sender)).map(|(index, _)| index)
        };
        let leaving = of(Sender::Subscriber).chain(of(Sender::Upstream));
        let leaving: Vec<usize> = leaving.take(sessions_max.min(room)).collect();
        self.dismiss(&leaving);
        leaving.len()
    }

    /// Ends sessions with a goodbye that names the other nodes.
    fn dismiss(&mut self, sessions: &[usize]) {
        for index in sessions {
            self.say_bye(*index, ByeReason::Closing);
            self.end_session(*index);
        }
    }

    /// Takes in one datagram.
    pub fn handle_datagram(&mut self, now: Time, from: SocketAddr, bytes: &[u8]) -> Verdict {
        self.counters.datagrams += 1;
        // One peer has one address, however its socket writes it.
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let outcome = match kind_of(bytes) {
            Some(SHARD) => self.handle_shard(now, from, bytes),
            Some(_) => self.handle_control(now, from, bytes),
            None => Err(DropReason::NotOurs),
        };
        match outcome {
            Ok(()) => Verdict::Kept,
            Err(reason) => {
                self.counters.dropped[reason] += 1;
                Verdict::Dropped(reason)
            }
        }
    }

    fn handle_control(&mut self, now: Time, from: SocketAddr, bytes: &[u8]) -> Result<(), DropReason> {
        match Control::parse(bytes).map_err(|_| DropReason::MalformedControl)? {
            Control::Hello(hello) => self.handle_hello(now, from, &hello),
            Control::Challenge(challenge) => self.handle_challenge(now, from, &challenge),
            Control::Welcome(welcome) => self.handle_welcome(now, from, &welcome),
            Control::Refuse(refuse) => self.handle_refuse(now, from, &refuse),
            Control::Report(report) => self.handle_report(now, from, &report),
            Control::Repair(repair) => self.handle_repair(now, from, &repair),
            Control::Bye(bye) => self.handle_bye(now, from, &bye),
        }
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The totals.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is carried.
    pub fn channels(&self) -> impl Iterator<Item = ChannelSummary> {
        self.channels.iter().map(|(_, channel)| ChannelSummary {
            key: channel.verifier.key(),
            subscribers: channel.seats.len(),
            wanted_permille: channel.seats.wanted_permille(),
            shards_sent: channel.seats.shards_sent(),
            subscribers_max: self.subscribers_max_of(&channel.limits),
            egress_bps_max: channel.limits.egress_bps_max,
            promised_bps: self.siblings.ledger.promised_of(&channel.verifier.key()) * 8,
            upstreams: channel.upstreams.len(),
            edge: channel.window.edge(),
            chunks: channel.window.bodies(),
            counters: channel.counters,
        })
    }

    /// Sessions of both directions.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Of these, the ones that others asked for.
    pub fn granted_sessions(&self) -> usize {
        self.sessions.iter().filter(|(_, session)| session.dial().is_none()).count()
    }

    /// What may leave, and what subscribers are promised, at all nodes of the process.
    pub fn egress(&self) -> Egress {
        let promised_bps = self.siblings.ledger.promised() * 8;
        Egress { bps_max: self.limits.egress_bps_max, promised_bps }
    }

    /// Until when a cap on egress holds back what is to be sent, as of the last poll; `None` if it holds back nothing.
    pub fn held_back_until(&self) -> Option<Time> {
        self.capped_until
    }

    /// Bytes of slot memory that windows fill now.
    pub fn window_bytes(&self) -> usize {
        self.arena.in_use() * crate::SLOT_BYTES
    }

    /// Ends every session: the next polls give a `Bye` to each peer. `Hello`s are not answered any more.
    pub fn close(&mut self) {
        self.closing = Some(0);
        self.dials.clear();
        self.channels.iter_mut().for_each(|(_, channel)| channel.dials.clear());
        // Nobody is to be answered any more, and goodbyes are to find room.
        self.control.clear();
    }

    /// The bytes of a message of the last batch, for those who send by copying.
    pub fn bytes_of<'n>(&'n self, transmit: &Transmit, outbox: &'n Outbox) -> &'n [u8] {
        match &transmit.payload {
            Payload::Train { .. } => {
                let range = transmit.payload.slot_memory_range().expect("a train has one");
                self.arena.bytes(range)
            }
            Payload::Control(range) => &outbox.control_bytes()[range.clone()],
        }
    }

    fn queue_control(&mut self, to: SocketAddr, control: Control) -> Result<(), DropReason> {
        if self.control.len() >= CONTROL_QUEUE_MAX {
            return Err(DropReason::QueueFull);
        }
        self.control.push(to, &control);
        Ok(())
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() >= EVENTS_PER_DIAL_MAX * self.dials.len() {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}
