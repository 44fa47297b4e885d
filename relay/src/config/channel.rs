//! An entry of `channels`: a link or key, or a table with one and what holds for that channel alone.

use std::fmt;

use codec::link::check_relay;
use codec::{ChannelKey, ChannelLink};
use mesh::ChannelLimits;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::EGRESS_MBPS_MAX;
use crate::upstreams::UPSTREAMS_MAX;

/// One channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The channel, written as its link or as its key's 64 hex digits.
    pub key: ChannelKey,
    /// Subscribers that it has at most; `None` or 0: as `[limits]` says.
    pub subscribers: Option<usize>,
    /// Mbit/s of its shards that leave at most, IP headers included; `None` or 0: no cap of its own.
    pub egress_mbps: Option<u64>,
    /// Relays that it is pulled from, [`super::Config::upstreams_at_once`] at a time: `host:port`, at most eight.
    pub upstreams: Vec<String>,
}

/// Mbit/s as bit/s; 0: no cap.
pub(super) fn bps(mbps: u64) -> Option<u64> {
    Some(mbps * 1_000_000).filter(|bps| *bps > 0)
}

impl Channel {
    /// A channel without bounds of its own.
    pub fn new(key: ChannelKey) -> Channel {
        Channel { key, subscribers: None, egress_mbps: None, upstreams: Vec::new() }
    }

    pub(super) fn limits(&self) -> ChannelLimits {
        ChannelLimits {
            subscribers_max: self.subscribers.filter(|most| *most > 0),
            egress_bps_max: self.egress_mbps.and_then(bps),
        }
    }
}

impl<'de> Deserialize<'de> for Channel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Channel, D::Error> {
        deserializer.deserialize_any(Entry)
    }
}

/// The table form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(deserialize_with = "link")]
    link: ChannelKey,
    subscribers: Option<usize>,
    egress_mbps: Option<u64>,
    #[serde(default, deserialize_with = "upstreams")]
    upstreams: Vec<String>,
}

struct Entry;

impl<'de> Visitor<'de> for Entry {
    type Value = Channel;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a channel's link or key, or a table with its `link`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Channel, E> {
        parse(text).map(Channel::new).map_err(E::custom)
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Channel, M::Error> {
        let Table { link, subscribers, egress_mbps, upstreams } =
            Table::deserialize(MapAccessDeserializer::new(map))?;
        if !upstreams.is_empty() && link.verifier().is_err() {
            return Err(M::Error::custom(format!("{link} cannot be the key of a channel")));
        }
        if let Some(mbps) = egress_mbps.filter(|mbps| *mbps > EGRESS_MBPS_MAX) {
            return Err(M::Error::custom(format!("egress_mbps = {mbps}: must be 0 to {EGRESS_MBPS_MAX}")));
        }
        Ok(Channel { key: link, subscribers, egress_mbps, upstreams })
    }
}

fn link<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ChannelKey, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn upstreams<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    if names.len() > UPSTREAMS_MAX {
        return Err(D::Error::custom(format!("{} upstreams; {UPSTREAMS_MAX} may be", names.len())));
    }
    names.into_iter().map(|name| check_relay(name).map_err(D::Error::custom)).collect()
}

fn parse(text: &str) -> Result<ChannelKey, String> {
    if let Some(key) = codec::link::parse_hex(text) {
        return Ok(ChannelKey(key));
    }
    let link = text.parse::<ChannelLink>();
    link.map(|link| link.key)
        .map_err(|error| format!("{text:?} is neither 64 hex digits nor a channel link: {error}"))
}

#[cfg(test)]
mod tests {
    use crate::Config;

    use super::*;

    #[test]
    fn a_channel_is_a_link_a_key_or_a_table_with_either() {
        let key = "ab".repeat(32);
        let text = format!(
            "channels = [\"{key}\", \"magnet:?xs=urn:btpk:{key}\", \
             {{ link = \"{key}\", subscribers = 100, egress_mbps = 50 }}]"
        );
        let plain = Channel::new(ChannelKey([0xab; 32]));
        let bounded = Channel { subscribers: Some(100), egress_mbps: Some(50), ..plain.clone() };
        assert_eq!(Config::parse(&text, "test.toml").unwrap().channels, [plain.clone(), plain, bounded]);
        let too_much = format!("{{ link = \"{key}\", egress_mbps = 2000000 }}");
        for wrong in ["{ subscribers = 1 }", "{ link = \"x\" }", "7", &too_much] {
            let error = Config::parse(&format!("channels = [{wrong}]"), "test.toml").unwrap_err().to_string();
            assert!(error.contains("line 1"), "{error}");
        }
    }

    #[test]
    fn a_channel_may_have_upstreams_which_are_hosts_with_ports_and_not_many() {
        let key = codec::ChannelSecret::from_seed(&[1; 32]).key();
        let parse = |upstreams: &str| {
            Config::parse(
                &format!("channels = [{{ link = \"{key}\", upstreams = [{upstreams}] }}]"),
                "test.toml",
            )
        };
        let config = parse("\"relay.example:7450\", \"[2001:db8::1]:7450\"").unwrap();
        let names = ["relay.example:7450", "[2001:db8::1]:7450"].map(str::to_owned).to_vec();
        assert_eq!(config.upstreams(), [(key, names)].into());
        assert!(parse("").unwrap().upstreams().is_empty());
        let two = (1..=2).map(|number| codec::ChannelSecret::from_seed(&[number; 32]).key());
        let two: Vec<String> =
            two.map(|key| format!("{{ link = \"{key}\", upstreams = [\"192.0.2.1:1\"] }}")).collect();
        let text = format!("channels = [{}]\n[limits]\nchannels = 1", two.join(", "));
        let error = Config::parse(&text, "test.toml").unwrap_err().to_string();
        assert!(error.contains(":3: limits.channels = 1: must be 2 to"), "{error}");
        let error = parse("\"relay.example\"").unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("not host:port"), "{error}");
        let error = parse(&"\"192.0.2.1:1\",".repeat(9)).unwrap_err().to_string();
        assert!(error.contains("9 upstreams; 8 may be"), "{error}");
    }
}
