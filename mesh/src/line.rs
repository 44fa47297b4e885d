//! The line to a subscriber: what it loses, how much time it leaves, whether it takes the stream at all.

use core::num::NonZeroU32;
use core::time::Duration;

use codec::Stripes;
use codec::wire::control::Report;

use serde::{Deserialize, Serialize};

use crate::limits::{
    LINE_LOOK_INTERVAL, LINE_LOSS_MAX, LINE_QUEUE_MAX, LINE_QUEUED_LOSS_MAX, LINE_STRAINED_AFTER,
    LINE_STRAINED_MAX, REORDER_GRACE, REPAIR_MARGIN, ROUND_TRIP_ASSUMED, RTT_MAX, SPARE_MIN, TICK_INTERVAL,
};
use crate::losses::{Estimate, Uncounted};
use crate::parity::Parity;
use crate::time::micros;

/// The time to a peer and back, smoothed, and how much it varies (RFC 6298 §2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RoundTrip {
    mean_us: NonZeroU32,
    variation_us: u32,
}

impl RoundTrip {
    /// From one sample, of [`crate::limits::RTT_MAX`] at most.
    pub(crate) fn first(sample: Duration) -> RoundTrip {
        let sample_us = sample.as_micros() as u32;
        RoundTrip { mean_us: at_least_one(sample_us), variation_us: sample_us / 2 }
    }

    pub(crate) fn note(&mut self, sample: Duration) {
        let (mean_us, sample_us) = (self.mean_us.get(), sample.as_micros() as u32);
        self.variation_us = (self.variation_us * 3 + mean_us.abs_diff(sample_us)) / 4;
        self.mean_us = at_least_one((mean_us * 7 + sample_us) / 8);
    }

    /// Whether samples come to this.
    pub(crate) fn is_possible(&self) -> bool {
        self.mean() <= RTT_MAX && u64::from(self.variation_us) <= micros(RTT_MAX)
    }

    pub(crate) fn mean(&self) -> Duration {
        Duration::from_micros(self.mean_us.get().into())
    }

    /// After this time without an answer the question, or the answer, is lost.
    pub(crate) fn timeout(&self) -> Duration {
        self.mean() + Duration::from_micros(4 * u64::from(self.variation_us)).max(REPAIR_MARGIN)
    }
}

fn at_least_one(us: u32) -> NonZeroU32 {
    NonZeroU32::new(us).unwrap_or(NonZeroU32::MIN)
}

/// What a node knows of the line to a subscriber.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    estimate: Estimate,
    /// Shards received as of the last report; of this and the next, differences alone count.
    received: u32,
    /// Data shards that the channel had been given by then.
    data_fanned: u32,
    /// Shards sent in answer to its requests that no report has counted yet.
    pub(crate) repairs_sent: u16,
    /// For how many tenths of a second too much has been lost.
    over_tenths: u8,
    /// That is long enough for it to be sent neither parity nor repair.
    is_strained: bool,
}

/// What goes with a report: what the node that it came to knows by itself.
pub(crate) struct Known {
    /// Time since the report before.
    pub(crate) since_last: Duration,
    /// The round trip to the subscriber.
    pub(crate) round_trip: Option<RoundTrip>,
    /// Data shards of the channel sent to each subscriber so far.
    pub(crate) data_fanned: u64,
    /// Data shards of it that were given up here and that no report has counted yet.
    pub(crate) gone: u16,
    /// Parity shards that went with each of these before the report.
    pub(crate) parity_part: f64,
    /// What it wanted of each chunk before the report, and from then on.
    pub(crate) stripes: [Stripes; 2],
    /// By how much chunks come later here than the fastest: that is not the subscriber's line.
    pub(crate) queued_ms: u16,
    /// By how much later a chunk comes of which this node had to ask for shards.
    pub(crate) late_by: Duration,
    /// What was sent did not all leave: losses say nothing of the line.
    pub(crate) skipped: bool,
}

/// What a line calls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Verdict {
    /// With each chunk that is in time.
    pub(crate) parity: Parity,
    /// With each that is late already.
    pub(crate) parity_late: Parity,
    pub(crate) slack_ms: u16,
    /// What a node of that slack can do without, so that whoever gives it the channel has time for repair too.
    pub(crate) spare_ms: u16,
    /// It has lost too much for too long.
    pub(crate) has_to_go: bool,
    /// What is left of [`Known::gone`].
    pub(crate) gone_left: u16,
}

