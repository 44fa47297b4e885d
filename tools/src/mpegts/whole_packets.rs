//! A transport stream that goes on with whole packets where some of it is missing.

use super::{PACKET_BYTES, Scanner};

/// Cuts a stream where parts of it are missing: at the last packet that is whole before, and the first after. Without gaps,
/// and for what is no MPEG-TS, all comes out as it came in, but for the start of a packet whose end has not come.
#[derive(Default)]
pub struct WholePackets {
    scanner: Scanner,
    /// Taken in and not given out: less than a packet, or all since a gap until it is known where packets start.
    kept: Vec<u8>,
    is_after_gap: bool,
}

/// A stream whose packets are not found again after so many bytes is given out as it is.
const SEARCH_BYTES: usize = 64 * 1024;

impl WholePackets {
    /// Takes the next bytes; `is_after_gap` says that some before them are missing. Returns what can be written.
    pub fn push(&mut self, bytes: &[u8], is_after_gap: bool) -> Vec<u8> {
        if is_after_gap && self.scanner.is_mpeg_ts() == Some(true) {
            self.kept.clear();
            self.scanner = Scanner::new();
            self.is_after_gap = true;
        }
        self.kept.extend_from_slice(bytes);
        self.scanner.push(bytes, &mut |_| ());
        let incomplete = match self.scanner.incomplete_packet_bytes() {
            Some(incomplete) => incomplete.min(self.kept.len()),
            None if self.is_after_gap && self.kept.len() < SEARCH_BYTES => return Vec::new(),
            None => 0,
        };
        let left = self.kept.split_off(self.kept.len() - incomplete);
        let mut whole = std::mem::replace(&mut self.kept, left);
        if std::mem::take(&mut self.is_after_gap) {
            whole.drain(..whole.len() % PACKET_BYTES);
        }
        whole
    }

    /// What is left at the end of the stream.
    pub fn rest(self) -> Vec<u8> {
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = include_bytes!("../../tests/data/sample.ts");

    /// The sample in chunks of this length, without those that `is_missing`.
    fn written(chunk_bytes: usize, is_missing: impl Fn(usize) -> bool) -> Vec<u8> {
        let (mut packets, mut out, mut is_after_gap) = (WholePackets::default(), Vec::new(), false);
        for (number, chunk) in SAMPLE.chunks(chunk_bytes).enumerate() {
            if is_missing(number) {
                is_after_gap = true;
            } else {
                out.extend(packets.push(chunk, std::mem::take(&mut is_after_gap)));
            }
        }
        out.extend(packets.rest());
        out
    }

    #[test]
    fn without_gaps_the_stream_is_as_it_was() {
        assert!(written(1_036, |_| false) == SAMPLE);
        assert!(written(5_180, |_| false) == SAMPLE);
    }

    #[test]
    fn after_each_gap_the_stream_goes_on_with_a_packet() {
        let out = written(3_108, |number| number % 7 == 3);
        assert!(out.len().is_multiple_of(PACKET_BYTES) && out.len() > SAMPLE.len() * 4 / 5, "{}", out.len());
        let of_sample: std::collections::HashSet<&[u8]> = SAMPLE.chunks(PACKET_BYTES).collect();
        assert!(
            out.chunks(PACKET_BYTES).all(|packet| of_sample.contains(packet)),
            "each is one of the stream's"
        );
    }

    #[test]
    fn what_is_no_transport_stream_is_not_cut() {
        let mut packets = WholePackets::default();
        let stream = vec![7; 100_000];
        let mut out = packets.push(&stream[..70_000], false);
        out.extend(packets.push(&stream[80_000..], true));
        assert_eq!(out.len(), 90_000);
    }
}
