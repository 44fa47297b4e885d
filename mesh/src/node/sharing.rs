//! Chunks that come in at one node of a process and are sent by all.

use codec::{Sequence, ShardSet};

use crate::node::Node;
use crate::share::{LentChunk, Share};
use crate::stats::DropReason;
use crate::time::Time;
use crate::window::Body;

impl Node {
    /// Tells the other nodes of the process ([`crate::Siblings`]) what came since the last call. To be called
    /// after what one wake-up brought was handled, and before [`Node::poll_transmit`], so that all send at once. `deliver`
    /// takes the number of the other node, from 0 on, and says whether there was room for the news; what there was none
    /// for is told with the chunk's next shards.
    pub fn share(&mut self, mut deliver: impl FnMut(usize, Share) -> bool) {
        for (index, sequence) in self.unshared.drain(..) {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            let news = channel.news();
            let Some(body) = channel.window.body_mut(sequence).filter(|body| body.is_unshared) else {
                continue;
            };
            body.is_unshared = false;
            for sibling in 0..self.siblings.count {
                let is_first = body.lent_to & (1 << sibling) == 0;
                if is_first {
                    self.arena.hold(body.slot.index);
                }
                let (identity, slot, held) = (body.identity, body.slot.index, body.held);
                let chunk = Some(LentChunk { identity, slot, held, is_first });
                if deliver(sibling, Share { chunk, ..news.clone() }) {
                    body.lent_to |= 1 << sibling;
                    continue;
                }
                self.counters.shares_refused += 1;
                if is_first {
                    self.arena.release(body.slot.index);
                }
            }
        }
        for index in self.news.drain(..) {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            channel.has_news = false;
            for sibling in 0..self.siblings.count {
                // News of this kind is told again soon.
                let _ = deliver(sibling, channel.news());
            }
        }
    }

    /// Takes in what another node of the process shares.
    pub fn handle_share(&mut self, now: Time, share: &Share) {
        let kept = self.take_share(now, share);
        if let Some(chunk) = share.chunk.as_ref().filter(|chunk| chunk.is_first && !kept) {
            self.arena.release(chunk.slot);
        }
    }

    /// Returns whether this node has the chunk's slot from now on.
    fn take_share(&mut self, now: Time, share: &Share) -> bool {
        let known = self.channels_by_tag.get(&share.key.tag()).copied();
        let index = match (known, &share.chunk) {
            (Some(index), _) if self.channels[index].verifier.key() == share.key => index,
            (None, _) if share.is_fed || share.chunk.is_some() => {
                match self.find_or_add_channel(&share.key) {
                    Ok(index) => index,
                    Err(_) => return false,
                }
            }
            _ => return false,
        };
        let channel = &mut self.channels[index];
        channel.elsewhere.note(now, share);
        channel.window.return_lent(share.floor, &mut self.arena);
        let Some(chunk) = &share.chunk else { return false };
        let sequence = chunk.identity.header.sequence;
        if channel.window.admit(now, sequence).is_err() {
            return false;
        }
        if channel.window.body_mut(sequence).is_none() {
            if chunk.is_first {
                self.open_lent(now, index, chunk);
            }
            return chunk.is_first;
        }
        self.merge_lent(now, index, chunk)
    }

    fn open_lent(&mut self, now: Time, index: usize, chunk: &LentChunk) {
        self.shorten_window(index);
        let mut body = Body::new(chunk.identity, self.arena.borrow(chunk.slot));
        (body.is_lent, body.held) = (true, chunk.held);
        let channel = &mut self.channels[index];
        channel.window.open(now, &chunk.identity.header, body);
        channel.is_lent = true;
        self.counters.chunks_lent += 1;
        self.chunk_grew(now, index, chunk.identity.header.sequence);
    }

    /// More of a chunk that is known. Where it came in here too, what is missing is copied. Returns whether this node has
    /// the slot from now on.
    fn merge_lent(&mut self, now: Time, index: usize, chunk: &LentChunk) -> bool {
        let sequence = chunk.identity.header.sequence;
        let body = self.channels[index].window.body_mut(sequence).expect("the caller found it");
        if body.identity != chunk.identity {
            return false;
        }
        let missing = chunk.held.minus(body.held);
        let is_its_slot = |slot: crate::arena::SlotRef| slot.index == chunk.slot;
        let becomes_twin = chunk.is_first && !body.is_lent && body.twin.is_none();
        if becomes_twin {
            body.twin = Some(self.arena.borrow(chunk.slot));
        }
        if body.twin.is_some_and(is_its_slot) {
            self.arena.copy_shards(chunk.slot, body.slot, missing);
        } else if !is_its_slot(body.slot) {
            return false;
        }
        body.held = body.held.union(missing);
        if !missing.is_empty() {
            self.chunk_grew(now, index, sequence);
        }
        becomes_twin
    }

    /// A shard of the chunk is about to be stored here: a chunk that was lent moves to an own slot first.
    pub(super) fn own_chunk(&mut self, index: usize, sequence: Sequence) -> Result<(), DropReason> {
        let body = self.channels[index].window.body_mut(sequence);
        if !body.is_some_and(|body| body.is_lent) {
            return Ok(());
        }
        let slot = self.take_slot(index).ok_or(DropReason::NoSlot)?;
        // Making room may have given up this very chunk.
        let window = &mut self.channels[index].window;
        let Some(body) = window.body_mut(sequence) else {
            self.arena.give_back(slot);
            return Err(DropReason::TooOld);
        };
        let (from, held): (_, ShardSet) = (body.slot.index, body.held);
        self.arena.copy_shards(from, slot, held);
        window.move_body(sequence, slot);
        Ok(())
    }

    /// The others are to hear of a channel even if nothing of it comes in.
    pub(super) fn note_news(&mut self, index: usize) {
        let channel = &mut self.channels[index];
        if self.siblings.count > 0 && !channel.has_news {
            channel.has_news = true;
            self.news.push(index);
        }
    }
}
