//! The transfer quota of the daemon: where it ends, what survives, who is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use codec::wire::control::{ByeReason, RefuseReason};
use jiff::ToSpan;
use mesh::Event;
use relay::status::{QuotaState, QuotaStatus};

use crate::admin::{address_in, get, status};
use crate::daemon::Daemon;
use crate::peer::{Peer, all_until, secret, stream_through};
use crate::reload::line_with;
use crate::wait::{DEADLINE, until};

const OTHER: &str = "10.9.9.9:7450";

/// What is published at once, bytes: not quite a chunk; and how much a viewer may lack before the next.
const PIECE: usize = 36_000;
const AHEAD_MAX: usize = 40_000;

/// A folder with a configuration and, later, an account.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(max: &str) -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        place.configure(max, &place.account());
        place
    }

    fn configure(&self, max: &str, account: &Path) {
        self.configure_with(max, account, "");
    }

    /// With more keys of the quota's.
    fn configure_with(&self, max: &str, account: &Path, more: &str) {
        let text = format!(
            "open = true\nothers = [\"{OTHER}\"]\n[quota]\nmax = \"{max}\"\nfile = \"{}\"\n{more}\n",
            account.display()
        );
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("superpeer.toml")
    }

    fn account(&self) -> PathBuf {
        self.folder.path().join("quota.toml")
    }

    /// What the account says.
    fn written(&self) -> u64 {
        let text = std::fs::read_to_string(self.account()).unwrap();
        let file: toml::Table = text.parse().unwrap();
        file["book"]["current"]["used_bytes"].as_integer().unwrap() as u64
    }

    fn start(&self, more: &[&str]) -> (Daemon, SocketAddr, Vec<String>) {
        let config = self.config();
        let arguments = ["--config", config.to_str().unwrap(), "--admin", "127.0.0.1:0"];
        let (daemon, log) = Daemon::start_with_log("127.0.0.1:0", &[&arguments[..], more].concat());
        let admin = address_in(&log);
        (daemon, admin, log)
    }
}

/// The publisher of a channel and those who watch it, at addresses that all workers serve.
struct Crowd {
    publisher: Peer,
    viewers: Vec<Peer>,
    /// Bytes of the stream that were published, and that each viewer has.
    pushed: usize,
    come: Vec<usize>,
}

