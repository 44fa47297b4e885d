//! A running relay, as a library: started, looked at, stopped.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use mesh::{Anchor, Node, NodeConfig, SLOT_BYTES};
use thiserror::Error;

use crate::config::Config;
use crate::plane::{Io, OpenError, Plane, Waker};
use crate::uring::SlotMemory;
use crate::worker::{Shared, Snapshot, Worker};

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
    probe: String,
    uses_io_uring: bool,
    waker: Waker,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Snapshot>>,
}

impl Relay {
    /// Starts a relay on a thread of its own.
    ///
    /// # Errors
    /// When the kernel refuses memory, socket, ring or thread; the message says what to do.
    pub fn start(config: &Config) -> Result<Relay, StartError> {
        ensure_free(config.listen)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(StartError::Random)?;
        let node_config = NodeConfig { admission: config.admission(), limits: config.limits() };
        let slots = config.memory_bytes() / SLOT_BYTES;
        let (io, listen, shared) = (config.io, config.listen, Shared::new());
        let for_worker = Arc::clone(&shared);
        let (opened, started) = mpsc::sync_channel(1);
        let body = move || {
            let made = open(io, listen, slots).map(|(memory, plane)| {
                let node = Node::new(node_config, seed, Box::new(memory));
                Worker::new(node, plane, Anchor::new(SystemTime::now(), Instant::now()), for_worker)
            });
            match made {
                Ok(worker) => {
                    let plane = worker.plane();
                    let uses_io_uring = matches!(plane, Plane::Uring(_));
                    let probe = plane.probe().to_string();
                    let told = opened.send(Ok((plane.local_addr(), probe, uses_io_uring, plane.waker())));
                    drop(opened);
                    told.map_or_else(|_| Snapshot::default(), |()| worker.run())
                }
                Err(error) => {
                    // Whoever started the relay waits for this.
                    let _ = opened.send(Err(error));
                    Snapshot::default()
                }
            }
        };
        let thread =
            thread::Builder::new().name("superpeer-w0".to_owned()).spawn(body).map_err(StartError::Thread)?;
        let (listen, probe, uses_io_uring, waker) = started.recv().expect("the worker says how it went")?;
        Ok(Relay { listen, probe, uses_io_uring, waker, shared, thread: Some(thread) })
    }

    /// Where it listens, with the port that the kernel chose if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        self.listen
    }

    /// What the kernel gave, in one line.
    pub fn probe(&self) -> &str {
        &self.probe
    }

    /// Whether it moves its datagrams through io_uring.
    pub fn uses_io_uring(&self) -> bool {
        self.uses_io_uring
    }

    /// The latest counts, if there are any since the last call; there are once a second.
    pub fn take_snapshot(&self) -> Option<Snapshot> {
        self.shared.snapshots.pop()
    }

    /// Whether the worker still runs. It ends by itself only if it panicked.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Says goodbye to every peer, stops, and gives the last counts; `None` if the worker had panicked.
    pub fn stop(mut self) -> Option<Snapshot> {
        self.end()
    }

    fn end(&mut self) -> Option<Snapshot> {
        let thread = self.thread.take()?;
        self.shared.stop.store(true, Ordering::Release);
        self.waker.wake();
        thread.join().ok()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end();
    }
}

fn open(io: Io, listen: SocketAddr, slots: usize) -> Result<(SlotMemory, Plane), StartError> {
    let bytes = slots * SLOT_BYTES;
    let memory = SlotMemory::map(slots).map_err(|source| StartError::Memory { bytes, source })?;
    let plane = Plane::open(io, listen, memory.region())?;
    Ok((memory, plane))
}

/// A worker's socket shares its port (`SO_REUSEPORT`); a second daemon must not share it unnoticed. A socket that does
/// not share finds out. The kernel takes down the ring of a killed relay, and with it the socket, only after the end
/// of its process (io_uring/io_uring.c, `io_ring_exit_work`): whoever is started at once in its place waits for that.
fn ensure_free(listen: SocketAddr) -> Result<(), StartError> {
    let give_up_at = Instant::now() + PORT_WAIT_MAX;
    loop {
        match UdpSocket::bind(listen) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up_at => {
                thread::sleep(PORT_WAIT);
            }
            Err(error) => return Err(OpenError::of_bind(listen, error).into()),
        }
    }
}

/// How long a port that is taken is waited for, and between two looks: a ring is gone after 20 ms.
const PORT_WAIT_MAX: Duration = Duration::from_millis(500);
const PORT_WAIT: Duration = Duration::from_millis(5);
