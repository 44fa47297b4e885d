//! The sockets of many subscribers at once: few sockets, each for many addresses.
//!
//! Of a train only the first datagram is copied out of the kernel, and its length is asked for: the sink then costs a
//! fraction of what sending to it does, and one core of sink keeps up with one core of relay. A sample of the addresses
//! has sockets of its own, which take every byte, to be checked. What arrives bears the kernel's time, so that a sink that
//! is not scheduled at once does not count as delay.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use codec::DATAGRAM_BYTES;
use mesh::Time;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::libc::{in_addr, in_pktinfo, timespec};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SetSockOpt, SockaddrIn, recvmsg, sendmsg, setsockopt,
    sockopt,
};

use super::{Destinations, Sample};
use crate::Error;

/// Destinations per socket: a train of 20 datagrams takes some 32 KiB of a socket's buffer, so that the smallest
/// buffers that systems allow by default hold a good part of one burst.
const DESTINATIONS_PER_SOCKET: u32 = 32;

/// More sockets than this only cost descriptors.
const SOCKETS_MAX: u32 = 64;

/// Asked for each socket; granted as far as `net.core.rmem_max` goes, beyond it only to root.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;

/// How long a sink that has received everything stays away. It never waits to be woken: waking it is work of the core that
/// sent, which the subscribers of a real network are no part of, and was 2 and 7 % of a relay's worker in two runs of `perf`
/// (1000 subscribers of 9 channels in the lab).
const NAP: Duration = Duration::from_millis(1);

/// Messages taken from one socket before the next has its turn.
const MESSAGES_PER_PASS: usize = 256;

/// The longest message that UDP has room for.
const MESSAGE_BYTES_MAX: usize = 65_535;

/// What arrived: a control datagram, or a train.
pub(super) struct Arrival<'b> {
    /// At a sampled address everything, elsewhere no more than the first datagram.
    pub(super) bytes: &'b [u8],
    /// The length of everything.
    pub(super) length: usize,
    /// The destination that it was sent to.
    pub(super) number: Option<u32>,
    /// When the kernel had it.
    pub(super) at: Time,
}

impl Arrival<'_> {
    pub(super) fn datagrams(&self) -> u64 {
        self.length.div_ceil(DATAGRAM_BYTES) as u64
    }
}

/// Where the destinations of a sink are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// Each at an address of its own, from this one on; they are this machine's.
    From(Ipv4Addr),
    /// All at this address, with a socket for each.
    One(Ipv4Addr),
}

/// The sockets, and a way to wait for all of them.
pub(super) struct Sink {
    sockets: Vec<Socket>,
    /// The sockets' places by port.
    places: HashMap<u16, usize>,
    destinations: Destinations,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
}

struct Socket {
    inner: UdpSocket,
    port: u16,
    /// How much of a message is copied out of the kernel.
    copied: usize,
    /// It may have more than was taken out.
    readable: bool,
}

impl Sink {
    /// For so many destinations, of which one in `stride`, if there is one, is sampled.
    pub(super) fn open(at: At, count: u32, stride: Option<u32>) -> Result<Sink, Error> {
        let opened = match at {
            At::From(first) => Sink::open_few(first, count, stride),
            At::One(address) => Sink::open_each(address, count, stride),
        };
        let opened = opened.and_then(|(sockets, destinations)| Sink::of(sockets, destinations));
        opened.map_err(|error| Error::System("cannot open a UDP socket (see `ulimit -n`)", error))
    }

    /// A few sockets for all.
    fn open_few(first: Ipv4Addr, count: u32, stride: Option<u32>) -> io::Result<(Vec<Socket>, Destinations)> {
        let sampled = stride.map_or(0, |stride| count.div_ceil(stride));
        let open = |addresses: u32, copied: usize| -> io::Result<Vec<Socket>> {
            let count = addresses.div_ceil(DESTINATIONS_PER_SOCKET).min(SOCKETS_MAX);
            (0..count).map(|_| Socket::open(copied)).collect()
        };
        let mut sockets = open(count - sampled, DATAGRAM_BYTES)?;
        let whole = open(sampled, MESSAGE_BYTES_MAX)?;
        let ports = ports_of(&sockets);
        let sample = stride.map(|stride| Sample { stride, ports: ports_of(&whole) });
        sockets.extend(whole);
        Ok((sockets, Destinations { first, count, one_address: false, ports, sample }))
    }

