//! Fan-out: one cursor over a channel's subscribers per train, however many they are.

use std::collections::VecDeque;
use std::net::SocketAddr;

use codec::SlotLayout;

use crate::arena::{Arena, SlotRef};
use crate::limits::{JOB_AGE_MAX, JOB_QUEUE_MAX};
use crate::outbox::Outbox;
use crate::session::parity_for;
use crate::stats::Counters;
use crate::time::Time;

/// What the fan-out needs to know of a subscriber, side by side with the others' for the cache's sake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) to: SocketAddr,
    pub(crate) loss_ppm: u32,
}

/// The subscribers of a channel. A seat keeps its number while it is taken, so that a cursor passes everybody once.
#[derive(Default)]
pub(crate) struct Seats {
    seats: Vec<Option<Seat>>,
    free: Vec<usize>,
    /// Where the next train starts: nobody is always last.
    first: usize,
}

impl Seats {
    pub(crate) fn take(&mut self, seat: Seat) -> usize {
        let place = self.free.pop().unwrap_or(self.seats.len());
        if place == self.seats.len() {
            self.seats.push(None);
        }
        self.seats[place] = Some(seat);
        place
    }

    pub(crate) fn leave(&mut self, place: usize) {
        self.seats[place] = None;
        self.free.push(place);
        if self.is_empty() {
            *self = Seats::default();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.seats.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.seats.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().flatten()
    }

    pub(crate) fn set_loss(&mut self, place: usize, loss_ppm: u32) {
        if let Some(seat) = &mut self.seats[place] {
            seat.loss_ppm = loss_ppm;
        }
    }

    fn next_first(&mut self) -> usize {
        self.first = (self.first + 1) % self.seats.len().max(1);
        self.first
    }
}

/// A run of shards on its way to all subscribers of a channel.
#[derive(Clone, Copy, Debug)]
struct Job {
    channel: usize,
    slot: SlotRef,
    layout: SlotLayout,
    first: usize,
    end: usize,
    /// The cursor: the next seat and how many are left.
    seat: usize,
    left: usize,
    since: Time,
}

/// The trains on their way, in the order in which they came.
pub(crate) struct Fanout {
    jobs: VecDeque<Job>,
}

impl Fanout {
    pub(crate) fn new() -> Fanout {
        Fanout { jobs: VecDeque::with_capacity(JOB_QUEUE_MAX) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Adds shards `first..end` of a slot, to go to everybody in `seats`.
    pub(crate) fn add(
        &mut self,
        now: Time,
        channel: usize,
        seats: &mut Seats,
        (slot, layout): (SlotRef, SlotLayout),
        (first, end): (usize, usize),
        counters: &mut Counters,
    ) {
        if self.jobs.len() == JOB_QUEUE_MAX {
            // The oldest is the least live; a channel that floods the queue pays for it itself.
            let own = self.jobs.iter().position(|job| job.channel == channel);
            self.jobs.remove(own.unwrap_or(0));
            counters.jobs_skipped += 1;
        }
        let (seat, left) = (seats.next_first(), seats.seats.len());
        self.jobs.push_back(Job { channel, slot, layout, first, end, seat, left, since: now });
    }

    /// Fills `out` from the oldest job on.
    pub(crate) fn send<'c>(
        &mut self,
        now: Time,
        seats_of: impl Fn(usize) -> Option<&'c Seats>,
        arena: &Arena,
        out: &mut Outbox,
        counters: &mut Counters,
    ) {
        while let Some(job) = self.jobs.front_mut() {
            let late = now.since(job.since) > JOB_AGE_MAX;
            match seats_of(job.channel) {
                Some(seats) if !late && arena.holds(job.slot) => {
                    job.send(seats, out, counters);
                    if job.left > 0 {
                        return;
                    }
                }
                _ => counters.jobs_skipped += 1,
            }
            self.jobs.pop_front();
        }
    }
}

impl Job {
    fn send(&mut self, seats: &Seats, out: &mut Outbox, counters: &mut Counters) {
        // Seats may have been cleared, all at once, since the job began.
        self.left = self.left.min(seats.seats.len());
        while self.left > 0 && !out.is_full() {
            let place = if self.seat < seats.seats.len() { self.seat } else { 0 };
            if let Some(Some(seat)) = seats.seats.get(place) {
                let end = self.end.min(self.layout.data_shards() + self.parity_for(seat));
                if self.first < end {
                    out.push_train(seat.to, self.slot.index, self.first, end - self.first);
                    counters.trains_sent += 1;
                    counters.shards_sent += (end - self.first) as u64;
                }
            }
            self.seat = place + 1;
            self.left -= 1;
        }
    }

