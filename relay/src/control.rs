//! The control thread: signals in, counts out. Never on the data path.

use std::time::Duration;

use mesh::DropReason;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::running::Relay;
use crate::snapshot::Snapshot;
use crate::worker::SNAPSHOT_INTERVAL;

/// A line of counts goes to the log this often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Watches over the relay until a signal comes. Returns whether it ended as it should.
pub(crate) async fn supervise(relay: Relay) -> std::io::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Whoever waits for this line may signal from now on.
    info!("{}", relay.probe());
    let mut ticks = tokio::time::interval(SNAPSHOT_INTERVAL);
    let mut log = Log::default();
    let name = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = ticks.tick() => {
                if !relay.is_alive() {
                    error!("a worker ended: this is a bug, the lines above say where");
                    return Ok(false);
                }
                if let Some(snapshot) = relay.take_snapshot() {
                    publish(&snapshot);
                    log.note(snapshot);
                }
            }
        }
    };
    info!("{name}: saying goodbye to all peers");
    let last = relay.stop();
    if let Some(snapshot) = &last {
        publish(snapshot);
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

/// Hands the totals to whatever recorder the process has installed.
fn publish(snapshot: &Snapshot) {
    let (node, plane) = (&snapshot.node, &snapshot.plane);
    metrics::gauge!("superpeer_sessions").set(snapshot.sessions as f64);
    metrics::gauge!("superpeer_channels").set(snapshot.channels.len() as f64);
    metrics::gauge!("superpeer_window_bytes").set(snapshot.window_bytes as f64);
    let counters = [
        ("superpeer_shards_stored_total", node.shards_stored),
        ("superpeer_shards_sent_total", node.shards_sent),
        ("superpeer_shards_recovered_total", node.shards_recovered),
        ("superpeer_shards_repaired_total", node.shards_repaired),
        ("superpeer_chunks_lost_total", node.chunks_lost),
        ("superpeer_trains_sent_total", node.trains_sent),
        ("superpeer_jobs_skipped_total", node.jobs_skipped),
        ("superpeer_signature_checks_total", node.signature_checks),
        ("superpeer_received_bytes_total", plane.bytes_received),
        ("superpeer_sent_bytes_total", plane.bytes_sent),
        ("superpeer_copied_bytes_total", plane.copied_bytes),
        ("superpeer_zero_copy_bytes_total", plane.zero_copy_bytes),
        ("superpeer_send_errors_total", plane.send_errors + plane.gave_up),
    ];
    for (name, total) in counters {
        metrics::counter!(name).absolute(total);
    }
    for reason in DropReason::ALL {
        let total = node.dropped_for(reason);
        metrics::counter!("superpeer_dropped_total", "reason" => reason.to_string()).absolute(total);
    }
}

/// The line of counts.
#[derive(Default)]
struct Log {
    last: Option<Snapshot>,
}

impl Log {
    fn note(&mut self, snapshot: Snapshot) {
        let Some(last) = &self.last else {
            self.last = Some(snapshot);
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
        self.last = Some(snapshot);
    }
}
