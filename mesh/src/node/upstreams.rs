//! Those who give: channels that a relay takes from other relays, and what is known of whoever gives one.

use core::time::Duration;
use std::net::SocketAddr;

use codec::wire::control::Hello;
use codec::{ChannelKey, InvalidKey, Stripes};

use crate::dial::DialState;
use crate::limits::{REFUSED_AGAIN, STARVED_MAX};
use crate::node::{ChannelId, DialId, Event, Node};
use crate::session::Side;
use crate::time::Time;

/// A session in which a channel comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamSummary {
    /// The channel.
    pub key: ChannelKey,
    /// The other node.
    pub address: SocketAddr,
    /// This node dialled it; else it came to publish.
    pub is_dialled: bool,
    /// How long the session has been, as of what was heard last.
    pub age: Duration,
    /// The smoothed round trip, once one was measured.
    pub rtt: Option<Duration>,
    /// From the capture of the last chunk of which it brought the first shard to that shard's arrival, µs; both clocks are in
    /// it.
    pub delay_us: Option<i64>,
    /// The least of these.
    pub delay_us_min: Option<i64>,
    /// How much they vary, µs (RFC 3550 §6.4.1 interarrival jitter).
    pub spread_us: i64,
    /// Shards received and kept.
    pub shards_received: u64,
    /// What it is to give of each chunk.
    pub stripes: Stripes,
    /// Of what it was to give, data shards that did not come by themselves from anybody.
    pub shards_lost: u64,
    /// Of those, made good by the erasure code.
    pub shards_recovered: u64,
    /// Of those, made good by repair.
    pub shards_repaired: u64,
    /// Shards that had come already.
    pub duplicates: u64,
}

impl Node {
    /// Takes a channel from the node at `target`, now and for good, to serve it to those who subscribe here. The channel is
    /// kept as long as the dial is: [`Node::hang_up`].
    ///
    /// # Errors
    /// [`InvalidKey`] when `key` cannot be a channel.
    pub fn pull(&mut self, now: Time, key: &ChannelKey, target: SocketAddr) -> Result<DialId, InvalidKey> {
        let channel = self.find_or_add_channel(key)?;
        Ok(self.dial(now, ChannelId(channel), target))
    }

    /// All sessions in which a channel comes in.
    pub fn upstreams(&self) -> impl Iterator<Item = UpstreamSummary> {
        let sessions = self.channels.iter().flat_map(|(_, channel)| &channel.upstreams);
        sessions.filter_map(|&index| {
            let session = &self.sessions[index];
            let Side::Upstream(upstream) = &session.side else { return None };
            let channel = &self.channels[session.channel];
            Some(UpstreamSummary {
                key: channel.verifier.key(),
                address: session.peer.address,
                is_dialled: session.dial().is_some(),
                age: session.heard_at.since(session.begun_at),
                rtt: session.round_trip.map(|round_trip| round_trip.mean()),
                delay_us: upstream.arrivals.last,
                delay_us_min: upstream.arrivals.fastest(),
                spread_us: upstream.arrivals.spread_us().into(),
                shards_received: upstream.shards_received,
                stripes: upstream.striping.wanted(),
                shards_lost: upstream.counted.lost,
                shards_recovered: upstream.counted.recovered,
                shards_repaired: upstream.counted.repaired,
                duplicates: upstream.duplicates,
            })
        })
    }

    /// Whether a `Hello` is from a node of this process, come back by whichever of its addresses. If it is this node's own, the
    /// dial rests; that of another node is never answered.
    pub(super) fn meets_itself(&mut self, now: Time, hello: &Hello) -> bool {
        if !self.own_hellos.made(hello.nonce) {
            return false;
        }
        let Some(&channel) = self.channels_by_tag.get(&hello.key.tag()) else { return true };
        let is_out = |dial: &&usize| matches!(self.dials[**dial].state, DialState::Greeting { nonce, .. } if nonce == hello.nonce);
        if let Some(&index) = self.channels[channel].dials.iter().find(is_out) {
            self.dials[index].rest(now.after(REFUSED_AGAIN));
            self.dials[index].note_in_vain();
            self.tell(Event::Itself { dial: DialId(index) });
        }
        true
    }

    /// Says so when a session of a dial has brought nothing for long, nor any other of the channel.
    pub(super) fn tell_if_starved(&mut self, now: Time, index: usize) {
        let session = &mut self.sessions[index];
        let (Some(dial), Side::Upstream(upstream)) = (session.dial(), &mut session.side) else { return };
        let since = upstream.starved_at.max(self.channels[session.channel].fresh_at);
        if now.since(since) > STARVED_MAX {
            upstream.starved_at = now;
            self.tell(Event::Starved { dial: DialId(dial) });
        }
    }
}
