//! Making a chunk's datagrams: all of them by the publisher, the missing ones by anybody who holds k.

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::channel::ChannelSecret;
use crate::fec::Fec;
use crate::merkle::{self, Tree};
use crate::proof::ChunkIdentity;
use crate::shard_set::ShardSet;
use crate::wire::shard::{ChunkHeader, SlotLayout};
use crate::wire::{DATAGRAM_BYTES, MAX_SHARDS, SIGNATURE_BYTES};

/// Writes all k + m datagrams of a chunk to `slot` and returns the chunk's identity.
///
/// `payload` gives the payload in order, in pieces of any length, [`ChunkHeader::payload_bytes`] in total; the rest
/// of the last data shard is filled with zeros. `slot` is exactly [`SlotLayout::slot_bytes`] long.
pub fn seal_chunk<'p>(
    slot: &mut [u8],
    header: &ChunkHeader,
    payload: impl IntoIterator<Item = &'p [u8]>,
    secret: &ChannelSecret,
    fec: &mut Fec,
) -> ChunkIdentity {
    let layout = header.layout();
    assert_eq!(slot.len(), layout.slot_bytes(), "a slot of the chunk's layout");
    let filled = fill_data_shards(slot, layout, payload);
    assert_eq!(filled, header.payload_bytes(), "as much payload as the header says");
    fec.encode(slot, layout);
    let tree = tree_over(slot, header, layout.all_shards());
    let identity = ChunkIdentity {
        header: *header,
        root: tree.root(),
        signature: secret.sign_chunk(header, tree.root()),
    };
    for index in 0..layout.shards_total() {
        write_proof_and_signature(slot, layout, index, &tree, &identity.signature);
    }
    identity
}

/// At least k shards of a chunk were verified, and yet its missing ones do not lead to the root that was signed: the
/// publisher put parity into the tree that is not parity of the data. Nothing of `slot` may be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the publisher's parity shards do not belong to its data shards")]
pub struct BadEncoding;

/// Makes every datagram of a chunk that is not in `present`, bit for bit as the publisher made it. `present` holds
/// at least k verified shards of `identity`; their bytes are left as they are.
///
/// # Errors
/// [`BadEncoding`], when the rebuilt tree has another root than the signed one.
pub fn restore_chunk(
    slot: &mut [u8],
    identity: &ChunkIdentity,
    present: ShardSet,
    fec: &mut Fec,
) -> Result<(), BadEncoding> {
    let layout = identity.header.layout();
    assert_eq!(slot.len(), layout.slot_bytes(), "a slot of the chunk's layout");
    let present = present.intersection(layout.all_shards());
    assert!(present.len() >= layout.data_shards(), "k shards are needed, {} are there", present.len());
    fec.rebuild(slot, layout, present);
    let tree = tree_over(slot, &identity.header, layout.all_shards().minus(present));
    if tree.root() != identity.root {
        return Err(BadEncoding);
    }
    for index in layout.all_shards().minus(present).iter() {
        write_proof_and_signature(slot, layout, index, &tree, &identity.signature);
    }
    Ok(())
}

/// Copies the payload into the data shards, pads the last one, and returns how much there was.
fn fill_data_shards<'p>(
    slot: &mut [u8],
    layout: SlotLayout,
    payload: impl IntoIterator<Item = &'p [u8]>,
) -> usize {
    let mut shards = layout.shards_mut(slot).take(layout.data_shards());
    let mut room: &mut [u8] = &mut [];
    let mut filled = 0;
    for mut piece in payload {
        filled += piece.len();
        while !piece.is_empty() {
            if room.is_empty() {
                room = shards.next().expect("the payload fits k data shards");
            }
            let count = piece.len().min(room.len());
            let (now, later) = core::mem::take(&mut room).split_at_mut(count);
            now.copy_from_slice(&piece[..count]);
            room = later;
            piece = &piece[count..];
        }
    }
    room.fill(0);
    for empty in shards {
        empty.fill(0);
    }
    filled
}

/// Writes the identifying fields of the datagrams that were `made` and builds the tree over all. The others are not
/// written, not even with what they hold: other threads may be reading them.
fn tree_over(slot: &mut [u8], header: &ChunkHeader, made: ShardSet) -> Tree {
    let layout = header.layout();
    let leaves: ArrayVec<merkle::Node, MAX_SHARDS> = slot
        .chunks_exact_mut(DATAGRAM_BYTES)
        .enumerate()
        .map(|(index, datagram)| {
            if made.contains(index) {
                header.write_fields(datagram, index);
            }
            merkle::leaf(
                &datagram[..crate::wire::shard::LEAF_FIELDS_BYTES],
                &datagram[layout.shard_start()..],
            )
        })
        .collect();
    Tree::build(leaves.into_iter())
}

fn write_proof_and_signature(
    slot: &mut [u8],
    layout: SlotLayout,
    index: usize,
    tree: &Tree,
    signature: &[u8; SIGNATURE_BYTES],
) {
    let datagram = &mut slot[index * DATAGRAM_BYTES..][..DATAGRAM_BYTES];
    layout.signature_mut(datagram).copy_from_slice(signature);
    tree.write_proof(index, layout.proof_mut(datagram));
}
