//! Keeping contact with a relay: names are resolved in the background, addresses tried in turn, and the user told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use codec::wire::control::{ByeReason, RefuseReason};
use mesh::{ChannelId, DialId, Event, LostReason};
use mio::Waker;

use crate::Error;
use crate::driver::Driver;
use crate::resolve::{ResolveError, resolve};

/// Waits between two attempts to resolve a name: doubled each time up to the longest.
const LOOKUP_WAIT_MIN: Duration = Duration::from_secs(1);
const LOOKUP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Relays that other relays name are remembered up to this number: enough to leave one that goes away, too few to be sent
/// around.
const HINTS_MAX: usize = 16;

type Answer = (usize, Result<Vec<SocketAddr>, ResolveError>);

/// One dial, with the relays it may turn to.
pub struct Contact {
    channel: ChannelId,
    relays: Vec<Relay>,
    dial: Option<DialId>,
    /// The relay that the dial is turned to, and which of its addresses.
    current: (usize, usize),
    target: Option<SocketAddr>,
    answers: Receiver<Answer>,
    answer_to: Sender<Answer>,
    waker: Arc<Waker>,
    /// A session is held now.
    connected: bool,
    /// The user knows that there is no answer.
    told: bool,
}

struct Relay {
    name: String,
    addresses: Vec<SocketAddr>,
    lookup: Lookup,
    wait: Duration,
    refused: Option<RefuseReason>,
    /// Another relay named it, not the user.
    is_hint: bool,
}

