//! A stream that arrives as UDP datagrams, MPEG-TS as broadcasters send it.

use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::{InputError, STOP_CHECK};

/// No UDP payload is longer.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// Half a second at 60 Mbit/s. The system cuts it down to `net.core.rmem_max`.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

pub(super) struct Datagrams {
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl Datagrams {
    /// Listens at an address of this machine, or to a multicast group on the interface the system chooses (for IPv6
    /// the scope id of the address).
    pub(super) fn bind(address: SocketAddr) -> Result<Datagrams, InputError> {
        let socket = open_socket(address).map_err(|source| InputError::Listen { address, source })?;
        join_group(&socket, address).map_err(|source| InputError::Join { group: address, source })?;
        Ok(Datagrams { socket: socket.into(), buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// Waits for a datagram with something in it; `None` once `stop` is set.
    pub(super) fn receive(&mut self, stop: &AtomicBool) -> io::Result<Option<&[u8]>> {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        while !stop.load(Ordering::Relaxed) {
            match self.socket.recv(&mut self.buffer) {
                Ok(0) => {}
                Ok(bytes) => return Ok(Some(&self.buffer[..bytes])),
                Err(error) if matches!(error.kind(), Interrupted | TimedOut | WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    #[cfg(test)]
    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

fn open_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    let mut local = address;
    if address.ip().is_multicast() {
        // Several programs of one machine may listen to a group.
        socket.set_reuse_address(true)?;
        if cfg!(windows) {
            local.set_ip(match address {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            });
        }
    }
    // A smaller buffer than asked for still works.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    socket.set_read_timeout(Some(STOP_CHECK))?;
    socket.bind(&local.into())?;
    Ok(socket)
}

fn join_group(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_multicast() => {
            socket.join_multicast_v4(v4.ip(), &Ipv4Addr::UNSPECIFIED)
        }
        SocketAddr::V6(v6) if v6.ip().is_multicast() => socket.join_multicast_v6(v6.ip(), v6.scope_id()),
        _ => Ok(()),
    }
}
