//! What systemd keeps while a process of the relay is replaced by another (sd_notify(3), `FDSTORE=1`): its sockets, so
//! that what arrives meanwhile waits in them, and what it handed over. It comes from nowhere else.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Instant, SystemTime};

use mesh::{Anchor, Handover, limits::LEASE};
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::config::Config;
use crate::handover::Estate;
use crate::running::StartError;
use crate::sockets;
use crate::uring::{Socket, Steering, passed_by_systemd};

/// What a relay starts with.
pub(crate) struct Kept {
    /// One for each worker.
    pub(crate) sockets: Vec<Socket>,
    /// By which the kernel spreads peers over them.
    pub(crate) steering: Steering,
    /// What the nodes of an earlier process left, one for each worker, or none at all.
    pub(crate) handovers: Vec<Handover>,
}

/// The names under which systemd keeps things.
const HANDOVER: &str = "handover";
const SOCKET: &str = "socket-";

impl Kept {
    /// What systemd has passed to this process and what fits its configuration. It is told to keep the rest no longer, and
    /// to keep what is new.
    ///
    /// # Errors
    /// There were no sockets, and there is none to be had.
    pub(crate) fn take(config: &Config) -> Result<Kept, StartError> {
        let passed = passed_by_systemd().unwrap_or_else(|error| {
            warn!("what systemd has kept cannot be taken: {error}");
            Vec::new()
        });
        let (mut sockets, mut estate) = (BTreeMap::new(), None);
        for (descriptor, name) in passed {
            let number = name.strip_prefix(SOCKET).and_then(|number| number.parse::<usize>().ok());
            match number {
                Some(number) => drop(sockets.insert(number, descriptor)),
                None if name == HANDOVER => estate = Some(descriptor),
                None => warn!("there is no use for what was passed as {name}"),
            }
        }
        if estate.is_some() {
            // It holds once: who takes it up again after a crash would go back in time.
            forget(HANDOVER);
        }
        let sockets = fitting(sockets, config);
        let estate = estate.and_then(|estate| take_up(estate, sockets.len()));
        if sockets.is_empty() {
            let kept = Kept::open(config)?;
            keep_sockets(&kept.sockets);
            return Ok(kept);
        }
        let (steering, handovers) = match estate {
            Some(estate) => (Steering::new(sockets.len(), estate.multiplier), estate.parts),
            None => (random_steering(sockets.len())?, Vec::new()),
        };
        if sockets.len() > 1 {
            sockets[0].steer(steering)?;
        }
        Ok(Kept { sockets, steering, handovers })
    }

    /// Sockets of its own, and nothing from before.
    ///
    /// # Errors
    /// There are none to be had.
    pub(crate) fn open(config: &Config) -> Result<Kept, StartError> {
        let steering = random_steering(config.workers_max())?;
        let sockets = sockets::open(config.listen, config.workers_max(), steering)?;
        Ok(Kept { sockets, steering, handovers: Vec::new() })
    }
}

fn random_steering(workers: usize) -> Result<Steering, StartError> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(StartError::Random)?;
    Ok(Steering::new(workers, u32::from_ne_bytes(random)))
}

/// The sockets, if they are what the configuration asks for.
fn fitting(kept: BTreeMap<usize, OwnedFd>, config: &Config) -> Vec<Socket> {
    let names: Vec<String> = kept.keys().map(|number| format!("{SOCKET}{number}")).collect();
    let (count, expected) = (kept.len(), config.workers_max());
    let is_complete = kept.keys().copied().eq(0..expected);
    let sockets: Option<Vec<Socket>> =
        kept.into_values().map(|descriptor| Socket::adopt(descriptor, config.listen)).collect();
    match sockets {
        Some(sockets) if is_complete => {
            info!("the sockets of the process before go on");
            sockets
        }
        _ if count == 0 => Vec::new(),
        _ => {
            warn!(
                "the process before had {count} sockets, which do not fit {expected} workers on {}: its peers have to \
                 dial again",
                config.listen
            );
            names.iter().for_each(|name| forget(name));
            Vec::new()
        }
    }
}

/// What the nodes of the process before left, if it is to be used.
fn take_up(estate: OwnedFd, workers: usize) -> Option<Estate> {
    let estate = Estate::read(estate)
        .map_err(|refused| warn!("what the process before handed over is not used: {refused}"))
        .ok()?;
    let now = Anchor::new(SystemTime::now(), Instant::now()).time_at(Instant::now());
    let (away, parts) = (now.since(estate.left_at), &estate.parts);
    if parts.len() != workers {
        warn!(
            "what the process before handed over is not used: it is of {} workers, not {workers}",
            parts.len()
        );
        return None;
    }
    if away > LEASE {
        warn!("what the process before handed over is not used: it is {away:.1?} old");
        return None;
    }
    let sessions: usize = parts.iter().map(Handover::sessions).sum();
    let chunks: usize = parts.iter().map(Handover::chunks).sum();
    info!(
        "{sessions} sessions and {chunks} chunks taken over from the process before, which let go {away:.1?} ago"
    );
    Some(estate)
}

fn keep_sockets(sockets: &[Socket]) {
    for (number, socket) in sockets.iter().enumerate() {
        keep(&format!("{SOCKET}{number}"), socket.as_fd());
    }
}

/// Has systemd keep what is handed over.
pub(crate) fn keep_handover(estate: &File) {
    keep(HANDOVER, estate.as_fd());
}

fn keep(name: &str, descriptor: BorrowedFd<'_>) {
    // Without the last, systemd would let a socket go that has an error to tell.
    let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[descriptor]) {
        warn!(%error, "systemd does not keep {name}: when the relay is started again, peers have to dial again");
    }
}

fn forget(name: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
        warn!(%error, "systemd was not told to let {name} go");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_unit_has_systemd_keep_a_socket_of_each_worker_and_one_handover() {
        let unit = include_str!("../../systemd/superpeer.service");
        let line = format!("FileDescriptorStoreMax={}", crate::budget::WORKERS_MAX + 1);
        assert!(unit.lines().any(|written| written == line), "{line}");
    }
}
