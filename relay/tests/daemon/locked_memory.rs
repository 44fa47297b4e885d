//! The relay where it may not pin the memory that it would send from without a copy.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::daemon::{Daemon, superpeerd};
use crate::peer::{secret, stream_through};

#[test]
fn a_daemon_that_may_lock_little_memory_says_the_remedy_and_carries_sessions() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        // The limit counts what all processes of a user have locked: other tests would be in the way.
        eprintln!("SKIPPED: only root can take a daemon its right to lock memory");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("superpeer.toml");
    std::fs::write(&path, "zero_copy_from_bytes = 1\n").unwrap();
    let config = path.to_str().unwrap();
    let more = ["--open", "--io", "uring", "--workers", "1", "--admin", "off", "--config", config];
    let mut daemon = superpeerd(&["--listen", "127.0.0.1:0"]);
    daemon.args(more);
    let mut restricted = Command::new("prlimit");
    // Enough for the ring, not for a piece of slot memory.
    restricted.args(["--memlock=262144", "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]);
    restricted.arg(daemon.get_program()).args(daemon.get_args());
    let (daemon, lines) = Daemon::start_by(restricted.env_remove("RUST_LOG").stdin(Stdio::null()));
    assert!(lines.iter().any(|line| line.contains("trains from 1 bytes on zero-copy")), "{lines:?}");
    stream_through(daemon.address(), daemon.address(), secret(1));
    let warning = daemon.next_line();
    for expected in ["WARN", "memory", "are copied", "LimitMEMLOCK="] {
        assert!(warning.contains(expected), "{warning}");
    }
    daemon.signal("TERM");
    assert!(daemon.next_line().contains("SIGTERM"), "it was said once");
}
