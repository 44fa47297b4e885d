//! One channel as this node carries it: its window, who gives it, who takes it.

use core::ops::Range;
use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use codec::{ChannelVerifier, Sequence, ShardSet, SlotLayout};
use slab::Slab;

use crate::arrivals::Arrivals;
use crate::egress::{Bucket, Cap, shard_cost};
use crate::fanout::{Audience, Needs, Seats};
use crate::ledger::Common;
use crate::limits::{
    ChannelLimits, DIALS_PER_CHANNEL_MAX, REPAIR_HORIZON, SPARE_MIN, SWEEP_INTERVAL,
    UPSTREAMS_PER_CHANNEL_MAX,
};
use crate::parity::Parity;
use crate::rates::{RateMeter, Rates};
use crate::session::{Session, Side};
use crate::share::Share;
use crate::sink::Sink;
use crate::source::Source;
use crate::stats::{ChannelCounters, Counters};
use crate::time::Time;
use crate::window::Window;

pub(crate) struct Channel {
    pub(crate) verifier: ChannelVerifier,
    pub(crate) window: Window,
    /// Of its chunks, whichever upstream brought them, here or at another node of the process.
    pub(crate) arrivals: Arrivals,
    pub(crate) seats: Seats,
    pub(crate) limits: ChannelLimits,
    /// What [`ChannelLimits::egress_bps_max`] comes to.
    cap: Option<Cap>,
    /// What the nodes of the process have of it together.
    common: Arc<Common>,
    meter: RateMeter,
    /// How fast it comes in, once it is known.
    pub(crate) rates: Option<Rates>,
    /// Sessions with upstreams.
    pub(crate) upstreams: ArrayVec<usize, UPSTREAMS_PER_CHANNEL_MAX>,
    /// Dials, whether they have a session or not.
    pub(crate) dials: ArrayVec<usize, DIALS_PER_CHANNEL_MAX>,
    /// When something new of it came last.
    pub(crate) fresh_at: Time,
    pub(crate) source: Option<Source>,
    pub(crate) sink: Option<Sink>,
    pub(crate) counters: ChannelCounters,
    /// What the subscribers here need together.
    pub(crate) needs_here: Needs,
    pub(crate) elsewhere: Elsewhere,
    /// The others are to hear of the channel even if nothing of it comes in.
    pub(crate) has_news: bool,
    /// All others have heard that no chunk below is kept here.
    pub(crate) floor_told: Sequence,
    /// The newest chunk was lent: what is lost of the channel is counted where it comes in.
    pub(crate) is_lent: bool,
    /// Shards fanned out to each subscriber so far, and those of them that are data.
    pub(crate) shards_fanned: u64,
    pub(crate) data_fanned: u64,
    /// Data shards given up here, which no subscriber was sent, modulo 2^16: of this, differences alone count.
    pub(crate) data_gone: u16,
    /// Repair requests sent so far: they take turns among the upstreams.
    pub(crate) asks: usize,
    /// Of several upstreams one gives nothing.
    pub(crate) is_short: bool,
}

impl Channel {
    pub(crate) fn new(verifier: ChannelVerifier, common: Arc<Common>) -> Channel {
        Channel {
            verifier,
            window: Window::new(),
            arrivals: Arrivals::default(),
            seats: Seats::default(),
            limits: ChannelLimits::default(),
            cap: None,
            common,
            meter: RateMeter::default(),
            rates: None,
            upstreams: ArrayVec::new(),
            dials: ArrayVec::new(),
            fresh_at: Time::default(),
            source: None,
            sink: None,
            counters: ChannelCounters::default(),
            needs_here: Needs::NONE,
            elsewhere: Elsewhere::default(),
            has_news: false,
            is_lent: false,
            floor_told: Sequence(0),
            shards_fanned: 0,
            data_fanned: 0,
            data_gone: 0,
            asks: 0,
            is_short: false,
        }
    }

    pub(crate) fn set_limits(&mut self, limits: Option<&ChannelLimits>) {
        self.limits = limits.copied().unwrap_or_default();
        self.cap = self.limits.egress_bps_max.map(Cap::new);
    }

