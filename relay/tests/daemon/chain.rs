//! Relays that pull channels from relays.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use relay::status::{UpstreamRole, UpstreamState, UpstreamStatus};
use tempfile::TempDir;

use crate::admin::{get, start_with, status};
use crate::daemon::Daemon;
use crate::lossy::Lossy;
use crate::peer::{Peer, all_until, secret};
use crate::wait::until;

/// A daemon with a configuration of its own.
struct Relay {
    daemon: Daemon,
    admin: SocketAddr,
    folder: TempDir,
}

impl Relay {
    /// Listens at 127.0.0.`host`.
    fn start(host: u8, text: &str, more: &[&str]) -> Relay {
        Relay::start_at(&format!("127.0.0.{host}:0"), text, more)
    }

    fn start_at(listen: &str, text: &str, more: &[&str]) -> Relay {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("superpeer.toml");
        std::fs::write(&path, text).unwrap();
        let (daemon, admin) = start_with(listen, &[&["--config", as_str(&path)], more].concat());
        Relay { daemon, admin, folder }
    }

    fn address(&self) -> SocketAddr {
        self.daemon.address()
    }

    /// Has it go on with another configuration.
    fn reload(&self, text: &str) {
        std::fs::write(self.folder.path().join("superpeer.toml"), text).unwrap();
        self.daemon.signal("HUP");
    }

    fn upstreams(&self) -> Vec<UpstreamStatus> {
        status(self.admin).upstreams
    }

    fn states(&self) -> Vec<UpstreamState> {
        self.upstreams().iter().map(|upstream| upstream.state).collect()
    }

    /// Waits until its upstreams are in these states, while the peers go on.
    fn until_states(&self, peers: &mut [&mut Peer], wanted: &[UpstreamState]) {
        until(&format!("{wanted:?}"), || {
            peers.iter_mut().for_each(|peer| peer.turn());
            (self.states() == wanted).then_some(())
        });
    }
}

fn as_str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A configuration that carries channel `number` and pulls it from these.
fn pulling(number: u8, upstreams: &[String]) -> String {
    format!("channels = [{{ link = \"{}\", upstreams = {upstreams:?} }}]\n", secret(number).key())
}

fn name(relay: &Relay) -> String {
    relay.address().to_string()
}

/// 20,000 bytes that are nowhere the same.
fn piece(number: u32) -> Vec<u8> {
    (number * 5_000..).flat_map(u32::to_le_bytes).take(20_000).collect()
}

/// Publishes ten pieces while all go on; returns them.
fn stream(peers: &mut [&mut Peer], first: u32) -> Vec<u8> {
    let mut published = Vec::new();
    for number in first..first + 10 {
        peers[0].push(&piece(number));
        published.extend(piece(number));
        peers.iter_mut().for_each(|peer| peer.turn());
    }
    published
}

fn until_all_have(peers: &mut [&mut Peer], published: &[u8]) {
    all_until(peers, "all have it", |peers| {
        peers[1..].iter().all(|peer| peer.output.len() >= published.len())
    });
    assert!(peers[1..].iter().all(|peer| peer.output == published));
}

