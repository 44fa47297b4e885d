//! What a plane counts.

use std::net::SocketAddr;

use derive_more::AddAssign;

/// Totals since the plane was opened. A *message* is what one send or receive carries: one datagram, or several of
/// equal size that the kernel splits or has joined (GSO, GRO).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, AddAssign)]
pub struct PlaneCounters {
    /// Messages handed over.
    pub messages_received: u64,
    /// Datagrams handed over.
    pub datagrams_received: u64,
    /// Payload bytes handed over.
    pub bytes_received: u64,
    /// Bytes of IP handed over: payload, and 28 (IPv4) or 48 (IPv6) of headers for each datagram.
    pub ip_bytes_received: u64,
    /// Messages dropped because they, or what the kernel says about them, did not fit a receive buffer.
    pub truncated: u64,
    /// Times that receiving was started again after the kernel had ended it, whatever for; io_uring only.
    pub rearmed: u64,
    /// Times that receiving ended because every buffer was full (`ENOBUFS`), io_uring only; nothing is lost before the
    /// socket's own buffer is full too.
    pub no_buffers: u64,
    /// Times that receiving failed with another error.
    pub receive_errors: u64,

    /// Trains sent whole, those of one shard included.
    pub trains_sent: u64,
    /// Control datagrams sent.
    pub control_sent: u64,
    /// Datagrams sent: of trains, whole or not, and control.
    pub datagrams_sent: u64,
    /// Payload bytes sent.
    pub bytes_sent: u64,
    /// Bytes of IP sent: payload, and 28 (IPv4) or 48 (IPv6) of headers for each datagram of each train.
    pub ip_bytes_sent: u64,
    /// Payload bytes of trains that the kernel copied: told to, or though it was asked not to.
    pub copied_bytes: u64,
    /// Payload bytes of trains that left without a copy, io_uring only. They are counted when the kernel has done with
    /// them, which is after they are counted as sent.
    pub zero_copy_bytes: u64,
    /// Times that zero-copy sending was paused because the kernel copied most of it; io_uring only.
    pub zero_copy_pauses: u64,
    /// Messages that the kernel would not send, for good; see [`super::Plane::refused`].
    pub send_errors: u64,
    /// Times that a batch waited because the socket took no more (`EAGAIN`, `ENOBUFS`).
    pub blocked: u64,
    /// Messages dropped because such waiting came to nothing.
    pub gave_up: u64,
    /// Messages that could be sent without segmentation only.
    pub gso_refused: u64,

    /// Times that the completion queue was found overflowed; io_uring only. It is sized so that this stays 0; nothing is lost by it.
    pub cq_overflow: u64,
}

/// What each datagram of a peer costs beside its payload, bytes: the headers of IP and UDP without options (RFC 791, 8200,
/// 768), as providers count. The link's framing is not in it.
pub(crate) fn header_bytes(peer: SocketAddr) -> u64 {
    if peer.ip().to_canonical().is_ipv4() { 28 } else { 48 }
}
