//! Channels that are taken from other relays: which of a channel's upstreams it is, and which worker dials it.
//!
//! A thread of its own decides, for names are looked up, and a dial may have to move from one worker to another: an
//! answer arrives at the worker to which the upstream's address is steered. Nothing of it is on the data path.

mod lookups;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};
use std::{io, mem};

use codec::ChannelKey;
use codec::wire::control::ByeReason;
use mesh::limits::LINE_REST;
use mesh::{Anchor, Contact, Event, LostReason, RelayState, Time};
use tracing::{info, warn};

use crate::plane::Waker;
use crate::pulls::Pull;
use crate::uring::Steering;
use crate::worker::Shared;
use lookups::Lookups;

/// Upstreams of one channel.
pub(crate) const UPSTREAMS_MAX: usize = 8;

/// One configured upstream of a channel, as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamView {
    /// The channel.
    pub key: ChannelKey,
    /// As the configuration, or another relay, names it.
    pub name: String,
    /// What became of it.
    pub state: RelayState,
}

/// What the thread is told.
pub(crate) enum Message {
    /// The channels to be taken, each with its upstreams, and from how many of them at a time.
    Configure { channels: HashMap<ChannelKey, Vec<String>>, at_once: usize },
    /// Something happened to a worker's dial.
    Happened { key: ChannelKey, turn: u64, event: Box<Event> },
    /// The resolver has answered.
    Found { name: String, answer: io::Result<Vec<SocketAddr>> },
    /// The relay ends.
    Stop,
}

/// How a worker is reached.
pub(crate) struct Reach {
    pub(crate) shared: Arc<Shared>,
    pub(crate) waker: Waker,
}

