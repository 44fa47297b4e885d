//! One run: a relay, its publishers and subscribers, from the first handshake to what was measured.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime};

use codec::ChannelSecret;
use codec::wire::control::Role;
use mesh::Anchor;

use super::board::{Board, Tally};
use super::child::{RelayProcess, Sample};
use super::copies::Arrived;
use super::publishers::{Published, publish};
use super::report::Measured;
use super::sealed::{ChunkPlan, Sealed};
use super::sessions::Sessions;
use super::subscribers::{Receiving, subscribe};
use super::{Bench, Load, Sinking, lab};
use crate::Error;
use crate::bench::limit::drain;
use crate::bench::sink::{Sink, socket_drops};
use crate::bench::{Destinations, LOOPBACK, LOOPBACK_PUBLISHERS};
use crate::contact::say;

/// How long the stream runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// Everybody is connected after this time and 1 ms for each subscription, or something is wrong.
const CONNECT_MAX: Duration = Duration::from_secs(15);

/// Sealed ahead beyond the measured time: what passes before it begins and, as samples come once a second, after it.
const SEALED_BEYOND: Duration = Duration::from_secs(5);

/// At most so many subscribers on loopback have every byte checked.
const CHECKED_MAX: u32 = 32;

impl Bench {
    /// One run from an empty relay to the report.
    pub(super) fn measure(&self, load: Load) -> Result<Measured, Error> {
        let Load { subscribers, channels, seconds } = load;
        let lab_stride = (self.args.sink == Sinking::Lab).then(|| lab::stride(subscribers, channels));
        let (io, workers) = (self.args.io, self.args.workers.count());
        let relay = RelayProcess::start(channels, load.subscriptions(), io, workers, lab_stride)?;
        let clock = Anchor::new(SystemTime::now(), Instant::now());
        let sealed = Sealed::new(
            (0..channels).map(secret).collect(),
            ChunkPlan::new(self.args.bitrate),
            Duration::from_secs(seconds.into()) + SEALED_BEYOND,
            clock.time_at(Instant::now()),
            || self.interrupt.is_set(),
        )?;
        let receiving = Receiving {
            stride: lab_stride.unwrap_or(1),
            checked_stride: lab_stride.unwrap_or(subscribers.div_ceil(CHECKED_MAX)),
        };
        let mut sink = Sink::open(subscribers, Some(receiving.checked_stride))?;
        let destinations = sink.destinations(self.addresses().0, subscribers);
        let board = Board::default();
        let run = Run {
            bench: self,
            relay: &relay,
            board: &board,
            load,
            receiving,
            sealed: &sealed,
            clock,
            subscribers: &destinations,
        };
        let (span, published, arrived) = run.all(&mut sink)?;
        let (probe, uses_io_uring) = (relay.probe.clone(), relay.uses_io_uring);
        let train = (span.train_mean().round() as usize).clamp(1, codec::MAX_SHARDS);
        let limit_gbps = limit(relay, &mut sink, train, &destinations)?;
        Ok(Measured {
            load,
            workers,
            sink: self.args.sink,
            receivers: receiving.counts(subscribers).0,
            bits_per_second: self.args.bitrate.bits_per_second,
            probe,
            uses_io_uring,
            span,
            published,
            arrived,
            limit_gbps,
        })
    }

    /// The first subscriber's and the first publisher's.
    fn addresses(&self) -> (std::net::Ipv4Addr, std::net::Ipv4Addr) {
        match self.args.sink {
            Sinking::Loopback => (LOOPBACK, LOOPBACK_PUBLISHERS),
            Sinking::Lab => (lab::SUBSCRIBERS, lab::PUBLISHERS),
        }
    }
}

/// Every run has the same channels: nobody but its own relay hears of them.
fn secret(number: usize) -> ChannelSecret {
    let mut seed = [0xbe; 32];
    seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
    ChannelSecret::from_seed(&seed)
}

/// Stops the relay; returns Gbit/s of the bare kernel in its place, into the same sink.
fn limit(
    relay: RelayProcess,
    sink: &mut Sink,
    train: usize,
    destinations: &Destinations,
) -> Result<f64, Error> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| drain(sink, &over, &Default::default()));
        let limit = relay.limit(train, destinations);
        over.store(true, Ordering::Release);
        limit
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T, Error>>) -> Result<T, Error> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Ends the other threads however this one ends.
struct OverAtEnd<'b>(&'b Board);

impl Drop for OverAtEnd<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

/// What was counted between two samples of the relay.
pub(super) struct Span {
    pub(super) samples: [Sample; 2],
    pub(super) tallies: [Tally; 2],
    /// Messages that found a subscriber's socket full.
    pub(super) sink_drops: u64,
    /// What the relay had allocated before there was a subscriber, and once all were there, bytes.
    pub(super) heap_bytes: [u64; 2],
    pub(super) interrupted: bool,
}

impl Span {
    pub(super) fn between(&self, count: impl Fn(&Sample) -> u64) -> u64 {
        count(&self.samples[1]).saturating_sub(count(&self.samples[0]))
    }

