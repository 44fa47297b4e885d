//! Machines of the simulated network, and the processes on them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use codec::wire::control::Nodes;
use codec::{ChannelKey, ChannelSecret, ShardView};
use mesh::{
    Admission, ChannelId, ChannelLimits, Contact, DialId, Limits, Node, NodeConfig, Outbox, Share, Siblings,
    SinkConfig, Time,
};

use super::content::{Content, Place, Reading};
use super::dice::Dice;
use super::memory::{self, Commons};
use super::meter::Meters;
use super::succession::Estate;
use crate::impair::link::{Impairment, Link};

/// News that wait for a node of a process.
const INBOX_MAX: usize = 256;

/// One channel, whoever publishes it at the time.
pub(super) struct Stream {
    pub(super) secret: ChannelSecret,
    pub(super) content: Content,
    /// Bytes a second.
    pub(super) rate: u64,
    /// Bytes are pushed so often.
    pub(super) piece_every: Duration,
    /// Every so many pieces start with a join point.
    pub(super) pieces_per_join: u64,
    /// How often a publisher was started.
    pub(super) runs: u64,
}

/// A machine with one line to the network.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) up: Link,
    pub(super) down: Link,
    /// What its clock is ahead, µs.
    pub(super) ahead_us: i64,
    /// What it says in its sessions is changed at random.
    pub(super) lies: bool,
    /// Messages in a batch.
    pub(super) batch: usize,
    pub(super) process: Option<Process>,
    /// What the last one left to the next one.
    pub(super) estate: Option<Estate>,
    /// Processes it had.
    pub(super) lives: u64,
}

impl Host {
    pub(super) fn new(name: String, address: SocketAddr, dice: &mut Dice) -> Host {
        let [up, down] = [dice.seed(), dice.seed()].map(|seed| Link::new(Impairment::default(), seed));
        Host {
            name,
            address,
            up,
            down,
            ahead_us: 0,
            lies: false,
            batch: 64,
            process: None,
            estate: None,
            lives: 0,
        }
    }

    /// What its clock shows.
    pub(super) fn clock(&self, now: Time) -> Time {
        Time(now.0.saturating_add_signed(self.ahead_us))
    }

    /// When its clock shows that.
    pub(super) fn when(&self, local: Time) -> Time {
        Time(local.0.saturating_add_signed(-self.ahead_us))
    }

    /// What a viewer on it writes.
    pub(super) fn viewer_sink(&self) -> Option<&Sink> {
        self.process.as_ref()?.units[0].sink.as_ref()
    }
}

/// A process: one node, or several that serve together.
pub(super) struct Process {
    pub(super) units: Vec<Unit>,
    pub(super) commons: Arc<Commons>,
    pub(super) limits: Limits,
    pub(super) is_relay: bool,
    pub(super) feed: Option<Feed>,
    /// Who has shown that it receives at its address.
    pub(super) proven: HashSet<SocketAddr>,
    /// Cookies, and where they were sent to.
    pub(super) challenges: HashSet<(SocketAddr, [u8; 16])>,
    /// What came from all others, and what went to them.
    pub(super) strangers: HashMap<SocketAddr, (u64, u64)>,
    /// Shards that came, where it is of interest.
    pub(super) came: HashSet<(codec::ChannelTag, u64, usize)>,
    pub(super) meters: Meters,
}

/// A node with what its driver needs.
pub(super) struct Unit {
    pub(super) node: Node,
    pub(super) outbox: Outbox,
    pub(super) inbox: VecDeque<Share>,
    pub(super) dials: Vec<Dialled>,
    pub(super) sink: Option<Sink>,
    pub(super) own_slots: usize,
    /// When it is to be called next.
    pub(super) wake_at: Option<Time>,
    /// Calls for nothing but time: since when, how many.
    pub(super) wakes: (Time, u32),
}

/// A dial, and who decides to whom it is turned.
pub(super) struct Dialled {
    pub(super) contact: Contact,
    pub(super) dial: Option<DialId>,
    pub(super) kind: DialKind,
    pub(super) targets: Vec<SocketAddr>,
    /// It was refused since it was connected last.
    pub(super) refused: bool,
    /// Sessions that ended.
    pub(super) lost: u64,
    /// When the last one began.
    pub(super) connected_at: Time,
}

