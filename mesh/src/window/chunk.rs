//! One chunk of a window: what of it is here, what was made, what was asked for.

use core::time::Duration;

use codec::{ChunkIdentity, Sequence, ShardSet, SlotLayout};
use derive_more::AddAssign;
use serde::{Deserialize, Serialize};

use crate::arena::{Arena, SlotRef};
use crate::copies::Copies;
use crate::parity::Losses;
use crate::time::Time;

/// A chunk's verified content, as far as it is here.
pub(crate) struct Body {
    pub(crate) identity: ChunkIdentity,
    pub(crate) slot: SlotRef,
    /// The slot is that of another node, which fills it.
    pub(crate) is_lent: bool,
    /// The same chunk in the slot of a node at which it came in too.
    pub(crate) twin: Option<SlotRef>,
    /// Nodes that hold the own slot, a bit for each.
    pub(crate) lent_to: u64,
    /// Nodes that are still to be told what came, a bit for each.
    pub(crate) untold: u64,
    /// Shards that lie in the slot.
    pub(crate) held: ShardSet,
    /// Shards held that are still to be fanned out.
    pub(crate) fresh: ShardSet,
    /// Shards that were fanned out.
    pub(crate) fanned: ShardSet,
    /// Those of them that were last, and when.
    pub(crate) fanned_last: (ShardSet, Time),
    /// Shards made here by the erasure code, which have not come by themselves since.
    pub(super) made: ShardSet,
    /// Shards that came after they had been asked for.
    pub(super) repaired: ShardSet,
    /// The publisher's parity is not parity of its data: only what verified by itself may be used.
    pub(crate) inconsistent: bool,
}

impl Body {
    pub(crate) fn new(identity: ChunkIdentity, slot: SlotRef) -> Body {
        Body {
            identity,
            slot,
            is_lent: false,
            twin: None,
            lent_to: 0,
            untold: 0,
            held: ShardSet::EMPTY,
            fresh: ShardSet::EMPTY,
            fanned: ShardSet::EMPTY,
            fanned_last: (ShardSet::EMPTY, Time::default()),
            made: ShardSet::EMPTY,
            repaired: ShardSet::EMPTY,
            inconsistent: false,
        }
    }

    pub(crate) fn data_held(&self) -> ShardSet {
        self.identity.header.layout().data_set().intersection(self.held)
    }

    pub(crate) fn data_missing(&self) -> ShardSet {
        self.identity.header.layout().data_set().minus(self.held)
    }

    /// Whether all other shards can be made here: k are held, and the slot is this node's to write.
    pub(crate) fn is_decodable(&self) -> bool {
        !self.is_lent && self.held.len() >= self.identity.header.layout().data_shards() && !self.inconsistent
    }

    /// Moves to an own slot, into which the shards held were copied.
    pub(crate) fn move_to(&mut self, own: SlotRef) {
        self.twin = Some(std::mem::replace(&mut self.slot, own));
        self.is_lent = false;
    }

    /// Lets go of what the chunk has of the slot memory.
    pub(super) fn give_back(&self, arena: &mut Arena) {
        arena.give_back(self.slot);
        if let Some(twin) = self.twin {
            arena.give_back(twin);
        }
    }

    /// A shard that is held came. Returns whether it had been made, and comes by itself after all: it was not lost, but overtaken.
    pub(crate) fn came_after_all(&mut self, shard: usize) -> bool {
        let was_made = self.made.contains(shard);
        self.made = self.made.minus(ShardSet::range(shard, shard + 1));
        was_made
    }

    /// The missing shards were made.
    pub(crate) fn made_whole(&mut self) {
        let all = self.identity.header.layout().all_shards();
        self.made = self.made.union(all.minus(self.held));
        self.held = all;
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
    /// The place among the channel's upstreams of the one that was asked last.
    pub(crate) asked_of: Option<u8>,
    pub(super) asked: ShardSet,
    /// The latest request for it goes out several times.
    pub(crate) copies: Option<Copies>,
    /// What of it an earlier node in this one's place had sent on when it handed over.
    pub(super) fanned: ShardSet,
    /// No answer can come before.
    pub(super) answer_at: Time,
    /// When the last of its shards came.
    pub(super) arrived_at: Time,
}

/// What a shard is that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// It had not been asked for.
    InTime,
    /// It had, but is not the answer: it was on its way.
    AskedTooSoon,
    /// It had been asked for.
    Answer,
}

