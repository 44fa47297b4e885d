//! What a node counts. Plain integers, read by whoever wants to know.

use core::ops::{AddAssign, Index, IndexMut};

use derive_more::AddAssign;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What became of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was used.
    Kept,
    /// It was not, and had no effect.
    Dropped(DropReason),
}

/// Why a datagram had no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Error)]
#[repr(usize)]
pub enum DropReason {
    /// Does not start as datagrams of this protocol do.
    #[error("not of this protocol")]
    NotOurs,
    /// A shard datagram with an impossible field.
    #[error("malformed shard")]
    MalformedShard,
    /// A control datagram with an impossible field.
    #[error("malformed control datagram")]
    MalformedControl,
    /// A shard of a channel that is not carried here.
    #[error("unknown channel")]
    UnknownChannel,
    /// A shard from an address that is not an upstream of its channel.
    #[error("shard from no upstream")]
    NotUpstream,
    /// A datagram of a session that is not, or is no more.
    #[error("unknown session")]
    UnknownSession,
    /// The right address with a session id that is not its own.
    #[error("wrong session")]
    WrongSession,
    /// A chunk that has left the window, or came before the channel was joined.
    #[error("chunk too old")]
    TooOld,
    /// A sequence number that cannot have been reached yet.
    #[error("chunk from the far future")]
    FarFuture,
    /// A shard that is held already.
    #[error("duplicate shard")]
    Duplicate,
    /// A shard that had been made from others before it came: parity came first.
    #[error("overtaken by parity")]
    Overtaken,
    /// The Merkle proof does not lead to the signed root.
    #[error("bad proof")]
    BadProof,
    /// Not signed by the channel's key.
    #[error("bad signature")]
    BadSignature,
    /// A second chunk signed under a sequence number.
    #[error("equivocation")]
    Equivocation,
    /// Too many failed signature checks in this session: not looked at.
    #[error("too many bad signatures")]
    SignatureFlood,
    /// No slot for a new chunk: others still hold those that were given up.
    #[error("no slot free")]
    NoSlot,
    /// A `Hello` to a node that accepts no sessions.
    #[error("not accepting sessions")]
    NotAccepting,
    /// A `Hello` of this very node.
    #[error("hello of this node itself")]
    Itself,
    /// A copy of a request that was answered.
    #[error("copy of a request")]
    Copy,
    /// An answer to a `Hello` that was not sent, or was answered already.
    #[error("unasked answer")]
    Unasked,
    /// The queue that the answer would wait in is full.
    #[error("queue full")]
    QueueFull,
}

impl DropReason {
    /// Every reason, in the order of [`Counters::dropped`].
    pub const ALL: [DropReason; 21] = [
        DropReason::NotOurs,
        DropReason::MalformedShard,
        DropReason::MalformedControl,
        DropReason::UnknownChannel,
        DropReason::NotUpstream,
        DropReason::UnknownSession,
        DropReason::WrongSession,
        DropReason::TooOld,
        DropReason::FarFuture,
        DropReason::Duplicate,
        DropReason::Overtaken,
        DropReason::BadProof,
        DropReason::BadSignature,
        DropReason::Equivocation,
        DropReason::SignatureFlood,
        DropReason::NoSlot,
        DropReason::NotAccepting,
        DropReason::Itself,
        DropReason::Copy,
        DropReason::Unasked,
        DropReason::QueueFull,
    ];
}

