//! The window: the last seconds of one channel, chunk by chunk, with what is held and what is missing of each.

mod chunk;
mod handover;

use core::ops::Range;
use core::time::Duration;
use std::collections::VecDeque;

use codec::{ChunkHeader, Sequence, ShardSet, SlotLayout};

use crate::arena::{Arena, SlotRef};
use crate::limits::{
    BACKLOG_INTERVAL_MAX, COUNT_AFTER, EDGE_GRACE, GAP_CHUNKS_MAX, JOIN_DISTANCE_MAX, JOIN_GRACE,
    REORDER_GRACE, REORDER_GRACE_MAX, REPAIR_TRIES_MAX, SEQUENCE_AHEAD_MAX,
};
use crate::stats::DropReason;
use crate::time::Time;
use chunk::Arrival;
pub(crate) use chunk::{Body, Chunk, Counted, Settled};

/// A peer's word, which nobody signed, that the channel goes further than what came. It moves nothing; it is a reason to
/// ask.
struct Rumour {
    through: Sequence,
    ask_at: Time,
    asks: u8,
    /// The last chunk that was asked for because of it.
    asked_through: Sequence,
}

/// The chunks of one channel in the order of their numbers.
pub(crate) struct Window {
    chunks: VecDeque<Chunk>,
    /// The newest chunk that ever came; 0 before the first. The last of `chunks`, unless they have all been dropped.
    edge: Sequence,
    /// Chunks below are not taken (any more).
    floor: Sequence,
    /// Chunks up to this one are complete or given up.
    settled: Sequence,
    /// Chunks up to this one are settled, and what they lost was counted.
    counted: Sequence,
    /// What is missing of a chunk is overdue when nothing of it came for so long.
    grace: Duration,
    /// The longest that it may become.
    grace_max: Duration,
    /// An upstream's word of where it starts; believed as far as the first chunk bears it out.
    start_hint: Sequence,
    /// When the first chunk came, or the first since the channel was joined again.
    joined_at: Option<Time>,
    rumour: Option<Rumour>,
    /// When the first of the newest chunk that was not asked for came, and when it was captured, µs.
    newest_came: Option<(Time, u64)>,
    /// Chunks that have a slot.
    bodies: usize,
    /// Of those, in own slots.
    own_bodies: usize,
    /// Data shards of the last chunk opened: what a chunk is taken to have lost of which nothing came.
    usual_shards: u64,
    /// Data shards of all chunks that were opened.
    shards_opened: u64,
}

impl Window {
    pub(crate) fn new() -> Window {
        Window {
            chunks: VecDeque::new(),
            edge: Sequence(0),
            floor: Sequence(0),
            settled: Sequence(0),
            counted: Sequence(0),
            grace: REORDER_GRACE,
            grace_max: REORDER_GRACE,
            start_hint: Sequence(0),
            joined_at: None,
            rumour: None,
            newest_came: None,
            bodies: 0,
            own_bodies: 0,
            usual_shards: 0,
            shards_opened: 0,
        }
    }

    /// The live edge: the newest chunk that ever came; 0 before the first.
    pub(crate) fn edge(&self) -> Sequence {
        self.edge
    }

    /// The oldest chunk kept; 0 when the window is empty.
    pub(crate) fn oldest(&self) -> Sequence {
        self.chunks.front().map_or(Sequence(0), |chunk| chunk.sequence)
    }

    /// Data shards of all chunks that ever came.
    pub(crate) fn shards_opened(&self) -> u64 {
        self.shards_opened
    }

    /// Data shards of the chunk that came last.
    pub(crate) fn usual_shards(&self) -> u64 {
        self.usual_shards
    }

    /// What the newest chunk consists of.
    pub(crate) fn newest_layout(&self) -> Option<SlotLayout> {
        self.chunks.back()?.body.as_ref().map(|body| body.identity.header.layout())
    }

    /// Data shards that are held of the chunks from this one on.
    pub(crate) fn data_shards_from(&self, start: Sequence) -> u64 {
        let place = self.position(start).unwrap_or_else(|place| place);
        let bodies = self.chunks.range(place..).filter_map(|chunk| chunk.body.as_ref());
        bodies.map(|body| body.data_held().len() as u64).sum()
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

    /// Chunks that have an own slot.
    pub(crate) fn own_bodies(&self) -> usize {
        self.own_bodies
    }

    /// Whether a chunk is short of shards, or the window has not been looked through since one came.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.edge > self.counted || self.rumour.is_some()
    }

