//! The socket: its options, and what the kernel made of them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use codec::DATAGRAM_BYTES;
use socket2::{Domain, Protocol, Type};

use super::address::Name;
use super::steering::Steering;
use crate::plane::OpenError;
use crate::plane::budget::{SOCKET_RECEIVE_BYTES, SOCKET_SEND_BYTES};

/// A bound UDP socket that segments what it sends and joins what it receives.
pub(crate) struct Socket {
    inner: socket2::Socket,
    local: SocketAddr,
}

impl Socket {
    pub(crate) fn open(listen: SocketAddr) -> Result<Socket, OpenError> {
        let domain = Domain::for_address(listen);
        let inner = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
            .map_err(|source| OpenError::Socket { listen, source })?;
        let option = |option| move |source| OpenError::Option { option, source };
        if listen.is_ipv6() {
            inner.set_only_v6(false).map_err(option("IPV6_V6ONLY"))?;
        }
        inner.set_reuse_port(true).map_err(option("SO_REUSEPORT"))?;
        set_options(&inner, domain)?;
        inner.bind(&listen.into()).map_err(|source| OpenError::of_bind(listen, source))?;
        let bound = inner.local_addr().map_err(|source| OpenError::Socket { listen, source })?;
        let local = bound.as_socket().expect("an internet socket is bound to an internet address");
        Ok(Socket { inner, local })
    }

    /// A socket that an earlier process opened, with what has arrived in the meantime; `None` when it is not one to
    /// listen with on `listen`.
    pub(crate) fn adopt(kept: OwnedFd, listen: SocketAddr) -> Option<Socket> {
        let inner = socket2::Socket::from(kept);
        let local = inner.local_addr().ok()?.as_socket()?;
        let is_udp = inner.protocol().is_ok_and(|protocol| protocol == Some(Protocol::UDP));
        let fits = local.ip() == listen.ip() && [0, local.port()].contains(&listen.port());
        let domain = Domain::for_address(listen);
        (is_udp && fits && inner.reuse_port().unwrap_or(false) && set_options(&inner, domain).is_ok())
            .then_some(Socket { inner, local })
    }

    /// The same socket once more.
    pub(crate) fn try_clone(&self) -> Result<Socket, OpenError> {
        let again = self.inner.try_clone();
        let inner = again.map_err(|source| OpenError::Socket { listen: self.local, source })?;
        Ok(Socket { inner, local: self.local })
    }

    pub(crate) fn set_blocking(&self, blocking: bool) -> Result<(), OpenError> {
        let set = self.inner.set_nonblocking(!blocking);
        set.map_err(|source| OpenError::Option { option: "O_NONBLOCK", source })
    }

    /// Has the kernel spread peers over the sockets of this port by their addresses; see [`super::steering`].
    pub(crate) fn steer(&self, steering: Steering) -> Result<(), OpenError> {
        let steered = super::steering::steer(self, steering);
        steered.map_err(|source| OpenError::Option { option: "SO_ATTACH_REUSEPORT_CBPF", source })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// `to` in the form that this socket sends to; `None` when it cannot.
    pub(super) fn name(&self, to: SocketAddr) -> Option<Name> {
        if self.local.is_ipv4() { Name::on_v4(to) } else { Some(Name::on_v6(to)) }
    }

    /// Bytes that may wait to be received, and to be sent, as the kernel counts them: with its own overhead.
    pub(crate) fn buffer_bytes(&self) -> (usize, usize) {
        (self.inner.recv_buffer_size().unwrap_or(0), self.inner.send_buffer_size().unwrap_or(0))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

fn set_options(socket: &socket2::Socket, domain: Domain) -> Result<(), OpenError> {
    let option = |option| move |source| OpenError::Option { option, source };
    set_buffer_sizes(socket);
    forbid_fragments(socket, domain).map_err(option("IP_MTU_DISCOVER"))?;
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1).map_err(option("UDP_GRO"))?;
    // At socket level, so that a send needs no control message. Messages of up to this size go as they are.
    let segment_bytes = DATAGRAM_BYTES as libc::c_int;
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, segment_bytes).map_err(option("UDP_SEGMENT"))
}

/// No path is to cut a datagram in pieces, as for QUIC (RFC 9000 §14): it is short enough for all. And a train without the "don't
/// fragment" bit, which Linux does not set by itself on what is longer than the path's MTU, costs a number for its fragments
/// (`__ip_select_ident`, 5 % of what it takes to send). `PROBE` heeds no word of others about the path.
fn forbid_fragments(socket: &socket2::Socket, domain: Domain) -> io::Result<()> {
    if domain == Domain::IPV6 {
        set_option(socket, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    }
    set_option(socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
}

/// As large as it may be: `FORCE` needs `CAP_NET_ADMIN`, without which the limits in `net.core` hold. The probe tells.
fn set_buffer_sizes(socket: &socket2::Socket) {
    let force = |name, bytes: usize| set_option(socket, libc::SOL_SOCKET, name, bytes as libc::c_int).is_ok();
    if !force(libc::SO_RCVBUFFORCE, SOCKET_RECEIVE_BYTES) {
        let _ = socket.set_recv_buffer_size(SOCKET_RECEIVE_BYTES);
    }
    if !force(libc::SO_SNDBUFFORCE, SOCKET_SEND_BYTES) {
        let _ = socket.set_send_buffer_size(SOCKET_SEND_BYTES);
    }
}

/// Sets an option whose value is an `int`.
pub(crate) fn set_option(socket: &impl AsFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: promise 6: `value` lives until the end of this function and is `length` bytes long.
    let result =
        unsafe { libc::setsockopt(descriptor, level, name, std::ptr::from_ref(&value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
