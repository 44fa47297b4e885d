//! Control datagrams that wait to be sent.

use std::collections::VecDeque;
use std::net::SocketAddr;

use codec::wire::control::Control;

use crate::egress::header_bytes;
use crate::outbox::Outbox;

/// Control datagrams, oldest first, already encoded: most are a tenth as long as the longest, for which a [`Control`] has
/// room.
#[derive(Default)]
pub(crate) struct ControlQueue {
    /// To whom, and how many of `bytes` it is.
    heads: VecDeque<(SocketAddr, u16)>,
    bytes: VecDeque<u8>,
}

impl ControlQueue {
    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.heads.clear();
        self.bytes.clear();
    }

    pub(crate) fn push(&mut self, to: SocketAddr, control: &Control) {
        let bytes = control.encode();
        self.heads.push_back((to, bytes.len() as u16));
        self.bytes.extend(bytes.iter());
    }

    /// What the oldest comes to with the headers of IP and UDP.
    pub(crate) fn front_cost(&self) -> Option<u64> {
        self.heads.front().map(|(to, length)| header_bytes(*to) + u64::from(*length))
    }

    /// Moves the oldest into `out`, which has room. Returns `false` when there is none.
    pub(crate) fn pop_into(&mut self, out: &mut Outbox) -> bool {
        let Some((to, length)) = self.heads.pop_front() else { return false };
        let length = usize::from(length);
        let (front, back) = self.bytes.as_slices();
        let in_front = length.min(front.len());
        out.push_encoded(to, [&front[..in_front], &back[..length - in_front]]);
        self.bytes.drain(..length);
        true
    }
}
