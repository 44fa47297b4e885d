//! The superpeer protocol as a state machine: sessions, channels, fan-out, repair. Publisher, relay and viewer are the
//! same [`Node`] with a local source, with neither, or with a local sink.
//!
//! It has no socket, clock, thread or entropy: datagrams, time and a seed come in as arguments, and what is to be sent
//! comes out of [`Node::poll_transmit`]. The same node so runs over io_uring, over plain sockets and in tests on
//! virtual time.
#![forbid(unsafe_code)]

mod allowance;
mod arena;
mod arrivals;
mod channel;
mod contact;
mod control_queue;
mod cookie;
mod copies;
mod dial;
mod egress;
mod fair;
mod fanout;
mod handover;
mod hash;
mod ledger;
pub mod limits;
mod line;
mod losses;
mod memory;
mod node;
mod outbox;
mod parity;
mod rates;
mod session;
mod share;
mod sink;
mod source;
mod stats;
mod striping;
mod time;
mod window;

pub use contact::{Contact, RelayState};
pub use handover::Handover;
pub use ledger::Ledger;
pub use limits::{ChannelLimits, Limits};
pub use memory::Memory;
pub use node::{
    Admission, ChannelId, ChannelSummary, DialId, Egress, Event, LostReason, Node, NodeConfig, Progress,
    Siblings, UpstreamSummary, Whom,
};
pub use outbox::{Outbox, Payload, SLOT_BYTES, SlotIndex, Transmit};
pub use share::Share;
pub use sink::{OutputChunk, SinkConfig};
pub use stats::{ChannelCounters, Counters, DropReason, Dropped, Verdict};
pub use time::{Anchor, Time};
