//! What was counted lately: rates over the last seconds and minutes.

use std::collections::VecDeque;
use std::time::Duration;

use mesh::Time;
use serde::{Deserialize, Serialize};

use crate::snapshot::Snapshot;

/// The times over which rates are given.
const RATE_SPANS: [Duration; 5] = [
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(900),
    Duration::from_secs(3_600),
];

/// Samples kept: one a second for the longest time, and one more to count from.
const SAMPLES_MAX: usize = 3_601;

/// Totals at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at: Time,
    received: u64,
    sent: u64,
    datagrams_received: u64,
    datagrams_sent: u64,
}

/// The samples of the last hour, 150 KB.
pub(super) struct History {
    samples: VecDeque<Sample>,
}

/// Means over one time, or over as much of it as has passed since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// The time, s.
    pub seconds: u64,
    /// Payload that came in, bit/s.
    pub received_bps: f64,
    /// Payload that was sent, bit/s.
    pub sent_bps: f64,
    /// Datagrams that came in, per second.
    pub received_datagrams_per_s: f64,
    /// Datagrams that were sent, per second.
    pub sent_datagrams_per_s: f64,
}

impl History {
    pub(super) fn new() -> History {
        History { samples: VecDeque::with_capacity(SAMPLES_MAX) }
    }

    pub(super) fn note(&mut self, snapshot: &Snapshot) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            at: snapshot.at,
            received: snapshot.plane.bytes_received,
            sent: snapshot.plane.bytes_sent,
            datagrams_received: snapshot.plane.datagrams_received,
            datagrams_sent: snapshot.plane.datagrams_sent,
        });
    }

    pub(super) fn rates(&self) -> Vec<Rates> {
        RATE_SPANS.iter().map(|span| self.rates_over(*span)).collect()
    }

    fn rates_over(&self, span: Duration) -> Rates {
        let seconds = span.as_secs();
        let nothing = Rates { seconds, ..Rates::default() };
        let Some(last) = self.samples.back() else { return nothing };
        // A sample comes a little more than a second after the one before.
        let is_within = |sample: &Sample| last.at.since(sample.at) <= span + Duration::from_millis(500);
        let first = self.samples.partition_point(|sample| !is_within(sample));
        let first = self.samples[first];
        let elapsed = last.at.since(first.at).as_secs_f64();
        if elapsed <= 0.0 {
            return nothing;
        }
        let rate = |of: fn(&Sample) -> u64| of(last).saturating_sub(of(&first)) as f64 / elapsed;
        Rates {
            seconds,
            received_bps: rate(|sample| sample.received) * 8.0,
            sent_bps: rate(|sample| sample.sent) * 8.0,
            received_datagrams_per_s: rate(|sample| sample.datagrams_received),
            sent_datagrams_per_s: rate(|sample| sample.datagrams_sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(second: u64, bytes_sent: u64) -> Snapshot {
        let mut snapshot = Snapshot { at: Time(second * 1_000_000), ..Snapshot::default() };
        snapshot.plane.bytes_sent = bytes_sent;
        snapshot
    }

    #[test]
    fn rates_are_means_over_their_time_and_of_what_there_is_before_it_has_passed() {
        let mut history = History::new();
        assert!(history.rates().iter().all(|rates| rates.sent_bps == 0.0));
        (0..=5).for_each(|second| history.note(&snapshot(second, second * 1_000)));
        assert!(history.rates().iter().all(|rates| rates.sent_bps == 8_000.0), "{:?}", history.rates());
        // Ten times as much from the 100th second on.
        (6..=100).for_each(|second| history.note(&snapshot(second, second * 1_000)));
        (1..=60).for_each(|second| history.note(&snapshot(100 + second, 100_000 + second * 10_000)));
        let rates: Vec<u64> = history.rates().iter().map(|rates| rates.sent_bps as u64).collect();
        assert_eq!(rates, [80_000, 80_000, 35_000, 35_000, 35_000]);
    }

    #[test]
    fn an_hour_is_kept() {
        let mut history = History::new();
        (0..10_000).for_each(|second| history.note(&snapshot(second, second)));
        assert_eq!(history.samples.len(), SAMPLES_MAX);
        assert_eq!(history.rates()[4].sent_bps, 8.0);
    }
}
