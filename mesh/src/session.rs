//! A session: one channel between this node and one peer.

mod handover;

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use codec::wire::control::{Report, Sender, SessionHeader, SessionId};
use codec::{ChannelTag, Sequence, ShardSet};

use crate::allowance::Allowance;
use crate::arrivals::Arrivals;
use crate::copies::Answered;
use crate::limits::{
    REPAIR_CREDIT_MAX, REPAIR_CREDIT_START, REPORT_INTERVAL, RTT_MAX, STEADY_AFTER, WASTED_CHECKS,
};
use crate::line::{Line, RoundTrip};
use crate::losses::{Estimate, Uncounted};
use crate::striping::Striping;
use crate::time::{Time, micros};
use crate::window::{Counted, Settled};

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
    /// See [`Session::dial`]: of sessions there are many.
    dial: Option<u32>,
    /// The first chunk that the subscribing end is given.
    pub(crate) start: Sequence,
    pub(crate) heard_at: Time,
    pub(crate) report_at: Time,
    pub(crate) round_trip: Option<RoundTrip>,
    /// The line loses too much for parity and repair.
    pub(crate) is_strained: bool,
    /// Sends to the peer that the kernel refused since its last report.
    pub(crate) refused_sends: u8,
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
    pub(crate) seat: u32,
    /// Its number in the ledger; 0 for one that this node dialled.
    pub(crate) serial: u64,
    /// What the ledger knows it to cost.
    pub(crate) cost: u32,
    pub(crate) line: Line,
    /// The peer's `settled`.
    pub(crate) settled: Sequence,
    /// It has, or had, other upstreams too: what of a chunk was sent to it cannot be told from what was to others.
    pub(crate) has_others: bool,
    /// Its numbered requests; not handed over.
    pub(crate) answered: Answered,
    /// Repair shards it may still ask for, as of `channel_shards`.
    repair_credit: u16,
    channel_shards: u32,
    /// The channel's `data_gone`, without what no report has counted yet. Neither is handed over.
    pub(crate) data_gone: u16,
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
    /// Shard datagrams from it, whatever became of them.
    pub(crate) datagrams: u64,
    /// What became of what it was to give.
    pub(crate) counted: Counted,
    /// What the line from there loses, as of the last report.
    pub(crate) estimate: Estimate,
    /// The last number of a request to it.
    pub(crate) request: u16,
    pub(crate) striping: Striping,
    /// Shards from it that had come already.
    pub(crate) duplicates: u64,
    /// When the session began, or was last found to bring nothing.
    pub(crate) starved_at: Time,
    wasted_checks: Allowance,
    pub(crate) arrivals: Arrivals,
    /// Shards lost as of the last report, and how many these were more than in the one before.
    pub(crate) lost_reported: u64,
    pub(crate) lost_newly_reported: u64,
    /// When that was.
    pub(crate) reported_at: Time,
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
            round_trip: None,
            is_strained: false,
            refused_sends: 0,
            echo: (0, now),
            side,
        }
    }

    /// The dial that made it, when this node said `Hello`.
    pub(crate) fn dial(&self) -> Option<usize> {
        self.dial.map(|dial| dial as usize)
    }

    /// This dial made it.
    pub(crate) fn made_by(&mut self, dial: usize) {
        self.dial = Some(u32::try_from(dial).expect("a node has few dials"));
    }

    /// The side of a peer that is an upstream: of no other is it asked.
    pub(crate) fn upstream(&self) -> &Upstream {
        match &self.side {
            Side::Upstream(upstream) => upstream,
            Side::Subscriber(_) => unreachable!("a channel's upstreams are upstreams"),
        }
    }

    /// The same, to be changed.
    pub(crate) fn upstream_mut(&mut self) -> &mut Upstream {
        match &mut self.side {
            Side::Upstream(upstream) => upstream,
            Side::Subscriber(_) => unreachable!("a channel's upstreams are upstreams"),
        }
    }

    /// When the next report is due: sooner than planned when nothing comes any more.
    pub(crate) fn report_due(&self) -> Time {
        match &self.side {
            Side::Upstream(upstream) => {
                self.report_at.min(self.heard_at.max(upstream.reported_at).after(REPORT_INTERVAL))
            }
            Side::Subscriber(_) => self.report_at,
        }
    }

    /// Whether the peer has sent a report.
    pub(crate) fn has_reported(&self) -> bool {
        self.echo.0 != 0
    }

    /// Whether the channel has been coming for a while, and nothing of it was lost since the report before the last.
    pub(crate) fn is_steady(&self, now: Time) -> bool {
        let Side::Upstream(upstream) = &self.side else { return false };
        let lost = upstream.counted.lost - upstream.lost_reported + upstream.lost_newly_reported;
        lost == 0 && now.since(self.begun_at) >= STEADY_AFTER && now.since(self.heard_at) < REPORT_INTERVAL
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

    /// Takes in the peer's report: round trip and, from a subscriber, how far it is. Returns how long ago the one before
    /// came, unless a later one has come already: only the latest says what is wanted now, and what came since.
    pub(crate) fn note_report(&mut self, now: Time, report: &Report) -> Option<Duration> {
        let is_latest = report.stamp_us >= self.echo.0;
        let since_last = is_latest.then(|| now.since(self.echo.1));
        if is_latest {
            self.echo = (report.stamp_us, now);
        }
        self.refused_sends = 0;
        if report.echo_us != 0 {
            let away = now.0.saturating_sub(report.echo_us).saturating_sub(u64::from(report.held_us));
            self.note_round_trip(Duration::from_micros(away));
        }
        if let Side::Subscriber(subscriber) = &mut self.side {
            subscriber.settled = subscriber.settled.max(report.settled);
        }
        since_last
    }

    /// A question to the peer was answered after so long.
    pub(crate) fn note_round_trip(&mut self, sample: Duration) {
        match &mut self.round_trip {
            _ if sample > RTT_MAX => {}
            Some(round_trip) => round_trip.note(sample),
            None => self.round_trip = Some(RoundTrip::first(sample)),
        }
    }

    /// This node's report to the peer.
    pub(crate) fn report(
        &mut self,
        now: Time,
        highest: Sequence,
        settled: Sequence,
        slack: Duration,
    ) -> Report {
        let mut report = Report {
            stamp_us: now.0,
            echo_us: self.echo.0,
            held_us: u32::try_from(micros(now.since(self.echo.1))).unwrap_or(u32::MAX),
            highest,
            settled,
            ..Report::new(self.header())
        };
        match &mut self.side {
            Side::Upstream(upstream) => {
                upstream.reported_at = now;
                let counted = upstream.counted;
                upstream.lost_newly_reported = counted.lost - upstream.lost_reported;
                upstream.lost_reported = counted.lost;
                report.stripes = upstream.striping.wanted();
                report.spread_us = upstream.arrivals.spread_us();
                report.queued_ms = upstream.arrivals.take_queued_ms();
                report.slack_ms = u16::try_from(slack.as_millis()).unwrap_or(u16::MAX);
                report.received = upstream.datagrams;
                report.lost = counted.lost;
                report.recovered = counted.recovered;
                report.repaired = counted.repaired;
                report.chunks = counted.chunks as u32;
                report.expected = counted.expected as u32;
                report.lost_squares = counted.lost_squares as u32;
                let mut uncounted = Uncounted::ALL_REPAIRS;
                upstream.estimate.note(&report, &mut uncounted);
            }
            Side::Subscriber(subscriber) => report.strained = subscriber.line.is_strained(),
        }
        report
    }
}

