//! Sizes that hold for every plane, and why they are what they are.

/// Bytes of a receive buffer: what the ring's kernel header, source address and control data need (68 bytes together),
/// then the largest aggregate of shard datagrams that IP can carry: ⌊65,507 / 1,232⌋ = 53 of them, 65,296 bytes.
pub(crate) const RECEIVE_BUFFER_BYTES: usize = 65_536;

/// Messages handed over per [`super::Plane::receive`], so that sending gets its turn: at most 64 × 53 datagrams, some
/// 5 ms of checking them.
pub(crate) const MESSAGES_PER_PASS: usize = 64;

/// Messages that are under way at once.
pub(crate) const SEND_WINDOW: usize = 512;

/// Trains of at least so many bytes are sent without a copy by default: 16 datagrams. Below, giving notice costs about
/// as much as the copy (`superpeer bench zero-copy`; see DESIGN.md).
pub const ZERO_COPY_FROM_BYTES: u32 = 16 * codec::DATAGRAM_BYTES as u32;

/// Asked of the kernel as receive buffer of the socket (it grants twice that): a fan-out of 50 ms at 2 Gbit/s coming
/// in is 12.5 MB.
pub const SOCKET_RECEIVE_BYTES: usize = 16 << 20;

/// Asked of the kernel as send buffer of the socket: what may wait in the network card's queue. 3 ms at 10 Gbit/s.
pub const SOCKET_SEND_BYTES: usize = 4 << 20;

/// How long a batch waits, all in all, for the socket to take messages again before it gives them up. Longer would
/// delay everybody else's live edge.
pub(crate) const PATIENCE_MS: u64 = 50;

/// Destinations remembered until [`super::Plane::refused`] is called.
pub(crate) const REFUSED_MAX: usize = 256;

/// Destinations remembered as not taking trains.
pub(crate) const NO_TRAINS_MAX: usize = 1_024;