/// The thread, seen from outside.
pub(crate) struct Upstreams {
    to: Sender<Message>,
    views: Arc<Mutex<Vec<UpstreamView>>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstreams {
    /// Starts the thread. `listen` is where the workers' sockets are bound: what they cannot reach is not tried.
    pub(crate) fn start(
        (to, inbox): (Sender<Message>, Receiver<Message>),
        workers: Vec<Reach>,
        steering: Steering,
        listen: SocketAddr,
    ) -> io::Result<Upstreams> {
        let views = Arc::new(Mutex::new(Vec::new()));
        let keeper = Keeper {
            workers,
            steering,
            reaches_ipv6: listen.is_ipv6(),
            channels: HashMap::new(),
            lookups: Lookups::new(to.clone()),
            turns: 0,
            clock: Anchor::new(SystemTime::now(), Instant::now()),
            views: Arc::clone(&views),
        };
        let builder = thread::Builder::new().name("superpeer-up".to_owned());
        let thread = builder.spawn(move || keeper.run(&inbox))?;
        Ok(Upstreams { to, views, thread: Some(thread) })
    }

    /// Takes these channels from now on, and no others; each from so many upstreams at a time.
    pub(crate) fn configure(&self, channels: HashMap<ChannelKey, Vec<String>>, at_once: usize) {
        // It has panicked if it is not there: what is carried goes on.
        let _ = self.to.send(Message::Configure { channels, at_once });
    }

    /// All configured upstreams and those that they name, by channel.
    pub(crate) fn views(&self) -> Vec<UpstreamView> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Upstreams {
    fn drop(&mut self) {
        let _ = self.to.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say if it panicked: the message is in the log.
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Keeper {
    workers: Vec<Reach>,
    steering: Steering,
    reaches_ipv6: bool,
    channels: HashMap<ChannelKey, Pulled>,
    lookups: Lookups,
    /// Wishes so far, of all channels.
    turns: u64,
    clock: Anchor,
    views: Arc<Mutex<Vec<UpstreamView>>>,
}

/// One channel.
#[derive(Default)]
struct Pulled {
    legs: Vec<Leg>,
    /// Relays of which the log says already that they are of no use.
    told: BTreeSet<String>,
}

/// One of a channel's dials.
struct Leg {
    contact: Contact,
    /// The worker that was last told to dial, and whom.
    dialled: Option<(usize, SocketAddr)>,
    /// The wish that this was.
    turn: u64,
}

impl Keeper {
    fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let next = self.turn();
            let message = match next {
                Some(wait) => inbox.recv_timeout(wait),
                None => inbox.recv().map_err(RecvTimeoutError::from),
            };
            let first = match message {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for message in first.into_iter().chain(inbox.try_iter()) {
                match message {
                    Message::Configure { channels, at_once } => self.configure(channels, at_once),
                    Message::Happened { key, turn, event } => self.handle_event(&key, turn, &event),
                    Message::Found { name, answer } => self.take_answer(&name, answer),
                    Message::Stop => return,
                }
            }
        }
    }

    fn now(&self) -> Time {
        self.clock.time_at(Instant::now())
    }

    /// Does what is due and has dials follow. Returns how long nothing is due then; `None`: until a message comes.
    fn turn(&mut self) -> Option<Duration> {
        let now = self.now();
        let mut next: Option<Time> = None;
        for (key, pulled) in &mut self.channels {
            pulled.each(|contact, free| {
                contact.poll(now, free);
                while let Some(name) = contact.poll_lookup(now) {
                    self.lookups.want(name);
                }
                next = next.into_iter().chain(contact.next_timeout()).min();
            });
            self.turns = pulled.follow(key, &self.workers, self.steering, self.turns);
        }
        self.lookups.start();
        let mut views: Vec<UpstreamView> = Vec::new();
        for (&key, pulled) in &self.channels {
            views.extend(pulled.views().map(|(name, state)| UpstreamView { key, name, state }));
        }
        *self.views.lock().unwrap_or_else(PoisonError::into_inner) = views;
        next.map(|at| at.since(now))
    }

    fn configure(&mut self, channels: HashMap<ChannelKey, Vec<String>>, at_once: usize) {
        let now = self.now();
        let mut before = mem::take(&mut self.channels);
        for (key, names) in channels {
            let mut pulled = before.remove(&key).unwrap_or_default();
            // Whoever has the configuration read anew may have changed another relay's before.
            pulled.told.clear();
            pulled.each(|contact, free| contact.set_names(now, &names, free));
            self.turns = pulled.set_count(now, &names, at_once, |pulled| {
                pulled.follow(&key, &self.workers, self.steering, self.turns)
            });
            self.channels.insert(key, pulled);
        }
        for (key, mut gone) in before {
            info!(channel = %short(&key), "not pulled any more");
            gone.legs.iter_mut().for_each(|leg| leg.contact = Contact::new(now, &[]));
            self.turns = gone.follow(&key, &self.workers, self.steering, self.turns);
        }
    }

    fn handle_event(&mut self, key: &ChannelKey, turn: u64, event: &Event) {
        let now = self.now();
        let Some(pulled) = self.channels.get_mut(key) else { return };
        let Some(place) = pulled.legs.iter().position(|leg| leg.turn == turn) else { return };
        let taken = pulled.taken(place);
        let contact = &mut pulled.legs[place].contact;
        let name = contact.describe();
        contact.handle_event(now, event, |address| !taken.contains(&address));
        let is_connected = contact.is_connected();
        pulled.log(key, &name, event, is_connected);
        // At once: what else the worker has said already is about the relay that it was turned to before.
        self.turns = pulled.follow(key, &self.workers, self.steering, self.turns);
    }

    fn take_answer(&mut self, name: &str, answer: io::Result<Vec<SocketAddr>>) {
        self.lookups.note_answer(name);
        let now = self.now();
        let found = answer.map(|mut addresses| {
            addresses.retain(|address| self.reaches_ipv6 || address.ip().to_canonical().is_ipv4());
            addresses
        });
        let mut is_news = false;
        for pulled in self.channels.values_mut() {
            pulled.each(|contact, free| match &found {
                Ok(addresses) if !addresses.is_empty() => contact.handle_found(name, addresses, free),
                _ => is_news |= contact.handle_not_found(now, name),
            });
        }
        if is_news {
            let error = found.err().map_or_else(
                || "it has no address that this relay can reach".to_owned(),
                |error| error.to_string(),
            );
            warn!("the upstream {name} is not found: {error}; tried again");
        }
    }
}

impl Pulled {
    /// So many dials: new ones, or none of those that are too many. `follow` has the workers know before these are gone.
    fn set_count(
        &mut self,
        now: Time,
        names: &[String],
        count: usize,
        follow: impl FnOnce(&mut Pulled) -> u64,
    ) -> u64 {
        for leg in self.legs.iter_mut().skip(count) {
            leg.contact = Contact::new(now, &[]);
        }
        while self.legs.len() < count {
            self.legs.push(Leg { contact: Contact::new(now, names), dialled: None, turn: 0 });
        }
        let turns = follow(self);
        self.legs.truncate(count);
        turns
    }

    /// Has something done with each contact, and with a word on whether an address is free for it.
    fn each(&mut self, mut act: impl FnMut(&mut Contact, &dyn Fn(SocketAddr) -> bool)) {
        for place in 0..self.legs.len() {
            let taken = self.taken(place);
            act(&mut self.legs[place].contact, &|address| !taken.contains(&address));
        }
    }

    /// Addresses of the relays that the other dials are turned to, or were until their workers are told.
    fn taken(&self, place: usize) -> Vec<SocketAddr> {
        let others = self.legs.iter().enumerate().filter(|(other, _)| *other != place);
        let of = |leg: &Leg| {
            let dialled = leg.dialled.map(|(_, address)| address);
            leg.contact.held().chain(dialled).collect::<Vec<_>>()
        };
        others.flat_map(|(_, leg)| of(leg)).collect()
    }

    /// All relays, each as the dial sees it that is turned to it.
    fn views(&self) -> impl Iterator<Item = (String, RelayState)> {
        let mut views: Vec<(String, RelayState)> = Vec::new();
        for (name, state) in self.legs.iter().flat_map(|leg| leg.contact.relays()) {
            let is_turned_to = matches!(state, RelayState::Dialling(_) | RelayState::Connected(_));
            match views.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) if is_turned_to => *known = state,
                Some(_) => {}
                None => views.push((name.to_owned(), state)),
            }
        }
        views.into_iter()
    }

    /// Has the workers dial whom the contacts are turned to. `turns` wishes were made so far; returns how many it is then.
    fn follow(&mut self, key: &ChannelKey, workers: &[Reach], steering: Steering, turns: u64) -> u64 {
        let legs = self.legs.iter_mut().enumerate();
        legs.fold(turns, |turns, (place, leg)| leg.follow((key, place), workers, steering, turns))
    }

    /// For people. Of a relay that is of no use, once until there is a session again.
    fn log(&mut self, key: &ChannelKey, name: &str, event: &Event, is_connected: bool) {
        let channel = short(key);
        let mut is_news = || self.told.insert(name.to_owned());
        match event {
            Event::Connected { is_live, .. } => {
                self.told.clear();
                let how = if *is_live { "it is live" } else { "it is not live yet" };
                info!(%channel, "pulled from {name}; {how}");
            }
            Event::Strained { .. } => {
                warn!(
                    %channel,
                    "much of what the upstream {name} sends is lost on the way: neither parity nor repair comes from it now, \
                     and if that goes on it ends the session"
                );
            }
            Event::Lost { reason: LostReason::Bye(ByeReason::LineTooThin), .. } => {
                let rest_s = LINE_REST.as_secs();
                warn!(
                    %channel,
                    "the upstream {name} has let this relay go: a quarter or more of the channel was lost on the way; asked \
                     again in {rest_s} s"
                );
            }
            Event::Lost { reason, .. } => {
                let why = match reason {
                    LostReason::Silence => "it fell silent".to_owned(),
                    LostReason::Bye(ByeReason::UnknownSession) => "it was started anew".to_owned(),
                    LostReason::Bye(reason) => reason.to_string(),
                };
                warn!(%channel, "the upstream {name} is lost: {why}; still trying");
            }
            Event::Unanswered { .. } if is_news() => {
                warn!(%channel, "the upstream {name} does not answer; still trying");
            }
            Event::Refused { reason, .. } if is_news() => {
                warn!(%channel, "the upstream {name} refuses: {reason}; still trying");
            }
            Event::Itself { .. } if is_news() => info!(%channel, "the upstream {name} is this relay itself"),
            Event::Starved { .. } if !is_connected && is_news() => {
                info!(%channel, "the upstream {name} has nothing of the channel; trying another");
            }
            _ => {}
        }
    }
}

impl Leg {
    /// Has the worker dial whom the contact is turned to: the one at which the answers arrive.
    fn follow(
        &mut self,
        (key, place): (&ChannelKey, usize),
        workers: &[Reach],
        steering: Steering,
        turns: u64,
    ) -> u64 {
        let target = self.contact.target();
        if target == self.dialled.map(|(_, target)| target) {
            return turns;
        }
        let wish = target.map(|target| (steering.worker_of(target.ip()), target));
        self.turn = turns + 1;
        let tell = |worker: usize, target| {
            workers[worker].shared.pulls.push(Pull { key: *key, place, target, turn: self.turn });
            workers[worker].waker.wake();
        };
        if let Some((worker, _)) =
            self.dialled.filter(|(worker, _)| wish.is_none_or(|(new, _)| new != *worker))
        {
            tell(worker, None);
        }
        if let Some((worker, target)) = wish {
            tell(worker, Some(target));
        }
        self.dialled = wish;
        self.turn
    }
}

/// Enough of a key to know it by.
fn short(key: &ChannelKey) -> String {
    key.to_string()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Meter;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    /// What each worker was told since the last call.
    fn told(workers: &[Reach]) -> Vec<Vec<Option<SocketAddr>>> {
        let of = |reach: &Reach| {
            let pulls = std::iter::from_fn(|| reach.shared.pulls.pop());
            pulls.map(|pull| pull.target).collect()
        };
        workers.iter().map(of).collect()
    }

    #[test]
    fn a_dial_is_at_the_worker_that_hears_the_upstream_and_moves_with_it() {
        let key = ChannelKey([1; 32]);
        let steering = Steering::new(2, 0x9e37_79b1);
        let reach =
            || Reach { shared: Shared::new(Arc::new(Meter::new(false))), waker: Waker::new().unwrap() };
        let workers = [reach(), reach()];
        let mut hosts = [Vec::new(), Vec::new()];
        for host in 1..=20 {
            let address = at(&format!("192.0.2.{host}:7450"));
            hosts[steering.worker_of(address.ip())].push(address);
        }
        let (one, same, other) = (hosts[0][0], hosts[0][1], hosts[1][0]);
        let names =
            |addresses: &[SocketAddr]| addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>();
        let now = Time(1);
        let mut pulled = Pulled::default();
        let mut turns = pulled.set_count(now, &names(&[one]), 1, |_| 0);
        pulled.each(|contact, free| contact.poll(now, free));
        for (upstreams, expected) in [
            (vec![one], [vec![Some(one)], vec![]]),
            (vec![one], [vec![], vec![]]),
            (vec![same], [vec![Some(same)], vec![]]),
            (vec![other], [vec![None], vec![Some(other)]]),
            (vec![], [vec![], vec![None]]),
        ] {
            pulled.each(|contact, free| contact.set_names(now, &names(&upstreams), free));
            turns = pulled.follow(&key, &workers, steering, turns);
            assert_eq!(told(&workers), expected, "{upstreams:?}");
            assert_eq!(pulled.legs[0].turn, turns);
        }
    }

    #[test]
    fn dials_of_one_channel_are_turned_to_different_relays_and_never_to_one_that_another_has_still() {
        let key = ChannelKey([1; 32]);
        let steering = Steering::new(1, 0x9e37_79b1);
        let shared = Shared::new(Arc::new(Meter::new(false)));
        let workers = [Reach { shared, waker: Waker::new().unwrap() }];
        let names = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(str::to_owned);
        let [one, two, three] = names.each_ref().map(|name| at(name));
        let now = Time(1);
        let mut pulled = Pulled::default();
        let turns = pulled.set_count(now, &names, 2, |_| 0);
        pulled.each(|contact, free| contact.poll(now, free));
        let turns = pulled.follow(&key, &workers, steering, turns);
        assert_eq!(told(&workers), [[Some(one), Some(two)]]);

        // The first gives its relay up: the next is the other's. Only once the worker has been told is the first one's free.
        let unanswered = Event::Unanswered { dial: a_dial() };
        pulled.each(|contact, free| contact.handle_event(now, &unanswered, free));
        let turns = pulled.follow(&key, &workers, steering, turns);
        assert_eq!(told(&workers), [[Some(three)]]);
        pulled.legs[1].contact.handle_event(now, &unanswered, |address| address == one);
        let turns = pulled.follow(&key, &workers, steering, turns);
        assert_eq!(told(&workers), [[Some(one)]]);

        let turns = pulled.set_count(now, &names, 1, |pulled| pulled.follow(&key, &workers, steering, turns));
        assert_eq!((told(&workers), pulled.legs.len(), turns), ([vec![None]].to_vec(), 1, 5));
    }

    fn a_dial() -> mesh::DialId {
        let config = mesh::NodeConfig::new(mesh::Admission::Nobody, mesh::Limits::default());
        let mut node = mesh::Node::new(config, [1; 32], Box::new(vec![0; mesh::SLOT_BYTES]));
        let key = codec::ChannelSecret::from_seed(&[1; 32]).key();
        node.pull(Time(1), &key, at("192.0.2.1:1")).unwrap()
    }
}
