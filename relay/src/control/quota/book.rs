//! The book: how much was used in which period, whatever the clock does. Pure: the time is an argument.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::period::{Layout, Period};

/// A clock that shows an earlier time has not been set yet: 2025.
const CLOCK_SET_FROM_S: i64 = 1_735_689_600;

/// What was used in a period.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Bytes of IP.
    pub(super) used_bytes: u64,
    /// In which.
    pub(super) period: Period,
}

/// What is known, and is written to the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Book {
    /// The last step of warning that was given in this period, percent.
    pub(super) warned_percent: u8,
    /// This period.
    pub(super) current: Entry,
    /// The one that was left for it; the clock may come back to it.
    pub(super) before: Option<Entry>,
}

impl Book {
    /// An empty one.
    pub(super) fn new(layout: Layout, now: Timestamp) -> Book {
        let current = Entry { used_bytes: 0, period: layout.period_at(now) };
        Book { warned_percent: 0, current, before: None }
    }

    /// The book as it is to be kept at `now`.
    ///
    /// Only time that goes forward into a new period gives a new quota. A clock that was put forward and back finds what it
    /// had left, with what was used meanwhile; one that is put back further, or another layout of periods, takes
    /// along what was used; one that is not set changes nothing.
    pub(super) fn at(self, layout: Layout, now: Timestamp) -> Book {
        let Book { current, before, .. } = self;
        let is_set = now.as_second() >= CLOCK_SET_FROM_S;
        if !is_set && now < current.period.end {
            return self;
        }
        let period = layout.period_at(now);
        if current.period.contains(now) {
            let current = Entry { period, ..current };
            let before = before.filter(|_| period == self.current.period);
            return Book { current, before, ..self };
        }
        if let Some(before) = before.filter(|before| before.period.contains(now)) {
            // What was taken along into an earlier period is in its figure already.
            let is_later = before.period.start > current.period.start;
            let had = if is_later { 0 } else { before.used_bytes };
            let used_bytes = had.saturating_add(current.used_bytes);
            return Book { warned_percent: 0, current: Entry { used_bytes, period }, before: None };
        }
        let was_set = current.period.end.as_second() > CLOCK_SET_FROM_S;
        let is_new = now >= current.period.end && was_set;
        let used_bytes = if is_new { 0 } else { current.used_bytes };
        Book { warned_percent: 0, current: Entry { used_bytes, period }, before: Some(current) }
    }

