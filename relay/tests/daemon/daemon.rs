//! `superpeerd` as a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::wait::{DEADLINE, until};

/// The daemon with these arguments, not yet started.
pub(crate) fn superpeerd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_superpeerd"));
    command.args(arguments).env_remove("RUST_LOG").env_remove("STATE_DIRECTORY").stdin(Stdio::null());
    command
}

/// Runs the daemon with arguments that make it end by itself: exit status, standard output, standard error.
pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut child =
        superpeerd(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the daemon");
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reader = thread::spawn(move || {
        let (mut said, mut complained) = (String::new(), String::new());
        stdout.read_to_string(&mut said).unwrap();
        stderr.read_to_string(&mut complained).unwrap();
        (said, complained)
    });
    let mut daemon = Daemon { child, address: None, log: mpsc::channel().1 };
    let status = daemon.wait();
    let (said, complained) = reader.join().unwrap();
    (status.code().expect("an exit status"), said, complained)
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    address: Option<SocketAddr>,
    log: Receiver<String>,
}

impl Daemon {
    /// Starts a daemon and waits until it listens; `listen` may leave the port to the kernel.
    pub(crate) fn start(listen: &str, more: &[&str]) -> Daemon {
        Daemon::start_with_log(listen, more).0
    }

    /// The same; with the lines of the log up to the one that says where it listens.
    pub(crate) fn start_with_log(listen: &str, more: &[&str]) -> (Daemon, Vec<String>) {
        // Two daemons of this machine would want the same address.
        let no_admin = if more.contains(&"--admin") { [].as_slice() } else { &["--admin", "off"] };
        Daemon::start_by(superpeerd(&["--listen", listen]).args(no_admin).args(more))
    }

    /// The same, with a command that becomes the daemon.
    pub(crate) fn start_by(command: &mut Command) -> (Daemon, Vec<String>) {
        Daemon::spawn(command).until_it_listens()
    }

    /// With a command that becomes the daemon; it is not waited for.
    pub(crate) fn spawn(command: &mut Command) -> Daemon {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the daemon");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (line_to, log) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                println!("{line}");
                // Nobody reads the log of a test that is over.
                let _ = line_to.send(line);
            }
        });
        Daemon { child, address: None, log }
    }

    /// With the lines of the log up to the one that says where it listens.
    pub(crate) fn until_it_listens(mut self) -> (Daemon, Vec<String>) {
        let mut lines = Vec::new();
        self.address = Some(loop {
            lines.push(self.next_line());
            let listen = lines[lines.len() - 1].split_once(" on UDP ");
            if let Some(address) = listen.and_then(|(_, rest)| rest.split(',').next()) {
                break address.parse().expect("an address in the log");
            }
        });
        (self, lines)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("a daemon that listens")
    }

    /// The next line of the log.
    pub(crate) fn next_line(&self) -> String {
        self.log.recv_timeout(DEADLINE).expect("a line in the log")
    }

    pub(crate) fn status_of_process(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running daemon")
    }

    /// How many descriptors it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a running daemon").count()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = self.status_of_process();
        let field = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: u64 = field.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }

    /// Sends a signal (`INT`, `TERM`); the daemon listens for them before it says where it listens.
    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(kill.expect("kill").success());
    }

    /// Ends the daemon without a word to its peers.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("the daemon ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
