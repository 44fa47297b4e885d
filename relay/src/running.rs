//! A running relay, as a library: started, looked at, stopped.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use codec::wire::control::RefuseReason;
use mesh::{Anchor, Handover, Node, SLOT_BYTES, Siblings, Whom};
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::budget::HANDOVER_BYTES;
use crate::config::Config;
use crate::inbox::Inbox;
use crate::kept::Kept;
use crate::meter::Meter;
use crate::plane::{Io, OpenError, Plane, Waker};
use crate::pulls::Pulls;
use crate::snapshot::Snapshot;
use crate::upstreams::{Reach, UpstreamView, Upstreams};
use crate::uring::{SlotMemory, Socket, Steering};
use crate::worker::{Colleagues, Ended, Ending, Order, Shared, Worker};

/// Why a relay does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The socket, or what moves its datagrams.
    #[error(transparent)]
    Plane(#[from] OpenError),
    /// The slot memory.
    #[error(
        "cannot map {bytes} bytes of slot memory: {source}; set a smaller limits.memory_mib in the configuration"
    )]
    Memory {
        /// What was asked for.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The secret of the cookies and session ids.
    #[error("the kernel gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// A thread.
    #[error("cannot start a thread: {0}; the limit on tasks (TasksMax, ulimit -u) may be reached")]
    Thread(io::Error),
}

/// A relay at work. Dropped, it stops and says goodbye to its peers.
pub struct Relay {
    listen: SocketAddr,
    steering: Steering,
    probe: String,
    uses_io_uring: bool,
    upstreams: Upstreams,
    workers: Vec<Running>,
    /// Of each worker, the counts that it gave and that were not taken yet.
    given: Mutex<Vec<Option<Snapshot>>>,
    meter: Arc<Meter>,
}

/// A worker, seen from outside.
struct Running {
    waker: Waker,
    shared: Arc<Shared>,
    thread: JoinHandle<Ended>,
}

impl Relay {
    /// Starts a relay on threads of its own. With a quota configured it sends nothing until the daemon's control thread, which
    /// keeps account of it, has said how much is left.
    ///
    /// # Errors
    /// When the kernel refuses memory, socket, ring or thread; the message says what to do.
    pub fn start(config: &Config) -> Result<Relay, StartError> {
        Relay::start_with(config, Kept::open(config)?)
    }

    /// The same with the sockets of the workers, and what the nodes of an earlier process left, or nothing.
    pub(crate) fn start_with(config: &Config, kept: Kept) -> Result<Relay, StartError> {
        let (count, listen) = (kept.sockets.len(), kept.sockets[0].local_addr());
        let steering = kept.steering;
        let mut handovers = kept.handovers.into_iter();
        let slots = config.memory_bytes() / SLOT_BYTES;
        let parts = SlotMemory::map_parts(slots / count, count)
            .map_err(|source| StartError::Memory { bytes: slots * SLOT_BYTES, source })?;
        let meter = Arc::new(Meter::new(config.quota.max.0.is_some()));
        let siblings = Siblings { count: count - 1, ..Siblings::default() };
        let messages = mpsc::channel();
        let mut started: Vec<Started> = Vec::with_capacity(count);
        for (number, (memory, socket)) in parts.into_iter().zip(kept.sockets).enumerate() {
            let plan = Plan {
                number,
                // The first finds out whether there is io_uring; the others do as it does.
                io: started.first().map_or(config.io, Started::way),
                socket,
                zero_copy_from_bytes: config.zero_copy_from_bytes,
                memory,
                siblings: siblings.clone(),
                handover: handovers.next(),
                pulls: Pulls::new(messages.0.clone()),
            };
            match Started::new(plan, config, Arc::clone(&meter)) {
                Ok(worker) => started.push(worker),
                Err(error) => {
                    started.into_iter().for_each(Started::end);
                    return Err(error);
                }
            }
        }
        let inboxes: Arc<[Inbox]> = started.iter().map(|worker| Inbox::new(worker.waker.clone())).collect();
        let Started { ref probe, uses_io_uring, .. } = started[0];
        let probe = match count {
            1 => probe.clone(),
            _ => format!("{probe}; the same for each of {count} workers"),
        };
        let workers: Vec<Running> = started.into_iter().map(|worker| worker.run(&inboxes)).collect();
        let reach =
            |worker: &Running| Reach { shared: Arc::clone(&worker.shared), waker: worker.waker.clone() };
        let reaches = workers.iter().map(reach).collect();
        let upstreams = Upstreams::start(messages, reaches, steering, listen).map_err(StartError::Thread)?;
        upstreams.configure(config.upstreams(), config.upstreams_at_once);
        let given = Mutex::new(vec![None; count]);
        Ok(Relay { listen, steering, probe, uses_io_uring, upstreams, workers, given, meter })
    }

