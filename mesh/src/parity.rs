//! How many parity shards a subscriber is sent of each chunk: as few as leave the chunks that it loses below a bound.
//!
//! The losses within one chunk are taken to be beta-binomial (Skellam 1948), in the form of Griffiths (1973): the mean share
//! and the correlation of two losses of one chunk, which is 0 where each shard is lost by itself and rises with bursts.

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// Of all chunks, at most this part is lost.
const CHUNK_LOSS_MAX: f64 = 1e-6;

/// Of the answers to repair requests, at most this part is to be short over a line that loses in bursts.
const ANSWER_SHORT_MAX: f64 = 1e-3;

/// What a line loses.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Losses {
    /// The mean share of shards.
    pub(crate) share: f64,
    /// The correlation of two losses of one chunk.
    pub(crate) correlation: f64,
}

impl Losses {
    /// Losses come in bursts.
    pub(crate) fn are_in_bursts(&self) -> bool {
        self.correlation > 0.0
    }

    /// How many shards more than the `short` that are needed have to be in an answer that a burst may take some of.
    pub(crate) fn beyond(&self, short: usize) -> usize {
        if self.are_in_bursts() && short > 0 { parity_within(ANSWER_SHORT_MAX, self, short) } else { 0 }
    }
}

/// Parity shards for chunks of up to 4, 8, … 32 data shards, four bits each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Parity(u32);

const CLASSES: usize = 8;
const CLASS_SHARDS: usize = codec::MAX_DATA_SHARDS / CLASSES;

impl Parity {
    pub(crate) const NONE: Parity = Parity(0);

    fn of_classes(shards: impl Fn(usize) -> usize) -> Parity {
        Parity((0..CLASSES).map(|class| (shards(class) as u32) << (4 * class)).sum())
    }

    fn class(self, class: usize) -> usize {
        (self.0 >> (4 * class)) as usize & 15
    }

    /// What a line needs that leaves time for so many rounds of repair.
    pub(crate) fn needed(losses: &Losses, rounds: u32) -> Parity {
        if losses.share <= 0.0 {
            return Parity::NONE;
        }
        let bound = CHUNK_LOSS_MAX / rounds_fail(losses, rounds.min(ROUNDS_MAX));
        Parity::of_classes(|class| parity_within(bound, losses, (class + 1) * CLASS_SHARDS))
    }

    /// The most of both, for each length of chunks.
    #[must_use]
    pub(crate) fn max(self, other: Parity) -> Parity {
        Parity::of_classes(|class| self.class(class).max(other.class(class)))
    }

    /// For a chunk of `data_shards` that has `parity_shards`.
    pub(crate) fn of(self, data_shards: usize, parity_shards: usize) -> usize {
        self.class((data_shards - 1) / CLASS_SHARDS).min(parity_shards)
    }
}

/// More rounds make no difference.
const ROUNDS_MAX: u32 = 20;

/// How probably all rounds of repair fail: each time the request is lost, or its answer. From the second on more is asked for
/// than is missing ([`crate::window::Chunk::wanted`]), so that one lost shard of the answer is no harm. Where losses come in
/// bursts, that is so from the first on, and requests go out in copies: then an answer fails that begins within a burst.
fn rounds_fail(losses: &Losses, rounds: u32) -> f64 {
    let in_bursts = losses.are_in_bursts();
    let first = (if in_bursts { 1.0 } else { 2.0 } * losses.share).min(1.0);
    let next = (if in_bursts { 1.0 } else { 1.2 } * losses.share).min(1.0);
    if rounds == 0 { 1.0 } else { first * next.powi(rounds as i32 - 1) }
}

