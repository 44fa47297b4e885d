//! The relay of `superpeer bench relay`: a process of its own, so that its memory can be told from the load's.
//!
//! It says on standard output, a JSON object a line: where it listens, then once a second a [`Sample`], and at the end how
//! fast the bare kernel is. It takes one line on standard input, an [`Ending`], or ends with its parent.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, TryRecvError};
use serde::{Deserialize, Serialize};

use super::lab;
use super::sample::{About, Counts, Sample, WorkerTimes};
use crate::Error;
use crate::bench::sink::socket_drops;
use clap::ValueEnum;
use relay::plane::Io;

use crate::bench::{Destinations, limit};

/// Run the relay of a bench; `superpeer bench relay` starts it
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[arg(long)]
    channels: usize,
    #[arg(long)]
    sessions: usize,
    #[arg(long)]
    io: Io,
    #[arg(long)]
    workers: usize,
    /// In a namespace of its own: wait until it is tied to the other one, and let one subscriber of so many receive
    #[arg(long)]
    lab_stride: Option<u32>,
}

/// Said first of all in a lab: the process has left its parent's namespace.
#[derive(Serialize, Deserialize, Debug)]
struct Isolated {}

/// Said once, at the start.
#[derive(Serialize, Deserialize, Debug)]
struct Listening {
    port: u16,
    probe: String,
    uses_io_uring: bool,
}

/// Stop the relay, and measure the bare kernel with trains of this length, to these addresses.
#[derive(Serialize, Deserialize, Debug)]
struct Ending {
    train: usize,
    destinations: Destinations,
}

/// Said last: Gbit/s on the wire per second of processor time.
#[derive(Serialize, Deserialize, Debug)]
struct Limit {
    gbps: f64,
}

/// Runs the hidden command.
///
/// # Errors
/// When the relay does not start, or nobody listens to it.
pub(crate) fn run(args: Args) -> Result<(), Error> {
    relay::budget::use_small_pages();
    let orders = lines_of(io::stdin());
    let mut listen = Ipv4Addr::LOCALHOST;
    if let Some(stride) = args.lab_stride {
        say(&Isolated {})?;
        if orders.recv().is_err() {
            return Ok(());
        }
        lab::set_up_relay(stride)?;
        listen = lab::RELAY;
    }
    let listen_at = (listen, 0).into();
    let mut config = relay::Config { listen: listen_at, open: true, io: args.io, ..Default::default() };
    config.limits.channels = args.channels;
    config.limits.subscribers = args.sessions;
    // Every subscriber's address subscribes to every channel.
    config.limits.sessions_per_address = args.channels + 1;
    config.workers = relay::Workers::Fixed(args.workers);
    let relay = relay::Relay::start(&config)?;
    let port = relay.local_addr().port();
    let uses_io_uring = relay.uses_io_uring();
    say(&Listening { port, probe: relay.probe().to_owned(), uses_io_uring })?;
    let ending = loop {
        match orders.recv_timeout(SNAPSHOT_LOOK) {
            Ok(order) => break order,
            Err(RecvTimeoutError::Timeout) => {}
            // Whoever started it is gone.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if let Some(snapshot) = relay.take_snapshot() {
            say(&sample(&snapshot, port))?;
        }
    };
    drop(relay);
    let io = if uses_io_uring { Io::Uring } else { Io::Mmsg };
    let way = limit::Way { name: "the relay's", io, zero_copy_from_bytes: config.zero_copy_from_bytes };
    let failed = |error: serde_json::Error| Error::BenchRelay(error.to_string());
    let Ending { train, destinations } = serde_json::from_str(&ending).map_err(failed)?;
    say(&Limit { gbps: limit::by_plane(way, listen, &destinations, train, limit::BESIDE_RELAY)?.gbps() })
}

fn sample(snapshot: &relay::Snapshot, port: u16) -> Sample {
    let counts = Counts {
        workers: worker_times(),
        process_cpu_us: relay::process::cpu().as_micros() as u64,
        trains_sent: snapshot.node.trains_sent,
        shards_sent: snapshot.node.shards_sent,
        bytes_sent: snapshot.plane.bytes_sent,
        datagrams_sent: snapshot.plane.datagrams_sent,
        zero_copy_bytes: snapshot.plane.zero_copy_bytes,
        copied_bytes: snapshot.plane.copied_bytes,
        jobs_skipped: snapshot.node.jobs_skipped,
        gave_up: snapshot.plane.gave_up,
        blocked: snapshot.plane.blocked,
        send_errors: snapshot.plane.send_errors,
        cq_overflow: snapshot.plane.cq_overflow,
        no_buffers: snapshot.plane.no_buffers,
        rss_bytes: relay::process::rss_bytes(),
        window_bytes: snapshot.window_bytes,
    };
    Sample {
        at_us: snapshot.at.0,
        counts: Some(counts),
        socket_drops: Some(socket_drops(&[port])),
        heap_bytes: Some(crate::ALLOCATOR.allocated() as u64),
    }
}