    /// The channel is joined, or joined again, at an upstream that says it starts with chunk `start` (0: with what
    /// comes).
    pub(crate) fn join(&mut self, start: Sequence) {
        self.start_hint = start;
        self.joined_at = None;
    }

    fn position(&self, sequence: Sequence) -> Result<usize, usize> {
        // Almost always the number is near the edge and the numbers before it are without gaps.
        let behind = self.chunks.back().map_or(0, |newest| newest.sequence.since(sequence));
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
        let last = Sequence(now.0.max(self.edge.0).saturating_add(SEQUENCE_AHEAD_MAX));
        if !self.chunks.is_empty() && sequence > last {
            return Err(DropReason::FarFuture);
        }
        Ok(())
    }

    /// Gives the chunk its body. Numbers skipped become holes, to be asked for.
    pub(crate) fn open(&mut self, now: Time, header: &ChunkHeader, body: Body) {
        let sequence = header.sequence;
        let is_answer = self.is_answer(now, header);
        if self.edge == Sequence(0) {
            self.begin(header);
        }
        if sequence > self.edge {
            self.extend_to(now, sequence);
        }
        if sequence == self.edge && !is_answer {
            self.newest_came = Some((now, header.capture_us));
        }
        let place = match self.position(sequence) {
            Ok(place) => place,
            Err(place) => {
                self.chunks.insert(place, Chunk::hole(sequence, now, now));
                place
            }
        };
        let chunk = &mut self.chunks[place];
        assert!(chunk.body.is_none(), "a chunk is opened once");
        chunk.first_seen = chunk.first_seen.min(now);
        (chunk.ask_at, chunk.arrived_at) = (now, now);
        let longer = self.grace.saturating_sub(REORDER_GRACE);
        self.grace -= longer / 64;
        self.bodies += 1;
        self.own_bodies += usize::from(!body.is_lent);
        let fanned = body.fanned.union(chunk.fanned);
        chunk.body = Some(Body { fanned, ..body });
        self.usual_shards = header.layout().data_shards() as u64;
        self.shards_opened += self.usual_shards;
        if let Some(rumour) = &mut self.rumour {
            if is_answer {
                chunk.asked = ShardSet::ALL;
            }
            rumour.ask_at = now.after(EDGE_GRACE);
            if rumour.through <= self.edge {
                self.rumour = None;
            }
        }
    }

    /// Whether a chunk was asked for because of a rumour, and comes so late, compared with the newest that came by itself, that it
    /// may be the answer. What only a liar said was there already comes in its time.
    fn is_answer(&self, now: Time, header: &ChunkHeader) -> bool {
        let was_asked = self.rumour.as_ref().is_some_and(|rumour| header.sequence <= rumour.asked_through);
        was_asked
            && self.newest_came.is_none_or(|(came_at, captured_us)| {
                let apart = Duration::from_micros(header.capture_us.saturating_sub(captured_us));
                now >= came_at.after(apart).after(EDGE_GRACE)
            })
    }

    /// Settles where the window starts: where the upstream said, if the first chunk is not far from there; else at the
    /// join point that this chunk names.
    fn begin(&mut self, header: &ChunkHeader) {
        let sequence = header.sequence;
        let hint = self.start_hint;
        let distance = match u64::from(header.join_distance) {
            _ if hint != Sequence(0) && hint <= sequence && sequence.since(hint) <= JOIN_DISTANCE_MAX => {
                sequence.since(hint)
            }
            distance if distance <= JOIN_DISTANCE_MAX => distance,
            _ => 0,
        };
        self.floor = Sequence(sequence.0.saturating_sub(distance).max(1));
        self.settled = Sequence(self.floor.0 - 1);
        self.counted = self.settled;
    }

