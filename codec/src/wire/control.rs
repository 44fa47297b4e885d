//! Control datagrams (kinds 1 to 7): handshake, reports, repair, end. Drawings and rules are in `PROTOCOL.md`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::channel::{ChannelKey, ChannelTag};
use crate::shard_set::ShardSet;
use crate::wire::{
    DATAGRAM_BYTES, MAGIC, SIGNATURE_BYTES, Sequence, VERSION, array, kind, kind_of, u32_at, u64_at,
};

/// The most other nodes that a `Refuse` or `Bye` names.
pub const NODES_MAX: usize = 8;

/// The most chunks that one `Repair` asks for.
pub const REPAIRS_MAX: usize = 64;

const ADDRESS_BYTES: usize = 18;
const SESSION_HEADER_BYTES: usize = 24;
const HELLO_FIELDS_BYTES: usize = 136;
const REPAIR_ENTRY_BYTES: usize = 16;

/// Identifies a session together with the peer's address; chosen at random by the node that was asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub u64);

/// What the sender of a `Hello` wants to do with the channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// To be given the channel.
    Subscribe,
    /// To give it: needs the channel's secret.
    Publish,
}

/// Asks for a session. Padded to 1,232 bytes, so that no answer to it is larger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// What for.
    pub role: Role,
    /// Which channel.
    pub key: ChannelKey,
    /// Echoed by every answer; random, so that nobody off the path can answer.
    pub nonce: u64,
    /// Subscribers: the first chunk wanted. 0 asks for the latest join point.
    pub from: Sequence,
    /// What the `Challenge` gave; zeros before.
    pub cookie: [u8; 16],
    /// Publishers, once they have a cookie: [`crate::ChannelSecret::sign_hello`]; zeros otherwise.
    pub signature: [u8; SIGNATURE_BYTES],
}

/// Asks the sender of a `Hello` to prove that it receives at its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// The `Hello`'s.
    pub nonce: u64,
    /// To be sent back in the next `Hello`.
    pub cookie: [u8; 16],
}

/// Grants a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The `Hello`'s.
    pub nonce: u64,
    /// The new session.
    pub session: SessionId,
    /// How long the session holds after each `Report`, in ms.
    pub lease_ms: u32,
    /// The newest chunk of the channel here; 0 when there is none.
    pub edge: Sequence,
    /// The oldest chunk kept here; 0 when there is none.
    pub oldest: Sequence,
    /// Subscribers: the first chunk that will be sent; 0 when the channel has none yet.
    pub start: Sequence,
    /// The `Hello`'s source address as it was seen here.
    pub observed: SocketAddr,
}

/// Why a session is not granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Error)]
pub enum RefuseReason {
    /// The configuration does not list the channel.
    #[error("this node does not carry that channel")]
    ChannelNotAllowed,
    /// All subscriber places are taken.
    #[error("this node is full")]
    Full,
    /// Too many sessions from one address.
    #[error("too many sessions from this address")]
    TooManyFromAddress,
    /// All channel places are taken.
    #[error("this node carries as many channels as it can")]
    TooManyChannels,
    /// The channel key is not one, or the publisher did not prove that it has its secret.
    #[error("the channel key was not proven")]
    KeyNotProven,
    /// The channel has as many publishers as it may.
    #[error("the channel has as many publishers as it may")]
    TooManyPublishers,
    /// The node is going away.
    #[error("this node is shutting down")]
    Closing,
}

/// Addresses of other nodes worth trying.
pub type Nodes = ArrayVec<SocketAddr, NODES_MAX>;

/// Says no, why, and where else to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refuse {
    /// The `Hello`'s.
    pub nonce: u64,
    /// Why.
    pub reason: RefuseReason,
    /// Not to be tried again before this many ms.
    pub retry_after_ms: u32,
    /// Other nodes.
    pub nodes: Nodes,
}

/// Who of the two ends of a session sent a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sender {
    /// The end that gives the channel.
    Upstream,
    /// The end that takes it.
    Subscriber,
}

/// What every datagram within a session starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionHeader {
    /// Which end sent it.
    pub sender: Sender,
    /// The channel.
    pub tag: ChannelTag,
    /// The session.
    pub session: SessionId,
}

