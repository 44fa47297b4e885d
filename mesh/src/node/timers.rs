//! What is due when: dials, reports, chunks of the source, leases and windows.

use core::time::Duration;

use codec::Sequence;
use codec::wire::control::{ByeReason, Control, Nodes};

use crate::dial::DialState;
use crate::limits::{
    LEASE, LOST_TO_REPORT, REPORT_INTERVAL, REPORT_INTERVAL_ENDING, REPORT_INTERVAL_LOSSY,
    REPORT_INTERVAL_STEADY, REPORT_INTERVAL_UNANSWERED, SILENCE_MAX, SWEEP_INTERVAL, TICK_INTERVAL,
    WRITTEN_KEPT,
};
use crate::node::{ChannelId, LostReason, Node};
use crate::session::Side;
use crate::source::Cut;
use crate::time::{Time, micros};

impl Node {
    /// When [`Node::handle_timeout`] wants to be called, if nothing comes in before.
    pub fn next_timeout(&self) -> Option<Time> {
        let dials = self.dials.iter().filter_map(|(_, dial)| match dial.state {
            DialState::Live(session) => Some(self.sessions[session].report_due()),
            _ => dial.due(),
        });
        let sources = self.sources.iter().filter_map(|&index| self.source_due(index));
        let idle = self.sessions.is_empty() && self.channels.is_empty() && self.addresses.is_empty();
        let sweep = (!idle).then_some(self.sweep_at);
        dials.chain(sources).chain(self.tick_at).chain(sweep).chain(self.capped_until).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.flush_sources(now);
        for index in 0..self.dials.capacity() {
            self.handle_dial(now, index);
        }
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick(now);
        }
        if self.sweep_at <= now {
            self.sweep(now);
            self.sweep_at = now.after(SWEEP_INTERVAL);
        }
    }

    fn source_due(&self, channel: usize) -> Option<Time> {
        self.channels[channel].source.as_ref().and_then(|source| source.due())
    }

    /// Makes chunks of what has been pending for a chunk's time.
    fn flush_sources(&mut self, now: Time) {
        for place in 0..self.sources.len() {
            let index = self.sources[place];
            while self.source_due(index).is_some_and(|due| due <= now) {
                self.make_chunk(now, ChannelId(index), Cut::Shards, false);
            }
        }
    }

    fn handle_dial(&mut self, now: Time, index: usize) {
        let Some(dial) = self.dials.get(index) else { return };
        match dial.state {
            DialState::Live(session) if self.sessions[session].report_due() <= now => {
                self.report_or_give_up(now, session);
            }
            DialState::Live(_) => {}
            _ if dial.due().is_some_and(|due| due <= now) => self.greet(now, index),
            _ => {}
        }
    }

    fn report_or_give_up(&mut self, now: Time, index: usize) {
        if now.since(self.sessions[index].heard_at) > SILENCE_MAX {
            // It may hold the session still: without the goodbye it would go on sending.
            self.say_bye(index, ByeReason::Done);
            self.lose_session(now, index, LostReason::Silence, Nodes::new());
            return;
        }
        self.tell_if_starved(now, index);
        let source = &self.channels[self.sessions[index].channel].source;
        let ending = source.as_ref().is_some_and(|source| source.ended);
        let unheard = match &mut self.sessions[index].side {
            Side::Upstream(upstream) => {
                upstream.striping.say(now);
                !upstream.striping.is_heard()
            }
            Side::Subscriber(_) => false,
        };
        // Three answers in a row are lost every few minutes where a tenth is.
        let overdue = REPORT_INTERVAL + REPORT_INTERVAL_UNANSWERED;
        let session = &mut self.sessions[index];
        let interval = match () {
            () if ending || unheard => REPORT_INTERVAL_ENDING,
            () if session.is_steady(now) => REPORT_INTERVAL_STEADY,
            () if now.since(session.heard_at) > overdue => REPORT_INTERVAL_UNANSWERED,
            () => REPORT_INTERVAL,
        };
        session.report_at = now.after(interval);
        let report = self.report(now, index);
        let to = self.sessions[index].peer.address;
        // With a full queue the next report says it all: counts are totals.
        let _ = self.queue_control(to, Control::Report(report));
    }

    /// Settles chunks, asks for what is missing, and goes on as long as there is something to wait for.
    fn tick(&mut self, now: Time) {
        let mut open_work = !self.backlogs.is_empty();
        for index in 0..self.channels.capacity() {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            if channel.window.is_unsettled() {
                channel.settle(now, &mut self.sessions, &mut self.counters);
                self.judge_upstreams(now, index);
                self.ask_for_repair(now, index);
                self.report_losses(index);
            }
            open_work |= self.is_watched_for_quiet(now, index) || self.channels[index].has_open_work();
        }
        self.tick_at = open_work.then_some(now.after(TICK_INTERVAL));
    }

    /// Has those who give a channel hear at once of losses that rise: what they do against it they do a second earlier.
    fn report_losses(&mut self, channel: usize) {
        for &index in &self.channels[channel].upstreams {
            let session = &mut self.sessions[index];
            let Side::Upstream(upstream) = &session.side else { continue };
            let usual = (2 * upstream.lost_newly_reported).max(LOST_TO_REPORT);
            let is_worth_it = upstream.counted.lost - upstream.lost_reported >= usual;
            if is_worth_it && session.dial().is_some() {
                session.report_at = session.report_at.min(upstream.reported_at.after(REPORT_INTERVAL_LOSSY));
            }
        }
    }

    /// Ends what has run out: leases, windows, channels nobody has to do with.
    fn sweep(&mut self, now: Time) {
        for index in 0..self.sessions.capacity() {
            let granted = self.sessions.get(index).filter(|session| session.dial().is_none());
            if granted.is_some_and(|session| now.since(session.heard_at) > LEASE) {
                self.counters.leases_expired += 1;
                self.end_session(index);
            }
        }
        self.forget_addresses(now);
        self.keep_caps(now);
        for index in 0..self.channels.capacity() {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            let before = |age: Duration| Time(now.0.saturating_sub(micros(age)));
            let everything = Sequence(u64::MAX);
            channel.window.evict_before(before(self.limits.window), everything, &mut self.arena);
            if let Some(sink) = channel.sink.as_ref().filter(|_| channel.seats.is_empty()) {
                channel.window.evict_before(before(WRITTEN_KEPT), sink.position(), &mut self.arena);
            }
            channel.needs_here = channel.seats.needs();
            let is_of_interest = !channel.seats.is_empty() || !channel.upstreams.is_empty();
            if channel.is_idle(now) {
                self.channels_by_tag.remove(&channel.verifier.tag());
                self.channels.remove(index);
            } else if is_of_interest {
                self.note_news(index);
            }
        }
    }
}
