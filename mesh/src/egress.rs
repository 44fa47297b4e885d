//! What sending costs on the wire, and a token bucket that bounds it.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::net::SocketAddr;

use codec::{DATAGRAM_BYTES, MAX_SHARDS};

use crate::time::Time;

/// Bytes of the IP and UDP headers that a datagram to this address leaves with.
pub(crate) const fn header_bytes(to: SocketAddr) -> u64 {
    match to {
        SocketAddr::V4(_) => 20 + 8,
        SocketAddr::V6(_) => 40 + 8,
    }
}

/// Bytes of a shard datagram to this address, as networks count them.
pub(crate) const fn shard_cost(to: SocketAddr) -> u64 {
    DATAGRAM_BYTES as u64 + header_bytes(to)
}

/// The longest train, over IPv6.
const TRAIN_COST_MAX: u64 = MAX_SHARDS as u64 * (DATAGRAM_BYTES as u64 + 48);

/// The least that may leave at once: a train, and beside it one that is not live.
const BURST_MIN: u64 = 2 * TRAIN_COST_MAX;

/// The part of a cap that may leave at once is at least a hundredth: 10 ms, which a sleeping thread may oversleep.
const BURST_PARTS: u64 = 100;

/// A second may exceed a cap by one part in so many; the mean does not exceed it.
const MARGIN_PARTS: u64 = 50;

/// Of what a cap earns, one part in so many is promised to nobody: control and repair live on it.
const SPARE_PARTS: u64 = 100;

/// So much in any second at most, in IP bytes, and a fiftieth; of that, what may leave at once and what is earned meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cap {
    burst: u64,
    per_second: u64,
}

impl Cap {
    /// From bit/s.
    pub(crate) fn new(bps: u64) -> Cap {
        let bytes = bps / 8;
        let burst = (bytes / BURST_PARTS).max(BURST_MIN);
        let per_second = (bytes + bytes / MARGIN_PARTS).saturating_sub(burst).min(bytes);
        // For less than 2 Mbit/s a train at once is too much in any case; the mean holds.
        Cap { burst, per_second: per_second.max(bytes / 2).max(1) }
    }

    /// Shards of a train, if a train to each of so many subscribers is to take no longer than `round`.
    pub(crate) fn train_max(self, subscribers: usize, round: Duration) -> usize {
        let bytes = u128::from(self.per_second) * round.as_micros() / 1_000_000;
        let shards = bytes as u64 / (subscribers.max(1) as u64 * (DATAGRAM_BYTES as u64 + 48));
        (shards as usize).clamp(1, MAX_SHARDS)
    }

    /// What can be sent for long, bytes per second.
    pub(crate) fn per_second(self) -> u64 {
        self.per_second
    }

    /// What can be promised, bytes per second.
    pub(crate) fn promised_max(self) -> u64 {
        self.per_second - self.per_second / SPARE_PARTS
    }

    /// How long earning so much takes, ns.
    fn ns(self, bytes: u64) -> u64 {
        let ns = (u128::from(bytes) * NS).div_ceil(u128::from(self.per_second));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

/// What repair and backlogs leave of what may leave at once: a train, for whoever has to send one live, here or at another
/// node.
pub(crate) const KEPT_FOR_LIVE: u64 = TRAIN_COST_MAX;

const NS: u128 = 1_000_000_000;

/// A token bucket that several threads take from, as one number (GCRA, ITU-T I.371): the moment up to which everything
/// that could be earned has been spent.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// ns since the Unix epoch.
    spent_until: AtomicU64,
}

impl Bucket {
    /// Takes all there is, bytes; what is not spent is to be given back.
    pub(crate) fn take(&self, now: Time, cap: Cap) -> u64 {
        let now_ns = now.0 * 1_000;
        let oldest = now_ns.saturating_sub(cap.ns(cap.burst));
        let mut taken = 0;
        let take = |spent_until: u64| {
            let earned_ns = now_ns.checked_sub(spent_until.max(oldest))?;
            taken = (u128::from(earned_ns) * u128::from(cap.per_second) / NS) as u64;
            taken = taken.min(cap.burst);
            (taken > 0).then(|| spent_until.max(oldest) + cap.ns(taken))
        };
        match self.spent_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => taken,
            Err(_) => 0,
        }
    }