/// Totals of a node since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, AddAssign)]
pub struct Counters {
    /// Datagrams handled.
    pub datagrams: u64,
    /// Shards verified and stored.
    pub shards_stored: u64,
    /// Ed25519 verifications, of chunks and of publishers' handshakes.
    pub signature_checks: u64,
    /// Chunks begun.
    pub chunks: u64,
    /// Data shards of settled chunks that did not come by themselves.
    pub shards_lost: u64,
    /// Of those, made good by the erasure code.
    pub shards_recovered: u64,
    /// Of those, made good by repair.
    pub shards_repaired: u64,
    /// Chunks given up.
    pub chunks_lost: u64,
    /// Chunks whose parity was not parity of the data.
    pub chunks_inconsistent: u64,
    /// Chunks made whole from k shards.
    pub chunks_restored: u64,
    /// Trains handed out to be sent.
    pub trains_sent: u64,
    /// Shards in them.
    pub shards_sent: u64,
    /// Of those, in answer to repair requests.
    pub repairs_sent: u64,
    /// Of those, to joiners between their join point and the live edge.
    pub backlog_sent: u64,
    /// Control datagrams handed out to be sent.
    pub control_sent: u64,
    /// Batches that a cap on egress cut short.
    pub egress_waits: u64,
    /// Subscribers refused because what they need does not fit under a cap on egress.
    pub egress_refused: u64,
    /// Subscribers let go because what was needed did not fit any more.
    pub egress_let_go: u64,
    /// `Hello`s left unanswered so that those who came just before get their backlogs in time.
    pub joins_deferred: u64,
    /// Joiners that start at the live edge because a cap leaves no room for their backlog.
    pub backlogs_skipped: u64,
    /// Chunks that other nodes of the process lent.
    pub chunks_lent: u64,
    /// Times that another node had no room for news: it was behind. Of the newest chunks it is told again.
    pub shares_refused: u64,
    /// Trains not fanned out to everybody because they were late or their chunk had left the window.
    pub jobs_skipped: u64,
    /// Repair requests, or parts of them, not answered: over the subscriber's credit, not held, or of no use any more when a cap
    /// left room.
    pub repairs_refused: u64,
    /// Sessions granted.
    pub sessions_granted: u64,
    /// `Hello`s refused.
    pub sessions_refused: u64,
    /// Leases that ran out.
    pub leases_expired: u64,
    /// Subscribers let go because the kernel would not send to them.
    pub sessions_unreachable: u64,
    /// Subscribers let go because their lines could not take the stream.
    pub sessions_strained: u64,
    /// Drops by [`DropReason`].
    pub dropped: Dropped,
}

/// Counts by [`DropReason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped([u64; DropReason::ALL.len()]);

impl Dropped {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Index<DropReason> for Dropped {
    type Output = u64;

    fn index(&self, reason: DropReason) -> &u64 {
        &self.0[reason as usize]
    }
}

impl IndexMut<DropReason> for Dropped {
    fn index_mut(&mut self, reason: DropReason) -> &mut u64 {
        &mut self.0[reason as usize]
    }
}

impl AddAssign for Dropped {
    fn add_assign(&mut self, other: Dropped) {
        self.0.iter_mut().zip(other.0).for_each(|(ours, theirs)| *ours += theirs);
    }
}

impl Counters {
    /// How many datagrams were dropped for this reason.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped[reason]
    }
}

/// Totals of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, AddAssign, Serialize, Deserialize)]
pub struct ChannelCounters {
    /// Shards received and kept.
    pub shards_received: u64,
    /// Data shards of settled chunks that did not come by themselves.
    pub shards_lost: u64,
    /// Of those, made good by the erasure code.
    pub shards_recovered: u64,
    /// Of those, made good by repair.
    pub shards_repaired: u64,
    /// Settled chunks whose losses were counted.
    pub chunks_counted: u64,
    /// Their data shards.
    pub shards_expected: u64,
    /// The sum of the squares of what each of them adds to `shards_lost`.
    pub lost_squares: u64,
    /// Chunks handed to the local viewer.
    pub chunks_delivered: u64,
    /// Chunks the local viewer went on without.
    pub chunks_skipped: u64,
}

impl ChannelCounters {
    /// Each of them.
    pub(crate) fn all(&self) -> [u64; 9] {
        let ChannelCounters { shards_received, shards_lost, shards_recovered, shards_repaired, .. } = *self;
        let ChannelCounters { chunks_counted, shards_expected, lost_squares, .. } = *self;
        let ChannelCounters { chunks_delivered, chunks_skipped, .. } = *self;
        [
            shards_received,
            shards_lost,
            shards_recovered,
            shards_repaired,
            chunks_counted,
            shards_expected,
            lost_squares,
            chunks_delivered,
            chunks_skipped,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_in_the_order_of_their_counts() {
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(place, *reason as usize);
        }
    }
}
