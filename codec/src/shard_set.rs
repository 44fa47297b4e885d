//! A set of shard indices of one chunk, as a bitmap.

use core::fmt;

use crate::wire::MAX_SHARDS;

/// A set of shard indices `0..48` of one chunk; bit *i* stands for shard *i*.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ShardSet(u64);

impl ShardSet {
    /// No shard.
    pub const EMPTY: ShardSet = ShardSet(0);

    /// Every shard a chunk can have.
    pub const ALL: ShardSet = ShardSet((1 << MAX_SHARDS) - 1);

    /// From a bitmap; bits from 48 on name no shard and are dropped.
    pub const fn from_bits(bits: u64) -> ShardSet {
        ShardSet(bits & ShardSet::ALL.0)
    }

    /// As a bitmap.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Indices `start..end`; what lies beyond 48 is dropped.
    pub const fn range(start: usize, end: usize) -> ShardSet {
        ShardSet(below(end) & !below(start))
    }

    /// Whether `index` is in the set.
    pub const fn contains(self, index: usize) -> bool {
        index < MAX_SHARDS && self.0 & (1 << index) != 0
    }

    /// Adds `index`, which must be below 48.
    pub fn insert(&mut self, index: usize) {
        debug_assert!(index < MAX_SHARDS);
        self.0 |= 1 << index;
    }

    /// How many indices are in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In either.
    #[must_use]
    pub const fn union(self, other: ShardSet) -> ShardSet {
        ShardSet(self.0 | other.0)
    }

    /// In both.
    #[must_use]
    pub const fn intersection(self, other: ShardSet) -> ShardSet {
        ShardSet(self.0 & other.0)
    }

    /// In this one but not in `other`.
    #[must_use]
    pub const fn minus(self, other: ShardSet) -> ShardSet {
        ShardSet(self.0 & !other.0)
    }

    /// The `count` lowest indices of the set: data shards before parity.
    #[must_use]
    pub fn lowest(self, count: usize) -> ShardSet {
        let mut rest = self.0;
        for _ in 0..count {
            rest &= rest.wrapping_sub(1);
        }
        ShardSet(self.0 & !rest)
    }

    /// The first run of consecutive indices, `(start, end)`: what one train can carry.
    pub fn first_run(self) -> Option<(usize, usize)> {
        if self.is_empty() {
            return None;
        }
        let start = self.0.trailing_zeros() as usize;
        let length = (self.0 >> start).trailing_ones() as usize;
        Some((start, start + length))
    }

    /// The indices in rising order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_SHARDS).filter(move |&index| self.contains(index))
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

const fn below(end: usize) -> u64 {
    if end >= MAX_SHARDS { ShardSet::ALL.0 } else { (1 << end) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_in_order_and_cover_the_set() {
        let mut set = ShardSet::range(0, 3).union(ShardSet::range(5, 6)).union(ShardSet::range(40, 60));
        let mut runs = Vec::new();
        while let Some((start, end)) = set.first_run() {
            runs.push((start, end));
            set = set.minus(ShardSet::range(start, end));
        }
        assert_eq!(runs, [(0, 3), (5, 6), (40, 48)]);
    }

    #[test]
    fn lowest_takes_from_the_bottom_and_no_more_than_there_is() {
        let set = ShardSet::range(2, 5);
        assert_eq!(set.lowest(2), ShardSet::range(2, 4));
        assert_eq!(set.lowest(9), set);
        assert_eq!(set.lowest(0), ShardSet::EMPTY);
    }
}
