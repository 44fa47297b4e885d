//! `superpeer bench`: what this machine can carry.
//!
//! It measures on loopback, in network namespaces of its own, or a relay that runs already, and ends by itself. Processor time is that of the thread which does the work, so that
//! what else runs on the machine spoils the figures as little as possible.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::Error;

pub mod codec;
mod device;
pub mod limit;
pub mod relay;
mod sink;
pub mod zero_copy;

/// Measure what this machine can carry
///
/// Nothing leaves this machine, but for `bench relay --relay`. A machine that does other work at the same time gives lower figures.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  superpeer bench limit
  superpeer bench relay --subscribers 1000 --channels auto --json
  sudo superpeer bench zero-copy
  superpeer bench codec")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Limit(limit::Args),
    Relay(relay::Args),
    Codec(codec::Args),
    ZeroCopy(zero_copy::Args),
    #[command(hide = true)]
    RelayChild(relay::child::Args),
}

/// Runs the command.
///
/// # Errors
/// When the system does not give what is needed, or the load never gets going.
pub fn run(args: Args) -> Result<(), Error> {
    match args.command {
        Command::Limit(args) => limit::run(args),
        Command::Relay(args) => relay::run(args),
        Command::Codec(args) => codec::run(args),
        Command::ZeroCopy(args) => zero_copy::run(args),
        Command::RelayChild(args) => relay::child::run(args),
    }
}

/// Processor time of the calling thread.
fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Addresses of many subscribers or publishers: one after the other, and spread over the ports of their [`sink::Sink`]; or
/// a port for each.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Destinations {
    first: Ipv4Addr,
    count: u32,
    /// All have the first address, and each a port of its own.
    one_address: bool,
    ports: Vec<u16>,
    sample: Option<Sample>,
}

/// One destination in `stride` has one of these ports, where every byte is looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sample {
    stride: u32,
    ports: Vec<u16>,
}

/// The most destinations: what fits a /16.
const DESTINATIONS_MAX: u32 = 65_536;

/// The first subscriber on loopback, and the first publisher. Any Linux takes all of 127.0.0.0/8 for its own.
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);
const LOOPBACK_PUBLISHERS: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 0);

impl Destinations {
    fn address(&self, number: u32) -> SocketAddrV4 {
        let sample = self.sample.as_ref().filter(|sample| number.is_multiple_of(sample.stride));
        let port = match sample {
            Some(Sample { stride, ports }) => ports[(number / stride) as usize % ports.len()],
            None => self.ports[number as usize % self.ports.len()],
        };
        let places_on = if self.one_address { 0 } else { number };
        SocketAddrV4::new(Ipv4Addr::from(u32::from(self.first) + places_on), port)
    }

    /// Every port that is listened on.
    fn all_ports(&self) -> Vec<u16> {
        let sampled = self.sample.iter().flat_map(|sample| &sample.ports);
        self.ports.iter().chain(sampled).copied().collect()
    }

    /// The one that has this address, if each has one of its own.
    fn number(&self, address: Ipv4Addr) -> Option<u32> {
        u32::from(address).checked_sub(u32::from(self.first)).filter(|number| *number < self.count)
    }

    fn iter(&self) -> impl Iterator<Item = SocketAddr> + Clone {
        (0..self.count).map(|number| self.address(number).into())
    }
}

/// Bytes on the wire of a datagram with so much payload: IPv4 and UDP headers are 28.
fn wire_bytes(payload: u64, datagrams: u64) -> u64 {
    payload + 28 * datagrams
}

/// To three digits after the point: what is finer is noise.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
