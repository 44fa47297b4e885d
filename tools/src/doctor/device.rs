//! The network device that a relay's datagrams leave by.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use codec::DATAGRAM_BYTES;
use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolFeatureBit};
use futures_util::StreamExt;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{SockaddrStorage, getsockopt, sockopt};

use super::finding::{Finding, Status};
use super::system::System;
use crate::resolve::resolve;

/// Addresses of the internet (a root name server's): the way to them is asked for, nothing is sent.
const INTERNET: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30)),
];

/// The largest headers before a datagram: IPv6 and UDP.
const HEADERS_BYTES: usize = 48;

/// The kernel answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The way to a destination.
struct Route {
    to: IpAddr,
    from: IpAddr,
    device: String,
    mtu: Option<usize>,
}

/// The device on the way to `to`, or to the internet.
pub(super) fn check(system: &System, to: Option<&str>) -> Vec<Finding> {
    let found = match to {
        Some(host) => addresses(host).and_then(|addresses| first_route(system, &addresses)),
        None => first_route(system, &INTERNET),
    };
    let route = match found {
        Ok(route) => route,
        Err(why) => {
            return vec![Finding::problem(
                "device",
                why,
                "nobody out there reaches a relay here, and device and MTU are not looked at",
                "bring the network up (`ip address`, `ip route`), or name whom the relay is for with `--to HOST`",
            )];
        }
    };
    let features = features(&route.device);
    let Route { device, .. } = &route;
    vec![
        hardware(system, &route),
        segmentation(device, &features),
        checksum(device, route.from, &features),
        gro(device, &features),
        mtu(&route),
    ]
}

fn addresses(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Ok(vec![address]);
    }
    let found = resolve(&format!("{host}:1")).map_err(|error| error.to_string())?;
    Ok(found.iter().map(SocketAddr::ip).collect())
}

fn first_route(system: &System, to: &[IpAddr]) -> Result<Route, String> {
    let mut why = String::new();
    for to in to {
        match route(system, *to) {
            Ok(route) => return Ok(route),
            Err(error) if why.is_empty() => why = format!("no way to {to}: {error}"),
            Err(_) => {}
        }
    }
    Err(why)
}

/// Connecting a UDP socket sends nothing: it makes the kernel look the way up.
fn route(system: &System, to: IpAddr) -> io::Result<Route> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((to, 1))?;
    let from = socket.local_addr()?.ip();
    let device = device_of(from)?;
    let of_device = system.number::<usize>(&format!("/sys/class/net/{device}/mtu"));
    // A route may have a smaller one.
    let of_route = getsockopt(&socket, sockopt::IpMtu).ok().and_then(|mtu| usize::try_from(mtu).ok());
    Ok(Route { to, from, device, mtu: of_device.into_iter().chain(of_route).min() })
}

fn device_of(address: IpAddr) -> io::Result<String> {
    let ip = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    let has_it = |candidate: Option<IpAddr>| match (candidate, address) {
        // All of 127.0.0.0/8 is the loopback device's.
        (Some(candidate), address) if address.is_loopback() => candidate.is_loopback(),
        (candidate, address) => candidate == Some(address),
    };
    let found = getifaddrs()?.find(|interface| has_it(interface.address.and_then(ip)));
    let none = || io::Error::other(format!("no device has {address}"));
    found.map(|interface| interface.interface_name).ok_or_else(none)
}

fn hardware(system: &System, route: &Route) -> Finding {
    let Route { to, from, device, .. } = route;
    let value = format!("{device}, from {from} to {to}");
    if device == "lo" || system.exists(&format!("/sys/class/net/{device}/device")) {
        return Finding::ok("device", value);
    }
    Finding::note(
        "device",
        format!("{value}; no hardware of its own (a container's, a bridge, a tunnel)"),
        "what the device under it can do counts in the end, and is not seen from here",
        "`superpeer doctor` on the host; a container has the host's device with `docker run --network host`",
    )
}

/// What a device can do, in the words of `ethtool -k`.
#[derive(Debug)]
struct Features {
    on: HashSet<String>,
    /// Those that can be switched.
    changeable: HashSet<String>,
}