    pub(crate) fn cap(&self) -> Option<Cap> {
        self.cap
    }

    /// Subscribers at all nodes of the process.
    pub(crate) fn subscribers(&self) -> usize {
        self.common.subscribers().max(self.seats.len())
    }

    /// Where what is sent of the channel comes from, if it has a cap.
    pub(crate) fn budget(&self) -> Option<(&Bucket, Cap)> {
        self.cap.map(|cap| (&self.common.bucket, cap))
    }

    pub(crate) fn audience(&self) -> Audience<'_> {
        let without_parity = self.common.withholds_parity();
        Audience { seats: &self.seats, budget: self.budget(), without_parity }
    }

    /// Goes on with what an earlier process measured.
    pub(crate) fn resume_rates(&mut self, rates: Option<Rates>) {
        self.meter.resume(rates);
        self.rates = rates;
    }

    /// Measures how fast the channel comes in.
    pub(crate) fn measure(&mut self, now: Time) {
        self.rates = self.meter.note(now, self.window.shards_opened(), self.window.usual_shards());
    }

    /// Bytes on the wire that a subscriber costs for each data shard, with its parity.
    pub(crate) fn cost_for(&self, to: SocketAddr, parity: Parity) -> u32 {
        let cost = shard_cost(to);
        let (parity, data) = self.parity_of_newest(parity);
        (cost + cost * parity / data) as u32
    }

    /// Parity shards sent for each data shard.
    pub(crate) fn parity_part(&self, parity: Parity) -> f64 {
        if self.common.withholds_parity() {
            return 0.0;
        }
        let (parity, data) = self.parity_of_newest(parity);
        parity as f64 / data as f64
    }

    /// How many parity shards that is of the newest chunk, and how many data shards it has.
    fn parity_of_newest(&self, parity: Parity) -> (u64, u64) {
        let of = |layout: SlotLayout| parity.of(layout.data_shards(), layout.parity_shards());
        let layout = self.window.newest_layout();
        layout.map_or((0, 1), |layout| (of(layout) as u64, layout.data_shards() as u64))
    }

    /// Bytes on the wire of what a subscriber is owed that starts with this chunk.
    pub(crate) fn backlog_bytes(&self, to: SocketAddr, start: Sequence) -> u64 {
        self.window.data_shards_from(start) * shard_cost(to)
    }

    /// Whether nobody has to do with the channel any more.
    pub(crate) fn is_idle(&self, now: Time) -> bool {
        let local = self.source.is_some() || self.sink.is_some();
        !local
            && !self.elsewhere.is_fed(now)
            && self.seats.is_empty()
            && self.upstreams.is_empty()
            && self.dials.is_empty()
            && self.window.is_empty()
    }

    /// Whether a chunk waits for shards or for its turn.
    pub(crate) fn has_open_work(&self) -> bool {
        self.window.is_unsettled() || self.sink.as_ref().is_some_and(|sink| sink.is_waiting(&self.window))
    }

    /// The first chunk for a subscriber that asks for the channel from `from` on (0: the latest join point); 0 when it
    /// has to wait for one. A newcomer to a channel that has ended waits for the next start.
    pub(crate) fn start_for(&self, from: Sequence) -> Sequence {
        let window = &self.window;
        let goes_on = window.oldest() <= from && from != Sequence(0);
        match from {
            _ if window.is_empty() || (window.has_ended() && !goes_on) => Sequence(0),
            _ if goes_on => from.min(window.edge().next()),
            Sequence(0) => window.latest_join_point(),
            _ => window.oldest_join_point(),
        }
    }

    /// What other nodes of the process are to know of the channel, beside its chunks, from the node that has `slots`.
    pub(crate) fn news(&self, slots: Range<u32>) -> Share {
        let floor = self.window.floor();
        let is_fed = !self.upstreams.is_empty();
        Share { key: self.verifier.key(), floor, slots, needs: self.needs_here, is_fed, chunk: None }
    }

    /// What all subscribers of the process need together.
    pub(crate) fn needs(&self, now: Time) -> Needs {
        self.needs_here.and(self.elsewhere.needs(now))
    }

    /// How long a chunk that is short of shards is waited for: as long as a viewer, here or behind a subscriber, does. Behind a
    /// subscriber it is what an upstream is told at least.
    pub(crate) fn patience(&self, now: Time) -> Duration {
        let needs = self.needs(now);
        let behind = Duration::from_millis(needs.slack_ms.into()).max(SPARE_MIN);
        match &self.sink {
            Some(sink) if needs == Needs::NONE => sink.delay(),
            Some(sink) => sink.delay().max(behind),
            None if needs == Needs::NONE => REPAIR_HORIZON,
            None => behind,
        }
    }

    /// What an upstream is told of that time: what those behind this node need themselves is left out.
    pub(crate) fn slack(&self, now: Time) -> Duration {
        let needs = self.needs(now);
        let behind = Duration::from_millis(needs.spare_ms.into());
        match &self.sink {
            Some(sink) => sink.delay().min(behind),
            None if needs == Needs::NONE => REPAIR_HORIZON,
            None => behind,
        }
    }

    /// Settles what can be settled, and counts it for the channel and for the sessions whose part it was.
    pub(crate) fn settle(&mut self, now: Time, sessions: &mut Slab<Session>, totals: &mut Counters) {
        let patience = self.patience(now);
        while let Some(given_up) = self.window.settle_next(now, patience) {
            totals.chunks_lost += u64::from(given_up && !self.is_lent);
        }
        while let Some(settled) = self.window.count_next(now) {
            let of_chunk = settled.within(ShardSet::ALL);
            let gone = of_chunk.lost - of_chunk.recovered - of_chunk.repaired;
            self.data_gone = self.data_gone.wrapping_add(gone as u16);
            if self.is_lent {
                continue;
            }
            self.counters.chunks_counted += of_chunk.chunks;
            self.counters.shards_expected += of_chunk.expected;
            self.counters.lost_squares += of_chunk.lost_squares;
            self.counters.shards_lost += of_chunk.lost;
            self.counters.shards_recovered += of_chunk.recovered;
            self.counters.shards_repaired += of_chunk.repaired;
            totals.shards_lost += of_chunk.lost;
            totals.shards_recovered += of_chunk.recovered;
            totals.shards_repaired += of_chunk.repaired;
            for session in &self.upstreams {
                if let Side::Upstream(upstream) = &mut sessions[*session].side {
                    upstream.note_settled(now, &settled);
                }
            }
        }
    }
}

