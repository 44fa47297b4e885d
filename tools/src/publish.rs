//! `superpeer publish`: a stream onto a channel.

use std::path::PathBuf;

use crate::Error;
use crate::input::InputSpec;
use crate::link::parse_relay;

/// Publish a stream on a channel
///
/// Publishes the stream INPUT on the channel of a key, through one or more relays. The end of the input ends the
/// channel.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ffmpeg -re -i film.mp4 -c copy -f mpegts - |
    superpeer publish --key demo.key --relay 127.0.0.1:7450
  superpeer publish --key demo.key --relay relay.example:7450 --loop film.ts
  superpeer publish --key demo.key --relay relay.example:7450 udp://239.1.2.3:5000")]
pub struct Args {
    /// The channel's key, from `superpeer keygen`
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// A relay that is to carry the channel; may be repeated
    #[arg(long = "relay", value_name = "HOST:PORT", required = true, value_parser = parse_relay)]
    pub relays: Vec<String>,
    /// `-` (standard input), an MPEG-TS file (sent at the speed of its clock), or udp://ADDR:PORT (MPEG-TS datagrams
    /// to an address of this machine or to a multicast group)
    #[arg(value_name = "INPUT", default_value = "-", hide_default_value = true)]
    pub input: InputSpec,
    /// Start a file again at its end
    #[arg(long = "loop")]
    pub looped: bool,
}

/// Runs the command.
///
/// # Errors
/// When the key or the input cannot be read.
pub fn run(_args: Args) -> Result<(), Error> {
    Err(Error::NotBuilt("publish"))
}
