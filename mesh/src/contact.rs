//! Contact with one of several relays: which of their addresses a channel's dial is turned to, and whose name is to be
//! looked up when.
//!
//! It neither dials nor looks up: it is told what a [`crate::Node`]'s [`Event`]s and the resolver say, and answers with
//! addresses. A relay that falls silent, refuses, says goodbye or has nothing of the channel gives its turn to the next;
//! relays that these name come after those of the user.

use core::time::Duration;
use std::net::SocketAddr;

use codec::wire::control::{ByeReason, RefuseReason};

use crate::limits::{
    HINT_KEPT, HINTS_MAX, LOOKUP_WAIT_MAX, LOOKUP_WAIT_MIN, OWN_ADDRESSES_MAX, REFUSED_AGAIN,
};
use crate::node::{Event, LostReason};
use crate::time::Time;

/// One dial's relays. Its methods take a `turn`, which turns the dial to an address, or starts it there, and says whether
/// that could be; after each of them, a dial for which there is no [`Contact::target`] is to be ended.
#[derive(Debug)]
pub struct Contact {
    relays: Vec<Relay>,
    /// The relay that the dial is turned to, and at which address.
    current: Option<Place>,
    /// A session is held now.
    connected: bool,
    /// Where this node met itself, and until when nobody is looked for there.
    own: Vec<(SocketAddr, Time)>,
}

/// What became of one relay of a [`Contact`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelayState {
    /// Its addresses are being looked up.
    LookingUp,
    /// Its name has no address, so far.
    NotFound,
    /// It has not its turn.
    Waiting,
    /// It is being dialled at this address.
    Dialling(SocketAddr),
    /// There is a session with it.
    Connected(SocketAddr),
    /// It refused for good; it is asked again, but seldom.
    Refused(RefuseReason),
    /// It is this node itself.
    Itself,
}

/// A relay by its place among all, and one of its addresses.
type Place = (usize, SocketAddr);

#[derive(Clone, Debug)]
struct Relay {
    name: String,
    addresses: Vec<SocketAddr>,
    lookup: Lookup,
    wait: Duration,
    /// Why it refused for good, and until when it is not asked again.
    refused: Option<(RefuseReason, Time)>,
    /// When another relay named it, if it was not the user.
    named_at: Option<Time>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lookup {
    Due(Time),
    UnderWay,
    Done,
    /// The name is an address.
    Needless,
}

impl Relay {
    fn new(now: Time, name: String, named_at: Option<Time>) -> Relay {
        let literal: Vec<SocketAddr> = name.parse().ok().map(canonical).into_iter().collect();
        let lookup = if literal.is_empty() { Lookup::Due(now) } else { Lookup::Needless };
        Relay { name, addresses: literal, lookup, wait: LOOKUP_WAIT_MIN, refused: None, named_at }
    }
}

impl Contact {
    /// Contact with one of these relays, the first that answers; `names` are `host:port`.
    pub fn new(now: Time, names: &[String]) -> Contact {
        let mut contact = Contact { relays: Vec::new(), current: None, connected: false, own: Vec::new() };
        contact.relays = contact.with_names(now, names);
        contact
    }

    /// Whether a session is held now.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Where the dial is turned to; `None` while there is nobody to ask.
    pub fn target(&self) -> Option<SocketAddr> {
        self.current.map(|(_, address)| address)
    }

    /// All addresses of the relay that the dial is turned to: another dial of the channel is to be turned to another relay, as
    /// far as names and addresses tell.
    pub fn held(&self) -> impl Iterator<Item = SocketAddr> {
        let known = self.current.map(|(index, _)| self.relays[index].addresses.as_slice());
        self.target().into_iter().chain(known.unwrap_or_default().iter().copied())
    }

    /// Whether every relay has refused for good.
    pub fn is_refused(&self) -> bool {
        self.relays.iter().all(|relay| relay.refused.is_some())
    }

    /// The relays that refused for good, and why.
    pub fn refusals(&self) -> impl Iterator<Item = (&str, RefuseReason)> {
        self.relays.iter().filter_map(|relay| Some((relay.name.as_str(), relay.refused?.0)))
    }

    /// The relay that the dial is turned to, for people.
    pub fn describe(&self) -> String {
        let Some((index, address)) = self.current else { return "nobody".to_owned() };
        let (name, address) = (&self.relays[index].name, address.to_string());
        if *name == address { address } else { format!("{name} ({address})") }
    }

    /// All relays, those of the user first.
    pub fn relays(&self) -> impl Iterator<Item = (&str, RelayState)> {
        (0..self.relays.len()).map(|index| (self.relays[index].name.as_str(), self.state(index)))
    }

