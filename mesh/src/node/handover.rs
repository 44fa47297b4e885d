//! Handing over to the node that takes this one's place in the next process, and taking up there.

use std::collections::BTreeMap;

use codec::wire::control::{Sender, SessionId};
use codec::{ChannelKey, DATAGRAM_BYTES, Sequence, ShardSet};

use rand_chacha::rand_core::Rng;

use crate::allowance::Allowance;
use crate::arena::SlotRef;
use crate::cookie::CookieJar;
use crate::egress::shard_cost;
use crate::fanout::Seat;
use crate::handover::{
    BacklogState, BodyState, ChannelState, ChunkState, Contents, Handover, PublisherState, SubscriberState,
};
use crate::node::{AddressUse, Node};
use crate::session::{Backlog, PeerKey, Session, Side, Subscriber, Upstream, address_class};
use crate::time::Time;

/// Who has to do with a channel.
struct Peers {
    subscribers: Vec<SubscriberState>,
    publishers: Vec<PublisherState>,
    /// The first chunk that a joiner is still to be given.
    first_owed: Sequence,
}

impl Default for Peers {
    fn default() -> Peers {
        Peers { subscribers: Vec::new(), publishers: Vec::new(), first_owed: Sequence(u64::MAX) }
    }
}

impl Node {
    /// What this node leaves to the one that takes its place, to be asked for once [`Node::poll_transmit`] has nothing
    /// more to give, nor holds anything back ([`Node::held_back_until`]), for the successor does not send it: granted sessions, cookies, credits, and of each channel the newest chunks that came in here, in all
    /// of about `bytes_max` bytes. What it dials it does not hand over, nor local sources and sinks.
    pub fn hand_over(&self, now: Time, bytes_max: usize) -> Handover {
        let with_chunks = self.channels.iter().filter(|(_, channel)| channel.window.own_bodies() > 0).count();
        let bytes_each = bytes_max / with_chunks.max(1);
        let mut peers = self.peers_by_channel();
        let channels = self.channels.iter().map(|(index, channel)| {
            let Peers { subscribers, publishers, first_owed } = peers.remove(&index).unwrap_or_default();
            ChannelState {
                key: channel.verifier.key().0,
                counters: channel.counters,
                shards_fanned: channel.shards_fanned,
                data_fanned: channel.data_fanned,
                is_lent: channel.is_lent,
                rates: channel.rates,
                window: channel.window.hand_over(now, first_owed, bytes_each, &self.arena),
                subscribers,
                publishers,
            }
        });
        Handover(Contents {
            cookie_secret: self.cookies.secret(),
            hello_checks: self.hello_checks,
            grants: self.addresses.iter().map(|(address, held)| (*address, held.grants)).collect(),
            channels: channels.collect(),
        })
    }

    fn peers_by_channel(&self) -> BTreeMap<usize, Peers> {
        let backlogs: BTreeMap<usize, &Backlog> =
            self.backlogs.iter().map(|backlog| (backlog.session, backlog)).collect();
        let mut peers: BTreeMap<usize, Peers> = BTreeMap::new();
        for (index, session) in self.sessions.iter().filter(|(_, session)| session.dial().is_none()) {
            let peers = peers.entry(session.channel).or_default();
            match &session.side {
                Side::Subscriber(subscriber) => {
                    let backlog = backlogs.get(&index).filter(|backlog| backlog.id == session.id);
                    if let Some(backlog) = backlog {
                        peers.first_owed = peers.first_owed.min(backlog.next);
                    }
                    let backlog = backlog.map(|backlog| backlog_state(backlog));
                    let seat = self.channels[session.channel].seats.seat(subscriber.seat);
                    peers.subscribers.push(subscriber.hand_over(session.hand_over(), seat, backlog));
                }
                Side::Upstream(upstream) => peers.publishers.push(upstream.hand_over(session.hand_over())),
            }
        }
        peers
    }

    /// Takes the place of the node that handed this over; to be called before anything else. Leases begin anew. Sessions
    /// end whose channels are not admitted any more, and what finds no room in the memory is left out.
    pub fn resume(&mut self, now: Time, handover: Handover) {
        let Contents { cookie_secret, hello_checks, grants, channels } = handover.0;
        self.cookies = CookieJar::new(cookie_secret);
        self.hello_checks = hello_checks.no_later_than(now);
        // What the one before has sent in this second is not known: there is only what is earned from now on.
        self.siblings.ledger.bucket().spend_all(now);
        for (address, grants) in grants {
            self.addresses.insert(address, AddressUse { sessions: 0, grants: grants.no_later_than(now) });
        }
        channels.into_iter().for_each(|channel| self.resume_channel(now, channel));
        self.lend_again();
        self.tick_at = Some(now);
        self.end_unadmitted();
    }

