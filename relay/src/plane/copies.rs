//! Whether zero-copy sends are worth asking for.
//!
//! The kernel copies all the same where it has to: on loopback, and on devices that cannot gather a datagram from several
//! places or compute its checksum. It says so with each send (`IORING_SEND_ZC_REPORT_USAGE`), and a send that is copied
//! in the end costs more than one that was to be copied from the start. So when most are, none is asked for any more;
//! after a while a few are tried, for routes change.

use std::time::{Duration, Instant};

/// Reports that make a judgement. Sends go round all subscribers, of whom some, often one after the other, may be on this
/// machine or behind a tunnel: fewer reports would judge by those alone.
const REPORTS: u32 = 4_096;

/// Sends that are tried after a pause.
const TRIES: u32 = 16;

/// The first pause; each further one is twice as long, while the tries are copied.
const PAUSE_MIN: Duration = Duration::from_secs(60);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// How a zero-copy send ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// The device read the memory itself.
    ZeroCopied,
    /// The kernel copied all the same, or would send it in no way but by copying.
    Copied,
    /// It was not sent, for a reason that says nothing about copies.
    NotSent,
}

/// What the kernel has reported lately.
#[derive(Debug)]
pub(crate) struct CopyWatch {
    state: State,
    /// The next one.
    pause: Duration,
}

#[derive(Debug)]
enum State {
    On(Tally),
    Paused { until: Instant },
    Trying { left: u32, tally: Tally },
}

#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    reports: u32,
    copied: u32,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        self.reports += 1;
        self.copied += u32::from(outcome == Outcome::Copied);
    }

    fn most_were_copied(self) -> bool {
        2 * self.copied > self.reports
    }
}

impl CopyWatch {
    pub(crate) fn new() -> CopyWatch {
        CopyWatch { state: State::On(Tally::default()), pause: PAUSE_MIN }
    }

    /// Whether the next train is to be sent zero-copy. Who is told so sends it so, and notes how it went.
    pub(crate) fn may_ask(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::On(_) => true,
            State::Paused { until } if now < *until => false,
            State::Paused { .. } => {
                self.state = State::Trying { left: TRIES - 1, tally: Tally::default() };
                true
            }
            State::Trying { left: 0, .. } => false,
            State::Trying { left, .. } => {
                *left -= 1;
                true
            }
        }
    }

    /// Returns whether this was the report that began a pause.
    pub(crate) fn note(&mut self, outcome: Outcome, now: Instant) -> bool {
        let (tally, enough) = match (&mut self.state, outcome) {
            // Of a send from before the pause.
            (State::Paused { .. }, _) | (State::On(_), Outcome::NotSent) => return false,
            (State::Trying { left, .. }, Outcome::NotSent) => {
                *left += 1;
                return false;
            }
            (State::On(tally), _) => (tally, REPORTS),
            (State::Trying { tally, .. }, _) => (tally, TRIES),
        };
        tally.add(outcome);
        if tally.reports < enough {
            return false;
        }
        if tally.most_were_copied() {
            self.state = State::Paused { until: now + self.pause };
            self.pause = (2 * self.pause).min(PAUSE_MAX);
            return true;
        }
        if enough == REPORTS {
            self.pause = PAUSE_MIN;
        }
        self.state = State::On(Tally::default());
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks and notes until `outcome` has made a judgement; returns how many it took and whether it was a pause.
    fn judge(watch: &mut CopyWatch, outcome: Outcome, now: Instant) -> (u32, bool) {
        for sends in 1.. {
            assert!(watch.may_ask(now), "asked {sends} times without a judgement");
            if watch.note(outcome, now) {
                return (sends, true);
            }
            if matches!(watch.state, State::On(Tally { reports: 0, .. })) {
                return (sends, false);
            }
        }
        unreachable!()
    }

    #[test]
    fn copies_of_a_few_destinations_do_not_end_it() {
        let (mut watch, now) = (CopyWatch::new(), Instant::now());
        for number in 0..10 * REPORTS {
            assert!(watch.may_ask(now));
            let outcome = if number % 2 == 0 { Outcome::Copied } else { Outcome::ZeroCopied };
            assert!(!watch.note(outcome, now));
        }
    }

    #[test]
    fn copies_to_neighbours_in_the_order_of_sending_do_not_end_it() {
        let (mut watch, now) = (CopyWatch::new(), Instant::now());
        for number in 0..100_000 {
            assert!(watch.may_ask(now));
            // Of 1,500 subscribers, the 200 that came one after the other by way of a tunnel.
            let outcome = if number % 1_500 < 200 { Outcome::Copied } else { Outcome::ZeroCopied };
            assert!(!watch.note(outcome, now), "after {number} sends");
        }
    }

    #[test]
    fn when_most_are_copied_it_pauses_longer_and_longer() {
        let (mut watch, mut now) = (CopyWatch::new(), Instant::now());
        assert_eq!(judge(&mut watch, Outcome::Copied, now), (REPORTS, true));
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = Duration::from_secs(60 * minutes);
            assert!(!watch.may_ask(now + pause - Duration::from_nanos(1)));
            assert!(!watch.note(Outcome::ZeroCopied, now), "of a send from before the pause");
            now += pause;
            assert_eq!(judge(&mut watch, Outcome::Copied, now), (TRIES, true), "after {minutes} minutes");
        }
    }

    #[test]
    fn it_goes_on_again_when_the_tries_are_not_copied_and_forgets_the_pauses_when_that_lasts() {
        let (mut watch, mut now) = (CopyWatch::new(), Instant::now());
        judge(&mut watch, Outcome::Copied, now);
        now += PAUSE_MIN;
        assert_eq!(judge(&mut watch, Outcome::ZeroCopied, now), (TRIES, false));
        judge(&mut watch, Outcome::Copied, now);
        assert!(!watch.may_ask(now + PAUSE_MIN), "it lasted too short a time");
        now += 2 * PAUSE_MIN;
        judge(&mut watch, Outcome::ZeroCopied, now);
        judge(&mut watch, Outcome::ZeroCopied, now);
        judge(&mut watch, Outcome::Copied, now);
        assert!(watch.may_ask(now + PAUSE_MIN));
    }

    #[test]
    fn no_more_is_tried_than_was_allowed_before_the_tries_are_reported() {
        let (mut watch, now) = (CopyWatch::new(), Instant::now());
        judge(&mut watch, Outcome::Copied, now);
        let later = now + PAUSE_MIN;
        let asked = (0..100).filter(|_| watch.may_ask(later)).count();
        assert_eq!(asked, TRIES as usize);
        watch.note(Outcome::NotSent, later);
        assert!(watch.may_ask(later), "what was not sent is tried again");
        assert!(!watch.may_ask(later));
    }
}
