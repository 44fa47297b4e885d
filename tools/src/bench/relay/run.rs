//! One run: a relay, its publishers and subscribers, from the first handshake to what was measured.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use codec::ChannelSecret;

use super::board::Board;
use super::child::{RelayProcess, Sample};
use super::copies::Copies;
use super::publishers::{ChunkPlan, publish};
use super::report::Measured;
use super::subscribers::subscribe;
use super::{Bench, Sinking, lab};
use crate::Error;
use crate::bench::limit::drain;
use crate::bench::sink::{Sink, socket_drops};
use crate::bench::{Destinations, LOOPBACK};
use crate::contact::say;

/// How long the stream runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// Everybody is connected after this time and 1 ms for each subscription, or something is wrong.
const CONNECT_MAX: Duration = Duration::from_secs(15);

impl Bench {
    /// One run from an empty relay to the report.
    pub(super) fn measure(&self, channels: usize, seconds: u32) -> Result<Measured, Error> {
        let subscribers = self.args.subscribers;
        let (first, lab_stride) = match self.args.sink {
            Sinking::Loopback => (LOOPBACK, None),
            Sinking::Lab => (lab::SUBSCRIBERS, Some(lab::stride(subscribers))),
        };
        let stride = lab_stride.unwrap_or(1);
        let relay = RelayProcess::start(channels, channels * subscribers as usize, self.args.io, lab_stride)?;
        let mut sink = Sink::open(subscribers)?;
        let destinations = sink.destinations(first, subscribers);
        warm_buffers(&sink, &relay, &destinations);
        let secrets: Vec<ChannelSecret> = (0..channels).map(secret).collect();
        let keys: Vec<_> = secrets.iter().map(ChannelSecret::key).collect();
        let plan = ChunkPlan::new(self.args.bitrate);
        let (board, address) = (Board::default(), relay.address);
        let run =
            Run { bench: self, relay: &relay, board: &board, channels, stride, ports: &destinations.ports };
        let mut measured = thread::scope(|scope| {
            let _over = OverAtEnd(&board);
            let publishers = scope.spawn(|| publish(secrets, address.into(), plan, &board));
            run.wait_for("the publishers' sessions", channels, || board.publishers.load(Ordering::Acquire))?;
            let empty = run.fresh_sample()?;
            let all = channels * subscribers as usize;
            let for_sink = destinations.clone();
            let (sink, board) = (&mut sink, &board);
            let subscribing = scope.spawn(move || subscribe(sink, for_sink, stride, keys, address, board));
            let found = run
                .wait_for("the subscribers' sessions", all, || board.subscriptions.load(Ordering::Acquire))
                .and_then(|()| run.stream(seconds, &empty));
            board.over.store(true, Ordering::Release);
            join(publishers)?;
            let delays = join(subscribing)?;
            found.map(|measured| Measured { delays, ..measured })
        })?;
        let train = (measured.train_mean().round() as usize).clamp(1, codec::MAX_SHARDS);
        let over = AtomicBool::new(false);
        measured.limit_gbps = thread::scope(|scope| {
            scope.spawn(|| drain(&mut sink, &over, &Default::default()));
            let limit = relay.limit(train, &destinations);
            over.store(true, Ordering::Release);
            limit
        })?;
        Ok(measured)
    }
}

/// Every run has the same channels: nobody but its own relay hears of them.
fn secret(number: usize) -> ChannelSecret {
    let mut seed = [0xbe; 32];
    seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
    ChannelSecret::from_seed(&seed)
}

/// The relay's receive buffers become real memory one by one as they are used: before it is asked how much memory a
/// subscriber takes, each is used once, by a datagram that the relay drops.
fn warm_buffers(sink: &Sink, relay: &RelayProcess, destinations: &Destinations) {
    for number in 0..1_024 {
        sink.send(destinations.address(number % destinations.count), relay.address, &[0]);
        if number % 64 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
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

/// One run, once its threads are there.
struct Run<'r> {
    bench: &'r Bench,
    relay: &'r RelayProcess,
    board: &'r Board,
    channels: usize,
    stride: u32,
    ports: &'r [u16],
}

impl Run<'_> {
    fn wait_for(&self, what: &str, count: usize, there: impl Fn() -> usize) -> Result<(), Error> {
        let limit = CONNECT_MAX + Duration::from_millis(count as u64);
        let give_up_at = Instant::now() + limit;
        while there() < count && !self.bench.interrupt.is_set() {
            if Instant::now() > give_up_at {
                let what = format!("{} of {count} of {what} were granted", there());
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
    fn stream(&self, seconds: u32, empty: &Sample) -> Result<Measured, Error> {
        let full = self.fresh_sample()?;
        self.board.go.store(true, Ordering::Release);
        thread::sleep(WARM_UP);
        self.relay.skip_samples()?;
        let first = self.relay.sample()?;
        let before = (self.board.tally(), socket_drops(self.ports));
        self.board.from_us.store(first.at_us, Ordering::Release);
        let mut last = first.clone();
        // Samples come a little more than a second apart.
        let enough_us = u64::from(seconds) * 1_000_000 - 100_000;
        while last.at_us - first.at_us < enough_us {
            let sample = self.relay.sample()?;
            self.show(&last, &sample);
            last = sample;
            if self.bench.interrupt.is_set() {
                break;
            }
        }
        self.board.until_us.store(last.at_us, Ordering::Release);
        let tallies = [before.0, self.board.tally()];
        // What is on its way still reaches its socket.
        thread::sleep(Duration::from_millis(100));
        Ok(Measured {
            subscribers: self.bench.args.subscribers,
            channels: self.channels,
            sink: self.bench.args.sink,
            receivers: self.bench.args.subscribers.div_ceil(self.stride),
            bits_per_second: self.bench.args.bitrate.bits_per_second,
            interrupted: self.bench.interrupt.is_set(),
            probe: self.relay.probe.clone(),
            uses_io_uring: self.relay.uses_io_uring,
            samples: [first, last],
            tallies,
            sink_drops: [before.1, socket_drops(self.ports)],
            rss_bytes: [empty.rss_bytes, full.rss_bytes],
            delays: Copies::new(0).finish(0..0),
            limit_gbps: 0.0,
        })
    }

    /// A line a second, only for a person.
    fn show(&self, before: &Sample, now: &Sample) {
        if !io::stderr().is_terminal() {
            return;
        }
        let seconds = (now.at_us - before.at_us) as f64 / 1e6;
        say(&format!(
            "{:>4} channels {:>10.2} Gbit/s {:>7.1} % of the relay's core {:>6} late trains",
            self.channels,
            (now.bytes_sent - before.bytes_sent) as f64 * 8e-9 / seconds,
            (now.cpu_us - before.cpu_us) as f64 / 1e4 / seconds,
            now.jobs_skipped - before.jobs_skipped
        ));
    }
}
