//! The proxy's sockets: one that clients send to, and one for each client towards the target.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mesh::{Anchor, Time};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use super::link::{Impairment, Link, LinkCounts};
use crate::driver::is_broken;

/// Clients at a time; each has a socket.
pub const CLIENTS_MAX: usize = 512;

/// A client that neither sent nor was sent anything for so long is forgotten; sessions are silent for seconds at most.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Bytes under way at a time: a second of 2 Gbit/s.
const UNDER_WAY_BYTES_MAX: usize = 256 << 20;

const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// A receive buffer holds whatever the system joins into one message.
const MESSAGE_BYTES: usize = 65_535;

/// Batches taken from one socket before the others and what is due have their turn.
const BATCHES_MAX: usize = 16;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// The first client's; the others' follow.
const CLIENTS: usize = 2;

/// What became of what came in.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProxyCounts {
    /// Towards the target.
    pub forth: LinkCounts,
    /// Towards the clients.
    pub back: LinkCounts,
    /// Clients there are now.
    pub clients: usize,
    /// Clients there ever were.
    pub clients_total: u64,
    /// Datagrams of clients for whom there was no place.
    pub turned_away: u64,
    /// Datagrams dropped because too much was under way, or the system did not take them.
    pub overflowed: u64,
    /// Datagrams that were sent on.
    pub delivered: u64,
}

/// A socket with what sending on it needs.
struct Port {
    socket: UdpSocket,
    state: UdpSocketState,
    may_have_more: bool,
}

struct Client {
    address: SocketAddr,
    port: Port,
    forth: Link,
    back: Link,
    active_at: Time,
}

/// A datagram under way; the earliest is the greatest.
struct UnderWay {
    key: Reverse<(Time, u64)>,
    client: usize,
    /// Of the client: its place may be another's by then.
    address: SocketAddr,
    goes_back: bool,
    bytes: Box<[u8]>,
}

/// The proxy.
pub struct Proxy {
    listener: Port,
    target: SocketAddr,
    impairments: [Impairment; 2],
    seed: u64,
    clients: Slab<Client>,
    by_address: HashMap<SocketAddr, usize>,
    under_way: BinaryHeap<UnderWay>,
    under_way_bytes: usize,
    order: u64,
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    clock: Anchor,
    sweep_at: Time,
    buffers: Vec<u8>,
    /// Of those still here: see [`Proxy::counts`].
    counts: ProxyCounts,
}

