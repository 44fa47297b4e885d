//! Periods: when one begins and ends.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::config::QuotaPeriod;

/// One period: `start` is in it, `end` is the next one's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Period {
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
}

/// How time is cut into periods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) period: QuotaPeriod,
    /// Of a month: 1 to 28, so that every month has it.
    pub(super) start_day: u8,
}

impl Layout {
    /// The period in which `now` is.
    pub(super) fn period_at(self, now: Timestamp) -> Period {
        let today = now.to_zoned(TimeZone::UTC).date();
        let (first, next) = match self.period {
            QuotaPeriod::Day => (today, today.saturating_add(1.day())),
            QuotaPeriod::Month => {
                let start_day = i64::from(self.start_day);
                let back = i64::from(today.day()) - start_day;
                let month = if back < 0 { today.saturating_sub(1.month()) } else { today };
                let first = month.first_of_month().saturating_add((start_day - 1).days());
                (first, first.saturating_add(1.month()))
            }
        };
        Period { start: midnight(first), end: midnight(next) }
    }
}

impl Period {
    pub(super) fn contains(&self, now: Timestamp) -> bool {
        self.start <= now && now < self.end
    }

    /// How much of it has passed, 0 to 1.
    pub(super) fn passed(&self, now: Timestamp) -> f64 {
        let whole = (self.end - self.start).total(jiff::Unit::Second).unwrap_or(1.0);
        let passed = (now - self.start).total(jiff::Unit::Second).unwrap_or(0.0);
        (passed / whole.max(1.0)).clamp(0.0, 1.0)
    }
}

fn midnight(date: Date) -> Timestamp {
    // UTC has neither gaps nor folds; the ends of time are no dates of a running program.
    date.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn period(period: QuotaPeriod, start_day: u8, now: &str) -> (String, String) {
        let Period { start, end } = Layout { period, start_day }.period_at(now.parse().unwrap());
        (start.to_string(), end.to_string())
    }

    fn is(start: &str, end: &str) -> (String, String) {
        (format!("{start}T00:00:00Z"), format!("{end}T00:00:00Z"))
    }

    #[test]
    fn months_begin_on_their_day_at_midnight_utc() {
        let month = |start_day, now| period(QuotaPeriod::Month, start_day, now);
        assert_eq!(month(1, "2026-11-22T17:00:00Z"), is("2026-11-01", "2026-12-01"));
        assert_eq!(month(1, "2026-12-01T00:00:00Z"), is("2026-12-01", "2027-01-01"));
        assert_eq!(month(15, "2026-11-14T23:59:59.999Z"), is("2026-10-15", "2026-11-15"));
        assert_eq!(month(15, "2026-11-15T00:00:00Z"), is("2026-11-15", "2026-12-15"));
        assert_eq!(month(28, "2027-01-05T00:00:00Z"), is("2026-12-28", "2027-01-28"));
        assert_eq!(month(28, "2027-03-01T00:00:00Z"), is("2027-02-28", "2027-03-28"));
    }

    #[test]
    fn leap_days_are_days_like_others() {
        assert_eq!(period(QuotaPeriod::Month, 28, "2028-02-29T12:00:00Z"), is("2028-02-28", "2028-03-28"));
        assert_eq!(period(QuotaPeriod::Month, 1, "2028-02-29T12:00:00Z"), is("2028-02-01", "2028-03-01"));
        assert_eq!(period(QuotaPeriod::Day, 1, "2028-02-29T12:00:00Z"), is("2028-02-29", "2028-03-01"));
        assert_eq!(period(QuotaPeriod::Month, 28, "2028-03-30T12:00:00Z"), is("2028-03-28", "2028-04-28"));
    }

    proptest! {
        #[test]
        fn periods_follow_one_another_without_gap(
            seconds in -30_000_000_000_i64..200_000_000_000, start_day in 1_u8..=28, monthly: bool,
        ) {
            let period = if monthly { QuotaPeriod::Month } else { QuotaPeriod::Day };
            let layout = Layout { period, start_day };
            let now = Timestamp::from_second(seconds).unwrap();
            let period = layout.period_at(now);
            prop_assert!(period.contains(now), "{now} in {period:?}");
            prop_assert_eq!(layout.period_at(period.start), period);
            prop_assert_eq!(layout.period_at(period.end).start, period.end);
            prop_assert_eq!(layout.period_at(period.start - 1.second()).end, period.start);
            let days = (period.end - period.start).total(jiff::Unit::Hour).unwrap() / 24.0;
            let (least, most) = if monthly { (28.0, 31.0) } else { (1.0, 1.0) };
            prop_assert!((least..=most).contains(&days));
        }
    }
}
