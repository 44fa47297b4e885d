//! What has to be true whatever happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use codec::Sequence;
use codec::wire::control::Control;
use mesh::Time;
use mesh::limits::REPAIR_CREDIT_START;

/// No datagram of any size is answered by more bytes before the peer has shown that it receives what is sent to it.
#[derive(Default)]
pub(crate) struct Unproven {
    proven: BTreeSet<SocketAddr>,
    /// Cookies that were sent there.
    cookies: BTreeSet<(SocketAddr, [u8; 16])>,
    /// Bytes in and out.
    balance: BTreeMap<SocketAddr, (usize, usize)>,
}

impl Unproven {
    pub(crate) fn prove(&mut self, peer: SocketAddr) {
        self.proven.insert(peer);
    }

    pub(crate) fn receive(&mut self, peer: SocketAddr, bytes: &[u8]) {
        self.balance.entry(peer).or_default().0 += bytes.len();
        match Control::parse(bytes) {
            Ok(Control::Hello(hello)) if self.cookies.contains(&(peer, hello.cookie)) => self.prove(peer),
            _ => {}
        }
    }

    pub(crate) fn send(&mut self, peer: SocketAddr, bytes: &[u8]) {
        if let Ok(Control::Challenge(challenge)) = Control::parse(bytes) {
            self.cookies.insert((peer, challenge.cookie));
        }
        let (received, sent) = self.balance.entry(peer).or_default();
        *sent += bytes.len();
        let is_fair = sent <= received || self.proven.contains(&peer);
        assert!(is_fair, "{sent} bytes to {peer}, from which {received} came and no cookie");
    }
}

/// No more repair than each session's credit: what it starts with and half of what the channel was sent.
pub(crate) fn repair_is_within_credit(repairs: u64, sessions: u64, shards: u64) {
    let credit = sessions * (u64::from(REPAIR_CREDIT_START) + shards / 2);
    assert!(repairs <= credit, "{repairs} shards of repair to {sessions} sessions, {shards} shards in all");
}

/// What leaves in any second is within the cap.
#[derive(Default)]
pub(crate) struct Metered {
    sent: VecDeque<(Time, u64)>,
    bytes: u64,
}

impl Metered {
    pub(crate) fn send(&mut self, now: Time, to: SocketAddr, bytes: usize, cap_bps: u64) {
        let header = if to.is_ipv4() { 28 } else { 48 };
        while let Some((_, old)) = self.sent.pop_front_if(|(at, _)| at.0 + 1_000_000 <= now.0) {
            self.bytes -= old;
        }
        self.sent.push_back((now, bytes as u64 + header));
        self.bytes += bytes as u64 + header;
        let bits = 8 * self.bytes;
        assert!(bits <= cap_bps + cap_bps / 50, "{bits} bits in a second under a cap of {cap_bps}");
    }
}

/// A viewer writes nothing but what was pushed, in order, with whole chunks missing at most.
#[derive(Default)]
pub(crate) struct Written {
    last: Option<Sequence>,
    /// Where what was written last ends in what was pushed.
    position: usize,
    /// It was too long to be found elsewhere by chance.
    is_certain: bool,
}

impl Written {
    pub(crate) fn is_after(&self, position: usize) -> bool {
        self.position > position
    }

    pub(crate) fn write(&mut self, sequence: Sequence, payload: &[u8], pushed: &[u8]) {
        let follows = self.last.is_some_and(|last| last.next() == sequence) && self.is_certain;
        assert!(self.last < Some(sequence), "chunk {sequence:?} after {:?}", self.last);
        let rest = &pushed[self.position..];
        let skipped = match payload {
            [] => Some(0),
            _ if follows => rest.starts_with(payload).then_some(0),
            _ => rest.windows(payload.len()).position(|piece| piece == payload),
        };
        let skipped = skipped.unwrap_or_else(|| panic!("chunk {sequence:?} is not what was pushed"));
        self.position += skipped + payload.len();
        self.is_certain = follows || payload.len() >= 16;
        self.last = Some(sequence);
    }
}
