//! How long chunks take on their way from where they were captured: how much that varies, and whether they queue.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// Transit times of chunks by one upstream, µs against their capture times. Two clocks are compared: only differences mean
/// something.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Arrivals {
    pub(crate) last: Option<i64>,
    spread: i64,
    /// The fastest of this period and of the one before.
    fastest: [Option<i64>; 2],
    since: Time,
    /// The fastest since the last report.
    fastest_unreported: Option<i64>,
}

impl Arrivals {
    /// The first shard of a chunk came, unasked: interarrival jitter as in RFC 3550 §6.4.1.
    pub(crate) fn note(&mut self, now: Time, capture_us: u64) {
        let transit = now.0.wrapping_sub(capture_us) as i64;
        if let Some(before) = self.last {
            let difference = transit.saturating_sub(before).saturating_abs().min(DIFFERENCE_MAX_US);
            self.spread += (difference - self.spread) / 16;
        }
        self.last = Some(transit);
        if now.since(self.since) > PERIOD {
            self.fastest = [None, self.fastest[0]];
            self.since = now;
        }
        let least = |before: Option<i64>| Some(before.map_or(transit, |before| before.min(transit)));
        self.fastest[0] = least(self.fastest[0]);
        self.fastest_unreported = least(self.fastest_unreported);
    }

    /// Whether arrivals come to this.
    pub(crate) fn is_possible(&self) -> bool {
        (0..=DIFFERENCE_MAX_US).contains(&self.spread)
    }

    /// The smoothed variation.
    pub(crate) fn spread_us(&self) -> u32 {
        u32::try_from(self.spread).unwrap_or(u32::MAX)
    }

    /// The fastest of the last minutes.
    pub(crate) fn fastest(&self) -> Option<i64> {
        self.fastest.iter().flatten().min().copied()
    }

    /// By how much all chunks since the last report were slower than the fastest of the last minutes.
    pub(crate) fn queued_ms(&self) -> u16 {
        let waited = self.fastest_unreported.zip(self.fastest());
        let queued = waited.map_or(0, |(now, best)| now.saturating_sub(best));
        u16::try_from(queued / 1_000).unwrap_or(u16::MAX)
    }

    /// The same, for a report.
    pub(crate) fn take_queued_ms(&mut self) -> u16 {
        let queued = self.queued_ms();
        self.fastest_unreported = None;
        queued
    }
}

/// For so long, and once more, the fastest is remembered: clocks that differ by 100 ppm drift 12 ms apart, and a path that
/// got longer is taken for what it is.
const PERIOD: Duration = Duration::from_secs(60);

/// Chunks further apart were not delayed by the way: a clock was set, or the stream stood still.
const DIFFERENCE_MAX_US: i64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_queue_shows_and_jitter_does_not() {
        let mut arrivals = Arrivals::default();
        let mut second = |start: u64, transit: &dyn Fn(u64) -> u64| {
            for chunk in 0..25 {
                let captured = start + chunk * 40_000;
                arrivals.note(Time(captured + transit(chunk)), captured);
            }
            arrivals.take_queued_ms()
        };
        assert_eq!(second(1_000_000_000, &|_| 30_000), 0);
        assert_eq!(second(1_001_000_000, &|chunk| 30_000 + chunk % 5 * 10_000), 0);
        assert_eq!(second(1_002_000_000, &|_| 90_000), 60);
        assert_eq!(second(1_200_000_000, &|_| 90_000), 60);
        assert_eq!(second(1_300_000_000, &|_| 90_000), 0, "the path is longer now");
    }
}
