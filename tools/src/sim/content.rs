//! A stream of which every piece says where it belongs, so that whoever reads it can be checked without a copy.

/// Bits of the place within a run: 8 TiB.
const PLACE_BITS: u32 = 40;

/// Bytes that tell where they are, however they are aligned.
pub(super) const TELLING_BYTES: usize = 23;

const A: u64 = 0x9e37_79b9_7f4a_7c15;
const B: u64 = 0xd6e8_feb8_6659_fd93;

/// What a channel's publisher publishes, each time that it is started anew. Word `i` of run `r` is an invertible mix of both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    pub(super) key: u64,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// How often the publisher was started before.
    pub(super) run: u64,
    /// Bytes before it.
    pub(super) byte: u64,
}

impl Content {
    fn word(self, run: u64, index: u64) -> u64 {
        let mixed = ((run << PLACE_BITS | index) ^ self.key).wrapping_mul(A);
        (mixed ^ mixed >> 32).wrapping_mul(B)
    }

    /// The number whose word this is.
    fn number(self, word: u64) -> u64 {
        const A_INVERSE: u64 = inverse(A);
        const B_INVERSE: u64 = inverse(B);
        let mixed = word.wrapping_mul(B_INVERSE);
        (mixed ^ mixed >> 32).wrapping_mul(A_INVERSE) ^ self.key
    }

    /// The bytes from a place on.
    pub(super) fn fill(self, place: Place, bytes: &mut [u8]) {
        let skew = (place.byte % 8) as usize;
        let mut index = place.byte / 8;
        let head = bytes.len().min((8 - skew) % 8);
        if skew > 0 {
            bytes[..head].copy_from_slice(&self.word(place.run, index).to_le_bytes()[skew..skew + head]);
            index += 1;
        }
        for piece in bytes[head..].chunks_mut(8) {
            piece.copy_from_slice(&self.word(place.run, index).to_le_bytes()[..piece.len()]);
            index += 1;
        }
    }

    /// Whether these are the bytes from that place on.
    pub(super) fn is_at(self, place: Place, bytes: &[u8]) -> bool {
        let mut expected = [0; 1_024];
        bytes.chunks(expected.len()).zip(0..).all(|(piece, number)| {
            let place = Place { byte: place.byte + number * 1_024, ..place };
            self.fill(place, &mut expected[..piece.len()]);
            piece == &expected[..piece.len()]
        })
    }

    /// Where these bytes, at least [`TELLING_BYTES`], are from.
    pub(super) fn place_of(self, bytes: &[u8]) -> Option<Place> {
        let number = |at: usize| {
            let word = bytes.get(at..at + 8)?.try_into().expect("8 bytes");
            Some(self.number(u64::from_le_bytes(word)))
        };
        let place = (0..8).find_map(|skew| {
            let (one, next) = (number(skew)?, number(skew + 8)?);
            let byte = ((one & ((1 << PLACE_BITS) - 1)) * 8).checked_sub(skew as u64)?;
            (next == one.wrapping_add(1)).then_some(Place { run: one >> PLACE_BITS, byte })
        })?;
        self.is_at(place, bytes).then_some(place)
    }
}

/// Of an odd number modulo 2^64: each step of Newton's doubles the bits that are right.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

/// A reader's place in a stream, and what it missed.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The number of the next chunk.
    pub(super) next: Option<u64>,
    /// The place up to which it was read.
    place: Option<Place>,
    /// Bytes since then that do not tell yet where they are, and the chunks left out before them.
    loose: Vec<u8>,
    gap: u64,
    pub(super) chunks: u64,
    pub(super) bytes: u64,
    /// Chunks left out, but for gaps that no loss makes.
    pub(super) missed: u64,
}

