//! Channel links: BEP 46 magnets with the relays to ask as `x.pe` (BEP 9), for example
//! `magnet:?xs=urn:btpk:<64 hex digits>&dn=<name>&x.pe=<host:port>`.

use core::fmt;
use core::str::FromStr;
use std::net::SocketAddrV6;

use thiserror::Error;

use crate::channel::ChannelKey;

/// The longest link that is read, in bytes.
pub const LINK_BYTES_MAX: usize = 4096;

const RELAYS_MAX: usize = 16;

/// What a viewer needs to find a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelLink {
    /// The channel.
    pub key: ChannelKey,
    /// What to call it.
    pub name: Option<String>,
    /// `host:port` of relays that carry it; a host may be a name, an IPv4 address or a bracketed IPv6 address.
    pub relays: Vec<String>,
}

/// Why a text is not a channel link.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// Too long to be looked at.
    #[error("a link is at most {LINK_BYTES_MAX} bytes long, this one is {0}")]
    Length(usize),
    /// Another scheme.
    #[error("a channel link starts with \"magnet:?\"")]
    Scheme,
    /// No channel key in it.
    #[error("the link has no channel key (xs=urn:btpk:<64 hex digits>)")]
    NoKey,
    /// A channel key that is not one.
    #[error("{0:?} is not a channel key: 64 hex digits are needed")]
    Key(String),
    /// A `%` escape that is not one, or bytes that are not UTF-8.
    #[error("{0:?} is not percent-encoded UTF-8")]
    Escape(String),
    /// A relay that is not a host and a port.
    #[error(
        "{0:?} is not host:port: a name, an IPv4 address or an IPv6 address in brackets, then a port from 1 to 65535"
    )]
    Relay(String),
    /// More relays than anybody would try.
    #[error("a link names at most {RELAYS_MAX} relays, this one {0}")]
    TooManyRelays(usize),
}

impl FromStr for ChannelLink {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<ChannelLink, LinkError> {
        if text.len() > LINK_BYTES_MAX {
            return Err(LinkError::Length(text.len()));
        }
        let query = text.trim().strip_prefix("magnet:?").ok_or(LinkError::Scheme)?;
        let (mut key, mut name, mut relays) = (None, None, Vec::new());
        for (field, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match field {
                "xs" => key = Some(parse_key(&unescape(value)?)?),
                "dn" => name = Some(unescape(value)?),
                "x.pe" => relays.push(check_relay(unescape(value)?)?),
                _ => {}
            }
        }
        if relays.len() > RELAYS_MAX {
            return Err(LinkError::TooManyRelays(relays.len()));
        }
        Ok(ChannelLink { key: key.ok_or(LinkError::NoKey)?, name, relays })
    }
}

impl fmt::Display for ChannelLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "magnet:?xs=urn:btpk:{}", self.key)?;
        if let Some(name) = &self.name {
            write!(f, "&dn={}", escape(name))?;
        }
        self.relays.iter().try_for_each(|relay| write!(f, "&x.pe={}", escape(relay)))
    }
}

/// Whether `text` is `host:port`: a name (letters, digits, `-`, `.`, `_`), an IPv4 address, or an IPv6 address in
/// brackets; then a port from 1 to 65535.
///
/// # Errors
/// [`LinkError::Relay`] with the text.
pub fn check_relay(text: String) -> Result<String, LinkError> {
    let valid = if text.starts_with('[') {
        text.parse::<SocketAddrV6>().is_ok_and(|address| address.port() != 0)
    } else {
        text.split_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port))
    };
    if valid { Ok(text) } else { Err(LinkError::Relay(text)) }
}

fn is_host(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.bytes().all(fits)
}

/// Digits only: `u16::from_str` would take a leading `+` too.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

fn parse_key(value: &str) -> Result<ChannelKey, LinkError> {
    let invalid = || LinkError::Key(value.to_owned());
    let hex = value.strip_prefix("urn:btpk:").ok_or_else(invalid)?;
    parse_hex(hex).map(ChannelKey).ok_or_else(invalid)
}

/// 32 bytes from 64 hex digits.
pub fn parse_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// RFC 3986 §2.1, leaving the unreserved characters and those that `host:port` needs.
fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

fn unescape(text: &str) -> Result<String, LinkError> {
    let invalid = || LinkError::Escape(text.to_owned());
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|c| char::from(c).to_digit(16)).ok_or_else(invalid);
                (digit()? * 16 + digit()?) as u8
            }
            b'+' => b' ',
            plain => plain,
        });
    }
    String::from_utf8(out).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_reads_back_as_it_was_written() {
        let link = ChannelLink {
            key: ChannelKey([0xab; 32]),
            name: Some("news & weather, 100%".into()),
            relays: vec!["relay.example:7450".into(), "[2001:db8::1]:7450".into(), "192.0.2.1:1".into()],
        };
        assert_eq!(link.to_string().parse(), Ok(link));
    }

    #[test]
    fn a_wrong_link_says_what_is_wrong() {
        let parse = |text: &str| text.parse::<ChannelLink>().unwrap_err();
        let key = "xs=urn:btpk:".to_owned() + &"0".repeat(64);
        assert_eq!(parse("https://example"), LinkError::Scheme);
        assert_eq!(parse("magnet:?dn=x"), LinkError::NoKey);
        assert!(matches!(parse("magnet:?xs=urn:btpk:12"), LinkError::Key(_)));
        assert!(matches!(parse(&format!("magnet:?{key}&dn=%zz")), LinkError::Escape(_)));
        assert!(matches!(parse(&format!("magnet:?{key}&x.pe=2001:db8::1:7450")), LinkError::Relay(_)));
        assert!(matches!(parse(&format!("magnet:?{key}&x.pe=host")), LinkError::Relay(_)));
        assert!(matches!(parse(&"m".repeat(5000)), LinkError::Length(5000)));
    }

    #[test]
    fn a_relay_is_a_host_and_a_port_and_nothing_else() {
        for relay in ["relay.example:7450", "192.0.2.1:1", "[::1]:65535", "a_b-c:80"] {
            assert_eq!(check_relay(relay.into()), Ok(relay.into()));
        }
        for other in
            ["h:0", "h:+80", "h:65536", "h:", ":80", "[x]:1", "[:1", "[::1]:0", "::1:80", "h\x1b[m:80"]
        {
            assert_eq!(check_relay(other.into()), Err(LinkError::Relay(other.into())));
        }
    }
}
