//! Caps: who finds a place, what is measured for that, and who has to go.

use codec::Sequence;
use codec::wire::control::{Hello, Role};

use crate::egress::{Cap, shard_cost};
use crate::ledger::{Ask, Denied};
use crate::limits::{ChannelLimits, REPORT_INTERVAL};
use crate::node::Node;
use crate::node::sessions::Seating;
use crate::session::{PeerKey, Side};
use crate::time::Time;

impl Node {
    pub(super) fn subscribers_max_of(&self, limits: &ChannelLimits) -> usize {
        let own = limits.subscribers_max.or(self.limits.subscribers_per_channel_max);
        own.unwrap_or(self.limits.subscribers_max)
    }

    /// A place for whoever says this `Hello`, under the caps of all nodes of the process. A peer that was started anew
    /// keeps the one of its session that is `held`.
    pub(super) fn find_place(
        &mut self,
        now: Time,
        peer: PeerKey,
        held: Option<usize>,
        hello: &Hello,
    ) -> Result<Seating, Denied> {
        if hello.role == Role::Publish {
            return Ok(Seating::free(hello.from));
        }
        let to = peer.address;
        let known = self.channels_by_tag.get(&peer.tag).map(|&index| &self.channels[index]);
        let limits = known.map_or_else(
            || self.channel_limits.get(&hello.key).copied().unwrap_or_default(),
            |channel| channel.limits,
        );
        let channel_cap = limits.egress_bps_max.map(Cap::new);
        let is_capped = self.cap.is_some() || channel_cap.is_some();
        let backlog = known.filter(|_| is_capped).map_or(0, |channel| match channel.start_for(hello.from) {
            Sequence(0) => 0,
            start => channel.backlog_bytes(to, start),
        });
        let held = held.and_then(|index| match &self.sessions[index].side {
            Side::Subscriber(subscriber) => Some((subscriber.serial, subscriber.cost)),
            Side::Upstream(_) => None,
        });
        let ledger = &self.siblings.ledger;
        let ask = Ask {
            now,
            node: self.number,
            key: hello.key,
            cost: shard_cost(to) as u32,
            backlog,
            subscribers_max: self.limits.subscribers_max,
            channel_subscribers_max: self.subscribers_max_of(&limits),
            cap: self.cap,
            channel_cap,
        };
        let (serial, cost, has_backlog) = match held {
            Some((serial, cost)) => (serial, cost, ledger.may_have_backlog(&ask)),
            None => {
                let place = ledger.admit(&ask)?;
                (place.serial, ask.cost, place.has_backlog)
            }
        };
        self.counters.backlogs_skipped += u64::from(!has_backlog);
        let owed = if has_backlog && is_capped { backlog } else { 0 };
        Ok(Seating { from: hello.from, serial, cost, has_backlog, owed })
    }

    /// The place that was found is not used after all.
    pub(super) fn give_up_place(&self, held: Option<usize>, hello: &Hello, seating: &Seating) {
        self.siblings.ledger.paid(seating.owed);
        if held.is_none() && seating.serial != 0 {
            self.siblings.ledger.leave(&hello.key, seating.serial);
        }
    }

    /// The session is about to end, and its place is another's.
    pub(super) fn keep_place(&mut self, session: usize) {
        if let Side::Subscriber(subscriber) = &mut self.sessions[session].side {
            subscriber.serial = 0;
        }
    }

    /// Measures the channels, tells the ledger, and ends the sessions whose place it took back.
    pub(super) fn keep_caps(&mut self, now: Time) {
        for (_, channel) in &mut self.channels {
            channel.measure(now);
        }
        let channels = self.channels.iter().map(|(_, channel)| channel);
        self.siblings.ledger.note(now, self.number, self.cap, channels);
        let is_capped =
            self.cap.is_some() || self.channels.iter().any(|(_, channel)| channel.cap().is_some());
        if is_capped && self.costs_at <= now {
            self.costs_at = now.after(REPORT_INTERVAL);
            self.note_costs();
        }
        let leaving = self.siblings.ledger.let_go(now, self.number);
        if !leaving.is_empty() {
            let has_to_go = |side: &Side| match side {
                Side::Subscriber(subscriber) => leaving.binary_search(&subscriber.serial).is_ok(),
                Side::Upstream(_) => false,
            };
            let sessions = self.sessions.iter().filter(|(_, session)| has_to_go(&session.side));
            let sessions: Vec<usize> = sessions.map(|(index, _)| index).collect();
            self.counters.egress_let_go += sessions.len() as u64;
            self.dismiss(&sessions);
        }
    }

    /// A subscriber with losses is sent parity: it costs more. One that takes some stripes of the channel costs as much less; if it
    /// takes all, because its other upstream is gone, the ledger knows a second later.
    fn note_costs(&mut self) {
        for (_, session) in &mut self.sessions {
            let Side::Subscriber(subscriber) = &mut session.side else { continue };
            let channel = &self.channels[session.channel];
            let seat = channel.seats.seat(subscriber.seat);
            let (parts, of) = seat.stripes.share();
            let to = session.peer.address;
            let cost = (channel.cost_for(to, seat.parity) * parts / of).max(1);
            if subscriber.serial != 0 && subscriber.cost != cost {
                subscriber.cost = cost;
                let data_cost = shard_cost(to) as u32 * parts / of;
                self.siblings.ledger.set_cost(&channel.verifier.key(), subscriber.serial, cost, data_cost);
            }
        }
    }
}
