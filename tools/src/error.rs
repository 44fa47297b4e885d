//! What a command can fail with, and which exit status that is.

use std::io;

use thiserror::Error;

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
    /// The command is not in this build.
    #[error("`{0}` cannot do anything in this build yet")]
    NotBuilt(&'static str),
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
