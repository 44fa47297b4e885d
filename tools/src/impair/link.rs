//! One direction of an impaired path: a datagram and the time go in, the times of its deliveries come out.
//!
//! It has no clock, socket or entropy: `superpeer impair` runs it on sockets, the simulator on virtual time. Equal seeds
//! and equal calls give equal deliveries.

use std::ops::AddAssign;
use std::time::Duration;

use arrayvec::ArrayVec;
use mesh::Time;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Header bytes that a datagram has on the way, for rates and queues: IPv4 and UDP.
const HEADER_BYTES: u64 = 28;

/// What is done to the datagrams of one direction. The default does nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// The share of datagrams that are lost, 0 to 1.
    pub loss: f64,
    /// The mean length of a run of lost datagrams (Gilbert's model: a good state that loses none, a bad one that loses
    /// all); `None`: each is lost or not by itself.
    pub burst: Option<f64>,
    /// How long every datagram takes.
    pub delay: Duration,
    /// Up to so much more, changing all the time; nothing overtakes by it.
    pub jitter: Duration,
    /// The share of datagrams that are overtaken by later ones.
    pub reorder: f64,
    /// How much later they come, at most.
    pub reorder_by: Duration,
    /// The share of datagrams that come twice.
    pub duplicate: f64,
    /// Bits per second that pass, IP headers included; `None`: as many as come.
    pub rate_bps: Option<u64>,
    /// What may wait for the rate; the last to come is dropped.
    pub queue: Queue,
}

/// The length of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// In bytes of IP.
    Bytes(u64),
    /// In the time that it takes to send them.
    Time(Duration),
}

impl Default for Impairment {
    fn default() -> Impairment {
        Impairment {
            loss: 0.0,
            burst: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: 0.0,
            reorder_by: Duration::from_millis(5),
            duplicate: 0.0,
            rate_bps: None,
            queue: Queue::Time(Duration::from_millis(100)),
        }
    }
}

impl Impairment {
    /// Whether a burst of this mean length can lose that much: with bursts the bad state must be left and entered again.
    ///
    /// # Errors
    /// What is wrong with the values, with the values.
    pub fn check(&self) -> Result<(), String> {
        let Some(burst) = self.burst else { return Ok(()) };
        if burst < 1.0 {
            return Err(format!("a burst of {burst} datagrams: it has one at least"));
        }
        let longest_gapless = burst / (burst + 1.0);
        if self.loss > longest_gapless {
            let most = longest_gapless * 100.0;
            return Err(format!(
                "a loss of {} % in bursts of {burst}: at least one datagram passes between two, so that {most:.0} % is the most",
                self.loss * 100.0
            ));
        }
        Ok(())
    }
}

/// What a link did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Datagrams that came in.
    pub datagrams: u64,
    /// Of those, lost.
    pub lost: u64,
    /// Of those, dropped because the queue was full.
    pub queue_dropped: u64,
    /// Of those, delivered later than others that came after them, or meant to be.
    pub reordered: u64,
    /// Of those, delivered twice.
    pub duplicated: u64,
}

impl AddAssign for LinkCounts {
    fn add_assign(&mut self, other: LinkCounts) {
        self.datagrams += other.datagrams;
        self.lost += other.lost;
        self.queue_dropped += other.queue_dropped;
        self.reordered += other.reordered;
        self.duplicated += other.duplicated;
    }
}

/// One direction of a path.
pub struct Link {
    impairment: Impairment,
    random: ChaCha12Rng,
    counts: LinkCounts,
    /// Gilbert's bad state.
    is_bad: bool,
    /// The queue is empty then, ns.
    busy_until_ns: u64,
    /// What jitter adds, and until when.
    swing: (Duration, Time),
    /// Whatever keeps its order comes no earlier.
    last: Time,
}

impl Link {
    /// A link that does this.
    pub fn new(impairment: Impairment, seed: u64) -> Link {
        Link {
            impairment,
            random: ChaCha12Rng::seed_from_u64(seed),
            counts: LinkCounts::default(),
            is_bad: false,
            busy_until_ns: 0,
            swing: (Duration::ZERO, Time::default()),
            last: Time::default(),
        }
    }

    /// Goes on otherwise; what is under way stays so.
    pub fn set(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// What it did so far.
    pub fn counts(&self) -> LinkCounts {
        self.counts
    }

    /// A datagram of so many bytes of UDP payload comes in; `now` never runs backwards. Returns when it is delivered: never
    /// before `now`; not at all if it is lost, twice if it is duplicated.
    pub fn pass(&mut self, now: Time, bytes: usize) -> ArrayVec<Time, 2> {
        let mut deliveries = ArrayVec::new();
        self.counts.datagrams += 1;
        let Some(left) = self.leave_queue(now, bytes as u64 + HEADER_BYTES) else {
            self.counts.queue_dropped += 1;
            return deliveries;
        };
        if self.is_lost() {
            self.counts.lost += 1;
            return deliveries;
        }
        deliveries.push(self.arrival(left));
        if self.happens(self.impairment.duplicate) {
            self.counts.duplicated += 1;
            deliveries.push(self.arrival(left));
        }
        deliveries
    }

    /// When the datagram has passed the bottleneck; `None` when the queue before it is full.
    fn leave_queue(&mut self, now: Time, bytes: u64) -> Option<Time> {
        let Some(rate_bps) = self.impairment.rate_bps else { return Some(now) };
        let now_ns = now.0 * 1_000;
        let waiting_ns = self.busy_until_ns.saturating_sub(now_ns);
        let has_room = match self.impairment.queue {
            Queue::Time(longest) => u128::from(waiting_ns) <= longest.as_nanos(),
            Queue::Bytes(most) => {
                u128::from(waiting_ns) * u128::from(rate_bps) / 8_000_000_000 + u128::from(bytes)
                    <= most.into()
            }
        };
        if waiting_ns > 0 && !has_room {
            return None;
        }
        self.busy_until_ns = now_ns + waiting_ns + bytes * 8_000_000_000 / rate_bps.max(1);
        Some(Time(self.busy_until_ns / 1_000))
    }

    fn is_lost(&mut self) -> bool {
        let loss = self.impairment.loss;
        let Some(burst) = self.impairment.burst else { return self.happens(loss) };
        // Left once in `burst` datagrams; entered so often that `loss` of all are lost.
        let change = if self.is_bad { 1.0 / burst } else { loss / (burst * (1.0 - loss)) };
        self.is_bad ^= self.happens(change);
        self.is_bad && loss > 0.0
    }

    fn arrival(&mut self, left: Time) -> Time {
        let at = left.after(self.impairment.delay + self.swing_at(left)).max(self.last);
        if self.happens(self.impairment.reorder) {
            self.counts.reordered += 1;
            return at.after(self.up_to(self.impairment.reorder_by));
        }
        self.last = at;
        at
    }

    /// What jitter adds. It changes after a random time of its own size: a queue elsewhere fills and empties, whole runs of
    /// datagrams come late together.
    fn swing_at(&mut self, now: Time) -> Duration {
        let jitter = self.impairment.jitter;
        if jitter > Duration::ZERO && now >= self.swing.1 {
            self.swing = (self.up_to(jitter), now.after(self.up_to(2 * jitter)));
        }
        self.swing.0.min(jitter)
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && f64::from(self.random.next_u32()) < share * TWO_POW_32
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(f64::from(self.random.next_u32()) / TWO_POW_32)
    }
}

const TWO_POW_32: f64 = 4_294_967_296.0;

#[cfg(test)]
mod tests;
