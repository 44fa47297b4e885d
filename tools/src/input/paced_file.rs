//! A file in time: which bytes are due when, by the clock references in them. Does not wait.

use core::time::Duration;
use std::fs::File;
use std::io::{self, BufReader, Seek};

use crate::mpegts::{PACKET_BYTES, Scanner, TICKS_PER_SECOND};

/// Seven packets, as much as MPEG-TS senders put into a datagram.
const BLOCK_BYTES: usize = 7 * PACKET_BYTES;

/// The standard has a clock reference at least every 100 ms; so many bytes without one are no clock, or a hole.
const SEGMENT_BYTES_MAX: usize = 4 << 20;

/// A file that is read from one clock reference to the next; in between, bytes are spread evenly.
pub(super) struct PacedFile {
    reader: BufReader<File>,
    looped: bool,
    /// Whether anything was read since the file was last begun: an empty one is not looped forever.
    any_read: bool,
    scanner: Scanner,
    /// What was read and is in no segment yet.
    ahead: Vec<u8>,
    segment: Segment,
    /// All segments so far whose duration the clock gave.
    pace: Pace,
}

/// Bytes between two clock references.
#[derive(Default)]
struct Segment {
    bytes: Vec<u8>,
    sent: usize,
    start_ticks: u64,
    ticks: u64,
}

/// So many bytes in so much time.
#[derive(Default)]
struct Pace {
    bytes: u64,
    ticks: u64,
}

impl PacedFile {
    /// Reads up to the first clock reference; `None` when there is none.
    pub(super) fn start(file: File, looped: bool) -> io::Result<Option<PacedFile>> {
        let mut paced = PacedFile {
            reader: BufReader::with_capacity(64 * 1024, file),
            looped,
            any_read: false,
            scanner: Scanner::new(),
            ahead: Vec::new(),
            segment: Segment::default(),
            pace: Pace::default(),
        };
        paced.load_segment()?;
        let has_clock = paced.scanner.clock().is_some();
        Ok(has_clock.then_some(paced))
    }

    /// The next bytes, and when they are due after the start; `None` at the end.
    pub(super) fn next_block(&mut self) -> io::Result<Option<(&[u8], Duration)>> {
        while self.segment.sent == self.segment.bytes.len() {
            if !self.load_segment()? {
                return Ok(None);
            }
        }
        Ok(Some(self.segment.next_block()))
    }

    /// Reads on to the next clock reference; returns whether there was anything.
    fn load_segment(&mut self) -> io::Result<bool> {
        let before = self.scanner.clock();
        let mut clock_ticks = None;
        let cut = loop {
            if self.ahead.len() >= SEGMENT_BYTES_MAX || !self.read_ahead()? {
                break self.ahead.len();
            }
            let Some(clock) = self.scanner.clock() else {
                if self.scanner.is_mpeg_ts() == Some(false) {
                    break self.ahead.len();
                }
                continue;
            };
            if before.is_none_or(|before| before.position != clock.position) {
                let same_time_base = before.filter(|before| before.breaks == clock.breaks);
                clock_ticks = same_time_base.map(|before| clock.ticks - before.ticks);
                let ahead_start = self.scanner.position() - self.ahead.len() as u64;
                break clock.position.saturating_sub(ahead_start) as usize;
            }
        };
        self.cut_segment(cut, clock_ticks);
        Ok(cut > 0 || !self.ahead.is_empty())
    }

    /// Makes the first `cut` bytes of what was read the next segment. Without a duration by the clock (before its
    /// first reference, across a break, behind the last reference) it is sent at the mean pace so far.
    fn cut_segment(&mut self, cut: usize, clock_ticks: Option<u64>) {
        let bytes = cut as u64;
        if let Some(ticks) = clock_ticks {
            self.pace.bytes += bytes;
            self.pace.ticks += ticks;
        }
        let Pace { bytes: paced_bytes, ticks: paced_ticks } = self.pace;
        let mean_ticks = || (u128::from(bytes) * u128::from(paced_ticks)).checked_div(paced_bytes.into());
        let segment = &mut self.segment;
        segment.start_ticks += segment.ticks;
        segment.ticks = clock_ticks.unwrap_or_else(|| mean_ticks().unwrap_or(0) as u64);
        segment.bytes.clear();
        segment.bytes.extend(self.ahead.drain(..cut));
        segment.sent = 0;
    }

