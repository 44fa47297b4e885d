//! The door: why newcomers are turned away, when there are several reasons.

use codec::wire::control::RefuseReason;

use crate::running::Relay;

/// Why it may be closed; where several are true, the first says what newcomers hear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// Whoever looks after the relay wants it empty.
    Drain,
    /// The transfer quota is used up.
    QuotaUsed,
    /// More of it was used than an even pace allows.
    Pacing,
}

impl Cause {
    const ALL: [Cause; 3] = [Cause::Drain, Cause::QuotaUsed, Cause::Pacing];

    fn reason(self) -> RefuseReason {
        match self {
            Cause::Drain => RefuseReason::Closing,
            Cause::QuotaUsed => RefuseReason::QuotaUsed,
            Cause::Pacing => RefuseReason::EgressFull,
        }
    }

    /// Whether publishers are turned away too: not where those who are served are to stay.
    fn is_for_all(self) -> bool {
        self != Cause::Pacing
    }
}

/// The causes that are true now.
#[derive(Default)]
pub(super) struct Door {
    closed: [bool; Cause::ALL.len()],
}

impl Door {
    /// Says whether a cause is true, and has the relay act accordingly. Returns whether that is new.
    pub(super) fn set(&mut self, relay: &Relay, cause: Cause, is_closed: bool) -> bool {
        let before = (self.to_newcomers(), self.to_subscribers());
        let was_closed = std::mem::replace(&mut self.closed[cause as usize], is_closed);
        if self.to_newcomers() != before.0 {
            relay.close_to_newcomers(self.to_newcomers());
        }
        if self.to_subscribers() != before.1 {
            relay.close_to_subscribers(self.to_subscribers());
        }
        was_closed != is_closed
    }

    /// Why nobody is let in.
    fn to_newcomers(&self) -> Option<RefuseReason> {
        self.causes().find(|cause| cause.is_for_all()).map(Cause::reason)
    }

    /// Why subscribers are not.
    fn to_subscribers(&self) -> Option<RefuseReason> {
        self.causes().find(|cause| !cause.is_for_all()).map(Cause::reason)
    }

    fn causes(&self) -> impl Iterator<Item = Cause> {
        Cause::ALL.into_iter().filter(|cause| self.closed[*cause as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(causes: &[Cause]) -> Door {
        let mut door = Door::default();
        causes.iter().for_each(|cause| door.closed[*cause as usize] = true);
        door
    }

    #[test]
    fn the_first_cause_is_named_and_pacing_lets_publishers_in() {
        let all = |causes: &[Cause]| door(causes).to_newcomers();
        assert_eq!(all(&[]), None);
        assert_eq!(all(&[Cause::Pacing]), None);
        assert_eq!(all(&[Cause::Pacing, Cause::QuotaUsed]), Some(RefuseReason::QuotaUsed));
        assert_eq!(all(&[Cause::QuotaUsed, Cause::Drain]), Some(RefuseReason::Closing));
        let subscribers = |causes: &[Cause]| door(causes).to_subscribers();
        assert_eq!(subscribers(&[Cause::Drain]), None, "the door is closed to all");
        assert_eq!(subscribers(&[Cause::Drain, Cause::Pacing]), Some(RefuseReason::EgressFull));
    }
}
