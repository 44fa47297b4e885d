//! The loop that drives each node, as the documentation of [`mesh::Node`] shows it, and what is checked while it runs.

use std::net::SocketAddr;
use std::time::Duration;

use codec::wire::control::{ByeReason, Control};
use codec::wire::{SHARD, kind_of};
use codec::{DATAGRAM_BYTES, ShardView};
use mesh::limits::{LINE_REST, PUSH_BYTES_MAX};
use mesh::{Event, LostReason, Payload, Progress, Share, Time};

use super::book::Datagram;
use super::world::{Happening, World};

/// News reach another node of the process after so long.
const SHARE_TIME: Duration = Duration::from_micros(20);

/// A node may want to be called so often in a second if nothing comes in: each 250 µs, and more for what is not regular.
const WAKES_PER_SECOND_MAX: u32 = 5_000;

/// Batches in a row: a thousand subscribers, one message each at a time, and much more than that.
const BATCHES_MAX: usize = 1_000_000;

impl World {
    pub(super) fn unit_mut(&mut self, host: usize, unit: usize) -> &mut super::host::Unit {
        &mut self.hosts[host].process.as_mut().expect("a running process").units[unit]
    }

    /// One round of a node's loop, after what came was handed to it.
    pub(super) fn service(&mut self, host: usize, unit: usize) {
        let local = self.hosts[host].clock(self.now);
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        let siblings = process.units.len() - 1;
        let it = &mut process.units[unit];
        for share in it.inbox.drain(..) {
            it.node.handle_share(local, &share);
        }
        for place in 0..it.dials.len() {
            it.act(local, place, |contact, turn| contact.poll(local, turn));
        }
        it.node.handle_timeout(local);
        if siblings > 0 {
            self.share(host, unit, local);
        }
        self.send_all(host, unit);
        self.take_events(host, unit, local);
        self.write_chunks(host, unit, local);
        self.sleep(host, unit, local);
    }

    fn share(&mut self, host: usize, unit: usize, local: Time) {
        let process = self.hosts[host].process.as_mut().expect("the caller's");
        let mut rooms: Vec<bool> = process.units.iter().map(|unit| unit.has_room()).collect();
        rooms.remove(unit);
        let it = &mut process.units[unit];
        process.commons.publish(unit, &it.node, &it.outbox);
        let mut told: Vec<(usize, Share)> = Vec::new();
        it.node.share(local, |sibling, share| {
            let room = rooms[sibling];
            if room {
                told.push((sibling, share));
            }
            room
        });
        for (sibling, share) in told {
            let other = if sibling < unit { sibling } else { sibling + 1 };
            self.unit_mut(host, other).inbox.push_back(share);
            self.wake(host, other, self.now.after(SHARE_TIME));
        }
    }

    /// Everything that the node has to send now.
    pub(super) fn send_all(&mut self, host: usize, unit: usize) {
        let local = self.hosts[host].clock(self.now);
        let mut sent: Vec<(SocketAddr, Result<Datagram, String>)> = Vec::new();
        for batches in 0.. {
            let process = self.hosts[host].process.as_mut().expect("the caller's");
            let it = &mut process.units[unit];
            it.outbox.clear();
            let progress = it.node.poll_transmit(local, &mut it.outbox);
            for transmit in process.units[unit].outbox.transmits() {
                let owner = match &transmit.payload {
                    Payload::Train { slot, .. } => process.commons.owner(*slot),
                    Payload::Control(_) => unit,
                };
                let bytes = process.units[owner].node.bytes_of(transmit, &process.units[unit].outbox);
                for datagram in bytes.chunks(DATAGRAM_BYTES) {
                    let checked = match kind_of(datagram) {
                        Some(SHARD) => self.book.check(datagram),
                        _ => Ok(datagram.into()),
                    };
                    sent.push((transmit.to, checked));
                }
            }
            for (to, datagram) in sent.drain(..) {
                match datagram {
                    Ok(bytes) => self.let_out(host, to, bytes),
                    Err(why) => self.fail(format!("{} {why}", self.hosts[host].name)),
                }
            }
            if progress == Progress::Idle || self.failure.is_some() {
                return;
            }
            if batches > BATCHES_MAX {
                self.fail(format!("{} never comes to an end of what it sends", self.hosts[host].name));
            }
        }
    }

