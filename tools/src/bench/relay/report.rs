//! What a bench found, as JSON and as a table.

mod table;

use std::net::SocketAddrV4;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Load;
use super::board::Tally;
use super::copies::Arrived;
use super::publishers::Published;
use super::run::Span;
use super::sample::{About, Counts, WorkerTimes};
use crate::Error;
use crate::bench::{rounded, wire_bytes};

/// What was the bottleneck.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    WrongBytes,
    RelayCpu,
    OtherLoad,
    GeneratorCpu,
    SocketBuffer,
    Device,
    /// Something was lost by a relay that does not tell what it counts.
    Unknown,
    None,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Verdict::WrongBytes => "wrong bytes",
            Verdict::RelayCpu => "relay CPU",
            Verdict::OtherLoad => "other load on the machine",
            Verdict::GeneratorCpu => "generator CPU",
            Verdict::SocketBuffer => "socket buffer",
            Verdict::Device => "device",
            Verdict::Unknown => "unknown",
            Verdict::None => "none",
        }
    }
}

/// A thread that has this much of a core has all it gets.
const BUSY: f64 = 0.9;

/// A relay that keeps up is done with a chunk when the next of its channel comes, 40 ms later.
const LATE_US: u64 = 100_000;

/// What was lost where, in the measured time, as far as it is known.
#[derive(Clone, Copy, Debug)]
struct Drops {
    /// Trains that the relay skipped because they were late; each was for all subscribers of a channel.
    jobs_skipped: Option<u64>,
    /// Messages that the device, or the socket's send buffer, did not take.
    gave_up: Option<u64>,
    /// Messages that the kernel refused.
    send_errors: Option<u64>,
    /// Messages that found a receive buffer full: the relay's, and the subscribers'.
    relay_buffer: Option<u64>,
    sink_buffer: u64,
    /// Trains that the publishers' own sockets did not take.
    unsent: u64,
    /// Copies that did not come whole: what all that led to.
    copies_missing: u64,
}

impl Drops {
    fn total(&self) -> u64 {
        let relay = [self.jobs_skipped, self.gave_up, self.send_errors].into_iter().flatten().sum::<u64>();
        relay + self.rcvbuf_errors() + self.unsent + self.copies_missing
    }

    fn rcvbuf_errors(&self) -> u64 {
        self.relay_buffer.unwrap_or(0) + self.sink_buffer
    }
}

/// What was measured, and of what.
pub(super) struct Measured {
    pub(super) load: Load,
    /// The relay, if it ran already.
    pub(super) relay: Option<SocketAddrV4>,
    /// What it is, if it tells.
    pub(super) about: Option<About>,
    /// Where its datagrams went.
    pub(super) sink_name: &'static str,
    /// How many of the subscribers really received.
    pub(super) receivers: u32,
    pub(super) bits_per_second: u64,
    pub(super) span: Span,
    pub(super) published: Published,
    pub(super) arrived: Arrived,
    /// The bare kernel's Gbit/s in the place of one worker, if it could be measured there.
    pub(super) limit_gbps: Option<f64>,
}

impl Measured {
    fn between(&self, count: impl Fn(&Counts) -> u64) -> Option<u64> {
        self.span.between(count)
    }

    fn tallied(&self, count: impl Fn(&Tally) -> u64) -> u64 {
        count(&self.span.tallies[1]) - count(&self.span.tallies[0])
    }

    /// From those who received to all.
    fn scaled(&self, count: u64) -> f64 {
        count as f64 * f64::from(self.load.subscribers) / f64::from(self.receivers)
    }

    fn seconds(&self) -> f64 {
        (self.tallied(|tally| tally.at.0) as f64 / 1e6).max(1e-6)
    }

    /// Between the relay's two samples, by its clock.
    fn relay_seconds(&self) -> f64 {
        let [before, after] = &self.span.samples;
        (after.at_us.saturating_sub(before.at_us) as f64 / 1e6).max(1e-6)
    }

    /// A time of each worker as part of the measured time; of none if any of them does not tell.
    fn worker_shares(&self, time_us: impl Fn(&WorkerTimes) -> Option<u64>) -> Option<Vec<f64>> {
        let [before, after] = &self.span.samples;
        let (before, after) = (&before.counts.as_ref()?.workers, &after.counts.as_ref()?.workers);
        let share = |(before, after)| {
            Some(time_us(after)?.saturating_sub(time_us(before)?) as f64 / 1e6 / self.relay_seconds())
        };
        before.iter().zip(after).map(share).collect()
    }

