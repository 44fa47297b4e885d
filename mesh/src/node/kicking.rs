//! Peers and channels that are kept out for a while, because whoever runs the node says so.

use core::fmt;
use std::net::{IpAddr, SocketAddr};

use codec::ChannelKey;
use codec::wire::control::ByeReason;

use crate::hash::{SeededMap, SeededState};
use crate::limits::KICKED_MAX;
use crate::node::Node;
use crate::session::{Session, address_class};
use crate::time::Time;

/// Whom a node is to keep out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Whom {
    /// All who come from this IPv4 address, or from this address's IPv6 /64.
    Address(IpAddr),
    /// Who comes from this address and port, and nobody beside it behind the same address.
    Peer(SocketAddr),
    /// All who take this channel, and all who give it.
    Channel(ChannelKey),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::Address(ip) => ip.fmt(f),
            Whom::Peer(peer) => peer.fmt(f),
            Whom::Channel(key) => write!(f, "channel {key}"),
        }
    }
}

impl Whom {
    /// The one form of it that is kept and compared.
    fn canonical(self) -> Whom {
        match self {
            Whom::Address(ip) => Whom::Address(address_class(SocketAddr::new(ip.to_canonical(), 0))),
            Whom::Peer(peer) => Whom::Peer(SocketAddr::new(peer.ip().to_canonical(), peer.port())),
            Whom::Channel(_) => self,
        }
    }
}

/// Who is kept out, and until when.
pub(super) struct Kicked {
    until: SeededMap<Whom, Time>,
}

impl Kicked {
    pub(super) fn new(hashing: SeededState) -> Kicked {
        Kicked { until: SeededMap::with_hasher(hashing) }
    }

    /// Returns whether there was room.
    fn add(&mut self, now: Time, whom: Whom, until: Time) -> bool {
        self.until.retain(|_, until| *until > now);
        let has_room = self.until.len() < KICKED_MAX || self.until.contains_key(&whom);
        if has_room {
            self.until.insert(whom, until);
        }
        has_room
    }

    /// Whether this peer, which asks for this channel, is kept out.
    pub(super) fn holds(&self, now: Time, from: SocketAddr, channel: &ChannelKey) -> bool {
        let all = [Whom::Address(address_class(from)), Whom::Peer(from), Whom::Channel(*channel)];
        !self.until.is_empty()
            && all.iter().any(|whom| self.until.get(whom).is_some_and(|until| *until > now))
    }
}

impl Node {
    /// Ends the granted sessions of a peer or channel with a goodbye, and refuses it until then; a time that has passed
    /// lets it in again. Returns how many sessions ended, or `None` when so many are kept out that this one has no room:
    /// then nothing is done.
    pub fn kick(&mut self, now: Time, whom: Whom, until: Time) -> Option<usize> {
        let whom = whom.canonical();
        if !self.kicked.add(now, whom, until) {
            return None;
        }
        let is_meant = |session: &Session| match whom {
            Whom::Address(class) => address_class(session.peer.address) == class,
            Whom::Peer(peer) => session.peer.address == peer,
            Whom::Channel(key) => self.channels[session.channel].verifier.key() == key,
        };
        let granted = self.sessions.iter().filter(|(_, session)| session.dial().is_none());
        let ending: Vec<usize> =
            granted.filter(|(_, session)| is_meant(session)).map(|(index, _)| index).collect();
        for index in &ending {
            // Not as by a node that goes away: that would send them to the other nodes.
            self.say_bye(*index, ByeReason::Done);
            self.end_session(*index);
        }
        Some(ending.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_forgets_whom_it_keeps_out_no_more() {
        let mut kicked = Kicked::new(SeededState::new([1, 2]));
        let whom = |n: usize| Whom::Peer(SocketAddr::from(([192, 0, 2, 1], n as u16)));
        assert!((0..KICKED_MAX).all(|n| kicked.add(Time(0), whom(n), Time(100))));
        assert!(!kicked.add(Time(99), whom(KICKED_MAX), Time(200)), "full");
        assert!(kicked.add(Time(99), whom(3), Time(200)), "one that is in it may be kept out for longer");
        assert!(kicked.add(Time(100), whom(KICKED_MAX), Time(200)));
        assert_eq!(kicked.until.len(), 2);
    }
}
