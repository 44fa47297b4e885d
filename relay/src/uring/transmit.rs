//! The way out of both planes: one send per message, many sends per system call. Which call, is the plane's affair:
//! it has every message of the window sent and writes the failures into it.
//!
//! Failures are of three kinds: the socket is full (wait a little, send again), the route does not segment (send
//! datagram by datagram), or there is no way to the destination.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use codec::DATAGRAM_BYTES;
use mesh::{Outbox, Payload, SlotIndex, Transmit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::address::Name;
use super::memory::SlotRegion;
use super::socket::Socket;
use crate::plane::budget::{PATIENCE_MS, REFUSED_MAX, SEND_WINDOW};
use crate::plane::segmentation::Segmentation;
use crate::plane::{PlaneCounters, header_bytes};

/// What both planes consist of, beside their ways in.
pub(crate) struct Common {
    pub(crate) socket: Socket,
    pub(crate) counters: PlaneCounters,
    region: SlotRegion,
    /// The sends under way; empty between calls of `transmit`.
    pub(super) window: Vec<Sending>,
    segmentation: Segmentation,
    refused: Vec<SocketAddr>,
}

/// A message that is being sent.
pub(super) struct Sending {
    /// Its place in the outbox.
    message: usize,
    /// The destination, for the kernel.
    pub(super) name: Name,
    /// The payload.
    pub(super) start: *const u8,
    /// Bytes of the payload.
    pub(super) bytes: u32,
    /// What the kernel said; 0 for nothing, which is success.
    pub(super) errno: i32,
    /// The slot of the payload, as long as it may be sent from there without a copy.
    pub(super) slot: Option<SlotIndex>,
    /// Whether it was sent without a copy; what became of its bytes is then heard later.
    pub(super) zero_copy: bool,
}

impl Sending {
    /// Whether the kernel has to segment it.
    fn is_train(&self) -> bool {
        self.bytes as usize > DATAGRAM_BYTES
    }
}

/// How a message went that was sent datagram by datagram.
#[derive(PartialEq, Eq)]
enum Singly {
    Sent,
    GaveUp,
    Refused,
}

/// How long a batch may still wait for the socket; the clock starts when it first has to.
#[derive(Default)]
struct Patience {
    ends: Option<Instant>,
}

impl Patience {
    fn left(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let ends = *self.ends.get_or_insert(now + Duration::from_millis(PATIENCE_MS));
        ends.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

/// How far an outbox has been sent.
#[derive(Default)]
pub(super) struct Batch {
    /// The first message that was not yet in a window.
    next: usize,
    /// Whether the socket was too full for the window.
    full: bool,
    patience: Patience,
}

impl Common {
    pub(crate) fn new(socket: Socket, region: SlotRegion) -> Common {
        Common {
            socket,
            counters: PlaneCounters::default(),
            region,
            window: Vec::with_capacity(SEND_WINDOW),
            segmentation: Segmentation::default(),
            refused: Vec::with_capacity(REFUSED_MAX),
        }
    }

    pub(crate) fn refused(&mut self) -> impl Iterator<Item = SocketAddr> {
        self.refused.drain(..)
    }

    /// Fills the window with what is to be sent now: what is left in it of the last attempt, once the socket has room,
    /// or else the next messages. `false` when the batch is done. To be followed by the sending of the window, and `settle_window`.
    ///
    /// The window holds addresses of slot memory and of the outbox (promise 4): a window that a panic left behind is
    /// forgotten with the first call for a batch.
    pub(super) fn next_window(&mut self, outbox: &Outbox, batch: &mut Batch) -> bool {
        if batch.next == 0 {
            self.window.clear();
        }
        if !self.window.is_empty() {
            if !std::mem::take(&mut batch.full) || self.await_room(&mut batch.patience) {
                return true;
            }
            self.counters.gave_up += self.window.len() as u64;
            self.window.clear();
        }
        while self.window.is_empty() && batch.next < outbox.transmits().len() {
            self.fill_window(outbox, batch.next, &mut batch.patience);
            batch.next += SEND_WINDOW;
        }
        !self.window.is_empty()
    }

    /// Puts the messages from `first` on into the window, but those which need no attempt as they are.
    fn fill_window(&mut self, outbox: &Outbox, first: usize, patience: &mut Patience) {
        let messages = outbox.transmits().iter().enumerate().skip(first).take(SEND_WINDOW);
        for (message, transmit) in messages {
            let Some(name) = self.socket.name(transmit.to) else {
                self.note_refused(transmit.to);
                continue;
            };
            let (start, bytes) = self.payload(outbox, transmit);
            let slot = match transmit.payload {
                Payload::Train { slot, .. } => Some(slot),
                Payload::Control(_) => None,
            };
            let sending = Sending { message, name, start, bytes, errno: 0, slot, zero_copy: false };
            if self.segmentation.may_try(transmit.to, sending.is_train()) {
                self.window.push(sending);
            } else {
                self.send_singly(transmit, &sending, patience);
            }
        }
    }

    fn payload(&self, outbox: &Outbox, transmit: &Transmit) -> (*const u8, u32) {
        match &transmit.payload {
            Payload::Train { .. } => {
                let range = transmit.payload.slot_memory_range().expect("a train is a range of slot memory");
                (self.region.address(&range), range.len() as u32)
            }
            Payload::Control(range) => {
                let bytes = &outbox.control_bytes()[range.clone()];
                (bytes.as_ptr(), bytes.len() as u32)
            }
        }
    }

    /// Books the window; leaves in it what the socket had no room for, and what the kernel would not send without a
    /// copy.
    pub(super) fn settle_window(&mut self, outbox: &Outbox, batch: &mut Batch) {
        let mut window = std::mem::take(&mut self.window);
        window.retain_mut(|sending| {
            let transmit = &outbox.transmits()[sending.message];
            let zero_copy = std::mem::take(&mut sending.zero_copy);
            match std::mem::take(&mut sending.errno) {
                0 => {
                    if sending.is_train() {
                        self.segmentation.accepted(transmit.to);
                    }
                    self.note_sent(transmit, sending.bytes);
                    if !zero_copy {
                        self.note_copied(transmit, sending.bytes as usize);
                    }
                }
                libc::EAGAIN | libc::ENOBUFS => {
                    batch.full = true;
                    return true;
                }
                // Whether that is the reason shows when it is copied.
                _ if zero_copy => {
                    sending.slot = None;
                    return true;
                }
                libc::EIO | libc::EINVAL | libc::EMSGSIZE => {
                    self.send_refused(transmit, sending, &mut batch.patience);
                }
                _ => self.note_refused(transmit.to),
            }
            false
        });
        self.window = window;
    }

    /// Sends without segmentation what was refused with it. Only when that goes well was segmentation the reason.
    fn send_refused(&mut self, transmit: &Transmit, sending: &Sending, patience: &mut Patience) {
        if self.send_singly(transmit, sending, patience) == Singly::Sent {
            self.counters.gso_refused += 1;
            self.segmentation.refused(transmit.to);
        }
    }

    /// Sends a message datagram by datagram, one system call each: this is for the few destinations that cannot be sent
    /// trains, and a system call is a small part of what a datagram costs.
    fn send_singly(&mut self, transmit: &Transmit, sending: &Sending, patience: &mut Patience) -> Singly {
        let whole = sending.bytes as usize;
        let mut sent = 0;
        let outcome = loop {
            if sent == whole {
                break Singly::Sent;
            }
            let bytes = DATAGRAM_BYTES.min(whole - sent);
            // SAFETY: promise 4: within the payload of `sending`, which stays.
            match unsafe { self.send_datagram(&sending.name, sending.start.add(sent), bytes) } {
                Ok(()) => sent += bytes,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::ENOBUFS) if self.await_room(patience) => {}
                    Some(libc::EAGAIN | libc::ENOBUFS) => break Singly::GaveUp,
                    _ => break Singly::Refused,
                },
            }
        };
        self.note_left(transmit.to, sent.div_ceil(DATAGRAM_BYTES) as u64, sent as u64);
        self.note_copied(transmit, sent);
        match outcome {
            Singly::Sent if matches!(transmit.payload, Payload::Control(_)) => {
                self.counters.control_sent += 1
            }
            Singly::Sent => {}
            Singly::GaveUp => self.counters.gave_up += 1,
            Singly::Refused => self.note_refused(transmit.to),
        }
        outcome
    }

    /// Sends one datagram with the socket's segment size set aside: some routes (IPsec) refuse every message of a
    /// socket that has one, however short.
    ///
    /// # Safety
    /// Promise 4: `bytes` bytes from `start` on are readable.
    unsafe fn send_datagram(&self, name: &Name, start: *const u8, bytes: usize) -> io::Result<()> {
        let mut payload = libc::iovec { iov_base: start.cast_mut().cast(), iov_len: bytes };
        let mut control = NoSegmentation::new();
        // SAFETY: promise 6: null pointers and lengths of 0 are a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = name.as_ptr().cast_mut().cast();
        message.msg_namelen = name.length();
        message.msg_iov = &raw mut payload;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of::<NoSegmentation>() as _;
        // SAFETY: promise 6: name, vector and control message live until the end of this function; the payload is the
        // caller's promise.
        let result = unsafe { libc::sendmsg(self.socket.as_fd().as_raw_fd(), &message, libc::MSG_DONTWAIT) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits until the socket takes messages again; `false` when the batch has waited long enough.
    fn await_room(&mut self, patience: &mut Patience) -> bool {
        let Some(left) = patience.left() else { return false };
        self.counters.blocked += 1;
        let timeout = Timespec::try_from(left).expect("50 ms are no overflow");
        let asked = Instant::now();
        // Whatever the answer, the next attempt to send finds out; and the patience ends.
        let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&timeout));
        // An answer at once means that not the socket was full but the kernel's memory, or the card's queue; when that
        // is over cannot be asked.
        let at_once = Duration::from_micros(100);
        if asked.elapsed() < at_once {
            std::thread::sleep(10 * at_once);
        }
        true
    }

    fn note_sent(&mut self, transmit: &Transmit, bytes: u32) {
        let datagrams = match transmit.payload {
            Payload::Train { count, .. } => {
                self.counters.trains_sent += 1;
                u64::from(count)
            }
            Payload::Control(_) => {
                self.counters.control_sent += 1;
                1
            }
        };
        self.note_left(transmit.to, datagrams, u64::from(bytes));
    }

    fn note_left(&mut self, to: SocketAddr, datagrams: u64, bytes: u64) {
        self.counters.datagrams_sent += datagrams;
        self.counters.bytes_sent += bytes;
        self.counters.ip_bytes_sent += bytes + datagrams * header_bytes(to);
    }

    fn note_copied(&mut self, transmit: &Transmit, bytes: usize) {
        if matches!(transmit.payload, Payload::Train { .. }) {
            self.counters.copied_bytes += bytes as u64;
        }
    }

    fn note_refused(&mut self, to: SocketAddr) {
        self.counters.send_errors += 1;
        if self.refused.len() < REFUSED_MAX && !self.refused.contains(&to) {
            self.refused.push(to);
        }
    }
}

/// A control message that sets `UDP_SEGMENT` to 0 for the message that it goes with.
#[repr(C)]
struct NoSegmentation {
    header: libc::cmsghdr,
    segment_bytes: u16,
}

// SAFETY: promise 6: `CMSG_SPACE` only computes.
const _: () = assert!(size_of::<NoSegmentation>() == unsafe { libc::CMSG_SPACE(2) } as usize);

impl NoSegmentation {
    fn new() -> NoSegmentation {
        // SAFETY: promise 6: zeros are a valid header.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        // SAFETY: promise 6: `CMSG_LEN` only computes.
        header.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<u16>() as u32) } as _;
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = libc::UDP_SEGMENT;
        NoSegmentation { header, segment_bytes: 0 }
    }
}
