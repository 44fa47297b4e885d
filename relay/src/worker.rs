//! The worker: one thread, one plane, one node, one loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use mesh::{Anchor, ChannelSummary, Counters, Node, Outbox, Progress, Time};
use tracing::warn;

use crate::budget::BATCH_MESSAGES;
use crate::plane::{Plane, PlaneCounters};

/// How often a worker says what it has counted.
pub(crate) const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);

/// Goodbyes take no longer than this, whatever comes in meanwhile.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// A kernel that would not even wait is asked again after this time.
const WAIT_FAILED_PAUSE: Duration = Duration::from_millis(10);

/// What a worker has counted and carries, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When, µs since the Unix epoch.
    pub at: Time,
    /// The node's totals.
    pub node: Counters,
    /// The plane's totals.
    pub plane: PlaneCounters,
    /// Sessions of both directions.
    pub sessions: usize,
    /// Slot memory that windows fill, bytes.
    pub window_bytes: usize,
    /// What is carried.
    pub channels: Vec<ChannelSummary>,
    /// Processor time of the worker's thread; `None` where the kernel does not say.
    pub cpu: Option<Duration>,
}

/// What a worker shares with the rest of the process; nothing of it is touched per datagram.
pub(crate) struct Shared {
    /// Set once, to end the worker.
    pub(crate) stop: AtomicBool,
    /// The latest snapshot; an older one that nobody took is pushed out.
    pub(crate) snapshots: ArrayQueue<Snapshot>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Shared> {
        Arc::new(Shared { stop: AtomicBool::new(false), snapshots: ArrayQueue::new(1) })
    }
}

pub(crate) struct Worker {
    node: Node,
    plane: Plane,
    outbox: Outbox,
    clock: Anchor,
    shared: Arc<Shared>,
    snapshot_at: Time,
    wait_errors: u64,
}

impl Worker {
    pub(crate) fn new(node: Node, plane: Plane, clock: Anchor, shared: Arc<Shared>) -> Worker {
        Worker {
            node,
            plane,
            outbox: Outbox::new(BATCH_MESSAGES),
            clock,
            shared,
            snapshot_at: Time::default(),
            wait_errors: 0,
        }
    }

    pub(crate) fn plane(&self) -> &Plane {
        &self.plane
    }

    /// Runs until the worker is told to stop; then says goodbye to every peer and returns the last counts.
    pub(crate) fn run(mut self) -> Snapshot {
        while !self.shared.stop.load(Ordering::Acquire) {
            let progress = self.turn();
            if progress == Progress::Idle {
                self.sleep();
            }
        }
        self.node.close();
        let give_up_at = self.now().after(GOODBYE_MAX);
        while self.turn() == Progress::More && self.now() < give_up_at {}
        self.snapshot(self.now())
    }

    fn now(&self) -> Time {
        self.clock.time_at(Instant::now())
    }

    /// Takes in what has arrived and sends one batch: what one wake-up brought of a chunk leaves as one train.
    fn turn(&mut self) -> Progress {
        let now = self.now();
        let node = &mut self.node;
        self.plane.receive(|from, datagram| {
            node.handle_datagram(now, from, datagram);
        });
        node.handle_timeout(now);
        self.outbox.clear();
        let progress = node.poll_transmit(now, &mut self.outbox);
        if !self.outbox.is_empty() {
            self.plane.transmit(&self.outbox);
        }
        self.plane.refused().for_each(|address| self.node.note_refused(address));
        if self.snapshot_at <= now {
            let snapshot = self.snapshot(now);
            self.shared.snapshots.force_push(snapshot);
            self.snapshot_at = now.after(SNAPSHOT_INTERVAL);
        }
        progress
    }

    fn sleep(&mut self) {
        let next = self.node.next_timeout().map_or(self.snapshot_at, |at| at.min(self.snapshot_at));
        let timeout = next.since(self.now());
        if let Err(error) = self.plane.wait(Some(timeout)) {
            // A kernel that fails each time must fill neither the log's disk nor the processor.
            self.wait_errors += 1;
            if self.wait_errors.is_power_of_two() {
                warn!(%error, count = self.wait_errors, "the kernel would not receive or wait; taken up again");
            }
            std::thread::sleep(WAIT_FAILED_PAUSE);
        }
    }

    fn snapshot(&self, now: Time) -> Snapshot {
        Snapshot {
            at: now,
            node: self.node.counters().clone(),
            plane: *self.plane.counters(),
            sessions: self.node.sessions(),
            window_bytes: self.node.window_bytes(),
            channels: self.node.channels().collect(),
            cpu: thread_cpu(),
        }
    }
}

/// The first field of `schedstat`: ns on the processor (Linux, Documentation/scheduler/sched-stats.rst).
fn thread_cpu() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
