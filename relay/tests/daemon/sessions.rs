//! Sessions with the daemon: granted, refused, ended, taken up again.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use codec::ChannelLink;
use codec::wire::control::{ByeReason, RefuseReason};

use crate::daemon::Daemon;
use crate::peer::{Peer, all_until, secret, stream_through};

#[test]
fn a_signal_ends_the_daemon_after_a_goodbye_to_every_peer() {
    for signal in ["TERM", "INT"] {
        let mut daemon = Daemon::start("127.0.0.1:0", &["--open"]);
        let mut publisher = Peer::publisher(daemon.address(), secret(1));
        let mut viewers = [(); 3].map(|()| Peer::viewer(daemon.address(), secret(1).key()));
        let mut peers: Vec<&mut Peer> = viewers.iter_mut().chain([&mut publisher]).collect();
        all_until(&mut peers, "all are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0), "SIG{signal}");
        // What was said before the end waits in the sockets.
        all_until(&mut peers, "all were told", |peers| {
            peers.iter().all(|peer| peer.was_told_bye(ByeReason::Closing))
        });
    }
}

#[test]
fn a_daemon_without_peers_ends_too() {
    let mut daemon = Daemon::start("127.0.0.1:0", &["--open"]);
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn one_port_serves_ipv4_and_ipv6() {
    if let Err(error) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        eprintln!("not tested: this machine has no IPv6: {error}");
        return;
    }
    let daemon = Daemon::start("[::]:0", &["--open"]);
    let port = daemon.address().port();
    let ipv4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ipv6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    stream_through(ipv4, ipv6, secret(1));
    stream_through(ipv6, ipv4, secret(2));
}

#[test]
fn only_listed_channels_are_carried() {
    let link = ChannelLink { key: secret(1).key(), name: Some("listed".to_owned()), relays: Vec::new() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("superpeer.toml");
    std::fs::write(&path, format!("listen = \"127.0.0.1:1\"\nchannels = [\"{link}\"]\n")).unwrap();
    let daemon = Daemon::start("127.0.0.1:0", &["--config", path.to_str().unwrap()]);

    stream_through(daemon.address(), daemon.address(), secret(1));
    let mut publisher = Peer::publisher(daemon.address(), secret(2));
    let mut viewer = Peer::viewer(daemon.address(), secret(2).key());
    all_until(&mut [&mut publisher, &mut viewer], "both are refused", |peers| {
        peers.iter().all(|peer| peer.was_refused(RefuseReason::ChannelNotAllowed))
    });
}

#[test]
fn a_daemon_with_nothing_to_carry_says_so_and_refuses_everybody() {
    let mut daemon = Daemon::start("127.0.0.1:0", &[]);
    let mut viewer = Peer::viewer(daemon.address(), secret(1).key());
    viewer.until("refused", |viewer| viewer.was_refused(RefuseReason::ChannelNotAllowed));
    assert!(daemon.is_running());
}

#[test]
fn a_killed_and_restarted_daemon_is_found_again_by_itself() {
    let daemon = Daemon::start("127.0.0.1:0", &["--open"]);
    let address = daemon.address();
    let mut publisher = Peer::publisher(address, secret(1));
    let mut viewer = Peer::viewer(address, secret(1).key());
    let mut published = Vec::new();
    let mut push = |publisher: &mut Peer, byte: u8| {
        published.extend([byte; 50_000]);
        publisher.push(&[byte; 50_000]);
        published.len()
    };
    all_until(&mut [&mut publisher, &mut viewer], "both are connected", |peers| {
        peers.iter().all(|peer| peer.is_connected())
    });
    let first = push(&mut publisher, 1);
    all_until(&mut [&mut publisher, &mut viewer], "the first piece", |peers| peers[1].output.len() == first);
    daemon.kill();
    let while_away = push(&mut publisher, 2);
    publisher.turn();

    let killed_at = std::time::Instant::now();
    let _daemon = Daemon::start(&address.to_string(), &["--open"]);
    all_until(&mut [&mut publisher, &mut viewer], "what was published while the daemon was away", |peers| {
        peers[1].output.len() == while_away
    });
    println!("the stream went on {:?} after the daemon was started again", killed_at.elapsed());
    push(&mut publisher, 3);
    publisher.finish();
    all_until(&mut [&mut publisher, &mut viewer], "the end", |peers| peers[1].ended && peers[0].is_drained());
    assert!(viewer.output == published, "{} of {} bytes", viewer.output.len(), published.len());
}
