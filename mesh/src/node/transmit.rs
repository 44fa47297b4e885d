//! Everything that goes out, in this order: control, repair, backlogs, the live fan-out. Nobody takes all of a batch
//! while others wait: control leaves half of it, repair and backlogs leave the fan-out half of that.

use core::time::Duration;

use codec::wire::control::{ByeReason, Control};
use codec::{ChunkHeader, MAX_SHARDS, ShardSet};

use crate::channel::Channel;
use crate::egress::{Cap, KEPT_FOR_LIVE, Ration, shard_cost};
use crate::fanout::{Run, earlier};
use crate::limits::{
    BACKLOG_INTERVAL_MAX, BACKLOG_INTERVAL_MIN, BACKLOG_OWED_MAX, BACKLOG_SPEED, CAPPED_ROUND_MAX,
    EGRESS_WAIT_MIN, LATE_AFTER,
};
use crate::node::{Answer, Node, Progress};
use crate::outbox::Outbox;
use crate::session::Backlog;
use crate::stats::Counters;
use crate::time::Time;
use crate::window::Window;

impl Node {
    /// Fills `out`, which has been emptied, with what is to be sent now. Under a cap on egress, what there is no room for
    /// waits until [`Node::next_timeout`].
    pub fn poll_transmit(&mut self, now: Time, out: &mut Outbox) -> Progress {
        self.fan_out_fresh(now);
        let Some(cap) = self.cap else {
            let waits_until = self.fill(now, out, None);
            return self.sent(now, out, waits_until);
        };
        let granted = self.siblings.ledger.bucket().take(now, cap);
        out.limit_ip_bytes(granted);
        let waits_until = self.fill(now, out, Some(cap));
        let bucket = self.siblings.ledger.bucket();
        // Goodbyes of a node that closes are not held back.
        bucket.give_back(granted.saturating_sub(out.ip_bytes()), cap);
        let control = self.control.front_cost().filter(|_| !out.is_full()).map(|cost| 2 * cost);
        let lacking = out.lacking().into_iter().chain(control).min();
        let lacking = lacking.map(|bytes| bucket.holds_at(bytes, now, cap));
        self.sent(now, out, earlier(waits_until, lacking))
    }

    /// Returns when channels that have reached their caps may be sent more of.
    fn fill(&mut self, now: Time, out: &mut Outbox, cap: Option<Cap>) -> Option<Time> {
        let alone = self.answers.is_empty() && self.backlogs.is_empty() && self.fanout.is_empty();
        let reserved = if alone { 0 } else { out.room() / 2 };
        self.send_control(out, reserved, alone);
        // What a cap leaves is for the fan-out before all else.
        let first = cap.and_then(|_| self.send_live(now, out));
        let reserved = if self.fanout.is_empty() { 0 } else { out.room() / 2 };
        let repair = self.send_answers(now, out, reserved);
        let backlogs = self.send_backlogs(now, out, reserved);
        let live = if cap.is_none() { self.send_live(now, out) } else { first };
        earlier(live, earlier(repair, backlogs))
    }

    /// Counts what was put together, and says whether there is more that need not wait for a cap.
    fn sent(&mut self, now: Time, out: &Outbox, waits_until: Option<Time>) -> Progress {
        self.capped_until = waits_until.map(|at| at.max(now.after(EGRESS_WAIT_MIN)));
        self.counters.egress_waits += u64::from(waits_until.is_some());
        let left = !self.answers.is_empty() || !self.control.is_empty();
        let waiting = out.is_full() || (left && (waits_until.is_none() || !out.is_empty()));
        if waiting { Progress::More } else { Progress::Idle }
    }

    fn send_live(&mut self, now: Time, out: &mut Outbox) -> Option<Time> {
        let channels = &self.channels;
        let audience_of = |channel: usize| channels.get(channel).map(Channel::audience);
        self.fanout.send(now, audience_of, &self.arena, out, &mut self.counters)
    }

    /// Turns what the last wake-up brought into trains: one per run of consecutive shards.
    fn fan_out_fresh(&mut self, now: Time) {
        for (index, sequence) in self.fresh.drain(..) {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            let Some(chunk) = channel.window.get_mut(sequence) else { continue };
            let is_late = now.since(chunk.first_seen) > LATE_AFTER;
            let Some(body) = &mut chunk.body else { continue };
            let (mut rest, slot, layout) = (body.fresh, body.slot, body.identity.header.layout());
            body.fanned = body.fanned.union(rest);
            body.fanned_last = (rest, now);
            body.fresh = ShardSet::EMPTY;
            channel.shards_fanned += rest.len() as u64;
            channel.data_fanned += rest.intersection(layout.data_set()).len() as u64;
            // The other nodes of the process send at the same time.
            let subscribers = channel.subscribers();
            let caps = self.cap.into_iter().chain(channel.cap());
            let train_max = caps.map(|cap| cap.train_max(subscribers, CAPPED_ROUND_MAX)).min();
            let train_max = train_max.unwrap_or(MAX_SHARDS);
            while let Some((first, end)) = rest.first_run() {
                rest = rest.minus(ShardSet::range(first, end));
                let seats = &mut channel.seats;
                let run = Run { slot, sequence, layout, first, end, train_max, is_late };
                self.fanout.add(now, index, seats, run, &mut self.counters);
            }
        }
    }

    fn send_control(&mut self, out: &mut Outbox, reserved: usize, alone: bool) {
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
        // Of what may leave under a cap as of the batch.
        let spared = if alone { 0 } else { out.ip_room(0) / 2 };
        while out.room() > reserved
            && let Some(cost) = self.control.front_cost()
            && cost <= out.ip_room(spared)
        {
            self.control.pop_into(out);
            self.counters.control_sent += 1;
        }
    }

