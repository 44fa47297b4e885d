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

/// Where the daemon is.
#[derive(clap::Args, Debug)]
pub struct At {
    /// The relay's admin socket (`admin.socket` in its configuration, or its --admin-socket)
    #[arg(long, value_name = "PATH", default_value = "/run/superpeer/admin.sock")]
    pub socket: PathBuf,
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
