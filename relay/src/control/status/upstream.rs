//! Who gives a channel: publishers that came in, and relays that it is pulled from.

use std::collections::HashMap;
use std::net::SocketAddr;

use codec::ChannelKey;
use mesh::{RelayState, UpstreamSummary};
use serde::{Deserialize, Serialize};

use crate::upstreams::UpstreamView;

/// One upstream of one channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// The channel's key, 64 hex digits.
    pub channel: String,
    /// As the configuration, or another relay, names it; of a publisher, its address.
    pub name: String,
    /// Where it is, once that is known.
    pub address: Option<SocketAddr>,
    /// What it is.
    pub role: UpstreamRole,
    /// What became of it.
    pub state: UpstreamState,
    /// Why it refused, if it did.
    pub reason: Option<String>,
    /// What there is of the session, if there is one.
    pub session: Option<UpstreamSession>,
}

/// What an upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamRole {
    /// It came in and publishes.
    Publisher,
    /// A relay that the channel is pulled from.
    Relay,
}

/// What became of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamState {
    /// There is a session with it.
    Connected,
    /// It is asked for one.
    Dialling,
    /// It has its turn when the one before is of no use.
    Waiting,
    /// Its addresses are being looked up.
    LookingUp,
    /// Its name has no address, so far.
    NotFound,
    /// It refused for good, and is asked again once a minute.
    Refused,
    /// It is this relay itself.
    Itself,
}

impl UpstreamState {
    /// Every state, with the label of its metric.
    pub(in crate::control) const ALL: [(UpstreamState, &'static str); 7] = [
        (UpstreamState::Connected, "connected"),
        (UpstreamState::Dialling, "dialling"),
        (UpstreamState::Waiting, "waiting"),
        (UpstreamState::LookingUp, "looking_up"),
        (UpstreamState::NotFound, "not_found"),
        (UpstreamState::Refused, "refused"),
        (UpstreamState::Itself, "itself"),
    ];
}

/// A session in which a channel comes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpstreamSession {
    /// How long it has been, s.
    pub age_s: u64,
    /// How much of each chunk it is to give: 1 all, 0.5 a half, 0 nothing, for it failed and others give its part.
    pub share: f64,
    /// The smoothed round trip, µs, once one was measured.
    pub rtt_us: Option<u64>,
    /// From capture to arrival of the last chunk of which it brought the first shard, µs; both machines' clocks are in it.
    pub delay_us: Option<i64>,
    /// The least of these.
    pub delay_us_min: Option<i64>,
    /// How much they vary, µs (RFC 3550 §6.4.1 interarrival jitter).
    pub spread_us: i64,
    /// Shards received and kept.
    pub shards_received: u64,
    /// Data shards of the channel that did not come by themselves during the session, from whichever upstream.
    pub shards_lost: u64,
    /// Of those, made good by the erasure code.
    pub shards_recovered: u64,
    /// Of those, made good by repair.
    pub shards_repaired: u64,
    /// Shards that had come already.
    pub duplicates: u64,
}

impl From<&UpstreamSummary> for UpstreamSession {
    fn from(summary: &UpstreamSummary) -> UpstreamSession {
        let (parts, of) = summary.stripes.share();
        UpstreamSession {
            age_s: summary.age.as_secs(),
            share: f64::from(parts) / f64::from(of),
            rtt_us: summary.rtt.map(|rtt| rtt.as_micros() as u64),
            delay_us: summary.delay_us,
            delay_us_min: summary.delay_us_min,
            spread_us: summary.spread_us,
            shards_received: summary.shards_received,
            shards_lost: summary.shards_lost,
            shards_recovered: summary.shards_recovered,
            shards_repaired: summary.shards_repaired,
            duplicates: summary.duplicates,
        }
    }
}

/// Publishers and relays, by channel: what the configuration wants, and the sessions that there are.
pub(super) fn all(views: &[UpstreamView], sessions: &[UpstreamSummary]) -> Vec<UpstreamStatus> {
    let pulled = sessions.iter().filter(|session| session.is_dialled);
    let pulled: HashMap<(ChannelKey, SocketAddr), &UpstreamSummary> =
        pulled.map(|session| ((session.key, session.address), session)).collect();
    let relays = views.iter().map(|view| of_relay(view, &pulled));
    let publishers = sessions.iter().filter(|session| !session.is_dialled).map(of_publisher);
    let mut all: Vec<UpstreamStatus> = publishers.chain(relays).collect();
    // Stable: the relays of a channel stay in the order of the configuration.
    all.sort_by(|a, b| a.channel.cmp(&b.channel));
    all
}

fn of_publisher(session: &UpstreamSummary) -> UpstreamStatus {
    UpstreamStatus {
        channel: session.key.to_string(),
        name: session.address.to_string(),
        address: Some(session.address),
        role: UpstreamRole::Publisher,
        state: UpstreamState::Connected,
        reason: None,
        session: Some(session.into()),
    }
}

fn of_relay(
    view: &UpstreamView,
    pulled: &HashMap<(ChannelKey, SocketAddr), &UpstreamSummary>,
) -> UpstreamStatus {
    let (state, address, reason) = match view.state {
        RelayState::Connected(address) => (UpstreamState::Connected, Some(address), None),
        RelayState::Dialling(address) => (UpstreamState::Dialling, Some(address), None),
        RelayState::Waiting => (UpstreamState::Waiting, None, None),
        RelayState::LookingUp => (UpstreamState::LookingUp, None, None),
        RelayState::NotFound => (UpstreamState::NotFound, None, None),
        RelayState::Refused(reason) => (UpstreamState::Refused, None, Some(reason.to_string())),
        RelayState::Itself => (UpstreamState::Itself, None, None),
    };
    let session = address.and_then(|address| pulled.get(&(view.key, address)));
    UpstreamStatus {
        channel: view.key.to_string(),
        name: view.name.clone(),
        address,
        role: UpstreamRole::Relay,
        state,
        reason,
        session: session.map(|session| (*session).into()),
    }
}
