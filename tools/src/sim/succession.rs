//! A relay's process that is replaced by the next one, as when the service is started again: its sockets stay open.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::net::SocketAddr;
use std::time::Duration;

use mesh::Handover;

use super::book::Datagram;
use super::host::RelayPlan;
use super::meter::Meters;
use super::world::World;

/// What a process left to the next one, and what is true for both.
#[derive(Default)]
pub(super) struct Estate {
    /// What its nodes handed over, as it is written down.
    written: Vec<u8>,
    /// Datagrams that came since then.
    pub(super) waiting: Vec<(SocketAddr, Datagram)>,
    meters: Meters,
    proven: HashSet<SocketAddr>,
    challenges: HashSet<(SocketAddr, [u8; 16])>,
    strangers: HashMap<SocketAddr, (u64, u64)>,
}

/// A process takes no longer for what is still to be sent.
const LETTING_GO_MAX: Duration = Duration::from_secs(2);

/// What waits in sockets: 16 MiB.
const WAITING_MAX: usize = (16 << 20) / codec::DATAGRAM_BYTES;

impl Estate {
    /// A datagram comes to a socket from which nobody reads.
    pub(super) fn keep(&mut self, from: SocketAddr, bytes: &Datagram) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push((from, Datagram::clone(bytes)));
        }
    }
}

impl World {
    /// Ends a relay's process without a word, once it has sent what a cap holds back; it leaves about `bytes_max` bytes of
    /// chunks.
    pub(super) fn hand_over(&mut self, host: usize, bytes_max: usize) {
        let Some(units) = self.hosts[host].process.as_ref().map(|process| process.units.len()) else {
            return;
        };
        // What comes from now on waits.
        self.hosts[host].estate = Some(Estate::default());
        let give_up_at = self.now.after(LETTING_GO_MAX);
        while let Some(wait) = self.held_back_for(host, units).filter(|_| self.now < give_up_at) {
            self.run_until(self.now.after(wait));
        }
        let mut parts = Vec::new();
        for unit in 0..units {
            // Those that have ended do not hear any more what this one tells them.
            self.service(host, unit);
            let local = self.hosts[host].clock(self.now);
            parts.push(self.unit_mut(host, unit).node.hand_over(local, bytes_max / units));
        }
        let mut process = self.hosts[host].process.take().expect("it has units");
        let estate = self.hosts[host].estate.as_mut().expect("made above");
        estate.written = postcard::to_stdvec(&parts).expect("it is made for that");
        estate.meters = mem::take(&mut process.meters);
        (estate.proven, estate.challenges) = (process.proven, process.challenges);
        estate.strangers = process.strangers;
    }

    /// Has a process send what may leave; returns for how long a cap holds back the rest.
    fn held_back_for(&mut self, host: usize, units: usize) -> Option<Duration> {
        let local = self.hosts[host].clock(self.now);
        let waits = (0..units).filter_map(|unit| {
            self.service(host, unit);
            let until = self.unit_mut(host, unit).node.held_back_until()?;
            Some(until.since(local).max(Duration::from_micros(1)))
        });
        waits.max()
    }

    /// The next process takes up what was left, unless the machine was started anew in the meantime.
    pub(super) fn take_up(&mut self, host: usize, plan: &RelayPlan) {
        let Some(estate) = self.hosts[host].estate.take() else { return };
        self.start_relay(host, plan);
        let local = self.hosts[host].clock(self.now);
        let parts: Vec<Handover> = match postcard::from_bytes(&estate.written) {
            Ok(parts) => parts,
            Err(error) => {
                self.fail(format!("{} does not take up what was left to it: {error}", self.hosts[host].name));
                return;
            }
        };
        let process = self.hosts[host].process.as_mut().expect("just started");
        for (unit, part) in process.units.iter_mut().zip(parts) {
            unit.node.resume(local, part);
        }
        (process.meters, process.proven) = (estate.meters, estate.proven);
        (process.strangers, process.challenges) = (estate.strangers, estate.challenges);
        for (from, bytes) in estate.waiting {
            self.arrive(host, from, &bytes);
        }
    }
}
