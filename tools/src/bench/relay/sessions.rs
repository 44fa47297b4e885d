//! Light sessions: each has an address of its own, says `Hello` and reports, and no more. Publishers' and subscribers' are
//! alike.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use codec::wire::control::{
    Bye, ByeReason, Control, Hello, Nodes, RefuseReason, Report, Role, Sender, SessionHeader, SessionId,
};
use codec::{ChannelSecret, ChannelTag, Sequence};
use mesh::Time;
use mesh::limits::REPORT_INTERVAL_STEADY;

use crate::bench::Destinations;
use crate::bench::sink::Sink;

/// Handshakes under way at once: as many as a relay's socket takes without losing any.
const HANDSHAKES_MAX: usize = 64;

/// Between two times that so many goodbyes are said: none of them is answered, so none could be repeated.
const GOODBYE_PAUSE: Duration = Duration::from_millis(1);

/// A `Hello` unanswered for this long is repeated.
const HELLO_WAIT: Duration = Duration::from_millis(300);

/// One session: an address and a channel.
#[derive(Clone, Copy, Default)]
pub(super) struct Session {
    id: Option<SessionId>,
    cookie: [u8; 16],
    /// Subscribers: shards received.
    pub(super) received: u64,
    /// The newest chunk that it gave or got.
    pub(super) highest: Sequence,
}

/// All of one role, numbered channel by channel.
pub(super) struct Sessions<'s> {
    role: Role,
    relay: SocketAddrV4,
    addresses: Destinations,
    secrets: &'s [ChannelSecret],
    tags: Vec<ChannelTag>,
    sessions: Vec<Session>,
    /// Sessions below this one have said `Hello`.
    greeted: usize,
    /// Those of them that wait for an answer: when to ask again, in order.
    waiting: VecDeque<(Instant, usize)>,
    live: usize,
    refusal: Option<RefuseReason>,
    /// The next to report, and since when reports are due.
    reporting: u64,
    reports_since: Option<Instant>,
}

impl<'s> Sessions<'s> {
    /// Every address takes every channel, or each gives one of its own.
    pub(super) fn new(
        role: Role,
        relay: SocketAddrV4,
        addresses: Destinations,
        secrets: &'s [ChannelSecret],
    ) -> Sessions<'s> {
        let count = match role {
            Role::Subscribe => secrets.len() * addresses.count as usize,
            Role::Publish => secrets.len(),
        };
        Sessions {
            role,
            relay,
            addresses,
            secrets,
            tags: secrets.iter().map(|secret| secret.key().tag()).collect(),
            sessions: vec![Session::default(); count],
            greeted: 0,
            waiting: VecDeque::new(),
            live: 0,
            refusal: None,
            reporting: 0,
            reports_since: None,
        }
    }

    /// How many were granted.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Why the relay refused one, the last time.
    pub(super) fn refusal(&self) -> Option<RefuseReason> {
        self.refusal
    }

    pub(super) fn relay(&self) -> SocketAddrV4 {
        self.relay
    }

    pub(super) fn addresses(&self) -> &Destinations {
        &self.addresses
    }

    /// The session of an address and a channel, in that order.
    pub(super) fn of_subscriber(&mut self, subscriber: usize, channel: usize) -> &mut Session {
        &mut self.sessions[channel * self.addresses.count as usize + subscriber]
    }

    pub(super) fn of_publisher(&mut self, channel: usize) -> &mut Session {
        &mut self.sessions[channel]
    }

    fn channel(&self, session: usize) -> usize {
        match self.role {
            Role::Subscribe => session / self.addresses.count as usize,
            Role::Publish => session,
        }
    }

    pub(super) fn address(&self, session: usize) -> SocketAddrV4 {
        self.addresses.address((session % self.addresses.count as usize) as u32)
    }

    fn hello(&self, session: usize) -> Control {
        let (secret, nonce) = (&self.secrets[self.channel(session)], session as u64);
        let cookie = self.sessions[session].cookie;
        let proves = self.role == Role::Publish && cookie != [0; 16];
        let signature =
            if proves { secret.sign_hello(nonce, &cookie) } else { [0; codec::wire::SIGNATURE_BYTES] };
        Control::Hello(Hello {
            role: self.role,
            key: secret.key(),
            nonce,
            from: Sequence(0),
            cookie,
            signature,
        })
    }

    /// Takes in what a handshake brings; returns the answer that it needs at once.
    pub(super) fn handle(&mut self, control: &Control) -> Option<(SocketAddrV4, Control)> {
        match control {
            Control::Challenge(challenge) => {
                let session = usize::try_from(challenge.nonce).ok()?;
                self.sessions.get_mut(session)?.cookie = challenge.cookie;
                Some((self.address(session), self.hello(session)))
            }
            Control::Welcome(welcome) => {
                let session = self.sessions.get_mut(usize::try_from(welcome.nonce).ok()?)?;
                self.live += usize::from(session.id.is_none());
                session.id = Some(welcome.session);
                None
            }
            Control::Refuse(refuse) => {
                let session = self.sessions.get(usize::try_from(refuse.nonce).ok()?)?;
                // One that was granted may have asked twice.
                self.refusal = session.id.is_none().then_some(refuse.reason).or(self.refusal);
                None
            }
            // The relay's answers to reports.
            _ => None,
        }
    }

    /// Goes on with the handshakes, and sends the reports that are due.
    pub(super) fn go_on(&mut self, sink: &Sink, now: Time) {
        self.greet(sink);
        self.report(sink, now);
    }

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

    /// Each session's as often as a subscriber that loses nothing, evenly spread.
    fn report(&mut self, sink: &Sink, now: Time) {
        let since = *self.reports_since.get_or_insert_with(Instant::now);
        let rounds = since.elapsed().as_secs_f64() / REPORT_INTERVAL_STEADY.as_secs_f64();
        let due = (rounds * self.sessions.len() as f64) as u64;
        // After a pause, those that were missed are: a lease holds for five of them.
        self.reporting = self.reporting.max(due.saturating_sub(self.sessions.len() as u64));
        while self.reporting < due {
            let number = self.reporting as usize % self.sessions.len();
            self.reporting += 1;
            let Session { id: Some(id), received, highest, .. } = self.sessions[number] else { continue };
            let header = self.header(number, id);
            let stamp_us = now.0;
            let report = Report { stamp_us, highest, settled: highest, received, ..Report::new(header) };
            sink.send(self.address(number), self.relay, &Control::Report(report).encode());
        }
    }

    fn header(&self, session: usize, id: SessionId) -> SessionHeader {
        let sender = match self.role {
            Role::Subscribe => Sender::Subscriber,
            Role::Publish => Sender::Upstream,
        };
        SessionHeader { sender, tag: self.tags[self.channel(session)], session: id }
    }

    /// Ends every session.
    pub(super) fn say_goodbye(&mut self, sink: &Sink) {
        for number in 0..self.greeted {
            if number > 0 && number.is_multiple_of(HANDSHAKES_MAX) {
                thread::sleep(GOODBYE_PAUSE);
            }
            let Some(id) = self.sessions[number].id.take() else { continue };
            let header = self.header(number, id);
            let bye = Bye { header, reason: ByeReason::Done, nodes: Nodes::new() };
            sink.send(self.address(number), self.relay, &Control::Bye(bye).encode());
        }
    }
}
