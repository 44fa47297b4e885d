//! A token bucket: so many at once, so many a second.

use serde::{Deserialize, Serialize};

use crate::time::{Time, micros};

/// What may be spent of something that is earned over time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Allowance {
    spent: u32,
    /// Up to when what was earned has been taken off.
    settled_at: Time,
}

/// How much may be spent at once, and how much is earned a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

impl Allowance {
    pub(crate) fn new(now: Time) -> Allowance {
        Allowance { spent: 0, settled_at: now }
    }

    /// The same where the clock was set back meanwhile.
    pub(crate) fn no_later_than(self, now: Time) -> Allowance {
        Allowance { settled_at: self.settled_at.min(now), ..self }
    }

    /// Whether anything is left.
    pub(crate) fn is_left(&mut self, now: Time, rate: Rate) -> bool {
        let elapsed_us = micros(now.since(self.settled_at));
        let earned = u128::from(elapsed_us) * u128::from(rate.per_second) / 1_000_000;
        if earned > 0 {
            self.spent = self.spent.saturating_sub(u32::try_from(earned).unwrap_or(u32::MAX));
            self.settled_at = now;
        }
        self.spent < rate.burst
    }

    pub(crate) fn spend(&mut self) {
        self.spent = self.spent.saturating_add(1);
    }

    /// Spends one if there is one left.
    pub(crate) fn take(&mut self, now: Time, rate: Rate) -> bool {
        let left = self.is_left(now, rate);
        if left {
            self.spend();
        }
        left
    }

    /// Whether nothing is owed: forgetting it changes nothing.
    pub(crate) fn is_whole(&mut self, now: Time, rate: Rate) -> bool {
        self.is_left(now, rate) && self.spent == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = Rate { burst: 5, per_second: 10 };
        let mut allowance = Allowance::new(Time(0));
        let mut taken = |at: u64| (0..100).filter(|_| allowance.take(Time(at), rate)).count();
        assert_eq!(taken(0), 5);
        assert_eq!(taken(50_000), 0);
        assert_eq!(taken(100_000), 1);
        assert_eq!(taken(10_000_000), 5, "no more than a burst is saved up");
        assert!(!allowance.is_whole(Time(10_000_000), rate));
        assert!(allowance.is_whole(Time(20_000_000), rate));
    }
}
