//! The stream of a run: every chunk of every channel, sealed before the run begins.
//!
//! Sealing costs some 50 µs a chunk; what does it during the run takes a good part of a core from the relay at a few
//! hundred channels. Of each datagram only what comes before the shard is kept; the content is made of one pool of bytes.
//! Whoever receives can so compare every byte with what was published, at the cost of reading it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use codec::{
    ChannelSecret, ChannelTag, ChannelVerifier, ChunkHeader, DATAGRAM_BYTES, Fec, MAX_DATA_SHARDS, Sequence,
    ShardSet, ShardView, SlotLayout, seal_chunk, verify_shard,
};
use mesh::Time;
use mesh::limits::CHUNK_TIME;

use crate::Error;
use crate::demo::Bitrate;

/// The chunks that a stream of this rate is cut into, all alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkPlan {
    pub(super) layout: SlotLayout,
    /// From one chunk of a channel to the next.
    pub(super) interval: Duration,
}

impl ChunkPlan {
    /// As many whole data shards as 40 ms of stream fill, at most 32, at least one; with the publisher's default parity,
    /// of which nothing is uploaded as long as nothing is lost.
    pub(super) fn new(bitrate: Bitrate) -> ChunkPlan {
        let bytes_per_second = bitrate.bits_per_second as f64 / 8.0;
        let due = (bytes_per_second * CHUNK_TIME.as_secs_f64()) as usize;
        let filled = |layout: &SlotLayout| layout.payload_bytes_max() <= due;
        let layout = (1..=MAX_DATA_SHARDS).rev().map(layout_of).find(filled).unwrap_or_else(|| layout_of(1));
        let interval = Duration::from_secs_f64(layout.payload_bytes_max() as f64 / bytes_per_second);
        ChunkPlan { layout, interval }
    }

    /// Bytes of a datagram before the shard.
    fn head_bytes(&self) -> usize {
        DATAGRAM_BYTES - self.layout.shard_bytes()
    }

    /// What is kept of a chunk.
    fn kept_bytes(&self) -> usize {
        self.layout.data_shards() * self.head_bytes()
    }

    fn chunks_within(&self, duration: Duration) -> usize {
        (duration.as_secs_f64() / self.interval.as_secs_f64()).ceil() as usize
    }
}

fn layout_of(data_shards: usize) -> SlotLayout {
    SlotLayout::new(data_shards, data_shards.div_ceil(2).min(16)).expect("1 to 32 data shards")
}

/// Memory for what is kept of all chunks.
const KEPT_BYTES_MAX: usize = 2 << 30;

/// Chunks sealed between two looks at whether to go on: a tenth of a second of one core.
const BATCH_CHUNKS: usize = 2_048;

/// Where the contents of chunks begin in the pool.
const OFFSETS: usize = 1 << 16;

/// All chunks, in the order in which they are due: the first of each channel, then the second of each. A chunk's *place*
/// in that order names it.
pub(super) struct Sealed {
    plan: ChunkPlan,
    secrets: Vec<ChannelSecret>,
    verifiers: Vec<ChannelVerifier>,
    by_tag: HashMap<ChannelTag, usize>,
    first: Sequence,
    pool: Vec<u8>,
    /// By place: the heads of the data shards.
    heads: Vec<u8>,
    /// By place: when the chunk was handed over, µs since the Unix epoch; 0 before.
    sent_us: Vec<AtomicU64>,
}

impl Sealed {
    /// Seals `duration` of all channels, on all cores; ends early, with what there is, when `interrupted`.
    ///
    /// # Errors
    /// When that takes more memory than the bench allows itself.
    pub(super) fn new(
        secrets: Vec<ChannelSecret>,
        plan: ChunkPlan,
        duration: Duration,
        now: Time,
        interrupted: impl Fn() -> bool,
    ) -> Result<Sealed, Error> {
        let places = plan.chunks_within(duration) * secrets.len();
        if places * plan.kept_bytes() > KEPT_BYTES_MAX {
            return Err(Error::Usage(format!(
                "{:.0} s of {} channels are {places} chunks to be sealed ahead, {} MiB of memory; at most {} MiB may be: \
                 fewer --seconds, fewer --channels or a lower --bitrate",
                duration.as_secs_f64(),
                secrets.len(),
                (places * plan.kept_bytes()) >> 20,
                KEPT_BYTES_MAX >> 20
            )));
        }
        let verifiers: Vec<ChannelVerifier> = secrets.iter().map(ChannelSecret::verifier).collect();
        let by_tag = verifiers.iter().enumerate().map(|(number, verifier)| (verifier.tag(), number));
        let mut sealed = Sealed {
            plan,
            by_tag: by_tag.collect(),
            verifiers,
            first: Sequence(now.0.max(1)),
            pool: pool(OFFSETS + plan.layout.payload_bytes_max()),
            heads: Vec::with_capacity(places * plan.kept_bytes()),
            sent_us: Vec::new(),
            secrets,
        };
        for from in (0..places).step_by(BATCH_CHUNKS) {
            let batch = sealed.seal(now, from..places.min(from + BATCH_CHUNKS));
            sealed.heads.extend_from_slice(&batch);
            if interrupted() {
                break;
            }
        }
        let places = sealed.heads.len() / plan.kept_bytes();
        sealed.sent_us = (0..places).map(|_| AtomicU64::new(0)).collect();
        Ok(sealed)
    }