    /// Where it listens, with the port that the kernel chose if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        self.listen
    }

    /// How the kernel spreads peers over the workers.
    pub(crate) fn steering(&self) -> Steering {
        self.steering
    }

    /// What the kernel gave, in one line.
    pub fn probe(&self) -> &str {
        &self.probe
    }

    /// Whether it moves its datagrams through io_uring.
    pub fn uses_io_uring(&self) -> bool {
        self.uses_io_uring
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Goes on under another configuration, as far as it acts at once: which channels are carried, and the limits but for
    /// `memory_mib`. Nobody whose channel is still carried is disturbed.
    pub fn configure(&self, config: &Config) {
        self.order(&Order::Configure(Box::new(config.node())));
        self.upstreams.configure(config.upstreams(), config.upstreams_at_once);
    }

    /// Newcomers are refused for this reason from now on, whatever they ask for; with `None` they are let in again.
    pub fn close_to_newcomers(&self, reason: Option<RefuseReason>) {
        self.order(&Order::CloseToNewcomers(reason));
    }

    /// The same for newcomers who want to take a channel; publishers are let in, for those who stay.
    pub fn close_to_subscribers(&self, reason: Option<RefuseReason>) {
        self.order(&Order::CloseToSubscribers(reason));
    }

    /// Ends about `portion` sessions of `of` that there are, with a goodbye that names the configuration's `others`: of each
    /// worker's the same part, subscribers first, then publishers.
    pub fn let_go(&self, portion: usize, of: usize) {
        self.order(&Order::LetGo { portion, of });
    }

    /// The same with all.
    pub fn let_all_go(&self) {
        self.let_go(usize::MAX, 1);
    }

    /// The upstreams that channels are to be pulled from, with those that these name.
    pub fn upstreams(&self) -> Vec<UpstreamView> {
        self.upstreams.views()
    }

    /// Ends the sessions of a peer or channel with a goodbye, and refuses it for this time. Each worker says how many
    /// sessions that were, as [`Node::kick`] does.
    pub(crate) fn kick(&self, whom: Whom, time: Duration) -> UnboundedReceiver<Option<usize>> {
        let (ended, of_workers) = unbounded_channel();
        self.order(&Order::Kick(whom, time, ended));
        of_workers
    }

    fn order(&self, order: &Order) {
        for worker in &self.workers {
            worker.shared.orders.force_push(order.clone());
        }
        self.wake();
    }

    /// What the workers have of the transfer quota.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Has every worker look at what it may do.
    pub(crate) fn wake(&self) {
        self.workers.iter().for_each(|worker| worker.waker.wake());
    }

    /// The latest counts of all workers together, if each has given some since the last call; they do once a second.
    pub fn take_snapshot(&self) -> Option<Snapshot> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        for (given, worker) in given.iter_mut().zip(&self.workers) {
            *given = worker.shared.snapshots.pop().or(given.take());
        }
        if given.iter().any(Option::is_none) {
            return None;
        }
        Snapshot::of_all(given.iter_mut().filter_map(Option::take))
    }

    /// Whether all workers still run. One ends by itself only if it panicked.
    pub fn is_alive(&self) -> bool {
        self.workers.iter().all(|worker| !worker.thread.is_finished())
    }

    /// Says goodbye to every peer, stops, and gives the last counts; `None` if a worker had panicked.
    pub fn stop(mut self) -> Option<Snapshot> {
        self.end(Ending::Goodbye).map(|(last, _)| last)
    }

    /// Stops without a word, and gives beside the last counts what the nodes of another process need to go on. What
    /// arrives from now on waits in the sockets.
    pub(crate) fn hand_over(mut self) -> Option<(Snapshot, Vec<Handover>)> {
        let bytes_max = HANDOVER_BYTES / self.workers.len();
        self.end(Ending::HandOver { bytes_max })
    }

    fn end(&mut self, ending: Ending) -> Option<(Snapshot, Vec<Handover>)> {
        for worker in &self.workers {
            // The first word counts.
            let _ = worker.shared.ending.set(ending);
            worker.waker.wake();
        }
        let ended: Vec<_> = self.workers.drain(..).map(|worker| worker.thread.join().ok()).collect();
        let ended = ended.into_iter().collect::<Option<Vec<Ended>>>()?;
        let (snapshots, handovers): (Vec<_>, Vec<_>) =
            ended.into_iter().map(|ended| (ended.last, ended.handover)).unzip();
        Some((Snapshot::of_all(snapshots.into_iter())?, handovers.into_iter().flatten().collect()))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end(Ending::Goodbye);
    }
}

