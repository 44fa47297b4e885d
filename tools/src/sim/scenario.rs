//! What a seed makes happen: who is there, which troubles there are, and when.

use std::net::SocketAddr;
use std::time::Duration;

use codec::Sequence;
use codec::wire::control::Nodes;
use mesh::{ChannelLimits, Limits, SLOT_BYTES, SinkConfig, Time};
use strum::VariantArray;

use super::dice::Dice;
use super::feature::Feature::{self, *};
use super::host::{RelayPlan, ViewerPlan};
use super::world::{BEGIN, World};
use crate::impair::link::{Impairment, Queue};

/// What is done to a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Kill,
    Close,
    Start,
    /// Its channel ends; it is started again some time later.
    Finish,
    Worsen,
    /// Its process ends, and leaves what it has to the next one.
    HandOver,
    /// The next one takes it up.
    TakeUp,
}

/// Who runs on a machine.
#[derive(Clone, Debug)]
pub(super) enum Role {
    Relay(Box<RelayPlan>),
    Publisher { stream: usize, relays: Vec<SocketAddr>, slots: u32 },
    Viewer(ViewerPlan),
}

/// Everything that a seed decides before time begins.
pub(super) struct Scenario {
    pub(super) features: Vec<Feature>,
    /// By machine.
    pub(super) roles: Vec<Role>,
    /// In the order of their times.
    pub(super) actions: Vec<(Time, usize, Action)>,
    /// From then on the network is without fault.
    pub(super) heal_at: Time,
    /// The relay to which others send those whom they refuse: it takes everybody.
    pub(super) spare: Option<usize>,
    /// The machine that wishes nobody well, after the others.
    pub(super) hostile: Option<usize>,
    dice: Dice,
    /// Of the fastest channel, bytes a second.
    rate: u64,
}

impl Scenario {
    /// What a seed decides, with its machines and lines set up in the world.
    pub(super) fn new(seed: u64, world: &mut World) -> Scenario {
        let mut dice = Dice::new(seed ^ 0x5e_ed0f_5ce0_a210);
        let share = dice.magnitude(0.15, 0.8);
        let features: Vec<Feature> =
            Feature::VARIANTS.iter().copied().filter(|_| dice.chance(share)).collect();
        let mut scenario = Scenario {
            features,
            roles: Vec::new(),
            actions: Vec::new(),
            heal_at: BEGIN,
            spare: None,
            hostile: None,
            dice,
            rate: 0,
        };
        let viewers = scenario.viewer_count();
        scenario.add_streams(world, viewers);
        let firsts = scenario.add_relays(world, viewers);
        scenario.add_publishers(world, &firsts);
        scenario.add_viewers(world, viewers);
        for host in 0..scenario.roles.len() {
            scenario.set_up_host(world, host);
        }
        scenario.plan_troubles(viewers);
        if scenario.has(Hostile) {
            scenario.hostile = Some(world.add_host("hostile".to_owned()));
            world.overheard = Some(Vec::new());
        }
        scenario
    }

    pub(super) fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// Mostly few, now and then very many.
    fn viewer_count(&mut self) -> usize {
        let (low, high) = match self.dice.below(1_000) {
            0..800 => (1, 8),
            800..965 => (8, 40),
            965..996 => (40, 200),
            _ => (300, 1_500),
        };
        self.dice.between(low, high) as usize
    }

    fn add_streams(&mut self, world: &mut World, viewers: usize) {
        let count = if self.has(SeveralChannels) { self.dice.between(2, 5) } else { 1 };
        let fastest = if viewers < 40 {
            500_000.0
        } else if viewers < 200 {
            30_000.0
        } else {
            4_000.0
        };
        for _ in 0..count {
            // A cap of a few Mbit/s is to be felt.
            let slowest = if self.has(EgressCaps) { fastest / 5.0 } else { 3_000.0 };
            let rate = self.dice.magnitude(slowest, fastest) as u64;
            let piece_every = Duration::from_millis(self.dice.between(5, 60));
            let pieces_per_join = self.dice.between(5, 200);
            world.add_stream(rate, piece_every, pieces_per_join);
            self.rate = self.rate.max(rate);
        }
    }

