//! Load for a moq-relay: one connection publishes, many subscribe, each through a socket of its own as distant viewers
//! would. It measures what was delivered and how late, not what that cost the relay: whoever starts it does.
//!
//! It says on standard output, a JSON object a line: `ready` when every subscription has had a frame, `begin` and `end`
//! with what was delivered up to then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use moq_tokio::moq_net::track::{Producer, Subscriber, Subscription};
use moq_tokio::moq_net::{Timestamp, group};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use url::Url;

/// Load a moq-relay and count what it delivers
#[derive(Parser, Clone)]
struct Args {
    /// The relay, as `moql://127.0.0.1:4443` (raw QUIC) or `https://127.0.0.1:4443` (WebTransport)
    #[arg(long)]
    url: Url,
    /// Connections; each subscribes to every broadcast
    #[arg(long)]
    subscribers: usize,
    /// Broadcasts, of one track each
    #[arg(long, default_value_t = 1)]
    broadcasts: usize,
    /// Bits per second of each broadcast
    #[arg(long, default_value_t = 4_000_000)]
    bitrate: u64,
    /// How long to measure, in seconds
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
}

const TRACK: &str = "video";

/// As often as a superpeer's chunk.
const FRAME_TIME: Duration = Duration::from_millis(40);

/// A group is a QUIC stream; one a second is a usual distance of key frames.
const FRAMES_PER_GROUP: u64 = 25;

/// How far behind the live edge a group may be before it is given up: longer than a group, so that a relay is not asked
/// to drop what it could still deliver.
const AGE_MAX: Duration = Duration::from_secs(3);

/// Handshakes under way at once.
const HANDSHAKES_MAX: usize = 32;

/// Everybody has had a frame after this time, or something is wrong.
const CONNECT_MAX: Duration = Duration::from_secs(40);

/// Longer delays count as this.
const DELAY_MAX_US: u64 = 60_000_000;

