//! What a command can fail with, and which exit status that is.

use std::io;
use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::net::SocketAddrV4;

use std::path::PathBuf;

use thiserror::Error;

#[cfg(target_os = "linux")]
use crate::admin::client::AdminError;
use crate::input::InputError;
use crate::key_file::KeyFileError;
use crate::output::OutputError;

/// The exit status of a failure at run time.
pub const FAILED: u8 = 1;

/// The exit status of a wrong command line.
pub const WRONG_USAGE: u8 = 2;

/// Why a command failed. Its text says what was wrong, with what value, and what to do.
#[derive(Debug, Error)]
pub enum Error {
    /// The command line makes no sense, in a way that only the command itself can tell.
    #[error("{0}")]
    Usage(String),
    /// A channel's key cannot be made or read.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The stream to publish cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The watched stream cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A result cannot be printed.
    #[error("cannot write to standard output: {0}")]
    Print(io::Error),
    /// Every relay refuses for good.
    #[error(
        "refused ({relays}); ask whoever runs the relay to list the channel, or start your own with --open"
    )]
    Refused {
        /// Each relay with its reason.
        relays: String,
    },
    /// The stream ended and no relay was there to take it.
    #[error("no relay was connected when the stream ended: what was not delivered by then is lost")]
    Unreached,
    /// The system does not give what is needed.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on UDP {0}: {1}; it has to be a free port of an address of this machine (`ip address`, `ss -uln`)"
    )]
    Listen(SocketAddr, io::Error),
    /// The manual cannot be written.
    #[error("cannot write the manual to {folder}: {error}")]
    Manual {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A simulation found what must not be.
    #[error("the simulation failed: {0}")]
    SimFailed(String),
    /// The relay of the demo.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Relay(#[from] relay::StartError),
    /// The running relay, asked for something.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Somebody else ended the drain.
    #[cfg(target_os = "linux")]
    #[error("the drain was cancelled by somebody else; the relay goes on")]
    DrainCancelled,
    /// The bench's relay process ended, or says what it should not.
    #[cfg(target_os = "linux")]
    #[error("the relay of the bench failed: {0}")]
    BenchRelay(String),
    /// The bench's namespaces cannot be set up.
    #[cfg(target_os = "linux")]
    #[error("cannot set up the lab: {0}")]
    Lab(String),
    /// The doctor found what is to be mended.
    #[cfg(target_os = "linux")]
    #[error("problems found: {0}; what mends each stands below it")]
    Problems(usize),
    /// A bench did not get on.
    #[cfg(target_os = "linux")]
    #[error(
        "the bench did not get on: {what} within {seconds} s; the machine is too busy for this load, or something blocks UDP"
    )]
    BenchStuck {
        /// What did not happen.
        what: String,
        /// For how long it was waited for.
        seconds: u64,
    },
    /// The relay that a bench was told to measure does not let it.
    #[cfg(target_os = "linux")]
    #[error("the relay at {relay} refuses: {reason}; {remedy}")]
    BenchRefused {
        /// The relay.
        relay: SocketAddrV4,
        /// What it said.
        reason: codec::wire::control::RefuseReason,
        /// What is to be set there.
        remedy: String,
    },
    /// There is no relay to measure.
    #[cfg(target_os = "linux")]
    #[error(
        "no relay answered at {relay} within {seconds} s: is one listening there, and is UDP let through?"
    )]
    BenchUnanswered {
        /// Where it was to be.
        relay: SocketAddrV4,
        /// For how long it was waited for.
        seconds: u64,
    },
    /// The relay that is measured does not say what it counts.
    #[cfg(target_os = "linux")]
    #[error("no status from {url}: {why}; --relay-status takes what the relay's admin.listen says")]
    BenchStatus {
        /// Who was asked.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// A chart cannot be written.
    #[cfg(target_os = "linux")]
    #[error("cannot write the chart {path}: {error}")]
    Chart {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// Subscribers of a bench got something else than what was published.
    #[cfg(target_os = "linux")]
    #[error("{wrong} of {checked} checked datagrams were not what was published")]
    BenchDiffers {
        /// Datagrams with a wrong byte.
        wrong: u64,
        /// All that were looked at.
        checked: u64,
    },
    /// The demo did not get on.
    #[error(
        "the demo did not get on within {0} s: the machine is too busy, or something blocks UDP on loopback"
    )]
    DemoStuck(u64),
    /// Viewers of the demo got something else than what was published.
    #[error("{differing} of {viewers} viewers got other bytes than were published")]
    Differs {
        /// Viewers whose bytes differ.
        differing: usize,
        /// All viewers.
        viewers: usize,
    },
}

impl Error {
    /// The exit status of the program.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Input(InputError::NotLoopable(_)) => WRONG_USAGE,
            _ => FAILED,
        }
    }
}

/// Prints a result on standard output. That its reader has gone (`superpeer link … | head -0`) is no failure.
///
/// # Errors
/// [`Error::Print`] on any other error, for example a full disk.
pub fn print(line: &str) -> Result<(), Error> {
    use io::Write;
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Print(error)),
        _ => Ok(()),
    }
}
