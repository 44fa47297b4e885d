//! The ring itself: its set-up, what is pushed into it, and what its completions mean.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::budget::{COMPLETION_ENTRIES, SUBMISSION_ENTRIES};
use super::buffers::{BUFFER_GROUP, Held};
use super::receive::MessageShape;
use super::transmit::Sending;
use super::zero_copy::Ticket;
use crate::plane::OpenError;

/// The socket's place among the registered files.
const SOCKET: Fixed = Fixed(0);

/// Tags of the two requests that stay, and of the one that is a question. Every other tag is the position of a send in
/// its window, or with this bit set, the ticket of a zero-copy send.
const RECEIVE: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
const PROBE: u64 = u64::MAX - 2;
const ZERO_COPY: u64 = 1 << 32;

/// Has the notification of a zero-copy send say whether the kernel copied after all (`IORING_SEND_ZC_REPORT_USAGE`,
/// include/uapi/linux/io_uring.h), and how it says so (`IORING_NOTIF_USAGE_ZC_COPIED`).
const REPORT_USAGE: u16 = 1 << 3;
const COPIED: u32 = 1 << 31;

/// Long enough to be no limit, short enough for the kernel's seconds not to overflow.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// What the kernel says has happened.
pub(super) enum Completion {
    /// The multishot receive filled a buffer, or ended.
    Received {
        /// What it filled.
        held: Option<Held>,
        /// Why it ended, when that is an error.
        error: Option<io::Error>,
        /// Whether it has ended.
        last: bool,
    },
    /// The waker was used.
    Woken {
        /// Whether the poll of it has ended.
        last: bool,
    },
    /// A copying send failed; of those that do not, nothing is heard.
    SendFailed {
        /// In the window of sends.
        position: usize,
        /// Why.
        errno: i32,
    },
    /// How a zero-copy send went: comes first, before the window's `enter` returns.
    ZeroCopyResult {
        /// Which.
        ticket: Ticket,
        /// Why it failed; 0 if it did not.
        errno: i32,
        /// Whether `ZeroCopyDone` follows, be it sent or not.
        done_follows: bool,
    },
    /// The kernel does not read the memory of a zero-copy send any more.
    ZeroCopyDone {
        /// Which.
        ticket: Ticket,
        /// Whether it had copied it, or never sent it.
        copied: bool,
    },
}

/// An io_uring whose completions run only when its thread asks for them.
pub(super) struct Ring {
    io: IoUring,
}

impl Ring {
    /// Sets the ring up for the calling thread (promise 7).
    pub(super) fn open() -> Result<Ring, OpenError> {
        let built = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            // Lets `has_work` see without a system call that one is due.
            .setup_taskrun_flag()
            // One send that the kernel cannot even read must not keep back those after it.
            .setup_submit_all()
            .setup_cqsize(COMPLETION_ENTRIES)
            .build(SUBMISSION_ENTRIES);
        Ok(Ring { io: built.map_err(OpenError::of_ring)? })
    }

    /// Spares the kernel the descriptor look-up of every request.
    pub(super) fn register_socket(&self, socket: BorrowedFd<'_>) -> Result<(), OpenError> {
        let registered = self.io.submitter().register_files(&[socket.as_raw_fd()]);
        registered.map_err(|source| OpenError::Files { source })
    }

    /// Makes `count` entries at `start` the buffer ring of `group`.
    ///
    /// # Safety
    /// Promises 1 and 3: they stay mapped, and what they point to, until the ring is dropped.
    pub(super) unsafe fn register_buffers(
        &self,
        start: NonNull<BufRingEntry>,
        count: u16,
        group: u16,
    ) -> io::Result<()> {
        let address = start.as_ptr() as u64;
        // SAFETY: promises 1 and 3, kept by the caller.
        unsafe { self.io.submitter().register_buf_ring_with_flags(address, count, group, 0) }
    }

