//! The ledger against a simple model, and nodes that keep it through everything that may happen to their subscribers.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use codec::wire::control::{
    Bye, ByeReason, Control, Hello, Nodes, Report, Role, Sender, SessionHeader, SessionId,
};
use codec::{ChannelSecret, Sequence, Stripes};
use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::limits::{LEASE, REFUSED_SENDS_MAX};
use crate::rates::Rates;
use crate::{
    Admission, ChannelId, ChannelLimits, Handover, Limits, Node, NodeConfig, Outbox, Progress, SLOT_BYTES,
    Siblings, Whom,
};

const START: Time = Time(1_700_000_000_000_000);

fn secret(number: u8) -> ChannelSecret {
    ChannelSecret::from_seed(&[number; 32])
}

/// A random number below `below`.
fn draw(random: &mut ChaCha12Rng, below: u32) -> u32 {
    random.next_u32() % below
}

impl Ledger {
    /// Nothing of anybody is left in it.
    fn assert_is_empty(&self) {
        let book = self.book();
        assert_eq!((book.subscribers, book.promised(), self.owed.load(Ordering::Relaxed)), (0, 0, 0));
        assert!(book.leaving.is_empty(), "{:?}", book.leaving);
        for account in book.accounts.values() {
            assert!(account.grants.is_empty() && account.costs() == (0, 0), "{account:?}");
        }
    }
}

/// What a model knows of a subscriber.
#[derive(Clone, Copy)]
struct Known {
    key: ChannelKey,
    node: u32,
    cost: u32,
    data_cost: u32,
}

/// The sums in the book are those of the subscribers that the model knows.
fn assert_agrees(ledger: &Ledger, model: &BTreeMap<u64, Known>) {
    let book = ledger.book();
    assert_eq!(book.subscribers, model.len());
    for (key, account) in &book.accounts {
        let of_it: Vec<_> = model.iter().filter(|(_, known)| known.key == *key).collect();
        let serials: Vec<u64> = of_it.iter().map(|(serial, _)| **serial).collect();
        assert_eq!(account.grants.iter().map(|grant| grant.serial).collect::<Vec<_>>(), serials);
        let sum =
            |cost: fn(&Known) -> u32| of_it.iter().map(|(_, known)| u64::from(cost(known))).sum::<u64>();
        assert_eq!(account.costs(), (sum(|known| known.cost), sum(|known| known.data_cost)));
        assert_eq!(account.common.subscribers(), of_it.len());
    }
}

proptest! {
    #[test]
    fn sums_are_those_of_who_is_there_and_the_newest_go_first(seed: u64, steps in 1_usize..400) {
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        let (ledger, keys) = (Ledger::default(), [1, 2].map(|number| secret(number).key()));
        let (mut now, mut model, mut owed) = (START, BTreeMap::<u64, Known>::new(), Vec::new());
        for _ in 0..steps {
            now = now.after(Duration::from_millis(draw(&mut random, 300).into()));
            let (key, node) = (keys[draw(&mut random, 2) as usize], 1 + draw(&mut random, 2));
            let caps = [None, Some(Cap::new(2_000_000)), Some(Cap::new(20_000_000))];
            let [cap, channel_cap] = [0; 2].map(|_| caps[draw(&mut random, 3) as usize]);
            let chosen = model.keys().nth(draw(&mut random, 8) as usize).copied();
            match draw(&mut random, 8) {
                0..3 => {
                    let (cost, backlog) = (500 + draw(&mut random, 1_000), draw(&mut random, 20_000).into());
                    let (subscribers_max, channel_subscribers_max) = (12, 8);
                    let ask = Ask {
                        now, node, key, cost, backlog, subscribers_max, channel_subscribers_max, cap, channel_cap,
                    };
                    if let Ok(place) = ledger.admit(&ask) {
                        model.insert(place.serial, Known { key, node, cost, data_cost: cost });
                        let is_capped = cap.is_some() || channel_cap.is_some();
                        owed.extend((place.has_backlog && is_capped).then_some(backlog));
                    }
                }
                3 => {
                    let number = u64::from(draw(&mut random, 20));
                    let is_others = model.get(&number).is_some_and(|known| known.key != key);
                    let serial = ledger.resume(key, node, 1_260, if is_others { 0 } else { number });
                    model.insert(serial, Known { key, node, cost: 1_260, data_cost: 1_260 });
                }
                4 => if let Some(serial) = chosen {
                    let known = model.remove(&serial).unwrap();
                    ledger.leave(&known.key, serial);
                    ledger.leave(&known.key, serial);
                },
                5 => if let Some((serial, known)) = chosen.and_then(|serial| Some((serial, model.get_mut(&serial)?))) {
                    (known.cost, known.data_cost) = (1 + draw(&mut random, 3_000), draw(&mut random, 1_500));
                    ledger.set_cost(&known.key, serial, known.cost, known.data_cost);
                },
                6 => ledger.paid(owed.pop().unwrap_or(0)),
                _ => {
                    let mut channel = Channel::new(key.verifier().unwrap(), ledger.common_of(key));
                    let rate = u64::from(draw(&mut random, 800)) * 1_000;
                    channel.rates = Some(Rates { peak: rate, last: rate, mean: rate });
                    ledger.note(now, node, cap, std::iter::once(&channel));
                    drop(channel);
                    ledger.let_go(now, 0);
                    let gone: Vec<(u32, u64)> = ledger.book().leaving.clone();
                    for node in [1, 2] {
                        let mine: Vec<u64> = gone.iter().filter(|(of, _)| *of == node).map(|(_, serial)| *serial).collect();
                        prop_assert!(mine.iter().all(|serial| model.remove(serial).is_some_and(|known| known.node == node)));
                        let mut sorted = mine;
                        sorted.sort_unstable();
                        prop_assert_eq!(ledger.let_go(now, node), sorted);
                    }
                }
            }
            assert_agrees(&ledger, &model);
            prop_assert_eq!(ledger.owed.load(Ordering::Relaxed), owed.iter().sum::<u64>());
        }
        for (serial, known) in model {
            ledger.leave(&known.key, serial);
        }
        owed.into_iter().for_each(|bytes| ledger.paid(bytes));
        ledger.assert_is_empty();
    }
}

