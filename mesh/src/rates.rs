//! How fast a channel comes in.

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use crate::time::{Time, micros};

/// Samples kept: five seconds of one each [`crate::limits::SWEEP_INTERVAL`].
const SAMPLES: usize = 21;

/// Samples of a second.
const SECOND: usize = 4;

/// Data shards of a channel in 1,000 seconds.
///
/// Whoever stood still for a moment has chunks to catch up with: what follows has more than its share, but not the two
/// seconds that both are in. So `mean` is no more than the last two seconds had, nor is `last` if the first of these had
/// less than those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rates {
    /// The most that a second of the last five had, or the mean of the five: where a second begins and ends, it may have a
    /// chunk more than its share, which is left out. A channel that pauses keeps it.
    pub(crate) peak: u64,
    /// The last second.
    pub(crate) last: u64,
    /// The last five.
    pub(crate) mean: u64,
}

/// Totals of the last five seconds.
#[derive(Default)]
pub(crate) struct RateMeter {
    samples: ArrayVec<(Time, u64), SAMPLES>,
    rates: Option<Rates>,
    /// There was a pause before the samples.
    is_after_pause: bool,
}

impl RateMeter {
    /// Goes on with what another meter found, after a pause.
    pub(crate) fn resume(&mut self, rates: Option<Rates>) {
        *self = RateMeter { samples: ArrayVec::new(), rates, is_after_pause: rates.is_some() };
    }

    /// Notes how many data shards came so far, in chunks of how many, and gives the rates once a whole second is known; after
    /// a pause, two.
    pub(crate) fn note(&mut self, now: Time, shards: u64, chunk: u64) -> Option<Rates> {
        let paused = |second: &[(Time, u64)]| second[0].1 == shards;
        if self.samples.len() > SECOND && paused(&self.samples[self.samples.len() - SECOND..]) {
            self.resume(self.rates);
        }
        if self.samples.is_full() {
            self.samples.remove(0);
        }
        match self.samples.last() {
            // Nothing has come yet, or nothing since a pause: what comes counts from here on.
            Some((_, before)) if self.samples.len() == 1 && *before == shards => {
                self.samples[0] = (now, shards)
            }
            _ => self.samples.push((now, shards)),
        }
        let newest = self.samples.len() - 1;
        let over = |samples: usize| rate(self.samples[newest.saturating_sub(samples)], self.samples[newest]);
        let known_after = if self.is_after_pause { 2 * SECOND } else { SECOND };
        if newest >= known_after {
            let (two, middle) = (over(2 * SECOND), newest - SECOND);
            let before_last = rate(self.samples[middle.saturating_sub(SECOND)], self.samples[middle]);
            let stood_still = before_last < rate(self.samples[0], self.samples[middle]);
            let last = if stood_still { over(SECOND).min(two) } else { over(SECOND) };
            let seconds = self.samples.windows(SECOND + 1).map(|window| rate(window[0], window[SECOND]));
            let (most, mean) = (seconds.max().unwrap_or(0), over(SAMPLES));
            let peak = most.saturating_sub(chunk * 1_000).max(mean);
            self.rates = Some(Rates { peak, last, mean: mean.min(two) });
        } else if newest == 0 {
            // In a pause.
            self.rates = self.rates.map(|rates| Rates { peak: rates.peak, last: 0, mean: 0 });
        }
        self.rates
    }
}

fn rate((from, before): (Time, u64), (until, after): (Time, u64)) -> u64 {
    let us = u128::from(micros(until.since(from)).max(1));
    (u128::from(after - before) * 1_000_000_000 / us) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes what comes in quarters of a second; gives the last rates.
    fn note(
        meter: &mut RateMeter,
        at: &mut Time,
        total: &mut u64,
        quarters: usize,
        each: u64,
    ) -> Option<Rates> {
        let mut rates = None;
        for _ in 0..quarters {
            (*at, *total) = (Time(at.0 + 250_000), *total + each);
            rates = meter.note(*at, *total, 10);
        }
        rates
    }

    #[test]
    fn a_rate_is_known_after_a_second_peaks_for_five_and_a_pause_keeps_it() {
        let (mut meter, mut at, mut total) = (RateMeter::default(), Time(0), 0);
        let mut step = |quarters, each| note(&mut meter, &mut at, &mut total, quarters, each);
        assert_eq!(step(10, 0), None, "nothing has come");
        assert_eq!(step(3, 100), None);
        let rates = |peak: u64, last: u64, mean: u64| {
            Some(Rates { peak: peak * 1_000, last: last * 1_000, mean: mean * 1_000 })
        };
        assert_eq!(step(1, 100), rates(400, 400, 400));
        assert_eq!(step(4, 200), rates(790, 800, 600));
        assert_eq!(step(15, 100).unwrap().peak, 790_000);
        assert_eq!(step(5, 100), rates(400, 400, 400));
        assert_eq!(step(40, 0), rates(390, 0, 0), "a pause");
        assert_eq!(step(7, 50), rates(390, 0, 0));
        assert_eq!(step(1, 50), rates(200, 200, 200));
    }

    #[test]
    fn what_is_caught_up_with_is_no_higher_rate() {
        let (mut meter, mut at, mut total) = (RateMeter::default(), Time(0), 0);
        note(&mut meter, &mut at, &mut total, 12, 100);
        let mut most = (0, 0);
        for each in [0, 0, 300].into_iter().chain([100; 30]) {
            let Rates { last, mean, .. } = note(&mut meter, &mut at, &mut total, 1, each).unwrap();
            most = (most.0.max(last), most.1.max(mean));
        }
        assert_eq!(most, (400_000, 400_000));
        meter.resume(Some(Rates { peak: 390_000, last: 400_000, mean: 400_000 }));
        let after: Vec<Rates> = [100, 250, 100, 100, 100, 100, 100, 100]
            .map(|each| note(&mut meter, &mut at, &mut total, 1, each).unwrap())
            .to_vec();
        assert_eq!(after, [Rates { peak: 390_000, last: 0, mean: 0 }; 8]);
        let known = note(&mut meter, &mut at, &mut total, 1, 100).unwrap();
        assert_eq!(known.last, 400_000);
    }
}
