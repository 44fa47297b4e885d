//! One seed from beginning to end: troubles, then a network without fault on which everything has to come right.

use std::time::Duration;

use mesh::Time;

use super::scenario::{Action, Role, Scenario};
use super::world::{BEGIN, Talk, World};

/// Bounds are looked at so often.
const AUDIT_INTERVAL: Duration = Duration::from_millis(250);

/// A hostile machine sends so often.
const ATTACK_INTERVAL: Duration = Duration::from_millis(10);

/// Once the network is without fault, everybody is connected again and has got over it after so long: a lease that runs
/// out, a refusal's wait, or a viewer's longest delay after silence is noticed and the relay before it is back.
const RECOVERY: Duration = Duration::from_secs(12);

/// From then on nothing is missed for so long, until the channels end.
const FLAWLESS: Duration = Duration::from_secs(2);

/// The end reaches everybody within so long.
const ENDING: Duration = Duration::from_secs(5);

/// What became of a seed.
pub(super) struct Outcome {
    /// What must not be and was.
    pub(super) failure: Option<String>,
    pub(super) summary: String,
}

/// Runs a seed.
pub(super) fn run(seed: u64, talk: Talk) -> Outcome {
    let mut world = World::new(seed, talk);
    let mut scenario = Scenario::new(seed, &mut world);
    world.log(|world| {
        format!(
            "seed {seed}: {} machines, {} channels; {:?}",
            world.hosts.len(),
            world.streams.len(),
            scenario.features
        )
    });
    trouble(&mut world, &mut scenario);
    heal(&mut world, &scenario);
    let summary = summary(&world);
    Outcome { failure: world.failure, summary }
}

fn trouble(world: &mut World, scenario: &mut Scenario) {
    let mut actions = std::mem::take(&mut scenario.actions).into_iter().peekable();
    let (mut audit_at, mut attack_at) = (BEGIN, BEGIN);
    while world.failure.is_none() && world.now < scenario.heal_at {
        let action_at = actions.peek().map_or(scenario.heal_at, |(at, _, _)| *at);
        let attacked = if scenario.hostile.is_some() { attack_at } else { scenario.heal_at };
        world.run_until(action_at.min(audit_at).min(attacked).min(scenario.heal_at));
        while let Some((_, host, action)) = actions.next_if(|(at, _, _)| *at <= world.now) {
            act(world, scenario, host, action);
        }
        if audit_at <= world.now {
            world.audit();
            audit_at = audit_at.after(AUDIT_INTERVAL);
        }
        if let Some(hostile) = scenario.hostile.filter(|_| attack_at <= world.now) {
            world.attack(hostile);
            attack_at = attack_at.after(ATTACK_INTERVAL);
        }
    }
}

fn act(world: &mut World, scenario: &mut Scenario, host: usize, action: Action) {
    world.log(|world| format!("{}: {action:?}", world.hosts[host].name));
    match action {
        Action::Kill => world.kill(host),
        Action::Close => world.close(host),
        Action::Finish => world.finish(host),
        Action::Worsen => scenario.worsen(world, host),
        Action::Start => start(world, &scenario.roles[host], host),
    }
}

/// Starts what runs on a machine; what runs there still is killed.
fn start(world: &mut World, role: &Role, host: usize) {
    world.kill(host);
    match role.clone() {
        Role::Relay(plan) => world.start_relay(host, &plan),
        Role::Publisher { stream, relays, slots } => world.start_publisher(host, stream, &relays, slots),
        Role::Viewer { stream, sink, relays, slots } => world.start_viewer(host, stream, sink, relays, slots),
    }
}

fn heal(world: &mut World, scenario: &Scenario) {
    world.log(|_| "the network is without fault from now on".to_owned());
    for (host, role) in scenario.roles.iter().enumerate() {
        world.set_lines(host, Default::default(), Default::default());
        let process = world.hosts[host].process.as_ref();
        let has_ended = |feed: &super::host::Feed| feed.finished;
        if process.is_none_or(|process| process.feed.as_ref().is_some_and(has_ended)) {
            start(world, role, host);
        }
    }
    pass(world, RECOVERY);
    // Whose line could not take the stream comes back later: it was let go just before, or while queues emptied.
    while world.failure.is_none() && world.now < world.resting_until {
        pass(world, world.resting_until.since(world.now));
        pass(world, RECOVERY);
    }
    let missed: Vec<Option<u64>> = (0..world.hosts.len()).map(|host| missed_by(world, host)).collect();
    pass(world, FLAWLESS);
    for host in 0..scenario.roles.len() {
        world.finish(host);
    }
    world.log(|_| "all channels end".to_owned());
    let give_up_at = world.now.after(ENDING);
    while world.failure.is_none() && world.now < give_up_at && first_unfinished(world).is_some() {
        pass(world, AUDIT_INTERVAL);
    }
    if let Some(why) = first_unfinished(world) {
        world.fail(why);
    }
    for (host, before) in missed.into_iter().enumerate() {
        let now = missed_by(world, host);
        if before != now {
            let name = &world.hosts[host].name;
            world.fail(format!("{name} missed chunks on a network without fault: {before:?}, then {now:?}"));
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

/// Chunks that an honest viewer which is let in has missed so far.
fn missed_by(world: &World, host: usize) -> Option<u64> {
    let sink = world.hosts[host].viewer_sink()?;
    let is_connected = world.hosts[host].process.as_ref()?.units[0].dials[0].contact.is_connected();
    (is_connected && !world.hosts[host].lies).then_some(sink.reading.missed)
}

/// Who has not come to the end as it should.
fn first_unfinished(world: &World) -> Option<String> {
    world.hosts.iter().find_map(|host| {
        let process = host.process.as_ref()?;
        let unit = &process.units[0];
        if let Some(feed) = &process.feed {
            let drained = unit.node.is_drained(feed.id);
            return (!drained).then(|| format!("{}: a relay has not settled the last chunk", host.name));
        }
        let sink = host.viewer_sink()?;
        let dialled = &unit.dials[0];
        let waits = !sink.ended && !host.lies && !dialled.refused;
        waits.then(|| {
            let counters = unit.node.channel_counters(sink.id);
            format!(
                "{} has not got the end (connected: {}): {counters:?}",
                host.name,
                dialled.contact.is_connected()
            )
        })
    })
}

fn summary(world: &World) -> String {
    let viewers = world.hosts.iter().filter_map(|host| host.viewer_sink());
    let (count, chunks, bytes, missed) =
        viewers.fold((0, 0, 0, 0), |(count, chunks, bytes, missed), sink| {
            let reading = &sink.reading;
            (count + 1, chunks + reading.chunks, bytes + reading.bytes, missed + reading.missed)
        });
    let seconds = Time(world.now.0).since(BEGIN).as_secs_f64();
    format!(
        "{seconds:.1} s, {} events: {count} viewers wrote {chunks} chunks, {bytes} bytes, and missed {missed} chunks",
        world.steps
    )
}
