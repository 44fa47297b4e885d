//! The shard datagram (kind 0).
//!
//! ```text
//!  0       2     3     4       5       6   7   8            16              24              32      34      36
//!  +-------+-----+-----+-------+-------+---+---+------------+---------------+---------------+-------+-------+
//!  | "SP"  | ver |kind | flags | index | k | m | tag        | sequence      | capture µs    |payload| join  |
//!  +-------+-----+-----+-------+-------+---+---+------------+---------------+---------------+-------+-------+
//!  36                      100                        100 + 16·d                                          1232
//!  +-----------------------+--------------------------+-----------------------------------------------------+
//!  | signature             | proof, d nodes           | shard                                               |
//!  +-----------------------+--------------------------+-----------------------------------------------------+
//!                                                     d = ⌈log2(k + m)⌉
//! ```

use thiserror::Error;

use crate::channel::{ChannelKey, ChannelTag};
use crate::merkle::{self, MerkleRoot, NODE_BYTES};
use crate::shard_set::ShardSet;
use crate::wire::{
    DATAGRAM_BYTES, MAGIC, MAX_DATA_SHARDS, MAX_SHARDS, SHARD, SIGNATURE_BYTES, Sequence, VERSION, array,
    u16_at, u64_at,
};

const FLAG_PARITY: u8 = 0b01;
const FLAG_LAST: u8 = 0b10;

const FLAGS_AT: usize = 4;
const INDEX_AT: usize = 5;
const DATA_SHARDS_AT: usize = 6;
const PARITY_SHARDS_AT: usize = 7;
const TAG_AT: usize = 8;
const SEQUENCE_AT: usize = 16;
const CAPTURE_AT: usize = 24;
const PAYLOAD_AT: usize = 32;
const JOIN_AT: usize = 34;
const SIGNATURE_AT: usize = 36;
const PROOF_AT: usize = SIGNATURE_AT + SIGNATURE_BYTES;

/// The bytes of a datagram that go into its leaf beside the shard: everything before the signature.
pub(crate) const LEAF_FIELDS_BYTES: usize = SIGNATURE_AT;

/// How many shards a chunk has, and so where in a datagram what lies, and what a slot looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SlotLayout {
    data_shards: u8,
    parity_shards: u8,
}

impl SlotLayout {
    /// `None` unless 1 ≤ k ≤ 32 and k + m ≤ 48.
    pub const fn new(data_shards: usize, parity_shards: usize) -> Option<SlotLayout> {
        let fits = 1 <= data_shards
            && data_shards <= MAX_DATA_SHARDS
            && parity_shards <= MAX_SHARDS
            && data_shards + parity_shards <= MAX_SHARDS;
        if fits {
            Some(SlotLayout { data_shards: data_shards as u8, parity_shards: parity_shards as u8 })
        } else {
            None
        }
    }

    /// k.
    pub const fn data_shards(self) -> usize {
        self.data_shards as usize
    }

    /// m.
    pub const fn parity_shards(self) -> usize {
        self.parity_shards as usize
    }

    /// k + m.
    pub const fn shards_total(self) -> usize {
        self.data_shards() + self.parity_shards()
    }

    /// Every index of the chunk.
    pub const fn all_shards(self) -> ShardSet {
        ShardSet::range(0, self.shards_total())
    }

    /// The indices of the data shards.
    pub const fn data_set(self) -> ShardSet {
        ShardSet::range(0, self.data_shards())
    }

    /// Bytes of payload in one data shard: 1,036 at 33 to 48 shards, more where the proof is shorter.
    pub const fn shard_bytes(self) -> usize {
        DATAGRAM_BYTES - self.shard_start()
    }

    /// Bytes of the whole chunk's datagrams side by side.
    pub const fn slot_bytes(self) -> usize {
        self.shards_total() * DATAGRAM_BYTES
    }

    /// The payload that k data shards hold.
    pub const fn payload_bytes_max(self) -> usize {
        self.data_shards() * self.shard_bytes()
    }

    pub(crate) const fn shard_start(self) -> usize {
        PROOF_AT + merkle::depth(self.shards_total()) * NODE_BYTES
    }

    /// The shards of the datagrams that lie side by side in `slot`.
    pub fn shards(self, slot: &[u8]) -> impl Iterator<Item = &[u8]> {
        slot.chunks_exact(DATAGRAM_BYTES).map(move |datagram| &datagram[self.shard_start()..])
    }

    pub(crate) fn shards_mut(self, slot: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
        slot.chunks_exact_mut(DATAGRAM_BYTES).map(move |datagram| &mut datagram[self.shard_start()..])
    }

    pub(crate) fn signature_mut(self, datagram: &mut [u8]) -> &mut [u8] {
        &mut datagram[SIGNATURE_AT..PROOF_AT]
    }

