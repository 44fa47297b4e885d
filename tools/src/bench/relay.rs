//! `superpeer bench relay`: a relay under load, on loopback or in a lab.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use relay::Workers;
use relay::plane::Io;

use self::report::Measured;
use self::running::RunningRelay;
use super::DESTINATIONS_MAX;
use crate::Error;
use crate::chart::ChartFile;
use crate::demo::Bitrate;
use crate::interrupt::Interrupt;

mod board;
pub(super) mod child;
mod copies;
pub(super) mod lab;
mod publishers;
mod report;
mod run;
mod running;
mod sample;
mod sealed;
mod sessions;
mod subscribers;
mod sweep;
mod target;

/// Measure a relay: what one core carries, and how late
///
/// Starts a relay in a process of its own, or takes one that runs already, publishes channels to it, and subscribes many addresses. Some of these compare
/// every byte with what was published; of the others, datagrams are counted. A single wrong byte is a failure.
///
/// Delay is from the moment before a publisher's one call that sends a whole chunk, sealed ahead, to when the kernel has
/// the last shard of a subscriber's copy: the way to the relay's socket, all of the relay, the way out. Not in it: the
/// 40 ms of collecting a chunk, sealing it (some 50 µs), a network, a viewer. How late the publishers themselves were
/// against their plan is reported beside it. Then the bare kernel is measured with trains of the same length into the same
/// sink. On loopback the relay's processor time includes the receiving side of the kernel.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  superpeer bench relay --subscribers 1000 --channels 1 --bitrate 4M
  superpeer bench relay --channels auto --seconds 10 --json
  superpeer bench relay --subscribers 1000 --svg relay.svg
  sudo superpeer bench relay --subscribers 10000 --sink lab
  superpeer bench relay --relay 127.0.0.1:7450 --relay-status 127.0.0.1:7451")]
pub struct Args {
    /// How many addresses subscribe to each channel (1 to 65536)
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(DESTINATIONS_MAX)))]
    pub subscribers: u32,
    /// How many channels are published (1 to 500); `auto`: as many as one core carries
    #[arg(long, value_name = "M|auto", default_value = "1")]
    pub channels: Channels,
    /// Bits per second of each channel, with K or M for thousands or millions (100K to 100M)
    #[arg(long, value_name = "RATE", default_value_t = Bitrate { bits_per_second: 4_000_000 })]
    pub bitrate: Bitrate,
    /// For how many seconds to measure (1 to 600)
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Where the relay's datagrams go
    #[arg(long, value_name = "SINK", value_enum, default_value = "loopback")]
    pub sink: Sinking,
    /// The system calls that move the relay's datagrams [default: auto]
    #[arg(long, value_name = "CALLS", value_enum)]
    pub io: Option<Io>,
    /// How many workers the relay has (1 to 64); `auto`: one for each core [default: 1]
    #[arg(long, value_name = "N|auto")]
    pub workers: Option<Workers>,
    /// Measure this relay, which runs already and carries any channel, here or elsewhere (IPv4)
    #[arg(long, value_name = "HOST:PORT")]
    pub relay: Option<String>,
    /// Where that relay says what it does (its `admin.listen`): processor time, drops and memory come from there
    #[arg(long, value_name = "ADDR:PORT", requires = "relay")]
    pub relay_status: Option<SocketAddr>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
    /// Draw throughput and delay over the number of subscribers into an SVG file: adds short runs with powers of two
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// This process has a network namespace of its own already
    #[arg(long, hide = true)]
    in_namespace: bool,
}

impl Args {
    fn io(&self) -> Io {
        self.io.unwrap_or_default()
    }

    fn workers(&self) -> usize {
        self.workers.unwrap_or(Workers::Fixed(1)).count()
    }

    /// What is asked of a relay that runs already must be in its own power.
    fn running(&self) -> Result<Option<RunningRelay>, Error> {
        let Some(relay) = &self.relay else { return Ok(None) };
        let wrong = |option, why| Err(Error::Usage(format!("{option} cannot go with --relay: {why}")));
        if self.sink == Sinking::Lab {
            return wrong("--sink lab", "the lab has a relay of its own, in a namespace of its own");
        }
        if self.io.is_some() {
            return wrong("--io", "that relay runs already; `superpeerd --io` or its configuration says how");
        }
        if self.workers.is_some() {
            return wrong(
                "--workers",
                "that relay runs already; `superpeerd --workers` or its configuration says how many",
            );
        }
        RunningRelay::find(relay, self.relay_status).map(Some)
    }
}

/// Where the relay's datagrams go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Sinking {
    /// Sockets on addresses of 127.0.0.0/8; the relay's core does the kernel's receiving too
    Loopback,
    /// Network namespaces (needs root, iproute2, nftables): dropped at the relay's device, but for some subscribers
    Lab,
}

impl Sinking {
    pub(super) fn name(self) -> &'static str {
        match self {
            Sinking::Loopback => "loopback",
            Sinking::Lab => "lab",
        }
    }
}

