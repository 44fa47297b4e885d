//! The memory of the slots: one node's own, or a part of what several nodes of a process have together.

use core::ops::Range;

use crate::outbox::{SLOT_BYTES, SlotIndex};

/// What slots are cut from: a `Vec<u8>`, or a mapping that is known to the kernel and to other nodes. Slots are numbered
/// over all nodes that have it together; each gives out its own and reads those of the others.
///
/// A slot may be *held* by others: by a node that was told of the chunk in it, or by a send that is under way. Its own
/// node does not use it for another chunk before that is over.
pub trait Memory: Send {
    /// The slots that this node gives out; at least one.
    fn own(&self) -> Range<u32>;

    /// One more than the highest number of a slot, of all nodes.
    fn slots(&self) -> u32 {
        self.own().end
    }

    /// Bytes of own slots; `range` counts from the start of slot 0.
    fn bytes(&self, range: Range<usize>) -> &[u8];

    /// The same, to be written.
    fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8];

    /// Copies bytes of another node's slot, which is held, into one of its own.
    fn copy_from_held(&mut self, from: Range<usize>, to: usize);

    /// One holder more.
    fn hold(&self, slot: SlotIndex);

    /// One holder less. What it read is read before its own node can use the slot again.
    fn release(&self, slot: SlotIndex);

    /// Whether anybody holds the slot.
    fn is_held(&self, slot: SlotIndex) -> bool;
}

/// Memory of one node alone, whose messages are sent before the node is called again: nobody ever holds a slot.
impl Memory for Vec<u8> {
    fn own(&self) -> Range<u32> {
        0..u32::try_from(self.len() / SLOT_BYTES).unwrap_or(u32::MAX)
    }

    fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self[range]
    }

    fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self[range]
    }

    fn copy_from_held(&mut self, from: Range<usize>, to: usize) {
        self.copy_within(from, to);
    }

    fn hold(&self, slot: SlotIndex) {
        unreachable!("nobody to hold {slot:?}");
    }

    fn release(&self, slot: SlotIndex) {
        unreachable!("nobody held {slot:?}");
    }

    fn is_held(&self, _: SlotIndex) -> bool {
        false
    }
}
