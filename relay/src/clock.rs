//! The one clock of a process.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mesh::Time;

/// Monotonic time anchored to the wall clock once: never runs backwards, and is close enough to other machines' time
/// for capture times to mean something.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Instant,
    anchor_us: u64,
}

impl Clock {
    /// Anchored now.
    pub fn start() -> Clock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { anchor: Instant::now(), anchor_us: since_epoch.as_micros() as u64 }
    }

    /// The time.
    pub fn now(&self) -> Time {
        Time(self.anchor_us + self.anchor.elapsed().as_micros() as u64)
    }
}
