//! The io_uring data plane: one UDP socket, one ring, one thread.
//!
//! Payloads are not copied in user space: datagrams are handed over where the kernel put them, trains are sent from the
//! slot memory. How it is used is written at [`crate::plane`]. Socket, slot memory and the book-keeping of sends serve
//! the plane without a ring (`mmsg.rs`) as well; they are here because all that is `unsafe` is.
//!
//! # Who owns which memory, and for how long
//!
//! The compiler sees none of what the kernel reads and writes. These promises stand in for it; every `SAFETY` comment
//! of this folder names the one it rests on.
//!
//! 1. **A mapping lives until its last owner is dropped, and never moves.** Owners are [`SlotMemory`] with all its
//!    [`SlotRegion`]s, and the receive buffers. *Else:* the kernel writes datagrams into memory that meanwhile belongs
//!    to somebody else.
//! 2. **A receive buffer is the kernel's, or it is held; never both.** It is held from the completion that names it
//!    until it is given back, and a completion is turned into a holding once. *Else:* the next datagram overwrites the
//!    one that is being read.
//! 3. **The ring is quiet before the receive buffers go.** Dropping it cancels every request and waits for that;
//!    `Plane`'s fields are dropped in the order in which they stand, ring before buffers. *Else:* as in promise 1, and
//!    the port stays taken after the plane is gone.
//! 4. **What a send points to stays until the kernel has taken it in.** A send never blocks (`MSG_DONTWAIT`) and is
//!    never punted to another thread (no link, drain or async flag), so the kernel is done with payload and address when
//!    `io_uring_enter` (or `sendmmsg`, `sendmsg`) returns; `transmit` does not return before. Of a zero-copy send that
//!    goes for the address, which the kernel copies when it prepares the request (io_uring/net.c, `io_send_setup`) or, in
//!    older kernels, issues it, but not for the payload: promise 8. *Else:* a subscriber is sent another one's bytes, or
//!    bytes of no one.
//! 5. **Bytes of a slot become a reference through the one [`SlotMemory`] whose slot it is.** Each slot is one's alone;
//!    a [`SlotRegion`] is good for an address that is given to the kernel, and another `SlotMemory` only copies out
//!    verified shards of a slot that is held for it, which nobody writes meanwhile. *Else:* a shared and an exclusive
//!    reference to the same bytes. What is left when the slots are changed during a send is a datagram of mixed bytes,
//!    which no receiver takes: its proof does not hold.
//! 6. **What an option or message header points to outlives the system call**, and says its own length. *Else:* the
//!    kernel reads or writes past it.
//! 7. **One thread creates, drives and drops the ring** (`SINGLE_ISSUER`): `Plane` is not `Send`. *Else:* every call
//!    fails with `EEXIST`, and completions never run.
//! 8. **A slot is held for each zero-copy send from it, from before the request is queued until the kernel's notification,
//!    or until its result says that none will come.** A held slot's chunk may go, but the slot is not given to another
//!    one. *Else:* as in promise 5, datagrams of mixed bytes: each is lost, and costs a repair.
//! 9. **Memory that is registered is slot memory, and the kernel pins it until the last send from it is over**
//!    (io_uring/notif.c: a notification has a reference to its buffer). So holds may be given up early where nobody is
//!    left to hear of notifications: a plane that goes waits for them at most 50 ms, then lets all slots go. *Else:* the
//!    device reads memory that meanwhile belongs to somebody else.
//! 10. **Descriptors that the process was started with are nobody's until they are taken, once.** Who started it says in
//!     the environment which they are, for this process and no other. *Else:* a descriptor is closed under somebody.

mod address;
mod budget;
mod buffers;
mod memory;
mod passed;
mod receive;
mod ring;
mod sendmmsg;
mod socket;
mod steering;
#[cfg(test)]
mod tests;
mod transmit;
mod zero_copy;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use buffers::{Held, ReceiveBuffers};
pub use memory::{SlotMemory, SlotRegion};
use mesh::Outbox;
use receive::MessageShape;
use ring::{Completion, Ring};
use transmit::Batch;
use zero_copy::ZeroCopy;