fn a_stream_goes_through_relays_of_several_workers(io: &str) {
    let workers = ["--io", io, "--workers", "3"];
    let origin = Relay::start(1, "open = true", &workers);
    let middle = Relay::start(2, &pulling(1, &[name(&origin)]), &workers);
    let open = format!("open = true\n{}", pulling(1, &[name(&middle)]));
    let edge = Relay::start(3, &open, &workers);
    let mut publisher = Peer::publisher(origin.address(), secret(1));
    // At as many addresses, so that they are heard by all workers.
    let mut viewers: Vec<Peer> = (10..20)
        .map(|host| {
            Peer::viewer_from(IpAddr::from(Ipv4Addr::new(127, 0, 0, host)), edge.address(), secret(1).key())
        })
        .collect();
    let mut peers: Vec<&mut Peer> = [&mut publisher].into_iter().chain(&mut viewers).collect();
    all_until(&mut peers, "all are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    edge.until_states(&mut peers, &[UpstreamState::Connected]);
    let mut published = stream(&mut peers, 0);
    until_all_have(&mut peers, &published);

    let seen = until("figures of the upstream", || {
        peers.iter_mut().for_each(|peer| peer.turn());
        let [upstream] = edge.upstreams().try_into().unwrap();
        Some(upstream).filter(|upstream| {
            upstream.session.is_some_and(|session| session.rtt_us.is_some() && session.shards_received > 150)
        })
    });
    assert_eq!((seen.role, seen.address), (UpstreamRole::Relay, Some(middle.address())));
    assert_eq!((seen.channel, seen.name), (secret(1).key().to_string(), name(&middle)));
    let session = seen.session.unwrap();
    assert!(session.shards_lost == 0 && session.share == 1.0, "{session:?}");
    assert!(session.delay_us.is_some() && session.delay_us_min <= session.delay_us, "{session:?}");
    let from_publisher = until("figures of the publisher", || {
        peers.iter_mut().for_each(|peer| peer.turn());
        let [upstream] = origin.upstreams().try_into().unwrap();
        Some(upstream).filter(|upstream| upstream.session.is_some_and(|session| session.delay_us.is_some()))
    });
    assert_eq!(
        (from_publisher.role, from_publisher.state),
        (UpstreamRole::Publisher, UpstreamState::Connected)
    );
    let (_, metrics) = get(origin.admin, "/metrics", "localhost");
    assert!(metrics.contains("superpeer_upstreams{state=\"connected\"} 1"), "{metrics}");
    assert!(metrics.contains("superpeer_channel_arrival_delay_seconds{channel="), "{metrics}");
    assert!(!metrics.contains("127.0.0."), "no label per peer: {metrics}");

    // A late one starts at a join point.
    let mut late = Peer::viewer(edge.address(), secret(1).key());
    late.until("connected", Peer::is_connected);
    published.extend(stream(&mut peers, 10));
    peers[0].finish();
    peers.push(&mut late);
    all_until(&mut peers, "the end", |peers| {
        peers[1..].iter().all(|peer| peer.ended) && peers[0].is_drained()
    });
    let late = peers.pop().unwrap();
    assert!(peers[1..].iter().all(|peer| peer.output == published));
    assert!(published.ends_with(&late.output) && late.output.len() >= 20_000, "{} bytes", late.output.len());
}

#[test]
fn a_stream_goes_through_relays_of_several_workers_through_io_uring() {
    a_stream_goes_through_relays_of_several_workers("uring");
}

#[test]
fn a_stream_goes_through_relays_of_several_workers_without_io_uring() {
    a_stream_goes_through_relays_of_several_workers("mmsg");
}

#[test]
fn what_is_lost_on_the_way_from_an_upstream_is_made_good() {
    let origin = Relay::start(1, "open = true", &[]);
    let way = Lossy::to(origin.address(), 10);
    let edge = Relay::start(2, &pulling(1, &[way.address.to_string()]), &["--workers", "2"]);
    let mut publisher = Peer::publisher(origin.address(), secret(1));
    let mut viewer = Peer::viewer(edge.address(), secret(1).key());
    let mut peers = [&mut publisher, &mut viewer];
    all_until(&mut peers, "both are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    edge.until_states(&mut peers, &[UpstreamState::Connected]);
    let (mut published, mut rounds) = (Vec::new(), 0);
    // Figures are of a session, which a machine that stands still for seconds ends: then those of the next are as good.
    let session = until("figures of it", || {
        published.extend(stream(&mut peers, rounds * 10));
        rounds += 1;
        until_all_have(&mut peers, &published);
        let [upstream] = edge.upstreams().try_into().unwrap();
        let is_mended = |recovered: u64, repaired: u64| recovered + repaired > 20 && repaired > 0;
        let enough = upstream.session.filter(|seen| is_mended(seen.shards_recovered, seen.shards_repaired));
        enough.filter(|_| way.lost() > 80)
    });
    peers[0].finish();
    all_until(&mut peers, "the end", |peers| peers[1].ended);
    assert!(peers[1].output == published);
    println!("{} lost on the way; {session:?}", way.lost());
}

#[test]
fn an_upstream_that_is_killed_and_started_anew_costs_the_viewers_of_the_pulling_relay_nothing() {
    let origin = Daemon::start("127.0.0.1:0", &["--open"]);
    let address = origin.address();
    let edge = Relay::start(2, &pulling(1, &[address.to_string()]), &["--workers", "2"]);
    let mut publisher = Peer::publisher(address, secret(1));
    let mut viewer = Peer::viewer(edge.address(), secret(1).key());
    let mut peers = [&mut publisher, &mut viewer];
    all_until(&mut peers, "both are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    edge.until_states(&mut peers, &[UpstreamState::Connected]);
    let mut published = stream(&mut peers, 0);
    until_all_have(&mut peers, &published);
    origin.kill();
    let killed_at = std::time::Instant::now();
    let _origin = Daemon::start(&address.to_string(), &["--open"]);
    published.extend(stream(&mut peers, 10));
    until_all_have(&mut peers, &published);
    println!("the stream went on {:?} after the kill", killed_at.elapsed());
    published.extend(stream(&mut peers, 20));
    peers[0].finish();
    all_until(&mut peers, "the end", |peers| peers[1].ended);
    assert!(peers[1].output == published);
}

#[test]
fn of_two_upstreams_the_other_serves_when_one_goes() {
    let one = Daemon::start("127.0.0.4:0", &["--open"]);
    let mut two = Daemon::start("127.0.0.5:0", &["--open"]);
    let both = [one.address().to_string(), two.address().to_string()];
    // So many that the two are hardly steered to the same one.
    let edge = Relay::start(2, &pulling(1, &both), &["--workers", "8"]);
    let mut publisher = Peer::publisher(one.address(), secret(1)).also(two.address());
    let mut viewer = Peer::viewer(edge.address(), secret(1).key());
    let mut peers = [&mut publisher, &mut viewer];
    all_until(&mut peers, "the viewer is connected", |peers| peers[1].is_connected());
    edge.until_states(&mut peers, &[UpstreamState::Connected, UpstreamState::Waiting]);
    let mut published = stream(&mut peers, 0);
    until_all_have(&mut peers, &published);
    // Without a word.
    let address = one.address();
    one.kill();
    published.extend(stream(&mut peers, 10));
    until_all_have(&mut peers, &published);
    edge.until_states(&mut peers, &[UpstreamState::Waiting, UpstreamState::Connected]);
    // And with one.
    let _one = Daemon::start(&address.to_string(), &["--open"]);
    two.signal("TERM");
    two.wait();
    published.extend(stream(&mut peers, 20));
    until_all_have(&mut peers, &published);
    edge.until_states(&mut peers, &[UpstreamState::Connected, UpstreamState::Waiting]);
}

#[test]
fn upstreams_come_and_go_with_a_signal() {
    let one = Relay::start(1, "open = true", &[]);
    let two = Relay::start(4, "open = true", &[]);
    let edge = Relay::start(2, &format!("channels = [\"{}\"]", secret(1).key()), &["--workers", "4"]);
    let mut publisher = Peer::publisher(one.address(), secret(1)).also(two.address());
    let mut viewer = Peer::viewer(edge.address(), secret(1).key());
    let mut peers = [&mut publisher, &mut viewer];
    all_until(&mut peers, "the viewer is connected", |peers| peers[1].is_connected());
    assert_eq!(edge.states(), []);
    let (is, waits) = (UpstreamState::Connected, UpstreamState::Waiting);
    let mut published = Vec::new();
    for (upstreams, states) in [
        (vec![name(&one)], vec![is]),
        (vec![name(&two), name(&one)], vec![waits, is]),
        (vec![name(&two)], vec![is]),
    ] {
        edge.reload(&pulling(1, &upstreams));
        edge.until_states(&mut peers, &states);
        published.extend(stream(&mut peers, published.len() as u32 / 20_000));
        until_all_have(&mut peers, &published);
    }
    // Still carried, but not pulled; then not carried.
    let taken = |relay: &Relay| status(relay.admin).subscribers;
    edge.reload(&format!("channels = [\"{}\"]", secret(1).key()));
    edge.until_states(&mut peers, &[]);
    until("the upstream was told", || {
        peers.iter_mut().for_each(|peer| peer.turn());
        (taken(&two) == 0).then_some(())
    });
    assert!(peers[1].is_connected() && taken(&one) == 0);
    edge.reload(&pulling(1, &[name(&one)]));
    edge.until_states(&mut peers, &[is]);
    edge.reload("");
    until("the upstream was told", || {
        peers.iter_mut().for_each(|peer| peer.turn());
        (taken(&one) == 0 && !peers[1].is_connected()).then_some(())
    });
}

#[test]
fn relays_that_pull_from_each_other_and_from_themselves_carry_the_channel_once() {
    let listed = format!("channels = [\"{}\"]", secret(1).key());
    let [left, right] = [1, 2].map(|host| Relay::start(host, &listed, &["--workers", "2"]));
    // Each has the same file, as relays of a fleet do.
    let all = [name(&left), name(&right)];
    left.reload(&pulling(1, &all));
    right.reload(&pulling(1, &all));
    left.until_states(&mut [], &[UpstreamState::Itself, UpstreamState::Connected]);
    until("each pulls from the other", || {
        (right.states().first() == Some(&UpstreamState::Connected)).then_some(())
    });
    let mut publisher = Peer::publisher(right.address(), secret(1));
    let mut viewers = [&left, &right].map(|relay| Peer::viewer(relay.address(), secret(1).key()));
    let [one, two] = &mut viewers;
    let mut peers = [&mut publisher, one, two];
    all_until(&mut peers, "all are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    let published = stream(&mut peers, 0);
    until_all_have(&mut peers, &published);
    let session = until("what came back is known as such", || {
        peers.iter_mut().for_each(|peer| peer.turn());
        let upstreams = right.upstreams();
        let relay = upstreams.iter().find(|upstream| {
            upstream.state == UpstreamState::Connected && upstream.role == UpstreamRole::Relay
        })?;
        relay.session.filter(|session| session.duplicates > 150)
    });
    assert_eq!(session.shards_received, 0, "{session:?}");
    peers[0].finish();
    all_until(&mut peers, "the end", |peers| peers[1..].iter().all(|peer| peer.ended));
    assert!(peers[1..].iter().all(|peer| peer.output == published));
}

#[test]
fn an_upstream_that_refuses_for_good_is_said_and_is_asked_again_once_the_file_is_read_anew() {
    let origin = Relay::start(1, "", &[]);
    let edge = Relay::start(2, "", &[]);
    edge.reload(&pulling(1, &[name(&origin)]));
    let refusal =
        std::iter::repeat_with(|| edge.daemon.next_line()).find(|line| line.contains("refuses")).unwrap();
    assert!(refusal.contains(&name(&origin)) && refusal.contains("does not carry that channel"), "{refusal}");
    edge.until_states(&mut [], &[UpstreamState::Refused]);
    assert_eq!(edge.upstreams()[0].reason.as_deref(), Some("this node does not carry that channel"));
    origin.reload(&format!("channels = [\"{}\"]", secret(1).key()));
    until("the origin carries it", || {
        let mut viewer = Peer::viewer(origin.address(), secret(1).key());
        all_until(&mut [&mut viewer], "an answer", |peers| !peers[0].events.is_empty());
        viewer.is_connected().then_some(())
    });
    edge.reload(&pulling(1, &[name(&origin)]));
    edge.until_states(&mut [], &[UpstreamState::Connected]);
}

#[test]
fn upstreams_are_names_that_may_not_be_found() {
    let origin = Relay::start(1, "open = true", &[]);
    let local = format!("localhost:{}", origin.address().port());
    let edge = Relay::start(2, &pulling(1, &["nowhere.invalid:7450".to_owned(), local.clone()]), &[]);
    let connected = until("it is found", || {
        edge.upstreams().into_iter().find(|upstream| upstream.state == UpstreamState::Connected)
    });
    assert_eq!((connected.name, connected.address), (local, Some(origin.address())));
    let other = edge.upstreams()[0].state;
    assert!(matches!(other, UpstreamState::NotFound | UpstreamState::LookingUp), "{other:?}");
}
