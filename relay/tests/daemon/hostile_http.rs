//! Requests that nobody should make, on both listeners: answered or cut, and the daemon is unhurt.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::admin;
use crate::commands;
use crate::daemon::Daemon;
use crate::wait::DEADLINE;

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// Runs `attack` against either listener of a daemon; `attack` makes its connections by what it is given.
fn on_both(attack: impl Fn(&dyn Fn() -> Box<dyn Connection>)) {
    let (mut daemon, address) = admin::start();
    attack(&|| {
        let connection = TcpStream::connect(address).unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        connection.set_write_timeout(Some(DEADLINE)).unwrap();
        Box::new(connection)
    });
    assert!(daemon.is_running());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let arguments = ["--open", "--admin-socket", path.to_str().unwrap()];
    let mut daemon = Daemon::start("127.0.0.1:0", &arguments);
    attack(&|| Box::new(connect(&path)));
    assert_eq!(commands::get(&path, "/healthz"), (200, "ok\n".to_owned()));
    assert!(daemon.is_running());
}

fn connect(path: &Path) -> UnixStream {
    let connection = UnixStream::connect(path).unwrap();
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    connection.set_write_timeout(Some(DEADLINE)).unwrap();
    connection
}

/// What comes back up to the end; that the other end has cut the connection is such an end.
fn rest(connection: &mut dyn Connection) -> String {
    let mut heard = Vec::new();
    match connection.read_to_end(&mut heard) {
        Err(error) if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            panic!("neither answered nor cut: {error}")
        }
        _ => String::from_utf8_lossy(&heard).into_owned(),
    }
}

/// Status of the answer to a request, which need not be taken in whole; 0 when it is cut.
fn code(connection: &mut dyn Connection, request: &[u8]) -> u16 {
    // A connection that was cut while this was written has its answer behind it, or none.
    let _ = connection.write_all(request);
    rest(connection).split(' ').nth(1).map_or(0, |code| code.parse().unwrap())
}

#[test]
fn paths_lead_nowhere_but_to_what_there_is() {
    on_both(|connect| {
        for path in
            ["/../../etc/passwd", "/status/../../x", "/%2e%2e/%2e%2e/etc/passwd", "//status", "/\0", "*"]
        {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let code = code(&mut connect(), request.as_bytes());
            assert!(matches!(code, 400 | 404), "{path:?}: {code}");
        }
    });
}

#[test]
fn long_heads_and_bodies_are_not_taken_in() {
    on_both(|connect| {
        let head = format!("GET /status HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
        assert!(matches!(code(&mut connect(), head.as_bytes()), 0 | 431));
        let many = format!("GET /status HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(1_000));
        assert!(matches!(code(&mut connect(), many.as_bytes()), 0 | 431));
        let head = "POST /kick HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n";
        let body = [head.as_bytes(), &vec![b' '; 4 << 20]].concat();
        let code = code(&mut connect(), &body);
        assert!(matches!(code, 0 | 404 | 413), "{code}");
    });
}

#[test]
fn noise_is_no_request() {
    on_both(|connect| {
        let noise: Vec<u8> = (0..10_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert!(matches!(code(&mut connect(), &noise), 0 | 400));
        assert!(matches!(code(&mut connect(), b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n"), 0 | 400));
    });
}

#[test]
fn who_says_nothing_or_half_a_request_is_cut_and_keeps_nobody_out() {
    on_both(|connect| {
        let mut silent: Vec<_> = (0..200).map(|_| connect()).collect();
        for half in silent.iter_mut().step_by(2) {
            // Those that came first may have been cut by now.
            let _ = half.write_all(b"GET /status HTTP/1.1\r\nHost: loc");
        }
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(code(&mut connect(), request), 200, "a newcomer is answered all the same");
        for connection in &mut silent {
            let heard = rest(connection);
            assert!(heard.is_empty() || heard.contains(" 408 "), "{heard}");
        }
    });
}

#[test]
fn a_body_that_never_comes_is_not_waited_for_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let _daemon = Daemon::start("127.0.0.1:0", &["--open", "--admin-socket", path.to_str().unwrap()]);
    let mut connection = connect(&path);
    let head =
        b"POST /kick HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    assert!(matches!(code(&mut connection, head), 0 | 400 | 408));
}

#[test]
fn the_tcp_listener_takes_no_commands() {
    let (_daemon, address) = admin::start();
    for path in ["/kick", "/reload", "/drain", "/drain/cancel"] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(admin::answer(TcpStream::connect(address).unwrap(), &request).0, 404, "{path}");
    }
}
