//! Sessions begin and end, whichever side said `Hello`.

use core::ops::RangeInclusive;
use std::net::SocketAddr;

use codec::wire::control::{Sender, SessionId};
use codec::{Sequence, ShardSet};

use crate::dial::DialState;
use crate::fanout::Seat;
use crate::limits::{HELLO_WAIT_MAX, REFUSED_SENDS_MAX, SESSION_WORTH, TICK_INTERVAL};
use crate::line::Line;
use crate::node::Node;
use crate::session::{Backlog, PeerKey, Session, Side, Subscriber, Upstream};
use crate::time::Time;

/// How a subscriber is let in.
#[derive(Clone, Copy)]
pub(super) struct Seating {
    /// The first chunk that it asks for.
    pub(super) from: Sequence,
    /// Its number in the ledger; 0 if it is not there.
    pub(super) serial: u64,
    /// What the ledger knows it to cost.
    pub(super) cost: u32,
    /// Otherwise it starts at the live edge.
    pub(super) has_backlog: bool,
    /// Bytes of its backlog that the ledger counts as owed.
    pub(super) owed: u64,
}

impl Seating {
    /// Of a session that the ledger does not know: this node dialled, or is given the channel.
    pub(super) const fn free(from: Sequence) -> Seating {
        Seating { from, serial: 0, cost: 0, has_backlog: true, owed: 0 }
    }
}

impl Node {
    /// Adds a session. A subscriber is owed everything from where it starts to the live edge, if there is room for its
    /// backlog.
    pub(super) fn begin_session(
        &mut self,
        now: Time,
        id: SessionId,
        peer: PeerKey,
        channel_index: usize,
        nonce: u64,
        seating: Seating,
    ) -> usize {
        let channel = &mut self.channels[channel_index];
        let entry = self.sessions.vacant_entry();
        let index = entry.key();
        let (mut start, mut has_backlog) = (Sequence(0), false);
        let through = channel.window.edge();
        let side = match peer.peer {
            Sender::Upstream => {
                channel.upstreams.push(index);
                Side::Upstream(Box::new(Upstream::new(now)))
            }
            Sender::Subscriber => {
                start = channel.start_for(seating.from);
                if !seating.has_backlog && start != Sequence(0) {
                    start = through.next();
                }
                let seat = channel.seats.take(Seat::new(peer.address));
                has_backlog = start != Sequence(0) && start <= through;
                let mut subscriber = Subscriber::new(
                    seat,
                    channel.shards_fanned,
                    channel.data_gone,
                    Line::new(channel.data_fanned),
                );
                (subscriber.serial, subscriber.cost) = (seating.serial, seating.cost);
                Side::Subscriber(subscriber)
            }
        };
        entry.insert(Session::new(id, peer, channel_index, nonce, start, now, side));
        self.sessions_by_peer.insert(peer, index);
        if peer.peer == Sender::Upstream {
            self.note_news(channel_index);
        }
        if has_backlog {
            self.owe(now, index, id, start..=through, seating.owed);
        }
        index
    }

    /// A joiner is to be sent these chunks.
    pub(super) fn owe(
        &mut self,
        now: Time,
        session: usize,
        id: SessionId,
        chunks: RangeInclusive<Sequence>,
        owed: u64,
    ) {
        let (next, through) = chunks.into_inner();
        let sent = ShardSet::EMPTY;
        self.backlogs.push_back(Backlog { session, id, next, sent, through, due: now, since: now, owed });
        self.tick_at.get_or_insert(now.after(TICK_INTERVAL));
    }

    /// Forgets a session and everything that points to it.
    pub(super) fn end_session(&mut self, index: usize) -> Session {
        let session = self.sessions.remove(index);
        self.sessions_by_peer.remove(&session.peer);
        let channel = &mut self.channels[session.channel];
        match &session.side {
            Side::Subscriber(subscriber) => {
                channel.seats.leave(subscriber.seat);
                if subscriber.serial != 0 {
                    self.siblings.ledger.leave(&channel.verifier.key(), subscriber.serial);
                }
            }
            Side::Upstream(_) => channel.upstreams.retain(|upstream| *upstream != index),
        }
        if matches!(session.side, Side::Upstream(_)) {
            self.divide(session.channel);
        }
        match session.dial() {
            Some(dial) => self.put_dial_to_rest(dial, index, &session),
            None => self.count_granted(session.peer, -1),
        }
        session
    }

    /// The kernel would not send to this address: the subscribers there are let go if that goes on.
    pub fn note_refused(&mut self, address: SocketAddr) {
        for index in 0..self.channels.capacity() {
            let Some(channel) = self.channels.get(index) else { continue };
            let peer = PeerKey { address, tag: channel.verifier.tag(), peer: Sender::Subscriber };
            let Some(&session) = self.sessions_by_peer.get(&peer) else { continue };
            self.sessions[session].refused_sends += 1;
            if self.sessions[session].refused_sends >= REFUSED_SENDS_MAX {
                self.counters.sessions_unreachable += 1;
                self.end_session(session);
            }
        }
    }

    /// The dial tries again after a while. A relay that settled chunks up to some number gets the next ones then.
    fn put_dial_to_rest(&mut self, dial: usize, index: usize, session: &Session) {
        let Some(dial) = self.dials.get_mut(dial).filter(|dial| dial.state == DialState::Live(index)) else {
            return;
        };
        dial.rest(session.heard_at.after(HELLO_WAIT_MAX));
        if session.heard_at.since(session.begun_at) >= SESSION_WORTH {
            dial.start_over();
        }
        if let Side::Subscriber(subscriber) = &session.side
            && subscriber.settled != Sequence(0)
        {
            dial.resume = subscriber.settled.next();
        }
    }
}
