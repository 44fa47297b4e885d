//! The chunk chapter of `PROTOCOL.md` written out a second time, as plainly as it reads there: own field arithmetic,
//! own tree, own offsets. The crate must make the same bytes, and it must see through a publisher who uses this code
//! to sign what the protocol forbids.

use codec::wire::Sequence;
use codec::{
    BadEncoding, ChannelSecret, ChunkHeader, DATAGRAM_BYTES, Fec, ShardSet, ShardView, SlotLayout,
    restore_chunk, seal_chunk, verify_shard,
};
use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const SEED: [u8; 32] = [5; 32];

/// What a publisher decides about a chunk.
#[derive(Debug)]
struct Chunk {
    k: usize,
    m: usize,
    sequence: u64,
    capture_us: u64,
    join_distance: u16,
    last: bool,
    payload: Vec<u8>,
}

impl Chunk {
    fn depth(&self) -> usize {
        (0..).find(|&depth| 1 << depth >= self.k + self.m).unwrap()
    }

    fn shard_bytes(&self) -> usize {
        1232 - 100 - 16 * self.depth()
    }

    /// Data shards and, byte by byte, the parity that the polynomial through them gives.
    fn shards(&self) -> Vec<Vec<u8>> {
        let mut padded = self.payload.clone();
        padded.resize(self.k * self.shard_bytes(), 0);
        let mut shards: Vec<Vec<u8>> = padded.chunks(self.shard_bytes()).map(<[u8]>::to_vec).collect();
        for x in self.k..self.k + self.m {
            let mut parity = vec![0; self.shard_bytes()];
            for (i, data) in shards[..self.k].iter().enumerate() {
                let coefficient = lagrange(self.k, i, x);
                parity.iter_mut().zip(data).for_each(|(out, byte)| *out ^= multiply(coefficient, *byte));
            }
            shards.push(parity);
        }
        shards
    }

    /// Bytes 0 to 35 of one datagram.
    fn fields(&self, index: usize) -> Vec<u8> {
        let key = SigningKey::from_bytes(&SEED).verifying_key().to_bytes();
        let flags = u8::from(index >= self.k) | u8::from(self.last) << 1;
        let mut fields = vec![b'S', b'P', 1, 0, flags, index as u8, self.k as u8, self.m as u8];
        fields.extend_from_slice(&Sha256::digest(key)[..8]);
        fields.extend_from_slice(&self.sequence.to_be_bytes());
        fields.extend_from_slice(&self.capture_us.to_be_bytes());
        fields.extend_from_slice(&(self.payload.len() as u16).to_be_bytes());
        fields.extend_from_slice(&self.join_distance.to_be_bytes());
        fields
    }

    /// All datagrams over `shards`, whether they are what [`Chunk::shards`] gives or not.
    fn datagrams(&self, shards: &[Vec<u8>]) -> Vec<u8> {
        let leaves: Vec<Vec<u8>> = shards
            .iter()
            .enumerate()
            .map(|(index, shard)| cut(&[b"SP\x01L", &self.fields(index), shard]))
            .collect();
        let mut levels = vec![leaves];
        while levels[levels.len() - 1].len() > 1 {
            let below = &levels[levels.len() - 1];
            let pair = |pair: &[Vec<u8>]| cut(&[b"SP\x01N", &pair[0], &pair[pair.len() - 1]]);
            levels.push(below.chunks(2).map(pair).collect());
        }
        let signature = self.sign(&levels[levels.len() - 1][0]);
        let mut out = Vec::new();
        for (index, shard) in shards.iter().enumerate() {
            out.extend(self.fields(index));
            out.extend(signature);
            for (height, level) in levels[..levels.len() - 1].iter().enumerate() {
                let node = index >> height;
                out.extend(level.get(node ^ 1).unwrap_or(&level[node]));
            }
            out.extend(shard);
        }
        out
    }

    fn sign(&self, root: &[u8]) -> [u8; 64] {
        let signing = SigningKey::from_bytes(&SEED);
        let mut message = b"superpeer chunk\0".to_vec();
        message.extend(signing.verifying_key().to_bytes());
        message.extend([u8::from(self.last) << 1, self.k as u8, self.m as u8, 0]);
        message.extend(&self.fields(0)[16..36]);
        message.extend(root);
        signing.sign(&message).to_bytes()
    }

    fn header(&self) -> ChunkHeader {
        let layout = SlotLayout::new(self.k, self.m).unwrap();
        let tag = ChannelSecret::from_seed(&SEED).key().tag();
        let mut header = ChunkHeader::new(tag, Sequence(self.sequence), layout, self.payload.len()).unwrap();
        header.capture_us = self.capture_us;
        header.join_distance = self.join_distance;
        header.last = self.last;
        header
    }
}

