//! When the copies of each chunk arrived: the first, the median one, the last.

use std::collections::HashMap;

use codec::ChunkHeader;
use hdrhistogram::Histogram;
use mesh::Time;

use crate::writer::delay_histogram;

/// A chunk whose copies have not all come after this time, µs, is settled with those that have.
const WAIT_MAX_US: u64 = 2_000_000;

/// Delays from capture to the kernel's receiving side, µs.
pub(super) struct Delays {
    pub(super) first: Histogram<u64>,
    pub(super) median: Histogram<u64>,
    pub(super) last: Histogram<u64>,
    /// Chunks that were measured.
    pub(super) chunks: u64,
    /// Copies of them that did not come whole.
    pub(super) missing: u64,
}

/// The chunks on their way.
pub(super) struct Copies {
    subscribers: usize,
    /// By channel and sequence number.
    open: HashMap<(usize, u64), Chunk>,
    delays: Delays,
}

struct Chunk {
    capture_us: u64,
    data_shards: usize,
    /// By subscriber: data shards that have come.
    shards: Vec<u8>,
    /// Of each whole copy.
    delays_us: Vec<u64>,
}

impl Copies {
    pub(super) fn new(subscribers: usize) -> Copies {
        let [first, median, last] = [(); 3].map(|()| delay_histogram());
        let delays = Delays { first, median, last, chunks: 0, missing: 0 };
        Copies { subscribers, open: HashMap::new(), delays }
    }

    /// A train came. Returns whether the subscriber's copy became whole by it.
    pub(super) fn note(
        &mut self,
        channel: usize,
        subscriber: usize,
        header: &ChunkHeader,
        shards: u64,
        at: Time,
    ) -> bool {
        let chunk = self.open.entry((channel, header.sequence.0)).or_insert_with(|| Chunk {
            capture_us: header.capture_us,
            data_shards: header.layout().data_shards(),
            shards: vec![0; self.subscribers],
            delays_us: Vec::with_capacity(self.subscribers),
        });
        let before = usize::from(chunk.shards[subscriber]);
        let now = before + shards as usize;
        chunk.shards[subscriber] = now.min(255) as u8;
        let whole = before < chunk.data_shards && now >= chunk.data_shards;
        if whole {
            chunk.delays_us.push(at.0.saturating_sub(chunk.capture_us));
        }
        whole
    }

    /// Books the chunks that are all there or waited long enough; those captured within `measured` count.
    pub(super) fn settle(&mut self, now_us: u64, measured: std::ops::Range<u64>) {
        let (subscribers, delays) = (self.subscribers, &mut self.delays);
        self.open.retain(|_, chunk| {
            // A copy or two may still come of what is whole: what belongs to no open chunk would be one again.
            let settled = now_us.saturating_sub(chunk.capture_us) > WAIT_MAX_US;
            if settled && measured.contains(&chunk.capture_us) {
                delays.book(chunk, subscribers);
            }
            !settled
        });
    }

    /// Books what is left.
    pub(super) fn finish(mut self, measured: std::ops::Range<u64>) -> Delays {
        self.settle(u64::MAX, measured);
        self.delays
    }
}

impl Delays {
    fn book(&mut self, chunk: &mut Chunk, subscribers: usize) {
        self.chunks += 1;
        self.missing += (subscribers - chunk.delays_us.len()) as u64;
        chunk.delays_us.sort_unstable();
        if let (Some(first), Some(last)) = (chunk.delays_us.first(), chunk.delays_us.last()) {
            self.first.saturating_record(*first);
            self.median.saturating_record(chunk.delays_us[chunk.delays_us.len() / 2]);
            self.last.saturating_record(*last);
        }
    }
}

#[cfg(test)]
mod tests {
    use codec::{ChannelSecret, Sequence, SlotLayout};

    use super::*;

    fn header(capture_us: u64) -> ChunkHeader {
        let tag = ChannelSecret::from_seed(&[1; 32]).key().tag();
        let layout = SlotLayout::new(4, 2).unwrap();
        let header = ChunkHeader::new(tag, Sequence(1), layout, layout.payload_bytes_max());
        let mut header = header.unwrap();
        header.capture_us = capture_us;
        header
    }

    #[test]
    fn a_copy_counts_once_when_its_last_shard_is_there() {
        let mut copies = Copies::new(3);
        let header = header(1_000);
        assert!(copies.note(0, 0, &header, 4, Time(1_100)));
        assert!(!copies.note(0, 1, &header, 3, Time(1_150)));
        assert!(copies.note(0, 1, &header, 1, Time(1_300)));
        assert!(!copies.note(0, 1, &header, 4, Time(1_400)), "a copy is whole once");
        let delays = copies.finish(0..2_000);
        assert_eq!((delays.chunks, delays.missing), (1, 1));
        let values = [&delays.first, &delays.median, &delays.last].map(|delay| delay.max());
        assert!((100..=101).contains(&values[0]) && (300..=303).contains(&values[2]), "{values:?}");
    }

    #[test]
    fn chunks_outside_the_measured_time_do_not_count() {
        let mut copies = Copies::new(1);
        copies.note(0, 0, &header(1_000), 4, Time(1_100));
        let delays = copies.finish(2_000..3_000);
        assert_eq!((delays.chunks, delays.first.len()), (0, 0));
    }
}
