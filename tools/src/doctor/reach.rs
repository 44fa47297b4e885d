//! Whether UDP gets to a relay and back: a `Hello` for a channel that nobody has, and what is answered.
//!
//! Any answer proves the way there for datagrams of full size, and the way back for short ones.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use codec::wire::SIGNATURE_BYTES;
use codec::wire::control::{
    Bye, ByeReason, Control, Hello, Nodes, RefuseReason, Role, Sender, SessionHeader,
};
use codec::{ChannelKey, ChannelSecret, Sequence};
use mesh::limits::{HELLO_WAIT_MAX, HELLOS_UNTIL_TOLD};

use super::finding::{Finding, Status};
use crate::resolve::resolve;

/// What became of the first `Hello`s.
pub(super) enum Outcome {
    /// The relay asked for a proof of the address: it is one, and can be reached.
    Challenged { round_trip: Duration, cookie: [u8; 16] },
    /// The machine is there and says that nobody listens.
    Closed,
    /// Nothing came back to so many.
    Silent(u32),
    /// The system does not send there.
    Unsendable(io::Error),
}

/// What became of the `Hello` with the cookie.
enum Granted {
    Session { observed: SocketAddr },
    Refused { reason: RefuseReason, nodes: Vec<SocketAddr> },
    Silent,
}

/// A finding for each address of the relay. One that cannot be reached while another can be is a note.
pub(super) fn check(relay: &str) -> Vec<Finding> {
    let addresses = match resolve(relay) {
        Ok(addresses) => addresses,
        Err(error) => {
            let fix = "check the name and this machine's network; an address needs no look-up";
            return vec![Finding::problem(ID, error.to_string(), "no address, no relay", fix)];
        }
    };
    let mut seen = Vec::new();
    let mut findings: Vec<Finding> = Vec::new();
    for address in addresses {
        if !seen.contains(&address) {
            seen.push(address);
            findings.push(check_address(address));
        }
    }
    if findings.iter().any(|finding| finding.status != Status::Problem) {
        let problems = findings.iter_mut().filter(|finding| finding.status == Status::Problem);
        problems.for_each(|finding| finding.status = Status::Note);
    }
    findings
}

fn check_address(relay: SocketAddr) -> Finding {
    let mut caller = match Caller::open(relay) {
        Ok(caller) => caller,
        Err(error) => return unreached(relay, &Outcome::Unsendable(error)),
    };
    match caller.knock(HELLOS_UNTIL_TOLD) {
        Outcome::Challenged { round_trip, cookie } => answered(relay, round_trip, caller.ask(cookie)),
        outcome => unreached(relay, &outcome),
    }
}

fn answered(relay: SocketAddr, round_trip: Duration, granted: Granted) -> Finding {
    let round_trip = round_trip.as_secs_f64() * 1e3;
    let value = format!("{relay} answers within {round_trip:.1} ms");
    match granted {
        Granted::Session { observed } => {
            Finding::ok(ID, format!("{value} and carries any channel; it sees this machine as {observed}"))
        }
        Granted::Refused { reason: RefuseReason::ChannelNotAllowed, .. } => {
            Finding::ok(ID, format!("{value} and carries listed channels only"))
        }
        Granted::Refused { reason, nodes } => Finding::note(
            ID,
            format!("{value}, and refuses: {reason}{}", others(&nodes)),
            "new viewers and publishers are refused likewise",
            "limits in the relay's configuration (`superpeerd --print-config` explains them), or another relay",
        ),
        Granted::Silent => Finding::note(
            ID,
            format!("{value}, but not when asked for a session"),
            "UDP gets there and back, yet nobody may get a session",
            "the relay's log and `/status` say whether it is overloaded; ask again in a while",
        ),
    }
}

/// The other nodes that a refusal names.
fn others(nodes: &[SocketAddr]) -> String {
    let names: Vec<String> = nodes.iter().map(SocketAddr::to_string).collect();
    if names.is_empty() { String::new() } else { format!("; it names {}", names.join(", ")) }
}

fn unreached(relay: SocketAddr, outcome: &Outcome) -> Finding {
    let port = relay.port();
    let listen = format!(
        "on that machine: is `superpeerd` running, with that port in `listen` (`ss -uln sport = :{port}`)?"
    );
    let (value, fix) = match outcome {
        Outcome::Closed => (format!("{relay} says that nothing listens on that port"), listen),
        Outcome::Unsendable(error) => {
            let fix =
                "this machine's network: `ip address` and `ip route`; without IPv6, the relay's IPv4 address";
            (format!("nothing can be sent to {relay}: {error}"), fix.to_owned())
        }
        Outcome::Silent(hellos) => {
            let open = format!(
                "{listen} Is UDP {port} let in by its firewall (`ufw allow {port}/udp`) and by its provider's, and let \
                 out by the network here?"
            );
            (format!("{relay}: nothing came back to {hellos} datagrams"), open)
        }
        Outcome::Challenged { .. } => unreachable!("that is an answer"),
    };
    Finding::problem(ID, value, "nobody at this machine can watch or publish there", fix)
}