fn cut(parts: &[&[u8]]) -> Vec<u8> {
    Sha256::digest(parts.concat())[..16].to_vec()
}

/// GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1.
fn multiply(a: u8, b: u8) -> u8 {
    let mut product = 0u16;
    for bit in (0..8).rev() {
        product <<= 1;
        if product & 0x100 != 0 {
            product ^= 0x11d;
        }
        if b >> bit & 1 != 0 {
            product ^= u16::from(a);
        }
    }
    product as u8
}

fn invert(a: u8) -> u8 {
    (1..=255).find(|&b| multiply(a, b) == 1).unwrap()
}

/// The Lagrange basis polynomial of point `i` among the points `0..k`, at `x`.
fn lagrange(k: usize, i: usize, x: usize) -> u8 {
    (0..k).filter(|&j| j != i).fold(1, |product, j| {
        let quotient = multiply(x as u8 ^ j as u8, invert(i as u8 ^ j as u8));
        multiply(product, quotient)
    })
}

fn sealed_by_the_crate(chunk: &Chunk) -> Vec<u8> {
    let header = chunk.header();
    let mut slot = vec![0xaa; header.layout().slot_bytes()];
    let secret = ChannelSecret::from_seed(&SEED);
    seal_chunk(&mut slot, &header, [chunk.payload.as_slice()], &secret, &mut Fec::new());
    slot
}

fn any_chunk() -> impl Strategy<Value = Chunk> {
    let counts = (1..=32usize).prop_flat_map(|k| (Just(k), 0..=48 - k));
    let fields = (1..1u64 << 63, any::<u64>(), any::<u16>(), any::<bool>());
    (counts, fields, any::<u8>(), 0..1132usize).prop_map(
        |((k, m), (sequence, capture_us, join_distance, last), byte, missing)| {
            let mut chunk = Chunk { k, m, sequence, capture_us, join_distance, last, payload: Vec::new() };
            let bytes = k * chunk.shard_bytes() - missing % chunk.shard_bytes();
            chunk.payload = (0..bytes).map(|at| byte.wrapping_add((at * 31 / 7) as u8)).collect();
            chunk
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_crate_makes_the_bytes_that_the_protocol_describes(chunk in any_chunk()) {
        prop_assert!(chunk.datagrams(&chunk.shards()) == sealed_by_the_crate(&chunk));
    }
}

fn small_chunk() -> Chunk {
    Chunk { k: 3, m: 2, sequence: 7, capture_us: 8, join_distance: 9, last: false, payload: vec![6; 3000] }
}

/// Forgets `lost`, restores the chunk from the rest, and says what came of it.
fn lose_and_restore(sealed: &[u8], lost: &[usize]) -> Result<Vec<u8>, BadEncoding> {
    let verifier = ChannelSecret::from_seed(&SEED).verifier();
    let mut slot = sealed.to_vec();
    let (mut present, mut identity) = (ShardSet::EMPTY, None);
    for (index, datagram) in sealed.chunks(DATAGRAM_BYTES).enumerate() {
        if lost.contains(&index) {
            slot[index * DATAGRAM_BYTES..][..DATAGRAM_BYTES].fill(0);
            continue;
        }
        let view = ShardView::parse(datagram).unwrap();
        identity = Some(verify_shard(&view, &verifier, identity.as_ref()).expect("each proves itself"));
        present.insert(index);
    }
    restore_chunk(&mut slot, &identity.unwrap(), present, &mut Fec::new())?;
    Ok(slot)
}

#[test]
fn signed_parity_that_is_not_parity_of_the_data_is_a_bad_encoding() {
    let chunk = small_chunk();
    let mut shards = chunk.shards();
    shards[4][0] ^= 1;
    let sealed = chunk.datagrams(&shards);
    // With shard 4 in hand nothing is rebuilt from it: the data shards come first.
    assert_eq!(lose_and_restore(&sealed, &[]).as_ref(), Ok(&sealed));
    assert_eq!(lose_and_restore(&sealed, &[3]).as_ref(), Ok(&sealed));
    assert_eq!(lose_and_restore(&sealed, &[4]), Err(BadEncoding));
    assert_eq!(lose_and_restore(&sealed, &[0, 3]), Err(BadEncoding));
}

#[test]
fn the_same_losses_of_an_honest_chunk_come_back() {
    let chunk = small_chunk();
    let sealed = chunk.datagrams(&chunk.shards());
    for lost in [&[4][..], &[0, 3], &[0, 1], &[]] {
        assert_eq!(lose_and_restore(&sealed, lost).as_ref(), Ok(&sealed));
    }
}
