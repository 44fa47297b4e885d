//! Sizes of one io_uring plane, beside those of every plane (`plane/budget.rs`), and why they are what they are.
//!
//! Memory of one plane, when every page of it has been touched:
//!
//! | what | bytes |
//! |---|---|
//! | receive buffers | 512 × 65,536 = 33,554,432 |
//! | their ring | 512 × 16 = 8,192 |
//! | submission queue | 512 × (64 + 4) = 34,816 |
//! | completion queue | 2,048 × 16 = 32,768 |
//! | window of sends | 512 × 72 = 36,864 |
//! | zero-copy sends under way | 1,000 × 24 = 24,000 |
//!
//! The queues (and, in some kernels, the buffers' ring) count as locked memory: with 128 KiB of it the plane starts. So
//! does slot memory that zero-copy sends are made from, in pieces of 231 KiB, with each plane that sends from it; where
//! there is none left for it, its trains are copied.
//!
//! The receive buffers are touched as far as they are filled: they are used in turn, so an idle plane ends at one page
//! of each (512 × 4,096 = 2 MiB), a loaded one whose senders' trains arrive as aggregates at all 32 MiB. Huge pages are
//! switched off for them, or the first datagrams would cost the whole of it.

use mesh::SLOT_BYTES;

use crate::budget::SLOT_MEMORY_BYTES_MAX;
use crate::plane::budget::SEND_WINDOW;

/// Receive buffers; a power of two. A socket queue that got deep while the fan-out ran can take them all at once, and
/// with 64 of them that is what throttled another io_uring relay (moq-dev/moq #3119).
pub(super) const RECEIVE_BUFFERS: u16 = 512;

/// Submission queue entries; a power of two. A window of sends is one `io_uring_enter`: enough that the system call
/// does not count (0.2 µs against 512 × 2.4 µs).
pub(super) const SUBMISSION_ENTRIES: u32 = SEND_WINDOW as u32;

/// Completion queue entries; a power of two.
pub(super) const COMPLETION_ENTRIES: u32 = 2_048;

/// Zero-copy sends under way at once; further trains are copied. The socket's send buffer holds 425 trains of 19,712
/// bytes (8 MiB as the kernel counts), and what of the last two windows has ended may not have been noted yet.
pub(super) const ZERO_COPY_IN_FLIGHT: usize = 1_000;

/// What can be in the completion queue at once: every buffer received into, an answer to every send of a window, the
/// ends of all zero-copy sends, and the ends of the receive and of the wake poll with a wake before it. More room than
/// that means that it never overflows.
const COMPLETIONS_MAX: usize = RECEIVE_BUFFERS as usize + SEND_WINDOW + ZERO_COPY_IN_FLIGHT + 3;
const _: () = assert!(COMPLETIONS_MAX <= COMPLETION_ENTRIES as usize);
const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two() && SUBMISSION_ENTRIES.is_power_of_two());

/// Slots of a piece of slot memory that is registered at once for zero-copy sends, at least: 231 KiB. All of it becomes
/// real memory then, and the first train out of it waits for that: with pieces of 4 MiB it was 1.5 ms late.
pub(super) const SEGMENT_SLOTS_MIN: usize = 4;

/// The most buffers that a ring can have registered (`IORING_MAX_REG_BUFFERS`, io_uring/rsrc.c). Each is at most 1 GiB.
pub(super) const SEGMENTS_MAX: usize = 16_384;
const _: () = assert!(SLOT_MEMORY_BYTES_MAX as usize / SEGMENTS_MAX + SLOT_BYTES <= 1 << 30);
