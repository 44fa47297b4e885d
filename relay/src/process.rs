//! What this process costs the machine.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

/// User and system time of all threads, those of the kernel's that work for a ring too: what `/proc/PID/stat` says of any
/// program, and so what other relays can be compared with.
pub fn cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let duration = |time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    duration(usage.user_time()) + duration(usage.system_time())
}

/// Resident memory: `VmRSS` of proc_pid_status(5), which is in kB.
pub fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1_024
}
