//! What measurements found, drawn over the loss.

use super::Args;
use super::measure::Measured;
use crate::chart::{Line, Panel, Scale};

/// What is sent to a viewer, and what is lost there, if anything is.
pub(super) fn panels(args: &Args, measured: &[Measured]) -> Vec<Panel> {
    let per_rtt = |value: fn(&Measured) -> f64| {
        let line = |rtt| {
            let own = measured.iter().filter(move |found| found.rtt == rtt);
            let points = own.map(|found| (found.loss * 100.0, value(found))).collect();
            Line { name: format!("round trip {} ms", rtt.as_millis()), known: false, points }
        };
        args.rtt.iter().copied().map(line).collect::<Vec<_>>()
    };
    let mut sent = per_rtt(|found| found.to_viewer * 100.0);
    sent.push(floor(measured));
    let across = "datagrams lost, %";
    let delay = args.delay.as_millis();
    let title = format!("Bytes sent to a viewer beyond the stream, playout delay {delay} ms");
    let sent = Panel { title, across, up: "% of the data shards", scale: Scale::Linear, lines: sent };
    let lines = per_rtt(|found| found.share_lost() * 1e6);
    let title = format!("Chunks that a viewer loses, playout delay {delay} ms");
    let lost = Panel { title, across, up: "chunks of a million", scale: Scale::Linear, lines };
    let mut panels = vec![sent, lost];
    panels.truncate(if measured.iter().any(|found| found.share_lost() > 0.0) { 2 } else { 1 });
    panels
}

/// The least that there can be: what is lost is sent again, and again when it is lost again, p + p² + …
fn floor(measured: &[Measured]) -> Line {
    let most = measured.iter().map(|found| found.loss).fold(0.0, f64::max);
    let losses = (0..=FLOOR_POINTS).map(|number| most * f64::from(number) / f64::from(FLOOR_POINTS));
    let points = losses.map(|loss| (loss * 100.0, loss / (1.0 - loss) * 100.0)).collect();
    Line { name: "the least possible: p / (1 − p)".to_owned(), known: true, points }
}

const FLOOR_POINTS: u32 = 50;
