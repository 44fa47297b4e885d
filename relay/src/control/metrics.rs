//! The counts as metrics, in Prometheus' text format.

use std::collections::HashSet;
use std::time::Duration;

use mesh::DropReason;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

use super::status::{ChannelStatus, QuotaStatus, Status, UpstreamState, UpstreamStatus};
use crate::snapshot::Snapshot;

/// Channels that have metrics of their own; each costs fifteen lines. All others are one.
const CHANNELS_MAX: usize = 100;

/// Prometheus scrapes at least this often, or it cannot tell what has gone from what it missed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What has gone is looked for this often.
pub(super) const FORGET_INTERVAL: Duration = Duration::from_secs(20);

/// The label of the channels that have no metrics of their own.
const OTHERS: &str = "others";

/// Makes this process's recorder, unless it has one: then what is published goes there.
pub(super) fn install() -> PrometheusHandle {
    // What is no more, as a channel, is shown no more after a while.
    let builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::ALL, Some(FORGOTTEN_AFTER));
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    // A program that runs a relay inside may have a recorder of its own.
    let _ = metrics::set_global_recorder(recorder);
    handle
}

/// Forgets what is no more. The recorder does so only when it is asked for everything, and perhaps nobody asks: then each
/// channel that strangers ever named would stay.
pub(super) fn forget(recorder: &PrometheusHandle) {
    drop(recorder.render());
}

/// Hands the totals to the recorder.
pub(super) fn publish(snapshot: &Snapshot, status: &Status) {
    let (node, plane) = (&snapshot.node, &snapshot.plane);
    gauge!("superpeer_sessions").set(snapshot.sessions as f64);
    gauge!("superpeer_subscribers").set(status.subscribers as f64);
    gauge!("superpeer_channels").set(snapshot.channels.len() as f64);
    gauge!("superpeer_window_bytes").set(snapshot.window_bytes as f64);
    gauge!("superpeer_healthy").set(f64::from(u8::from(status.is_healthy)));
    // 0: no cap.
    gauge!("superpeer_egress_max_bits_per_second").set(status.egress.max_bps.unwrap_or(0) as f64);
    gauge!("superpeer_egress_promised_bits_per_second").set(status.egress.promised_bps as f64);
    let counters = [
        ("superpeer_shards_stored_total", node.shards_stored),
        ("superpeer_shards_sent_total", node.shards_sent),
        ("superpeer_shards_lost_total", node.shards_lost),
        ("superpeer_shards_recovered_total", node.shards_recovered),
        ("superpeer_shards_repaired_total", node.shards_repaired),
        ("superpeer_repairs_sent_total", node.repairs_sent),
        ("superpeer_chunks_lost_total", node.chunks_lost),
        ("superpeer_trains_sent_total", node.trains_sent),
        ("superpeer_jobs_skipped_total", node.jobs_skipped),
        ("superpeer_signature_checks_total", node.signature_checks),
        ("superpeer_sessions_granted_total", node.sessions_granted),
        ("superpeer_sessions_refused_total", node.sessions_refused),
        ("superpeer_sessions_strained_total", node.sessions_strained),
        ("superpeer_egress_refused_total", node.egress_refused),
        ("superpeer_egress_let_go_total", node.egress_let_go),
        ("superpeer_egress_waits_total", node.egress_waits),
        ("superpeer_joins_deferred_total", node.joins_deferred),
        ("superpeer_backlogs_skipped_total", node.backlogs_skipped),
        ("superpeer_leases_expired_total", node.leases_expired),
        ("superpeer_received_bytes_total", plane.bytes_received),
        ("superpeer_received_datagrams_total", plane.datagrams_received),
        ("superpeer_sent_bytes_total", plane.bytes_sent),
        ("superpeer_sent_datagrams_total", plane.datagrams_sent),
        ("superpeer_received_ip_bytes_total", plane.ip_bytes_received),
        ("superpeer_sent_ip_bytes_total", plane.ip_bytes_sent),
        ("superpeer_copied_bytes_total", plane.copied_bytes),
        ("superpeer_zero_copy_bytes_total", plane.zero_copy_bytes),
        ("superpeer_send_errors_total", plane.send_errors + plane.gave_up),
    ];
    for (name, total) in counters {
        counter!(name).absolute(total);
    }
    for reason in DropReason::ALL {
        let total = node.dropped_for(reason);
        counter!("superpeer_dropped_total", "reason" => reason.to_string()).absolute(total);
    }
    for (number, (worker, now)) in status.workers.iter().zip(&snapshot.workers).enumerate() {
        let label = number.to_string();
        gauge!("superpeer_worker_cpu_seconds", "worker" => label.clone()).set(now.cpu.as_secs_f64());
        gauge!("superpeer_worker_sessions", "worker" => label).set(worker.sessions as f64);
    }
    let named = named(&status.channels);
    publish_channels(&status.channels, &named);
    status.quota.iter().for_each(publish_quota);
    publish_upstreams(status, &named);
}

