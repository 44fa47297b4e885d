//! The window: the last seconds of one channel, chunk by chunk, with what is held and what is missing of each.

use core::time::Duration;
use std::collections::VecDeque;

use codec::{ChunkHeader, ChunkIdentity, Sequence, ShardSet};

use crate::arena::{Arena, SlotRef};
use crate::limits::{
    BACKLOG_INTERVAL_MAX, EDGE_GRACE, GAP_CHUNKS_MAX, JOIN_DISTANCE_MAX, JOIN_GRACE, REORDER_GRACE,
    SEQUENCE_AHEAD_MAX,
};
use crate::stats::DropReason;
use crate::time::{Time, micros};

/// A chunk's verified content, as far as it is here.
pub(crate) struct Body {
    pub(crate) identity: ChunkIdentity,
    pub(crate) slot: SlotRef,
    /// Shards that lie in the slot.
    pub(crate) held: ShardSet,
    /// Shards held that are still to be fanned out.
    pub(crate) fresh: ShardSet,
    /// Shards that were fanned out.
    pub(crate) fanned: ShardSet,
    /// Data shards made here by the erasure code.
    recovered: ShardSet,
    /// Shards that came after they had been asked for.
    repaired: ShardSet,
    /// The publisher's parity is not parity of its data: only what verified by itself may be used.
    pub(crate) inconsistent: bool,
}

impl Body {
    pub(crate) fn new(identity: ChunkIdentity, slot: SlotRef) -> Body {
        Body {
            identity,
            slot,
            held: ShardSet::EMPTY,
            fresh: ShardSet::EMPTY,
            fanned: ShardSet::EMPTY,
            recovered: ShardSet::EMPTY,
            repaired: ShardSet::EMPTY,
            inconsistent: false,
        }
    }

    pub(crate) fn data_missing(&self) -> ShardSet {
        self.identity.header.layout().data_set().minus(self.held)
    }

    /// Whether k shards are here, so that all others can be made.
    pub(crate) fn is_decodable(&self) -> bool {
        self.held.len() >= self.identity.header.layout().data_shards() && !self.inconsistent
    }

    /// The missing shards were made.
    pub(crate) fn made_whole(&mut self) {
        self.recovered = self.data_missing();
        self.held = self.identity.header.layout().all_shards();
    }
}

/// A chunk of which at least the number is known.
pub(crate) struct Chunk {
    pub(crate) sequence: Sequence,
    /// `None`: later chunks came, nothing of this one.
    pub(crate) body: Option<Body>,
    /// When the first of it came or should have come.
    pub(crate) first_seen: Time,
    /// Not to be asked for before.
    pub(crate) ask_at: Time,
    pub(crate) asks: u8,
    asked: ShardSet,
}

impl Chunk {
    fn hole(sequence: Sequence, first_seen: Time, ask_at: Time) -> Chunk {
        Chunk { sequence, body: None, first_seen, ask_at, asks: 0, asked: ShardSet::EMPTY }
    }

    /// Whether the whole payload is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.data_missing().is_empty())
    }

    /// What to ask for: data first, and no more than makes the chunk decodable.
    pub(crate) fn wanted(&self) -> ShardSet {
        let Some(body) = &self.body else { return ShardSet::ALL };
        let layout = body.identity.header.layout();
        let short = layout.data_shards().saturating_sub(body.held.len());
        let missing = layout.all_shards().minus(body.held);
        if body.inconsistent { body.data_missing() } else { missing.lowest(short) }
    }

    pub(crate) fn was_asked(&mut self, shards: ShardSet, ask_again_at: Time) {
        self.asked = self.asked.union(shards);
        self.asks = self.asks.saturating_add(1);
        self.ask_at = ask_again_at;
    }

    pub(crate) fn note_arrival(&mut self, now: Time, shard: usize) {
        self.ask_at = self.ask_at.max(now.after(REORDER_GRACE));
        if let Some(body) = &mut self.body {
            body.held.insert(shard);
            if self.asked.contains(shard) {
                body.repaired.insert(shard);
            }
        }
    }
}

/// What became of a settled chunk's data shards.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Settled {
    pub(crate) lost: u64,
    pub(crate) recovered: u64,
    pub(crate) repaired: u64,
    pub(crate) given_up: bool,
}

/// The chunks of one channel in the order of their numbers.
pub(crate) struct Window {
    chunks: VecDeque<Chunk>,
    /// Chunks below are not taken (any more).
    floor: Sequence,
    /// Chunks up to this one are complete or given up.
    settled: Sequence,
    /// When the first chunk came.
    begun: Option<Time>,
    /// When the live edge came.
    edge_seen: Time,
    /// Chunks that have a slot.
    bodies: usize,
    /// Data shards of the last chunk opened: what a chunk is taken to have lost of which nothing came.
    usual_shards: u64,
}

