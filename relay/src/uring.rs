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
//!    `io_uring_enter` (or `sendmmsg`, `sendmsg`) returns; `transmit` does not return before. *Else:* a subscriber is sent another one's bytes, or
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
//!
//! Zero-copy sends would break promise 4 as it stands: the slots of a batch would have to be held until the kernel's
//! notification, so `transmit` would return what it still holds.

mod address;
mod budget;
mod buffers;
mod memory;
mod receive;
mod ring;
mod sendmmsg;
mod socket;
mod steering;
#[cfg(test)]
mod tests;
mod transmit;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use buffers::{Held, ReceiveBuffers};
pub use memory::{SlotMemory, SlotRegion};
use mesh::Outbox;
use receive::MessageShape;
use ring::{Completion, Ring};
use transmit::Batch;

pub(crate) use address::canonical;
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
    waker: Waker,

    /// Received, not handed over yet.
    arrived: VecDeque<Held>,
    receiving: bool,
    listening_for_wakes: bool,
    woken: bool,
    receive_error: Option<io::Error>,
    probe: Probe,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Plane {
    pub(crate) fn open(listen: SocketAddr, region: SlotRegion) -> Result<Plane, OpenError> {
        let common = Common::open(listen, region)?;
        let ring = Ring::open()?;
        ring.register_socket(common.socket.as_fd())?;
        let mut buffers = ReceiveBuffers::map()?;
        buffers.register(&ring)?;
        let waker = Waker::new()?;
        let room = format!(
            "{} submissions, {} completions, {} receive buffers",
            budget::SUBMISSION_ENTRIES,
            budget::COMPLETION_ENTRIES,
            budget::RECEIVE_BUFFERS
        );
        let probe = Probe::new("io_uring", room, &common.socket);
        let mut plane = Plane {
            ring,
            buffers,
            shape: Box::new(MessageShape::new()),
            common,
            waker,
            arrived: VecDeque::with_capacity(usize::from(budget::RECEIVE_BUFFERS)),
            receiving: false,
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
            self.send_window();
            self.common.settle_window(outbox, &mut batch);
        }
    }

    /// Has the kernel send the window, and writes the failures into it. Sends neither block nor report success, so the
    /// kernel is done with the window when `enter` returns, and what is in the completion queue then are the failures.
    fn send_window(&mut self) {
        for (position, sending) in self.common.window.iter().enumerate() {
            // SAFETY: promise 4: `enter` follows, before which neither the window nor what it points to (slot memory,
            // or the outbox that the caller of `transmit` lends) changes.
            unsafe { self.ring.push_send(sending, position) };
        }
        self.ring.enter();
        self.sort_completions();
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
        if self.ring.overflowed() {
            self.common.counters.cq_overflow += 1;
        } else if !self.ring.has_work() {
            return;
        }
        self.ring.enter();
        self.sort_completions();
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
            }
        }
    }

    /// Starts what the kernel has ended or what never ran: the multishot receive, and the poll of the waker.
    fn arm(&mut self) {
        // With no buffer left the receive would end at once: it is started again when there is one.
        if !self.receiving && self.arrived.len() < usize::from(budget::RECEIVE_BUFFERS) {
            self.ring.push_receive(&self.shape);
            self.receiving = true;
        }
        if !self.listening_for_wakes {
            self.ring.push_wake_poll(self.waker.as_fd().as_raw_fd());
            self.listening_for_wakes = true;
        }
    }
}