    /// The heads of these places.
    fn seal(&self, now: Time, places: Range<usize>) -> Vec<u8> {
        let mut heads = vec![0; places.len() * self.plan.kept_bytes()];
        let share = places.len().div_ceil(thread::available_parallelism().map_or(1, usize::from));
        thread::scope(|scope| {
            for (number, heads) in heads.chunks_mut(share * self.plan.kept_bytes()).enumerate() {
                let first = places.start + number * share;
                scope.spawn(move || {
                    let (mut slot, mut fec) = (vec![0; self.plan.layout.slot_bytes()], Fec::new());
                    for (place, heads) in (first..).zip(heads.chunks_mut(self.plan.kept_bytes())) {
                        let (header, payload) = (self.header(now, place), self.payload(place));
                        let secret = &self.secrets[self.channel_of(place)];
                        seal_chunk(&mut slot, &header, [payload], secret, &mut fec);
                        let datagrams = slot.chunks(DATAGRAM_BYTES);
                        for (head, datagram) in heads.chunks_mut(self.plan.head_bytes()).zip(datagrams) {
                            head.copy_from_slice(&datagram[..self.plan.head_bytes()]);
                        }
                    }
                });
            }
        });
        heads
    }

    /// The capture time in it only has to rise evenly: delays are counted from [`Sealed::sent_at`]. It is signed before anybody
    /// knows when the stream will begin, so the relay's own `delay_us` has what sealing and connecting took in it.
    fn header(&self, now: Time, place: usize) -> ChunkHeader {
        let tag = self.verifiers[self.channel_of(place)].tag();
        let payload_bytes = self.plan.layout.payload_bytes_max();
        let header = ChunkHeader::new(tag, self.sequence_of(place), self.plan.layout, payload_bytes);
        let mut header = header.expect("a full payload fits");
        header.capture_us = now.after(self.due(place)).0;
        header
    }

    pub(super) fn channels(&self) -> usize {
        self.secrets.len()
    }

    pub(super) fn secrets(&self) -> &[ChannelSecret] {
        &self.secrets
    }

    /// How many chunks there are.
    pub(super) fn places(&self) -> usize {
        self.sent_us.len()
    }

    pub(super) fn layout(&self) -> SlotLayout {
        self.plan.layout
    }

    /// The channel that datagrams with this tag belong to.
    pub(super) fn channel_with(&self, tag: ChannelTag) -> Option<usize> {
        self.by_tag.get(&tag).copied()
    }

    pub(super) fn channel_of(&self, place: usize) -> usize {
        place % self.channels()
    }

    pub(super) fn sequence_of(&self, place: usize) -> Sequence {
        Sequence(self.first.0 + (place / self.channels()) as u64)
    }

    /// The chunk with this number of that channel, if there is one.
    pub(super) fn place_of(&self, channel: usize, sequence: Sequence) -> Option<usize> {
        let number = usize::try_from(sequence.0.checked_sub(self.first.0)?).ok()?;
        let place = number.checked_mul(self.channels())?.checked_add(channel)?;
        (place < self.places()).then_some(place)
    }

