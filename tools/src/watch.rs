//! `superpeer watch`: a channel onto a screen.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use clap::builder::NonEmptyStringValueParser;
use codec::{ChannelLink, Sequence};
use mesh::limits::UPSTREAMS_AT_ONCE_MAX;
use mesh::{ChannelCounters, ChannelId, Limits, SinkConfig, UpstreamSummary};

use crate::Error;
use crate::contact::{Contacts, say};
use crate::driver::Driver;
use crate::interrupt::Interrupt;
use crate::link::parse_relay;
use crate::output::{Output, OutputError, OutputSpec};
use crate::writer::{Figures, Writer};

/// Watch a channel
///
/// Watches the channel LINK: writes its stream to OUTPUT or into a program. Waits for a channel that is not live yet
/// and ends when the channel ends.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  superpeer watch \"$(superpeer link --relay 127.0.0.1:7450 demo.key)\" --exec 'mpv -'
  superpeer watch 'magnet:?xs=urn:btpk:…&x.pe=relay.example:7450' recording.ts
  superpeer watch 'magnet:?xs=urn:btpk:…&x.pe=relay.example:7450' udp://127.0.0.1:5000")]
pub struct Args {
    /// The channel's link (magnet:?xs=urn:btpk:…)
    #[arg(value_name = "LINK")]
    pub link: ChannelLink,
    /// `-` (standard output), a file, or udp://HOST:PORT
    #[arg(value_name = "OUTPUT", default_value = "-", hide_default_value = true)]
    pub output: OutputSpec,
    /// Run a shell command and write the stream to its standard input; the end of one ends the other
    #[arg(long, value_name = "CMD", conflicts_with = "output", value_parser = NonEmptyStringValueParser::new())]
    pub exec: Option<String>,
    /// For how many milliseconds a missing chunk may be waited for (0 to 10000)
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=DELAY_MS_MAX))]
    pub delay_ms: u32,
    /// Where to begin: at the live edge, or at the oldest chunk that the relay still keeps
    #[arg(long, value_name = "WHERE", default_value = "live")]
    pub from: From,
    /// Write one JSON object a second on standard error
    #[arg(long)]
    pub stats: bool,
    /// A relay to ask in addition to those in LINK; may be repeated
    #[arg(long = "relay", value_name = "HOST:PORT", value_parser = parse_relay)]
    pub relays: Vec<String>,
    /// From how many relays to take the channel at a time (1 to 4), each a part of it: when one falls silent, the others
    /// give all
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = upstreams)]
    pub upstreams: usize,
}

fn upstreams(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=UPSTREAMS_AT_ONCE_MAX).contains(count));
    count.ok_or_else(|| format!("it must be from 1 to {UPSTREAMS_AT_ONCE_MAX}"))
}

/// A relay keeps a chunk to repair it from for 10 s.
const DELAY_MS_MAX: i64 = 10_000;

/// Where watching begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum From {
    /// At the live edge.
    Live,
    /// At the oldest chunk that the relay still keeps.
    Start,
}

impl Args {
    /// For how long a missing chunk may be waited for.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.into())
    }

    /// Where the stream goes.
    pub fn output(&self) -> OutputSpec {
        self.exec.clone().map_or_else(|| self.output.clone(), OutputSpec::Program)
    }

    /// The relays to ask, those of the link first; never none.
    ///
    /// # Errors
    /// [`Error::Usage`] when neither the link nor the command line names one.
    pub fn relays(&self) -> Result<Vec<String>, Error> {
        let mut relays = self.link.relays.clone();
        relays.extend(self.relays.iter().filter(|relay| !self.link.relays.contains(relay)).cloned());
        if relays.is_empty() {
            return Err(Error::Usage(
                "the link names no relay to ask: add one with --relay HOST:PORT; if it has an x.pe, put it in quotes, for a shell ends it at the first &"
                    .into(),
            ));
        }
        Ok(relays)
    }
}

/// What a viewer keeps besides the time it may wait: what reordering and its own repair need.
const WINDOW_MIN: Duration = Duration::from_secs(5);

/// Runs the command.
///
/// # Errors
/// When no relay is named, every relay refuses the channel, or the output cannot be written.
pub fn run(args: Args) -> Result<(), Error> {
    let relays = args.relays()?;
    let mut driver = Driver::open(viewer_limits(args.delay()), VIEWER_SLOTS)?;
    let from = match args.from {
        From::Live => Sequence(0),
        From::Start => Sequence(1),
    };
    let sink = SinkConfig { delay: args.delay(), from };
    let channel = driver.node.add_sink(&args.link.key, sink);
    let channel = channel.map_err(|error| Error::Usage(format!("the link's channel key: {error}")))?;
    let contacts = Contacts::new(&driver, channel, &relays, args.upstreams);
    // Opening may wait, for the other end of a pipe: until then a signal ends the command as signals do.
    let writer = Writer::start(Output::open(&args.output())?, driver.clock(), driver.waker())?;
    let interrupt = Interrupt::listen(Arc::default(), driver.waker())?;
    let mut viewer =
        Viewer { driver, contacts, channel, writer, interrupt, stats: args.stats.then(Stats::new) };
    let watched = viewer.watch();
    viewer.finish(watched)
}

