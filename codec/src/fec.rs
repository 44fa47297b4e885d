//! The erasure code: systematic Reed–Solomon over GF(2^8), polynomial 0x11d, Vandermonde matrix normalised so that
//! its top is the identity; field and matrix are those of `reed-solomon-erasure` 6.
//!
//! Kept behind this one file so that a faster kernel with the same field and matrix can replace it.

use arrayvec::ArrayVec;
use reed_solomon_erasure::galois_8::ReedSolomon;

use crate::shard_set::ShardSet;
use crate::wire::MAX_SHARDS;
use crate::wire::shard::SlotLayout;

/// How many (k, m) pairs keep their matrices. A channel uses one or two in steady state; each pair can hold about
/// 300 KiB of inverted matrices, and a hostile publisher may rotate through all pairs, so the number is bounded.
const CODES_MAX: usize = 32;

/// Encoder and rebuilder with a bounded cache of matrices. One per thread.
#[derive(Default)]
pub struct Fec {
    /// Most recently used last.
    codes: Vec<((u8, u8), ReedSolomon)>,
}

impl Fec {
    /// An empty cache.
    pub fn new() -> Fec {
        Fec::default()
    }

    /// Computes the parity shards of `slot` from its data shards.
    pub(crate) fn encode(&mut self, slot: &mut [u8], layout: SlotLayout) {
        if layout.parity_shards() == 0 {
            return;
        }
        let (data, parity) = slot.split_at_mut(layout.data_shards() * crate::DATAGRAM_BYTES);
        let data: ArrayVec<&[u8], MAX_SHARDS> = layout.shards(data).collect();
        let mut parity: ArrayVec<&mut [u8], MAX_SHARDS> = layout.shards_mut(parity).collect();
        self.code(layout)
            .encode_sep(&data, &mut parity)
            .expect("shards of one layout have one length and the code's count");
    }

    /// Computes every shard not in `present`, which holds at least k.
    pub(crate) fn rebuild(&mut self, slot: &mut [u8], layout: SlotLayout, present: ShardSet) {
        if layout.parity_shards() == 0 {
            return;
        }
        let mut shards: ArrayVec<(&mut [u8], bool), MAX_SHARDS> = layout
            .shards_mut(slot)
            .enumerate()
            .map(|(index, shard)| (shard, present.contains(index)))
            .collect();
        self.code(layout).reconstruct(&mut shards).expect("the caller holds k shards of one length");
    }

    fn code(&mut self, layout: SlotLayout) -> &ReedSolomon {
        let pair = (layout.data_shards() as u8, layout.parity_shards() as u8);
        let entry = match self.codes.iter().position(|(have, _)| *have == pair) {
            Some(place) => self.codes.remove(place),
            None => {
                if self.codes.len() == CODES_MAX {
                    self.codes.remove(0);
                }
                let code = ReedSolomon::new(layout.data_shards(), layout.parity_shards());
                (pair, code.expect("1 ≤ k and 1 ≤ m and k + m ≤ 48 fit GF(2^8)"))
            }
        };
        self.codes.push(entry);
        &self.codes[self.codes.len() - 1].1
    }
}
