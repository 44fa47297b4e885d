//! The subscribers of one channel, at all nodes of a process.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::Arc;

use crate::egress::{Bucket, Cap};
use crate::limits::{ASSUMED_SHARDS_PER_SECOND, EGRESS_TOLERANCE_PARTS, SWEEP_INTERVAL};
use crate::rates::Rates;
use crate::time::Time;

/// What another node measured holds so long: several may have the channel, and only one hear it first.
const SAID_HOLDS: Duration = SWEEP_INTERVAL.saturating_mul(4);

#[derive(Debug, Default)]
pub(super) struct Account {
    /// The oldest first.
    pub(super) grants: Vec<Grant>,
    /// The sum of their costs.
    costs: u64,
    /// Of that, what the data shards come to; the rest is parity, which is left out where a cap is reached.
    data_costs: u64,
    pub(super) common: Arc<Common>,
    pub(super) cap: Option<Cap>,
    /// `None` before the channel was live for a second.
    pub(super) rates: Option<Rates>,
    measured_by: u32,
    measured_at: Time,
    pub(super) over_since: Option<Time>,
}

/// What the data path of all nodes has of a channel's account.
#[derive(Debug, Default)]
pub(crate) struct Common {
    /// What may be sent of it.
    pub(crate) bucket: Bucket,
    subscribers: AtomicUsize,
    withholds_parity: AtomicBool,
}

impl Common {
    /// Subscribers at all nodes.
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Whether there is room for its data under the caps, and not for the parity that lines call for.
    pub(crate) fn withholds_parity(&self) -> bool {
        self.withholds_parity.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) serial: u64,
    /// Bytes with the headers of IP and UDP for each data shard of the channel.
    pub(super) cost: u32,
    /// Of that, without parity.
    pub(super) data_cost: u32,
    pub(super) node: u32,
}

impl Account {
    /// What is promised to subscribers of this cost together, bytes per second.
    pub(super) fn promise(&self, cost: u64) -> u64 {
        needs(cost, self.rates.map_or(ASSUMED_SHARDS_PER_SECOND * 1_000, |rates| rates.peak))
    }

    /// What is promised to all its subscribers, bytes per second.
    pub(super) fn promised(&self) -> u64 {
        self.promise(self.costs)
    }

    /// What its subscribers need, bytes per second, with the parity that their lines call for.
    pub(super) fn needs_with_parity(&self) -> u64 {
        needs(self.costs, self.rates.unwrap_or_default().mean)
    }

    /// From now on; `of_all`: what is sent of all channels leaves no room for parity.
    pub(super) fn withhold_parity(&self, of_all: bool) {
        let is_over = self.cap.is_some_and(|cap| self.needs_with_parity() > cap.promised_max());
        self.common.withholds_parity.store(of_all || is_over, Ordering::Relaxed);
    }

    pub(super) fn add(&mut self, grant: Grant) {
        self.costs += u64::from(grant.cost);
        self.data_costs += u64::from(grant.data_cost);
        // Only those that come from an earlier process do not come in the order of their numbers.
        let place = self.grants.partition_point(|other| other.serial < grant.serial);
        self.grants.insert(place, grant);
        self.common.subscribers.store(self.grants.len(), Ordering::Relaxed);
    }

    fn place_of(&self, serial: u64) -> Option<usize> {
        self.grants.binary_search_by_key(&serial, |grant| grant.serial).ok()
    }

    /// Whether this is a subscriber's number.
    pub(super) fn has(&self, serial: u64) -> bool {
        self.place_of(serial).is_some()
    }

    /// Returns whether it was there.
    pub(super) fn remove(&mut self, serial: u64) -> bool {
        let place = self.place_of(serial);
        if let Some(place) = place {
            self.take(place);
        }
        place.is_some()
    }

    fn take(&mut self, place: usize) -> Grant {
        let grant = self.grants.remove(place);
        self.costs -= u64::from(grant.cost);
        self.data_costs -= u64::from(grant.data_cost);
        self.common.subscribers.store(self.grants.len(), Ordering::Relaxed);
        grant
    }

    pub(super) fn set_cost(&mut self, serial: u64, cost: u32, data_cost: u32) {
        if let Some(place) = self.place_of(serial) {
            let grant = &mut self.grants[place];
            self.costs = self.costs - u64::from(grant.cost) + u64::from(cost);
            self.data_costs = self.data_costs - u64::from(grant.data_cost) + u64::from(data_cost);
            *grant = Grant { cost, data_cost, ..*grant };
        }
    }

    /// The sums of the costs of its subscribers, and of that of data.
    #[cfg(test)]
    pub(super) fn costs(&self) -> (u64, u64) {
        (self.costs, self.data_costs)
    }

    /// The number of its newest subscriber.
    pub(super) fn newest(&self) -> Option<u64> {
        self.grants.last().map(|grant| grant.serial)
    }

    /// Returns whether there was one.
    pub(super) fn take_newest(&mut self, leaving: &mut Vec<(u32, u64)>) -> bool {
        let Some(place) = self.grants.len().checked_sub(1) else { return false };
        let Grant { serial, node, .. } = self.take(place);
        leaving.push((node, serial));
        true
    }

    pub(super) fn is_live(&self) -> bool {
        self.rates.is_some_and(|rates| rates.mean > 0)
    }

    /// Of what several nodes measure, the most counts: some have missed what others have not.
    pub(super) fn note(&mut self, now: Time, node: u32, rates: Option<Rates>) {
        let Some(rates) = rates else { return };
        let is_stale = self.measured_by == node || now.since(self.measured_at) > SAID_HOLDS;
        if is_stale || self.rates.is_none_or(|known| rates.last > known.last) {
            (self.rates, self.measured_by, self.measured_at) = (Some(rates), node, now);
        }
    }
}

/// Whether the data that channels were found to need lately is more than a cap: clearly in the last second, or at all over the
/// last five.
pub(super) fn excess<'a>(cap: Cap, accounts: impl Iterator<Item = &'a Account>) -> bool {
    let (mut last, mut mean) = (0, 0);
    for account in accounts {
        let rates = account.rates.unwrap_or_default();
        last += needs(account.data_costs, rates.last);
        mean += needs(account.data_costs, rates.mean);
    }
    let earned = cap.per_second();
    last > earned + earned / EGRESS_TOLERANCE_PARTS || mean > earned
}

fn needs(cost: u64, shards_per_1000_seconds: u64) -> u64 {
    u64::try_from(u128::from(cost) * u128::from(shards_per_1000_seconds) / 1_000).unwrap_or(u64::MAX)
}
