//! The socket buffers that a relay gets which has no privilege, as its unit has none.

use std::io;

use relay::plane::{SOCKET_RECEIVE_BYTES, SOCKET_SEND_BYTES};
use socket2::{Domain, Protocol, Socket, Type};

use super::finding::{Finding, size};

/// What mends both for good.
const FOR_GOOD: &str = "for good, systemd/90-superpeer.conf into /etc/sysctl.d; in a container, on its host";

pub(super) fn check() -> [Finding; 2] {
    let (receive, send) = match granted() {
        Ok((receive, send)) => (Ok(receive), Ok(send)),
        Err(error) => (Err(error.to_string()), Err(error.to_string())),
    };
    [receive_buffer(receive), send_buffer(send)]
}

/// Asks a socket for as much as the relay does, and for no more than anyone may have: what was granted, bytes, as the
/// kernel counts them. It doubles what it is asked for (socket(7), SO_RCVBUF).
fn granted() -> io::Result<(usize, usize)> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_RECEIVE_BYTES)?;
    socket.set_send_buffer_size(SOCKET_SEND_BYTES)?;
    Ok((socket.recv_buffer_size()?, socket.send_buffer_size()?))
}

fn receive_buffer(granted: Result<usize, String>) -> Finding {
    let costs = "bursts are lost while the relay sends, and cost repairs; the more, the more comes in";
    judge("receive_buffer", granted, SOCKET_RECEIVE_BYTES, "net.core.rmem_max", costs)
}

fn send_buffer(granted: Result<usize, String>) -> Finding {
    let costs = "with a full device the relay waits in every fan-out, and receives nothing meanwhile";
    judge("send_buffer", granted, SOCKET_SEND_BYTES, "net.core.wmem_max", costs)
}

fn judge(
    id: &'static str,
    granted: Result<usize, String>,
    wanted: usize,
    sysctl: &str,
    costs: &str,
) -> Finding {
    let set = format!("`sysctl -w {sysctl}={wanted}`; {FOR_GOOD}");
    match granted {
        Err(error) => Finding::note(id, format!("no socket to try it on: {error}"), costs, set),
        Ok(granted) => {
            let value =
                format!("{} of {} that the relay asks for", size(granted as u64 / 2), size(wanted as u64));
            if granted >= 2 * wanted {
                Finding::ok(id, value)
            } else {
                Finding::problem(id, value, costs, set)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn less_than_the_relay_asks_for_is_a_problem_with_its_sysctl() {
        assert_eq!(receive_buffer(Ok(2 * SOCKET_RECEIVE_BYTES)).status, Status::Ok);
        let small = receive_buffer(Ok(425_984));
        assert_eq!(
            (small.status, small.value.as_str()),
            (Status::Problem, "208 KiB of 16 MiB that the relay asks for")
        );
        assert!(small.fix.unwrap().contains("`sysctl -w net.core.rmem_max=16777216`"));
        let small = send_buffer(Ok(425_984));
        assert!(small.fix.unwrap().contains("`sysctl -w net.core.wmem_max=4194304`"));
        assert_eq!(send_buffer(Err("no".to_owned())).status, Status::Note);
    }
}