/// How often the relay is asked for a new snapshot: the workers' times are read that much later than its counts at most.
const SNAPSHOT_LOOK: Duration = Duration::from_millis(5);

/// The first two fields of each worker's `schedstat`, in ns (Linux, Documentation/scheduler/sched-stats.rst).
fn worker_times() -> Vec<WorkerTimes> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let times = threads.filter_map(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let number: usize = name.trim_end().strip_prefix("superpeer-w")?.parse().ok()?;
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let mut micros = stat.split_whitespace().map_while(|ns| Some(ns.parse::<u64>().ok()? / 1_000));
        Some((number, WorkerTimes { cpu_us: micros.next()?, waited_us: Some(micros.next()?) }))
    });
    let mut times: Vec<(usize, WorkerTimes)> = times.collect();
    times.sort_by_key(|(number, _)| *number);
    times.into_iter().map(|(_, times)| times).collect()
}

fn say(message: &impl Serialize) -> Result<(), Error> {
    let line = serde_json::to_string(message).expect("plain structures");
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Error::Print)
}

/// The lines of a stream, from a thread of its own; they end with the stream.
fn lines_of(stream: impl io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = crossbeam::channel::unbounded();
    let forward = move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    };
    thread::spawn(forward);
    receiver
}

/// The relay, seen from the bench.
pub(super) struct RelayProcess {
    child: Child,
    orders: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Where it listens.
    pub(super) address: SocketAddrV4,
    /// What it is.
    pub(super) about: About,
}

/// The relay says something within this time, or it is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(10);

impl RelayProcess {
    /// Starts a relay of so many workers for so many channels and sessions, in a namespace of its own if there is a stride.
    pub(super) fn start(
        channels: usize,
        sessions: usize,
        io: Io,
        workers: usize,
        lab_stride: Option<u32>,
    ) -> Result<RelayProcess, Error> {
        let failed = |error| Error::System("cannot start the relay's process", error);
        let mut command = match lab_stride {
            Some(_) => lab::isolated()?,
            None => Command::new(std::env::current_exe().map_err(failed)?),
        };
        command.args(["bench", "relay-child"]);
        command.args(lab_stride.map(|stride| format!("--lab-stride={stride}")));
        command.args(["--channels", &channels.to_string(), "--sessions", &sessions.to_string()]);
        command.args(["--workers", &workers.to_string()]);
        let io = io.to_possible_value().expect("no way is hidden");
        command.args(["--io", io.get_name()]);
        // Ctrl-C is for the bench: it ends the relay once it has what there is.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        let orders = child.stdin.take();
        let host = if lab_stride.is_some() { lab::RELAY } else { Ipv4Addr::LOCALHOST };
        let address = SocketAddrV4::new(host, 0);
        let about = About { probe: String::new(), uses_io_uring: false, workers };
        let mut relay = RelayProcess { child, orders, lines, address, about };
        if lab_stride.is_some() {
            let Isolated {} = relay.hear()?;
            lab::connect(relay.child.id())?;
            relay.order("connected")?;
        }
        let Listening { port, probe, uses_io_uring } = relay.hear()?;
        relay.address.set_port(port);
        relay.about = About { probe, uses_io_uring, workers };
        Ok(relay)
    }

    /// The next sample; within about a second.
    pub(super) fn sample(&self) -> Result<Sample, Error> {
        self.hear()
    }

    /// Forgets the samples that nobody took.
    pub(super) fn skip_samples(&self) -> Result<(), Error> {
        loop {
            match self.lines.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(self.gone()),
            }
        }
    }

    /// Stops the relay; returns Gbit/s of the bare kernel in its place.
    pub(super) fn limit(mut self, train: usize, destinations: &Destinations) -> Result<f64, Error> {
        let ending = Ending { train, destinations: destinations.clone() };
        self.order(&serde_json::to_string(&ending).expect("plain structures"))?;
        loop {
            let line = self.line()?;
            if let Ok(Limit { gbps }) = serde_json::from_str(&line) {
                return Ok(gbps);
            }
        }
    }

    fn order(&mut self, line: &str) -> Result<(), Error> {
        let orders = self.orders.as_mut().expect("taken only when dropped");
        writeln!(orders, "{line}").map_err(|_| self.gone())
    }

    fn hear<T: for<'l> Deserialize<'l>>(&self) -> Result<T, Error> {
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|error| Error::BenchRelay(format!("{error} in {line:?}")))
    }

    fn line(&self) -> Result<String, Error> {
        self.lines.recv_timeout(SILENCE_MAX).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                let what = "the relay's process said nothing".to_owned();
                Error::BenchStuck { what, seconds: SILENCE_MAX.as_secs() }
            }
            RecvTimeoutError::Disconnected => self.gone(),
        })
    }

    fn gone(&self) -> Error {
        Error::BenchRelay("its process ended; what it said is above".to_owned())
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        drop(self.orders.take());
        // It ends by itself when its standard input does; one that does not must not stay behind.
        for _ in 0..100 {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