impl Window {
    pub(crate) fn new() -> Window {
        Window {
            chunks: VecDeque::new(),
            floor: Sequence(0),
            settled: Sequence(0),
            begun: None,
            edge_seen: Time::default(),
            bodies: 0,
            usual_shards: 0,
        }
    }

    /// The live edge; 0 when the window is empty.
    pub(crate) fn edge(&self) -> Sequence {
        self.chunks.back().map_or(Sequence(0), |chunk| chunk.sequence)
    }

    /// The oldest chunk kept; 0 when the window is empty.
    pub(crate) fn oldest(&self) -> Sequence {
        self.chunks.front().map_or(Sequence(0), |chunk| chunk.sequence)
    }

    /// Whether the live edge is the channel's last chunk.
    pub(crate) fn has_ended(&self) -> bool {
        let newest = self.chunks.back().and_then(|chunk| chunk.body.as_ref());
        newest.is_some_and(|body| body.identity.header.last)
    }

    pub(crate) fn floor(&self) -> Sequence {
        self.floor
    }

    pub(crate) fn settled(&self) -> Sequence {
        self.settled
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Chunks that have a slot.
    pub(crate) fn bodies(&self) -> usize {
        self.bodies
    }

    /// Whether a chunk is short of shards, or the window has not been looked through since one came.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.edge() > self.settled
    }

    /// From which chunk on the channel is wanted. Only before the first chunk came.
    pub(crate) fn begin_at(&mut self, start: Sequence) {
        if self.chunks.is_empty() && self.floor == Sequence(0) {
            self.floor = start;
            self.settled = Sequence(start.0.saturating_sub(1));
        }
    }

    fn position(&self, sequence: Sequence) -> Result<usize, usize> {
        // Almost always the number is near the edge and the numbers before it are without gaps.
        let behind = self.edge().since(sequence);
        let from_end = usize::try_from(behind).ok().and_then(|behind| behind.checked_add(1));
        let guess = from_end.and_then(|from_end| self.chunks.len().checked_sub(from_end));
        match guess {
            Some(place) if self.chunks[place].sequence == sequence => Ok(place),
            _ => self.chunks.binary_search_by_key(&sequence, |chunk| chunk.sequence),
        }
    }

    pub(crate) fn get(&self, sequence: Sequence) -> Option<&Chunk> {
        self.position(sequence).ok().map(|place| &self.chunks[place])
    }

    pub(crate) fn get_mut(&mut self, sequence: Sequence) -> Option<&mut Chunk> {
        self.position(sequence).ok().map(|place| &mut self.chunks[place])
    }

    pub(crate) fn body_mut(&mut self, sequence: Sequence) -> Option<&mut Body> {
        self.get_mut(sequence).and_then(|chunk| chunk.body.as_mut())
    }

    /// The chunk with this number or the first after it.
    pub(crate) fn first_from(&self, sequence: Sequence) -> Option<&Chunk> {
        let place = self.position(sequence).unwrap_or_else(|place| place);
        self.chunks.get(place)
    }

    /// Whether a chunk with this number may be taken now.
    pub(crate) fn admit(&self, now: Time, sequence: Sequence) -> Result<(), DropReason> {
        if sequence < self.floor {
            return Err(DropReason::TooOld);
        }
        let ahead_max = micros(now.since(self.edge_seen)).saturating_add(SEQUENCE_AHEAD_MAX);
        if !self.chunks.is_empty() && sequence.since(self.edge()) > ahead_max {
            return Err(DropReason::FarFuture);
        }
        Ok(())
    }

    /// Gives the chunk its body. Numbers skipped become holes, to be asked for.
    pub(crate) fn open(&mut self, now: Time, header: &ChunkHeader, body: Body) -> &mut Chunk {
        let sequence = header.sequence;
        if self.chunks.is_empty() && self.floor == Sequence(0) {
            let distance = u64::from(header.join_distance);
            let distance = if distance > JOIN_DISTANCE_MAX { 0 } else { distance };
            self.begin_at(Sequence(sequence.0.saturating_sub(distance).max(1)));
        }
        if sequence > self.edge() {
            let begun = *self.begun.get_or_insert(now);
            let joining = now.since(begun) < JOIN_GRACE;
            let (grace, pace) =
                if joining { (JOIN_GRACE, BACKLOG_INTERVAL_MAX) } else { (REORDER_GRACE, Duration::ZERO) };
            self.extend_to(now, sequence, grace, pace);
        }
        let place = match self.position(sequence) {
            Ok(place) => place,
            Err(place) => {
                self.chunks.insert(place, Chunk::hole(sequence, now, now));
                place
            }
        };
        let chunk = &mut self.chunks[place];
        debug_assert!(chunk.body.is_none());
        self.bodies += 1;
        self.usual_shards = header.layout().data_shards() as u64;
        chunk.first_seen = chunk.first_seen.min(now);
        chunk.ask_at = now;
        chunk.body = Some(body);
        chunk
    }

