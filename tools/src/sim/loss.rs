//! `superpeer sim loss`: what a loss costs, measured.

mod chart;
mod measure;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::value_parser;

use self::measure::{Measured, measure};
pub(super) use self::measure::{Tally, Without};
use crate::Error;
use crate::chart::ChartFile;
use crate::error::print;
use crate::impair::{bits, share, time};

/// Measure what loss costs: chunks lost at viewers, and bytes beyond the stream's own
///
/// A publisher, a chain of relays and viewers, with the same loss on every hop, in both directions. Of several losses or
/// round trips each is measured with each.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  superpeer sim loss --hops 2 --loss 3% --rtt 100ms --delay 400ms --minutes 10
  superpeer sim loss --hops 2 --loss 3% --no-regeneration
  superpeer sim loss --uplink-loss 0% --loss 0%,1%,2%,5%,10% --rtt 20ms,100ms --delay 400ms --svg loss.svg")]
pub(super) struct Args {
    /// Hops from the publisher to a viewer: relays and one (2 to 8)
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(2..=8))]
    hops: u8,
    /// Datagrams lost on each hop, in percent; several, with commas between
    #[arg(long, value_name = "PERCENT", default_value = "3%", value_delimiter = ',', value_parser = share)]
    loss: Vec<f64>,
    /// Losses come in runs of this mean length, in datagrams [default: each by itself]
    #[arg(long, value_name = "N")]
    burst: Option<f64>,
    /// Round trip of each hop; several, with commas between
    #[arg(long, value_name = "TIME", default_value = "50ms", value_delimiter = ',', value_parser = time)]
    rtt: Vec<Duration>,
    /// Datagrams lost on the publisher's hop, in percent [default: as on the others]
    #[arg(long, value_name = "PERCENT", value_parser = share)]
    uplink_loss: Option<f64>,
    /// Round trip of the publisher's hop [default: as of the others]
    #[arg(long, value_name = "TIME", value_parser = time)]
    uplink_rtt: Option<Duration>,
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
    /// Draw a chart over the losses, with a line for each round trip
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object for each measurement
    #[arg(long)]
    json: bool,
}

/// Runs the measurements.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let chart = args.svg.as_deref().map(ChartFile::open).transpose()?;
    let begun = Instant::now();
    let measured = measure_all(args)?;
    for found in &measured {
        print(&if args.json { found.json(args).to_string() } else { found.text(args) })?;
    }
    if let Some(chart) = chart {
        chart.write(&chart::panels(args, &measured))?;
    }
    if !args.json {
        let seconds = begun.elapsed().as_secs_f64();
        crate::contact::say(&format!("seed {}, simulated in {seconds:.1} s", args.seed));
    }
    Ok(())
}

/// Each loss with each round trip, on all cores.
fn measure_all(args: &Args) -> Result<Vec<Measured>, Error> {
    let lines: Vec<(f64, Duration)> =
        args.rtt.iter().flat_map(|rtt| args.loss.iter().map(|loss| (*loss, *rtt))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let claim = || lines.get(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(claim).map(|line| measure(args, *line)).collect::<Result<Vec<_>, _>>()
    };
    let mut measured = Vec::new();
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let workers: Vec<_> = (0..cores.min(lines.len())).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            measured.extend(worker.join().expect("it does not panic")?);
        }
        Ok::<_, Error>(())
    })?;
    measured.sort_by(|one, other| one.rtt.cmp(&other.rtt).then(one.loss.total_cmp(&other.loss)));
    Ok(measured)
}
