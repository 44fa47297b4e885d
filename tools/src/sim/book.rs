//! What publishers signed: every shard that any node sends is held against it.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use codec::{
    ChannelSecret, ChannelTag, ChannelVerifier, ChunkIdentity, MAX_SHARDS, Sequence, ShardView, verify_shard,
};

/// A datagram under way.
pub(super) type Datagram = Rc<[u8]>;

/// Chunks remembered; of older ones a shard is verified anew.
const CHUNKS_MAX: usize = 2_048;

/// Shards that verified, by chunk.
#[derive(Default)]
pub(super) struct Book {
    verifiers: HashMap<ChannelTag, ChannelVerifier>,
    chunks: HashMap<(ChannelTag, Sequence), Page>,
    order: VecDeque<(ChannelTag, Sequence)>,
    /// Chunks, and data shards of them, that anything was sent of.
    totals: (u64, u64),
}

struct Page {
    identity: ChunkIdentity,
    shards: [Option<Datagram>; MAX_SHARDS],
}

impl Book {
    pub(super) fn add_channel(&mut self, secret: &ChannelSecret) {
        self.verifiers.insert(secret.key().tag(), secret.verifier());
    }

    /// A shard datagram that a node sends, to be kept under way.
    ///
    /// # Errors
    /// When it does not verify.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<Datagram, String> {
        let shard =
            ShardView::parse(bytes).map_err(|error| format!("sends a shard that is none: {error}"))?;
        let (tag, sequence, index) = (shard.tag(), shard.header().sequence, shard.index());
        if let Some(page) = self.chunks.get(&(tag, sequence))
            && let Some(known) = page.shards[index].as_ref().filter(|known| known[..] == *bytes)
        {
            return Ok(Rc::clone(known));
        }
        let verifier = self.verifiers.get(&tag).ok_or("sends a shard of no channel")?;
        let known = self.chunks.get(&(tag, sequence)).map(|page| page.identity);
        let identity = verify_shard(&shard, verifier, known.as_ref()).map_err(|error| {
            format!("sends shard {index} of chunk {}, which does not verify: {error:?}", sequence.0)
        })?;
        if known.is_none() {
            self.add_page(tag, sequence, identity);
        }
        let datagram: Datagram = bytes.into();
        let page = self.chunks.get_mut(&(tag, sequence)).expect("just added");
        page.shards[index] = Some(Rc::clone(&datagram));
        Ok(datagram)
    }

    pub(super) fn totals(&self) -> (u64, u64) {
        self.totals
    }

    /// The newest chunk that anything was sent of.
    pub(super) fn newest(&self) -> Option<Sequence> {
        self.order.back().map(|(_, sequence)| *sequence)
    }

    fn add_page(&mut self, tag: ChannelTag, sequence: Sequence, identity: ChunkIdentity) {
        self.totals.0 += 1;
        self.totals.1 += identity.header.layout().data_shards() as u64;
        self.order.push_back((tag, sequence));
        self.chunks.insert((tag, sequence), Page { identity, shards: [const { None }; MAX_SHARDS] });
        if self.order.len() > CHUNKS_MAX {
            let oldest = self.order.pop_front().expect("more than none");
            self.chunks.remove(&oldest);
        }
    }
}
