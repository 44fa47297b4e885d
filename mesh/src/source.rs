//! The publisher's chunker: bytes in, chunks out, each at most 40 ms or 32 data shards long.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use codec::{ChannelSecret, ChunkHeader, Sequence, SlotLayout};

use crate::limits::{CHUNK_TIME, UNDECIDED_WAIT};
use crate::time::Time;

/// A local source of a channel.
pub(crate) struct Source {
    pub(crate) secret: ChannelSecret,
    pub(crate) next: Sequence,
    pending: BytesMut,
    /// The last pending bytes that may turn out to be the start of a join point.
    undecided: usize,
    /// When the pending bytes came: (bytes of `pending` up to and with this arrival, when), in order.
    arrivals: VecDeque<(usize, Time)>,
    /// Distance of the next chunk to the latest join point; the first chunk is one.
    join_distance: u16,
    begun: bool,
    pub(crate) ended: bool,
}

/// How much of the pending bytes goes into the next chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// As many whole data shards as there are; at least one, padded if need be.
    Shards,
    /// Everything up to this many bytes.
    Bytes(usize),
}

impl Source {
    /// Numbers start from the clock, so that they go on rising when the publisher is started again.
    pub(crate) fn new(secret: ChannelSecret, now: Time) -> Source {
        Source {
            secret,
            next: Sequence(now.0.max(1)),
            pending: BytesMut::with_capacity(2 * PAYLOAD_MAX),
            undecided: 0,
            arrivals: VecDeque::new(),
            join_distance: 0,
            begun: false,
            ended: false,
        }
    }

    pub(crate) fn append(&mut self, now: Time, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.pending.extend_from_slice(bytes);
            self.arrivals.push_back((self.pending.len(), now));
            self.undecided = 0;
        }
    }

    /// The last `undecided` bytes may turn out to be the start of a join point.
    pub(crate) fn hold_back(&mut self, undecided: usize) {
        self.undecided = undecided;
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Whether a largest chunk is full.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() >= PAYLOAD_MAX
    }

    /// When the oldest pending byte must go: after a chunk's time, or a little later if it is undecided.
    pub(crate) fn due(&self) -> Option<Time> {
        let (_, came) = self.arrivals.front()?;
        let wait = if self.decided() == 0 { CHUNK_TIME + UNDECIDED_WAIT } else { CHUNK_TIME };
        Some(came.after(wait))
    }

    /// Pending bytes that belong to no join point which is still to be found.
    fn decided(&self) -> usize {
        self.pending.len().saturating_sub(self.undecided)
    }

    /// A joiner may start `back` bytes before the end of what was appended. Returns how many pending bytes belong to
    /// chunks before that; `None` when the place is under way already, or the channel begins with it anyway.
    pub(crate) fn bytes_before_join_point(&self, back: usize) -> Option<usize> {
        self.pending.len().checked_sub(back).filter(|_| self.begun)
    }

    /// The next chunk is a join point.
    pub(crate) fn next_is_join_point(&mut self) {
        self.join_distance = 0;
    }

    /// The header of the next chunk and its payload, which lies at the start of [`Source::pending`].
    pub(crate) fn plan(&self, now: Time, cut: Cut) -> ChunkHeader {
        let (layout, payload_bytes) = match cut {
            Cut::Shards => {
                let ready = Some(self.decided()).filter(|decided| *decided > 0).unwrap_or(self.pending.len());
                match layout_filled_by(ready) {
                    Some(layout) => (layout, layout.payload_bytes_max()),
                    None => (default_layout(1), ready),
                }
            }
            Cut::Bytes(bytes) => layout_holding(bytes.min(PAYLOAD_MAX)),
        };
        let capture = self.arrivals.front().map_or(now, |(_, came)| *came);
        let mut header = ChunkHeader::new(self.secret.key().tag(), self.next, layout, payload_bytes)
            .expect("the layout was chosen for the payload");
        header.capture_us = capture.0;
        header.join_distance = self.join_distance;
        header
    }

    pub(crate) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// The planned chunk was made.
    pub(crate) fn consume(&mut self, header: &ChunkHeader) {
        let taken = header.payload_bytes();
        self.pending.advance(taken);
        while self.arrivals.front().is_some_and(|(end, _)| *end <= taken) {
            self.arrivals.pop_front();
        }
        self.arrivals.iter_mut().for_each(|(end, _)| *end -= taken);
        self.next = self.next.next();
        self.join_distance = self.join_distance.saturating_add(1);
        self.begun = true;
        self.ended |= header.last;
    }
}

