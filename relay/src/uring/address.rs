//! Socket addresses as the kernel writes and reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of the longest UDP address.
pub(super) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();

/// A destination in the form that the socket's family asks for.
#[derive(Clone, Copy)]
pub(super) enum Name {
    /// For an IPv4 socket.
    V4(libc::sockaddr_in),
    /// For an IPv6 socket.
    V6(libc::sockaddr_in6),
}

impl Name {
    /// `to` as seen from an IPv4 socket, which reaches IPv4 only.
    pub(super) fn on_v4(to: SocketAddr) -> Option<Name> {
        let IpAddr::V4(ip) = to.ip().to_canonical() else { return None };
        Some(Name::V4(libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: to.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
            sin_zero: [0; 8],
        }))
    }

    /// `to` as seen from an IPv6 socket, which reaches IPv4 under `::ffff:0:0/96` (RFC 4291 §2.5.5.2).
    pub(super) fn on_v6(to: SocketAddr) -> Name {
        let (ip, scope_id) = match to {
            SocketAddr::V4(to) => (to.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(to) => (*to.ip(), to.scope_id()),
        };
        Name::V6(libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: to.port().to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
            sin6_scope_id: scope_id,
        })
    }

    /// Good as long as the name stays where it is.
    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        match self {
            Name::V4(name) => std::ptr::from_ref(name).cast(),
            Name::V6(name) => std::ptr::from_ref(name).cast(),
        }
    }

    /// Bytes at [`Name::as_ptr`].
    pub(super) fn length(&self) -> libc::socklen_t {
        let bytes = match self {
            Name::V4(name) => size_of_val(name),
            Name::V6(name) => size_of_val(name),
        };
        bytes as libc::socklen_t
    }
}

/// Reads the source of a datagram; IPv4 as such, even where it came in over an IPv6 socket.
pub(super) fn source(name: &[u8]) -> Option<SocketAddr> {
    let family = libc::sa_family_t::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = *name.get(4..)?.first_chunk()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = *name.get(8..)?.first_chunk()?;
            let scope_id = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(canonical(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope_id)))
        }
        _ => None,
    }
}

/// IPv4 as such, where an IPv6 socket has it under `::ffff:0:0/96`.
pub(crate) fn canonical(address: SocketAddrV6) -> SocketAddr {
    match address.ip().to_ipv4_mapped() {
        Some(ip) => SocketAddrV4::new(ip, address.port()).into(),
        None => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(name: &Name) -> Vec<u8> {
        // SAFETY: promise 6: the name says its own address and length; all its bytes are set, for neither struct has
        // padding.
        unsafe { std::slice::from_raw_parts(name.as_ptr().cast(), name.length() as usize) }.to_vec()
    }

    #[test]
    fn names_read_back_as_what_they_were_made_of() {
        let v4: SocketAddr = "192.0.2.7:7000".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:7000".parse().unwrap();
        let v6: SocketAddr = "[fe80::1%3]:7000".parse().unwrap();
        assert_eq!(source(&bytes(&Name::on_v4(v4).unwrap())), Some(v4));
        assert_eq!(source(&bytes(&Name::on_v4(mapped).unwrap())), Some(v4));
        assert_eq!(source(&bytes(&Name::on_v6(v4))), Some(v4));
        assert_eq!(source(&bytes(&Name::on_v6(v6))), Some(v6));
        assert!(Name::on_v4(v6).is_none());
    }

    #[test]
    fn short_and_foreign_names_are_no_source() {
        let name = bytes(&Name::on_v6("[::1]:9".parse().unwrap()));
        for length in 0..NAME_BYTES {
            assert_eq!(source(&name[..length]), None);
        }
        assert_eq!(source(&[0; NAME_BYTES]), None);
    }
}
