//! Where a viewer's stream goes: standard output, a file, datagrams, or a program.
//!
//! Writing blocks when the other side does not take the bytes (a paused player); an output is meant for a thread of
//! its own.

mod datagrams;
mod program;

use core::fmt;
use core::str::FromStr;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::PathBuf;
use std::process::ExitStatus;

use codec::link::check_relay;
use thiserror::Error;

use crate::resolve::ResolveError;
use datagrams::Datagrams;
use program::Program;

/// A whole chunk, so that it costs one system call.
const BUFFER_BYTES: usize = 64 * 1024;

/// What a user names as output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutputSpec {
    /// `-`
    Stdout,
    /// A file, or the name of a pipe or device.
    Path(PathBuf),
    /// `udp://HOST:PORT`: MPEG-TS in datagrams to this address or multicast group. Holds `HOST:PORT`.
    Udp(String),
    /// A shell command that reads the stream from its standard input.
    Program(String),
}

/// A text that is no output.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OutputSpecError {
    /// An address that is not one.
    #[error(
        "{0:?} is not udp://HOST:PORT: HOST is a name, an IPv4 address or a bracketed IPv6 address, PORT is 1 to 65535"
    )]
    Address(String),
    /// Another scheme.
    #[error("{0:?} is not supported: an output is `-`, a file or udp://HOST:PORT")]
    Scheme(String),
}

impl FromStr for OutputSpec {
    type Err = OutputSpecError;

    fn from_str(text: &str) -> Result<OutputSpec, OutputSpecError> {
        if text == "-" {
            Ok(OutputSpec::Stdout)
        } else if let Some(address) = text.strip_prefix("udp://") {
            let host_port = check_relay(address.to_owned());
            host_port.map(OutputSpec::Udp).map_err(|_| OutputSpecError::Address(text.to_owned()))
        } else if text.contains("://") {
            Err(OutputSpecError::Scheme(text.to_owned()))
        } else {
            Ok(OutputSpec::Path(text.into()))
        }
    }
}

impl fmt::Display for OutputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OutputSpec::Stdout => f.write_str("standard output"),
            OutputSpec::Path(path) => path.display().fmt(f),
            OutputSpec::Udp(host_port) => write!(f, "udp://{host_port}"),
            OutputSpec::Program(command) => write!(f, "`{command}`"),
        }
    }
}

/// Why an output cannot be opened or takes no more.
#[derive(Debug, Error)]
pub enum OutputError {
    /// Whoever read the stream closed the pipe. Not a failure: it wants no more.
    #[error("the reader of the stream closed it")]
    Closed,
    /// The program ended by itself. Not a failure when its status is a success.
    #[error("{command:?} ended with {status}")]
    Ended {
        /// The program.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A terminal shows no video.
    #[error(
        "standard output is a terminal: name a file or udp://HOST:PORT, or a program that shows the stream (--exec 'mpv -')"
    )]
    Terminal,
    /// A folder.
    #[error("{0} is a folder: name a file in it")]
    Folder(PathBuf),
    /// The system does not open it.
    #[error("cannot open {spec}: {source}")]
    Open {
        /// The output.
        spec: OutputSpec,
        /// What the system said.
        source: io::Error,
    },
    /// The host has no address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Writing failed.
    #[error("cannot write to {spec}: {source}")]
    Write {
        /// The output.
        spec: OutputSpec,
        /// What the system said.
        source: io::Error,
    },
}

/// An open output.
pub struct Output {
    spec: OutputSpec,
    sink: Sink,
}

enum Sink {
    Stdout(BufWriter<Stdout>),
    File(BufWriter<File>),
    Datagrams(Datagrams),
    Program(Program),
}

impl Output {
    /// Opens an output; a file is created or emptied, a program is started.
    ///
    /// # Errors
    /// [`OutputError`] when it cannot be written to.
    pub fn open(spec: &OutputSpec) -> Result<Output, OutputError> {
        let not_opened = |source| OutputError::Open { spec: spec.clone(), source };
        let sink = match spec {
            OutputSpec::Stdout if io::stdout().is_terminal() => return Err(OutputError::Terminal),
            OutputSpec::Stdout => Sink::Stdout(BufWriter::with_capacity(BUFFER_BYTES, io::stdout())),
            OutputSpec::Path(path) if path.is_dir() => return Err(OutputError::Folder(path.clone())),
            OutputSpec::Path(path) => {
                let file = File::create(path).map_err(not_opened)?;
                Sink::File(BufWriter::with_capacity(BUFFER_BYTES, file))
            }
            OutputSpec::Udp(host_port) => {
                let addresses = crate::resolve::resolve(host_port)?;
                Sink::Datagrams(Datagrams::connect(addresses[0]).map_err(not_opened)?)
            }
            OutputSpec::Program(command) => Sink::Program(Program::start(command).map_err(not_opened)?),
        };
        Ok(Output { spec: spec.clone(), sink })
    }