impl Chunk {
    pub(super) fn hole(sequence: Sequence, first_seen: Time, ask_at: Time) -> Chunk {
        Chunk {
            sequence,
            body: None,
            first_seen,
            ask_at,
            asks: 0,
            asked_of: None,
            asked: ShardSet::EMPTY,
            copies: None,
            fanned: ShardSet::EMPTY,
            answer_at: Time::default(),
            arrived_at: first_seen,
        }
    }

    /// Whether the whole payload is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.data_missing().is_empty())
    }

    pub(crate) fn holds(&self, shard: usize) -> bool {
        self.body.as_ref().is_some_and(|body| body.held.contains(shard))
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.is_lent)
    }

    pub(crate) fn is_join_point(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.identity.header.join_distance == 0)
    }

    /// What to ask for: data first, and no more than makes the chunk decodable; a few more, some of which may be lost again,
    /// when it was asked for before, or there is no time to ask again, or the line loses in bursts. Nothing for what may still
    /// come by itself (`awaited`).
    pub(crate) fn wanted(&self, awaited: ShardSet, is_last_chance: bool, losses: &Losses) -> ShardSet {
        let Some(body) = &self.body else {
            return if awaited.is_empty() { ShardSet::ALL } else { ShardSet::EMPTY };
        };
        let layout = body.identity.header.layout();
        let short = layout.data_shards().saturating_sub(body.held.union(awaited).len());
        let is_repeated = short > 0 && (is_last_chance || self.asks > 0);
        let more = if is_repeated { 1 + short / 4 } else { 0 };
        let short = short + more.max(losses.beyond(short));
        let missing = layout.all_shards().minus(body.held).minus(awaited);
        if body.inconsistent { body.data_missing() } else { missing.lowest(short) }
    }

    /// How many shards it has; as many as `usual` where that is not known.
    pub(crate) fn layout(&self, usual: SlotLayout) -> SlotLayout {
        self.body.as_ref().map_or(usual, |body| body.identity.header.layout())
    }

    /// It was asked for these shards; no answer can come before `answer_at`, and none is late before `ask_again_at`.
    pub(crate) fn was_asked(&mut self, shards: ShardSet, answer_at: Time, ask_again_at: Time) {
        if self.asks == 0 {
            self.answer_at = answer_at;
        }
        self.asked = self.asked.union(shards);
        self.asks = self.asks.saturating_add(1);
        self.ask_at = ask_again_at;
    }

    pub(super) fn note_arrival(&mut self, now: Time, shard: usize, grace: Duration) -> Arrival {
        self.ask_at = self.ask_at.max(now.after(grace));
        self.arrived_at = now;
        let arrival = match self.asked.contains(shard) {
            true if now < self.answer_at => Arrival::AskedTooSoon,
            true => Arrival::Answer,
            false => Arrival::InTime,
        };
        if arrival == Arrival::Answer {
            self.copies = None;
        }
        if let Some(body) = &mut self.body {
            body.held.insert(shard);
            if arrival == Arrival::Answer {
                body.repaired.insert(shard);
            }
        }
        arrival
    }
}

/// What became of a settled chunk's data shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Settled {
    pub(crate) sequence: Sequence,
    pub(crate) layout: SlotLayout,
    pub(crate) lost: ShardSet,
    pub(crate) recovered: ShardSet,
    pub(crate) repaired: ShardSet,
}

impl Settled {
    /// What became of those of its data shards that are in `part`.
    pub(crate) fn within(&self, part: ShardSet) -> Counted {
        let count = |shards: ShardSet| part.intersection(shards).len() as u64;
        let (expected, lost) = (count(self.layout.data_set()), count(self.lost));
        Counted {
            chunks: u64::from(expected > 0),
            expected,
            lost,
            lost_squares: lost * lost,
            recovered: count(self.recovered),
            repaired: count(self.repaired),
        }
    }
}

/// What became of the data shards of settled chunks, or of a part of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, AddAssign, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Chunks of which there were any.
    pub(crate) chunks: u64,
    pub(crate) expected: u64,
    /// Those that did not come by themselves, and the sum over the chunks of their squares.
    pub(crate) lost: u64,
    pub(crate) lost_squares: u64,
    /// Of the lost, those made good by the erasure code and by repair.
    pub(crate) recovered: u64,
    pub(crate) repaired: u64,
}