/// What one end of a session has seen; sent once a second by the end that said `Hello`, answered by the other. All
/// counts are totals since the session began, so that a lost report loses nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// The session.
    pub header: SessionHeader,
    /// The sender's clock, µs; any epoch.
    pub stamp_us: u64,
    /// The `stamp_us` of the last `Report` received from the other end; 0 before the first.
    pub echo_us: u64,
    /// How long ago that one came, µs. RTT = now − echo − held.
    pub held_us: u32,
    /// Spread of arrival delay against capture time, µs (RFC 3550 §6.4.1 interarrival jitter).
    pub spread_us: u32,
    /// The newest chunk seen; 0 when none was.
    pub highest: Sequence,
    /// All chunks up to this one are complete or given up; 0 when none is.
    pub settled: Sequence,
    /// Shards received and kept.
    pub received: u64,
    /// Data shards of settled chunks that did not come by themselves, however they were made good.
    pub lost: u64,
    /// Of those, made good by the erasure code.
    pub recovered: u64,
    /// Of those, made good by repair.
    pub repaired: u64,
}

/// Shards of one chunk that are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The chunk.
    pub sequence: Sequence,
    /// Which of its shards; [`ShardSet::ALL`] when nothing of the chunk came, and so k is not known. At most k are sent.
    pub shards: ShardSet,
}

/// Asks the upstream for what is missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    /// The session.
    pub header: SessionHeader,
    /// At most 64 chunks.
    pub wanted: ArrayVec<Wanted, REPAIRS_MAX>,
}

/// Why a session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Error)]
pub enum ByeReason {
    /// The sender is going away.
    #[error("the other node is shutting down")]
    Closing,
    /// The channel ended, or the sender has enough of it.
    #[error("done")]
    Done,
    /// The sender of this `Bye` holds no such session: it expired, or that node was started anew.
    #[error("the session is not known there")]
    UnknownSession,
}

/// Ends a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bye {
    /// The session.
    pub header: SessionHeader,
    /// Why.
    pub reason: ByeReason,
    /// Other nodes.
    pub nodes: Nodes,
}

/// Any control datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one dispatch; boxing would allocate per datagram"
)]
pub enum Control {
    /// Kind 1.
    Hello(Hello),
    /// Kind 2.
    Challenge(Challenge),
    /// Kind 3.
    Welcome(Welcome),
    /// Kind 4.
    Refuse(Refuse),
    /// Kind 5.
    Report(Report),
    /// Kind 6.
    Repair(Repair),
    /// Kind 7.
    Bye(Bye),
}

/// Why bytes are not a control datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ControlError {
    /// Not `"SP"`, version 1 and a kind from 1 to 7.
    #[error("not a control datagram of version 1")]
    Preamble,
    /// A length that this kind does not have.
    #[error("a control datagram of kind {kind} cannot be {length} bytes long")]
    Length {
        /// The kind byte.
        kind: u8,
        /// Bytes in the datagram.
        length: usize,
    },
    /// A value that the field does not have.
    #[error("byte {at} of a control datagram of kind {kind} cannot be {value}")]
    Value {
        /// The kind byte.
        kind: u8,
        /// Offset of the field.
        at: usize,
        /// What stood there.
        value: u8,
    },
}

/// Room for the longest control datagram.
pub type ControlBytes = ArrayVec<u8, DATAGRAM_BYTES>;

impl Control {
    /// Checks length and every field's validity rule.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn parse(bytes: &[u8]) -> Result<Control, ControlError> {
        let kind = kind_of(bytes).ok_or(ControlError::Preamble)?;
        let fields = Fields { kind, bytes };
        match kind {
            kind::HELLO => fields.hello().map(Control::Hello),
            kind::CHALLENGE => fields.challenge().map(Control::Challenge),
            kind::WELCOME => fields.welcome().map(Control::Welcome),
            kind::REFUSE => fields.refuse().map(Control::Refuse),
            kind::REPORT => fields.report().map(Control::Report),
            kind::REPAIR => fields.repair().map(Control::Repair),
            kind::BYE => fields.bye().map(Control::Bye),
            _ => Err(ControlError::Preamble),
        }
    }

    /// The datagram.
    pub fn encode(&self) -> ControlBytes {
        match self {
            Control::Hello(hello) => hello.encode(),
            Control::Challenge(challenge) => challenge.encode(),
            Control::Welcome(welcome) => welcome.encode(),
            Control::Refuse(refuse) => refuse.encode(),
            Control::Report(report) => report.encode(),
            Control::Repair(repair) => repair.encode(),
            Control::Bye(bye) => bye.encode(),
        }
    }
}