/// What a dial is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DialKind {
    /// A source or a sink.
    Local(ChannelId),
    /// A relay's, that takes the channel to serve it to others.
    Pull(ChannelKey),
}

impl Dialled {
    /// Lets the contact do something, and does with the dial what it says: `taken` are the relays of others of the channel.
    fn act(
        &mut self,
        now: Time,
        node: &mut Node,
        taken: &[SocketAddr],
        act: impl FnOnce(&mut Contact, &mut dyn FnMut(SocketAddr) -> bool),
    ) {
        let Dialled { contact, dial, kind, targets, .. } = self;
        let mut turn = |target| match *dial {
            _ if taken.contains(&target) => false,
            // Another node of the process would have to dial it.
            _ if matches!(kind, DialKind::Pull(_)) && !targets.contains(&target) => false,
            Some(dial) => node.redirect(now, dial, target),
            None => {
                *dial = Some(match kind {
                    DialKind::Local(channel) => node.dial(now, *channel, target),
                    DialKind::Pull(key) => node.pull(now, key, target).expect("a secret's own key"),
                });
                true
            }
        };
        act(contact, &mut turn);
        if contact.target().is_none()
            && let Some(dial) = dial.take()
        {
            node.hang_up(dial);
        }
    }
}

/// What a viewer writes.
pub(super) struct Sink {
    pub(super) stream: usize,
    pub(super) id: ChannelId,
    pub(super) reading: Reading,
    pub(super) ended: bool,
}

/// What a publisher is given.
pub(super) struct Feed {
    pub(super) stream: usize,
    pub(super) id: ChannelId,
    pub(super) place: Place,
    pub(super) pieces: u64,
    pub(super) finished: bool,
}

/// How a relay is set up.
#[derive(Clone, Debug)]
pub(super) struct RelayPlan {
    /// Nodes that serve together.
    pub(super) nodes: usize,
    pub(super) slots: u32,
    pub(super) limits: Limits,
    /// Of every channel.
    pub(super) channel_limits: ChannelLimits,
    /// Relays that it names to those whom it refuses.
    pub(super) others: Nodes,
    /// The relays it takes all channels from, all at the same time.
    pub(super) upstreams: Vec<SocketAddr>,
}

/// How a viewer is set up.
#[derive(Clone, Debug)]
pub(super) struct ViewerPlan {
    pub(super) stream: usize,
    pub(super) sink: SinkConfig,
    pub(super) relays: Vec<SocketAddr>,
    /// From so many of them at a time.
    pub(super) at_once: usize,
    pub(super) slots: u32,
}

impl Process {
    fn new(nodes: usize, slots: u32, config: &NodeConfig, batch: usize, dice: &mut Dice) -> Process {
        let (commons, parts) = memory::parts(nodes, slots);
        let siblings = Siblings { count: nodes - 1, ..Siblings::default() };
        let units = parts.into_iter().map(|memory| {
            let mut seed = [0; 32];
            dice.fill(&mut seed);
            Unit {
                node: Node::among(siblings.clone(), config.clone(), seed, Box::new(memory)),
                outbox: Outbox::new(batch),
                inbox: VecDeque::new(),
                dials: Vec::new(),
                sink: None,
                own_slots: slots as usize,
                wake_at: None,
                wakes: (Time::default(), 0),
            }
        });
        Process {
            units: units.collect(),
            commons,
            limits: config.limits.clone(),
            is_relay: config.admission == Admission::Open,
            feed: None,
            proven: HashSet::new(),
            challenges: HashSet::new(),
            strangers: HashMap::new(),
            came: HashSet::new(),
            meters: Meters::default(),
        }
    }

    pub(super) fn relay(
        now: Time,
        plan: &RelayPlan,
        streams: &[Stream],
        batch: usize,
        dice: &mut Dice,
    ) -> Process {
        let mut config = NodeConfig::new(Admission::Open, plan.limits.clone());
        config.others = plan.others.clone();
        config.channel_limits =
            streams.iter().map(|stream| (stream.secret.key(), plan.channel_limits)).collect();
        let mut process = Process::new(plan.nodes, plan.slots, &config, batch, dice);
        process.meters = Meters::new(plan.limits.egress_bps_max, plan.channel_limits.egress_bps_max);
        for upstream in &plan.upstreams {
            let unit = process.steer(*upstream);
            for stream in streams {
                let kind = DialKind::Pull(stream.secret.key());
                process.units[unit].dial(now, kind, vec![*upstream]);
            }
        }
        process
    }

