//! From `host:port` to socket addresses, with the system's resolver. Blocks as long as that does.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use thiserror::Error;

/// Why a name has no address.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The resolver says no.
    #[error("cannot find the address of {host_port:?}: {source}; check the name and the network")]
    Failed {
        /// What was asked for.
        host_port: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The resolver knows the name, without an address.
    #[error("{0:?} has no IPv4 or IPv6 address")]
    NoAddress(String),
}

/// All addresses of `host_port`, in the order in which the system prefers them; never none. A host may be a name, an
/// IPv4 address or a bracketed IPv6 address.
///
/// # Errors
/// [`ResolveError`] when there is no address now; a name may get one later, so a client tries again.
pub fn resolve(host_port: &str) -> Result<Vec<SocketAddr>, ResolveError> {
    let failed = |source| ResolveError::Failed { host_port: host_port.to_owned(), source };
    let addresses: Vec<_> = host_port.to_socket_addrs().map_err(failed)?.collect();
    if addresses.is_empty() {
        return Err(ResolveError::NoAddress(host_port.to_owned()));
    }
    Ok(addresses)
}

/// An address of this machine to listen on.
///
/// # Errors
/// Says what an address looks like.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "it is no IP address with a port, as 127.0.0.1:7450 or [::]:7450".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_addresses_need_no_resolver() {
        assert_eq!(resolve("192.0.2.1:7450").unwrap(), ["192.0.2.1:7450".parse().unwrap()]);
        assert_eq!(resolve("[2001:db8::1]:7450").unwrap(), ["[2001:db8::1]:7450".parse().unwrap()]);
    }

    #[test]
    fn an_error_names_what_was_asked_for() {
        let error = resolve("no port here").unwrap_err();
        assert!(error.to_string().contains("no port here"), "{error}");
    }
}
