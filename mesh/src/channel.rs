//! One channel as this node carries it: its window, who gives it, who takes it.

use arrayvec::ArrayVec;
use codec::{ChannelVerifier, Sequence};

use crate::fanout::Seats;
use crate::limits::{REPAIR_HORIZON, SWEEP_INTERVAL, UPSTREAMS_PER_CHANNEL_MAX};
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
    /// Sessions with upstreams.
    pub(crate) upstreams: ArrayVec<usize, UPSTREAMS_PER_CHANNEL_MAX>,
    pub(crate) source: Option<Source>,
    pub(crate) sink: Option<Sink>,
    pub(crate) counters: ChannelCounters,
    /// The largest loss of a subscriber, in millionths.
    pub(crate) loss_ppm_max: u32,
    /// The same, among the subscribers of the nodes that this one shares its chunks with.
    pub(crate) loss_elsewhere: LossElsewhere,
    /// The others are to hear of the channel even if nothing of it comes in.
    pub(crate) has_news: bool,
    /// The newest chunk was lent: what is lost of the channel is counted where it comes in.
    pub(crate) is_fed: bool,
    /// Shards fanned out to each subscriber so far.
    pub(crate) shards_fanned: u64,
    /// Repair requests sent so far: they take turns among the upstreams.
    pub(crate) asks: usize,
}

impl Channel {
    pub(crate) fn new(verifier: ChannelVerifier) -> Channel {
        Channel {
            verifier,
            window: Window::new(),
            seats: Seats::default(),
            upstreams: ArrayVec::new(),
            source: None,
            sink: None,
            counters: ChannelCounters::default(),
            loss_ppm_max: 0,
            loss_elsewhere: LossElsewhere::default(),
            has_news: false,
            is_fed: false,
            shards_fanned: 0,
            asks: 0,
        }
    }

    /// Whether nobody here has to do with the channel any more.
    pub(crate) fn is_idle(&self) -> bool {
        let local = self.source.is_some() || self.sink.is_some();
        !local && self.seats.is_empty() && self.upstreams.is_empty() && self.window.is_empty()
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

    /// What other nodes of the process are to know of the channel, beside its chunks.
    pub(crate) fn news(&self) -> Share {
        let floor = self.window.floor();
        Share { key: self.verifier.key(), floor, loss_ppm: self.loss_ppm_max, chunk: None }
    }

    /// The loss that parity is made for, in millionths.
    pub(crate) fn loss_ppm(&self, now: Time) -> u32 {
        self.loss_ppm_max.max(self.loss_elsewhere.at(now))
    }

    /// Settles what can be settled and counts it.
    pub(crate) fn settle(&mut self, now: Time, totals: &mut Counters) {
        let patience = self.sink.as_ref().map_or(REPAIR_HORIZON, Sink::delay);
        while let Some(settled) = self.window.settle_next(now, patience) {
            if self.is_fed {
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

/// What other nodes last said of their subscribers' loss.
#[derive(Clone, Copy, Default)]
pub(crate) struct LossElsewhere {
    ppm: u32,
    said_at: Time,
}

impl LossElsewhere {
    /// The largest that was said lately counts, whoever said it.
    pub(crate) fn note(&mut self, now: Time, ppm: u32) {
        if ppm >= self.at(now) || now.since(self.said_at) > SWEEP_INTERVAL * 2 {
            *self = LossElsewhere { ppm, said_at: now };
        }
    }

    fn at(self, now: Time) -> u32 {
        if now.since(self.said_at) > SWEEP_INTERVAL * 4 { 0 } else { self.ppm }
    }
}
