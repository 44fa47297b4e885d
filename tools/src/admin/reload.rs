//! `superpeer reload`: a relay reads its configuration anew.

use relay::commands::Reloaded;

use super::Ask;
use super::client::Client;
use crate::Error;
use crate::contact::say;

/// Have the relay on this machine read its configuration anew
///
/// Channels and limits act at once; what is marked (restart) in the configuration is named, and acts when the relay is
/// started again. A wrong file changes nothing: it is told with its line.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  superpeer reload")]
pub struct Args {
    /// The relay
    #[command(flatten)]
    pub ask: Ask,
}

/// Runs the command.
///
/// # Errors
/// When the configuration is wrong, there is no relay, or it does not answer.
pub fn run(args: Args) -> Result<(), Error> {
    let reloaded: Reloaded = Client::new(&args.ask.at)?.post("/reload", &())?;
    if !reloaded.at_restart.is_empty() && !args.ask.json {
        say(&format!(
            "changed, and acts when the relay is started again: {}",
            reloaded.at_restart.join(", ")
        ));
    }
    args.ask.show(&reloaded, |_| "the configuration was read anew".to_owned())
}
