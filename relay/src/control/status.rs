//! What the relay is doing, for people and programs: one JSON object.

mod upstream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use codec::ChannelKey;
use jiff::Timestamp;
use mesh::{ChannelSummary, Time};
use serde::{Deserialize, Serialize};

use super::commands::Draining;
use super::history::History;
pub use super::history::Rates;
use crate::config::Counts;
use crate::process;
use crate::running::Relay;
use crate::snapshot::{Snapshot, WorkerSummary};
pub use upstream::{UpstreamRole, UpstreamSession, UpstreamState, UpstreamStatus};

/// The answer to `GET /status` and to `superpeer status --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// When this was counted, µs since the Unix epoch.
    pub at_us: u64,
    /// Time since the start, s.
    pub uptime_s: u64,
    /// Where the relay listens.
    pub listen: Option<SocketAddr>,
    /// What the kernel gave it.
    pub probe: String,
    /// Whether it moves its datagrams through io_uring, or by `recvmmsg` and `sendmmsg`.
    pub uses_io_uring: bool,
    /// Whether all workers have said something lately.
    pub is_healthy: bool,
    /// How far the relay is drained, if it is being drained.
    pub drain: Option<Draining>,
    /// Rates over the last 10 s, 1, 5, 15 and 60 minutes.
    pub rates: Vec<Rates>,
    /// Sessions that take a channel, all channels together.
    pub subscribers: usize,
    /// Sessions of both directions.
    pub sessions: usize,
    /// Processor time of the whole process since its start, s.
    pub cpu_s: f64,
    /// Resident memory of the process, bytes.
    pub rss_bytes: u64,
    /// Memory that windows fill, bytes.
    pub window_bytes: usize,
    /// What leaves, and what may.
    pub egress: EgressStatus,
    /// One entry for each worker.
    pub workers: Vec<WorkerStatus>,
    /// One entry for each channel, those with the most subscribers first.
    pub channels: Vec<ChannelStatus>,
    /// Who gives them: publishers, and the relays that they are pulled from. By channel.
    pub upstreams: Vec<UpstreamStatus>,
    /// Totals since the start.
    pub totals: Totals,
    /// The transfer quota, if there is one.
    pub quota: Option<QuotaStatus>,
}

/// The transfer quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaStatus {
    /// What may be used in a period, bytes of IP.
    pub max_bytes: u64,
    /// What was used of it.
    pub used_bytes: u64,
    /// What is left.
    pub left_bytes: u64,
    /// What counts.
    pub counts: Counts,
    /// Since when.
    pub period_start: Timestamp,
    /// When the next period begins.
    pub period_end: Timestamp,
    /// What comes of it.
    pub state: QuotaState,
    /// Whether the file that keeps account could be written lately.
    pub is_written: bool,
}

/// What comes of how much was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaState {
    /// Nothing.
    #[default]
    Ok,
    /// 80 or 95 % are used.
    Warned,
    /// More is used than an even pace allows: new subscribers are turned away.
    Paced,
    /// Nobody is let in, and everybody was let go.
    UsedUp,
}

/// Egress, in bits of IP per second: payload, and 28 (IPv4) or 48 (IPv6) bytes of headers for each datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EgressStatus {
    /// The cap; `None`: there is none.
    pub max_bps: Option<u64>,
    /// What subscribers are promised.
    pub promised_bps: u64,
    /// What left over the last second.
    pub sent_bps: f64,
    /// Subscribers refused because what they need does not fit.
    pub refused: u64,
    /// Subscribers let go because what is needed did not fit any more.
    pub let_go: u64,
    /// Batches that waited for the cap.
    pub waits: u64,
    /// `Hello`s left unanswered for a while so that those who came just before get their backlogs in time.
    pub joins_deferred: u64,
    /// Joiners started at the live edge for want of room for their backlog.
    pub backlogs_skipped: u64,
}

