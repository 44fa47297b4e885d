//! A restart by systemd: nobody is told, nobody dials again, nothing is lost; and what happens when that cannot be.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use codec::wire::control::ByeReason;
use mesh::Event;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::daemon::Daemon;
use crate::peer::{Peer, all_until, secret};
use crate::service::Systemd;

const TWO: [&str; 2] = ["socket-0", "socket-1"];
const TWO_AND_STATE: [&str; 3] = ["handover", "socket-0", "socket-1"];

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, 2 + number).into()
}

/// A publisher, who comes first, and viewers at both workers.
fn peers(relay: SocketAddr) -> Vec<Peer> {
    let viewers = (0..8).map(|number| Peer::viewer_from(address(number), relay, secret(1).key()));
    let mut peers: Vec<Peer> = [Peer::publisher(relay, secret(1))].into_iter().chain(viewers).collect();
    let mut all: Vec<&mut Peer> = peers.iter_mut().collect();
    all_until(&mut all, "all are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    peers
}

/// A stream that goes on whatever happens to the relay.
struct Stream {
    peers: Vec<Peer>,
    published: Vec<u8>,
}

impl Stream {
    fn new(relay: SocketAddr) -> Stream {
        Stream { peers: peers(relay), published: Vec::new() }
    }

    fn go_on(&mut self) {
        let from = self.published.len() as u32;
        let piece: Vec<u8> = (from..).flat_map(u32::to_le_bytes).take(3_000).collect();
        self.peers[0].push(&piece);
        self.published.extend(piece);
        self.peers.iter_mut().for_each(Peer::turn);
    }

    fn until_all_have_it(&mut self) {
        let length = self.published.len();
        let mut all: Vec<&mut Peer> = self.peers.iter_mut().collect();
        all_until(&mut all, "all have what was published", |peers| {
            peers[1..].iter().all(|viewer| viewer.output.len() == length)
        });
        assert!(self.peers[1..].iter().all(|viewer| viewer.output == self.published));
    }

    /// How often each peer was granted a session.
    fn grants(&self) -> Vec<usize> {
        let granted = |event: &&Event| matches!(event, Event::Connected { .. });
        self.peers.iter().map(|peer| peer.events.iter().filter(granted).count()).collect()
    }
}

/// Ends the daemon for another one to follow, and goes on with the stream meanwhile.
fn end_for_a_restart(mut daemon: Daemon, stream: &mut Stream) {
    daemon.signal("USR2");
    daemon.signal("TERM");
    while daemon.is_running() {
        stream.go_on();
    }
    assert_eq!(daemon.wait().code(), Some(0));
}

fn nobody_notices_a_restart(ways: [&str; 4]) {
    let systemd = Systemd::new();
    let start = |io: &str| systemd.start(&["--listen", "127.0.0.1:0", "--workers", "2", "--io", io]);
    let (mut daemon, _) = start(ways[0]);
    let listen = daemon.address();
    systemd.until_kept(&TWO);
    let mut stream = Stream::new(listen);
    (0..20).for_each(|_| stream.go_on());
    for io in &ways[1..] {
        end_for_a_restart(daemon, &mut stream);
        systemd.until_kept(&TWO_AND_STATE);
        (0..5).for_each(|_| stream.go_on());
        let log;
        (daemon, log) = start(io);
        assert_eq!(daemon.address(), listen);
        assert!(log.iter().any(|line| line.contains("9 sessions and")), "{log:?}");
        systemd.until_kept(&TWO);
        (0..20).for_each(|_| stream.go_on());
    }
    stream.peers[0].finish();
    stream.until_all_have_it();
    let mut all: Vec<&mut Peer> = stream.peers.iter_mut().collect();
    all_until(&mut all, "the end", |peers| peers[0].is_drained() && peers[1..].iter().all(|peer| peer.ended));
    assert_eq!(stream.grants(), [1; 9], "nobody dialled again");

    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
    let mut all: Vec<&mut Peer> = stream.peers.iter_mut().collect();
    all_until(&mut all, "all are told that this is the end", |peers| {
        peers.iter().all(|peer| peer.was_told_bye(ByeReason::Closing))
    });
}

#[test]
fn nobody_notices_a_restart_on_io_uring() {
    nobody_notices_a_restart(["uring", "uring", "uring", "uring"]);
}

#[test]
fn nobody_notices_a_restart_without_io_uring_or_from_one_way_to_the_other() {
    nobody_notices_a_restart(["mmsg", "mmsg", "uring", "mmsg"]);
}

/// Starts a daemon of two workers and a stream, and ends it for a restart.
fn before_a_restart() -> (Systemd, Stream, SocketAddr) {
    let systemd = Systemd::new();
    let (daemon, _) = systemd.start(&["--listen", "127.0.0.1:0", "--workers", "2"]);
    let listen = daemon.address();
    let mut stream = Stream::new(listen);
    (0..20).for_each(|_| stream.go_on());
    end_for_a_restart(daemon, &mut stream);
    systemd.until_kept(&TWO_AND_STATE);
    (systemd, stream, listen)
}

/// After a start with nothing taken over, everybody dials again and gets everything.
fn assert_all_come_back(mut stream: Stream) {
    stream.go_on();
    stream.until_all_have_it();
    assert!(stream.grants().iter().all(|grants| *grants >= 2), "{:?}", stream.grants());
}

#[test]
fn after_a_crash_the_sockets_are_there_and_everybody_dials_again() {
    let systemd = Systemd::new();
    let start = || systemd.start(&["--listen", "127.0.0.1:0", "--workers", "2"]);
    let (daemon, _) = start();
    let listen = daemon.address();
    systemd.until_kept(&TWO);
    let mut stream = Stream::new(listen);
    (0..20).for_each(|_| stream.go_on());
    daemon.kill();
    (0..5).for_each(|_| stream.go_on());
    let (daemon, log) = start();
    assert_eq!(daemon.address(), listen);
    assert!(!log.iter().any(|line| line.contains("taken over")), "{log:?}");
    assert_all_come_back(stream);
}

#[test]
fn other_workers_than_before_get_other_sockets_at_the_same_port() {
    let (systemd, stream, listen) = before_a_restart();
    let (daemon, log) = systemd.start(&["--listen", &listen.to_string(), "--workers", "3"]);
    assert_eq!(daemon.address(), listen);
    let refused = |what: &str| log.iter().any(|line| line.contains("WARN") && line.contains(what));
    assert!(refused("2 sockets, which do not fit 3 workers") && refused("is of 2 workers, not 0"), "{log:?}");
    systemd.until_kept(&["socket-0", "socket-1", "socket-2"]);
    assert_all_come_back(stream);
}

#[test]
fn another_address_gets_another_socket() {
    let (systemd, _stream, listen) = before_a_restart();
    let elsewhere = SocketAddr::new(address(9), listen.port());
    let (daemon, _) = systemd.start(&["--listen", &elsewhere.to_string(), "--workers", "2"]);
    assert_eq!(daemon.address(), elsewhere);
    systemd.until_kept(&TWO);
    crate::peer::stream_through(elsewhere, elsewhere, secret(3));
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    let mut file = File::from(memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap());
    file.write_all(bytes).unwrap();
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

#[test]
fn what_is_damaged_from_another_version_or_from_elsewhere_is_refused_whole() {
    type Damage = fn(&mut Vec<u8>);
    let damage: [(&str, Damage); 3] = [
        ("damaged", |bytes| bytes.truncate(bytes.len() - 1)),
        ("damaged", |bytes| bytes.fill(0xff)),
        ("wrote it in format", |bytes| bytes[0] += 1),
    ];
    for (why, damage) in damage {
        let (systemd, stream, listen) = before_a_restart();
        let mut file = File::from(systemd.store().remove("handover").unwrap());
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        damage(&mut bytes);
        systemd.store().insert("handover".to_owned(), sealed(&bytes));
        let (daemon, log) = systemd.start(&["--listen", "127.0.0.1:0", "--workers", "2"]);
        assert_eq!(daemon.address(), listen);
        assert!(log.iter().any(|line| line.contains("is not used") && line.contains(why)), "{why}: {log:?}");
        systemd.until_kept(&TWO);
        assert_all_come_back(stream);
    }
    let (systemd, stream, _) = before_a_restart();
    systemd.store().insert("handover".to_owned(), tempfile::tempfile().unwrap().into());
    let (_daemon, log) = systemd.start(&["--listen", "127.0.0.1:0", "--workers", "2"]);
    assert!(log.iter().any(|line| line.contains("no sealed memory")), "{log:?}");
    assert_all_come_back(stream);
}