/// 64 MiB: 20 s at 16 Mbit/s.
const VIEWER_SLOTS: usize = 1_134;

fn viewer_limits(delay: Duration) -> Limits {
    Limits {
        window: (2 * delay).max(WINDOW_MIN),
        window_bytes_max: VIEWER_SLOTS * mesh::SLOT_BYTES,
        ..Limits::default()
    }
}

struct Viewer {
    driver: Driver,
    contacts: Contacts,
    channel: ChannelId,
    writer: Writer,
    interrupt: Interrupt,
    stats: Option<Stats>,
}

impl Viewer {
    /// Watches until the channel ends, the output does, or somebody asks for the end.
    fn watch(&mut self) -> Result<(), Error> {
        while !self.interrupt.is_set() && !self.writer.has_ended() {
            let again = self.contacts.poll(&mut self.driver);
            let until_then = again.map(|at| at.saturating_duration_since(Instant::now()));
            let longest = until_then.unwrap_or(TURN_MAX).min(TURN_MAX);
            self.driver.turn(longest)?;
            while let Some(event) = self.driver.node.poll_event() {
                self.contacts.handle_event(&mut self.driver, &event)?;
            }
            if self.write_chunks() {
                return Ok(());
            }
            let counters = self.driver.node.channel_counters(self.channel);
            if let Some(stats) = &mut self.stats {
                let upstreams = self.driver.node.upstreams();
                stats.print_when_due(counters, &self.writer, self.contacts.is_connected(), upstreams);
            }
        }
        Ok(())
    }

    /// Hands what is due to the writer. Returns whether the channel has ended.
    fn write_chunks(&mut self) -> bool {
        let now = self.driver.now();
        while let Some(chunk) = self.driver.node.next_chunk(now, self.channel) {
            self.writer.write(&chunk.header, self.driver.node.payload(&chunk));
            if chunk.header.last {
                return true;
            }
        }
        false
    }

    fn finish(self, watched: Result<(), Error>) -> Result<(), Error> {
        let counters = *self.driver.node.channel_counters(self.channel);
        let closed = self.driver.close();
        // Whoever asks for the end does not want to wait for a player that is paused.
        let (figures, written) = match self.interrupt.is_set() {
            true => self.writer.abandon(),
            false => self.writer.finish(),
        };
        say(&summary(&counters, &figures));
        let written = match written {
            Err(OutputError::Closed) => Ok(()),
            Err(OutputError::Ended { status, .. }) if status.success() => Ok(()),
            written => written.map_err(Error::from),
        };
        watched.and(written).and(closed)
    }
}

/// The longest time for which nobody looks whether the output has ended.
const TURN_MAX: Duration = Duration::from_millis(200);

fn summary(counters: &ChannelCounters, figures: &Figures) -> String {
    let ChannelCounters { chunks_delivered, chunks_skipped, .. } = counters;
    let ChannelCounters { shards_lost, shards_recovered, shards_repaired, .. } = counters;
    let mut text = format!(
        "watched: chunks {chunks_delivered}, missed {chunks_skipped}; datagrams lost {shards_lost}: recovered \
         {shards_recovered}, repaired {shards_repaired}"
    );
    if !figures.delay_us.is_empty() {
        let delay = |quantile| milliseconds(figures.delay_us.value_at_quantile(quantile));
        text += &format!("; delay p50 {} ms, p99 {} ms", delay(0.5), delay(0.99));
    }
    if figures.dropped > 0 {
        text += &format!("; chunks dropped because the output was too slow: {}", figures.dropped);
    }
    text
}

fn milliseconds(us: u64) -> String {
    format!("{:.1}", us as f64 / 1_000.0)
}

/// `--stats`: one JSON object a second.
struct Stats {
    due: Instant,
}

impl Stats {
    fn new() -> Stats {
        Stats { due: Instant::now() }
    }

    fn print_when_due(
        &mut self,
        counters: &ChannelCounters,
        writer: &Writer,
        connected: bool,
        upstreams: impl Iterator<Item = UpstreamSummary>,
    ) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        self.due = now + Duration::from_secs(1);
        let figures = writer.figures();
        let upstream = |upstream: UpstreamSummary| {
            let (parts, of) = upstream.stripes.share();
            serde_json::json!({
                "address": upstream.address.to_string(),
                "share": format!("{parts}/{of}"),
                "shards_received": upstream.shards_received,
                "shards_lost": upstream.shards_lost,
                "duplicates": upstream.duplicates,
            })
        };
        let line = serde_json::json!({
            "connected": connected,
            "upstreams": upstreams.map(upstream).collect::<Vec<_>>(),
            "chunks": counters.chunks_delivered,
            "skipped": counters.chunks_skipped,
            "shards_received": counters.shards_received,
            "shards_lost": counters.shards_lost,
            "shards_recovered": counters.shards_recovered,
            "shards_repaired": counters.shards_repaired,
            "bytes": figures.bytes,
            "dropped_by_output": figures.dropped,
            "delay_us_p50": figures.delay_us.value_at_quantile(0.5),
            "delay_us_p99": figures.delay_us.value_at_quantile(0.99),
        });
        // With standard error closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
