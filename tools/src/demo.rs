//! `superpeer demo`: everything at once, on this machine.

use core::fmt;
use core::str::FromStr;
use std::io::{self, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use codec::{ChannelKey, ChannelSecret, Sequence};
use hdrhistogram::Histogram;
use mesh::{ChannelCounters, ChannelId, Event, Limits, SinkConfig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::contact::say;
use crate::driver::Driver;
use crate::interrupt::Interrupt;
use crate::writer::delay_histogram;

/// Show it all on this machine: a relay, a publisher and viewers
///
/// Runs a relay, a publisher of a built-in stream and viewers on this machine, shows a live table, and compares at the
/// end what every viewer got with what was published.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  superpeer demo --viewers 200 --seconds 30 --bitrate 8M")]
pub struct Args {
    /// How many viewers watch (1 to 1000)
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub viewers: u32,
    /// For how many seconds to publish (1 to 3600)
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Bits per second of the stream, with K or M for thousands or millions (100K to 100M)
    #[arg(long, value_name = "RATE", default_value_t = Bitrate { bits_per_second: 4_000_000 })]
    pub bitrate: Bitrate,
}

impl Args {
    /// For how long to publish.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// A stream's speed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bitrate {
    /// In bits per second.
    pub bits_per_second: u64,
}

const BITRATE_MIN: Bitrate = Bitrate { bits_per_second: 100_000 };
const BITRATE_MAX: Bitrate = Bitrate { bits_per_second: 100_000_000 };

impl FromStr for Bitrate {
    type Err = String;

    fn from_str(text: &str) -> Result<Bitrate, String> {
        let (digits, unit) = match text.trim_end_matches(['k', 'K', 'm', 'M']) {
            digits if digits.len() == text.len() => (digits, 1),
            digits if text[digits.len()..].eq_ignore_ascii_case("k") => (digits, 1_000),
            digits if text[digits.len()..].eq_ignore_ascii_case("m") => (digits, 1_000_000),
            _ => ("", 0),
        };
        let number: u64 =
            digits.parse().map_err(|_| "a bit rate is a whole number, as in 800K or 4M".to_owned())?;
        let bits_per_second = number.saturating_mul(unit);
        if !(BITRATE_MIN.bits_per_second..=BITRATE_MAX.bits_per_second).contains(&bits_per_second) {
            return Err(format!("it must be from {BITRATE_MIN} to {BITRATE_MAX}"));
        }
        Ok(Bitrate { bits_per_second })
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits_per_second {
            bits if bits % 1_000_000 == 0 => write!(f, "{}M", bits / 1_000_000),
            bits if bits % 1_000 == 0 => write!(f, "{}K", bits / 1_000),
            bits => write!(f, "{bits}"),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the relay does not start, a viewer does not connect, or its bytes differ from what was published.
pub fn run(args: Args) -> Result<(), Error> {
    raise_descriptor_limit();
    let mut config =
        relay::Config { listen: (Ipv4Addr::LOCALHOST, 0).into(), open: true, ..Default::default() };
    config.limits.sessions_per_address = args.viewers as usize + 1;
    let relay = relay::Relay::start(&config)?;
    say(relay.probe());
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| Error::System("the system gives no random bytes", io::Error::other(error)))?;
    let secret = ChannelSecret::from_seed(&seed);

    let board = Arc::new(Board::default());
    let viewers = start_viewers(args.viewers, secret.key(), relay.local_addr(), &board)?;
    let mut publisher = DemoPublisher::open(secret, relay.local_addr(), args.bitrate)?;
    let interrupt = Interrupt::listen(Arc::default(), publisher.driver.waker())?;
    let published = publisher.run(args.duration(), &board, args.viewers, &interrupt)?;
    let results: Vec<Watched> = viewers.into_iter().map(join).collect::<Result<_, _>>()?;
    let snapshot = relay.stop().unwrap_or_default();
    report(&published, &results, &snapshot)
}

/// A viewer takes three descriptors, and the usual limit is 1,024; what may be had is usually much more.
fn raise_descriptor_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it does not suffice, the viewer that gets none says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// What the threads of the demo tell each other.
#[derive(Default)]
struct Board {
    connected: AtomicU32,
    bytes: AtomicU64,
    /// Viewers are not waited for any longer.
    over: AtomicBool,
}

/// Everybody is connected after this time, or something is wrong.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// How long after the end viewers may take to write the last chunk.
const TAIL_MAX: Duration = Duration::from_secs(10);

/// Viewers wait this long for a missing chunk: on one machine only a busy processor makes it late.
const VIEWER_DELAY: Duration = Duration::from_secs(2);

/// 4 s at 8 Mbit/s. It is address space until it is used, and a viewer gives back what it has written.
const VIEWER_SLOTS: usize = 110;

struct Published {
    hash: [u8; 32],
    bytes: u64,
    seconds: f64,
}

struct DemoPublisher {
    driver: Driver,
    channel: ChannelId,
    connected: bool,
    source: StreamSource,
}

impl DemoPublisher {
    fn open(secret: ChannelSecret, relay: SocketAddr, bitrate: Bitrate) -> Result<DemoPublisher, Error> {
        let mut driver = Driver::open(Limits::default(), VIEWER_SLOTS)?;
        let now = driver.now();
        let channel = driver.node.add_source(now, secret);
        driver.node.dial(now, channel, relay);
        Ok(DemoPublisher { driver, channel, connected: false, source: StreamSource::new(bitrate) })
    }

    /// Waits for everybody, publishes, and waits until the relay has it all.
    fn run(
        &mut self,
        duration: Duration,
        board: &Board,
        viewers: u32,
        interrupt: &Interrupt,
    ) -> Result<Published, Error> {
        self.wait_for(CONNECT_MAX, |publisher| {
            let here = publisher.connected && board.connected.load(Ordering::Acquire) >= viewers;
            here || interrupt.is_set()
        })?;
        let start = Instant::now();
        let mut table = Table::new(viewers);
        while start.elapsed() < duration && !interrupt.is_set() {
            let now = self.driver.now();
            while let Some((join, bytes)) = self.source.due(start.elapsed()) {
                if join {
                    self.driver.node.mark_join_point(now, self.channel, 0);
                }
                self.driver.node.push(now, self.channel, bytes);
            }
            self.driver.turn(STEP)?;
            table.show(start.elapsed(), board, self.source.bytes);
        }
        let now = self.driver.now();
        self.driver.node.finish(now, self.channel);
        self.wait_for(TAIL_MAX, |publisher| publisher.driver.node.is_drained(publisher.channel))?;
        let seconds = start.elapsed().as_secs_f64();
        let hash = self.source.hash.clone().finalize().into();
        board.over.store(true, Ordering::Release);
        Ok(Published { hash, bytes: self.source.bytes, seconds })
    }

    fn wait_for(&mut self, limit: Duration, done: impl Fn(&DemoPublisher) -> bool) -> Result<(), Error> {
        let give_up_at = Instant::now() + limit;
        while !done(self) {
            if Instant::now() > give_up_at {
                return Err(Error::DemoStuck(limit.as_secs()));
            }
            self.driver.turn(STEP)?;
            while let Some(event) = self.driver.node.poll_event() {
                if matches!(event, Event::Connected { .. }) {
                    self.connected = true;
                }
            }
        }
        Ok(())
    }
}

/// The stream is made in steps of this length.
const STEP: Duration = Duration::from_millis(5);

/// The built-in stream: pseudo-random bytes at an even rate, a join point each second.
struct StreamSource {
    bitrate: Bitrate,
    state: u64,
    bytes: u64,
    hash: Sha256,
    piece: Vec<u8>,
}

impl StreamSource {
    fn new(bitrate: Bitrate) -> StreamSource {
        StreamSource { bitrate, state: 0, bytes: 0, hash: Sha256::new(), piece: Vec::new() }
    }

    /// What is due by `elapsed`: at most one piece a call, and whether a join point is before it.
    fn due(&mut self, elapsed: Duration) -> Option<(bool, &[u8])> {
        let rate = self.bitrate.bits_per_second / 8;
        let due = (elapsed.as_secs_f64() * rate as f64) as u64;
        let count = due.saturating_sub(self.bytes).min(PIECE_BYTES_MAX) as usize;
        if count == 0 {
            return None;
        }
        let join = self.bytes / rate != (self.bytes + count as u64) / rate || self.bytes == 0;
        self.piece.clear();
        while self.piece.len() < count {
            // SplitMix64 (Steele, Lea, Flood 2014): content that no compression or repetition could hide errors in.
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            self.piece.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        self.piece.truncate(count);
        self.hash.update(&self.piece);
        self.bytes += count as u64;
        Some((join, &self.piece))
    }
}

const PIECE_BYTES_MAX: u64 = 64 << 10;

/// What one viewer got.
struct Watched {
    hash: [u8; 32],
    bytes: u64,
    counters: ChannelCounters,
    delay_us: Histogram<u64>,
}

fn start_viewers(
    count: u32,
    key: ChannelKey,
    relay: SocketAddr,
    board: &Arc<Board>,
) -> Result<Vec<JoinHandle<Result<Watched, Error>>>, Error> {
    let limits = Limits { window: 2 * VIEWER_DELAY, ..Limits::default() };
    let start = |number| {
        let board = Arc::clone(board);
        // Here, so that a machine that has not enough descriptors says so.
        let driver = Driver::open(limits.clone(), VIEWER_SLOTS)?;
        let body = move || watch(driver, key, relay, &board);
        let spawned = thread::Builder::new().name(format!("viewer-{number}")).spawn(body);
        spawned.map_err(|error| Error::System("cannot start a thread", error))
    };
    (0..count).map(start).collect()
}

fn join(viewer: JoinHandle<Result<Watched, Error>>) -> Result<Watched, Error> {
    viewer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// One viewer: watches until the channel ends.
fn watch(mut driver: Driver, key: ChannelKey, relay: SocketAddr, board: &Board) -> Result<Watched, Error> {
    let sink = SinkConfig { delay: VIEWER_DELAY, from: Sequence(0) };
    let channel = driver.node.add_sink(&key, sink).expect("the key of a secret");
    let now = driver.now();
    driver.node.dial(now, channel, relay);
    let mut delay_us = delay_histogram();
    let (mut hash, mut bytes, mut over_at) = (Sha256::new(), 0, None);
    loop {
        driver.turn(Duration::from_millis(100))?;
        while let Some(event) = driver.node.poll_event() {
            if matches!(event, Event::Connected { .. }) {
                board.connected.fetch_add(1, Ordering::AcqRel);
            }
        }
        let now = driver.now();
        let mut ended = false;
        while let Some(chunk) = driver.node.next_chunk(now, channel) {
            driver.node.payload(&chunk).for_each(|piece| hash.update(piece));
            bytes += chunk.header.payload_bytes() as u64;
            board.bytes.fetch_add(chunk.header.payload_bytes() as u64, Ordering::Relaxed);
            delay_us.saturating_record(driver.now().0.saturating_sub(chunk.header.capture_us));
            ended |= chunk.header.last;
        }
        if board.over.load(Ordering::Acquire) {
            ended |= *over_at.get_or_insert_with(Instant::now) + TAIL_MAX < Instant::now();
        }
        if ended {
            let counters = *driver.node.channel_counters(channel);
            driver.close()?;
            return Ok(Watched { hash: hash.finalize().into(), bytes, counters, delay_us });
        }
    }
}

/// The live table: a line a second, only for a person.
struct Table {
    viewers: u32,
    next: Duration,
    bytes: u64,
    terminal: bool,
}

impl Table {
    fn new(viewers: u32) -> Table {
        let terminal = io::stderr().is_terminal();
        if terminal {
            say("  time   published   to viewers   viewers");
        }
        Table { viewers, next: Duration::from_secs(1), bytes: 0, terminal }
    }

    fn show(&mut self, elapsed: Duration, board: &Board, published: u64) {
        if !self.terminal || elapsed < self.next {
            return;
        }
        let bytes = board.bytes.load(Ordering::Relaxed);
        say(&format!(
            "{:>4} s {:>8.1} MB {:>7.1} Mbit/s {:>9}",
            elapsed.as_secs(),
            published as f64 / 1e6,
            (bytes - self.bytes) as f64 * 8.0 / 1e6,
            self.viewers
        ));
        self.bytes = bytes;
        self.next += Duration::from_secs(1);
    }
}

/// Prints the result: an error when a single byte is wrong.
fn report(published: &Published, results: &[Watched], snapshot: &relay::Snapshot) -> Result<(), Error> {
    let same = |watched: &&Watched| watched.hash == published.hash && watched.bytes == published.bytes;
    let identical = results.iter().filter(same).count();
    let mut delay_us = delay_histogram();
    for watched in results {
        delay_us.add(&watched.delay_us).expect("they have the same bounds");
    }
    let sum = |count: fn(&ChannelCounters) -> u64| -> u64 {
        results.iter().map(|watched| count(&watched.counters)).sum()
    };
    let delay = |quantile| delay_us.value_at_quantile(quantile) as f64 / 1_000.0;
    let cpu = snapshot.cpu.as_secs_f64() / published.seconds * 100.0;
    let lines = [
        format!("published   {} bytes in {:.1} s", published.bytes, published.seconds),
        format!("viewers     {} of {} got every byte", identical, results.len()),
        format!(
            "datagrams   {} to viewers in {} trains; {} lost, {} recovered, {} repaired",
            snapshot.node.shards_sent,
            snapshot.node.trains_sent,
            sum(|counters| counters.shards_lost),
            sum(|counters| counters.shards_recovered),
            sum(|counters| counters.shards_repaired)
        ),
        format!("delay       p50 {:.1} ms, p99 {:.1} ms from capture to output", delay(0.5), delay(0.99)),
        format!("relay       {cpu:.1} % of one core"),
    ];
    lines.iter().try_for_each(|line| crate::error::print(line))?;
    match results.len() - identical {
        0 => Ok(()),
        differing => Err(Error::Differs { differing, viewers: results.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_rate_reads_back_as_it_was_written() {
        for (text, bits_per_second) in [("4M", 4_000_000), ("800k", 800_000), ("123456", 123_456)] {
            let rate: Bitrate = text.parse().unwrap();
            assert_eq!(rate, Bitrate { bits_per_second });
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
    }

    #[test]
    fn a_wrong_bit_rate_says_what_fits() {
        for text in ["", "M", "4MM", "4G", "-1", "4.5M"] {
            assert!(text.parse::<Bitrate>().unwrap_err().contains("whole number"), "{text}");
        }
        for text in ["0", "99K", "101M", "18446744073709551615M"] {
            assert!(text.parse::<Bitrate>().unwrap_err().contains("from 100K to 100M"), "{text}");
        }
    }
}