    /// Starts receiving, until a completion says that it was the last.
    pub(super) fn push_receive(&mut self, shape: &MessageShape) {
        let entry = opcode::RecvMsgMulti::new(SOCKET, shape.header(), BUFFER_GROUP).build();
        // SAFETY: promise 3: the shape stays where it is, in its box, until the ring is quiet.
        unsafe { self.push(&entry.user_data(RECEIVE)) };
    }

    /// Ends receiving, with a completion that says so, after those of all that was received.
    pub(super) fn cancel_receive(&mut self) {
        // Fails when it has ended already.
        let _ = self.io.submitter().register_sync_cancel(None, CancelBuilder::user_data(RECEIVE));
        self.fetch();
    }

    /// Starts listening for wakes, until a completion says that it was the last.
    pub(super) fn push_wake_poll(&mut self, event: RawFd) {
        let entry = opcode::PollAdd::new(Fd(event), libc::POLLIN as u32).multi(true).build();
        // SAFETY: promise 3 is not concerned: the request points to nothing. On a closed descriptor it fails.
        unsafe { self.push(&entry.user_data(WAKE)) };
    }

    /// Queues a send for the next [`Ring::enter`].
    ///
    /// # Safety
    /// Promise 4: what `sending` points to, and `sending` itself, stay as they are until then.
    pub(super) unsafe fn push_send(&mut self, sending: &Sending, position: usize) {
        let entry = opcode::Send::new(SOCKET, sending.start, sending.bytes)
            .dest_addr(sending.name.as_ptr())
            .dest_addr_len(sending.name.length())
            .flags(libc::MSG_DONTWAIT)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(position as u64);
        // SAFETY: promise 4, kept by the caller.
        unsafe { self.push(&entry) };
    }

    /// Queues a send from the registered segment `segment` for the next [`Ring::enter`].
    ///
    /// # Safety
    /// Promise 4 for `sending` itself and its address; promise 8: the payload's slot is held under `ticket`.
    pub(super) unsafe fn push_zero_copy_send(&mut self, sending: &Sending, segment: u16, ticket: Ticket) {
        let entry = opcode::SendZc::new(SOCKET, sending.start, sending.bytes)
            .buf_index(Some(segment))
            .dest_addr(sending.name.as_ptr())
            .dest_addr_len(sending.name.length())
            .flags(libc::MSG_DONTWAIT)
            .zc_flags(REPORT_USAGE)
            .build()
            .user_data(ZERO_COPY | ticket.0 as u64);
        // SAFETY: promises 4 and 8, kept by the caller.
        unsafe { self.push(&entry) };
    }

    /// Whether the kernel sends without a copy and reports what it had to copy all the same (Linux 6.2, and 6.1 since
    /// it was ported back). It looks at the flags of a request before it looks for its socket, and this one has none.
    ///
    /// To be called before anything else is pushed.
    pub(super) fn probe_zero_copy(&mut self) -> io::Result<()> {
        let entry = opcode::SendZc::new(Fd(-1), std::ptr::null(), 0).zc_flags(REPORT_USAGE).build();
        // SAFETY: promise 4 is not concerned: this sends no bytes, to no address.
        unsafe { self.push(&entry.user_data(PROBE)) };
        self.enter();
        let answer = self.io.completion().next().map_or(-libc::EOPNOTSUPP, |completion| completion.result());
        if answer == -libc::EBADF { Ok(()) } else { Err(io::Error::from_raw_os_error(-answer)) }
    }

    /// Makes room for so many segments of memory to send from without a copy.
    pub(super) fn open_segments(&self, count: u32) -> io::Result<()> {
        self.io.submitter().register_buffers_sparse(count)
    }

    /// Makes `bytes` bytes at `start` segment `number`: they become real memory, and pinned.
    ///
    /// # Safety
    /// Promise 1: they are mapped, and nobody makes another mapping in their place before the ring is dropped.
    pub(super) unsafe fn register_segment(
        &self,
        number: u32,
        start: *const u8,
        bytes: usize,
    ) -> io::Result<()> {
        let segment = libc::iovec { iov_base: start.cast_mut().cast(), iov_len: bytes };
        // SAFETY: promise 1, kept by the caller.
        unsafe { self.io.submitter().register_buffers_update(number, &[segment], None) }
    }

