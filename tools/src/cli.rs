//! The command line.

use clap::{CommandFactory, Parser, Subcommand};

#[cfg(target_os = "linux")]
use crate::admin::{channels, drain, kick, reload, status, top};
use crate::{Error, impair, keygen, link, manual, publish, sim, watch};
#[cfg(target_os = "linux")]
use crate::{bench, demo, doctor};

/// Live streams over UDP, through super-peers that carry them to everyone.
#[derive(Parser, Debug)]
#[command(name = "superpeer", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  superpeer demo
  superpeer keygen --name demo demo.key
  ffmpeg -re -i film.mp4 -c copy -f mpegts - |
    superpeer publish --key demo.key --relay 127.0.0.1:7450
  superpeer watch \"$(superpeer link --relay 127.0.0.1:7450 demo.key)\" --exec 'mpv -'";

#[derive(Subcommand, Debug)]
enum Command {
    #[cfg(target_os = "linux")]
    Bench(bench::Args),
    #[cfg(target_os = "linux")]
    Channels(channels::Args),
    #[cfg(target_os = "linux")]
    Demo(demo::Args),
    #[cfg(target_os = "linux")]
    Doctor(doctor::Args),
    #[cfg(target_os = "linux")]
    Drain(drain::Args),
    Impair(impair::Args),
    Keygen(keygen::Args),
    #[cfg(target_os = "linux")]
    Kick(kick::Args),
    Link(link::Args),
    #[command(hide = true)]
    Manual(manual::Args),
    Publish(publish::Args),
    #[cfg(target_os = "linux")]
    Reload(reload::Args),
    Sim(sim::Args),
    #[cfg(target_os = "linux")]
    Status(status::Args),
    #[cfg(target_os = "linux")]
    Top(top::Args),
    Watch(watch::Args),
}

/// Why a command line led to nothing.
pub(crate) enum Failure {
    /// It is wrong, or asked for help.
    CommandLine(clap::Error),
    /// Its command failed.
    Command(Error),
}

/// The command line of `superpeer`.
pub fn command() -> clap::Command {
    Cli::command()
}

pub(crate) fn run() -> Result<(), Failure> {
    let cli = Cli::try_parse().map_err(Failure::CommandLine)?;
    let done = match cli.command {
        #[cfg(target_os = "linux")]
        Command::Bench(args) => bench::run(args),
        #[cfg(target_os = "linux")]
        Command::Channels(args) => channels::run(args),
        #[cfg(target_os = "linux")]
        Command::Demo(args) => demo::run(args),
        #[cfg(target_os = "linux")]
        Command::Doctor(args) => doctor::run(args),
        #[cfg(target_os = "linux")]
        Command::Drain(args) => drain::run(args),
        Command::Impair(args) => impair::run(args),
        Command::Keygen(args) => keygen::run(args),
        #[cfg(target_os = "linux")]
        Command::Kick(args) => kick::run(args),
        Command::Link(args) => link::run(args),
        Command::Manual(args) => manual::run(args),
        Command::Publish(args) => publish::run(args),
        #[cfg(target_os = "linux")]
        Command::Reload(args) => reload::run(args),
        Command::Sim(args) => sim::run(args),
        #[cfg(target_os = "linux")]
        Command::Status(args) => status::run(args),
        #[cfg(target_os = "linux")]
        Command::Top(args) => top::run(args),
        Command::Watch(args) => watch::run(args),
    };
    done.map_err(Failure::Command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::InputSpec;
    use crate::output::OutputSpec;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn what_is_not_given_has_a_default() {
        let publish = ["superpeer", "publish", "--key", "demo.key", "--relay", "127.0.0.1:7450"];
        let Command::Publish(args) = Cli::try_parse_from(publish).unwrap().command else { panic!() };
        assert_eq!((args.input, args.looped), (InputSpec::Stdin, false));

        let link = format!("magnet:?xs=urn:btpk:{}&x.pe=a:1", "0".repeat(64));
        let watch = |more: &[&str]| {
            let line = ["superpeer", "watch", &link].into_iter().chain(more.iter().copied());
            let Command::Watch(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
            args
        };
        let args = watch(&[]);
        assert_eq!((args.output(), args.from, args.delay_ms), (OutputSpec::Stdout, watch::From::Live, 1000));
        assert_eq!(watch(&["--exec", "mpv -"]).output(), OutputSpec::Program("mpv -".into()));
        let relays = watch(&["--relay", "b:2", "--relay", "a:1"]).relays();
        assert_eq!(relays.unwrap(), ["a:1", "b:2"]);

        let Command::Demo(args) = Cli::try_parse_from(["superpeer", "demo"]).unwrap().command else {
            panic!()
        };
        assert_eq!((args.viewers, args.seconds, args.bitrate.bits_per_second), (50, 10, 4_000_000));
    }
}
