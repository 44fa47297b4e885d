//! What systemd is told (sd_notify(3)). Started by anything else, nobody is.

use sd_notify::NotifyState;
use tracing::debug;

use super::status::{QuotaState, Status};

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
    let used_up = status.quota.filter(|quota| quota.state == QuotaState::UsedUp);
    let quota =
        used_up.map_or_else(String::new, |quota| format!(", quota used up until {}", quota.period_end));
    format!(
        "{} channels, {} subscribers, {sent_gbps:.2} Gbit/s out{quota}",
        status.channels.len(),
        status.subscribers
    )
}
