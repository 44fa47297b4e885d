//! One measurement, and what it found.

use std::time::Duration;

use codec::wire::control::{Control, Nodes};
use codec::wire::{SHARD, kind_of};
use codec::{DATAGRAM_BYTES, Sequence};
use mesh::{ChannelLimits, Limits, SinkConfig};
use serde_json::{Value, json};

use super::Args;
use crate::Error;
use crate::impair::link::Impairment;
use crate::sim::host::{Process, RelayPlan, ViewerPlan};
use crate::sim::serve::is_made_here;
use crate::sim::world::{Talk, World};

/// What nodes are kept from doing.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::sim) struct Without {
    pub(in crate::sim) repair: bool,
    pub(in crate::sim) regeneration: bool,
}

impl Without {
    /// Whether a datagram of this process may leave.
    pub(in crate::sim) fn lets_pass(self, process: &Process, bytes: &[u8]) -> bool {
        match kind_of(bytes) {
            Some(SHARD) => !(self.regeneration && process.is_relay && is_made_here(&process.came, bytes)),
            _ => !(self.repair && matches!(Control::parse(bytes), Ok(Control::Repair(_)))),
        }
    }
}

/// What one machine sent to another.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::sim) struct Tally {
    shards: u64,
    control_bytes: u64,
}

impl Tally {
    pub(in crate::sim) fn note(&mut self, bytes: &[u8]) {
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

/// What was found with one loss and round trip.
pub(super) struct Measured {
    pub(super) loss: f64,
    pub(super) rtt: Duration,
    /// Chunks and data shards published.
    chunks: u64,
    data_shards: u64,
    viewers: u64,
    /// Chunks lost at all viewers together.
    lost: u64,
    /// Bytes to a viewer, in the mean, and from the publisher beyond the data shards, as a share of these.
    pub(super) to_viewer: f64,
    uplink: f64,
}

impl Measured {
    pub(super) fn share_lost(&self) -> f64 {
        self.lost as f64 / (self.chunks * self.viewers) as f64
    }

    pub(super) fn json(&self, args: &Args) -> Value {
        json!({
            "hops": args.hops,
            "loss": self.loss,
            "burst": args.burst,
            "rtt_ms": self.rtt.as_millis() as u64,
            "uplink_loss": args.uplink_loss.unwrap_or(self.loss),
            "uplink_rtt_ms": args.uplink_rtt.unwrap_or(self.rtt).as_millis() as u64,
            "delay_ms": args.delay.as_millis() as u64,
            "minutes": args.minutes,
            "seed": args.seed,
            "repair": !args.no_repair,
            "regeneration": !args.no_regeneration,
            "viewers": self.viewers,
            "chunks_published": self.chunks,
            "data_shards_published": self.data_shards,
            "chunks_lost": self.lost,
            "share_lost": self.share_lost(),
            "to_subscriber_beyond_data": self.to_viewer,
            "uplink_beyond_data": self.uplink,
        })
    }

    pub(super) fn text(&self, args: &Args) -> String {
        let Measured { chunks, data_shards, viewers, lost, .. } = self;
        let is_one_of_many = args.loss.len() * args.rtt.len() > 1;
        let line = format!("line          loss {:.2} %, round trip {:?}\n", self.loss * 100.0, self.rtt);
        format!(
            "{}published     {chunks} chunks, {data_shards} data shards, in {} min\n\
             lost          {lost} chunks at {viewers} viewers together: {:.2e} of all\n\
             to a viewer   {:.2} % of bytes beyond the data shards\n\
             uplink        {:.2} % of bytes beyond the data shards",
            if is_one_of_many { &line } else { "" },
            args.minutes,
            self.share_lost(),
            self.to_viewer * 100.0,
            self.uplink * 100.0,
        )
    }
}

/// Measures with this loss and round trip on each hop.
pub(super) fn measure(args: &Args, (loss, rtt): (f64, Duration)) -> Result<Measured, Error> {
    let hop = Impairment { loss, burst: args.burst, delay: rtt / 2, ..Impairment::default() };
    let uplink = Impairment {
        loss: args.uplink_loss.unwrap_or(loss),
        delay: args.uplink_rtt.unwrap_or(rtt) / 2,
        ..hop
    };
    hop.check().and(uplink.check()).map_err(Error::Usage)?;
    let mut world = World::new(args.seed, Talk::Nothing);
    world.without = Without { repair: args.no_repair, regeneration: args.no_regeneration };
    world.tallies = Some(Default::default());
    let bytes_per_second = args.bitrate / 8;
    let stream = world.add_stream(bytes_per_second, Duration::from_millis(10), 200);
    let last = add_relays(&mut world, args.hops, hop);
    let publisher = world.add_host("publisher".to_owned());
    world.set_lines(publisher, uplink, uplink);
    let viewers: Vec<usize> =
        (0..args.viewers).map(|number| world.add_host(format!("viewer {number}"))).collect();
    for &viewer in &viewers {
        world.set_lines(viewer, hop, hop);
        let sink = SinkConfig { delay: args.delay, from: Sequence(1) };
        let relays = vec![world.hosts[last].address];
        world.start_viewer(viewer, &ViewerPlan { stream, sink, relays, at_once: 1, slots: 600 });
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
    if let Some(why) = world.failure.take() {
        return Err(Error::SimFailed(why));
    }
    let tallies = world.tallies.as_ref().expect("set above");
    let tally = |from, to| tallies.get(&(from, to)).copied().unwrap_or_default();
    let totals = world.book.totals();
    let (chunks, data_shards) = (totals.0 - before.totals.0, totals.1 - before.totals.1);
    if chunks == 0 {
        let percent = loss * 100.0;
        return Err(Error::SimFailed(format!(
            "nothing was published in time: at a loss of {percent} % no session came about"
        )));
    }
    let to_viewers: f64 = viewers.iter().map(|&viewer| tally(last, viewer).beyond(data_shards)).sum();
    Ok(Measured {
        loss,
        rtt,
        chunks,
        data_shards,
        viewers: viewers.len() as u64,
        lost: missed(&world, &viewers) + missed_at_end(&world, &viewers, chunks) - before.missed,
        to_viewer: to_viewers / viewers.len() as f64,
        uplink: tally(publisher, 0).beyond(data_shards),
    })
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

/// Chunks that all viewers left out together, between two that they wrote.
fn missed(world: &World, viewers: &[usize]) -> u64 {
    viewers.iter().filter_map(|&host| world.hosts[host].viewer_sink()).map(|sink| sink.reading.missed).sum()
}

/// Chunks, of the last `most`, that came after the last one that a viewer wrote: none, where the channel's end came through.
fn missed_at_end(world: &World, viewers: &[usize], most: u64) -> u64 {
    let newest = world.book.newest().map_or(0, |sequence| sequence.0);
    let sinks = viewers.iter().filter_map(|&host| world.hosts[host].viewer_sink());
    sinks.map(|sink| sink.reading.next.map_or(most, |next| (newest + 1 - next).min(most))).sum()
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
        let plan = RelayPlan {
            nodes: 1,
            slots: 600,
            limits: Limits::default(),
            channel_limits: ChannelLimits::default(),
            others: Nodes::new(),
            upstreams: upstream.into_iter().collect(),
        };
        world.start_relay(host, &plan);
        last = Some(host);
    }
    last.expect("two hops have a relay")
}