impl Subscriber {
    pub(crate) fn new(seat: u32, channel_shards: u64, data_gone: u16, line: Line) -> Subscriber {
        Subscriber {
            seat,
            serial: 0,
            cost: 0,
            line,
            settled: Sequence(0),
            has_others: false,
            answered: Answered::default(),
            repair_credit: REPAIR_CREDIT_START as u16,
            channel_shards: channel_shards as u32,
            data_gone,
        }
    }

    /// Goes on with the credit of the session that this one replaces.
    pub(crate) fn inherit_credit(&mut self, before: &Subscriber) {
        self.repair_credit = before.repair_credit;
        self.channel_shards = before.channel_shards;
    }

    /// How many of `wanted` repair shards it gets: over time half of what the channel sends it.
    pub(crate) fn spend_repair_credit(&mut self, wanted: u32, channel_shards: u64) -> u32 {
        let earned = (channel_shards as u32).wrapping_sub(self.channel_shards) / 2;
        self.channel_shards = channel_shards as u32;
        let credit = earned.saturating_add(self.repair_credit.into()).min(REPAIR_CREDIT_MAX);
        let granted = wanted.min(credit);
        self.repair_credit = (credit - granted) as u16;
        granted
    }
}

impl Upstream {
    pub(crate) fn new(now: Time) -> Upstream {
        Upstream {
            shards_received: 0,
            datagrams: 0,
            counted: Counted::default(),
            estimate: Estimate::default(),
            request: 0,
            striping: Striping::new(now),
            duplicates: 0,
            starved_at: now,
            wasted_checks: Allowance::new(now),
            arrivals: Arrivals::default(),
            lost_reported: 0,
            lost_newly_reported: 0,
            reported_at: now,
        }
    }

    /// Counts what became of its part of a settled chunk.
    pub(crate) fn note_settled(&mut self, now: Time, settled: &Settled) {
        let part = settled.within(self.striping.shards(settled.sequence, settled.layout));
        self.counted += part;
        self.striping.note_settled(now, part.expected as usize, (part.lost - part.recovered) as usize);
    }

    /// Whether another signature from this peer may be checked.
    pub(crate) fn may_check_signature(&mut self, now: Time) -> bool {
        self.wasted_checks.is_left(now, WASTED_CHECKS)
    }

    /// The number of the next request that is sent in copies.
    pub(crate) fn next_request(&self) -> u16 {
        self.request.checked_add(1).unwrap_or(1)
    }

    pub(crate) fn note_wasted_check(&mut self) {
        self.wasted_checks.spend();
    }
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
    fn repair_credit_is_earned_by_what_the_channel_sends() {
        let mut subscriber = Subscriber::new(0, 0, 0, Line::new(0));
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
