//! The daemon as a service of type notify: a socket in the place of systemd's.

use std::os::unix::net::UnixDatagram;

use crate::daemon::{Daemon, superpeerd};
use crate::wait::DEADLINE;

#[test]
fn systemd_hears_ready_then_signs_of_life_with_a_status_then_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = || {
        let mut buffer = [0; 1_024];
        let length = systemd.recv(&mut buffer).expect("a message to systemd");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut command = superpeerd(&["--listen", "127.0.0.1:0", "--open", "--admin", "off"]);
    let (mut daemon, _) = Daemon::start_by(command.env("NOTIFY_SOCKET", &path));
    let before: Vec<String> =
        std::iter::repeat_with(hear).take_while(|heard| heard.trim_end() != "READY=1").collect();
    assert!(!before.is_empty() && before.iter().all(|heard| heard.contains("FDSTORE=1")), "{before:?}");
    for _ in 0..2 {
        let alive = hear();
        assert!(
            alive.contains("WATCHDOG=1") && alive.contains("STATUS=0 channels, 0 subscribers"),
            "{alive}"
        );
    }
    daemon.signal("TERM");
    let rest: Vec<String> =
        std::iter::repeat_with(hear).take_while(|heard| !heard.contains("STOPPING=1")).collect();
    assert!(rest.iter().all(|heard| heard.contains("WATCHDOG=1")), "{rest:?}");
    assert_eq!(daemon.wait().code(), Some(0));
}
