//! What the kernel offers of what the relay moves datagrams with, by trying it on loopback.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mesh::{Outbox, SLOT_BYTES, SlotIndex};
use relay::plane::{Io, OpenError, Plane, ZERO_COPY_FROM_BYTES};
use relay::uring::SlotMemory;

use super::finding::Finding;
use super::system::System;

/// The relay's io_uring plane needs this kernel (relay/DESIGN.md).
const KERNEL_MIN: (u32, u32) = (6, 1);

/// What doing without zero-copy costs, from the table in relay/DESIGN.md.
pub(super) const COPYING_COSTS: &str =
    "trains are copied: one of 16 datagrams takes 1.1 times the processor time, one of 48 1.6 times";

const NO_IO_URING_COSTS: &str = "the relay goes on with recvmmsg and sendmmsg, without zero-copy: a train of 16 \
                                 datagrams takes 1.1 times the processor time, one of 48 1.6 times";

/// Datagrams of the train that is sent for a try: long enough to be sent without a copy.
const TRAIN: usize = ZERO_COPY_FROM_BYTES as usize / codec::DATAGRAM_BYTES;

/// How long the train may be on its way. Loopback takes microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// What came of a try.
pub(super) struct Tried {
    received: usize,
    /// Messages that they came in: fewer where the kernel joins datagrams.
    messages: u64,
    /// The kernel would not segment.
    refused: bool,
    no_zero_copy: Option<String>,
}

/// Opens a plane as a relay does, and sends a train to itself.
pub(super) fn try_plane(io: Io) -> Result<Tried, OpenError> {
    let slots = SlotMemory::map(1).map_err(|source| OpenError::Memory { bytes: SLOT_BYTES, source })?;
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let mut plane = Plane::open(io, listen, slots.region(), ZERO_COPY_FROM_BYTES)?;
    let mut outbox = Outbox::new(1);
    outbox.push_train(plane.local_addr(), SlotIndex(0), 0, TRAIN);
    plane.transmit(&outbox);
    let give_up_at = Instant::now() + PATIENCE;
    let mut received = plane.receive(|_, _| ());
    while received < TRAIN {
        let left = give_up_at.saturating_duration_since(Instant::now());
        if left.is_zero() || plane.wait(Some(left)).is_err() {
            break;
        }
        received += plane.receive(|_, _| ());
    }
    let counters = plane.counters();
    Ok(Tried {
        received,
        messages: counters.messages_received,
        refused: counters.gso_refused > 0,
        no_zero_copy: plane.probe().no_zero_copy.clone(),
    })
}

pub(super) fn kernel(release: &str) -> Finding {
    let (major, minor) = KERNEL_MIN;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let newer = format!(
        "install a newer kernel (Linux {major}.{minor} or later), as from the distribution's next release"
    );
    match (numbers.next(), numbers.next()) {
        (Some(Ok(have_major)), Some(Ok(have_minor))) if (have_major, have_minor) >= KERNEL_MIN => {
            Finding::ok("kernel", release)
        }
        (Some(Ok(_)), Some(Ok(_))) => Finding::problem(
            "kernel",
            format!("{release}, older than {major}.{minor}"),
            NO_IO_URING_COSTS,
            newer,
        ),
        _ => Finding::note("kernel", release, "whether it is new enough is not known", "`uname -r` shows it"),
    }
}

pub(super) fn io_uring(tried: &Result<Tried, OpenError>, system: &System) -> Finding {
    let id = "io_uring";
    let (value, fix) = match tried {
        Ok(tried) => match shortcoming(tried, system) {
            None => {
                let received = tried.received;
                let value = format!(
                    "ring, buffer ring, multishot recvmsg: {received} of {TRAIN} datagrams came by it"
                );
                return Finding::ok(id, value);
            }
            Some(shortcoming) => shortcoming,
        },
        Err(error) if error.is_about_io_uring() => refusal(error, system),
        Err(error) => return Finding::note(id, UNTRIED, "what it offers is not known", way_to_try(error)),
    };
    Finding::problem(id, value, NO_IO_URING_COSTS, fix)
}

const UNTRIED: &str = "could not be tried";

/// What has to be mended first, where no socket is to be had for a try.
fn way_to_try(error: &OpenError) -> String {
    match error {
        OpenError::Bind { source, .. } => format!("`ip link set lo up`: a try needs loopback ({source})"),
        other => other.to_string(),
    }
}

/// What is wrong though a ring was to be had.
fn shortcoming(tried: &Tried, system: &System) -> Option<(String, String)> {
    // Who may administer the machine gets a ring all the same (io_uring(7)); the daemon may not.
    if system.number("/proc/sys/kernel/io_uring_disabled") == Some(1) {
        return Some(switched_off(1, system));
    }
    let value = format!("ring and buffers are given, but {} of {TRAIN} datagrams came by it", tried.received);
    let fix = "`ip link set lo up` if loopback is down; else the kernel's io_uring is broken: `superpeerd --io mmsg`";
    (tried.received != TRAIN).then(|| (value, fix.to_owned()))
}