/// What one worker is to be.
struct Plan {
    number: usize,
    io: Io,
    socket: Socket,
    zero_copy_from_bytes: u32,
    memory: SlotMemory,
    siblings: Siblings,
    handover: Option<Handover>,
    pulls: Pulls,
}

/// A worker whose plane is open, and that waits to hear of the others before it runs.
struct Started {
    probe: String,
    uses_io_uring: bool,
    waker: Waker,
    shared: Arc<Shared>,
    colleagues: mpsc::SyncSender<Colleagues>,
    number: usize,
    thread: JoinHandle<Ended>,
}

impl Started {
    fn new(plan: Plan, config: &Config, meter: Arc<Meter>) -> Result<Started, StartError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(StartError::Random)?;
        let node_config = config.node();
        let (number, shared) = (plan.number, Shared::new(meter));
        let for_worker = Arc::clone(&shared);
        let (opened, is_open) = mpsc::sync_channel(1);
        let (colleagues, for_colleagues) = mpsc::sync_channel(1);
        let body = move || {
            let Plan { io, socket, zero_copy_from_bytes, memory, siblings, handover, pulls, .. } = plan;
            // Here, where a plane has to stay.
            let plane = match Plane::open_on(io, socket, memory.region(), zero_copy_from_bytes) {
                Ok(plane) => plane,
                Err(error) => {
                    // Whoever started the relay waits for this.
                    let _ = opened.send(Err(error));
                    return Ended::default();
                }
            };
            let uses_io_uring = matches!(plane, Plane::Uring(_));
            let _ = opened.send(Ok((plane.probe().to_string(), uses_io_uring, plane.waker())));
            // Another one could not be started, and nobody is left to say who the others are.
            let Ok(colleagues) = for_colleagues.recv() else { return Ended::default() };
            let mut node = Node::among(siblings, node_config, seed, Box::new(memory));
            let clock = Anchor::new(SystemTime::now(), Instant::now());
            if let Some(handover) = handover {
                node.resume(clock.time_at(Instant::now()), handover);
            }
            Worker::new(node, plane, clock, for_worker, colleagues, pulls).run()
        };
        let builder = thread::Builder::new().name(format!("superpeer-w{number}"));
        let thread = builder.spawn(body).map_err(StartError::Thread)?;
        let (probe, uses_io_uring, waker) = is_open.recv().expect("the worker says how it went")?;
        Ok(Started { probe, uses_io_uring, waker, shared, colleagues, number, thread })
    }

    /// With which calls it moves its datagrams.
    fn way(&self) -> Io {
        if self.uses_io_uring { Io::Uring } else { Io::Mmsg }
    }

    /// For another one could not be started. Frees the port before it returns.
    fn end(self) {
        drop(self.colleagues);
        // What it has to say is that it has done nothing.
        let _ = self.thread.join();
    }

    fn run(self, inboxes: &Arc<[Inbox]>) -> Running {
        let colleagues = Colleagues { inboxes: Arc::clone(inboxes), own: self.number };
        // It waits for this; if it has panicked instead, `is_alive` tells.
        let _ = self.colleagues.send(colleagues);
        Running { waker: self.waker, shared: self.shared, thread: self.thread }
    }
}