impl Relay {
    fn new(name: String, is_hint: bool) -> Relay {
        Relay {
            name,
            addresses: Vec::new(),
            lookup: Lookup::Due(Instant::now()),
            wait: LOOKUP_WAIT_MIN,
            refused: None,
            is_hint,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lookup {
    Due(Instant),
    UnderWay,
    Done,
}

impl Contact {
    /// Contact for `channel` with one of the relays, the first that answers; `names` are `host:port`.
    pub fn new(driver: &Driver, channel: ChannelId, names: Vec<String>) -> Contact {
        let (answer_to, answers) = mpsc::channel();
        Contact {
            channel,
            relays: names.into_iter().map(|name| Relay::new(name, false)).collect(),
            dial: None,
            current: (0, 0),
            target: None,
            answers,
            answer_to,
            waker: driver.waker(),
            connected: false,
            told: false,
        }
    }

    /// Whether a session is held now.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether every relay has refused for good.
    pub fn is_refused(&self) -> bool {
        self.relays.iter().all(|relay| relay.refused.is_some())
    }

    /// Starts lookups that are due and takes in their answers. Returns when it wants to be called again.
    pub fn poll(&mut self, driver: &mut Driver) -> Option<Instant> {
        while let Ok((index, answer)) = self.answers.try_recv() {
            self.take_answer(driver, index, answer);
        }
        let now = Instant::now();
        for index in 0..self.relays.len() {
            if matches!(self.relays[index].lookup, Lookup::Due(at) if at <= now) {
                self.look_up(index);
            }
        }
        let due = |relay: &Relay| match relay.lookup {
            Lookup::Due(at) => Some(at),
            _ => None,
        };
        self.relays.iter().filter_map(due).min()
    }

    /// The resolver blocks for as long as it likes: a thread of its own waits for it.
    fn look_up(&mut self, index: usize) {
        let relay = &mut self.relays[index];
        let (name, answer_to, waker) = (relay.name.clone(), self.answer_to.clone(), Arc::clone(&self.waker));
        let body = move || {
            // Nobody listens any more once the command ends.
            let _ = answer_to.send((index, resolve(&name)));
            let _ = waker.wake();
        };
        let started = thread::Builder::new().name("resolver".to_owned()).spawn(body);
        relay.lookup = match started {
            Ok(_) => Lookup::UnderWay,
            Err(_) => Lookup::Due(Instant::now() + LOOKUP_WAIT_MAX),
        };
    }

    fn take_answer(
        &mut self,
        driver: &mut Driver,
        index: usize,
        answer: Result<Vec<SocketAddr>, ResolveError>,
    ) {
        let relay = &mut self.relays[index];
        match answer {
            Ok(addresses) => {
                relay.addresses = addresses.iter().map(canonical).collect();
                relay.lookup = Lookup::Done;
                relay.wait = LOOKUP_WAIT_MIN;
                if self.dial.is_none() || (index == self.current.0 && !self.connected) {
                    self.settle_on(driver, index);
                }
            }
            Err(error) => {
                if relay.wait == LOOKUP_WAIT_MIN {
                    say(&format!("{error}; trying on"));
                }
                relay.lookup = Lookup::Due(Instant::now() + relay.wait);
                relay.wait = (relay.wait * 2).min(LOOKUP_WAIT_MAX);
            }
        }
    }

    /// Takes in an event if it is this contact's.
    ///
    /// # Errors
    /// When every relay refuses for good.
    pub fn handle_event(&mut self, driver: &mut Driver, event: &Event) -> Result<(), Error> {
        let dial = match event {
            Event::Connected { dial, .. }
            | Event::Refused { dial, .. }
            | Event::Unanswered { dial }
            | Event::Lost { dial, .. } => *dial,
        };
        if self.dial != Some(dial) {
            return Ok(());
        }
        let name = self.describe();
        self.connected = matches!(event, Event::Connected { .. });
        self.told &= !self.connected;
        match event {
            Event::Connected { is_live: true, .. } => {
                say(&format!("connected to {name}; the channel is live"))
            }
            Event::Connected { is_live: false, .. } => {
                say(&format!("connected to {name}; the channel is not live yet"))
            }
            Event::Lost { reason, nodes, .. } => {
                say(&format!("lost {name}: {}; trying again", describe_loss(*reason)));
                if !nodes.is_empty() {
                    self.take_hints(nodes);
                    self.turn_to_next(driver);
                }
            }
            Event::Unanswered { .. } => {
                if !std::mem::replace(&mut self.told, true) {
                    say(&format!(
                        "{name} does not answer; trying on (is a relay running there, and UDP let through?)"
                    ));
                }
                self.turn_to_next(driver);
            }
            Event::Refused { reason, nodes, .. } => {
                self.take_hints(nodes);
                self.relays[self.current.0].refused = Some(*reason).filter(|reason| is_final(*reason));
                if self.is_refused() {
                    return Err(Error::Refused { relays: self.refusals() });
                }
                say(&format!("{name} refuses: {reason}; trying on"));
                self.turn_to_next(driver);
            }
        }
        Ok(())
    }

    /// Relays that another one named come after those that the user named.
    fn take_hints(&mut self, nodes: &[SocketAddr]) {
        for node in nodes {
            if self.relays.iter().any(|relay| relay.addresses.contains(node)) {
                continue;
            }
            let hints = self.relays.iter().filter(|relay| relay.is_hint).count();
            if hints >= HINTS_MAX {
                return;
            }
            let mut hint = Relay::new(node.to_string(), true);
            (hint.addresses, hint.lookup) = (vec![*node], Lookup::Done);
            self.relays.push(hint);
        }
    }

    /// Dials the relay whose addresses have just been found, unless it is being dialled at one of them.
    fn settle_on(&mut self, driver: &mut Driver, index: usize) {
        let (now, addresses) = (driver.now(), &self.relays[index].addresses);
        if let Some(place) = addresses.iter().position(|address| Some(*address) == self.target) {
            self.current = (index, place);
            return;
        }
        let first = addresses[0];
        match self.dial {
            None => self.dial = Some(driver.node.dial(now, self.channel, first)),
            Some(dial) if driver.node.redirect(now, dial, first) => {}
            // Another contact has it.
            Some(_) => return,
        }
        (self.current, self.target) = ((index, 0), Some(first));
    }

    /// Turns the dial to the next address of all relays that have not refused, but not to one that another contact has;
    /// and asks for this relay's addresses anew, for they may have changed.
    fn turn_to_next(&mut self, driver: &mut Driver) {
        let current = &mut self.relays[self.current.0];
        if current.lookup == Lookup::Done {
            current.lookup = Lookup::Due(Instant::now());
        }
        let Some(dial) = self.dial else { return };
        let usable = self.relays.iter().enumerate().filter(|(_, relay)| relay.refused.is_none());
        let places = usable.flat_map(|(index, relay)| (0..relay.addresses.len()).map(move |at| (index, at)));
        let mut places: Vec<(usize, usize)> = places.collect();
        let after = places.iter().position(|place| *place > self.current).unwrap_or(0);
        places.rotate_left(after);
        let now = driver.now();
        for place in places.into_iter().filter(|place| *place != self.current) {
            let target = self.relays[place.0].addresses[place.1];
            if driver.node.redirect(now, dial, target) {
                (self.current, self.target) = (place, Some(target));
                return;
            }
        }
    }

    fn describe(&self) -> String {
        let relay = &self.relays[self.current.0];
        match relay.addresses.get(self.current.1) {
            Some(address) if address.to_string() != relay.name => format!("{} ({address})", relay.name),
            _ => relay.name.clone(),
        }
    }

    fn refusals(&self) -> String {
        let refusal = |relay: &Relay| relay.refused.map(|reason| format!("{}: {reason}", relay.name));
        self.relays.iter().filter_map(refusal).collect::<Vec<_>>().join("; ")
    }
}

/// Whether asking again is in vain.
fn is_final(reason: RefuseReason) -> bool {
    matches!(reason, RefuseReason::ChannelNotAllowed | RefuseReason::KeyNotProven)
}

fn describe_loss(reason: LostReason) -> String {
    match reason {
        LostReason::Silence => "it fell silent".to_owned(),
        LostReason::Bye(ByeReason::UnknownSession) => "it was started anew".to_owned(),
        LostReason::Bye(reason) => reason.to_string(),
    }
}

fn canonical(address: &SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Talk goes to standard error.
pub fn say(text: &str) {
    use std::io::Write;
    // With standard error closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "superpeer: {text}");
}
