//! Everything a person types: the commands of `superpeer`, and the parts they are made of.
//!
//! It does not define the protocol (that is `codec` and `mesh`) and is not the relay daemon (that is `relay`).
// `json!` recurses for every field of a report.
#![recursion_limit = "256"]

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use cap::Cap;
use mimalloc::MiMalloc;

#[cfg(target_os = "linux")]
pub mod admin;
#[cfg(target_os = "linux")]
pub mod bench;
mod chart;
mod cli;
pub mod contact;
#[cfg(target_os = "linux")]
pub mod demo;
#[cfg(target_os = "linux")]
pub mod doctor;
pub mod driver;
pub mod error;
pub mod impair;
pub mod input;
pub mod interrupt;
pub mod key_file;
pub mod keygen;
pub mod link;
pub mod manual;
pub mod mpegts;
pub mod output;
pub mod publish;
pub mod resolve;
pub mod sim;
pub mod watch;
pub mod writer;

pub use cli::command;
pub use error::Error;

/// It counts the bytes in use, with no limit: `bench relay` so knows what a subscriber costs.
#[global_allocator]
static ALLOCATOR: Cap<MiMalloc> = Cap::new(MiMalloc, usize::MAX);

/// Runs the command on the command line; returns the exit status: 0, 1 on a failure, 2 on wrong usage.
pub fn run() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(cli::Failure::CommandLine(error)) => {
            // Help counts as such an error too. That its reader has gone is no failure.
            match error.print() {
                Err(unprinted) if !error.use_stderr() && unprinted.kind() != ErrorKind::BrokenPipe => {
                    complain(&Error::Print(unprinted))
                }
                _ => ExitCode::from(error.exit_code() as u8),
            }
        }
        Err(cli::Failure::Command(error)) => complain(&error),
    }
}

fn complain(error: &Error) -> ExitCode {
    // With standard error closed there is nobody to tell; the exit status still says it.
    let _ = writeln!(std::io::stderr(), "superpeer: {error}");
    ExitCode::from(error.exit_status())
}
