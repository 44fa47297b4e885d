//! Fan-out: one cursor over a channel's subscribers per train, however many they are.

use core::cell::Cell;
use std::net::SocketAddr;

use codec::{Sequence, ShardSet, SlotLayout, Stripes};
use serde::{Deserialize, Serialize};

use crate::arena::{Arena, SlotRef};
use crate::egress::{Bucket, Cap, Ration, shard_cost};
use crate::fair::FairQueue;
use crate::limits::{JOB_AGE_MAX, JOB_QUEUE_MAX, PARITY_AGE_MAX, REPAIR_HORIZON};
use crate::line::Verdict;
use crate::outbox::Outbox;
use crate::parity::Parity;
use crate::stats::Counters;
use crate::time::Time;

/// What the fan-out needs to know of a subscriber, side by side with the others' for the cache's sake.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub(crate) to: SocketAddr,
    /// What it is sent with each chunk that is in time, and with each that is late.
    pub(crate) parity: Parity,
    pub(crate) parity_late: Parity,
    /// How long after the first of a chunk its last shard is of use there, and what of this an upstream may use up.
    pub(crate) slack_ms: u16,
    pub(crate) spare_ms: u16,
    /// What it wants of each chunk. Handed over beside the seat.
    #[serde(skip)]
    pub(crate) stripes: Stripes,
}

impl Seat {
    /// Of a subscriber that has not reported.
    pub(crate) fn new(to: SocketAddr) -> Seat {
        let slack_ms = REPAIR_HORIZON.as_millis() as u16;
        let parity = Parity::default();
        Seat { to, parity, parity_late: parity, slack_ms, spare_ms: slack_ms, stripes: Stripes::ALL }
    }

    /// The shards of a chunk that it is sent without asking, at most, if it takes all from here.
    pub(crate) fn unasked(&self, layout: SlotLayout) -> ShardSet {
        let (data, parity) = (layout.data_shards(), layout.parity_shards());
        ShardSet::range(0, data + self.parity.max(self.parity_late).of(data, parity))
    }

    fn needs(&self) -> Needs {
        let parity = self.parity.max(self.parity_late);
        Needs { parity, slack_ms: self.slack_ms, spare_ms: self.spare_ms }
    }
}

/// What the subscribers of a channel need together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Needs {
    /// The most that one of them is sent.
    pub(crate) parity: Parity,
    /// The most time that one of them has for what comes late; 0 without any.
    pub(crate) slack_ms: u16,
    /// The least that an upstream may use up of it; `u16::MAX` without any.
    pub(crate) spare_ms: u16,
}

impl Needs {
    /// Without subscribers.
    pub(crate) const NONE: Needs = Needs { parity: Parity::NONE, slack_ms: 0, spare_ms: u16::MAX };

    /// Of both.
    #[must_use]
    pub(crate) fn and(self, other: Needs) -> Needs {
        Needs {
            parity: self.parity.max(other.parity),
            slack_ms: self.slack_ms.max(other.slack_ms),
            spare_ms: self.spare_ms.min(other.spare_ms),
        }
    }
}

/// The subscribers of a channel. A seat keeps its number while it is taken, so that a cursor passes everybody once.
#[derive(Default)]
pub(crate) struct Seats {
    seats: Vec<Option<Seat>>,
    free: Vec<u32>,
    /// Where the next train starts: nobody is always last.
    first: usize,
    /// Shards that were put together for any of them: counted while the fan-out reads the seats.
    shards_sent: Cell<u64>,
}

impl Seats {
    pub(crate) fn take(&mut self, seat: Seat) -> u32 {
        let place = self.free.pop().unwrap_or(self.seats.len() as u32);
        if place as usize == self.seats.len() {
            self.seats.push(None);
        }
        self.seats[place as usize] = Some(seat);
        place
    }

