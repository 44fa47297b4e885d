//! A relay that runs already, here or elsewhere. What it has counted is known only if its admin listener is.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use codec::wire::control::RefuseReason;
use relay::plane::Io;
use relay::status::Status;
use ureq::Agent;

use super::Load;
use super::sample::{About, Counts, Sample};
use crate::Error;
use crate::bench::sink::socket_drops;
use crate::bench::{Destinations, limit};
use crate::resolve::resolve;

/// The relay, seen from the bench.
pub(super) struct RunningRelay {
    /// Where it listens.
    pub(super) address: SocketAddrV4,
    /// The address from which this machine reaches it.
    pub(super) source: Ipv4Addr,
    /// What it is, if it tells.
    pub(super) about: Option<About>,
    admin: Option<Admin>,
}

/// What a relay that tells nothing is asked for this often.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

impl RunningRelay {
    /// Looks for the relay's address, and asks its admin listener, if there is one, what it is.
    ///
    /// # Errors
    /// When there is no such host, no way to it, or the listener is not that relay's.
    pub(super) fn find(host_port: &str, admin: Option<SocketAddr>) -> Result<RunningRelay, Error> {
        let wrong = |why: String| Error::Usage(format!("--relay {host_port}: {why}"));
        let addresses = resolve(host_port).map_err(|error| wrong(error.to_string()))?;
        let ipv4 = |address: &SocketAddr| match address {
            SocketAddr::V4(address) => Some(*address),
            SocketAddr::V6(_) => None,
        };
        let Some(address) = addresses.iter().find_map(ipv4) else {
            return Err(wrong("it has no IPv4 address, and the bench's peers have no other".to_owned()));
        };
        let source = source_towards(address).map_err(|error| wrong(format!("no way there: {error}")))?;
        let admin = admin.map(Admin::new);
        let status = admin.as_ref().map(|admin| admin.of_relay_on(address.port())).transpose()?;
        Ok(RunningRelay { address, source, about: status.as_ref().map(About::from), admin })
    }

    /// Whether it runs on this machine: then there are addresses enough to give every peer one.
    pub(super) fn is_here(&self) -> bool {
        self.source.is_loopback() || self.source == *self.address.ip()
    }

    pub(super) fn first_sample(&self) -> Result<Sample, Error> {
        let Some(admin) = &self.admin else { return Ok(self.now(None)) };
        admin.note_shown()?;
        // What is shown is up to a second old.
        admin.next()?;
        self.sample()
    }

    pub(super) fn sample(&self) -> Result<Sample, Error> {
        match &self.admin {
            Some(admin) => Ok(self.now(Some(&admin.next()?))),
            None => {
                thread::sleep(SAMPLE_INTERVAL);
                Ok(self.now(None))
            }
        }
    }

    fn now(&self, status: Option<&Status>) -> Sample {
        let by_clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        Sample {
            at_us: status.map_or_else(by_clock, |status| status.at_us),
            counts: status.map(Counts::from),
            socket_drops: self.is_here().then(|| socket_drops(&[self.address.port()])),
            heap_bytes: None,
        }
    }

    /// Only on this machine is the bare kernel the relay's.
    pub(super) fn limit(&self, train: usize, destinations: &Destinations) -> Result<Option<f64>, Error> {
        let Some(about) = self.about.as_ref().filter(|_| self.is_here()) else { return Ok(None) };
        let io = if about.uses_io_uring { Io::Uring } else { Io::Mmsg };
        let zero_copy_from_bytes = relay::Config::default().zero_copy_from_bytes;
        let way = limit::Way { name: "the relay's", io, zero_copy_from_bytes };
        limit::by_plane(way, Ipv4Addr::LOCALHOST, destinations, train, limit::BESIDE_RELAY)
            .map(|pace| Some(pace.gbps()))
    }

