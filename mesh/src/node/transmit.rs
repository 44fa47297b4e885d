//! Everything that goes out, in this order: control, repair, backlogs, the live fan-out. The first three are bounded
//! per subscriber, so the last is never starved by them; and it cannot starve them.

use core::time::Duration;

use codec::wire::control::{ByeReason, Control};
use codec::{Sequence, ShardSet};

use crate::limits::{BACKLOG_INTERVAL_MAX, BACKLOG_SPEED};
use crate::node::{Answer, Node, Progress};
use crate::outbox::Outbox;
use crate::session::{Backlog, Side};
use crate::time::Time;

impl Node {
    /// Fills `out`, which has been emptied, with what is to be sent now.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Outbox) -> Progress {
        self.fan_out_fresh(now);
        self.send_control(out);
        self.send_answers(out);
        self.send_backlogs(now, out);
        let channels = &self.channels;
        let seats_of = |channel: usize| channels.get(channel).map(|channel| &channel.seats);
        self.fanout.send(now, seats_of, &self.arena, out, &mut self.counters);
        if out.is_full() { Progress::More } else { Progress::Idle }
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

    fn send_control(&mut self, out: &mut Outbox) {
        while !out.is_full() {
            let Some((to, control)) = self.control.pop_front() else { break };
            out.push_control(to, &control);
            self.counters.control_sent += 1;
        }
        while self.closing && !out.is_full() {
            let Some((index, to)) = self.sessions.iter().next().map(|(i, session)| (i, session.peer.address))
            else {
                break;
            };
            out.push_control(to, &Control::Bye(self.bye(index, ByeReason::Closing)));
            self.counters.control_sent += 1;
            self.end_session(index);
        }
    }

    fn send_answers(&mut self, out: &mut Outbox) {
        while let Some(answer) = self.answers.front_mut() {
            let stale = !self.arena.holds(answer.slot);
            while let Some(run) = answer.shards.first_run().filter(|_| !stale) {
                if out.is_full() {
                    return;
                }
                send_run(answer, run, out);
                self.counters.trains_sent += 1;
                self.counters.shards_sent += (run.1 - run.0) as u64;
                self.counters.repairs_sent += (run.1 - run.0) as u64;
            }
            self.answers.pop_front();
        }
    }

    /// Gives every joiner that is due its next chunks.
    fn send_backlogs(&mut self, now: Time, out: &mut Outbox) {
        let mut place = 0;
        while place < self.backlogs.len() && !out.is_full() {
            let index = self.backlogs[place];
            let left = self.send_backlog(now, index, out);
            if let Side::Subscriber(subscriber) = &mut self.sessions[index].side {
                subscriber.backlog = left;
            }
            match left {
                Some(_) => place += 1,
                None => {
                    self.backlogs.swap_remove(place);
                }
            }
        }
    }

    /// Sends one joiner what is due of its backlog; returns what is left of it.
    fn send_backlog(&mut self, now: Time, index: usize, out: &mut Outbox) -> Option<Backlog> {
        let session = &self.sessions[index];
        let Side::Subscriber(subscriber) = &session.side else { return None };
        let mut backlog = subscriber.backlog?;
        let window = &self.channels[session.channel].window;
        while backlog.due <= now {
            let chunk = window.first_from(backlog.next).filter(|chunk| chunk.sequence <= backlog.through)?;
            if let Some(body) = &chunk.body {
                let held = body.held.intersection(body.identity.header.layout().data_set());
                let mut answer = Answer { to: session.peer.address, slot: body.slot, shards: held };
                while let Some(run) = answer.shards.first_run() {
                    if out.is_full() {
                        return Some(backlog);
                    }
                    send_run(&mut answer, run, out);
                    self.counters.trains_sent += 1;
                    self.counters.shards_sent += (run.1 - run.0) as u64;
                    self.counters.backlog_sent += (run.1 - run.0) as u64;
                }
                let following = window.get(chunk.sequence.next()).and_then(|next| next.body.as_ref());
                let captured = body.identity.header.capture_us;
                let span =
                    following.map_or(0, |next| next.identity.header.capture_us.saturating_sub(captured));
                let pause = Duration::from_micros(span / BACKLOG_SPEED).min(BACKLOG_INTERVAL_MAX);
                backlog.due = backlog.due.after(pause);
            }
            backlog.next = Sequence(chunk.sequence.0 + 1);
        }
        Some(backlog)
    }
}

/// Sends one run of an answer's shards as a train and takes it out of the answer.
fn send_run(answer: &mut Answer, (first, end): (usize, usize), out: &mut Outbox) {
    out.push_train(answer.to, answer.slot.index, first, end - first);
    answer.shards = answer.shards.minus(ShardSet::range(first, end));
}
