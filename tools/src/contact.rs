//! Keeping contact with a relay: names are resolved in the background, addresses tried in turn, and the user told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use codec::wire::control::ByeReason;
use mesh::limits::LINE_REST;
use mesh::{ChannelId, DialId, Event, LostReason};
use mio::Waker;

use crate::Error;
use crate::driver::Driver;
use crate::resolve::{ResolveError, resolve};

type Answer = (String, Result<Vec<SocketAddr>, ResolveError>);

/// One dial, with the relays it may turn to.
pub struct Contact {
    channel: ChannelId,
    relays: mesh::Contact,
    dial: Option<DialId>,
    answers: Receiver<Answer>,
    answer_to: Sender<Answer>,
    waker: Arc<Waker>,
    /// The user knows that there is no answer.
    told: bool,
    /// Addresses of relays that other contacts of the channel have.
    taken: Vec<SocketAddr>,
}

/// Contact with several relays at a time for one channel.
pub struct Contacts(Vec<Contact>);

impl Contacts {
    /// Contact for `channel` with `count` of these relays.
    pub fn new(driver: &Driver, channel: ChannelId, names: &[String], count: usize) -> Contacts {
        Contacts((0..count).map(|_| Contact::new(driver, channel, names)).collect())
    }

    /// Whether a session is held now.
    pub fn is_connected(&self) -> bool {
        self.0.iter().any(Contact::is_connected)
    }

    /// Does what is due. Returns when it wants to be called again.
    pub fn poll(&mut self, driver: &mut Driver) -> Option<Instant> {
        (0..self.0.len()).filter_map(|place| self.apart(place).poll(driver)).min()
    }

    /// Takes in an event.
    ///
    /// # Errors
    /// When every relay refuses for good.
    pub fn handle_event(&mut self, driver: &mut Driver, event: &Event) -> Result<(), Error> {
        (0..self.0.len()).try_for_each(|place| self.apart(place).handle_event(driver, event))
    }

    /// One of them, which leaves the others theirs.
    fn apart(&mut self, place: usize) -> &mut Contact {
        let others = self.0.iter().enumerate().filter(|(other, _)| *other != place);
        self.0[place].taken = others.flat_map(|(_, other)| other.relays.held()).collect();
        &mut self.0[place]
    }
}

impl Contact {
    /// Contact for `channel` with one of the relays, the first that answers; `names` are `host:port`.
    pub fn new(driver: &Driver, channel: ChannelId, names: &[String]) -> Contact {
        let (answer_to, answers) = mpsc::channel();
        Contact {
            channel,
            relays: mesh::Contact::new(driver.now(), names),
            dial: None,
            answers,
            answer_to,
            waker: driver.waker(),
            told: false,
            taken: Vec::new(),
        }
    }

    /// Whether a session is held now.
    pub fn is_connected(&self) -> bool {
        self.relays.is_connected()
    }

    /// Whether every relay has refused for good.
    pub fn is_refused(&self) -> bool {
        self.relays.is_refused()
    }

    /// Starts lookups that are due and takes in their answers. Returns when it wants to be called again.
    pub fn poll(&mut self, driver: &mut Driver) -> Option<Instant> {
        while let Ok((name, answer)) = self.answers.try_recv() {
            self.take_answer(driver, &name, answer);
        }
        let now = driver.now();
        self.turn(driver, |relays, turn| relays.poll(now, turn));
        while let Some(name) = self.relays.poll_lookup(now) {
            if self.look_up(name.clone()).is_err() {
                self.relays.handle_not_found(now, &name);
            }
        }
        self.relays.next_timeout().map(|at| Instant::now() + at.since(now))
    }

    /// The resolver blocks for as long as it likes: a thread of its own waits for it.
    fn look_up(&self, name: String) -> std::io::Result<()> {
        let (answer_to, waker) = (self.answer_to.clone(), Arc::clone(&self.waker));
        let body = move || {
            let answer = resolve(&name);
            // Nobody listens any more once the command ends.
            let _ = answer_to.send((name, answer));
            let _ = waker.wake();
        };
        thread::Builder::new().name("resolver".to_owned()).spawn(body).map(drop)
    }