    fn parity_for(&self, seat: &Seat) -> usize {
        parity_for(seat.loss_ppm, self.layout.data_shards(), self.layout.parity_shards())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::SLOT_BYTES;

    fn seat(port: u16) -> Seat {
        Seat { to: SocketAddr::from(([192, 0, 2, 1], port)), loss_ppm: 0 }
    }

    #[test]
    fn a_train_reaches_everybody_once_through_outboxes_of_any_size_and_the_start_rotates() {
        let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
        let slot = arena.take().unwrap();
        let layout = SlotLayout::new(4, 2).unwrap();
        let mut seats = Seats::default();
        (1..=10).for_each(|port| {
            seats.take(seat(port));
        });
        seats.leave(3);
        let (mut fanout, mut counters) = (Fanout::new(), Counters::default());
        let mut starts = Vec::new();
        for _ in 0..3 {
            fanout.add(Time(0), 0, &mut seats, (slot, layout), (0, 4), &mut counters);
            let mut reached: HashMap<SocketAddr, usize> = HashMap::new();
            let mut out = Outbox::new(4);
            while !fanout.jobs.is_empty() {
                out.clear();
                fanout.send(Time(0), |_| Some(&seats), &arena, &mut out, &mut counters);
                if reached.is_empty() {
                    starts.push(out.transmits()[0].to);
                }
                out.transmits().iter().for_each(|transmit| *reached.entry(transmit.to).or_default() += 1);
            }
            assert_eq!(reached.len(), 9);
            assert!(reached.values().all(|count| *count == 1));
        }
        starts.dedup();
        assert_eq!(starts.len(), 3, "another subscriber is first each time");
    }

    #[test]
    fn who_comes_when_all_others_left_is_sent_a_train_once() {
        let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
        let slot = arena.take().unwrap();
        let layout = SlotLayout::new(4, 2).unwrap();
        let mut seats = Seats::default();
        let taken: Vec<usize> = (1..=100).map(|port| seats.take(seat(port))).collect();
        let (mut fanout, mut counters, mut out) = (Fanout::new(), Counters::default(), Outbox::new(256));
        fanout.add(Time(0), 0, &mut seats, (slot, layout), (0, 4), &mut counters);
        taken.into_iter().for_each(|place| seats.leave(place));
        seats.take(seat(7));
        fanout.send(Time(0), |_| Some(&seats), &arena, &mut out, &mut counters);
        assert_eq!(out.transmits().len(), 1);
    }

    #[test]
    fn a_late_train_is_skipped_and_counted() {
        let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
        let slot = arena.take().unwrap();
        let mut seats = Seats::default();
        seats.take(seat(1));
        let (mut fanout, mut counters, mut out) = (Fanout::new(), Counters::default(), Outbox::new(4));
        let layout = SlotLayout::new(1, 0).unwrap();
        fanout.add(Time(0), 0, &mut seats, (slot, layout), (0, 1), &mut counters);
        fanout.send(Time(0).after(2 * JOB_AGE_MAX), |_| Some(&seats), &arena, &mut out, &mut counters);
        assert!(out.is_empty() && fanout.jobs.is_empty());
        assert_eq!(counters.jobs_skipped, 1);
    }
}
