//! `superpeer watch`: a channel onto a screen.

use core::time::Duration;

use clap::ValueEnum;
use codec::ChannelLink;

use crate::Error;
use crate::link::parse_relay;
use crate::output::OutputSpec;

/// Watch a channel
///
/// Watches the channel LINK: writes its stream to OUTPUT or into a program. Waits for a channel that is not live yet
/// and ends when the channel ends.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  superpeer watch \"$(superpeer link --relay 127.0.0.1:7450 demo.key)\" --exec 'mpv -'
  superpeer watch 'magnet:?xs=urn:btpk:…&x.pe=relay.example:7450' recording.ts
  superpeer watch 'magnet:?xs=urn:btpk:…&x.pe=relay.example:7450' udp://127.0.0.1:5000")]
pub struct Args {
    /// The channel's link (magnet:?xs=urn:btpk:…)
    #[arg(value_name = "LINK")]
    pub link: ChannelLink,
    /// `-` (standard output), a file, or udp://HOST:PORT
    #[arg(value_name = "OUTPUT", default_value = "-", hide_default_value = true)]
    pub output: OutputSpec,
    /// Run a shell command and write the stream to its standard input; the end of one ends the other
    #[arg(long, value_name = "CMD", conflicts_with = "output")]
    pub exec: Option<String>,
    /// For how many milliseconds a missing chunk may be waited for
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=DELAY_MS_MAX))]
    pub delay_ms: u32,
    /// Where to begin: at the live edge, or at the oldest chunk that the relay still keeps
    #[arg(long, value_name = "WHERE", default_value = "live")]
    pub from: From,
    /// Write one JSON object a second on standard error
    #[arg(long)]
    pub stats: bool,
    /// A relay to ask in addition to those in LINK; may be repeated
    #[arg(long = "relay", value_name = "HOST:PORT", value_parser = parse_relay)]
    pub relays: Vec<String>,
}

/// Longer than any relay keeps a chunk to repair it from.
const DELAY_MS_MAX: i64 = 60_000;

/// Where watching begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum From {
    /// At the live edge.
    Live,
    /// At the oldest chunk that the relay still keeps.
    Start,
}

impl Args {
    /// For how long a missing chunk may be waited for.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.into())
    }

    /// Where the stream goes.
    pub fn output(&self) -> OutputSpec {
        self.exec.clone().map_or_else(|| self.output.clone(), OutputSpec::Program)
    }

    /// The relays to ask, those of the link first; never none.
    ///
    /// # Errors
    /// [`Error::Usage`] when neither the link nor the command line names one.
    pub fn relays(&self) -> Result<Vec<String>, Error> {
        let mut relays = self.link.relays.clone();
        relays.extend(self.relays.iter().filter(|relay| !self.link.relays.contains(relay)).cloned());
        if relays.is_empty() {
            return Err(Error::Usage(
                "the link names no relay to ask: add one with --relay HOST:PORT".into(),
            ));
        }
        Ok(relays)
    }
}

/// Runs the command.
///
/// # Errors
/// When no relay is named, or the output cannot be written.
pub fn run(args: Args) -> Result<(), Error> {
    args.relays()?;
    Err(Error::NotBuilt("watch"))
}