impl Line {
    pub(crate) fn new(data_fanned: u64) -> Line {
        let estimate = Estimate::default();
        Line {
            estimate,
            received: 0,
            data_fanned: data_fanned as u32,
            repairs_sent: 0,
            over_tenths: 0,
            is_strained: false,
        }
    }

    /// Whether it is sent neither parity nor repair.
    pub(crate) fn is_strained(&self) -> bool {
        self.is_strained
    }

    /// Takes in the subscriber's report, the latest. `None` if it comes too soon after the one before: counts are totals.
    pub(crate) fn note(&mut self, report: &Report, known: &Known) -> Option<Verdict> {
        if known.since_last < LINE_LOOK_INTERVAL {
            return None;
        }
        let data_fanned = u64::from((known.data_fanned as u32).wrapping_sub(self.data_fanned));
        // Around a change it cannot be told what it was sent for how long: the less is the safer to measure losses by.
        let part = |stripes: Stripes| {
            let (parts, of) = stripes.share();
            data_fanned * u64::from(parts) / u64::from(of)
        };
        let mut data_sent = part(known.stripes[0]).min(part(known.stripes[1]));
        if known.stripes != [Stripes::ALL; 2] {
            // Small chunks have no equal parts, and chunks of one and two in turn give one stripe more than the other for good.
            data_sent = data_sent.min(self.estimate.expected_since(report).into());
        }
        let repairs_sent = u64::from(self.repairs_sent);
        let received = (report.received as u32).wrapping_sub(self.received);
        (self.data_fanned, self.received) = (known.data_fanned as u32, report.received as u32);
        let mut uncounted = Uncounted { repairs: self.repairs_sent, gone: known.gone };
        let lost = f64::from(self.estimate.note(report, &mut uncounted));
        self.repairs_sent = uncounted.repairs;

        let losses = self.estimate.losses();
        let queued = Duration::from_millis(report.queued_ms.saturating_sub(known.queued_ms).into());
        let is_congested = queued >= LINE_QUEUE_MAX && losses.share >= LINE_QUEUED_LOSS_MAX;
        let sent = data_sent + repairs_sent;
        let since_max = if self.over_tenths == 0 { SINCE_FIRST_MAX } else { SINCE_LAST_MAX };
        let longer = (known.since_last.min(since_max).as_millis() / 100) as u8;
        if sent >= SENT_MIN {
            // Parity that came must not stand for data that did not; not all that was to be sent was, if this node was busy.
            let with_parity = sent as f64 + data_sent as f64 * known.parity_part;
            let came_of = |sent: f64| f64::from(received) < sent * (1.0 - LINE_LOSS_MAX);
            let is_over =
                is_congested || came_of(sent as f64) || (lost > LINE_LOSS_MAX && came_of(with_parity));
            let counts = is_over && !known.skipped;
            self.over_tenths = if counts { self.over_tenths.saturating_add(longer) } else { 0 };
        } else {
            // What is not seen any more fades: another upstream may give the channel for long.
            self.over_tenths = self.over_tenths.saturating_sub(longer);
        }

        let over_for = Duration::from_millis(100) * self.over_tenths.into();
        self.is_strained = over_for >= LINE_STRAINED_AFTER;

        let slack = Duration::from_millis(report.slack_ms.into()).min(SLACK_MAX);
        let round_trip = known.round_trip.unwrap_or(RoundTrip::first(ROUND_TRIP_ASSUMED));
        let spread = Duration::from_micros(2 * u64::from(report.spread_us));
        // Delay that rises with the loss says that there is too much already: nothing is added to it (RFC 8085 §3.1).
        let withheld = is_congested || self.is_strained;
        let rounds = |late_by: Duration| rounds(slack.saturating_sub(spread + late_by), &round_trip);
        let needed = |rounds: u32| if withheld { Parity::NONE } else { Parity::needed(&losses, rounds) };
        let (in_time, late) = (rounds(Duration::ZERO), rounds(known.late_by));
        let parity = needed(in_time);
        let own_round = round_trip.mean() + 2 * REORDER_GRACE;
        let spare = slack.saturating_sub(own_round.min(slack / 2)).max(SPARE_MIN);
        Some(Verdict {
            parity,
            parity_late: if late == in_time { parity } else { needed(late) },
            slack_ms: slack.as_millis() as u16,
            spare_ms: spare.as_millis() as u16,
            has_to_go: over_for >= LINE_STRAINED_MAX,
            gone_left: uncounted.gone,
        })
    }
}