impl Features {
    fn is_on(&self, name: &str) -> bool {
        self.on.contains(name)
    }
}

/// Asks the kernel by netlink, as anyone may.
fn features(device: &str) -> Result<Features, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let asked = runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, ask(device)).await });
    asked.unwrap_or_else(|_| Err("the kernel does not answer".to_owned()))
}

async fn ask(device: &str) -> Result<Features, String> {
    let (connection, mut handle, _) = ethtool::new_connection().map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let answers = handle.feature().get(Some(device)).execute().await.map_err(|error| error.to_string())?;
    let mut answers = std::pin::pin!(answers);
    let (mut on, mut changeable) = (HashSet::new(), HashSet::new());
    let names = |bits: Vec<EthtoolFeatureBit>| bits.into_iter().filter(|bit| bit.value).map(|bit| bit.name);
    while let Some(answer) = answers.next().await {
        for attribute in answer.map_err(|error| error.to_string())?.payload.nlas {
            match attribute {
                EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => on.extend(names(bits)),
                EthtoolAttr::Feature(EthtoolFeatureAttr::Hw(bits)) => changeable.extend(names(bits)),
                _ => {}
            }
        }
    }
    if on.is_empty() {
        Err("the kernel names no feature".to_owned())
    } else {
        Ok(Features { on, changeable })
    }
}

/// A feature that is wanted on: one of `names`, the first of which is switched.
fn feature(
    id: &'static str,
    device: &str,
    names: &[&str],
    features: &Result<Features, String>,
    cost: &str,
    none: &str,
) -> Finding {
    let name = names[0];
    match features {
        Err(why) => {
            let fix = format!("`ethtool -k {device}` (package ethtool) shows it");
            Finding::note(
                id,
                format!("{name} of {device} is not known: {why}"),
                format!("without it, {cost}"),
                fix,
            )
        }
        Ok(features) => match names.iter().find(|name| features.is_on(name)) {
            Some(name) => Finding::ok(id, format!("{name} is on ({device})")),
            None => match names.iter().find(|name| features.changeable.contains(**name)) {
                Some(name) => {
                    let fix = format!("`ethtool -K {device} {name} on`, again after each boot");
                    Finding::problem(id, format!("{name} is off ({device})"), cost, fix)
                }
                None => Finding::note(id, format!("{device} has no {name}"), cost, none),
            },
        },
    }
}

/// Figures of relay/DESIGN.md's machine: an EPYC guest of 2 cores, Linux 6.18.
fn segmentation(device: &str, features: &Result<Features, String>) -> Finding {
    let cost = "the kernel cuts each train itself: 3 to 5 times the processor time for each byte (of 16 datagrams 8.4 \
                µs for 2.5, of 48 21 for 3.7; 2 cores of an EPYC guest, Linux 6.18)";
    let none = "none on this device: a machine type or network card that has it (virtio-net: host_uso=on on its host)";
    feature("device_segmentation", device, &["tx-udp-segmentation"], features, cost, none)
}

fn checksum(device: &str, from: IpAddr, features: &Result<Features, String>) -> Finding {
    let of_family = if from.is_ipv4() { "tx-checksum-ipv4" } else { "tx-checksum-ipv6" };
    let cost = "the kernel reads every byte once more, and older ones refuse trains to such a device: datagram by datagram \
                costs 15 to 30 times the processor time";
    let none = "none on this device: a machine type or network card that has it";
    feature("device_checksum", device, &["tx-checksum-ip-generic", of_family], features, cost, none)
}

/// What comes in is little beside what goes out, so this is never more than a note.
fn gro(device: &str, features: &Result<Features, String>) -> Finding {
    let cost = "datagrams of publishers come in one by one: each goes through the whole network stack";
    let none = "none on this device: a kernel or driver with GRO";
    let found = feature("device_gro", device, &["rx-gro"], features, cost, none);
    let status = if found.status == Status::Ok { Status::Ok } else { Status::Note };
    Finding { status, ..found }
}

