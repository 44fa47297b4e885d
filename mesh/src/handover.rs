//! What a node leaves to the one that takes its place, so that none of its peers notices that a process ended.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use codec::{
    ChannelKey, ChunkIdentity, DATAGRAM_BYTES, MAX_DATA_SHARDS, Sequence, ShardSet, ShardView, Stripes,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::allowance::Allowance;
use crate::arrivals::Arrivals;
use crate::fanout::Seat;
use crate::limits::PUBLISHERS_PER_CHANNEL_MAX;
use crate::line::{Line, RoundTrip};
use crate::rates::Rates;
use crate::stats::ChannelCounters;
use crate::time::Time;
use crate::window::Counted;

/// The sessions of a node, the newest chunks of its channels, and what it reckons with peers by: made by
/// [`crate::Node::hand_over`], taken up by [`crate::Node::resume`]. It holds secrets: of cookies, and the ids of sessions.
///
/// Of what is deserialized everything is checked that the node relies on, but no signature: it is to come from nobody but
/// an earlier process of the same relay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Contents")]
pub struct Handover(pub(crate) Contents);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Contents {
    pub(crate) cookie_secret: [u8; 16],
    pub(crate) hello_checks: Allowance,
    /// What addresses have used up of their grants.
    pub(crate) grants: Vec<(IpAddr, Allowance)>,
    pub(crate) channels: Vec<ChannelState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChannelState {
    pub(crate) key: [u8; 32],
    pub(crate) counters: ChannelCounters,
    pub(crate) shards_fanned: u64,
    pub(crate) data_fanned: u64,
    pub(crate) is_lent: bool,
    pub(crate) rates: Option<Rates>,
    pub(crate) window: WindowState,
    pub(crate) subscribers: Vec<SubscriberState>,
    pub(crate) publishers: Vec<PublisherState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WindowState {
    pub(crate) edge: u64,
    pub(crate) floor: u64,
    pub(crate) settled: u64,
    pub(crate) joined_at: Option<Time>,
    pub(crate) usual_shards: u64,
    /// In the order of their numbers.
    pub(crate) chunks: Vec<ChunkState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChunkState {
    pub(crate) sequence: u64,
    pub(crate) first_seen: Time,
    pub(crate) asks: u8,
    pub(crate) asked: u64,
    /// Shards that were sent on, also where the chunk itself is another node's to hand over.
    pub(crate) fanned: u64,
    pub(crate) body: Option<BodyState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BodyState {
    /// The shards whose datagrams follow one another in `datagrams`.
    pub(crate) held: u64,
    pub(crate) made: u64,
    pub(crate) repaired: u64,
    pub(crate) inconsistent: bool,
    pub(crate) datagrams: Bytes,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionState {
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    pub(crate) nonce: u64,
    pub(crate) nonce_before: u64,
    pub(crate) begun_at: Time,
    pub(crate) start: u64,
    pub(crate) round_trip: Option<RoundTrip>,
    pub(crate) echo: (u64, Time),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SubscriberState {
    pub(crate) session: SessionState,
    /// Its number in the ledger: later ones have higher numbers, at all nodes of the process.
    pub(crate) serial: u64,
    pub(crate) line: Line,
    pub(crate) seat: Seat,
    /// [`Stripes::of`] and [`Stripes::wanted`].
    pub(crate) stripes: (u8, u16),
    pub(crate) settled: u64,
    pub(crate) repair_credit: u32,
    pub(crate) channel_shards: u32,
    pub(crate) backlog: Option<BacklogState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BacklogState {
    pub(crate) next: u64,
    pub(crate) sent: u64,
    pub(crate) through: u64,
    pub(crate) due: Time,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PublisherState {
    pub(crate) session: SessionState,
    pub(crate) shards_received: u64,
    pub(crate) counted: Counted,
    pub(crate) wasted_checks: Allowance,
    pub(crate) datagrams: u64,
    pub(crate) arrivals: Arrivals,
}

/// No process lets in so many.
const SERIAL_MAX: u64 = 1 << 62;

/// What a handover says that no node hands over.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Unfit(&'static str);

impl Handover {
    /// Changes with every change of what is written.
    pub const FORMAT: u32 = 4;

    /// Granted sessions in it.
    pub fn sessions(&self) -> usize {
        self.0.channels.iter().map(|channel| channel.subscribers.len() + channel.publishers.len()).sum()
    }

    /// Chunks in it.
    pub fn chunks(&self) -> usize {
        let chunks = |channel: &ChannelState| {
            channel.window.chunks.iter().filter(|chunk| chunk.body.is_some()).count()
        };
        self.0.channels.iter().map(chunks).sum()
    }
}

impl TryFrom<Contents> for Handover {
    type Error = Unfit;

    fn try_from(contents: Contents) -> Result<Handover, Unfit> {
        let mut tags = BTreeSet::new();
        for channel in &contents.channels {
            let key = ChannelKey(channel.key);
            ensure(key.verifier().is_ok() && tags.insert(key.tag()), "no channel has this key, or two have")?;
            channel.check(&key)?;
        }
        Ok(Handover(contents))
    }
}

impl ChannelState {
    fn check(&self, key: &ChannelKey) -> Result<(), Unfit> {
        self.window.check(key)?;
        ensure(
            self.publishers.len() <= PUBLISHERS_PER_CHANNEL_MAX,
            "more publishers than a channel may have",
        )?;
        let subscribers = self.subscribers.iter().map(|subscriber| (&subscriber.session, false));
        let publishers = self.publishers.iter().map(|publisher| (&publisher.session, true));
        let mut peers = BTreeSet::new();
        for (session, publishes) in subscribers.chain(publishers) {
            ensure(
                session.round_trip.is_none_or(|round_trip| round_trip.is_possible()),
                "a round trip that is never taken in",
            )?;
            let is_canonical = session.address.ip().to_canonical() == session.address.ip();
            ensure(is_canonical && peers.insert((session.address, publishes)), "two sessions of one peer")?;
        }
        let earned =
            |subscriber: &SubscriberState| u64::from(subscriber.channel_shards) <= self.shards_fanned;
        ensure(self.subscribers.iter().all(earned), "a subscriber was sent more than its channel")?;
        ensure(
            self.subscribers.iter().all(|subscriber| subscriber.serial <= SERIAL_MAX),
            "nobody has that number",
        )?;
        let of_these = |subscriber: &SubscriberState| subscriber.stripes().is_some();
        ensure(self.subscribers.iter().all(of_these), "more stripes than there are")?;
        let ChannelCounters { shards_lost, shards_recovered, shards_repaired, .. } = self.counters;
        let Rates { peak, last, mean } = self.rates.unwrap_or_default();
        ensure(peak.max(last).max(mean) <= RATE_MAX, "faster than any channel is")?;
        ensure(self.totals().into_iter().all(|total| total <= TOTAL_MAX), "more than any node counts")?;
        let lost_no_more = |publisher: &PublisherState| {
            publisher.counted.lost <= shards_lost
                && publisher.counted.recovered <= shards_recovered
                && publisher.counted.repaired <= shards_repaired
        };
        ensure(self.publishers.iter().all(lost_no_more), "a session lost more than its channel")?;
        ensure(
            self.publishers.iter().all(|publisher| publisher.arrivals.is_possible()),
            "arrivals that no node measures",
        )
    }
}

impl SubscriberState {
    /// What it wants of each chunk.
    pub(crate) fn stripes(&self) -> Option<Stripes> {
        Stripes::new(self.stripes.0, self.stripes.1)
    }
}

impl ChannelState {
    fn totals(&self) -> impl IntoIterator<Item = u64> {
        let of_publisher = |publisher: &PublisherState| {
            let Counted { chunks, expected, lost, lost_squares, recovered, repaired } = publisher.counted;
            let PublisherState { shards_received, datagrams, .. } = *publisher;
            [chunks, expected, lost, lost_squares, recovered, repaired, shards_received, datagrams]
        };
        let of_channel = self.counters.all().into_iter().chain([self.shards_fanned, self.data_fanned]);
        of_channel.chain(self.publishers.iter().flat_map(of_publisher))
    }
}

/// Totals above are none: at a million a second it takes 36,000 years to get there.
const TOTAL_MAX: u64 = 1 << 60;

/// Shards in 1,000 seconds: what 700 Gbit/s come to.
const RATE_MAX: u64 = 1 << 36;

impl WindowState {
    fn check(&self, key: &ChannelKey) -> Result<(), Unfit> {
        let numbers = || self.chunks.iter().map(|chunk| chunk.sequence);
        ensure(self.edge == 0 || Sequence(self.edge).is_valid(), "no channel gets as far as that")?;
        let is_within = self.floor <= self.edge.saturating_add(1) && self.settled <= self.edge;
        ensure(is_within, "a window beyond its edge")?;
        ensure(self.usual_shards <= MAX_DATA_SHARDS as u64, "more data shards than a chunk may have")?;
        ensure(numbers().is_sorted_by(|a, b| a < b), "chunks out of order")?;
        ensure(
            numbers().all(|number| number >= self.floor.max(1) && number <= self.edge),
            "a chunk beyond its window",
        )?;
        self.chunks.iter().try_for_each(|chunk| chunk.check(key))
    }
}

impl ChunkState {
    fn check(&self, key: &ChannelKey) -> Result<(), Unfit> {
        let Some(body) = &self.body else { return Ok(()) };
        let Some((first, _)) = body.shards().next() else { return Err(Unfit("a chunk without a shard")) };
        let known = body.identity().ok_or(Unfit("a chunk's first shard is none"))?;
        let Sequence(sequence) = known.header.sequence;
        ensure(first.len() == DATAGRAM_BYTES && sequence == self.sequence, "a chunk under another's number")?;
        ensure(known.header.tag == key.tag(), "a chunk of another channel")?;
        let all = known.header.layout().all_shards().bits();
        let length = body.held.count_ones() as usize * DATAGRAM_BYTES;
        ensure(body.held & !all == 0 && body.datagrams.len() == length, "other shards than it says")?;
        let fits = |(datagram, index): (&[u8], usize)| {
            let shard = ShardView::parse(datagram).ok()?;
            Some(shard.index() == index && shard.header() == known.header && known.signature_is_of(&shard))
        };
        ensure(body.shards().all(|shard| fits(shard) == Some(true)), "shards of two chunks in one")
    }
}

impl BodyState {
    /// The datagrams with their numbers.
    pub(crate) fn shards(&self) -> impl Iterator<Item = (&[u8], usize)> {
        self.datagrams.chunks(DATAGRAM_BYTES).zip(ShardSet::from_bits(self.held).iter())
    }

    /// What the first shard says that the chunk is.
    pub(crate) fn identity(&self) -> Option<ChunkIdentity> {
        let (first, _) = self.shards().next()?;
        ShardView::parse(first).ok().map(|shard| ChunkIdentity::claimed_by(&shard))
    }
}

fn ensure(holds: bool, what: &'static str) -> Result<(), Unfit> {
    if holds { Ok(()) } else { Err(Unfit(what)) }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn session(port: u16) -> SessionState {
        SessionState {
            id: 1,
            address: ([192, 0, 2, 1], port).into(),
            nonce: 2,
            nonce_before: 3,
            begun_at: Time(4),
            start: 5,
            round_trip: Some(RoundTrip::first(Duration::from_micros(6))),
            echo: (7, Time(8)),
        }
    }

    fn sample() -> Contents {
        let key = codec::ChannelSecret::from_seed(&[9; 32]).key();
        let counters = ChannelCounters { shards_received: 1, shards_lost: 2, ..ChannelCounters::default() };
        let backlog = BacklogState { next: 12, sent: 3, through: 13, due: Time(14) };
        let hole =
            ChunkState { sequence: 12, first_seen: Time(15), asks: 1, asked: 2, fanned: 3, body: None };
        let subscriber = SubscriberState {
            session: session(1),
            serial: 4,
            line: Line::new(0),
            seat: Seat::new(([192, 0, 2, 1], 1).into()),
            stripes: (2, 1),
            settled: 9,
            repair_credit: 10,
            channel_shards: 11,
            backlog: Some(backlog),
        };
        let publisher = PublisherState {
            session: session(2),
            shards_received: 16,
            counted: Counted::default(),
            wasted_checks: Allowance::new(Time(17)),
            datagrams: 18,
            arrivals: Arrivals::default(),
        };
        let window = WindowState {
            edge: 13,
            floor: 12,
            settled: 11,
            joined_at: Some(Time(20)),
            usual_shards: 21,
            chunks: vec![hole],
        };
        Contents {
            cookie_secret: [7; 16],
            hello_checks: Allowance::new(Time(22)),
            grants: vec![([192, 0, 2, 1].into(), Allowance::new(Time(23)))],
            channels: vec![ChannelState {
                key: key.0,
                counters,
                shards_fanned: 24,
                data_fanned: 20,
                is_lent: false,
                rates: Some(Rates { peak: 3, last: 2, mean: 1 }),
                window,
                subscribers: vec![subscriber],
                publishers: vec![publisher],
            }],
        }
    }

    /// A relay is taken for its successor by this number: whoever changes what is written raises it, and then these.
    #[test]
    fn what_is_written_is_what_the_format_says() {
        let body = BodyState {
            held: 1,
            made: 2,
            repaired: 4,
            inconsistent: true,
            datagrams: Bytes::from_static(b"SP"),
        };
        let written = postcard::to_stdvec(&(Handover(sample()), body)).unwrap();
        let digest = written.iter().fold(0_u64, |digest, &byte| {
            digest.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(byte)
        });
        assert_eq!((Handover::FORMAT, written.len(), digest), (4, 194, 14_782_351_194_075_422_855));
    }

    type Change = fn(&mut ChannelState);

    #[test]
    fn what_no_node_hands_over_is_refused() {
        let refused = |change: Change| {
            let mut contents = sample();
            change(&mut contents.channels[0]);
            Handover::try_from(contents).err().map(|unfit| unfit.0)
        };
        assert_eq!(refused(|_| ()), None);
        let wrong: [(Change, &str); 17] = [
            (|channel| channel.key = [2; 32], "no channel has this key, or two have"),
            (|channel| channel.window.edge = 11, "a chunk beyond its window"),
            (|channel| channel.window.edge = u64::MAX, "no channel gets as far as that"),
            (|channel| channel.window.settled = u64::MAX, "a window beyond its edge"),
            (|channel| channel.window.floor = 15, "a window beyond its edge"),
            (|channel| channel.window.usual_shards = 33, "more data shards than a chunk may have"),
            (
                |channel| channel.rates = Some(Rates { peak: u64::MAX, ..Rates::default() }),
                "faster than any channel is",
            ),
            (|channel| channel.counters.chunks_counted = u64::MAX, "more than any node counts"),
            (|channel| channel.publishers[0].datagrams = u64::MAX, "more than any node counts"),
            (
                |channel| {
                    let hour = Duration::from_secs(3_600);
                    channel.subscribers[0].session.round_trip = Some(RoundTrip::first(hour));
                },
                "a round trip that is never taken in",
            ),
            (
                |channel| {
                    let another =
                        |port| PublisherState { session: session(port), ..channel.publishers[0].clone() };
                    channel.publishers = (3..8).map(another).collect();
                },
                "more publishers than a channel may have",
            ),
            (|channel| channel.window.chunks.push(channel.window.chunks[0].clone()), "chunks out of order"),
            (|channel| channel.subscribers.push(channel.subscribers[0].clone()), "two sessions of one peer"),
            (|channel| channel.subscribers[0].stripes = (17, 0), "more stripes than there are"),
            (|channel| channel.subscribers[0].serial = u64::MAX, "nobody has that number"),
            (|channel| channel.shards_fanned = 10, "a subscriber was sent more than its channel"),
            (|channel| channel.publishers[0].counted.lost = 3, "a session lost more than its channel"),
        ];
        for (change, why) in wrong {
            assert_eq!(refused(change), Some(why));
        }
    }
}
