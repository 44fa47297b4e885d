//! A session as it goes to the node that takes this one's place.

use core::time::Duration;

use codec::Sequence;
use codec::wire::control::SessionId;

use super::{PeerKey, Session, Side, Subscriber, Upstream};
use crate::handover::{BacklogState, PublisherState, SessionState, SubscriberState};
use crate::time::{Time, micros};

impl Session {
    pub(crate) fn hand_over(&self) -> SessionState {
        SessionState {
            id: self.id.0,
            address: self.peer.address,
            nonce: self.nonce,
            nonce_before: self.nonce_before,
            begun_at: self.begun_at,
            start: self.start.0,
            rtt_us: self.rtt.map(micros),
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
        session.rtt = state.rtt_us.map(Duration::from_micros);
        session.echo = (state.echo.0, state.echo.1.min(now));
        session
    }
}

impl Subscriber {
    pub(crate) fn hand_over(&self, session: SessionState, backlog: Option<BacklogState>) -> SubscriberState {
        SubscriberState {
            session,
            loss: self.loss,
            settled: self.settled.0,
            repair_credit: self.repair_credit,
            channel_shards: self.channel_shards,
            backlog,
        }
    }

    pub(crate) fn resume(state: &SubscriberState, seat: usize) -> Subscriber {
        Subscriber {
            loss: state.loss,
            settled: Sequence(state.settled),
            repair_credit: state.repair_credit,
            ..Subscriber::new(seat, state.channel_shards)
        }
    }
}

impl Upstream {
    pub(crate) fn hand_over(&self, session: SessionState) -> PublisherState {
        PublisherState {
            session,
            shards_received: self.shards_received,
            base: self.base,
            wasted_checks: self.wasted_checks,
            transit_us: self.transit_us,
            spread_us: self.spread_us,
        }
    }

    pub(crate) fn resume(now: Time, state: &PublisherState) -> Upstream {
        Upstream {
            shards_received: state.shards_received,
            wasted_checks: state.wasted_checks.no_later_than(now),
            transit_us: state.transit_us,
            spread_us: state.spread_us,
            ..Upstream::new(now, state.base)
        }
    }
}
