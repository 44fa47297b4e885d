//! One run: a relay, its publishers and subscribers, from the first handshake to what was measured.

use std::io::{self, IsTerminal};
use std::sync::atomic::Ordering;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime};

use codec::ChannelSecret;
use codec::wire::control::Role;
use mesh::{Anchor, Time};

use super::board::{Board, Tally};
use super::child::RelayProcess;
use super::copies::Arrived;
use super::publishers::{Published, publish};
use super::report::Measured;
use super::running::RunningRelay;
use super::sample::{Counts, Sample};
use super::sealed::{ChunkPlan, Sealed};
use super::sessions::Sessions;
use super::subscribers::{Receiving, subscribe};
use super::target::Target;
use super::{Bench, Load, Sinking, lab};
use crate::Error;
use crate::bench::Destinations;
use crate::bench::sink::{At, Sink, socket_drops};
use crate::contact::say;

/// How long the stream runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// Everybody is connected after this time and 1 ms for each subscription, or something is wrong.
const CONNECT_MAX: Duration = Duration::from_secs(15);

/// A relay that answers no `Hello` for so long is not there.
const HELLO_ANSWER_MAX: Duration = Duration::from_secs(5);

/// Between two looks at what the other threads have done.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Sealed ahead beyond the measured time: what passes before it begins and, as samples come once a second, after it.
const SEALED_BEYOND: Duration = Duration::from_secs(5);

/// And this much more for a relay that runs already: the status that it shows is up to a second old.
const SEALED_BEYOND_STATUS: Duration = Duration::from_secs(2);

/// At most so many subscribers on loopback have every byte checked.
const CHECKED_MAX: u32 = 32;

impl Bench {
    /// One run from a relay without these channels to the report.
    pub(super) fn measure(&self, load: Load) -> Result<Measured, Error> {
        let Load { subscribers, channels, .. } = load;
        let lab_stride = (self.args.sink == Sinking::Lab).then(|| lab::stride(subscribers, channels));
        let target = self.target(load, lab_stride)?;
        let clock = Anchor::new(SystemTime::now(), Instant::now());
        let sealed = self.seal(load, clock.time_at(Instant::now()))?;
        let receiving = Receiving {
            stride: lab_stride.unwrap_or(1),
            checked_stride: lab_stride.unwrap_or(subscribers.div_ceil(CHECKED_MAX)),
        };
        let [subscribers_at, publishers_at] = target.peers(self.args.sink);
        let mut sink = Sink::open(subscribers_at, subscribers, Some(receiving.checked_stride))?;
        let destinations = sink.destinations().clone();
        let board = Board { says_goodbye: self.running.is_some(), ..Board::default() };
        let run = Run {
            bench: self,
            target: &target,
            board: &board,
            load,
            receiving,
            sealed: &sealed,
            clock,
            subscribers: &destinations,
            publishers_at,
        };
        let (span, published, arrived) = run.all(&mut sink)?;
        let (about, sink_name) = (target.about(), target.sink_name(self.args.sink));
        let train = span.train_mean().map(|mean| (mean.round() as usize).clamp(1, codec::MAX_SHARDS));
        let limit_gbps = target.limit(&mut sink, train)?;
        Ok(Measured {
            load,
            relay: self.running.as_ref().map(|relay| relay.address),
            about,
            sink_name,
            receivers: receiving.counts(subscribers).0,
            bits_per_second: self.args.bitrate.bits_per_second,
            span,
            published,
            arrived,
            limit_gbps,
        })
    }

    fn target(&self, load: Load, lab_stride: Option<u32>) -> Result<Target<'_>, Error> {
        if let Some(relay) = &self.running {
            return Ok(Target::Running(relay));
        }
        let (io, workers) = (self.args.io(), self.args.workers());
        RelayProcess::start(load.channels, load.subscriptions(), io, workers, lab_stride).map(Target::Own)
    }

    fn seal(&self, load: Load, now: Time) -> Result<Sealed, Error> {
        let beyond_status = self.running.as_ref().map_or(Duration::ZERO, |_| SEALED_BEYOND_STATUS);
        let duration = Duration::from_secs(load.seconds.into()) + SEALED_BEYOND + beyond_status;
        let plan = ChunkPlan::new(self.args.bitrate);
        Sealed::new(secrets(load.channels)?, plan, duration, now, || self.interrupt.is_set())
    }
}

/// Channels that nobody has seen before: a relay that runs already may still have those of the last run.
fn secrets(channels: usize) -> Result<Vec<ChannelSecret>, Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| Error::System("the system gives no random bytes", io::Error::other(error)))?;
    let secret = |number: usize| {
        seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
        ChannelSecret::from_seed(&seed)
    };
    Ok((0..channels).map(secret).collect())
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
    /// What the relay has allocated for all subscribers, if it tells.
    pub(super) heap_bytes: Option<u64>,
    pub(super) interrupted: bool,
}

impl Span {
    /// What the relay counted, if it tells.
    pub(super) fn between(&self, count: impl Fn(&Counts) -> u64) -> Option<u64> {
        let [before, after] = &self.samples;
        Some(count(after.counts.as_ref()?).saturating_sub(count(before.counts.as_ref()?)))
    }

    /// Messages that the kernel dropped at the relay's socket.
    pub(super) fn relay_drops(&self) -> Option<u64> {
        let [before, after] = &self.samples;
        Some(after.socket_drops?.saturating_sub(before.socket_drops?))
    }

    /// Datagrams per train.
    pub(super) fn train_mean(&self) -> Option<f64> {
        let trains = self.between(|counts| counts.trains_sent)?;
        Some(self.between(|counts| counts.shards_sent)? as f64 / trains.max(1) as f64)
    }
}