    /// Moves the live edge. What lies between becomes holes. Just after joining they are not lost but may be on their
    /// way as backlog: they are due one after the other.
    fn extend_to(&mut self, now: Time, sequence: Sequence) {
        let joined_at = *self.joined_at.get_or_insert(now);
        let (grace, pace) = match now.since(joined_at) < JOIN_GRACE {
            true => (JOIN_GRACE, BACKLOG_INTERVAL_MAX),
            false => (self.grace, Duration::ZERO),
        };
        let next = self.floor.max(self.edge.next());
        let first = if sequence.since(next) <= GAP_CHUNKS_MAX { next } else { sequence };
        for ahead in 0..=sequence.since(first) {
            let due = now.after(pace * ahead as u32);
            self.chunks.push_back(Chunk::hole(Sequence(first.0 + ahead), due, due.after(grace)));
        }
        self.edge = sequence;
    }

    /// A peer says that the channel goes up to `edge`. Before the first chunk that is of interest only where the channel
    /// is wanted from the past on (`from_the_past`), not where the next start is waited for.
    pub(crate) fn hear_of_edge(&mut self, now: Time, edge: Sequence, from_the_past: bool) {
        let known = self.rumour.as_ref().map_or(self.edge, |rumour| rumour.through);
        let ahead = edge.since(self.edge);
        let in_reach = match self.edge {
            Sequence(0) => from_the_past || self.start_hint != Sequence(0),
            _ => ahead <= GAP_CHUNKS_MAX,
        };
        if edge.is_valid() && edge > known && in_reach {
            let asked_through = self.rumour.as_ref().map_or(Sequence(0), |rumour| rumour.asked_through);
            let ask_at = now.after(EDGE_GRACE);
            self.rumour = Some(Rumour { through: edge, ask_at, asks: 0, asked_through });
        }
    }

    /// The chunks that a peer's word is a reason to ask for now, `room` of them at most.
    pub(crate) fn rumoured(
        &mut self,
        now: Time,
        ask_again_at: Time,
        room: usize,
    ) -> impl Iterator<Item = Sequence> + use<> {
        let mut range = 1..1;
        let is_due = |rumour: &&mut Rumour| rumour.ask_at <= now && room > 0;
        if let Some(rumour) = self.rumour.as_mut().filter(is_due) {
            rumour.asks += 1;
            rumour.ask_at = ask_again_at;
            let first = if self.edge == Sequence(0) { rumour.through } else { self.edge.next() };
            range = first.0..(rumour.through.0 + 1).min(first.0 + room as u64);
            rumour.asked_through = rumour.asked_through.max(Sequence(range.end - 1));
            if rumour.asks >= REPAIR_TRIES_MAX {
                self.rumour = None;
            }
        }
        range.map(Sequence)
    }

    /// Drops the oldest chunk that has a slot, and the holes before it.
    pub(crate) fn evict_oldest_body(&mut self, arena: &mut Arena) {
        let bodies = self.bodies;
        while self.bodies == bodies {
            assert!(self.evict_oldest(arena), "a window counts its chunks");
        }
    }

    /// Drops the oldest chunk that has an own slot, and everything before it.
    pub(crate) fn evict_oldest_own_body(&mut self, arena: &mut Arena) {
        let own = self.own_bodies;
        while self.own_bodies == own {
            assert!(self.evict_oldest(arena), "a window counts its chunks");
        }
    }

    /// Gives back what chunks below `floor` have of these `slots`, which are another node's.
    pub(crate) fn return_lent(&mut self, floor: Sequence, slots: &Range<u32>, arena: &mut Arena) {
        let is_theirs = |slot: &SlotRef| slots.contains(&slot.index.0);
        for chunk in self.chunks.iter_mut().take_while(|chunk| chunk.sequence < floor) {
            if let Some(body) = chunk.body.take_if(|body| is_theirs(&body.slot)) {
                body.give_back(arena);
                self.bodies -= 1;
            } else if let Some(body) = &mut chunk.body
                && let Some(twin) = body.twin.take_if(|twin| is_theirs(twin))
            {
                arena.give_back(twin);
            }
        }
        while self.chunks.front().is_some_and(|chunk| chunk.sequence < floor && chunk.body.is_none()) {
            self.evict_oldest(arena);
        }
    }

    /// A lent chunk moves to an own slot; the shards it holds were copied there.
    pub(crate) fn move_body(&mut self, sequence: Sequence, own: SlotRef) {
        let body = self.body_mut(sequence).expect("the chunk that moves");
        assert!(body.is_lent, "a chunk moves once");
        body.move_to(own);
        self.own_bodies += 1;
    }

