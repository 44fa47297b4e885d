//! Sizes of one plane, and why they are what they are.
//!
//! Memory of one plane, when every page of it has been touched:
//!
//! | what | bytes |
//! |---|---|
//! | receive buffers | 512 × 65,536 = 33,554,432 |
//! | their ring | 512 × 16 = 8,192 |
//! | submission queue | 512 × (64 + 4) = 34,816 |
//! | completion queue | 2,048 × 16 = 32,768 |
//! | window of sends | 512 × 64 = 32,768 |
//!
//! The queues (and, in some kernels, the buffers' ring) count as locked memory: with 128 KiB of it the plane starts.
//!
//! The receive buffers are touched as far as they are filled: they are used in turn, so an idle plane ends at one page
//! of each (512 × 4,096 = 2 MiB), a loaded one whose senders' trains arrive as aggregates at all 32 MiB. Huge pages are
//! switched off for them, or the first datagrams would cost the whole of it.

/// Receive buffers; a power of two. A socket queue that got deep while the fan-out ran can take them all at once, and
/// with 64 of them that is what throttled another io_uring relay (moq-dev/moq #3119).
pub(super) const RECEIVE_BUFFERS: u16 = 512;

/// Bytes of a receive buffer: the kernel's header, source address and control data (68 bytes together), then the
/// largest aggregate of shard datagrams that IP can carry: ⌊65,507 / 1,232⌋ = 53 of them, 65,296 bytes.
pub(super) const RECEIVE_BUFFER_BYTES: usize = 65_536;

/// Messages handed over per [`super::Plane::receive`], so that sending gets its turn: at most 64 × 53 datagrams, some
/// 5 ms of checking them.
pub(super) const MESSAGES_PER_PASS: usize = 64;

/// Submission queue entries; a power of two.
pub(super) const SUBMISSION_ENTRIES: u32 = 512;

/// Sends per `io_uring_enter`: enough that the system call does not count (0.2 µs against 512 × 2.4 µs).
pub(super) const SEND_WINDOW: usize = SUBMISSION_ENTRIES as usize;

/// Completion queue entries; a power of two.
pub(super) const COMPLETION_ENTRIES: u32 = 2_048;

/// What can be in the completion queue at once: every buffer received into, every send failed, and the ends of the
/// receive and of the wake poll with a wake before it. More room than that means that it never overflows.
const COMPLETIONS_MAX: usize = RECEIVE_BUFFERS as usize + SEND_WINDOW + 3;
const _: () = assert!(COMPLETIONS_MAX <= COMPLETION_ENTRIES as usize);
const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two());

/// Asked of the kernel as receive buffer of the socket (it grants twice that): a fan-out of 50 ms at 2 Gbit/s coming
/// in is 12.5 MB.
pub(super) const SOCKET_RECEIVE_BYTES: usize = 16 << 20;

/// Asked of the kernel as send buffer of the socket: what may wait in the network card's queue. 3 ms at 10 Gbit/s.
pub(super) const SOCKET_SEND_BYTES: usize = 4 << 20;

/// How long a batch waits, all in all, for the socket to take messages again before it gives them up. Longer would
/// delay everybody else's live edge.
pub(super) const PATIENCE_MS: u64 = 50;

/// Destinations remembered until [`super::Plane::refused`] is called.
pub(super) const REFUSED_MAX: usize = 256;

/// Destinations remembered as not taking trains.
pub(super) const NO_TRAINS_MAX: usize = 1_024;
