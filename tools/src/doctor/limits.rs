//! Limits of the process that the relay runs in, or would.

use relay::Config;
use relay::budget::RING_LOCKED_BYTES;

use super::finding::{Finding, size};
use super::kernel::COPYING_COSTS;
use super::port;
use super::system::System;

/// Whose limits are looked at: a running relay's, else those of whoever asks.
pub(super) struct Subject {
    relay: Option<u32>,
}

impl Subject {
    /// The relay that has the port, or the only one there is: whose sockets they are, shows to their user only.
    pub(super) fn find(system: &System, port: u16) -> Subject {
        let is_relay = |(_, name): &(u32, String)| name == "superpeerd";
        let mut relays = system.processes().into_iter().filter(is_relay);
        let only = relays.next().filter(|_| relays.next().is_none());
        let relay = port::owner_of(system, port).filter(is_relay).or(only);
        Subject { relay: relay.map(|(id, _)| id) }
    }

    fn file(&self, name: &str) -> String {
        match self.relay {
            Some(id) => format!("/proc/{id}/{name}"),
            None => format!("/proc/self/{name}"),
        }
    }

    fn name(&self) -> String {
        match self.relay {
            Some(id) => format!("superpeerd, process {id}"),
            None => "this shell; the unit sets its own".to_owned(),
        }
    }

