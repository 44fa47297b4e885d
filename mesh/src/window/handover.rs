//! A window as it goes to the node that takes this one's place.

use codec::{ChunkIdentity, Sequence, ShardSet};

use super::{Body, Chunk, Window};
use crate::arena::{Arena, SlotRef};
use crate::handover::{BodyState, ChunkState, WindowState};
use crate::limits::{EDGE_GRACE, REPAIR_HORIZON};
use crate::time::{Time, micros};

impl Window {
    /// What repair may still ask for and newcomers start with, and everything from `owed` on; of that the newest chunks,
    /// as many as `bytes_max` holds.
    pub(crate) fn hand_over(
        &self,
        now: Time,
        owed: Sequence,
        bytes_max: usize,
        arena: &Arena,
    ) -> WindowState {
        let horizon = Time(now.0.saturating_sub(micros(REPAIR_HORIZON)));
        let recent = self.chunks.iter().find(|chunk| chunk.first_seen >= horizon);
        let recent = recent.map_or(self.edge, |chunk| chunk.sequence);
        let from = recent.min(owed).min(self.latest_join_point());
        let mut bytes = 0;
        let kept = self.chunks.iter().rev().take_while(|chunk| {
            bytes += chunk.body.as_ref().map_or(0, Body::handover_bytes);
            chunk.sequence >= from && bytes <= bytes_max
        });
        let first = self.chunks.len() - kept.count();
        let mut floor = self.floor;
        if first > 0 {
            floor = self.chunks.get(first).map_or(self.edge.next(), |chunk| chunk.sequence);
        }
        WindowState {
            edge: self.edge.0,
            floor: floor.0,
            settled: self.settled.0.max(floor.0.saturating_sub(1)),
            joined_at: self.joined_at,
            usual_shards: self.usual_shards,
            chunks: self.chunks.range(first..).map(|chunk| chunk.hand_over(arena)).collect(),
        }
    }

    /// Goes on from there; the chunks follow one by one.
    pub(crate) fn resume(&mut self, now: Time, state: &WindowState) {
        self.edge = Sequence(state.edge);
        self.floor = Sequence(state.floor);
        (self.settled, self.counted) = (Sequence(state.settled), Sequence(state.settled));
        self.joined_at = state.joined_at.map(|at| at.min(now));
        self.usual_shards = state.usual_shards;
    }

    /// Adds the next chunk; with what the slot holds, if there was one for it.
    pub(crate) fn resume_chunk(&mut self, now: Time, state: &ChunkState, slot: Option<SlotRef>) {
        let fanned = ShardSet::from_bits(state.fanned);
        let body = state.body.as_ref().zip(slot).and_then(|(body, slot)| body.resume(slot, fanned));
        if body.is_some() {
            self.bodies += 1;
            self.own_bodies += 1;
        }
        let first_seen = state.first_seen.min(now);
        // What came meanwhile waits in the socket.
        let hole = Chunk::hole(Sequence(state.sequence), first_seen, now.after(EDGE_GRACE));
        let asked = ShardSet::from_bits(state.asked);
        self.chunks.push_back(Chunk { body, asks: state.asks, asked, fanned, ..hole });
    }
}

impl Chunk {
    fn hand_over(&self, arena: &Arena) -> ChunkState {
        let fanned = self.body.as_ref().map_or(self.fanned, |body| body.fanned);
        ChunkState {
            sequence: self.sequence.0,
            first_seen: self.first_seen,
            asks: self.asks,
            asked: self.asked.bits(),
            fanned: fanned.bits(),
            // Whose slot it is hands it over, and lends it again.
            body: self.body.as_ref().filter(|body| !body.is_lent).map(|body| body.hand_over(arena)),
        }
    }
}

impl Body {
    /// What is to be handed over: parity can be made again once the data is complete.
    fn essential(&self) -> ShardSet {
        if self.data_missing().is_empty() { self.identity.header.layout().data_set() } else { self.held }
    }

    fn handover_bytes(&self) -> usize {
        if self.is_lent { 0 } else { self.essential().len() * codec::DATAGRAM_BYTES }
    }

    fn hand_over(&self, arena: &Arena) -> BodyState {
        let shards = self.essential();
        let datagrams = arena.slot(self.slot, self.identity.header.layout()).chunks(codec::DATAGRAM_BYTES);
        let taken = datagrams.enumerate().filter(|(index, _)| shards.contains(*index));
        BodyState {
            held: shards.bits(),
            made: self.made.intersection(shards).bits(),
            repaired: self.repaired.bits(),
            inconsistent: self.inconsistent,
            datagrams: taken.flat_map(|(_, datagram)| datagram).copied().collect(),
        }
    }
}

impl BodyState {
    fn resume(&self, slot: SlotRef, fanned: ShardSet) -> Option<Body> {
        let identity: ChunkIdentity = self.identity()?;
        let mut body = Body::new(identity, slot);
        body.held = ShardSet::from_bits(self.held);
        body.made = ShardSet::from_bits(self.made);
        body.repaired = ShardSet::from_bits(self.repaired);
        body.inconsistent = self.inconsistent;
        body.fanned = fanned;
        Some(body)
    }
}