    fn let_out(&mut self, host: usize, to: SocketAddr, bytes: Datagram) {
        if self.is_amplified(host, to, &bytes) {
            let (came, went) = self.hosts[host].process.as_ref().expect("the caller's").strangers[&to];
            let name = &self.hosts[host].name;
            self.fail(format!("{name} has sent {went} bytes for {came} to {to}, which has proven nothing"));
        }
        if !self.without.lets_pass(self.hosts[host].process.as_ref().expect("the caller's"), &bytes) {
            return;
        }
        let bytes = if self.hosts[host].lies { self.lie(bytes) } else { bytes };
        let meters = &mut self.hosts[host].process.as_mut().expect("the caller's").meters;
        if let Err(why) = meters.note(self.now, &bytes) {
            self.fail(format!("{} {why}", self.hosts[host].name));
        }
        self.emit(host, to, bytes);
    }

    /// Counts what a relay sends to an address that has not shown that it receives there.
    fn is_amplified(&mut self, host: usize, to: SocketAddr, bytes: &[u8]) -> bool {
        let process = self.hosts[host].process.as_mut().expect("the caller's");
        let is_dialled = process.units.iter().flat_map(|unit| &unit.dials).any(|it| it.targets.contains(&to));
        if !process.is_relay || is_dialled || process.proven.contains(&to) {
            return false;
        }
        let (came, went) = process.strangers.entry(to).or_default();
        *went += bytes.len() as u64;
        let amplified = *went > *came;
        if let Ok(Control::Challenge(challenge)) = Control::parse(bytes) {
            process.challenges.insert((to, challenge.cookie));
        }
        amplified
    }

    fn take_events(&mut self, host: usize, unit: usize, local: Time) {
        while let Some(event) = self.unit_mut(host, unit).node.poll_event() {
            self.log(|world| format!("{}: {event:?}", world.hosts[host].name));
            self.note_alarm(host, &event);
            let it = self.unit_mut(host, unit);
            let Some(place) = it.dials.iter().position(|it| it.dial == Some(event.dial())) else { continue };
            let dialled = &mut it.dials[place];
            match event {
                Event::Connected { .. } => (dialled.refused, dialled.connected_at) = (false, local),
                Event::Refused { .. } => dialled.refused = true,
                Event::Lost { .. } => dialled.lost += 1,
                _ => {}
            }
            it.act(local, place, |contact, turn| contact.handle_event(local, &event, turn));
        }
    }

    /// Notes that somebody's line is found too thin.
    fn note_alarm(&mut self, host: usize, event: &Event) {
        let is_let_go = matches!(event, Event::Lost { reason: LostReason::Bye(ByeReason::LineTooThin), .. });
        if is_let_go {
            self.resting_until = self.now.after(LINE_REST);
        }
        // Whoever reports nonsense is taken at its word.
        let is_false = self.calm_from.is_some_and(|from| self.now >= from) && !self.hosts[host].lies;
        if is_false && (is_let_go || matches!(event, Event::Strained { .. })) {
            self.fail(format!("{} has {event:?} on a network without fault", self.hosts[host].name));
        }
    }

    fn write_chunks(&mut self, host: usize, unit: usize, local: Time) {
        let process = self.hosts[host].process.as_mut().expect("the caller's");
        let it = &mut process.units[unit];
        let mut wrong = None;
        if let Some(sink) = &mut it.sink {
            while let Some(chunk) = it.node.next_chunk(local, sink.id) {
                let payload: Vec<u8> = it.node.payload(&chunk).flatten().copied().collect();
                let content = self.streams[sink.stream].content;
                let read = sink.reading.take(content, chunk.header.sequence.0, &payload);
                wrong = wrong.or(read.err());
                sink.ended = chunk.header.last;
            }
            let counters = it.node.channel_counters(sink.id);
            let counted = (counters.chunks_delivered, counters.chunks_skipped);
            let seen = (sink.reading.chunks, sink.reading.missed);
            if counted.0 != seen.0 || counted.1 < seen.1 {
                wrong.get_or_insert(format!(
                    "has counted {counted:?} chunks written and skipped, of {seen:?}"
                ));
            }
        }
        if let Some(why) = wrong {
            self.fail(format!("{}: {why}", self.hosts[host].name));
        }
    }

