//! The data plane: a UDP socket and the system calls that move its datagrams, io_uring where it is to be had.
//!
//! It knows nothing of what the datagrams say. Everything that a user of it sees is the same for both ways.
//!
//! ```no_run
//! use mesh::Outbox;
//! use relay::plane::{Io, Plane};
//! use relay::uring::SlotMemory;
//!
//! let slots = SlotMemory::map(1024)?;
//! let mut plane = Plane::open(Io::Auto, "[::]:7000".parse()?, slots.region(), 19_712)?;
//! let mut outbox = Outbox::new(4096);
//! loop {
//!     plane.receive(|from, datagram| println!("{} bytes from {from}", datagram.len()));
//!     // ... let the node fill the outbox ...
//!     plane.transmit(&outbox);
//!     outbox.clear();
//!     plane.wait(None)?;
//! }
//! # #[expect(unreachable_code, reason = "gives the loop's `?` a type to return")]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod budget;
pub(crate) mod copies;
mod counters;
mod error;
mod probe;
pub(crate) mod segmentation;
#[cfg(test)]
mod tests;
mod waker;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use mesh::Outbox;
use serde::Deserialize;
use tracing::warn;

pub use budget::{SOCKET_RECEIVE_BYTES, SOCKET_SEND_BYTES, ZERO_COPY_FROM_BYTES};
pub use counters::PlaneCounters;
pub(crate) use counters::header_bytes;
pub use error::{OpenError, kernel_release};
pub use probe::Probe;
pub use waker::Waker;

use crate::uring::{SlotRegion, Socket};
use crate::{mmsg, uring};

/// The system calls that are to move datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// io_uring, and the plain calls where it is forbidden or missing.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// The plain calls, `recvmmsg` and `sendmmsg`.
    Mmsg,
}

/// A UDP socket with what moves its datagrams. Stays on the thread that opened it.
pub enum Plane {
    /// Through io_uring.
    Uring(Box<uring::Plane>),
    /// Through `recvmmsg` and `sendmmsg`.
    Mmsg(Box<mmsg::Plane>),
}

impl Plane {
    /// Binds a socket to `listen`, on the calling thread, where the plane has to stay. An IPv6 address takes IPv4 as
    /// well. Several planes may listen on one port: the kernel spreads the senders over them. With [`Io::Auto`], a
    /// warning goes to the log when there is no io_uring to be had.
    ///
    /// Trains of `zero_copy_from_bytes` bytes and more are sent without a copy, through io_uring and where the kernel
    /// can; 0: none.
    ///
    /// # Errors
    /// What the kernel does not offer or allow; the message says what to do about it.
    pub fn open(
        io: Io,
        listen: SocketAddr,
        region: SlotRegion,
        zero_copy_from_bytes: u32,
    ) -> Result<Plane, OpenError> {
        Plane::open_on(io, Socket::open(listen)?, region, zero_copy_from_bytes)
    }

    /// The same with a socket that is bound already.
    pub(crate) fn open_on(
        io: Io,
        socket: Socket,
        region: SlotRegion,
        zero_copy_from_bytes: u32,
    ) -> Result<Plane, OpenError> {
        let mmsg =
            |socket, region| mmsg::Plane::open(socket, region).map(|plane| Plane::Mmsg(Box::new(plane)));
        if io == Io::Mmsg {
            return mmsg(socket, region);
        }
        let spare = socket.try_clone()?;
        match uring::Plane::open(socket, region.clone(), zero_copy_from_bytes) {
            Ok(plane) => Ok(Plane::Uring(Box::new(plane))),
            Err(error) if io == Io::Auto && error.is_about_io_uring() => {
                let plane = mmsg(spare, region)?;
                warn!(
                    "going on without io_uring, with recvmmsg and sendmmsg: {error}. If that is how it is meant, say \
                     so with `io = \"mmsg\"` in the configuration"
                );
                Ok(plane)
            }
            Err(error) => Err(error),
        }
    }

    /// Where the socket is bound: with the port that the kernel chose, if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        self.common().socket.local_addr()
    }

    /// A handle that makes [`Plane::wait`] return.
    pub fn waker(&self) -> Waker {
        match self {
            Plane::Uring(plane) => plane.waker(),
            Plane::Mmsg(plane) => plane.waker(),
        }
    }

    /// What was counted since the plane was opened.
    pub fn counters(&self) -> &PlaneCounters {
        &self.common().counters
    }

    /// What the kernel gave; its `Display` is a line for the log.
    pub fn probe(&self) -> &Probe {
        match self {
            Plane::Uring(plane) => plane.probe(),
            Plane::Mmsg(plane) => plane.probe(),
        }
    }

    /// Takes the destinations which the kernel would not send to since the last call, each once; of more than 256,
    /// the first.
    pub fn refused(&mut self) -> impl Iterator<Item = SocketAddr> {
        match self {
            Plane::Uring(plane) => plane.common.refused(),
            Plane::Mmsg(plane) => plane.common.refused(),
        }
    }

    /// Hands over what has arrived, each datagram by itself, with its source (IPv4 as such even on an IPv6 socket), in
    /// the order of arrival. Returns how many. At most 64 messages per call, so that sending gets its turn: call it
    /// again until it returns 0, or wait, which returns at once as long as there is more.
    pub fn receive(&mut self, handle: impl FnMut(SocketAddr, &[u8])) -> usize {
        match self {
            Plane::Uring(plane) => plane.receive(handle),
            Plane::Mmsg(plane) => plane.receive(handle),
        }
    }

    /// Takes nothing more from the socket: what arrives waits there for another process that has it. What was taken
    /// from it before is still to be received.
    pub(crate) fn stop_receiving(&mut self) {
        match self {
            Plane::Uring(plane) => plane.stop_receiving(),
            Plane::Mmsg(plane) => plane.stop_receiving(),
        }
    }

    /// Sends the whole batch. When it returns, the kernel has copied or refused every message, or its slot is held: what
    /// is in a slot that nobody holds may change. Holds end while the plane sends, receives or waits. Waits at most 50 ms, all in all, for a socket that is full, and then drops what it does not take.
    ///
    /// Panics when a train is not within the slot memory that the plane was opened with.
    pub fn transmit(&mut self, outbox: &Outbox) {
        match self {
            Plane::Uring(plane) => plane.transmit(outbox),
            Plane::Mmsg(plane) => plane.transmit(outbox),
        }
    }

    /// Sleeps until something arrived, the waker was used, or `timeout` passed (`None`: no limit). A wake since the
    /// last `wait` counts: it makes this one return at once. May also return for nothing.
    ///
    /// # Errors
    /// The kernel refused to wait, or to receive for a reason other than a lack of buffers. Receiving is taken up
    /// again in either case.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Plane::Uring(plane) => plane.wait(timeout),
            Plane::Mmsg(plane) => plane.wait(timeout),
        }
    }

    /// What both have.
    fn common(&self) -> &uring::Common {
        match self {
            Plane::Uring(plane) => &plane.common,
            Plane::Mmsg(plane) => &plane.common,
        }
    }

    #[cfg(test)]
    fn socket(&self) -> &Socket {
        &self.common().socket
    }
}
