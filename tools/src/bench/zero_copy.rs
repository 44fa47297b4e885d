//! `superpeer bench zero-copy`: from which length on a train is better sent without a copy.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use codec::{DATAGRAM_BYTES, MAX_SHARDS};
use mesh::{Memory, Outbox, SLOT_BYTES, SlotIndex};
use relay::budget::BATCH_MESSAGES;
use relay::plane::{Io, Plane};
use relay::uring::SlotMemory;
use serde_json::{Value, json};

use super::relay::{Sinking, lab};
use super::sink::{At, Sink};
use super::{DESTINATIONS_MAX, Destinations, LOOPBACK, device, limit, rounded, thread_cpu};
use crate::Error;
use crate::interrupt::Interrupt;

/// Measure from which length on trains are better sent without a copy
///
/// Sends trains of 1 to 48 datagrams to many addresses, copied and not copied in turn, through a device that takes
/// everything. Says which `zero_copy_from_bytes` suits this machine. Over loopback the kernel always copies.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  sudo superpeer bench zero-copy
  superpeer bench zero-copy --sink loopback --json")]
pub struct Args {
    /// How many addresses to send to in turn (1 to 65536)
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(DESTINATIONS_MAX)))]
    pub destinations: u32,
    /// How long to measure each of the 13 lengths, in seconds (0.01 to 60)
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = limit::seconds)]
    pub seconds: f64,
    /// Where the datagrams go
    #[arg(long, value_name = "SINK", value_enum, default_value = "lab")]
    pub sink: Sinking,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
    /// This process has a network namespace of its own already
    #[arg(long, hide = true)]
    in_namespace: bool,
}

/// How long one way is measured before the other has its turn: both meet the same machine.
const TURN: Duration = Duration::from_millis(5);

/// Slots that are sent from in turn.
const SLOTS: usize = 64;

/// Not copying has to take this much of the time that copying takes, or less, to be worth the pinned memory.
const WIN: f64 = 0.95;

/// Runs the command.
///
/// # Errors
/// When the system gives no namespace, socket, ring or thread.
pub fn run(args: Args) -> Result<(), Error> {
    if args.sink == Sinking::Lab && !args.in_namespace {
        return Err(lab::enter("--in-namespace"));
    }
    let interrupt = Interrupt::listen_quietly()?;
    let rows = match args.sink {
        Sinking::Lab => {
            device::set_up()?;
            measure(&args, device::FROM, &device::destinations(args.destinations), &interrupt)?
        }
        Sinking::Loopback => {
            let mut sink = Sink::open(At::From(LOOPBACK), args.destinations, None)?;
            let destinations = sink.destinations().clone();
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| limit::drain(&mut sink, &over, &Default::default()));
                let rows = measure(&args, Ipv4Addr::LOCALHOST, &destinations, &interrupt);
                over.store(true, Ordering::Release);
                rows
            })?
        }
    };
    let verdict = Verdict::of(&rows);
    if args.json {
        let whole = json!({
            "destinations": args.destinations, "sink": args.sink.name(),
            "trains": rows.iter().map(Row::json).collect::<Vec<_>>(), "zero_copy_from_bytes": verdict.threshold_bytes(),
            "verdict": verdict.text(),
        });
        return crate::error::print(&whole.to_string());
    }
    crate::error::print("train   bytes   µs copied   µs not copied   ratio   copied all the same")?;
    rows.iter().try_for_each(|row| crate::error::print(&row.line()))?;
    crate::error::print(&verdict.text())
}

/// What was found for one length; times are medians of the turns.
#[derive(Clone, Copy, Debug)]
struct Row {
    train: usize,
    copying_us: f64,
    zero_copy_us: f64,
    /// Of the second to the first, the median of the ratios of neighbouring turns.
    ratio: f64,
    /// The share of what was not to be copied that was.
    copied: f64,
}

impl Row {
    fn bytes(&self) -> usize {
        self.train * DATAGRAM_BYTES
    }

    fn json(&self) -> Value {
        json!({
            "train": self.train, "bytes": self.bytes(), "copying_us": rounded(self.copying_us),
            "zero_copy_us": rounded(self.zero_copy_us), "ratio": rounded(self.ratio), "copied": rounded(self.copied),
        })
    }

    fn line(&self) -> String {
        let Row { train, copying_us, zero_copy_us, ratio, copied } = self;
        let (bytes, copied) = (self.bytes(), copied * 100.0);
        format!("{train:>5}{bytes:>8}{copying_us:>12.2}{zero_copy_us:>16.2}{ratio:>8.2}{copied:>20.0} %")
    }
}

/// What follows from the rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    From(usize),
    Never,
    /// The kernel copied, so nothing was compared.
    Copied,
}

impl Verdict {
    fn of(rows: &[Row]) -> Verdict {
        if rows.iter().map(|row| row.copied).sum::<f64>() > 0.5 * rows.len() as f64 {
            return Verdict::Copied;
        }
        // The shortest from which on it wins and keeps winning.
        let winning = rows.iter().rev().take_while(|row| row.ratio <= WIN);
        winning.last().map_or(Verdict::Never, |row| Verdict::From(row.bytes()))
    }

