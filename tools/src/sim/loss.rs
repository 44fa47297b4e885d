//! `superpeer sim loss`: what a loss costs, measured.

use std::time::{Duration, Instant};

use clap::value_parser;
use codec::wire::control::Control;
use codec::wire::{SHARD, kind_of};
use codec::{DATAGRAM_BYTES, Sequence};
use mesh::{Limits, SinkConfig};
use serde_json::json;

use super::host::{Process, RelayPlan};
use super::serve::is_made_here;
use super::world::{Talk, World};
use crate::Error;
use crate::error::print;
use crate::impair::link::Impairment;
use crate::impair::{bits, share, time};

/// Measure what loss costs: chunks lost at viewers, and bytes beyond the stream's own
///
/// A publisher, a chain of relays and viewers, with the same loss on every hop, in both directions.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  superpeer sim loss --hops 2 --loss 3% --rtt 100ms --delay 400ms --minutes 10
  superpeer sim loss --hops 2 --loss 3% --no-regeneration")]
pub(super) struct Args {
    /// Hops from the publisher to a viewer: relays and one (2 to 8)
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(2..=8))]
    hops: u8,
    /// Datagrams lost on each hop, in percent
    #[arg(long, value_name = "PERCENT", default_value = "3%", value_parser = share)]
    loss: f64,
    /// Losses come in runs of this mean length, in datagrams [default: each by itself]
    #[arg(long, value_name = "N")]
    burst: Option<f64>,
    /// Round trip of each hop
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = time)]
    rtt: Duration,
    /// How long a viewer waits for a missing chunk
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time)]
    delay: Duration,
    /// How long to publish, in the time of the simulation
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// Viewers, each on a line of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u16).range(1..=1000))]
    viewers: u16,
    /// Bits per second of the stream
    #[arg(long, value_name = "RATE", default_value = "4M", value_parser = bits)]
    bitrate: u64,
    /// Equal seeds lose the same datagrams
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Requests for repair get lost, all of them
    #[arg(long)]
    no_repair: bool,
    /// Relays pass on what came, and nothing that they made again
    #[arg(long)]
    no_regeneration: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What nodes are kept from doing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Without {
    pub(super) repair: bool,
    pub(super) regeneration: bool,
}

impl Without {
    /// Whether a datagram of this process may leave.
    pub(super) fn lets_pass(self, process: &Process, bytes: &[u8]) -> bool {
        match kind_of(bytes) {
            Some(SHARD) => !(self.regeneration && process.is_relay && is_made_here(&process.came, bytes)),
            _ => !(self.repair && matches!(Control::parse(bytes), Ok(Control::Repair(_)))),
        }
    }
}

/// What one machine sent to another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    shards: u64,
    control_bytes: u64,
}

impl Tally {
    pub(super) fn note(&mut self, bytes: &[u8]) {
        match kind_of(bytes) {
            Some(SHARD) => self.shards += 1,
            _ => self.control_bytes += bytes.len() as u64,
        }
    }

    /// Bytes beyond those of so many data shards, as a share of these.
    fn beyond(self, data_shards: u64) -> f64 {
        let own = (data_shards * DATAGRAM_BYTES as u64) as f64;
        let sent = (self.shards * DATAGRAM_BYTES as u64 + self.control_bytes) as f64;
        sent / own - 1.0
    }
}

/// Runs the measurement.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let hop = Impairment { loss: args.loss, burst: args.burst, delay: args.rtt / 2, ..Impairment::default() };
    hop.check().map_err(Error::Usage)?;
    let begun = Instant::now();
    let mut world = World::new(args.seed, Talk::Nothing);
    world.without = Without { repair: args.no_repair, regeneration: args.no_regeneration };
    world.tallies = Some(Default::default());
    let bytes_per_second = args.bitrate / 8;
    let stream = world.add_stream(bytes_per_second, Duration::from_millis(10), 200);
    let last = add_relays(&mut world, args.hops, hop);
    let publisher = world.add_host("publisher".to_owned());
    world.set_lines(publisher, hop, hop);
    let viewers: Vec<usize> =
        (0..args.viewers).map(|number| world.add_host(format!("viewer {number}"))).collect();
    for &viewer in &viewers {
        world.set_lines(viewer, hop, hop);
        let sink = SinkConfig { delay: args.delay, from: Sequence(1) };
        world.start_viewer(viewer, stream, sink, vec![world.hosts[last].address], 600);
    }
    // Everybody is there before it begins.
    world.run_until(world.now.after(Duration::from_secs(5)));
    world.start_publisher(publisher, stream, &[world.hosts[0].address], 600);
    // And knows the loss.
    world.run_until(world.now.after(WARM_UP));
    let before = Before { totals: world.book.totals(), missed: missed(&world, &viewers) };
    world.tallies = Some(Default::default());
    world.run_until(world.now.after(Duration::from_secs(60 * args.minutes)));
    world.finish(publisher);
    world.run_until(world.now.after(Duration::from_secs(5)));
    match world.failure.take() {
        Some(why) => Err(Error::SimFailed(why)),
        None => report(args, &world, (publisher, last, &viewers), &before, begun),
    }
}