    /// Sees to it that the node is called when it wants to be.
    fn sleep(&mut self, host: usize, unit: usize, local: Time) {
        let it = self.unit_mut(host, unit);
        let contacts = it.dials.iter().filter_map(|dialled| dialled.contact.next_timeout());
        let Some(at) = contacts.chain(it.node.next_timeout()).min() else { return };
        // What is due already is due at once: who is called for nothing again and again is found out.
        let at =
            if at <= local { self.now.after(Duration::from_micros(1)) } else { self.hosts[host].when(at) };
        self.wake(host, unit, at);
    }

    pub(super) fn wake(&mut self, host: usize, unit: usize, at: Time) {
        let life = self.hosts[host].lives;
        let it = self.unit_mut(host, unit);
        if it.wake_at.is_none_or(|set| at < set) {
            it.wake_at = Some(at);
            self.at(at, Happening::Wake { host, life, unit });
        }
    }

    /// Counts that a node is called although nothing came for it.
    pub(super) fn note_wake(&mut self, host: usize, unit: usize) {
        let now = self.now;
        let it = self.unit_mut(host, unit);
        if now.since(it.wakes.0) >= Duration::from_secs(1) {
            it.wakes = (now, 0);
        }
        // News from siblings are input.
        it.wakes.1 += u32::from(it.inbox.is_empty());
        if it.wakes.1 > WAKES_PER_SECOND_MAX {
            let name = &self.hosts[host].name;
            self.fail(format!("{name} wants to be called more than {WAKES_PER_SECOND_MAX} times a second"));
        }
    }

    /// Gives a publisher the next bytes of its stream.
    pub(super) fn feed(&mut self, host: usize) {
        let local = self.hosts[host].clock(self.now);
        let life = self.hosts[host].lives;
        let process = self.hosts[host].process.as_mut().expect("the caller's");
        let (node, Some(feed)) = (&mut process.units[0].node, &mut process.feed) else { return };
        if feed.finished {
            return;
        }
        let stream = &self.streams[feed.stream];
        let bytes = (stream.rate as f64 * stream.piece_every.as_secs_f64()) as usize;
        let mut piece = vec![0; bytes.clamp(1, PUSH_BYTES_MAX)];
        stream.content.fill(feed.place, &mut piece);
        feed.place.byte += piece.len() as u64;
        node.push(local, feed.id, &piece);
        if feed.pieces.is_multiple_of(stream.pieces_per_join) {
            node.mark_join_point(local, feed.id, piece.len());
        }
        feed.pieces += 1;
        let next = self.now.after(stream.piece_every);
        self.touched.push((host, 0));
        self.at(next, Happening::Feed { host, life });
    }

    /// Ends a publisher's channel.
    pub(super) fn finish(&mut self, host: usize) {
        let local = self.hosts[host].clock(self.now);
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        let (node, Some(feed)) = (&mut process.units[0].node, &mut process.feed) else { return };
        node.finish(local, feed.id);
        feed.finished = true;
        self.service(host, 0);
    }

    /// What holds at any time of every process, looked at now and then.
    pub(super) fn audit(&mut self) {
        for host in 0..self.hosts.len() {
            let Some(process) = &self.hosts[host].process else { continue };
            if let Some(why) = super::audit::exceeded(process) {
                self.fail(format!("{}: {why}", self.hosts[host].name));
                return;
            }
        }
    }
}

/// Whether a relay could only have made this shard itself.
pub(super) fn is_made_here(
    came: &std::collections::HashSet<(codec::ChannelTag, u64, usize)>,
    bytes: &[u8],
) -> bool {
    let shard = ShardView::parse(bytes);
    shard.is_ok_and(|shard| !came.contains(&(shard.tag(), shard.header().sequence.0, shard.index())))
}