    fn cpu_shares(&self) -> Option<Vec<f64>> {
        self.worker_shares(|times| Some(times.cpu_us))
    }

    /// Of all workers together.
    fn relay_cpu_s(&self) -> Option<f64> {
        Some(self.cpu_shares()?.iter().sum::<f64>() * self.relay_seconds())
    }

    /// What part of a core the busiest worker had: it is the one that saturates.
    pub(super) fn relay_share(&self) -> Option<f64> {
        Some(self.cpu_shares()?.into_iter().fold(0.0, f64::max))
    }

    /// What part of the time the worker that waited longest could have run but had no core.
    fn waited_share(&self) -> Option<f64> {
        Some(self.worker_shares(|times| times.waited_us)?.into_iter().fold(0.0, f64::max))
    }

    fn generator_share(&self) -> f64 {
        self.publisher_share().max(self.sink_share())
    }

    fn publisher_share(&self) -> f64 {
        self.tallied(|tally| tally.publisher_cpu.as_micros() as u64) as f64 / 1e6 / self.seconds()
    }

    fn sink_share(&self) -> f64 {
        self.tallied(|tally| tally.sink_cpu.as_micros() as u64) as f64 / 1e6 / self.seconds()
    }

    /// All that the relay sent, with headers.
    fn wire_gbit(&self) -> Option<f64> {
        let datagrams = self.between(|counts| counts.datagrams_sent)?;
        Some(wire_bytes(self.between(|counts| counts.bytes_sent)?, datagrams) as f64 * 8.0 / 1e9)
    }

    pub(super) fn wire_gbps(&self) -> Option<f64> {
        Some(self.wire_gbit()? / self.relay_seconds())
    }

    fn cpu_s_per_gbit(&self) -> Option<f64> {
        Some(self.relay_cpu_s()? / self.wire_gbit()?.max(1e-9))
    }

    fn ratio_to_limit(&self) -> Option<f64> {
        Some(self.wire_gbit()? / self.relay_cpu_s()?.max(1e-9) / self.limit_gbps?.max(1e-9))
    }