    fn resume_channel(&mut self, now: Time, state: ChannelState) {
        let key = ChannelKey(state.key);
        let index = self.find_or_add_channel(&key).expect("a handover's keys were checked");
        let channel = &mut self.channels[index];
        if let Some((bucket, _)) = channel.budget() {
            bucket.spend_all(now);
        }
        channel.counters = state.counters;
        (channel.shards_fanned, channel.data_fanned) = (state.shards_fanned, state.data_fanned);
        channel.is_lent = state.is_lent;
        channel.resume_rates(state.rates);
        channel.window.resume(now, &state.window);
        for chunk in &state.window.chunks {
            self.resume_chunk(now, index, chunk);
        }
        state.subscribers.iter().for_each(|subscriber| self.resume_subscriber(now, index, subscriber));
        state.publishers.iter().for_each(|publisher| self.resume_publisher(now, index, publisher));
        self.note_news(index);
    }

    fn resume_chunk(&mut self, now: Time, index: usize, chunk: &ChunkState) {
        let slot = chunk.body.as_ref().and_then(|body| self.slot_with(index, body));
        self.channels[index].window.resume_chunk(now, chunk, slot);
    }

    /// A slot with the chunk's shards in it, if there is one left.
    fn slot_with(&mut self, index: usize, body: &BodyState) -> Option<SlotRef> {
        let slot = self.take_slot(index)?;
        for (datagram, shard) in body.shards() {
            let datagram: &[u8; DATAGRAM_BYTES] =
                datagram.try_into().expect("a handover's shards were checked");
            self.arena.store(slot, shard, datagram);
        }
        Some(slot)
    }

    fn resume_subscriber(&mut self, now: Time, index: usize, state: &SubscriberState) {
        let channel = &mut self.channels[index];
        let stripes = state.stripes().expect("a handover's stripes were checked");
        let seat = channel.seats.take(Seat { to: state.session.address, stripes, ..state.seat });
        channel.needs_here = channel.seats.needs();
        let mut subscriber = Subscriber::resume(state, seat);
        subscriber.cost = shard_cost(state.session.address) as u32;
        let ledger = &self.siblings.ledger;
        subscriber.serial = ledger.resume(channel.verifier.key(), self.number, subscriber.cost, state.serial);
        let side = Side::Subscriber(subscriber);
        let peer =
            PeerKey { address: state.session.address, tag: channel.verifier.tag(), peer: Sender::Subscriber };
        let session = self.resume_session(now, Session::resume(now, &state.session, peer, index, side));
        if let Some(backlog) = &state.backlog {
            self.backlogs.push_back(Backlog {
                session,
                id: SessionId(state.session.id),
                next: Sequence(backlog.next),
                sent: ShardSet::from_bits(backlog.sent),
                through: Sequence(backlog.through),
                due: backlog.due.min(now),
                since: now,
                owed: 0,
            });
        }
    }

    fn resume_publisher(&mut self, now: Time, index: usize, state: &PublisherState) {
        let mut upstream = Upstream::resume(now, state);
        // The other end knows the last numbers of the node before.
        upstream.request = self.random.next_u32() as u16;
        let side = Side::Upstream(Box::new(upstream));
        self.channels[index].arrivals = state.arrivals.clone();
        let tag = self.channels[index].verifier.tag();
        let peer = PeerKey { address: state.session.address, tag, peer: Sender::Upstream };
        let session = self.resume_session(now, Session::resume(now, &state.session, peer, index, side));
        self.channels[index].upstreams.push(session);
    }

    fn resume_session(&mut self, now: Time, session: Session) -> usize {
        let peer = session.peer;
        let fresh = || AddressUse { sessions: 0, grants: Allowance::new(now) };
        self.addresses.entry(address_class(peer.address)).or_insert_with(fresh);
        self.count_granted(peer, 1);
        let index = self.sessions.insert(session);
        self.sessions_by_peer.insert(peer, index);
        index
    }

    /// The others are to have all chunks again; the newest, if there are more than they can be told of.
    fn lend_again(&mut self) {
        if self.siblings.count == 0 {
            return;
        }
        let mut chunks = Vec::new();
        for (index, channel) in &mut self.channels {
            for chunk in channel.window.chunks_mut() {
                let Some(body) = &mut chunk.body else { continue };
                body.untold = (1 << self.siblings.count) - 1;
                chunks.push((chunk.first_seen, index, chunk.sequence));
            }
        }
        chunks.sort_unstable_by_key(|(first_seen, ..)| *first_seen);
        self.unshared.extend(chunks.into_iter().map(|(_, index, sequence)| (index, sequence)));
    }
}

fn backlog_state(backlog: &Backlog) -> BacklogState {
    BacklogState {
        next: backlog.next.0,
        sent: backlog.sent.bits(),
        through: backlog.through.0,
        due: backlog.due,
    }
}
