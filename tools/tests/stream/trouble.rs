//! Relays that refuse, are silent, or come and go.

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Lab, noise};
use crate::processes::{Superpeer, until_bytes, write_in_background};

#[test]
fn a_relay_that_does_not_carry_the_channel_ends_both_commands() {
    let lab = Lab::with_closed_relay();
    let (publisher, _input) = Superpeer::start_with_input(&lab.publish());
    let viewer = lab.watch_into("out", &[]);
    for command in [publisher, viewer] {
        let (status, said) = command.wait();
        assert_eq!(status, 1, "{said}");
        let refusal = said.lines().filter(|line| line.contains("refused (")).collect::<Vec<_>>();
        let [refusal] = refusal[..] else { panic!("{said}") };
        assert!(
            refusal.contains(&lab.relay_name) && refusal.contains("does not carry that channel"),
            "{said}"
        );
        assert!(refusal.contains("--open"), "it does not say what to do: {said}");
    }
}

#[test]
fn a_viewer_turns_to_a_relay_that_carries_the_channel() {
    let closed = Lab::with_closed_relay();
    let lab = Lab::new();
    let (publisher, mut input) = lab.start_publisher();
    let key_only = lab.link.split('&').next().unwrap();
    let path = lab.path("out");
    let arguments = ["watch", key_only, path.to_str().unwrap()];
    let relays = ["--relay", &closed.relay_name, "--relay", &lab.relay_name];
    let viewer = Superpeer::start(&[&arguments[..], &relays].concat());
    lab.until_sessions(2);
    let bytes = noise(100_000);
    input.write_all(&bytes).unwrap();
    drop(input);
    publisher.succeed();
    viewer.succeed();
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn a_stream_through_two_relays_reaches_the_viewers_of_both() {
    let (one, other) = (Lab::new(), Lab::new());
    let key_only = one.link.split('&').next().unwrap();
    let path = other.path("out");
    let arguments = ["watch", key_only, path.to_str().unwrap(), "--relay", &other.relay_name];
    let viewers = [one.watch_into("out", &[]), Superpeer::start(&arguments)];
    one.until_sessions(1);
    other.until_sessions(1);
    let arguments = [&one.publish()[..], &["--relay", &other.relay_name]].concat();
    let (publisher, mut input) = Superpeer::start_with_input(&arguments);
    one.until_sessions(2);
    other.until_sessions(2);
    let bytes = noise(100_000);
    input.write_all(&bytes).unwrap();
    drop(input);
    publisher.succeed();
    viewers.into_iter().for_each(|viewer| drop(viewer.succeed()));
    assert!(fs::read(one.path("out")).unwrap() == bytes);
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn a_relay_that_lets_its_peers_go_sends_them_to_another_and_nothing_is_lost() {
    let (leaving, other) = (Lab::new(), Lab::new());
    let path = leaving.path("out");
    let viewer = leaving.watch_into("out", &["--delay-ms", "10000"]);
    leaving.until_sessions(1);
    let (publisher, input) = leaving.start_publisher();
    let live = Live::start(input);
    until_bytes(&path, 100_000);
    let relay = leaving.relay.as_ref().unwrap();
    let others = [other.relay_name.parse().unwrap()].into_iter().collect();
    relay.configure(&relay::Config { open: true, others, ..Default::default() });
    relay.close_to_newcomers(Some(codec::wire::control::RefuseReason::Closing));
    relay.let_all_go();
    other.until_sessions(2);
    until_bytes(&path, live.written() + 100_000);
    let published = live.finish();
    publisher.succeed();
    let said = viewer.succeed();
    assert!(said.contains("missed 0;"), "{said}");
    assert!(fs::read(&path).unwrap() == published);
}

#[test]
fn a_short_input_that_ends_before_the_relay_answers_is_not_lost() {
    let lab = Lab::new();
    let viewer = lab.watch_into("out", &[]);
    lab.until_sessions(1);
    let (publisher, mut input) = Superpeer::start_with_input(&lab.publish());
    let bytes = noise(200_000);
    input.write_all(&bytes).unwrap();
    drop(input);
    let said = publisher.succeed();
    assert!(!said.contains("did not reach"), "{said}");
    viewer.succeed();
    assert!(fs::read(lab.path("out")).unwrap() == bytes);
}

#[test]
fn a_viewer_waits_for_a_channel_that_is_not_live_yet() {
    let lab = Lab::new();
    let mut viewer = lab.watch_into("out", &[]);
    viewer.until_said("the channel is not live yet");
    assert!(!viewer.has_ended());
    let (publisher, mut input) = lab.start_publisher();
    let bytes = noise(100_000);
    input.write_all(&bytes).unwrap();
    drop(input);
    publisher.succeed();
    viewer.succeed();
    assert!(fs::read(lab.path("out")).unwrap() == bytes);
}

const RESIDENT_BYTES_MAX: u64 = 200 << 20;

#[test]
fn a_silent_relay_is_told_of_the_input_goes_on_and_so_does_the_stream_once_the_relay_is_there() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut lab = Lab::without_relay(&silent.local_addr().unwrap().to_string());
    let begun = Instant::now();
    let (publisher, input) = Superpeer::start_with_input(&lab.publish());
    let viewer = lab.watch_into("out", &[]);
    publisher.until_said("does not answer");
    viewer.until_said("does not answer");
    println!("silence was told of after {:?}; within 10 s is required", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20));

    // The source must never be held up: 20 MB, far more than the publisher keeps for repair at that speed.
    let mut published = noise(20_000_000);
    let written = write_in_background(input, published.clone());
    crate::processes::until("20 MB are read without a relay", || written.is_finished().then_some(()));
    let mut input = written.join().unwrap().expect("it reads on");
    println!("resident memory: {} KiB", publisher.resident_bytes() / 1024);
    assert!(publisher.resident_bytes() < RESIDENT_BYTES_MAX);

    drop(silent);
    lab.start_relay();
    lab.until_sessions(2);
    let more = noise(300_000);
    input.write_all(&more).unwrap();
    published.extend(&more);
    drop(input);
    publisher.succeed();
    viewer.succeed();
    let output = fs::read(lab.path("out")).unwrap();
    println!("the viewer got the last {} bytes of {}", output.len(), published.len());
    assert!(output.len() >= more.len() && published.ends_with(&output));
}

