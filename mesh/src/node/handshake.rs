//! The handshake, both ends: who is let in here, and how this node gets in elsewhere.

use core::time::Duration;
use std::net::SocketAddr;

use codec::wire::control::{
    Challenge, Control, Hello, Nodes, Refuse, RefuseReason, Role, Sender, SessionId, Welcome,
};
use codec::{ChannelVerifier, InvalidKey, Sequence, ShardSet};
use rand_chacha::rand_core::Rng;

use crate::allowance::{Allowance, Rate};
use crate::channel::Channel;
use crate::dial::DialState;
use crate::fanout::Seat;
use crate::limits::{
    CLOSING_WAIT, CONTROL_QUEUE_MAX, EDGE_BELIEVED_MAX, GRANTS_PER_SECOND, HELLO_CHECKS, HELLO_WAIT_MAX,
    HELLOS_UNTIL_TOLD, LEASE, PUBLISHERS_PER_CHANNEL_MAX, REFUSED_WAIT, REFUSED_WAIT_MAX, REFUSED_WAIT_MIN,
    REPORT_INTERVAL, SESSION_WORTH, TICK_INTERVAL,
};
use crate::node::{AddressUse, Admission, DialId, Event, Node};
use crate::session::{Backlog, PeerKey, Session, Side, Subscriber, Upstream, address_class};
use crate::stats::DropReason;
use crate::time::Time;

/// The accepting end.
impl Node {
    /// Without a valid cookie nothing is kept and at most 32 bytes answer 1,232.
    pub(super) fn handle_hello(
        &mut self,
        now: Time,
        from: SocketAddr,
        hello: &Hello,
    ) -> Result<(), DropReason> {
        if self.admission == Admission::Nobody {
            return Err(DropReason::NotAccepting);
        }
        if !self.cookies.holds(&hello.cookie, now, from, &hello.key, hello.role) {
            if self.control.len() >= CONTROL_QUEUE_MAX / 2 {
                return Err(DropReason::QueueFull);
            }
            let cookie = self.cookies.bake(now, from, &hello.key, hello.role);
            return self.queue_control(from, Control::Challenge(Challenge { nonce: hello.nonce, cookie }));
        }
        let sender = match hello.role {
            Role::Subscribe => Sender::Subscriber,
            Role::Publish => Sender::Upstream,
        };
        let peer = PeerKey { address: from, tag: hello.key.tag(), peer: sender };
        let held = self.sessions_by_peer.get(&peer).copied();
        let granted = match held.map(|index| &self.sessions[index]) {
            Some(session) if session.nonce == hello.nonce => Ok(held.expect("just found")),
            // Overtaken by the `Hello` that came after it.
            Some(session) if session.nonce_before == hello.nonce => return Err(DropReason::Unasked),
            _ if hello.role == Role::Publish && !self.hello_checks.take(now, HELLO_CHECKS) => {
                return Err(DropReason::SignatureFlood);
            }
            _ => self.grant(now, peer, held, hello),
        };
        let answer = match granted {
            Ok(session) => Control::Welcome(self.welcome(session)),
            Err(reason) => {
                self.counters.sessions_refused += 1;
                let wait = if reason == RefuseReason::Closing { CLOSING_WAIT } else { REFUSED_WAIT };
                let retry_after_ms = wait.as_millis() as u32;
                Control::Refuse(Refuse { nonce: hello.nonce, reason, retry_after_ms, nodes: Nodes::new() })
            }
        };
        self.queue_control(from, answer)
    }

    /// The session that a `Hello` with a valid cookie gets; in place of `held`, if the peer was started anew at its old
    /// address.
    fn grant(
        &mut self,
        now: Time,
        peer: PeerKey,
        held: Option<usize>,
        hello: &Hello,
    ) -> Result<usize, RefuseReason> {
        if self.closing.is_some() {
            return Err(RefuseReason::Closing);
        }
        let allowed = match &self.admission {
            Admission::Nobody => false,
            Admission::Listed(keys) => keys.contains(&hello.key),
            Admission::Open => true,
        };
        if !allowed {
            return Err(RefuseReason::ChannelNotAllowed);
        }
        if held.is_none() {
            self.check_room(peer.address, hello)?;
        }
        self.prove_publisher(hello)?;
        self.spend_grant(now, peer.address)?;
        let channel = self.find_or_add_channel(&hello.key).map_err(|_| RefuseReason::KeyNotProven)?;
        let before = held.map(|index| self.end_session(index));
        let id = SessionId(self.random.next_u64());
        let session = self.begin_session(now, id, peer, channel, hello.nonce, hello.from);
        self.count_granted(peer, 1);
        if let Some(before) = before {
            self.sessions[session].replace(&before);
        }
        self.counters.sessions_granted += 1;
        Ok(session)
    }