impl Crowd {
    fn new(relay: SocketAddr, viewers: u8) -> Crowd {
        let at = |number: u8| IpAddr::from(Ipv4Addr::new(127, 0, 0, 2 + number));
        let viewer = |number| Peer::viewer_from(at(number), relay, secret(1).key());
        let publisher = Peer::publisher(relay, secret(1));
        let (viewers, come) = ((0..viewers).map(viewer).collect(), vec![0; usize::from(viewers)]);
        let mut crowd = Crowd { publisher, viewers, pushed: 0, come };
        let mut all: Vec<&mut Peer> = crowd.viewers.iter_mut().chain([&mut crowd.publisher]).collect();
        all_until(&mut all, "all are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
        crowd
    }

    fn peers(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.viewers.iter_mut().chain([&mut self.publisher])
    }

    fn ip_bytes(&mut self) -> u64 {
        self.peers().map(|peer| peer.ip_bytes).sum()
    }

    fn turn(&mut self) {
        self.publisher.turn();
        for (viewer, come) in self.viewers.iter_mut().zip(&mut self.come) {
            viewer.turn();
            *come += viewer.output.drain(..).count();
        }
    }

    /// Streams until `done`, no more than a chunk or two ahead of the viewers: their sockets' buffers are short, and what
    /// overflows there would have been sent and not have come.
    fn stream_until(&mut self, what: &str, mut done: impl FnMut(&mut Crowd) -> bool) {
        let mut last = (0, Instant::now());
        loop {
            let come = self.come.iter().min().copied().unwrap_or_default();
            if come > last.0 {
                last = (come, Instant::now());
            }
            assert!(last.1.elapsed() < DEADLINE, "nothing has come for {DEADLINE:?}: {what}");
            if self.pushed <= come + AHEAD_MAX {
                let words = (self.pushed as u32..).flat_map(u32::to_le_bytes);
                self.publisher.push(&words.take(PIECE).collect::<Vec<u8>>());
                self.pushed += PIECE;
            }
            self.turn();
            if done(self) {
                return;
            }
        }
    }

    /// Takes in what waits in the sockets of a relay that sends no more.
    fn drain(&mut self) {
        loop {
            let before = self.ip_bytes();
            self.turn();
            if self.ip_bytes() == before {
                return;
            }
        }
    }

    /// A goodbye may be lost; then the peer finds out by silence, and asks.
    fn was_let_go(&mut self) -> bool {
        let heard = |peer: &mut Peer| {
            peer.was_told_bye(ByeReason::Closing) || peer.was_refused(RefuseReason::QuotaUsed)
        };
        self.peers().all(heard)
    }
}

fn quota(admin: SocketAddr) -> QuotaStatus {
    until("a status with a quota", || status(admin).quota)
}

fn until_used_up(admin: SocketAddr) -> QuotaStatus {
    until("used up", || Some(quota(admin)).filter(|quota| quota.state == QuotaState::UsedUp))
}

/// A newcomer is refused for the quota and hears of the other node.
fn is_refused(relay: SocketAddr) -> Peer {
    let mut viewer = Peer::viewer(relay, secret(1).key());
    viewer.until("refused", |viewer| viewer.was_refused(RefuseReason::QuotaUsed));
    let other: SocketAddr = OTHER.parse().unwrap();
    let names_it = |event: &Event| matches!(event, Event::Refused { nodes, .. } if nodes[..] == [other]);
    assert!(viewer.events.iter().any(names_it), "{:?}", viewer.events);
    viewer
}

#[test]
fn a_hundred_megabytes_end_between_98_and_102_over_a_kill_and_more_opens_again() {
    let place = Place::new("100 MB");
    let (daemon, admin, _) = place.start(&[]);
    let mut crowd = Crowd::new(daemon.address(), 8);
    crowd.stream_until("half is used", |crowd| crowd.ip_bytes() > 50_000_000);
    assert_eq!(quota(admin).state, QuotaState::Ok);
    daemon.kill();
    crowd.drain();
    let first = crowd.ip_bytes();
    let written = place.written();
    assert!((first..first + 1_000_000).contains(&written), "{written} written ahead of {first}");

    let (daemon, admin, log) = place.start(&[]);
    assert!(log.iter().any(|line| line.contains("of 100.0 MB used")), "{log:?}");
    assert!(quota(admin).used_bytes >= first);
    let mut crowd = Crowd::new(daemon.address(), 8);
    crowd.stream_until("all are let go", Crowd::was_let_go);
    for line in ["80 % are reached", "95 % are reached", "used up; everybody is let go"] {
        line_with(&daemon, line);
    }
    let reported = until_used_up(admin);
    crowd.drain();
    let sent = first + crowd.ip_bytes();
    println!("{sent} bytes came, {} before the kill; the daemon says {}", first, reported.used_bytes);
    assert!((98_000_000..=102_000_000).contains(&sent), "{sent}");
    assert!(reported.used_bytes <= 100_000_000 && reported.left_bytes <= 1_000_000);
    until("a status without sessions", || (status(admin).sessions == 0).then_some(()));
    let metrics = get(admin, "/metrics", "localhost").1;
    assert!(
        metrics.contains("superpeer_quota_state 3")
            && metrics.contains("superpeer_quota_max_bytes 100000000")
    );

    drop(is_refused(daemon.address()));
    daemon.kill();
    let (daemon, _, _) = place.start(&[]);
    let mut viewer = is_refused(daemon.address());
    place.configure("200 MB", &place.account());
    daemon.signal("HUP");
    viewer.until("a larger quota lets in", Peer::is_connected);
    stream_through(daemon.address(), daemon.address(), secret(2));
}

#[test]
fn a_clean_end_leaves_exactly_what_was_sent_and_received_as_it_is_to_be_counted() {
    for (io, counts) in [("auto", "tx"), ("mmsg", "tx"), ("auto", "rx"), ("mmsg", "both")] {
        let place = Place::new("100 MB");
        place.configure_with("100 MB", &place.account(), &format!("counts = \"{counts}\""));
        let (mut daemon, _, _) = place.start(&["--io", io]);
        let mut crowd = Crowd::new(daemon.address(), 3);
        crowd.stream_until("some is used", |crowd| crowd.ip_bytes() > 3_000_000);
        crowd.drain();
        let received: u64 = crowd.peers().map(|peer| peer.ip_bytes_sent).sum();
        daemon.signal("TERM");
        assert_eq!(daemon.wait().code(), Some(0));
        crowd.drain();
        let sent = crowd.ip_bytes();
        let expected = match counts {
            "tx" => sent,
            "rx" => received,
            _ => sent + received,
        };
        assert_eq!(place.written(), expected, "{io}, {counts}");
    }
}

#[test]
fn where_account_cannot_be_kept_a_twentieth_is_sent_and_the_rest_when_it_can() {
    for io in ["auto", "mmsg"] {
        let place = Place::new("20 MB");
        let no_folder = place.folder.path().join("state");
        std::fs::write(&no_folder, "a file").unwrap();
        place.configure("20 MB", &no_folder.join("quota.toml"));
        let (daemon, admin, _) = place.start(&["--io", io]);
        line_with(&daemon, "cannot be written");
        let mut crowd = Crowd::new(daemon.address(), 3);
        crowd.stream_until("all are let go", Crowd::was_let_go);
        let quota = until_used_up(admin);
        crowd.drain();
        assert!(!quota.is_written && quota.used_bytes <= 1_000_000, "{quota:?}");
        assert!((838_000..=1_000_000).contains(&crowd.ip_bytes()), "{}", crowd.ip_bytes());

        std::fs::remove_file(&no_folder).unwrap();
        std::fs::create_dir(&no_folder).unwrap();
        line_with(&daemon, "let in again");
        stream_through(daemon.address(), daemon.address(), secret(2));
    }
}

#[test]
fn a_disk_that_hangs_is_not_waited_for() {
    for io in ["auto", "mmsg"] {
        let place = Place::new("100 MB");
        // Opening a pipe that nobody reads does not return.
        let pipe = place.folder.path().join("quota.toml.new");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (daemon, admin, _) = place.start(&["--io", io]);
        line_with(&daemon, "cannot be written: timed out");
        stream_through(daemon.address(), daemon.address(), secret(1));
        let used = until("a status that says it", || Some(quota(admin)).filter(|quota| !quota.is_written));
        // Whoever reads it ends the waiting; what comes next is a file.
        let reader = std::fs::File::open(&pipe).unwrap();
        std::fs::remove_file(&pipe).unwrap();
        line_with(&daemon, "can be written again");
        drop(reader);
        assert!(place.written() >= used.used_bytes);
    }
}

#[test]
fn an_account_that_cannot_be_read_is_put_aside_and_counts_as_used_up() {
    let place = Place::new("100 MB");
    std::fs::write(place.account(), "no account").unwrap();
    let (daemon, _, log) = place.start(&[]);
    assert!(log.iter().any(|line| line.contains("ERROR") && line.contains("is no account")), "{log:?}");
    is_refused(daemon.address());
    let aside = place.folder.path().join("quota.toml.unreadable");
    assert_eq!(std::fs::read_to_string(aside).unwrap(), "no account");
    daemon.kill();
    let (daemon, admin, _) = place.start(&[]);
    until_used_up(admin);
    is_refused(daemon.address());
}

#[test]
fn a_quota_comes_and_goes_with_the_configuration() {
    let place = Place::new("none");
    let (daemon, admin, _) = place.start(&[]);
    stream_through(daemon.address(), daemon.address(), secret(1));
    assert_eq!(status(admin).quota, None);
    place.configure("20 MB", &place.account());
    daemon.signal("HUP");
    let begun = quota(admin);
    assert!(begun.used_bytes < 100_000, "what was sent before does not count: {begun:?}");
    let mut crowd = Crowd::new(daemon.address(), 3);
    crowd.stream_until("all are let go", Crowd::was_let_go);
    assert_eq!(until_used_up(admin).max_bytes, 20_000_000);
    place.configure("none", &place.account());
    daemon.signal("HUP");
    until("no quota", || status(admin).quota.is_none().then_some(()));
    stream_through(daemon.address(), daemon.address(), secret(2));
}

#[test]
fn what_is_received_ends_with_goodbyes_too() {
    let place = Place::new("20 MB");
    place.configure_with("20 MB", &place.account(), "counts = \"rx\"");
    let (daemon, admin, _) = place.start(&[]);
    let mut crowd = Crowd::new(daemon.address(), 1);
    crowd.stream_until("all are let go", Crowd::was_let_go);
    until_used_up(admin);
    let received: u64 = crowd.peers().map(|peer| peer.ip_bytes_sent).sum();
    assert!((19_600_000..=20_400_000).contains(&received), "{received}");
}

#[test]
fn pacing_keeps_subscribers_out_while_use_is_ahead_and_lets_publishers_in() {
    let place = Place::new("100 MB");
    // A period that began today, or, late in the month, some days ago; the account is of another one, for two hours.
    let now = jiff::Timestamp::now();
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).day().min(28);
    let (hour_ago, in_an_hour) = (now - 1.hour(), now + 1.hour());
    let account = format!(
        "superpeerd_quota = 1\n[book]\nwarned_percent = 0\n[book.current]\nused_bytes = 60000000\n\
         [book.current.period]\nstart = \"{hour_ago}\"\nend = \"{in_an_hour}\"\n"
    );
    std::fs::write(place.account(), account).unwrap();
    let paced = format!("start_day = {today}\npacing = true");
    place.configure_with("100 MB", &place.account(), &paced);
    let (daemon, admin, log) = place.start(&[]);
    assert!(log.iter().any(|line| line.contains("60.0 MB of 100.0 MB used")), "{log:?}");
    let mut publisher = Peer::publisher(daemon.address(), secret(1));
    let mut viewer = Peer::viewer(daemon.address(), secret(1).key());
    all_until(&mut [&mut publisher, &mut viewer], "one is in, one is not", |peers| {
        peers[0].is_connected() && peers[1].was_refused(RefuseReason::EgressFull)
    });
    assert_eq!(quota(admin).state, QuotaState::Paced);
    place.configure_with("100 MB", &place.account(), &format!("start_day = {today}"));
    daemon.signal("HUP");
    all_until(&mut [&mut publisher, &mut viewer], "both are in", |peers| {
        peers.iter().all(|peer| peer.is_connected())
    });
}

#[test]
fn without_a_place_for_the_account_the_daemon_says_what_to_do() {
    let place = Place::new("100 MB");
    std::fs::write(place.config(), "open = true\n[quota]\nmax = \"2 TB\"\n").unwrap();
    let config = place.config();
    let config = ["--config", config.to_str().unwrap()];
    let (code, _, complaint) = crate::daemon::run(&[&config[..], &["--admin", "off"]].concat());
    assert!(
        code == 1 && complaint.contains("quota.file") && complaint.contains("StateDirectory"),
        "{complaint}"
    );
    assert_eq!(
        crate::daemon::run(&[&config[..], &["--check-config"]].concat()).0,
        0,
        "it may be right elsewhere"
    );
}