/// What the other nodes of the process last said of a channel; they say it again with every sweep.
#[derive(Clone, Copy)]
pub(crate) struct Elsewhere {
    /// As they said in this period and in the one before.
    needs: [Needs; 2],
    since: Time,
    fed_at: Option<Time>,
}

impl Default for Elsewhere {
    fn default() -> Elsewhere {
        Elsewhere { needs: [Needs::NONE; 2], since: Time::default(), fed_at: None }
    }
}

impl Elsewhere {
    /// Of several, what all need counts.
    pub(crate) fn note(&mut self, now: Time, share: &Share) {
        if now.since(self.since) > SWEEP_INTERVAL * 2 {
            let before = if now.since(self.since) > SAID_HOLDS { Needs::NONE } else { self.needs[0] };
            (self.needs, self.since) = ([Needs::NONE, before], now);
        }
        self.needs[0] = self.needs[0].and(share.needs);
        if share.is_fed {
            self.fed_at = Some(now);
        }
    }

    /// What subscribers there need.
    fn needs(&self, now: Time) -> Needs {
        if now.since(self.since) > SAID_HOLDS { Needs::NONE } else { self.needs[0].and(self.needs[1]) }
    }

    /// Whether the channel comes in there.
    pub(crate) fn is_fed(&self, now: Time) -> bool {
        self.fed_at.is_some_and(|at| now.since(at) <= SAID_HOLDS)
    }
}

/// What another node said holds for so long: it may be a little behind.
const SAID_HOLDS: Duration = SWEEP_INTERVAL.saturating_mul(4);