    /// What a refusal means for a bench of this load, and what to do.
    pub(super) fn refused(&self, reason: RefuseReason, load: Load) -> Error {
        let Load { channels, subscribers, .. } = load;
        let from_one_address = if self.is_here() { channels } else { channels * (subscribers as usize + 1) };
        let remedy = match reason {
            RefuseReason::ChannelNotAllowed => {
                "while it is measured it has to carry any channel: start it with --open, or set `open = true` and reload it"
                    .to_owned()
            }
            RefuseReason::TooManyFromAddress => format!(
                "set its limits.sessions_per_address to {from_one_address} or more and reload it; that is how many an \
                 address has here. As many may begin at once, then one a second: runs one after the other add up"
            ),
            RefuseReason::Full => format!(
                "set its limits.subscribers to {} or more, beside those of others, and reload it",
                load.subscriptions()
            ),
            // Half of the places are for channels that have a publisher, which another worker may not have heard of yet.
            RefuseReason::TooManyChannels => format!(
                "set its limits.channels to {} or more, beside those of others and of runs within its window, and reload it",
                2 * channels
            ),
            _ => "see its limits, or try again later".to_owned(),
        };
        Error::BenchRefused { relay: self.address, reason, remedy }
    }
}

/// Where the relay says what it does.
struct Admin {
    agent: Agent,
    url: String,
    /// When what it said last was counted (0: nothing yet), and when it is worth asking again.
    at_us: Cell<u64>,
    ask_again_at: Cell<Instant>,
}

/// An answer takes no longer than this.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A status is longer with each channel; 100,000 are the most that a relay carries.
const STATUS_BYTES_MAX: u64 = 64 << 20;

/// The status changes once a second. It is looked for from then on, this often, for so long.
const UNCHANGED: Duration = Duration::from_millis(900);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const SILENCE_MAX: Duration = Duration::from_secs(10);

impl Admin {
    fn new(address: SocketAddr) -> Admin {
        // A proxy that the environment names is for the world outside.
        let config = Agent::config_builder().timeout_global(Some(ANSWER_MAX)).proxy(None);
        let agent = config.http_status_as_error(false).build().new_agent();
        Admin {
            agent,
            url: format!("http://{address}/status"),
            at_us: Cell::new(0),
            ask_again_at: Cell::new(Instant::now()),
        }
    }

    fn error(&self, why: impl ToString) -> Error {
        Error::BenchStatus { url: self.url.clone(), why: why.to_string() }
    }

    fn ask(&self) -> Result<Status, Error> {
        let answer = self.agent.get(&self.url).call();
        let mut answer = answer.map_err(|error| self.error(error))?;
        let body = answer.body_mut().with_config().limit(STATUS_BYTES_MAX).read_to_string();
        let body = body.map_err(|error| self.error(error))?;
        if !answer.status().is_success() {
            return Err(self.error(format!("{}: {}", answer.status(), body.trim_end())));
        }
        serde_json::from_str(&body).map_err(|error| self.error(format!("no status of this version: {error}")))
    }

    /// The status of a relay that listens on this port; one that has just started has none for a second.
    fn of_relay_on(&self, port: u16) -> Result<Status, Error> {
        let status = self.next()?;
        match status.listen {
            Some(listen) if listen.port() != port => {
                Err(self.error(format!("that relay listens on {listen}, not on port {port}")))
            }
            _ => Ok(status),
        }
    }

    fn note_shown(&self) -> Result<(), Error> {
        self.at_us.set(self.ask()?.at_us);
        Ok(())
    }

    /// The next that it says.
    fn next(&self) -> Result<Status, Error> {
        thread::sleep(self.ask_again_at.get().saturating_duration_since(Instant::now()));
        let give_up_at = Instant::now() + SILENCE_MAX;
        while Instant::now() < give_up_at {
            let status = self.ask()?;
            if status.at_us != self.at_us.get() {
                self.at_us.set(status.at_us);
                self.ask_again_at.set(Instant::now() + UNCHANGED);
                return Ok(status);
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Err(self.error(format!("it has said nothing new for {} s", SILENCE_MAX.as_secs())))
    }
}

/// The address from which this machine reaches another one, or itself.
fn source_towards(address: SocketAddrV4) -> std::io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(address)?;
    match socket.local_addr()? {
        SocketAddr::V4(source) => Ok(*source.ip()),
        SocketAddr::V6(_) => unreachable!("the socket is one of IPv4"),
    }
}