/// How many channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Channels {
    /// So many.
    Fixed(usize),
    /// As many as the relay carries.
    Auto,
}

const CHANNELS_MAX: usize = 500;

impl FromStr for Channels {
    type Err = String;

    fn from_str(text: &str) -> Result<Channels, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Channels::Auto),
            (_, Ok(count)) if (1..=CHANNELS_MAX).contains(&count) => Ok(Channels::Fixed(count)),
            _ => Err(format!("it must be `auto` or a number from 1 to {CHANNELS_MAX}")),
        }
    }
}

/// One run's load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Load {
    subscribers: u32,
    channels: usize,
    /// For how long it is measured.
    seconds: u32,
}

impl Load {
    fn subscriptions(self) -> usize {
        self.channels * self.subscribers as usize
    }
}

/// Subscriptions, of all channels together: some 100 bytes each here, and some 300 in the relay.
const SUBSCRIPTIONS_MAX: usize = 1_000_000;

/// Runs the command.
///
/// # Errors
/// When the relay does not start, or the load never gets going.
pub fn run(args: Args) -> Result<(), Error> {
    if let Channels::Fixed(channels) = args.channels {
        let load = Load { subscribers: args.subscribers, channels, seconds: args.seconds };
        let subscriptions = load.subscriptions();
        if subscriptions > SUBSCRIPTIONS_MAX {
            return Err(Error::Usage(format!(
                "{} subscribers of {channels} channels are {subscriptions} subscriptions; at most {SUBSCRIPTIONS_MAX} can be",
                args.subscribers
            )));
        }
    }
    let running = args.running()?;
    let chart = args.svg.as_deref().map(ChartFile::open).transpose()?;
    if args.sink == Sinking::Lab && !args.in_namespace {
        return Err(lab::enter("--in-namespace"));
    }
    let bench = Bench { interrupt: Interrupt::listen_quietly()?, running, args };
    let measured = match bench.args.channels {
        Channels::Fixed(channels) => bench.measure_channels(channels, bench.args.seconds)?,
        Channels::Auto => bench.search()?,
    };
    let points = if chart.is_some() { bench.sweep(&measured)? } else { Vec::new() };
    if bench.args.json {
        let mut found = measured.json();
        if !points.is_empty() {
            found["sweep"] = points.iter().map(sweep::Point::json).collect();
        }
        crate::error::print(&found.to_string())?;
    } else {
        measured.table().iter().try_for_each(|line| crate::error::print(line))?;
    }
    // Last: a full disk must not take away what was measured.
    chart.map_or(Ok(()), |chart| chart.write(&sweep::panels(&points, &measured)))?;
    measured.check()
}

/// How long a search looks at each number of channels.
const SEARCH_SECONDS: u32 = 2;

struct Bench {
    args: Args,
    /// The relay to measure, if it is not to be started.
    running: Option<RunningRelay>,
    interrupt: Interrupt,
}

impl Bench {
    fn measure_channels(&self, channels: usize, seconds: u32) -> Result<Measured, Error> {
        self.measure(Load { subscribers: self.args.subscribers, channels, seconds })
    }

    /// The greatest number of channels that is carried: up in steps by what the last one left of the core, then down by
    /// halves. The report is of that number, measured once more in full.
    fn search(&self) -> Result<Measured, Error> {
        let most = (SUBSCRIPTIONS_MAX / self.args.subscribers as usize).clamp(1, CHANNELS_MAX);
        let (mut carried, mut too_many, mut next) = (0, most + 1, 1);
        let mut last_good = None;
        loop {
            let measured = self.measure_channels(next, SEARCH_SECONDS.min(self.args.seconds))?;
            if self.interrupt.is_set() {
                return Ok(last_good.unwrap_or(measured));
            }
            let share = measured.relay_share().unwrap_or(0.0).max(0.01);
            if measured.is_carried() {
                carried = next;
                last_good = Some(measured);
            } else {
                too_many = next;
            }
            if too_many - carried <= 1 + carried / 16 {
                break;
            }
            next = if too_many > most {
                ((carried as f64 * (0.9 / share).clamp(1.1, 4.0)) as usize).clamp(carried + 1, most)
            } else {
                carried + (too_many - carried) / 2
            };
        }
        self.measure_in_full(carried.max(1))
    }

    /// What a search found in a short time may be too much for a longer one: then a channel less, and another.
    fn measure_in_full(&self, channels: usize) -> Result<Measured, Error> {
        let mut measured = self.measure_channels(channels, self.args.seconds)?;
        for fewer in (1..channels).rev().take(2) {
            if measured.is_carried() || self.interrupt.is_set() {
                break;
            }
            measured = self.measure_channels(fewer, self.args.seconds)?;
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_a_number_or_auto() {
        assert_eq!("auto".parse(), Ok(Channels::Auto));
        assert_eq!("500".parse(), Ok(Channels::Fixed(500)));
        for wrong in ["", "0", "501", "-1", "all"] {
            assert!(wrong.parse::<Channels>().unwrap_err().contains("1 to 500"), "{wrong}");
        }
    }
}
