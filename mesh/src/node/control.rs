//! Control datagrams within a session: reports, repair requests, the end.

use core::time::Duration;
use std::net::SocketAddr;

use codec::wire::control::{Bye, ByeReason, Control, Nodes, Repair, Report, Sender, SessionHeader};
use codec::{Sequence, ShardSet, Stripes};

use rand_chacha::rand_core::Rng;

use crate::fanout::Seat;
use crate::limits::{LINE_REST, LINE_STRAINED_AFTER, LINES_LET_GO, REORDER_GRACE};
use crate::line::Known;
use crate::node::dialling::worth_trying;
use crate::node::inbound::restore;
use crate::node::{Answer, DialId, Event, LostReason, Node};
use crate::session::{PeerKey, Session, Side};
use crate::stats::DropReason;
use crate::time::Time;

impl Node {
    /// The session that a datagram from this address with this header belongs to.
    fn session_of(&self, from: SocketAddr, header: &SessionHeader) -> Result<usize, DropReason> {
        let peer = PeerKey { address: from, tag: header.tag, peer: header.sender };
        let index = *self.sessions_by_peer.get(&peer).ok_or(DropReason::UnknownSession)?;
        let matches = self.sessions[index].id == header.session;
        if matches { Ok(index) } else { Err(DropReason::WrongSession) }
    }

    /// Tells the sender that it has no such session (any more), so that it need not wait to find out. Keeps nothing, and
    /// is shorter than what it answers.
    fn reset_unknown(&mut self, from: SocketAddr, header: &SessionHeader, reason: DropReason) -> DropReason {
        if self.closing.is_none() {
            let sender = match header.sender {
                Sender::Upstream => Sender::Subscriber,
                Sender::Subscriber => Sender::Upstream,
            };
            let header = SessionHeader { sender, ..*header };
            let bye = Bye { header, reason: ByeReason::UnknownSession, nodes: Nodes::new() };
            let _ = self.queue_control(from, Control::Bye(bye));
        }
        reason
    }

    pub(super) fn handle_report(
        &mut self,
        now: Time,
        from: SocketAddr,
        report: &Report,
    ) -> Result<(), DropReason> {
        let found = self.session_of(from, &report.header);
        let index = found.map_err(|reason| self.reset_unknown(from, &report.header, reason))?;
        let session = &mut self.sessions[index];
        session.heard_at = now;
        let since_last = session.note_report(now, report);
        let was_granted = session.dial().is_none();
        match &mut session.side {
            Side::Subscriber(subscriber) => {
                let seats = &mut self.channels[session.channel].seats;
                let before = seats.seat(subscriber.seat);
                if let Some(since_last) = since_last {
                    seats.set_stripes(subscriber.seat, report.stripes);
                    subscriber.has_others |= report.stripes != Stripes::ALL;
                    if self.note_line(now, since_last, before, index, report) {
                        return Ok(());
                    }
                }
            }
            Side::Upstream(upstream) => {
                let channel = &mut self.channels[session.channel];
                upstream.striping.heard(report.echo_us, channel.window.edge());
                channel.window.hear_of_edge(now, report.highest, was_granted);
                if channel.has_open_work() {
                    self.tick_at.get_or_insert(now);
                }
                self.note_strained(index, report.strained);
            }
        }
        if was_granted {
            let answer = self.report(now, index);
            self.queue_control(from, Control::Report(answer))?;
        }
        Ok(())
    }

