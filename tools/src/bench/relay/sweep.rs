//! Throughput and delay over the number of subscribers: short runs with fewer and fewer of them.

use serde_json::{Value, json};

use super::report::Measured;
use super::{Bench, Load};
use crate::Error;
use crate::bench::rounded;
use crate::chart::{Line, Panel, Scale};

/// Each run of a sweep is measured for so long, if the main one is not shorter.
const SECONDS: u32 = 2;

/// Powers of two below the number of subscribers that is measured anyway.
const RUNS_MAX: u32 = 9;

/// What one run found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    subscribers: u32,
    /// Not of a relay that does not tell.
    wire_gbps: Option<f64>,
    limit_gbps: Option<f64>,
    median_p50_ms: f64,
    last_p99_ms: f64,
}

impl Point {
    fn of(measured: &Measured) -> Point {
        let ms = |micros: u64| micros as f64 / 1e3;
        Point {
            subscribers: measured.load.subscribers,
            wire_gbps: measured.wire_gbps(),
            limit_gbps: measured.limit_gbps,
            median_p50_ms: ms(measured.arrived.median.value_at_quantile(0.5)),
            last_p99_ms: ms(measured.arrived.last.value_at_quantile(0.99)),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "subscribers": self.subscribers, "wire_gbps": self.wire_gbps.map(rounded),
            "limit_gbps": self.limit_gbps.map(rounded), "median_p50_ms": rounded(self.median_p50_ms),
            "last_p99_ms": rounded(self.last_p99_ms),
        })
    }
}

fn sizes(subscribers: u32) -> Vec<u32> {
    let powers = (0..u32::BITS).map(|power| 1 << power).take_while(|size| *size < subscribers);
    let powers: Vec<u32> = powers.collect();
    powers[powers.len().saturating_sub(RUNS_MAX as usize)..].to_vec()
}

impl Bench {
    /// Measures with fewer subscribers; `main` is the point with all of them.
    ///
    /// # Errors
    /// As of any run; a wrong byte is one too.
    pub(super) fn sweep(&self, main: &Measured) -> Result<Vec<Point>, Error> {
        let mut points = Vec::new();
        for subscribers in sizes(main.load.subscribers) {
            if self.interrupt.is_set() {
                break;
            }
            let measured =
                self.measure(Load { subscribers, seconds: SECONDS.min(main.load.seconds), ..main.load })?;
            measured.check()?;
            points.push(Point::of(&measured));
        }
        points.push(Point::of(main));
        Ok(points)
    }
}

/// Two panels: throughput beside the bare kernel's, if it is known, and delay.
pub(super) fn panels(points: &[Point], main: &Measured) -> Vec<Panel> {
    let line = |name: &str, value: fn(&Point) -> Option<f64>| {
        let points = points.iter().filter_map(|point| Some((f64::from(point.subscribers), value(point)?)));
        Line { name: name.to_owned(), known: false, points: points.collect() }
    };
    let workers = main.about.as_ref().map_or(String::new(), |about| format!("{} workers, ", about.workers));
    let load = format!(
        "{} channels × {} Mbit/s, {workers}sink {}",
        main.load.channels,
        main.bits_per_second as f64 / 1e6,
        main.sink_name
    );
    let mut panels = vec![
        Panel {
            title: format!("What the relay sends: {load}"),
            across: "subscribers of each channel",
            up: "Gbit/s on the wire",
            scale: Scale::Log,
            lines: vec![
                line("relay, as offered", |point| point.wire_gbps),
                line("bare kernel, same trains, one core", |point| point.limit_gbps),
            ],
        },
        Panel {
            title: "Delay from the publisher's hand-over to the subscriber's socket".to_owned(),
            across: "subscribers of each channel",
            up: "ms",
            scale: Scale::Log,
            lines: vec![
                line("median copy of a chunk, p50", |point| Some(point.median_p50_ms)),
                line("last copy of a chunk, p99", |point| Some(point.last_p99_ms)),
            ],
        },
    ];
    for panel in &mut panels {
        panel.lines.retain(|line| !line.points.is_empty());
    }
    panels.retain(|panel| !panel.lines.is_empty());
    panels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_ends_below_what_is_measured_anyway() {
        assert!(sizes(1).is_empty());
        assert_eq!(sizes(8), [1, 2, 4]);
        assert_eq!(sizes(1_000), [2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(sizes(65_536).last(), Some(&32_768));
    }
}
