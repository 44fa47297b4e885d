//! The worker: one thread, one plane, one node, one loop.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use codec::wire::control::RefuseReason;
use crossbeam::queue::{ArrayQueue, SegQueue};
use mesh::{Anchor, Handover, Node, NodeConfig, Outbox, Progress, Time, Whom};
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use crate::budget::BATCH_MESSAGES;
use crate::inbox::Inbox;
use crate::meter::Meter;
use crate::plane::Plane;
use crate::pulls::{Pull, Pulls};
use crate::snapshot::Snapshot;

/// How often a worker says what it has counted.
pub(crate) const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);

/// Goodbyes, or what is still to be sent before another process goes on, take no longer than this.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Orders wait for a round of the worker: one round a second would do.
const ORDERS_MAX: usize = 64;

/// A kernel that would not even wait is asked again after this time.
const WAIT_FAILED_PAUSE: Duration = Duration::from_millis(10);

/// What a worker shares with the rest of the process; nothing of it is touched per datagram.
pub(crate) struct Shared {
    /// Set once, to end the worker.
    pub(crate) ending: OnceLock<Ending>,
    /// What the worker is to do; of more than it has room for, the oldest are forgotten.
    pub(crate) orders: ArrayQueue<Order>,
    /// Whom it is to take channels from; none of these is forgotten.
    pub(crate) pulls: SegQueue<Pull>,
    /// The latest snapshot; an older one that nobody took is pushed out.
    pub(crate) snapshots: ArrayQueue<Snapshot>,
    /// What all workers together have of the transfer quota.
    meter: Arc<Meter>,
}

impl Shared {
    pub(crate) fn new(meter: Arc<Meter>) -> Arc<Shared> {
        Arc::new(Shared {
            ending: OnceLock::new(),
            snapshots: ArrayQueue::new(1),
            orders: ArrayQueue::new(ORDERS_MAX),
            meter,
            pulls: SegQueue::new(),
        })
    }
}

/// How a worker is to end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// With a goodbye to every peer.
    Goodbye,
    /// Without a word: another process goes on with what it leaves, chunks of about so many bytes among it.
    HandOver { bytes_max: usize },
}

/// What is left of a worker.
#[derive(Default)]
pub(crate) struct Ended {
    /// The last counts.
    pub(crate) last: Snapshot,
    /// What it leaves to another process, if it was asked to.
    pub(crate) handover: Option<Handover>,
}

/// What the control thread wants of a worker.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// To go on under another configuration.
    Configure(Box<NodeConfig>),
    /// To refuse newcomers for this reason, or to let them in again.
    CloseToNewcomers(Option<RefuseReason>),
    /// The same for those who want to take a channel.
    CloseToSubscribers(Option<RefuseReason>),
    /// To end this part of its granted sessions, with a goodbye: so many of so many.
    LetGo { portion: usize, of: usize },
    /// To end someone's sessions, to refuse it for this time, and to say how many sessions that were: [`Node::kick`].
    Kick(Whom, Duration, UnboundedSender<Option<usize>>),
}

pub(crate) struct Worker {
    node: Node,
    plane: Plane,
    outbox: Outbox,
    clock: Anchor,
    shared: Arc<Shared>,
    colleagues: Colleagues,
    pulls: Pulls,
    snapshot_at: Time,
}

/// The workers of a relay, seen from one of them.
pub(crate) struct Colleagues {
    /// The inboxes of all.
    pub(crate) inboxes: Arc<[Inbox]>,
    /// Which of them is this worker's.
    pub(crate) own: usize,
}

impl Colleagues {
    fn inbox(&self) -> &Inbox {
        &self.inboxes[self.own]
    }

    /// Those of the others, in the order in which the node numbers its siblings.
    fn others(&self) -> impl Iterator<Item = &Inbox> {
        self.inboxes.iter().enumerate().filter(|(number, _)| *number != self.own).map(|(_, inbox)| inbox)
    }

    fn sibling(&self, number: usize) -> &Inbox {
        &self.inboxes[number + usize::from(number >= self.own)]
    }
}

impl Worker {
    pub(crate) fn new(
        node: Node,
        plane: Plane,
        clock: Anchor,
        shared: Arc<Shared>,
        colleagues: Colleagues,
        pulls: Pulls,
    ) -> Worker {
        Worker {
            node,
            plane,
            colleagues,
            pulls,
            outbox: Outbox::new(BATCH_MESSAGES),
            clock,
            shared,
            snapshot_at: Time::default(),
        }
    }

    /// Runs until the worker is told how to end, and ends so.
    pub(crate) fn run(mut self) -> Ended {
        let ending = loop {
            if let Some(ending) = self.shared.ending.get() {
                break *ending;
            }
            if self.turn() == Progress::Idle {
                self.sleep();
            }
        };
        match ending {
            Ending::Goodbye => self.node.close(),
            Ending::HandOver { .. } => {
                self.plane.stop_receiving();
                while self.receive(self.now()) > 0 {}
            }
        }
        let give_up_at = self.now().after(GOODBYE_MAX);
        while self.has_more_to_send(ending) && self.now() < give_up_at {}
        let now = self.now();
        let handover = match ending {
            Ending::Goodbye => None,
            Ending::HandOver { bytes_max } => Some(self.node.hand_over(now, bytes_max)),
        };
        Ended { last: self.snapshot(now), handover }
    }