    /// When a chunk is to be handed over, from the start on: the channels take turns, evenly over the time of a chunk.
    pub(super) fn due(&self, place: usize) -> Duration {
        let nanos = self.plan.interval.as_nanos() * place as u128 / self.channels() as u128;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// When it was handed over; `None` before.
    pub(super) fn sent_at(&self, place: usize) -> Option<Time> {
        match self.sent_us.get(place)?.load(Ordering::Acquire) {
            0 => None,
            at => Some(Time(at)),
        }
    }

    pub(super) fn note_sent(&self, place: usize, at: Time) {
        self.sent_us[place].store(at.0, Ordering::Release);
    }

    fn payload(&self, place: usize) -> &[u8] {
        // Both factors are odd: neither two chunks of a channel in a row nor two channels share their content.
        let number = place / self.channels();
        let offset = (number * 1_031 + self.channel_of(place) * 16_411) % OFFSETS;
        &self.pool[offset..][..self.plan.layout.payload_bytes_max()]
    }

    /// A data shard's datagram in two parts: what comes before the shard, and the shard.
    fn datagram(&self, place: usize, shard: usize) -> (&[u8], &[u8]) {
        let head = &self.heads[place * self.plan.kept_bytes()..][shard * self.plan.head_bytes()..];
        let content = &self.payload(place)[shard * self.plan.layout.shard_bytes()..];
        (&head[..self.plan.head_bytes()], &content[..self.plan.layout.shard_bytes()])
    }

    /// Writes these data shards of a chunk, side by side.
    pub(super) fn write(&self, place: usize, shards: ShardSet, train: &mut Vec<u8>) {
        train.clear();
        for shard in shards.intersection(self.plan.layout.data_set()).iter() {
            let (head, content) = self.datagram(place, shard);
            train.extend_from_slice(head);
            train.extend_from_slice(content);
        }
    }

    /// Whether the datagram is, byte for byte, a shard of this chunk. Parity, of which nothing is kept here, has to prove
    /// itself.
    pub(super) fn is_of(&self, place: usize, shard: &ShardView<'_>) -> bool {
        if shard.index() >= self.plan.layout.data_shards() {
            let verifier = &self.verifiers[self.channel_of(place)];
            return shard.tag() == verifier.tag() && verify_shard(shard, verifier, None).is_ok();
        }
        let (head, content) = self.datagram(place, shard.index());
        let (its_head, its_content) = shard.datagram().split_at(self.plan.head_bytes());
        its_head == head && its_content == content
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), as for the demo's stream.
fn pool(bytes: usize) -> Vec<u8> {
    let mut state = 0_u64;
    let mut pool = Vec::with_capacity(bytes + 8);
    while pool.len() < bytes {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        pool.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    pool
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// So many channels, a few chunks of each.
    pub(crate) fn sealed(channels: u8) -> Sealed {
        let secrets = (1..=channels).map(|number| ChannelSecret::from_seed(&[number; 32])).collect();
        let plan = ChunkPlan::new(Bitrate { bits_per_second: 500_000 });
        Sealed::new(secrets, plan, Duration::from_millis(120), Time(5_000_000), || false).unwrap()
    }

    #[test]
    fn chunks_are_whole_shards_and_keep_the_rate() {
        for (bits_per_second, shards) in [(100_000, 1), (4_000_000, 19), (100_000_000, 32)] {
            let plan = ChunkPlan::new(Bitrate { bits_per_second });
            assert_eq!(plan.layout.data_shards(), shards, "{bits_per_second}");
            let rate = plan.layout.payload_bytes_max() as f64 * 8.0 / plan.interval.as_secs_f64();
            assert!((rate / bits_per_second as f64 - 1.0).abs() < 1e-3, "{rate}");
        }
    }

    #[test]
    fn what_was_sealed_ahead_verifies_and_a_flipped_byte_anywhere_is_found() {
        let sealed = sealed(2);
        let mut train = Vec::new();
        for place in 0..sealed.places() {
            let verifier = &sealed.verifiers[sealed.channel_of(place)];
            sealed.write(place, ShardSet::ALL, &mut train);
            assert_eq!(train.len(), sealed.layout().data_shards() * DATAGRAM_BYTES);
            for datagram in train.chunks(DATAGRAM_BYTES) {
                let shard = ShardView::parse(datagram).unwrap();
                assert!(verify_shard(&shard, verifier, None).is_ok() && sealed.is_of(place, &shard));
                let sequence = shard.header().sequence;
                assert_eq!(sealed.place_of(sealed.channel_of(place), sequence), Some(place));
            }
        }
        let datagram = &mut train[..DATAGRAM_BYTES];
        let place = sealed.places() - 1;
        for at in 0..DATAGRAM_BYTES {
            datagram[at] ^= 0x10;
            // What is not even a shard datagram any more is wrong as well.
            let same = ShardView::parse(datagram).is_ok_and(|shard| sealed.is_of(place, &shard));
            assert!(!same, "byte {at}");
            datagram[at] ^= 0x10;
        }
    }

    #[test]
    fn parity_made_by_a_relay_has_to_prove_itself() {
        let sealed = sealed(1);
        let mut slot = vec![0; sealed.layout().slot_bytes()];
        let header = sealed.header(Time(5_000_000), 0);
        seal_chunk(&mut slot, &header, [sealed.payload(0)], &sealed.secrets[0], &mut Fec::new());
        let parity = slot.chunks_mut(DATAGRAM_BYTES).last().unwrap();
        assert!(sealed.is_of(0, &ShardView::parse(parity).unwrap()));
        parity[DATAGRAM_BYTES - 1] ^= 1;
        assert!(!sealed.is_of(0, &ShardView::parse(parity).unwrap()));
    }

    #[test]
    fn more_than_fits_memory_is_refused_with_both_numbers() {
        let secrets = vec![ChannelSecret::from_seed(&[1; 32]); 500];
        let plan = ChunkPlan::new(Bitrate { bits_per_second: 100_000_000 });
        let refused = Sealed::new(secrets, plan, Duration::from_secs(600), Time(1), || false);
        let text = refused.err().unwrap().to_string();
        assert!(text.contains("500 channels") && text.contains("2048 MiB"), "{text}");
    }
}
