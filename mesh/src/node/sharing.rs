//! Chunks that come in at one node of a process and are sent by all.

use codec::{Sequence, ShardSet};

use crate::limits::{SHARES_WAITING_MAX, TICK_INTERVAL};
use crate::node::Node;
use crate::share::{LentChunk, Share};
use crate::stats::DropReason;
use crate::time::Time;
use crate::window::Body;

impl Node {
    /// Tells the other nodes of the process ([`crate::Siblings`]) what came since the last call. To be called
    /// after what one wake-up brought was handled, and before [`Node::poll_transmit`], so that all send at once. `deliver`
    /// takes the number of the other node, from 0 on, and says whether there was room for the news; what there was none
    /// for is told with the next call, of the newest chunks.
    pub fn share(&mut self, now: Time, mut deliver: impl FnMut(usize, Share) -> bool) {
        self.share_chunks(&mut deliver);
        if !self.unshared.is_empty() {
            self.tick_at.get_or_insert(now.after(TICK_INTERVAL));
        }
        self.want_slots_back();
        for index in self.news.drain(..) {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            channel.has_news = false;
            let news = channel.news(self.arena.own());
            // News of this kind is told again soon.
            let heard = (0..self.siblings.count).filter(|&sibling| deliver(sibling, news.clone())).count();
            if heard == self.siblings.count {
                channel.floor_told = news.floor;
            }
        }
    }

    fn share_chunks(&mut self, deliver: &mut impl FnMut(usize, Share) -> bool) {
        let Node { unshared, channels, arena, siblings, counters, .. } = self;
        let untold = unshared.len().saturating_sub(SHARES_WAITING_MAX);
        for (index, sequence) in unshared.drain(..untold) {
            let body = channels.get_mut(index).and_then(|channel| channel.window.body_mut(sequence));
            body.into_iter().for_each(|body| body.untold = 0);
        }
        // The siblings that had no room, a bit for each.
        let mut full = 0;
        unshared.retain(|&(index, sequence)| {
            let Some(channel) = channels.get_mut(index) else { return false };
            let news = channel.news(arena.own());
            let Some(body) = channel.window.body_mut(sequence) else { return false };
            let to_tell = body.untold & !full;
            for sibling in (0..siblings.count).filter(|sibling| to_tell >> sibling & 1 == 1) {
                let is_first = body.lent_to >> sibling & 1 == 0;
                if is_first {
                    arena.hold(body.slot.index);
                }
                let (identity, slot, held) = (body.identity, body.slot.index, body.held);
                let chunk = Some(LentChunk { identity, slot, held, is_first });
                if deliver(sibling, Share { chunk, ..news.clone() }) {
                    body.lent_to |= 1 << sibling;
                    body.untold &= !(1 << sibling);
                    continue;
                }
                full |= 1 << sibling;
                counters.shares_refused += 1;
                if is_first {
                    arena.release(body.slot.index);
                }
            }
            if body.untold == 0 {
                channel.floor_told = news.floor;
            }
            body.untold != 0
        });
    }

