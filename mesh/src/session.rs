//! A session: one channel between this node and one peer.

mod handover;

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use codec::wire::control::{Report, Sender, SessionHeader, SessionId};
use codec::{ChannelTag, Sequence, ShardSet};

use serde::{Deserialize, Serialize};

use crate::allowance::Allowance;
use crate::limits::{REPAIR_CREDIT_MAX, REPAIR_CREDIT_START, RTT_MAX, WASTED_CHECKS};
use crate::stats::ChannelCounters;
use crate::time::{Time, micros};

/// What names a session from outside: a datagram is heeded only if its address, its channel and its direction lead
/// to a session, and the session id in it is that session's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PeerKey {
    pub(crate) address: SocketAddr,
    pub(crate) tag: ChannelTag,
    /// What the peer is to this node.
    pub(crate) peer: Sender,
}

pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) peer: PeerKey,
    pub(crate) channel: usize,
    /// The `Hello` that made it: one repeated is answered alike.
    pub(crate) nonce: u64,
    /// The `Hello` of the session that this one replaced: come late, it must not replace this one.
    pub(crate) nonce_before: u64,
    pub(crate) begun_at: Time,
    /// The dial that made it, when this node said `Hello`.
    pub(crate) dial: Option<usize>,
    /// The first chunk that the subscribing end is given.
    pub(crate) start: Sequence,
    pub(crate) heard_at: Time,
    pub(crate) report_at: Time,
    pub(crate) rtt: Option<Duration>,
    /// Sends to the peer that the kernel refused since its last report.
    pub(crate) refused_sends: u32,
    /// The peer's last report: its stamp and when it came.
    echo: (u64, Time),
    pub(crate) side: Side,
}

/// What the peer is to this node, with what only that kind needs.
pub(crate) enum Side {
    Subscriber(Subscriber),
    /// Apart: of these there are few, and they are larger.
    Upstream(Box<Upstream>),
}

/// The peer takes the channel from here.
pub(crate) struct Subscriber {
    /// Its seat in the channel.
    pub(crate) seat: usize,
    /// Its number in the ledger; 0 for one that this node dialled.
    pub(crate) serial: u64,
    /// What the ledger knows it to cost.
    pub(crate) cost: u32,
    pub(crate) loss: Loss,
    /// The peer's `settled`.
    pub(crate) settled: Sequence,
    /// Repair shards it may still ask for, as of `channel_shards`.
    repair_credit: u32,
    channel_shards: u64,
}

/// Chunks a joiner is still owed. Not in its session, which has none for almost all of its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backlog {
    /// The session, by its index; with its id, for it may have ended.
    pub(crate) session: usize,
    pub(crate) id: SessionId,
    pub(crate) next: Sequence,
    /// Shards of the next chunk that were sent already.
    pub(crate) sent: ShardSet,
    pub(crate) through: Sequence,
    pub(crate) due: Time,
    pub(crate) since: Time,
    /// Bytes that the ledger counts as owed.
    pub(crate) owed: u64,
}

/// The peer gives the channel to this node.
pub(crate) struct Upstream {
    pub(crate) shards_received: u64,
    /// The channel's counts when the session began.
    pub(crate) base: ChannelCounters,
    /// Shards that were here already when they came from it.
    pub(crate) duplicates: u64,
    /// When the session began, or was last found to bring nothing.
    pub(crate) starved_at: Time,
    wasted_checks: Allowance,
    /// Transit time of the last chunk and the least there was, µs against capture time, and its smoothed variation.
    pub(crate) transit_us: Option<i64>,
    pub(crate) transit_us_min: Option<i64>,
    pub(crate) spread_us: i64,
}

impl Session {
    pub(crate) fn new(
        id: SessionId,
        peer: PeerKey,
        channel: usize,
        nonce: u64,
        start: Sequence,
        now: Time,
        side: Side,
    ) -> Session {
        Session {
            id,
            peer,
            channel,
            nonce,
            nonce_before: nonce,
            begun_at: now,
            dial: None,
            start,
            heard_at: now,
            report_at: now,
            rtt: None,
            refused_sends: 0,
            echo: (0, now),
            side,
        }
    }

    /// Takes the place of an older session with the same peer.
    pub(crate) fn replace(&mut self, before: &Session) {
        self.nonce_before = before.nonce;
        if let (Side::Subscriber(now), Side::Subscriber(before)) = (&mut self.side, &before.side) {
            now.inherit_credit(before);
        }
    }

    pub(crate) fn header(&self) -> SessionHeader {
        let sender = match self.peer.peer {
            Sender::Upstream => Sender::Subscriber,
            Sender::Subscriber => Sender::Upstream,
        };
        SessionHeader { sender, tag: self.peer.tag, session: self.id }
    }

    /// Takes in the peer's report: round trip and, from a subscriber, its loss.
    pub(crate) fn note_report(&mut self, now: Time, report: &Report) {
        self.echo = (report.stamp_us, now);
        self.refused_sends = 0;
        if report.echo_us != 0 {
            let away = now.0.saturating_sub(report.echo_us).saturating_sub(u64::from(report.held_us));
            let sample = Duration::from_micros(away);
            if sample <= RTT_MAX {
                self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
            }
        }
        if let Side::Subscriber(subscriber) = &mut self.side {
            subscriber.settled = subscriber.settled.max(report.settled);
            subscriber.loss.note(report.received, report.lost);
        }
    }