    /// A socket for each, in their order.
    fn open_each(
        first: Ipv4Addr,
        count: u32,
        stride: Option<u32>,
    ) -> io::Result<(Vec<Socket>, Destinations)> {
        // As many as the process may have at all; where that is too few, opening fails and says so.
        let _ = getrlimit(Resource::RLIMIT_NOFILE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
        let is_sampled = |number: u32| stride.is_some_and(|stride| number.is_multiple_of(stride));
        let copied = |number| if is_sampled(number) { MESSAGE_BYTES_MAX } else { DATAGRAM_BYTES };
        let sockets = (0..count).map(|number| Socket::open(copied(number)));
        let sockets = sockets.collect::<io::Result<Vec<Socket>>>()?;
        let ports = ports_of(&sockets);
        Ok((sockets, Destinations { first, count, one_address: true, ports, sample: None }))
    }

    fn of(sockets: Vec<Socket>, destinations: Destinations) -> io::Result<Sink> {
        let poll = Poll::new()?;
        for (place, socket) in sockets.iter().enumerate() {
            let descriptor = socket.inner.as_raw_fd();
            poll.registry().register(&mut SourceFd(&descriptor), Token(place), Interest::READABLE)?;
        }
        let events = Events::with_capacity(sockets.len());
        let places = sockets.iter().enumerate().map(|(place, socket)| (socket.port, place)).collect();
        Ok(Sink { sockets, places, destinations, poll, events, buffer: vec![0; MESSAGE_BYTES_MAX] })
    }

    /// Whom it answers for.
    pub(super) fn destinations(&self) -> &Destinations {
        &self.destinations
    }

    /// Hands over some of what has arrived; where there is nothing, it waits a little, at most `longest`.
    pub(super) fn receive(
        &mut self,
        longest: Duration,
        mut handle: impl FnMut(&Arrival<'_>),
    ) -> io::Result<()> {
        if !self.sockets.iter().any(|socket| socket.readable) {
            thread::sleep(longest.min(NAP));
        }
        match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &self.events {
            self.sockets[event.token().0].readable = true;
        }
        let (buffer, destinations) = (&mut self.buffer, &self.destinations);
        self.sockets.iter_mut().enumerate().try_for_each(|(place, socket)| {
            let number = |to| match destinations.one_address {
                true => Some(place as u32),
                false => destinations.number(to),
            };
            socket.receive(buffer, number, &mut handle)
        })
    }

    /// Sends a control datagram, or a train, as if from `from`. What does not go is lost, as on any network; returns
    /// whether it went.
    pub(super) fn send(&self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) -> bool {
        let place = *self.places.get(&from.port()).expect("one of our ports");
        let descriptor = self.sockets[place].inner.as_raw_fd();
        let source = in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from(*from.ip()).to_be() },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let control = [
            ControlMessage::Ipv4PacketInfo(&source),
            ControlMessage::UdpGsoSegments(&(DATAGRAM_BYTES as u16)),
        ];
        // A segment as long as the message would be refused.
        let control = &control[..if bytes.len() > DATAGRAM_BYTES { 2 } else { 1 }];
        let to = SockaddrIn::from(to);
        sendmsg(descriptor, &[IoSlice::new(bytes)], control, MsgFlags::MSG_DONTWAIT, Some(&to)).is_ok()
    }
}

impl Socket {
    fn open(copied: usize) -> io::Result<Socket> {
        let inner = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        inner.set_nonblocking(true)?;
        setsockopt(&inner, sockopt::UdpGroSegment, &true)?;
        setsockopt(&inner, sockopt::Ipv4PacketInfo, &true)?;
        setsockopt(&inner, sockopt::ReceiveTimestampns, &true)?;
        set_buffer(&inner, sockopt::RcvBufForce, sockopt::RcvBuf)?;
        // A datagram on loopback counts as its sender's until it is read.
        set_buffer(&inner, sockopt::SndBufForce, sockopt::SndBuf)?;
        let port = inner.local_addr()?.port();
        Ok(Socket { inner, port, copied, readable: true })
    }

    fn receive(
        &mut self,
        buffer: &mut [u8],
        number: impl Fn(Ipv4Addr) -> Option<u32>,
        handle: &mut impl FnMut(&Arrival<'_>),
    ) -> io::Result<()> {
        let mut control = nix::cmsg_space!(timespec, in_pktinfo, i32);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        for _ in 0..if self.readable { MESSAGES_PER_PASS } else { 0 } {
            let mut parts = [IoSliceMut::new(&mut buffer[..self.copied])];
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
            let (length, (to, at)) = (received.bytes, to_and_at(received.cmsgs()?));
            let bytes = &buffer[..length.min(self.copied)];
            handle(&Arrival { bytes, length, number: number(to), at });
        }
        Ok(())
    }
}

fn ports_of(sockets: &[Socket]) -> Vec<u16> {
    sockets.iter().map(|socket| socket.port).collect()
}

/// Beyond what the system allows everybody, if this is root.
fn set_buffer(
    socket: &UdpSocket,
    force: impl SetSockOpt<Val = usize>,
    ask: impl SetSockOpt<Val = usize>,
) -> nix::Result<()> {
    setsockopt(socket, force, &SOCKET_BUFFER_BYTES).or_else(|_| setsockopt(socket, ask, &SOCKET_BUFFER_BYTES))
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
    let tables =
        ["udp", "udp6"].map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")));
    let drops = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        let ours = ports.contains(&u16::from_str_radix(port, 16).ok()?);
        ours.then(|| line.split_whitespace().last()?.parse::<u64>().ok())?
    };
    tables.iter().flatten().flat_map(|table| table.lines().skip(1)).filter_map(drops).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_told_apart_by_their_address_or_by_their_port() {
        for at in [At::From(Ipv4Addr::new(127, 3, 0, 0)), At::One(Ipv4Addr::LOCALHOST)] {
            let mut sink = Sink::open(at, 70, Some(4)).unwrap();
            let destinations = sink.destinations().clone();
            let addresses: Vec<SocketAddrV4> = (0..70).map(|number| destinations.address(number)).collect();
            let one_address = addresses.iter().all(|address| address.ip() == addresses[0].ip());
            assert_eq!(one_address, at == At::One(Ipv4Addr::LOCALHOST));
            let train = [7; 2 * DATAGRAM_BYTES];
            addresses.iter().for_each(|to| assert!(sink.send(addresses[0], *to, &train)));
            let mut arrived = vec![0; 70];
            while arrived.iter().sum::<u64>() < 140 {
                let note = |arrival: &Arrival<'_>| {
                    let number = arrival.number.unwrap();
                    arrived[number as usize] += arrival.datagrams();
                    let whole = number.is_multiple_of(4);
                    assert_eq!(arrival.bytes.len(), if whole { 2 } else { 1 } * DATAGRAM_BYTES, "{number}");
                };
                sink.receive(Duration::from_secs(1), note).unwrap();
            }
            assert!(arrived.iter().all(|datagrams| *datagrams == 2), "{arrived:?}");
        }
    }
}