/// One run, once what it needs is there.
struct Run<'r> {
    bench: &'r Bench,
    target: &'r Target<'r>,
    board: &'r Board,
    load: Load,
    receiving: Receiving,
    sealed: &'r Sealed,
    clock: Anchor,
    subscribers: &'r Destinations,
    publishers_at: At,
}

impl Run<'_> {
    /// Connects everybody, publishes and measures.
    fn all(&self, sink: &mut Sink) -> Result<(Span, Published, Arrived), Error> {
        let Run { load: Load { channels, .. }, board, sealed, clock, receiving, .. } = *self;
        let publishers_sink = Sink::open(self.publishers_at, channels as u32, None)?;
        let publishers = publishers_sink.destinations().clone();
        let relay = self.target.address();
        thread::scope(|scope| {
            let _over = OverAtEnd(board);
            let sessions = Sessions::new(Role::Publish, relay, publishers, sealed.secrets());
            let publishing = scope.spawn(move || publish(publishers_sink, sessions, sealed, clock, board));
            self.bench.running.as_ref().map_or(Ok(()), |relay| self.wait_for_an_answer(relay))?;
            self.wait_for("the publishers", channels, || board.publishers.load(Ordering::Acquire))?;
            let empty = self.target.heap_bytes()?;
            let sessions = Sessions::new(Role::Subscribe, relay, self.subscribers.clone(), sealed.secrets());
            let subscribing = scope.spawn(move || subscribe(sink, sessions, receiving, sealed, clock, board));
            let all = self.load.subscriptions();
            let span = self
                .wait_for("the subscribers", all, || board.subscriptions.load(Ordering::Acquire))
                .and_then(|()| self.stream(empty));
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

    /// There may be no relay at all where one is said to run.
    fn wait_for_an_answer(&self, relay: &RunningRelay) -> Result<(), Error> {
        let give_up_at = Instant::now() + HELLO_ANSWER_MAX;
        let granted = || self.board.publishers.load(Ordering::Acquire) > 0;
        while !granted() && self.board.refused.get().is_none() && !self.bench.interrupt.is_set() {
            if Instant::now() > give_up_at {
                let (relay, seconds) = (relay.address, HELLO_ANSWER_MAX.as_secs());
                return Err(Error::BenchUnanswered { relay, seconds });
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    fn wait_for(&self, whom: &str, count: usize, there: impl Fn() -> usize) -> Result<(), Error> {
        let limit = CONNECT_MAX + Duration::from_millis(count as u64);
        let give_up_at = Instant::now() + limit;
        while there() < count && !self.bench.interrupt.is_set() {
            if let (Some(reason), Some(relay)) = (self.board.refused.get(), &self.bench.running) {
                return Err(relay.refused(*reason, self.load));
            }
            if Instant::now() > give_up_at {
                let what = format!("{} of {count} of {whom}' sessions were granted", there());
                return Err(Error::BenchStuck { what, seconds: limit.as_secs() });
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Publishes, and measures from one sample of the relay to another.
    fn stream(&self, empty: Option<u64>) -> Result<Span, Error> {
        let full = self.target.heap_bytes()?;
        self.board.go.store(true, Ordering::Release);
        thread::sleep(WARM_UP);
        let first = self.target.first_sample()?;
        let ports = self.subscribers.all_ports();
        let (tally, drops) = (self.board.tally(self.now()), socket_drops(&ports));
        self.board.from_us.store(tally.at.0, Ordering::Release);
        let mut last = first.clone();
        // Samples come a little more than a second apart.
        let enough = Duration::from_secs(self.load.seconds.into()) - Duration::from_millis(100);
        while self.now().since(tally.at) < enough {
            let sample = self.target.sample()?;
            self.show(&last, &sample);
            last = sample;
            if self.bench.interrupt.is_set() {
                break;
            }
        }
        let tallies = [tally, self.board.tally(self.now())];
        self.board.until_us.store(tallies[1].at.0, Ordering::Release);
        // What is on its way still reaches its socket.
        thread::sleep(Duration::from_millis(100));
        Ok(Span {
            samples: [first, last],
            tallies,
            sink_drops: socket_drops(&ports).saturating_sub(drops),
            heap_bytes: empty.zip(full).map(|(empty, full)| full.saturating_sub(empty)),
            interrupted: self.bench.interrupt.is_set(),
        })
    }

    fn now(&self) -> Time {
        self.clock.time_at(Instant::now())
    }

    /// A line a second, only for a person.
    fn show(&self, before: &Sample, now: &Sample) {
        if !io::stderr().is_terminal() {
            return;
        }
        let (Some(counts), Some(counts_before)) = (&now.counts, &before.counts) else {
            let Load { subscribers, channels, .. } = self.load;
            let datagrams = self.board.tally(self.now()).datagrams;
            say(&format!(
                "{subscribers:>6} subscribers x {channels:>3} channels {datagrams:>12} datagrams arrived"
            ));
            return;
        };
        let seconds = (now.at_us.saturating_sub(before.at_us) as f64 / 1e6).max(1e-6);
        let workers = counts.workers.iter().zip(&counts_before.workers);
        let busy = workers.map(|(now, before)| now.cpu_us.saturating_sub(before.cpu_us));
        say(&format!(
            "{:>6} subscribers x {:>3} channels {:>8.2} Gbit/s {:>6.1} % of the busiest worker's core {:>6} late trains",
            self.load.subscribers,
            self.load.channels,
            counts.bytes_sent.saturating_sub(counts_before.bytes_sent) as f64 * 8e-9 / seconds,
            busy.max().unwrap_or(0) as f64 / 1e4 / seconds,
            counts.jobs_skipped.saturating_sub(counts_before.jobs_skipped)
        ));
    }
}
