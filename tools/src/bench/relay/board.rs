//! What the threads of a bench tell each other.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use codec::wire::control::RefuseReason;
use mesh::Time;

/// Each count has one writer, and is a total since the start.
#[derive(Default)]
pub(super) struct Board {
    /// Everybody ends.
    pub(super) over: AtomicBool,
    /// The publishers begin.
    pub(super) go: AtomicBool,
    /// The relay outlives the bench: its sessions are ended one by one.
    pub(super) says_goodbye: bool,
    /// Why the relay refused a session; the first time.
    pub(super) refused: OnceLock<RefuseReason>,
    /// Publishers that have a session.
    pub(super) publishers: AtomicUsize,
    /// Subscriptions that have one.
    pub(super) subscriptions: AtomicUsize,
    /// Chunks captured from here on are measured, and up to there; µs since the Unix epoch. 0: not known yet.
    pub(super) from_us: AtomicU64,
    /// See `from_us`.
    pub(super) until_us: AtomicU64,
    /// Shard datagrams that reached subscribers.
    pub(super) datagrams: AtomicU64,
    /// Payload of the chunks that reached a subscriber whole.
    pub(super) payload_bytes: AtomicU64,
    /// Processor time of the subscribers' thread and of the publishers', µs.
    pub(super) sink_cpu_us: AtomicU64,
    pub(super) publisher_cpu_us: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) at: Time,
    pub(super) datagrams: u64,
    pub(super) payload_bytes: u64,
    pub(super) sink_cpu: Duration,
    pub(super) publisher_cpu: Duration,
}

impl Board {
    pub(super) fn tally(&self, at: Time) -> Tally {
        let micros = |count: &AtomicU64| Duration::from_micros(count.load(Ordering::Relaxed));
        Tally {
            at,
            datagrams: self.datagrams.load(Ordering::Relaxed),
            payload_bytes: self.payload_bytes.load(Ordering::Relaxed),
            sink_cpu: micros(&self.sink_cpu_us),
            publisher_cpu: micros(&self.publisher_cpu_us),
        }
    }

    pub(super) fn note_refusal(&self, reason: Option<RefuseReason>) {
        if let Some(reason) = reason {
            self.refused.get_or_init(|| reason);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}
