//! The accepting end of the handshake: who is let in here.

use std::net::SocketAddr;

use codec::wire::control::{
    Challenge, Control, Hello, Nodes, Refuse, RefuseReason, Role, Sender, SessionId, Welcome,
};
use codec::{ChannelVerifier, InvalidKey, Sequence};
use rand_chacha::rand_core::Rng;

use crate::allowance::{Allowance, Rate};
use crate::ledger::Denied;
use crate::limits::{
    CONTROL_QUEUE_MAX, GRANTS_PER_SECOND, HELLO_CHECKS, LEASE, PUBLISHERS_PER_CHANNEL_MAX, REFUSED_WAIT,
};
use crate::node::{AddressUse, Admission, Node};
use crate::session::{PeerKey, Side, address_class};
use crate::stats::DropReason;
use crate::time::Time;

impl Node {
    /// Without a valid cookie nothing is kept and at most 32 bytes answer 1,232.
    pub(super) fn handle_hello(
        &mut self,
        now: Time,
        from: SocketAddr,
        hello: &Hello,
    ) -> Result<(), DropReason> {
        if self.admission == Admission::Nobody || self.closing.is_some() {
            return Err(DropReason::NotAccepting);
        }
        if !self.cookies.holds(&hello.cookie, now, from, &hello.key, hello.role) {
            if self.control.len() >= CONTROL_QUEUE_MAX / 2 {
                return Err(DropReason::QueueFull);
            }
            let cookie = self.cookies.bake(now, from, &hello.key, hello.role);
            return self.queue_control(from, Control::Challenge(Challenge { nonce: hello.nonce, cookie }));
        }
        // Without its cookie it may be a copy that somebody sends, who has heard it.
        if self.meets_itself(now, hello) {
            return Err(DropReason::Itself);
        }
        let sender = match hello.role {
            Role::Subscribe => Sender::Subscriber,
            Role::Publish => Sender::Upstream,
        };
        let peer = PeerKey { address: from, tag: hello.key.tag(), peer: sender };
        let held = self.sessions_by_peer.get(&peer).copied();
        let granted = match held.map(|index| &self.sessions[index]) {
            Some(session) if session.nonce == hello.nonce => {
                let index = held.expect("just found");
                self.begin_backlog_again(now, index);
                Ok(index)
            }
            // Overtaken by the `Hello` that came after it.
            Some(session) if session.nonce_before == hello.nonce => return Err(DropReason::Unasked),
            _ if hello.role == Role::Publish && !self.hello_checks.take(now, HELLO_CHECKS) => {
                return Err(DropReason::SignatureFlood);
            }
            _ => self.grant(now, peer, held, hello),
        };
        let answer = match granted {
            Ok(session) => Control::Welcome(self.welcome(session)),
            Err(Denied::Later) => {
                self.counters.joins_deferred += 1;
                return Err(DropReason::QueueFull);
            }
            Err(Denied::Refused(reason)) => {
                self.counters.egress_refused += u64::from(reason == RefuseReason::EgressFull);
                self.counters.sessions_refused += 1;
                let retry_after_ms = REFUSED_WAIT.as_millis() as u32;
                // Whom this node keeps out, it sends to nobody.
                let nodes = if reason == RefuseReason::Kicked { Nodes::new() } else { self.others.clone() };
                Control::Refuse(Refuse { nonce: hello.nonce, reason, retry_after_ms, nodes })
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
    ) -> Result<usize, Denied> {
        if !self.admission.allows(&hello.key) {
            return Err(RefuseReason::ChannelNotAllowed.into());
        }
        if self.kicked.holds(now, peer.address, &hello.key) {
            return Err(RefuseReason::Kicked.into());
        }
        if held.is_none() {
            self.check_room(peer.address, hello)?;
        }
        self.prove_publisher(hello)?;
        let seating = self.find_place(now, peer, held, hello)?;
        let spent = self.spend_grant(now, peer.address);
        let channel =
            spent.and_then(|()| self.find_or_add_channel(&hello.key).map_err(|_| RefuseReason::KeyNotProven));
        let channel = channel.inspect_err(|_| self.give_up_place(held, hello, &seating))?;
        let before = held.map(|index| {
            self.keep_place(index);
            self.end_session(index)
        });
        let id = SessionId(self.random.next_u64());
        let session = self.begin_session(now, id, peer, channel, hello.nonce, seating);
        self.count_granted(peer, 1);
        if let Some(before) = before {
            self.sessions[session].replace(&before);
        }
        self.counters.sessions_granted += 1;
        Ok(session)
    }

    /// A subscriber that has not reported says its `Hello` again: the `Welcome` was lost, and what of its backlog was sent meanwhile
    /// came from nobody that it knew. It costs what a grant does. Under a cap it asks for repair instead.
    fn begin_backlog_again(&mut self, now: Time, index: usize) {
        let session = &self.sessions[index];
        let channel = &self.channels[session.channel];
        let (start, id, through) = (session.start, session.id, channel.window.edge());
        let is_owed = matches!(session.side, Side::Subscriber(_)) && start != Sequence(0) && start <= through;
        let is_capped = self.cap.is_some() || channel.cap().is_some();
        let address = session.peer.address;
        if !is_owed || is_capped || session.has_reported() || self.spend_grant(now, address).is_err() {
            return;
        }
        self.backlogs.retain(|backlog| backlog.id != id);
        self.owe(now, index, id, start..=through, 0);
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
    pub(super) fn count_granted(&mut self, peer: PeerKey, change: isize) {
        if let Some(held) = self.addresses.get_mut(&address_class(peer.address)) {
            held.sessions = held.sessions.saturating_add_signed(change);
        }
    }

    fn check_room(&self, from: SocketAddr, hello: &Hello) -> Result<(), RefuseReason> {
        let closed_to_subscribers = self.closed_to_subscribers.filter(|_| hello.role == Role::Subscribe);
        if let Some(reason) = self.closed_because.or(closed_to_subscribers) {
            return Err(reason);
        }
        let held = self.addresses.get(&address_class(from));
        if held.map_or(0, |held| held.sessions) >= self.limits.sessions_per_address_max {
            return Err(RefuseReason::TooManyFromAddress);
        }
        let known = self.channels_by_tag.get(&hello.key.tag()).map(|&index| &self.channels[index]);
        match hello.role {
            Role::Subscribe => {
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
