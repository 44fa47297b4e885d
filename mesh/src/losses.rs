//! A subscriber's losses, estimated from the totals in its reports.

use codec::wire::control::Report;

use serde::{Deserialize, Serialize};

use crate::parity::Losses;

/// What a report says that came of the chunks since the one before.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    chunks: f32,
    expected: f32,
    lost: f32,
    lost_squares: f32,
}

/// The totals of the last report, as far as differences need them.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
struct Totals {
    chunks: u32,
    expected: u32,
    lost: u32,
    lost_squares: u32,
    repaired: u32,
}

/// Sums over the last chunks, older ones with less weight.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Estimate {
    totals: Totals,
    sums: Sample,
}

/// What a report may count as lost or repaired that was not lost on the line. What it does not is left for the next, for a
/// subscriber counts a chunk later than the node that sends it does: of repairs half, since some are never counted.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Uncounted {
    /// Shards sent in answer to its requests.
    pub(crate) repairs: u16,
    /// Data shards that never came here, and so did not leave.
    pub(crate) gone: u16,
}

impl Uncounted {
    /// Of a line that ends here: what is counted as repaired was lost on it.
    pub(crate) const ALL_REPAIRS: Uncounted = Uncounted { repairs: u16::MAX, gone: 0 };
}

impl Estimate {
    /// Data shards that the subscriber was to get by itself since the last report, of chunks that it is done with.
    pub(crate) fn expected_since(&self, report: &Report) -> u32 {
        report.expected.wrapping_sub(self.totals.expected)
    }

    /// Takes in a report, and takes from `uncounted` what it counts. Returns the share lost since the last report.
    pub(crate) fn note(&mut self, report: &Report, uncounted: &mut Uncounted) -> f32 {
        let before = self.totals;
        self.totals = Totals {
            chunks: report.chunks,
            expected: report.expected,
            lost: report.lost as u32,
            lost_squares: report.lost_squares,
            repaired: report.repaired as u32,
        };
        let since = |now: u32, before: u32| u64::from(now.wrapping_sub(before));
        let expected = since(report.expected, before.expected);
        let lost = since(self.totals.lost, before.lost).min(expected);
        let chunks = since(report.chunks, before.chunks).min(expected);
        // What came late because it came here late was asked for, but not answered by this node.
        let repaired = since(self.totals.repaired, before.repaired);
        let not_ours = repaired.saturating_sub(uncounted.repairs.into());
        uncounted.repairs = (u64::from(uncounted.repairs).saturating_sub(repaired) / 2) as u16;
        // Of chunks that never came here, all is counted as lost there.
        let never_sent = lost.min(uncounted.gone.into());
        uncounted.gone -= never_sent as u16;
        if chunks == 0 {
            return 0.0;
        }
        let of_chunk = expected as f32 / chunks as f32;
        let squares = since(report.lost_squares, before.lost_squares).min(lost.saturating_mul(CHUNK_SHARDS));
        let (lost, expected) = ((lost - never_sent) as f32, (expected - never_sent) as f32);
        let squares = (squares as f32 - never_sent as f32 * of_chunk).max(lost);
        let lost_here = (lost - not_ours as f32).max(0.0);
        let part = if lost > 0.0 { lost_here / lost } else { 0.0 };
        let sample =
            Sample { chunks: expected / of_chunk, expected, lost: lost_here, lost_squares: squares * part };
        if expected > 0.0 {
            self.add(sample);
        }
        lost_here / expected.max(1.0)
    }

    /// Losses beyond what the past lets expect replace it at once; otherwise it fades.
    fn add(&mut self, sample: Sample) {
        let mean = if self.sums.expected > 0.0 {
            sample.expected * self.sums.lost / self.sums.expected
        } else {
            0.0
        };
        let usual = mean + 4.0 * (mean * self.dispersion().max(1.0)).sqrt() + 3.0;
        let kept = if sample.lost > usual { 0.0 } else { 1.0 / (1.0 + sample.chunks / MEMORY_CHUNKS) };
        let sum = |old: f32, new: f32| old * kept + new;
        self.sums = Sample {
            chunks: sum(self.sums.chunks, sample.chunks),
            expected: sum(self.sums.expected, sample.expected),
            lost: sum(self.sums.lost, sample.lost),
            lost_squares: sum(self.sums.lost_squares, sample.lost_squares),
        };
    }

    /// The variance of a chunk's losses, as a multiple of what it would be if each shard were lost by itself.
    fn dispersion(&self) -> f32 {
        let Sample { chunks, expected, lost, lost_squares } = self.sums;
        let share = lost / expected.max(1.0);
        let independent = lost * (1.0 - share);
        if independent <= 0.0 { 1.0 } else { (lost_squares - lost * lost / chunks) / independent }
    }

    /// The losses as they are now, fitted by moments. Correlation counts as far as it is no accident: with independent
    /// losses the dispersion of n chunks is 1, with a standard deviation of √(2/n).
    pub(crate) fn losses(&self) -> Losses {
        let Sample { chunks, expected, lost, .. } = self.sums;
        if lost < LOST_MIN {
            return Losses::default();
        }
        let excess = self.dispersion() - 1.0 - 2.0 * (2.0 / chunks).sqrt();
        let others = (expected / chunks - 1.0).max(1.0);
        let correlation = (excess / others).clamp(0.0, 0.9);
        Losses { share: f64::from((lost / expected).min(0.99)), correlation: f64::from(correlation) }
    }
}

/// Chunks after which what was counted before them has half its weight: 20 s of 25 chunks a second.
const MEMORY_CHUNKS: f32 = 500.0;

/// Less than this of a shard is forgotten.
const LOST_MIN: f32 = 0.25;

