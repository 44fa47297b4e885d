//! The publishers: one light session per channel, each at an address of its own, for a relay spreads its peers over its
//! workers by their addresses.

use std::net::SocketAddrV4;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use codec::wire::control::{Control, Repair};
use hdrhistogram::Histogram;
use mesh::Anchor;
use mesh::limits::{REPAIR_CREDIT_MAX, REPAIR_CREDIT_START};

use super::board::Board;
use super::sealed::Sealed;
use super::sessions::Sessions;
use crate::Error;
use crate::bench::sink::Sink;
use crate::bench::thread_cpu;
use crate::writer::delay_histogram;

/// What is asked of the publishers, and when they are to end, is looked at this often.
const ATTEND_INTERVAL: Duration = Duration::from_millis(5);

/// To wake up for each chunk of 500 channels, every 76 µs, would cost more than to send it.
const STEP: Duration = Duration::from_micros(250);

/// How publishing went.
pub(super) struct Published {
    /// How much later than planned each chunk was handed over, µs.
    pub(super) late_us: Histogram<u64>,
    /// Trains that the publishers' own socket did not take.
    pub(super) unsent: u64,
    /// Shards that the relay asked for again.
    pub(super) repaired: u64,
    /// All that was sealed was published before the bench was over.
    pub(super) ran_out: bool,
}

struct Publishers<'p> {
    sink: Sink,
    sessions: Sessions<'p>,
    sealed: &'p Sealed,
    relay: SocketAddrV4,
    clock: Anchor,
    board: &'p Board,
    train: Vec<u8>,
    /// By channel: shards that the relay may ask for again.
    credits: Vec<u32>,
    attend_at: Instant,
    published: Published,
}

/// Publishes every channel until the bench is over.
pub(super) fn publish(
    sink: Sink,
    sessions: Sessions<'_>,
    sealed: &Sealed,
    clock: Anchor,
    board: &Board,
) -> Result<Published, Error> {
    let mut publishers = Publishers {
        sink,
        relay: sessions.relay(),
        sessions,
        sealed,
        clock,
        board,
        train: Vec::new(),
        credits: vec![REPAIR_CREDIT_START; sealed.channels()],
        attend_at: Instant::now(),
        published: Published { late_us: delay_histogram(), unsent: 0, repaired: 0, ran_out: false },
    };
    while !board.go.load(Ordering::Acquire) && !board.is_over() {
        publishers.attend()?;
        thread::sleep(ATTEND_INTERVAL);
    }
    publishers.stream()?;
    if board.says_goodbye {
        publishers.sessions.say_goodbye(&publishers.sink);
    }
    Ok(publishers.published)
}

impl Publishers<'_> {
    fn stream(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        for place in 0..self.sealed.places() {
            let due = self.sealed.due(place);
            while start.elapsed() < due || self.attend_at <= Instant::now() {
                self.attend()?;
                let left = due.saturating_sub(start.elapsed());
                thread::sleep(left.min(ATTEND_INTERVAL).max(if left.is_zero() { left } else { STEP }));
            }
            if self.board.is_over() {
                return Ok(());
            }
            let late = start.elapsed().saturating_sub(due);
            self.published.late_us.saturating_record(late.as_micros() as u64);
            self.send_chunk(place);
        }
        self.published.ran_out = true;
        Ok(())
    }

    fn send_chunk(&mut self, place: usize) {
        let channel = self.sealed.channel_of(place);
        self.sealed.write(place, self.sealed.layout().data_set(), &mut self.train);
        // From here on it is the kernel's and the relay's time.
        self.sealed.note_sent(place, self.clock.time_at(Instant::now()));
        let sent = self.sink.send(self.sessions.address(channel), self.relay, &self.train);
        self.published.unsent += u64::from(!sent);
        self.sessions.of_publisher(channel).highest = self.sealed.sequence_of(place);
        // As a mesh node does: half of what it sends, saved up to a bound.
        let earned = self.sealed.layout().data_shards().div_ceil(2) as u32;
        self.credits[channel] = REPAIR_CREDIT_MAX.min(self.credits[channel] + earned);
    }

    /// Sees to handshakes, reports and what the relay asks for again, if it is time.
    fn attend(&mut self) -> Result<(), Error> {
        if Instant::now() < self.attend_at {
            return Ok(());
        }
        self.attend_at = Instant::now() + ATTEND_INTERVAL;
        let mut came = Vec::new();
        let received =
            self.sink.receive(Duration::ZERO, |arrival| came.extend(Control::parse(arrival.bytes)));
        received.map_err(|error| Error::System("the UDP socket failed", error))?;
        for control in came {
            if let Control::Repair(repair) = &control {
                self.repair(repair);
            } else if let Some((from, answer)) = self.sessions.handle(&control) {
                self.sink.send(from, self.relay, &answer.encode());
            }
        }
        self.sessions.go_on(&self.sink, self.clock.time_at(Instant::now()));
        self.board.publishers.store(self.sessions.live(), Ordering::Release);
        self.board.note_refusal(self.sessions.refusal());
        self.board.publisher_cpu_us.store(thread_cpu().as_micros() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Data shards once more. Parity is not kept, and k data shards are all that it takes.
    fn repair(&mut self, repair: &Repair) {
        let Some(channel) = self.sealed.channel_with(repair.header.tag) else { return };
        for wanted in &repair.wanted {
            let place = self.sealed.place_of(channel, wanted.sequence);
            let Some(place) = place.filter(|place| self.sealed.sent_at(*place).is_some()) else { continue };
            let shards = wanted.shards.intersection(self.sealed.layout().data_set());
            let shards = shards.lowest(self.credits[channel] as usize);
            if shards.is_empty() {
                continue;
            }
            self.credits[channel] -= shards.len() as u32;
            self.published.repaired += shards.len() as u64;
            self.sealed.write(place, shards, &mut self.train);
            self.sink.send(self.sessions.address(channel), self.relay, &self.train);
        }
    }
}