    /// Returns those that publishers publish to.
    fn add_relays(&mut self, world: &mut World, viewers: usize) -> Vec<SocketAddr> {
        let first = 1 + usize::from(self.has(TwoUplinks)) + usize::from(self.has(EgressCaps));
        let further = if self.has(Chain) { self.dice.between(1, 4) as usize } else { 0 };
        self.spare = self.has(EgressCaps).then_some(first - 1);
        let mut plans: Vec<RelayPlan> = Vec::new();
        for number in 0..first + further {
            let address = world.add_host(format!("relay {number}"));
            let upstreams = if number < first { Vec::new() } else { self.upstreams(number) };
            plans.push(RelayPlan {
                nodes: if self.has(Siblings) { self.dice.between(2, 5) as usize } else { 1 },
                slots: self.slots(40, 500),
                limits: self.limits(viewers),
                channel_limits: ChannelLimits::default(),
                others: Nodes::new(),
                upstreams: upstreams.into_iter().map(|relay| world.hosts[relay].address).collect(),
            });
            debug_assert!(address == number, "relays come first");
        }
        if let Some(spare) = self.spare {
            self.cap_relays(world, &mut plans, viewers);
            plans[spare].limits.subscribers_max = Limits::default().subscribers_max;
        }
        self.roles.extend(plans.into_iter().map(|plan| Role::Relay(Box::new(plan))));
        (0..first).map(|relay| world.hosts[relay].address).collect()
    }

    /// Behind the last one or beside it; with two upstreams, behind another one as well.
    fn upstreams(&mut self, number: usize) -> Vec<usize> {
        let mut upstreams = vec![self.dice.between(number as u64 / 2, number as u64) as usize];
        if self.has(TwoUpstreams) && number > 1 {
            let other = self.dice.below(number);
            upstreams.extend((!upstreams.contains(&other)).then_some(other));
        }
        upstreams
    }

    /// Caps the egress of relays, but for one to which the others send those whom they refuse.
    fn cap_relays(&mut self, world: &World, plans: &mut [RelayPlan], viewers: usize) {
        let spare = self.spare.expect("the caller's");
        let needed = self.rate as f64 * 8.0 * viewers as f64;
        for relay in (0..plans.len()).filter(|relay| *relay != spare) {
            plans[relay].others.push(world.hosts[spare].address);
            // A relay that finds no place with another has nothing for its own viewers.
            let address = world.hosts[relay].address;
            if plans.iter().any(|plan| plan.upstreams.contains(&address)) {
                continue;
            }
            let mut cap = || Some((needed * self.dice.magnitude(0.2, 2.0)).max(CAP_BPS_MIN) as u64);
            let (all, channel) = (cap(), cap());
            plans[relay].limits.egress_bps_max = all.filter(|_| self.dice.chance(0.8));
            plans[relay].channel_limits.egress_bps_max = channel.filter(|_| self.dice.chance(0.4));
        }
    }

    fn slots(&mut self, few: u64, many: u32) -> u32 {
        if self.has(LittleMemory) { self.dice.between(few, few + 40) as u32 } else { many }
    }

    fn limits(&mut self, viewers: usize) -> Limits {
        let mut limits = Limits::default();
        if self.has(SmallWindows) {
            limits.window = self.dice.time(Duration::from_millis(500), Duration::from_secs(4));
            limits.window_bytes_max = self.dice.between(8, 100) as usize * SLOT_BYTES;
        }
        // A relay that finds no place with another has nothing for its own viewers.
        if self.has(FewPlaces) && !self.has(Chain) {
            limits.subscribers_max = self.dice.between(1, viewers as u64 + 2) as usize;
        }
        limits
    }

    fn add_publishers(&mut self, world: &mut World, relays: &[SocketAddr]) {
        for stream in 0..world.streams.len() {
            world.add_host(format!("publisher {stream}"));
            let slots = self.slots(24, 300);
            self.roles.push(Role::Publisher { stream, relays: relays.to_vec(), slots });
        }
    }

    fn add_viewers(&mut self, world: &mut World, count: usize) {
        let is_known =
            |relay: &usize| matches!(self.roles[*relay], Role::Relay(_)) && self.spare != Some(*relay);
        let known = (0..self.roles.len()).filter(is_known);
        let known: Vec<SocketAddr> = known.map(|relay| world.hosts[relay].address).collect();
        for number in 0..count {
            let mut relays = known.clone();
            relays.rotate_left(self.dice.below(known.len()));
            let from = Sequence(self.dice.below(2) as u64);
            let delay = self.dice.time(Duration::from_millis(100), Duration::from_secs(2));
            let stream = self.dice.below(world.streams.len());
            let at_once = if self.has(TwoUpstreams) { self.dice.between(1, 4) as usize } else { 1 };
            world.add_host(format!("viewer {number}"));
            let (sink, slots) = (SinkConfig { delay, from }, self.slots(24, 200));
            self.roles.push(Role::Viewer(ViewerPlan { stream, sink, relays, at_once, slots }));
        }
    }

    fn set_up_host(&mut self, world: &mut World, host: usize) {
        if self.has(SmallBatches) {
            world.hosts[host].batch = self.dice.magnitude(1.0, 64.0) as usize;
        }
        if self.has(Clocks) {
            let most = self.dice.magnitude(1_000.0, 36e9) as i64;
            world.hosts[host].ahead_us = if self.dice.chance(0.5) { most } else { -most };
        }
        let is_viewer = matches!(self.roles[host], Role::Viewer(_));
        world.hosts[host].lies = is_viewer && self.has(Liars) && self.dice.chance(0.3);
        // Relays mostly have good lines.
        let is_bad = !matches!(self.roles[host], Role::Relay(_)) || self.dice.chance(0.2);
        if is_bad {
            self.worsen(world, host);
        }
    }