    fn state(&self, index: usize) -> RelayState {
        let relay = &self.relays[index];
        match self.current {
            Some((at, address)) if at == index && self.connected => return RelayState::Connected(address),
            Some((at, address)) if at == index => return RelayState::Dialling(address),
            _ => {}
        }
        match (relay.refused, relay.lookup) {
            (Some((reason, _)), _) => RelayState::Refused(reason),
            _ if relay.addresses.is_empty() && relay.wait > LOOKUP_WAIT_MIN => RelayState::NotFound,
            _ if relay.addresses.is_empty() => RelayState::LookingUp,
            _ if relay.addresses.iter().all(|address| self.is_own(*address)) => RelayState::Itself,
            _ => RelayState::Waiting,
        }
    }

    /// When [`Contact::poll`] wants to be called, whatever happens before.
    pub fn next_timeout(&self) -> Option<Time> {
        let lookups = self.relays.iter().filter_map(|relay| match relay.lookup {
            Lookup::Due(at) => Some(at),
            _ => None,
        });
        let refused = self.relays.iter().filter_map(|relay| relay.refused.map(|(_, until)| until));
        lookups.chain(refused).chain(self.own.iter().map(|(_, until)| *until)).min()
    }

    /// Does what is due: starts the dial, and asks those again who have not been asked for long.
    pub fn poll(&mut self, now: Time, turn: impl FnMut(SocketAddr) -> bool) {
        for relay in &mut self.relays {
            relay.refused.take_if(|(_, until)| *until <= now);
        }
        self.own.retain(|(_, until)| *until > now);
        if self.current.is_none() {
            self.turn_to_next(now, false, turn);
        }
    }

    /// A name whose addresses are to be looked up now; to be called until there is none. What the resolver says goes to
    /// [`Contact::handle_found`] or [`Contact::handle_not_found`].
    pub fn poll_lookup(&mut self, now: Time) -> Option<String> {
        let is_due = |relay: &&mut Relay| matches!(relay.lookup, Lookup::Due(at) if at <= now);
        let relay = self.relays.iter_mut().find(is_due)?;
        relay.lookup = Lookup::UnderWay;
        Some(relay.name.clone())
    }

    /// The addresses of the relays of this name, in the order in which they are to be tried.
    pub fn handle_found(
        &mut self,
        name: &str,
        addresses: &[SocketAddr],
        mut turn: impl FnMut(SocketAddr) -> bool,
    ) {
        let Some(index) = self.relays.iter().position(|relay| relay.name == name) else { return };
        let relay = &mut self.relays[index];
        let is_first = relay.addresses.is_empty();
        relay.addresses = addresses.iter().copied().map(canonical).collect();
        (relay.lookup, relay.wait) = (Lookup::Done, LOOKUP_WAIT_MIN);
        let moved = match self.current {
            None => true,
            Some(_) if self.connected => false,
            // It would have been tried before, had it been known.
            Some((at, _)) if at > index => is_first,
            Some((at, target)) => at == index && !self.relays[index].addresses.contains(&target),
        };
        let mut places = self.places().into_iter().filter(|(at, _)| *at == index);
        if moved && let Some(place) = places.find(|(_, address)| turn(*address)) {
            self.current = Some(place);
        }
    }

    /// There is no address of this name, for now. Returns whether that is news.
    pub fn handle_not_found(&mut self, now: Time, name: &str) -> bool {
        let Some(relay) = self.relays.iter_mut().find(|relay| relay.name == name) else { return false };
        let is_news = relay.wait == LOOKUP_WAIT_MIN;
        relay.lookup = Lookup::Due(now.after(relay.wait));
        relay.wait = (relay.wait * 2).min(LOOKUP_WAIT_MAX);
        is_news
    }

    /// Takes in what happened to the dial.
    pub fn handle_event(&mut self, now: Time, event: &Event, turn: impl FnMut(SocketAddr) -> bool) {
        self.connected =
            matches!(event, Event::Connected { .. } | Event::Starved { .. } | Event::Strained { .. });
        match event {
            Event::Connected { .. } | Event::Strained { .. } => {}
            // The line is this node's own, whoever is at its other end: the dial waits.
            Event::Lost { reason: LostReason::Bye(ByeReason::LineTooThin), .. } => {}
            // It is back already, or its address was somebody else's for a while.
            Event::Lost { reason: LostReason::Bye(ByeReason::UnknownSession), .. } => {}
            Event::Lost { nodes, .. } => {
                self.take_hints(now, nodes);
                self.turn_to_next(now, true, turn);
            }
            Event::Starved { .. } => {
                self.turn_to_next(now, true, turn);
            }
            Event::Unanswered { .. } => {
                self.turn_to_next(now, false, turn);
            }
            Event::Refused { reason, nodes, .. } => {
                self.take_hints(now, nodes);
                let refused_for_good = is_final(*reason);
                if let Some((index, _)) = self.current.filter(|_| refused_for_good) {
                    self.relays[index].refused = Some((*reason, now.after(REFUSED_AGAIN)));
                }
                if !self.turn_to_next(now, false, turn) && refused_for_good {
                    self.current = None;
                }
            }
            Event::Itself { .. } => {
                let target = self.target().filter(|_| self.own.len() < OWN_ADDRESSES_MAX);
                self.own.extend(target.map(|address| (address, now.after(REFUSED_AGAIN))));
                if !self.turn_to_next(now, false, turn) {
                    self.current = None;
                }
            }
        }
    }

