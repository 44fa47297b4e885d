//! Commands for whoever runs a relay, against a daemon.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use relay::commands::{Draining, Kicked};
use relay::status::{ChannelStatus, Status};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::lab::{Lab, noise};
use crate::processes::{Superpeer, until, until_bytes};

/// Exit status, standard output and standard error of a command with the daemon's socket.
fn run(arguments: &[&str], socket: &str) -> (i32, String, String) {
    let (command, mut output) = Superpeer::start_with_output(&[arguments, &["--socket", socket]].concat());
    let mut printed = String::new();
    output.read_to_string(&mut printed).unwrap();
    let (status, said) = command.wait();
    (status, printed, said)
}

/// What a command prints that must succeed.
fn succeed(arguments: &[&str], socket: &str) -> String {
    let (status, printed, said) = run(arguments, socket);
    assert_eq!(status, 0, "{arguments:?}: {printed}{said}");
    printed
}

/// The same, of JSON.
fn read<T: DeserializeOwned>(arguments: &[&str], socket: &str) -> T {
    let printed = succeed(&[arguments, &["--json"]].concat(), socket);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// What a command says that must fail.
fn fail(status: i32, arguments: &[&str], socket: &str) -> String {
    let (actual, printed, said) = run(arguments, socket);
    assert_eq!((actual, printed.as_str()), (status, ""), "{arguments:?}: {said}");
    said
}

#[test]
fn status_and_channels_say_what_is_carried_to_people_and_programs() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    assert_eq!(succeed(&["channels"], &socket), "");
    let lab = Lab::without_relay(&daemon.address);
    let (_publisher, mut input) = lab.start_publisher();
    let _viewer = lab.watch_into("out", &[]);
    input.write_all(&noise(100_000)).unwrap();
    let status = until("both are counted", || {
        Some(read::<Status>(&["status"], &socket)).filter(|status| {
            (status.sessions, status.subscribers) == (2, 1) && status.channels[0].shards_received > 0
        })
    });
    assert_eq!(status.listen.unwrap().to_string(), daemon.address);
    let said = succeed(&["status"], &socket);
    for expected in
        ["superpeerd ", ", well", "on UDP", "channels      1", "1 (2 sessions in all)", "bit/s in"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let channels: Vec<ChannelStatus> = read(&["channels"], &socket);
    let [channel] = &channels[..] else { panic!("{channels:?}") };
    assert!(lab.link.contains(&channel.key), "{channel:?}");
    let table = succeed(&["channels"], &socket);
    assert!(table.starts_with("SUBSCRIBERS") && table.contains(&channel.key), "{table}");
}

#[test]
fn without_a_daemon_every_command_says_what_to_do() {
    let mut daemon = Daemon::start();
    let (socket, nowhere) = (daemon.socket(), daemon.folder.path().join("none").to_str().unwrap().to_owned());
    daemon.kill();
    for command in [
        &["status"][..],
        &["channels"],
        &["reload"],
        &["kick", "192.0.2.1"],
        &["drain"],
        &["drain", "--cancel"],
    ] {
        let said = fail(1, command, &nowhere);
        assert!(
            said.contains(&nowhere) && said.contains("--socket") && said.contains("systemctl start"),
            "{said}"
        );
        let said = fail(1, command, &socket);
        assert!(said.contains("has ended") && said.contains("systemctl start"), "{said}");
    }
}

#[test]
fn top_without_a_terminal_says_what_to_use_instead() {
    let said = fail(2, &["top"], "/nowhere");
    assert!(said.contains("terminal") && said.contains("superpeer status --json"), "{said}");
}

#[test]
fn whoever_is_kicked_hears_of_it_and_comes_back_when_it_may() {
    let daemon = Daemon::start();
    let lab = Lab::without_relay(&daemon.address);
    let viewer = lab.watch_into("out", &[]);
    viewer.until_said("connected to ");
    let said = succeed(&["kick", "127.0.0.1", "--for", "2s"], &daemon.socket());
    assert_eq!(said, "1 sessions ended; refused for 2s\n");
    viewer.until_said("keeps this peer or channel out");
    until("it is back", || (viewer.said().matches("connected to ").count() == 2).then_some(()));
    let kicked: Kicked = read(&["kick", "--channel", &lab.link], &daemon.socket());
    assert_eq!(kicked.sessions, 1);
    until("it is refused", || (viewer.said().matches("keeps this peer").count() == 2).then_some(()));
    let again = succeed(&["kick", "--channel", &lab.link, "--for", "0s"], &daemon.socket());
    assert!(again.contains("let in again"), "{again}");
    until("it is back", || (viewer.said().matches("connected to ").count() == 3).then_some(()));
}

#[test]
fn a_reload_tells_what_is_wrong_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("superpeer.toml");
    fs::write(&path, "open = true\n").unwrap();
    let daemon = Daemon::start_with(&["--config", path.to_str().unwrap()]);
    fs::write(&path, "open = true\n[limits]\nsubscriber = 5\n").unwrap();
    let said = fail(1, &["reload"], &daemon.socket());
    assert!(said.contains("superpeer.toml:3: unknown key limits.subscriber"), "{said}");
    fs::write(&path, "open = false\nio = \"mmsg\"\n").unwrap();
    let (status, printed, said) = run(&["reload"], &daemon.socket());
    assert_eq!((status, printed.as_str()), (0, "the configuration was read anew\n"));
    assert!(said.contains("started again: io"), "{said}");
}

