//! `superpeer doctor`: what it says of this machine, of sandboxes, and of relays. What this machine lacks is not known
//! here: the shape is, and what is made so on purpose.
#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin_cmd;
use mesh::limits::LEASE;
use relay::{Config, Relay, Snapshot};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde_json::Value;

/// Exit status, standard output, standard error.
fn doctor(arguments: &[&str]) -> (i32, String, String) {
    let output = cargo_bin_cmd!("superpeer").arg("doctor").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("an exit status"), text(output.stdout), text(output.stderr))
}

/// The report as JSON, after looking at its shape and at the exit status, which has to fit it.
fn report(arguments: &[&str]) -> Value {
    let all: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let (status, stdout, stderr) = doctor(&all);
    assert_eq!(stdout.lines().count(), 1, "one object: {stdout}{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let mut counted = (0, 0);
    for check in report["checks"].as_array().unwrap() {
        let is_text = |name: &str| check[name].as_str().is_some_and(|text| !text.is_empty());
        assert_eq!(check.as_object().unwrap().len(), 5, "{check}");
        assert!(is_text("id") && is_text("value"), "{check}");
        let remedied = match check["status"].as_str() {
            Some("ok") => check["cost"].is_null() && check["fix"].is_null(),
            Some("note") => is_text("cost") && is_text("fix"),
            Some("problem") => is_text("cost") && is_text("fix"),
            _ => false,
        };
        assert!(remedied, "a status, and with it cost and fix: {check}");
        counted.0 += u64::from(check["status"] == "problem");
        counted.1 += u64::from(check["status"] == "note");
    }
    assert_eq!((report["problems"].as_u64(), report["notes"].as_u64()), (Some(counted.0), Some(counted.1)));
    assert_eq!((status, stderr.is_empty()), if counted.0 == 0 { (0, true) } else { (1, false) }, "{stderr}");
    report
}

/// The finding of this id: there is one.
fn check<'r>(report: &'r Value, id: &str) -> &'r Value {
    let checks = report["checks"].as_array().unwrap();
    let mut found = checks.iter().filter(|check| check["id"] == id);
    let one = found.next().unwrap_or_else(|| panic!("{id} in {report}"));
    assert!(found.next().is_none(), "{id} once in {report}");
    one
}

fn has(check: &Value, field: &str, text: &str) -> bool {
    check[field].as_str().is_some_and(|value| value.contains(text))
}

/// A port that nobody else has, as long as its socket lives.
fn taken_port() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn relay(open: bool) -> Relay {
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    Relay::start(&Config { listen, open, workers: relay::Workers::Fixed(1), ..Config::default() }).unwrap()
}

#[test]
fn everything_is_looked_at_and_every_finding_has_its_remedy() {
    let report = report(&["--to", "127.0.0.1"]);
    let ids = [
        "kernel",
        "io_uring",
        "zero_copy",
        "segmentation",
        "receive_buffer",
        "send_buffer",
        "locked_memory",
        "open_files",
        "huge_pages",
        "device",
        "device_segmentation",
        "device_checksum",
        "device_gro",
        "mtu",
        "clock",
        "port",
        "conntrack",
        "firewall",
    ];
    let found: Vec<&str> =
        report["checks"].as_array().unwrap().iter().map(|check| check["id"].as_str().unwrap()).collect();
    assert_eq!(found, ids);
    // The tests of the relay run here, so these are given.
    assert_eq!(check(&report, "io_uring")["status"], "ok", "{report}");
    assert_eq!(check(&report, "segmentation")["status"], "ok", "{report}");
    assert!(has(check(&report, "device"), "value", "lo, from 127.0.0.1"), "{report}");
}

#[test]
fn the_lines_are_the_same_report_without_colour_in_a_pipe() {
    let (status, stdout, stderr) = doctor(&["--to", "127.0.0.1"]);
    assert!(status < 2 && !stdout.contains('\x1b'), "{stdout}{stderr}");
    let last = stdout.lines().last().unwrap();
    assert!(last.starts_with("problems: "), "{stdout}");
    for line in stdout.lines().filter(|line| *line != last) {
        let word = line.split(' ').next().unwrap();
        let is_aligned = match word {
            "ok" | "note" | "problem" => line.as_bytes()[8] == b' ' && line.as_bytes()[9] != b' ',
            _ => line.starts_with("         costs  ") || line.starts_with("         fix    "),
        };
        assert!(is_aligned, "{line:?}");
    }
}

