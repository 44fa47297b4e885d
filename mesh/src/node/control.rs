//! Control datagrams within a session: reports, repair requests, the end.

use std::net::SocketAddr;

use codec::Sequence;
use codec::wire::control::{Bye, ByeReason, Control, Nodes, Repair, Report, Sender, SessionHeader};

use rand_chacha::rand_core::Rng;

use crate::node::dialling::worth_trying;
use crate::node::inbound::restore;
use crate::node::{Answer, DialId, Event, LostReason, Node};
use crate::session::{PeerKey, Side};
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
        session.note_report(now, report);
        let channel = &mut self.channels[session.channel];
        match &session.side {
            Side::Subscriber(subscriber) => {
                channel.seats.set_loss(subscriber.seat, subscriber.loss.ppm);
                channel.loss_ppm_max = channel.loss_ppm_max.max(subscriber.loss.ppm);
            }
            Side::Upstream(_) => {
                let is_publisher = session.dial.is_none();
                channel.window.hear_of_edge(now, report.highest, is_publisher);
                if channel.has_open_work() {
                    self.tick_at.get_or_insert(now);
                }
            }
        }
        if session.dial.is_none() {
            let answer = self.report(now, index);
            self.queue_control(from, Control::Report(answer))?;
        }
        Ok(())
    }

    /// This node's report for a session.
    pub(super) fn report(&self, now: Time, index: usize) -> Report {
        let session = &self.sessions[index];
        let channel = &self.channels[session.channel];
        session.report(now, channel.window.edge(), channel.window.settled(), &channel.counters)
    }

    pub(super) fn settled_by(&self, session: usize) -> Sequence {
        match &self.sessions[session].side {
            Side::Subscriber(subscriber) => subscriber.settled,
            Side::Upstream(_) => Sequence(0),
        }
    }

    pub(super) fn handle_repair(&mut self, from: SocketAddr, repair: &Repair) -> Result<(), DropReason> {
        let found = self.session_of(from, &repair.header);
        let index = found.map_err(|reason| self.reset_unknown(from, &repair.header, reason))?;
        let session = &mut self.sessions[index];
        let channel_index = session.channel;
        for wanted in &repair.wanted {
            let channel = &mut self.channels[channel_index];
            let fanned = channel.shards_fanned;
            let Some(body) = channel.window.body_mut(wanted.sequence) else {
                self.counters.repairs_refused += 1;
                continue;
            };
            let layout = body.identity.header.layout();
            let asked = wanted.shards.intersection(layout.all_shards());
            let Side::Subscriber(subscriber) = &mut self.sessions[index].side else {
                return Err(DropReason::WrongSession);
            };
            let enough = asked.len().min(layout.data_shards());
            let granted = subscriber.spend_repair_credit(enough as u32, fanned) as usize;
            if asked.intersection(body.held).len() < granted && body.is_decodable() {
                restore(body, &mut self.arena, &mut self.fec, &mut self.counters);
            }
            let held = asked.intersection(body.held).lowest(enough);
            let slot = body.slot;
            let answer = Answer { to: from, slot, shards: held.lowest(granted) };
            let queued = granted > 0 && self.queue_answer(channel_index, answer);
            self.counters.repairs_refused += u64::from(!queued || granted < held.len());
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
        let dial = self.end_session(index).dial;
        let jitter = self.random.next_u32() as u8;
        if let Some(dial) = dial.filter(|dial| self.dials.contains(*dial)) {
            let wait = self.dials[dial].next_wait(jitter);
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
