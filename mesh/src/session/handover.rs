//! A session as it goes to the node that takes this one's place.

use codec::wire::control::SessionId;
use codec::{Sequence, Stripes};

use super::{PeerKey, Session, Side, Subscriber, Upstream};
use crate::fanout::Seat;
use crate::handover::{BacklogState, PublisherState, SessionState, SubscriberState};
use crate::limits::REPAIR_CREDIT_MAX;
use crate::time::Time;

impl Session {
    pub(crate) fn hand_over(&self) -> SessionState {
        SessionState {
            id: self.id.0,
            address: self.peer.address,
            nonce: self.nonce,
            nonce_before: self.nonce_before,
            begun_at: self.begun_at,
            start: self.start.0,
            round_trip: self.round_trip,
            echo: self.echo,
        }
    }

    /// Goes on. Its lease begins anew: the reports of the meantime wait in the socket, or are lost.
    pub(crate) fn resume(
        now: Time,
        state: &SessionState,
        peer: PeerKey,
        channel: usize,
        side: Side,
    ) -> Session {
        let (id, start) = (SessionId(state.id), Sequence(state.start));
        let mut session = Session::new(id, peer, channel, state.nonce, start, now, side);
        session.nonce_before = state.nonce_before;
        session.begun_at = state.begun_at.min(now);
        session.round_trip = state.round_trip;
        session.echo = (state.echo.0, state.echo.1.min(now));
        session
    }
}

impl Subscriber {
    pub(crate) fn hand_over(
        &self,
        session: SessionState,
        seat: Seat,
        backlog: Option<BacklogState>,
    ) -> SubscriberState {
        SubscriberState {
            session,
            serial: self.serial,
            line: self.line.clone(),
            seat,
            stripes: (seat.stripes.of(), seat.stripes.wanted()),
            settled: self.settled.0,
            repair_credit: self.repair_credit.into(),
            channel_shards: self.channel_shards,
            backlog,
        }
    }

    pub(crate) fn resume(state: &SubscriberState, seat: u32) -> Subscriber {
        Subscriber {
            settled: Sequence(state.settled),
            repair_credit: state.repair_credit.min(REPAIR_CREDIT_MAX) as u16,
            channel_shards: state.channel_shards,
            has_others: state.stripes().is_none_or(|stripes| stripes != Stripes::ALL),
            ..Subscriber::new(seat, 0, 0, state.line.clone())
        }
    }
}

impl Upstream {
    pub(crate) fn hand_over(&self, session: SessionState) -> PublisherState {
        PublisherState {
            session,
            shards_received: self.shards_received,
            counted: self.counted,
            wasted_checks: self.wasted_checks,
            datagrams: self.datagrams,
            arrivals: self.arrivals.clone(),
        }
    }

    pub(crate) fn resume(now: Time, state: &PublisherState) -> Upstream {
        Upstream {
            shards_received: state.shards_received,
            wasted_checks: state.wasted_checks.no_later_than(now),
            datagrams: state.datagrams,
            arrivals: state.arrivals.clone(),
            counted: state.counted,
            lost_reported: state.counted.lost,
            ..Upstream::new(now)
        }
    }
}