/// The payload of the largest chunk.
const PAYLOAD_MAX: usize = default_layout(codec::MAX_DATA_SHARDS).payload_bytes_max();

/// k data shards and half as many parity shards, rounded up, at most 16.
const fn default_layout(data_shards: usize) -> SlotLayout {
    let parity_shards = data_shards.div_ceil(2);
    let parity_shards = if parity_shards > 16 { 16 } else { parity_shards };
    match SlotLayout::new(data_shards, parity_shards) {
        Some(layout) => layout,
        None => panic!("1 to 32 data shards"),
    }
}

fn layouts() -> impl DoubleEndedIterator<Item = SlotLayout> {
    (1..=codec::MAX_DATA_SHARDS).map(default_layout)
}

/// The largest chunk whose data shards these bytes fill.
fn layout_filled_by(bytes: usize) -> Option<SlotLayout> {
    layouts().rev().find(|layout| layout.payload_bytes_max() <= bytes)
}

/// The smallest chunk that holds these bytes (at most [`PAYLOAD_MAX`]).
fn layout_holding(bytes: usize) -> (SlotLayout, usize) {
    let layout = layouts().find(|layout| layout.payload_bytes_max() >= bytes);
    (layout.expect("no more than the largest chunk holds"), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_length_finds_its_layout() {
        let tag = ChannelSecret::from_seed(&[1; 32]).key().tag();
        for bytes in 0..=PAYLOAD_MAX {
            let (layout, _) = layout_holding(bytes);
            assert!(
                ChunkHeader::new(tag, Sequence(1), layout, bytes).is_some(),
                "{bytes} bytes in {layout:?}"
            );
        }
    }

    #[test]
    fn bytes_that_may_start_a_join_point_wait_a_little_longer_than_others() {
        let mut source = Source::new(ChannelSecret::from_seed(&[1; 32]), Time(1_000));
        source.append(Time(2_000), &[0; 500]);
        source.append(Time(2_000), &[1; 376]);
        source.hold_back(376);
        assert_eq!(source.due(), Some(Time(2_000).after(CHUNK_TIME)));
        let header = source.plan(Time(50_000), Cut::Shards);
        assert_eq!(header.payload_bytes(), 500);
        source.consume(&header);
        assert_eq!(source.due(), Some(Time(2_000).after(CHUNK_TIME + UNDECIDED_WAIT)));
        assert_eq!(source.plan(Time(70_000), Cut::Shards).payload_bytes(), 376);
        assert_eq!(source.bytes_before_join_point(376), Some(0));
    }

    #[test]
    fn the_capture_time_is_that_of_the_oldest_byte_not_yet_sent() {
        let mut source = Source::new(ChannelSecret::from_seed(&[1; 32]), Time(1_000));
        source.append(Time(2_000), &[0; 1_500]);
        source.append(Time(3_000), &[0; 1_000]);
        assert_eq!(source.due(), Some(Time(2_000).after(CHUNK_TIME)));
        let header = source.plan(Time(9_000), Cut::Shards);
        assert_eq!((header.capture_us, header.layout().data_shards()), (2_000, 2));
        source.consume(&header);
        assert_eq!(source.pending_bytes(), 2_500 - header.payload_bytes());
        assert_eq!(source.plan(Time(9_000), Cut::Shards).capture_us, 3_000);
    }
}