/// Rounds of repair that fit in: the first is asked for once the rest of a chunk is overdue, each other when no answer to the
/// one before came.
fn rounds(slack: Duration, round_trip: &RoundTrip) -> u32 {
    let answered_first = REORDER_GRACE + TICK_INTERVAL + round_trip.mean();
    let Some(left) = slack.checked_sub(answered_first) else { return 0 };
    let each = round_trip.timeout() + TICK_INTERVAL;
    1 + (left.as_micros() / each.as_micros().max(1)).min(100) as u32
}

/// No more is believed: a window is not longer.
const SLACK_MAX: Duration = Duration::from_secs(10);

/// A report stands for no longer: some may have been lost.
const SINCE_LAST_MAX: Duration = Duration::from_secs(2);

/// The first with losses stands for less: one report is not enough for a verdict, however long it took.
const SINCE_FIRST_MAX: Duration = Duration::from_secs(1);

/// With fewer shards a loss is no measure.
const SENT_MIN: u64 = 20;

#[cfg(test)]
mod tests {
    use codec::ChannelTag;
    use codec::wire::control::{Sender, SessionHeader, SessionId};

    use super::*;

    fn report() -> Report {
        let (tag, session) = (ChannelTag([0; 8]), SessionId(1));
        Report::new(SessionHeader { sender: Sender::Subscriber, tag, session })
    }

    fn known(since_last: Duration, data_fanned: u64, stripes: Stripes) -> Known {
        Known {
            since_last,
            round_trip: None,
            data_fanned,
            gone: 0,
            parity_part: 0.0,
            stripes: [stripes; 2],
            queued_ms: 0,
            late_by: Duration::ZERO,
            skipped: false,
        }
    }

    #[test]
    fn reports_in_quick_succession_are_one() {
        let (mut line, mut report) = (Line::new(0), report());
        let mut report_after = |since_last_ms, data_fanned, received| {
            report.received = received;
            let known = known(Duration::from_millis(since_last_ms), data_fanned, Stripes::ALL);
            (line.note(&report, &known).is_some(), line.is_strained())
        };
        // Of 100 shards a second half comes; what was looked at between counts for nothing by itself.
        assert_eq!(report_after(1_000, 100, 50), (true, false));
        assert_eq!(report_after(10, 200, 200), (false, false));
        assert_eq!(report_after(1_000, 300, 150), (true, true));
    }

    #[test]
    fn who_is_owed_less_than_its_part_by_the_size_of_chunks_has_lost_nothing() {
        let (mut line, mut report, mut data_fanned) = (Line::new(0), report(), 0);
        for _ in 0..10 {
            // Of chunks of one and two shards in turn, it takes the half that has a shard of every second one.
            data_fanned += 120;
            (report.chunks, report.expected, report.received) =
                (report.chunks + 40, report.expected + 40, report.received + 40);
            let verdict = line.note(&report, &known(Duration::from_secs(1), data_fanned, Stripes::one(0, 2)));
            assert!(!line.is_strained() && verdict.is_some_and(|verdict| !verdict.has_to_go));
        }
    }

    #[test]
    fn losses_of_a_line_on_which_nothing_is_sent_any_more_fade() {
        let (mut line, mut report, mut data_fanned) = (Line::new(0), report(), 0);
        // A hundred shards a second for whoever takes all.
        let mut second = |came: u64, wanted: Stripes| {
            report.received += came;
            data_fanned += 100;
            let verdict = line.note(&report, &known(Duration::from_secs(1), data_fanned, wanted));
            (line.is_strained(), verdict.is_some_and(|verdict| verdict.has_to_go))
        };
        let strained: Vec<_> = (0..5).map(|_| second(50, Stripes::ALL)).collect();
        assert_eq!(strained[1..], [(true, false); 4]);
        for _ in 0..5 {
            second(0, Stripes::NONE);
        }
        assert_eq!(second(50, Stripes::ALL), (false, false), "once is by chance");
    }
}