    pub(crate) fn leave(&mut self, place: u32) {
        self.seats[place as usize] = None;
        self.free.push(place);
        if self.is_empty() {
            *self = Seats { shards_sent: self.shards_sent.take().into(), ..Seats::default() };
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

    /// What all of them need together.
    pub(crate) fn needs(&self) -> Needs {
        self.iter().fold(Needs::NONE, |needs, seat| needs.and(seat.needs()))
    }

    /// Returns what the subscriber needs now.
    pub(crate) fn set_verdict(&mut self, place: u32, verdict: &Verdict) -> Needs {
        let Some(seat) = &mut self.seats[place as usize] else { return Needs::NONE };
        let Verdict { parity, parity_late, slack_ms, spare_ms, .. } = *verdict;
        *seat = Seat { parity, parity_late, slack_ms, spare_ms, ..*seat };
        seat.needs()
    }

    /// The seat of a subscriber.
    pub(crate) fn seat(&self, place: u32) -> Seat {
        self.seats[place as usize].expect("a subscriber's seat is taken")
    }

    pub(crate) fn set_stripes(&mut self, place: u32, stripes: Stripes) {
        if let Some(seat) = &mut self.seats[place as usize] {
            seat.stripes = stripes;
        }
    }

    /// How much of the channel they want together, in thousandths: 1,000 for each that takes all of it from here.
    pub(crate) fn wanted_permille(&self) -> u64 {
        let wanted = |seat: &Seat| {
            let (parts, of) = seat.stripes.share();
            u64::from(1_000 * parts / of)
        };
        self.iter().map(wanted).sum()
    }

    pub(crate) fn shards_sent(&self) -> u64 {
        self.shards_sent.get()
    }

    pub(crate) fn note_sent(&self, shards: u64) {
        self.shards_sent.set(self.shards_sent.get() + shards);
    }

    fn next_first(&mut self) -> usize {
        self.first = (self.first + 1) % self.seats.len().max(1);
        self.first
    }
}

/// Those who take a channel, and from what they may be served if it has a cap.
pub(crate) struct Audience<'c> {
    pub(crate) seats: &'c Seats,
    pub(crate) budget: Option<(&'c Bucket, Cap)>,
    /// There is no room for parity.
    pub(crate) without_parity: bool,
}

/// Shards `first..end` of a slot, to leave in trains of at most `train_max`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) slot: SlotRef,
    pub(crate) sequence: Sequence,
    pub(crate) layout: SlotLayout,
    pub(crate) first: usize,
    pub(crate) end: usize,
    pub(crate) train_max: usize,
    /// The chunk had to wait for some of its shards.
    pub(crate) is_late: bool,
}

/// A run of shards on its way to all subscribers of a channel.
#[derive(Clone, Copy, Debug)]
struct Job {
    slot: SlotRef,
    sequence: Sequence,
    layout: SlotLayout,
    first: usize,
    end: usize,
    is_late: bool,
    /// Seats there were when the job was added: who came since has what is in it as backlog.
    seats: usize,
    /// The seat that it starts with.
    start: usize,
    /// The cursor: the next seat and how many are left.
    seat: usize,
    left: usize,
    /// The seat has had the shards before this one.
    from: usize,
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

    /// The shards in `slot` that are still to be sent to this seat, among the trains that leave next.
    pub(crate) fn waiting_for(&self, channel: usize, slot: SlotRef, place: u32, seat: &Seat) -> ShardSet {
        let jobs = self.jobs.of(channel).take(WAITING_LOOKED_AT).filter(|job| job.slot == slot);
        jobs.fold(ShardSet::EMPTY, |shards, job| shards.union(job.rest_of(place as usize, seat)))
    }

    /// Adds a run of shards, to go to everybody in `seats`. It lengthens the channel's last train where it continues it and
    /// that has not left yet. A channel that has no room skips its own oldest train.
    pub(crate) fn add(
        &mut self,
        now: Time,
        channel: usize,
        seats: &mut Seats,
        run: Run,
        counters: &mut Counters,
    ) {
        let Run { slot, sequence, layout, mut first, end, train_max, is_late } = run;
        let last = self.jobs.last_mut(channel).filter(|last| last.slot == slot);
        let before = last.as_ref().map(|last| last.start);
        if let Some(last) = last.filter(|last| last.may_grow(seats, slot, first)) {
            last.end = end.min(last.first + train_max.max(last.end - last.first));
            first = last.end;
        }
        let total = seats.seats.len();
        // Trains of one chunk go round alike: whoever was first waits for the next no longer than others.
        let start = before.filter(|start| *start < total).unwrap_or_else(|| seats.next_first());
        while first < end {
            let until = end.min(first + train_max);
            let job = Job {
                slot,
                sequence,
                layout,
                first,
                end: until,
                is_late,
                seats: total,
                start,
                seat: start,
                left: total,
                from: first,
                since: now,
            };
            first = until;
            if self.jobs.has_room(channel) {
                self.jobs.push(channel, job);
            } else {
                counters.jobs_skipped += 1;
                self.jobs.replace_oldest(channel, job);
            }
        }
    }