    /// The soft limit; `None` where it cannot be read.
    fn limit(&self, system: &System, name: &str) -> Option<Limit> {
        let text = system.read(&self.file("limits"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        match line.split_whitespace().next()? {
            "unlimited" => Some(Limit(u64::MAX)),
            number => number.parse().ok().map(Limit),
        }
    }

    /// Whether it may lock memory without limit: only a capability for the whole machine counts (io_uring/io_uring.c asks
    /// `capable`).
    fn may_lock(&self, system: &System) -> bool {
        let status = self.file("status");
        let capabilities = system.field(&status, "CapEff");
        let capabilities = capabilities.and_then(|digits| u64::from_str_radix(&digits, 16).ok());
        let users = system.read(&self.file("uid_map")).unwrap_or_default();
        let of_the_machine = users.split_whitespace().eq(["0", "0", "4294967295"]);
        capabilities.is_some_and(|bits| bits & (1 << CAP_IPC_LOCK) != 0) && of_the_machine
    }

    /// A running relay that lacks something is a problem. That a shell does is none as long as the relay runs as the
    /// unit, which sets the limits.
    fn short(
        &self,
        id: &'static str,
        value: String,
        cost: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        match self.relay {
            Some(_) => Finding::problem(id, value, cost, fix),
            None => Finding::note(id, value, cost, fix),
        }
    }
}

/// include/uapi/linux/capability.h
const CAP_IPC_LOCK: u32 = 14;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Limit(u64);

/// The limit on locked memory against what a relay of this configuration may pin.
pub(super) fn locked_memory(system: &System, subject: &Subject, config: &Config) -> Finding {
    let id = "locked_memory";
    let name = subject.name();
    if subject.may_lock(system) {
        return Finding::ok(id, format!("no limit, by CAP_IPC_LOCK ({name})"));
    }
    let needed = config.locked_bytes_max();
    let fix = "`systemctl edit superpeer`: [Service] LimitMEMLOCK=infinity (systemd/superpeer.service has it); \
               `docker run --ulimit memlock=-1`; in a root shell `ulimit -l unlimited`";
    match subject.limit(system, "Max locked memory") {
        None => Finding::note(
            id,
            format!("cannot be read ({name})"),
            format!("if it is low, {COPYING_COSTS}"),
            fix,
        ),
        Some(Limit(u64::MAX)) => Finding::ok(id, format!("no limit ({name})")),
        Some(Limit(bytes)) => {
            let value = format!("{} of {} that zero-copy may pin ({name})", size(bytes), size(needed));
            match bytes {
                _ if bytes >= needed => Finding::ok(id, value),
                _ if bytes < RING_LOCKED_BYTES => {
                    let cost =
                        format!("a kernel that counts rings refuses them; in any case, {COPYING_COSTS}");
                    subject.short(id, value, cost, fix)
                }
                _ => {
                    let cost = format!("once windows are larger than that, {COPYING_COSTS}");
                    subject.short(id, value, cost, fix)
                }
            }
        }
    }
}

/// The limit on open files against what a relay of this configuration opens.
pub(super) fn open_files(system: &System, subject: &Subject, config: &Config) -> Finding {
    let (id, name, needed) = ("open_files", subject.name(), config.files_max());
    let fix = "`systemctl edit superpeer`: [Service] LimitNOFILE=65536 (systemd/superpeer.service has it); \
               `docker run --ulimit nofile=65536`; in a shell `ulimit -n 65536`";
    let cost = "the relay does not start, or nobody can ask it for its status";
    match subject.limit(system, "Max open files") {
        None => Finding::note(id, format!("cannot be read ({name})"), format!("if it is low, {cost}"), fix),
        Some(Limit(files)) if files >= needed => {
            Finding::ok(id, format!("{files}, {needed} are enough ({name})"))
        }
        Some(Limit(files)) => {
            subject.short(id, format!("{files} of {needed} that are needed ({name})"), cost, fix)
        }
    }
}

/// The relay does without transparent huge pages, whatever the machine's setting: nothing is to be done about that. Only
/// a relay that could not switch them off for itself is worth a word.
pub(super) fn huge_pages(system: &System, subject: &Subject) -> Finding {
    let id = "huge_pages";
    let setting = system.read("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = setting.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let chosen = chosen.map_or("none", |(chosen, _)| chosen);
    let enabled = system.field(&subject.file("status"), "THP_enabled");
    match (subject.relay, enabled.as_deref()) {
        (Some(_), Some("1")) if chosen != "never" && chosen != "none" => Finding::note(
            id,
            format!("{chosen}, and in use ({})", subject.name()),
            "up to 10 MiB of each worker's memory in place of a few hundred KiB",
            "allow prctl(PR_SET_THP_DISABLE) in the sandbox of the relay",
        ),
        _ => Finding::ok(id, format!("{chosen}; the relay goes without them under any setting")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::super::system::Made;
    use super::*;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 524288               files
Max locked memory         8388608              8388608              bytes
";

    fn config() -> Config {
        Config { workers: relay::Workers::Fixed(2), ..Config::default() }
    }

    /// A machine on which the daemon runs, with these files of its process.
    fn with_daemon(files: &[(&str, &str)]) -> (Made, Subject) {
        let made = Made::with(&[("/proc/42/comm", "superpeerd"), ("/proc/7/comm", "bash")]);
        files.iter().for_each(|(name, text)| made.write(&format!("/proc/42/{name}"), text));
        let subject = Subject::find(&made.system, 7450);
        assert_eq!(subject.relay, Some(42));
        (made, subject)
    }

    #[test]
    fn a_running_relay_that_may_lock_little_is_a_problem_and_a_shell_a_note() {
        let (made, subject) = with_daemon(&[("limits", LIMITS)]);
        let found = locked_memory(&made.system, &subject, &config());
        assert_eq!(found.status, Status::Problem);
        assert!(
            found.value.starts_with("8 MiB of 1024 MiB") && found.value.contains("process 42"),
            "{}",
            found.value
        );
        assert!(found.fix.unwrap().contains("LimitMEMLOCK=infinity"));

        let made = Made::with(&[("/proc/self/limits", LIMITS)]);
        let found = locked_memory(&made.system, &Subject::find(&made.system, 7450), &config());
        assert_eq!(found.status, Status::Note);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn of_several_relays_the_one_with_the_port_counts() {
        let made = Made::with(&[("/proc/42/comm", "superpeerd"), ("/proc/43/comm", "superpeerd")]);
        assert_eq!(Subject::find(&made.system, 7450).relay, None);
        let socket = " 9: 0100007F:1D1A 00000000:0000 07 00000000:00000000 00:00000000 00000000   0        0 12 2 0 0\n";
        made.write("/proc/net/udp", socket);
        made.link("/proc/43/fd/5", "socket:[12]");
        assert_eq!(Subject::find(&made.system, 7450).relay, Some(43));
        assert_eq!(Subject::find(&made.system, 7451).relay, None);
    }

    #[test]
    fn enough_and_unlimited_and_the_capability_are_well() {
        let limits = |soft: &str| LIMITS.replace("8388608              8388608", soft);
        for soft in ["unlimited unlimited", "2000000000 unlimited"] {
            let (made, subject) = with_daemon(&[("limits", &limits(soft))]);
            assert_eq!(locked_memory(&made.system, &subject, &config()).status, Status::Ok, "{soft}");
        }
        let status = ("status", "CapEff:\t0000000000004000\n");
        let of_the_machine = ("uid_map", "         0          0 4294967295\n");
        let of_a_container = ("uid_map", "         0     100000      65536\n");
        for (users, expected) in [(of_the_machine, Status::Ok), (of_a_container, Status::Problem)] {
            let (made, subject) = with_daemon(&[("limits", LIMITS), status, users]);
            assert_eq!(locked_memory(&made.system, &subject, &config()).status, expected, "{users:?}");
        }
    }

    #[test]
    fn open_files_are_counted_by_workers() {
        let (made, subject) = with_daemon(&[("limits", LIMITS)]);
        assert_eq!(open_files(&made.system, &subject, &config()).status, Status::Ok);
        made.write("/proc/42/limits", &LIMITS.replace("1024 ", "32 "));
        let found = open_files(&made.system, &subject, &config());
        assert_eq!(found.status, Status::Problem);
        assert!(found.fix.unwrap().contains("LimitNOFILE="));
    }

    #[test]
    fn huge_pages_are_of_no_concern_unless_the_relay_has_them() {
        let (made, subject) = with_daemon(&[("status", "THP_enabled:\t0\n")]);
        made.write("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
        let found = huge_pages(&made.system, &subject);
        assert_eq!(found.status, Status::Ok);
        assert!(found.value.starts_with("always;"), "{}", found.value);
        made.write("/proc/42/status", "THP_enabled:\t1\n");
        assert_eq!(huge_pages(&made.system, &subject).status, Status::Note);
        made.write("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
        assert_eq!(huge_pages(&made.system, &subject).status, Status::Ok);
    }

    #[test]
    fn what_cannot_be_read_is_a_note() {
        let made = Made::with(&[]);
        let subject = Subject::find(&made.system, 7450);
        assert_eq!(locked_memory(&made.system, &subject, &config()).status, Status::Note);
        assert_eq!(open_files(&made.system, &subject, &config()).status, Status::Note);
        assert_eq!(huge_pages(&made.system, &subject).status, Status::Ok);
    }
}