    /// This node's report to the peer.
    pub(crate) fn report(
        &self,
        now: Time,
        highest: Sequence,
        settled: Sequence,
        channel: &ChannelCounters,
    ) -> Report {
        let mut report = Report {
            header: self.header(),
            stamp_us: now.0,
            echo_us: self.echo.0,
            held_us: u32::try_from(micros(now.since(self.echo.1))).unwrap_or(u32::MAX),
            spread_us: 0,
            highest,
            settled,
            received: 0,
            lost: 0,
            recovered: 0,
            repaired: 0,
        };
        if let Side::Upstream(upstream) = &self.side {
            report.spread_us = upstream.spread_us as u32;
            report.received = upstream.shards_received;
            report.lost = channel.shards_lost - upstream.base.shards_lost;
            report.recovered = channel.shards_recovered - upstream.base.shards_recovered;
            report.repaired = channel.shards_repaired - upstream.base.shards_repaired;
        }
        report
    }
}

impl Subscriber {
    pub(crate) fn new(seat: usize, channel_shards: u64) -> Subscriber {
        Subscriber {
            seat,
            serial: 0,
            cost: 0,
            loss: Loss::default(),
            settled: Sequence(0),
            repair_credit: REPAIR_CREDIT_START,
            channel_shards,
        }
    }

    /// Goes on with the credit of the session that this one replaces.
    pub(crate) fn inherit_credit(&mut self, before: &Subscriber) {
        self.repair_credit = before.repair_credit;
        self.channel_shards = before.channel_shards;
    }

    /// How many of `wanted` repair shards it gets: over time half of what the channel sends it.
    pub(crate) fn spend_repair_credit(&mut self, wanted: u32, channel_shards: u64) -> u32 {
        let earned = (channel_shards - self.channel_shards) / 2;
        self.channel_shards = channel_shards;
        let saved = u64::from(self.repair_credit) + earned;
        self.repair_credit = u32::try_from(saved).unwrap_or(u32::MAX).min(REPAIR_CREDIT_MAX);
        let granted = wanted.min(self.repair_credit);
        self.repair_credit -= granted;
        granted
    }
}

impl Upstream {
    pub(crate) fn new(now: Time, base: ChannelCounters) -> Upstream {
        Upstream {
            shards_received: 0,
            base,
            duplicates: 0,
            starved_at: now,
            wasted_checks: Allowance::new(now),
            transit_us: None,
            transit_us_min: None,
            spread_us: 0,
        }
    }

    /// Whether another signature from this peer may be checked.
    pub(crate) fn may_check_signature(&mut self, now: Time) -> bool {
        self.wasted_checks.is_left(now, WASTED_CHECKS)
    }

    pub(crate) fn note_wasted_check(&mut self) {
        self.wasted_checks.spend();
    }

    /// The first shard of a chunk came: interarrival jitter as in RFC 3550 §6.4.1.
    pub(crate) fn note_chunk(&mut self, now: Time, capture_us: u64) {
        let transit = now.0.wrapping_sub(capture_us) as i64;
        if let Some(before) = self.transit_us {
            let difference = transit.saturating_sub(before).saturating_abs().min(10_000_000);
            self.spread_us += (difference - self.spread_us) / 16;
        }
        self.transit_us = Some(transit);
        self.transit_us_min = Some(self.transit_us_min.map_or(transit, |least| least.min(transit)));
    }
}

/// A subscriber's loss from the totals in its reports, in millionths of the shards sent to it.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Loss {
    received: u64,
    lost: u64,
    pub(crate) ppm: u32,
}

impl Loss {
    /// Rises at once, falls by a quarter per report.
    fn note(&mut self, received: u64, lost: u64) {
        let (received_now, lost_now) =
            (received.saturating_sub(self.received), lost.saturating_sub(self.lost));
        (self.received, self.lost) = (received, lost);
        let total = received_now.saturating_add(lost_now);
        if total > 0 {
            let share = u128::from(lost_now) * 1_000_000 / u128::from(total);
            let sample = u32::try_from(share).unwrap_or(1_000_000);
            self.ppm = sample.max(self.ppm - self.ppm / 4);
        }
    }
}

/// How many of a chunk's `m` parity shards go to a subscriber with this loss: none without loss, else twice what is
/// lost on average and one more.
pub(crate) fn parity_for(loss_ppm: u32, data_shards: usize, parity_shards: usize) -> usize {
    if loss_ppm < 1_000 {
        return 0;
    }
    let lost_doubled = (data_shards as u64 * u64::from(loss_ppm) * 2).div_ceil(1_000_000) as usize;
    (lost_doubled + 1).min(parity_shards)
}

/// What counts as one address for the limit on sessions: all of an IPv6 /64 is one host's to choose from.
pub(crate) fn address_class(address: SocketAddr) -> IpAddr {
    match address.ip() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[8..].fill(0);
            IpAddr::from(octets)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_follows_loss_and_nothing_is_sent_without_it() {
        assert_eq!(parity_for(0, 32, 16), 0);
        assert_eq!(parity_for(50_000, 20, 10), 3);
        assert_eq!(parity_for(900_000, 20, 10), 10);
    }

    #[test]
    fn repair_credit_is_earned_by_what_the_channel_sends() {
        let mut subscriber = Subscriber::new(0, 0);
        assert_eq!(subscriber.spend_repair_credit(2_000, 0), REPAIR_CREDIT_START);
        assert_eq!(subscriber.spend_repair_credit(10, 0), 0);
        assert_eq!(subscriber.spend_repair_credit(10, 8), 4);
        assert_eq!(subscriber.spend_repair_credit(u32::MAX, 1_000_000), REPAIR_CREDIT_MAX);
    }

    #[test]
    fn an_ipv6_host_cannot_multiply_itself() {
        let class = |address: &str| address_class(address.parse().unwrap());
        assert_eq!(class("[2001:db8::1]:1"), class("[2001:db8::ffff]:2"));
        assert_ne!(class("[2001:db8::1]:1"), class("[2001:db8:0:1::1]:1"));
        assert_ne!(class("192.0.2.1:1"), class("192.0.2.2:1"));
    }
}
