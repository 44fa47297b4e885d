//! Where a publisher's stream comes from: standard input, a file sent at the speed of its own clock, or datagrams.
//!
//! Reading blocks; an input is meant for a thread of its own. Nothing here looks into the stream except for a file's
//! clock.

mod datagrams;
mod paced_file;

use core::fmt;
use core::str::FromStr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use thiserror::Error;

use datagrams::Datagrams;
use paced_file::PacedFile;

/// The longest time for which reading a file or datagrams does not look at the stop flag.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// Later than this a file's schedule starts anew instead of catching up: a suspended laptop must not send the lost
/// hour in a burst.
const LATE_MAX: Duration = Duration::from_secs(1);

/// The default capacity of a pipe in Linux (pipe(7)).
const PIPE_BYTES: usize = 64 * 1024;

/// What a user names as input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InputSpec {
    /// `-`
    Stdin,
    /// A file, or the name of a pipe or device.
    Path(PathBuf),
    /// `udp://ADDR:PORT`: what arrives at this address, or is sent to this multicast group.
    Udp(SocketAddr),
}

/// A text that is no input.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InputSpecError {
    /// An address that is not one.
    #[error(
        "{0:?} is not udp://ADDR:PORT: ADDR is an IPv4 address or a bracketed IPv6 address of this machine, or a multicast group"
    )]
    Address(String),
    /// Another scheme.
    #[error("{0:?} is not supported: an input is `-`, a file or udp://ADDR:PORT")]
    Scheme(String),
}

impl FromStr for InputSpec {
    type Err = InputSpecError;

    fn from_str(text: &str) -> Result<InputSpec, InputSpecError> {
        if text == "-" {
            Ok(InputSpec::Stdin)
        } else if let Some(address) = text.strip_prefix("udp://") {
            // VLC and ffmpeg write udp://@GROUP:PORT.
            let address = address.strip_prefix('@').unwrap_or(address).parse();
            address.map(InputSpec::Udp).map_err(|_| InputSpecError::Address(text.to_owned()))
        } else if text.contains("://") {
            Err(InputSpecError::Scheme(text.to_owned()))
        } else {
            Ok(InputSpec::Path(text.into()))
        }
    }
}

impl fmt::Display for InputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InputSpec::Stdin => f.write_str("standard input"),
            InputSpec::Path(path) => path.display().fmt(f),
            InputSpec::Udp(address) => write!(f, "udp://{address}"),
        }
    }
}

/// Why an input cannot be opened or read.
#[derive(Debug, Error)]
pub enum InputError {
    /// Nobody types a stream.
    #[error("standard input is a terminal: pipe a stream into it, or name a file or udp://ADDR:PORT")]
    Terminal,
    /// Only a file can start again.
    #[error("--loop needs a file to start again, {0} is none")]
    NotLoopable(InputSpec),
    /// A folder.
    #[error("{0} is a folder: name a file in it")]
    Folder(PathBuf),
    /// The system does not open it.
    #[error("cannot open {spec}: {source}")]
    Open {
        /// The input.
        spec: InputSpec,
        /// What the system said.
        source: io::Error,
    },
    /// Datagrams cannot be received at the address.
    #[error(
        "cannot listen on udp://{address}: {source}; it has to be a free port of an address of this machine (`ip address`, `ss -uln`), or a multicast group"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The multicast group cannot be joined.
    #[error(
        "cannot join the multicast group {group}: {source}; an interface with a route to multicast groups is needed"
    )]
    Join {
        /// The group.
        group: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing in the file says how fast it is to be sent.
    #[error(
        "{0} is not an MPEG-TS file of 188-byte packets with a clock, so nothing says how fast to send it: \
         make it one (`ffmpeg -re -i {0} -c copy -f mpegts - | superpeer publish …`), \
         or pipe it at a speed you choose (`pv -qL 500k {0} | superpeer publish …`)"
    )]
    NoClock(PathBuf),
    /// Reading failed.
    #[error("cannot read {spec}: {source}")]
    Read {
        /// The input.
        spec: InputSpec,
        /// What the system said.
        source: io::Error,
    },
}

