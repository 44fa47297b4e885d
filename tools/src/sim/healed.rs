//! A network without fault, on which everything has to come right.

use std::net::SocketAddr;
use std::time::Duration;

use mesh::{DropReason, Time};

use super::feature::Feature;
use super::host::{Host, Process};
use super::run::{AUDIT_INTERVAL, hand_over, start, take_up};
use super::scenario::{Role, Scenario};
use super::world::World;

/// Once the network is without fault, everybody is connected again and has got over it after so long: a lease that runs
/// out, a refusal's wait, or a viewer's longest delay after silence is noticed and the relay before it is back.
const RECOVERY: Duration = Duration::from_secs(12);

/// From then on nothing is missed for so long, until the channels end.
const FLAWLESS: Duration = Duration::from_secs(2);

/// So long there is one relay less.
const ONE_LESS: Duration = Duration::from_secs(2);

/// An upstream that came later may be on trial still.
const SETTLED: Duration = Duration::from_secs(5);

/// Whoever waits less for a chunk may miss one until an upstream is found to be silent: four of its shards have to be overdue,
/// which of small chunks are four chunks.
const PATIENCE: Duration = Duration::from_millis(400);

/// The end reaches everybody within so long.
const ENDING: Duration = Duration::from_secs(5);

/// Heals the network and looks whether everybody gets everything.
pub(super) fn run(world: &mut World, scenario: &mut Scenario) {
    heal(world, scenario);
    pass(world, RECOVERY);
    world.calm_from = Some(world.now);
    // Whose line could not take the stream comes back later: it was let go just before, or while queues emptied.
    while world.failure.is_none() && world.now < world.resting_until {
        pass(world, world.resting_until.since(world.now));
        pass(world, RECOVERY);
    }
    if scenario.has(Feature::TwoUpstreams) {
        lose_an_upstream(world, scenario);
    }
    let mut before = Standing::of_all(world);
    pass(world, FLAWLESS / 2);
    if scenario.has(Feature::HandOvers) && !replace_relays(world, scenario).is_zero() {
        // Repair is asked for meanwhile of what is on its way.
        before.iter_mut().for_each(|standing| standing.duplicates = None);
    }
    pass(world, FLAWLESS / 2);
    finish(world, scenario);
    check(world, &before);
}

fn heal(world: &mut World, scenario: &Scenario) {
    world.log(|_| "the network is without fault from now on".to_owned());
    for (host, role) in scenario.roles.iter().enumerate() {
        world.set_lines(host, Default::default(), Default::default());
        take_up(world, role, host);
        let process = world.hosts[host].process.as_ref();
        let has_ended = |feed: &super::host::Feed| feed.finished;
        if process.is_none_or(|process| process.feed.as_ref().is_some_and(has_ended)) {
            start(world, role, host);
        }
    }
}

/// All channels end, and the end reaches everybody.
fn finish(world: &mut World, scenario: &Scenario) {
    for host in 0..scenario.roles.len() {
        world.finish(host);
    }
    world.log(|_| "all channels end".to_owned());
    let give_up_at = world.now.after(ENDING);
    let excused = scenario.spare.is_none();
    while world.failure.is_none() && world.now < give_up_at && first_unfinished(world, excused).is_some() {
        pass(world, AUDIT_INTERVAL);
    }
    if let Some(why) = first_unfinished(world, excused) {
        world.fail(why);
    }
}

/// Every relay is replaced by its successor: nobody notices. Returns how long that takes.
fn replace_relays(world: &mut World, scenario: &mut Scenario) -> Duration {
    let pause = scenario.hand_over_pause();
    world.log(|_| format!("all relays are replaced within {pause:?}"));
    let relays = |role: &Role| matches!(role, Role::Relay(_));
    let relays: Vec<usize> =
        (0..scenario.roles.len()).filter(|host| relays(&scenario.roles[*host])).collect();
    relays.iter().for_each(|host| hand_over(world, *host));
    pass(world, pause);
    relays.iter().for_each(|host| take_up(world, &scenario.roles[*host], *host));
    pause
}

/// Kills a relay of which those who have another one as well miss nothing, and starts it again.
fn lose_an_upstream(world: &mut World, scenario: &mut Scenario) {
    let relays = (0..scenario.roles.len()).filter(|host| matches!(scenario.roles[*host], Role::Relay(_)));
    let relays: Vec<usize> = relays.filter(|host| world.hosts[*host].process.is_some()).collect();
    let lost = relays[world.dice.below(relays.len())];
    let is_safe = safe_without(world, scenario, lost);
    let takes_from_it = |host: &Host| host.sessions().any(|(from, _)| from == world.hosts[lost].address);
    if !world.hosts.iter().zip(&is_safe).any(|(host, safe)| *safe && takes_from_it(host)) {
        return;
    }
    world.log(|world| format!("{} is killed, of which others have a second one", world.hosts[lost].name));
    let mut before = Standing::of_all(world);
    before.retain(|standing| is_safe[standing.host]);
    before.iter_mut().for_each(|standing| (standing.lost, standing.duplicates) = (None, None));
    // Those who take everything from another one now may be too many for its cap, until the newest are let go.
    world.calm_from = None;
    world.kill(lost);
    pass(world, ONE_LESS);
    start(world, &scenario.roles[lost], lost);
    pass(world, RECOVERY);
    world.calm_from = Some(world.now);
    check(world, &before);
}

