//! Anonymous memory that is handed to the kernel by address.

use std::fmt;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mesh::{Memory, SLOT_BYTES, SlotIndex};

/// The slots of one node; each page becomes real only once it is touched. Nodes of several workers have parts of one
/// mapping.
///
/// Not in huge pages, which the kernel would register as one piece each: it charges the socket's send buffer for a
/// zero-copy send with the whole way from the start of such a piece, 1 MiB on average (io_uring/net.c,
/// `io_sg_from_iter`), so that a device with a queue would get eight trains at a time.
#[derive(Debug)]
pub struct SlotMemory {
    region: SlotRegion,
    own: Range<u32>,
}

impl SlotMemory {
    /// Maps `slots` slots, zeroed, at least one.
    ///
    /// # Errors
    /// No address space (`ENOMEM`), or `slots` is 0 (`EINVAL`).
    pub fn map(slots: usize) -> io::Result<SlotMemory> {
        let mut parts = SlotMemory::map_parts(slots, 1)?;
        Ok(parts.pop().expect("one part was asked for"))
    }

    /// Maps `slots` slots for each of `parts` nodes.
    ///
    /// # Errors
    /// As for [`SlotMemory::map`].
    pub fn map_parts(slots: usize, parts: usize) -> io::Result<Vec<SlotMemory>> {
        let number = |part: usize| u32::try_from(part * slots).map_err(|_| io::ErrorKind::OutOfMemory);
        let all = number(parts)? as usize;
        let mapping = Mapping::anonymous(all * SLOT_BYTES, libc::MADV_NOHUGEPAGE)?;
        let holders = (0..all).map(|_| AtomicU32::new(0)).collect();
        let region = SlotRegion { mapped: Arc::new(Mapped { mapping, holders }) };
        (0..parts)
            .map(|part| Ok(SlotMemory { region: region.clone(), own: number(part)?..number(part + 1)? }))
            .collect()
    }

    /// The same memory for sending; keeps it mapped.
    pub fn region(&self) -> SlotRegion {
        self.region.clone()
    }

    /// Where `range` is. Panics when it is not within the slots of this node.
    fn own_address(&self, range: &Range<usize>) -> *mut u8 {
        let own = self.own.start as usize * SLOT_BYTES..self.own.end as usize * SLOT_BYTES;
        assert!(own.start <= range.start && range.end <= own.end, "slot bytes {range:?} of {own:?}");
        self.region.address(range).cast_mut()
    }
}

impl Memory for SlotMemory {
    fn own(&self) -> Range<u32> {
        self.own.clone()
    }

    fn slots(&self) -> u32 {
        self.region.slots() as u32
    }

    fn bytes(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: promises 1 and 5: mapped, initialised with zeros, and a reference to an own slot is made through its
        // one `SlotMemory` only, which is borrowed as long as this one lives.
        unsafe { std::slice::from_raw_parts(self.own_address(&range), range.len()) }
    }

    fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        // SAFETY: promises 1 and 5, as above; exclusively borrowed here.
        unsafe { std::slice::from_raw_parts_mut(self.own_address(&range), range.len()) }
    }

    fn copy_from_held(&mut self, from: Range<usize>, to: usize) {
        let (source, target) = (self.region.address(&from), self.own_address(&(to..to + from.len())));
        // SAFETY: promises 1 and 5: both are mapped; what is copied from is a shard that another node held this slot
        // for, which nobody writes while it is held; what is copied to is an own slot, exclusively borrowed here. They
        // do not overlap, or this would be a move within the node's own bytes, which `copy` allows too.
        unsafe { std::ptr::copy(source, target, from.len()) };
    }

    fn hold(&self, slot: SlotIndex) {
        self.region.hold(slot);
    }

    fn release(&self, slot: SlotIndex) {
        self.region.release(slot);
    }

    fn is_held(&self, slot: SlotIndex) -> bool {
        // Acquire: see `release`.
        self.region.holders(slot).load(Ordering::Acquire) > 0
    }
}

/// Names a [`SlotMemory`], with all that is mapped with it, for sending. Does not let its bytes be read here; see
/// promise 5 of [`super`].
#[derive(Clone, Debug)]
pub struct SlotRegion {
    mapped: Arc<Mapped>,
}

#[derive(Debug)]
struct Mapped {
    mapping: Mapping,
    /// How many others hold each slot.
    holders: Box<[AtomicU32]>,
}