    /// Each grant may cost a backlog: an address gets as many as it may hold sessions, and more as time passes.
    fn spend_grant(&mut self, now: Time, address: SocketAddr) -> Result<(), RefuseReason> {
        let rate = self.grant_rate();
        let fresh = || AddressUse { sessions: 0, grants: Allowance::new(now) };
        let spent = self.addresses.entry(address_class(address)).or_insert_with(fresh);
        if spent.grants.take(now, rate) { Ok(()) } else { Err(RefuseReason::TooManyFromAddress) }
    }

    fn grant_rate(&self) -> Rate {
        let burst = u32::try_from(self.limits.sessions_per_address_max).unwrap_or(u32::MAX);
        Rate { burst, per_second: GRANTS_PER_SECOND }
    }

    /// Addresses that hold nothing and owe nothing are forgotten.
    pub(super) fn forget_addresses(&mut self, now: Time) {
        let rate = self.grant_rate();
        self.addresses.retain(|_, held| held.sessions > 0 || !held.grants.is_whole(now, rate));
    }

    /// Counts a granted session in (1) or out (−1).
    fn count_granted(&mut self, peer: PeerKey, change: isize) {
        if let Some(held) = self.addresses.get_mut(&address_class(peer.address)) {
            held.sessions = held.sessions.saturating_add_signed(change);
        }
        if peer.peer == Sender::Subscriber {
            self.subscribers = self.subscribers.saturating_add_signed(change);
        }
    }

    fn check_room(&self, from: SocketAddr, hello: &Hello) -> Result<(), RefuseReason> {
        let held = self.addresses.get(&address_class(from));
        if held.map_or(0, |held| held.sessions) >= self.limits.sessions_per_address_max {
            return Err(RefuseReason::TooManyFromAddress);
        }
        let known = self.channels_by_tag.get(&hello.key.tag()).map(|&index| &self.channels[index]);
        match hello.role {
            Role::Subscribe => {
                if self.subscribers >= self.limits.subscribers_max {
                    return Err(RefuseReason::Full);
                }
                // Channels that are only waited for leave half of the places to those that have a publisher.
                if known.is_none() && self.channels.len() >= self.limits.channels_max.div_ceil(2) {
                    return Err(RefuseReason::TooManyChannels);
                }
            }
            Role::Publish => {
                if known.is_none() && self.channels.len() >= self.limits.channels_max {
                    return Err(RefuseReason::TooManyChannels);
                }
                if known.is_some_and(|channel| channel.upstreams.len() >= PUBLISHERS_PER_CHANNEL_MAX) {
                    return Err(RefuseReason::TooManyPublishers);
                }
            }
        }
        Ok(())
    }

    fn prove_publisher(&mut self, hello: &Hello) -> Result<(), RefuseReason> {
        if hello.role == Role::Subscribe {
            return Ok(());
        }
        self.counters.signature_checks += 1;
        let signed = |verifier: ChannelVerifier| {
            verifier
                .signed_hello(hello.nonce, &hello.cookie, &hello.signature)
                .then_some(())
                .ok_or(InvalidKey)
        };
        hello.key.verifier().and_then(signed).map_err(|_| RefuseReason::KeyNotProven)
    }

    fn welcome(&self, index: usize) -> Welcome {
        let session = &self.sessions[index];
        let window = &self.channels[session.channel].window;
        Welcome {
            nonce: session.nonce,
            session: session.id,
            lease_ms: LEASE.as_millis() as u32,
            edge: window.edge(),
            oldest: window.oldest(),
            start: session.start,
            observed: session.peer.address,
        }
    }
}

