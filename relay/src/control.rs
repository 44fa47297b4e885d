//! The control thread: signals in, counts out. Never on the data path.

pub mod commands;
mod dashboard;
mod door;
mod drain;
mod history;
mod http;
mod listener;
mod metrics;
mod operator;
mod quota;
mod socket;
pub mod status;
mod systemd;

use std::sync::Arc;
use std::time::Duration;

use mesh::Time;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError};
use crate::handover::Estate;
use crate::kept::keep_handover;
use crate::log::Restraint;
use crate::running::Relay;
use crate::snapshot::Snapshot;
use crate::worker::SNAPSHOT_INTERVAL;
use commands::{Command, Draining};
use door::Door;
use drain::PORTION_INTERVAL;
use history::History;
use http::Board;
use operator::Operator;
use quota::Quota;
use status::{QuotaStatus, Sources, Status};

/// A line of counts goes to the log this often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// SIGTERM follows at once after SIGUSR2, which says that another process follows; later it is another matter.
const ANNOUNCEMENT_HOLDS: Duration = Duration::from_secs(5);

/// Workers that have said nothing for so long are not well.
const SILENCE_MAX: Duration = Duration::from_secs(4);

/// Commands that wait for the control thread; whoever has one more waits too.
const COMMANDS_MAX: usize = 16;

/// Watches over the relay until a signal comes or it has been drained, shows what it does, and obeys commands. `load` gives
/// the configuration anew. Returns whether the relay ended as it should.
pub(crate) async fn supervise(
    relay: Relay,
    config: Config,
    load: impl Fn() -> Result<Config, ConfigError>,
    log: &Restraint,
) -> std::io::Result<bool> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (mut restart, mut announced_at) = (signal(SignalKind::user_defined2())?, None);
    let mut view = View::new(&relay);
    if let Some(listen) = config.admin.listen.0 {
        http::serve(listen, Arc::clone(&view.board)).await;
    }
    let mut door = Door::default();
    let mut quota = Quota::open(&config.quota, &relay);
    quota.settle(&relay, &mut door);
    let (command_to, mut commands) = mpsc::channel(COMMANDS_MAX);
    let _socket_file = config
        .admin
        .socket
        .path()
        .and_then(|path| http::serve_socket(&path, Arc::clone(&view.board), command_to.clone()));
    let mut operator = Operator::new(&relay, config, load);
    // Whoever waits for this line may signal from now on.
    info!("{}", relay.probe());
    systemd::ready();
    let mut ticks = tokio::time::interval(SNAPSHOT_INTERVAL);
    let mut portions = tokio::time::interval(PORTION_INTERVAL);
    // Nobody asks for them before a drain, and those of that time are not to be made up for.
    portions.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let name = loop {
        tokio::select! {
            biased;
            _ = restart.recv() => announced_at = Some(Instant::now()),
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = hangup.recv() => if operator.hangup() {
                quota.configure(&operator.config().quota).await;
                quota.settle(&relay, &mut door);
            },
            Some(command) = commands.recv() => {
                let begins_drain = matches!(command, Command::Drain(..));
                if operator.obey(command, &mut door) {
                    quota.configure(&operator.config().quota).await;
                    quota.settle(&relay, &mut door);
                }
                if begins_drain {
                    // Whoever asked hears of it before it can be over; other commands do not put it off.
                    portions.reset();
                }
                view.show_drain(operator.draining());
            }
            _ = portions.tick(), if operator.draining().is_some() => {
                if operator.let_some_go() {
                    break "drained";
                }
            }
            _ = ticks.tick() => {
                if !relay.is_alive() {
                    error!("a worker ended: this is a bug, the lines above say where");
                    return Ok(false);
                }
                quota.tick(&relay, &mut door);
                if view.update(&relay, quota.status(), operator.draining()) {
                    operator.note_sessions(view.last.granted_sessions);
                }
                log.tell(std::time::Instant::now(), false);
            }
            () = quota.stir() => quota.settle(&relay, &mut door),
        }
    };
    systemd::stopping();
    let is_restart = announced_at.is_some_and(|at| at.elapsed() < ANNOUNCEMENT_HOLDS);
    let last = if is_restart {
        info!("{name}: another process follows, handing over");
        hand_over(relay)
    } else {
        info!("{name}: saying goodbye to all peers");
        relay.stop()
    };
    quota.finish().await;
    if let Some(snapshot) = &last {
        let node = &snapshot.node;
        info!(
            granted = node.sessions_granted,
            shards_in = node.shards_stored,
            shards_out = node.shards_sent,
            recovered = node.shards_recovered,
            repaired = node.shards_repaired,
            lost = node.chunks_lost,
            "stopped, after {} sessions, {} shards in and {} out",
            node.sessions_granted,
            node.shards_stored,
            node.shards_sent
        );
    }
    log.tell(std::time::Instant::now(), true);
    Ok(last.is_some())
}