    pub(super) fn publisher(
        now: Time,
        number: usize,
        stream: &mut Stream,
        relays: &[SocketAddr],
        (slots, batch): (u32, usize),
        dice: &mut Dice,
    ) -> Process {
        let mut process = Process::new(1, slots, &edge_config(slots), batch, dice);
        let node = &mut process.units[0].node;
        let id = node.add_source(now, ChannelSecret::from_seed(&seed_of(number)));
        let place = Place { run: stream.runs, byte: 0 };
        stream.runs += 1;
        process.feed = Some(Feed { stream: number, id, place, pieces: 0, finished: false });
        for relay in relays {
            process.units[0].dial(now, DialKind::Local(id), vec![*relay]);
        }
        process
    }

    pub(super) fn viewer(
        now: Time,
        plan: &ViewerPlan,
        stream: &Stream,
        batch: usize,
        dice: &mut Dice,
    ) -> Process {
        let mut process = Process::new(1, plan.slots, &edge_config(plan.slots), batch, dice);
        let unit = &mut process.units[0];
        let id = unit.node.add_sink(&stream.secret.key(), plan.sink).expect("a secret's own key");
        unit.sink = Some(Sink { stream: plan.stream, id, reading: Reading::default(), ended: false });
        for _ in 0..plan.at_once {
            unit.dial(now, DialKind::Local(id), plan.relays.clone());
        }
        process
    }

    /// The number of the node that hears this peer: by multiplicative hashing, as relays do it.
    pub(super) fn steer(&self, peer: SocketAddr) -> usize {
        let address = match peer {
            SocketAddr::V4(peer) => peer.ip().to_bits(),
            SocketAddr::V6(_) => 0,
        };
        let hash = (address ^ u32::from(peer.port())).wrapping_mul(2_654_435_769);
        (hash >> 16) as usize % self.units.len()
    }

    /// Notes that a shard came in.
    pub(super) fn note_came(&mut self, bytes: &[u8]) {
        if let Ok(shard) = ShardView::parse(bytes) {
            self.came.insert((shard.tag(), shard.header().sequence.0, shard.index()));
        }
    }
}

impl Unit {
    fn dial(&mut self, now: Time, kind: DialKind, targets: Vec<SocketAddr>) {
        let names: Vec<String> = targets.iter().map(SocketAddr::to_string).collect();
        let contact = Contact::new(now, &names);
        self.dials.push(Dialled {
            contact,
            dial: None,
            kind,
            targets,
            refused: false,
            lost: 0,
            connected_at: now,
        });
    }

    /// Lets the contact of one of the dials do something.
    pub(super) fn act(
        &mut self,
        now: Time,
        place: usize,
        act: impl FnOnce(&mut Contact, &mut dyn FnMut(SocketAddr) -> bool),
    ) {
        let kind = self.dials[place].kind;
        let others = self.dials.iter().enumerate().filter(|(other, it)| *other != place && it.kind == kind);
        let taken: Vec<SocketAddr> = others.flat_map(|(_, it)| it.contact.held()).collect();
        self.dials[place].act(now, &mut self.node, &taken, act);
    }

    /// Whether it holds a session for a dial.
    pub(super) fn is_connected(&self) -> bool {
        self.dials.iter().any(|it| it.contact.is_connected())
    }

    pub(super) fn has_room(&self) -> bool {
        self.inbox.len() < INBOX_MAX
    }
}

fn edge_config(slots: u32) -> NodeConfig {
    let limits = Limits { window_bytes_max: slots as usize * mesh::SLOT_BYTES, ..Limits::default() };
    NodeConfig::new(Admission::Nobody, limits)
}

/// Of a channel's secret.
pub(super) fn seed_of(channel: usize) -> [u8; 32] {
    [channel as u8 + 1; 32]
}