    fn threshold_bytes(self) -> Option<usize> {
        match self {
            Verdict::From(bytes) => Some(bytes),
            Verdict::Never => Some(0),
            Verdict::Copied => None,
        }
    }

    fn text(self) -> String {
        match self {
            Verdict::From(bytes) => {
                format!("not copying wins from {bytes} bytes on: zero_copy_from_bytes = {bytes}")
            }
            Verdict::Never => "not copying wins nowhere here: zero_copy_from_bytes = 0".to_owned(),
            Verdict::Copied => {
                "the kernel copied all the same, as it always does over loopback: this says nothing \
                                of a network device; --sink lab (root) does"
                    .to_owned()
            }
        }
    }
}

fn measure(
    args: &Args,
    from: Ipv4Addr,
    destinations: &Destinations,
    interrupt: &Interrupt,
) -> Result<Vec<Row>, Error> {
    let no_memory = |error| Error::System("cannot map slot memory", error);
    let mut slots = SlotMemory::map(SLOTS).map_err(no_memory)?;
    // What was never written is one page of zeros, many times.
    slots.bytes_mut(0..SLOTS * SLOT_BYTES).fill(0xa5);
    let mut copying = Sender::open(from, &slots, 0)?;
    let mut zero_copy = Sender::open(from, &slots, 1)?;
    let lengths = (1..=MAX_SHARDS).filter(|train| *train == 1 || train % 4 == 0);
    let duration = Duration::from_secs_f64(args.seconds);
    let mut rows = Vec::new();
    for train in lengths {
        if interrupt.is_set() {
            break;
        }
        rows.push(compare(&mut copying, &mut zero_copy, destinations, train, duration));
    }
    Ok(rows)
}

fn compare(
    copying: &mut Sender,
    zero_copy: &mut Sender,
    destinations: &Destinations,
    train: usize,
    duration: Duration,
) -> Row {
    let before = *zero_copy.plane.counters();
    let (mut copied, mut not_copied, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    while ratios.is_empty() || start.elapsed() < duration {
        let pair = (copying.turn(destinations, train), zero_copy.turn(destinations, train));
        copied.push(pair.0);
        not_copied.push(pair.1);
        ratios.push(pair.1 / pair.0);
    }
    let after = zero_copy.plane.counters();
    let (in_vain, well) =
        (after.copied_bytes - before.copied_bytes, after.zero_copy_bytes - before.zero_copy_bytes);
    Row {
        train,
        copying_us: median(copied),
        zero_copy_us: median(not_copied),
        ratio: median(ratios),
        copied: in_vain as f64 / (in_vain + well).max(1) as f64,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Sender {
    plane: Plane,
    outbox: Outbox,
    sent: usize,
}

impl Sender {
    fn open(from: Ipv4Addr, slots: &SlotMemory, zero_copy_from_bytes: u32) -> Result<Sender, Error> {
        let opened = Plane::open(Io::Uring, (from, 0).into(), slots.region(), zero_copy_from_bytes);
        let plane = opened.map_err(relay::StartError::from)?;
        Ok(Sender { plane, outbox: Outbox::new(BATCH_MESSAGES), sent: 0 })
    }

    /// Sends for one turn; returns µs of processor time per send.
    fn turn(&mut self, destinations: &Destinations, train: usize) -> f64 {
        let sends = self.plane.counters().trains_sent;
        let (start, cpu) = (Instant::now(), thread_cpu());
        while start.elapsed() < TURN {
            self.outbox.clear();
            for number in self.sent..self.sent + BATCH_MESSAGES {
                // A slot for a round of all destinations.
                let count = destinations.count as usize;
                let slot = SlotIndex(((number / count) % SLOTS) as u32);
                let to = destinations.address((number % count) as u32);
                self.outbox.push_train(to.into(), slot, 0, train);
            }
            self.sent += BATCH_MESSAGES;
            self.plane.transmit(&self.outbox);
        }
        let sends = self.plane.counters().trains_sent - sends;
        thread_cpu().saturating_sub(cpu).as_secs_f64() * 1e6 / sends.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ratios: &[f64], copied: f64) -> Vec<Row> {
        let row = |(at, ratio): (usize, &f64)| Row {
            train: at + 1,
            copying_us: 1.0,
            zero_copy_us: *ratio,
            ratio: *ratio,
            copied,
        };
        ratios.iter().enumerate().map(row).collect()
    }

    #[test]
    fn the_threshold_is_where_it_wins_and_keeps_winning() {
        let bytes = |train: usize| train * DATAGRAM_BYTES;
        let cases: [(&[f64], Verdict); 4] = [
            (&[1.2, 0.9, 1.0, 0.94, 0.7], Verdict::From(bytes(4))),
            (&[0.9, 0.8], Verdict::From(bytes(1))),
            (&[0.5, 0.96], Verdict::Never),
            (&[], Verdict::Never),
        ];
        for (ratios, expected) in cases {
            assert_eq!(Verdict::of(&rows(ratios, 0.1)), expected, "{ratios:?}");
        }
    }

    #[test]
    fn where_the_kernel_copies_nothing_follows() {
        let verdict = Verdict::of(&rows(&[0.5, 0.5], 1.0));
        assert_eq!((verdict, verdict.threshold_bytes()), (Verdict::Copied, None));
        assert!(verdict.text().contains("loopback"));
    }
}
