//! What all workers together have sent and received of the transfer quota, and how far they may go.
//!
//! A guard, not a policy: how far, is said by the control thread (`control/quota.rs`). Workers do not wait for it to look:
//! what exceeds the end is not sent. Per batch, one atomic addition; with no quota, a few loads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use codec::{DATAGRAM_BYTES, MAX_SHARDS};
use mesh::{Outbox, Payload, Transmit};
use tokio::sync::Notify;

use crate::plane::header_bytes;

/// The largest cost of a message, bytes: a train of a whole chunk over IPv6.
pub(crate) const MESSAGE_IP_BYTES_MAX: u64 = MAX_SHARDS as u64 * CONTROL_IP_BYTES_MAX;

/// The largest cost of a control datagram.
const CONTROL_IP_BYTES_MAX: u64 = DATAGRAM_BYTES as u64 + 48;

/// Bytes of IP since the start, and the figures at which something happens; all count from there.
pub(crate) struct Meter {
    counts_sent: AtomicBool,
    counts_received: AtomicBool,
    used: AtomicU64,
    trains_until: AtomicU64,
    all_until: AtomicU64,
    tell_at: AtomicU64,
    news: Notify,
}

/// How far the workers may go from here, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    /// Until then, anything is sent.
    pub(crate) trains: u64,
    /// Until then control datagrams are, no less than the other. If it is more, trains are over; if it is the same, a worker that
    /// is there waits.
    pub(crate) all: u64,
    /// Then the control thread is told.
    pub(crate) tell: u64,
}

/// What may be sent in one batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    /// Messages; 0: nothing is to be asked for, until more is allowed.
    pub(crate) messages: usize,
    /// Whether there may be trains among them.
    pub(crate) trains: bool,
}

impl Meter {
    /// Without an end, or, where a quota is to be kept, with nothing allowed until the control thread knows how much.
    pub(crate) fn new(has_quota: bool) -> Meter {
        let until = || AtomicU64::new(if has_quota { 0 } else { u64::MAX });
        Meter {
            counts_sent: AtomicBool::new(false),
            counts_received: AtomicBool::new(false),
            used: AtomicU64::new(0),
            trains_until: until(),
            all_until: until(),
            tell_at: AtomicU64::new(u64::MAX),
            news: Notify::new(),
        }
    }

    /// Bytes that count, since the start. Falls by what was about to be sent and then was not.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// What counts from now on.
    pub(crate) fn count(&self, sent: bool, received: bool) {
        self.counts_sent.store(sent, Ordering::Release);
        self.counts_received.store(received, Ordering::Release);
    }

    /// Sets the ends, as seen from when `used` was the figure.
    pub(crate) fn allow(&self, used: u64, ends: Ends) {
        self.trains_until.store(used.saturating_add(ends.trains), Ordering::Release);
        self.all_until.store(used.saturating_add(ends.all), Ordering::Release);
        self.tell_at.store(used.saturating_add(ends.tell), Ordering::Release);
        if self.used() >= used.saturating_add(ends.tell) {
            self.tell();
        }
    }

    /// Nothing counts, and there is no end.
    pub(crate) fn set_free(&self) {
        self.count(false, false);
        self.allow(self.used(), Ends { trains: u64::MAX, all: u64::MAX, tell: u64::MAX });
    }

    /// For the control thread: comes when the figure at which it wanted to be told was reached.
    pub(crate) async fn told(&self) {
        self.news.notified().await;
    }

    pub(crate) fn room(&self) -> Room {
        let used = self.used.load(Ordering::Acquire);
        let (trains, all) =
            (self.trains_until.load(Ordering::Acquire), self.all_until.load(Ordering::Acquire));
        let left = trains.saturating_sub(used) / MESSAGE_IP_BYTES_MAX;
        if left > 0 {
            return Room { messages: left as usize, trains: true };
        }
        let control = if all > trains { all.saturating_sub(used) / CONTROL_IP_BYTES_MAX } else { 0 };
        Room { messages: control as usize, trains: false }
    }

    /// Before a batch is sent: adds what it costs, and takes out of it what may not be sent any more, because it is a train
    /// where those are over, or because other workers were faster. Returns what was added.
    pub(crate) fn admit(&self, outbox: &mut Outbox, room: Room) -> u64 {
        if !room.trains {
            outbox.retain(|transmit| matches!(transmit.payload, Payload::Control(_)));
        }
        if outbox.is_empty() || !self.counts_sent.load(Ordering::Relaxed) {
            return 0;
        }
        let end = if room.trains { &self.trains_until } else { &self.all_until };
        let end = end.load(Ordering::Acquire);
        let cost = outbox.transmits().iter().map(ip_bytes).sum();
        let before = self.used.fetch_add(cost, Ordering::AcqRel);
        if before.saturating_add(cost) <= end {
            self.note(before + cost);
            return cost;
        }
        self.used.fetch_sub(cost, Ordering::AcqRel);
        let mut added = 0;
        let end_of_all = self.all_until.load(Ordering::Acquire);
        outbox.retain(|transmit| {
            let cost = ip_bytes(transmit);
            // A goodbye is said once: it is not to go with the trains that are too many.
            let is_control = matches!(transmit.payload, Payload::Control(_));
            let end = if is_control { end_of_all } else { end };
            let with_it = |used: u64| Some(used + cost).filter(|used| *used <= end);
            let fits = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, with_it).is_ok();
            added += if fits { cost } else { 0 };
            fits
        });
        self.note(self.used());
        added
    }

    /// After it: takes back what the kernel would not send.
    pub(crate) fn settle(&self, added: u64, sent: u64) {
        if sent < added {
            self.used.fetch_sub(added - sent, Ordering::AcqRel);
        }
    }

    pub(crate) fn note_received(&self, ip_bytes: u64) {
        if ip_bytes > 0 && self.counts_received.load(Ordering::Relaxed) {
            let before = self.used.fetch_add(ip_bytes, Ordering::AcqRel);
            self.note(before + ip_bytes);
        }
    }

    fn note(&self, used: u64) {
        if used >= self.tell_at.load(Ordering::Acquire) {
            self.tell();
        }
    }

    /// Once for each time that the figure was set.
    fn tell(&self) {
        if self.tell_at.swap(u64::MAX, Ordering::AcqRel) != u64::MAX {
            self.news.notify_one();
        }
    }
}

