//! The publishers: all channels from one node, each chunk handed over whole, so that delay begins when it is ready.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use codec::{ChannelSecret, MAX_DATA_SHARDS, SlotLayout};
use mesh::{ChannelId, Event, Limits, limits::CHUNK_TIME};

use super::board::Board;
use crate::Error;
use crate::bench::thread_cpu;
use crate::demo::Bitrate;
use crate::driver::Driver;

/// A publisher needs its chunks only until the relay has them.
const WINDOW: Duration = Duration::from_secs(1);

/// The chunks that a stream of this rate is cut into, all alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkPlan {
    /// Payload, bytes.
    pub(super) bytes: usize,
    /// From one to the next.
    pub(super) interval: Duration,
}

impl ChunkPlan {
    /// As many whole data shards as 40 ms of stream fill, at most 32, at least one.
    pub(super) fn new(bitrate: Bitrate) -> ChunkPlan {
        let bytes_per_second = bitrate.bits_per_second as f64 / 8.0;
        let due = (bytes_per_second * CHUNK_TIME.as_secs_f64()) as usize;
        let filled = |k: &usize| payload_bytes(*k) <= due;
        let bytes = payload_bytes((1..=MAX_DATA_SHARDS).rev().find(filled).unwrap_or(1));
        ChunkPlan { bytes, interval: Duration::from_secs_f64(bytes as f64 / bytes_per_second) }
    }
}

/// Of k data shards with the publisher's default parity.
fn payload_bytes(data_shards: usize) -> usize {
    let layout = SlotLayout::new(data_shards, data_shards.div_ceil(2).min(16));
    layout.expect("1 to 32 data shards").payload_bytes_max()
}

/// Publishes every channel until the bench is over.
pub(super) fn publish(
    secrets: Vec<ChannelSecret>,
    relay: SocketAddr,
    plan: ChunkPlan,
    board: &Board,
) -> Result<(), Error> {
    let slots = secrets.len() * (WINDOW.as_secs_f64() / plan.interval.as_secs_f64()).ceil() as usize + 64;
    let limits = Limits { window: WINDOW, ..Limits::default() };
    let mut driver = Driver::open(limits, slots)?;
    let now = driver.now();
    let channels: Vec<ChannelId> =
        secrets.into_iter().map(|secret| driver.node.add_source(now, secret)).collect();
    for channel in &channels {
        driver.node.dial(now, *channel, relay);
    }
    while !board.go.load(Ordering::Acquire) {
        if board.is_over() {
            return driver.close();
        }
        driver.turn(Duration::from_millis(5))?;
        while let Some(event) = driver.node.poll_event() {
            match event {
                Event::Connected { .. } => board.publishers.fetch_add(1, Ordering::AcqRel),
                Event::Lost { .. } => board.publishers.fetch_sub(1, Ordering::AcqRel),
                _ => 0,
            };
        }
    }
    stream(&mut driver, &channels, plan, board)?;
    driver.close()
}

/// The channels take turns, evenly over the time of a chunk.
fn stream(driver: &mut Driver, channels: &[ChannelId], plan: ChunkPlan, board: &Board) -> Result<(), Error> {
    let payload: Vec<u8> = (0..plan.bytes).map(|at| (at * 167) as u8).collect();
    let step = plan.interval / channels.len() as u32;
    let start = Instant::now();
    let mut next = Duration::ZERO;
    for channel in channels.iter().cycle() {
        loop {
            if board.is_over() {
                return Ok(());
            }
            let early = next.saturating_sub(start.elapsed());
            driver.turn(early.min(Duration::from_millis(100)))?;
            while driver.node.poll_event().is_some() {}
            board.publisher_cpu_us.store(thread_cpu().as_micros() as u64, Ordering::Relaxed);
            if start.elapsed() >= next {
                break;
            }
        }
        let now = driver.now();
        driver.node.push(now, *channel, &payload);
        // The chunk ends here, and leaves with the next turn.
        driver.node.mark_join_point(now, *channel, 0);
        next += step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_shards_and_keep_the_rate() {
        for (bits_per_second, shards) in [(100_000, 1), (4_000_000, 19), (100_000_000, 32)] {
            let plan = ChunkPlan::new(Bitrate { bits_per_second });
            assert_eq!(plan.bytes, payload_bytes(shards), "{bits_per_second}");
            let rate = plan.bytes as f64 * 8.0 / plan.interval.as_secs_f64();
            assert!((rate / bits_per_second as f64 - 1.0).abs() < 1e-3, "{rate}");
        }
    }
}
