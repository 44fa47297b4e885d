//! `superpeer status`: what a relay does, and what is wrong.

use std::fmt::Write;

use relay::status::Status;

use super::Ask;
use super::client::Client;
use super::text;
use crate::Error;

/// Show what the relay on this machine does, and what is wrong with it
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  superpeer status\n  superpeer status --json | jq .subscribers")]
pub struct Args {
    /// The relay
    #[command(flatten)]
    pub ask: Ask,
}

/// Runs the command.
///
/// # Errors
/// When there is no relay, or it does not answer.
pub fn run(args: Args) -> Result<(), Error> {
    let status = Client::new(&args.ask.at)?.status()?;
    args.ask.show(&status, describe)
}

fn describe(status: &Status) -> String {
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = write_status(&mut out, status);
    out.trim_end().to_owned()
}

fn write_status(out: &mut String, status: &Status) -> std::fmt::Result {
    let state = if status.is_healthy { "well" } else { "not well" };
    let state = status.drain.as_ref().map_or(state.to_owned(), text::draining);
    writeln!(out, "superpeerd    {}, up {}, {state}", status.version, text::duration(status.uptime_s))?;
    writeln!(out, "              {}", status.probe)?;
    writeln!(out, "channels      {}", status.channels.len())?;
    writeln!(out, "subscribers   {} ({} sessions in all)", status.subscribers, status.sessions)?;
    let (memory, windows) = (text::bytes(status.rss_bytes), text::bytes(status.window_bytes as u64));
    writeln!(out, "memory        {memory} resident; windows fill {windows}")?;
    for (place, rates) in status.rates.iter().enumerate() {
        let title = if place == 0 { "rates" } else { "" };
        let (received, sent) = (text::bit_rate(rates.received_bps), text::bit_rate(rates.sent_bps));
        let over = text::duration(rates.seconds);
        writeln!(out, "{title:13} {over:>4}: {received:>12} in, {sent:>12} out")?;
    }
    for (number, worker) in status.workers.iter().enumerate() {
        let title = if number == 0 { "workers" } else { "" };
        let (cpu, sent) = (100.0 * worker.cpu, text::bit_rate(worker.sent_bps));
        let sessions = worker.sessions;
        writeln!(out, "{title:13} {number:>4}: {cpu:>10.1} % of a core, {sessions} sessions, {sent} out")?;
    }
    if let Some(quota) = &status.quota {
        let (used, max) = (text::quota_bytes(quota.used_bytes), text::quota_bytes(quota.max_bytes));
        writeln!(out, "quota         {used} of {max} used; the next period begins {}", quota.period_end)?;
    }
    let totals = &status.totals;
    let (received, sent) = (text::bytes(totals.received_bytes), text::bytes(totals.sent_bytes));
    let (granted, refused) = (totals.sessions_granted, totals.sessions_refused);
    writeln!(out, "since start   {received} in, {sent} out; {granted} sessions granted, {refused} refused")?;
    for trouble in text::troubles(status) {
        writeln!(out, "attention     {trouble}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use relay::status::Rates;

    use super::*;

    #[test]
    fn a_status_says_all_that_matters() {
        let status = Status {
            version: "0.1.0".to_owned(),
            uptime_s: 3_700,
            probe: "io_uring on UDP [::]:7450".to_owned(),
            is_healthy: true,
            subscribers: 12,
            sessions: 13,
            rates: vec![Rates { seconds: 10, sent_bps: 48e6, ..Rates::default() }],
            ..Status::default()
        };
        let said = describe(&status);
        for expected in ["0.1.0, up 1h 1m, well", "io_uring on", "12 (13 sessions", "10s:", "48.0 Mbit/s out"]
        {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        assert!(!said.contains("attention"), "{said}");
    }
}