    /// Takes in what a subscriber says of its line; `before` is its seat until then. Returns whether it was let go.
    fn note_line(
        &mut self,
        now: Time,
        since_last: Duration,
        before: Seat,
        index: usize,
        report: &Report,
    ) -> bool {
        if self.counters.jobs_skipped > self.skipped {
            (self.skipped, self.skipped_at) = (self.counters.jobs_skipped, now);
        }
        let session = &self.sessions[index];
        let Side::Subscriber(subscriber) = &session.side else { return false };
        let channel = &self.channels[session.channel];
        let known = Known {
            since_last,
            round_trip: session.round_trip,
            data_fanned: channel.data_fanned,
            gone: channel.data_gone.wrapping_sub(subscriber.data_gone),
            parity_part: channel.parity_part(before.parity),
            stripes: [before.stripes, report.stripes],
            queued_ms: channel.arrivals.queued_ms(),
            late_by: self.late_by(session.channel),
            skipped: now.since(self.skipped_at) < LINE_STRAINED_AFTER,
        };
        let dial = self.sessions[index].dial();
        let Session { channel, side: Side::Subscriber(subscriber), .. } = &mut self.sessions[index] else {
            return false;
        };
        let channel = &mut self.channels[*channel];
        let Some(verdict) = subscriber.line.note(report, &known) else { return false };
        subscriber.data_gone = channel.data_gone.wrapping_sub(verdict.gone_left);
        let needs = channel.seats.set_verdict(subscriber.seat, &verdict);
        channel.needs_here = channel.needs_here.and(needs);
        let is_strained = subscriber.line.is_strained();
        if dial.is_some() {
            self.note_strained(index, is_strained);
            return false;
        }
        let goes = verdict.has_to_go && self.lines_let_go.take(now, LINES_LET_GO);
        if goes {
            self.counters.sessions_strained += 1;
            self.say_bye(index, ByeReason::LineTooThin);
            self.end_session(index);
        }
        goes
    }

    /// A session that this node asked for is over a strained line, or is no more.
    fn note_strained(&mut self, index: usize, is_strained: bool) {
        let session = &mut self.sessions[index];
        let was_strained = core::mem::replace(&mut session.is_strained, is_strained);
        if let Some(dial) = session.dial().filter(|_| is_strained && !was_strained) {
            self.tell(Event::Strained { dial: DialId(dial) });
        }
    }

    /// By how much later a chunk goes out that has to be repaired here first.
    fn late_by(&self, channel: usize) -> Duration {
        let upstreams = self.channels[channel].upstreams.iter().map(|&session| &self.sessions[session]);
        let round_trips = upstreams.filter_map(|session| session.round_trip);
        round_trips.map(|round_trip| round_trip.mean() + REORDER_GRACE).max().unwrap_or_default()
    }

    /// This node's report for a session.
    pub(super) fn report(&mut self, now: Time, index: usize) -> Report {
        let session = &mut self.sessions[index];
        let channel = &self.channels[session.channel];
        let (edge, settled) = (channel.window.edge(), channel.window.settled());
        session.report(now, edge, settled, channel.slack(now))
    }

    pub(super) fn settled_by(&self, session: usize) -> Sequence {
        match &self.sessions[session].side {
            Side::Subscriber(subscriber) => subscriber.settled,
            Side::Upstream(_) => Sequence(0),
        }
    }

