//! The daemon's configuration: a TOML file, every key of which is explained in `systemd/superpeer.toml`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use codec::ChannelKey;
use codec::wire::control::{NODES_MAX, Nodes};
use mesh::limits::UPSTREAMS_AT_ONCE_MAX;
use mesh::{Admission, Limits, NodeConfig, SLOT_BYTES};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::budget::{
    FILES_BESIDE_WORKERS, FILES_PER_WORKER, RING_LOCKED_BYTES, SLOT_MEMORY_BYTES, SLOT_MEMORY_BYTES_MAX,
    SLOT_MEMORY_BYTES_MIN, WORKERS_MAX,
};
use crate::plane::Io;
use crate::plane::budget::ZERO_COPY_FROM_BYTES;

mod channel;
mod keys;
mod quota;

pub use channel::Channel;
use channel::bps;
use keys::{UnknownKey, line_of, unknown_key};
pub use quota::{Counts, QuotaConfig, QuotaFile, QuotaMax, QuotaPeriod};

/// The commented default, which `--print-config` prints.
pub const DEFAULT_CONFIG: &str = include_str!("../../systemd/superpeer.toml");

/// A configuration file is at most this long, in bytes: the links of 100,000 channels.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Channels carried at once, at most.
const CHANNELS_MAX: u64 = 100_000;

/// A terabit a second: nobody's link.
const EGRESS_MBPS_MAX: u64 = 1_000_000;

/// What the daemon is told. The keys are those of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// What moves the datagrams.
    pub io: Io,
    /// How many threads move datagrams.
    pub workers: Workers,
    /// Trains of at least so many bytes are sent without a copy; 0: none.
    pub zero_copy_from_bytes: u32,
    /// Whether any channel is carried, not only the listed ones.
    pub open: bool,
    /// The channels that are carried, or that have bounds of their own.
    pub channels: Vec<Channel>,
    /// Other nodes, which those are told of whom this one refuses or lets go.
    #[serde(deserialize_with = "others")]
    pub others: Nodes,
    /// How many of a channel's upstreams it is pulled from at a time.
    pub upstreams_at_once: usize,
    /// The bounds.
    pub limits: LimitsConfig,
    /// What may be transferred in a period.
    pub quota: QuotaConfig,
    /// Looking after the relay.
    pub admin: AdminConfig,
}

/// The `[admin]` of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where its status and metrics are to be had.
    pub listen: AdminListen,
    /// Where commands are taken.
    pub socket: AdminSocket,
}

/// A unix socket, or nothing: who may connect is a matter of its file's permissions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum AdminSocket {
    /// `admin.sock` in the runtime directory that systemd gives (`$RUNTIME_DIRECTORY`); without one, nothing.
    #[default]
    Auto,
    /// Nothing.
    Off,
    /// This file.
    Path(PathBuf),
}

impl AdminSocket {
    /// The file.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            AdminSocket::Auto => {
                let folders = std::env::var_os("RUNTIME_DIRECTORY")?;
                Some(std::env::split_paths(&folders).next()?.join("admin.sock"))
            }
            AdminSocket::Off => None,
            AdminSocket::Path(path) => Some(path.clone()),
        }
    }
}

impl From<String> for AdminSocket {
    fn from(text: String) -> AdminSocket {
        match text.as_str() {
            "auto" => AdminSocket::Auto,
            "off" => AdminSocket::Off,
            _ => AdminSocket::Path(text.into()),
        }
    }
}

/// A loopback address, TCP, or nothing: whoever can connect sees everything, without a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AdminListen(pub Option<SocketAddr>);

impl FromStr for AdminListen {
    type Err = String;

    fn from_str(text: &str) -> Result<AdminListen, String> {
        if text == "off" {
            return Ok(AdminListen(None));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(AdminListen(Some(address))),
            Ok(_) => Err(format!(
                "{text} is no loopback address, and there is no password; reach it from elsewhere by \
                 `ssh -L 7451:127.0.0.1:7451`"
            )),
            Err(_) => Err(format!("{text:?} is neither \"off\" nor a loopback address with a port")),
        }
    }
}

