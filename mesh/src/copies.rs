//! Requests that are sent in several copies, of which one is answered: what the end that asks and the end that answers keep in
//! mind of them.

use core::time::Duration;

use codec::ShardSet;
use codec::wire::control::SessionId;

use crate::limits::{REPAIR_COPIES_MAX, TICK_INTERVAL};
use crate::time::Time;

/// A chunk's part in the latest numbered request for it, which is repeated until something comes or the next request is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Copies {
    /// The session of the request, and its number there.
    pub(crate) request: (SessionId, u16),
    /// What it asked for.
    pub(crate) shards: ShardSet,
    next_at: Time,
    interval: Duration,
    until: Time,
}

impl Copies {
    /// Of a request that goes out now, after which the next one is due at `until`.
    pub(crate) fn new(request: (SessionId, u16), shards: ShardSet, now: Time, until: Time) -> Copies {
        let interval = (until.since(now) / REPAIR_COPIES_MAX).max(TICK_INTERVAL);
        Copies { request, shards, next_at: now.after(interval), interval, until }
    }

    /// Whether it is time for one more.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        self.next_at <= now && now < self.until
    }

    /// One more goes out now.
    pub(crate) fn note_sent(&mut self, now: Time) {
        self.next_at = now.after(self.interval);
    }
}

/// Which of a subscriber's numbered requests came: a window that slides over their numbers, as against replay in RFC 4303
/// §3.4.3. What is too old for it is taken for new, so that whoever begins again is answered. Of requests there are a few for each
/// round trip.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Answered {
    newest: u16,
    /// Bit i stands for the number `newest` − i.
    came: u16,
}

impl Answered {
    /// Whether the request with this number came for the first time; 0 is no number.
    pub(crate) fn is_first(&mut self, number: u16) -> bool {
        if number == 0 {
            return true;
        }
        let behind = u32::from(self.newest.wrapping_sub(number));
        if behind < u16::BITS {
            let is_first = self.came & 1 << behind == 0;
            self.came |= 1 << behind;
            return is_first;
        }
        let ahead = u32::from(number.wrapping_sub(self.newest));
        self.came = self.came.checked_shl(ahead).unwrap_or(0) | 1;
        self.newest = number;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_requests_copies_is_answered_whatever_came_between() {
        let mut answered = Answered::default();
        assert!([7, 8, 10].iter().all(|number| answered.is_first(*number)));
        assert!(![7, 8, 10].iter().any(|number| answered.is_first(*number)));
        assert!(answered.is_first(9), "it was overtaken");
        assert!(!answered.is_first(9));
    }

    #[test]
    fn numbers_go_round_and_may_begin_anywhere() {
        let mut answered = Answered::default();
        for number in (60_000..=u16::MAX).chain(1..500) {
            assert!(answered.is_first(number), "{number}");
            assert!(!answered.is_first(number), "{number} again");
        }
        assert!(answered.is_first(40_000), "another count");
        assert!(!answered.is_first(40_000));
    }

    #[test]
    fn what_has_no_number_is_each_time_a_request_of_its_own() {
        let mut answered = Answered::default();
        assert!((0..3).all(|_| answered.is_first(0)));
    }

    #[test]
    fn copies_are_as_many_as_fit_and_end_with_the_next_request() {
        let at = |ms: u64| Time(1_000_000 + ms * 1_000);
        let count = |round_ms: u64| {
            let mut copies = Copies::new((SessionId(1), 1), ShardSet::ALL, at(0), at(round_ms));
            let mut sent = 0;
            for ms in 0..2 * round_ms {
                if copies.is_due(at(ms)) {
                    copies.note_sent(at(ms));
                    sent += 1;
                }
            }
            sent
        };
        assert_eq!((count(4), count(30), count(1_000)), (0, 5, REPAIR_COPIES_MAX - 1));
    }
}
