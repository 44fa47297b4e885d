//! Finds in an MPEG-TS byte stream (ISO/IEC 13818-1) what a publisher needs to know: where a late joiner can start
//! clean, and what the stream's own clock says.
//!
//! It changes, delays and drops nothing: what is pushed comes out at once, as the same bytes. Packets of 188 bytes
//! are understood; the 192- and 204-byte variants are not, and count as no MPEG-TS.

mod clock;
mod join;
mod programme;
#[cfg(test)]
mod testing;
mod whole_packets;

pub use clock::{Clock, TICKS_PER_SECOND};
pub use whole_packets::WholePackets;

use mpeg2ts_reader::packet::Packet;

use join::JoinFinder;
use programme::Programme;

/// The size of a transport stream packet.
pub const PACKET_BYTES: usize = Packet::SIZE;

/// So many sync bytes, one packet apart, count as packets: in random bytes that happens once in 2^40 positions.
const SYNC_PACKETS: usize = 5;

/// The bytes that must be at hand to tell whether packets start at the first of them.
const SYNC_SPAN_BYTES: usize = (SYNC_PACKETS - 1) * PACKET_BYTES + 1;

/// After so many bytes without packets in them the input is said to be no MPEG-TS.
const PROBE_BYTES: u64 = 64 * 1024;

/// Follows one stream.
///
/// The programme is the first one that the PAT names. Its first video stream decides where a join point is: at a
/// packet that starts a PES packet and has the random access indicator set. A programme without video may be joined
/// about each second, at a start of its first audio stream.
///
/// ```
/// let mut scanner = tools::mpegts::Scanner::new();
/// let mut copy = Vec::new();
/// scanner.push(b"not a transport stream", &mut |piece| {
///     assert_eq!(piece.join, None);
///     copy.extend_from_slice(piece.bytes);
/// });
/// assert_eq!(copy, b"not a transport stream");
/// assert_eq!(scanner.is_mpeg_ts(), None);
/// ```
#[derive(Default)]
pub struct Scanner {
    /// The end of what was pushed: bytes that are not looked at yet because their packet is incomplete, or because
    /// it is not known where packets start. Already passed on.
    window: Vec<u8>,
    /// The stream position of the window's first byte.
    window_start: u64,
    /// Packets start at the window's first byte.
    in_sync: bool,
    was_in_sync: bool,
    programme: Programme,
    joins: JoinFinder,
    clock: Option<Clock>,
}

/// Some of the bytes that were pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<'a> {
    /// The bytes; never empty.
    pub bytes: &'a [u8],
    /// `Some(back)`: what starts `back` bytes before this piece is a clean start for a late joiner. `back` is 0
    /// unless that start was pushed before it could be recognised, in an earlier call.
    pub join: Option<usize>,
}

impl Scanner {
    /// A scanner at the start of a stream.
    pub fn new() -> Scanner {
        Scanner::default()
    }

    /// Takes the next bytes of the stream and hands all of them to `visit` before it returns, in order, cut where a
    /// join point starts.
    pub fn push<'a>(&mut self, bytes: &'a [u8], visit: &mut dyn FnMut(Piece<'a>)) {
        let start = self.position();
        self.window.extend_from_slice(bytes);
        let (mut visited, mut join) = (0, None);
        self.scan_window(&mut |join_at| {
            let cut = join_at.saturating_sub(start) as usize;
            if cut > visited {
                visit(Piece { bytes: &bytes[visited..cut], join: join.take() });
                visited = cut;
            }
            join = Some(start.saturating_sub(join_at) as usize);
        });
        if visited < bytes.len() {
            visit(Piece { bytes: &bytes[visited..], join });
        }
    }

    /// Whether the stream is MPEG-TS; `None` until enough of it was seen. `Some(false)` still turns into
    /// `Some(true)` when packets come after all.
    pub fn is_mpeg_ts(&self) -> Option<bool> {
        if self.was_in_sync { Some(true) } else { (self.position() >= PROBE_BYTES).then_some(false) }
    }

    /// The last clock reference of the programme.
    pub fn clock(&self) -> Option<Clock> {
        self.clock
    }

    /// How many bytes were pushed.
    pub fn position(&self) -> u64 {
        self.window_start + self.window.len() as u64
    }

    /// How many bytes of an incomplete packet stand at the end of what was pushed; `None` while it is not known
    /// where packets start.
    pub fn incomplete_packet_bytes(&self) -> Option<usize> {
        self.in_sync.then_some(self.window.len())
    }

    /// How far `join` of the next pushed piece may reach back at most. Who cuts the stream and wants a cut at every
    /// join point leaves so many bytes uncut as long as there is time. Always less than 16 packets.
    pub fn join_reach_bytes(&self) -> usize {
        let earliest = self.joins.tables_at().unwrap_or(self.window_start);
        (self.position() - earliest) as usize
    }

    fn scan_window(&mut self, join: &mut dyn FnMut(u64)) {
        let window = core::mem::take(&mut self.window);
        let mut at = 0;
        loop {
            at += if self.in_sync {
                self.scan_packets(at, &window, join)
            } else {
                self.find_sync(&window[at..])
            };
            let enough_bytes = if self.in_sync { PACKET_BYTES } else { SYNC_SPAN_BYTES };
            if window.len() - at < enough_bytes {
                break;
            }
        }
        self.window = window;
        self.window.drain(..at);
        self.window_start += at as u64;
    }

    /// Looks at whole packets from `at` on until they end or one does not start with a sync byte. Returns their
    /// bytes.
    fn scan_packets(&mut self, at: usize, window: &[u8], join: &mut dyn FnMut(u64)) -> usize {
        let mut scanned = 0;
        for bytes in window[at..].chunks_exact(PACKET_BYTES) {
            let Some(packet) = Packet::try_new(bytes) else {
                self.in_sync = false;
                self.joins.forget_tables();
                self.programme.forget_incomplete_tables();
                break;
            };
            let position = self.window_start + (at + scanned) as u64;
            self.programme.read_tables(&packet);
            if let Some(streams) = self.programme.streams() {
                clock::read(&mut self.clock, streams.clock_pid, &packet, position);
            }
            let ticks = self.clock.map(|clock| clock.ticks);
            if let Some(join_at) = self.joins.look_at(&packet, position, self.programme.streams(), ticks) {
                join(join_at);
            }
            scanned += PACKET_BYTES;
        }
        scanned
    }

    /// Returns how many bytes are before the first packet, or surely no start of one.
    fn find_sync(&mut self, window: &[u8]) -> usize {
        let decidable = (window.len() + 1).saturating_sub(SYNC_SPAN_BYTES);
        let packets_start_at =
            |at: &usize| (0..SYNC_PACKETS).all(|n| window[at + n * PACKET_BYTES] == Packet::SYNC_BYTE);
        let found = (0..decidable).find(packets_start_at);
        self.in_sync = found.is_some();
        self.was_in_sync |= self.in_sync;
        found.unwrap_or(decidable)
    }
}

#[cfg(test)]
mod tests;
