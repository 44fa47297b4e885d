//! A dial: this node's lasting wish for a session with another one, and how far the handshake is.

use core::time::Duration;
use std::net::SocketAddr;

use codec::Sequence;
use codec::wire::control::Role;

use crate::limits::{HELLO_WAIT_MAX, HELLO_WAIT_MIN, TURNS_AT_ONCE_MAX};
use crate::time::Time;

pub(crate) struct Dial {
    pub(crate) target: SocketAddr,
    pub(crate) channel: usize,
    pub(crate) role: Role,
    pub(crate) state: DialState,
    /// `Hello`s since the last answer.
    pub(crate) unanswered: u32,
    /// Refusals and sessions lost since the last one that was worth having.
    in_vain: u32,
    wait: Duration,
    /// Publishing: the next chunk that the other end has not settled, as of the last session.
    pub(crate) resume: Sequence,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DialState {
    /// Nothing is sent until then.
    Resting { until: Time },
    /// A `Hello` is out.
    Greeting { nonce: u64, cookie: [u8; 16], sent_at: Time, again_at: Time },
    /// The session, by its index.
    Live(usize),
}

impl Dial {
    pub(crate) fn new(target: SocketAddr, channel: usize, role: Role, now: Time) -> Dial {
        Dial {
            target,
            channel,
            role,
            state: DialState::Resting { until: now },
            unanswered: 0,
            in_vain: 0,
            wait: HELLO_WAIT_MIN,
            resume: Sequence(0),
        }
    }

    pub(crate) fn due(&self) -> Option<Time> {
        match self.state {
            DialState::Resting { until } => Some(until),
            DialState::Greeting { again_at, .. } => Some(again_at),
            DialState::Live(_) => None,
        }
    }

    pub(crate) fn rest(&mut self, until: Time) {
        self.state = DialState::Resting { until };
    }

    /// The time until the next `Hello`: grows by half each time, with `jitter` (0 to 255) taking up to a quarter off,
    /// so that a relay that comes back is not greeted by everybody at once.
    pub(crate) fn next_wait(&mut self, jitter: u8) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 3 / 2).min(HELLO_WAIT_MAX);
        wait - wait * u32::from(jitter) / 1024
    }

    /// The other end answered as it should.
    pub(crate) fn answered(&mut self) {
        self.unanswered = 0;
    }

    /// A session that was worth having is over: start over with short waits.
    pub(crate) fn start_over(&mut self) {
        self.wait = HELLO_WAIT_MIN;
        self.unanswered = 0;
        self.in_vain = 0;
    }

    /// The other end refused, or ended a session.
    pub(crate) fn note_in_vain(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// Starts over at another target: at once, but where one after another has answered in vain, no faster than one that
    /// does not answer. Else those who refuse would be asked in turn as fast as they can.
    pub(crate) fn turn_to(&mut self, now: Time, target: SocketAddr) {
        self.target = target;
        self.resume = Sequence(0);
        self.wait = HELLO_WAIT_MIN;
        self.unanswered = 0;
        let pause = HELLO_WAIT_MIN * self.in_vain.saturating_sub(TURNS_AT_ONCE_MAX).min(64);
        self.rest(now.after(pause.min(HELLO_WAIT_MAX)));
    }
}