impl Proxy {
    /// A proxy that takes datagrams in at `listen` and passes them to `target`, and the answers back.
    ///
    /// # Errors
    /// When the system gives no socket, or `listen` is taken.
    pub fn open(
        listen: SocketAddr,
        target: SocketAddr,
        impairments: [Impairment; 2],
        seed: u64,
    ) -> io::Result<Proxy> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let listener = Port::open(listen, &poll, LISTENER)?;
        let clock = Anchor::new(SystemTime::now(), Instant::now());
        Ok(Proxy {
            listener,
            target: SocketAddr::new(target.ip().to_canonical(), target.port()),
            impairments,
            seed,
            clients: Slab::new(),
            by_address: HashMap::new(),
            under_way: BinaryHeap::new(),
            under_way_bytes: 0,
            order: 0,
            poll,
            events: Events::with_capacity(256),
            waker,
            clock,
            sweep_at: Time::default(),
            buffers: vec![0; BATCH_SIZE * MESSAGE_BYTES],
            counts: ProxyCounts::default(),
        })
    }

    /// Where clients send to.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.socket.local_addr()
    }

    /// Makes [`Proxy::turn`] return, from any thread.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// What became of everything so far.
    pub fn counts(&self) -> ProxyCounts {
        let mut counts = self.counts;
        counts.clients = self.clients.len();
        for (_, client) in &self.clients {
            counts.forth += client.forth.counts();
            counts.back += client.back.counts();
        }
        counts
    }

    /// Waits until something comes in or is due (at most `longest`), takes in what came and sends what is due.
    ///
    /// # Errors
    /// When a socket is broken, or the system refuses to wait.
    pub fn turn(&mut self, longest: Duration) -> io::Result<()> {
        self.wait(longest)?;
        if self.listener.may_have_more {
            self.take_in(None)?;
        }
        for index in 0..self.clients.capacity() {
            if self.clients.get(index).is_some_and(|client| client.port.may_have_more) {
                self.take_in(Some(index))?;
            }
        }
        self.send_due()?;
        self.forget_idle();
        Ok(())
    }

    fn now(&self) -> Time {
        self.clock.time_at(Instant::now())
    }

    fn wait(&mut self, longest: Duration) -> io::Result<()> {
        let due = self.under_way.peek().map(|first| first.key.0.0.since(self.now()));
        let more = self.listener.may_have_more || self.clients.iter().any(|(_, it)| it.port.may_have_more);
        let timeout = if more { Duration::ZERO } else { due.unwrap_or(longest).min(longest) };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &self.events {
            match event.token() {
                LISTENER => self.listener.may_have_more = true,
                WAKER => {}
                Token(number) => {
                    if let Some(client) = self.clients.get_mut(number - CLIENTS) {
                        client.port.may_have_more = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes in what waits at the listener, or at a client's socket.
    fn take_in(&mut self, client: Option<usize>) -> io::Result<()> {
        let mut buffers = std::mem::take(&mut self.buffers);
        let mut taken = Ok(());
        for _ in 0..BATCHES_MAX {
            let mut meta = [RecvMeta::default(); BATCH_SIZE];
            let received = match self.port_mut(client).receive(&mut buffers, &mut meta) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                Err(error) => {
                    taken = Err(error);
                    break;
                }
            };
            let now = self.now();
            for (meta, buffer) in meta[..received].iter().zip(buffers.chunks(MESSAGE_BYTES)) {
                let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                // An empty datagram is one, too.
                let empty = [&buffer[..0]].into_iter().filter(|_| meta.len == 0);
                for datagram in buffer[..meta.len].chunks(meta.stride.max(1)).chain(empty) {
                    match client {
                        None => self.pass_on(now, from, datagram),
                        Some(index) if from == self.target => self.pass_back(now, index, datagram),
                        Some(_) => {}
                    }
                }
            }
        }
        self.buffers = buffers;
        taken
    }

    fn port_mut(&mut self, client: Option<usize>) -> &mut Port {
        match client {
            None => &mut self.listener,
            Some(index) => &mut self.clients[index].port,
        }
    }

    fn pass_on(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) {
        let Some(index) = self.find_or_add(now, from) else {
            self.counts.turned_away += 1;
            return;
        };
        let client = &mut self.clients[index];
        client.active_at = now;
        let deliveries = client.forth.pass(now, datagram.len());
        deliveries.iter().for_each(|at| self.put_under_way(*at, index, false, datagram));
    }

    fn pass_back(&mut self, now: Time, index: usize, datagram: &[u8]) {
        let client = &mut self.clients[index];
        client.active_at = now;
        let deliveries = client.back.pass(now, datagram.len());
        deliveries.iter().for_each(|at| self.put_under_way(*at, index, true, datagram));
    }

    /// `None` when there is no place, or the system gives no socket.
    fn find_or_add(&mut self, now: Time, address: SocketAddr) -> Option<usize> {
        if let Some(&index) = self.by_address.get(&address) {
            return Some(index);
        }
        if self.clients.len() >= CLIENTS_MAX {
            return None;
        }
        let any: IpAddr = match self.target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let entry = self.clients.vacant_entry();
        let index = entry.key();
        let port = Port::open(SocketAddr::new(any, 0), &self.poll, Token(CLIENTS + index)).ok()?;
        // Every client has dice of its own: what one sends changes nothing for another.
        let seed = self.seed.wrapping_add(self.counts.clients_total << 1);
        let [forth, back] = self.impairments;
        let (forth, back) = (Link::new(forth, seed), Link::new(back, seed + 1));
        entry.insert(Client { address, port, forth, back, active_at: now });
        self.by_address.insert(address, index);
        self.counts.clients_total += 1;
        Some(index)
    }

    fn put_under_way(&mut self, at: Time, client: usize, goes_back: bool, datagram: &[u8]) {
        if self.under_way_bytes + datagram.len() > UNDER_WAY_BYTES_MAX {
            self.counts.overflowed += 1;
            return;
        }
        self.under_way_bytes += datagram.len();
        self.order += 1;
        let (key, address) = (Reverse((at, self.order)), self.clients[client].address);
        self.under_way.push(UnderWay { key, client, address, goes_back, bytes: datagram.into() });
    }

    fn send_due(&mut self) -> io::Result<()> {
        let now = self.now();
        while self.under_way.peek().is_some_and(|first| first.key.0.0 <= now) {
            let due = self.under_way.pop().expect("just seen");
            self.under_way_bytes -= due.bytes.len();
            let client = self.clients.get(due.client).filter(|client| client.address == due.address);
            let Some(client) = client else { continue };
            let sent = match due.goes_back {
                true => self.listener.send(due.address, &due.bytes)?,
                false => client.port.send(self.target, &due.bytes)?,
            };
            match sent {
                true => self.counts.delivered += 1,
                false => self.counts.overflowed += 1,
            }
        }
        Ok(())
    }

    fn forget_idle(&mut self) {
        let now = self.now();
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.after(Duration::from_secs(1));
        for index in 0..self.clients.capacity() {
            let idle = self.clients.get(index).is_some_and(|client| now.since(client.active_at) > IDLE_MAX);
            if idle {
                let mut client = self.clients.remove(index);
                self.by_address.remove(&client.address);
                self.counts.forth += client.forth.counts();
                self.counts.back += client.back.counts();
                // It is closed next, which ends its registration too.
                let _ = self.poll.registry().deregister(&mut client.port.socket);
            }
        }
    }
}

impl Port {
    fn open(address: SocketAddr, poll: &Poll, token: Token) -> io::Result<Port> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            // For IPv4 too, where the system lets one socket be for both.
            let _ = socket.set_only_v6(false);
        }
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        // A smaller buffer loses datagrams under load, as any other bottleneck does.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let mut socket = UdpSocket::from_std(socket.into());
        poll.registry().register(&mut socket, token, Interest::READABLE)?;
        Ok(Port { socket, state, may_have_more: true })
    }

    /// How many messages came; `None` when nothing is left.
    fn receive(&mut self, buffers: &mut [u8], meta: &mut [RecvMeta]) -> io::Result<Option<usize>> {
        let mut slices: Vec<IoSliceMut<'_>> =
            buffers.chunks_mut(MESSAGE_BYTES).map(IoSliceMut::new).collect();
        match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, meta) {
            Ok(received) => Ok(Some(received)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.may_have_more = false;
                Ok(None)
            }
            Err(error) if is_broken(&error) => Err(error),
            // An ICMP message about something sent earlier.
            Err(_) => Ok(Some(0)),
        }
    }

    /// Whether the system took it; what it does not take is lost.
    fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<bool> {
        let is_ipv6 = self.socket.local_addr()?.is_ipv6();
        let destination = match to.ip() {
            IpAddr::V4(ip) if is_ipv6 => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        let transmit =
            quinn_udp::Transmit { destination, ecn: None, contents: bytes, segment_size: None, src_ip: None };
        match self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
            Ok(()) => Ok(true),
            Err(error) if is_broken(&error) => Err(error),
            Err(_) => Ok(false),
        }
    }
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &UnderWay) -> bool {
        self.key == other.key
    }
}

impl Eq for UnderWay {}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &UnderWay) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UnderWay {
    fn cmp(&self, other: &UnderWay) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}