/// Leaves everything to the process that systemd starts next.
fn hand_over(relay: Relay) -> Option<Snapshot> {
    let multiplier = relay.steering().multiplier();
    let (last, parts) = relay.hand_over()?;
    match (Estate { left_at: last.at, multiplier, parts }).write() {
        Ok(estate) => keep_handover(&estate),
        Err(error) => error!(%error, "nothing can be handed over: peers have to dial again"),
    }
    Some(last)
}

/// What the relay has counted, for all who look at it.
struct View {
    board: Arc<Board>,
    history: History,
    log: Log,
    strained: Strained,
    started_at: Option<Time>,
    last: Snapshot,
    heard_at: Instant,
    forgot_at: Instant,
}

impl View {
    fn new(relay: &Relay) -> View {
        let board = Board::new(metrics::install());
        // All that is known before the workers have counted.
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: Some(relay.local_addr()),
            probe: relay.probe().to_owned(),
            uses_io_uring: relay.uses_io_uring(),
            is_healthy: true,
            ..Status::default()
        };
        board.show(status);
        View {
            board,
            history: History::new(),
            log: Log::default(),
            strained: Strained::default(),
            started_at: None,
            last: Snapshot::default(),
            heard_at: Instant::now(),
            forgot_at: Instant::now(),
        }
    }

    fn show_drain(&self, drain: Option<Draining>) {
        let last = self.board.status();
        self.board.show(Status { drain, ..(*last).clone() });
    }

    /// Returns whether the workers have counted anew.
    fn update(&mut self, relay: &Relay, quota: Option<QuotaStatus>, drain: Option<Draining>) -> bool {
        let Some(now) = relay.take_snapshot() else {
            if self.heard_at.elapsed() > SILENCE_MAX {
                let last = self.board.status();
                self.board.show(Status { is_healthy: false, quota, ..(*last).clone() });
            }
            return false;
        };
        self.heard_at = Instant::now();
        self.history.note(&now);
        let started_at = *self.started_at.get_or_insert(now.at);
        let sources =
            Sources { relay, started_at, history: &self.history, last: &self.last, now: &now, quota, drain };
        let status = Status::new(&sources);
        metrics::publish(&now, &status);
        if self.forgot_at.elapsed() >= metrics::FORGET_INTERVAL {
            self.forgot_at = Instant::now();
            self.board.forget();
        }
        systemd::alive(&status);
        self.board.show(status);
        self.log.note(&now);
        if let Some(strained) = self.strained.note(Instant::now(), now.node.sessions_strained) {
            warn!(
                strained,
                "{strained} let go because of their lines: a quarter or more of what they were sent was lost on the way; \
                 where it is many, the relay's own line loses"
            );
        }
        self.last = now;
        true
    }
}

/// How many subscribers were let go because of their lines, as far as the log says.
#[derive(Default)]
struct Strained {
    told: u64,
    told_at: Option<Instant>,
}

impl Strained {
    /// Returns how many the log is to tell of: the first at once, then those of a minute together.
    fn note(&mut self, now: Instant, total: u64) -> Option<u64> {
        let is_due = self.told_at.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL);
        let news = total.saturating_sub(self.told);
        (is_due && news > 0).then(|| {
            (self.told, self.told_at) = (total, Some(now));
            news
        })
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
        let mbit = |bytes: u64| ((bytes * 8) as f64 / 1e5 / elapsed.as_secs_f64()).round() / 10.0;
        let subscribers: usize = snapshot.channels.iter().map(|channel| channel.subscribers).sum();
        let channels = snapshot.channels.len();
        let mbit_in = mbit(snapshot.plane.bytes_received - last.plane.bytes_received);
        let mbit_out = mbit(snapshot.plane.bytes_sent - last.plane.bytes_sent);
        info!(
            channels,
            subscribers,
            mbit_in,
            mbit_out,
            lost = snapshot.node.chunks_lost - last.node.chunks_lost,
            dropped = snapshot.node.dropped.total() - last.node.dropped.total(),
            skipped = snapshot.node.jobs_skipped - last.node.jobs_skipped,
            strained = snapshot.node.sessions_strained - last.node.sessions_strained,
            "carried {channels} channels, {mbit_in} Mbit/s, to {subscribers} subscribers, {mbit_out} Mbit/s"
        );
        self.last = Some(snapshot.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_let_go_is_told_of_at_once_and_then_once_a_minute() {
        let (mut strained, start) = (Strained::default(), Instant::now());
        let mut note = |second: u64, total| strained.note(start + Duration::from_secs(second), total);
        assert_eq!([note(0, 0), note(1, 2), note(2, 3), note(60, 9)], [None, Some(2), None, None]);
        assert_eq!([note(61, 9), note(62, 9), note(500, 9), note(501, 10)], [Some(7), None, None, Some(1)]);
    }
}
