//! What the kernel gave a plane.

use std::fmt;
use std::net::SocketAddr;

use super::budget::{SOCKET_RECEIVE_BYTES, SOCKET_SEND_BYTES};
use super::error::kernel_release;
use crate::uring::Socket;

/// What the kernel gave a plane; its `Display` is a line for the log, with the remedy for what is missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The system calls that move datagrams: `io_uring`, or `recvmmsg and sendmmsg`.
    pub calls: &'static str,
    /// What those calls were given to work with.
    pub room: String,
    /// Why no train ever leaves without a copy; `None` where the kernel offers it.
    pub no_zero_copy: Option<String>,
    /// Where the socket is bound.
    pub listen: SocketAddr,
    /// The release of the kernel.
    pub kernel: String,
    /// Payload and overhead that may wait to be received, bytes.
    pub receive_buffer_bytes: usize,
    /// Payload and overhead that may wait to be sent, bytes.
    pub send_buffer_bytes: usize,
}

impl Probe {
    pub(crate) fn new(
        calls: &'static str,
        room: String,
        no_zero_copy: Option<String>,
        socket: &Socket,
    ) -> Probe {
        let (receive_buffer_bytes, send_buffer_bytes) = socket.buffer_bytes();
        let listen = socket.local_addr();
        let kernel = kernel_release();
        Probe { calls, room, no_zero_copy, listen, kernel, receive_buffer_bytes, send_buffer_bytes }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Probe { calls, room, listen, kernel, receive_buffer_bytes, send_buffer_bytes, .. } = self;
        write!(
            f,
            "{calls} on UDP {listen}, kernel {kernel}: {room}; socket buffers {receive_buffer_bytes} bytes in, \
             {send_buffer_bytes} bytes out"
        )?;
        // The kernel doubles what it is asked for, to allow for its overhead (socket(7), SO_RCVBUF).
        if *receive_buffer_bytes < 2 * SOCKET_RECEIVE_BYTES {
            write!(
                f,
                "; bursts may be lost: `sysctl net.core.rmem_max={SOCKET_RECEIVE_BYTES}` raises the first"
            )?;
        }
        if *send_buffer_bytes < 2 * SOCKET_SEND_BYTES {
            write!(
                f,
                "; fan-outs may have to wait: `sysctl net.core.wmem_max={SOCKET_SEND_BYTES}` raises the second"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_line_names_the_remedy_for_small_buffers_only() {
        let probe = Probe {
            calls: "io_uring",
            room: "512 receive buffers".to_owned(),
            no_zero_copy: None,
            listen: "[::]:7000".parse().unwrap(),
            kernel: "6.1.0".to_owned(),
            receive_buffer_bytes: 425_984,
            send_buffer_bytes: 2 * SOCKET_SEND_BYTES,
        };
        let line = probe.to_string();
        assert!(line.contains("net.core.rmem_max=16777216"), "{line}");
        assert!(!line.contains("wmem_max") && !line.contains('\n'), "{line}");
    }
}