    /// Writes one chunk of the stream, given in pieces, and does not keep it back.
    ///
    /// # Errors
    /// [`OutputError::Closed`] or [`OutputError::Ended`] when the other side wants no more, [`OutputError::Write`]
    /// when the system takes no more; the output is of no use after it.
    pub fn write_chunk<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> Result<(), OutputError> {
        let written = match &mut self.sink {
            Sink::Stdout(stdout) => write_pieces(stdout, pieces),
            Sink::File(file) => write_pieces(file, pieces),
            Sink::Program(program) => program.stdin().and_then(|stdin| write_pieces(stdin, pieces)),
            Sink::Datagrams(socket) => {
                pieces.for_each(|piece| socket.push(piece));
                socket.send_whole_packets()
            }
        };
        written.map_err(|error| self.why_not_written(error))
    }

    /// Whether the other side still wants the stream, as far as one can tell without writing: for the time in which
    /// nothing is to be written.
    ///
    /// # Errors
    /// [`OutputError::Ended`] when the program has ended.
    pub fn check(&mut self) -> Result<(), OutputError> {
        if let Sink::Program(program) = &mut self.sink
            && let Some(status) = program.try_wait()
        {
            return Err(OutputError::Ended { command: program.command().to_owned(), status });
        }
        Ok(())
    }

    /// Writes what was kept back to fill a packet, closes the output and waits for a program to end.
    ///
    /// # Errors
    /// As for [`Output::write_chunk`]; [`OutputError::Ended`] only when the program's status is no success.
    pub fn finish(mut self) -> Result<(), OutputError> {
        let finished = match &mut self.sink {
            Sink::Stdout(stdout) => stdout.flush(),
            Sink::File(file) => file.flush(),
            Sink::Datagrams(socket) => socket.send_rest(),
            Sink::Program(program) => match program.close_and_wait() {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => {
                    return Err(OutputError::Ended { command: program.command().to_owned(), status });
                }
                Err(error) => Err(error),
            },
        };
        finished.map_err(|error| self.why_not_written(error))
    }

    fn why_not_written(&mut self, error: io::Error) -> OutputError {
        if error.kind() != io::ErrorKind::BrokenPipe {
            return OutputError::Write { spec: self.spec.clone(), source: error };
        }
        match &mut self.sink {
            Sink::Program(program) => match program.close_and_wait() {
                Ok(status) => OutputError::Ended { command: program.command().to_owned(), status },
                Err(source) => OutputError::Write { spec: self.spec.clone(), source },
            },
            _ => OutputError::Closed,
        }
    }
}

fn write_pieces<'a>(writer: &mut impl Write, mut pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    pieces.try_for_each(|piece| writer.write_all(piece))?;
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(spec: &str) -> Result<Output, OutputError> {
        Output::open(&spec.parse().unwrap())
    }

    fn run(command: &str) -> Output {
        Output::open(&OutputSpec::Program(command.to_owned())).unwrap()
    }

    fn pieces<'a>() -> impl Iterator<Item = &'a [u8]> {
        [&b"one "[..], b"chunk"].into_iter()
    }

    #[test]
    fn an_output_is_standard_output_a_file_or_an_address() {
        let parse = |text: &str| text.parse::<OutputSpec>();
        assert_eq!(parse("-"), Ok(OutputSpec::Stdout));
        assert_eq!(parse("a/b.ts"), Ok(OutputSpec::Path("a/b.ts".into())));
        assert_eq!(parse("udp://tv.example:5000"), Ok(OutputSpec::Udp("tv.example:5000".into())));
        assert!(matches!(parse("udp://tv.example"), Err(OutputSpecError::Address(_))));
        assert!(matches!(parse("http://tv.example"), Err(OutputSpecError::Scheme(_))));
    }

    #[test]
    fn a_file_holds_every_chunk_as_soon_as_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ts");
        std::fs::write(&path, "something longer from before").unwrap();
        let mut output = open(path.to_str().unwrap()).unwrap();
        output.write_chunk(pieces()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one chunk");
        output.check().unwrap();
        output.finish().unwrap();
    }

    #[test]
    fn an_error_names_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        for path in [folder.to_owned(), format!("{folder}/missing/out.ts")] {
            let error = open(&path).err().unwrap().to_string();
            assert!(error.contains(&path), "{error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named() {
        let mut output = open("/dev/full").unwrap();
        let error = output.write_chunk(pieces()).unwrap_err();
        assert!(
            matches!(&error, OutputError::Write { .. }) && error.to_string().contains("/dev/full"),
            "{error}"
        );
    }

    #[test]
    fn a_program_reads_the_stream_and_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ts");
        let mut output = run(&format!("cat > '{}'", path.display()));
        output.write_chunk(pieces()).unwrap();
        output.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one chunk");
    }

    #[test]
    fn a_program_that_ends_is_told_apart_by_its_status() {
        let mut output = run("exit 3");
        let error = loop {
            if let Err(error) = output.write_chunk(pieces()) {
                break error;
            }
        };
        assert!(matches!(&error, OutputError::Ended { status, .. } if status.code() == Some(3)), "{error}");

        let mut output = run("exit 0");
        let error = loop {
            if let Err(error) = output.check() {
                break error;
            }
            std::thread::yield_now();
        };
        assert!(matches!(&error, OutputError::Ended { status, .. } if status.success()), "{error}");

        assert!(matches!(run("cat > /dev/null; exit 4").finish(), Err(OutputError::Ended { .. })));
    }
}
