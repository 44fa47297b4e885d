//! The data plane without io_uring: one UDP socket, `recvmmsg`, `sendmmsg` and `ppoll`, one thread.
//!
//! For kernels and containers that have or allow no io_uring. How it sends, and what it does about failures, is
//! `uring::Common`, which is the io_uring plane's too; the way in copies no more than that one does.
#![forbid(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use mesh::Outbox;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::plane::budget::{MESSAGES_PER_PASS, RECEIVE_BUFFER_BYTES};
use crate::plane::{OpenError, Probe, Waker};
use crate::uring::{Common, MESSAGE_BYTES_MAX, SlotRegion, Socket, canonical, split};

const _: () = assert!(MESSAGES_PER_PASS.is_multiple_of(BATCH_SIZE));

/// A UDP socket driven through plain system calls. Its methods do what those of [`crate::plane::Plane`] say.
pub struct Plane {
    pub(crate) common: Common,
    receiver: UdpSocketState,
    /// `BATCH_SIZE` buffers side by side; longer than any datagram, so that nothing is cut off. Touched as far as they
    /// are filled: 2 MiB at most.
    buffers: Vec<u8>,
    waker: Waker,
    /// What comes from now on is left to another process.
    has_stopped: bool,
    receive_error: Option<io::Error>,
    probe: Probe,
}

impl Plane {
    pub(crate) fn open(socket: Socket, region: SlotRegion) -> Result<Plane, OpenError> {
        let listen = socket.local_addr();
        let common = Common::new(socket, region);
        common.socket.set_blocking(false)?;
        let room = format!("{BATCH_SIZE} receive buffers");
        let no_zero_copy = Some("only io_uring has it".to_owned());
        let probe = Probe::new("recvmmsg and sendmmsg", room, no_zero_copy, &common.socket);
        Ok(Plane {
            receiver: receiver().map_err(|source| OpenError::Socket { listen, source })?,
            buffers: vec![0; BATCH_SIZE * RECEIVE_BUFFER_BYTES],
            common,
            waker: Waker::new()?,
            has_stopped: false,
            receive_error: None,
            probe,
        })
    }

    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    pub(crate) fn probe(&self) -> &Probe {
        &self.probe
    }

    pub(crate) fn transmit(&mut self, outbox: &Outbox) {
        self.common.transmit_by_sendmmsg(outbox);
    }

    pub(crate) fn receive(&mut self, mut handle: impl FnMut(SocketAddr, &[u8])) -> usize {
        let mut datagrams = 0;
        if self.has_stopped {
            return datagrams;
        }
        for _ in 0..MESSAGES_PER_PASS / BATCH_SIZE {
            let (messages, handed_over) = self.receive_some(&mut handle);
            datagrams += handed_over;
            if messages < BATCH_SIZE {
                break;
            }
        }
        datagrams
    }

    pub(crate) fn stop_receiving(&mut self) {
        self.has_stopped = true;
    }

    /// One system call; returns how many messages it brought, and how many datagrams of them were handed over.
    fn receive_some(&mut self, handle: &mut impl FnMut(SocketAddr, &[u8])) -> (usize, usize) {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut buffers = self.buffers.chunks_exact_mut(RECEIVE_BUFFER_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(buffers.next().expect("one for each")));
        let received = self.receiver.recv(UdpSockRef::from(&self.common.socket), &mut slices, &mut metas);
        let counters = &mut self.common.counters;
        let messages = match received {
            Ok(messages) => messages,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => {
                counters.receive_errors += 1;
                self.receive_error = Some(error);
                0
            }
        };
        let mut datagrams = 0;
        for (meta, buffer) in metas.iter().zip(&slices).take(messages) {
            if meta.len > MESSAGE_BYTES_MAX {
                counters.truncated += 1;
                continue;
            }
            let source = match meta.addr {
                SocketAddr::V4(_) => meta.addr,
                SocketAddr::V6(address) => canonical(address),
            };
            let segment_bytes = (0 < meta.stride && meta.stride < meta.len).then_some(meta.stride);
            datagrams += split(source, &buffer[..meta.len], segment_bytes, counters, handle);
        }
        (messages, datagrams)
    }

    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if let Some(error) = self.receive_error.take() {
            return Err(error);
        }
        // A timeout that is too long for the kernel is none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut entries =
            [PollFd::new(&self.common.socket, PollFlags::IN), PollFd::new(&self.waker, PollFlags::IN)];
        match poll(&mut entries, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !entries[1].revents().is_empty() {
            self.waker.reset();
        }
        Ok(())
    }
}

/// What `quinn-udp` receives with. It is made of another socket than the one it is used with, for it sets options that
/// ours is not to have: time stamps and packet information, which cost, and a ban on fragments.
fn receiver() -> io::Result<UdpSocketState> {
    UdpSocketState::new(UdpSockRef::from(&UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?))
}