fn mtu(route: &Route) -> Finding {
    let (id, needed, Route { device, .. }) = ("mtu", DATAGRAM_BYTES + HEADERS_BYTES, route);
    let cost = "every datagram goes in two fragments, which many networks drop, or does not go at all";
    let fix = format!(
        "`ip link set dev {device} mtu {needed}` (a tunnel: in its configuration), or more if its network can"
    );
    match route.mtu {
        None => Finding::note(id, format!("of {device}: not known"), format!("below {needed}, {cost}"), fix),
        Some(mtu) if mtu >= needed => Finding::ok(id, format!("{mtu} bytes, {needed} are enough ({device})")),
        Some(mtu) => {
            Finding::problem(id, format!("{mtu} bytes of {needed} that are needed ({device})"), cost, fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::system::Made;
    use super::*;

    fn with(on: &[&str], changeable: &[&str]) -> Result<Features, String> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Ok(Features { on: names(on), changeable: names(changeable) })
    }

    #[test]
    fn a_device_that_could_segment_is_a_problem_and_one_that_cannot_a_note() {
        let name = "tx-udp-segmentation";
        assert_eq!(segmentation("eth0", &with(&[name], &[])).status, Status::Ok);
        let off = segmentation("eth0", &with(&["rx-gro"], &[name]));
        assert_eq!(off.status, Status::Problem);
        assert!(off.fix.unwrap().contains("`ethtool -K eth0 tx-udp-segmentation on`"));
        let without = segmentation("eth0", &with(&["rx-gro"], &[]));
        assert_eq!(without.status, Status::Note);
        assert!(without.fix.unwrap().starts_with("none on this device"));
        let unknown = segmentation("eth0", &Err("no netlink".to_owned()));
        assert_eq!(unknown.status, Status::Note);
        assert!(unknown.fix.unwrap().contains("ethtool -k eth0"));
    }

    #[test]
    fn either_way_of_computing_checksums_is_well() {
        let from = Ipv4Addr::LOCALHOST.into();
        assert_eq!(checksum("eth0", from, &with(&["tx-checksum-ip-generic"], &[])).status, Status::Ok);
        assert_eq!(checksum("eth0", from, &with(&["tx-checksum-ipv4"], &[])).status, Status::Ok);
        assert_eq!(
            checksum("eth0", from, &with(&["tx-checksum-ipv6"], &["tx-checksum-ipv4"])).status,
            Status::Problem
        );
    }

    #[test]
    fn a_device_that_does_not_join_what_comes_in_is_a_note() {
        assert_eq!(gro("eth0", &with(&["rx-gro"], &[])).status, Status::Ok);
        let off = gro("eth0", &with(&[], &["rx-gro"]));
        assert_eq!(off.status, Status::Note);
        assert!(off.fix.unwrap().contains("`ethtool -K eth0 rx-gro on`"));
    }

    #[test]
    fn the_loopback_device_is_found_with_its_features() {
        let system = System::here();
        let route = route(&system, Ipv4Addr::new(127, 3, 2, 1).into()).unwrap();
        assert_eq!((route.device.as_str(), mtu(&route).status), ("lo", Status::Ok));
        assert!(features("lo").unwrap().is_on("tx-udp-segmentation"));
        assert!(features("no-such-device").is_err());
    }

    #[test]
    fn a_device_without_hardware_is_a_note() {
        let made = Made::with(&[("/sys/class/net/eth0/device/vendor", "0x1af4")]);
        let route = |device: &str, mtu| Route {
            to: INTERNET[0],
            from: Ipv4Addr::new(10, 0, 0, 2).into(),
            device: device.to_owned(),
            mtu,
        };
        assert_eq!(hardware(&made.system, &route("eth0", None)).status, Status::Ok);
        assert_eq!(hardware(&made.system, &route("veth1", None)).status, Status::Note);
        for (bytes, expected) in
            [(Some(1280), Status::Ok), (Some(1279), Status::Problem), (None, Status::Note)]
        {
            assert_eq!(mtu(&route("eth0", bytes)).status, expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_host_without_an_address_is_a_problem_of_the_device() {
        let found = check(&System::here(), Some("host.invalid"));
        assert_eq!((found.len(), found[0].status), (1, Status::Problem));
        assert!(found[0].value.contains("host.invalid"), "{}", found[0].value);
    }
}
