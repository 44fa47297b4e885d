//! Writing control datagrams.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::wire::{MAGIC, VERSION};

fn wire_value<T: PartialEq>(values: &[T], value: &T) -> u8 {
    let place = values.iter().position(|candidate| candidate == value);
    place.expect("every reason stands in its table") as u8 + 1
}

impl Hello {
    pub(super) fn encode(&self) -> ControlBytes {
        let role = match self.role {
            Role::Subscribe => 1,
            Role::Publish => 2,
        };
        let mut out = start(kind::HELLO, [role, 0, 0, 0]);
        put(&mut out, &self.key.0);
        put(&mut out, &self.nonce.to_be_bytes());
        put(&mut out, &self.from.0.to_be_bytes());
        put(&mut out, &self.cookie);
        put(&mut out, &self.signature);
        debug_assert_eq!(out.len(), HELLO_FIELDS_BYTES);
        put(&mut out, &[0; DATAGRAM_BYTES - HELLO_FIELDS_BYTES]);
        out
    }
}

impl Challenge {
    pub(super) fn encode(&self) -> ControlBytes {
        let mut out = start(kind::CHALLENGE, [0; 4]);
        put(&mut out, &self.nonce.to_be_bytes());
        put(&mut out, &self.cookie);
        out
    }
}

impl Welcome {
    pub(super) fn encode(&self) -> ControlBytes {
        let mut out = start(kind::WELCOME, [0; 4]);
        for field in [self.nonce, self.session.0, self.edge.0, self.oldest.0, self.start.0] {
            put(&mut out, &field.to_be_bytes());
        }
        put(&mut out, &self.lease_ms.to_be_bytes());
        put(&mut out, &[0; 4]);
        put_address(&mut out, self.observed);
        out
    }
}

impl Refuse {
    pub(super) fn encode(&self) -> ControlBytes {
        let reason = wire_value(&REFUSE_REASONS, &self.reason);
        let mut out = start(kind::REFUSE, [reason, self.nodes.len() as u8, 0, 0]);
        put(&mut out, &self.nonce.to_be_bytes());
        put(&mut out, &self.retry_after_ms.to_be_bytes());
        self.nodes.iter().for_each(|node| put_address(&mut out, *node));
        out
    }
}

impl Report {
    pub(super) fn encode(&self) -> ControlBytes {
        let mut out = start_session(kind::REPORT, &self.header);
        out[5] = self.stripes.of() | if self.strained { STRAINED } else { 0 };
        out[6..8].copy_from_slice(&self.stripes.wanted().to_be_bytes());
        put(&mut out, &self.stamp_us.to_be_bytes());
        put(&mut out, &self.echo_us.to_be_bytes());
        put(&mut out, &self.held_us.to_be_bytes());
        put(&mut out, &self.spread_us.to_be_bytes());
        let counts =
            [self.highest.0, self.settled.0, self.received, self.lost, self.recovered, self.repaired];
        counts.iter().for_each(|count| put(&mut out, &count.to_be_bytes()));
        let counts = [self.chunks, self.expected, self.lost_squares];
        counts.iter().for_each(|count| put(&mut out, &count.to_be_bytes()));
        put(&mut out, &self.slack_ms.to_be_bytes());
        put(&mut out, &self.queued_ms.to_be_bytes());
        out
    }
}

impl Repair {
    pub(super) fn encode(&self) -> ControlBytes {
        let mut out = start_session(kind::REPAIR, &self.header);
        out[6..8].copy_from_slice(&self.number.to_be_bytes());
        for wanted in &self.wanted {
            put(&mut out, &wanted.sequence.0.to_be_bytes());
            put(&mut out, &wanted.shards.bits().to_be_bytes());
        }
        out
    }
}

impl Bye {
    pub(super) fn encode(&self) -> ControlBytes {
        let mut out = start_session(kind::BYE, &self.header);
        let reason = wire_value(&BYE_REASONS, &self.reason);
        put(&mut out, &[reason, self.nodes.len() as u8, 0, 0, 0, 0, 0, 0]);
        self.nodes.iter().for_each(|node| put_address(&mut out, *node));
        out
    }
}

fn start(kind: u8, word: [u8; 4]) -> ControlBytes {
    let mut out = ControlBytes::new();
    put(&mut out, &[MAGIC[0], MAGIC[1], VERSION, kind]);
    put(&mut out, &word);
    out
}

fn start_session(kind: u8, header: &SessionHeader) -> ControlBytes {
    let sender = match header.sender {
        Sender::Upstream => 1,
        Sender::Subscriber => 2,
    };
    let mut out = start(kind, [sender, 0, 0, 0]);
    put(&mut out, &header.tag.0);
    put(&mut out, &header.session.0.to_be_bytes());
    out
}

fn put(out: &mut ControlBytes, bytes: &[u8]) {
    out.try_extend_from_slice(bytes).expect("no control datagram is longer than 1232 bytes");
}

/// 16 bytes of IPv6 address (IPv4 as `::ffff:a.b.c.d`, RFC 4291 §2.5.5.2), 2 bytes of port.
fn put_address(out: &mut ControlBytes, address: SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    put(out, &ip.octets());
    put(out, &address.port().to_be_bytes());
}
