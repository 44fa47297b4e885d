//! `superpeer kick`: a relay ends somebody's sessions and keeps it out for a while.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use codec::{ChannelKey, ChannelLink};
use relay::commands::{Kick, Kicked, Whom};

use super::client::Client;
use super::{Ask, parse_time};
use crate::Error;

/// End the sessions of an address or channel, and refuse it for a while
///
/// Whoever is meant is told goodbye and refused for the time: all who come from the ADDRESS (of IPv6, from its /64), or with
/// a PORT only the peer there, which may come back from another port. With --channel, all who take or give that channel here.
/// `--for 0s` lets it in again. The relay forgets it when it is started anew.
#[derive(clap::Args, Debug)]
#[command(
    group(clap::ArgGroup::new("whom").required(true)),
    after_help = "Examples:\n  superpeer kick 192.0.2.7\n  superpeer kick '[2001:db8::1]:40000' --for 1h\n  superpeer kick --channel 'magnet:?xs=urn:btpk:…' --for 2d"
)]
pub struct Args {
    /// Whose sessions
    #[arg(value_name = "ADDRESS[:PORT]", group = "whom", value_parser = parse_address)]
    pub address: Option<Whom>,
    /// Which channel's sessions: its link, or the 64 hex digits of its key
    #[arg(long, value_name = "LINK|KEY", group = "whom", value_parser = parse_channel)]
    pub channel: Option<Whom>,
    /// For how long to refuse it: 90s, 10m, 2h
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = parse_time)]
    pub time: Duration,
    /// The relay
    #[command(flatten)]
    pub ask: Ask,
}

/// Runs the command.
///
/// # Errors
/// When there is no relay, or it does not answer.
pub fn run(args: Args) -> Result<(), Error> {
    let whom = args.address.or(args.channel).expect("the command line has one of them");
    let kick = Kick { whom, for_s: args.time.as_secs() };
    let kicked: Kicked = Client::new(&args.ask.at)?.post("/kick", &kick)?;
    let refused = match kick.for_s {
        0 => "let in again".to_owned(),
        seconds => format!("refused for {}", humantime::format_duration(Duration::from_secs(seconds))),
    };
    args.ask.show(&kicked, |kicked| format!("{} sessions ended; {refused}", kicked.sessions))
}

fn parse_address(text: &str) -> Result<Whom, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    match (text.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
        (Ok(peer), _) => Ok(Whom::Peer(peer)),
        (_, Ok(ip)) => Ok(Whom::Address(ip)),
        _ => {
            Err("it is neither an IP address nor one with a port, as 192.0.2.7 or [2001:db8::1]:40000"
                .to_owned())
        }
    }
}

fn parse_channel(text: &str) -> Result<Whom, String> {
    if let Some(key) = codec::link::parse_hex(text) {
        return Ok(Whom::Channel(ChannelKey(key).to_string()));
    }
    let link = text.parse::<ChannelLink>();
    link.map(|link| Whom::Channel(link.key.to_string()))
        .map_err(|error| format!("it is neither 64 hex digits nor a channel link: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_with_and_without_a_port() {
        for (text, expected) in [
            ("192.0.2.7", Whom::Address("192.0.2.7".parse().unwrap())),
            ("192.0.2.7:1", Whom::Peer("192.0.2.7:1".parse().unwrap())),
            ("2001:db8::1", Whom::Address("2001:db8::1".parse().unwrap())),
            ("[2001:db8::1]", Whom::Address("2001:db8::1".parse().unwrap())),
            ("[2001:db8::1]:1", Whom::Peer("[2001:db8::1]:1".parse().unwrap())),
        ] {
            assert_eq!(parse_address(text).unwrap(), expected);
        }
        assert!(parse_address("example.org").is_err());
    }
}