/// Runs `body` as in a container: a seccomp filter, which processes inherit, answers a system call with `errno`.
fn with_refused(call: i64, errno: i32, body: impl FnOnce() + Send + 'static) {
    let (allow, refuse) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new([(call, Vec::new())].into(), allow, refuse, arch).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    let contained = thread::spawn(move || {
        seccompiler::apply_filter(&filter).unwrap();
        body();
    });
    contained.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_container_that_forbids_io_uring_is_told_from_a_kernel_without() {
    for (errno, seen) in [(libc::EPERM, "EPERM"), (libc::ENOSYS, "ENOSYS")] {
        with_refused(libc::SYS_io_uring_setup, errno, move || {
            let report = report(&["--to", "127.0.0.1"]);
            let found = check(&report, "io_uring");
            assert_eq!(found["status"], "problem");
            assert!(has(found, "value", "seccomp") && has(found, "value", seen), "{found}");
            assert!(
                has(found, "cost", "sendmmsg") && has(found, "fix", "--security-opt seccomp="),
                "{found}"
            );
            assert_eq!(check(&report, "zero_copy")["status"], "problem");
            // The relay runs without it, and so does the rest of the examination.
            assert_eq!(check(&report, "segmentation")["status"], "ok", "{report}");
        });
    }
}

#[test]
fn where_there_is_no_socket_at_all_there_is_a_report_all_the_same() {
    with_refused(libc::SYS_socket, libc::EPERM, || {
        let report = report(&[]);
        for id in ["segmentation", "device", "port"] {
            assert_eq!(check(&report, id)["status"], "problem", "{report}");
        }
        assert_eq!(check(&report, "receive_buffer")["status"], "note", "{report}");
    });
}

#[test]
fn a_relay_is_reached_and_says_what_it_carries() {
    for (open, carries) in [
        (true, "carries any channel; it sees this machine as 127.0.0.1:"),
        (false, "carries listed channels only"),
    ] {
        let relay = relay(open);
        let report = report(&["--reach", &relay.local_addr().to_string()]);
        let found = check(&report, "reach");
        assert_eq!(
            (&found["status"], report["checks"].as_array().unwrap().len()),
            (&"ok".into(), 1),
            "{found}"
        );
        assert!(has(found, "value", "answers within ") && has(found, "value", carries), "{found}");
    }
}

#[test]
fn the_session_that_reach_gets_is_given_back() {
    let relay = relay(true);
    report(&["--reach", &relay.local_addr().to_string()]);
    // By its lease the session would hold for longer than the relay takes to say so.
    let give_up_at = Instant::now() + LEASE / 2;
    let given_back = |snapshot: Snapshot| (snapshot.node.sessions_granted, snapshot.sessions) == (1, 0);
    while !relay.take_snapshot().is_some_and(given_back) {
        assert!(Instant::now() < give_up_at, "the relay still holds the session");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_closed_port_and_one_that_does_not_answer_are_told_apart() {
    let (socket, address) = taken_port();
    let silent = report(&["--reach", &address.to_string()]);
    drop(socket);
    let closed = report(&["--reach", &address.to_string()]);
    let (silent, closed) = (check(&silent, "reach"), check(&closed, "reach"));
    assert_eq!((&silent["status"], &closed["status"]), (&"problem".into(), &"problem".into()));
    assert!(
        has(silent, "value", "nothing came back to 5 datagrams") && has(silent, "fix", "ufw allow"),
        "{silent}"
    );
    assert!(
        has(closed, "value", "nothing listens on that port") && has(closed, "fix", "superpeerd"),
        "{closed}"
    );
}

#[test]
fn a_name_without_an_address_is_a_problem() {
    let report = report(&["--reach", "relay.invalid:7450"]);
    assert!(has(check(&report, "reach"), "value", "relay.invalid:7450"), "{report}");
}

#[test]
fn the_port_is_free_a_relay_s_or_another_program_s() {
    let port_finding = |port: u16| {
        let report = report(&["--to", "127.0.0.1", "--port", &port.to_string()]);
        check(&report, "port").clone()
    };
    let (socket, address) = taken_port();
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let other = port_finding(address.port());
    assert_eq!(other["status"], "problem");
    assert!(has(&other, "value", &format!("{}, process {}", name.trim(), std::process::id())), "{other}");
    assert!(has(&other, "fix", &format!("ss -ulpn sport = :{}", address.port())), "{other}");
    drop(socket);
    assert_eq!(port_finding(address.port())["status"], "ok");

    let relay = relay(false);
    let found = port_finding(relay.local_addr().port());
    assert_eq!(found["status"], "ok", "{found}");
    assert!(has(&found, "value", "in use by a relay"), "{found}");
}

#[test]
fn wrong_usage_is_status_2() {
    for arguments in
        [&["--port", "0"][..], &["--reach", "nowhere"], &["--reach", "a:1", "--port", "1"], &["--to"]]
    {
        let (status, stdout, stderr) = doctor(arguments);
        assert_eq!((status, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
    }
}
