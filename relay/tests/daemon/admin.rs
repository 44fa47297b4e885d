//! The admin listener: what it shows, and to whom.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use relay::status::Status;

use crate::daemon::Daemon;
use crate::peer::{Peer, all_until, secret};
use crate::wait::until;

/// A daemon with an admin listener, and where that is.
pub(crate) fn start() -> (Daemon, SocketAddr) {
    start_with("127.0.0.1:0", &["--open"])
}

/// The same, with more to say to it.
pub(crate) fn start_with(listen: &str, more: &[&str]) -> (Daemon, SocketAddr) {
    let (daemon, log) = Daemon::start_with_log(listen, &[more, &["--admin", "127.0.0.1:0"]].concat());
    (daemon, address_in(&log))
}

/// Where the log says that the admin listener is.
pub(crate) fn address_in(log: &[String]) -> SocketAddr {
    let mut lines = log.iter();
    let line = lines.find_map(|line| line.split_once("status and metrics on http://"));
    line.expect("a line that names it").1.parse().unwrap()
}

/// Asks for a path; status and body.
pub(crate) fn get(admin: SocketAddr, path: &str, host: &str) -> (u16, String) {
    let connection = TcpStream::connect(admin).unwrap();
    answer(connection, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

/// What a request is answered by: status and body.
pub(crate) fn answer(mut connection: impl Read + Write, request: &str) -> (u16, String) {
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub(crate) fn status(admin: SocketAddr) -> Status {
    let (code, body) = get(admin, "/status", "localhost");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn status_and_metrics_say_what_the_relay_carries() {
    let (daemon, admin) = start();
    assert_eq!(get(admin, "/healthz", "localhost"), (200, "ok\n".to_owned()));
    let mut publisher = Peer::publisher(daemon.address(), secret(1));
    let mut viewer = Peer::viewer(daemon.address(), secret(1).key());
    let mut both = [&mut publisher, &mut viewer];
    all_until(&mut both, "both are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    both[0].push(&[7; 50_000]);
    all_until(&mut both, "the bytes are there", |peers| peers[1].output.len() == 50_000);
    let seen = until("a status with both of them", || {
        both.iter_mut().for_each(|peer| peer.turn());
        Some(status(admin)).filter(|status| {
            let totals = &status.totals;
            // Those without a copy are counted when the kernel has done with them.
            let trains = totals.copied_bytes + totals.zero_copy_bytes;
            status.subscribers == 1 && totals.sent_bytes > 50_000 && trains == totals.shards_sent * 1_232
        })
    });
    assert!(seen.is_healthy && seen.listen == Some(daemon.address()), "{seen:?}");
    assert_eq!((seen.sessions, seen.channels.len(), seen.rates.len()), (2, 1, 5), "{seen:?}");
    // Each is of a moment of its own.
    assert!(seen.rss_bytes.abs_diff(daemon.resident_bytes()) < 4 << 20, "{seen:?}");
    let by_workers: f64 = seen.workers.iter().map(|worker| worker.cpu_s).sum();
    assert!(by_workers > 0.0 && seen.cpu_s > by_workers, "{seen:?}");
    let totals = &seen.totals;
    assert!(totals.shards_sent > 40 && (1..=totals.shards_sent).contains(&totals.trains_sent), "{totals:?}");
    assert!(totals.sent_datagrams > totals.shards_sent && totals.gave_up == 0, "{totals:?}");
    assert_eq!(seen.uses_io_uring, seen.probe.starts_with("io_uring"), "{seen:?}");
    let channel = &seen.channels[0];
    assert_eq!(
        (channel.key.clone(), channel.subscribers, channel.upstreams),
        (secret(1).key().to_string(), 1, 1)
    );
    assert!(channel.shards_received > 40 && channel.shards_lost == 0, "{channel:?}");
    assert_eq!((channel.subscribers_share, channel.shards_sent), (1.0, totals.shards_sent), "{channel:?}");
    assert!(
        !seen.workers.is_empty() && seen.workers.iter().map(|worker| worker.sessions).sum::<usize>() == 2
    );

    let (code, metrics) = get(admin, "/metrics", "localhost");
    assert_eq!(code, 200);
    let line = |name: &str| metrics.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    assert_eq!(line("superpeer_subscribers ").as_deref(), Some("superpeer_subscribers 1"), "{metrics}");
    let labelled = format!("superpeer_channel_subscribers{{channel=\"{}\"}}", &channel.key[..16]);
    assert_eq!(line(&labelled), Some(format!("{labelled} 1")), "{metrics}");
    let strained = "superpeer_sessions_strained_total 0";
    assert_eq!(line("superpeer_sessions_strained_total").as_deref(), Some(strained), "{metrics}");
    assert!(line("superpeer_dropped_total{reason=\"bad signature\"} 0").is_some(), "{metrics}");
    assert!(!metrics.contains("127.0.0.1"), "no label per peer: {metrics}");
}

#[test]
fn pages_of_others_and_unknown_paths_are_refused() {
    let (_daemon, admin) = start();
    assert_eq!(get(admin, "/status", "rebound.example:7451").0, 403);
    assert_eq!(get(admin, "/nothing", "localhost").0, 404);
}

#[test]
fn an_admin_port_in_use_costs_the_status_and_not_the_relay() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let (daemon, log) = Daemon::start_with_log("127.0.0.1:0", &["--open", "--admin", &listen]);
    let warning = log.iter().find(|line| line.contains("no status and metrics")).expect("a warning");
    assert!(warning.contains(&listen) && warning.contains("admin.listen"), "{warning}");
    crate::peer::stream_through(daemon.address(), daemon.address(), secret(1));
}
