//! The local ends: a source that is fed, a sink that is emptied, dials to other nodes.

use std::net::SocketAddr;

use codec::wire::control::{ByeReason, Role};
use codec::{ChannelKey, ChannelSecret, InvalidKey, Sequence, seal_chunk};

use crate::arena::SlotRef;
use crate::channel::Channel;
use crate::dial::{Dial, DialState};
use crate::limits::{DIALS_PER_CHANNEL_MAX, GAP_CHUNKS_MAX, PUSH_BYTES_MAX};
use crate::node::{ChannelId, DialId, Node};
use crate::sink::{OutputChunk, Playout, Sink, SinkConfig};
use crate::source::{Cut, Source};
use crate::stats::ChannelCounters;
use crate::time::Time;
use crate::window::Body;

impl Node {
    /// Makes this node the publisher of a channel.
    pub fn add_source(&mut self, now: Time, secret: ChannelSecret) -> ChannelId {
        let index = self.find_or_add_channel(&secret.key()).expect("a secret's own key is valid");
        let source = self.channels[index].source.replace(Source::new(secret, now));
        assert!(source.is_none(), "a channel has one source");
        self.sources.push(index);
        ChannelId(index)
    }

    /// Makes this node a viewer of a channel.
    ///
    /// # Errors
    /// [`InvalidKey`] when `key` cannot be a channel.
    pub fn add_sink(&mut self, key: &ChannelKey, config: SinkConfig) -> Result<ChannelId, InvalidKey> {
        let index = self.find_or_add_channel(key)?;
        let sink = self.channels[index].sink.replace(Sink::new(config));
        assert!(sink.is_none(), "a channel has one sink");
        Ok(ChannelId(index))
    }

    /// Wants a session with the node at `target`, now and for good: to give it the channel where the source is here,
    /// to take it otherwise. A channel is dialled to a node once, and to [`DIALS_PER_CHANNEL_MAX`] nodes at
    /// most.
    pub fn dial(&mut self, now: Time, channel: ChannelId, target: SocketAddr) -> DialId {
        let dials = &self.channels[channel.0].dials;
        if let Some(&same) = dials.iter().find(|dial| self.dials[**dial].target == target) {
            return DialId(same);
        }
        assert!(!dials.is_full(), "{DIALS_PER_CHANNEL_MAX} dials for one channel already");
        let role = match self.channels[channel.0].source {
            Some(_) => Role::Publish,
            None => Role::Subscribe,
        };
        let dial = self.dials.insert(Dial::new(target, channel.0, role, now));
        self.channels[channel.0].dials.push(dial);
        DialId(dial)
    }

    /// Turns a dial to another node; the session it had is ended. Returns `false`, and changes nothing, when another
    /// dial of the channel has that node already, or after [`Node::close`].
    pub fn redirect(&mut self, now: Time, dial: DialId, target: SocketAddr) -> bool {
        let Some(Dial { channel, state, .. }) = self.dials.get(dial.0) else { return false };
        let (channel, state) = (*channel, *state);
        let mut others = self.channels[channel].dials.iter().filter(|index| **index != dial.0);
        if others.any(|other| self.dials[*other].target == target) {
            return false;
        }
        if let DialState::Live(session) = state {
            self.say_bye(session, ByeReason::Done);
            self.end_session(session);
        }
        self.dials[dial.0].turn_to(now, target);
        true
    }

    /// Ends a dial, and the session it had.
    pub fn hang_up(&mut self, dial: DialId) {
        let Some(Dial { channel, state, .. }) = self.dials.try_remove(dial.0) else { return };
        self.channels[channel].dials.retain(|other| *other != dial.0);
        // Another dial may get its number.
        self.events.retain(|event| event.dial() != dial);
        if let DialState::Live(session) = state {
            self.say_bye(session, ByeReason::Done);
            self.end_session(session);
        }
    }

    /// How many chunks of a source the slowest of the nodes that are connected has not settled; 0 when none is.
    pub fn unsettled(&self, channel: ChannelId) -> u64 {
        let window = &self.channels[channel.0].window;
        // Before its first report a node is held to have what came before the chunks that it is given.
        let behind = |session: usize| match self.settled_by(session).max(self.sessions[session].start) {
            Sequence(0) => window.edge().since(window.oldest()),
            settled => window.edge().since(settled),
        };
        let live = self.dials.iter().filter_map(|(_, dial)| match dial.state {
            DialState::Live(session) if dial.channel == channel.0 => Some(session),
            _ => None,
        });
        live.map(behind).max().unwrap_or(0)
    }

    /// Feeds the source of a channel; at most 64 KiB at once. Chunks are made as they fill up.
    pub fn push(&mut self, now: Time, channel: ChannelId, bytes: &[u8]) {
        assert!(bytes.len() <= PUSH_BYTES_MAX, "{} bytes in one push, {PUSH_BYTES_MAX} may be", bytes.len());
        self.source_mut(channel).append(now, bytes);
        while self.source_mut(channel).is_full() {
            self.make_chunk(now, channel, Cut::Shards, false);
        }
    }

    /// The last `undecided` bytes that were pushed may turn out to be the start of a join point
    /// ([`Node::mark_join_point`]): they are kept out of chunks a little longer.
    pub fn hold_back(&mut self, channel: ChannelId, undecided: usize) {
        self.source_mut(channel).hold_back(undecided);
    }