/// The fewest parity shards with which no more than `bound` of the chunks lose more shards than that. Fewer are always fewer
/// bytes: a shard of parity costs one shard of each chunk and saves a shard of repair of some.
///
/// Where [`PARITY_MAX`] do not reach the bound, more of them bring little: whole chunks are lost, and no parity of theirs is
/// left. Then it is the fewest with which at most [`OUT_OF_REACH`] times as many are lost as with all, and no fewer than what
/// is lost between outages may call for, which the same share of single losses is the upper limit of.
fn parity_within(bound: f64, losses: &Losses, data_shards: usize) -> usize {
    // What has the denominators 1 − correlation + j · correlation, for j from 0, is written without dividing by that.
    let (kept, lost) = (1.0 - losses.share, losses.share);
    let (apart, together) = (1.0 - losses.correlation, losses.correlation);
    let next_kept =
        |shards: usize| (kept * apart + shards as f64 * together) / (apart + shards as f64 * together);
    let mut none_lost: f64 = (0..data_shards).map(next_kept).product();
    let mut residual: ArrayVec<f64, { PARITY_MAX + 1 }> = ArrayVec::new();
    for parity in 0..=PARITY_MAX {
        let shards = data_shards + parity;
        let (mut exactly, mut at_most) = (none_lost, none_lost);
        for count in 0..parity {
            let left = (shards - count) as f64;
            exactly *= left / (count + 1) as f64 * (lost * apart + count as f64 * together)
                / (kept * apart + (left - 1.0) * together);
            at_most += exactly;
        }
        residual.push(1.0 - at_most);
        if 1.0 - at_most <= bound {
            return parity;
        }
        none_lost *= next_kept(shards);
    }
    let enough = OUT_OF_REACH * residual[PARITY_MAX];
    let of_use = residual.iter().position(|&lost| lost <= enough).unwrap_or(PARITY_MAX);
    if together == 0.0 {
        return of_use;
    }
    of_use.max(parity_within(bound, &Losses { correlation: 0.0, ..*losses }, data_shards))
}

/// See [`parity_within`].
const OUT_OF_REACH: f64 = 2.0;

/// What four bits hold; a chunk has no more than one shard beyond it.
const PARITY_MAX: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform(share: f64) -> Losses {
        Losses { share, correlation: 0.0 }
    }

    /// The part of the chunks that lose more than their parity.
    fn residual(losses: &Losses, data_shards: usize, parity: usize) -> f64 {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let bound: f64 = (low + high) / 2.0;
            if parity_within(bound, losses, data_shards) <= parity { high = bound } else { low = bound }
        }
        high
    }

    #[test]
    fn without_loss_there_is_no_parity() {
        assert_eq!(Parity::needed(&uniform(0.0), 0), Parity::NONE);
    }

    #[test]
    fn independent_losses_are_binomial() {
        // 1 − Σ C(40, i) 0.03^i 0.97^(40 − i) for i from 0 to 8, and what two hops lose together.
        let hop = residual(&uniform(0.03), 32, 8);
        assert!((2.2e-6..2.4e-6).contains(&hop), "{hop}");
        let both = residual(&uniform(1.0 - 0.97 * 0.97), 32, 8);
        assert!((4.4e-4..4.6e-4).contains(&both), "{both}");
    }

    #[test]
    fn the_least_parity_that_keeps_to_the_bound_is_found() {
        for share in [0.001, 0.01, 0.03, 0.1] {
            for data_shards in [1, 8, 19, 32] {
                let parity = parity_within(1e-6, &uniform(share), data_shards);
                let lost = |parity| residual(&uniform(share), data_shards, parity);
                assert!(parity == PARITY_MAX || lost(parity) <= 1.1e-6, "{share} {data_shards} {parity}");
                assert!(parity == 0 || lost(parity - 1) >= 0.9e-6, "{share} {data_shards} {parity}");
            }
        }
    }

    #[test]
    fn time_for_repair_takes_the_place_of_parity_and_bursts_need_more() {
        let needed = |losses: &Losses, rounds| Parity::needed(losses, rounds).of(32, 16);
        let of_rounds: Vec<usize> = (0..7).map(|rounds| needed(&uniform(0.03), rounds)).collect();
        assert!(of_rounds.is_sorted_by(|a, b| a >= b), "{of_rounds:?}");
        assert_eq!((of_rounds[0], of_rounds[6]), (9, 0));
        let bursts = Losses { share: 0.03, correlation: 0.2 };
        assert!(needed(&bursts, 2) > needed(&uniform(0.03), 2));
    }

    #[test]
    fn parity_that_brings_little_is_not_sent() {
        let of = |losses: &Losses, rounds| Parity::needed(losses, rounds).of(32, 16);
        let (single, whole_chunks) = (uniform(0.03), Losses { share: 0.03, correlation: 0.8 });
        assert_eq!(of(&whole_chunks, 0), of(&single, 0), "what is lost between outages is made good");
        assert!(of(&whole_chunks, 2) < of(&whole_chunks, 0), "repair is what helps");
        assert!(of(&uniform(0.15), 0) >= 14);
    }
}