/// Both ends.
impl Node {
    /// Adds a session. A subscriber is owed everything from `from` to the live edge.
    fn begin_session(
        &mut self,
        now: Time,
        id: SessionId,
        peer: PeerKey,
        channel_index: usize,
        nonce: u64,
        from: Sequence,
    ) -> usize {
        let channel = &mut self.channels[channel_index];
        let base = channel.counters;
        let entry = self.sessions.vacant_entry();
        let index = entry.key();
        let mut start = Sequence(0);
        let side = match peer.peer {
            Sender::Upstream => {
                channel.upstreams.push(index);
                Side::Upstream(Upstream::new(now, base))
            }
            Sender::Subscriber => {
                start = channel.start_for(from);
                let seat = channel.seats.take(Seat { to: peer.address, loss_ppm: 0 });
                let mut subscriber = Subscriber::new(seat, channel.shards_fanned);
                let through = channel.window.edge();
                if start != Sequence(0) && start <= through {
                    subscriber.backlog =
                        Some(Backlog { next: start, sent: ShardSet::EMPTY, through, due: now });
                    self.backlogs.push(index);
                    self.tick_at.get_or_insert(now.after(TICK_INTERVAL));
                }
                Side::Subscriber(subscriber)
            }
        };
        entry.insert(Session::new(id, peer, channel_index, nonce, start, now, side));
        self.sessions_by_peer.insert(peer, index);
        index
    }

    /// Forgets a session and everything that points to it.
    pub(super) fn end_session(&mut self, index: usize) -> Session {
        let session = self.sessions.remove(index);
        self.sessions_by_peer.remove(&session.peer);
        let channel = &mut self.channels[session.channel];
        match &session.side {
            Side::Subscriber(subscriber) => {
                channel.seats.leave(subscriber.seat);
                if subscriber.backlog.is_some() {
                    self.backlogs.retain(|backlog| *backlog != index);
                }
            }
            Side::Upstream(_) => channel.upstreams.retain(|upstream| *upstream != index),
        }
        match session.dial {
            Some(dial) => self.put_dial_to_rest(dial, index, &session),
            None => self.count_granted(session.peer, -1),
        }
        session
    }

    /// The dial tries again after a while. A relay that settled chunks up to some number gets the next ones then.
    fn put_dial_to_rest(&mut self, dial: usize, index: usize, session: &Session) {
        let Some(dial) = self.dials.get_mut(dial).filter(|dial| dial.state == DialState::Live(index)) else {
            return;
        };
        dial.rest(session.heard_at.after(HELLO_WAIT_MAX));
        if session.heard_at.since(session.begun_at) >= SESSION_WORTH {
            dial.start_over();
        }
        if let Side::Subscriber(subscriber) = &session.side
            && subscriber.settled != Sequence(0)
        {
            dial.resume = subscriber.settled.next();
        }
    }
}

/// The dialling end.
impl Node {
    /// Sends the dial's next `Hello`.
    pub(super) fn greet(&mut self, now: Time, index: usize) {
        let fresh_nonce = self.random.next_u64();
        let jitter = self.random.next_u32() as u8;
        let dial = &mut self.dials[index];
        let (nonce, cookie) = match dial.state {
            DialState::Greeting { nonce, cookie, .. } => (nonce, cookie),
            _ => (fresh_nonce, [0; 16]),
        };
        // A cookie does not hold for long: start over before it can have run out.
        let (nonce, cookie) = if dial.unanswered % 4 == 3 { (fresh_nonce, [0; 16]) } else { (nonce, cookie) };
        dial.unanswered += 1;
        let told = dial.unanswered == HELLOS_UNTIL_TOLD;
        let again_at = now.after(dial.next_wait(jitter));
        dial.state = DialState::Greeting { nonce, cookie, again_at };
        let (target, hello) = (dial.target, self.hello(index, nonce, cookie));
        // With a full queue the next attempt does it.
        let _ = self.queue_control(target, Control::Hello(hello));
        if told {
            self.tell(Event::Unanswered { dial: DialId(index) });
        }
    }

    fn hello(&self, dial: usize, nonce: u64, cookie: [u8; 16]) -> Hello {
        let dial = &self.dials[dial];
        let channel = &self.channels[dial.channel];
        let signature = match &channel.source {
            Some(source) if cookie != [0; 16] => source.secret.sign_hello(nonce, &cookie),
            _ => [0; 64],
        };
        let from = match (&channel.sink, dial.role) {
            (Some(sink), Role::Subscribe) => sink.from(),
            (None, Role::Subscribe) if !channel.window.is_empty() => channel.window.edge().next(),
            _ => Sequence(0),
        };
        Hello { role: dial.role, key: channel.verifier.key(), nonce, from, cookie, signature }
    }

