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

impl Estimate {
    /// Takes in a report. `data_sent` data shards were sent since the last one, and `repairs_sent` in answer to requests: what
    /// goes beyond that was not lost on this line.
    pub(crate) fn note(&mut self, report: &Report, data_sent: u64, repairs_sent: u64) {
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
        if chunks == 0 || expected > data_sent.saturating_mul(2).saturating_add(EXPECTED_SLACK) {
            return;
        }
        // What came late because it came here late was asked for, but not answered by this node.
        let not_ours = since(self.totals.repaired, before.repaired).saturating_sub(repairs_sent);
        let lost_here = lost.saturating_sub(not_ours);
        let squares = since(report.lost_squares, before.lost_squares).min(lost.saturating_mul(CHUNK_SHARDS));
        let part = if lost == 0 { 0.0 } else { lost_here as f32 / lost as f32 };
        self.add(Sample {
            chunks: chunks as f32,
            expected: expected as f32,
            lost: lost_here as f32,
            lost_squares: squares as f32 * part,
        });
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

/// Data shards by which reports and what was sent may differ, for the one lags behind the other.
const EXPECTED_SLACK: u64 = 256;

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
    }

    impl Line {
        fn new() -> Line {
            let header =
                SessionHeader { sender: Sender::Subscriber, tag: ChannelTag([0; 8]), session: SessionId(1) };
            let random = ChaCha12Rng::seed_from_u64(7);
            Line { random, report: Report::new(header), estimate: Estimate::default() }
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
                self.estimate.note(&self.report, 500, 0);
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
    fn what_was_never_sent_and_repair_that_another_needed_are_not_counted() {
        let mut line = Line::new();
        line.run(10, 0.0, 1);
        line.report.chunks += 1_000;
        line.report.expected += 20_000;
        line.report.lost += 20_000;
        line.estimate.note(&line.report, 500, 0);
        assert_eq!(line.estimate.losses(), Losses::default());
        line.report.chunks += 25;
        line.report.expected += 500;
        line.report.lost += 40;
        line.report.repaired += 40;
        line.report.lost_squares += 1_600;
        line.estimate.note(&line.report, 500, 0);
        assert_eq!(line.estimate.losses(), Losses::default());
    }
}
