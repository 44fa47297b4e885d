//! Commands for whoever runs a relay: they ask the daemon over its admin socket.

pub mod channels;
pub mod client;
pub mod drain;
pub mod kick;
pub mod reload;
pub mod status;
pub mod text;
pub mod top;

use std::path::PathBuf;
use std::time::Duration;

use relay::commands::FOR_MAX;
use serde::Serialize;

use crate::Error;
use crate::error::print;

/// Where the daemon is.
#[derive(clap::Args, Debug)]
pub struct At {
    /// The relay's admin socket (`admin.socket` in its configuration, or its --admin-socket)
    #[arg(long, value_name = "PATH", default_value = "/run/superpeer/admin.sock")]
    pub socket: PathBuf,
}

/// Which relay is asked, and how its answer is shown.
#[derive(clap::Args, Debug)]
pub struct Ask {
    /// Where the relay is
    #[command(flatten)]
    pub at: At,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Ask {
    /// Shows an answer.
    fn show<T: Serialize>(&self, answer: &T, in_words: impl FnOnce(&T) -> String) -> Result<(), Error> {
        print(&if self.json { to_json(answer) } else { in_words(answer) })
    }
}

/// What prints as it came.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it was made of JSON, and is written as it was read")
}

/// A time as a person writes it: `90s`, `10m`, `1h 30m`.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; a time is written as in 90s, 10m or 2h"))?;
    if time > FOR_MAX {
        return Err(format!("it must be at most {}days", FOR_MAX.as_secs() / 86_400));
    }
    Ok(time)
}
