//! Sending a window without a ring, for the plane in `mmsg.rs`.
//!
//! It stands here because slot memory may be given to the kernel by address only (promise 5): a library's `sendmmsg`
//! asks for references to the bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mesh::Outbox;

use super::transmit::{Batch, Common};

/// Messages per system call; their headers (5 KiB) are on the stack.
const MESSAGES: usize = 64;

impl Common {
    /// Sends the whole batch; see [`crate::plane::Plane::transmit`].
    pub(crate) fn transmit_by_sendmmsg(&mut self, outbox: &Outbox) {
        let mut batch = Batch::default();
        while self.next_window(outbox, &mut batch) {
            self.send_window();
            self.settle_window(outbox, &mut batch);
        }
    }

    /// Has the kernel send the window, and writes the failures into it. `sendmmsg` stops at the first message that
    /// fails; whether it does so at its very first one is the only way to learn why.
    fn send_window(&mut self) {
        let mut first = 0;
        while first < self.window.len() {
            match self.send_some(first) {
                Ok(sent) => first += sent,
                Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                    libc::EINTR => {}
                    // The socket is full for the others too.
                    libc::EAGAIN => {
                        self.window[first..].iter_mut().for_each(|sending| sending.errno = libc::EAGAIN);
                        return;
                    }
                    errno => {
                        self.window[first].errno = errno;
                        first += 1;
                    }
                },
            }
        }
    }

    /// Sends messages of the window from `first` on; returns how many were taken, at least 1.
    fn send_some(&self, first: usize) -> io::Result<usize> {
        let window = &self.window[first..];
        let count = window.len().min(MESSAGES);
        // SAFETY: promise 6: null pointers and lengths of 0 are valid in both.
        let (mut payloads, mut messages): ([libc::iovec; MESSAGES], [libc::mmsghdr; MESSAGES]) =
            unsafe { std::mem::zeroed() };
        for ((sending, payload), message) in window.iter().zip(&mut payloads).zip(&mut messages) {
            payload.iov_base = sending.start.cast_mut().cast();
            payload.iov_len = sending.bytes as usize;
            message.msg_hdr.msg_name = sending.name.as_ptr().cast_mut().cast();
            message.msg_hdr.msg_namelen = sending.name.length();
            message.msg_hdr.msg_iov = payload;
            message.msg_hdr.msg_iovlen = 1;
        }
        let descriptor = self.socket.as_fd().as_raw_fd();
        // SAFETY: promises 4 and 6: headers and vectors live until the end of this function; neither the window nor
        // what it points to (slot memory, or the outbox that the caller of `transmit` lends) changes before that.
        let sent = unsafe {
            libc::sendmmsg(descriptor, messages.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}