impl SlotRegion {
    /// Where `range` is. Panics when it is not within the memory: it came from a node that was given other slots.
    pub(super) fn address(&self, range: &Range<usize>) -> *const u8 {
        let Mapping { start, bytes } = &self.mapped.mapping;
        assert!(
            range.start <= range.end && range.end <= *bytes,
            "slot bytes {range:?} of a region of {bytes}"
        );
        start.as_ptr().wrapping_add(range.start)
    }

    /// Slots of all nodes.
    pub(super) fn slots(&self) -> usize {
        self.mapped.holders.len()
    }

    /// One holder more. Whoever adds one has the slot, or holds it, already.
    pub(super) fn hold(&self, slot: SlotIndex) {
        self.holders(slot).fetch_add(1, Ordering::Relaxed);
    }

    /// One holder less. Release: what the holder has read is read before the slot is written again.
    pub(super) fn release(&self, slot: SlotIndex) {
        let before = self.holders(slot).fetch_sub(1, Ordering::Release);
        debug_assert!(before > 0, "{slot:?} was not held");
    }

    fn holders(&self, slot: SlotIndex) -> &AtomicU32 {
        &self.mapped.holders[slot.0 as usize]
    }
}

/// A private anonymous mapping.
pub(super) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: promise 1: a mapping belongs to the process, not to a thread, and `Mapping` itself gives no access to it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` with an `madvise` hint, which is taken or not.
    pub(super) fn anonymous(bytes: usize, advice: libc::c_int) -> io::Result<Mapping> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: promise 1: a new mapping at an address of the kernel's choice concerns no memory that is in use.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: promise 1: start and length of the mapping just made; neither hint changes its contents. The result
        // is of no interest: without huge pages the memory is slower, not wrong.
        unsafe { libc::madvise(start, bytes, advice) };
        let start = NonNull::new(start.cast()).expect("mmap gives no mapping at address 0 unless asked to");
        Ok(Mapping { start, bytes })
    }

    /// Its first byte; page-aligned.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: promise 1: this is the last owner. Fails only for arguments that are no mapping.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:p}", self.bytes, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_and_writable_to_its_last_byte() {
        let mut memory = SlotMemory::map(170).unwrap();
        let all = 0..170 * SLOT_BYTES;
        assert!(memory.bytes(all.clone()).iter().all(|&byte| byte == 0));
        memory.bytes_mut(all.end - 1..all.end)[0] = 7;
        assert_eq!(memory.bytes(all).last(), Some(&7));
    }

    #[test]
    fn region_keeps_the_mapping_alive_and_can_change_threads() {
        let memory = SlotMemory::map(1).unwrap();
        let region = memory.region();
        let start = memory.bytes(0..1).as_ptr() as usize;
        drop(memory);
        let seen = std::thread::spawn(move || region.address(&(8..16)) as usize).join().unwrap();
        assert_eq!(seen, start + 8);
    }

    #[test]
    #[should_panic(expected = "slot bytes 59130..59137 of a region of 59136")]
    fn bytes_outside_the_region_have_no_address() {
        SlotMemory::map(1).unwrap().region().address(&(SLOT_BYTES - 6..SLOT_BYTES + 1));
    }

    #[test]
    fn parts_are_one_mapping_of_which_each_writes_its_own_and_copies_from_the_others() {
        let mut parts = SlotMemory::map_parts(2, 2).unwrap();
        let (mut second, mut first) = (parts.pop().unwrap(), parts.pop().unwrap());
        assert_eq!((first.own(), second.own(), first.slots()), (0..2, 2..4, 4));
        first.bytes_mut(SLOT_BYTES..SLOT_BYTES + 3).copy_from_slice(b"abc");
        first.hold(SlotIndex(1));
        assert!(second.is_held(SlotIndex(1)));
        let place = 3 * SLOT_BYTES;
        second.copy_from_held(SLOT_BYTES..SLOT_BYTES + 3, place);
        second.release(SlotIndex(1));
        assert_eq!(second.bytes(place..place + 4), b"abc\0");
        assert!(!first.is_held(SlotIndex(1)));
    }

    #[test]
    #[should_panic(expected = "slot bytes 59136..59137 of 0..59136")]
    fn another_parts_slots_are_not_written() {
        SlotMemory::map_parts(1, 2).unwrap()[0].bytes_mut(SLOT_BYTES..SLOT_BYTES + 1);
    }
}