const ID: &str = "reach";

/// Who says `Hello`, from a socket of its own.
pub(super) struct Caller {
    socket: UdpSocket,
    key: ChannelKey,
}

impl Caller {
    /// # Errors
    /// When there is no socket, or no way to `relay`.
    pub(super) fn open(relay: SocketAddr) -> io::Result<Caller> {
        let any = if relay.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        // Only the relay is heard, and that the port is closed there, too.
        socket.connect(relay)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        Ok(Caller { socket, key: ChannelSecret::from_seed(&seed).key() })
    }

    /// Says `Hello` up to so many times.
    pub(super) fn knock(&mut self, hellos: u32) -> Outcome {
        // Which of them is answered tells how long it took.
        let mut sent: Vec<(u64, Instant)> = Vec::new();
        for _ in 0..hellos {
            let hello = match self.hello([0; 16]) {
                Ok(hello) => hello,
                Err(error) => return Outcome::Unsendable(error),
            };
            sent.push((hello.nonce, Instant::now()));
            if let Err(error) = self.socket.send(&Control::Hello(hello).encode()) {
                return if is_closed(&error) { Outcome::Closed } else { Outcome::Unsendable(error) };
            }
            let answered = self.listen(|control| match control {
                Control::Challenge(challenge) => {
                    let (_, at) = sent.iter().find(|(nonce, _)| *nonce == challenge.nonce)?;
                    Some(Outcome::Challenged { round_trip: at.elapsed(), cookie: challenge.cookie })
                }
                _ => None,
            });
            match answered {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => {}
                Err(error) if is_closed(&error) => return Outcome::Closed,
                Err(error) => return Outcome::Unsendable(error),
            }
        }
        Outcome::Silent(hellos)
    }

    /// Asks for a session, and gives it back at once.
    fn ask(&mut self, cookie: [u8; 16]) -> Granted {
        let Ok(hello) = self.hello(cookie) else { return Granted::Silent };
        for _ in 0..HELLOS_UNTIL_TOLD {
            // What cannot be sent or heard any more is silence too: the way was just seen to be open.
            if self.socket.send(&Control::Hello(hello).encode()).is_err() {
                return Granted::Silent;
            }
            let answered = self.listen(|control| match control {
                Control::Welcome(welcome) if welcome.nonce == hello.nonce => {
                    Some((Some(welcome.session), Granted::Session { observed: canonical(welcome.observed) }))
                }
                Control::Refuse(refuse) if refuse.nonce == hello.nonce => {
                    Some((None, Granted::Refused { reason: refuse.reason, nodes: refuse.nodes.to_vec() }))
                }
                _ => None,
            });
            match answered {
                Ok(Some((session, granted))) => {
                    if let Some(session) = session {
                        let header =
                            SessionHeader { sender: Sender::Subscriber, tag: self.key.tag(), session };
                        let bye = Bye { header, reason: ByeReason::Done, nodes: Nodes::new() };
                        // If it is lost, the lease runs out.
                        let _ = self.socket.send(&Control::Bye(bye).encode());
                    }
                    return granted;
                }
                Ok(None) => {}
                Err(_) => return Granted::Silent,
            }
        }
        Granted::Silent
    }

    fn hello(&self, cookie: [u8; 16]) -> io::Result<Hello> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let nonce = u64::from_ne_bytes(nonce);
        let signature = [0; SIGNATURE_BYTES];
        Ok(Hello { role: Role::Subscribe, key: self.key, nonce, from: Sequence(0), cookie, signature })
    }

    /// Hears what comes until it is what is wanted, or the time for an answer is over.
    fn listen<T>(&self, mut wanted: impl FnMut(Control) -> Option<T>) -> io::Result<Option<T>> {
        let until = Instant::now() + HELLO_WAIT_MAX;
        let mut buffer = [0; codec::DATAGRAM_BYTES];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    if let Some(found) = Control::parse(&buffer[..length]).ok().and_then(&mut wanted) {
                        return Ok(Some(found));
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_relay_is_reached_and_the_others_that_it_names_are_told() {
        let nodes = ["192.0.2.7:7450", "192.0.2.8:7450"].map(|node| node.parse().unwrap()).to_vec();
        let refused = Granted::Refused { reason: RefuseReason::Full, nodes };
        let found = answered("192.0.2.1:7450".parse().unwrap(), Duration::from_millis(12), refused);
        assert_eq!(found.status, Status::Note);
        let expected = "192.0.2.1:7450 answers within 12.0 ms, and refuses: this node is full; it names 192.0.2.7:7450, 192.0.2.8:7450";
        assert_eq!(found.value, expected);
    }
}