    pub(super) fn handle_repair(
        &mut self,
        now: Time,
        from: SocketAddr,
        repair: &Repair,
    ) -> Result<(), DropReason> {
        let found = self.session_of(from, &repair.header);
        let index = found.map_err(|reason| self.reset_unknown(from, &repair.header, reason))?;
        let session = &mut self.sessions[index];
        if let Side::Subscriber(subscriber) = &mut session.side
            && !subscriber.answered.is_first(repair.number)
        {
            return Err(DropReason::Copy);
        }
        let channel_index = session.channel;
        let round_trip = session.round_trip.map_or(Duration::ZERO, |round_trip| round_trip.mean());
        for wanted in &repair.wanted {
            let channel = &mut self.channels[channel_index];
            let (fanned, seats) = (channel.shards_fanned, &channel.seats);
            let Some(body) = channel.window.body_mut(wanted.sequence) else {
                self.counters.repairs_refused += 1;
                continue;
            };
            let layout = body.identity.header.layout();
            let Side::Subscriber(subscriber) = &mut self.sessions[index].side else {
                return Err(DropReason::WrongSession);
            };
            // What was sent less than a round trip ago was still on its way when it was asked for; what waits to be sent will be.
            let (sent, sent_at) = body.fanned_last;
            let is_on_its_way = now.since(sent_at) < round_trip && !subscriber.has_others;
            let seat = seats.seat(subscriber.seat);
            let under_way =
                if is_on_its_way { sent.intersection(seat.unasked(layout)) } else { ShardSet::EMPTY };
            let waiting = self.fanout.waiting_for(channel_index, body.slot, subscriber.seat, &seat);
            let on_its_way = under_way.union(waiting);
            let asked = wanted.shards.intersection(layout.all_shards());
            let enough = asked.len().min(layout.data_shards());
            let enough = enough.saturating_sub(asked.intersection(on_its_way).len());
            let lacks_some = asked.minus(on_its_way).intersection(body.held).len() < enough;
            if lacks_some && body.is_decodable() {
                restore(body, &mut self.arena, &mut self.fec, &mut self.counters);
            }
            let held = asked.minus(on_its_way).intersection(body.held).lowest(enough);
            // Credit is for what is sent.
            let may_answer = !subscriber.line.is_strained() && self.answers.has_room(channel_index);
            let granted = match may_answer {
                true => subscriber.spend_repair_credit(held.len() as u32, fanned) as usize,
                false => 0,
            };
            subscriber.line.repairs_sent = subscriber.line.repairs_sent.saturating_add(granted as u16);
            if granted > 0 {
                let answer = Answer { to: from, slot: body.slot, shards: held.lowest(granted) };
                let of_use_until = now.after(Duration::from_millis(seat.slack_ms.into()));
                self.answers.push(channel_index, (of_use_until, answer));
            }
            self.counters.repairs_refused += u64::from(granted == 0 || granted < held.len());
        }
        Ok(())
    }

    pub(super) fn handle_bye(&mut self, now: Time, from: SocketAddr, bye: &Bye) -> Result<(), DropReason> {
        // Never answered: two nodes would go on saying goodbye.
        let index = self.session_of(from, &bye.header)?;
        self.lose_session(now, index, LostReason::Bye(bye.reason), worth_trying(from, &bye.nodes));
        Ok(())
    }

    /// Ends a session that the other end left. A dial starts over.
    pub(super) fn lose_session(&mut self, now: Time, index: usize, reason: LostReason, nodes: Nodes) {
        let session = self.end_session(index);
        let jitter = self.random.next_u32() as u8;
        // A line that is strained may lose the word about it. Whom this node sends to does not let it go for that.
        let is_strained = session.is_strained && matches!(session.side, Side::Upstream(_));
        let unknown = LostReason::Bye(ByeReason::UnknownSession);
        let too_thin = LostReason::Bye(ByeReason::LineTooThin);
        let reason = if is_strained && reason == unknown { too_thin } else { reason };
        if let Some(dial) = session.dial().filter(|dial| self.dials.contains(*dial)) {
            let wait = self.dials[dial].next_wait(jitter);
            let wait = if reason == too_thin { LINE_REST } else { wait };
            self.dials[dial].rest(now.after(wait));
            self.dials[dial].note_in_vain();
            self.tell(Event::Lost { dial: DialId(dial), reason, nodes });
        }
    }

    pub(super) fn bye(&self, index: usize, reason: ByeReason) -> Bye {
        let nodes = if reason == ByeReason::Closing { self.others.clone() } else { Nodes::new() };
        Bye { header: self.sessions[index].header(), reason, nodes }
    }

    pub(super) fn say_bye(&mut self, index: usize, reason: ByeReason) {
        let (to, bye) = (self.sessions[index].peer.address, self.bye(index, reason));
        // With a full queue the other end finds out by silence.
        let _ = self.queue_control(to, Control::Bye(bye));
    }
}