    /// Drops the oldest chunks beyond `chunks_max` of them, holes included.
    pub(crate) fn shorten(&mut self, chunks_max: usize, arena: &mut Arena) {
        while self.chunks.len() > chunks_max {
            self.evict_oldest(arena);
        }
    }

    /// Returns whether there was one.
    fn evict_oldest(&mut self, arena: &mut Arena) -> bool {
        let Some(chunk) = self.chunks.pop_front() else { return false };
        if let Some(body) = chunk.body {
            body.give_back(arena);
            self.bodies -= 1;
            self.own_bodies -= usize::from(!body.is_lent);
        }
        self.floor = chunk.sequence.next();
        self.settled = self.settled.max(chunk.sequence);
        self.counted = self.counted.max(chunk.sequence);
        true
    }

    /// Drops what was first seen before `horizon` and has a number below `end`.
    pub(crate) fn evict_before(&mut self, horizon: Time, end: Sequence, arena: &mut Arena) {
        while self.chunks.front().is_some_and(|chunk| chunk.first_seen < horizon && chunk.sequence < end) {
            self.evict_oldest(arena);
        }
    }

    /// A shard of a chunk that is here came. What came apart by so much may do so again: it is waited for a little longer.
    pub(crate) fn note_arrival(&mut self, now: Time, sequence: Sequence, shard: usize) {
        let (grace, grace_max) = (self.grace, self.grace_max);
        let Some(chunk) = self.get_mut(sequence) else { return };
        let apart = now.since(chunk.arrived_at);
        let needed = match chunk.note_arrival(now, shard, grace) {
            Arrival::InTime => apart * 2,
            Arrival::AskedTooSoon => apart * 5 / 4,
            Arrival::Answer => Duration::ZERO,
        };
        self.grace = grace.max(needed.min(grace_max));
    }

    /// Bounds how long is waited before what is missing is asked for.
    pub(crate) fn set_round_trip(&mut self, round_trip: Duration) {
        self.grace_max = (round_trip / 4).clamp(REORDER_GRACE, REORDER_GRACE_MAX);
        self.grace = self.grace.min(self.grace_max);
    }

    /// Settles the next chunk, if it is complete or has been waited for long enough; returns whether it was given up.
    pub(crate) fn settle_next(&mut self, now: Time, patience: Duration) -> Option<bool> {
        let chunk = self.first_from(self.settled.next())?;
        let given_up = !chunk.is_complete();
        if given_up && now.since(chunk.first_seen) < patience {
            return None;
        }
        self.settled = chunk.sequence;
        Some(given_up)
    }

    /// What the next settled chunk lost, once all that came by itself must have come.
    pub(crate) fn count_next(&mut self, now: Time) -> Option<Settled> {
        let chunk = self.first_from(self.counted.next())?;
        if chunk.sequence > self.settled || now.since(chunk.first_seen) < COUNT_AFTER {
            return None;
        }
        let layout = chunk.layout(self.usual_layout());
        let (sequence, none) = (chunk.sequence, ShardSet::EMPTY);
        let settled = match &chunk.body {
            None => Settled { sequence, layout, lost: layout.data_set(), recovered: none, repaired: none },
            Some(body) => {
                let recovered = body.made.intersection(layout.data_set());
                let repaired = body.repaired.intersection(layout.data_set()).minus(recovered);
                let lost = recovered.union(repaired).union(body.data_missing());
                Settled { sequence, layout, lost, recovered, repaired }
            }
        };
        self.counted = sequence;
        Some(settled)
    }

    /// What a chunk is taken to be like of which nothing came.
    pub(crate) fn usual_layout(&self) -> SlotLayout {
        SlotLayout::new(self.usual_shards.max(1) as usize, 0).expect("as many data shards as a chunk had")
    }

    /// The chunks that are not settled.
    pub(crate) fn unsettled_mut(&mut self) -> impl Iterator<Item = &mut Chunk> {
        let start = self.position(self.settled.next()).unwrap_or_else(|place| place);
        self.chunks.range_mut(start..)
    }

    pub(crate) fn chunks_mut(&mut self) -> impl Iterator<Item = &mut Chunk> {
        self.chunks.iter_mut()
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
        self.chunks.iter().find(|chunk| chunk.is_join_point()).map_or(self.oldest(), |chunk| chunk.sequence)
    }
}
