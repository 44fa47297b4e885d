//! `superpeer doctor`: what this machine lacks for running a relay, and what mends it.
//!
//! It changes nothing and needs no privilege; what cannot be seen without one it says, and how to see it. Sizes are those
//! of the relay with its built-in configuration.

use std::io::IsTerminal;

use relay::Config;
use relay::plane::{Io, kernel_release};

use crate::error::print;
use crate::{Error, link};

mod clock;
mod device;
mod finding;
mod kernel;
mod limits;
mod netfilter;
mod port;
mod reach;
mod socket_buffers;
mod system;

use finding::{Finding, Report};
use system::System;

/// Say what this machine lacks for running a relay, and how to mend it
///
/// Looks at kernel, limits, network device, clock, port and firewall, changes nothing, and needs no privilege. Each line
/// is `ok`, a `note` (worth knowing; costs little here, or there is no remedy) or a `problem`, with what it costs and
/// the command that mends it. Exit status 1 if there is a problem.
///
/// Whether a relay's port can be reached shows from another machine only: run `superpeer doctor --reach` there.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  superpeer doctor
  superpeer doctor --port 9000 --to viewer.example --json
  superpeer doctor --reach relay.example:7450   # on another machine")]
pub struct Args {
    /// The UDP port of the relay
    #[arg(long, value_name = "PORT", default_value_t = Config::default().listen.port(), value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Look at the device on the way to HOST instead of that to the internet; nothing is sent there
    #[arg(long, value_name = "HOST")]
    pub to: Option<String>,
    /// Only say whether UDP gets from this machine to the relay there and back
    #[arg(long, value_name = "HOST:PORT", value_parser = link::parse_relay, conflicts_with_all = ["port", "to"])]
    pub reach: Option<String>,
    /// Print one JSON object instead of the lines
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Problems`] when something was found that is to be mended.
pub fn run(args: Args) -> Result<(), Error> {
    let report = Report(match &args.reach {
        Some(relay) => reach::check(relay),
        None => examine(&System::here(), args.port, args.to.as_deref()),
    });
    if args.json {
        print(&report.json())?;
    } else {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print(&report.text(colour))?;
    }
    match report.problems() {
        0 => Ok(()),
        problems => Err(Error::Problems(problems)),
    }
}

/// Everything but reach. Files are read below the root of `system`; what can be tried is tried for real.
fn examine(system: &System, port: u16, to: Option<&str>) -> Vec<Finding> {
    let config = Config::default();
    let by_uring = kernel::try_plane(Io::Uring);
    let plain;
    let by_any = match &by_uring {
        Err(error) if error.is_about_io_uring() => {
            plain = kernel::try_plane(Io::Mmsg);
            &plain
        }
        tried => tried,
    };
    let mut findings = vec![
        kernel::kernel(&kernel_release()),
        kernel::io_uring(&by_uring, system),
        kernel::zero_copy(&by_uring),
        kernel::segmentation(by_any),
    ];
    findings.extend(socket_buffers::check());
    let subject = limits::Subject::find(system, port);
    findings.push(limits::locked_memory(system, &subject, &config));
    findings.push(limits::open_files(system, &subject, &config));
    findings.push(limits::huge_pages(system, &subject));
    findings.extend(device::check(system, to));
    findings.push(clock::check(system, clock::asked_timedatectl().as_deref()));
    findings.push(port::check(system, port));
    findings.push(netfilter::conntrack(system, port, config.limits.subscribers as u64));
    findings.push(netfilter::firewall(system, port));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_proc_and_sys_are_empty_there_are_findings_all_the_same() {
        let empty = tempfile::tempdir().unwrap();
        let findings = examine(&System::at(empty.path()), 7450, Some("127.0.0.1"));
        let ids: Vec<&str> = findings.iter().map(|finding| finding.id).collect();
        let expected = [
            "kernel",
            "io_uring",
            "zero_copy",
            "segmentation",
            "receive_buffer",
            "send_buffer",
            "locked_memory",
            "open_files",
            "huge_pages",
            "device",
            "device_segmentation",
            "device_checksum",
            "device_gro",
            "mtu",
            "clock",
            "port",
            "conntrack",
            "firewall",
        ];
        assert_eq!(ids, expected);
    }
}
