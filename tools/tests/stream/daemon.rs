//! `superpeerd` as a process. It is another package's program, so this test program becomes it when it is told to.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use tempfile::TempDir;

use crate::processes::{DEADLINE, until};

/// The command line of the daemon that this process is to be, an argument a line.
const COMMAND_LINE: &str = "SUPERPEERD_COMMAND_LINE";

#[test]
fn superpeerd() {
    // For all other tests there is nothing to do here.
    let Ok(line) = env::var(COMMAND_LINE) else { return };
    let arguments = ["superpeerd"].into_iter().chain(line.lines()).map(OsString::from);
    let is_well = relay::run(arguments) == ExitCode::SUCCESS;
    std::process::exit(if is_well { 0 } else { 1 });
}

/// A running daemon that takes commands; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    /// Where it listens.
    pub(crate) address: String,
    pub(crate) folder: TempDir,
}

impl Daemon {
    /// Starts one that carries any channel.
    pub(crate) fn start() -> Daemon {
        Daemon::start_with(&["--open"])
    }

    /// Starts one with these arguments beside those that say where it is.
    pub(crate) fn start_with(more: &[&str]) -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        let (child, address) = spawn("127.0.0.1:0", &socket_in(folder.path()), more);
        Daemon { child, address, folder }
    }

    /// Kills it without a word to anybody.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("the daemon ends", || self.child.try_wait().unwrap())
    }

    pub(crate) fn socket(&self) -> String {
        socket_in(self.folder.path()).to_str().unwrap().to_owned()
    }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("admin.sock")
}

/// The process, and where it listens.
fn spawn(listen: &str, socket: &Path, more: &[&str]) -> (Child, String) {
    let where_it_is = ["--listen", listen, "--admin", "off", "--admin-socket", socket.to_str().unwrap()];
    let line = [&where_it_is[..], more].concat().join("\n");
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "daemon::superpeerd", "--nocapture"])
        .env(COMMAND_LINE, line)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program once more");
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (address_to, address) = mpsc::channel();
    thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            println!("superpeerd: {line}");
            if let Some((_, rest)) = line.split_once(" on UDP ") {
                // Nobody waits for a second one.
                let _ = address_to.send(rest.split(',').next().unwrap().to_owned());
            }
        }
    });
    let address = address.recv_timeout(DEADLINE).expect("a daemon that says where it listens");
    (child, address)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
