//! What a node tells of its dials.

use std::net::SocketAddr;

use codec::wire::control::{ByeReason, Nodes, RefuseReason};

use super::DialId;

/// Why a session that had been granted is no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LostReason {
    /// The other node said so.
    Bye(ByeReason),
    /// The other node said nothing for a while.
    Silence,
}

/// What happened to a dial. The node goes on trying by itself in every case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A session was granted.
    Connected {
        /// Which dial.
        dial: DialId,
        /// Whether the channel is live there already.
        is_live: bool,
        /// This node's address as seen from there.
        observed: SocketAddr,
    },
    /// A session was refused; it is asked for again after a while.
    Refused {
        /// Which dial.
        dial: DialId,
        /// Why.
        reason: RefuseReason,
        /// Other nodes that the refusing one named.
        nodes: Nodes,
    },
    /// Several `Hello`s more went unanswered.
    Unanswered {
        /// Which dial.
        dial: DialId,
    },
    /// So much is lost on the way between the two nodes that the subscribing one is sent neither parity nor repair. If that goes
    /// on, and it asked for the session, it is let go.
    Strained {
        /// Which dial.
        dial: DialId,
    },
    /// A session ended.
    Lost {
        /// Which dial.
        dial: DialId,
        /// Why.
        reason: LostReason,
        /// Other nodes that it named.
        nodes: Nodes,
    },
    /// The session brings nothing of the channel, nor does any other, for some time now. It stays.
    Starved {
        /// Which dial.
        dial: DialId,
    },
    /// The node dialled is this one: its own `Hello` came back to it.
    Itself {
        /// Which dial.
        dial: DialId,
    },
}

impl Event {
    /// Which dial it happened to.
    pub fn dial(&self) -> DialId {
        match self {
            Event::Connected { dial, .. }
            | Event::Refused { dial, .. }
            | Event::Unanswered { dial }
            | Event::Lost { dial, .. }
            | Event::Starved { dial }
            | Event::Strained { dial }
            | Event::Itself { dial } => *dial,
        }
    }
}
