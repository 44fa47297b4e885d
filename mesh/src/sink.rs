//! The viewer's playout: chunks out in order, each as soon as it is complete, none waited for beyond the delay.

use core::time::Duration;

use codec::{ChunkHeader, Sequence};

use crate::arena::SlotRef;
use crate::limits::GAP_CHUNKS_MAX;
use crate::time::Time;
use crate::window::Window;

/// How a local viewer wants its channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SinkConfig {
    /// How long a missing chunk may be waited for.
    pub delay: Duration,
    /// The first chunk wanted; 0 for the latest join point, 1 for the oldest there is.
    pub from: Sequence,
}

/// A chunk to be written out.
#[derive(Clone, Copy, Debug)]
pub struct OutputChunk {
    /// Its header.
    pub header: ChunkHeader,
    pub(crate) slot: SlotRef,
}

/// A local viewer of a channel.
pub(crate) struct Sink {
    config: SinkConfig,
    /// The next chunk to be written; 0 before the first came.
    next: Sequence,
}

/// What the playout does next.
#[derive(Debug)]
pub(crate) enum Playout {
    Write(OutputChunk),
    /// Go on without this many chunks.
    Skip(u64),
    Wait,
}

impl Sink {
    pub(crate) fn new(config: SinkConfig) -> Sink {
        Sink { config, next: Sequence(0) }
    }

    pub(crate) fn delay(&self) -> Duration {
        self.config.delay
    }

    /// What to ask an upstream for: what was wanted at first, or where the output stands.
    pub(crate) fn from(&self) -> Sequence {
        self.next.max(self.config.from)
    }

    /// Chunks below were written or skipped.
    pub(crate) fn position(&self) -> Sequence {
        self.next
    }

    /// Whether chunks wait for one that is missing.
    pub(crate) fn is_waiting(&self, window: &Window) -> bool {
        !window.is_empty() && self.next <= window.edge()
    }

    pub(crate) fn advance(&mut self, now: Time, window: &Window) -> Playout {
        if self.next == Sequence(0) {
            self.next = window.floor();
        }
        let Some(chunk) = window.first_from(self.next) else { return Playout::Wait };
        let in_time = now.since(chunk.first_seen) < self.config.delay;
        let missing = chunk.sequence.since(self.next);
        if missing > 0 {
            // Chunks that left the window, or a gap too wide for loss: the publisher was started again. Then there is
            // nothing to wait for but the join point of the new run.
            let restarted = missing > GAP_CHUNKS_MAX && chunk.is_complete() && chunk.is_join_point();
            if in_time && !restarted && window.floor() <= self.next {
                return Playout::Wait;
            }
            self.next = chunk.sequence;
            return Playout::Skip(if missing > GAP_CHUNKS_MAX { 0 } else { missing });
        }
        match &chunk.body {
            Some(body) if chunk.is_complete() => {
                self.next = chunk.sequence.next();
                Playout::Write(OutputChunk { header: body.identity.header, slot: body.slot })
            }
            _ if in_time => Playout::Wait,
            _ => {
                self.next = chunk.sequence.next();
                Playout::Skip(1)
            }
        }
    }
}
