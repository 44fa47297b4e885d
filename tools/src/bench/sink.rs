//! The sockets of many subscribers at once: few sockets, each for many addresses.
//!
//! Of a train only the first datagram is copied out of the kernel, and its length is asked for: the sink then costs a
//! fraction of what sending to it does, and one core of sink keeps up with one core of relay. What arrives bears the
//! kernel's time, so that a sink that is not scheduled at once does not count as delay.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use codec::DATAGRAM_BYTES;
use mesh::Time;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::libc::{in_addr, in_pktinfo, timespec};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};

use super::Destinations;
use crate::Error;

/// Destinations per socket: a train of 20 datagrams takes some 32 KiB of a socket's buffer, so that the smallest
/// buffers that systems allow by default hold a good part of one burst.
const DESTINATIONS_PER_SOCKET: u32 = 32;

/// More sockets than this only cost descriptors.
const SOCKETS_MAX: u32 = 64;

/// Asked for each socket; granted as far as `net.core.rmem_max` goes, beyond it only to root.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;

/// Messages taken from one socket before the next has its turn.
const MESSAGES_PER_PASS: usize = 256;

/// What arrived: a control datagram, or a train.
pub(super) struct Arrival<'b> {
    /// The first datagram.
    pub(super) first: &'b [u8],
    /// The length of all.
    pub(super) bytes: usize,
    /// The address that it was sent to.
    pub(super) to: Ipv4Addr,
    /// When the kernel had it.
    pub(super) at: Time,
}

impl Arrival<'_> {
    pub(super) fn datagrams(&self) -> u64 {
        self.bytes.div_ceil(DATAGRAM_BYTES) as u64
    }
}

/// The sockets, and a way to wait for all of them.
pub(super) struct Sink {
    sockets: Vec<Socket>,
    ports: Vec<u16>,
    poll: Poll,
    events: Events,
}

struct Socket {
    inner: UdpSocket,
    /// It may have more than was taken out.
    readable: bool,
}

impl Sink {
    /// For so many destinations.
    pub(super) fn open(destinations: u32) -> Result<Sink, Error> {
        let count = destinations.div_ceil(DESTINATIONS_PER_SOCKET).clamp(1, SOCKETS_MAX) as usize;
        Sink::with_sockets(count).map_err(|error| Error::System("cannot open a UDP socket", error))
    }

    fn with_sockets(count: usize) -> io::Result<Sink> {
        let poll = Poll::new()?;
        let sockets: Vec<Socket> = (0..count).map(|_| Socket::open()).collect::<io::Result<_>>()?;
        let mut ports = Vec::with_capacity(count);
        for (place, socket) in sockets.iter().enumerate() {
            let descriptor = socket.inner.as_raw_fd();
            poll.registry().register(&mut SourceFd(&descriptor), Token(place), Interest::READABLE)?;
            ports.push(socket.inner.local_addr()?.port());
        }
        Ok(Sink { sockets, ports, poll, events: Events::with_capacity(count) })
    }

    /// `count` addresses from `first` on; this sink answers for them if they are this machine's.
    pub(super) fn destinations(&self, first: Ipv4Addr, count: u32) -> Destinations {
        Destinations { first, count, ports: self.ports.clone() }
    }

    /// Waits for arrivals, at most `longest`, and hands over some.
    pub(super) fn receive(
        &mut self,
        longest: Duration,
        mut handle: impl FnMut(&Arrival<'_>),
    ) -> io::Result<()> {
        let waiting = self.sockets.iter().any(|socket| socket.readable);
        let timeout = if waiting { Duration::ZERO } else { longest };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &self.events {
            self.sockets[event.token().0].readable = true;
        }
        self.sockets.iter_mut().try_for_each(|socket| socket.receive(&mut handle))
    }

    /// Sends a control datagram as if from `from`. What does not go is lost, as on any network.
    pub(super) fn send(&self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) {
        let place = self.ports.iter().position(|port| *port == from.port()).expect("one of our ports");
        let source = in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from(*from.ip()).to_be() },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let descriptor = self.sockets[place].inner.as_raw_fd();
        let control = [ControlMessage::Ipv4PacketInfo(&source)];
        let to = SockaddrIn::from(to);
        let _ = sendmsg(descriptor, &[IoSlice::new(bytes)], &control, MsgFlags::MSG_DONTWAIT, Some(&to));
    }
}

impl Socket {
    fn open() -> io::Result<Socket> {
        let inner = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        inner.set_nonblocking(true)?;
        setsockopt(&inner, sockopt::UdpGroSegment, &true)?;
        setsockopt(&inner, sockopt::Ipv4PacketInfo, &true)?;
        setsockopt(&inner, sockopt::ReceiveTimestampns, &true)?;
        if setsockopt(&inner, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
            setsockopt(&inner, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES)?;
        }
        Ok(Socket { inner, readable: true })
    }

    fn receive(&mut self, handle: &mut impl FnMut(&Arrival<'_>)) -> io::Result<()> {
        let mut first = [0; DATAGRAM_BYTES];
        let mut control = nix::cmsg_space!(timespec, in_pktinfo, i32);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        for _ in 0..if self.readable { MESSAGES_PER_PASS } else { 0 } {
            let mut parts = [IoSliceMut::new(&mut first)];
            let descriptor = self.inner.as_raw_fd();
            let received = match recvmsg::<SockaddrIn>(descriptor, &mut parts, Some(&mut control), flags) {
                Ok(received) => received,
                Err(nix::Error::EAGAIN) => {
                    self.readable = false;
                    break;
                }
                // About something sent earlier; silence tells.
                Err(nix::Error::EINTR | nix::Error::ECONNREFUSED) => continue,
                Err(error) => return Err(error.into()),
            };
            let (bytes, (to, at)) = (received.bytes, to_and_at(received.cmsgs()?));
            handle(&Arrival { first: &first[..bytes.min(DATAGRAM_BYTES)], bytes, to, at });
        }
        Ok(())
    }
}

fn to_and_at(control: impl Iterator<Item = ControlMessageOwned>) -> (Ipv4Addr, Time) {
    let (mut to, mut at) = (Ipv4Addr::UNSPECIFIED, Time::default());
    for message in control {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => to = u32::from_be(info.ipi_addr.s_addr).into(),
            ControlMessageOwned::ScmTimestampns(time) => at = Time(Duration::from(time).as_micros() as u64),
            _ => {}
        }
    }
    (to, at)
}

/// Datagrams that the kernel dropped at the sockets of these ports. The `RcvbufErrors` of `/proc/net/snmp` are those of
/// every program on the machine; `/proc/net/udp` has them by socket (`drops`, the last column).
pub(super) fn socket_drops(ports: &[u16]) -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default();
    let drops = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        let ours = ports.contains(&u16::from_str_radix(port, 16).ok()?);
        ours.then(|| line.split_whitespace().last()?.parse::<u64>().ok())?
    };
    table.lines().skip(1).filter_map(drops).sum()
}
