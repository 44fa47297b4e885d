//! A channel's identity: the publisher's Ed25519 key, the short tag made from it, and what signs and verifies under it.

use core::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::merkle::MerkleRoot;
use crate::wire::SIGNATURE_BYTES;
use crate::wire::shard::ChunkHeader;

/// The identity of a channel: the publisher's Ed25519 public key (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey(pub [u8; 32]);

/// The first 8 bytes of SHA-256 of a [`ChannelKey`]: names the channel in every datagram after the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelTag(pub [u8; 8]);

impl ChannelKey {
    /// The tag that datagrams of this channel carry.
    pub fn tag(&self) -> ChannelTag {
        let digest = Sha256::digest(self.0);
        let mut tag = [0; 8];
        tag.copy_from_slice(&digest[..8]);
        ChannelTag(tag)
    }

    /// Unpacks the key once, so that each verification does not.
    ///
    /// # Errors
    /// [`InvalidKey`] when the bytes are not a point on the curve, or are one of the few weak points under which
    /// anybody can sign.
    pub fn verifier(&self) -> Result<ChannelVerifier, InvalidKey> {
        let point = VerifyingKey::from_bytes(&self.0).map_err(|_| InvalidKey)?;
        if point.is_weak() {
            return Err(InvalidKey);
        }
        Ok(ChannelVerifier { key: *self, tag: self.tag(), point })
    }
}

/// 32 bytes that are not an Ed25519 public key fit to be a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("these 32 bytes are not a usable Ed25519 public key")]
pub struct InvalidKey;

/// A channel's public key, unpacked and ready to verify.
#[derive(Clone)]
pub struct ChannelVerifier {
    key: ChannelKey,
    tag: ChannelTag,
    point: VerifyingKey,
}

impl ChannelVerifier {
    /// The key this verifies under.
    pub fn key(&self) -> ChannelKey {
        self.key
    }

    /// The tag of that key.
    pub fn tag(&self) -> ChannelTag {
        self.tag
    }

    /// Whether `signature` is this channel's over the chunk with this header and Merkle root.
    pub(crate) fn signed_chunk(
        &self,
        header: &ChunkHeader,
        root: MerkleRoot,
        signature: &[u8; SIGNATURE_BYTES],
    ) -> bool {
        self.signed(&header.signed_message(&self.key, root), signature)
    }

    /// Whether `signature` is this channel's over a publisher's handshake (see [`ChannelSecret::sign_hello`]).
    pub fn signed_hello(&self, nonce: u64, cookie: &[u8; 16], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.signed(&hello_message(&self.key, nonce, cookie), signature)
    }

    /// Strict in the sense of "Taming the many EdDSAs" (2020): one answer on every implementation, no malleability.
    fn signed(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.point.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

/// A channel's secret key; wiped from memory when dropped.
#[derive(Clone)]
pub struct ChannelSecret {
    signing: SigningKey,
    key: ChannelKey,
}

impl ChannelSecret {
    /// The secret whose RFC 8032 seed is these 32 bytes.
    pub fn from_seed(seed: &[u8; 32]) -> ChannelSecret {
        let signing = SigningKey::from_bytes(seed);
        let key = ChannelKey(signing.verifying_key().to_bytes());
        ChannelSecret { signing, key }
    }

    /// The public side.
    pub fn key(&self) -> ChannelKey {
        self.key
    }

    /// What verifies this secret's signatures.
    pub fn verifier(&self) -> ChannelVerifier {
        ChannelVerifier { key: self.key, tag: self.key.tag(), point: self.signing.verifying_key() }
    }

    pub(crate) fn sign_chunk(&self, header: &ChunkHeader, root: MerkleRoot) -> [u8; SIGNATURE_BYTES] {
        self.signing.sign(&header.signed_message(&self.key, root)).to_bytes()
    }

    /// Proves to a relay that the publisher at the other end of this handshake holds the channel's secret.
    pub fn sign_hello(&self, nonce: u64, cookie: &[u8; 16]) -> [u8; SIGNATURE_BYTES] {
        self.signing.sign(&hello_message(&self.key, nonce, cookie)).to_bytes()
    }
}

/// Domain ‖ key ‖ nonce ‖ cookie. The cookie binds it to one address and a few seconds.
fn hello_message(key: &ChannelKey, nonce: u64, cookie: &[u8; 16]) -> [u8; 72] {
    let mut message = [0; 72];
    message[..16].copy_from_slice(b"superpeer hello\0");
    message[16..48].copy_from_slice(&key.0);
    message[48..56].copy_from_slice(&nonce.to_be_bytes());
    message[56..].copy_from_slice(cookie);
    message
}

impl fmt::Display for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for ChannelTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelKey({self})")
    }
}

impl fmt::Debug for ChannelTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelTag({self})")
    }
}

impl fmt::Debug for ChannelSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelSecret(of {})", self.key)
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_and_invalid_points_are_no_channel() {
        // The neutral element: a signature of zeros would verify under it for any message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(ChannelKey(neutral).verifier().is_err());
        assert!(ChannelKey([2; 32]).verifier().is_err());
    }

    #[test]
    fn a_hello_signature_is_bound_to_nonce_and_cookie() {
        let secret = ChannelSecret::from_seed(&[3; 32]);
        let signature = secret.sign_hello(1, &[9; 16]);
        let verifier = secret.verifier();
        assert!(verifier.signed_hello(1, &[9; 16], &signature));
        assert!(!verifier.signed_hello(2, &[9; 16], &signature));
        assert!(!verifier.signed_hello(1, &[8; 16], &signature));
    }
}
