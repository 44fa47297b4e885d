//! Shards coming in: verified, stored, completed, marked for the fan-out.

use std::net::SocketAddr;

use codec::wire::control::Sender;
use codec::{Sequence, ShardSet, ShardView, VerifyError, restore_chunk, verify_shard};

use crate::limits::TICK_INTERVAL;
use crate::node::Node;
use crate::session::{PeerKey, Side};
use crate::stats::DropReason;
use crate::time::Time;
use crate::window::Body;

impl Node {
    pub(super) fn handle_shard(
        &mut self,
        now: Time,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let shard = ShardView::parse(bytes).map_err(|_| DropReason::MalformedShard)?;
        let tag = shard.tag();
        let channel_index = *self.channels_by_tag.get(&tag).ok_or(DropReason::UnknownChannel)?;
        let peer = PeerKey { address: from, tag, peer: Sender::Upstream };
        let session_index = *self.sessions_by_peer.get(&peer).ok_or(DropReason::NotUpstream)?;
        let identity = self.verify(now, &shard, channel_index, session_index)?;

        let sequence = identity.header.sequence;
        let is_new = self.channels[channel_index].window.body_mut(sequence).is_none();
        if is_new {
            let slot = self.take_slot(channel_index).ok_or(DropReason::NoSlot)?;
            // Making room may have moved the window past the very chunk that needs it.
            if let Err(reason) = self.channels[channel_index].window.admit(now, sequence) {
                self.arena.give_back(slot);
                return Err(reason);
            }
            let channel = &mut self.channels[channel_index];
            channel.window.open(now, &identity.header, Body::new(identity, slot));
            channel.is_lent = false;
            self.counters.chunks += 1;
        } else {
            self.own_chunk(channel_index, sequence)?;
        }
        let session = &mut self.sessions[session_index];
        session.heard_at = now;
        let Side::Upstream(upstream) = &mut session.side else { return Err(DropReason::NotUpstream) };
        upstream.shards_received += 1;
        let channel = &mut self.channels[channel_index];
        channel.counters.shards_received += 1;
        self.counters.shards_stored += 1;
        let chunk = channel.window.get(sequence).expect("it was there or was opened");
        if is_new && chunk.asks == 0 {
            upstream.arrivals.note(now, identity.header.capture_us);
            channel.arrivals.note(now, identity.header.capture_us);
        }
        upstream.striping.note_arrival(now, sequence, chunk.first_seen);
        let slot = chunk.body.as_ref().expect("it was there or was opened").slot;
        channel.window.note_arrival(now, sequence, shard.index());
        self.arena.store(slot, shard.index(), shard.datagram());
        self.chunk_grew(now, channel_index, sequence);
        Ok(())
    }

    /// Everything that decides whether a shard is taken, cheapest first.
    fn verify(
        &mut self,
        now: Time,
        shard: &ShardView<'_>,
        channel: usize,
        session: usize,
    ) -> Result<codec::ChunkIdentity, DropReason> {
        let channel = &mut self.channels[channel];
        let Side::Upstream(upstream) = &mut self.sessions[session].side else {
            return Err(DropReason::NotUpstream);
        };
        upstream.datagrams += 1;
        let sequence = shard.header().sequence;
        channel.window.admit(now, sequence)?;
        if let Some(chunk) = channel.window.get_mut(sequence).filter(|chunk| chunk.holds(shard.index())) {
            upstream.striping.note_arrival(now, sequence, chunk.first_seen);
            if chunk.body.as_mut().is_some_and(|body| body.came_after_all(shard.index())) {
                return Err(DropReason::Overtaken);
            }
            upstream.duplicates += 1;
            return Err(DropReason::Duplicate);
        }
        let known = channel.window.body_mut(sequence).map(|body| body.identity);
        if !known.is_some_and(|known| known.signature_is_of(shard)) {
            if !upstream.may_check_signature(now) {
                return Err(DropReason::SignatureFlood);
            }
            self.counters.signature_checks += 1;
        }
        verify_shard(shard, &channel.verifier, known.as_ref()).map_err(|error| match error {
            VerifyError::Proof => DropReason::BadProof,
            VerifyError::Signature => {
                upstream.note_wasted_check();
                DropReason::BadSignature
            }
            VerifyError::Equivocation => {
                upstream.note_wasted_check();
                DropReason::Equivocation
            }
        })
    }

    /// Shards of a chunk were stored. Completes it if that is now possible, and marks for the fan-out what subscribers
    /// want and were not sent yet.
    pub(super) fn chunk_grew(&mut self, now: Time, index: usize, sequence: Sequence) {
        let channel = &mut self.channels[index];
        channel.fresh_at = now;
        let (needs, audience) = (channel.needs(now), !channel.seats.is_empty());
        let patience = channel.patience(now);
        let Some(chunk) = channel.window.get_mut(sequence) else { return };
        // Nobody waits for it any more.
        let is_too_late = now.since(chunk.first_seen) > patience;
        let Some(body) = &mut chunk.body else { return };
        let layout = body.identity.header.layout();
        let parity = needs.parity.of(layout.data_shards(), layout.parity_shards());
        let wanted = ShardSet::range(0, layout.data_shards() + parity);
        if body.is_decodable() && !wanted.minus(body.held).is_empty() {
            restore(body, &mut self.arena, &mut self.fec, &mut self.counters);
        }
        self.tick_at.get_or_insert(now.after(TICK_INTERVAL));
        if self.siblings.count > 0 && !body.is_lent {
            if body.untold == 0 {
                self.unshared.push((index, sequence));
            }
            body.untold = (1 << self.siblings.count) - 1;
        }
        if !audience || is_too_late {
            // Whoever joins later is sent it as backlog.
            body.fanned = body.held;
            return;
        }
        let was_listed = !body.fresh.is_empty();
        body.fresh = body.held.intersection(wanted).minus(body.fanned);
        if !was_listed && !body.fresh.is_empty() {
            self.fresh.push((index, sequence));
        }
    }
}

/// Makes the shards that are not held, from k that are.
pub(super) fn restore(
    body: &mut Body,
    arena: &mut crate::arena::Arena,
    fec: &mut codec::Fec,
    counters: &mut crate::Counters,
) {
    let memory = arena.slot_mut(body.slot, body.identity.header.layout());
    match restore_chunk(memory, &body.identity, body.held, fec) {
        Ok(()) => {
            body.made_whole();
            counters.chunks_restored += 1;
        }
        Err(_) => {
            body.inconsistent = true;
            counters.chunks_inconsistent += 1;
        }
    }
}
