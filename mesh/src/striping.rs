//! One of several upstreams of a channel: which stripes it gives, and whether it can be relied on for them.

use core::time::Duration;

use codec::{Sequence, ShardSet, SlotLayout, Stripes};

use crate::limits::{
    HOLD_OFF_MAX, HOLD_OFF_MIN, LAG_MAX, MISSED_PPM_MAX, REORDER_GRACE, SILENT_SHARDS_MAX, TRIAL_SHARDS,
    TRIAL_TIME,
};
use crate::time::{Time, micros};

/// How much an upstream is trusted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// With stripes that nobody else gives.
    Good,
    /// With stripes that others give too, to see whether they come.
    OnTrial { since: Time },
    /// With nothing, until then.
    Failed { until: Time },
}

pub(crate) struct Striping {
    wanted: Stripes,
    /// What the peer sent before it heard of `wanted`, and up to which chunk it may have.
    before: Stripes,
    before_through: Sequence,
    /// The stamp of the first report that said what is wanted.
    said_at: Option<Time>,
    pub(crate) standing: Standing,
    hold_off: Duration,
    /// Until when its last failure is held against it.
    failed_until: Time,
    /// How much later than the first shard of a chunk its own first one comes, µs, and the deviation (as RFC 6298 §2 of
    /// round trips).
    lag_us: i64,
    lag_deviation_us: i64,
    /// The newest chunks that were looked at: for its lag, for what is overdue.
    lag_noted: Sequence,
    judged: Sequence,
    /// When something came from it last, new or not.
    pub(crate) came_at: Time,
    /// Shards overdue since then, while others' came.
    silent_shards: usize,
    /// Data shards of its stripes that others had to give, smoothed, in millionths.
    missed_ppm: i64,
    /// Data shards that it should have given since its trial began, and shards that came.
    due: u64,
    came: u64,
}

impl Striping {
    pub(crate) fn new(now: Time) -> Striping {
        Striping {
            wanted: Stripes::ALL,
            before: Stripes::ALL,
            before_through: Sequence(0),
            said_at: None,
            standing: Standing::Good,
            hold_off: HOLD_OFF_MIN,
            failed_until: Time::default(),
            lag_us: 0,
            lag_deviation_us: micros(REORDER_GRACE) as i64,
            lag_noted: Sequence(0),
            judged: Sequence(0),
            came_at: now,
            silent_shards: 0,
            missed_ppm: 0,
            due: 0,
            came: 0,
        }
    }

    /// Wants this from now on. Returns whether that is news, to be reported at once.
    pub(crate) fn want(&mut self, stripes: Stripes) -> bool {
        let is_news = stripes != self.wanted;
        if is_news {
            (self.before, self.before_through) = (self.wanted, Sequence(u64::MAX));
            (self.wanted, self.said_at) = (stripes, None);
        }
        is_news
    }

    /// What a report of this time says is wanted.
    pub(crate) fn say(&mut self, now: Time) {
        self.said_at.get_or_insert(now);
    }

    pub(crate) fn wanted(&self) -> Stripes {
        self.wanted
    }

    /// Whether the peer knows what is wanted.
    pub(crate) fn is_heard(&self) -> bool {
        self.before_through != Sequence(u64::MAX)
    }

    /// The peer has had the report with this stamp; `edge` is the newest chunk seen.
    pub(crate) fn heard(&mut self, stamp_us: u64, edge: Sequence) {
        if !self.is_heard() && self.said_at.is_some_and(|at| stamp_us >= at.0) {
            self.before_through = edge;
        }
    }

    /// What it is to give of a chunk.
    pub(crate) fn shards(&self, sequence: Sequence, layout: SlotLayout) -> ShardSet {
        let stripes = if sequence <= self.before_through { self.before } else { self.wanted };
        stripes.shards(sequence, layout)
    }

    /// For how long after a chunk's first shard its own may come.
    pub(crate) fn patience(&self) -> Duration {
        let lag_us = u64::try_from(self.lag_us + 4 * self.lag_deviation_us).unwrap_or(0);
        (REORDER_GRACE + Duration::from_micros(lag_us)).min(LAG_MAX)
    }

    pub(crate) fn is_failed(&self) -> bool {
        matches!(self.standing, Standing::Failed { .. })
    }

    /// A shard came from it, of a chunk of which the first came at `first_seen`.
    pub(crate) fn note_arrival(&mut self, now: Time, sequence: Sequence, first_seen: Time) {
        (self.came_at, self.silent_shards) = (now, 0);
        self.came += 1;
        if sequence > self.lag_noted {
            self.lag_noted = sequence;
            let lag_us = micros(now.since(first_seen)).min(10_000_000) as i64;
            self.lag_deviation_us += ((lag_us - self.lag_us).abs() - self.lag_deviation_us) / 4;
            self.lag_us += (lag_us - self.lag_us) / 8;
        }
    }

