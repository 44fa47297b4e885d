//! Time as an argument.

use core::time::Duration;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment: µs since the Unix epoch. Whoever drives a node reads it from a monotonic clock anchored to the wall clock
/// once, so that it never runs backwards and still means something to the other end of a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(micros(duration)))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Monotonic time tied to the wall clock once: never runs backwards, and is close enough to other machines' time for
/// capture times to mean something.
#[derive(Clone, Copy, Debug)]
pub struct Anchor {
    instant: Instant,
    time: Time,
}

impl Anchor {
    /// From one reading of both clocks.
    pub fn new(wall: SystemTime, instant: Instant) -> Anchor {
        let time = Time(micros(wall.duration_since(UNIX_EPOCH).unwrap_or_default()));
        Anchor { instant, time }
    }

    /// The time at `instant`.
    pub fn time_at(&self, instant: Instant) -> Time {
        self.time.after(instant.saturating_duration_since(self.instant))
    }
}

/// Whole µs of a duration.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