    /// Returns when a channel that has reached its own cap may be sent more of.
    fn send_answers(&mut self, now: Time, out: &mut Outbox, reserved: usize) -> Option<Time> {
        let (mut again_at, mut passed_over) = (None, 0);
        while out.room() > reserved
            && out.lacking().is_none()
            && passed_over < self.answers.channels()
            && let Some((channel, turn, (of_use_until, answer))) = self.answers.front_mut()
        {
            if *of_use_until < now || !self.arena.holds(answer.slot) {
                answer.shards = ShardSet::EMPTY;
                self.counters.repairs_refused += 1;
            }
            let room = out.room();
            let room_after = reserved.max(room.saturating_sub(turn));
            let channel = self.channels.get(channel);
            let mut ration = Ration::take(channel.and_then(Channel::budget), now);
            let (mut short_of, mut sent) = (None, 0);
            while out.room() > room_after
                && let Some(run) = answer.shards.first_run()
            {
                let cost = (run.1 - run.0) as u64 * shard_cost(answer.to);
                if !may_send(cost, &mut ration, out) {
                    short_of = Some(cost);
                    break;
                }
                sent += send_run(answer, run, out, &mut self.counters);
            }
            self.counters.repairs_sent += sent;
            channel.into_iter().for_each(|channel| channel.seats.note_sent(sent));
            let done = answer.shards.is_empty();
            self.answers.served(room - out.room(), done);
            passed_over += 1;
            match short_of.filter(|_| out.lacking().is_none()) {
                Some(cost) => {
                    again_at = earlier(again_at, ration.wait_for(cost + KEPT_FOR_LIVE, now));
                    self.answers.pass();
                }
                None => {
                    ration.give_back();
                    passed_over = 0;
                }
            }
        }
        again_at
    }

    /// Gives every joiner that is due its next chunks. Returns when one whose channel has reached its own cap may be sent
    /// more.
    fn send_backlogs(&mut self, now: Time, out: &mut Outbox, reserved: usize) -> Option<Time> {
        let (mut again_at, mut paid) = (None, 0);
        for _ in 0..self.backlogs.len() {
            if out.room() <= reserved || out.lacking().is_some() {
                break;
            }
            let Some(backlog) = self.backlogs.pop_front() else { break };
            let owed = backlog.owed;
            let (left, wait) = self.send_backlog(now, backlog, out, reserved);
            again_at = earlier(again_at, wait);
            paid += owed - left.map_or(0, |left| left.owed);
            self.backlogs.extend(left);
        }
        self.siblings.ledger.paid(paid);
        again_at
    }

    /// Sends one joiner what is due of its backlog; returns what is left of it, and when its channel's cap may have room
    /// again.
    fn send_backlog(
        &mut self,
        now: Time,
        mut backlog: Backlog,
        out: &mut Outbox,
        reserved: usize,
    ) -> (Option<Backlog>, Option<Time>) {
        let session = self.sessions.get(backlog.session).filter(|session| session.id == backlog.id);
        let is_too_late = backlog.owed > 0 && now.since(backlog.since) > BACKLOG_OWED_MAX;
        let Some(session) = session.filter(|_| !is_too_late) else { return (None, None) };
        let (to, channel) = (session.peer.address, &self.channels[session.channel]);
        let mut ration = Ration::take(channel.budget(), now);
        while backlog.due <= now && out.room() > reserved {
            let chunk =
                channel.window.first_from(backlog.next).filter(|chunk| chunk.sequence <= backlog.through);
            let Some(chunk) = chunk else {
                ration.give_back();
                return (None, None);
            };
            if chunk.sequence > backlog.next {
                (backlog.next, backlog.sent) = (chunk.sequence, ShardSet::EMPTY);
            }
            if let Some(body) = &chunk.body {
                let shards = body.data_held().minus(backlog.sent);
                // A chunk that came in part would be taken for one that lost shards.
                let cost = shards.len() as u64 * shard_cost(to);
                if !may_send(cost, &mut ration, out) {
                    let is_channels = out.lacking().is_none();
                    let again_at = ration.wait_for(cost + KEPT_FOR_LIVE, now);
                    return (Some(backlog), again_at.filter(|_| is_channels));
                }
                let mut answer = Answer { to, slot: body.slot, shards };
                while out.room() > reserved
                    && let Some(run) = answer.shards.first_run()
                {
                    backlog.sent = backlog.sent.union(ShardSet::range(run.0, run.1));
                    let sent = send_run(&mut answer, run, out, &mut self.counters);
                    backlog.owed = backlog.owed.saturating_sub(sent * shard_cost(to));
                    self.counters.backlog_sent += sent;
                    channel.seats.note_sent(sent);
                }
                if !answer.shards.is_empty() {
                    break;
                }
                backlog.due = backlog.due.after(pause_after(&channel.window, &body.identity.header));
            }
            (backlog.next, backlog.sent) = (chunk.sequence.next(), ShardSet::EMPTY);
        }
        ration.give_back();
        (Some(backlog), None)
    }
}

/// Whether the caps, that of all channels and the channel's own, leave room for something that is not live.
fn may_send(cost: u64, ration: &mut Ration<'_>, out: &mut Outbox) -> bool {
    out.affords(cost, KEPT_FOR_LIVE) && ration.spend(cost, KEPT_FOR_LIVE)
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