    /// Datagrams per train.
    pub(super) fn train_mean(&self) -> f64 {
        let trains = self.between(|sample| sample.trains_sent);
        self.between(|sample| sample.shards_sent) as f64 / trains.max(1) as f64
    }
}

/// One run, once what it needs is there.
struct Run<'r> {
    bench: &'r Bench,
    relay: &'r RelayProcess,
    board: &'r Board,
    load: Load,
    receiving: Receiving,
    sealed: &'r Sealed,
    clock: Anchor,
    subscribers: &'r Destinations,
}

impl Run<'_> {
    /// Connects everybody, publishes and measures.
    fn all(&self, sink: &mut Sink) -> Result<(Span, Published, Arrived), Error> {
        let Run { load: Load { channels, .. }, board, sealed, clock, receiving, .. } = *self;
        let publishers_sink = Sink::open(channels as u32, None)?;
        let publishers = publishers_sink.destinations(self.bench.addresses().1, channels as u32);
        let relay = self.relay.address;
        thread::scope(|scope| {
            let _over = OverAtEnd(board);
            let sessions = Sessions::new(Role::Publish, relay, publishers, sealed.secrets());
            let publishing = scope.spawn(move || publish(publishers_sink, sessions, sealed, clock, board));
            self.wait_for("the publishers", channels, || board.publishers.load(Ordering::Acquire))?;
            let empty = self.fresh_sample()?;
            let sessions = Sessions::new(Role::Subscribe, relay, self.subscribers.clone(), sealed.secrets());
            let subscribing = scope.spawn(move || subscribe(sink, sessions, receiving, sealed, clock, board));
            let all = self.load.subscriptions();
            let span = self
                .wait_for("the subscribers", all, || board.subscriptions.load(Ordering::Acquire))
                .and_then(|()| self.stream(&empty));
            board.over.store(true, Ordering::Release);
            let (published, arrived) = (join(publishing)?, join(subscribing)?);
            let span = span?;
            if published.ran_out && !span.interrupted {
                let what = "the relay did not say often enough what it had counted".to_owned();
                return Err(Error::BenchStuck { what, seconds: sealed.due(sealed.places()).as_secs() });
            }
            Ok((span, published, arrived))
        })
    }

    fn wait_for(&self, whom: &str, count: usize, there: impl Fn() -> usize) -> Result<(), Error> {
        let limit = CONNECT_MAX + Duration::from_millis(count as u64);
        let give_up_at = Instant::now() + limit;
        while there() < count && !self.bench.interrupt.is_set() {
            if Instant::now() > give_up_at {
                let what = format!("{} of {count} of {whom}' sessions were granted", there());
                return Err(Error::BenchStuck { what, seconds: limit.as_secs() });
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// A sample that was taken after this call.
    fn fresh_sample(&self) -> Result<Sample, Error> {
        self.relay.skip_samples()?;
        self.relay.sample()?;
        self.relay.sample()
    }

    /// Publishes, and measures from one sample of the relay to another.
    fn stream(&self, empty: &Sample) -> Result<Span, Error> {
        let full = self.fresh_sample()?;
        self.board.go.store(true, Ordering::Release);
        thread::sleep(WARM_UP);
        self.relay.skip_samples()?;
        let first = self.relay.sample()?;
        let ports = self.subscribers.all_ports();
        let (tally, drops) = (self.board.tally(), socket_drops(&ports));
        self.board.from_us.store(first.at_us, Ordering::Release);
        let mut last = first.clone();
        // Samples come a little more than a second apart.
        let enough_us = u64::from(self.load.seconds) * 1_000_000 - 100_000;
        while last.at_us - first.at_us < enough_us {
            let sample = self.relay.sample()?;
            self.show(&last, &sample);
            last = sample;
            if self.bench.interrupt.is_set() {
                break;
            }
        }
        self.board.until_us.store(last.at_us, Ordering::Release);
        let tallies = [tally, self.board.tally()];
        // What is on its way still reaches its socket.
        thread::sleep(Duration::from_millis(100));
        Ok(Span {
            samples: [first, last],
            tallies,
            sink_drops: socket_drops(&ports).saturating_sub(drops),
            heap_bytes: [empty.heap_bytes, full.heap_bytes],
            interrupted: self.bench.interrupt.is_set(),
        })
    }

    /// A line a second, only for a person.
    fn show(&self, before: &Sample, now: &Sample) {
        if !io::stderr().is_terminal() {
            return;
        }
        let seconds = (now.at_us - before.at_us) as f64 / 1e6;
        let busy = now.workers.iter().zip(&before.workers).map(|(now, before)| now.cpu_us - before.cpu_us);
        say(&format!(
            "{:>6} subscribers x {:>3} channels {:>8.2} Gbit/s {:>6.1} % of the busiest worker's core {:>6} late trains",
            self.load.subscribers,
            self.load.channels,
            (now.bytes_sent - before.bytes_sent) as f64 * 8e-9 / seconds,
            busy.max().unwrap_or(0) as f64 / 1e4 / seconds,
            now.jobs_skipped - before.jobs_skipped
        ));
    }
}