/// One worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Share of a processor over the last second.
    pub cpu: f64,
    /// Processor time since the start, s.
    pub cpu_s: f64,
    /// Sessions that it has.
    pub sessions: usize,
    /// Payload that it sent over the last second, bit/s.
    pub sent_bps: f64,
}

/// One channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Its key, 64 hex digits.
    pub key: String,
    /// Sessions that take it.
    pub subscribers: usize,
    /// How much of it they take together: each counts 1, or the part that it takes from here if it takes the rest elsewhere.
    pub subscribers_share: f64,
    /// How many may.
    pub subscribers_max: usize,
    /// Bits of IP per second that may leave of it; `None`: no cap of its own.
    pub egress_max_bps: Option<u64>,
    /// Bits of IP per second that its subscribers are promised.
    pub promised_bps: u64,
    /// Sessions that give it.
    pub upstreams: usize,
    /// Chunks that are kept.
    pub chunks: usize,
    /// Payload that came in over the last second, bit/s.
    pub received_bps: f64,
    /// Payload that was sent to subscribers over the last second, bit/s; parity and repair are in it.
    pub sent_bps: f64,
    /// Shards that came in.
    pub shards_received: u64,
    /// Shards that were sent to subscribers.
    pub shards_sent: u64,
    /// Data shards that did not come by themselves.
    pub shards_lost: u64,
    /// Of those, made good by the erasure code.
    pub shards_recovered: u64,
    /// Of those, made good by repair.
    pub shards_repaired: u64,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Payload bytes that came in.
    pub received_bytes: u64,
    /// Payload bytes that were sent.
    pub sent_bytes: u64,
    /// Datagrams that were sent.
    pub sent_datagrams: u64,
    /// Trains handed out to be sent.
    pub trains_sent: u64,
    /// Shards in them.
    pub shards_sent: u64,
    /// Payload bytes of trains that the kernel copied.
    pub copied_bytes: u64,
    /// Payload bytes of trains that left without a copy.
    pub zero_copy_bytes: u64,
    /// Sessions granted.
    pub sessions_granted: u64,
    /// `Hello`s refused.
    pub sessions_refused: u64,
    /// Subscribers let go because their lines could not take the stream.
    pub sessions_strained: u64,
    /// Chunks given up.
    pub chunks_lost: u64,
    /// Trains that were skipped because they were late.
    pub jobs_skipped: u64,
    /// Messages that the kernel would not send.
    pub send_errors: u64,
    /// Of those, dropped because the socket took no more for too long.
    pub gave_up: u64,
    /// Times that sending waited because the socket took no more.
    pub blocked: u64,
    /// Times that receiving ended because every buffer was full.
    pub no_buffers: u64,
    /// Times that the completion queue was found overflowed.
    pub cq_overflow: u64,
    /// Datagrams dropped, whatever for.
    pub dropped: u64,
}

/// What a status is made of.
pub(super) struct Sources<'s> {
    pub(super) relay: &'s Relay,
    pub(super) started_at: Time,
    pub(super) history: &'s History,
    pub(super) last: &'s Snapshot,
    pub(super) now: &'s Snapshot,
    pub(super) quota: Option<QuotaStatus>,
    pub(super) drain: Option<Draining>,
}

