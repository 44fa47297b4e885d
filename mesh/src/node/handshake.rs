//! The handshake, both ends: who is let in here, and how this node gets in elsewhere.

use std::net::SocketAddr;

use codec::wire::control::{
    Challenge, Control, Hello, Nodes, Refuse, RefuseReason, Role, Sender, SessionId, Welcome,
};
use codec::{ChannelVerifier, InvalidKey, Sequence};
use rand_chacha::rand_core::Rng;

use crate::channel::Channel;
use crate::dial::DialState;
use crate::fanout::Seat;
use crate::limits::{
    HELLO_WAIT_MAX, HELLOS_UNTIL_TOLD, LEASE, PUBLISHERS_PER_CHANNEL_MAX, REFUSED_WAIT, REPORT_INTERVAL,
    TICK_INTERVAL,
};
use crate::node::{Admission, DialId, Event, Node};
use crate::session::{Backlog, PeerKey, Session, Side, Subscriber, Upstream, address_class};
use crate::stats::DropReason;
use crate::time::{Time, micros};

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
            let cookie = self.cookies.bake(now, from, &hello.key, hello.role);
            return self.queue_control(from, Control::Challenge(Challenge { nonce: hello.nonce, cookie }));
        }
        let answer = match self.grant(now, from, hello) {
            Ok(session) => Control::Welcome(self.welcome(session)),
            Err(reason) => {
                self.counters.sessions_refused += 1;
                let retry_after_ms = REFUSED_WAIT.as_millis() as u32;
                Control::Refuse(Refuse { nonce: hello.nonce, reason, retry_after_ms, nodes: Nodes::new() })
            }
        };
        self.queue_control(from, answer)
    }

    /// The session that a `Hello` with a valid cookie gets.
    fn grant(&mut self, now: Time, from: SocketAddr, hello: &Hello) -> Result<usize, RefuseReason> {
        if self.closing {
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
        let sender = match hello.role {
            Role::Subscribe => Sender::Subscriber,
            Role::Publish => Sender::Upstream,
        };
        let peer = PeerKey { address: from, tag: hello.key.tag(), peer: sender };
        if let Some(&session) = self.sessions_by_peer.get(&peer) {
            if self.sessions[session].nonce == hello.nonce {
                return Ok(session);
            }
            // The peer was started anew at its old address.
            self.end_session(session);
        }
        self.check_room(from, hello)?;
        self.prove_publisher(hello)?;
        let channel = self.find_or_add_channel(&hello.key).map_err(|_| RefuseReason::KeyNotProven)?;
        let id = SessionId(self.random.next_u64());
        let session = self.begin_session(now, id, peer, channel, hello.nonce, hello.from);
        *self.sessions_by_address.entry(address_class(from)).or_default() += 1;
        self.counters.sessions_granted += 1;
        Ok(session)
    }

    fn check_room(&self, from: SocketAddr, hello: &Hello) -> Result<(), RefuseReason> {
        let held = self.sessions_by_address.get(&address_class(from)).copied().unwrap_or(0);
        if held >= self.limits.sessions_per_address_max {
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
                    subscriber.backlog = Some(Backlog { next: start, through, due: now });
                    self.backlogs.push(index);
                    self.tick_at.get_or_insert(now.after(TICK_INTERVAL));
                }
                self.subscribers += 1;
                Side::Subscriber(subscriber)
            }
        };
        entry.insert(Session::new(id, peer, channel_index, nonce, start, now, side));
        self.sessions_by_peer.insert(peer, index);
        index
    }

    /// Forgets a session and everything that points to it.
    pub(super) fn end_session(&mut self, index: usize) {
        let session = self.sessions.remove(index);
        self.sessions_by_peer.remove(&session.peer);
        let channel = &mut self.channels[session.channel];
        match &session.side {
            Side::Subscriber(subscriber) => {
                channel.seats.leave(subscriber.seat);
                self.subscribers -= 1;
                self.backlogs.retain(|backlog| *backlog != index);
            }
            Side::Upstream(_) => channel.upstreams.retain(|upstream| *upstream != index),
        }
        match session.dial {
            Some(dial) => self.put_dial_to_rest(dial, index, &session),
            None => self.release_address(session.peer.address),
        }
    }

    fn release_address(&mut self, address: SocketAddr) {
        let class = address_class(address);
        if let Some(held) = self.sessions_by_address.get_mut(&class) {
            *held -= 1;
            if *held == 0 {
                self.sessions_by_address.remove(&class);
            }
        }
    }

    /// The dial tries again after a while. A relay that settled chunks up to some number gets the next ones then.
    fn put_dial_to_rest(&mut self, dial: usize, index: usize, session: &Session) {
        let Some(dial) = self.dials.get_mut(dial).filter(|dial| dial.state == DialState::Live(index)) else {
            return;
        };
        dial.rest(session.heard_at.after(HELLO_WAIT_MAX));
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

    /// The dial that waits for an answer with this nonce from this address.
    fn greeting_to(&self, from: SocketAddr, nonce: u64) -> Result<usize, DropReason> {
        let waits =
            |state: DialState| matches!(state, DialState::Greeting { nonce: ours, .. } if ours == nonce);
        let mut dials = self.dials.iter();
        let found = dials.find(|(_, dial)| dial.target == from && waits(dial.state));
        found.map(|(index, _)| index).ok_or(DropReason::Unasked)
    }

    pub(super) fn handle_challenge(
        &mut self,
        now: Time,
        from: SocketAddr,
        challenge: &Challenge,
    ) -> Result<(), DropReason> {
        let index = self.greeting_to(from, challenge.nonce)?;
        let DialState::Greeting { nonce, cookie, .. } = self.dials[index].state else {
            return Err(DropReason::Unasked);
        };
        if cookie == challenge.cookie {
            // A repeated answer; ours to it is under way.
            return Err(DropReason::Unasked);
        }
        let dial = &mut self.dials[index];
        dial.answered();
        dial.state = DialState::Greeting { nonce, cookie: challenge.cookie, again_at: now };
        self.greet(now, index);
        Ok(())
    }

    pub(super) fn handle_welcome(
        &mut self,
        now: Time,
        from: SocketAddr,
        welcome: &Welcome,
    ) -> Result<(), DropReason> {
        let index = self.greeting_to(from, welcome.nonce)?;
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
        if self.channels[channel].upstreams.is_full() && sender == Sender::Upstream {
            return Err(DropReason::QueueFull);
        }
        let session = self.begin_session(now, welcome.session, peer, channel, welcome.nonce, start);
        self.sessions[session].dial = Some(index);
        self.sessions[session].report_at = now.after(REPORT_INTERVAL / 4);
        self.dials[index].state = DialState::Live(session);
        let Channel { window, sink, .. } = &mut self.channels[channel];
        if role == Role::Subscribe && welcome.start != Sequence(0) && window.is_empty() {
            window.begin_at(welcome.start);
            if let Some(sink) = sink {
                sink.begin_at(welcome.start);
            }
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
        if let Some(source) = source.as_mut().filter(|source| source.next <= edge && window.edge() < edge) {
            // This machine's clock was set back since the last run: numbers go on where the channel stands.
            source.next = edge.next();
        }
        if edge == Sequence(0) { resume } else { resume.max(edge.next()) }
    }

    pub(super) fn handle_refuse(
        &mut self,
        now: Time,
        from: SocketAddr,
        refuse: &Refuse,
    ) -> Result<(), DropReason> {
        let index = self.greeting_to(from, refuse.nonce)?;
        let wait_us = u64::from(refuse.retry_after_ms).clamp(1_000, 60_000) * 1_000;
        let dial = &mut self.dials[index];
        dial.answered();
        dial.rest(now.after(std::time::Duration::from_micros(wait_us.max(micros(REPORT_INTERVAL)))));
        let nodes = refuse.nodes.to_vec();
        self.tell(Event::Refused { dial: DialId(index), reason: refuse.reason, nodes });
        Ok(())
    }
}
