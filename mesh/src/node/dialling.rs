//! The dialling end of the handshake: how this node gets in elsewhere.

use core::time::Duration;
use std::net::SocketAddr;

use codec::Sequence;
use codec::wire::control::{Challenge, Control, Hello, Nodes, Refuse, Role, Sender, Welcome};
use rand_chacha::rand_core::Rng;

use crate::channel::Channel;
use crate::dial::DialState;
use crate::limits::{
    EDGE_BELIEVED_MAX, HELLOS_UNTIL_TOLD, REFUSED_WAIT_MAX, REFUSED_WAIT_MIN, REPORT_INTERVAL,
};
use crate::node::sessions::Seating;
use crate::node::{DialId, Event, Node};
use crate::session::PeerKey;
use crate::stats::DropReason;
use crate::time::Time;

impl Node {
    /// Sends the dial's next `Hello`.
    pub(super) fn greet(&mut self, now: Time, index: usize) {
        let fresh_nonce = self.own_hellos.nonce(self.random.next_u64() as u32);
        let jitter = self.random.next_u32() as u8;
        let dial = &mut self.dials[index];
        let (nonce, cookie) = match dial.state {
            DialState::Greeting { nonce, cookie, .. } => (nonce, cookie),
            _ => (fresh_nonce, [0; 16]),
        };
        // A cookie does not hold for long: start over before it can have run out.
        let (nonce, cookie) = if dial.unanswered % 4 == 3 { (fresh_nonce, [0; 16]) } else { (nonce, cookie) };
        dial.unanswered += 1;
        let told = dial.unanswered.is_multiple_of(HELLOS_UNTIL_TOLD);
        let again_at = now.after(dial.next_wait(jitter));
        dial.state = DialState::Greeting { nonce, cookie, sent_at: now, again_at };
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
        self.dials[index].state =
            DialState::Greeting { nonce, cookie: challenge.cookie, sent_at: now, again_at: now };
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
        let (channel, role, resume, greeted_at) = {
            let dial = &mut self.dials[index];
            dial.answered();
            let greeted_at = match dial.state {
                DialState::Greeting { sent_at, .. } => sent_at,
                _ => now,
            };
            (dial.channel, dial.role, dial.resume, greeted_at)
        };
        let (sender, start) = match role {
            Role::Publish => (Sender::Subscriber, self.continue_source(channel, welcome.edge, resume)),
            Role::Subscribe => (Sender::Upstream, Sequence(0)),
        };
        let peer = PeerKey { address: from, tag: self.channels[channel].verifier.tag(), peer: sender };
        if let Some(&old) = self.sessions_by_peer.get(&peer) {
            self.end_session(old);
        }
        let session =
            self.begin_session(now, welcome.session, peer, channel, welcome.nonce, Seating::free(start));
        self.sessions[session].made_by(index);
        self.sessions[session].report_at = now.after(REPORT_INTERVAL / 4);
        self.sessions[session].note_round_trip(now.since(greeted_at));
        self.dials[index].state = DialState::Live(session);
        if role == Role::Subscribe {
            self.channels[channel].window.join(welcome.start);
            self.join_others(now, session);
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
        // A relay that has nothing is given all there is: a short stream may be over before it answers.
        let first = if edge == Sequence(0) { window.oldest_join_point() } else { edge.next() };
        resume.max(first)
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
        dial.note_in_vain();
        dial.rest(now.after(wait));
        let nodes = worth_trying(from, &refuse.nodes);
        self.tell(Event::Refused { dial: DialId(index), reason: refuse.reason, nodes });
        Ok(())
    }
}

/// Of the nodes that a peer names, those that may be dialled (PROTOCOL.md, Address). Only a node of this machine can mean
/// this machine.
pub(super) fn worth_trying(from: SocketAddr, nodes: &Nodes) -> Nodes {
    let may_be = |node: &&SocketAddr| {
        let ip = node.ip();
        let is_far = !ip.is_loopback() || from.ip().is_loopback();
        node.port() != 0 && !ip.is_multicast() && !ip.is_unspecified() && is_far
    };
    nodes.iter().filter(may_be).copied().collect()
}