    /// Fills `out`. Returns when a channel that has reached its own cap may be sent more of.
    pub(crate) fn send<'c>(
        &mut self,
        now: Time,
        audience_of: impl Fn(usize) -> Option<Audience<'c>>,
        arena: &Arena,
        out: &mut Outbox,
        counters: &mut Counters,
    ) -> Option<Time> {
        let (mut again_at, mut passed_over) = (None, 0);
        while !out.is_full()
            && out.lacking().is_none()
            && passed_over < self.jobs.channels()
            && let Some((channel, turn, job)) = self.jobs.front_mut()
        {
            let room = out.room();
            let late = now.since(job.since) > JOB_AGE_MAX;
            let (done, wait) = match audience_of(channel) {
                Some(audience) if !late && arena.holds(job.slot) => {
                    let wait = job.send(now, &audience, turn, out, counters);
                    (job.left == 0, wait)
                }
                _ => {
                    counters.jobs_skipped += 1;
                    (true, None)
                }
            };
            self.jobs.served(room - out.room(), done);
            if wait.is_some() {
                again_at = earlier(again_at, wait);
                passed_over += 1;
                self.jobs.pass();
            } else {
                passed_over = 0;
            }
        }
        again_at
    }
}

impl Job {
    /// Whether a run that starts with shard `first` of `slot` may be added to this one: nobody was sent anything yet,
    /// and nobody came who would have to be sent the new run alone.
    fn may_grow(&self, seats: &Seats, slot: SlotRef, first: usize) -> bool {
        let is_whole = self.left == self.seats && self.from == self.first;
        self.slot == slot && self.end == first && is_whole && self.seats == seats.seats.len()
    }

    /// Sends at most `messages`, whole trains, as long as `out` and the channel's cap have room for them. Returns when
    /// the cap will have room again, if that is what there is too little of.
    fn send(
        &mut self,
        now: Time,
        audience: &Audience<'_>,
        messages: usize,
        out: &mut Outbox,
        counters: &mut Counters,
    ) -> Option<Time> {
        let mut ration = Ration::take(audience.budget, now);
        let without_parity = audience.without_parity || now.since(self.since) > PARITY_AGE_MAX;
        let room_after = out.room().saturating_sub(messages);
        while self.left > 0 && out.room() > room_after {
            let place = if self.seat < self.seats { self.seat } else { 0 };
            if let Some(Some(seat)) = audience.seats.seats.get(place) {
                let parity = if without_parity { 0 } else { self.parity_for(seat) };
                let rest = self.rest_for(seat, self.layout.data_shards() + parity);
                let (first, end) = rest.first_run().unwrap_or_default();
                let shards = end - first;
                let cost = shard_cost(seat.to) * shards as u64;
                if !out.affords(cost, 0) {
                    break;
                }
                if !ration.spend(cost, 0) {
                    return ration.wait_for(cost, now);
                }
                if shards > 0 {
                    out.push_train(seat.to, self.slot.index, first, shards);
                    counters.trains_sent += 1;
                    counters.shards_sent += shards as u64;
                    audience.seats.note_sent(shards as u64);
                    self.from = end;
                }
                if rest.len() > shards {
                    continue;
                }
            }
            self.seat = place + 1;
            self.left -= 1;
            self.from = self.first;
        }
        ration.give_back();
        None
    }

    /// What a seat, wherever the cursor is, is still to be sent.
    fn rest_of(&self, place: usize, seat: &Seat) -> ShardSet {
        if place >= self.seats {
            return ShardSet::EMPTY;
        }
        let passed = self.seats - self.left;
        let from = match (place + self.seats - self.start) % self.seats {
            turn if turn < passed => return ShardSet::EMPTY,
            turn if turn == passed => self.from,
            _ => self.first,
        };
        let end = self.layout.data_shards() + self.parity_for(seat);
        Job { from, ..*self }.rest_for(seat, end)
    }

    /// What the seat at the cursor is still to be sent, of the shards below `end`.
    fn rest_for(&self, seat: &Seat, end: usize) -> ShardSet {
        let rest = ShardSet::range(self.from, self.end.min(end));
        if seat.stripes == Stripes::ALL {
            return rest;
        }
        rest.intersection(seat.stripes.shards(self.sequence, self.layout))
    }

    fn parity_for(&self, seat: &Seat) -> usize {
        let parity = if self.is_late { seat.parity_late } else { seat.parity };
        parity.of(self.layout.data_shards(), self.layout.parity_shards())
    }
}

/// So many trains of a channel are looked at for what is on its way: two or three chunks, cut short under a cap. Of the rest
/// nobody has asked for anything yet.
const WAITING_LOOKED_AT: usize = 128;

/// The earlier of two moments, of those that there are.
pub(crate) fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
