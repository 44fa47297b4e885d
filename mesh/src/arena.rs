//! The slot memory and who has which slot of it.

use core::ops::Range;
use std::collections::VecDeque;

use codec::{DATAGRAM_BYTES, ShardSet, SlotLayout};

use crate::memory::Memory;
use crate::outbox::{SLOT_BYTES, SlotIndex};

/// A slot as it was when this was taken: once the slot is given back, it is stale.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotRef {
    pub(crate) index: SlotIndex,
    generation: u32,
}

/// Slots of equal size, given out last-in first-out, so that what is warm in the cache is used again first and pages
/// never needed are never touched. Beside its own, a node has slots that others lend it with a chunk in them.
pub(crate) struct Arena {
    memory: Box<dyn Memory>,
    own: Range<u32>,
    /// One per slot of all nodes: how often it was given back here.
    generations: Vec<u32>,
    free: Vec<SlotIndex>,
    /// Given back while others still held them, the oldest first.
    awaited: VecDeque<SlotIndex>,
    /// Own slots from here on were never used.
    untouched: u32,
}

/// Awaited slots looked at when one is needed: those given back first are free first, nearly always.
const AWAITED_LOOKED_AT: usize = 8;

/// One slot in so many is kept free, so that a new chunk need not wait until the holders of an old one let go: 560 at
/// 512 MiB, 45 ms of 500 channels.
const SPARE_SHARE: usize = 16;

impl Arena {
    pub(crate) fn new(memory: Box<dyn Memory>) -> Arena {
        let own = memory.own();
        assert!(!own.is_empty(), "the memory holds no slot of {SLOT_BYTES} bytes");
        Arena {
            generations: vec![0; memory.slots() as usize],
            free: Vec::with_capacity(own.len()),
            awaited: VecDeque::with_capacity(own.len()),
            untouched: own.start,
            own,
            memory,
        }
    }

    /// An own slot that nobody has any more; `None` while there is none.
    pub(crate) fn take(&mut self) -> Option<SlotRef> {
        let fresh = SlotIndex(self.untouched);
        let index = self
            .free
            .pop()
            .or_else(|| self.let_go())
            .or_else(|| self.own.contains(&fresh.0).then_some(fresh).inspect(|_| self.untouched += 1))?;
        Some(SlotRef { index, generation: self.generations[index.0 as usize] })
    }

    /// An awaited slot that its holders have let go.
    fn let_go(&mut self) -> Option<SlotIndex> {
        for _ in 0..self.awaited.len().min(AWAITED_LOOKED_AT) {
            let index = self.awaited.pop_front()?;
            if !self.memory.is_held(index) {
                return Some(index);
            }
            self.awaited.push_back(index);
        }
        None
    }

    /// Whether more slots are in use than leave some spare.
    pub(crate) fn is_tight(&self) -> bool {
        let spare = self.own.len().div_ceil(SPARE_SHARE).min(self.own.len() - 1);
        self.own.len() - self.in_use() <= spare
    }

    /// Has a slot of another node, which holds it for this one.
    pub(crate) fn borrow(&self, index: SlotIndex) -> SlotRef {
        debug_assert!(!self.own.contains(&index.0));
        SlotRef { index, generation: self.generations[index.0 as usize] }
    }

    /// The slots that this node gives out.
    pub(crate) fn own(&self) -> Range<u32> {
        self.own.clone()
    }

    pub(crate) fn is_own(&self, slot: SlotRef) -> bool {
        self.own.contains(&slot.index.0)
    }

    /// One holder more, or less, of a slot.
    pub(crate) fn hold(&self, index: SlotIndex) {
        self.memory.hold(index);
    }

    pub(crate) fn release(&self, index: SlotIndex) {
        self.memory.release(index);
    }

    pub(crate) fn give_back(&mut self, slot: SlotRef) {
        debug_assert!(self.holds(slot), "a slot is given back once");
        let generation = &mut self.generations[slot.index.0 as usize];
        *generation = generation.wrapping_add(1);
        if !self.is_own(slot) {
            self.memory.release(slot.index);
        } else if self.memory.is_held(slot.index) {
            self.awaited.push_back(slot.index);
        } else {
            self.free.push(slot.index);
        }
    }

    /// Whether the slot is still what it was.
    pub(crate) fn holds(&self, slot: SlotRef) -> bool {
        self.generations[slot.index.0 as usize] == slot.generation
    }