/// A control datagram being read; every reader checks the length before it looks at a field.
struct Fields<'d> {
    kind: u8,
    bytes: &'d [u8],
}

impl Fields<'_> {
    fn hello(&self) -> Result<Hello, ControlError> {
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

    fn challenge(&self) -> Result<Challenge, ControlError> {
        self.length(32)?;
        Ok(Challenge { nonce: u64_at(self.bytes, 8), cookie: array(self.bytes, 16) })
    }

    fn welcome(&self) -> Result<Welcome, ControlError> {
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

    fn refuse(&self) -> Result<Refuse, ControlError> {
        self.at_least(20)?;
        let reason = REFUSE_REASONS.get(usize::from(self.bytes[4]).wrapping_sub(1));
        Ok(Refuse {
            reason: *reason.ok_or(self.bad_value(4))?,
            nonce: u64_at(self.bytes, 8),
            retry_after_ms: u32_at(self.bytes, 16),
            nodes: self.nodes(5, 20)?,
        })
    }

    fn report(&self) -> Result<Report, ControlError> {
        self.length(SESSION_HEADER_BYTES + 72)?;
        Ok(Report {
            header: self.session_header()?,
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
        })
    }

    fn repair(&self) -> Result<Repair, ControlError> {
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
        Ok(Repair { header, wanted })
    }

    fn bye(&self) -> Result<Bye, ControlError> {
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
        SocketAddr::new(IpAddr::V6(ip).to_canonical(), crate::wire::u16_at(self.bytes, at + 16))
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

/// In the order of their wire values, which start at 1.
const REFUSE_REASONS: [RefuseReason; 7] = [
    RefuseReason::ChannelNotAllowed,
    RefuseReason::Full,
    RefuseReason::TooManyFromAddress,
    RefuseReason::TooManyChannels,
    RefuseReason::KeyNotProven,
    RefuseReason::TooManyPublishers,
    RefuseReason::Closing,
];

/// In the order of their wire values, which start at 1.
const BYE_REASONS: [ByeReason; 3] = [ByeReason::Closing, ByeReason::Done, ByeReason::UnknownSession];

fn wire_value<T: PartialEq>(values: &[T], value: &T) -> u8 {
    let place = values.iter().position(|candidate| candidate == value);
    place.expect("every reason stands in its table") as u8 + 1
}

impl Hello {
    fn encode(&self) -> ControlBytes {
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
    fn encode(&self) -> ControlBytes {
        let mut out = start(kind::CHALLENGE, [0; 4]);
        put(&mut out, &self.nonce.to_be_bytes());
        put(&mut out, &self.cookie);
        out
    }
}

impl Welcome {
    fn encode(&self) -> ControlBytes {
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
    fn encode(&self) -> ControlBytes {
        let reason = wire_value(&REFUSE_REASONS, &self.reason);
        let mut out = start(kind::REFUSE, [reason, self.nodes.len() as u8, 0, 0]);
        put(&mut out, &self.nonce.to_be_bytes());
        put(&mut out, &self.retry_after_ms.to_be_bytes());
        self.nodes.iter().for_each(|node| put_address(&mut out, *node));
        out
    }
}

impl Report {
    fn encode(&self) -> ControlBytes {
        let mut out = start_session(kind::REPORT, &self.header);
        put(&mut out, &self.stamp_us.to_be_bytes());
        put(&mut out, &self.echo_us.to_be_bytes());
        put(&mut out, &self.held_us.to_be_bytes());
        put(&mut out, &self.spread_us.to_be_bytes());
        let counts =
            [self.highest.0, self.settled.0, self.received, self.lost, self.recovered, self.repaired];
        for field in counts {
            put(&mut out, &field.to_be_bytes());
        }
        out
    }
}

impl Repair {
    fn encode(&self) -> ControlBytes {
        let mut out = start_session(kind::REPAIR, &self.header);
        for wanted in &self.wanted {
            put(&mut out, &wanted.sequence.0.to_be_bytes());
            put(&mut out, &wanted.shards.bits().to_be_bytes());
        }
        out
    }
}

impl Bye {
    fn encode(&self) -> ControlBytes {
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
