//! The sockets of a relay: one for each worker, all on one port.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::plane::OpenError;
use crate::running::StartError;
use crate::uring::{Socket, Steering};

/// Binds `count` sockets to `listen`, where the kernel may choose the port, and has it spread peers over them.
pub(crate) fn open(listen: SocketAddr, count: usize, steering: Steering) -> Result<Vec<Socket>, StartError> {
    ensure_free(listen)?;
    let first = Socket::open(listen)?;
    let listen = first.local_addr();
    let mut sockets = vec![first];
    if count > 1 {
        sockets[0].steer(steering)?;
    }
    while sockets.len() < count {
        sockets.push(Socket::open(listen)?);
    }
    Ok(sockets)
}

/// A worker's socket shares its port (`SO_REUSEPORT`); a second daemon must not share it unnoticed. A socket that does
/// not share finds out. The kernel takes down the ring of a killed relay, and with it the socket, only after the end
/// of its process (io_uring/io_uring.c, `io_ring_exit_work`), and systemd lets go of sockets that it kept only once it
/// was asked to: whoever is started at once in its place waits for that.
fn ensure_free(listen: SocketAddr) -> Result<(), StartError> {
    let give_up_at = Instant::now() + PORT_WAIT_MAX;
    loop {
        match UdpSocket::bind(listen) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up_at => {
                thread::sleep(PORT_WAIT);
            }
            Err(error) => return Err(OpenError::of_bind(listen, error).into()),
        }
    }
}

/// How long a port that is taken is waited for, and between two looks: a ring is gone after 20 ms.
const PORT_WAIT_MAX: Duration = Duration::from_millis(500);
const PORT_WAIT: Duration = Duration::from_millis(5);
