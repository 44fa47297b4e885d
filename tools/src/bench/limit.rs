//! `superpeer bench limit`: the bare kernel.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use codec::DATAGRAM_BYTES;
use mesh::{Memory, Outbox, SLOT_BYTES, SlotIndex};
use relay::budget::BATCH_MESSAGES;
use relay::plane::{Io, Plane};
use relay::uring::SlotMemory;
use serde_json::{Value, json};

use super::relay::{Sinking, lab};
use super::sink::{At, Sink, socket_drops};
use super::{DESTINATIONS_MAX, Destinations, LOOPBACK, device, rounded, thread_cpu, wire_bytes};
use crate::Error;
use crate::chart::{ChartFile, Line, Panel, Scale};
use crate::interrupt::Interrupt;

/// Measure the bare kernel: what one core can send, with no relay around it
///
/// Sends trains of 1 to 48 datagrams to many addresses, as the relay does (io_uring, trains segmented by the kernel) and
/// by sendmmsg, into the same sink; in the lab also without a copy, which loopback does not know. Rates are per second of
/// the sending thread's processor time; on loopback, that includes the kernel's work on the receiving side.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  superpeer bench limit --destinations 1000 --seconds 1 --svg limit.svg")]
pub struct Args {
    /// How many addresses to send to in turn (1 to 65536)
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(DESTINATIONS_MAX)))]
    pub destinations: u32,
    /// How long to measure each line, in seconds (0.01 to 60)
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    pub seconds: f64,
    /// Draw Gbit/s over the length of trains into an SVG file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Where the datagrams go
    #[arg(long, value_name = "SINK", value_enum, default_value = "loopback")]
    pub sink: Sinking,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
    /// This process has a network namespace of its own already
    #[arg(long, hide = true)]
    in_namespace: bool,
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|seconds| (0.01..=60.0).contains(seconds));
    number.ok_or_else(|| "it must be a number from 0.01 to 60".to_owned())
}

/// How long the bare kernel is measured beside a relay. On a machine that others use, a core was a quarter faster now and then, for
/// half a second to a second: a measurement has to be longer.
pub(super) const BESIDE_RELAY: Duration = Duration::from_secs(3);

/// Datagrams per send.
const TRAINS: [usize; 5] = [1, 4, 16, 32, 48];

/// A way to send, and its name in the table.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) io: Io,
    pub(super) zero_copy_from_bytes: u32,
}

/// The second is for the lab only.
const WAYS: [Way; 3] = [
    Way { name: "io_uring", io: Io::Uring, zero_copy_from_bytes: 0 },
    Way { name: "zero-copy", io: Io::Uring, zero_copy_from_bytes: 1 },
    Way { name: "sendmmsg", io: Io::Mmsg, zero_copy_from_bytes: 0 },
];

/// Slots that are sent from in turn, one for a round of all destinations.
const SLOTS: usize = 64;

