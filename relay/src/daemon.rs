//! `superpeerd`: command line, log, exit status.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tracing::error;

use crate::budget::use_small_pages;
use crate::config::{AdminListen, AdminSocket, Config, ConfigError, DEFAULT_CONFIG, Workers, parse_address};
use crate::control::supervise;
use crate::kept::Kept;
use crate::log;
use crate::plane::Io;
use crate::running::Relay;

/// The superpeer relay: takes live channels in over UDP, verifies them and fans them out through io_uring
#[derive(Parser, Debug)]
#[command(
    name = "superpeerd",
    version,
    after_help = "\
Examples:
  superpeerd --listen 127.0.0.1:7450 --open    # any channel, to try it out
  superpeerd --config /etc/superpeer/superpeer.toml
  superpeerd --print-config > superpeer.toml

The log goes to standard error; RUST_LOG=debug shows more of it.
SIGHUP has the configuration read anew.
SIGTERM or Ctrl-C ends the relay after a goodbye to every peer. A SIGTERM that
follows a SIGUSR2 is a restart by systemd: nobody is told goodbye."
)]
struct Args {
    /// The configuration; without it, the built-in defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen (UDP); wins over the configuration
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_address)]
    listen: Option<SocketAddr>,
    /// What moves datagrams: io_uring, or the plain recvmmsg and sendmmsg; auto is io_uring where that is to be had
    #[arg(long, value_name = "auto|uring|mmsg", hide_possible_values = true)]
    io: Option<Io>,
    /// Threads that move datagrams: 1 to 64, or auto: one for each processor
    #[arg(long, value_name = "N|auto")]
    workers: Option<Workers>,
    /// Carry any channel, not only the configured ones
    #[arg(long)]
    open: bool,
    /// Where status and metrics of the relay are to be had (HTTP, loopback only)
    #[arg(long, value_name = "ADDR:PORT|off")]
    admin: Option<AdminListen>,
    /// Where commands are taken (a unix socket); by default in the runtime directory that systemd gives, else nowhere
    #[arg(long, value_name = "PATH|off")]
    admin_socket: Option<AdminSocket>,
    /// Say whether the configuration is right, and do nothing else
    #[arg(long, requires = "config")]
    check_config: bool,
    /// Print the commented default configuration, and do nothing else
    #[arg(long, conflicts_with_all = ["config", "listen", "io", "workers", "open", "admin", "admin_socket", "check_config"])]
    print_config: bool,
}

/// The command line of `superpeerd`.
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs the daemon with this command line, of which the first is the program's name; returns the exit status: 0, 1 on a
/// failure, 2 on wrong usage.
pub fn run(command_line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(command_line) {
        Ok(args) => args,
        Err(error) => {
            // Help counts as such an error too.
            let (shown, status) = (error.print(), ExitCode::from(error.exit_code() as u8));
            return if error.use_stderr() { status } else { printed(shown, status) };
        }
    };
    if args.print_config {
        return print(DEFAULT_CONFIG);
    }
    match load(&args) {
        Ok(_) if args.check_config => print("the configuration is right\n"),
        Ok(config) => match with_places(config) {
            Ok(config) => serve(config, || load(&args).and_then(with_places)),
            Err(error) => complain(&error),
        },
        Err(error) => complain(&error),
    }
}

fn load(args: &Args) -> Result<Config, ConfigError> {
    let mut config = args.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read)?;
    config.listen = args.listen.unwrap_or(config.listen);
    config.io = args.io.unwrap_or(config.io);
    config.workers = args.workers.unwrap_or(config.workers);
    config.open |= args.open;
    config.admin.listen = args.admin.unwrap_or(config.admin.listen);
    config.admin.socket = args.admin_socket.clone().unwrap_or(config.admin.socket);
    Ok(config)
}

/// What only the daemon's surroundings can say: a file may be right elsewhere.
fn with_places(mut config: Config) -> Result<Config, ConfigError> {
    config.quota.find_file()?;
    Ok(config)
}

fn serve(config: Config, load: impl Fn() -> Result<Config, ConfigError>) -> ExitCode {
    let log = log::init();
    if !config.open && config.admission() == mesh::Admission::Listed(Default::default()) {
        tracing::warn!(
            "no channel is listed and the relay is not open: it will refuse everybody (`channels` in the configuration)"
        );
    }
    use_small_pages();
    // The relay first: it finds out whether there is io_uring, and if it is a must, says what to do.
    let kept = Kept::take(&config);
    let started = kept.and_then(|kept| Relay::start_with(&config, kept));
    let relay = match started {
        Ok(relay) => relay,
        Err(error) => return complain(&error),
    };
    // Without io_uring, tokio-uring would panic.
    let ended = if relay.uses_io_uring() {
        tokio_uring::start(supervise(relay, config, load, &log))
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.and_then(|runtime| runtime.block_on(supervise(relay, config, load, &log)))
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            error!("cannot listen for signals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    printed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()), ExitCode::SUCCESS)
}

/// `status`, if all was printed. That its reader has gone is no failure, a full disk is.
fn printed(result: std::io::Result<()>, status: ExitCode) -> ExitCode {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => complain(&Unprinted(error)),
        _ => status,
    }
}

/// What was to be printed is not.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
struct Unprinted(std::io::Error);

fn complain(error: &dyn std::error::Error) -> ExitCode {
    // With standard error closed there is nobody to tell; the exit status still says it.
    let _ = writeln!(std::io::stderr(), "superpeerd: {error}");
    ExitCode::FAILURE
}
