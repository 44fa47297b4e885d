//! `superpeer drain`: a relay lets everybody go to other nodes, and ends.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use codec::wire::control::NODES_MAX;
use relay::commands::{Drain, Draining};

use super::client::Client;
use super::{At, parse_time, text, to_json};
use crate::Error;
use crate::contact::say;
use crate::error::print;
use crate::interrupt::Interrupt;
use crate::link::parse_relay;
use crate::resolve::resolve;

/// Have the relay on this machine let everybody go to other nodes, and end
///
/// From now on nobody new is let in, and those who are there are told goodbye bit by bit, with the nodes that are named here
/// (or in `others` of the configuration): subscribers first, then publishers. Those nodes should carry the channels already. The
/// relay ends as soon as nobody is left, at the latest after the time; systemd does not start it again. The command shows how
/// far that has got; Ctrl-C ends only the command.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  superpeer drain --to relay2.example:7450 --for 10m\n  superpeer drain --cancel"
)]
pub struct Args {
    /// A node that is named to those who go; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_relay)]
    pub to: Vec<String>,
    /// The relay ends after this time, whoever is left: 90s, 10m, 2h
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = parse_time)]
    pub time: Duration,
    /// End a drain that is under way: newcomers are let in again
    #[arg(long, conflicts_with_all = ["to", "time"])]
    pub cancel: bool,
    /// Where the relay is
    #[command(flatten)]
    pub at: At,
    /// Print one JSON object a second
    #[arg(long)]
    pub json: bool,
}

/// How often the relay is asked how far it has got: it counts once a second.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// So many times in a row an answer may fail to come.
const FAILURES_MAX: u32 = 3;

/// How often Ctrl-C is looked for.
const INTERRUPT_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the command.
///
/// # Errors
/// When there is no relay, it does not answer, or somebody cancels the drain.
pub fn run(args: Args) -> Result<(), Error> {
    let client = Client::new(&args.at)?;
    if args.cancel {
        let draining: Draining = client.post("/drain/cancel", &())?;
        return match args.json {
            true => print(&to_json(&draining)),
            false => print(&format!("the drain was cancelled; {} sessions are left", draining.sessions)),
        };
    }
    let to = addresses(&args.to)?;
    let interrupt = Interrupt::listen_quietly()?;
    let draining = client.post("/drain", &Drain { to, for_s: args.time.as_secs() })?;
    let progress = Progress { json: args.json, is_terminal: io::stderr().is_terminal() };
    follow(&client, draining, &progress, &interrupt)
}

fn addresses(names: &[String]) -> Result<Vec<SocketAddr>, Error> {
    let mut to = Vec::new();
    for name in names {
        let addresses = resolve(name).map_err(|error| Error::Usage(format!("--to: {error}")))?;
        to.extend(addresses.into_iter().filter(|address| !to.contains(address)).collect::<Vec<_>>());
    }
    if to.len() > NODES_MAX {
        let count = to.len();
        return Err(Error::Usage(format!("--to: {count} addresses; a goodbye has room for {NODES_MAX}")));
    }
    Ok(to)
}

/// Shows how far it has got, until the relay has ended.
fn follow(client: &Client, first: Draining, progress: &Progress, interrupt: &Interrupt) -> Result<(), Error> {
    let (mut draining, mut uptime_s, mut failures) = (first, 0, 0);
    loop {
        progress.show(&draining)?;
        if !pause(interrupt) {
            progress.end();
            say("the drain goes on without this command; `superpeer drain --cancel` ends it");
            return Ok(());
        }
        let status = match client.status() {
            Err(error) if error.is_absence() => break,
            // It may have ended while it was asked.
            Err(_) if failures < FAILURES_MAX => {
                failures += 1;
                continue;
            }
            status => status?,
        };
        failures = 0;
        // Another one in its place is younger.
        if status.uptime_s < uptime_s {
            break;
        }
        uptime_s = status.uptime_s;
        match status.drain {
            Some(now) => draining = now,
            None => {
                progress.end();
                return Err(Error::DrainCancelled);
            }
        }
    }
    progress.end();
    say("the relay has let everybody go and has ended");
    Ok(())
}

/// Returns whether to go on.
fn pause(interrupt: &Interrupt) -> bool {
    let until = Instant::now() + LOOK_INTERVAL;
    while Instant::now() < until && !interrupt.is_set() {
        thread::sleep(INTERRUPT_INTERVAL);
    }
    !interrupt.is_set()
}

struct Progress {
    json: bool,
    is_terminal: bool,
}

impl Progress {
    fn show(&self, draining: &Draining) -> Result<(), Error> {
        if self.json {
            return print(&to_json(draining));
        }
        if self.is_terminal {
            // A terminal that takes nothing shows nothing.
            let _ = write!(io::stderr(), "\r\x1b[Ksuperpeer: {}", text::draining(draining));
        }
        Ok(())
    }

    fn end(&self) {
        if self.is_terminal && !self.json {
            let _ = writeln!(io::stderr());
        }
    }
}
