//! The way in: from completions to single datagrams.

use std::io;
use std::net::SocketAddr;

use io_uring::types::RecvMsgOut;

use super::Plane;
use super::address::{self, NAME_BYTES};
use super::buffers::Held;
use crate::plane::budget::{MESSAGES_PER_PASS, RECEIVE_BUFFER_BYTES};
use crate::plane::{PlaneCounters, header_bytes};

/// Room for the one control message that was asked for: `UDP_GRO`, an `int`.
// SAFETY: promise 6: `CMSG_SPACE` only computes.
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as usize;

/// Where the value of the first control message stands.
// SAFETY: promise 6: `CMSG_LEN` only computes.
const CONTROL_VALUE_AT: usize = unsafe { libc::CMSG_LEN(0) } as usize;

/// What stands before the datagrams in a buffer: `struct io_uring_recvmsg_out`, source, control messages.
const HEADER_BYTES: usize = 16 + NAME_BYTES + CONTROL_BYTES;

/// The longest message that is handed over.
pub(crate) const MESSAGE_BYTES_MAX: usize = RECEIVE_BUFFER_BYTES - HEADER_BYTES;
const _: () = assert!(53 * codec::DATAGRAM_BYTES <= MESSAGE_BYTES_MAX);

/// Tells the kernel, and whoever reads a buffer, how much room is left for source and control messages.
pub(super) struct MessageShape(libc::msghdr);

impl MessageShape {
    pub(super) fn new() -> MessageShape {
        // SAFETY: promise 6: null pointers and lengths of 0 are a valid `msghdr`.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_namelen = NAME_BYTES as libc::socklen_t;
        header.msg_controllen = CONTROL_BYTES as _;
        MessageShape(header)
    }

    pub(super) fn header(&self) -> &libc::msghdr {
        &self.0
    }
}

impl Plane {
    pub(crate) fn receive(&mut self, mut handle: impl FnMut(SocketAddr, &[u8])) -> usize {
        if self.arrived.is_empty() {
            self.collect();
        }
        let mut datagrams = 0;
        for _ in 0..MESSAGES_PER_PASS {
            let Some(held) = self.arrived.pop_front() else { break };
            datagrams +=
                hand_over(self.buffers.bytes(&held), &self.shape, &mut self.common.counters, &mut handle);
            self.buffers.give_back(held);
        }
        self.arm();
        datagrams
    }

    /// Keeps account of what the multishot receive says.
    pub(super) fn note_received(&mut self, held: Option<Held>, error: Option<io::Error>, last: bool) {
        self.arrived.extend(held);
        if last {
            self.receiving = false;
            self.common.counters.rearmed += 1;
        }
        match error {
            None => {}
            Some(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.common.counters.no_buffers += 1
            }
            Some(error) if error.raw_os_error() == Some(libc::ECANCELED) && self.has_stopped => {}
            Some(error) => {
                self.common.counters.receive_errors += 1;
                self.receive_error = Some(error);
            }
        }
    }
}

/// Splits one message into its datagrams; returns how many they were.
fn hand_over(
    bytes: &[u8],
    shape: &MessageShape,
    counters: &mut PlaneCounters,
    handle: &mut impl FnMut(SocketAddr, &[u8]),
) -> usize {
    let Ok(message) = RecvMsgOut::parse(bytes, shape.header()) else {
        counters.truncated += 1;
        return 0;
    };
    let complete = !message.is_payload_truncated() && !message.is_control_data_truncated();
    let Some(source) = address::source(message.name_data()).filter(|_| complete) else {
        counters.truncated += 1;
        return 0;
    };
    let payload = message.payload_data();
    split(source, payload, segment_bytes(message.control_data()), counters, handle)
}

