//! The lab: two network namespaces and a pair of veth devices between them, the relay in one, everybody else in the other.
//! Shards leave the relay's device and are dropped there, but for a sample of subscribers, so that the relay is measured
//! and not the receiving side.
//!
//! The namespaces have no names: each ends with the process that is in it, however that ends. The relay's does when its
//! standard input is closed.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Error;

/// The end of the relay.
pub(in crate::bench) const RELAY: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 2);

/// The first subscriber's address; all are within its /16.
pub(in crate::bench) const SUBSCRIBERS: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 0);

/// The first publisher's address; all are within its /16.
pub(super) const PUBLISHERS: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 0);

/// Subscribers that really receive: at least half as many, or all.
const RECEIVERS: std::ops::RangeInclusive<u32> = 8..=64;

/// What they receive together, in channels: comparing every byte takes processor time that a relay of several workers
/// lacks, where there are no more processors.
const STREAMS: u32 = 192;

/// One subscriber out of this many receives; a power of two, so that one mask of the address tells.
pub(super) fn stride(subscribers: u32, channels: usize) -> u32 {
    let receivers = STREAMS / (channels as u32).max(1);
    subscribers.div_ceil(receivers.clamp(*RECEIVERS.start(), *RECEIVERS.end())).next_power_of_two()
}

/// A command that runs this program in a new network namespace; `unshare` replaces itself by it.
pub(super) fn isolated() -> Result<Command, Error> {
    let program = std::env::current_exe();
    let program = program.map_err(|error| Error::System("cannot find this program's file", error))?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(program);
    Ok(command)
}

/// Runs this command line once more, with `flag` added, in a new network namespace, and in place of this process.
pub(in crate::bench) fn enter(flag: &str) -> Error {
    if !nix::unistd::geteuid().is_root() {
        return Error::Lab("namespaces need root: run it with sudo, or use --sink loopback".to_owned());
    }
    match isolated() {
        Ok(mut command) => {
            let failed = command.args(std::env::args_os().skip(1)).arg(flag).exec();
            Error::System("cannot run unshare, of util-linux", failed)
        }
        Err(error) => error,
    }
}

/// Ties this namespace to that of the relay's process.
pub(super) fn connect(relay: u32) -> Result<(), Error> {
    ip("link set lo up")?;
    // Left by an earlier run of a search, until the kernel has taken that relay's namespace apart.
    let _ = Command::new("ip").args(["link", "delete", "load0"]).stderr(std::process::Stdio::null()).status();
    ip(&format!("link add load0 type veth peer name relay0 netns {relay}"))?;
    ip("address add 10.96.0.1/24 dev load0")?;
    ip("link set load0 up")?;
    [SUBSCRIBERS, PUBLISHERS]
        .iter()
        .try_for_each(|first| ip(&format!("route replace local {first}/16 dev lo")))
}

/// Sets up the relay's end. Control datagrams pass; a train is longer than the longest of them.
pub(super) fn set_up_relay(stride: u32) -> Result<(), Error> {
    ip("link set lo up")?;
    ip(&format!("address add {RELAY}/24 dev relay0"))?;
    ip("link set relay0 up")?;
    for first in [SUBSCRIBERS, PUBLISHERS] {
        ip(&format!("route add {first}/16 via 10.96.0.1"))?;
    }
    // Each rule on a line of its own, as nft's grammar has it.
    let chain = "chain egress { type filter hook egress device \"relay0\" priority 0; policy accept;\n";
    let drops = if stride == 1 { String::new() } else { drop_rule(stride) };
    run("nft", &[&format!("table netdev lab {{\n{chain}{drops}}}\n}}")])
}

fn drop_rule(stride: u32) -> String {
    let mask = Ipv4Addr::from(stride - 1);
    format!("ip daddr {SUBSCRIBERS}/16 ip daddr & {mask} != 0.0.0.0 udp length > 1000 counter drop\n")
}

pub(in crate::bench) fn ip(arguments: &str) -> Result<(), Error> {
    run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

pub(in crate::bench) fn run(program: &str, arguments: &[&str]) -> Result<(), Error> {
    let done = Command::new(program).args(arguments).output();
    let done = done.map_err(|error| {
        Error::Lab(format!("cannot run {program}: {error}; the lab needs iproute2 and nftables"))
    })?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(Error::Lab(format!("`{program} {}`: {}", arguments.join(" "), said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_receive_however_many_subscribe() {
        for (subscribers, expected) in [(1, 1), (64, 1), (65, 2), (1_000, 16), (10_000, 256), (65_536, 1_024)]
        {
            assert_eq!(stride(subscribers, 1), expected);
        }
        assert_eq!([8, 500].map(|channels| stride(1_000, channels)), [64, 128]);
    }
}