/// Parity follows reports, of which there is one a second: what is lost before the first ones is not counted.
const WARM_UP: Duration = Duration::from_secs(10);

/// How things stood when the measurement began.
struct Before {
    /// Chunks and data shards published.
    totals: (u64, u64),
    /// Chunks missed by all viewers.
    missed: u64,
}

fn missed(world: &World, viewers: &[usize]) -> u64 {
    viewers.iter().filter_map(|&host| world.hosts[host].viewer_sink()).map(|sink| sink.reading.missed).sum()
}

/// Returns the one that viewers watch at.
fn add_relays(world: &mut World, hops: u8, hop: Impairment) -> usize {
    let mut last = None;
    for number in 0..usize::from(hops) - 1 {
        let host = world.add_host(format!("relay {number}"));
        let upstream = last.map(|relay: usize| world.hosts[relay].address);
        // A hop's two directions are the two lines of its end that is further away from the first relay.
        if upstream.is_some() {
            world.set_lines(host, hop, hop);
        }
        world.start_relay(host, &RelayPlan { nodes: 1, slots: 600, limits: Limits::default(), upstream });
        last = Some(host);
    }
    last.expect("two hops have a relay")
}

fn report(
    args: &Args,
    world: &World,
    (publisher, last, viewers): (usize, usize, &[usize]),
    before: &Before,
    begun: Instant,
) -> Result<(), Error> {
    let tallies = world.tallies.as_ref().expect("set above");
    let tally = |from, to| tallies.get(&(from, to)).copied().unwrap_or_default();
    let totals = world.book.totals();
    let (chunks, data_shards) = (totals.0 - before.totals.0, totals.1 - before.totals.1);
    let wanted = totals.0 * viewers.len() as u64;
    let sinks = viewers.iter().filter_map(|&host| world.hosts[host].viewer_sink());
    let written: u64 = sinks.map(|sink| sink.reading.chunks).sum();
    let lost = wanted - written - before.missed;
    let share_lost = lost as f64 / (chunks * viewers.len() as u64) as f64;
    let to_viewers: f64 = viewers.iter().map(|&viewer| tally(last, viewer).beyond(data_shards)).sum();
    let to_viewer = to_viewers / viewers.len() as f64;
    let uplink = tally(publisher, 0).beyond(data_shards);
    if args.json {
        return print(
            &json!({
                "hops": args.hops,
                "loss": args.loss,
                "burst": args.burst,
                "rtt_ms": args.rtt.as_millis() as u64,
                "delay_ms": args.delay.as_millis() as u64,
                "minutes": args.minutes,
                "seed": args.seed,
                "repair": !args.no_repair,
                "regeneration": !args.no_regeneration,
                "viewers": viewers.len(),
                "chunks_published": chunks,
                "chunks_lost": lost,
                "share_lost": share_lost,
                "to_subscriber_beyond_data": to_viewer,
                "uplink_beyond_data": uplink,
            })
            .to_string(),
        );
    }
    print(&format!(
        "published     {chunks} chunks, {data_shards} data shards, in {} min\n\
         lost          {lost} chunks at {} viewers together: {share_lost:.2e} of all\n\
         to a viewer   {:.2} % of bytes beyond the data shards\n\
         uplink        {:.2} % of bytes beyond the data shards",
        args.minutes,
        viewers.len(),
        to_viewer * 100.0,
        uplink * 100.0,
    ))?;
    crate::contact::say(&format!("seed {}, simulated in {:.1} s", args.seed, begun.elapsed().as_secs_f64()));
    Ok(())
}
