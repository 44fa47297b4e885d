//! The subscribers: each a session with an address of its own that says `Hello` and reports, and no more. They verify,
//! store and repair nothing, so that many of them cost little.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use codec::wire::control::{Control, Hello, Report, Role, Sender, SessionHeader, SessionId};
use codec::wire::{SHARD, kind_of};
use codec::{ChannelKey, ChannelTag, Sequence, ShardView};
use mesh::limits::REPORT_INTERVAL;
use mesh::{Anchor, Time};

use super::board::Board;
use super::copies::{Copies, Delays};
use crate::Error;
use crate::bench::sink::{Arrival, Sink};
use crate::bench::{Destinations, thread_cpu};

/// Handshakes under way at once: as many as a relay's socket takes without losing any.
const HANDSHAKES_MAX: usize = 64;

/// A `Hello` unanswered for this long is repeated.
const HELLO_WAIT: Duration = Duration::from_millis(300);

/// Open chunks are looked through this often.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

/// How long after the measured time its last copies may come.
const TAIL: Duration = Duration::from_millis(500);

/// One subscription: an address and a channel.
#[derive(Clone, Copy, Default)]
struct Session {
    id: Option<SessionId>,
    cookie: [u8; 16],
    received: u64,
    highest: Sequence,
}

/// All of them, numbered channel by channel.
struct Subscribers<'b> {
    relay: SocketAddrV4,
    destinations: Destinations,
    stride: usize,
    channels: Vec<ChannelKey>,
    by_tag: HashMap<ChannelTag, usize>,
    sessions: Vec<Session>,
    /// Sessions below this one have said `Hello`.
    greeted: usize,
    /// Those of them that wait for an answer: when to ask again, in order.
    waiting: VecDeque<(Instant, usize)>,
    live: usize,
    /// The next to report, and since when reports are due.
    reporting: u64,
    reports_since: Option<Instant>,
    clock: Anchor,
    copies: Copies,
    datagrams: u64,
    payload_bytes: u64,
    board: &'b Board,
}

/// Subscribes every destination to every channel, of which one in `stride` receives shards; returns when the board says that it is over.
pub(super) fn subscribe(
    sink: &mut Sink,
    destinations: Destinations,
    stride: u32,
    channels: Vec<ChannelKey>,
    relay: SocketAddrV4,
    board: &Board,
) -> Result<Delays, Error> {
    let by_tag = channels.iter().enumerate().map(|(number, key)| (key.tag(), number)).collect();
    let mut subscribers = Subscribers {
        relay,
        by_tag,
        sessions: vec![Session::default(); channels.len() * destinations.count as usize],
        copies: Copies::new(destinations.count.div_ceil(stride) as usize),
        destinations,
        stride: stride as usize,
        channels,
        greeted: 0,
        waiting: VecDeque::new(),
        live: 0,
        reporting: 0,
        reports_since: None,
        clock: Anchor::new(SystemTime::now(), Instant::now()),
        datagrams: 0,
        payload_bytes: 0,
        board,
    };
    let failed = |error| Error::System("the UDP socket failed", error);
    let mut settle_at = Instant::now();
    while !subscribers.is_done() {
        let wait = Duration::from_millis(5);
        let mut answers = Vec::new();
        sink.receive(wait, |arrival| answers.extend(subscribers.handle(arrival))).map_err(failed)?;
        for (from, control) in answers {
            sink.send(from, relay, &control.encode());
        }
        subscribers.greet(sink);
        subscribers.report(sink);
        if settle_at <= Instant::now() {
            settle_at = Instant::now() + SETTLE_INTERVAL;
            let now = subscribers.now();
            subscribers.copies.settle(now.0, subscribers.measured());
        }
        subscribers.publish_counts();
    }
    let measured = subscribers.measured();
    Ok(subscribers.copies.finish(measured))
}