    /// Goes round once more at the end. What a cap holds back is waited for where nobody else would send it; goodbyes are not
    /// held back.
    fn has_more_to_send(&mut self, ending: Ending) -> bool {
        let progress = self.turn();
        let held_back_until = match ending {
            Ending::HandOver { .. } if progress == Progress::Idle => self.node.held_back_until(),
            _ => None,
        };
        if let Some(at) = held_back_until {
            thread::sleep(at.since(self.now()));
        }
        progress == Progress::More || held_back_until.is_some()
    }

    fn now(&self) -> Time {
        self.clock.time_at(Instant::now())
    }

    /// Takes in what has arrived, here and at the other workers, and sends one batch: what one wake-up brought of a chunk
    /// leaves as one train.
    fn turn(&mut self) -> Progress {
        let now = self.now();
        self.receive(now);
        while let Some(share) = self.colleagues.inbox().pop() {
            self.node.handle_share(now, &share);
        }
        while let Some(order) = self.shared.orders.pop() {
            self.obey(now, order);
        }
        self.pulls.turn(&mut self.node, now, &self.shared);
        self.node.handle_timeout(now);
        self.pulls.tell(&mut self.node);
        self.share(now);
        let progress = self.send(now);
        self.plane.refused().for_each(|address| self.node.note_refused(address));
        if self.snapshot_at <= now {
            let snapshot = self.snapshot(now);
            self.shared.snapshots.force_push(snapshot);
            self.snapshot_at = now.after(SNAPSHOT_INTERVAL);
        }
        progress
    }

    /// Sends one batch, as far as the quota allows.
    fn send(&mut self, now: Time) -> Progress {
        let meter = &self.shared.meter;
        let room = meter.room();
        if room.messages == 0 {
            // Whoever allows more wakes the worker.
            return Progress::Idle;
        }
        self.outbox.clear_for(room.messages);
        let progress = self.node.poll_transmit(now, &mut self.outbox);
        let added = meter.admit(&mut self.outbox, room);
        if !self.outbox.is_empty() {
            let before = self.plane.counters().ip_bytes_sent;
            self.plane.transmit(&self.outbox);
            meter.settle(added, self.plane.counters().ip_bytes_sent - before);
        }
        progress
    }

    fn receive(&mut self, now: Time) -> usize {
        let received_before = self.plane.counters().ip_bytes_received;
        let datagrams = self.plane.receive(|from, datagram| {
            self.node.handle_datagram(now, from, datagram);
        });
        self.shared.meter.note_received(self.plane.counters().ip_bytes_received - received_before);
        datagrams
    }

    fn obey(&mut self, now: Time, order: Order) {
        match order {
            Order::Configure(config) => self.node.configure(*config),
            Order::CloseToNewcomers(reason) => self.node.close_to_newcomers(reason),
            Order::CloseToSubscribers(reason) => self.node.close_to_subscribers(reason),
            Order::LetGo { portion, of } => {
                let (sessions, of) = (self.node.granted_sessions(), of.max(1));
                // That there are `of` may have been counted before many came.
                self.node.let_go((sessions * portion.min(of)).div_ceil(of).min(portion));
            }
            Order::Kick(whom, time, ended) => {
                // Whoever asked may have gone.
                let _ = ended.send(self.node.kick(now, whom, now.after(time)));
            }
        }
    }

    /// Lets the other workers send at the same time what came in here.
    fn share(&mut self, now: Time) {
        let mut told = false;
        let colleagues = &self.colleagues;
        self.node.share(now, |sibling, share| {
            told = true;
            colleagues.sibling(sibling).push(share)
        });
        if told {
            colleagues.others().for_each(Inbox::wake);
        }
    }

    fn sleep(&mut self) {
        if self.colleagues.inbox().may_sleep() {
            self.sleep_until_due();
        }
        self.colleagues.inbox().note_awake();
    }

    fn sleep_until_due(&mut self) {
        let next = self.node.next_timeout().map_or(self.snapshot_at, |at| at.min(self.snapshot_at));
        let timeout = next.since(self.now());
        if let Err(error) = self.plane.wait(Some(timeout)) {
            warn!("the kernel would not receive or wait: {error}; taken up again");
            // One that fails each time must not use up the processor.
            thread::sleep(WAIT_FAILED_PAUSE);
        }
    }

    fn snapshot(&self, now: Time) -> Snapshot {
        Snapshot {
            at: now,
            node: self.node.counters().clone(),
            plane: *self.plane.counters(),
            sessions: self.node.sessions(),
            granted_sessions: self.node.granted_sessions(),
            window_bytes: self.node.window_bytes(),
            egress: self.node.egress(),
            channels: self.node.channels().collect(),
            upstreams: self.node.upstreams().collect(),
            cpu: thread_cpu(),
            workers: Vec::new(),
        }
    }
}

fn thread_cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    spent.try_into().expect("processor time is not negative")
}
