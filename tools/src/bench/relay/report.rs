//! What a bench found, as JSON and as a table.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::board::Tally;
use super::child::Sample;
use super::copies::Arrived;
use super::publishers::Published;
use super::run::Span;
use super::{Load, Sinking};
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
            Verdict::None => "none",
        }
    }
}

/// A thread that has this much of a core has all it gets.
const BUSY: f64 = 0.9;

/// A relay that keeps up is done with a chunk when the next of its channel comes, 40 ms later.
const LATE_US: u64 = 100_000;

/// What was lost where, in the measured time.
#[derive(Clone, Copy, Debug)]
struct Drops {
    /// Trains that the relay skipped because they were late; each was for all subscribers of a channel.
    jobs_skipped: u64,
    /// Messages that the device, or the socket's send buffer, did not take.
    gave_up: u64,
    /// Messages that the kernel refused.
    send_errors: u64,
    /// Messages that found a receive buffer full: the relay's, and the subscribers'.
    relay_buffer: u64,
    sink_buffer: u64,
    /// Trains that the publishers' own sockets did not take.
    unsent: u64,
    /// Copies that did not come whole: what all that led to.
    copies_missing: u64,
}

impl Drops {
    fn total(&self) -> u64 {
        let relay = self.jobs_skipped + self.gave_up + self.send_errors;
        relay + self.rcvbuf_errors() + self.unsent + self.copies_missing
    }

    fn rcvbuf_errors(&self) -> u64 {
        self.relay_buffer + self.sink_buffer
    }
}

/// What was measured, and of what.
pub(super) struct Measured {
    pub(super) load: Load,
    pub(super) workers: usize,
    pub(super) sink: Sinking,
    /// How many of the subscribers really received.
    pub(super) receivers: u32,
    pub(super) bits_per_second: u64,
    pub(super) probe: String,
    pub(super) uses_io_uring: bool,
    pub(super) span: Span,
    pub(super) published: Published,
    pub(super) arrived: Arrived,
    /// The bare kernel's Gbit/s in the place of one worker.
    pub(super) limit_gbps: f64,
}

impl Measured {
    fn between(&self, count: impl Fn(&Sample) -> u64) -> u64 {
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
        (self.between(|sample| sample.at_us) as f64 / 1e6).max(1e-6)
    }

    /// Each worker's time on a core and time waited for one, as parts of the measured time.
    fn worker_shares(&self) -> Vec<[f64; 2]> {
        let [before, after] = [0, 1].map(|end: usize| &self.span.samples[end].workers);
        let share = |before: u64, after: u64| after.saturating_sub(before) as f64 / 1e6 / self.seconds();
        let shares = before.iter().zip(after).map(|(before, after)| {
            [share(before.cpu_us, after.cpu_us), share(before.waited_us, after.waited_us)]
        });
        shares.collect()
    }

    /// Of all workers together.
    fn relay_cpu_s(&self) -> f64 {
        self.worker_shares().iter().map(|[cpu, _]| cpu * self.seconds()).sum()
    }

    /// What part of a core the busiest worker had: it is the one that saturates.
    pub(super) fn relay_share(&self) -> f64 {
        self.worker_shares().iter().map(|[cpu, _]| *cpu).fold(0.0, f64::max)
    }