fn publish_quota(quota: &QuotaStatus) {
    let figures = [
        ("superpeer_quota_max_bytes", quota.max_bytes as f64),
        ("superpeer_quota_used_bytes", quota.used_bytes as f64),
        ("superpeer_quota_left_bytes", quota.left_bytes as f64),
        ("superpeer_quota_period_end_seconds", quota.period_end.as_second() as f64),
        // 0 ok, 1 warned, 2 paced, 3 used up.
        ("superpeer_quota_state", f64::from(quota.state as u8)),
        ("superpeer_quota_written", f64::from(u8::from(quota.is_written))),
    ];
    for (name, figure) in figures {
        gauge!(name).set(figure);
    }
}

/// The keys of those that have metrics of their own: of the channels of which something came in, those with the most
/// subscribers. What is only asked for has none, for strangers may ask for anything.
fn named(channels: &[ChannelStatus]) -> HashSet<&str> {
    // They are in the order of their subscribers.
    let given = channels.iter().filter(|channel| channel.shards_received > 0);
    given.take(CHANNELS_MAX).map(|channel| channel.key.as_str()).collect()
}

fn publish_channels(channels: &[ChannelStatus], named: &HashSet<&str>) {
    let (named, others): (Vec<&ChannelStatus>, Vec<&ChannelStatus>) =
        channels.iter().partition(|channel| named.contains(channel.key.as_str()));
    for channel in named {
        publish_channel(channel.key[..16].to_owned(), channel);
    }
    let mut rest = ChannelStatus::default();
    for channel in &others {
        rest.subscribers += channel.subscribers;
        rest.subscribers_share += channel.subscribers_share;
        rest.upstreams += channel.upstreams;
        rest.promised_bps += channel.promised_bps;
        rest.received_bps += channel.received_bps;
        rest.sent_bps += channel.sent_bps;
        rest.shards_received += channel.shards_received;
        rest.shards_lost += channel.shards_lost;
        rest.shards_recovered += channel.shards_recovered;
        rest.shards_repaired += channel.shards_repaired;
    }
    if !others.is_empty() {
        publish_channel(OTHERS.to_owned(), &rest);
    }
}

/// Gauges throughout: a channel that comes back starts from 0, and who is among the others changes.
fn publish_channel(label: String, channel: &ChannelStatus) {
    let figures = [
        ("superpeer_channel_subscribers", channel.subscribers as f64),
        ("superpeer_channel_subscribers_share", channel.subscribers_share),
        ("superpeer_channel_promised_bits_per_second", channel.promised_bps as f64),
        ("superpeer_channel_upstreams", channel.upstreams as f64),
        ("superpeer_channel_received_bits_per_second", channel.received_bps),
        ("superpeer_channel_sent_bits_per_second", channel.sent_bps),
        ("superpeer_channel_shards_received", channel.shards_received as f64),
        ("superpeer_channel_shards_lost", channel.shards_lost as f64),
        ("superpeer_channel_shards_recovered", channel.shards_recovered as f64),
        ("superpeer_channel_shards_repaired", channel.shards_repaired as f64),
    ];
    for (name, figure) in figures {
        gauge!(name, "channel" => label.clone()).set(figure);
    }
}

