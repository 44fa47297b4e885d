//! `superpeer channels`: what a relay carries, as a table.

use std::fmt::Write;

use relay::status::ChannelStatus;

use super::Ask;
use super::client::Client;
use super::text::bit_rate;
use crate::Error;
use crate::contact::say;

/// List the channels that the relay on this machine carries
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  superpeer channels\n  superpeer channels --json | jq '.[].key'")]
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
    let channels = Client::new(&args.ask.at)?.status()?.channels;
    if channels.is_empty() && !args.ask.json {
        say("the relay carries no channel now");
        return Ok(());
    }
    args.ask.show(&channels, |channels| table(channels))
}

fn table(channels: &[ChannelStatus]) -> String {
    let mut out = String::from(
        "SUBSCRIBERS  UPSTREAMS            IN           OUT  CHUNKS      LOST  RECOVERED   REPAIRED  KEY",
    );
    for channel in channels {
        let (received, sent) = (bit_rate(channel.received_bps), bit_rate(channel.sent_bps));
        let ChannelStatus { key, subscribers, upstreams, chunks, shards_lost, .. } = channel;
        let (recovered, repaired) = (channel.shards_recovered, channel.shards_repaired);
        // Writing into a string does not fail.
        let _ = write!(
            out,
            "\n{subscribers:>11}  {upstreams:>9}  {received:>12}  {sent:>12}  {chunks:>6}  {shards_lost:>8}  {recovered:>9}  {repaired:>9}  {key}"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_titles() {
        let channel = ChannelStatus {
            key: "ab".repeat(32),
            subscribers: 120,
            upstreams: 1,
            received_bps: 4.1e6,
            sent_bps: 512e6,
            shards_repaired: 77,
            ..ChannelStatus::default()
        };
        let table = table(&[channel]);
        let (titles, row) = table.split_once('\n').unwrap();
        for (title, value) in
            [("SUBSCRIBERS", "120"), ("  IN", "4.1 Mbit/s"), ("OUT", "512.0 Mbit/s"), ("REPAIRED", "77")]
        {
            let end = |text: &str, part: &str| text.find(part).unwrap() + part.len();
            assert_eq!(end(titles, title), end(row, value), "{table}");
        }
        assert_eq!(titles.find("KEY"), row.find("abab"), "{table}");
    }
}
