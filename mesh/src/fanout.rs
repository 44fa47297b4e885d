//! Fan-out: one cursor over a channel's subscribers per train, however many they are.

use std::net::SocketAddr;

use codec::SlotLayout;

use crate::arena::{Arena, SlotRef};
use crate::fair::FairQueue;
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
    slot: SlotRef,
    layout: SlotLayout,
    first: usize,
    end: usize,
    /// Seats there were when the job was added: who came since has what is in it as backlog.
    seats: usize,
    /// The cursor: the next seat and how many are left.
    seat: usize,
    left: usize,
    since: Time,
}

/// The trains on their way: those of one channel in the order in which they came, channels in turn.
pub(crate) struct Fanout {
    jobs: FairQueue<Job>,
}

impl Fanout {
    pub(crate) fn new() -> Fanout {
        Fanout { jobs: FairQueue::new(JOB_QUEUE_MAX) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Adds shards `first..end` of a slot, to go to everybody in `seats`. They lengthen the channel's last train where
    /// they continue it and it has not left yet. A channel that has no room skips its own oldest train.
    pub(crate) fn add(
        &mut self,
        now: Time,
        channel: usize,
        seats: &mut Seats,
        (slot, layout): (SlotRef, SlotLayout),
        (first, end): (usize, usize),
        counters: &mut Counters,
    ) {
        if let Some(last) = self.jobs.last_mut(channel).filter(|last| last.may_grow(seats, slot, first)) {
            last.end = end;
            return;
        }
        let (seat, total) = (seats.next_first(), seats.seats.len());
        let job = Job { slot, layout, first, end, seats: total, seat, left: total, since: now };
        if self.jobs.has_room(channel) {
            self.jobs.push(channel, job);
        } else {
            counters.jobs_skipped += 1;
            self.jobs.replace_oldest(channel, job);
        }
    }

    /// Fills `out`.
    pub(crate) fn send<'c>(
        &mut self,
        now: Time,
        seats_of: impl Fn(usize) -> Option<&'c Seats>,
        arena: &Arena,
        out: &mut Outbox,
        counters: &mut Counters,
    ) {
        while !out.is_full()
            && let Some((channel, turn, job)) = self.jobs.front_mut()
        {
            let room = out.room();
            let late = now.since(job.since) > JOB_AGE_MAX;
            let done = match seats_of(channel) {
                Some(seats) if !late && arena.holds(job.slot) => {
                    job.send(seats, turn, out, counters);
                    job.left == 0
                }
                _ => {
                    counters.jobs_skipped += 1;
                    true
                }
            };
            self.jobs.served(room - out.room(), done);
        }
    }
}

impl Job {
    /// Whether a run that starts with shard `first` of `slot` may be added to this one: nobody was sent anything yet,
    /// and nobody came who would have to be sent the new run alone.
    fn may_grow(&self, seats: &Seats, slot: SlotRef, first: usize) -> bool {
        self.slot == slot && self.end == first && self.left == self.seats && self.seats == seats.seats.len()
    }

    /// Sends at most `messages`.
    fn send(&mut self, seats: &Seats, messages: usize, out: &mut Outbox, counters: &mut Counters) {
        let room_after = out.room().saturating_sub(messages);
        while self.left > 0 && out.room() > room_after {
            let place = if self.seat < self.seats { self.seat } else { 0 };
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
            while !fanout.is_empty() {
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
    fn who_comes_during_a_train_takes_nobody_elses_turn() {
        let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
        let (slot, layout) = (arena.take().unwrap(), SlotLayout::new(4, 2).unwrap());
        let mut seats = Seats::default();
        (0..10).for_each(|port| {
            seats.take(seat(port));
        });
        let (mut fanout, mut counters, mut out) = (Fanout::new(), Counters::default(), Outbox::new(4));
        fanout.add(Time(0), 0, &mut seats, (slot, layout), (0, 4), &mut counters);
        let mut reached = Vec::new();
        while !fanout.is_empty() {
            out.clear();
            fanout.send(Time(0), |_| Some(&seats), &arena, &mut out, &mut counters);
            reached.extend(out.transmits().iter().map(|transmit| transmit.to.port()));
            seats.take(seat(100));
        }
        reached.sort_unstable();
        assert_eq!(reached, (0..10).collect::<Vec<u16>>());
    }

    #[test]
    fn what_continues_a_train_goes_with_it_until_that_has_left() {
        let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
        let (slot, layout) = (arena.take().unwrap(), SlotLayout::new(8, 0).unwrap());
        let mut seats = Seats::default();
        (0..3).for_each(|port| {
            seats.take(seat(port));
        });
        let (mut fanout, mut counters, mut out) = (Fanout::new(), Counters::default(), Outbox::new(1));
        for first in 0..4 {
            fanout.add(Time(0), 0, &mut seats, (slot, layout), (first, first + 1), &mut counters);
        }
        fanout.send(Time(0), |_| Some(&seats), &arena, &mut out, &mut counters);
        fanout.add(Time(0), 0, &mut seats, (slot, layout), (4, 6), &mut counters);
        while !fanout.is_empty() {
            out.clear();
            fanout.send(Time(0), |_| Some(&seats), &arena, &mut out, &mut counters);
        }
        assert_eq!((counters.trains_sent, counters.shards_sent), (2 * 3, 6 * 3));
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
        assert!(out.is_empty() && fanout.is_empty());
        assert_eq!(counters.jobs_skipped, 1);
    }
}
