//! The relay where io_uring is not to be used, or not to be had.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use codec::wire::control::ByeReason;
use relay::plane::{Io, OpenError};
use relay::{Config, Relay, StartError};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::daemon::{Daemon, run};
use crate::peer::{Peer, secret, stream_through};

/// The number of `io_uring_setup`, on every architecture.
const IO_URING_SETUP: i64 = 425;

/// Runs `body` as in a container: a seccomp filter, which threads and processes inherit, answers `io_uring_setup` with
/// `errno`.
fn with_io_uring_refused(errno: i32, body: impl FnOnce() + Send + 'static) {
    let (allow, refuse) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
    let rules = [(IO_URING_SETUP, Vec::new())].into();
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter: BpfProgram = SeccompFilter::new(rules, allow, refuse, arch).unwrap().try_into().unwrap();
    let contained = thread::spawn(move || {
        seccompiler::apply_filter(&filter).unwrap();
        body();
    });
    contained.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

fn start(io: Io) -> Result<Relay, StartError> {
    let listen: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    Relay::start(&Config { listen, io, open: true, ..Config::default() })
}

#[test]
fn a_session_is_carried_and_ended_without_io_uring_when_asked_to() {
    let mut daemon = Daemon::start("127.0.0.1:0", &["--open", "--io", "mmsg"]);
    stream_through(daemon.address(), daemon.address(), secret(1));
    let mut viewer = Peer::viewer(daemon.address(), secret(1).key());
    viewer.until("connected", Peer::is_connected);
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
    viewer.until("told", |viewer| viewer.was_told_bye(ByeReason::Closing));
}

#[test]
fn a_daemon_whose_container_forbids_io_uring_warns_and_carries_sessions() {
    for errno in [EPERM, ENOSYS] {
        with_io_uring_refused(errno, || {
            let (mut daemon, log) = Daemon::start_with_log("127.0.0.1:0", &["--open"]);
            let warnings: Vec<&String> = log.iter().filter(|line| line.contains("WARN")).collect();
            assert_eq!(warnings.len(), 1, "{log:?}");
            for expected in ["without io_uring", "seccomp", "io = \"mmsg\""] {
                assert!(warnings[0].contains(expected), "{warnings:?}");
            }
            assert!(log.iter().any(|line| line.contains("recvmmsg and sendmmsg on UDP")), "{log:?}");
            stream_through(daemon.address(), daemon.address(), secret(1));
            daemon.signal("TERM");
            assert_eq!(daemon.wait().code(), Some(0));
        });
    }
}

#[test]
fn a_daemon_that_is_to_use_io_uring_does_not_start_where_it_is_forbidden() {
    with_io_uring_refused(EPERM, || {
        let (status, stdout, stderr) = run(&["--open", "--listen", "127.0.0.1:0", "--io", "uring"]);
        assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains("seccomp"), "{stderr}");
    });
}

#[test]
fn the_relay_says_which_calls_it_uses() {
    let relay = start(Io::Auto).unwrap();
    assert!(relay.uses_io_uring() && relay.probe().starts_with("io_uring on UDP"), "{}", relay.probe());
    let relay = start(Io::Mmsg).unwrap();
    assert!(!relay.uses_io_uring() && relay.probe().starts_with("recvmmsg"), "{}", relay.probe());
    with_io_uring_refused(EPERM, || {
        assert!(!start(Io::Auto).unwrap().uses_io_uring());
        let error = start(Io::Uring).err().unwrap();
        assert!(matches!(&error, StartError::Plane(open) if open.is_about_io_uring()), "{error}");
    });
}

#[test]
fn an_address_at_fault_is_no_reason_to_go_without_io_uring() {
    let listen = "192.0.2.1:7450".parse().unwrap();
    let slots = relay::uring::SlotMemory::map(1).unwrap();
    let error = relay::plane::Plane::open(Io::Auto, listen, slots.region(), 0).err().unwrap();
    assert!(matches!(error, OpenError::Bind { .. }) && !error.is_about_io_uring(), "{error}");
}