    /// Goes on with these relays; the session stays if its relay does, and relays that others named if the user's are the
    /// same. Who refused for good is asked again.
    pub fn set_names(&mut self, now: Time, names: &[String], mut turn: impl FnMut(SocketAddr) -> bool) {
        let before = self.current.map(|(index, address)| (self.relays[index].name.clone(), address));
        let (hints, users): (Vec<Relay>, Vec<Relay>) =
            self.relays.iter().cloned().partition(|relay| relay.named_at.is_some());
        let relays = self.with_names(now, names);
        let same = relays.iter().map(|relay| &relay.name).eq(users.iter().map(|relay| &relay.name));
        self.relays = relays.into_iter().chain(hints.into_iter().filter(|_| same)).collect();
        let place = |(name, address): (String, SocketAddr)| {
            Some((self.relays.iter().position(|relay| relay.name == name)?, address))
        };
        self.current = before.and_then(place);
        self.own.clear();
        if self.current.is_none() {
            self.connected = false;
            self.turn_to_next(now, false, &mut turn);
        }
    }

    /// A relay for each name, as far as it is known already.
    fn with_names(&self, now: Time, names: &[String]) -> Vec<Relay> {
        let mut relays: Vec<Relay> = Vec::with_capacity(names.len());
        for name in names {
            if relays.iter().all(|relay| relay.name != *name) {
                let known = self.relays.iter().find(|relay| relay.name == *name).cloned();
                let relay = known.unwrap_or_else(|| Relay::new(now, name.clone(), None));
                relays.push(Relay { refused: None, named_at: None, ..relay });
            }
        }
        relays
    }

    /// Relays that another one named come after those that the user named.
    fn take_hints(&mut self, now: Time, nodes: &[SocketAddr]) {
        self.forget_old_hints(now);
        for node in nodes.iter().copied().map(canonical) {
            let hints = self.relays.iter().filter(|relay| relay.named_at.is_some()).count();
            match self.relays.iter_mut().find(|relay| relay.addresses.contains(&node)) {
                Some(known) => known.named_at = known.named_at.and(Some(now)),
                None if hints < HINTS_MAX => self.relays.push(Relay::new(now, node.to_string(), Some(now))),
                None => {}
            }
        }
    }

    /// What was named long ago is not to keep out what is named now.
    fn forget_old_hints(&mut self, now: Time) {
        let is_old = |relay: &Relay| relay.named_at.is_some_and(|at| now.since(at) > HINT_KEPT);
        let mut index = 0;
        while index < self.relays.len() {
            let in_use = self.current.map(|(at, _)| at);
            if in_use == Some(index) || !is_old(&self.relays[index]) {
                index += 1;
                continue;
            }
            self.relays.remove(index);
            if let Some((at, _)) = self.current.as_mut().filter(|(at, _)| *at > index) {
                *at -= 1;
            }
        }
    }

    /// Turns the dial to the next address of all relays that have not refused, or of all but the current one; and has
    /// this relay's addresses looked up anew, for they may have changed. Returns whether there was one.
    fn turn_to_next(
        &mut self,
        now: Time,
        to_another_relay: bool,
        mut turn: impl FnMut(SocketAddr) -> bool,
    ) -> bool {
        let mut places = self.places();
        if let Some((index, target)) = self.current {
            let relay = &mut self.relays[index];
            if relay.lookup == Lookup::Done {
                relay.lookup = Lookup::Due(now);
            }
            let after = match places.iter().position(|place| *place == (index, target)) {
                Some(here) => here + 1,
                None => places.partition_point(|(at, _)| *at < index),
            };
            places.rotate_left(after);
            places.retain(|(at, address)| *address != target && !(to_another_relay && *at == index));
        }
        let Some(place) = places.into_iter().find(|(_, address)| turn(*address)) else { return false };
        (self.current, self.connected) = (Some(place), false);
        true
    }

    /// Everything that may be dialled, in order.
    fn places(&self) -> Vec<Place> {
        let usable = self.relays.iter().enumerate().filter(|(_, relay)| relay.refused.is_none());
        let all = usable.flat_map(|(at, relay)| relay.addresses.iter().map(move |address| (at, *address)));
        all.filter(|(_, address)| !self.is_own(*address)).collect()
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|(own, _)| *own == address)
    }
}

/// Whether asking again soon is in vain.
fn is_final(reason: RefuseReason) -> bool {
    matches!(reason, RefuseReason::ChannelNotAllowed | RefuseReason::KeyNotProven)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
