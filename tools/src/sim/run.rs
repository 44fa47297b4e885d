//! One seed from beginning to end.

use std::time::Duration;

use mesh::{SLOT_BYTES, Time};

use super::healed;
use super::scenario::{Action, Role, Scenario};
use super::world::{BEGIN, Talk, World};

/// Bounds are looked at so often.
pub(super) const AUDIT_INTERVAL: Duration = Duration::from_millis(250);

/// A hostile machine sends so often.
const ATTACK_INTERVAL: Duration = Duration::from_millis(10);

/// The most chunks that relays leave, bytes.
const HANDOVER_BYTES: f64 = 128e6;

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
    for (host, role) in scenario.roles.iter().enumerate() {
        world.log(|world| format!("{}: {role:?}", world.hosts[host].name));
    }
    trouble(&mut world, &mut scenario);
    healed::run(&mut world, &mut scenario);
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
        Action::HandOver => hand_over(world, host),
        Action::TakeUp => take_up(world, &scenario.roles[host], host),
    }
}

/// A relay's process ends, and leaves chunks within some bound.
pub(super) fn hand_over(world: &mut World, host: usize) {
    let bytes_max = world.dice.magnitude(SLOT_BYTES as f64, HANDOVER_BYTES) as usize;
    world.hand_over(host, bytes_max);
}

pub(super) fn take_up(world: &mut World, role: &Role, host: usize) {
    if let Role::Relay(plan) = role {
        world.take_up(host, plan);
    }
}

/// Starts what runs on a machine; what runs there still is killed.
pub(super) fn start(world: &mut World, role: &Role, host: usize) {
    world.kill(host);
    match role.clone() {
        Role::Relay(plan) => world.start_relay(host, &plan),
        Role::Publisher { stream, relays, slots } => world.start_publisher(host, stream, &relays, slots),
        Role::Viewer(plan) => world.start_viewer(host, &plan),
    }
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
