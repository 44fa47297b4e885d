//! Machines, lines and nodes on virtual time. It knows what is true everywhere and says what must not be.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use codec::ChannelSecret;
use codec::wire::control::Control;
use codec::wire::{SHARD, kind_of};
use mesh::Time;

use super::book::{Book, Datagram};
use super::content::Content;
use super::dice::Dice;
use super::host::{Host, Process, RelayPlan, Stream, ViewerPlan, seed_of};
use super::loss::{Tally, Without};
use super::meter::Meters;
use crate::impair::link::Impairment;

/// When every simulation begins.
pub(super) const BEGIN: Time = Time(1_700_000_000_000_000);

/// The port of everybody.
const PORT: u16 = 7_450;

/// How much is said of what happens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Talk {
    Nothing,
    /// What is done to the network, and how nodes fare.
    Log,
    /// Every datagram.
    Trace,
}

pub(super) enum Happening {
    /// A datagram comes to the line of a machine.
    Enter { host: usize, from: SocketAddr, bytes: Datagram },
    /// A datagram arrives.
    Arrive { host: usize, from: SocketAddr, bytes: Datagram },
    /// A node wants to be called, or has news of its siblings.
    Wake { host: usize, life: u64, unit: usize },
    /// A publisher gets the next bytes.
    Feed { host: usize, life: u64 },
}

struct Event {
    key: Reverse<(Time, u64)>,
    happening: Happening,
}

/// The simulated world.
pub(super) struct World {
    pub(super) now: Time,
    pub(super) dice: Dice,
    pub(super) hosts: Vec<Host>,
    pub(super) by_address: HashMap<SocketAddr, usize>,
    pub(super) streams: Vec<Stream>,
    pub(super) book: Book,
    pub(super) talk: Talk,
    /// What must not be and was, first of all.
    pub(super) failure: Option<String>,
    /// Datagrams that a hostile machine has seen, when there is one: a ring.
    pub(super) overheard: Option<Vec<(SocketAddr, SocketAddr, Datagram)>>,
    pub(super) tallies: Option<HashMap<(usize, usize), Tally>>,
    pub(super) without: Without,
    pub(super) steps: u64,
    /// Until then nobody comes back who was let go because of its line.
    pub(super) resting_until: Time,
    /// From then on nobody's line is too thin.
    pub(super) calm_from: Option<Time>,
    events: BinaryHeap<Event>,
    order: u64,
    /// Nodes that something came for at this moment.
    pub(super) touched: Vec<(usize, usize)>,
}

impl World {
    pub(super) fn new(seed: u64, talk: Talk) -> World {
        World {
            now: BEGIN,
            dice: Dice::new(seed),
            hosts: Vec::new(),
            by_address: HashMap::new(),
            streams: Vec::new(),
            book: Book::default(),
            talk,
            failure: None,
            overheard: None,
            tallies: None,
            without: Without::default(),
            steps: 0,
            resting_until: BEGIN,
            calm_from: None,
            events: BinaryHeap::new(),
            order: 0,
            touched: Vec::new(),
        }
    }

    pub(super) fn add_stream(&mut self, rate: u64, piece_every: Duration, pieces_per_join: u64) -> usize {
        let number = self.streams.len();
        let secret = ChannelSecret::from_seed(&seed_of(number));
        self.book.add_channel(&secret);
        let content = Content { key: self.dice.seed() };
        self.streams.push(Stream { secret, content, rate, piece_every, pieces_per_join, runs: 0 });
        number
    }

