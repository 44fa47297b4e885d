//! Anonymous memory that is handed to the kernel by address.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// Zeroed memory for slots: huge pages where the system gives them, and each page only once it is touched.
#[derive(Debug)]
pub struct SlotMemory {
    mapping: Arc<Mapping>,
}

impl SlotMemory {
    /// Maps `bytes`, at least 1.
    ///
    /// # Errors
    /// No address space (`ENOMEM`), or `bytes` is 0 (`EINVAL`).
    pub fn map(bytes: usize) -> io::Result<SlotMemory> {
        Ok(SlotMemory { mapping: Arc::new(Mapping::anonymous(bytes, libc::MADV_HUGEPAGE)?) })
    }

    /// The same memory for sending; keeps it mapped.
    pub fn region(&self) -> SlotRegion {
        SlotRegion { mapping: Arc::clone(&self.mapping) }
    }
}

impl Deref for SlotMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: promises 1 and 5: the mapping is there, `bytes` long and zeroed, and all references go through the
        // one `SlotMemory`, which is borrowed as long as this one lives.
        unsafe { std::slice::from_raw_parts(self.mapping.start.as_ptr(), self.mapping.bytes) }
    }
}

impl DerefMut for SlotMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: promises 1 and 5, as above; exclusively borrowed here.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.start.as_ptr(), self.mapping.bytes) }
    }
}

/// Names a [`SlotMemory`] for sending. Does not let its bytes be read here; see promise 5 of [`super`].
#[derive(Clone, Debug)]
pub struct SlotRegion {
    mapping: Arc<Mapping>,
}

impl SlotRegion {
    /// Where `range` is. Panics when it is not within the memory: it came from a node that was given other slots.
    pub(super) fn address(&self, range: &Range<usize>) -> *const u8 {
        let bytes = self.mapping.bytes;
        assert!(
            range.start <= range.end && range.end <= bytes,
            "slot bytes {range:?} of a region of {bytes}"
        );
        self.mapping.start.as_ptr().wrapping_add(range.start)
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
        let mut memory = SlotMemory::map(10_000_000).unwrap();
        assert_eq!(memory.len(), 10_000_000);
        assert!(memory.iter().all(|&byte| byte == 0));
        memory[9_999_999] = 7;
        assert_eq!(memory[9_999_999], 7);
    }

    #[test]
    fn region_keeps_the_mapping_alive_and_can_change_threads() {
        let memory = SlotMemory::map(4096).unwrap();
        let region = memory.region();
        let start = memory.as_ptr() as usize;
        drop(memory);
        let seen = std::thread::spawn(move || region.address(&(8..16)) as usize).join().unwrap();
        assert_eq!(seen, start + 8);
    }

    #[test]
    #[should_panic(expected = "slot bytes 4090..4097 of a region of 4096")]
    fn bytes_outside_the_region_have_no_address() {
        SlotMemory::map(4096).unwrap().region().address(&(4090..4097));
    }
}
