//! Control datagrams (kinds 1 to 7): handshake, reports, repair, end. Drawings and rules are in `PROTOCOL.md`.

mod read;
mod write;

use std::net::SocketAddr;

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::channel::{ChannelKey, ChannelTag};
use crate::shard_set::ShardSet;
use crate::stripes::Stripes;
use crate::wire::{DATAGRAM_BYTES, SIGNATURE_BYTES, Sequence, kind, kind_of};
use read::Fields;

/// The most other nodes that a `Refuse` or `Bye` names.
pub const NODES_MAX: usize = 8;

/// The most chunks that one `Repair` asks for.
pub const REPAIRS_MAX: usize = 64;

const ADDRESS_BYTES: usize = 18;
const SESSION_HEADER_BYTES: usize = 24;
const HELLO_FIELDS_BYTES: usize = 136;
const REPAIR_ENTRY_BYTES: usize = 16;

/// A flag of a `Report`, beside the number of stripes: the line is strained.
const STRAINED: u8 = 0x80;

/// The bits in that byte that hold the number of stripes.
const STRIPES: u8 = 0x1f;

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
    /// Another subscriber would make it send more than it may at a time.
    #[error("this node sends as much as it may")]
    EgressFull,
    /// It has transferred as much as it may in this period.
    #[error("this node has used up its transfer quota")]
    QuotaUsed,
    /// Whoever runs the node keeps the peer or the channel out for a while.
    #[error("whoever runs this node keeps this peer or channel out for a while")]
    Kicked,
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
    /// Subscribers: what is wanted of each chunk from now on.
    pub stripes: Stripes,
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
    /// Shard datagrams that came, whatever became of them.
    pub received: u64,
    /// Data shards of settled chunks that did not come by themselves, however they were made good.
    pub lost: u64,
    /// Of those, made good by the erasure code.
    pub recovered: u64,
    /// Of those, made good by repair.
    pub repaired: u64,
    /// Chunks whose losses were counted, modulo 2^32.
    pub chunks: u32,
    /// Their data shards, modulo 2^32.
    pub expected: u32,
    /// The sum over these chunks of the square of what each adds to `lost`, modulo 2^32.
    pub lost_squares: u32,
    /// How long after the first of a chunk its last shard is still of use, ms.
    pub slack_ms: u16,
    /// By how much a chunk's way took longer than the fastest lately: the least since the last report, ms.
    pub queued_ms: u16,
    /// From an upstream: the subscriber's line loses so much that it is sent neither parity nor repair.
    pub strained: bool,
}

impl Report {
    /// The report of an end to which nothing has come.
    pub const fn new(header: SessionHeader) -> Report {
        Report {
            header,
            stripes: Stripes::ALL,
            stamp_us: 0,
            echo_us: 0,
            held_us: 0,
            spread_us: 0,
            highest: Sequence(0),
            settled: Sequence(0),
            received: 0,
            lost: 0,
            recovered: 0,
            repaired: 0,
            chunks: 0,
            expected: 0,
            lost_squares: 0,
            slack_ms: 0,
            queued_ms: 0,
            strained: false,
        }
    }
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
    /// The same in each copy of a request, of which one is answered; 0 of a request that is sent once.
    pub number: u16,
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
    /// Too much of what was sent was lost on the way, for too long.
    #[error("the line to this address cannot take the stream")]
    LineTooThin,
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

/// In the order of their wire values, which start at 1.
const REFUSE_REASONS: [RefuseReason; 10] = [
    RefuseReason::ChannelNotAllowed,
    RefuseReason::Full,
    RefuseReason::TooManyFromAddress,
    RefuseReason::TooManyChannels,
    RefuseReason::KeyNotProven,
    RefuseReason::TooManyPublishers,
    RefuseReason::Closing,
    RefuseReason::EgressFull,
    RefuseReason::QuotaUsed,
    RefuseReason::Kicked,
];

/// In the order of their wire values, which start at 1.
const BYE_REASONS: [ByeReason; 4] =
    [ByeReason::Closing, ByeReason::Done, ByeReason::UnknownSession, ByeReason::LineTooThin];