/// A stream that goes on by itself until it is told to end.
pub(crate) struct Live {
    written: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    writer: thread::JoinHandle<Vec<u8>>,
}

impl Live {
    pub(crate) fn start(mut input: std::process::ChildStdin) -> Live {
        let (written, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (Arc::clone(&written), Arc::clone(&stop));
        let writer = thread::spawn(move || {
            let bytes = noise(40_000_000);
            for piece in bytes.chunks(5_000) {
                if end.load(Ordering::Acquire) {
                    break;
                }
                input.write_all(piece).unwrap();
                count.fetch_add(piece.len(), Ordering::AcqRel);
                // The pace of the stream: 2 Mbit/s.
                thread::sleep(Duration::from_millis(20));
            }
            bytes[..count.load(Ordering::Acquire)].to_vec()
        });
        Live { written, stop, writer }
    }

    pub(crate) fn written(&self) -> usize {
        self.written.load(Ordering::Acquire)
    }

    /// Ends the stream; returns all of it.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.stop.store(true, Ordering::Release);
        self.writer.join().unwrap()
    }
}

#[test]
fn a_stream_survives_a_restart_of_the_relay_whole() {
    let mut lab = Lab::new();
    let path = lab.path("out");
    let viewer = lab.watch_into("out", &["--delay-ms", "10000"]);
    lab.until_sessions(1);
    let (publisher, input) = lab.start_publisher();
    let live = Live::start(input);
    until_bytes(&path, 100_000);

    lab.relay.take().unwrap().stop();
    let stopped_at = live.written();
    crate::processes::until("more is published", || (live.written() > stopped_at + 50_000).then_some(()));
    let restarted = Instant::now();
    lab.start_relay();
    until_bytes(&path, live.written());
    println!("the output went on {:?} after the restart; within 3 s is required", restarted.elapsed());
    assert!(restarted.elapsed() < Duration::from_secs(10));
    until_bytes(&path, live.written() + 100_000);

    let published = live.finish();
    let said = publisher.succeed();
    assert!(said.contains("the other node is shutting down"), "{said}");
    let said = viewer.succeed();
    assert!(said.contains("missed 0;"), "{said}");
    let output = fs::read(&path).unwrap();
    assert!(output == published, "{} of {} bytes", output.len(), published.len());
}

#[test]
fn a_publisher_that_is_killed_and_started_again_goes_on_with_its_viewers() {
    let lab = Lab::new();
    let path = lab.path("out");
    let viewer = lab.watch_into("out", &[]);
    lab.until_sessions(1);
    let (killed, mut input) = lab.start_publisher();
    let bytes = noise(200_000);
    input.write_all(&bytes[..100_000]).unwrap();
    until_bytes(&path, 100_000);
    drop(killed);

    let (publisher, mut input) = lab.start_publisher();
    input.write_all(&bytes[100_000..]).unwrap();
    drop(input);
    publisher.succeed();
    viewer.succeed();
    assert!(fs::read(&path).unwrap() == bytes);
}
