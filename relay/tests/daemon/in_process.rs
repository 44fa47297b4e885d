//! The relay as a library.

use std::net::{Ipv4Addr, SocketAddr};

use codec::wire::control::ByeReason;
use mesh::DropReason;
use relay::plane::OpenError;
use relay::{Config, Relay, StartError};

use crate::peer::{Peer, all_until, secret, stream_through};
use crate::wait::until;

fn open_at(listen: SocketAddr) -> Config {
    Config { listen, open: true, ..Config::default() }
}

fn start() -> Relay {
    Relay::start(&open_at((Ipv4Addr::LOCALHOST, 0).into())).unwrap()
}

#[test]
fn a_port_has_one_relay_at_a_time() {
    let relay = start();
    let listen = relay.local_addr();
    assert_ne!(listen.port(), 0);
    let error = Relay::start(&open_at(listen)).err().expect("the port is taken");
    assert!(
        matches!(&error, StartError::Plane(OpenError::AddressInUse { listen: named }) if *named == listen),
        "{error}"
    );
    assert!(relay.is_alive(), "the first is not disturbed");
    drop(relay);
    let again = Relay::start(&open_at(listen)).expect("the port is free again");
    assert_eq!(again.local_addr(), listen);
}

#[test]
fn a_dropped_relay_says_goodbye() {
    let relay = start();
    let mut viewer = Peer::viewer(relay.local_addr(), secret(1).key());
    viewer.until("connected", Peer::is_connected);
    drop(relay);
    viewer.until("told", |viewer| viewer.was_told_bye(ByeReason::Closing));
}

#[test]
fn what_it_carries_can_be_counted() {
    let relay = start();
    let address = relay.local_addr();
    let mut publisher = Peer::publisher(address, secret(1));
    let mut viewer = Peer::viewer(address, secret(1).key());
    let mut both = [&mut publisher, &mut viewer];
    all_until(&mut both, "both are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    both[0].push(&[7; 50_000]);
    all_until(&mut both, "the bytes are there", |peers| peers[1].output.len() == 50_000);
    let live = until("a snapshot with both of them", || {
        both.iter_mut().for_each(|peer| peer.turn());
        relay.take_snapshot().filter(|snapshot| snapshot.sessions == 2 && snapshot.node.shards_sent > 0)
    });
    assert_eq!(live.channels.len(), 1);
    let channel = &live.channels[0];
    assert_eq!((channel.key, channel.subscribers, channel.upstreams), (secret(1).key(), 1, 1));
    assert!(channel.chunks > 0 && live.window_bytes >= channel.chunks * mesh::SLOT_BYTES, "{live:?}");

    let last = relay.stop().expect("the worker did not panic");
    assert!(last.at >= live.at);
    assert_eq!(last.node.sessions_granted, 2);
    assert!(last.node.shards_stored as usize * codec::DATAGRAM_BYTES > 50_000, "{last:?}");
    assert!(last.node.shards_sent >= last.node.shards_stored, "{last:?}");
    assert!(last.plane.bytes_received > 50_000 && last.plane.bytes_sent > 50_000, "{last:?}");
    assert!(!last.cpu.is_zero(), "{last:?}");
}

#[test]
fn what_it_drops_is_counted_by_reason() {
    let relay = start();
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"hello?", relay.local_addr()).unwrap();
    until("the datagram was counted", || {
        let snapshot = relay.take_snapshot()?;
        (snapshot.node.dropped_for(DropReason::NotOurs) == 1).then_some(())
    });
    stream_through(relay.local_addr(), relay.local_addr(), secret(1));
}