/// Hands over the datagrams that a message consists of, each of `segment_bytes` but the last, and books them; `None`
/// when it is one.
pub(crate) fn split(
    source: SocketAddr,
    payload: &[u8],
    segment_bytes: Option<usize>,
    counters: &mut PlaneCounters,
    handle: &mut impl FnMut(SocketAddr, &[u8]),
) -> usize {
    let mut datagrams = 0;
    let mut count_and_handle = |datagram: &[u8]| {
        datagrams += 1;
        handle(source, datagram);
    };
    match segment_bytes {
        Some(segment_bytes) => payload.chunks(segment_bytes).for_each(&mut count_and_handle),
        None => count_and_handle(payload),
    }
    counters.messages_received += 1;
    counters.datagrams_received += datagrams as u64;
    counters.bytes_received += payload.len() as u64;
    counters.ip_bytes_received += payload.len() as u64 + datagrams as u64 * header_bytes(source);
    datagrams
}

/// The size of the datagrams of an aggregate, at least 1, from its first control message; `None` for a single datagram,
/// which comes without.
fn segment_bytes(control: &[u8]) -> Option<usize> {
    let value: [u8; 4] = *control.get(CONTROL_VALUE_AT..)?.first_chunk()?;
    // SAFETY: promise 6: `control` is longer than a header, all bits of which are valid values.
    let header = unsafe { control.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
    let is_segment_size = header.cmsg_level == libc::SOL_UDP && header.cmsg_type == libc::UDP_GRO;
    let segment_bytes = usize::try_from(i32::from_ne_bytes(value)).ok()?;
    (is_segment_size && segment_bytes > 0).then_some(segment_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "192.0.2.7:7000";

    /// A buffer as the kernel fills it: `struct io_uring_recvmsg_out` is name, control and payload length, and flags.
    fn message(control: &[u8], payload: &[u8], flags: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [16, control.len() as u32, payload.len() as u32, flags as u32] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend((libc::AF_INET as u16).to_ne_bytes());
        bytes.extend(7000_u16.to_be_bytes());
        bytes.extend([192, 0, 2, 7]);
        bytes.resize(16 + NAME_BYTES, 0);
        bytes.extend(control);
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend(payload);
        bytes
    }

    fn gro(segment_bytes: i32) -> Vec<u8> {
        let mut control = Vec::new();
        control.extend((CONTROL_VALUE_AT + 4).to_ne_bytes());
        control.extend(libc::SOL_UDP.to_ne_bytes());
        control.extend(libc::UDP_GRO.to_ne_bytes());
        control.extend(segment_bytes.to_ne_bytes());
        control
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, PlaneCounters) {
        let mut counters = PlaneCounters::default();
        let mut datagrams = Vec::new();
        let count = hand_over(bytes, &MessageShape::new(), &mut counters, &mut |from, datagram| {
            assert_eq!(from, SOURCE.parse().unwrap());
            datagrams.push(datagram.to_vec());
        });
        assert_eq!(count, datagrams.len());
        (datagrams, counters)
    }

    #[test]
    fn aggregates_are_split_and_singles_are_not() {
        let payload: Vec<u8> = (0..10).collect();
        assert_eq!(read(&message(&[], &payload, 0)).0, [&payload[..]]);
        assert_eq!(read(&message(&gro(4), &payload, 0)).0, [&payload[..4], &payload[4..8], &payload[8..]]);
        for no_size in [0, -1] {
            assert_eq!(read(&message(&gro(no_size), &payload, 0)).0, [&payload[..]]);
        }
        assert_eq!(read(&message(&[], &[], 0)).0, [Vec::<u8>::new()], "an empty datagram is one");
    }

    #[test]
    fn truncated_messages_are_dropped_and_counted() {
        let whole = message(&gro(4), &[7; 8], 0);
        for cut in [message(&[], &[7; 8], libc::MSG_TRUNC), message(&[], &[7; 8], libc::MSG_CTRUNC)] {
            let (datagrams, counters) = read(&cut);
            assert!(datagrams.is_empty());
            assert_eq!((counters.truncated, counters.messages_received), (1, 0));
        }
        for length in 0..HEADER_BYTES {
            assert_eq!(read(&whole[..length]).1.truncated, 1, "{length} bytes");
        }
    }
}
