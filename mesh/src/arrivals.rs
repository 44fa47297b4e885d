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
    /// The fastest of the last minutes.
    fastest: Fastest,
    /// The fastest since the last report.
    fastest_unreported: Option<i64>,
    /// The fastest of the last second or two.
    #[serde(skip)]
    fastest_lately: Fastest,
}

/// The fastest of a period and of the one before.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Fastest {
    periods: [Option<i64>; 2],
    since: Time,
}

impl Fastest {
    fn note(&mut self, now: Time, period: Duration, transit: i64) {
        if now.since(self.since) > period {
            self.periods = [None, self.periods[0]];
            self.since = now;
        }
        self.periods[0] = earliest(self.periods[0], transit);
    }

    fn get(&self) -> Option<i64> {
        self.periods.iter().flatten().min().copied()
    }
}

fn earliest(before: Option<i64>, transit: i64) -> Option<i64> {
    Some(before.map_or(transit, |before| before.min(transit)))
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
        self.fastest.note(now, PERIOD, transit);
        self.fastest_lately.note(now, PERIOD_LATELY, transit);
        self.fastest_unreported = earliest(self.fastest_unreported, transit);
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
        self.fastest.get()
    }

    /// By how much all chunks of the last second or two were slower than the fastest of the last minutes.
    pub(crate) fn queued_ms(&self) -> u16 {
        self.behind_fastest_ms(self.fastest_lately.get())
    }

    /// The same of all chunks since the last report.
    pub(crate) fn take_queued_ms(&mut self) -> u16 {
        let unreported = self.fastest_unreported.take();
        self.behind_fastest_ms(unreported)
    }

    fn behind_fastest_ms(&self, transit: Option<i64>) -> u16 {
        let queued = transit.zip(self.fastest()).map_or(0, |(now, best)| now.saturating_sub(best));
        u16::try_from(queued / 1_000).unwrap_or(u16::MAX)
    }
}

/// For so long, and once more, the fastest is remembered: clocks that differ by 100 ppm drift 12 ms apart, and a path that
/// got longer is taken for what it is.
const PERIOD: Duration = Duration::from_secs(60);

/// Chunks further apart were not delayed by the way: a clock was set, or the stream stood still.
const DIFFERENCE_MAX_US: i64 = 10_000_000;

/// As long as a report looks back: what is compared with one was measured alike.
const PERIOD_LATELY: Duration = Duration::from_secs(1);

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