    /// The dial that waits for an answer with this nonce from this address, and the cookie it has.
    fn greeting_to(&self, from: SocketAddr, nonce: u64) -> Result<(usize, [u8; 16]), DropReason> {
        let mut greetings = self.dials.iter().filter(|(_, dial)| dial.target == from);
        let found = greetings.find_map(|(index, dial)| match dial.state {
            DialState::Greeting { nonce: ours, cookie, .. } if ours == nonce => Some((index, cookie)),
            _ => None,
        });
        found.ok_or(DropReason::Unasked)
    }

    /// One challenge is met per nonce: a peer that only ever challenges gets no more `Hello`s than a silent one.
    pub(super) fn handle_challenge(
        &mut self,
        now: Time,
        from: SocketAddr,
        challenge: &Challenge,
    ) -> Result<(), DropReason> {
        let (index, cookie) = self.greeting_to(from, challenge.nonce)?;
        if cookie != [0; 16] {
            return Err(DropReason::Unasked);
        }
        let nonce = challenge.nonce;
        self.dials[index].state = DialState::Greeting { nonce, cookie: challenge.cookie, again_at: now };
        self.greet(now, index);
        Ok(())
    }

    pub(super) fn handle_welcome(
        &mut self,
        now: Time,
        from: SocketAddr,
        welcome: &Welcome,
    ) -> Result<(), DropReason> {
        let (index, _) = self.greeting_to(from, welcome.nonce)?;
        let (channel, role, resume) = {
            let dial = &mut self.dials[index];
            dial.answered();
            (dial.channel, dial.role, dial.resume)
        };
        let (sender, start) = match role {
            Role::Publish => (Sender::Subscriber, self.continue_source(channel, welcome.edge, resume)),
            Role::Subscribe => (Sender::Upstream, Sequence(0)),
        };
        let peer = PeerKey { address: from, tag: self.channels[channel].verifier.tag(), peer: sender };
        if let Some(&old) = self.sessions_by_peer.get(&peer) {
            self.end_session(old);
        }
        let session = self.begin_session(now, welcome.session, peer, channel, welcome.nonce, start);
        self.sessions[session].dial = Some(index);
        self.sessions[session].report_at = now.after(REPORT_INTERVAL / 4);
        self.dials[index].state = DialState::Live(session);
        if role == Role::Subscribe {
            self.channels[channel].window.join(welcome.start);
        }
        let is_live = match role {
            Role::Publish => welcome.edge != Sequence(0),
            Role::Subscribe => welcome.start != Sequence(0),
        };
        self.tell(Event::Connected { dial: DialId(index), is_live, observed: welcome.observed });
        Ok(())
    }

    /// Publishing to a relay that already has the channel up to `edge`: from where it goes on.
    fn continue_source(&mut self, channel: usize, edge: Sequence, resume: Sequence) -> Sequence {
        let Channel { source, window, .. } = &mut self.channels[channel];
        let believed = edge.0 <= EDGE_BELIEVED_MAX && window.edge() < edge;
        if let Some(source) = source.as_mut().filter(|source| believed && source.next <= edge) {
            // This machine's clock was set back since the last run: numbers go on where the channel stands.
            source.next = edge.next();
            source.next_is_join_point();
        }
        if edge == Sequence(0) { resume } else { resume.max(edge.next()) }
    }

    pub(super) fn handle_refuse(
        &mut self,
        now: Time,
        from: SocketAddr,
        refuse: &Refuse,
    ) -> Result<(), DropReason> {
        let (index, _) = self.greeting_to(from, refuse.nonce)?;
        let wait =
            Duration::from_millis(u64::from(refuse.retry_after_ms)).clamp(REFUSED_WAIT_MIN, REFUSED_WAIT_MAX);
        let dial = &mut self.dials[index];
        dial.answered();
        dial.rest(now.after(wait));
        let nodes = refuse.nodes.to_vec();
        self.tell(Event::Refused { dial: DialId(index), reason: refuse.reason, nodes });
        Ok(())
    }
}