    fn take_answer(
        &mut self,
        driver: &mut Driver,
        name: &str,
        answer: Result<Vec<SocketAddr>, ResolveError>,
    ) {
        match answer {
            Ok(addresses) => self.turn(driver, |relays, turn| relays.handle_found(name, &addresses, turn)),
            Err(error) => {
                if self.relays.handle_not_found(driver.now(), name) {
                    say(&format!("{error}; still trying"));
                }
            }
        }
    }

    /// Takes in an event if it is this contact's.
    ///
    /// # Errors
    /// When every relay refuses for good.
    pub fn handle_event(&mut self, driver: &mut Driver, event: &Event) -> Result<(), Error> {
        if self.dial != Some(event.dial()) {
            return Ok(());
        }
        let (now, name) = (driver.now(), self.relays.describe());
        self.turn(driver, |relays, turn| relays.handle_event(now, event, turn));
        match event {
            Event::Refused { .. } | Event::Itself { .. } if self.is_refused() => {
                return Err(Error::Refused { relays: self.refusals() });
            }
            Event::Connected { is_live: true, .. } => {
                say(&format!("connected to {name}; the channel is live"))
            }
            Event::Connected { is_live: false, .. } => {
                say(&format!("connected to {name}; the channel is not live yet"))
            }
            Event::Strained { .. } => {
                say(&format!(
                    "much of the stream is lost on the way between here and {name}: the line seems too thin for it, so \
                     neither parity nor repair is added to it; if that goes on the session ends"
                ));
            }
            Event::Lost { reason: LostReason::Bye(ByeReason::LineTooThin), .. } => {
                say(&format!(
                    "let go by {name}: the line between here and there cannot take the stream, a quarter or more of it \
                     was lost on the way; trying again in {} s",
                    LINE_REST.as_secs()
                ));
            }
            Event::Lost { reason, .. } => {
                say(&format!("lost {name}: {}; trying again", describe_loss(*reason)));
            }
            Event::Unanswered { .. } => {
                if !std::mem::replace(&mut self.told, true) {
                    say(&format!(
                        "{name} does not answer; still trying (is a relay running there, and UDP let through?)"
                    ));
                }
            }
            Event::Refused { reason, .. } => say(&format!("{name} refuses: {reason}; still trying")),
            Event::Starved { .. } | Event::Itself { .. } => {
                if !self.is_connected() {
                    say(&format!("{name} has nothing of the channel; trying another relay"));
                }
            }
        }
        self.told &= !self.is_connected();
        Ok(())
    }

    /// Has the relays chosen anew, and the dial turned accordingly; not to one that another contact has.
    fn turn(
        &mut self,
        driver: &mut Driver,
        choose: impl FnOnce(&mut mesh::Contact, &mut dyn FnMut(SocketAddr) -> bool),
    ) {
        let (now, channel, dial, taken) = (driver.now(), self.channel, &mut self.dial, &self.taken);
        choose(&mut self.relays, &mut |target| match *dial {
            _ if taken.contains(&target) => false,
            Some(dial) => driver.node.redirect(now, dial, target),
            None => {
                *dial = Some(driver.node.dial(now, channel, target));
                true
            }
        });
        if self.relays.target().is_none()
            && let Some(dial) = self.dial.take()
        {
            driver.node.hang_up(dial);
        }
    }

    fn refusals(&self) -> String {
        let refusals = self.relays.refusals().map(|(name, reason)| format!("{name}: {reason}"));
        refusals.collect::<Vec<_>>().join("; ")
    }
}

fn describe_loss(reason: LostReason) -> String {
    match reason {
        LostReason::Silence => "it fell silent".to_owned(),
        LostReason::Bye(ByeReason::UnknownSession) => "it was started anew".to_owned(),
        LostReason::Bye(reason) => reason.to_string(),
    }
}

/// Talk goes to standard error.
pub fn say(text: &str) {
    use std::io::Write;
    // With standard error closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "superpeer: {text}");
}