    /// The datagrams of a chunk of this layout, in an own slot.
    pub(crate) fn slot(&self, slot: SlotRef, layout: SlotLayout) -> &[u8] {
        debug_assert!(self.holds(slot));
        self.memory.bytes(start(slot.index)..start(slot.index) + layout.slot_bytes())
    }

    pub(crate) fn slot_mut(&mut self, slot: SlotRef, layout: SlotLayout) -> &mut [u8] {
        debug_assert!(self.holds(slot));
        self.memory.bytes_mut(start(slot.index)..start(slot.index) + layout.slot_bytes())
    }

    pub(crate) fn store(&mut self, slot: SlotRef, shard: usize, datagram: &[u8; DATAGRAM_BYTES]) {
        debug_assert!(self.holds(slot));
        let at = start(slot.index) + shard * DATAGRAM_BYTES;
        self.memory.bytes_mut(at..at + DATAGRAM_BYTES).copy_from_slice(datagram);
    }

    /// Copies shards from another node's slot, which is held.
    pub(crate) fn copy_shards(&mut self, from: SlotIndex, to: SlotRef, shards: ShardSet) {
        debug_assert!(self.holds(to) && self.is_own(to));
        let mut rest = shards;
        while let Some((first, end)) = rest.first_run() {
            rest = rest.minus(ShardSet::range(first, end));
            let source = start(from) + first * DATAGRAM_BYTES..start(from) + end * DATAGRAM_BYTES;
            self.memory.copy_from_held(source, start(to.index) + first * DATAGRAM_BYTES);
        }
    }

    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.memory.bytes(range)
    }

    /// Own slots given out now.
    pub(crate) fn in_use(&self) -> usize {
        (self.untouched - self.own.start) as usize - self.free.len() - self.awaited.len()
    }
}

fn start(slot: SlotIndex) -> usize {
    slot.0 as usize * SLOT_BYTES
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_slot_given_back_is_stale_and_comes_again_first() {
        let mut arena = Arena::new(Box::new(vec![0; 3 * SLOT_BYTES]));
        let (a, b) = (arena.take().unwrap(), arena.take().unwrap());
        arena.give_back(a);
        assert!(!arena.holds(a) && arena.holds(b));
        let again = arena.take().unwrap();
        assert_eq!(again.index, a.index);
        assert_ne!(again, a);
        assert!(arena.take().is_some() && arena.take().is_none());
    }

    /// One slot, beside those of other nodes, and how often each is held.
    pub(crate) struct Lent {
        pub(crate) bytes: Vec<u8>,
        pub(crate) holders: Arc<[AtomicU32]>,
    }

    impl Memory for Lent {
        fn own(&self) -> Range<u32> {
            0..1
        }

        fn slots(&self) -> u32 {
            self.holders.len() as u32
        }

        fn bytes(&self, range: Range<usize>) -> &[u8] {
            &self.bytes[range]
        }

        fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
            &mut self.bytes[range]
        }

        fn copy_from_held(&mut self, from: Range<usize>, to: usize) {
            self.bytes.copy_within(from, to);
        }

        fn hold(&self, slot: SlotIndex) {
            self.holders[slot.0 as usize].fetch_add(1, Ordering::Relaxed);
        }

        fn release(&self, slot: SlotIndex) {
            self.holders[slot.0 as usize].fetch_sub(1, Ordering::Relaxed);
        }

        fn is_held(&self, slot: SlotIndex) -> bool {
            self.holders[slot.0 as usize].load(Ordering::Relaxed) > 0
        }
    }

    #[test]
    fn a_slot_that_others_hold_is_not_given_out_again_before_they_let_go() {
        let holders: Arc<[AtomicU32]> = Arc::new([AtomicU32::new(0), AtomicU32::new(1)]);
        let mut arena =
            Arena::new(Box::new(Lent { bytes: vec![0; 2 * SLOT_BYTES], holders: holders.clone() }));
        let slot = arena.take().unwrap();
        arena.hold(slot.index);
        arena.give_back(slot);
        assert!(!arena.holds(slot) && arena.in_use() == 0 && arena.take().is_none());
        arena.release(slot.index);
        assert_eq!(arena.take().map(|again| again.index), Some(slot.index));
        let lent = arena.borrow(SlotIndex(1));
        assert!(!arena.is_own(lent));
        arena.give_back(lent);
        assert_eq!(holders[1].load(Ordering::Relaxed), 0);
        assert!(!arena.holds(lent) && arena.take().is_none(), "another node's slot is not given out here");
    }
}