impl Reading {
    /// Takes in the next chunk that was written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn take(&mut self, content: Content, sequence: u64, payload: &[u8]) -> Result<(), String> {
        self.chunks += 1;
        self.bytes += payload.len() as u64;
        let expected = self.next.replace(sequence + 1).unwrap_or(sequence);
        let Some(gap) = sequence.checked_sub(expected) else {
            return Err(format!("chunk {sequence} after {}", expected - 1));
        };
        if gap <= mesh::limits::GAP_CHUNKS_MAX {
            self.missed += gap;
        }
        if gap > 0 {
            // What was loose before the gap is never placed: less than a word or three.
            self.loose.clear();
            self.gap += gap;
        }
        match &mut self.place {
            Some(place) if self.gap == 0 && self.loose.is_empty() && content.is_at(*place, payload) => {
                place.byte += payload.len() as u64;
                Ok(())
            }
            _ => {
                self.loose.extend_from_slice(payload);
                self.settle(content, sequence)
            }
        }
    }

    /// Finds the place of what is loose.
    fn settle(&mut self, content: Content, sequence: u64) -> Result<(), String> {
        if self.loose.len() < TELLING_BYTES {
            return Ok(());
        }
        let Some(start) = content.place_of(&self.loose) else {
            return Err(format!("chunk {sequence} was never published like this"));
        };
        let gap = std::mem::take(&mut self.gap);
        if let Some(before) = self.place {
            // A new run, or a later place after a gap.
            let in_order = start.run > before.run || (start >= before && gap > 0);
            if !in_order {
                return Err(format!(
                    "chunk {sequence}, after a gap of {gap}, is {start:?}, expected from {before:?} on"
                ));
            }
        }
        self.place = Some(Place { byte: start.byte + self.loose.len() as u64, ..start });
        self.loose.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: Content = Content { key: 0x1234_5678_9abc_def0 };

    fn piece(run: u64, byte: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        CONTENT.fill(Place { run, byte }, &mut bytes);
        bytes
    }

    #[test]
    fn every_piece_tells_where_it_is_from_whatever_its_alignment() {
        let whole = piece(3, 0, 500);
        for byte in 0..200 {
            for length in [1, 7, 8, TELLING_BYTES, 100] {
                assert!(piece(3, byte, length) == whole[byte as usize..][..length]);
            }
            assert_eq!(CONTENT.place_of(&piece(3, byte, TELLING_BYTES)), Some(Place { run: 3, byte }));
        }
        let mut wrong = piece(3, 40, 100);
        wrong[99] ^= 1;
        assert_eq!(CONTENT.place_of(&wrong), None);
        assert_eq!(CONTENT.place_of(&[7; 100]), None);
    }

    #[test]
    fn a_reader_is_told_of_wrong_bytes_of_bytes_out_of_order_and_of_bytes_left_out_in_silence() {
        let mut reading = Reading::default();
        reading.take(CONTENT, 100, &piece(0, 30, 50)).unwrap();
        reading.take(CONTENT, 101, &piece(0, 80, 5)).unwrap();
        // Three are missed; what follows is too short to tell where it is.
        reading.take(CONTENT, 105, &piece(0, 300, 10)).unwrap();
        reading.take(CONTENT, 106, &piece(0, 310, 100)).unwrap();
        assert_eq!((reading.missed, reading.chunks, reading.bytes), (3, 4, 165));
        // Started anew: another run, and numbers that go on.
        reading.take(CONTENT, 107, &piece(1, 0, 100)).unwrap();

        let told = |sequence, payload: Vec<u8>| {
            let mut reading = Reading::default();
            reading.take(CONTENT, 100, &piece(0, 1_000, 100)).unwrap();
            reading.take(CONTENT, sequence, &payload).unwrap_err()
        };
        assert!(told(101, vec![0; 100]).contains("never published"));
        assert!(told(101, piece(0, 1_101, 100)).contains("expected"));
        assert!(told(105, piece(0, 900, 100)).contains("expected"));
        assert!(told(99, piece(0, 900, 100)).contains("chunk 99 after 100"));
    }
}
