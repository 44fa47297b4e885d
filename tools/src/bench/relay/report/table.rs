//! The report for people.

use hdrhistogram::Histogram;

use super::{Measured, QUANTILES};
use crate::bench::relay::sample::Counts;

impl Measured {
    /// What is not known is a dash.
    pub(in crate::bench::relay) fn table(&self) -> Vec<String> {
        let (drops, checked) = (self.drops(), &self.arrived.checked);
        let memory = self.span.samples[1].counts.as_ref();
        let mib =
            |bytes: fn(&Counts) -> u64| fixed(memory.map(|counts| bytes(counts) as f64 / 1_048_576.0), 1);
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let by_worker = self.cpu_shares().map(|shares| shares.into_iter().map(percent).collect::<Vec<_>>());
        let subscriptions = self.load.subscriptions().max(1) as u64;
        let delay = |name: &str, delay: &Histogram<u64>| {
            let [p50, p99, p999] =
                QUANTILES.map(|(_, quantile)| delay.value_at_quantile(quantile) as f64 / 1e3);
            format!("{name:<12}p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms")
        };
        vec![
            format!(
                "load        {} subscribers x {} channels, {:.1} s, sink {}: {} subscribers receive",
                self.load.subscribers,
                self.load.channels,
                self.seconds(),
                self.sink_name,
                self.receivers
            ),
            format!(
                "delivered   {:.2} Gbit/s of stream, {:.0} datagrams/s; {} Gbit/s on the wire",
                self.goodput_gbps(),
                self.datagrams_per_s(),
                fixed(self.wire_gbps(), 2)
            ),
            format!(
                "relay       {} of a core by worker, waited {} % for it; {} s per Gbit, {} datagrams per train",
                by_worker.map_or(UNKNOWN.to_owned(), |shares| shares.join(" + ")),
                fixed(self.waited_share().map(|share| share * 100.0), 1),
                fixed(self.cpu_s_per_gbit(), 4),
                fixed(self.span.train_mean(), 1)
            ),
            format!(
                "limit       {} Gbit/s from one core for such trains; the relay is at {} of that per second of its time",
                fixed(self.limit_gbps, 1),
                fixed(self.ratio_to_limit(), 2)
            ),
            delay("first copy", &self.arrived.first),
            delay("median copy", &self.arrived.median),
            delay("last copy", &self.arrived.last),
            format!(
                "checked     every byte of {} datagrams to {} subscribers: {} wrong, {} double, {} missing",
                checked.datagrams, checked.receivers, checked.wrong, checked.duplicate, checked.missing
            ),
            format!(
                "publishers  {:.1} % of one core; hand-over late by p50 {:.2} ms, p99 {:.2} ms",
                self.publisher_share() * 100.0,
                self.published.late_us.value_at_quantile(0.5) as f64 / 1e3,
                self.published.late_us.value_at_quantile(0.99) as f64 / 1e3
            ),
            format!(
                "drops       {} late trains, {} given up, {} refused, {} at the relay's socket, {} at the sink's; {} copies missing",
                whole(drops.jobs_skipped),
                whole(drops.gave_up),
                whole(drops.send_errors),
                whole(drops.relay_buffer),
                drops.sink_buffer,
                drops.copies_missing
            ),
            format!(
                "memory      {} MiB, of which windows {}; {} bytes per subscription",
                mib(|counts| counts.rss_bytes),
                mib(|counts| counts.window_bytes as u64),
                whole(self.span.heap_bytes.map(|bytes| bytes / subscriptions))
            ),
            format!("bottleneck  {}", self.verdict().text()),
        ]
    }
}

/// Stands in the table for what the relay does not tell.
const UNKNOWN: &str = "–";

fn fixed(value: Option<f64>, digits: usize) -> String {
    value.map_or(UNKNOWN.to_owned(), |value| format!("{value:.digits$}"))
}

fn whole(value: Option<u64>) -> String {
    value.map_or(UNKNOWN.to_owned(), |value| value.to_string())
}