/// An open input.
pub struct Input {
    spec: InputSpec,
    source: Source,
    stop: Arc<AtomicBool>,
}

enum Source {
    /// Standard input, a pipe, a device: as fast as it gives.
    Unpaced(Box<dyn Read + Send>, Vec<u8>),
    Paced(Box<PacedFile>, Schedule),
    Datagrams(Datagrams),
}

impl Input {
    /// Opens an input; `looped` starts a file again at its end. After `stop` is set, reading a file or datagrams ends
    /// within 100 ms; reading standard input ends when the other side writes or closes.
    ///
    /// # Errors
    /// [`InputError`] when it cannot be read, cannot be looped, or is a file without a clock.
    pub fn open(spec: &InputSpec, looped: bool, stop: Arc<AtomicBool>) -> Result<Input, InputError> {
        let not_opened = |source| InputError::Open { spec: spec.clone(), source };
        let kind = match spec {
            InputSpec::Path(path) => Some(fs::metadata(path).map_err(not_opened)?.file_type()),
            _ => None,
        };
        // Before opening, because opening a pipe waits for its writer.
        if looped && !kind.is_some_and(|kind| kind.is_file()) {
            return Err(InputError::NotLoopable(spec.clone()));
        }
        let source = match spec {
            InputSpec::Path(path) if kind.is_some_and(|kind| kind.is_dir()) => {
                return Err(InputError::Folder(path.clone()));
            }
            InputSpec::Path(path) if kind.is_some_and(|kind| kind.is_file()) => {
                let paced = File::open(path).and_then(|file| PacedFile::start(file, looped));
                let paced = paced.map_err(not_opened)?.ok_or_else(|| InputError::NoClock(path.clone()))?;
                Source::Paced(Box::new(paced), Schedule::default())
            }
            InputSpec::Path(path) => Source::unpaced(File::open(path).map_err(not_opened)?),
            InputSpec::Stdin if io::stdin().is_terminal() => return Err(InputError::Terminal),
            InputSpec::Stdin => Source::unpaced(io::stdin()),
            InputSpec::Udp(address) => Source::Datagrams(Datagrams::bind(*address)?),
        };
        Ok(Input { spec: spec.clone(), source, stop })
    }

    /// Waits for the next bytes of the stream and returns them, at most 64 KiB; `None` at the end of the input or
    /// after the stop flag was set.
    ///
    /// # Errors
    /// [`InputError::Read`]; the input is of no use after it.
    pub fn next_block(&mut self) -> Result<Option<&[u8]>, InputError> {
        let not_read = |source| InputError::Read { spec: self.spec.clone(), source };
        match &mut self.source {
            Source::Unpaced(reader, buffer) => {
                let bytes = read_some(reader, buffer).map_err(not_read)?;
                Ok((bytes > 0 && !self.stop.load(Ordering::Relaxed)).then(|| &buffer[..bytes]))
            }
            Source::Paced(file, schedule) => {
                let Some((block, due)) = file.next_block().map_err(not_read)? else { return Ok(None) };
                Ok(schedule.wait_until(due, &self.stop).then_some(block))
            }
            Source::Datagrams(socket) => socket.receive(&self.stop).map_err(not_read),
        }
    }
}

impl Source {
    fn unpaced(reader: impl Read + Send + 'static) -> Source {
        Source::Unpaced(Box::new(reader), vec![0; PIPE_BYTES])
    }
}

fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Media time on the wall: each block has its own time since the start, so lateness of one does not add up.
#[derive(Default)]
struct Schedule {
    start: Option<Instant>,
}

impl Schedule {
    /// Sleeps until `due` after the start; returns whether it came to that without being stopped.
    fn wait_until(&mut self, due: Duration, stop: &AtomicBool) -> bool {
        let now = Instant::now();
        let mut start = *self.start.get_or_insert(now);
        if now.saturating_duration_since(start + due) > LATE_MAX {
            // An instant before the machine's own start may not be representable: then the lag stays.
            start = now.checked_sub(due).unwrap_or(start);
            self.start = Some(start);
        }
        while !stop.load(Ordering::Relaxed) {
            let left = (start + due).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(STOP_CHECK));
        }
        false
    }
}

#[cfg(test)]
mod tests;