    /// Moves the live edge. What lies between becomes holes, `pace` apart in time where they are not lost but may
    /// still be on their way as a joiner's backlog.
    fn extend_to(&mut self, now: Time, sequence: Sequence, grace: Duration, pace: Duration) {
        let next = if self.chunks.is_empty() { self.floor.max(Sequence(1)) } else { self.edge().next() };
        let gap = sequence.since(next);
        let first = if gap <= GAP_CHUNKS_MAX { next } else { sequence };
        for ahead in 0..=sequence.since(first) {
            let due = now.after(pace * ahead as u32);
            self.chunks.push_back(Chunk::hole(Sequence(first.0 + ahead), due, due.after(grace)));
        }
        self.edge_seen = now;
    }

    /// A peer that has the channel says that it goes up to `edge`: what of it is not here yet is a gap.
    pub(crate) fn learn_edge(&mut self, now: Time, edge: Sequence) {
        let gap = edge.since(self.edge());
        if !self.chunks.is_empty() && gap > 0 && gap <= GAP_CHUNKS_MAX {
            self.extend_to(now, edge, EDGE_GRACE, BACKLOG_INTERVAL_MAX);
        }
    }

    /// Drops the oldest chunk. Returns whether there was one.
    pub(crate) fn evict_oldest(&mut self, arena: &mut Arena) -> bool {
        let Some(chunk) = self.chunks.pop_front() else { return false };
        if let Some(body) = chunk.body {
            arena.give_back(body.slot);
            self.bodies -= 1;
        }
        self.floor = chunk.sequence.next();
        self.settled = self.settled.max(chunk.sequence);
        true
    }

    /// Drops what was first seen before `horizon` and has a number below `end`.
    pub(crate) fn evict_before(&mut self, horizon: Time, end: Sequence, arena: &mut Arena) {
        while self.chunks.front().is_some_and(|chunk| chunk.first_seen < horizon && chunk.sequence < end) {
            self.evict_oldest(arena);
        }
    }

    /// Settles the next chunk, if it is complete or has been waited for long enough.
    pub(crate) fn settle_next(&mut self, now: Time, patience: Duration) -> Option<Settled> {
        let place = self.position(self.settled.next()).unwrap_or_else(|place| place);
        let chunk = self.chunks.get(place)?;
        let given_up = !chunk.is_complete();
        if given_up && now.since(chunk.first_seen) < patience {
            return None;
        }
        self.settled = chunk.sequence;
        let Some(body) = &chunk.body else {
            return Some(Settled { lost: self.usual_shards, given_up, ..Settled::default() });
        };
        let data = body.identity.header.layout().data_set();
        let (recovered, repaired) = (body.recovered, body.repaired.intersection(data).minus(body.recovered));
        Some(Settled {
            lost: recovered.union(repaired).union(body.data_missing()).len() as u64,
            recovered: recovered.len() as u64,
            repaired: repaired.len() as u64,
            given_up,
        })
    }

    /// The chunks that are not settled.
    pub(crate) fn unsettled_mut(&mut self) -> impl Iterator<Item = &mut Chunk> {
        let start = self.position(self.settled.next()).unwrap_or_else(|place| place);
        self.chunks.range_mut(start..)
    }

    /// The latest chunk at which a joiner may start, or the live edge where there is none in reach; 0 when empty.
    pub(crate) fn latest_join_point(&self) -> Sequence {
        let newest = self.chunks.iter().rev().find_map(|chunk| chunk.body.as_ref());
        let Some(newest) = newest.map(|body| body.identity.header) else { return Sequence(0) };
        let join = Sequence(newest.sequence.0.saturating_sub(u64::from(newest.join_distance)));
        if join >= self.oldest() { join } else { newest.sequence }
    }

    /// The first join point of the window, or its oldest chunk.
    pub(crate) fn oldest_join_point(&self) -> Sequence {
        let is_join =
            |chunk: &&Chunk| chunk.body.as_ref().is_some_and(|body| body.identity.header.join_distance == 0);
        self.chunks.iter().find(is_join).map_or(self.oldest(), |chunk| chunk.sequence)
    }
}
