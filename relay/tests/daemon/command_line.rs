//! What a person types.

use std::net::UdpSocket;

use crate::daemon::{Daemon, run, superpeerd};

#[test]
fn an_idle_daemon_takes_little_memory() {
    let daemon = Daemon::start("127.0.0.1:0", &["--open", "--workers", "4"]);
    let resident = daemon.resident_bytes();
    assert!(resident < 30 << 20, "{resident} bytes");
}

#[test]
fn the_help_says_how_to_start_it() {
    let (status, stdout, stderr) = run(&["--help"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    for expected in
        ["Usage: superpeerd", "--listen 127.0.0.1:7450 --open", "--io <auto|uring|mmsg>", "--check-config"]
    {
        assert!(stdout.contains(expected), "{stdout}");
    }
    let (status, stdout, stderr) = run(&["--version"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("superpeerd "), "{stdout}");
}

#[test]
fn wrong_usage_is_status_2_and_says_what_is_wrong() {
    let cases: &[(&[&str], &str)] = &[
        (&["--fly"], "--fly"),
        (&["--listen", "somewhere"], "somewhere"),
        (&["--listen", "localhost:7450"], "no IP address with a port"),
        (&["--listen", "127.0.0.1"], "127.0.0.1"),
        (&["--io", "dpdk"], "possible values: auto, uring, mmsg"),
        (&["--config"], "FILE"),
        (&["extra"], "extra"),
        (&["--print-config", "--open"], "--open"),
    ];
    for (arguments, expected) in cases {
        let (status, stdout, stderr) = run(arguments);
        assert_eq!((status, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}

#[test]
fn the_printed_configuration_is_a_right_one() {
    let (status, printed, stderr) = run(&["--print-config"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("superpeer.toml");
    std::fs::write(&path, printed).unwrap();
    let (status, _, stderr) = run(&["--check-config", "--config", path.to_str().unwrap()]);
    assert_eq!((status, stderr.as_str()), (0, ""));
}

#[test]
fn a_wrong_configuration_is_status_1_and_says_what_is_wrong_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.toml");
    let path = path.to_str().unwrap();
    let cases = [
        ("listen = \"[::]:7450\"\n\n[limits]\nsubscriber = 5\n", ["wrong.toml:4: ", "limits.subscribers"]),
        ("listen = \"somewhere\"\n", ["line 1", "no IP address with a port"]),
        ("others = [\"relay2.example:7450\"]\n", ["line 1", "no IP address with a port"]),
        ("\nopen = \"yes\"\n", ["line 2", "boolean"]),
        ("open = false\nchannels = [\"magnet:?dn=x\"]\n", ["line 2", "no channel key"]),
        ("[limits]\nwindow_seconds = 0\n", ["window_seconds = 0", "1 to 600"]),
        ("[limits\n", ["line 1", path]),
    ];
    for (text, expected) in cases {
        std::fs::write(path, text).unwrap();
        for arguments in [&["--check-config", "--config", path][..], &["--config", path]] {
            let (status, stdout, stderr) = run(arguments);
            assert_eq!((status, stdout.as_str()), (1, ""), "{text}: {stderr}");
            assert!(expected.iter().all(|part| stderr.contains(part)), "{text}: {stderr}");
            assert!(stderr.starts_with("superpeerd: "), "{stderr}");
        }
    }
    let (status, _, stderr) = run(&["--check-config", "--config", "/no/such/file.toml"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("/no/such/file.toml"), "{stderr}");
}

#[test]
fn a_full_disk_is_a_failure() {
    for argument in ["--print-config", "--help"] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = superpeerd(&[argument]).stdout(full).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{argument}: {stderr}");
        assert!(stderr.contains("cannot write to standard output"), "{argument}: {stderr}");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, stdout, stderr) = run(&["--open", "--listen", &address]);
    assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains(&address) && stderr.contains("ss -ulpn"), "{stderr}");
}

#[test]
fn an_address_of_another_machine_is_named() {
    let (status, _, stderr) = run(&["--open", "--listen", "192.0.2.1:7450"]);
    assert_eq!(status, 1, "{stderr}");
    assert!(
        stderr.contains("192.0.2.1:7450") && stderr.contains("has to be one of this machine's"),
        "{stderr}"
    );
}