    /// What part of the time the worker that waited longest could have run but had no core.
    fn waited_share(&self) -> f64 {
        self.worker_shares().iter().map(|[_, waited]| *waited).fold(0.0, f64::max)
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
    fn wire_gbit(&self) -> f64 {
        let datagrams = self.between(|sample| sample.datagrams_sent);
        wire_bytes(self.between(|sample| sample.bytes_sent), datagrams) as f64 * 8.0 / 1e9
    }

    pub(super) fn wire_gbps(&self) -> f64 {
        self.wire_gbit() / self.seconds()
    }

    fn drops(&self) -> Drops {
        Drops {
            jobs_skipped: self.between(|sample| sample.jobs_skipped),
            gave_up: self.between(|sample| sample.gave_up),
            send_errors: self.between(|sample| sample.send_errors),
            relay_buffer: self.between(|sample| sample.socket_drops),
            sink_buffer: self.span.sink_drops,
            unsent: self.published.unsent,
            copies_missing: self.arrived.missing,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        let drops = self.drops();
        let wants_more = self.worker_shares().iter().any(|[cpu, waited]| cpu + waited >= BUSY);
        if self.arrived.checked.wrong > 0 {
            Verdict::WrongBytes
        } else if self.relay_share() >= BUSY {
            Verdict::RelayCpu
        } else if self.generator_share() >= BUSY || drops.unsent > 0 {
            Verdict::GeneratorCpu
        } else if wants_more
            || self.published.late_us.value_at_quantile(0.99) >= LATE_US
            || drops.jobs_skipped > 0
        {
            Verdict::OtherLoad
        } else if drops.rcvbuf_errors() > 0 {
            Verdict::SocketBuffer
        } else if drops.gave_up > 0 {
            Verdict::Device
        } else {
            Verdict::None
        }
    }

    /// Whether the relay carried it all, and would go on doing so: with a queue that grows, the last copies of most chunks
    /// are late long before the first one is skipped.
    pub(super) fn is_carried(&self) -> bool {
        let keeps_up = self.arrived.last.value_at_quantile(0.5) < LATE_US && self.relay_share() < 0.98;
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

    pub(super) fn json(&self) -> Value {
        let (drops, gbit, cpu) = (self.drops(), self.wire_gbit(), self.relay_cpu_s());
        let checked = &self.arrived.checked;
        let shares = self.worker_shares();
        let [empty, full] = self.span.heap_bytes;
        let state_bytes = full.saturating_sub(empty);
        json!({
            "subscribers": self.load.subscribers,
            "channels": self.load.channels,
            "bitrate_bps": self.bits_per_second,
            "seconds": rounded(self.seconds()),
            "interrupted": self.span.interrupted,
            "workers": self.workers,
            "io": if self.uses_io_uring { "io_uring" } else { "sendmmsg" },
            "sink": self.sink.name(),
            "receivers": self.receivers,
            "kernel": self.probe,
            "goodput_gbps": rounded(self.scaled(self.tallied(|tally| tally.payload_bytes)) * 8e-9 / self.seconds()),
            "wire_gbps": rounded(self.wire_gbps()),
            "datagrams_per_s": (self.scaled(self.tallied(|tally| tally.datagrams)) / self.seconds()).round(),
            "relay_cpu_s": rounded(cpu),
            "relay_process_cpu_s": rounded(self.between(|sample| sample.process_cpu_us) as f64 / 1e6),
            "relay_core_share": rounded(self.relay_share()),
            "relay_waited_share": rounded(self.waited_share()),
            "worker_core_shares": shares.iter().map(|[cpu, _]| rounded(*cpu)).collect::<Vec<_>>(),
            "generator_core_share": rounded(self.generator_share()),
            "publisher_core_share": rounded(self.publisher_share()),
            "publisher_late_us": percentiles(&self.published.late_us),
            "publisher_repaired": self.published.repaired,
            "cpu_s_per_gbit": (cpu / gbit.max(1e-9) * 1e6).round() / 1e6,
            "limit_gbps": rounded(self.limit_gbps),
            "ratio_to_limit": rounded(gbit / cpu.max(1e-9) / self.limit_gbps.max(1e-9)),
            "train_mean": rounded(self.span.train_mean()),
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
                "send_eagain_enobufs": self.between(|sample| sample.blocked),
                "receive_enobufs": self.between(|sample| sample.no_buffers),
                "cq_overflow": self.between(|sample| sample.cq_overflow),
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
            "rss_bytes": self.span.samples[1].rss_bytes,
            "window_bytes": self.span.samples[1].window_bytes,
            "zero_copy_bytes": self.between(|sample| sample.zero_copy_bytes),
            "copied_bytes": self.between(|sample| sample.copied_bytes),
            "bytes_per_subscriber": state_bytes / self.load.subscriptions().max(1) as u64,
            "verdict": self.verdict().text(),
        })
    }

    pub(super) fn table(&self) -> Vec<String> {
        let value = self.json();
        let number = |name: &str| value[name].as_f64().unwrap_or(0.0);
        let (drops, checked) = (self.drops(), &self.arrived.checked);
        let by_worker: Vec<String> =
            self.worker_shares().iter().map(|[cpu, _]| format!("{:.1} %", cpu * 100.0)).collect();
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
                self.sink.name(),
                self.receivers
            ),
            format!(
                "delivered   {:.2} Gbit/s of stream, {:.0} datagrams/s; {:.2} Gbit/s on the wire",
                number("goodput_gbps"),
                number("datagrams_per_s"),
                number("wire_gbps")
            ),
            format!(
                "relay       {} of a core by worker, waited {:.1} % for it; {:.4} s per Gbit, {:.1} datagrams per train",
                by_worker.join(" + "),
                self.waited_share() * 100.0,
                number("cpu_s_per_gbit"),
                self.span.train_mean()
            ),
            format!(
                "limit       {:.1} Gbit/s from one core for such trains; the relay is at {:.2} of that per second of its time",
                self.limit_gbps,
                number("ratio_to_limit")
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
                drops.jobs_skipped,
                drops.gave_up,
                drops.send_errors,
                drops.relay_buffer,
                drops.sink_buffer,
                drops.copies_missing
            ),
            format!(
                "memory      {:.1} MiB, of which windows {:.1}; {} bytes per subscription",
                number("rss_bytes") / 1_048_576.0,
                number("window_bytes") / 1_048_576.0,
                number("bytes_per_subscriber")
            ),
            format!("bottleneck  {}", self.verdict().text()),
        ]
    }
}

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)];

fn percentiles(delay: &Histogram<u64>) -> Value {
    let at = |(name, quantile): (&str, f64)| (name.to_owned(), json!(delay.value_at_quantile(quantile)));
    Value::Object(QUANTILES.into_iter().map(at).collect())
}
