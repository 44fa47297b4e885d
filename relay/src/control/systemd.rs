//! What systemd is told (sd_notify(3)). Started by anything else, nobody is.

use sd_notify::NotifyState;
use tracing::debug;

use super::status::Status;

/// The relay takes peers.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Every worker has counted lately: the watchdog is fed by them and not by this thread's clock.
pub(super) fn alive(status: &Status) {
    let line = status_line(status);
    tell(&[NotifyState::Watchdog, NotifyState::Status(&line)]);
}

/// The relay says goodbye.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "systemd was not told");
    }
}

fn status_line(status: &Status) -> String {
    let sent_gbps = status.rates.first().map_or(0.0, |rates| rates.sent_bps / 1e9);
    format!(
        "{} channels, {} subscribers, {sent_gbps:.2} Gbit/s out",
        status.channels.len(),
        status.subscribers
    )
}
