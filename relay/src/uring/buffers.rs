//! The buffers that the kernel receives into, and the ring through which it gets them.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::budget::RECEIVE_BUFFERS;
use super::memory::Mapping;
use super::ring::Ring;
use crate::plane::OpenError;
use crate::plane::budget::RECEIVE_BUFFER_BYTES;

/// The only buffer group of the ring.
pub(super) const BUFFER_GROUP: u16 = 0;

/// A buffer that the kernel has filled and that is ours until it is given back (promise 2). Neither `Copy` nor
/// `Clone`, so that there is one for each time it was filled.
#[derive(Debug)]
pub(super) struct Held {
    buffer: u16,
    filled: usize,
}

impl Held {
    /// Takes the buffer over from the kernel.
    ///
    /// # Safety
    /// A completion names this buffer, and is made a `Held` of only once (promise 2).
    pub(super) unsafe fn new(buffer: u16, filled: usize) -> Held {
        assert!(
            buffer < RECEIVE_BUFFERS && filled <= RECEIVE_BUFFER_BYTES,
            "buffer {buffer}, {filled} bytes"
        );
        Held { buffer, filled }
    }
}

/// All receive buffers of a plane.
pub(super) struct ReceiveBuffers {
    entries: Mapping,
    memory: Mapping,
    tail: u16,
}

impl ReceiveBuffers {
    /// Maps them; see [`super::budget`] for the hint against huge pages.
    pub(super) fn map() -> Result<ReceiveBuffers, OpenError> {
        let map = |bytes| {
            Mapping::anonymous(bytes, libc::MADV_NOHUGEPAGE)
                .map_err(|source| OpenError::Memory { bytes, source })
        };
        Ok(ReceiveBuffers {
            entries: map(usize::from(RECEIVE_BUFFERS) * size_of::<BufRingEntry>())?,
            memory: map(usize::from(RECEIVE_BUFFERS) * RECEIVE_BUFFER_BYTES)?,
            tail: 0,
        })
    }

    /// Gives the ring all of them.
    pub(super) fn register(&mut self, ring: &Ring) -> Result<(), OpenError> {
        // SAFETY: promises 1 and 3: as many entries as said, mapped until the ring is quiet.
        let registered =
            unsafe { ring.register_buffers(self.entries.start().cast(), RECEIVE_BUFFERS, BUFFER_GROUP) };
        registered.map_err(|source| OpenError::Buffers { count: RECEIVE_BUFFERS, source })?;
        for buffer in 0..RECEIVE_BUFFERS {
            self.provide(buffer);
        }
        Ok(())
    }

    /// What the kernel wrote.
    pub(super) fn bytes(&self, held: &Held) -> &[u8] {
        // SAFETY: promises 1 and 2: within the mapping (checked when `held` was made), and ours as long as `held` is
        // borrowed, for giving it back consumes it.
        unsafe { std::slice::from_raw_parts(self.start_of(held.buffer).as_ptr(), held.filled) }
    }

    /// Lets the kernel fill the buffer again.
    pub(super) fn give_back(&mut self, held: Held) {
        self.provide(held.buffer);
    }

    fn provide(&mut self, buffer: u16) {
        let address = self.start_of(buffer).as_ptr() as u64;
        let entries = self.entries.start().cast::<BufRingEntry>().as_ptr();
        let position = usize::from(self.tail & (RECEIVE_BUFFERS - 1));
        // SAFETY: promise 1: `position` is within the mapping of `RECEIVE_BUFFERS` entries, all bits of which are
        // valid values. Promise 2: the kernel does not read an entry beyond the tail.
        let entry = unsafe { &mut *entries.add(position) };
        entry.set_addr(address);
        entry.set_len(RECEIVE_BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: promise 1: `entries` is the address of the first entry, in which the kernel keeps the tail (aligned,
        // as the mapping is); it is written nowhere else, and read by the kernel alone, atomically.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) };
        // Release: whoever sees the new tail sees the entry.
        tail.store(self.tail, Ordering::Release);
    }

    fn start_of(&self, buffer: u16) -> NonNull<u8> {
        // SAFETY: promise 1: `buffer` is below `RECEIVE_BUFFERS`, so the result is within the mapping.
        unsafe { self.memory.start().add(usize::from(buffer) * RECEIVE_BUFFER_BYTES) }
    }
}
