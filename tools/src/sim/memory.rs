//! Slots of nodes, those of one process seen by all of them: as the relay's shared mapping, in safe code.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use codec::DATAGRAM_BYTES;
use mesh::{Memory, Node, Outbox, Payload, SLOT_BYTES, SlotIndex, Transmit};

/// What the nodes of a process have together.
pub(super) struct Commons {
    slots_each: u32,
    /// One per slot of all.
    holders: Box<[AtomicU32]>,
    /// What each node wrote since it last published: byte ranges, from the start of slot 0.
    written: Box<[Mutex<Vec<Range<usize>>>]>,
    /// Slots as their nodes published them, for the others to copy from.
    published: Mutex<HashMap<u32, Box<[u8]>>>,
}

/// One node's part.
pub(super) struct Slots {
    commons: Arc<Commons>,
    number: usize,
    /// Own slots; none takes memory before it is written to.
    own: Vec<Option<Box<[u8]>>>,
}

/// Memory for `nodes` nodes of one process, `slots` slots each.
pub(super) fn parts(nodes: usize, slots: u32) -> (Arc<Commons>, Vec<Slots>) {
    let commons = Arc::new(Commons {
        slots_each: slots,
        holders: (0..nodes as u32 * slots).map(|_| AtomicU32::new(0)).collect(),
        written: (0..nodes).map(|_| Mutex::default()).collect(),
        published: Mutex::default(),
    });
    let part = |number| Slots { commons: Arc::clone(&commons), number, own: vec![None; slots as usize] };
    let parts = (0..nodes).map(part).collect();
    (commons, parts)
}

impl Commons {
    /// Whose slot this is.
    pub(super) fn owner(&self, slot: SlotIndex) -> usize {
        (slot.0 / self.slots_each) as usize
    }

    /// Lets the others see what a node wrote. To be called before [`Node::share`].
    pub(super) fn publish(&self, number: usize, node: &Node, outbox: &Outbox) {
        let ranges = std::mem::take(&mut *self.written[number].lock().expect("one thread"));
        let mut published = self.published.lock().expect("one thread");
        for range in ranges {
            let (slot, from) = ((range.start / SLOT_BYTES) as u32, range.start % SLOT_BYTES);
            let (first, count) = ((from / DATAGRAM_BYTES) as u8, (range.len() / DATAGRAM_BYTES) as u8);
            let to = ([0, 0, 0, 0], 0).into();
            let train = Transmit { to, payload: Payload::Train { slot: SlotIndex(slot), first, count } };
            let copy = published.entry(slot).or_insert_with(empty_slot);
            copy[from..from + range.len()].copy_from_slice(node.bytes_of(&train, outbox));
        }
    }
}

impl Slots {
    fn first(&self) -> u32 {
        self.number as u32 * self.commons.slots_each
    }

    /// The own slot that these bytes are in, and where in it.
    fn place(&self, range: &Range<usize>) -> (usize, Range<usize>) {
        let slot = range.start / SLOT_BYTES - self.first() as usize;
        let from = range.start % SLOT_BYTES;
        (slot, from..from + range.len())
    }
}

impl Memory for Slots {
    fn own(&self) -> Range<u32> {
        self.first()..self.first() + self.commons.slots_each
    }

    fn slots(&self) -> u32 {
        self.commons.holders.len() as u32
    }

    fn bytes(&self, range: Range<usize>) -> &[u8] {
        let (slot, within) = self.place(&range);
        &self.own[slot].as_ref().expect("nothing is read that was not written")[within]
    }

    fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        let (slot, within) = self.place(&range);
        if self.commons.written.len() > 1 {
            self.commons.written[self.number].lock().expect("one thread").push(range);
        }
        &mut self.own[slot].get_or_insert_with(empty_slot)[within]
    }

    fn copy_from_held(&mut self, from: Range<usize>, to: usize) {
        let slot = (from.start / SLOT_BYTES) as u32;
        assert!(self.is_held(SlotIndex(slot)), "slot {slot} is copied from, which nobody holds");
        let start = from.start % SLOT_BYTES;
        let commons = Arc::clone(&self.commons);
        let published = commons.published.lock().expect("one thread");
        let bytes = &published[&slot][start..start + from.len()];
        self.bytes_mut(to..to + from.len()).copy_from_slice(bytes);
    }

    fn hold(&self, slot: SlotIndex) {
        self.commons.holders[slot.0 as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn release(&self, slot: SlotIndex) {
        let before = self.commons.holders[slot.0 as usize].fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "{slot:?} is released, which nobody held");
    }

    fn is_held(&self, slot: SlotIndex) -> bool {
        self.commons.holders[slot.0 as usize].load(Ordering::Relaxed) > 0
    }
}

fn empty_slot() -> Box<[u8]> {
    vec![0; SLOT_BYTES].into()
}
