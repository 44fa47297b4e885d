//! The wire format of superpeer: datagram layouts, the erasure code over a chunk, and the Merkle proofs and
//! signatures by which every shard datagram proves itself.
//!
//! It does not send, wait, allocate per datagram or look at a clock: bytes come in, checked values or bytes go out.
//! The layout of every field, and the rule that makes it valid, is in `PROTOCOL.md` beside this crate.
//!
//! ```
//! use codec::{ChannelSecret, ChunkHeader, Fec, Sequence, ShardView, SlotLayout, seal_chunk, verify_shard};
//!
//! let secret = ChannelSecret::from_seed(&[7; 32]);
//! let verifier = secret.verifier();
//! let layout = SlotLayout::new(2, 1).unwrap();
//! let header = ChunkHeader::new(secret.key().tag(), Sequence(1), layout, 1_500).unwrap();
//!
//! // Two data shards and one parity shard, side by side, each a datagram ready to be sent.
//! let mut slot = vec![0; layout.slot_bytes()];
//! let payload = [42; 1_500];
//! seal_chunk(&mut slot, &header, payload.chunks(layout.shard_bytes()), &secret, &mut Fec::new());
//!
//! let shard = ShardView::parse(&slot[codec::DATAGRAM_BYTES..][..codec::DATAGRAM_BYTES]).unwrap();
//! let proven = verify_shard(&shard, &verifier, None).unwrap();
//! assert_eq!(proven.header, header);
//! ```
#![forbid(unsafe_code)]

mod channel;
mod chunk;
mod fec;
pub mod fuzzing;
pub mod link;
mod merkle;
mod proof;
mod shard_set;
mod stripes;
pub mod wire;

pub use channel::{ChannelKey, ChannelSecret, ChannelTag, ChannelVerifier, InvalidKey};
pub use chunk::{BadEncoding, restore_chunk, seal_chunk};
pub use fec::Fec;
pub use link::ChannelLink;
pub use proof::{ChunkIdentity, VerifyError, verify_shard};
pub use shard_set::ShardSet;
pub use stripes::{STRIPES_MAX, Stripes};
pub use wire::shard::{ChunkHeader, ShardError, ShardView, SlotLayout};
pub use wire::{DATAGRAM_BYTES, MAX_DATA_SHARDS, MAX_SHARDS, Sequence};