    pub(crate) fn proof_mut(self, datagram: &mut [u8]) -> &mut [u8] {
        &mut datagram[PROOF_AT..self.shard_start()]
    }
}

/// The fields that all shards of a chunk share; under the publisher's signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkHeader {
    /// The channel.
    pub tag: ChannelTag,
    /// The chunk's number.
    pub sequence: Sequence,
    /// When its first byte reached the publisher: µs since the Unix epoch, by the publisher's clock.
    pub capture_us: u64,
    /// How many chunks before this one lies the latest at which a joiner may start; 0 says that this is one. 65,535
    /// stands for that many or more.
    pub join_distance: u16,
    /// Whether the channel ends with this chunk.
    pub last: bool,
    layout: SlotLayout,
    payload_bytes: u16,
}

impl ChunkHeader {
    /// A header with capture time 0, join distance 0 and not the last; `None` when `payload_bytes` does not fit
    /// `layout` or leaves a data shard empty (an empty payload takes one data shard).
    pub fn new(
        tag: ChannelTag,
        sequence: Sequence,
        layout: SlotLayout,
        payload_bytes: usize,
    ) -> Option<ChunkHeader> {
        let fits = payload_bytes.div_ceil(layout.shard_bytes()).max(1) == layout.data_shards();
        let payload_bytes = u16::try_from(payload_bytes).ok().filter(|_| fits && sequence.is_valid())?;
        Some(ChunkHeader {
            tag,
            sequence,
            capture_us: 0,
            join_distance: 0,
            last: false,
            layout,
            payload_bytes,
        })
    }

    /// k and m.
    pub fn layout(&self) -> SlotLayout {
        self.layout
    }

    /// Bytes of payload: at most 33,664.
    pub fn payload_bytes(&self) -> usize {
        usize::from(self.payload_bytes)
    }

    /// The payload in order, one piece per data shard, of a slot whose data shards are all there.
    pub fn payload<'s>(&self, slot: &'s [u8]) -> impl Iterator<Item = &'s [u8]> + use<'s> {
        let mut left = self.payload_bytes();
        let data = &slot[..self.layout.data_shards() * DATAGRAM_BYTES];
        self.layout.shards(data).map(move |shard| {
            let count = left.min(shard.len());
            left -= count;
            &shard[..count]
        })
    }

    fn chunk_flags(&self) -> u8 {
        if self.last { FLAG_LAST } else { 0 }
    }

    /// Writes everything of datagram `index` that comes before the signature.
    pub(crate) fn write_fields(&self, datagram: &mut [u8], index: usize) {
        let parity = if index < self.layout.data_shards() { 0 } else { FLAG_PARITY };
        datagram[..2].copy_from_slice(&MAGIC);
        datagram[2] = VERSION;
        datagram[3] = SHARD;
        datagram[FLAGS_AT] = self.chunk_flags() | parity;
        datagram[INDEX_AT] = index as u8;
        datagram[DATA_SHARDS_AT] = self.layout.data_shards;
        datagram[PARITY_SHARDS_AT] = self.layout.parity_shards;
        datagram[TAG_AT..SEQUENCE_AT].copy_from_slice(&self.tag.0);
        datagram[SEQUENCE_AT..CAPTURE_AT].copy_from_slice(&self.sequence.0.to_be_bytes());
        datagram[CAPTURE_AT..PAYLOAD_AT].copy_from_slice(&self.capture_us.to_be_bytes());
        datagram[PAYLOAD_AT..JOIN_AT].copy_from_slice(&self.payload_bytes.to_be_bytes());
        datagram[JOIN_AT..SIGNATURE_AT].copy_from_slice(&self.join_distance.to_be_bytes());
    }

    /// Domain ‖ key ‖ flags ‖ k ‖ m ‖ 0 ‖ sequence ‖ capture ‖ payload ‖ join ‖ root.
    pub(crate) fn signed_message(&self, key: &ChannelKey, root: MerkleRoot) -> [u8; 88] {
        let mut message = [0; 88];
        message[..16].copy_from_slice(b"superpeer chunk\0");
        message[16..48].copy_from_slice(&key.0);
        message[48..51].copy_from_slice(&[
            self.chunk_flags(),
            self.layout.data_shards,
            self.layout.parity_shards,
        ]);
        message[52..60].copy_from_slice(&self.sequence.0.to_be_bytes());
        message[60..68].copy_from_slice(&self.capture_us.to_be_bytes());
        message[68..70].copy_from_slice(&self.payload_bytes.to_be_bytes());
        message[70..72].copy_from_slice(&self.join_distance.to_be_bytes());
        message[72..].copy_from_slice(&root.0);
        message
    }
}