    /// Its stripes of a settled chunk were so many data shards, of which others had to give `missed`.
    pub(crate) fn note_settled(&mut self, now: Time, stripes: usize, missed: usize) {
        if stripes > 0 {
            if self.due == 0 && matches!(self.standing, Standing::OnTrial { .. }) {
                // Before, nothing was under way: there was nothing to try.
                self.standing = Standing::OnTrial { since: now };
            }
            self.due += stripes as u64;
            let sample_ppm = (missed * 1_000_000 / stripes) as i64;
            self.missed_ppm += (sample_ppm - self.missed_ppm) / 8;
        }
    }

    /// A chunk's shards may be missed for the first time. Says so once per chunk.
    pub(crate) fn is_to_judge(&mut self, now: Time, sequence: Sequence, first_seen: Time) -> bool {
        let is_due = sequence > self.judged && now.since(first_seen) >= self.patience();
        if is_due {
            self.judged = sequence;
        }
        is_due
    }

    /// So many of its shards are overdue, others' are there, and nothing came from it in the meantime.
    pub(crate) fn note_silence(&mut self, shards: usize) {
        self.silent_shards += shards;
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent_shards >= SILENT_SHARDS_MAX
    }

    /// Whether it lets others give much more of its stripes than `other` does.
    pub(crate) fn misses_more_than(&self, other: &Striping) -> bool {
        self.missed_ppm > MISSED_PPM_MAX && self.missed_ppm / 2 > other.missed_ppm
    }

    /// It cannot be relied on: each time for twice as long.
    pub(crate) fn fail(&mut self, now: Time) {
        self.failed_until = now.after(self.hold_off);
        self.standing = Standing::Failed { until: self.failed_until };
        self.hold_off = (self.hold_off * 2).min(HOLD_OFF_MAX);
        (self.silent_shards, self.missed_ppm) = (0, 0);
    }

    pub(crate) fn try_again(&mut self, now: Time) {
        self.standing = Standing::OnTrial { since: now };
        (self.due, self.came) = (0, 0);
    }

    /// What was held against it is forgotten, but for how often.
    pub(crate) fn trust(&mut self) {
        self.standing = Standing::Good;
        (self.silent_shards, self.missed_ppm) = (0, 0);
    }

    /// Does what time brings; the only one that has not failed passes any trial. A trial that began before its time, since
    /// nothing came from anybody, is over once something has come from a good one (`good_came_at`). Returns whether its
    /// standing has changed.
    pub(crate) fn review(&mut self, now: Time, has_others: bool, good_came_at: Option<Time>) -> bool {
        match self.standing {
            Standing::OnTrial { since } if now < self.failed_until && good_came_at > Some(since) => {
                self.standing = Standing::Failed { until: self.failed_until };
            }
            Standing::Failed { until } if until <= now => self.try_again(now),
            Standing::OnTrial { since } if now.since(since) >= TRIAL_TIME && self.due >= TRIAL_SHARDS => {
                let came = self.came * 10 >= self.due * 9;
                if (came && self.patience() < LAG_MAX) || !has_others { self.trust() } else { self.fail(now) }
            }
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peer_has_not_heard_of_is_not_expected_of_it() {
        let layout = SlotLayout::new(20, 0).unwrap();
        let mut striping = Striping::new(Time(0));
        let half = Stripes::one(0, 2);
        assert!(striping.want(half) && !striping.want(half) && !striping.is_heard());
        assert_eq!(striping.shards(Sequence(9), layout).len(), 20);
        striping.say(Time(100));
        striping.heard(99, Sequence(9));
        assert!(!striping.is_heard());
        striping.heard(100, Sequence(10));
        assert_eq!([10, 11].map(|sequence| striping.shards(Sequence(sequence), layout).len()), [20, 10]);
    }

    #[test]
    fn patience_follows_the_lag_up_to_a_bound() {
        let mut striping = Striping::new(Time(0));
        let mut note = |lag_ms: u64, chunks: std::ops::Range<u64>| {
            for sequence in chunks {
                striping.note_arrival(Time(lag_ms * 1_000), Sequence(sequence), Time(0));
            }
            striping.patience()
        };
        let steady = note(30, 1..100);
        assert!((Duration::from_millis(45)..Duration::from_millis(60)).contains(&steady), "{steady:?}");
        assert_eq!(note(300, 100..200), LAG_MAX);
    }

    #[test]
    fn who_fails_again_waits_twice_as_long_and_a_trial_needs_what_was_due() {
        let mut striping = Striping::new(Time(0));
        striping.fail(Time(0));
        assert_eq!(striping.standing, Standing::Failed { until: Time(0).after(HOLD_OFF_MIN) });
        let then = Time(0).after(HOLD_OFF_MIN);
        assert!(striping.review(then, true, None));
        let then = then.after(2 * TRIAL_TIME);
        assert!(!striping.review(then, true, None), "the channel pauses");
        striping.note_settled(then, TRIAL_SHARDS as usize, 0);
        assert!(!striping.review(then, true, None));
        let then = then.after(TRIAL_TIME);
        assert!(striping.review(then, true, None), "nothing came");
        assert_eq!(striping.standing, Standing::Failed { until: then.after(2 * HOLD_OFF_MIN) });
    }
}
