//! Everything that goes out, in this order: control, repair, backlogs, the live fan-out. Nobody takes all of a batch
//! while others wait: control leaves half of it, repair and backlogs leave the fan-out half of that.

use core::time::Duration;

use codec::wire::control::{ByeReason, Control};
use codec::{ChunkHeader, ShardSet};

use crate::limits::{BACKLOG_INTERVAL_MAX, BACKLOG_INTERVAL_MIN, BACKLOG_SPEED};
use crate::node::{Answer, Node, Progress};
use crate::outbox::Outbox;
use crate::session::Backlog;
use crate::stats::Counters;
use crate::time::Time;
use crate::window::Window;

impl Node {
    /// Fills `out`, which has been emptied, with what is to be sent now.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Outbox) -> Progress {
        self.fan_out_fresh(now);
        let alone = self.answers.is_empty() && self.backlogs.is_empty() && self.fanout.is_empty();
        let reserved = if alone { 0 } else { out.room() / 2 };
        self.send_control(out, reserved);
        let reserved = if self.fanout.is_empty() { 0 } else { out.room() / 2 };
        self.send_answers(out, reserved);
        self.send_backlogs(now, out, reserved);
        let channels = &self.channels;
        let seats_of = |channel: usize| channels.get(channel).map(|channel| &channel.seats);
        self.fanout.send(now, seats_of, &self.arena, out, &mut self.counters);
        let waiting = out.is_full() || !self.answers.is_empty() || !self.control.is_empty();
        if waiting { Progress::More } else { Progress::Idle }
    }

    /// Turns what the last wake-up brought into trains: one per run of consecutive shards.
    fn fan_out_fresh(&mut self, now: Time) {
        for (index, sequence) in self.fresh.drain(..) {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            let Some(body) = channel.window.body_mut(sequence) else { continue };
            let (mut rest, slot, layout) = (body.fresh, body.slot, body.identity.header.layout());
            body.fanned = body.fanned.union(rest);
            body.fresh = ShardSet::EMPTY;
            channel.shards_fanned += rest.len() as u64;
            while let Some((first, end)) = rest.first_run() {
                rest = rest.minus(ShardSet::range(first, end));
                let seats = &mut channel.seats;
                self.fanout.add(now, index, seats, (slot, layout), (first, end), &mut self.counters);
            }
        }
    }

    fn send_control(&mut self, out: &mut Outbox, reserved: usize) {
        while let Some(index) = self.closing.filter(|_| !out.is_full()) {
            if index >= self.sessions.capacity() {
                break;
            }
            self.closing = Some(index + 1);
            if let Some(to) = self.sessions.get(index).map(|session| session.peer.address) {
                out.push_control(to, &Control::Bye(self.bye(index, ByeReason::Closing)));
                self.counters.control_sent += 1;
                self.end_session(index);
            }
        }
        while out.room() > reserved && self.control.pop_into(out) {
            self.counters.control_sent += 1;
        }
    }

    fn send_answers(&mut self, out: &mut Outbox, reserved: usize) {
        while out.room() > reserved
            && let Some((_, turn, answer)) = self.answers.front_mut()
        {
            if !self.arena.holds(answer.slot) {
                answer.shards = ShardSet::EMPTY;
            }
            let room = out.room();
            let room_after = reserved.max(room.saturating_sub(turn));
            while out.room() > room_after
                && let Some(run) = answer.shards.first_run()
            {
                self.counters.repairs_sent += send_run(answer, run, out, &mut self.counters);
            }
            let done = answer.shards.is_empty();
            self.answers.served(room - out.room(), done);
        }
    }

    /// Gives every joiner that is due its next chunks.
    fn send_backlogs(&mut self, now: Time, out: &mut Outbox, reserved: usize) {
        for _ in 0..self.backlogs.len() {
            if out.room() <= reserved {
                return;
            }
            let Some(backlog) = self.backlogs.pop_front() else { return };
            let left = self.send_backlog(now, backlog, out, reserved);
            self.backlogs.extend(left);
        }
    }

    /// Sends one joiner what is due of its backlog; returns what is left of it.
    fn send_backlog(
        &mut self,
        now: Time,
        mut backlog: Backlog,
        out: &mut Outbox,
        reserved: usize,
    ) -> Option<Backlog> {
        let session = self.sessions.get(backlog.session).filter(|session| session.id == backlog.id)?;
        let window = &self.channels[session.channel].window;
        while backlog.due <= now {
            let chunk = window.first_from(backlog.next).filter(|chunk| chunk.sequence <= backlog.through)?;
            if chunk.sequence > backlog.next {
                (backlog.next, backlog.sent) = (chunk.sequence, ShardSet::EMPTY);
            }
            if let Some(body) = &chunk.body {
                let data = body.identity.header.layout().data_set();
                let shards = body.held.intersection(data).minus(backlog.sent);
                let mut answer = Answer { to: session.peer.address, slot: body.slot, shards };
                while let Some(run) = answer.shards.first_run() {
                    if out.room() <= reserved {
                        return Some(backlog);
                    }
                    backlog.sent = backlog.sent.union(ShardSet::range(run.0, run.1));
                    let sent = send_run(&mut answer, run, out, &mut self.counters);
                    self.counters.backlog_sent += sent;
                }
                backlog.due = backlog.due.after(pause_after(window, &body.identity.header));
            }
            (backlog.next, backlog.sent) = (chunk.sequence.next(), ShardSet::EMPTY);
        }
        Some(backlog)
    }
}

/// How long a joiner's next chunk waits: a fraction of the time that this one lasts.
fn pause_after(window: &Window, header: &ChunkHeader) -> Duration {
    let following = window.get(header.sequence.next()).and_then(|next| next.body.as_ref());
    let next_capture_us = following.map_or(0, |next| next.identity.header.capture_us);
    let span = next_capture_us.saturating_sub(header.capture_us);
    Duration::from_micros(span / BACKLOG_SPEED).clamp(BACKLOG_INTERVAL_MIN, BACKLOG_INTERVAL_MAX)
}

/// Sends one run of an answer's shards as a train and takes it out of the answer. Returns how many shards it was.
fn send_run(
    answer: &mut Answer,
    (first, end): (usize, usize),
    out: &mut Outbox,
    counters: &mut Counters,
) -> u64 {
    out.push_train(answer.to, answer.slot.index, first, end - first);
    answer.shards = answer.shards.minus(ShardSet::range(first, end));
    let shards = (end - first) as u64;
    counters.trains_sent += 1;
    counters.shards_sent += shards;
    shards
}
