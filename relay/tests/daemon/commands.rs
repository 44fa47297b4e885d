//! The admin socket: whose it is, and the commands that come over it.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use codec::wire::control::{ByeReason, RefuseReason};
use mesh::{Event, LostReason};
use relay::commands::{Drain, Draining, Kick, Kicked, Reloaded, Whom};
use relay::status::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::admin::answer;
use crate::daemon::{Daemon, superpeerd};
use crate::peer::{Peer, all_until, secret};
use crate::reload;
use crate::wait::until;

/// A daemon that takes commands, with the folder of its socket.
struct Commanded {
    daemon: Daemon,
    folder: TempDir,
}

impl Commanded {
    fn start(more: &[&str]) -> Commanded {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let daemon = start_at(&socket, more).0;
        Commanded { daemon, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    fn post<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> T {
        let (code, body) = post(&self.socket(), path, &serde_json::to_string(request).unwrap());
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn status(&self) -> Status {
        let (code, body) = get(&self.socket(), "/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

fn start_at(socket: &Path, more: &[&str]) -> (Daemon, Vec<String>) {
    let arguments = ["--admin-socket", socket.to_str().unwrap()];
    Daemon::start_with_log("127.0.0.1:0", &[&arguments, more].concat())
}

pub(crate) fn post(socket: &Path, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\n");
    let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
    answer(UnixStream::connect(socket).unwrap(), &request)
}

pub(crate) fn get(socket: &Path, path: &str) -> (u16, String) {
    let connection = UnixStream::connect(socket).unwrap();
    answer(connection, &format!("GET {path} HTTP/1.1\r\nHost: relay\r\n\r\n"))
}

fn named(log: &[String], text: &str) -> bool {
    log.iter().any(|line| line.contains(text))
}

#[test]
fn the_socket_is_for_owner_and_group_and_goes_with_the_daemon() {
    let mut relay = Commanded::start(&["--open"]);
    let mode = fs::metadata(relay.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
    assert_eq!(get(&relay.socket(), "/healthz"), (200, "ok\n".to_owned()));
    until("metrics", || get(&relay.socket(), "/metrics").1.contains("superpeer_healthy 1").then_some(()));
    relay.daemon.signal("TERM");
    assert_eq!(relay.daemon.wait().code(), Some(0));
    assert!(!relay.socket().exists());
}

#[test]
fn a_dead_daemons_socket_is_replaced_a_live_ones_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    start_at(&socket, &["--open"]).0.kill();
    assert!(socket.exists(), "nobody was left to remove it");
    let (first, log) = start_at(&socket, &["--open"]);
    assert!(named(&log, "commands on"), "{log:?}");
    let (mut second, log) = start_at(&socket, &["--open"]);
    assert!(named(&log, "another daemon listens there"), "{log:?}");
    second.signal("TERM");
    assert_eq!(second.wait().code(), Some(0));
    let status: Status = serde_json::from_str(&get(&socket, "/status").1).unwrap();
    assert_eq!(status.listen, Some(first.address()));
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes");
    fs::write(&path, "keep me").unwrap();
    let (_daemon, log) = start_at(&path, &["--open"]);
    assert!(named(&log, "no commands") && named(&log, "no socket") && named(&log, "notes"), "{log:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "keep me");
}

#[test]
fn by_default_it_is_in_the_directory_that_systemd_gives_and_without_one_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let start = |set: bool| {
        let mut command = superpeerd(&["--listen", "127.0.0.1:0", "--open", "--admin", "off"]);
        command.env_remove("RUNTIME_DIRECTORY");
        if set {
            command.env("RUNTIME_DIRECTORY", folder.path());
        }
        Daemon::start_by(&mut command)
    };
    let (_daemon, log) = start(true);
    assert!(named(&log, "commands on"), "{log:?}");
    assert_eq!(get(&folder.path().join("admin.sock"), "/healthz").0, 200);
    assert!(!named(&start(false).1, "commands"));
}

#[test]
fn whoever_is_kicked_is_refused_until_the_time_is_over_and_others_stay() {
    let relay = Commanded::start(&["--open"]);
    let far = IpAddr::from(Ipv4Addr::new(127, 0, 0, 2));
    let mut publisher = Peer::publisher(relay.daemon.address(), secret(1));
    let mut viewer = Peer::viewer_from(far, relay.daemon.address(), secret(1).key());
    let mut peers = [&mut publisher, &mut viewer];
    all_until(&mut peers, "both are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    let kicked: Kicked = relay.post("/kick", &Kick { whom: Whom::Address(far), for_s: 3 });
    assert_eq!(kicked.sessions, 1);
    all_until(&mut peers, "the viewer is told and refused", |peers| {
        peers[1].was_told_bye(ByeReason::Done) && peers[1].was_refused(RefuseReason::Kicked)
    });
    all_until(&mut peers, "the viewer is let in again", |peers| peers[1].is_connected());
    assert!(!peers[0].events.iter().any(|event| matches!(event, Event::Lost { .. })));

    let channel = || Whom::Channel(secret(1).key().to_string());
    let kicked: Kicked = relay.post("/kick", &Kick { whom: channel(), for_s: 600 });
    assert_eq!(kicked.sessions, 2);
    all_until(&mut peers, "both are refused", |peers| {
        peers.iter().all(|peer| peer.was_refused(RefuseReason::Kicked))
    });
    let mut other = Peer::viewer(relay.daemon.address(), secret(2).key());
    other.until("another channel is as before", Peer::is_connected);
    let again: Kicked = relay.post("/kick", &Kick { whom: channel(), for_s: 0 });
    assert_eq!(again.sessions, 0);
    all_until(&mut peers, "both are let in again", |peers| peers.iter().all(|peer| peer.is_connected()));
}

#[test]
fn wrong_requests_are_refused_with_a_reason() {
    let relay = Commanded::start(&["--open"]);
    let channel = serde_json::to_string(&Kick { whom: Whom::Channel("ab".to_owned()), for_s: 1 }).unwrap();
    let (code, body) = post(&relay.socket(), "/kick", &channel);
    assert!(code == 422 && body.contains("64 hex digits"), "{code} {body}");
    let forever = Kick { whom: Whom::Address(Ipv4Addr::LOCALHOST.into()), for_s: u64::MAX };
    let (code, body) = post(&relay.socket(), "/kick", &serde_json::to_string(&forever).unwrap());
    assert!(code == 422 && body.contains("at most"), "{code} {body}");
    let drain = Drain { to: vec![relay.daemon.address(); 9], for_s: 1 };
    let (code, body) = post(&relay.socket(), "/drain", &serde_json::to_string(&drain).unwrap());
    assert!(code == 422 && body.contains("room for 8"), "{code} {body}");
    let (code, body) = post(&relay.socket(), "/drain/cancel", "");
    assert!(code == 422 && body.contains("not being drained"), "{code} {body}");
    assert_eq!(post(&relay.socket(), "/kick", "{").0, 400);
    assert_eq!(get(&relay.socket(), "/kick").0, 405);
}

#[test]
fn a_reload_says_what_is_wrong_where_or_what_waits_for_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("superpeer.toml");
    reload::write(&path, &[1], "");
    let relay = Commanded::start(&["--config", path.to_str().unwrap()]);
    reload::write(&path, &[1], "\nopne = true\n");
    let (code, body) = post(&relay.socket(), "/reload", "");
    assert!(code == 422 && body.contains("superpeer.toml:3: unknown key opne"), "{code} {body}");
    let mut viewer = Peer::viewer(relay.daemon.address(), secret(2).key());
    viewer.until("refused", |viewer| viewer.was_refused(RefuseReason::ChannelNotAllowed));
    reload::write(&path, &[1, 2], "io = \"mmsg\"\n");
    let reloaded: Reloaded = relay.post("/reload", &());
    assert_eq!(reloaded.at_restart, ["io"]);
    viewer.until("the new channel is carried", Peer::is_connected);
}

#[test]
fn a_drain_lets_all_go_to_the_named_nodes_and_ends_the_daemon() {
    let mut relay = Commanded::start(&["--open", "--workers", "2"]);
    let address = relay.daemon.address();
    let mut peers: Vec<Peer> = (1..40_u8)
        .map(|host| Peer::viewer_from(Ipv4Addr::new(127, 0, 1, host).into(), address, secret(1).key()))
        .chain([Peer::publisher(address, secret(1))])
        .collect();
    let mut all: Vec<&mut Peer> = peers.iter_mut().collect();
    all_until(&mut all, "all are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    until("all are counted", || (relay.status().sessions == 40).then_some(()));
    let to: SocketAddr = "127.0.0.9:7450".parse().unwrap();
    let begun: Draining = relay.post("/drain", &Drain { to: vec![to], for_s: 600 });
    assert!(begun.sessions_at_start > 0 && begun.seconds_left > 590, "{begun:?}");
    assert!(relay.status().drain.is_some());
    assert_eq!(get(&relay.socket(), "/readyz").0, 503);
    all_until(&mut all, "all are told", |peers| {
        let is_goodbye = |event: &Event| matches!(event, Event::Lost { reason: LostReason::Bye(ByeReason::Closing), nodes, .. } if nodes[..] == [to]);
        peers.iter().all(|peer| peer.events.iter().any(is_goodbye))
    });
    assert_eq!(relay.daemon.wait().code(), Some(0));
    assert!(!relay.socket().exists());
}

#[test]
fn a_drain_refuses_newcomers_with_the_named_nodes() {
    let relay = Commanded::start(&["--open"]);
    let to: SocketAddr = "127.0.0.9:7450".parse().unwrap();
    let mut late = Peer::viewer(relay.daemon.address(), secret(1).key());
    until("refused", || {
        // Each begins anew, so that the daemon does not end meanwhile.
        let _: Draining = relay.post("/drain", &Drain { to: vec![to], for_s: 600 });
        late.turn();
        let is_refusal = |event: &Event| matches!(event, Event::Refused { reason: RefuseReason::Closing, nodes, .. } if nodes[..] == [to]);
        late.events.iter().any(is_refusal).then_some(())
    });
}

#[test]
fn a_drain_ends_after_its_time_whoever_is_left_and_can_be_cancelled_before() {
    let mut relay = Commanded::start(&["--open"]);
    let mut viewer = Peer::viewer(relay.daemon.address(), secret(1).key());
    viewer.until("connected", Peer::is_connected);
    until("it is counted", || (relay.status().sessions == 1).then_some(()));
    let _: Draining = relay.post("/drain", &Drain { to: Vec::new(), for_s: 600 });
    let _: Draining = relay.post("/drain/cancel", &());
    assert_eq!(relay.status().drain, None);
    viewer.until("let in again, or still there", Peer::is_connected);
    let mut late = Peer::viewer(relay.daemon.address(), secret(1).key());
    late.until("newcomers are let in again", Peer::is_connected);
    let _: Draining = relay.post("/drain", &Drain { to: Vec::new(), for_s: 0 });
    assert_eq!(relay.daemon.wait().code(), Some(0));
    late.until("told", |late| late.was_told_bye(ByeReason::Closing));
}

#[test]
fn commands_do_not_put_a_drain_off() {
    let mut relay = Commanded::start(&["--open"]);
    let _: Draining = relay.post("/drain", &Drain { to: Vec::new(), for_s: 600 });
    let kick = r#"{"whom":{"address":"192.0.2.1"},"for_s":0}"#;
    let head = format!(
        "POST /kick HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        kick.len()
    );
    until("the relay ends, whatever else it is asked meanwhile", || {
        // It may end before it answers.
        let asked = UnixStream::connect(relay.socket()).and_then(|mut socket| {
            socket.write_all((head.clone() + kick).as_bytes())?;
            socket.read_to_end(&mut Vec::new())
        });
        (asked.is_err() || !relay.daemon.is_running()).then_some(())
    });
    assert_eq!(relay.daemon.wait().code(), Some(0));
}
