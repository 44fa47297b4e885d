//! Wakes a plane that waits.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::error::OpenError;

/// Makes [`super::Plane::wait`] return, from any thread. Clones wake the same plane; using one whose plane is gone does
/// nothing.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<File>,
}

impl Waker {
    pub(super) fn new() -> Result<Waker, OpenError> {
        // SAFETY: promise 6: passes no address.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(OpenError::Event { source: std::io::Error::last_os_error() });
        }
        // SAFETY: promise 6: a descriptor that was just made, and that nobody else has or will close.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Waker { event: Arc::new(File::from(owned)) })
    }

    /// Makes the current or the next `wait` return.
    pub fn wake(&self) {
        if let Err(error) = (&*self.event).write(&1_u64.to_ne_bytes()) {
            // The counter is full after 2^64 − 2 wakes that were not noticed: the plane is awake as it is.
            debug_assert_eq!(error.kind(), ErrorKind::WouldBlock, "eventfd: {error}");
        }
    }

    /// Takes back all wakes so far.
    pub(super) fn reset(&self) {
        let mut count = [0; 8];
        if let Err(error) = (&*self.event).read(&mut count) {
            // The wake was taken back with an earlier one.
            debug_assert_eq!(error.kind(), ErrorKind::WouldBlock, "eventfd: {error}");
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
