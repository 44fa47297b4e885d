//! A shell command that reads the stream.

use std::io::{self, BufWriter, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use super::BUFFER_BYTES;

pub(super) struct Program {
    command: String,
    child: Child,
    /// `None` once the stream is closed.
    stdin: Option<BufWriter<ChildStdin>>,
}

impl Program {
    pub(super) fn start(command: &str) -> io::Result<Program> {
        let mut child = Command::new("sh").args(["-c", command]).stdin(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().map(|stdin| BufWriter::with_capacity(BUFFER_BYTES, stdin));
        Ok(Program { command: command.to_owned(), child, stdin })
    }

    pub(super) fn command(&self) -> &str {
        &self.command
    }

    pub(super) fn stdin(&mut self) -> io::Result<&mut impl Write> {
        self.stdin.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// The status when the program has ended.
    pub(super) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends the stream and waits until the program has ended too.
    pub(super) fn close_and_wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(stdin) = self.stdin.take() {
            // Every chunk was flushed, so what is left is what the program did not want; flushing that again on drop
            // would only fail again.
            let _ = stdin.into_parts();
        }
        self.child.wait()
    }
}
