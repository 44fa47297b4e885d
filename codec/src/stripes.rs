//! Stripes: the shards of a chunk divided among several upstreams of one subscriber.

use crate::shard_set::ShardSet;
use crate::wire::Sequence;
use crate::wire::shard::SlotLayout;

/// The most stripes that a channel is divided into.
pub const STRIPES_MAX: u8 = 16;

/// Which shards of each chunk a subscriber wants from an upstream without asking for them: all, or some of a number of
/// equal stripes. By default: all.
///
/// A stripe's data shards lie side by side, so that they leave as one train; its parity shards are every so manieth, for
/// of parity only the first few are sent. Stripes change places from chunk to chunk: one that is short, or empty in a chunk of few
/// shards, is not always the same upstream's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Stripes {
    /// 0: not divided.
    of: u8,
    /// Bit *i* stands for stripe *i*.
    wanted: u16,
}

impl Stripes {
    /// Everything.
    pub const ALL: Stripes = Stripes { of: 0, wanted: 0 };

    /// Nothing but what is asked for.
    pub const NONE: Stripes = Stripes { of: 1, wanted: 0 };

    /// The stripes of `of` whose bits are set in `wanted`; bits from `of` on name no stripe and are dropped. With `of` 0:
    /// everything. `None` for more than [`STRIPES_MAX`].
    pub const fn new(of: u8, wanted: u16) -> Option<Stripes> {
        if of > STRIPES_MAX {
            return None;
        }
        Some(Stripes { of, wanted: wanted & ((1_u32 << of) - 1) as u16 })
    }

    /// Stripe `index` of `of` of them, which are 1 to [`STRIPES_MAX`].
    pub const fn one(index: usize, of: usize) -> Stripes {
        assert!(index < of && of <= STRIPES_MAX as usize, "a stripe that there is");
        if of == 1 { Stripes::ALL } else { Stripes { of: of as u8, wanted: 1 << index } }
    }

    /// Into how many stripes a chunk is divided; 0: it is not.
    pub const fn of(self) -> u8 {
        self.of
    }

    /// The stripes wanted, as a bitmap.
    pub const fn wanted(self) -> u16 {
        self.wanted
    }

    /// How much of a channel this is: so many parts of so many.
    pub const fn share(self) -> (u32, u32) {
        if self.of == 0 { (1, 1) } else { (self.wanted.count_ones(), self.of as u32) }
    }

    /// The shards of a chunk that are in them.
    pub fn shards(self, sequence: Sequence, layout: SlotLayout) -> ShardSet {
        if self.of == 0 {
            return layout.all_shards();
        }
        let (of, data) = (usize::from(self.of), layout.data_shards());
        let turn = (sequence.0 % of as u64) as usize;
        let wanted = (0..of).filter(|stripe| self.wanted & (1 << stripe) != 0);
        wanted.fold(ShardSet::EMPTY, |shards, stripe| {
            let place = (stripe + turn) % of;
            let first_parity = data + place;
            let parity = (first_parity..layout.shards_total()).step_by(of);
            let mut all = shards.union(ShardSet::range(place * data / of, (place + 1) * data / of));
            parity.for_each(|shard| all.insert(shard));
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(data: usize, parity: usize) -> SlotLayout {
        SlotLayout::new(data, parity).unwrap()
    }

    #[test]
    fn stripes_hold_every_shard_once_and_as_many_data_shards_each_but_for_one() {
        for (of, data, parity) in [(2, 20, 10), (2, 1, 1), (2, 31, 16), (3, 32, 16), (16, 5, 3), (5, 13, 0)] {
            let layout = layout(data, parity);
            for sequence in (1..40).map(Sequence) {
                let mut seen = ShardSet::EMPTY;
                for index in 0..of {
                    let stripe = Stripes::one(index, of).shards(sequence, layout);
                    assert!(seen.intersection(stripe).is_empty());
                    let of_data = stripe.intersection(layout.data_set());
                    assert!((data / of..=data.div_ceil(of)).contains(&of_data.len()));
                    let run = of_data.first_run().map_or(0, |(first, end)| end - first);
                    assert_eq!(run, of_data.len(), "one train");
                    seen = seen.union(stripe);
                }
                assert_eq!(seen, layout.all_shards());
            }
        }
    }

    #[test]
    fn a_chunk_of_one_shard_is_each_stripes_in_its_turn() {
        let stripe = Stripes::one(0, 2);
        let counts: Vec<usize> =
            (10..14).map(|sequence| stripe.shards(Sequence(sequence), layout(1, 0)).len()).collect();
        assert!(counts == [0, 1, 0, 1] || counts == [1, 0, 1, 0], "{counts:?}");
    }

    #[test]
    fn all_is_everything_and_none_is_nothing() {
        let layout = layout(20, 10);
        assert_eq!(Stripes::ALL.shards(Sequence(7), layout), layout.all_shards());
        assert!(Stripes::NONE.shards(Sequence(7), layout).is_empty());
        assert_eq!(Stripes::new(2, 0xffff).unwrap().shards(Sequence(7), layout), layout.all_shards());
        assert_eq!(Stripes::new(17, 1), None);
        assert_eq!((Stripes::ALL.share(), Stripes::one(1, 2).share()), ((1, 1), (1, 2)));
    }
}
