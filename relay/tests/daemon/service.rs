//! The daemon as a service that is stopped and started: sockets and memory that the test keeps in systemd's place.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use command_fds::{CommandFdExt, FdMapping};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::daemon::{Daemon, superpeerd};
use crate::wait::until;

/// What systemd keeps for a service, by name.
type Store = BTreeMap<String, OwnedFd>;

/// A systemd with one unit.
pub(crate) struct Systemd {
    folder: tempfile::TempDir,
    store: Arc<Mutex<Store>>,
}

impl Systemd {
    pub(crate) fn new() -> Systemd {
        let folder = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let store = Arc::new(Mutex::new(Store::new()));
        let for_listener = Arc::clone(&store);
        thread::spawn(move || {
            while let Some((said, passed)) = hear(&notify) {
                note(&mut for_listener.lock().unwrap(), &said, passed);
            }
        });
        Systemd { folder, store }
    }

    /// What is kept by now; to be changed as a test likes.
    pub(crate) fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Waits until the names of what is kept are these.
    pub(crate) fn until_kept(&self, names: &[&str]) {
        until(&format!("{names:?} are kept"), || {
            self.store().keys().map(String::as_str).eq(names.iter().copied()).then_some(())
        });
    }

    /// Starts the daemon with what is kept; with the lines of its log up to the one that says where it listens.
    pub(crate) fn start(&self, arguments: &[&str]) -> (Daemon, Vec<String>) {
        let daemon = superpeerd(&["--open", "--admin", "off"]);
        let mut command = Command::new("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]);
        command.arg(daemon.get_program()).args(daemon.get_args()).args(arguments).env_remove("RUST_LOG");
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        let store = self.store();
        let names: Vec<&str> = store.keys().map(String::as_str).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let mappings = store
            .values()
            .zip(3..)
            .map(|(kept, child_fd)| FdMapping { parent_fd: kept.try_clone().unwrap(), child_fd });
        command.fd_mappings(mappings.collect()).unwrap();
        drop(store);
        let daemon = Daemon::spawn(&mut command);
        // It has descriptors too.
        drop(command);
        daemon.until_it_listens()
    }
}

/// A message and what came with it; `None` once nobody can send any more.
fn hear(notify: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let (mut bytes, mut space) = ([0; 4_096], [std::mem::MaybeUninit::uninit(); 256]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let heard =
        recvmsg(notify, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    let passed = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Some((String::from_utf8(bytes[..heard.bytes].to_vec()).unwrap(), passed.flatten().collect()))
}

/// As sd_notify(3) says.
fn note(store: &mut Store, said: &str, passed: Vec<OwnedFd>) {
    let says = |line: &str| said.lines().any(|said| said == line);
    let name = said.lines().find_map(|line| line.strip_prefix("FDNAME="));
    if says("FDSTOREREMOVE=1") {
        store.remove(name.expect("what is to be removed has a name"));
    } else if says("FDSTORE=1") {
        assert!(says("FDPOLL=0"), "{said}");
        let [kept] = <[OwnedFd; 1]>::try_from(passed).expect("one at a time");
        assert!(store.insert(name.expect("what is kept has a name").to_owned(), kept).is_none(), "{said}");
    } else {
        assert!(passed.is_empty(), "{said}");
    }
}
