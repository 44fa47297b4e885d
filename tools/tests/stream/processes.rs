//! `superpeer` as a process, and waiting for it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What has not happened after this time does not happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at something that cannot wake anybody.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Looks until there is something.
pub(crate) fn until<T>(what: impl std::fmt::Display, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up_at = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < give_up_at, "not within {DEADLINE:?}: {what}");
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Waits until a file holds so many bytes.
pub(crate) fn until_bytes(path: &Path, bytes: usize) {
    until(format_args!("{bytes} bytes in {}", path.display()), || {
        (std::fs::metadata(path).map_or(0, |metadata| metadata.len()) >= bytes as u64).then_some(())
    });
}

/// A running command; killed when dropped.
pub(crate) struct Superpeer {
    child: Child,
    /// What it said on standard error.
    said: Arc<Mutex<String>>,
    listener: Option<thread::JoinHandle<()>>,
}

impl Superpeer {
    /// Starts `superpeer` with these arguments; standard input and output are as `set_up` leaves them, else closed.
    pub(crate) fn start_with(arguments: &[&str], set_up: impl FnOnce(&mut Command)) -> Superpeer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_superpeer"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        set_up(&mut command);
        let mut child = command.spawn().expect("superpeer");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let (for_thread, name) = (Arc::clone(&said), arguments[0].to_owned());
        let listener = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                println!("{name}: {line}");
                for_thread.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Superpeer { child, said, listener: Some(listener) }
    }

    pub(crate) fn start(arguments: &[&str]) -> Superpeer {
        Superpeer::start_with(arguments, |_| {})
    }

    /// Starts it with a standard input to write to.
    pub(crate) fn start_with_input(arguments: &[&str]) -> (Superpeer, ChildStdin) {
        let mut superpeer = Superpeer::start_with(arguments, |command| {
            command.stdin(Stdio::piped());
        });
        let input = superpeer.child.stdin.take().unwrap();
        (superpeer, input)
    }

    /// Starts it with a standard output to read from.
    pub(crate) fn start_with_output(arguments: &[&str]) -> (Superpeer, ChildStdout) {
        let mut superpeer = Superpeer::start_with(arguments, |command| {
            command.stdout(Stdio::piped());
        });
        let output = superpeer.child.stdout.take().unwrap();
        (superpeer, output)
    }

    /// Starts it with a file as standard output.
    pub(crate) fn start_into(arguments: &[&str], output: File) -> Superpeer {
        Superpeer::start_with(arguments, |command| {
            command.stdout(output);
        })
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said this.
    pub(crate) fn until_said(&self, text: &str) {
        until(format_args!("it says {text:?}"), || self.said().contains(text).then_some(()));
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(kill.expect("kill").success());
    }

    /// Waits until it listens for Ctrl-C.
    pub(crate) fn until_it_listens_for_signals(&self) {
        until("the signal handlers", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("SigCgt");
            let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
            (caught & (1 << (2 - 1)) != 0).then_some(())
        });
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let field = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        field.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has ended; its exit status and everything it said.
    pub(crate) fn wait(mut self) -> (i32, String) {
        let status = until("the command ends", || self.child.try_wait().unwrap());
        // A program that was started by it may hold its standard error still: what was said so far is what counts.
        let listener = self.listener.take().unwrap();
        until("the end of what it says", || listener.is_finished().then_some(()));
        (status.code().unwrap_or_else(|| panic!("{status}")), self.said())
    }

    /// Waits until it has ended, which must be well; returns everything it said.
    pub(crate) fn succeed(self) -> String {
        let (status, said) = self.wait();
        assert_eq!(status, 0, "{said}");
        said
    }
}

impl Drop for Superpeer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes all of it from a thread of its own; gives the input back, still open, unless its reader went away.
pub(crate) fn write_in_background(
    mut input: ChildStdin,
    bytes: Vec<u8>,
) -> thread::JoinHandle<io::Result<ChildStdin>> {
    thread::spawn(move || input.write_all(&bytes).map(|()| input))
}