    /// Adds what was used, or takes back what was not after all.
    pub(super) fn spend(&mut self, bytes: i64) {
        self.current.used_bytes = self.current.used_bytes.saturating_add_signed(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::QuotaPeriod;

    const MONTH: Layout = Layout { period: QuotaPeriod::Month, start_day: 1 };
    const DAY: Layout = Layout { period: QuotaPeriod::Day, start_day: 1 };

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Goes to each time in turn, and uses so much there.
    fn live(layout: Layout, steps: &[(&str, i64)]) -> Book {
        let mut book = Book::new(layout, time(steps[0].0));
        for (now, spent) in steps {
            book = book.at(layout, time(now));
            book.spend(*spent);
        }
        book
    }

    fn used(layout: Layout, steps: &[(&str, i64)]) -> u64 {
        live(layout, steps).current.used_bytes
    }

    #[test]
    fn a_new_period_has_a_new_quota() {
        assert_eq!(used(MONTH, &[("2026-11-01T00:00:00Z", 50), ("2026-11-30T23:59:59Z", 7)]), 57);
        assert_eq!(used(MONTH, &[("2026-11-01T00:00:00Z", 50), ("2026-12-01T00:00:00Z", 7)]), 7);
        assert_eq!(used(MONTH, &[("2026-11-01T00:00:00Z", 50), ("2027-05-01T00:00:00Z", 7)]), 7);
    }

    #[test]
    fn a_clock_put_forward_and_back_gives_nothing() {
        let steps = [("2026-11-10T00:00:00Z", 50), ("2040-01-01T00:00:00Z", 3), ("2026-11-10T00:00:09Z", 1)];
        assert_eq!(used(MONTH, &steps), 54);
        let next = [&steps[..], &[("2026-12-01T00:00:00Z", 2)]].concat();
        assert_eq!(used(MONTH, &next), 2, "the next month is new all the same");
        let late = [("2026-11-10T00:00:00Z", 50), ("2040-01-01T00:00:00Z", 3), ("2027-02-10T00:00:00Z", 1)];
        assert_eq!(used(MONTH, &late), 4, "what was used in 2040 counts");
    }

    #[test]
    fn a_clock_put_back_and_forward_gives_nothing() {
        let steps = [("2026-11-10T00:00:00Z", 50), ("2025-06-01T00:00:00Z", 3), ("2026-11-10T00:00:09Z", 1)];
        assert_eq!(used(MONTH, &steps), 54);
        assert_eq!(used(MONTH, &steps[..2]), 53, "taken along");
        let edge = [("2026-11-30T23:59:59Z", 50), ("2026-12-01T00:00:00Z", 3), ("2026-11-30T23:59:58Z", 1)];
        assert_eq!(used(MONTH, &edge), 54);
    }

    #[test]
    fn a_clock_that_is_not_set_changes_nothing() {
        let steps = [("2026-11-10T00:00:00Z", 50), ("1970-01-01T00:00:09Z", 3), ("2026-11-10T00:00:09Z", 1)];
        assert_eq!(used(MONTH, &steps), 54);
        assert_eq!(live(MONTH, &steps[..2]).current.period, MONTH.period_at(time("2026-11-10T00:00:00Z")));
        let fresh = [("1970-01-01T00:00:09Z", 3), ("2026-11-10T00:00:09Z", 1)];
        assert_eq!(used(MONTH, &fresh), 4, "what was used before the clock was set counts");
    }

    #[test]
    fn another_layout_takes_along_what_was_used() {
        let month = live(MONTH, &[("2026-11-10T00:00:00Z", 50)]);
        let now = time("2026-11-22T12:00:00Z");
        let day = month.at(DAY, now);
        assert_eq!(day.current, Entry { used_bytes: 50, period: DAY.period_at(now) });
        assert_eq!(day.at(MONTH, now).current, month.current);
        assert_eq!(day.at(DAY, time("2026-11-23T00:00:00Z")).current.used_bytes, 0);
        let later = Layout { start_day: 22, ..MONTH };
        assert_eq!(month.at(later, now).current, Entry { used_bytes: 50, period: later.period_at(now) });
    }

    proptest! {
        #[test]
        fn wherever_the_clock_went_between_what_was_used_in_a_period_stays_used(
            away in 1_735_689_600_i64..4_000_000_000, spent in 0_i64..1_000, meanwhile in 0_i64..1_000,
        ) {
            let here = time("2026-11-10T00:00:00Z");
            let mut book = Book::new(MONTH, here);
            book.spend(spent);
            book = book.at(MONTH, Timestamp::from_second(away).unwrap());
            book.spend(meanwhile);
            prop_assert_eq!(book.at(MONTH, here).current.used_bytes, (spent + meanwhile) as u64);
        }

        #[test]
        fn as_long_as_time_goes_on_a_book_holds_what_was_used_since_its_period_began(
            steps in prop::collection::vec((0_i64..1_000_000, 0_i64..1_000), 1..60), start_day in 1_u8..=28,
        ) {
            let layout = Layout { start_day, ..MONTH };
            let mut now = time("2026-11-10T00:00:00Z");
            let mut book = Book::new(layout, now);
            let mut all = Vec::new();
            for (seconds, spent) in steps {
                now = Timestamp::from_second(now.as_second() + seconds).unwrap();
                book = book.at(layout, now);
                book.spend(spent);
                all.push((now, spent));
                let in_period = all.iter().filter(|(at, _)| layout.period_at(now).contains(*at));
                prop_assert_eq!(book.current.used_bytes as i64, in_period.map(|(_, spent)| spent).sum::<i64>());
                prop_assert_eq!(book.current.period, layout.period_at(now));
            }
        }
    }
}
