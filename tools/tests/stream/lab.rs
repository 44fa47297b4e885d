//! A relay, a channel, and a folder for what is watched.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ChildStdin;

use codec::ChannelLink;
use relay::{Config, Relay};
use tempfile::TempDir;
use tools::key_file::KeyFile;

use crate::processes::{Superpeer, until};

pub(crate) struct Lab {
    pub(crate) folder: TempDir,
    pub(crate) relay: Option<Relay>,
    /// Of the relay, as a user names it.
    pub(crate) relay_name: String,
    /// Of the channel's key file.
    pub(crate) key: String,
    /// Of the channel, with the relay in it.
    pub(crate) link: String,
}

impl Lab {
    /// A relay that carries any channel.
    pub(crate) fn new() -> Lab {
        Lab::with_relay(true)
    }

    /// A relay that carries no channel.
    pub(crate) fn with_closed_relay() -> Lab {
        Lab::with_relay(false)
    }

    fn with_relay(open: bool) -> Lab {
        let config = Config { listen: (Ipv4Addr::LOCALHOST, 0).into(), open, ..Config::default() };
        let relay = Relay::start(&config).unwrap();
        let name = relay.local_addr().to_string();
        Lab { relay: Some(relay), ..Lab::without_relay(&name) }
    }

    /// A link to a relay that is not there.
    pub(crate) fn without_relay(relay_name: &str) -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("demo.key").to_str().unwrap().to_owned();
        Superpeer::start(&["keygen", "--name", "demo", &key]).succeed();
        let key_file = KeyFile::read(key.as_ref()).unwrap();
        let link: ChannelLink = key_file.link(vec![relay_name.to_owned()]);
        Lab { folder, relay: None, relay_name: relay_name.to_owned(), key, link: link.to_string() }
    }

    /// Starts the relay at the address that this lab's link names.
    pub(crate) fn start_relay(&mut self) {
        let listen: SocketAddr = self.relay_name.parse().unwrap();
        self.relay = Some(Relay::start(&Config { listen, open: true, ..Config::default() }).unwrap());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments of a publisher, before its own.
    pub(crate) fn publish(&self) -> [&str; 5] {
        ["publish", "--key", &self.key, "--relay", &self.relay_name]
    }

    /// Starts a publisher of what is written into the input, and waits until the relay has granted it its session.
    pub(crate) fn start_publisher(&self) -> (Superpeer, ChildStdin) {
        let (publisher, input) = Superpeer::start_with_input(&self.publish());
        publisher.until_said("connected to ");
        (publisher, input)
    }

    /// Starts a viewer that writes into a file of this name.
    pub(crate) fn watch_into(&self, name: &str, more: &[&str]) -> Superpeer {
        let path = self.path(name);
        let arguments = ["watch", &self.link, path.to_str().unwrap()];
        Superpeer::start(&[&arguments[..], more].concat())
    }

    /// Waits until so many sessions are with the relay.
    pub(crate) fn until_sessions(&self, count: usize) {
        let relay = self.relay.as_ref().expect("a relay");
        until(format_args!("{count} sessions"), || {
            relay.take_snapshot().filter(|snapshot| snapshot.sessions == count)
        });
    }
}

/// Bytes that are no MPEG-TS; xorshift64 (Marsaglia 2003).
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x5eed_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}
