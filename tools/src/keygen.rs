//! `superpeer keygen`: a new channel.

use std::path::PathBuf;

use crate::error::print;
use crate::key_file::{KeyFile, parse_name};
use crate::{Error, link};

/// Make the key of a new channel
///
/// Writes a new random channel key to FILE, readable by you only, and prints the channel's link.
///
/// Who has the file can publish on the channel, and nobody can without it: keep a copy. An existing file is never
/// overwritten.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  superpeer keygen --name demo demo.key")]
pub struct Args {
    /// What to call the channel; kept in FILE and shown in links
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,
    /// The file to make
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn run(args: Args) -> Result<(), Error> {
    let key = KeyFile::create(&args.file, args.name)?;
    print(&link::text(&key, Vec::new())?)
}