    /// After a lack of slots: has the others hear again of every channel that gave some up unheard. Not for each
    /// datagram that found no slot, and not of the other channels, for an inbox is to have room for chunks.
    fn want_slots_back(&mut self) {
        if !std::mem::take(&mut self.lacks_slots) {
            return;
        }
        for index in 0..self.channels.capacity() {
            let channel = self.channels.get(index);
            if channel.is_some_and(|channel| channel.floor_told < channel.window.floor()) {
                self.note_news(index);
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
        channel.window.return_lent(share.floor, &share.slots, &mut self.arena);
        let Some(chunk) = &share.chunk else { return false };
        let sequence = chunk.identity.header.sequence;
        if channel.window.admit(now, sequence).is_err() {
            return false;
        }
        if channel.window.body_mut(sequence).is_none() {
            return chunk.is_first && self.open_lent(now, index, chunk);
        }
        self.merge_lent(now, index, chunk)
    }

    /// Returns whether there was room.
    fn open_lent(&mut self, now: Time, index: usize, chunk: &LentChunk) -> bool {
        self.shorten_window(index);
        // Making room may have moved the window past the very chunk that needs it.
        let sequence = chunk.identity.header.sequence;
        if self.channels[index].window.admit(now, sequence).is_err() {
            return false;
        }
        let mut body = Body::new(chunk.identity, self.arena.borrow(chunk.slot));
        (body.is_lent, body.held) = (true, chunk.held);
        let channel = &mut self.channels[index];
        channel.window.open(now, &chunk.identity.header, body);
        if channel.window.get(sequence).is_some_and(|chunk| chunk.asks == 0) {
            channel.arrivals.note(now, chunk.identity.header.capture_us);
        }
        channel.is_lent = true;
        self.counters.chunks_lent += 1;
        self.chunk_grew(now, index, sequence);
        true
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

#[cfg(test)]
mod tests {
    use core::ops::Range;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use codec::{ChannelSecret, ChunkHeader, Fec, SlotLayout, seal_chunk};

    use super::*;
    use crate::arena::tests::Lent;
    use crate::limits::WINDOW_CHUNKS_MIN;
    use crate::outbox::SlotIndex;
    use crate::{Admission, Limits, NodeConfig, SLOT_BYTES, Siblings};

    const NOW: Time = Time(1_700_000_000_000_000);

    /// A node with the shortest window, and how often each of its siblings' slots is held.
    fn node() -> (Node, Arc<[AtomicU32]>) {
        let holders: Arc<[AtomicU32]> = (0..40).map(|_| AtomicU32::new(0)).collect();
        let memory = Lent { bytes: vec![0; SLOT_BYTES], holders: Arc::clone(&holders) };
        let limits = Limits { window_bytes_max: 0, ..Limits::default() };
        let config = NodeConfig::new(Admission::Open, limits);
        let siblings = Siblings { count: 2, ..Siblings::default() };
        (Node::among(siblings, config, [1; 32], Box::new(memory)), holders)
    }

    /// Chunk `number`, whole, in the slot of this number.
    fn lent(number: u32, holders: &[AtomicU32]) -> Share {
        let (secret, layout) = (ChannelSecret::from_seed(&[9; 32]), SlotLayout::new(1, 0).unwrap());
        let sequence = Sequence(NOW.0 + u64::from(number));
        let mut header = ChunkHeader::new(secret.key().tag(), sequence, layout, 1).unwrap();
        header.join_distance = number as u16;
        let mut bytes = vec![0; layout.slot_bytes()];
        let identity = seal_chunk(&mut bytes, &header, [&[7][..]], &secret, &mut Fec::new());
        holders[number as usize].fetch_add(1, Ordering::Relaxed);
        let chunk =
            LentChunk { identity, slot: SlotIndex(number), held: layout.all_shards(), is_first: true };
        Share { chunk: Some(chunk), ..news(Sequence(NOW.0), 1..20) }
    }

    fn news(floor: Sequence, slots: Range<u32>) -> Share {
        let key = ChannelSecret::from_seed(&[9; 32]).key();
        Share { key, floor, slots, needs: crate::fanout::Needs::NONE, is_fed: false, chunk: None }
    }

    fn held(holders: &[AtomicU32]) -> Vec<usize> {
        (0..holders.len()).filter(|&slot| holders[slot].load(Ordering::Relaxed) > 0).collect()
    }

    #[test]
    fn a_chunk_goes_back_to_the_node_that_wants_it_and_no_other() {
        let (mut node, holders) = node();
        (1..=4).for_each(|number| node.handle_share(NOW, &lent(number, &holders)));
        node.handle_share(NOW, &news(Sequence(NOW.0 + 3), 20..40));
        assert_eq!(held(&holders), [1, 2, 3, 4]);
        node.handle_share(NOW, &news(Sequence(NOW.0 + 3), 1..20));
        assert_eq!(held(&holders), [3, 4]);
    }

    #[test]
    fn a_late_chunk_that_a_full_window_has_no_room_for_goes_back() {
        let (mut node, holders) = node();
        let full = 2..WINDOW_CHUNKS_MIN as u32 + 2;
        full.for_each(|number| node.handle_share(NOW, &lent(number, &holders)));
        node.handle_share(NOW, &lent(1, &holders));
        let window = &node.channels.iter().next().unwrap().1.window;
        assert!(window.oldest() >= window.floor(), "{:?} below {:?}", window.oldest(), window.floor());
        assert_eq!(held(&holders), (3..WINDOW_CHUNKS_MIN + 2).collect::<Vec<_>>());
    }
}
