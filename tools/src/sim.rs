//! `superpeer sim`: the nodes that are shipped, by the hundred, on a network of virtual time that a seed makes bad.

mod audit;
mod book;
mod content;
mod dice;
mod feature;
mod healed;
mod host;
mod hostile;
mod loss;
mod memory;
mod meter;
mod run;
mod scenario;
mod search;
mod serve;
mod succession;
mod world;

use std::time::{Duration, Instant};

use clap::value_parser;

pub use self::search::{FailedSeed, search};
use self::world::Talk;
use crate::Error;
use crate::contact::say;
use crate::error::print;
use crate::impair::random_seed;

/// Try relays, publishers and viewers on simulated bad networks, from seeds
///
/// A seed makes machines, lines, troubles and their times; all of it happens in virtual time, and the same each time. The
/// nodes are those of the relay and of the viewers, the impairments those of `superpeer impair`. Looked at all the time:
/// every viewer writes what was published, in order, and counts what it leaves out; nothing is forwarded that does not
/// verify; nobody is sent more than came from there before it has proven its address; bounds hold; nobody is called again
/// and again for nothing; and once the network is without fault, everybody gets everything.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    measured: Option<Measured>,
    /// Run this seed alone, and say what happens
    #[arg(value_name = "SEED", conflicts_with_all = ["seeds", "from", "seconds"])]
    seed: Option<u64>,
    /// Run so many seeds
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..))]
    seeds: u64,
    /// Begin with this seed [default: a random one]
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// Begin no other seed after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// With SEED: print every datagram
    #[arg(long, requires = "seed")]
    trace: bool,
}

#[derive(clap::Subcommand, Debug)]
enum Measured {
    Loss(loss::Args),
}

const EXAMPLES: &str = "\
Examples:
  superpeer sim --seeds 1000              # searches; each seed that fails is printed with the command that replays it
  superpeer sim 4711 --trace              # one seed, the same each time
  superpeer sim loss --hops 2 --loss 3%   # what loss costs";

/// Runs the command.
///
/// # Errors
/// When a seed fails.
pub fn run(args: Args) -> Result<(), Error> {
    match (args.measured, args.seed) {
        (Some(Measured::Loss(args)), _) => loss::run(&args),
        (None, Some(seed)) => replay(seed, if args.trace { Talk::Trace } else { Talk::Log }),
        (None, None) => {
            let from = args.from.map_or_else(|| random_seed().map(|seed| seed >> 32), Ok)?;
            run_many(from, args.seeds, args.seconds.map(Duration::from_secs))
        }
    }
}

fn replay(seed: u64, talk: Talk) -> Result<(), Error> {
    let (ended, summary) = search::try_seed(seed, talk);
    match ended {
        Ok(()) => print(&summary),
        Err(failed) => Err(Error::SimFailed(format!("seed {}, {}", failed.seed, failed.why))),
    }
}

fn run_many(from: u64, count: u64, time_max: Option<Duration>) -> Result<(), Error> {
    let begun = Instant::now();
    let tell = |failed: &FailedSeed| {
        say(&format!("seed {} failed {}\n  superpeer sim {}", failed.seed, failed.why, failed.seed));
    };
    let (run, failed) = search(from, count, time_max, tell);
    print(&format!(
        "{run} seeds from {from} on in {:.0} s, {} failed",
        begun.elapsed().as_secs_f64(),
        failed.len()
    ))?;
    match failed.first() {
        None => Ok(()),
        Some(first) => Err(Error::SimFailed(format!(
            "{} of {run} seeds, the first of them {}",
            failed.len(),
            first.seed
        ))),
    }
}
