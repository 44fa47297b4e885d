//! The output on a thread of its own: a slow disk or player must not keep the node from its socket.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use codec::{ChunkHeader, Sequence};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use hdrhistogram::Histogram;
use mesh::Anchor;
use mio::Waker;

use crate::Error;
use crate::contact::say;
use crate::mpegts::WholePackets;
use crate::output::{Output, OutputError};

/// Chunks that may wait for the output: 32 MiB of the largest.
const CHUNKS_MAX: usize = 1_024;

/// How often a program that is written to is asked whether it still runs.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// What was written.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Payload bytes.
    pub bytes: u64,
    /// Chunks dropped because the output was behind.
    pub dropped: u64,
    /// From the publisher's capture to the end of the write, µs; as far as the two clocks agree.
    pub delay_us: Histogram<u64>,
}

/// For delays in µs, to 1 %: up to a minute; what is longer counts as that.
pub fn delay_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 2).expect("bounds and digits that a histogram can have")
}

struct Chunk {
    sequence: Sequence,
    capture_us: u64,
    payload: Vec<u8>,
}

/// The thread that writes.
pub struct Writer {
    chunks: Sender<Chunk>,
    thread: JoinHandle<Result<(), OutputError>>,
    figures: Arc<Mutex<Figures>>,
    ended: Arc<AtomicBool>,
    /// What waits is not to be written any more.
    abandoned: Arc<AtomicBool>,
    dropped: u64,
}

impl Writer {
    /// Starts writing to `output`; `waker` is used when the output ends by itself.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(output: Output, clock: Anchor, waker: Arc<Waker>) -> Result<Writer, Error> {
        let (chunks, to_write) = crossbeam::channel::bounded(CHUNKS_MAX);
        let figures = Figures { bytes: 0, dropped: 0, delay_us: delay_histogram() };
        let figures = Arc::new(Mutex::new(figures));
        let ended = Arc::new(AtomicBool::new(false));
        let abandoned = Arc::new(AtomicBool::new(false));
        let (for_thread, end_flag, stop) = (Arc::clone(&figures), Arc::clone(&ended), Arc::clone(&abandoned));
        let body = move || {
            let written = write_all(output, &to_write, clock, &for_thread, &stop);
            end_flag.store(true, Ordering::Release);
            // The flag is looked at several times a second in any case.
            let _ = waker.wake();
            written
        };
        let spawned = thread::Builder::new().name("writer".to_owned()).spawn(body);
        let thread = spawned.map_err(|error| Error::System("cannot start a thread", error))?;
        Ok(Writer { chunks, thread, figures, ended, abandoned, dropped: 0 })
    }

    /// Hands over a chunk; where the one before is missing, a transport stream is cut between whole packets. It is dropped, and counted, when the output is too far behind.
    pub fn write<'p>(&mut self, header: &ChunkHeader, payload: impl Iterator<Item = &'p [u8]>) {
        let (sequence, capture_us) = (header.sequence, header.capture_us);
        let payload = payload.flatten().copied().collect();
        // With the thread gone the output has ended, and that is what there is to say.
        if let Err(TrySendError::Full(_)) = self.chunks.try_send(Chunk { sequence, capture_us, payload }) {
            if self.dropped == 0 {
                say("the output is too slow for the stream: chunks are dropped");
            }
            self.dropped += 1;
        }
    }

    /// Whether the output takes no more.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// What was written so far.
    pub fn figures(&self) -> Figures {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Figures { dropped: self.dropped, ..figures }
    }

    /// Writes no more than what is being written now, and does not wait for long even for that: a player may be paused.
    pub fn abandon(self) -> (Figures, Result<(), OutputError>) {
        self.abandoned.store(true, Ordering::Release);
        let give_up_at = Instant::now() + ABANDON_WAIT;
        while !self.thread.is_finished() && Instant::now() < give_up_at {
            thread::sleep(Duration::from_millis(5));
        }
        if self.thread.is_finished() { self.finish() } else { (self.figures(), Ok(())) }
    }

    /// Writes what waits, closes the output, and says how that went.
    pub fn finish(self) -> (Figures, Result<(), OutputError>) {
        let Writer { chunks, thread, figures, dropped, .. } = self;
        drop(chunks);
        let written = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let figures = figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (Figures { dropped, ..figures }, written)
    }
}

/// How long a write that is under way may take once the rest is abandoned.
const ABANDON_WAIT: Duration = Duration::from_secs(1);

fn write_all(
    mut output: Output,
    chunks: &Receiver<Chunk>,
    clock: Anchor,
    figures: &Mutex<Figures>,
    abandoned: &AtomicBool,
) -> Result<(), OutputError> {
    let mut packets = WholePackets::default();
    let mut next = Sequence(0);
    while !abandoned.load(Ordering::Acquire) {
        match chunks.recv_timeout(CHECK_INTERVAL) {
            Ok(chunk) => {
                let is_after_gap = next != Sequence(0) && chunk.sequence != next;
                next = chunk.sequence.next();
                let bytes = packets.push(&chunk.payload, is_after_gap);
                output.write_chunk([bytes.as_slice()].into_iter())?;
                let delay_us = clock.time_at(Instant::now()).0.saturating_sub(chunk.capture_us);
                let mut figures = figures.lock().unwrap_or_else(PoisonError::into_inner);
                figures.bytes += chunk.payload.len() as u64;
                figures.delay_us.saturating_record(delay_us);
            }
            Err(RecvTimeoutError::Timeout) => output.check()?,
            Err(RecvTimeoutError::Disconnected) => {
                output.write_chunk([packets.rest().as_slice()].into_iter())?;
                return output.finish();
            }
        }
    }
    Ok(())
}
