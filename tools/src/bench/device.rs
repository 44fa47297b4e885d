//! A device that takes everything and sends nothing on: one of a veth pair in a network namespace of its own, at whose way
//! out all is dropped. What is measured is the whole way through the kernel to a device that gathers and segments.

use std::net::Ipv4Addr;

use super::Destinations;
use super::relay::lab::{self, RELAY, SUBSCRIBERS, ip};
use crate::Error;

/// Where to send from.
pub(super) const FROM: Ipv4Addr = RELAY;

/// So many addresses that are reached through the device.
pub(super) fn destinations(count: u32) -> Destinations {
    // Nobody listens; any port will do, and this is the one of `discard`.
    Destinations { first: SUBSCRIBERS, count, one_address: false, ports: vec![9], sample: None }
}

/// Makes the device in this namespace, which belongs to this process alone.
pub(super) fn set_up() -> Result<(), Error> {
    ip("link set lo up")?;
    ip("link add relay0 type veth peer name load0")?;
    ip(&format!("address add {FROM}/24 dev relay0"))?;
    ip("link set relay0 up")?;
    ip("link set load0 up")?;
    ip("neighbour add 10.96.0.1 lladdr 02:00:00:00:00:01 nud permanent dev relay0")?;
    ip(&format!("route add {SUBSCRIBERS}/16 via 10.96.0.1"))?;
    let chain = "chain egress { type filter hook egress device \"relay0\" priority 0; policy accept;\n";
    lab::run("nft", &[&format!("table netdev lab {{\n{chain}ip daddr {SUBSCRIBERS}/16 counter drop\n}}\n}}")])
}
