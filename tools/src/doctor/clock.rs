//! Whether the clock is kept right.

use std::process::{Command, Stdio};

use super::finding::Finding;
use super::system::System;

/// What systemd says of the kernel's clock (adjtimex(2)); `None` where there is no systemd to ask.
pub(super) fn asked_timedatectl() -> Option<String> {
    let asked = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let output = asked.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(super) fn check(system: &System, timedatectl: Option<&str>) -> Finding {
    let id = "clock";
    let cost = "capture times and the delays reckoned from them are wrong; a publisher set back between two starts is \
                held for a replay, and a relay a day behind refuses new chunks";
    match timedatectl {
        Some("yes") => Finding::ok(id, "synchronised (timedatectl)"),
        Some("no") => Finding::problem(
            id,
            "not synchronised (timedatectl)",
            cost,
            "`timedatectl set-ntp true`, after installing systemd-timesyncd or chrony",
        ),
        _ if system.exists("/run/systemd/timesync/synchronized") => {
            Finding::ok(id, "synchronised (systemd-timesyncd)")
        }
        _ => Finding::note(
            id,
            "whether it is synchronised cannot be seen from here",
            format!("if it is not, {cost}"),
            "`chronyc tracking` or `timedatectl` shows it; in a container, on its host",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::super::system::Made;
    use super::*;

    #[test]
    fn the_clock_is_judged_by_what_systemd_says_then_by_its_file() {
        let bare = Made::with(&[]);
        let kept = Made::with(&[("/run/systemd/timesync/synchronized", "")]);
        let cases = [
            (Some("yes"), &bare, Status::Ok),
            (Some("no"), &bare, Status::Problem),
            (Some("no"), &kept, Status::Problem),
            (Some(""), &bare, Status::Note),
            (None, &kept, Status::Ok),
            (None, &bare, Status::Note),
        ];
        for (said, made, expected) in cases {
            assert_eq!(check(&made.system, said).status, expected, "{said:?}");
        }
    }
}
