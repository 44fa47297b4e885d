//! A node on a UDP socket of its own, for publishers and viewers: portable, with what the system offers of segmentation
//! offload.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use codec::DATAGRAM_BYTES;
use mesh::{Anchor, Limits, Node, NodeConfig, Outbox, Progress, Time};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;

/// Room for a second of a fast stream while the process is not scheduled.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A receive buffer holds whatever the system joins into one message.
const MESSAGE_BYTES: usize = 65_535;

/// Messages sent in one go.
const BATCH_MESSAGES: usize = 64;

/// Messages taken in before what they bring is sent on.
const RECEIVES_MAX: usize = 64;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// A node with its socket.
pub struct Driver {
    /// The node; call [`Driver::turn`] after having changed it.
    pub node: Node,
    socket: UdpSocket,
    state: UdpSocketState,
    is_ipv6: bool,
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    clock: Anchor,
    outbox: Outbox,
    /// `BATCH_SIZE` buffers of `MESSAGE_BYTES` side by side; untouched until something comes.
    buffers: Vec<u8>,
    /// The socket may have more than was taken in.
    readable: bool,
}

impl Driver {
    /// A node of this configuration with `slots` slots of memory, on a socket of its own.
    ///
    /// # Errors
    /// When the system gives no socket, no random bytes or no way to wait.
    pub fn open(limits: Limits, slots: usize) -> Result<Driver, Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| Error::System("the system gives no random bytes", io::Error::other(error)))?;
        let config = NodeConfig::new(mesh::Admission::Nobody, limits);
        let node = Node::new(config, seed, Box::new(vec![0; slots * mesh::SLOT_BYTES]));
        Driver::with_node(node).map_err(|error| {
            Error::System("cannot open a UDP socket (`ulimit -n` limits how many there can be)", error)
        })
    }

    fn with_node(node: Node) -> io::Result<Driver> {
        let (socket, is_ipv6) = open_socket()?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let mut socket = UdpSocket::from_std(socket.into());
        let poll = Poll::new()?;
        poll.registry().register(&mut socket, SOCKET, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(Driver {
            node,
            socket,
            state,
            is_ipv6,
            poll,
            events: Events::with_capacity(8),
            waker,
            clock: Anchor::new(SystemTime::now(), Instant::now()),
            outbox: Outbox::new(BATCH_MESSAGES),
            buffers: vec![0; BATCH_SIZE * MESSAGE_BYTES],
            readable: true,
        })
    }

    /// Makes [`Driver::turn`] return, from any thread.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.clock.time_at(Instant::now())
    }

    /// A clock that agrees with this driver's.
    pub fn clock(&self) -> Anchor {
        self.clock
    }

    /// Sends what there is, sleeps until something is to be done (at most `longest`), and does it.
    ///
    /// # Errors
    /// When the system refuses to wait or the socket is broken for good.
    pub fn turn(&mut self, longest: Duration) -> Result<(), Error> {
        let done = self.send().and_then(|()| self.wait(longest)).and_then(|()| self.receive());
        done.map_err(|error| Error::System("the UDP socket failed", error))?;
        let now = self.now();
        self.node.handle_timeout(now);
        self.send().map_err(|error| Error::System("the UDP socket failed", error))
    }

    fn wait(&mut self, longest: Duration) -> io::Result<()> {
        let until = self.node.next_timeout().map_or(longest, |at| at.since(self.now()).min(longest));
        let timeout = if self.readable { Duration::ZERO } else { until };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        self.readable |= self.events.iter().any(|event| event.token() == SOCKET);
        Ok(())
    }

    /// Takes in what has arrived. The socket tells of arrivals once: it is drained, or remembered as readable.
    fn receive(&mut self) -> io::Result<()> {
        for _ in 0..RECEIVES_MAX {
            if !self.readable {
                return Ok(());
            }
            let mut meta = [RecvMeta::default(); BATCH_SIZE];
            let mut slices: Vec<IoSliceMut<'_>> =
                self.buffers.chunks_mut(MESSAGE_BYTES).map(IoSliceMut::new).collect();
            let received = match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut meta) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(());
                }
                // An ICMP message about something sent earlier; the node finds out by silence.
                Err(error) if is_broken(&error) => return Err(error),
                Err(_) => continue,
            };
            let now = self.now();
            for (meta, buffer) in meta[..received].iter().zip(self.buffers.chunks(MESSAGE_BYTES)) {
                let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    self.node.handle_datagram(now, from, datagram);
                }
            }
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        loop {
            let now = self.now();
            self.outbox.clear();
            let progress = self.node.poll_transmit(now, &mut self.outbox);
            for transmit in self.outbox.transmits() {
                let bytes = self.node.bytes_of(transmit, &self.outbox);
                let to = if self.is_ipv6 { mapped(transmit.to) } else { transmit.to };
                for part in bytes.chunks(self.state.max_gso_segments() * DATAGRAM_BYTES) {
                    self.send_part(to, part)?;
                }
            }
            if progress == Progress::Idle {
                return Ok(());
            }
        }
    }

    /// Sends datagrams of one destination. What the socket does not take at once, or cannot deliver there, is lost like
    /// anything on the way: repair brings it, or silence tells the node.
    fn send_part(&self, to: SocketAddr, part: &[u8]) -> io::Result<()> {
        let is_train = part.len() > DATAGRAM_BYTES;
        let transmit = quinn_udp::Transmit {
            destination: to,
            ecn: None,
            contents: part,
            segment_size: is_train.then_some(DATAGRAM_BYTES),
            src_ip: None,
        };
        match self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
            Err(error) if is_broken(&error) => Err(error),
            // Segmentation may be what this route does not take; one by one they say so themselves.
            Err(error) if is_train && error.kind() != io::ErrorKind::WouldBlock => {
                part.chunks(DATAGRAM_BYTES).try_for_each(|datagram| self.send_part(to, datagram))
            }
            _ => Ok(()),
        }
    }

    /// Says goodbye to every peer.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn close(mut self) -> Result<(), Error> {
        self.node.close();
        self.send().map_err(|error| Error::System("the UDP socket failed", error))
    }
}

/// For both families where the system has IPv6, else for IPv4.
fn open_socket() -> io::Result<(Socket, bool)> {
    let any = |ip: IpAddr| SocketAddr::new(ip, 0);
    let dual = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(false)?;
        socket.bind(&any(Ipv6Addr::UNSPECIFIED.into()).into())?;
        Ok(socket)
    };
    let (socket, is_ipv6) = match dual() {
        Ok(socket) => (socket, true),
        Err(_) => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.bind(&any(Ipv4Addr::UNSPECIFIED.into()).into())?;
            (socket, false)
        }
    };
    socket.set_nonblocking(true)?;
    // A smaller buffer costs repair, not the stream.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    Ok((socket, is_ipv6))
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Whether an error says that the socket itself is gone; all others are about one destination, the network or the moment.
pub(crate) fn is_broken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(BAD_DESCRIPTOR | NOT_A_SOCKET))
}

/// `EBADF` and `ENOTSOCK` on Linux and the BSDs.
const BAD_DESCRIPTOR: i32 = 9;
/// See [`BAD_DESCRIPTOR`]; the BSDs' is 38.
const NOT_A_SOCKET: i32 = 88;