impl TryFrom<String> for AdminListen {
    type Error = String;

    fn try_from(text: String) -> Result<AdminListen, String> {
        text.parse()
    }
}

impl Default for AdminConfig {
    fn default() -> AdminConfig {
        AdminConfig {
            listen: AdminListen(Some((Ipv4Addr::LOCALHOST, 7451).into())),
            socket: AdminSocket::default(),
        }
    }
}

/// An address with a port. A name is none: nobody looks it up.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no IP address with a port, as 192.0.2.7:7450 or [::]:7450"))
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    parse_address(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// At most as many as a refusal has room for.
fn others<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Nodes, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let addresses = texts.iter().map(|text| parse_address(text)).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.map_err(D::Error::custom)?;
    if addresses.len() > NODES_MAX {
        return Err(D::Error::custom(format!(
            "{} addresses; a refusal has room for {NODES_MAX}",
            addresses.len()
        )));
    }
    Ok(addresses.into_iter().collect())
}

/// How many threads move datagrams: a number from 1 to 64, or as many as there are processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WorkersText")]
pub enum Workers {
    /// One for each processor that the process may use.
    #[default]
    Auto,
    /// So many.
    Fixed(usize),
}

impl Workers {
    /// The number.
    pub fn count(self) -> usize {
        match self {
            Workers::Auto => std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX),
            Workers::Fixed(count) => count,
        }
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Workers, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Workers::Auto),
            (_, Ok(count)) if (1..=WORKERS_MAX).contains(&count) => Ok(Workers::Fixed(count)),
            _ => Err(format!("workers: {text:?} is neither \"auto\" nor 1 to {WORKERS_MAX}")),
        }
    }
}

/// As it may stand in the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum WorkersText {
    Number(i64),
    Word(String),
}

impl TryFrom<WorkersText> for Workers {
    type Error = String;

    fn try_from(text: WorkersText) -> Result<Workers, String> {
        match text {
            WorkersText::Number(number) => number.to_string().parse(),
            WorkersText::Word(word) => word.parse(),
        }
    }
}

/// The `[limits]` of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Channels carried at once.
    pub channels: usize,
    /// Subscribers of all channels together.
    pub subscribers: usize,
    /// Subscribers of one channel; 0: as many as of all together.
    pub subscribers_per_channel: usize,
    /// Mbit/s that leave at most, IP headers included; 0: no cap.
    pub egress_mbps: u64,
    /// Sessions from one IPv4 address or one IPv6 /64.
    pub sessions_per_address: usize,
    /// How long chunks are kept, in seconds.
    pub window_seconds: u64,
    /// Slot memory that one channel's window may fill, in MiB.
    pub window_mib: u64,
    /// Slot memory of all windows together, in MiB.
    pub memory_mib: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: "[::]:7450".parse().expect("an address"),
            io: Io::default(),
            workers: Workers::default(),
            zero_copy_from_bytes: ZERO_COPY_FROM_BYTES,
            open: false,
            channels: Vec::new(),
            others: Nodes::new(),
            upstreams_at_once: 1,
            limits: LimitsConfig::default(),
            quota: QuotaConfig::default(),
            admin: AdminConfig::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        let limits = Limits::default();
        LimitsConfig {
            channels: limits.channels_max,
            subscribers: limits.subscribers_max,
            subscribers_per_channel: 0,
            egress_mbps: 0,
            sessions_per_address: limits.sessions_per_address_max,
            window_seconds: limits.window.as_secs(),
            window_mib: (limits.window_bytes_max >> 20) as u64,
            memory_mib: SLOT_MEMORY_BYTES >> 20,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is longer than any configuration is.
    #[error("{path} is longer than {FILE_BYTES_MAX} bytes: that is no configuration")]
    Length {
        /// The file.
        path: String,
    },
    /// A key that there is not.
    #[error("{path}:{line}: unknown key {key} = {value}; {remedy}")]
    UnknownKey {
        /// The file.
        path: String,
        /// The line.
        line: usize,
        /// The key, with its table.
        key: String,
        /// Its value as it stands there.
        value: String,
        /// What is to be done.
        remedy: String,
    },
    /// Not TOML, or a value of the wrong kind. The message shows line and column.
    #[error("{path}: {source}`superpeerd --print-config` shows every key with its meaning")]
    Parse {
        /// The file.
        path: String,
        /// Where and what.
        source: toml::de::Error,
    },
    /// A quota of which no account can be kept.
    #[error(
        "no place for the account of the quota: set quota.file, or have systemd give a folder (StateDirectory=superpeer)"
    )]
    NoQuotaFile,
    /// A value out of range.
    #[error("{path}:{line}: {key} = {value}: must be {least} to {most}")]
    Range {
        /// The file.
        path: String,
        /// The line; 0 for a default, which does not happen.
        line: usize,
        /// The key.
        key: &'static str,
        /// What it was set to.
        value: u64,
        /// The least that is accepted.
        least: u64,
        /// The most that is accepted.
        most: u64,
    },
}

