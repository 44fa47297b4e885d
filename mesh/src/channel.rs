//! One channel as this node carries it: its window, who gives it, who takes it.

use core::ops::Range;
use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use codec::{ChannelVerifier, Sequence};

use crate::egress::{Bucket, Cap, shard_cost};
use crate::fanout::{Audience, Seats};
use crate::ledger::Common;
use crate::limits::{
    ChannelLimits, DIALS_PER_CHANNEL_MAX, REPAIR_HORIZON, SWEEP_INTERVAL, UPSTREAMS_PER_CHANNEL_MAX,
};
use crate::rates::{RateMeter, Rates};
use crate::session::parity_for;
use crate::share::Share;
use crate::sink::Sink;
use crate::source::Source;
use crate::stats::{ChannelCounters, Counters};
use crate::time::Time;
use crate::window::Window;

pub(crate) struct Channel {
    pub(crate) verifier: ChannelVerifier,
    pub(crate) window: Window,
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
    /// The largest loss of a subscriber, in millionths.
    pub(crate) loss_ppm_max: u32,
    pub(crate) elsewhere: Elsewhere,
    /// The others are to hear of the channel even if nothing of it comes in.
    pub(crate) has_news: bool,
    /// All others have heard that no chunk below is kept here.
    pub(crate) floor_told: Sequence,
    /// The newest chunk was lent: what is lost of the channel is counted where it comes in.
    pub(crate) is_lent: bool,
    /// Shards fanned out to each subscriber so far.
    pub(crate) shards_fanned: u64,
    /// Repair requests sent so far: they take turns among the upstreams.
    pub(crate) asks: usize,
}

impl Channel {
    pub(crate) fn new(verifier: ChannelVerifier, common: Arc<Common>) -> Channel {
        Channel {
            verifier,
            window: Window::new(),
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
            loss_ppm_max: 0,
            elsewhere: Elsewhere::default(),
            has_news: false,
            is_lent: false,
            floor_told: Sequence(0),
            shards_fanned: 0,
            asks: 0,
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
        Audience { seats: &self.seats, budget: self.budget() }
    }

    /// Measures how fast the channel comes in.
    pub(crate) fn measure(&mut self, now: Time) {
        self.rates = self.meter.note(now, self.window.shards_opened(), self.window.usual_shards());
    }

    /// Bytes on the wire that a subscriber with this loss costs for each data shard, parity included.
    pub(crate) fn cost_for(&self, to: SocketAddr, loss_ppm: u32) -> u32 {
        let cost = shard_cost(to);
        let parity = self.window.newest_layout().map_or(0, |layout| {
            let (data, parity) = (layout.data_shards(), layout.parity_shards());
            cost * parity_for(loss_ppm, data, parity) as u64 / data as u64
        });
        (cost + parity) as u32
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
        Share { key: self.verifier.key(), floor, slots, loss_ppm: self.loss_ppm_max, is_fed, chunk: None }
    }

    /// The loss that parity is made for, in millionths.
    pub(crate) fn loss_ppm(&self, now: Time) -> u32 {
        self.loss_ppm_max.max(self.elsewhere.loss_ppm(now))
    }

    /// Settles what can be settled and counts it.
    pub(crate) fn settle(&mut self, now: Time, totals: &mut Counters) {
        let patience = self.sink.as_ref().map_or(REPAIR_HORIZON, Sink::delay);
        while let Some(settled) = self.window.settle_next(now, patience) {
            if self.is_lent {
                continue;
            }
            self.counters.shards_lost += settled.lost;
            self.counters.shards_recovered += settled.recovered;
            self.counters.shards_repaired += settled.repaired;
            totals.shards_lost += settled.lost;
            totals.shards_recovered += settled.recovered;
            totals.shards_repaired += settled.repaired;
            totals.chunks_lost += u64::from(settled.given_up);
        }
    }
}

/// What the other nodes of the process last said of a channel; they say it again with every sweep.
#[derive(Clone, Copy, Default)]
pub(crate) struct Elsewhere {
    loss_ppm: u32,
    loss_said_at: Time,
    fed_at: Option<Time>,
}

impl Elsewhere {
    /// Of several, the largest loss counts.
    pub(crate) fn note(&mut self, now: Time, share: &Share) {
        if share.loss_ppm >= self.loss_ppm(now) || now.since(self.loss_said_at) > SWEEP_INTERVAL * 2 {
            (self.loss_ppm, self.loss_said_at) = (share.loss_ppm, now);
        }
        if share.is_fed {
            self.fed_at = Some(now);
        }
    }

    /// The largest loss of a subscriber there.
    fn loss_ppm(&self, now: Time) -> u32 {
        if now.since(self.loss_said_at) > SAID_HOLDS { 0 } else { self.loss_ppm }
    }

    /// Whether the channel comes in there.
    pub(crate) fn is_fed(&self, now: Time) -> bool {
        self.fed_at.is_some_and(|at| now.since(at) <= SAID_HOLDS)
    }
}

/// What another node said holds for so long: it may be a little behind.
const SAID_HOLDS: Duration = SWEEP_INTERVAL.saturating_mul(4);
