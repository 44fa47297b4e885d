//! What the nodes of one process tell each other, so that a shard is verified and stored by one of them and sent by all.

use core::ops::Range;

use codec::{ChannelKey, ChunkIdentity, Sequence, ShardSet};

use crate::fanout::Needs;
use crate::outbox::SlotIndex;

/// News of one channel from one node to another, whose slots are parts of one [`crate::Memory`]. Made by
/// [`crate::Node::share`], taken in by [`crate::Node::handle_share`].
#[derive(Clone, Debug)]
pub struct Share {
    pub(crate) key: ChannelKey,
    /// The lender keeps no chunk below: what it lent of them is wanted back.
    pub(crate) floor: Sequence,
    /// The lender's slots.
    pub(crate) slots: Range<u32>,
    /// What the lender's subscribers need.
    pub(crate) needs: Needs,
    /// A publisher, or another node, gives the lender the channel.
    pub(crate) is_fed: bool,
    pub(crate) chunk: Option<LentChunk>,
}

/// A chunk in a slot that the lender holds for the other node from the first time on that it is told of the chunk.
#[derive(Clone, Debug)]
pub(crate) struct LentChunk {
    pub(crate) identity: ChunkIdentity,
    pub(crate) slot: SlotIndex,
    /// All shards that are there by now.
    pub(crate) held: ShardSet,
    pub(crate) is_first: bool,
}