pub(crate) use address::canonical;
pub(crate) use passed::passed_by_systemd;
pub(crate) use receive::{MESSAGE_BYTES_MAX, split};
pub(crate) use socket::Socket;
#[cfg(test)]
pub(crate) use socket::set_option;
pub(crate) use steering::Steering;
pub(crate) use transmit::Common;

use crate::plane::{OpenError, Probe, Waker};

/// A UDP socket driven through io_uring. Its methods do what those of [`crate::plane::Plane`] say; it stays on the
/// thread that opened it (promise 7):
///
/// ```compile_fail,E0277
/// fn on_another_thread(plane: impl Send) {}
/// fn try_it(plane: relay::uring::Plane) { on_another_thread(plane) }
/// ```
pub struct Plane {
    // The order of these fields is part of promise 3.
    ring: Ring,
    buffers: ReceiveBuffers,
    shape: Box<MessageShape>,
    pub(crate) common: Common,
    zero_copy: ZeroCopy,
    waker: Waker,

    /// Received, not handed over yet.
    arrived: VecDeque<Held>,
    receiving: bool,
    /// What comes from now on is left to another process.
    has_stopped: bool,
    listening_for_wakes: bool,
    woken: bool,
    receive_error: Option<io::Error>,
    probe: Probe,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Plane {
    pub(crate) fn open(
        socket: Socket,
        region: SlotRegion,
        zero_copy_from_bytes: u32,
    ) -> Result<Plane, OpenError> {
        // With a socket that does not block, a multishot receive ends when there is nothing to receive.
        socket.set_blocking(true)?;
        let common = Common::new(socket, region.clone());
        let mut ring = Ring::open()?;
        ring.register_socket(common.socket.as_fd())?;
        let zero_copy = ZeroCopy::open(zero_copy_from_bytes as usize, region, &mut ring);
        let mut buffers = ReceiveBuffers::map()?;
        buffers.register(&ring)?;
        let waker = Waker::new()?;
        let room = format!(
            "{} submissions, {} completions, {} receive buffers, {zero_copy}",
            budget::SUBMISSION_ENTRIES,
            budget::COMPLETION_ENTRIES,
            budget::RECEIVE_BUFFERS
        );
        let probe = Probe::new("io_uring", room, zero_copy.missing().map(str::to_owned), &common.socket);
        let mut plane = Plane {
            ring,
            buffers,
            shape: Box::new(MessageShape::new()),
            common,
            zero_copy,
            waker,
            arrived: VecDeque::with_capacity(usize::from(budget::RECEIVE_BUFFERS)),
            receiving: false,
            has_stopped: false,
            listening_for_wakes: false,
            woken: false,
            receive_error: None,
            probe,
            stays_on_its_thread: PhantomData,
        };
        plane.arm();
        plane.ring.enter();
        plane.collect();
        match plane.receive_error.take() {
            Some(source) => Err(OpenError::Receive { source }),
            None => Ok(plane),
        }
    }

    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    pub(crate) fn probe(&self) -> &Probe {
        &self.probe
    }

    pub(crate) fn transmit(&mut self, outbox: &Outbox) {
        let mut batch = Batch::default();
        while self.common.next_window(outbox, &mut batch) {
            // Slots that are not needed any more are let go even if nothing is received meanwhile, and what has ended
            // makes room for what is to be sent without a copy.
            if self.zero_copy.in_flight() > 0 {
                self.collect();
            }
            self.send_window();
            self.common.settle_window(outbox, &mut batch);
        }
    }

    /// Has the kernel send the window, and writes the failures into it. Sends do not block, and copying ones do not
    /// report success, so when `enter` returns, the kernel is done with the window, but for payloads that are sent
    /// without a copy, and what is in the completion queue then are the failures and the results of zero-copy sends.
    fn send_window(&mut self) {
        self.zero_copy.begin_window();
        for (position, sending) in self.common.window.iter_mut().enumerate() {
            let taken_up = self.zero_copy.take_up(sending, position, &self.ring);
            sending.zero_copy = taken_up.is_some();
            match taken_up {
                // SAFETY: promise 4, as below, and 8: the slot is held until the completions bring the ticket back.
                Some((segment, ticket)) => unsafe { self.ring.push_zero_copy_send(sending, segment, ticket) },
                // SAFETY: promise 4: `enter` follows, before which neither the window nor what it points to (slot
                // memory, or the outbox that the caller of `transmit` lends) changes.
                None => unsafe { self.ring.push_send(sending, position) },
            }
        }
        self.ring.enter();
        self.sort_completions();
    }

    /// Ends the multishot receive, and takes over what the kernel has completed of it.
    pub(crate) fn stop_receiving(&mut self) {
        self.has_stopped = true;
        let give_up_at = Instant::now() + FAREWELL;
        while self.receiving && Instant::now() < give_up_at {
            self.ring.cancel_receive();
            self.sort_completions();
        }
    }

    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.collect();
        self.arm();
        if !self.woken && self.arrived.is_empty() && self.receive_error.is_none() {
            self.ring.wait(timeout)?;
            self.collect();
        }
        self.woken = false;
        self.receive_error.take().map_or(Ok(()), Err)
    }

