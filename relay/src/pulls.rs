//! A worker's part in taking channels from other relays: it dials whom it is told to, and says what becomes of that.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;

use codec::ChannelKey;
use mesh::{DialId, Node, Time};
use tracing::error;

use crate::upstreams::Message;
use crate::worker::Shared;

/// Whom a worker is to take a channel from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pull {
    pub(crate) key: ChannelKey,
    /// Which of the channel's dials.
    pub(crate) place: usize,
    /// `None`: from nobody any more.
    pub(crate) target: Option<SocketAddr>,
    /// Tells this wish from earlier ones for the channel.
    pub(crate) turn: u64,
}

/// A worker's dials.
pub(crate) struct Pulls {
    dials: HashMap<(ChannelKey, usize), (DialId, u64)>,
    /// Whoever decides where dials are turned to.
    upstreams: Sender<Message>,
}

impl Pulls {
    pub(crate) fn new(upstreams: Sender<Message>) -> Pulls {
        Pulls { dials: HashMap::new(), upstreams }
    }

    /// Passes on what happened to the dials, and does what is wanted of them by now.
    pub(crate) fn turn(&mut self, node: &mut Node, now: Time, shared: &Shared) {
        // First, for these are events of the wishes so far.
        self.tell(node);
        while let Some(pull) = shared.pulls.pop() {
            self.obey(node, now, pull);
        }
    }

    /// Passes on what happened to the dials.
    pub(crate) fn tell(&self, node: &mut Node) {
        while let Some(event) = node.poll_event() {
            let dial = self.dials.iter().find(|(_, (dial, _))| *dial == event.dial());
            if let Some((&(key, _), &(_, turn))) = dial {
                // Nobody listens any more when the relay ends.
                let _ = self.upstreams.send(Message::Happened { key, turn, event: Box::new(event) });
            }
        }
    }

    fn obey(&mut self, node: &mut Node, now: Time, pull: Pull) {
        let Pull { key, place, target, turn } = pull;
        let dial = match (self.dials.remove(&(key, place)), target) {
            (Some((dial, _)), Some(target)) => {
                // Whoever decides turns no two dials of a channel to one address.
                node.redirect(now, dial, target);
                dial
            }
            (None, Some(target)) => match node.pull(now, &key, target) {
                Ok(dial) => dial,
                Err(error) => return error!(channel = %key, "cannot be pulled: {error}"),
            },
            (Some((dial, _)), None) => return node.hang_up(dial),
            (None, None) => return,
        };
        self.dials.insert((key, place), (dial, turn));
    }
}