impl Status {
    pub(super) fn new(sources: &Sources<'_>) -> Status {
        let Sources { relay, started_at, history, last, now, quota, drain } = sources;
        // Before the first count there is none to compare with.
        let elapsed = if last.at == Time::default() { Duration::ZERO } else { now.at.since(last.at) };
        let known: HashMap<ChannelKey, &ChannelSummary> =
            last.channels.iter().map(|channel| (channel.key, channel)).collect();
        let mut channels: Vec<ChannelStatus> = now
            .channels
            .iter()
            .map(|channel| ChannelStatus::new(channel, known.get(&channel.key).copied(), elapsed))
            .collect();
        channels.sort_by(|a, b| b.subscribers.cmp(&a.subscribers).then_with(|| a.key.cmp(&b.key)));
        let nothing = WorkerSummary::default();
        let before = last.workers.iter().chain(std::iter::repeat(&nothing));
        let workers = now.workers.iter().zip(before);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at_us: now.at.0,
            uptime_s: now.at.since(*started_at).as_secs(),
            listen: Some(relay.local_addr()),
            probe: relay.probe().to_owned(),
            uses_io_uring: relay.uses_io_uring(),
            is_healthy: true,
            drain: *drain,
            rates: history.rates(),
            subscribers: channels.iter().map(|channel| channel.subscribers).sum(),
            sessions: now.sessions,
            cpu_s: process::cpu().as_secs_f64(),
            rss_bytes: process::rss_bytes(),
            window_bytes: now.window_bytes,
            egress: EgressStatus {
                max_bps: now.egress.bps_max,
                promised_bps: now.egress.promised_bps,
                sent_bps: 8.0 * rate(now.plane.ip_bytes_sent, last.plane.ip_bytes_sent, elapsed),
                refused: now.node.egress_refused,
                let_go: now.node.egress_let_go,
                waits: now.node.egress_waits,
                joins_deferred: now.node.joins_deferred,
                backlogs_skipped: now.node.backlogs_skipped,
            },
            workers: workers
                .map(|(now, last)| WorkerStatus {
                    cpu: per_second(now.cpu.saturating_sub(last.cpu), elapsed),
                    cpu_s: now.cpu.as_secs_f64(),
                    sessions: now.sessions,
                    sent_bps: 8.0 * rate(now.bytes_sent, last.bytes_sent, elapsed),
                })
                .collect(),
            channels,
            upstreams: upstream::all(&relay.upstreams(), &now.upstreams),
            totals: Totals {
                received_bytes: now.plane.bytes_received,
                sent_bytes: now.plane.bytes_sent,
                sent_datagrams: now.plane.datagrams_sent,
                trains_sent: now.node.trains_sent,
                shards_sent: now.node.shards_sent,
                copied_bytes: now.plane.copied_bytes,
                zero_copy_bytes: now.plane.zero_copy_bytes,
                sessions_granted: now.node.sessions_granted,
                sessions_refused: now.node.sessions_refused,
                sessions_strained: now.node.sessions_strained,
                chunks_lost: now.node.chunks_lost,
                jobs_skipped: now.node.jobs_skipped,
                send_errors: now.plane.send_errors + now.plane.gave_up,
                gave_up: now.plane.gave_up,
                blocked: now.plane.blocked,
                no_buffers: now.plane.no_buffers,
                cq_overflow: now.plane.cq_overflow,
                dropped: now.node.dropped.total(),
            },
            quota: *quota,
        }
    }
}

impl ChannelStatus {
    fn new(now: &ChannelSummary, before: Option<&ChannelSummary>, elapsed: Duration) -> ChannelStatus {
        let bit_rate = |count: fn(&ChannelSummary) -> u64| {
            8.0 * codec::DATAGRAM_BYTES as f64 * rate(count(now), before.map_or(0, count), elapsed)
        };
        ChannelStatus {
            key: now.key.to_string(),
            subscribers: now.subscribers,
            subscribers_share: now.wanted_permille as f64 / 1e3,
            subscribers_max: now.subscribers_max,
            egress_max_bps: now.egress_bps_max,
            promised_bps: now.promised_bps,
            upstreams: now.upstreams,
            chunks: now.chunks,
            received_bps: bit_rate(|channel| channel.counters.shards_received),
            sent_bps: bit_rate(|channel| channel.shards_sent),
            shards_received: now.counters.shards_received,
            shards_sent: now.shards_sent,
            shards_lost: now.counters.shards_lost,
            shards_recovered: now.counters.shards_recovered,
            shards_repaired: now.counters.shards_repaired,
        }
    }
}

fn rate(now: u64, last: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { now.saturating_sub(last) as f64 / elapsed.as_secs_f64() }
}

fn per_second(used: Duration, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { used.as_secs_f64() / elapsed.as_secs_f64() }
}