/// Why bytes are not a shard datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ShardError {
    /// Not 1,232 bytes.
    #[error("a shard datagram is 1232 bytes long, not {0}")]
    Length(usize),
    /// Not `"SP"`, version 1, kind 0.
    #[error("not a shard datagram of version 1")]
    Preamble,
    /// A reserved flag is set, or the parity flag does not agree with the index.
    #[error("flags {flags:#04x} do not go with shard index {index}")]
    Flags {
        /// The flags byte.
        flags: u8,
        /// The shard index.
        index: u8,
    },
    /// k or k + m out of bounds.
    #[error("{data_shards} data and {parity_shards} parity shards: k must be 1 to 32 and k + m at most 48")]
    Counts {
        /// k.
        data_shards: u8,
        /// m.
        parity_shards: u8,
    },
    /// An index that the chunk does not have.
    #[error("shard index {index} of a chunk of {shards} shards")]
    Index {
        /// The shard index.
        index: u8,
        /// k + m.
        shards: u8,
    },
    /// A payload that k data shards do not hold, or that leaves one of them empty.
    #[error("{payload_bytes} bytes of payload are not what {data_shards} data shards carry")]
    Payload {
        /// The payload's length in the header.
        payload_bytes: u16,
        /// k.
        data_shards: u8,
    },
    /// A sequence number that no chunk has.
    #[error("{0} is not a sequence number: 1 to 2^63 - 1 are")]
    Sequence(u64),
}

/// A shard datagram whose fields are valid; nothing is verified yet.
#[derive(Clone, Copy)]
pub struct ShardView<'d> {
    bytes: &'d [u8; DATAGRAM_BYTES],
    header: ChunkHeader,
}

impl<'d> ShardView<'d> {
    /// Checks every field's validity rule.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn parse(bytes: &'d [u8]) -> Result<ShardView<'d>, ShardError> {
        let bytes: &[u8; DATAGRAM_BYTES] = bytes.try_into().map_err(|_| ShardError::Length(bytes.len()))?;
        if bytes[..4] != [MAGIC[0], MAGIC[1], VERSION, SHARD] {
            return Err(ShardError::Preamble);
        }
        let (flags, index) = (bytes[FLAGS_AT], bytes[INDEX_AT]);
        let (data_shards, parity_shards) = (bytes[DATA_SHARDS_AT], bytes[PARITY_SHARDS_AT]);
        let layout = SlotLayout::new(usize::from(data_shards), usize::from(parity_shards))
            .ok_or(ShardError::Counts { data_shards, parity_shards })?;
        if usize::from(index) >= layout.shards_total() {
            return Err(ShardError::Index { index, shards: layout.shards_total() as u8 });
        }
        let is_parity = index >= data_shards;
        if flags & !(FLAG_PARITY | FLAG_LAST) != 0 || (flags & FLAG_PARITY != 0) != is_parity {
            return Err(ShardError::Flags { flags, index });
        }
        let sequence = Sequence(u64_at(bytes, SEQUENCE_AT));
        if !sequence.is_valid() {
            return Err(ShardError::Sequence(sequence.0));
        }
        let payload_bytes = u16_at(bytes, PAYLOAD_AT);
        let header =
            ChunkHeader::new(ChannelTag(array(bytes, TAG_AT)), sequence, layout, usize::from(payload_bytes))
                .ok_or(ShardError::Payload { payload_bytes, data_shards })?;
        let header = ChunkHeader {
            capture_us: u64_at(bytes, CAPTURE_AT),
            join_distance: u16_at(bytes, JOIN_AT),
            last: flags & FLAG_LAST != 0,
            ..header
        };
        Ok(ShardView { bytes, header })
    }

    /// The fields shared by all shards of the chunk.
    pub fn header(&self) -> ChunkHeader {
        self.header
    }

    /// The channel.
    pub fn tag(&self) -> ChannelTag {
        self.header.tag
    }

    /// Which shard of the chunk: below k + m.
    pub fn index(&self) -> usize {
        usize::from(self.bytes[INDEX_AT])
    }

    /// The whole datagram.
    pub fn datagram(&self) -> &'d [u8; DATAGRAM_BYTES] {
        self.bytes
    }

    /// The shard itself.
    pub fn shard(&self) -> &'d [u8] {
        &self.bytes[self.header.layout.shard_start()..]
    }

    pub(crate) fn leaf_fields(&self) -> &'d [u8] {
        &self.bytes[..LEAF_FIELDS_BYTES]
    }

    pub(crate) fn proof(&self) -> &'d [u8] {
        &self.bytes[PROOF_AT..self.header.layout.shard_start()]
    }

    pub(crate) fn signature(&self) -> &'d [u8; SIGNATURE_BYTES] {
        self.bytes[SIGNATURE_AT..].first_chunk().expect("a datagram is longer than its signature's end")
    }
}
