//! What a relay's memory is spent on, beside the receive buffers of each plane (`plane/budget.rs`, `uring/budget.rs`) and the state of
//! channels and sessions (bounded by `mesh::limits`).

/// Has this process go without transparent huge pages from now on: the allocator asks for them, and its few hundred KiB
/// for each worker became 10 MiB. The relay gains nothing by them: 1 % of its processor time at 10,000 subscribers.
pub fn use_small_pages() {
    // A kernel without them is asked for nothing.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Slot memory by default: all windows together. A 10 s window of a 4 Mbit/s channel is about 270 chunks in slots of
/// 59,136 bytes, 16 MB; so this holds 32 such channels whole, and more with shorter windows. It is mapped at the
/// start and becomes real memory only as windows fill.
pub const SLOT_MEMORY_BYTES: u64 = 512 << 20;

/// The least slot memory that is accepted: the shortest window of one channel and its successor.
pub const SLOT_MEMORY_BYTES_MIN: u64 = (2 * mesh::limits::WINDOW_CHUNKS_MIN * mesh::SLOT_BYTES) as u64;

/// The most slot memory: slots have 32-bit numbers, and no machine this runs on has more.
pub const SLOT_MEMORY_BYTES_MAX: u64 = 1 << 40;

/// Chunks that are handed over to another process of the relay, in all: the last two seconds of 120 channels of 4 Mbit/s.
/// Of more channels, so much less. While they are written and read they are in memory three times.
pub(crate) const HANDOVER_BYTES: usize = 128 << 20;

/// News that a worker may be behind by: 1,024 of 250 bytes. Of 500 channels in pieces of a quarter chunk that is what
/// comes in 20 ms.
pub(crate) const INBOX_SHARES: usize = 1_024;

/// The most workers; a node has 63 siblings at most.
pub const WORKERS_MAX: usize = 64;

/// Memory that each worker may have locked beside its slots, bytes: the queues of its ring (`uring/budget.rs`). With
/// less, some kernels refuse the ring.
pub const RING_LOCKED_BYTES: u64 = 128 << 10;

/// Descriptors that each worker has: socket, ring, waker.
pub const FILES_PER_WORKER: u64 = 3;

/// Connections of one admin listener at once: a few people, a scraper and a load balancer's checks. One more, and the oldest
/// is cut, so that whoever holds many connections does not keep others out.
pub(crate) const ADMIN_CONNECTIONS_MAX: usize = 32;

/// Descriptors of the rest of the process, with room to spare: standard streams, the runtime's, both admin listeners and
/// whoever asks them.
pub const FILES_BESIDE_WORKERS: u64 = 32 + 2 * ADMIN_CONNECTIONS_MAX as u64;

/// Messages handed to the plane at once. Between two batches arrivals are taken in, so this also bounds how long
/// control traffic waits for the fan-out: about 1 ms.
pub const BATCH_MESSAGES: usize = 256;