fn switched_off(setting: u8, system: &System) -> (String, String) {
    let value = format!("switched off: kernel.io_uring_disabled = {setting}");
    let on = "`sysctl -w kernel.io_uring_disabled=0`, and that line in a file of /etc/sysctl.d";
    if setting != 1 {
        return (value, on.to_owned());
    }
    let group = match system.number::<i64>("/proc/sys/kernel/io_uring_group") {
        Some(group) if group >= 0 => format!("{group} (kernel.io_uring_group)"),
        _ => "NUMBER, after `sysctl -w kernel.io_uring_group=NUMBER`".to_owned(),
    };
    let unit = format!("or `systemctl edit superpeer`: [Service] SupplementaryGroups={group}");
    (format!("{value}, for all but a group"), format!("{on}; {unit}"))
}

/// Why there is no ring, and what mends that. Of the refusals that look alike, what the kernel says of this process
/// tells which it is.
fn refusal(error: &OpenError, system: &System) -> (String, String) {
    let filtered = system.field("/proc/self/status", "Seccomp").as_deref() == Some("2");
    let allow = "allow io_uring_setup, io_uring_enter and io_uring_register: `docker run --security-opt \
                 seccomp=FILE` (podman too) with the default profile and these in FILE, or seccomp=unconfined; in a unit \
                 SystemCallFilter=io_uring_setup io_uring_enter io_uring_register";
    match error {
        OpenError::SwitchedOff { setting } => switched_off(*setting, system),
        OpenError::Forbidden if filtered => {
            let value = "forbidden by a seccomp filter (EPERM), as that of Docker does";
            (value.to_owned(), allow.to_owned())
        }
        OpenError::Missing { .. } if filtered => {
            let value =
                "hidden by a seccomp filter (ENOSYS), as that of Podman does, or not built into the kernel";
            (value.to_owned(), allow.to_owned())
        }
        OpenError::Forbidden => {
            let value = "not permitted (EPERM), and by no seccomp filter: a security module forbids it";
            let fix = "SELinux: `ausearch -m avc -c superpeerd | audit2allow -M superpeer && semodule -i superpeer.pp`";
            (value.to_owned(), fix.to_owned())
        }
        OpenError::Missing { .. } => {
            let fix = "a kernel with CONFIG_IO_URING=y, as distributions build it";
            ("not built into this kernel (ENOSYS)".to_owned(), fix.to_owned())
        }
        OpenError::TooOld { source, .. } | OpenError::Receive { source } => {
            let (major, minor) = KERNEL_MIN;
            let fix = format!("install a newer kernel (Linux {major}.{minor} or later)");
            (format!("this kernel lacks what is needed of it ({source})"), fix)
        }
        OpenError::Ring { source } | OpenError::Buffers { source, .. } => {
            let fix = "`systemctl edit superpeer`: [Service] LimitMEMLOCK=infinity; in a shell `ulimit -l`";
            (
                format!("no ring or no buffers ({source}): too little memory that may be locked"),
                fix.to_owned(),
            )
        }
        other => (UNTRIED.to_owned(), other.to_string()),
    }
}

pub(super) fn zero_copy(tried: &Result<Tried, OpenError>) -> Finding {
    let id = "zero_copy";
    let why = match tried {
        Ok(Tried { no_zero_copy: None, .. }) => {
            let value = format!("SEND_ZC with REPORT_USAGE, for trains of {TRAIN} datagrams and more");
            return Finding::ok(id, value);
        }
        Ok(Tried { no_zero_copy: Some(why), .. }) => why,
        Err(error) if error.is_about_io_uring() => {
            let fix = "what mends io_uring";
            return Finding::problem(id, "none without io_uring", COPYING_COSTS, fix);
        }
        Err(error) => return Finding::note(id, UNTRIED, "what it offers is not known", way_to_try(error)),
    };
    let fix = "install a newer kernel (Linux 6.2 or later, or a 6.1 with its updates)";
    Finding::problem(id, why.clone(), COPYING_COSTS, fix)
}

