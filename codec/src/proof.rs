//! Whether a shard datagram is what its channel's publisher signed.

use thiserror::Error;

use crate::channel::ChannelVerifier;
use crate::merkle::{self, MerkleRoot};
use crate::wire::SIGNATURE_BYTES;
use crate::wire::shard::{ChunkHeader, ShardView};

/// What makes a chunk that chunk: its header, the root of its Merkle tree and the publisher's signature over both.
/// Keep the one of the first verified shard: it saves the signature check for all the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkIdentity {
    /// The fields that all shards of the chunk share.
    pub header: ChunkHeader,
    pub(crate) root: MerkleRoot,
    pub(crate) signature: [u8; SIGNATURE_BYTES],
}

impl ChunkIdentity {
    /// The chunk that a shard says it belongs to: true if the shard was verified before.
    pub fn claimed_by(shard: &ShardView<'_>) -> ChunkIdentity {
        let leaf = merkle::leaf(shard.leaf_fields(), shard.shard());
        let root = merkle::climb(leaf, shard.index(), shard.proof());
        ChunkIdentity { header: shard.header(), root, signature: *shard.signature() }
    }

    /// Whether the shard carries this chunk's signature, so that verifying it takes no signature check.
    pub fn signature_is_of(&self, shard: &ShardView<'_>) -> bool {
        *shard.signature() == self.signature
    }

    /// The root of the chunk's Merkle tree, for test vectors.
    pub fn root_bytes(&self) -> [u8; 16] {
        self.root.0
    }
}

/// Why a well-formed shard datagram is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// It carries the signature of the chunk already verified, but does not belong to that chunk.
    #[error("the Merkle proof does not lead to the root that was signed")]
    Proof,
    /// Its signature is not the channel's.
    #[error("the signature is not the channel's")]
    Signature,
    /// The publisher signed two different chunks under one sequence number. The first is kept.
    #[error("the publisher signed two chunks with one sequence number")]
    Equivocation,
}

/// Verifies one shard. `known` is the identity of the chunk with this sequence, when one was verified before; the
/// shard then costs a hash path, and a signature check only if it carries another signature.
///
/// # Errors
/// A [`VerifyError`]; the datagram must then not be stored, forwarded or decoded.
pub fn verify_shard(
    shard: &ShardView<'_>,
    verifier: &ChannelVerifier,
    known: Option<&ChunkIdentity>,
) -> Result<ChunkIdentity, VerifyError> {
    debug_assert_eq!(shard.tag(), verifier.tag());
    let claimed = ChunkIdentity::claimed_by(shard);
    if let Some(known) = known {
        if claimed == *known {
            return Ok(claimed);
        }
        if known.signature_is_of(shard) {
            return Err(VerifyError::Proof);
        }
    }
    if !verifier.signed_chunk(&claimed.header, claimed.root, &claimed.signature) {
        return Err(VerifyError::Signature);
    }
    match known {
        Some(_) => Err(VerifyError::Equivocation),
        None => Ok(claimed),
    }
}