impl ConfigError {
    fn unknown_key(path: &str, unknown: UnknownKey) -> ConfigError {
        let UnknownKey { line, key, value, meant } = unknown;
        let remedy = match meant {
            Some(meant) => format!("the nearest there is: {meant}"),
            None => "`superpeerd --print-config` shows every key with its meaning".to_owned(),
        };
        ConfigError::UnknownKey { path: path.to_owned(), line, key, value, remedy }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Says what is wrong where.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let name = || path.display().to_string();
        let unreadable = |source| ConfigError::Read { path: name(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)? as u64;
        if bytes > FILE_BYTES_MAX {
            return Err(ConfigError::Length { path: name() });
        }
        Config::parse(&text, &name())
    }

    /// Reads the text of a file called `path`.
    ///
    /// # Errors
    /// Says what is wrong where.
    pub fn parse(text: &str, path: &str) -> Result<Config, ConfigError> {
        if let Some(unknown) = unknown_key(text) {
            return Err(ConfigError::unknown_key(path, unknown));
        }
        let config: Config =
            toml::from_str(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        config.check(text, path)?;
        Ok(config)
    }

    fn check(&self, text: &str, path: &str) -> Result<(), ConfigError> {
        let zero_copy = ("zero_copy_from_bytes", u64::from(self.zero_copy_from_bytes), 0, SLOT_BYTES as u64);
        let at_once = ("upstreams_at_once", self.upstreams_at_once as u64, 1, UPSTREAMS_AT_ONCE_MAX as u64);
        let pulled = self.upstreams().len() as u64;
        let channels = ("limits.channels", self.limits.channels as u64, pulled, CHANNELS_MAX);
        let others = [zero_copy, at_once, channels, self.quota.start_day_range()];
        let ranges = self.limits.ranges().into_iter().chain(others);
        match ranges.into_iter().find(|(_, value, least, most)| !(least..=most).contains(&value)) {
            Some((key, value, least, most)) => {
                let line = line_of(text, key).unwrap_or(0);
                Err(ConfigError::Range { path: path.to_owned(), line, key, value, least, most })
            }
            None => Ok(()),
        }
    }

    /// Whose sessions are granted.
    pub fn admission(&self) -> Admission {
        if self.open {
            return Admission::Open;
        }
        Admission::Listed(self.channels.iter().map(|channel| channel.key).collect::<HashSet<_>>())
    }

    /// The channels that are pulled, each with the relays that it is pulled from.
    pub fn upstreams(&self) -> HashMap<ChannelKey, Vec<String>> {
        let mut upstreams: HashMap<ChannelKey, Vec<String>> = HashMap::new();
        for channel in self.channels.iter().filter(|channel| !channel.upstreams.is_empty()) {
            upstreams.entry(channel.key).or_default().extend(channel.upstreams.iter().cloned());
        }
        upstreams
    }

    /// What a worker's node goes by.
    pub(crate) fn node(&self) -> NodeConfig {
        let channel_limits = self.channels.iter().map(|channel| (channel.key, channel.limits())).collect();
        NodeConfig {
            admission: self.admission(),
            limits: self.limits(),
            channel_limits,
            others: self.others.clone(),
        }
    }

    /// The keys in which `new` differs and that act only when the relay starts.
    pub(crate) fn only_at_restart(&self, new: &Config) -> Vec<&'static str> {
        let differ = [
            ("listen", self.listen != new.listen),
            ("io", self.io != new.io),
            ("workers", self.workers != new.workers),
            ("zero_copy_from_bytes", self.zero_copy_from_bytes != new.zero_copy_from_bytes),
            ("limits.memory_mib", self.limits.memory_mib != new.limits.memory_mib),
            ("admin.listen", self.admin.listen != new.admin.listen),
            ("admin.socket", self.admin.socket != new.admin.socket),
        ];
        differ.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// The node's bounds.
    pub fn limits(&self) -> Limits {
        Limits {
            channels_max: self.limits.channels,
            subscribers_max: self.limits.subscribers,
            subscribers_per_channel_max: Some(self.limits.subscribers_per_channel).filter(|most| *most > 0),
            egress_bps_max: bps(self.limits.egress_mbps),
            sessions_per_address_max: self.limits.sessions_per_address,
            window: Duration::from_secs(self.limits.window_seconds),
            window_bytes_max: (self.limits.window_mib << 20) as usize,
        }
    }

    /// How many threads move datagrams: as many as `workers` says, if the slot memory gives each the least that one can
    /// do with.
    pub(crate) fn workers_max(&self) -> usize {
        let parts = self.memory_bytes() / SLOT_MEMORY_BYTES_MIN as usize;
        self.workers.count().min(parts).max(1)
    }

    /// What its workers may have locked together, bytes: each its ring, and where trains leave without a copy all of the
    /// slot memory.
    pub fn locked_bytes_max(&self) -> u64 {
        let slots = if self.zero_copy_from_bytes == 0 { 0 } else { self.memory_bytes() as u64 };
        self.workers_max() as u64 * (RING_LOCKED_BYTES + slots)
    }

    /// Descriptors that it may have open.
    pub fn files_max(&self) -> u64 {
        self.workers_max() as u64 * FILES_PER_WORKER + FILES_BESIDE_WORKERS
    }

    /// Slot memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        (self.limits.memory_mib << 20) as usize
    }
}

impl LimitsConfig {
    /// Each key with its value, and the least and the most that is accepted.
    fn ranges(&self) -> [(&'static str, u64, u64, u64); 8] {
        let mib_min = SLOT_MEMORY_BYTES_MIN.div_ceil(1 << 20);
        let mib_max = SLOT_MEMORY_BYTES_MAX >> 20;
        [
            ("limits.channels", self.channels as u64, 1, CHANNELS_MAX),
            ("limits.subscribers", self.subscribers as u64, 1, 1_000_000),
            ("limits.subscribers_per_channel", self.subscribers_per_channel as u64, 0, 1_000_000),
            ("limits.egress_mbps", self.egress_mbps, 0, EGRESS_MBPS_MAX),
            ("limits.sessions_per_address", self.sessions_per_address as u64, 1, 1_000_000),
            ("limits.window_seconds", self.window_seconds, 1, 600),
            ("limits.window_mib", self.window_mib, mib_min, mib_max),
            ("limits.memory_mib", self.memory_mib, mib_min, mib_max),
        ]
    }
}

#[cfg(test)]
mod tests;
