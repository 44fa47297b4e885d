//! The control thread: signals in, counts out. Never on the data path.

mod door;
mod history;
mod http;
mod metrics;
mod quota;
pub mod status;
mod systemd;

use std::sync::Arc;
use std::time::Duration;

use mesh::Time;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError};
use crate::running::Relay;
use crate::snapshot::Snapshot;
use crate::worker::SNAPSHOT_INTERVAL;
use door::Door;
use history::History;
use http::Board;
use quota::Quota;
use status::{QuotaStatus, Sources, Status};

/// A line of counts goes to the log this often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Workers that have said nothing for so long are not well.
const SILENCE_MAX: Duration = Duration::from_secs(4);

/// Watches over the relay until a signal comes, and shows on the admin listener what it does. With SIGHUP, `load` gives
/// the configuration anew. Returns whether the relay ended as it should.
pub(crate) async fn supervise(
    relay: Relay,
    config: Config,
    load: impl Fn() -> Result<Config, ConfigError>,
) -> std::io::Result<bool> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut view = View::new(&relay);
    if let Some(listen) = config.admin.listen.0 {
        http::serve(listen, Arc::clone(&view.board)).await;
    }
    let mut door = Door::default();
    let mut quota = Quota::open(&config.quota, &relay);
    quota.settle(&relay, &mut door);
    // Whoever waits for this line may signal from now on.
    info!("{}", relay.probe());
    systemd::ready();
    let mut ticks = tokio::time::interval(SNAPSHOT_INTERVAL);
    let name = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = hangup.recv() => if let Some(new) = reload(&relay, &config, load()) {
                quota.configure(&new.quota).await;
                quota.settle(&relay, &mut door);
            },
            () = quota.stir() => quota.settle(&relay, &mut door),
            _ = ticks.tick() => {
                if !relay.is_alive() {
                    error!("a worker ended: this is a bug, the lines above say where");
                    return Ok(false);
                }
                quota.tick(&relay, &mut door);
                view.update(&relay, quota.status());
            }
        }
    };
    systemd::stopping();
    info!("{name}: saying goodbye to all peers");
    let last = relay.stop();
    quota.finish().await;
    if let Some(snapshot) = &last {
        info!(
            granted = snapshot.node.sessions_granted,
            shards_in = snapshot.node.shards_stored,
            shards_out = snapshot.node.shards_sent,
            recovered = snapshot.node.shards_recovered,
            repaired = snapshot.node.shards_repaired,
            lost = snapshot.node.chunks_lost,
            "stopped"
        );
    }
    Ok(last.is_some())
}

/// A configuration that is wrong changes nothing; one that is right is returned.
fn reload(relay: &Relay, started_with: &Config, new: Result<Config, ConfigError>) -> Option<Config> {
    let new = match new {
        Ok(new) => new,
        Err(error) => {
            error!("SIGHUP: {error}; the relay goes on as before");
            return None;
        }
    };
    let later = started_with.only_at_restart(&new);
    if !later.is_empty() {
        warn!("changed, and acts when the relay is started again: {}", later.join(", "));
    }
    relay.configure(&new);
    info!("SIGHUP: the configuration was read anew");
    Some(new)
}

/// What the relay has counted, for all who look at it.
struct View {
    board: Arc<Board>,
    history: History,
    log: Log,
    started_at: Option<Time>,
    last: Snapshot,
    heard_at: Instant,
}

impl View {
    fn new(relay: &Relay) -> View {
        let board = Board::new(metrics::install());
        let status = Status { probe: relay.probe().to_owned(), is_healthy: true, ..Status::default() };
        board.show(status);
        View {
            board,
            history: History::new(),
            log: Log::default(),
            started_at: None,
            last: Snapshot::default(),
            heard_at: Instant::now(),
        }
    }

    fn update(&mut self, relay: &Relay, quota: Option<QuotaStatus>) {
        let Some(now) = relay.take_snapshot() else {
            if self.heard_at.elapsed() > SILENCE_MAX {
                let last = self.board.status();
                self.board.show(Status { is_healthy: false, quota, ..(*last).clone() });
            }
            return;
        };
        self.heard_at = Instant::now();
        self.history.note(&now);
        let started_at = *self.started_at.get_or_insert(now.at);
        let sources =
            Sources { relay, started_at, history: &self.history, last: &self.last, now: &now, quota };
        let status = Status::new(&sources);
        metrics::publish(&now, &status);
        systemd::alive(&status);
        self.board.show(status);
        self.log.note(&now);
        self.last = now;
    }
}

/// The line of counts.
#[derive(Default)]
struct Log {
    last: Option<Snapshot>,
}

impl Log {
    fn note(&mut self, snapshot: &Snapshot) {
        let Some(last) = &self.last else {
            self.last = Some(snapshot.clone());
            return;
        };
        let elapsed = snapshot.at.since(last.at);
        if elapsed < LOG_INTERVAL {
            return;
        }
        let mbit = |bytes: u64| (bytes * 8) as f64 / 1e6 / elapsed.as_secs_f64();
        let subscribers: usize = snapshot.channels.iter().map(|channel| channel.subscribers).sum();
        info!(
            channels = snapshot.channels.len(),
            subscribers,
            mbit_in = format_args!("{:.1}", mbit(snapshot.plane.bytes_received - last.plane.bytes_received)),
            mbit_out = format_args!("{:.1}", mbit(snapshot.plane.bytes_sent - last.plane.bytes_sent)),
            lost = snapshot.node.chunks_lost - last.node.chunks_lost,
            dropped = snapshot.node.dropped.total() - last.node.dropped.total(),
            skipped = snapshot.node.jobs_skipped - last.node.jobs_skipped,
            "carried"
        );
        self.last = Some(snapshot.clone());
    }
}
