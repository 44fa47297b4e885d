//! What the workers have counted.

use std::collections::HashMap;
use std::time::Duration;

use mesh::{ChannelSummary, Counters, Egress, Time, UpstreamSummary};

use crate::plane::PlaneCounters;

/// What a worker, or all of them together, has counted and carries, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When, µs since the Unix epoch.
    pub at: Time,
    /// The node's totals.
    pub node: Counters,
    /// The plane's totals.
    pub plane: PlaneCounters,
    /// Sessions of both directions.
    pub sessions: usize,
    /// Of these, the ones that others asked for.
    pub granted_sessions: usize,
    /// Slot memory that windows fill, bytes.
    pub window_bytes: usize,
    /// What may leave, and what is promised, all workers together.
    pub egress: Egress,
    /// What is carried.
    pub channels: Vec<ChannelSummary>,
    /// Who gives it.
    pub upstreams: Vec<UpstreamSummary>,
    /// Processor time of the workers' threads.
    pub cpu: Duration,
    /// Once they are put together, one entry for each worker.
    pub workers: Vec<WorkerSummary>,
}

/// One worker's share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerSummary {
    /// Processor time of its thread.
    pub cpu: Duration,
    /// Sessions of both directions.
    pub sessions: usize,
    /// Payload bytes sent.
    pub bytes_sent: u64,
}

impl Snapshot {
    /// What the workers have together; `None` of none.
    pub(crate) fn of_all(snapshots: impl Iterator<Item = Snapshot>) -> Option<Snapshot> {
        let mut workers = Vec::new();
        let note = |snapshot: &Snapshot| {
            let Snapshot { sessions, cpu, plane, .. } = snapshot;
            workers.push(WorkerSummary { cpu: *cpu, sessions: *sessions, bytes_sent: plane.bytes_sent });
        };
        let all = snapshots.inspect(note).reduce(Snapshot::with)?;
        Some(Snapshot { workers, ..all })
    }

    /// This and what another worker has.
    fn with(mut self, other: Snapshot) -> Snapshot {
        let Snapshot {
            at,
            node,
            plane,
            sessions,
            granted_sessions,
            window_bytes,
            egress,
            channels,
            upstreams,
            cpu,
            ..
        } = other;
        self.at = self.at.max(at);
        self.node += node;
        self.plane += plane;
        self.sessions += sessions;
        self.granted_sessions += granted_sessions;
        self.window_bytes += window_bytes;
        self.egress = egress;
        self.upstreams.extend(upstreams);
        let places: HashMap<_, _> =
            self.channels.iter().enumerate().map(|(place, channel)| (channel.key, place)).collect();
        for channel in channels {
            match places.get(&channel.key) {
                Some(&place) => self.channels[place].add(&channel),
                None => self.channels.push(channel),
            }
        }
        self.cpu += cpu;
        self
    }
}
