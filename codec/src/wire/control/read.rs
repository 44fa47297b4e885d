//! Reading control datagrams: every length and field is checked.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::*;
use crate::wire::{array, u16_at, u32_at, u64_at};

/// A control datagram being read; every reader checks the length before it looks at a field.
pub(super) struct Fields<'d> {
    pub(super) kind: u8,
    pub(super) bytes: &'d [u8],
}

impl Fields<'_> {
    pub(super) fn hello(&self) -> Result<Hello, ControlError> {
        self.length(DATAGRAM_BYTES)?;
        let role = match self.bytes[4] {
            1 => Role::Subscribe,
            2 => Role::Publish,
            _ => return Err(self.bad_value(4)),
        };
        Ok(Hello {
            role,
            key: ChannelKey(array(self.bytes, 8)),
            nonce: u64_at(self.bytes, 40),
            from: Sequence(u64_at(self.bytes, 48)),
            cookie: array(self.bytes, 56),
            signature: array(self.bytes, 72),
        })
    }

    pub(super) fn challenge(&self) -> Result<Challenge, ControlError> {
        self.length(32)?;
        Ok(Challenge { nonce: u64_at(self.bytes, 8), cookie: array(self.bytes, 16) })
    }

    pub(super) fn welcome(&self) -> Result<Welcome, ControlError> {
        self.length(56 + ADDRESS_BYTES)?;
        Ok(Welcome {
            nonce: u64_at(self.bytes, 8),
            session: SessionId(u64_at(self.bytes, 16)),
            edge: Sequence(u64_at(self.bytes, 24)),
            oldest: Sequence(u64_at(self.bytes, 32)),
            start: Sequence(u64_at(self.bytes, 40)),
            lease_ms: u32_at(self.bytes, 48),
            observed: self.address(56),
        })
    }

    pub(super) fn refuse(&self) -> Result<Refuse, ControlError> {
        self.at_least(20)?;
        let reason = REFUSE_REASONS.get(usize::from(self.bytes[4]).wrapping_sub(1));
        Ok(Refuse {
            reason: *reason.ok_or(self.bad_value(4))?,
            nonce: u64_at(self.bytes, 8),
            retry_after_ms: u32_at(self.bytes, 16),
            nodes: self.nodes(5, 20)?,
        })
    }

    pub(super) fn report(&self) -> Result<Report, ControlError> {
        self.length(SESSION_HEADER_BYTES + 88)?;
        Ok(Report {
            header: self.session_header()?,
            stripes: Stripes::new(self.bytes[5] & STRIPES, u16_at(self.bytes, 6)).ok_or(self.bad_value(5))?,
            stamp_us: u64_at(self.bytes, 24),
            echo_us: u64_at(self.bytes, 32),
            held_us: u32_at(self.bytes, 40),
            spread_us: u32_at(self.bytes, 44),
            highest: Sequence(u64_at(self.bytes, 48)),
            settled: Sequence(u64_at(self.bytes, 56)),
            received: u64_at(self.bytes, 64),
            lost: u64_at(self.bytes, 72),
            recovered: u64_at(self.bytes, 80),
            repaired: u64_at(self.bytes, 88),
            chunks: u32_at(self.bytes, 96),
            expected: u32_at(self.bytes, 100),
            lost_squares: u32_at(self.bytes, 104),
            slack_ms: u16_at(self.bytes, 108),
            queued_ms: u16_at(self.bytes, 110),
            strained: self.bytes[5] & STRAINED != 0,
        })
    }

    pub(super) fn repair(&self) -> Result<Repair, ControlError> {
        self.at_least(SESSION_HEADER_BYTES + REPAIR_ENTRY_BYTES)?;
        let entries = &self.bytes[SESSION_HEADER_BYTES..];
        if !entries.len().is_multiple_of(REPAIR_ENTRY_BYTES)
            || entries.len() > REPAIRS_MAX * REPAIR_ENTRY_BYTES
        {
            return Err(self.bad_length());
        }
        let header = self.session_header()?;
        if header.sender != Sender::Subscriber {
            return Err(self.bad_value(4));
        }
        let wanted = entries
            .chunks_exact(REPAIR_ENTRY_BYTES)
            .map(|entry| Wanted {
                sequence: Sequence(u64_at(entry, 0)),
                shards: ShardSet::from_bits(u64_at(entry, 8)),
            })
            .collect();
        Ok(Repair { header, number: u16_at(self.bytes, 6), wanted })
    }

    pub(super) fn bye(&self) -> Result<Bye, ControlError> {
        self.at_least(SESSION_HEADER_BYTES + 8)?;
        let reason = BYE_REASONS.get(usize::from(self.bytes[24]).wrapping_sub(1));
        Ok(Bye {
            header: self.session_header()?,
            reason: *reason.ok_or(self.bad_value(24))?,
            nodes: self.nodes(25, SESSION_HEADER_BYTES + 8)?,
        })
    }

    fn session_header(&self) -> Result<SessionHeader, ControlError> {
        let sender = match self.bytes[4] {
            1 => Sender::Upstream,
            2 => Sender::Subscriber,
            _ => return Err(self.bad_value(4)),
        };
        Ok(SessionHeader {
            sender,
            tag: ChannelTag(array(self.bytes, 8)),
            session: SessionId(u64_at(self.bytes, 16)),
        })
    }

    /// As many addresses from `start` to the end as the byte at `count_at` says.
    fn nodes(&self, count_at: usize, start: usize) -> Result<Nodes, ControlError> {
        let count = usize::from(self.bytes[count_at]);
        if count > NODES_MAX {
            return Err(self.bad_value(count_at));
        }
        self.length(start + count * ADDRESS_BYTES)?;
        Ok((0..count).map(|index| self.address(start + index * ADDRESS_BYTES)).collect())
    }

    fn address(&self, at: usize) -> SocketAddr {
        let ip = Ipv6Addr::from(array::<16>(self.bytes, at));
        SocketAddr::new(IpAddr::V6(ip).to_canonical(), u16_at(self.bytes, at + 16))
    }

    fn length(&self, length: usize) -> Result<(), ControlError> {
        if self.bytes.len() == length { Ok(()) } else { Err(self.bad_length()) }
    }

    fn at_least(&self, length: usize) -> Result<(), ControlError> {
        if self.bytes.len() >= length { Ok(()) } else { Err(self.bad_length()) }
    }

    fn bad_length(&self) -> ControlError {
        ControlError::Length { kind: self.kind, length: self.bytes.len() }
    }

    fn bad_value(&self, at: usize) -> ControlError {
        ControlError::Value { kind: self.kind, at, value: self.bytes[at] }
    }
}