/// What the kernel makes of trains, on the way out and in, whatever the device.
pub(super) fn segmentation(tried: &Result<Tried, OpenError>) -> Finding {
    match tried {
        Err(error) => {
            Finding::problem("segmentation", UNTRIED, "a relay may not start here either", way_to_try(error))
        }
        Ok(Tried { refused: true, .. }) => Finding::problem(
            "segmentation",
            "the kernel does not segment what is sent over loopback",
            "the relay sends datagram by datagram: 15 to 30 times the processor time for each byte",
            "remove what rewrites datagrams on loopback (`ip xfrm policy`, `nft list ruleset`); no relay option helps",
        ),
        Ok(Tried { received, .. }) if *received != TRAIN => Finding::problem(
            "segmentation",
            format!("{received} of a train of {TRAIN} datagrams came over loopback"),
            "a relay on this machine may lose as much",
            "`ip link set lo up`; `nft list ruleset` shows what drops on loopback",
        ),
        Ok(Tried { messages, .. }) => {
            let value = format!("UDP_SEGMENT, UDP_GRO: a train of {TRAIN} over loopback came in {messages}");
            Finding::ok("segmentation", value)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::finding::Status;
    use super::super::system::Made;
    use super::*;

    fn tried() -> Tried {
        Tried { received: TRAIN, messages: 1, refused: false, no_zero_copy: None }
    }

    #[test]
    fn kernels_before_6_1_are_a_problem() {
        for (release, status) in [
            ("6.1.0-13-amd64", Status::Ok),
            ("10.0", Status::Ok),
            ("6.0.19", Status::Problem),
            ("5.15.0-91-generic", Status::Problem),
            ("of unknown release", Status::Note),
        ] {
            assert_eq!(kernel(release).status, status, "{release}");
        }
    }

    #[test]
    fn refusals_of_io_uring_are_told_apart() {
        let filtered = Made::with(&[("/proc/self/status", "Seccomp:\t2\n")]);
        let free = Made::with(&[("/proc/self/status", "Seccomp:\t0\n")]);
        let forbidden = || OpenError::Forbidden;
        let missing = || OpenError::Missing { kernel: "6.1".to_owned() };
        let no_memory = || OpenError::Ring { source: io::Error::from_raw_os_error(12) };
        let cases: [(OpenError, &Made, &str, &str); 7] = [
            (forbidden(), &filtered, "seccomp", "--security-opt"),
            (forbidden(), &free, "security module", "audit2allow"),
            (missing(), &filtered, "Podman", "io_uring_enter"),
            (missing(), &free, "not built", "CONFIG_IO_URING"),
            (OpenError::SwitchedOff { setting: 2 }, &free, "= 2", "sysctl -w kernel.io_uring_disabled=0"),
            (OpenError::SwitchedOff { setting: 1 }, &free, "a group", "SupplementaryGroups="),
            (no_memory(), &free, "locked", "LimitMEMLOCK=infinity"),
        ];
        for (error, made, value, fix) in cases {
            let finding = io_uring(&Err(error), &made.system);
            assert_eq!(finding.status, Status::Problem);
            assert!(finding.value.contains(value) && finding.fix.unwrap().contains(fix), "{}", finding.value);
        }
    }

    #[test]
    fn io_uring_for_a_group_only_is_told_to_who_gets_it_all_the_same() {
        let made = Made::with(&[
            ("/proc/sys/kernel/io_uring_disabled", "1\n"),
            ("/proc/sys/kernel/io_uring_group", "990\n"),
        ]);
        let finding = io_uring(&Ok(tried()), &made.system);
        assert_eq!(finding.status, Status::Problem);
        assert!(finding.fix.unwrap().contains("SupplementaryGroups=990"));
        made.write("/proc/sys/kernel/io_uring_disabled", "0\n");
        assert_eq!(io_uring(&Ok(tried()), &made.system).status, Status::Ok);
    }

    #[test]
    fn where_loopback_is_down_that_is_to_be_mended_first() {
        let source = || io::Error::from_raw_os_error(99);
        let down = || Err(OpenError::Bind { listen: (Ipv4Addr::LOCALHOST, 0).into(), source: source() });
        let findings =
            [io_uring(&down(), &Made::with(&[]).system), zero_copy(&down()), segmentation(&down())];
        let statuses = findings.each_ref().map(|finding| finding.status);
        assert_eq!(statuses, [Status::Note, Status::Note, Status::Problem]);
        assert!(findings.into_iter().all(|finding| finding.fix.unwrap().contains("`ip link set lo up`")));
    }

    #[test]
    fn what_a_try_shows_is_judged() {
        let made = Made::with(&[]);
        let lossy = Ok(Tried { received: 3, ..tried() });
        assert_eq!(io_uring(&lossy, &made.system).status, Status::Problem);
        assert_eq!(segmentation(&lossy).status, Status::Problem);
        assert_eq!(segmentation(&Ok(Tried { refused: true, ..tried() })).status, Status::Problem);
        assert_eq!(segmentation(&Ok(tried())).status, Status::Ok);
        assert_eq!(zero_copy(&Ok(tried())).status, Status::Ok);
        let none = Ok(Tried { no_zero_copy: Some("the kernel does not offer it".to_owned()), ..tried() });
        assert_eq!(zero_copy(&none).status, Status::Problem);
        assert_eq!(zero_copy(&Err(OpenError::Forbidden)).status, Status::Problem);
    }
}