    /// Reads a little, so that no clock reference is skipped over; returns whether there was anything.
    fn read_ahead(&mut self) -> io::Result<bool> {
        loop {
            let mut block = [0; BLOCK_BYTES];
            let bytes = super::read_some(&mut self.reader, &mut block)?;
            if bytes > 0 {
                self.any_read = true;
                self.scanner.push(&block[..bytes], &mut |_| ());
                self.ahead.extend_from_slice(&block[..bytes]);
                return Ok(true);
            }
            if !self.looped || !self.any_read {
                return Ok(false);
            }
            self.reader.rewind()?;
            self.any_read = false;
        }
    }
}

impl Segment {
    fn next_block(&mut self) -> (&[u8], Duration) {
        let (sent, length) = (self.sent as u64, self.bytes.len() as u64);
        let due = self.start_ticks + (u128::from(self.ticks) * u128::from(sent) / u128::from(length)) as u64;
        let end = (self.sent + BLOCK_BYTES).min(self.bytes.len());
        let block = &self.bytes[self.sent..end];
        self.sent = end;
        (block, duration(due))
    }
}

fn duration(ticks: u64) -> Duration {
    let (seconds, rest) = (ticks / TICKS_PER_SECOND, ticks % TICKS_PER_SECOND);
    Duration::new(seconds, (rest * 1_000_000_000 / TICKS_PER_SECOND) as u32)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SAMPLE: &[u8] = include_bytes!("../../tests/data/sample.ts");

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    /// The bytes of the first `blocks` blocks, the longest wait between two of them, and when the last is due.
    fn play(file: &mut PacedFile, blocks: usize) -> (Vec<u8>, Duration, Duration) {
        let (mut bytes, mut longest_wait, mut last) = (Vec::new(), Duration::ZERO, Duration::ZERO);
        for _ in 0..blocks {
            let Some((block, due)) = file.next_block().unwrap() else { break };
            assert!(!block.is_empty() && block.len() <= BLOCK_BYTES);
            longest_wait = longest_wait.max(due.checked_sub(last).expect("time goes forward"));
            last = due;
            bytes.extend_from_slice(block);
        }
        (bytes, longest_wait, last)
    }

    #[test]
    fn a_file_is_sent_whole_in_the_time_its_clock_gives() {
        let mut file = PacedFile::start(file_of(SAMPLE), false).unwrap().unwrap();
        let (bytes, longest_wait, last) = play(&mut file, usize::MAX);
        assert!(bytes == SAMPLE);
        assert!(longest_wait < Duration::from_millis(200), "{longest_wait:?}");
        assert!((3.8..4.2).contains(&last.as_secs_f64()), "{last:?}");
    }

    #[test]
    fn a_looped_file_goes_on_at_the_same_pace() {
        let mut file = PacedFile::start(file_of(SAMPLE), true).unwrap().unwrap();
        let (bytes, longest_wait, last) = play(&mut file, 1000);
        for (at, pass) in bytes.chunks(SAMPLE.len()).enumerate() {
            assert!(SAMPLE.starts_with(pass), "pass {at}");
        }
        assert!(longest_wait < Duration::from_millis(300), "{longest_wait:?}");
        let expected = 4.0 * bytes.len() as f64 / SAMPLE.len() as f64;
        assert!(bytes.len() > 2 * SAMPLE.len());
        assert!((last.as_secs_f64() - expected).abs() < 0.5, "{last:?} instead of {expected} s");
    }

    #[test]
    fn a_file_cut_in_a_packet_can_be_looped() {
        let cut = &SAMPLE[..SAMPLE.len() / 2 + 77];
        let mut file = PacedFile::start(file_of(cut), true).unwrap().unwrap();
        let (bytes, longest_wait, _) = play(&mut file, 500);
        assert!(bytes.len() > 2 * cut.len());
        assert!(bytes.chunks(cut.len()).all(|pass| cut.starts_with(pass)));
        assert!(longest_wait < Duration::from_millis(300), "{longest_wait:?}");
    }

    #[test]
    fn a_file_without_a_clock_is_not_started() {
        for bytes in [&[][..], &[0x47; 500], &[0; 200_000]] {
            assert!(PacedFile::start(file_of(bytes), true).unwrap().is_none());
        }
    }
}
