//! `superpeer reload`: a relay reads its configuration anew.

use relay::commands::Reloaded;

use super::At;
use super::client::Client;
use super::status::to_json;
use crate::Error;
use crate::contact::say;
use crate::error::print;

/// Have the relay on this machine read its configuration anew
///
/// Channels and limits act at once; what is marked (restart) in the configuration is named, and acts when the relay is
/// started again. A wrong file changes nothing: it is told with its line.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  superpeer reload")]
pub struct Args {
    /// Where the relay is
    #[command(flatten)]
    pub at: At,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// When the configuration is wrong, there is no relay, or it does not answer.
pub fn run(args: Args) -> Result<(), Error> {
    let reloaded: Reloaded = Client::new(&args.at)?.post("/reload", &())?;
    if args.json {
        return print(&to_json(&reloaded));
    }
    if !reloaded.at_restart.is_empty() {
        say(&format!(
            "changed, and acts when the relay is started again: {}",
            reloaded.at_restart.join(", ")
        ));
    }
    print("the configuration was read anew")
}
