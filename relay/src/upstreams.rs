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
    /// The channels to be taken, each with its upstreams.
    Configure(HashMap<ChannelKey, Vec<String>>),
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

    /// Takes these channels from now on, and no others.
    pub(crate) fn configure(&self, channels: HashMap<ChannelKey, Vec<String>>) {
        // It has panicked if it is not there: what is carried goes on.
        let _ = self.to.send(Message::Configure(channels));
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
struct Pulled {
    contact: Contact,
    /// The worker that was last told to dial, and whom.
    dialled: Option<(usize, SocketAddr)>,
    /// The wish that this was.
    turn: u64,
    /// Relays of which the log says already that they are of no use.
    told: BTreeSet<String>,
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
                    Message::Configure(channels) => self.configure(channels),
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
            pulled.contact.poll(now, |_| true);
            while let Some(name) = pulled.contact.poll_lookup(now) {
                self.lookups.want(name);
            }
            self.turns = pulled.follow(key, &self.workers, self.steering, self.turns);
            next = next.into_iter().chain(pulled.contact.next_timeout()).min();
        }
        self.lookups.start();
        let mut views: Vec<UpstreamView> = Vec::new();
        for (&key, pulled) in &self.channels {
            let view = |(name, state): (&str, RelayState)| UpstreamView { key, name: name.to_owned(), state };
            views.extend(pulled.contact.relays().map(view));
        }
        *self.views.lock().unwrap_or_else(PoisonError::into_inner) = views;
        next.map(|at| at.since(now))
    }

    fn configure(&mut self, channels: HashMap<ChannelKey, Vec<String>>) {
        let now = self.now();
        let mut before = mem::take(&mut self.channels);
        for (key, names) in channels {
            let pulled = match before.remove(&key) {
                Some(mut pulled) => {
                    // Whoever has the configuration read anew may have changed another relay's before.
                    pulled.contact.set_names(now, &names, |_| true);
                    pulled.told.clear();
                    pulled
                }
                None => Pulled::new(now, &names),
            };
            self.channels.insert(key, pulled);
        }
        for (key, mut gone) in before {
            info!(channel = %short(&key), "not pulled any more");
            gone.contact = Contact::new(now, &[]);
            self.turns = gone.follow(&key, &self.workers, self.steering, self.turns);
        }
    }

    fn handle_event(&mut self, key: &ChannelKey, turn: u64, event: &Event) {
        let now = self.now();
        let Some(pulled) = self.channels.get_mut(key).filter(|pulled| pulled.turn == turn) else { return };
        let name = pulled.contact.describe();
        pulled.contact.handle_event(now, event, |_| true);
        pulled.log(key, &name, event);
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
            match &found {
                Ok(addresses) if !addresses.is_empty() => {
                    pulled.contact.handle_found(name, addresses, |_| true)
                }
                _ => is_news |= pulled.contact.handle_not_found(now, name),
            }
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
    fn new(now: Time, names: &[String]) -> Pulled {
        let contact = Contact::new(now, names);
        Pulled { contact, dialled: None, turn: 0, told: BTreeSet::new() }
    }

    /// Has the worker dial whom the contact is turned to: the one at which the answers arrive. `turns` wishes were made
    /// so far; returns how many it is then.
    fn follow(&mut self, key: &ChannelKey, workers: &[Reach], steering: Steering, turns: u64) -> u64 {
        let target = self.contact.target();
        if target == self.dialled.map(|(_, target)| target) {
            return turns;
        }
        let wish = target.map(|target| (steering.worker_of(target.ip()), target));
        self.turn = turns + 1;
        let tell = |worker: usize, target| {
            workers[worker].shared.pulls.push(Pull { key: *key, target, turn: self.turn });
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

    /// For people. Of a relay that is of no use, once until there is a session again.
    fn log(&mut self, key: &ChannelKey, name: &str, event: &Event) {
        let channel = short(key);
        let mut is_news = || self.told.insert(name.to_owned());
        match event {
            Event::Connected { is_live, .. } => {
                self.told.clear();
                let how = if *is_live { "it is live" } else { "it is not live yet" };
                info!(%channel, "pulled from {name}; {how}");
            }
            Event::Lost { reason, .. } => {
                let why = match reason {
                    LostReason::Silence => "it fell silent".to_owned(),
                    LostReason::Bye(ByeReason::UnknownSession) => "it was started anew".to_owned(),
                    LostReason::Bye(reason) => reason.to_string(),
                };
                warn!(%channel, "the upstream {name} is lost: {why}; trying on");
            }
            Event::Unanswered { .. } if is_news() => {
                warn!(%channel, "the upstream {name} does not answer; trying on");
            }
            Event::Refused { reason, .. } if is_news() => {
                warn!(%channel, "the upstream {name} refuses: {reason}; trying on");
            }
            Event::Itself { .. } if is_news() => info!(%channel, "the upstream {name} is this relay itself"),
            Event::Starved { .. } if !self.contact.is_connected() && is_news() => {
                info!(%channel, "the upstream {name} has nothing of the channel; trying another");
            }
            _ => {}
        }
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
        let mut pulled = Pulled::new(now, &names(&[one]));
        let mut turns = 0;
        for (upstreams, expected) in [
            (vec![one], [vec![Some(one)], vec![]]),
            (vec![one], [vec![], vec![]]),
            (vec![same], [vec![Some(same)], vec![]]),
            (vec![other], [vec![None], vec![Some(other)]]),
            (vec![], [vec![], vec![None]]),
        ] {
            pulled.contact.set_names(now, &names(&upstreams), |_| true);
            turns = pulled.follow(&key, &workers, steering, turns);
            assert_eq!(told(&workers), expected, "{upstreams:?}");
            assert_eq!(pulled.turn, turns);
        }
    }
}