    fn drops(&self) -> Drops {
        Drops {
            jobs_skipped: self.between(|counts| counts.jobs_skipped),
            gave_up: self.between(|counts| counts.gave_up),
            send_errors: self.between(|counts| counts.send_errors),
            relay_buffer: self.span.relay_drops(),
            sink_buffer: self.span.sink_drops,
            unsent: self.published.unsent,
            copies_missing: self.arrived.missing,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        let drops = self.drops();
        let wanted = self.worker_shares(|times| Some(times.cpu_us + times.waited_us?));
        let wants_more = wanted.is_some_and(|shares| shares.iter().any(|share| *share >= BUSY));
        if self.arrived.checked.wrong > 0 {
            Verdict::WrongBytes
        } else if self.relay_share().is_some_and(|share| share >= BUSY) {
            Verdict::RelayCpu
        } else if self.generator_share() >= BUSY || drops.unsent > 0 {
            Verdict::GeneratorCpu
        } else if wants_more
            || self.published.late_us.value_at_quantile(0.99) >= LATE_US
            || drops.jobs_skipped.is_some_and(|skipped| skipped > 0)
        {
            Verdict::OtherLoad
        } else if drops.rcvbuf_errors() > 0 {
            Verdict::SocketBuffer
        } else if drops.gave_up.is_some_and(|given_up| given_up > 0) {
            Verdict::Device
        } else if drops.total() > 0 && drops.jobs_skipped.is_none() {
            Verdict::Unknown
        } else {
            Verdict::None
        }
    }

    /// Whether the relay carried it all, and would go on doing so: with a queue that grows, the last copies of most chunks
    /// are late long before the first one is skipped.
    pub(super) fn is_carried(&self) -> bool {
        let is_full = self.relay_share().is_some_and(|share| share >= 0.98);
        let keeps_up = self.arrived.last.value_at_quantile(0.5) < LATE_US && !is_full;
        self.drops().total() == 0 && keeps_up && self.arrived.chunks > 0
    }

    /// Every byte that was looked at must be right.
    pub(super) fn check(&self) -> Result<(), Error> {
        let checked = &self.arrived.checked;
        match checked.wrong {
            0 => Ok(()),
            wrong => Err(Error::BenchDiffers { wrong, checked: checked.datagrams }),
        }
    }

    /// What is not known is null.
    pub(super) fn json(&self) -> Value {
        let (drops, about, checked) = (self.drops(), self.about.as_ref(), &self.arrived.checked);
        let memory = self.span.samples[1].counts.as_ref();
        let subscriptions = self.load.subscriptions().max(1) as u64;
        json!({
            "subscribers": self.load.subscribers,
            "channels": self.load.channels,
            "bitrate_bps": self.bits_per_second,
            "seconds": rounded(self.seconds()),
            "interrupted": self.span.interrupted,
            "relay": self.relay,
            "workers": about.map(|about| about.workers),
            "io": about.map(|about| if about.uses_io_uring { "io_uring" } else { "sendmmsg" }),
            "sink": self.sink_name,
            "receivers": self.receivers,
            "kernel": about.map(|about| &about.probe),
            "goodput_gbps": rounded(self.goodput_gbps()),
            "wire_gbps": self.wire_gbps().map(rounded),
            "datagrams_per_s": self.datagrams_per_s().round(),
            "relay_cpu_s": self.relay_cpu_s().map(rounded),
            "relay_process_cpu_s": self.between(|counts| counts.process_cpu_us).map(|cpu| rounded(cpu as f64 / 1e6)),
            "relay_core_share": self.relay_share().map(rounded),
            "relay_waited_share": self.waited_share().map(rounded),
            "worker_core_shares": self.cpu_shares().map(|shares| shares.into_iter().map(rounded).collect::<Vec<_>>()),
            "generator_core_share": rounded(self.generator_share()),
            "publisher_core_share": rounded(self.publisher_share()),
            "publisher_late_us": percentiles(&self.published.late_us),
            "publisher_repaired": self.published.repaired,
            "cpu_s_per_gbit": self.cpu_s_per_gbit().map(|seconds| (seconds * 1e6).round() / 1e6),
            "limit_gbps": self.limit_gbps.map(rounded),
            "ratio_to_limit": self.ratio_to_limit().map(rounded),
            "train_mean": self.span.train_mean().map(rounded),
            "drops": {
                "total": drops.total(),
                "jobs_skipped": drops.jobs_skipped,
                "gave_up": drops.gave_up,
                "send_errors": drops.send_errors,
                "rcvbuf_errors": drops.rcvbuf_errors(),
                "rcvbuf_errors_relay": drops.relay_buffer,
                "rcvbuf_errors_sink": drops.sink_buffer,
                "publisher_unsent": drops.unsent,
                "copies_missing": drops.copies_missing,
            },
            "pressure": {
                "send_eagain_enobufs": self.between(|counts| counts.blocked),
                "receive_enobufs": self.between(|counts| counts.no_buffers),
                "cq_overflow": self.between(|counts| counts.cq_overflow),
            },
            "checked_receivers": checked.receivers,
            "checked_datagrams": checked.datagrams,
            "wrong_datagrams": checked.wrong,
            "duplicate_datagrams": checked.duplicate,
            "missing_datagrams": checked.missing,
            "missing_chunks": checked.incomplete,
            "chunks": self.arrived.chunks,
            "delay_us": {
                "first": percentiles(&self.arrived.first),
                "median": percentiles(&self.arrived.median),
                "last": percentiles(&self.arrived.last),
            },
            "rss_bytes": memory.map(|counts| counts.rss_bytes),
            "window_bytes": memory.map(|counts| counts.window_bytes),
            "zero_copy_bytes": self.between(|counts| counts.zero_copy_bytes),
            "copied_bytes": self.between(|counts| counts.copied_bytes),
            "bytes_per_subscriber": self.span.heap_bytes.map(|bytes| bytes / subscriptions),
            "verdict": self.verdict().text(),
        })
    }

    fn goodput_gbps(&self) -> f64 {
        self.scaled(self.tallied(|tally| tally.payload_bytes)) * 8e-9 / self.seconds()
    }

    fn datagrams_per_s(&self) -> f64 {
        self.scaled(self.tallied(|tally| tally.datagrams)) / self.seconds()
    }
}

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)];

fn percentiles(delay: &Histogram<u64>) -> Value {
    let at = |(name, quantile): (&str, f64)| (name.to_owned(), json!(delay.value_at_quantile(quantile)));
    Value::Object(QUANTILES.into_iter().map(at).collect())
}
