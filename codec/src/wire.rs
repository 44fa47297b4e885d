//! Datagram layouts: checked views of what came, writers of what goes. See `PROTOCOL.md` for the drawings.

pub mod control;
pub mod shard;

/// Bytes of every shard datagram and of a `Hello`: 1280 (the least IPv6 MTU, RFC 8200 §5) − 40 (IPv6) − 8 (UDP), so
/// that it crosses any path and tunnel unfragmented.
pub const DATAGRAM_BYTES: usize = 1232;

/// The most data shards (k) of a chunk.
pub const MAX_DATA_SHARDS: usize = 32;

/// The most shards (k + m) of a chunk, so that a whole chunk (48 × 1232 = 59,136 bytes) fits one GSO message
/// (65,507 bytes and 64 segments, Linux `net/ipv4/udp.c`).
pub const MAX_SHARDS: usize = 48;

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

pub(crate) const MAGIC: [u8; 2] = *b"SP";
pub(crate) const VERSION: u8 = 1;

/// The kind of a shard datagram; all others are control.
pub const SHARD: u8 = 0;

/// The fourth byte of a control datagram.
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const CHALLENGE: u8 = 2;
    pub(crate) const WELCOME: u8 = 3;
    pub(crate) const REFUSE: u8 = 4;
    pub(crate) const REPORT: u8 = 5;
    pub(crate) const REPAIR: u8 = 6;
    pub(crate) const BYE: u8 = 7;
}

/// A chunk's number, 1 to 2^63 − 1: strictly increasing within a channel, over restarts of its publisher too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Whether a chunk can have this number.
    pub fn is_valid(self) -> bool {
        0 < self.0 && self.0 < 1 << 63
    }

    /// The chunk after this one.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0.saturating_add(1))
    }

    /// How many chunks `self` is after `earlier`; 0 when it is not after it.
    pub fn since(self, earlier: Sequence) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl core::fmt::Display for Sequence {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// The kind byte of a datagram that starts as every datagram of this protocol does.
pub fn kind_of(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'S', b'P', VERSION, kind, ..] => Some(*kind),
        _ => None,
    }
}

/// `N` bytes at `at`. Only for offsets that a length check has covered; in a const-sized array the bound is checked
/// once and the copy is a load.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}