/// What a message costs: a train is as many datagrams as it has shards, whoever cuts it up.
fn ip_bytes(transmit: &Transmit) -> u64 {
    let header = header_bytes(transmit.to);
    match &transmit.payload {
        Payload::Train { count, .. } => u64::from(*count) * (DATAGRAM_BYTES as u64 + header),
        Payload::Control(range) => range.len() as u64 + header,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use mesh::SlotIndex;

    use super::*;

    fn meter(trains: u64, all: u64) -> Meter {
        let meter = Meter::new(true);
        meter.count(true, true);
        meter.allow(0, Ends { trains, all, tell: u64::MAX });
        meter
    }

    fn fill(outbox: &mut Outbox, room: Room, to: &str) {
        outbox.clear_for(room.messages);
        while !outbox.is_full() {
            outbox.push_train(to.parse().unwrap(), SlotIndex(0), 0, MAX_SHARDS);
        }
    }

    #[test]
    fn headers_count_for_each_datagram_of_a_train() {
        let mut outbox = Outbox::new(2);
        let meter = meter(10_000_000, 10_000_000);
        outbox.push_train("192.0.2.1:1".parse().unwrap(), SlotIndex(0), 0, 10);
        assert_eq!(meter.admit(&mut outbox, meter.room()), 10 * (1_232 + 28));
        outbox.clear();
        outbox.push_train("[2001:db8::1]:1".parse().unwrap(), SlotIndex(0), 0, 10);
        assert_eq!(meter.admit(&mut outbox, meter.room()), 10 * (1_232 + 48));
        meter.note_received(1_000);
        meter.settle(1_280, 0);
        assert_eq!(meter.used(), 10 * (1_260 + 1_280) + 1_000 - 1_280);
    }

    #[test]
    fn workers_together_never_pass_the_end_and_come_within_a_message_of_it() {
        const END: u64 = 3_000_000_000;
        let meter = meter(END, END);
        let admitted: u64 = thread::scope(|scope| {
            let worker = || {
                let mut outbox = Outbox::new(256);
                let mut admitted = 0;
                loop {
                    let room = meter.room();
                    if room.messages == 0 {
                        // Another worker's batch may be too long, and be shortened in this moment.
                        match meter.used() > END - MESSAGE_IP_BYTES_MAX && meter.used() <= END {
                            true => return admitted,
                            false => continue,
                        }
                    }
                    fill(&mut outbox, room, "[2001:db8::1]:1");
                    admitted += meter.admit(&mut outbox, room);
                    assert!(admitted <= END);
                }
            };
            let workers = [(); 3].map(|()| scope.spawn(worker));
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(meter.used(), admitted);
        assert!((END - MESSAGE_IP_BYTES_MAX..=END).contains(&admitted), "{admitted}");
    }

    #[test]
    fn where_trains_are_over_only_control_is_sent_and_where_both_end_nothing_is_asked_for() {
        let to = "192.0.2.1:1".parse().unwrap();
        let mut outbox = Outbox::new(256);
        let meter = meter(0, 5_000);
        let room = meter.room();
        assert_eq!(room, Room { messages: 3, trains: false });
        outbox.clear_for(room.messages);
        outbox.push_train(to, SlotIndex(0), 0, 1);
        let challenge = codec::wire::control::Challenge { nonce: 1, cookie: [0; 16] };
        outbox.push_control(to, &codec::wire::control::Control::Challenge(challenge));
        assert_eq!(meter.admit(&mut outbox, room), outbox.control_bytes().len() as u64 + 28);
        assert_eq!(outbox.transmits().len(), 1);
        let used = meter.used();
        outbox.clear();
        outbox.push_train(to, SlotIndex(0), 0, MAX_SHARDS);
        let challenge = codec::wire::control::Challenge { nonce: 2, cookie: [0; 16] };
        outbox.push_control(to, &codec::wire::control::Control::Challenge(challenge));
        // Another worker has used up what was seen.
        meter.admit(&mut outbox, Room { messages: 2, trains: true });
        assert!(outbox.transmits().len() == 1 && meter.used() == 2 * used, "without the train");
        meter.allow(meter.used(), Ends { trains: 5_000, all: 5_000, tell: u64::MAX });
        assert_eq!(meter.room().messages, 0);
        meter.set_free();
        assert!(meter.room().trains && meter.room().messages > 1_000_000);
    }
}
