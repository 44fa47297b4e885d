//! A relay of several workers: peers at different addresses are heard by different ones.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use relay::budget::FILES_PER_WORKER;
use relay::plane::Io;
use relay::{Config, Relay, Workers};

use crate::daemon::Daemon;
use crate::peer::{Peer, all_until, secret};
use crate::wait::until;

const WORKERS: usize = 3;

fn start(io: Io) -> Relay {
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let workers = Workers::Fixed(WORKERS);
    Relay::start(&Config { listen, io, workers, open: true, ..Config::default() }).unwrap()
}

/// Addresses of this machine that are spread over all workers; the tests of the steering show that.
fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, 2 + number).into()
}

fn connect(publisher: &mut Peer, viewers: &mut [Peer]) {
    let mut all: Vec<&mut Peer> = viewers.iter_mut().chain([publisher]).collect();
    all_until(&mut all, "all are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
}

fn viewers(relay: SocketAddr, count: u8) -> Vec<Peer> {
    (0..count).map(|number| Peer::viewer_from(address(number), relay, secret(1).key())).collect()
}

/// 20,000 bytes that are nowhere the same.
fn piece(number: u32) -> Vec<u8> {
    (number * 5_000..).flat_map(u32::to_le_bytes).take(20_000).collect()
}

fn turn(publisher: &mut Peer, viewers: &mut [Peer]) {
    publisher.turn();
    viewers.iter_mut().for_each(Peer::turn);
}

fn a_stream_reaches_viewers_at_every_worker(io: Io) {
    let relay = start(io);
    assert_eq!(relay.workers(), WORKERS);
    let mut publisher = Peer::publisher(relay.local_addr(), secret(1));
    let mut viewers = viewers(relay.local_addr(), 12);
    connect(&mut publisher, &mut viewers);
    let mut published = Vec::new();
    for number in 0..20 {
        if number == 10 {
            // A late one, at yet another address, is given what it needs from the window.
            viewers.push(Peer::viewer_from(address(100), relay.local_addr(), secret(1).key()));
        }
        publisher.push(&piece(number));
        published.extend(piece(number));
        turn(&mut publisher, &mut viewers);
    }
    publisher.finish();
    let mut all: Vec<&mut Peer> = viewers.iter_mut().chain([&mut publisher]).collect();
    all_until(&mut all, "all have it", |peers| peers[..13].iter().all(|peer| peer.ended));
    let late = viewers.pop().unwrap();
    assert!(viewers.iter().all(|viewer| viewer.output == published));
    assert!(published.ends_with(&late.output) && late.output.len() >= 20_000, "{} bytes", late.output.len());

    let last = relay.stop().expect("no worker panicked");
    // Each chunk was verified by one worker and lent to the two others.
    assert_eq!(last.node.signature_checks, last.node.chunks + 1, "{last:?}");
    assert_eq!(last.node.chunks_lent, 2 * last.node.chunks, "{last:?}");
    assert_eq!(last.node.chunks_lost, 0, "{last:?}");
    let [channel] = &last.channels[..] else { panic!("{last:?}") };
    assert_eq!(channel.key, secret(1).key());
}

#[test]
fn a_stream_reaches_viewers_at_every_worker_through_io_uring() {
    a_stream_reaches_viewers_at_every_worker(Io::Uring);
}

#[test]
fn a_stream_reaches_viewers_at_every_worker_without_io_uring() {
    a_stream_reaches_viewers_at_every_worker(Io::Mmsg);
}

#[test]
fn a_publisher_that_comes_back_at_another_worker_goes_on() {
    let relay = start(Io::Auto);
    let mut viewers = viewers(relay.local_addr(), 6);
    let mut published = Vec::new();
    for run in 0..4 {
        let mut publisher = Peer::publisher_from(address(50 + run), relay.local_addr(), secret(1));
        connect(&mut publisher, &mut viewers);
        let piece = piece(u32::from(run));
        publisher.push(&piece);
        published.extend(piece);
        let mut all: Vec<&mut Peer> = viewers.iter_mut().chain([&mut publisher]).collect();
        all_until(&mut all, "all have it", |peers| {
            peers[..6].iter().all(|peer| peer.output.len() == published.len())
        });
    }
    assert!(viewers.iter().all(|viewer| viewer.output == published));
}

#[test]
fn subscribers_of_all_workers_together_are_bounded() {
    let mut config = Config { listen: (Ipv4Addr::LOCALHOST, 0).into(), open: true, ..Config::default() };
    config.workers = Workers::Fixed(WORKERS);
    config.limits.subscribers = 4;
    let relay = Relay::start(&config).unwrap();
    let mut viewers = viewers(relay.local_addr(), 4);
    let mut all: Vec<&mut Peer> = viewers.iter_mut().collect();
    all_until(&mut all, "as many as may be", |peers| peers.iter().all(|peer| peer.is_connected()));
    let mut fifth = Peer::viewer_from(address(99), relay.local_addr(), secret(1).key());
    fifth.until("refused", |peer| peer.was_refused(codec::wire::control::RefuseReason::Full));
    drop(viewers.pop());
    // Its place is free once its lease has run out.
    until("a place", || {
        fifth.turn();
        viewers.iter_mut().for_each(Peer::turn);
        fifth.is_connected().then_some(())
    });
}

#[test]
fn a_channel_that_has_a_publisher_is_known_at_every_worker() {
    let mut config = Config { listen: (Ipv4Addr::LOCALHOST, 0).into(), open: true, ..Config::default() };
    config.workers = Workers::Fixed(WORKERS);
    // Half of these places are for channels that are only waited for.
    config.limits.channels = 2;
    let relay = Relay::start(&config).unwrap();
    let address_of = relay.local_addr();
    let mut publishers = [1, 2].map(|number| Peer::publisher(address_of, secret(number)));
    let mut all: Vec<&mut Peer> = publishers.iter_mut().collect();
    all_until(&mut all, "both are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    let viewer = |number: u8| Peer::viewer_from(address(number), address_of, secret(1 + number % 2).key());
    let mut viewers: Vec<Peer> = (0..12).map(viewer).collect();
    let mut all: Vec<&mut Peer> = viewers.iter_mut().collect();
    all_until(&mut all, "all are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    let refused = relay.stop().expect("no worker panicked").node.sessions_refused;
    assert_eq!(refused, 0);
}

#[test]
fn there_are_no_more_workers_than_the_memory_has_windows_for() {
    let mut config = Config { listen: (Ipv4Addr::LOCALHOST, 0).into(), open: true, ..Config::default() };
    config.workers = Workers::Fixed(64);
    config.limits.memory_mib = 2;
    assert_eq!(Relay::start(&config).unwrap().workers(), 2);
}

#[test]
fn the_daemon_has_as_many_descriptors_as_its_configuration_says() {
    let open_files = |workers: usize| {
        let more = ["--open", "--io", "uring", "--workers", &workers.to_string()];
        let daemon = Daemon::start("127.0.0.1:0", &more);
        let config = Config { workers: Workers::Fixed(workers), ..Config::default() };
        assert!(daemon.open_files() as u64 <= config.files_max(), "{} with {workers}", daemon.open_files());
        daemon.open_files() as u64
    };
    assert_eq!(open_files(3) - open_files(1), 2 * FILES_PER_WORKER);
}
