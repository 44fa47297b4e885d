//! `superpeer link`: the link of a channel.

use std::path::PathBuf;

use codec::ChannelLink;
use codec::link::{LinkError, check_relay};

use crate::Error;
use crate::error::print;
use crate::key_file::KeyFile;

/// Print the link by which viewers find a channel
///
/// Prints the link of the channel whose key is in FILE. The link holds no secret: give it to viewers.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  superpeer link --relay relay.example:7450 --relay '[2001:db8::1]:7450' demo.key"
)]
pub struct Args {
    /// A relay that carries the channel; may be repeated
    #[arg(long = "relay", value_name = "HOST:PORT", value_parser = parse_relay)]
    pub relays: Vec<String>,
    /// The channel's key
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When the file is no key file.
pub fn run(args: Args) -> Result<(), Error> {
    let key = KeyFile::read(&args.file)?;
    print(&text(&key, args.relays)?)
}

/// The link as text, after reading it back: what is printed can be read.
pub(crate) fn text(key: &KeyFile, relays: Vec<String>) -> Result<String, Error> {
    let text = key.link(relays).to_string();
    let read: Result<ChannelLink, LinkError> = text.parse();
    read.map_err(|error| Error::Usage(format!("the link would not be readable: {error}")))?;
    Ok(text)
}

/// Checks a `--relay` value.
pub(crate) fn parse_relay(text: &str) -> Result<String, LinkError> {
    check_relay(text.to_owned())
}