    /// # Safety
    /// What `entry` points to stays until the request has ended.
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: promises 3 and 4, kept by the callers.
        while unsafe { self.io.submission().push(entry) }.is_err() {
            self.enter();
        }
    }

    /// Has the kernel take in all that was pushed, and post what is due. Does not wait.
    pub(super) fn enter(&mut self) {
        loop {
            match self.io.submit() {
                Ok(_) if self.io.submission().is_empty() => return,
                Ok(_) => {}
                // A signal, or no memory for a request at this moment. The sends must not stay behind (promise 4).
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("io_uring_enter must not fail on a ring that is set up: {error}"),
            }
        }
    }

    /// Has the kernel post what is due, and take in nothing.
    pub(super) fn fetch(&mut self) {
        // SAFETY: promise 4 is not concerned: this submits nothing and passes no address. It can fail only for want of
        // memory, or by a signal; then what is due is due later.
        let _ =
            unsafe { self.io.submitter().enter::<libc::sigset_t>(0, 0, EnterFlags::GETEVENTS.bits(), None) };
    }

    /// Sleeps until there is a completion, `timeout` has passed, or a signal came.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = Timespec::from(timeout.unwrap_or(WAIT_MAX).min(WAIT_MAX));
        let arguments = SubmitArgs::new().timespec(&timeout);
        match self.io.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Whether [`Ring::enter`] would do something.
    pub(super) fn has_work(&mut self) -> bool {
        let submission = self.io.submission();
        submission.taskrun() || !submission.is_empty()
    }

    /// Whether the kernel keeps completions for which there was no room; the next [`Ring::enter`] fetches them.
    pub(super) fn overflowed(&mut self) -> bool {
        self.io.submission().cq_overflow()
    }

    /// Takes the next completion that was posted.
    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        // A probe has a notification too.
        let completion = self.io.completion().find(|completion| completion.user_data() != PROBE)?;
        let result = completion.result();
        let last = !cqueue::more(completion.flags());
        Some(match completion.user_data() {
            RECEIVE => Completion::Received {
                held: held_buffer(&completion),
                error: (result < 0).then(|| io::Error::from_raw_os_error(-result)),
                last,
            },
            WAKE => Completion::Woken { last },
            tag if tag & ZERO_COPY != 0 => {
                let ticket = Ticket((tag & !ZERO_COPY) as usize);
                if cqueue::notif(completion.flags()) {
                    Completion::ZeroCopyDone { ticket, copied: result as u32 & COPIED != 0 }
                } else {
                    Completion::ZeroCopyResult { ticket, errno: (-result).max(0), done_follows: !last }
                }
            }
            position => Completion::SendFailed { position: position as usize, errno: -result },
        })
    }
}

impl Drop for Ring {
    /// Ends every request and lets go of socket and buffers, without submitting anything: after a panic, what is
    /// queued may point nowhere. Segments are not unregistered but left to the kernel, which keeps them pinned as long
    /// as it reads them (promise 9); in older kernels, unregistering would wait for that.
    fn drop(&mut self) {
        // Each of these fails only when there is nothing to do, as after a `Plane::open` that failed half-way.
        let _ = self.io.submitter().register_sync_cancel(None, CancelBuilder::any());
        // Runs what the cancelled requests left to be run; until then they hold the socket.
        self.fetch();
        let _ = self.io.submitter().unregister_buf_ring(BUFFER_GROUP);
        let _ = self.io.submitter().unregister_files();
    }
}

/// The buffer that a completion of the receive names.
fn held_buffer(completion: &cqueue::Entry) -> Option<Held> {
    let buffer = cqueue::buffer_select(completion.flags())?;
    let filled = usize::try_from(completion.result()).unwrap_or(0);
    // SAFETY: promise 2: `next_completion` takes every completion out of the queue, and asks once.
    Some(unsafe { Held::new(buffer, filled) })
}
