//! Letting everybody go, bit by bit, so that the nodes they turn to are not stampeded.

use std::time::Duration;

use codec::wire::control::Nodes;
use tokio::time::Instant;

use super::commands::{self, Draining};

/// Sessions are let go this often.
pub(super) const PORTION_INTERVAL: Duration = Duration::from_millis(250);

/// So many of them each time: 200 a second, each of which costs another node a handshake and a joiner's backlog. More when
/// the time would not suffice.
const PORTION: usize = 50;

/// A drain under way.
pub(super) struct Drain {
    /// Nodes that are named to those who go; none: as configured.
    pub(super) to: Nodes,
    ends_at: Instant,
    sessions_at_start: usize,
    /// How often sessions were counted since it began. What the first count shows may be from before, when those who came in
    /// just now were not there yet.
    counts: usize,
}

impl Drain {
    pub(super) fn new(asked: &commands::Drain, sessions: usize, now: Instant) -> Drain {
        let ends_at = now + Duration::from_secs(asked.for_s);
        let to = asked.to.iter().copied().collect();
        Drain { to, ends_at, sessions_at_start: sessions, counts: 0 }
    }

    /// So many sessions there are now.
    pub(super) fn note_sessions(&mut self, sessions: usize) {
        self.counts += 1;
        self.sessions_at_start = self.sessions_at_start.max(sessions);
    }

    /// How many are to go now, of so many that are left; `None` when it is over.
    pub(super) fn portion(&self, sessions: usize, now: Instant) -> Option<usize> {
        let left = self.ends_at.saturating_duration_since(now);
        if (sessions == 0 && self.counts > 1) || left.is_zero() {
            return None;
        }
        let turns = (left.as_millis() / PORTION_INTERVAL.as_millis()).max(1) as usize;
        Some(PORTION.max(sessions.div_ceil(turns)))
    }

    pub(super) fn progress(&self, sessions: usize, now: Instant) -> Draining {
        let left = self.ends_at.saturating_duration_since(now);
        Draining { sessions_at_start: self.sessions_at_start, sessions, seconds_left: left.as_secs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_as_long_as_the_pace_asks_for_but_not_longer_than_it_may() {
        let now = Instant::now();
        for (sessions, for_s, turns) in [(1, 600, 1), (1_000, 600, 20), (20_000, 10, 40), (7, 0, 0)] {
            let mut drain = Drain::new(&commands::Drain { to: Vec::new(), for_s }, sessions, now);
            (0..2).for_each(|_| drain.note_sessions(sessions));
            let (mut left, mut at) = (sessions, now);
            while let Some(portion) = drain.portion(left, at) {
                left = left.saturating_sub(portion);
                at += PORTION_INTERVAL;
            }
            assert_eq!(at - now, PORTION_INTERVAL * turns, "{sessions} sessions, {for_s} s");
            assert!(left == 0 || for_s == 0);
        }
    }

    #[test]
    fn it_is_not_over_before_somebody_has_counted() {
        let now = Instant::now();
        let mut drain = Drain::new(&commands::Drain { to: Vec::new(), for_s: 600 }, 0, now);
        assert_eq!(drain.portion(0, now), Some(PORTION));
        drain.note_sessions(0);
        assert_eq!(drain.portion(0, now), Some(PORTION), "that may be what a worker had counted before");
        drain.note_sessions(3);
        assert_eq!(drain.progress(3, now).sessions_at_start, 3);
        assert_eq!((drain.portion(3, now), drain.portion(0, now)), (Some(PORTION), None));
    }
}