impl Subscribers<'_> {
    fn now(&self) -> Time {
        self.clock.time_at(Instant::now())
    }

    /// The measured time; without an end as long as it is not known.
    fn measured(&self) -> std::ops::Range<u64> {
        let known = |time: u64| if time == 0 { u64::MAX } else { time };
        let (from, until) = (&self.board.from_us, &self.board.until_us);
        known(from.load(Ordering::Acquire))..known(until.load(Ordering::Acquire))
    }

    fn is_done(&self) -> bool {
        let until = self.board.until_us.load(Ordering::Acquire);
        self.board.is_over() && (until == 0 || self.now() > Time(until).after(TAIL))
    }

    fn publish_counts(&self) {
        self.board.subscriptions.store(self.live, Ordering::Release);
        self.board.datagrams.store(self.datagrams, Ordering::Relaxed);
        self.board.payload_bytes.store(self.payload_bytes, Ordering::Relaxed);
        self.board.sink_cpu_us.store(thread_cpu().as_micros() as u64, Ordering::Relaxed);
    }

    /// Who a session is.
    fn address(&self, session: usize) -> SocketAddrV4 {
        self.destinations.address((session % self.destinations.count as usize) as u32)
    }

    fn hello(&self, session: usize) -> Control {
        Control::Hello(Hello {
            role: Role::Subscribe,
            key: self.channels[session / self.destinations.count as usize],
            nonce: session as u64,
            from: Sequence(0),
            cookie: self.sessions[session].cookie,
            signature: [0; codec::wire::SIGNATURE_BYTES],
        })
    }

    /// Takes in what came; returns the answer that it needs at once.
    fn handle(&mut self, arrival: &Arrival<'_>) -> Option<(SocketAddrV4, Control)> {
        if kind_of(arrival.first) == Some(SHARD) {
            self.handle_train(arrival);
            return None;
        }
        match Control::parse(arrival.first) {
            Ok(Control::Challenge(challenge)) => {
                let session = usize::try_from(challenge.nonce).ok()?;
                self.sessions.get_mut(session)?.cookie = challenge.cookie;
                Some((self.address(session), self.hello(session)))
            }
            Ok(Control::Welcome(welcome)) => {
                let session = self.sessions.get_mut(usize::try_from(welcome.nonce).ok()?)?;
                self.live += usize::from(session.id.is_none());
                session.id = Some(welcome.session);
                None
            }
            // The relay's answers to reports; and what it refuses stays without a session, which ends the bench.
            _ => None,
        }
    }

    fn handle_train(&mut self, arrival: &Arrival<'_>) {
        let Ok(shard) = ShardView::parse(arrival.first) else { return };
        let header = shard.header();
        let channel = self.by_tag.get(&header.tag).copied();
        let subscriber = self.destinations.number(arrival.to).map(|number| number as usize);
        let (Some(channel), Some(subscriber)) = (channel, subscriber) else { return };
        let shards = arrival.datagrams();
        let session = &mut self.sessions[channel * self.destinations.count as usize + subscriber];
        session.received += shards;
        session.highest = session.highest.max(header.sequence);
        self.datagrams += shards;
        if self.copies.note(channel, subscriber / self.stride, &header, shards, arrival.at) {
            self.payload_bytes += header.payload_bytes() as u64;
        }
    }

    /// Goes on with the handshakes.
    fn greet(&mut self, sink: &Sink) {
        let now = Instant::now();
        for _ in 0..self.waiting.len() {
            let Some((again_at, session)) = self.waiting.pop_front() else { break };
            if self.sessions[session].id.is_some() {
                continue;
            }
            if again_at <= now {
                self.say_hello(sink, session);
            } else {
                self.waiting.push_back((again_at, session));
            }
        }
        while self.greeted < self.sessions.len() && self.waiting.len() < HANDSHAKES_MAX {
            self.say_hello(sink, self.greeted);
            self.greeted += 1;
        }
    }

    fn say_hello(&mut self, sink: &Sink, session: usize) {
        sink.send(self.address(session), self.relay, &self.hello(session).encode());
        self.waiting.push_back((Instant::now() + HELLO_WAIT, session));
    }

    /// Sends the reports that are due: each session's once a second, evenly spread.
    fn report(&mut self, sink: &Sink) {
        let since = *self.reports_since.get_or_insert_with(Instant::now);
        let rounds = since.elapsed().as_secs_f64() / REPORT_INTERVAL.as_secs_f64();
        let due = (rounds * self.sessions.len() as f64) as u64;
        // After a pause, those that were missed are: a lease holds for ten of them.
        self.reporting = self.reporting.max(due.saturating_sub(self.sessions.len() as u64));
        while self.reporting < due {
            let number = self.reporting as usize % self.sessions.len();
            self.reporting += 1;
            let Session { id: Some(id), received, highest, .. } = self.sessions[number] else { continue };
            let tag = self.channels[number / self.destinations.count as usize].tag();
            let report = Report {
                header: SessionHeader { sender: Sender::Subscriber, tag, session: id },
                stamp_us: self.now().0,
                echo_us: 0,
                held_us: 0,
                spread_us: 0,
                highest,
                settled: highest,
                received,
                lost: 0,
                recovered: 0,
                repaired: 0,
            };
            sink.send(self.address(number), self.relay, &Control::Report(report).encode());
        }
    }
}