/// How many upstreams are in which state, and of the named channels the upstream with a session that brings the most. Not
/// their addresses: who publishes is nobody else's business, and there is no bound to them.
fn publish_upstreams(status: &Status, named: &HashSet<&str>) {
    for (state, label) in UpstreamState::ALL {
        let count = status.upstreams.iter().filter(|upstream| upstream.state == state).count();
        gauge!("superpeer_upstreams", "state" => label).set(count as f64);
    }
    let upstreams: Vec<&UpstreamStatus> = status.upstreams.iter().collect();
    // They are in the order of their channels.
    for of_channel in upstreams.chunk_by(|a, b| a.channel == b.channel) {
        let key = of_channel[0].channel.as_str();
        let sessions = of_channel.iter().filter_map(|upstream| upstream.session);
        let Some(main) = sessions.clone().max_by_key(|session| session.shards_received) else { continue };
        if !named.contains(key) {
            continue;
        }
        let label = key[..16].to_owned();
        let seconds = |us: i64| us as f64 / 1e6;
        let figures = [
            ("superpeer_channel_upstream_rtt_seconds", main.rtt_us.map(|us| seconds(us as i64))),
            ("superpeer_channel_arrival_delay_seconds", main.delay_us.map(seconds)),
            ("superpeer_channel_arrival_spread_seconds", Some(seconds(main.spread_us))),
            (
                "superpeer_channel_duplicates",
                Some(sessions.map(|session| session.duplicates).sum::<u64>() as f64),
            ),
        ];
        for (name, figure) in figures {
            if let Some(figure) = figure {
                gauge!(name, "channel" => label.clone()).set(figure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::control::status::WorkerStatus;
    use crate::snapshot::WorkerSummary;

    const ALERTS: &str = include_str!("../../../systemd/monitoring/alerts.yml");
    const DASHBOARD: &str = include_str!("../../../systemd/monitoring/grafana.json");

    /// Names of metrics in a text.
    fn names(text: &str) -> BTreeSet<&str> {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        words.filter(|word| word.starts_with("superpeer_")).collect()
    }

    #[test]
    fn what_alerts_and_dashboard_ask_for_is_published() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let snapshot = Snapshot { workers: vec![WorkerSummary::default()], ..Snapshot::default() };
        let status = Status {
            workers: vec![WorkerStatus::default()],
            quota: Some(QuotaStatus::default()),
            channels: vec![ChannelStatus { key: "0".repeat(64), ..ChannelStatus::default() }],
            ..Status::default()
        };
        metrics::with_local_recorder(&recorder, || publish(&snapshot, &status));
        let rendered = recorder.handle().render();
        let published = names(&rendered);
        let asked: BTreeSet<&str> = names(ALERTS).union(&names(DASHBOARD)).copied().collect();
        assert!(asked.len() > 10, "{asked:?}");
        let missing: Vec<&&str> = asked.difference(&published).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn channels_that_are_only_asked_for_are_among_the_others() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let channel = |letter: &str, subscribers, shards_received| ChannelStatus {
            key: letter.repeat(64),
            subscribers,
            shards_received,
            ..ChannelStatus::default()
        };
        let status = Status {
            channels: vec![channel("a", 7, 0), channel("b", 5, 1), channel("c", 4, 0)],
            ..Status::default()
        };
        metrics::with_local_recorder(&recorder, || publish(&Snapshot::default(), &status));
        let rendered = recorder.handle().render();
        let is_there = |line: &str| rendered.lines().any(|rendered| rendered == line);
        let of_given = format!("superpeer_channel_subscribers{{channel=\"{}\"}} 5", "b".repeat(16));
        assert!(
            is_there(&of_given) && is_there("superpeer_channel_subscribers{channel=\"others\"} 11"),
            "{rendered}"
        );
        assert!(!rendered.contains("aaaa") && !rendered.contains("cccc"), "{rendered}");
    }
}
