//! mesh
#![forbid(unsafe_code)]

mod outbox;

pub use outbox::{Outbox, Payload, SLOT_BYTES, SlotIndex, Transmit};
