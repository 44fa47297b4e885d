//! Descriptors that a process is started with.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// What systemd has passed to this process, each with its name (sd_listen_fds_with_names(3)). The first call takes all.
///
/// # Errors
/// The environment says something else than what there is.
pub(crate) fn passed_by_systemd() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    // SAFETY: promise 10: they are open, as was checked just now, and handed out here once.
    Ok(passed.map(|(descriptor, name)| (unsafe { OwnedFd::from_raw_fd(descriptor) }, name)).collect())
}