/// Runs the command.
///
/// # Errors
/// When the system gives no socket, ring or thread.
pub fn run(args: Args) -> Result<(), Error> {
    if args.sink == Sinking::Lab && !args.in_namespace {
        return Err(lab::enter("--in-namespace"));
    }
    let chart = args.svg.as_deref().map(ChartFile::open).transpose()?;
    let interrupt = Interrupt::listen_quietly()?;
    let mut drops = 0;
    let (over, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let rows = match args.sink {
        Sinking::Lab => {
            device::set_up()?;
            measure(&args, device::FROM, &device::destinations(args.destinations), &interrupt)?
        }
        Sinking::Loopback => {
            let mut sink = Sink::open(At::From(LOOPBACK), args.destinations, None)?;
            let destinations = sink.destinations().clone();
            let rows = thread::scope(|scope| {
                scope.spawn(|| drain(&mut sink, &over, &received));
                let rows = measure(&args, Ipv4Addr::LOCALHOST, &destinations, &interrupt);
                over.store(true, Ordering::Release);
                rows
            })?;
            drops = socket_drops(&destinations.all_ports());
            rows
        }
    };
    // First what a full disk must not take away.
    print(&args, &rows, received.into_inner(), drops)?;
    chart.map_or(Ok(()), |chart| chart.write(&[panel(&args, &rows)]))
}

fn print(args: &Args, rows: &[(&'static str, Pace)], received: u64, drops: u64) -> Result<(), Error> {
    if args.json {
        let rows: Vec<Value> = rows.iter().map(|(io, pace)| pace.json(io)).collect();
        let whole = json!({
            "destinations": args.destinations, "sink": args.sink.name(), "limits": rows,
            "datagrams_received": received, "messages_dropped_by_sink": drops,
        });
        return crate::error::print(&whole.to_string());
    }
    crate::error::print("io          train   µs per send   datagrams/s   Gbit/s   (one core, on the wire)")?;
    rows.iter().try_for_each(|(io, pace)| crate::error::print(&pace.line(io)))
}

fn measure(
    args: &Args,
    from: Ipv4Addr,
    destinations: &Destinations,
    interrupt: &Interrupt,
) -> Result<Vec<(&'static str, Pace)>, Error> {
    let duration = Duration::from_secs_f64(args.seconds);
    let mut rows = Vec::new();
    // In turn, so that both meet the same machine.
    for train in TRAINS {
        if interrupt.is_set() {
            break;
        }
        for way in WAYS {
            if way.zero_copy_from_bytes == 0 || args.sink == Sinking::Lab {
                rows.push((way.name, by_plane(way, from, destinations, train, duration)?));
            }
        }
    }
    rows.sort_by_key(|(io, pace)| (*io, pace.train));
    Ok(rows)
}

fn panel(args: &Args, rows: &[(&'static str, Pace)]) -> Panel {
    let line = |name: &'static str| {
        let own = rows.iter().filter(|(io, _)| *io == name);
        let points = own.map(|(_, pace)| (pace.train as f64, pace.gbps())).collect();
        Line { name: name.to_owned(), known: false, points }
    };
    Panel {
        title: format!("The bare kernel on loopback: one core to {} destinations", args.destinations),
        across: "datagrams of 1232 bytes per train",
        up: "Gbit/s on the wire per core",
        scale: Scale::Log,
        lines: vec![line("io_uring"), line("sendmmsg")],
    }
}

pub(super) fn drain(sink: &mut Sink, over: &AtomicBool, received: &AtomicU64) {
    while !over.load(Ordering::Acquire) {
        let mut datagrams = 0;
        // A sink that fails receives nothing more, which the count shows.
        let _ = sink.receive(Duration::from_millis(10), |arrival| datagrams += arrival.datagrams());
        received.fetch_add(datagrams, Ordering::Relaxed);
    }
}

/// How fast it went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    train: usize,
    sends: u64,
    cpu: Duration,
}

impl Pace {
    fn micros_per_send(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / (self.sends.max(1)) as f64
    }

    fn datagrams_per_second(&self) -> f64 {
        (self.sends * self.train as u64) as f64 / self.cpu.as_secs_f64().max(1e-9)
    }

    /// On the wire, per second of processor time.
    pub(super) fn gbps(&self) -> f64 {
        let bytes = wire_bytes(DATAGRAM_BYTES as u64, 1) as f64;
        self.datagrams_per_second() * bytes * 8.0 / 1e9
    }

    fn json(&self, io: &str) -> Value {
        json!({
            "io": io, "train": self.train, "sends": self.sends, "cpu_s": self.cpu.as_secs_f64(),
            "us_per_send": rounded(self.micros_per_send()),
            "datagrams_per_s": self.datagrams_per_second().round(), "gbps": rounded(self.gbps()),
        })
    }

    fn line(&self, io: &str) -> String {
        let (micros, datagrams) = (self.micros_per_send(), self.datagrams_per_second());
        format!("{io:<11}{:>6}{micros:>14.2}{datagrams:>14.0}{:>9.1}", self.train, self.gbps())
    }
}

/// By a plane as the relay's, from an address of this machine.
pub(super) fn by_plane(
    way: Way,
    from: Ipv4Addr,
    destinations: &Destinations,
    train: usize,
    duration: Duration,
) -> Result<Pace, Error> {
    let no_memory = |error| Error::System("cannot map slot memory", error);
    let mut slots = SlotMemory::map(SLOTS).map_err(no_memory)?;
    // What was never written is one page of zeros, many times.
    slots.bytes_mut(0..SLOTS * SLOT_BYTES).fill(0xa5);
    let opened = Plane::open(way.io, (from, 0).into(), slots.region(), way.zero_copy_from_bytes);
    let mut plane = opened.map_err(relay::StartError::from)?;
    let mut outbox = Outbox::new(BATCH_MESSAGES);
    let rounds = (0..SLOTS as u32).cycle();
    let mut messages = rounds.flat_map(|slot| destinations.iter().map(move |to| (to, SlotIndex(slot))));
    let (start, cpu) = (Instant::now(), thread_cpu());
    while start.elapsed() < duration {
        outbox.clear();
        for (to, slot) in messages.by_ref().take(BATCH_MESSAGES) {
            outbox.push_train(to, slot, 0, train);
        }
        plane.transmit(&outbox);
    }
    Ok(Pace { train, sends: plane.counters().trains_sent, cpu: thread_cpu().saturating_sub(cpu) })
}
