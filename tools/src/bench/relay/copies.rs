//! The copies of each chunk: when they arrived, the first, the median one, the last; and of some of them, whether every
//! byte is right.

use std::collections::HashMap;
use std::ops::Range;

use codec::ShardSet;
use hdrhistogram::Histogram;
use mesh::Time;

use super::sealed::Sealed;
use crate::writer::delay_histogram;

/// A chunk whose copies have not all come after this time, µs, is settled with those that have.
const WAIT_MAX_US: u64 = 2_000_000;

/// What became of the copies of the chunks that were handed over in the measured time.
pub(super) struct Arrived {
    /// Delays from the publisher's hand-over to the kernel's receiving side, µs.
    pub(super) first: Histogram<u64>,
    pub(super) median: Histogram<u64>,
    pub(super) last: Histogram<u64>,
    /// Chunks that were measured.
    pub(super) chunks: u64,
    /// Copies of them that did not come whole.
    pub(super) missing: u64,
    pub(super) checked: Checked,
}

/// What checking every byte found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// Subscribers whose datagrams are checked.
    pub(super) receivers: usize,
    /// Datagrams compared with what was published, in the whole run.
    pub(super) datagrams: u64,
    /// Of those: no datagram of that channel's stream, or with another byte in it.
    pub(super) wrong: u64,
    /// Of those: had come before.
    pub(super) duplicate: u64,
    /// Data shards that did not come, of the measured chunks.
    pub(super) missing: u64,
    /// Copies of measured chunks that were not whole.
    pub(super) incomplete: u64,
}

/// The chunks on their way.
pub(super) struct Copies<'s> {
    sealed: &'s Sealed,
    receivers: usize,
    /// By place.
    open: HashMap<usize, Chunk>,
    /// Places below this one are booked.
    settled: usize,
    arrived: Arrived,
}

struct Chunk {
    /// Data shards that have come, by receiver that is not checked.
    shards: Vec<u8>,
    /// Shards that have come, by receiver that is checked.
    held: Vec<ShardSet>,
    /// Of each whole copy.
    delays_us: Vec<u64>,
}

