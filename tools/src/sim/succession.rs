//! A relay's process that is replaced by the next one, as when the service is started again: its sockets stay open.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::net::SocketAddr;

use mesh::Handover;

use super::book::Datagram;
use super::host::RelayPlan;
use super::meter::Meters;
use super::world::World;

/// What a process left to the next one, and what is true for both.
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
    /// Ends a relay's process without a word; it leaves about `bytes_max` bytes of chunks.
    pub(super) fn hand_over(&mut self, host: usize, bytes_max: usize) {
        let Some(units) = self.hosts[host].process.as_ref().map(|process| process.units.len()) else {
            return;
        };
        let mut parts = Vec::new();
        for unit in 0..units {
            // Those that have ended do not hear any more what this one tells them.
            self.service(host, unit);
            let local = self.hosts[host].clock(self.now);
            parts.push(self.unit_mut(host, unit).node.hand_over(local, bytes_max / units));
        }
        let mut process = self.hosts[host].process.take().expect("it has units");
        self.hosts[host].estate = Some(Estate {
            written: postcard::to_stdvec(&parts).expect("it is made for that"),
            waiting: Vec::new(),
            meters: mem::take(&mut process.meters),
            proven: process.proven,
            challenges: process.challenges,
            strangers: process.strangers,
        });
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