#[test]
fn a_drain_moves_everybody_to_another_daemon_and_the_first_ends_well() {
    let (mut leaving, other) = (Daemon::start(), Daemon::start());
    let lab = Lab::without_relay(&leaving.address);
    let viewer = lab.watch_into("out", &["--delay-ms", "10000"]);
    viewer.until_said("connected to ");
    let (publisher, mut input) = lab.start_publisher();
    let (first, second) = (noise(100_000), noise(200_000));
    input.write_all(&first).unwrap();
    until_bytes(&lab.path("out"), first.len());
    let (status, _, said) = run(&["drain", "--to", &other.address, "--for", "10m"], &leaving.socket());
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("has ended"), "{said}");
    assert_eq!(leaving.wait().code(), Some(0));
    let there = format!("connected to {}", other.address);
    publisher.until_said(&there);
    viewer.until_said(&there);
    input.write_all(&second).unwrap();
    drop(input);
    publisher.succeed();
    viewer.succeed();
    assert!(fs::read(lab.path("out")).unwrap() == [first, second].concat());
}

/// A relay that is being drained for as long as a test likes.
struct Drained {
    folder: TempDir,
    status: Arc<Mutex<Status>>,
    asked: Arc<AtomicU64>,
}

impl Drained {
    fn start() -> Drained {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("admin.sock")).unwrap();
        let drain = Some(Draining { sessions_at_start: 9, sessions: 7, seconds_left: 600 });
        let status = Arc::new(Mutex::new(Status { drain, uptime_s: 100, ..Status::default() }));
        let asked = Arc::new(AtomicU64::new(0));
        let (of_thread, asked_of_thread) = (Arc::clone(&status), Arc::clone(&asked));
        thread::spawn(move || {
            for mut connection in listener.incoming().map_while(Result::ok) {
                let mut lines = BufReader::new(connection.try_clone().unwrap()).lines().map_while(Result::ok);
                let request = lines.next().unwrap();
                lines.find(String::is_empty);
                let status = of_thread.lock().unwrap().clone();
                let answer = match request.starts_with("POST") {
                    true => serde_json::to_string(&drain).unwrap(),
                    false => serde_json::to_string(&status).unwrap(),
                };
                asked_of_thread.fetch_add(1, Ordering::Relaxed);
                // The command may have been ended meanwhile.
                let _ =
                    write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
            }
        });
        Drained { folder, status, asked }
    }

    fn drain(&self) -> Superpeer {
        let socket = self.folder.path().join("admin.sock");
        let drain = Superpeer::start(&["drain", "--socket", socket.to_str().unwrap()]);
        until("it looks how far that has got", || (self.asked.load(Ordering::Relaxed) >= 2).then_some(()));
        drain
    }
}

#[test]
fn ctrl_c_ends_the_command_and_not_the_drain() {
    let drain = Drained::start().drain();
    drain.signal("INT");
    let said = drain.succeed();
    assert!(said.contains("goes on") && said.contains("drain --cancel"), "{said}");
}

#[test]
fn a_drain_that_somebody_else_cancels_is_a_failure_and_a_relay_started_anew_is_none() {
    let relay = Drained::start();
    let drain = relay.drain();
    relay.status.lock().unwrap().drain = None;
    let (status, said) = drain.wait();
    assert_eq!(status, 1);
    assert!(said.contains("cancelled"), "{said}");

    let relay = Drained::start();
    let drain = relay.drain();
    *relay.status.lock().unwrap() = Status { uptime_s: 1, ..Status::default() };
    assert!(drain.succeed().contains("has ended"));
}