impl<'s> Copies<'s> {
    /// For so many receivers, of whom `checked` are checked. Each kind is numbered by itself.
    pub(super) fn new(sealed: &'s Sealed, receivers: usize, checked: usize) -> Copies<'s> {
        let [first, median, last] = [(); 3].map(|()| delay_histogram());
        let checked = Checked { receivers: checked, ..Checked::default() };
        let arrived = Arrived { first, median, last, chunks: 0, missing: 0, checked };
        Copies { sealed, receivers, open: HashMap::new(), settled: 0, arrived }
    }

    /// A train of so many shards came to a receiver that is not checked. Returns whether its copy became whole by it.
    pub(super) fn note_train(&mut self, place: usize, receiver: usize, shards: u64, at: Time) -> bool {
        let Some((chunk, sent)) = self.chunk(place) else { return false };
        let before = usize::from(chunk.shards[receiver]);
        let now = before + shards as usize;
        chunk.shards[receiver] = now.min(255) as u8;
        let data_shards = self.sealed.layout().data_shards();
        let whole = before < data_shards && now >= data_shards;
        self.note_whole(place, whole, at, sent)
    }

    /// A datagram with the right bytes came to a receiver that is checked. Returns whether its copy became whole by it.
    pub(super) fn note_shard(&mut self, place: usize, checked: usize, shard: usize, at: Time) -> bool {
        self.arrived.checked.datagrams += 1;
        let data = self.sealed.layout().data_set();
        let Some((chunk, sent)) = self.chunk(place) else { return false };
        let held = &mut chunk.held[checked];
        if held.contains(shard) {
            self.arrived.checked.duplicate += 1;
            return false;
        }
        held.insert(shard);
        let whole = data.contains(shard) && data.minus(*held).is_empty();
        self.note_whole(place, whole, at, sent)
    }

    /// A datagram with other bytes than were published came to a receiver that is checked.
    pub(super) fn note_wrong(&mut self) {
        self.arrived.checked.datagrams += 1;
        self.arrived.checked.wrong += 1;
    }

    /// A chunk that is not booked yet, and when it was handed over.
    fn chunk(&mut self, place: usize) -> Option<(&mut Chunk, Time)> {
        let sent = self.sealed.sent_at(place).filter(|_| place >= self.settled)?;
        let (receivers, checked) = (self.receivers, self.arrived.checked.receivers);
        let chunk = self.open.entry(place).or_insert_with(|| Chunk {
            shards: vec![0; receivers - checked],
            held: vec![ShardSet::EMPTY; checked],
            delays_us: Vec::with_capacity(receivers),
        });
        Some((chunk, sent))
    }

    fn note_whole(&mut self, place: usize, whole: bool, at: Time, sent: Time) -> bool {
        if let Some(chunk) = self.open.get_mut(&place).filter(|_| whole) {
            chunk.delays_us.push(at.since(sent).as_micros() as u64);
        }
        whole
    }

    /// Books, in the order in which they were handed over, the chunks that waited long enough, those of which nothing came
    /// too; those handed over within `measured` count.
    pub(super) fn settle(&mut self, now_us: u64, measured: Range<u64>) {
        while let Some(sent) = self.sealed.sent_at(self.settled) {
            if now_us.saturating_sub(sent.0) <= WAIT_MAX_US {
                break;
            }
            let chunk = self.open.remove(&self.settled);
            self.settled += 1;
            if measured.contains(&sent.0) {
                self.arrived.book(chunk, self.receivers, self.sealed.layout().data_set());
            }
        }
    }

    /// Books what is left.
    pub(super) fn finish(mut self, measured: Range<u64>) -> Arrived {
        self.settle(u64::MAX, measured);
        self.arrived
    }
}

impl Arrived {
    fn book(&mut self, chunk: Option<Chunk>, receivers: usize, data: ShardSet) {
        let nothing = || Chunk {
            shards: vec![],
            held: vec![ShardSet::EMPTY; self.checked.receivers],
            delays_us: vec![],
        };
        let mut chunk = chunk.unwrap_or_else(nothing);
        self.chunks += 1;
        self.missing += (receivers - chunk.delays_us.len()) as u64;
        for held in chunk.held {
            let missing = data.minus(held).len() as u64;
            self.checked.missing += missing;
            self.checked.incomplete += u64::from(missing > 0);
        }
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
    use super::super::sealed::tests::sealed;
    use super::*;

    #[test]
    fn a_copy_counts_once_when_its_last_shard_is_there() {
        let sealed = sealed(1);
        sealed.note_sent(0, Time(1_000));
        let shards = sealed.layout().data_shards() as u64;
        let mut copies = Copies::new(&sealed, 3, 0);
        assert!(copies.note_train(0, 0, shards, Time(1_100)));
        assert!(!copies.note_train(0, 1, shards - 1, Time(1_150)));
        assert!(copies.note_train(0, 1, 1, Time(1_300)));
        assert!(!copies.note_train(0, 1, shards, Time(1_400)), "a copy is whole once");
        let arrived = copies.finish(0..2_000);
        assert_eq!((arrived.chunks, arrived.missing), (1, 1));
        let values = [&arrived.first, &arrived.median, &arrived.last].map(|delay| delay.max());
        assert!((100..=101).contains(&values[0]) && (300..=303).contains(&values[2]), "{values:?}");
    }

    #[test]
    fn checked_copies_say_what_is_missing_double_and_wrong() {
        let sealed = sealed(1);
        let shards = sealed.layout().data_shards();
        [0, 1].iter().for_each(|place| sealed.note_sent(*place, Time(1_000)));
        let mut copies = Copies::new(&sealed, 2, 2);
        let whole: Vec<bool> = (0..shards).map(|shard| copies.note_shard(0, 0, shard, Time(1_100))).collect();
        assert_eq!(whole.iter().filter(|whole| **whole).count(), 1);
        assert!(whole[shards - 1]);
        copies.note_shard(0, 0, 0, Time(1_200));
        copies.note_shard(0, 1, 0, Time(1_200));
        // In place of one that is missing.
        copies.note_wrong();
        let arrived = copies.finish(0..2_000);
        let expected = Checked {
            receivers: 2,
            datagrams: shards as u64 + 3,
            wrong: 1,
            duplicate: 1,
            missing: 3 * shards as u64 - 1,
            incomplete: 3,
        };
        assert_eq!(
            arrived.checked, expected,
            "one copy of the first chunk and both of the second are not whole"
        );
        assert_eq!((arrived.chunks, arrived.missing), (2, 3));
    }

    #[test]
    fn chunks_outside_the_measured_time_do_not_count() {
        let sealed = sealed(1);
        sealed.note_sent(0, Time(1_000));
        let mut copies = Copies::new(&sealed, 1, 0);
        copies.note_train(0, 0, sealed.layout().data_shards() as u64, Time(1_100));
        let arrived = copies.finish(2_000..3_000);
        assert_eq!((arrived.chunks, arrived.missing, arrived.first.len()), (0, 0, 0));
    }
}