    /// Sorts what the completion queue holds, without a system call unless the kernel says that it has more to post.
    fn collect(&mut self) {
        self.sort_completions();
        for _ in 0..COLLECT_PASSES {
            if self.ring.overflowed() {
                self.common.counters.cq_overflow += 1;
            } else if !self.ring.has_work() {
                return;
            }
            self.ring.enter();
            self.sort_completions();
        }
    }

    fn sort_completions(&mut self) {
        while let Some(completion) = self.ring.next_completion() {
            match completion {
                Completion::Received { held, error, last } => self.note_received(held, error, last),
                Completion::Woken { last } => {
                    self.waker.reset();
                    self.woken = true;
                    self.listening_for_wakes &= !last;
                }
                Completion::SendFailed { position, errno } => self.common.window[position].errno = errno,
                Completion::ZeroCopyResult { ticket, errno, done_follows } => {
                    let counters = &mut self.common.counters;
                    let position = self.zero_copy.note_result(ticket, errno, done_follows, counters);
                    self.common.window[position].errno = errno;
                }
                Completion::ZeroCopyDone { ticket, copied } => {
                    self.zero_copy.note_done(ticket, copied, &mut self.common.counters);
                }
            }
        }
    }

    /// Starts what the kernel has ended or what never ran: the multishot receive, and the poll of the waker.
    fn arm(&mut self) {
        // With no buffer left the receive would end at once: it is started again when there is one.
        if !self.receiving && !self.has_stopped && self.arrived.len() < usize::from(budget::RECEIVE_BUFFERS) {
            self.ring.push_receive(&self.shape);
            self.receiving = true;
        }
        if !self.listening_for_wakes {
            self.ring.push_wake_poll(self.waker.as_fd().as_raw_fd());
            self.listening_for_wakes = true;
        }
    }
}

/// Times that the kernel is asked at once for what is due. It posts 20 completions each time (io_uring/io_uring.c,
/// `IO_LOCAL_TW_DEFAULT_MAX`, Linux 6.13), and so many hold the ends of all zero-copy sends.
const COLLECT_PASSES: usize = budget::ZERO_COPY_IN_FLIGHT / 20 + 1;

/// How long a plane that goes waits for its zero-copy sends: a device has sent what it has in its queue by then, nearly
/// always (promise 9).
const FAREWELL: Duration = Duration::from_millis(50);

impl Drop for Plane {
    fn drop(&mut self) {
        let give_up_at = Instant::now() + FAREWELL;
        while self.zero_copy.in_flight() > 0 {
            if Instant::now() > give_up_at {
                self.zero_copy.let_all_go();
                return;
            }
            self.ring.fetch();
            while let Some(completion) = self.ring.next_completion() {
                if let Completion::ZeroCopyDone { ticket, copied } = completion {
                    self.zero_copy.note_done(ticket, copied, &mut self.common.counters);
                }
            }
            if self.zero_copy.in_flight() > 0 && !self.ring.has_work() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