    pub(super) fn add_host(&mut self, name: String) -> usize {
        let number = self.hosts.len();
        let address = SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], PORT));
        let host = Host::new(name, address, &mut self.dice);
        self.by_address.insert(address, number);
        self.hosts.push(host);
        number
    }

    pub(super) fn set_lines(&mut self, host: usize, up: Impairment, down: Impairment) {
        self.hosts[host].up.set(up);
        self.hosts[host].down.set(down);
    }

    pub(super) fn start_relay(&mut self, host: usize, plan: &RelayPlan) {
        let World { hosts, streams, dice, now, .. } = self;
        let batch = hosts[host].batch;
        let process = Process::relay(hosts[host].clock(*now), plan, streams, batch, dice);
        self.start(host, process);
    }

    pub(super) fn start_publisher(&mut self, host: usize, stream: usize, relays: &[SocketAddr], slots: u32) {
        let World { hosts, streams, dice, now, .. } = self;
        let (local, batch) = (hosts[host].clock(*now), hosts[host].batch);
        let stream_of = &mut streams[stream];
        let process = Process::publisher(local, stream, stream_of, relays, (slots, batch), dice);
        self.start(host, process);
        let life = self.hosts[host].lives;
        self.at(self.now, Happening::Feed { host, life });
    }

    pub(super) fn start_viewer(&mut self, host: usize, plan: &ViewerPlan) {
        let World { hosts, streams, dice, now, .. } = self;
        let (local, batch) = (hosts[host].clock(*now), hosts[host].batch);
        let process = Process::viewer(local, plan, &streams[plan.stream], batch, dice);
        self.start(host, process);
    }

    fn start(&mut self, host: usize, process: Process) {
        let units = process.units.len();
        self.hosts[host].lives += 1;
        self.hosts[host].process = Some(process);
        let life = self.hosts[host].lives;
        for unit in 0..units {
            self.at(self.now, Happening::Wake { host, life, unit });
            self.unit_mut(host, unit).wake_at = Some(self.now);
        }
    }

    /// Ends a process without a word.
    pub(super) fn kill(&mut self, host: usize) {
        (self.hosts[host].process, self.hosts[host].estate) = (None, None);
    }

    /// Ends a process as a well-behaved one does: with goodbyes.
    pub(super) fn close(&mut self, host: usize) {
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        // Goodbyes are not bounded.
        process.meters = Meters::default();
        let units = process.units.len();
        for unit in 0..units {
            self.unit_mut(host, unit).node.close();
            self.send_all(host, unit);
        }
        self.kill(host);
    }

    pub(super) fn at(&mut self, at: Time, happening: Happening) {
        self.order += 1;
        self.events.push(Event { key: Reverse((at, self.order)), happening });
    }

    /// Lets time pass until `end`, or until something fails.
    pub(super) fn run_until(&mut self, end: Time) {
        while self.failure.is_none() {
            let Some(at) = self.events.peek().map(|event| event.key.0.0).filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = at;
            while let Some(event) = self.events.peek().filter(|event| event.key.0.0 <= at) {
                debug_assert!(event.key.0.0 == at, "nothing happens in the past");
                let event = self.events.pop().expect("just seen");
                self.steps += 1;
                self.happen(event.happening);
            }
            let mut touched = std::mem::take(&mut self.touched);
            touched.sort_unstable();
            touched.dedup();
            for (host, unit) in touched.drain(..) {
                self.service(host, unit);
            }
            self.touched.append(&mut touched);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Enter { host, from, bytes } => self.enter(host, from, bytes),
            Happening::Arrive { host, from, bytes } => self.arrive(host, from, &bytes),
            Happening::Wake { host, life, unit } => {
                let now = self.now;
                if self.is_alive(host, life) && self.unit_mut(host, unit).wake_at == Some(now) {
                    self.unit_mut(host, unit).wake_at = None;
                    self.note_wake(host, unit);
                    self.touched.push((host, unit));
                }
            }
            Happening::Feed { host, life } => {
                if self.is_alive(host, life) {
                    self.feed(host);
                }
            }
        }
    }

    fn is_alive(&self, host: usize, life: u64) -> bool {
        self.hosts[host].lives == life && self.hosts[host].process.is_some()
    }

    /// A datagram leaves a machine.
    pub(super) fn emit(&mut self, host: usize, to: SocketAddr, bytes: Datagram) {
        let from = self.hosts[host].address;
        if let Some(overheard) = &mut self.overheard {
            // Of a few datagrams each is kept for a while.
            const KEPT: usize = 256;
            let place = self.dice.below(KEPT);
            match overheard.get_mut(place) {
                Some(kept) => *kept = (from, to, Rc::clone(&bytes)),
                None => overheard.push((from, to, Rc::clone(&bytes))),
            }
        }
        let Some(&target) = self.by_address.get(&to) else { return };
        if let Some(tallies) = &mut self.tallies {
            tallies.entry((host, target)).or_default().note(&bytes);
        }
        self.trace(|world| {
            format!("{} -> {}: {}", world.hosts[host].name, world.hosts[target].name, name(&bytes))
        });
        for at in self.hosts[host].up.pass(self.now, bytes.len()) {
            let bytes = Rc::clone(&bytes);
            match at > self.now {
                true => self.at(at, Happening::Enter { host: target, from, bytes }),
                false => self.enter(target, from, bytes),
            }
        }
    }

    pub(super) fn enter(&mut self, host: usize, from: SocketAddr, bytes: Datagram) {
        for at in self.hosts[host].down.pass(self.now, bytes.len()) {
            let bytes = Rc::clone(&bytes);
            self.at(at, Happening::Arrive { host, from, bytes });
        }
    }

    pub(super) fn arrive(&mut self, host: usize, from: SocketAddr, bytes: &Datagram) {
        if let Some(estate) = &mut self.hosts[host].estate {
            return estate.keep(from, bytes);
        }
        let local = self.hosts[host].clock(self.now);
        let notes_shards = self.without.regeneration;
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        if process.is_relay {
            if notes_shards {
                process.note_came(bytes);
            }
            // Whoever says the cookie that was sent to its address receives there.
            if let Ok(Control::Hello(hello)) = Control::parse(bytes)
                && process.challenges.contains(&(from, hello.cookie))
            {
                process.proven.insert(from);
                process.strangers.remove(&from);
            }
            if !process.proven.contains(&from) {
                process.strangers.entry(from).or_default().0 += bytes.len() as u64;
            }
        }
        let unit = process.steer(from);
        let verdict = process.units[unit].node.handle_datagram(local, from, bytes);
        self.touched.push((host, unit));
        self.trace(|world| {
            format!("{} takes {} from {from}: {verdict:?}", world.hosts[host].name, name(bytes))
        });
    }

    /// Something must not be.
    pub(super) fn fail(&mut self, why: String) {
        let after = self.now.since(BEGIN);
        self.failure.get_or_insert_with(|| format!("after {:.6} s: {why}", after.as_secs_f64()));
    }

    pub(super) fn log(&self, what: impl FnOnce(&World) -> String) {
        if self.talk >= Talk::Log && self.failure.is_none() {
            use std::io::Write;
            let after = self.now.since(BEGIN).as_secs_f64();
            // With standard output closed there is nobody to tell.
            let _ = writeln!(std::io::stdout(), "{after:>12.6} {}", what(self));
        }
    }

    pub(super) fn trace(&self, what: impl FnOnce(&World) -> String) {
        if self.talk >= Talk::Trace {
            self.log(what);
        }
    }
}

/// What a datagram is, for people.
fn name(bytes: &[u8]) -> String {
    if kind_of(bytes) == Some(SHARD) {
        return match codec::ShardView::parse(bytes) {
            Ok(shard) => {
                let layout = shard.header().layout();
                let (k, m) = (layout.data_shards(), layout.parity_shards());
                format!("shard {} of {k}+{m} of chunk {}", shard.index(), shard.header().sequence.0)
            }
            Err(error) => format!("no shard ({error})"),
        };
    }
    match Control::parse(bytes) {
        Ok(control) => {
            let text = format!("{control:?}");
            text.split(['(', ' ']).next().unwrap_or_default().to_owned()
        }
        Err(_) => format!("{} bytes of nothing", bytes.len()),
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.key == other.key
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}
