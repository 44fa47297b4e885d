//! The Merkle tree over the shards of one chunk, after Solana's Merkle shreds: SHA-256 cut to 16 bytes.
//!
//! A leaf or node without a sibling is paired with itself, so that every proof of a chunk has the same length; the
//! number of leaves is under the signature, and so the shape of the tree is too.

use sha2::{Digest, Sha256};

use crate::wire::MAX_SHARDS;

/// Bytes of a tree node.
pub(crate) const NODE_BYTES: usize = 16;

/// A node of the tree.
pub(crate) type Node = [u8; NODE_BYTES];

/// The node at the top, which the chunk's signature covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MerkleRoot(pub(crate) Node);

/// Nodes of a proof in a tree of `leaves` leaves: ⌈log2(leaves)⌉.
pub(crate) const fn depth(leaves: usize) -> usize {
    leaves.next_power_of_two().trailing_zeros() as usize
}

/// The leaf of one shard: everything of its datagram that is not itself proof.
pub(crate) fn leaf(fields: &[u8], shard: &[u8]) -> Node {
    cut(Sha256::new().chain_update(b"SP\x01L").chain_update(fields).chain_update(shard))
}

fn parent(left: &Node, right: &Node) -> Node {
    cut(Sha256::new().chain_update(b"SP\x01N").chain_update(left).chain_update(right))
}

fn cut(hash: Sha256) -> Node {
    let mut node = [0; NODE_BYTES];
    node.copy_from_slice(&hash.finalize()[..NODE_BYTES]);
    node
}

/// The root that `leaf` at `index` and its proof (whole nodes, lowest first) lead to.
pub(crate) fn climb(leaf: Node, index: usize, proof: &[u8]) -> MerkleRoot {
    let (siblings, rest) = proof.as_chunks::<NODE_BYTES>();
    debug_assert!(rest.is_empty());
    let climb_one = |(node, index): (Node, usize), sibling: &Node| {
        let up = if index % 2 == 0 { parent(&node, sibling) } else { parent(sibling, &node) };
        (up, index / 2)
    };
    MerkleRoot(siblings.iter().fold((leaf, index), climb_one).0)
}

/// A whole tree, on the stack.
pub(crate) struct Tree {
    /// Level by level from the leaves up.
    nodes: arrayvec::ArrayVec<Node, { 2 * MAX_SHARDS + 6 }>,
    leaves: usize,
}

impl Tree {
    /// Builds the tree over 1 to 48 leaves.
    pub(crate) fn build(leaves: impl Iterator<Item = Node>) -> Tree {
        let mut nodes: arrayvec::ArrayVec<Node, { 2 * MAX_SHARDS + 6 }> = leaves.collect();
        let leaves = nodes.len();
        assert!((1..=MAX_SHARDS).contains(&leaves), "a tree of {leaves} leaves");
        let (mut start, mut width) = (0, leaves);
        while width > 1 {
            for left in (0..width).step_by(2) {
                let right = (left + 1).min(width - 1);
                let node = parent(&nodes[start + left], &nodes[start + right]);
                nodes.push(node);
            }
            start += width;
            width = width.div_ceil(2);
        }
        Tree { nodes, leaves }
    }

    pub(crate) fn root(&self) -> MerkleRoot {
        MerkleRoot(self.nodes[self.nodes.len() - 1])
    }

    /// Writes the proof of leaf `index` to `proof`, which has room for exactly [`depth`] nodes.
    pub(crate) fn write_proof(&self, index: usize, proof: &mut [u8]) {
        let (mut start, mut width, mut index) = (0, self.leaves, index);
        let (slots, rest) = proof.as_chunks_mut::<NODE_BYTES>();
        debug_assert!(rest.is_empty() && slots.len() == depth(self.leaves));
        for slot in slots {
            *slot = self.nodes[start + (index ^ 1).min(width - 1)];
            start += width;
            width = width.div_ceil(2);
            index /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_of_every_tree_climbs_to_the_root_and_no_other_place_does() {
        for leaves in 1..=MAX_SHARDS {
            let leaf_of = |index: usize| leaf(&[index as u8], b"shard");
            let tree = Tree::build((0..leaves).map(leaf_of));
            let mut proof = vec![0; depth(leaves) * NODE_BYTES];
            for index in 0..leaves {
                tree.write_proof(index, &mut proof);
                assert_eq!(climb(leaf_of(index), index, &proof), tree.root());
                let elsewhere = (index + 1) % leaves;
                assert!(leaves == 1 || climb(leaf_of(elsewhere), index, &proof) != tree.root());
            }
        }
    }

    #[test]
    fn a_node_is_not_a_leaf() {
        let (a, b) = (leaf(b"", b"a"), leaf(b"", b"b"));
        assert_ne!(parent(&a, &b), leaf(&a, &b));
    }
}