    /// A viewer may start `back` bytes before the end of what was pushed, if these are not under way already: a new
    /// chunk starts there.
    pub fn mark_join_point(&mut self, now: Time, channel: ChannelId, back: usize) {
        let Some(before) = self.source_mut(channel).bytes_before_join_point(back) else { return };
        if before > 0 {
            self.make_chunk(now, channel, Cut::Bytes(before), false);
        }
        self.source_mut(channel).next_is_join_point();
    }

    /// The next chunk is a join point wherever it starts: for streams that have no better ones.
    pub fn next_is_join_point(&mut self, channel: ChannelId) {
        self.source_mut(channel).next_is_join_point();
    }

    /// Ends the channel with what is pending.
    pub fn finish(&mut self, now: Time, channel: ChannelId) {
        let pending = self.source_mut(channel).pending_bytes();
        self.make_chunk(now, channel, Cut::Bytes(pending), true);
        for (_, session) in self.sessions.iter_mut().filter(|(_, session)| session.channel == channel.0) {
            session.report_at = session.report_at.min(now);
        }
    }

    /// After [`Node::finish`]: whether every node that this one publishes to has settled the last chunk.
    pub fn is_drained(&self, channel: ChannelId) -> bool {
        let edge = self.channels[channel.0].window.edge();
        let settled = |state: DialState| match state {
            DialState::Live(session) => self.settled_by(session) >= edge,
            _ => false,
        };
        self.dials.iter().filter(|(_, dial)| dial.channel == channel.0).all(|(_, dial)| settled(dial.state))
    }

    fn source_mut(&mut self, channel: ChannelId) -> &mut Source {
        self.channels[channel.0].source.as_mut().expect("a channel that was added with its secret")
    }

    pub(super) fn make_chunk(&mut self, now: Time, channel: ChannelId, cut: Cut, last: bool) {
        let slot = self.take_slot(channel.0).expect("nobody holds slots of a node that has a source");
        let Channel { source, window, .. } = &mut self.channels[channel.0];
        let source = source.as_mut().expect("a channel that was added with its secret");
        let mut header = source.plan(now, cut);
        header.last = last;
        let layout = header.layout();
        let payload = &source.pending()[..header.payload_bytes()];
        let memory = self.arena.slot_mut(slot, layout);
        let identity = seal_chunk(memory, &header, [payload], &source.secret, &mut self.fec);
        source.consume(&header);

        let mut body = Body::new(identity, slot);
        body.held = layout.all_shards();
        window.open(now, &header, body);
        self.counters.chunks += 1;
        self.channels[channel.0].settle(now, &mut self.sessions, &mut self.counters);
        self.chunk_grew(now, channel.0, header.sequence);
    }

    /// The next chunk of a channel's viewer, if it is time for it. The memory it names stays until the next call into
    /// the node.
    pub fn next_chunk(&mut self, now: Time, channel: ChannelId) -> Option<OutputChunk> {
        let channel = &mut self.channels[channel.0];
        let sink = channel.sink.as_mut()?;
        loop {
            match sink.advance(now, &channel.window) {
                Playout::Write(chunk) => {
                    channel.counters.chunks_delivered += 1;
                    return Some(chunk);
                }
                Playout::Skip(chunks) => channel.counters.chunks_skipped += chunks,
                Playout::Wait => return None,
            }
        }
    }

    /// The payload of a chunk that [`Node::next_chunk`] just gave, in order.
    pub fn payload(&self, chunk: &OutputChunk) -> impl Iterator<Item = &[u8]> {
        chunk.header.payload(self.arena.slot(chunk.slot, chunk.header.layout()))
    }

    /// The counts of one channel.
    pub fn channel_counters(&self, channel: ChannelId) -> &ChannelCounters {
        &self.channels[channel.0].counters
    }

    /// A slot for a new chunk of this channel; while few are left, the longest window gives up its oldest chunk. `None`
    /// when others hold all that were given up.
    pub(super) fn take_slot(&mut self, channel: usize) -> Option<SlotRef> {
        self.shorten_window(channel);
        if self.arena.is_tight() {
            let longest = self.channels.iter_mut().max_by_key(|(_, channel)| channel.window.own_bodies());
            let (longest, Channel { window, .. }) = longest.expect("the channel that needs a slot is one");
            window.evict_oldest_own_body(&mut self.arena);
            self.note_news(longest);
        }
        let slot = self.arena.take();
        self.lacks_slots |= slot.is_none();
        slot
    }

    /// Makes room for a chunk more in the channel's own window.
    pub(super) fn shorten_window(&mut self, channel: usize) {
        let window = &mut self.channels[channel].window;
        let chunks_max = self.limits.window_chunks_max();
        while window.bodies() >= chunks_max {
            window.evict_oldest_body(&mut self.arena);
        }
        window.shorten(chunks_max + GAP_CHUNKS_MAX as usize, &mut self.arena);
    }

    /// # Errors
    /// When `key` is not a usable public key.
    pub(super) fn find_or_add_channel(&mut self, key: &ChannelKey) -> Result<usize, InvalidKey> {
        let tag = key.tag();
        if let Some(index) = self.channels_by_tag.get(&tag) {
            // Two keys with one tag: 2^64 work for an attacker, and then the first comer keeps it.
            let same = self.channels[*index].verifier.key() == *key;
            return if same { Ok(*index) } else { Err(InvalidKey) };
        }
        let mut channel = Channel::new(key.verifier()?, self.siblings.ledger.common_of(*key));
        channel.set_limits(self.channel_limits.get(key));
        let index = self.channels.insert(channel);
        self.channels_by_tag.insert(tag, index);
        Ok(index)
    }
}