    /// Gives a machine's lines other impairments.
    pub(super) fn worsen(&mut self, world: &mut World, host: usize) {
        let is_relay = matches!(self.roles[host], Role::Relay(_));
        let [up, down] = [(); 2].map(|()| self.impairment(is_relay));
        world.log(|world| format!("{}: up {up:?}, down {down:?}", world.hosts[host].name));
        world.set_lines(host, up, down);
    }

    fn impairment(&mut self, is_relay: bool) -> Impairment {
        let mut it = Impairment::default();
        let milliseconds =
            |dice: &mut Dice, most: f64| Duration::from_secs_f64(dice.magnitude(0.000_1, most / 1e3));
        let dice = &mut self.dice;
        let has = |feature| self.features.contains(&feature);
        if has(Loss) {
            it.loss = dice.magnitude(0.001, 0.15);
        }
        if has(Bursts) {
            it.burst = Some(dice.magnitude(1.3, 20.0));
        }
        if has(Delay) {
            it.delay = milliseconds(dice, 150.0);
        }
        if has(Jitter) {
            it.jitter = milliseconds(dice, 40.0);
        }
        if has(Reordering) {
            (it.reorder, it.reorder_by) = (dice.magnitude(0.001, 0.1), milliseconds(dice, 40.0));
        }
        if has(Duplication) {
            it.duplicate = dice.magnitude(0.001, 0.1);
        }
        if has(Rates) && !is_relay {
            it.rate_bps = Some((self.rate as f64 * 8.0 * dice.magnitude(0.5, 8.0)) as u64 + 20_000);
            it.queue = Queue::Time(milliseconds(dice, 500.0));
        }
        it
    }

    fn plan_troubles(&mut self, viewers: usize) {
        let longest = if viewers < 40 { 12 } else { 5 };
        let trouble = self.dice.time(Duration::from_secs(3), Duration::from_secs(longest));
        self.heal_at = BEGIN.after(trouble);
        for host in 0..self.roles.len() {
            // Not all come at once; relays are there mostly.
            let is_early = matches!(self.roles[host], Role::Relay(_)) || self.dice.chance(0.3);
            let begin = if is_early { Duration::ZERO } else { self.dice.time(Duration::ZERO, trouble) };
            self.actions.push((BEGIN.after(begin), host, Action::Start));
            let (restarts, is_publisher) = match self.roles[host] {
                Role::Relay(_) => (self.has(RelayRestarts), false),
                Role::Publisher { .. } => (self.has(PublisherRestarts), true),
                Role::Viewer(_) => (self.has(Churn), false),
            };
            for _ in 0..if restarts { self.dice.below(4) } else { 0 } {
                self.plan_restart(host, trouble, is_publisher);
            }
            let is_relay = matches!(self.roles[host], Role::Relay(_));
            for _ in 0..if is_relay && self.has(HandOvers) { self.dice.below(4) } else { 0 } {
                let ends = BEGIN.after(self.dice.time(Duration::ZERO, trouble));
                let begins = ends.after(self.hand_over_pause());
                self.actions.extend([(ends, host, Action::HandOver), (begins, host, Action::TakeUp)]);
            }
            for _ in 0..if self.has(Changes) { self.dice.below(3) } else { 0 } {
                self.actions.push((
                    BEGIN.after(self.dice.time(Duration::ZERO, trouble)),
                    host,
                    Action::Worsen,
                ));
            }
        }
        self.actions.sort_by_key(|(at, host, _)| (*at, *host));
    }

    fn plan_restart(&mut self, host: usize, trouble: Duration, is_publisher: bool) {
        let end = match self.dice.below(4) {
            0 if is_publisher => Action::Finish,
            0 | 1 => Action::Close,
            _ => Action::Kill,
        };
        let ends = BEGIN.after(self.dice.time(Duration::ZERO, trouble));
        let away = self.dice.time(Duration::from_millis(1), Duration::from_secs(5));
        self.actions.push((ends, host, end));
        self.actions.push((ends.after(away), host, Action::Start));
    }

    /// How long a relay's next process takes to start.
    pub(super) fn hand_over_pause(&mut self) -> Duration {
        let longest = self.dice.magnitude(0.000_1, 0.15);
        if self.dice.chance(0.5) { Duration::ZERO } else { Duration::from_secs_f64(longest) }
    }
}

/// Below, a second may exceed a cap by a train.
const CAP_BPS_MIN: f64 = 2e6;
