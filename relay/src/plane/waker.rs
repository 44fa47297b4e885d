//! Wakes a plane that waits.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::error::OpenError;

/// Makes [`super::Plane::wait`] return, from any thread. Clones wake the same plane; using one whose plane is gone does
/// nothing.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<File>,
}

impl Waker {
    pub(crate) fn new() -> Result<Waker, OpenError> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|source| OpenError::Event { source: source.into() })?;
        Ok(Waker { event: Arc::new(File::from(event)) })
    }

    /// Makes the current or the next `wait` return.
    pub fn wake(&self) {
        if let Err(error) = (&*self.event).write(&1_u64.to_ne_bytes()) {
            // The counter is full after 2^64 − 2 wakes that were not noticed: the plane is awake as it is.
            debug_assert_eq!(error.kind(), ErrorKind::WouldBlock, "eventfd: {error}");
        }
    }

    /// Takes back all wakes so far.
    pub(crate) fn reset(&self) {
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
