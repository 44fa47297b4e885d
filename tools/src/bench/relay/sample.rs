//! What the measured relay has counted, as of one moment.

use relay::status::Status;
use serde::{Deserialize, Serialize};

/// The counts of a relay, as far as it tells.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub(super) struct Sample {
    /// µs since the Unix epoch, by the relay's clock.
    pub(super) at_us: u64,
    /// Of a relay that tells nobody: none.
    pub(super) counts: Option<Counts>,
    /// Messages that the kernel dropped at the relay's socket, if that is on this machine.
    pub(super) socket_drops: Option<u64>,
    /// Bytes that are allocated, slot memory apart, in the bench's own relay. Resident memory would not do to tell what a
    /// subscriber costs: the allocator's memory becomes real in huge pages of 2 MiB.
    pub(super) heap_bytes: Option<u64>,
}

/// Totals since the relay's start, and its memory.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub(super) struct Counts {
    /// One for each worker, in their order.
    pub(super) workers: Vec<WorkerTimes>,
    /// Processor time of the whole process.
    pub(super) process_cpu_us: u64,
    pub(super) trains_sent: u64,
    pub(super) shards_sent: u64,
    pub(super) bytes_sent: u64,
    pub(super) datagrams_sent: u64,
    pub(super) zero_copy_bytes: u64,
    pub(super) copied_bytes: u64,
    pub(super) jobs_skipped: u64,
    pub(super) gave_up: u64,
    pub(super) blocked: u64,
    pub(super) send_errors: u64,
    pub(super) cq_overflow: u64,
    pub(super) no_buffers: u64,
    pub(super) rss_bytes: u64,
    pub(super) window_bytes: usize,
}

/// Where a worker's time went, µs.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkerTimes {
    /// On a processor.
    pub(super) cpu_us: u64,
    /// It could have run but had no core; only the bench's own relay tells.
    pub(super) waited_us: Option<u64>,
}

/// What a relay is.
#[derive(Clone, Debug)]
pub(super) struct About {
    /// What the kernel gave it.
    pub(super) probe: String,
    pub(super) uses_io_uring: bool,
    pub(super) workers: usize,
}

impl From<&Status> for About {
    fn from(status: &Status) -> About {
        let Status { probe, uses_io_uring, workers, .. } = status;
        About { probe: probe.clone(), uses_io_uring: *uses_io_uring, workers: workers.len() }
    }
}

impl From<&Status> for Counts {
    fn from(status: &Status) -> Counts {
        let micros = |seconds: f64| (seconds * 1e6) as u64;
        let totals = &status.totals;
        let workers = status.workers.iter();
        Counts {
            workers: workers
                .map(|worker| WorkerTimes { cpu_us: micros(worker.cpu_s), waited_us: None })
                .collect(),
            process_cpu_us: micros(status.cpu_s),
            trains_sent: totals.trains_sent,
            shards_sent: totals.shards_sent,
            bytes_sent: totals.sent_bytes,
            datagrams_sent: totals.sent_datagrams,
            zero_copy_bytes: totals.zero_copy_bytes,
            copied_bytes: totals.copied_bytes,
            jobs_skipped: totals.jobs_skipped,
            gave_up: totals.gave_up,
            blocked: totals.blocked,
            send_errors: totals.send_errors.saturating_sub(totals.gave_up),
            cq_overflow: totals.cq_overflow,
            no_buffers: totals.no_buffers,
            rss_bytes: status.rss_bytes,
            window_bytes: status.window_bytes,
        }
    }
}