    /// Gives back what was taken and not spent.
    pub(crate) fn give_back(&self, bytes: u64, cap: Cap) {
        if bytes > 0 {
            self.spent_until.fetch_sub(cap.ns(bytes), Ordering::Relaxed);
        }
    }

    /// Nothing is there now: what can be sent is what is earned from now on.
    pub(crate) fn spend_all(&self, now: Time) {
        self.spent_until.fetch_max(now.0 * 1_000, Ordering::Relaxed);
    }

    /// When so much will be there, if nobody takes anything.
    pub(crate) fn holds_at(&self, bytes: u64, now: Time, cap: Cap) -> Time {
        let oldest = (now.0 * 1_000).saturating_sub(cap.ns(cap.burst));
        let from = self.spent_until.load(Ordering::Relaxed).max(oldest);
        Time(from.saturating_add(cap.ns(bytes.min(cap.burst))).div_ceil(1_000))
    }
}

/// What may be sent of one channel now: taken from its bucket, and as much as one likes of a channel that has no cap.
pub(crate) struct Ration<'b> {
    from: Option<(&'b Bucket, Cap)>,
    left: u64,
}

impl<'b> Ration<'b> {
    pub(crate) fn take(from: Option<(&'b Bucket, Cap)>, now: Time) -> Ration<'b> {
        let left = from.map_or(u64::MAX, |(bucket, cap)| bucket.take(now, cap));
        Ration { from, left }
    }

    /// Spends so much, if `kept` bytes are left then.
    pub(crate) fn spend(&mut self, bytes: u64, kept: u64) -> bool {
        let affords = bytes.saturating_add(kept) <= self.left;
        if affords {
            self.left -= bytes;
        }
        affords
    }

    /// Gives back what was not spent.
    pub(crate) fn give_back(self) {
        if let Some((bucket, cap)) = self.from {
            bucket.give_back(self.left, cap);
        }
    }

    /// Gives back what was not spent; returns when there will be so much.
    pub(crate) fn wait_for(self, bytes: u64, now: Time) -> Option<Time> {
        let from = self.from;
        self.give_back();
        from.map(|(bucket, cap)| bucket.holds_at(bytes, now, cap))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever takes and gives back when.
        #[test]
        fn no_second_has_more_than_a_fiftieth_above_the_cap(
            mbps in 2_u64..20_000,
            steps in proptest::collection::vec((1_u64..3_000, 0_u64..200_000), 50..1_000),
        ) {
            let (cap, bucket) = (Cap::new(mbps * 1_000_000), Bucket::default());
            let mut now = Time(1_700_000_000_000_000);
            let mut sent: Vec<(Time, u64)> = Vec::new();
            for (pause, spare) in steps {
                now = Time(now.0 + pause);
                let taken = bucket.take(now, cap);
                bucket.give_back(spare.min(taken), cap);
                sent.push((now, taken - spare.min(taken)));
            }
            for (place, (start, _)) in sent.iter().enumerate() {
                let within = sent[place..].iter().take_while(|(at, _)| at.0 < start.0 + 1_000_000);
                let bytes: u64 = within.map(|(_, bytes)| bytes).sum();
                prop_assert!(bytes <= mbps * 127_500, "{bytes} in a second of {mbps} Mbit/s");
            }
        }
    }

    #[test]
    fn a_sender_that_always_has_something_gets_all_that_is_earned() {
        for mbps in [2, 50, 10_000] {
            let (cap, bucket) = (Cap::new(mbps * 1_000_000), Bucket::default());
            let taken: u64 = (0..10_000).map(|step| bucket.take(Time(1_000_000 + step * 997), cap)).sum();
            let earned = cap.burst + cap.per_second * 9_969_003 / 1_000_000;
            assert!(taken <= earned && taken + taken / 1_000 >= earned, "{taken} of {earned}");
        }
    }

    #[test]
    fn what_is_waited_for_is_there_then_and_not_before() {
        let (cap, bucket) = (Cap::new(50_000_000), Bucket::default());
        let now = Time(1_700_000_000_000_000);
        bucket.take(now, cap);
        let at = bucket.holds_at(20_000, now, cap);
        let before = bucket.take(Time(at.0 - 1), cap);
        bucket.give_back(before, cap);
        assert!(before < 20_000 && bucket.take(at, cap) >= 20_000);
    }
}