/// By machine: whether it takes a channel that does not come through `lost` alone, and waits long enough to notice. A relay whose cap has room for a part of each
/// chunk need not have room for all of it.
fn safe_without(world: &World, scenario: &Scenario, lost: usize) -> Vec<bool> {
    let is_capped = |host: usize| match scenario.roles.get(host) {
        Some(Role::Relay(plan)) => {
            plan.limits.egress_bps_max.is_some() || plan.channel_limits.egress_bps_max.is_some()
        }
        _ => false,
    };
    let mut is_safe: Vec<bool> = Vec::with_capacity(world.hosts.len());
    // Those before it give to each.
    for (number, host) in world.hosts.iter().enumerate() {
        let dials_nobody = |process: &Process| process.units.iter().all(|unit| unit.dials.is_empty());
        let is_source = host.process.as_ref().is_some_and(|it| it.is_relay && dials_nobody(it));
        let settled_by = host.clock(Time(world.now.0 - SETTLED.as_micros() as u64));
        let mut sessions = host.sessions().filter(|(_, since)| *since <= settled_by);
        let takes_safely =
            sessions.any(|(from, _)| is_safe.get(world.by_address[&from]).is_some_and(|safe| *safe));
        let waits = match scenario.roles.get(number) {
            Some(Role::Viewer(plan)) => plan.sink.delay >= PATIENCE,
            _ => true,
        };
        is_safe.push(number != lost && waits && !is_capped(number) && (is_source || takes_safely));
    }
    is_safe
}

impl Host {
    /// The relays of its sessions in which a channel comes in, and since when it has them.
    fn sessions(&self) -> impl Iterator<Item = (SocketAddr, Time)> {
        let process = self.process.iter().filter(|process| process.feed.is_none());
        let dials = process.flat_map(|process| &process.units).flat_map(|unit| &unit.dials);
        let dials = dials.filter(|it| it.contact.is_connected());
        dials.filter_map(|it| Some((it.contact.target()?, it.connected_at)))
    }
}

/// How somebody who is let in fares.
struct Standing {
    host: usize,
    life: u64,
    /// Chunks that it has missed, if it is a viewer.
    missed: u64,
    /// Sessions that it has lost, if that counts.
    lost: Option<u64>,
    /// Shards that it was sent twice by the one whom it takes the channel from, if that counts.
    duplicates: Option<u64>,
}

impl Standing {
    /// Of viewers and publishers that are honest and have a session.
    fn of_all(world: &World) -> Vec<Standing> {
        (0..world.hosts.len()).filter_map(|host| Standing::of(world, host)).collect()
    }

    fn of(world: &World, host: usize) -> Option<Standing> {
        let machine = &world.hosts[host];
        let process = machine.process.as_ref().filter(|process| !process.is_relay && !machine.lies)?;
        let unit = &process.units[0];
        let missed = unit.sink.as_ref().map_or(0, |sink| sink.reading.missed);
        let lost = Some(unit.dials.iter().map(|it| it.lost).sum());
        let duplicates =
            (unit.dials.len() == 1).then(|| unit.node.counters().dropped_for(DropReason::Duplicate));
        let life = machine.lives;
        unit.is_connected().then_some(Standing { host, life, missed, lost, duplicates })
    }
}

/// Nobody has missed anything since then, nor lost a session.
fn check(world: &mut World, before: &[Standing]) {
    for Standing { host, life, missed, lost, duplicates } in before {
        let name = &world.hosts[*host].name;
        let Some(now) = Standing::of(world, *host).filter(|now| now.life == *life) else {
            return world.fail(format!("{name} has no session any more on a network without fault"));
        };
        if now.missed > *missed {
            let chunks = now.missed - missed;
            return world.fail(format!("{name} missed {chunks} chunks on a network without fault"));
        }
        if lost.is_some() && now.lost > *lost {
            return world.fail(format!("{name} lost a session on a network without fault"));
        }
        if duplicates.is_some() && now.duplicates > *duplicates {
            return world.fail(format!("{name} was sent shards twice on a network without fault"));
        }
    }
}

/// Lets time pass; bounds are looked at.
fn pass(world: &mut World, duration: Duration) {
    let end = world.now.after(duration);
    while world.failure.is_none() && world.now < end {
        world.run_until(end.min(world.now.after(AUDIT_INTERVAL)));
        world.audit();
    }
}

/// Who has not come to the end as it should; who was refused may be `excused`.
fn first_unfinished(world: &World, excused: bool) -> Option<String> {
    world.hosts.iter().find_map(|host| {
        let process = host.process.as_ref()?;
        let unit = &process.units[0];
        if let Some(feed) = &process.feed {
            let drained = unit.node.is_drained(feed.id);
            return (!drained).then(|| format!("{}: a relay has not settled the last chunk", host.name));
        }
        let sink = host.viewer_sink()?;
        let is_connected = unit.is_connected();
        let was_refused = excused && !is_connected && unit.dials.iter().any(|dialled| dialled.refused);
        let waits = !sink.ended && !host.lies && !was_refused;
        waits.then(|| {
            let counters = unit.node.channel_counters(sink.id);
            format!("{} has not got the end (connected: {is_connected}): {counters:?}", host.name)
        })
    })
}
