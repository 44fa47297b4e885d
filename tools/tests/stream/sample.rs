//! A film through a relay to viewers.

use std::fs;

use tools::mpegts::{PACKET_BYTES, Scanner};

use crate::lab::Lab;
use crate::processes::{Superpeer, until_bytes};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sample.ts");

/// Where a late joiner can start.
fn join_points(stream: &[u8]) -> Vec<usize> {
    let (mut scanner, mut at, mut points) = (Scanner::new(), 0, Vec::new());
    scanner.push(stream, &mut |piece| {
        points.extend(piece.join.map(|back| at - back));
        at += piece.bytes.len();
    });
    points
}

#[test]
fn a_film_reaches_every_viewer_whole_and_a_late_one_from_a_join_point_on() {
    let sample = fs::read(SAMPLE).unwrap();
    let joins = join_points(&sample);
    println!("join points: {joins:?}");
    assert!(joins.len() >= 3, "{joins:?}");

    let lab = Lab::new();
    let names = ["one.ts", "two.ts", "three.ts"];
    let viewers = names.map(|name| lab.watch_into(name, &[]));
    lab.until_sessions(names.len());
    let publisher = Superpeer::start(&[&lab.publish()[..], &[SAMPLE]].concat());
    until_bytes(&lab.path("one.ts"), joins[2] + 5_000);
    let late = lab.watch_into("late.ts", &[]);
    // Comes back to what the relay still has.
    let from_start = lab.watch_into("start.ts", &["--from", "start"]);

    assert!(publisher.succeed().contains("published: "));
    for (viewer, name) in viewers.into_iter().zip(names) {
        let said = viewer.succeed();
        assert!(said.contains("the channel is not live yet") && said.contains("missed 0;"), "{said}");
        assert!(fs::read(lab.path(name)).unwrap() == sample, "{name} differs");
    }
    late.succeed();
    let output = fs::read(lab.path("late.ts")).unwrap();
    assert!(sample.ends_with(&output), "the late viewer's output is not the end of the film");
    let start = sample.len() - output.len();
    println!("the late viewer began at byte {start}");
    assert!(joins[2..].contains(&start), "it began at byte {start}, which is not the latest join point");
    let packet = &output[..PACKET_BYTES];
    assert_eq!((packet[0], packet[1] & 0x1f, packet[2]), (0x47, 0, 0), "it does not begin with a PAT");
    from_start.succeed();
    assert!(fs::read(lab.path("start.ts")).unwrap() == sample, "--from start does not begin at the start");
}

#[test]
fn a_looped_film_goes_on_until_ctrl_c() {
    let lab = Lab::new();
    let viewer = lab.watch_into("out.ts", &[]);
    lab.until_sessions(1);
    let publisher = Superpeer::start(&[&lab.publish()[..], &["--loop", SAMPLE]].concat());
    let sample = fs::read(SAMPLE).unwrap();
    until_bytes(&lab.path("out.ts"), sample.len() + 20_000);
    publisher.signal("INT");
    assert!(publisher.succeed().contains("published: "));
    viewer.succeed();
    assert!(fs::read(lab.path("out.ts")).unwrap().len() > sample.len());
}