/// Two nodes of one process, both of which have the channel, and those who ask them for it.
struct Process {
    now: Time,
    random: ChaCha12Rng,
    ledger: Arc<Ledger>,
    config: NodeConfig,
    nodes: Vec<(Node, ChannelId)>,
    outbox: Outbox,
    /// By address: the node and the session that it last granted.
    peers: BTreeMap<SocketAddr, (usize, SessionId)>,
    granted: usize,
}

impl Process {
    fn new(seed: u64) -> Process {
        let mut process = Process {
            now: START,
            random: ChaCha12Rng::seed_from_u64(seed),
            ledger: Arc::default(),
            config: NodeConfig::new(Admission::Open, Limits { subscribers_max: 40, ..Limits::default() }),
            nodes: Vec::new(),
            outbox: Outbox::new(64),
            peers: BTreeMap::new(),
            granted: 0,
        };
        process.start([None, None]);
        process
    }

    fn start(&mut self, left: [Option<Handover>; 2]) {
        self.ledger = Arc::default();
        self.nodes = left.into_iter().zip(1..).map(|(left, number)| self.node(left, number)).collect();
    }

    fn node(&self, left: Option<Handover>, number: u8) -> (Node, ChannelId) {
        let siblings = Siblings { count: 0, ledger: Arc::clone(&self.ledger) };
        let memory = Box::new(vec![0; 400 * SLOT_BYTES]);
        let mut node = Node::among(siblings, self.config.clone(), [number; 32], memory);
        left.into_iter().for_each(|left| node.resume(self.now, left));
        let channel = node.add_source(self.now, secret(9));
        (node, channel)
    }

    /// Another process goes on.
    fn hand_over(&mut self) {
        self.poll();
        let left = [0, 1].map(|node: usize| Some(self.nodes[node].0.hand_over(self.now, 1 << 20)));
        self.start(left);
    }

