//! Viewers who come and go, many of them: what they leave behind.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use codec::wire::control::{Bye, ByeReason, Control, Hello, Nodes, Role, Sender, SessionHeader, Welcome};
use codec::{ChannelKey, ChannelSecret, Sequence};
use mesh::limits::LEASE;

use crate::daemon::Daemon;
use crate::peer::{Peer, secret};
use crate::wait::DEADLINE;

const MIB: u64 = 1 << 20;

/// They come so many at a time.
const GROUP: usize = 50;

/// A `Hello` that is not answered for so long is sent again.
const PATIENCE: Duration = Duration::from_millis(500);

/// Of those who left without a word, the relay serves so many at a time at most, however fast this machine is.
const SILENT_MAX: usize = 5_000;

/// One who comes, from an address of its own, and leaves at once.
struct Passer {
    socket: UdpSocket,
    relay: SocketAddr,
    hello: Hello,
}

impl Passer {
    fn new(number: usize, relay: SocketAddr, key: ChannelKey) -> Passer {
        // 127.1.0.0 and on: nobody else's.
        let address = u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number as u32;
        let socket = UdpSocket::bind((Ipv4Addr::from(address), 0)).expect("an address of this machine");
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let nonce = number as u64;
        let (from, cookie, signature) = (Sequence(0), [0; 16], [0; 64]);
        Passer { socket, relay, hello: Hello { role: Role::Subscribe, key, nonce, from, cookie, signature } }
    }

    fn send(&self, control: &Control) {
        // What the system refuses is lost, like anything on the way.
        let _ = self.socket.send_to(&control.encode(), self.relay);
    }

    fn greet(&self) {
        self.send(&Control::Hello(self.hello));
    }

    /// The answer that is looked for; until it comes, the `Hello` is repeated.
    fn answer<T>(&self, wanted: impl Fn(Control) -> Option<T>) -> T {
        let mut buffer = [0; 2_048];
        let give_up_at = Instant::now() + DEADLINE;
        while Instant::now() < give_up_at {
            match self.socket.recv(&mut buffer) {
                Ok(length) => match Control::parse(&buffer[..length]) {
                    Ok(Control::Refuse(refuse)) => panic!("refused: {}", refuse.reason),
                    Ok(control) => {
                        if let Some(found) = wanted(control) {
                            return found;
                        }
                    }
                    // The channel itself.
                    Err(_) => {}
                },
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    self.greet()
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no answer within {DEADLINE:?}");
    }

    fn take_cookie(&mut self) {
        self.hello.cookie = self.answer(|control| match control {
            Control::Challenge(challenge) => Some(challenge.cookie),
            _ => None,
        });
    }

    fn welcome(&self) -> Welcome {
        self.answer(|control| match control {
            Control::Welcome(welcome) => Some(welcome),
            _ => None,
        })
    }

    fn say_goodbye(&self, welcome: &Welcome) {
        let (tag, session) = (self.hello.key.tag(), welcome.session);
        let header = SessionHeader { sender: Sender::Subscriber, tag, session };
        self.send(&Control::Bye(Bye { header, reason: ByeReason::Done, nodes: Nodes::new() }));
    }
}

/// Those who come and go: half of them leave without a word. A quarter ask each for a channel that nobody gives, and that
/// nobody asked for before; the others for one that is live.
struct Crowd {
    relay: SocketAddr,
    publisher: Peer,
    joins: usize,
    /// When those left whom the relay may serve still.
    silent: VecDeque<Instant>,
}

impl Crowd {
    fn new(relay: SocketAddr) -> Crowd {
        let mut publisher = Peer::publisher_from(IpAddr::from(Ipv4Addr::LOCALHOST), relay, secret(1));
        publisher.until("the channel is live", Peer::is_connected);
        Crowd { relay, publisher, joins: 0, silent: VecDeque::new() }
    }

    fn churn(&mut self, joins: usize) {
        for _ in 0..joins / GROUP {
            self.wait_for_leases();
            self.publisher.push(&[7; 200]);
            self.publisher.turn();
            self.come_and_go();
        }
    }

    fn wait_for_leases(&mut self) {
        let is_over = |left_at: &Instant| left_at.elapsed() > LEASE + Duration::from_secs(1);
        while self.silent.len() > SILENT_MAX || self.silent.front().is_some_and(is_over) {
            match self.silent.pop_front_if(|left_at| is_over(left_at)) {
                Some(_) => {}
                None => self.publisher.turn(),
            }
        }
    }

    fn come_and_go(&mut self) {
        let numbers = self.joins..self.joins + GROUP;
        self.joins += GROUP;
        let mut group: Vec<Passer> =
            numbers.map(|number| Passer::new(number, self.relay, wanted_by(number))).collect();
        group.iter().for_each(Passer::greet);
        group.iter_mut().for_each(Passer::take_cookie);
        group.iter().for_each(Passer::greet);
        let welcomes: Vec<Welcome> = group.iter().map(Passer::welcome).collect();
        for (number, (passer, welcome)) in group.iter().zip(&welcomes).enumerate() {
            if number.is_multiple_of(2) {
                passer.say_goodbye(welcome);
            } else {
                self.silent.push_back(Instant::now());
            }
        }
    }
}

/// The channel for which this one comes.
fn wanted_by(number: usize) -> ChannelKey {
    if !number.is_multiple_of(4) {
        return secret(1).key();
    }
    let mut seed = [0xee; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    ChannelSecret::from_seed(&seed).key()
}

/// Compares what the relay holds after so many joins with what it holds after as many more.
fn compare(joins: usize) {
    let daemon = Daemon::start("127.0.0.1:0", &["--open", "--workers", "2"]);
    let began_at = Instant::now();
    let mut crowd = Crowd::new(daemon.address());
    crowd.churn(joins);
    let (warm, files) = (daemon.resident_bytes(), daemon.open_files());
    crowd.churn(joins);
    let (after, files_after) = (daemon.resident_bytes(), daemon.open_files());
    println!(
        "{joins} joins: {} KiB, {files} descriptors; {joins} more: {} KiB, {files_after} descriptors; {} s",
        warm / 1024,
        after / 1024,
        began_at.elapsed().as_secs(),
    );
    assert_eq!(files_after, files);
    assert!(after <= warm + 4 * MIB, "{warm} bytes, {after} bytes");
    assert!(crowd.publisher.is_connected());
}

#[test]
fn who_comes_and_goes_leaves_nothing_behind() {
    compare(2_000);
}

/// `cargo test -p relay --test daemon churn -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes"]
fn a_day_of_coming_and_going_leaves_nothing_behind() {
    compare(100_000);
}
