//! Ctrl-C.

use std::fs;
use std::io::Write;
use std::net::UdpSocket;

use crate::lab::{Lab, noise};
use crate::processes::{Superpeer, until, until_bytes, write_in_background};

/// `128 + SIGINT`, as of a command that the signal ended (bash(1), EXIT STATUS).
const ENDED_AT_ONCE: i32 = 130;

#[test]
fn ctrl_c_ends_a_viewer_with_a_summary() {
    let lab = Lab::new();
    let viewer = lab.watch_into("out", &[]);
    lab.until_sessions(1);
    let (publisher, mut input) = lab.start_publisher();
    let bytes = noise(100_000);
    input.write_all(&bytes).unwrap();
    until_bytes(&lab.path("out"), bytes.len());
    viewer.signal("INT");
    let said = viewer.succeed();
    assert!(said.contains("missed 0;") && said.contains("delay p50 "), "{said}");
    assert!(fs::read(lab.path("out")).unwrap() == bytes);

    publisher.signal("TERM");
    let said = publisher.succeed();
    assert!(said.contains("published: chunks "), "{said}");
}

#[test]
fn ctrl_c_ends_the_channel_of_a_publisher_whose_input_goes_on() {
    let lab = Lab::new();
    let viewer = lab.watch_into("out", &[]);
    lab.until_sessions(1);
    let (publisher, mut input) = lab.start_publisher();
    let bytes = noise(100_000);
    input.write_all(&bytes).unwrap();
    until_bytes(&lab.path("out"), bytes.len());
    publisher.signal("INT");
    publisher.succeed();
    viewer.succeed();
    assert!(fs::read(lab.path("out")).unwrap() == bytes);
}

#[test]
fn ctrl_c_ends_commands_that_wait_for_an_address() {
    let lab = Lab::without_relay("no-such-host.invalid:7450");
    let (mut publisher, _input) = Superpeer::start_with_input(&lab.publish());
    let mut viewer = lab.watch_into("out", &[]);
    for command in [&mut publisher, &mut viewer] {
        command.until_said("cannot find the address of \"no-such-host.invalid:7450\"");
        command.until_said("still trying");
        assert!(!command.has_ended());
        command.signal("INT");
    }
    assert!(viewer.succeed().contains("watched: chunks 0, missed 0"));
    assert!(publisher.succeed().contains("published: chunks 1,"));
}

#[test]
fn ctrl_c_ends_a_publisher_that_nobody_answers() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let lab = Lab::without_relay(&silent.local_addr().unwrap().to_string());
    let (publisher, _input) = Superpeer::start_with_input(&lab.publish());
    publisher.until_said("does not answer");
    publisher.signal("INT");
    assert!(publisher.succeed().contains("published: chunks 1,"));
}

#[test]
fn a_stream_that_reached_no_relay_is_a_failure() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let lab = Lab::without_relay(&silent.local_addr().unwrap().to_string());
    let (publisher, mut input) = Superpeer::start_with_input(&lab.publish());
    input.write_all(&noise(1_000)).unwrap();
    drop(input);
    let (status, said) = publisher.wait();
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("no relay was connected"), "{said}");
}

#[test]
fn a_second_ctrl_c_ends_a_viewer_whose_output_is_stuck() {
    let lab = Lab::new();
    let (viewer, _never_read) = Superpeer::start_with_output(&["watch", &lab.link, "--stats"]);
    lab.until_sessions(1);
    let (_publisher, input) = lab.start_publisher();
    // More than a pipe holds.
    let _input = write_in_background(input, noise(300_000));
    viewer.until_said("\"shards_received\":2");
    assert_eq!(interrupt_until_it_ends(viewer), ENDED_AT_ONCE);
}

/// Presses Ctrl-C until the command ends; two presses may count as one.
fn interrupt_until_it_ends(mut command: Superpeer) -> i32 {
    command.until_it_listens_for_signals();
    until("it ends", || {
        // Just ended is as good.
        command.signal("INT");
        command.has_ended().then_some(())
    });
    command.wait().0
}