/// How long the stream runs, once everybody has it, before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// What all subscriptions have had.
struct Delivered {
    subscriptions: AtomicU64,
    bytes: AtomicU64,
    frames: AtomicU64,
    /// Groups that did not come whole.
    broken_off: AtomicU64,
    /// From the publisher's write to the subscriber's read of the whole frame, µs; while measuring.
    delays: Mutex<Option<Histogram<u64>>>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(moq_tokio::crypto::install_default().is_ok(), "no crypto provider could be installed");
    let delivered = Arc::new(Delivered {
        subscriptions: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        frames: AtomicU64::new(0),
        broken_off: AtomicU64::new(0),
        delays: Mutex::new(None),
    });
    tokio::spawn(or_exit(publish(args.clone())));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    for _ in 0..args.subscribers {
        tokio::spawn(or_exit(subscribe(args.clone(), handshakes.clone(), delivered.clone())));
    }
    let all = (args.subscribers * args.broadcasts) as u64;
    let everybody = async {
        while delivered.subscriptions.load(Ordering::Relaxed) < all {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(CONNECT_MAX, everybody).await.is_err() {
        let had = delivered.subscriptions.load(Ordering::Relaxed);
        anyhow::bail!("{had} of {all} subscriptions have had a frame after {} s", CONNECT_MAX.as_secs());
    }
    println!("{}", json!({ "event": "ready" }));
    sleep(WARM_UP).await;
    *delivered.delays.lock().unwrap() = Some(Histogram::new_with_bounds(1, DELAY_MAX_US, 3)?);
    println!("{}", delivered.report("begin"));
    sleep(Duration::from_secs_f64(args.seconds)).await;
    println!("{}", delivered.report("end"));
    // Hundreds of polite farewells are no part of this.
    std::process::exit(0);
}

impl Delivered {
    fn report(&self, event: &str) -> Value {
        let delays = self.delays.lock().unwrap();
        let delay = |quantile| delays.as_ref().map(|delays| delays.value_at_quantile(quantile));
        json!({
            "event": event,
            "at_us": now_us(),
            "bytes": self.bytes.load(Ordering::Relaxed),
            "frames": self.frames.load(Ordering::Relaxed),
            "groups_broken_off": self.broken_off.load(Ordering::Relaxed),
            "delay_us": { "p50": delay(0.5), "p99": delay(0.99), "p999": delay(0.999) },
        })
    }

    fn note(&self, frame: &[u8]) {
        self.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        self.frames.fetch_add(1, Ordering::Relaxed);
        let Some(stamp) = frame.first_chunk() else { return };
        let delay = now_us().saturating_sub(u64::from_be_bytes(*stamp));
        if let Some(delays) = self.delays.lock().unwrap().as_mut() {
            delays.saturating_record(delay);
        }
    }
}

/// A run with a connection less would measure something else.
async fn or_exit(task: impl Future<Output = anyhow::Result<()>>) {
    if let Err(error) = task.await {
        eprintln!("moq-load: {error:#}");
        std::process::exit(1);
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

fn client() -> anyhow::Result<moq_tokio::Client> {
    let mut config = moq_tokio::connect::Config::default();
    config.tls.insecure = Some(true);
    config.once = Some(true);
    config.bind = Some("127.0.0.1:0".parse()?);
    Ok(config.init(Default::default())?)
}

fn name(broadcast: usize) -> String {
    format!("bench/{broadcast}")
}

async fn publish(args: Args) -> anyhow::Result<()> {
    let origin = moq_tokio::origin::spawn();
    let mut tracks = Vec::new();
    let mut broadcasts = Vec::new();
    for number in 0..args.broadcasts {
        let broadcast = origin.create_broadcast(name(number)).context("no broadcast")?;
        tracks.push(broadcast.create_track(TRACK, None)?);
        broadcast.announce(Default::default()).context("no announcement")?;
        broadcasts.push(broadcast);
    }
    let connecting = client()?.with_publisher(&origin).connect(args.url.clone());
    let connection = connecting.established().await.context("the publisher does not get through")?;
    tokio::select! {
        written = write(tracks, args.bitrate) => written,
        closed = connection.closed() => closed.context("the publisher's connection ended"),
    }
}

/// Writes a frame of each track in turn.
async fn write(tracks: Vec<Producer>, bitrate: u64) -> anyhow::Result<()> {
    let length = (bitrate as f64 / 8.0 * FRAME_TIME.as_secs_f64()) as usize;
    let mut ticks = interval(FRAME_TIME);
    // The rate holds however late a tick was.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut groups: Vec<group::Producer> = Vec::new();
    for number in 0u64.. {
        ticks.tick().await;
        if number % FRAMES_PER_GROUP == 0 {
            groups.drain(..).try_for_each(|group| group.finish())?;
            groups = tracks.iter().map(|track| track.append_group()).collect::<Result<_, _>>()?;
        }
        for group in &mut groups {
            let mut frame = vec![0xa5; length.max(8)];
            frame[..8].copy_from_slice(&now_us().to_be_bytes());
            group.write_frame(Timestamp::now(), frame)?;
        }
    }
    Ok(())
}

async fn subscribe(args: Args, handshakes: Arc<Semaphore>, delivered: Arc<Delivered>) -> anyhow::Result<()> {
    let turn = handshakes.acquire_owned().await?;
    let origin = moq_tokio::origin::spawn();
    let consumer = origin.consume();
    let connecting = client()?.with_subscriber(origin).connect(args.url.clone());
    let connection = connecting.established().await.context("a subscriber does not get through")?;
    for number in 0..args.broadcasts {
        let broadcast = consumer.routed_broadcast(name(number)).await.context("no such broadcast")?;
        let wanted = Subscription::default().with_max_age(AGE_MAX);
        let track = broadcast.track(TRACK)?.subscribe(wanted).await.context("no subscription")?;
        tokio::spawn(or_exit(drain(track, delivered.clone())));
    }
    drop(turn);
    connection.closed().await.context("a subscriber's connection ended")
}

async fn drain(mut track: Subscriber, delivered: Arc<Delivered>) -> anyhow::Result<()> {
    let mut had_none = true;
    while let Some(mut group) = track.recv_group().await.context("a subscription failed")? {
        loop {
            match group.read_frame().await {
                Ok(Some(frame)) => delivered.note(&frame.payload),
                Ok(None) => break,
                // The relay gave the rest of it up, or this side did: too old. The next group may fare better.
                Err(_) => {
                    delivered.broken_off.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
            if std::mem::take(&mut had_none) {
                delivered.subscriptions.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    anyhow::bail!("a track ended")
}