/// The most shards that a chunk has, and so loses.
const CHUNK_SHARDS: u64 = codec::MAX_DATA_SHARDS as u64;

#[cfg(test)]
mod tests {
    use codec::ChannelTag;
    use codec::wire::control::{Sender, SessionHeader, SessionId};
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    /// A line whose chunks of 20 lose what `losses` draws, and its reports of 25 chunks.
    struct Line {
        random: ChaCha12Rng,
        report: Report,
        estimate: Estimate,
        uncounted: Uncounted,
    }

    impl Line {
        fn new() -> Line {
            let header =
                SessionHeader { sender: Sender::Subscriber, tag: ChannelTag([0; 8]), session: SessionId(1) };
            let random = ChaCha12Rng::seed_from_u64(7);
            Line {
                random,
                report: Report::new(header),
                estimate: Estimate::default(),
                uncounted: Uncounted::default(),
            }
        }

        fn note(&mut self) {
            self.estimate.note(&self.report, &mut self.uncounted);
        }

        fn draw(&mut self) -> f64 {
            f64::from(self.random.next_u32()) / f64::from(u32::MAX)
        }

        /// Loses runs of `length` shards, a mean share of `share`.
        fn run(&mut self, seconds: usize, share: f64, length: u64) -> Losses {
            for _ in 0..seconds {
                for _ in 0..25 {
                    let runs = (0..20 / length).filter(|_| self.draw() < share).count() as u64;
                    let lost = runs * length;
                    self.report.chunks += 1;
                    self.report.expected += 20;
                    self.report.lost += lost;
                    self.report.recovered += lost;
                    self.report.lost_squares += (lost * lost) as u32;
                }
                self.estimate.note(&self.report, &mut self.uncounted);
            }
            self.estimate.losses()
        }
    }

    #[test]
    fn losses_are_found_at_once_and_forgotten_slowly() {
        let mut line = Line::new();
        assert_eq!(line.run(30, 0.0, 1), Losses::default());
        let share = line.run(1, 0.05, 1).share;
        assert!((0.03..0.07).contains(&share), "{share} after a second of 5 %");
        line.run(30, 0.05, 1);
        let share = line.run(5, 0.0, 1).share;
        assert!((0.03..0.05).contains(&share), "{share} after 5 s without loss");
        assert_eq!(line.run(600, 0.0, 1), Losses::default());
    }

    #[test]
    fn an_estimate_is_stable_and_independent_losses_have_no_correlation() {
        let mut line = Line::new();
        line.run(20, 0.03, 1);
        for _ in 0..100 {
            let losses = line.run(1, 0.03, 1);
            assert!((0.022..0.038).contains(&losses.share), "{losses:?}");
            assert!(losses.correlation < 0.01, "{losses:?}");
        }
    }

    #[test]
    fn bursts_are_told_from_single_losses() {
        let mut line = Line::new();
        let losses = line.run(30, 0.03, 5);
        assert!((0.02..0.04).contains(&losses.share), "{losses:?}");
        // Of the 19 others of a shard, 4 are lost with it.
        assert!((0.12..0.30).contains(&losses.correlation), "{losses:?}");
    }

    #[test]
    fn what_was_never_sent_is_not_lost_here() {
        let mut line = Line::new();
        let before = line.run(30, 0.03, 1);
        // Of 50 chunks nothing came to whoever sends; of the 25 others as much is lost as usual.
        line.uncounted.gone += 1_000;
        line.report.chunks += 50;
        line.report.expected += 1_000;
        line.report.lost += 1_000;
        line.report.lost_squares += 20_000;
        let losses = line.run(1, 0.03, 1);
        assert!((losses.share - before.share).abs() < 0.01, "{losses:?} after {before:?}");
        assert!(losses.correlation < 0.01, "{losses:?}");
    }

    #[test]
    fn what_was_given_up_here_is_not_lost_there_a_report_later_either() {
        let mut line = Line::new();
        line.run(10, 0.0, 1);
        line.uncounted.gone += 400;
        line.note();
        line.report.chunks += 25;
        line.report.expected += 500;
        line.report.lost += 200;
        line.report.lost_squares += 4_000;
        line.note();
        assert_eq!(line.estimate.losses(), Losses::default());
    }

    #[test]
    fn repair_that_another_needed_is_not_counted() {
        let mut line = Line::new();
        line.run(10, 0.0, 1);
        line.report.chunks += 25;
        line.report.expected += 500;
        line.report.lost += 40;
        line.report.repaired += 40;
        line.report.lost_squares += 1_600;
        line.note();
        assert_eq!(line.estimate.losses(), Losses::default());
    }

    #[test]
    fn repair_is_counted_that_was_sent_before_the_last_report() {
        let mut line = Line::new();
        for _ in 0..20 {
            line.report.chunks += 6;
            line.report.expected += 120;
            line.uncounted.repairs += 6;
            line.note();
            line.report.chunks += 6;
            line.report.expected += 120;
            line.report.lost += 6;
            line.report.lost_squares += 6;
            line.report.repaired += 6;
            line.note();
        }
        let share = line.estimate.losses().share;
        assert!((0.012..0.03).contains(&share), "{share} of 2.5 %");
    }

    #[test]
    fn what_is_counted_late_because_a_chunk_was_waited_for_counts() {
        let mut line = Line::new();
        line.run(10, 0.0, 1);
        for _ in 0..5 {
            line.note();
        }
        line.report.chunks += 125;
        line.report.expected += 2_500;
        line.report.lost += 75;
        line.report.lost_squares += 75;
        line.note();
        let share = line.estimate.losses().share;
        assert!((0.02..0.04).contains(&share), "{share}");
    }
}
