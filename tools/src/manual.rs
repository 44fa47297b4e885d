//! `superpeer manual`: the manual pages and shell completions of a package, from the command line's own definition.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
#[cfg(target_os = "linux")]
use clap_mangen::Man;

use crate::{Error, command};

/// Write the manual pages and shell completions of superpeer and superpeerd
///
/// For whoever makes a package.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  superpeer manual manual/")]
pub struct Args {
    /// Where to write them; made if missing
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When the folder cannot be written.
pub fn run(args: Args) -> Result<(), Error> {
    let folder = args.folder;
    write(&folder).map_err(|error| Error::Manual { folder, error })
}

fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command(), folder)?;
    write_completions(command(), folder)?;
    #[cfg(target_os = "linux")]
    {
        Man::new(relay::command()).section("8").generate_to(folder)?;
        write_completions(relay::command(), folder)?;
    }
    Ok(())
}

fn write_completions(mut command: Command, folder: &Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, &name, folder)?;
    }
    Ok(())
}