    /// What the nodes send that is no train.
    fn poll(&mut self) -> Vec<Control> {
        let mut sent = Vec::new();
        for (node, _) in &mut self.nodes {
            node.handle_timeout(self.now);
            loop {
                self.outbox.clear();
                let progress = node.poll_transmit(self.now, &mut self.outbox);
                let bytes =
                    self.outbox.transmits().iter().map(|transmit| node.bytes_of(transmit, &self.outbox));
                sent.extend(bytes.filter_map(|bytes| Control::parse(bytes).ok()));
                if progress == Progress::Idle {
                    break;
                }
            }
        }
        sent
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(10));
            for (node, channel) in &mut self.nodes {
                node.push(self.now, *channel, &[5; 5_000]);
            }
            self.poll();
        }
    }

    fn tell(&mut self, node: usize, from: SocketAddr, control: &Control) {
        self.nodes[node].0.handle_datagram(self.now, from, &control.encode());
    }

    /// A peer asks for the channel, anew if it has a session.
    fn join(&mut self, node: usize, from: SocketAddr) {
        let (key, role, nonce) = (secret(9).key(), Role::Subscribe, self.random.next_u64());
        let mut hello = Hello { role, key, nonce, from: Sequence(0), cookie: [0; 16], signature: [0; 64] };
        self.tell(node, from, &Control::Hello(hello));
        for control in self.poll() {
            if let Control::Challenge(challenge) = control {
                hello.cookie = challenge.cookie;
            }
        }
        self.tell(node, from, &Control::Hello(hello));
        for control in self.poll() {
            if let Control::Welcome(welcome) = control {
                self.peers.insert(from, (node, welcome.session));
                self.granted += 1;
            }
        }
    }

    fn header(session: SessionId) -> SessionHeader {
        SessionHeader { sender: Sender::Subscriber, tag: secret(9).key().tag(), session }
    }

    /// Something happens.
    fn step(&mut self) {
        let node = draw(&mut self.random, 2) as usize;
        let from = SocketAddr::from(([192, 0, 2, node as u8], 1_000 + draw(&mut self.random, 30) as u16));
        let known = self.peers.get(&from).copied();
        match draw(&mut self.random, 40) {
            0..16 => self.join(node, from),
            16..26 => {
                if let Some((node, session)) = known {
                    let stripes =
                        [Stripes::ALL, Stripes::one(0, 2), Stripes::NONE][draw(&mut self.random, 3) as usize];
                    let (stamp_us, lost) = (self.now.0, draw(&mut self.random, 50).into());
                    let report = Report { stamp_us, stripes, lost, ..Report::new(Process::header(session)) };
                    self.tell(node, from, &Control::Report(report));
                }
            }
            26..29 => {
                if let Some((node, session)) = known {
                    let header = Process::header(session);
                    let bye = Bye { header, reason: ByeReason::Done, nodes: Nodes::new() };
                    self.tell(node, from, &Control::Bye(bye));
                }
            }
            29 => {
                self.nodes[node].0.let_go(2);
            }
            30 => {
                let until = self.now.after(Duration::from_secs(1));
                self.nodes[node].0.kick(self.now, Whom::Peer(from), until);
            }
            31 => (0..REFUSED_SENDS_MAX).for_each(|_| self.nodes[node].0.note_refused(from)),
            32..35 => self.reload(),
            35 => self.hand_over(),
            36 => self.pass(Duration::from_secs(2)),
            _ => {}
        }
        let pause = draw(&mut self.random, 40).into();
        self.pass(Duration::from_millis(pause));
    }

    /// Other caps, at the two nodes one after the other.
    fn reload(&mut self) {
        let caps = [None, Some(3_000_000), Some(8_000_000), Some(60_000_000)];
        self.config.limits.egress_bps_max = caps[draw(&mut self.random, 4) as usize];
        let egress_bps_max = caps[draw(&mut self.random, 4) as usize];
        let limits = ChannelLimits { subscribers_max: None, egress_bps_max };
        self.config.channel_limits = [(secret(9).key(), limits)].into();
        self.nodes[0].0.configure(self.config.clone());
        if draw(&mut self.random, 2) == 0 {
            let pause = draw(&mut self.random, 300).into();
            self.pass(Duration::from_millis(pause));
        }
        self.nodes[1].0.configure(self.config.clone());
    }

    /// Everybody who has a session is in the ledger, but for those who are about to be told that they have to go.
    fn assert_agrees(&self) {
        let sessions: usize = self.nodes.iter().map(|(node, _)| node.granted_sessions()).sum();
        let book = self.ledger.book();
        let known = book.subscribers..=book.subscribers + book.leaving.len();
        assert!(known.contains(&sessions), "{sessions} sessions, {known:?} in the ledger");
        let of_it = book.accounts.values().map(|account| account.grants.len()).sum::<usize>();
        assert_eq!(of_it, book.subscribers);
    }
}

#[test]
fn whatever_happens_to_subscribers_nothing_is_left_of_them_in_the_end() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut process = Process::new(seed);
        process.pass(Duration::from_secs(1));
        for _ in 0..600 {
            process.step();
            process.assert_agrees();
        }
        assert!(process.granted > 30, "{} sessions", process.granted);
        process.pass(LEASE + Duration::from_secs(2));
        process.ledger.assert_is_empty();
    }
}
