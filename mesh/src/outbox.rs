//! What a node wants sent: filled by [`crate::Node::poll_transmit`], emptied by whoever owns the socket.

use core::ops::Range;
use std::net::SocketAddr;

use codec::wire::control::Control;
use codec::{DATAGRAM_BYTES, MAX_SHARDS};

use crate::egress::{header_bytes, shard_cost};

/// Bytes of a slot: the datagrams of the largest chunk side by side.
pub const SLOT_BYTES: usize = MAX_SHARDS * DATAGRAM_BYTES;

/// A place in the node's slot memory: bytes `index · SLOT_BYTES ..`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SlotIndex(pub u32);

/// What one message carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// A train: `count` shard datagrams of 1,232 bytes, from number `first` of the slot on; one GSO message.
    Train {
        /// Where in the slot memory.
        slot: SlotIndex,
        /// Index of the first shard.
        first: u8,
        /// How many; at least 1.
        count: u8,
    },
    /// One control datagram: a range of [`Outbox::control_bytes`].
    Control(Range<usize>),
}

impl Payload {
    /// For a train, the range of the slot memory that it is.
    pub fn slot_memory_range(&self) -> Option<Range<usize>> {
        match self {
            Payload::Train { slot, first, count } => {
                let start = slot.0 as usize * SLOT_BYTES + usize::from(*first) * DATAGRAM_BYTES;
                Some(start..start + usize::from(*count) * DATAGRAM_BYTES)
            }
            Payload::Control(_) => None,
        }
    }
}

/// One message to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// To whom.
    pub to: SocketAddr,
    /// What.
    pub payload: Payload,
}

/// A bounded batch of messages. Trains name slot memory, which stays as it is until the next call into the node:
/// send (or copy) the whole batch before that.
#[derive(Debug)]
pub struct Outbox {
    transmits: Vec<Transmit>,
    control_bytes: Vec<u8>,
    capacity: usize,
    /// The most that this batch may hold.
    messages_max: usize,
    /// What the messages come to on the wire, and how much that may be.
    ip_bytes: u64,
    ip_bytes_max: u64,
    /// The least that would have to be left for something that was not added for want of it.
    lacking: Option<u64>,
}

impl Outbox {
    /// Room for `capacity` messages; allocated now and never again.
    pub fn new(capacity: usize) -> Outbox {
        assert!(capacity > 0, "an outbox without room would never be filled");
        Outbox {
            transmits: Vec::with_capacity(capacity),
            control_bytes: Vec::with_capacity(capacity * DATAGRAM_BYTES),
            capacity,
            messages_max: capacity,
            ip_bytes: 0,
            ip_bytes_max: u64::MAX,
            lacking: None,
        }
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        self.clear_for(self.capacity);
    }

    /// Forgets all messages, and takes so many at most until it is emptied again: at least one.
    pub fn clear_for(&mut self, messages_max: usize) {
        self.transmits.clear();
        self.control_bytes.clear();
        self.messages_max = messages_max.clamp(1, self.capacity);
        (self.ip_bytes, self.ip_bytes_max, self.lacking) = (0, u64::MAX, None);
    }

    /// Forgets the messages of which `keep` says no.
    pub fn retain(&mut self, keep: impl FnMut(&Transmit) -> bool) {
        self.transmits.retain(keep);
    }

    /// The messages, in the order in which they are to be sent.
    pub fn transmits(&self) -> &[Transmit] {
        &self.transmits
    }

    /// The bytes that [`Payload::Control`] names.
    pub fn control_bytes(&self) -> &[u8] {
        &self.control_bytes
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.transmits.is_empty()
    }

    /// How many more messages find room.
    pub fn room(&self) -> usize {
        self.messages_max - self.transmits.len()
    }

    /// Whether another message finds no room.
    pub fn is_full(&self) -> bool {
        self.transmits.len() == self.messages_max
    }

    /// What the messages come to on the wire, the headers of IP and UDP included.
    pub(crate) fn ip_bytes(&self) -> u64 {
        self.ip_bytes
    }

    /// Bounds [`Outbox::ip_bytes`].
    pub(crate) fn limit_ip_bytes(&mut self, ip_bytes_max: u64) {
        self.ip_bytes_max = ip_bytes_max;
    }

    /// How many bytes more may be added so that `spared` are left.
    pub(crate) fn ip_room(&self, spared: u64) -> u64 {
        self.ip_bytes_max.saturating_sub(self.ip_bytes.saturating_add(spared))
    }

    /// Whether so many bytes may be added so that `spared` are left. If not, it is known what is lacking.
    pub(crate) fn affords(&mut self, bytes: u64, spared: u64) -> bool {
        let affords = bytes <= self.ip_room(spared);
        if !affords {
            let needed = bytes + spared;
            self.lacking = Some(self.lacking.map_or(needed, |lacking| lacking.min(needed)));
        }
        affords
    }

    /// What would have to be left for the cheapest of what was not added.
    pub(crate) fn lacking(&self) -> Option<u64> {
        self.lacking
    }

    /// Adds a train; the caller has seen that there is room.
    pub fn push_train(&mut self, to: SocketAddr, slot: SlotIndex, first: usize, count: usize) {
        debug_assert!(!self.is_full() && count > 0 && first + count <= MAX_SHARDS);
        let payload = Payload::Train { slot, first: first as u8, count: count as u8 };
        self.ip_bytes += shard_cost(to) * count as u64;
        self.transmits.push(Transmit { to, payload });
    }

    /// Adds a control datagram; the caller has seen that there is room.
    pub fn push_control(&mut self, to: SocketAddr, control: &Control) {
        self.push_encoded(to, [&control.encode(), &[]]);
    }

    /// Adds a control datagram that is encoded already, in two pieces.
    pub(crate) fn push_encoded(&mut self, to: SocketAddr, pieces: [&[u8]; 2]) {
        debug_assert!(!self.is_full());
        let start = self.control_bytes.len();
        pieces.iter().for_each(|piece| self.control_bytes.extend_from_slice(piece));
        self.ip_bytes += header_bytes(to) + (self.control_bytes.len() - start) as u64;
        self.transmits.push(Transmit { to, payload: Payload::Control(start..self.control_bytes.len()) });
    }
}
