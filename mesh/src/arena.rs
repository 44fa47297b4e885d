//! The slot memory and who holds which slot of it.

use core::ops::{Deref, DerefMut};

use codec::{DATAGRAM_BYTES, SlotLayout};

use crate::outbox::{SLOT_BYTES, SlotIndex};

/// The memory that slots are cut from: a `Vec<u8>`, or a mapping that a ring knows.
pub type Memory = Box<dyn DerefMut<Target = [u8]> + Send>;

/// A slot as it was when this was taken: once the slot is given back, it is stale.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotRef {
    pub(crate) index: SlotIndex,
    generation: u32,
}

/// Slots of equal size, given out last-in first-out, so that what is warm in the cache is used again first and pages
/// never needed are never touched.
pub(crate) struct Arena {
    memory: Memory,
    /// One per slot: how often it was given back.
    generations: Vec<u32>,
    free: Vec<SlotIndex>,
    /// Slots from here on were never used.
    untouched: usize,
}

impl Arena {
    pub(crate) fn new(memory: Memory) -> Arena {
        let slots = memory.deref().len() / SLOT_BYTES;
        assert!(slots > 0, "{} bytes hold no slot of {SLOT_BYTES}", memory.deref().len());
        Arena { memory, generations: vec![0; slots], free: Vec::with_capacity(slots), untouched: 0 }
    }

    pub(crate) fn take(&mut self) -> Option<SlotRef> {
        let index = self.free.pop().or_else(|| {
            let fresh = SlotIndex(self.untouched as u32);
            (self.untouched < self.generations.len()).then_some(fresh).inspect(|_| self.untouched += 1)
        })?;
        Some(SlotRef { index, generation: self.generations[index.0 as usize] })
    }

    pub(crate) fn give_back(&mut self, slot: SlotRef) {
        debug_assert!(self.holds(slot), "a slot is given back once");
        self.generations[slot.index.0 as usize] = slot.generation.wrapping_add(1);
        self.free.push(slot.index);
    }

    /// Whether the slot is still what it was.
    pub(crate) fn holds(&self, slot: SlotRef) -> bool {
        self.generations[slot.index.0 as usize] == slot.generation
    }

    /// The datagrams of a chunk of this layout.
    pub(crate) fn slot(&self, slot: SlotRef, layout: SlotLayout) -> &[u8] {
        debug_assert!(self.holds(slot));
        &self.memory[start(slot)..][..layout.slot_bytes()]
    }

    pub(crate) fn slot_mut(&mut self, slot: SlotRef, layout: SlotLayout) -> &mut [u8] {
        debug_assert!(self.holds(slot));
        &mut self.memory[start(slot)..][..layout.slot_bytes()]
    }

    pub(crate) fn store(&mut self, slot: SlotRef, shard: usize, datagram: &[u8; DATAGRAM_BYTES]) {
        debug_assert!(self.holds(slot));
        self.memory[start(slot) + shard * DATAGRAM_BYTES..][..DATAGRAM_BYTES].copy_from_slice(datagram);
    }

    pub(crate) fn bytes(&self, range: core::ops::Range<usize>) -> &[u8] {
        &self.memory[range]
    }

    /// Slots given out now.
    pub(crate) fn in_use(&self) -> usize {
        self.untouched - self.free.len()
    }
}

fn start(slot: SlotRef) -> usize {
    slot.index.0 as usize * SLOT_BYTES
}

#[cfg(test)]
mod tests {
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
}
