//! Remembers which destinations cannot be sent trains.
//!
//! Whether the kernel segments depends on the route: IPsec refuses (`EIO`), and so do some devices and paths (`EINVAL`,
//! `EMSGSIZE`). One refusal proves little (quinn-udp had to learn that a stray `EINVAL` must not switch segmentation off
//! for ever), so two in a row count, and even then a train is tried now and again.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::budget::NO_TRAINS_MAX;

/// Refusals in a row after which a destination is spared further ones.
const STRIKES: u32 = 2;

/// One train out of this many is tried all the same: some seconds of a stream.
const RETRY_EVERY: u32 = 64;

/// The destinations that refused lately.
#[derive(Debug, Default)]
pub(crate) struct Segmentation {
    refusals: HashMap<SocketAddr, Refusal>,
}

#[derive(Debug, Default)]
struct Refusal {
    strikes: u32,
    spared: u32,
}

impl Segmentation {
    /// Whether the next message to `to` may go by the socket's segment size. `is_train`: it has several datagrams.
    pub(crate) fn may_try(&mut self, to: SocketAddr, is_train: bool) -> bool {
        // Nearly always there is none, and this is asked for every message.
        if self.refusals.is_empty() {
            return true;
        }
        let Some(refusal) = self.refusals.get_mut(&to) else { return true };
        if refusal.strikes < STRIKES {
            return true;
        }
        // Nothing is learned from single datagrams: some routes take them, others do not.
        if !is_train {
            return false;
        }
        refusal.spared = (refusal.spared + 1) % RETRY_EVERY;
        refusal.spared == 0
    }

    /// A train to `to` went out whole.
    pub(crate) fn accepted(&mut self, to: SocketAddr) {
        if !self.refusals.is_empty() {
            self.refusals.remove(&to);
        }
    }

    /// A message to `to` went out only after segmentation had been refused.
    pub(crate) fn refused(&mut self, to: SocketAddr) {
        if self.refusals.len() == NO_TRAINS_MAX && !self.refusals.contains_key(&to) {
            // Those that still matter are learned again at the price of two refused trains each.
            self.refusals.clear();
        }
        self.refusals.entry(to).or_default().strikes += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }

    #[test]
    fn one_refusal_does_not_end_trains() {
        let mut segmentation = Segmentation::default();
        segmentation.refused(destination(1));
        assert!(segmentation.may_try(destination(1), true));
        segmentation.accepted(destination(1));
        segmentation.refused(destination(1));
        assert!(segmentation.may_try(destination(1), true), "not in a row");
    }

    #[test]
    fn after_two_refusals_trains_are_tried_now_and_again() {
        let mut segmentation = Segmentation::default();
        segmentation.refused(destination(1));
        segmentation.refused(destination(1));
        let tries: Vec<u32> = (1..=200)
            .filter(|_| {
                assert!(!segmentation.may_try(destination(1), false));
                segmentation.may_try(destination(1), true)
            })
            .collect();
        assert_eq!(tries, [64, 128, 192]);
        assert!(segmentation.may_try(destination(2), true), "others are not concerned");
        segmentation.accepted(destination(1));
        assert!(segmentation.may_try(destination(1), true) && segmentation.may_try(destination(1), false));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut segmentation = Segmentation::default();
        for number in 0..5_000 {
            segmentation.refused(destination(number));
            assert!(segmentation.refusals.len() <= NO_TRAINS_MAX);
        }
    }
}
