//! A relay's status in words.

use std::time::Duration;

use relay::commands::Draining;
use relay::status::{QuotaState, Status};

/// A worker that is busier than this has little left for a burst.
const BUSY: f64 = 0.9;

/// Bits per second with the unit that fits.
pub fn bit_rate(bits_per_second: f64) -> String {
    match bits_per_second {
        bits if bits >= 1e9 => format!("{:.2} Gbit/s", bits / 1e9),
        bits if bits >= 1e6 => format!("{:.1} Mbit/s", bits / 1e6),
        bits => format!("{:.1} kbit/s", bits / 1e3),
    }
}

/// Bytes of memory or files with the unit that fits.
pub fn bytes(bytes: u64) -> String {
    in_units(bytes, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// Bytes of a transfer quota, in the units of providers and of the relay's log.
pub fn quota_bytes(bytes: u64) -> String {
    in_units(bytes, 1000.0, ["B", "kB", "MB", "GB", "TB", "PB"])
}

fn in_units(bytes: u64, step: f64, units: [&str; 6]) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= step && unit + 1 < units.len() {
        (value, unit) = (value / step, unit + 1);
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A time in whole seconds, its two largest units.
pub fn duration(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// How far a drain has got.
pub fn draining(drain: &Draining) -> String {
    let Draining { sessions_at_start, sessions, seconds_left } = drain;
    format!(
        "being drained: {sessions} of {sessions_at_start} sessions left; it ends within {}",
        duration(*seconds_left)
    )
}

/// What is wrong with a relay, or was since its start; nothing when all is well.
pub fn troubles(status: &Status) -> Vec<String> {
    let mut troubles = Vec::new();
    if !status.is_healthy {
        troubles.push(
            "a worker has said nothing for some seconds; see the log (journalctl -u superpeer)".to_owned(),
        );
    }
    if let Some(quota) = &status.quota {
        let left = quota_bytes(quota.left_bytes);
        troubles.extend(match quota.state {
            QuotaState::Ok => None,
            QuotaState::Warned => Some(format!("the transfer quota is almost used up: {left} left")),
            QuotaState::Paced => Some(format!(
                "more of the transfer quota is used than an even pace allows: no new subscribers; {left} left"
            )),
            QuotaState::UsedUp => Some("the transfer quota is used up: nobody is served".to_owned()),
        });
        if !quota.is_written {
            troubles.push("the account of the transfer quota cannot be written; see the log".to_owned());
        }
    }
    for (number, worker) in status.workers.iter().enumerate().filter(|(_, worker)| worker.cpu > BUSY) {
        troubles.push(format!(
            "worker {number} uses {:.0} % of its core: it is at its limit",
            100.0 * worker.cpu
        ));
    }
    let waited_for =
        status.channels.iter().filter(|channel| channel.subscribers > 0 && channel.upstreams == 0);
    let waited_for = waited_for.count();
    if waited_for > 0 {
        troubles.push(format!("channels with subscribers and nobody who gives them: {waited_for}"));
    }
    let totals = &status.totals;
    let since_the_start = [
        (totals.chunks_lost, "chunks were lost on the way in"),
        (
            totals.jobs_skipped,
            "trains were skipped because they were late: more is asked for than is carried",
        ),
        (totals.sessions_strained, "subscribers were let go because their lines could not take the stream"),
        (totals.send_errors, "messages were not taken by the kernel"),
    ];
    let counted = since_the_start.into_iter().filter(|(count, _)| *count > 0);
    troubles.extend(counted.map(|(count, what)| format!("since the start, {count} {what}")));
    troubles
}

#[cfg(test)]
mod tests {
    use relay::status::{ChannelStatus, Totals, WorkerStatus};

    use super::*;

    #[test]
    fn figures_have_the_unit_that_fits() {
        assert_eq!(bit_rate(47.9e9), "47.90 Gbit/s");
        assert_eq!(bit_rate(3.96e6), "4.0 Mbit/s");
        assert_eq!(bit_rate(0.0), "0.0 kbit/s");
        assert_eq!((bytes(1_023), bytes(64 << 20)), ("1023 B".to_owned(), "64.0 MiB".to_owned()));
        assert_eq!(
            (quota_bytes(999), quota_bytes(2_000_000_000_000)),
            ("999 B".to_owned(), "2.0 TB".to_owned())
        );
        assert_eq!(duration(93_784), "1day 2h");
    }

    #[test]
    fn troubles_are_named_and_a_relay_that_is_well_has_none() {
        let well = Status { is_healthy: true, ..Status::default() };
        assert_eq!(troubles(&well), Vec::<String>::new());
        let ill = Status {
            workers: vec![WorkerStatus::default(), WorkerStatus { cpu: 0.97, ..WorkerStatus::default() }],
            channels: vec![ChannelStatus { subscribers: 3, ..ChannelStatus::default() }],
            totals: Totals { jobs_skipped: 7, ..Totals::default() },
            ..Status::default()
        };
        let said = troubles(&ill).join("\n");
        for expected in
            ["said nothing", "worker 1 uses 97 %", "nobody who gives them: 1", "7 trains were skipped"]
        {
            assert!(said.contains(expected), "{said}");
        }
    }
}
