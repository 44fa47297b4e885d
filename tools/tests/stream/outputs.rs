//! Any bytes, into anything that takes bytes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::{ChildStdin, ChildStdout};

use crate::lab::{Lab, noise};
use crate::processes::{DEADLINE, Superpeer, until_bytes, write_in_background};

/// Writes it in pieces of odd lengths.
fn write_in_pieces(input: &mut ChildStdin, bytes: &[u8]) {
    for piece in bytes.chunks(3_001) {
        input.write_all(piece).unwrap();
    }
}

#[test]
fn bytes_that_are_no_mpeg_ts_are_carried_as_they_are() {
    let lab = Lab::new();
    let viewer = lab.watch_into("out", &[]);
    lab.until_sessions(1);
    let (publisher, mut input) = lab.start_publisher();
    let bytes = noise(200_000);
    write_in_pieces(&mut input, &bytes);
    drop(input);
    let said = publisher.succeed();
    assert!(said.contains("not MPEG-TS"), "{said}");
    viewer.succeed();
    assert!(fs::read(lab.path("out")).unwrap() == bytes);
}

#[test]
fn a_stream_without_a_byte_ends_too() {
    let lab = Lab::new();
    let viewer = lab.watch_into("out", &[]);
    lab.until_sessions(1);
    let (publisher, input) = lab.start_publisher();
    drop(input);
    publisher.succeed();
    viewer.succeed();
    assert!(fs::read(lab.path("out")).unwrap().is_empty());
}

#[test]
fn standard_output_carries_the_stream_and_nothing_else() {
    let lab = Lab::new();
    let (viewer, mut output) = Superpeer::start_with_output(&["watch", &lab.link]);
    lab.until_sessions(1);
    let (publisher, mut input) = lab.start_publisher();
    let bytes = noise(100_000);
    write_in_pieces(&mut input, &bytes);
    drop(input);
    publisher.succeed();
    let mut watched = Vec::new();
    output.read_to_end(&mut watched).unwrap();
    viewer.succeed();
    assert!(watched == bytes);
}

#[test]
fn statistics_are_json_objects() {
    let lab = Lab::new();
    let viewer = lab.watch_into("out", &["--stats"]);
    lab.until_sessions(1);
    let (publisher, mut input) = lab.start_publisher();
    let bytes = noise(100_000);
    write_in_pieces(&mut input, &bytes);
    viewer.until_said(&format!("\"bytes\":{}", bytes.len()));
    drop(input);
    publisher.succeed();
    let said = viewer.succeed();
    let objects: Vec<serde_json::Value> = said
        .lines()
        .filter(|line| !line.starts_with("superpeer: "))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let last = objects.last().expect("a line of statistics");
    assert_eq!(
        (&last["connected"], &last["bytes"], &last["skipped"]),
        (&true.into(), &100_000.into(), &0.into())
    );
    for key in ["chunks", "shards_received", "delay_us_p50", "delay_us_p99"] {
        assert!(last[key].as_u64().is_some_and(|count| count > 0), "{key}: {last}");
    }
}

#[test]
fn a_program_gets_the_stream() {
    let lab = Lab::new();
    let path = lab.path("out");
    let command = format!("cat > '{}'", path.display());
    let viewer = Superpeer::start(&["watch", &lab.link, "--exec", &command]);
    lab.until_sessions(1);
    let (publisher, mut input) = lab.start_publisher();
    let bytes = noise(100_000);
    write_in_pieces(&mut input, &bytes);
    drop(input);
    publisher.succeed();
    viewer.succeed();
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn a_program_that_ends_ends_watching() {
    let lab = Lab::new();
    for (command, expected) in [("exit 0", 0), ("exit 3", 1), ("head -c 1000 > /dev/null", 0)] {
        let viewer = Superpeer::start(&["watch", &lab.link, "--exec", command]);
        let (_publisher, input) = lab.start_publisher();
        let _input = write_in_background(input, noise(100_000));
        let (status, said) = viewer.wait();
        assert_eq!(status, expected, "{command}: {said}");
        if expected != 0 {
            assert!(said.contains("\"exit 3\" ended with exit status: 3"), "{said}");
        }
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let lab = Lab::new();
    let (status, said) = Superpeer::start(&["watch", &lab.link, "--exec", "/no/such/player -"]).wait();
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("/no/such/player"), "{said}");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let lab = Lab::new();
    let (viewer, mut output) = Superpeer::start_with_output(&["watch", &lab.link]);
    lab.until_sessions(1);
    let (_publisher, mut input) = lab.start_publisher();
    let bytes = noise(300_000);
    write_in_pieces(&mut input, &bytes[..100_000]);
    assert!(read_exactly(&mut output, 1_000) == bytes[..1_000]);
    drop(output);
    write_in_pieces(&mut input, &bytes[100_000..]);
    viewer.succeed();
}

fn read_exactly(output: &mut ChildStdout, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    output.read_exact(&mut read).unwrap();
    read
}

#[test]
fn a_full_disk_is_a_failure_and_named() {
    let lab = Lab::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let as_output = Superpeer::start(&["watch", &lab.link, "/dev/full"]);
    let as_stdout = Superpeer::start_into(&["watch", &lab.link], full);
    lab.until_sessions(2);
    let (_publisher, input) = lab.start_publisher();
    let _input = write_in_background(input, noise(100_000));
    for (viewer, name) in [(as_output, "/dev/full"), (as_stdout, "standard output")] {
        let (status, said) = viewer.wait();
        assert_eq!(status, 1, "{said}");
        assert!(said.contains(&format!("cannot write to {name}: No space left on device")), "{said}");
    }
}

#[test]
fn datagrams_go_out_and_come_in() {
    let lab = Lab::new();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    let to = format!("udp://{}", receiver.local_addr().unwrap());
    let viewer = Superpeer::start(&["watch", &lab.link, &to]);
    lab.until_sessions(1);
    let (publisher, mut input) = lab.start_publisher();
    // Packets of 188 bytes, seven of which fit into a datagram; so few that they fit into the receiver's buffer.
    let packets: Vec<u8> = noise(300 * 187).chunks(187).flat_map(|body| [&[0x47], body].concat()).collect();
    let reader = std::thread::spawn(move || {
        let (mut received, mut buffer) = (Vec::<u8>::new(), [0; 2_048]);
        while received.len() < 300 * 188 {
            let length = receiver.recv(&mut buffer).expect("datagrams");
            assert!(length.is_multiple_of(188) && length <= 7 * 188, "{length} bytes in a datagram");
            received.extend(&buffer[..length]);
        }
        received
    });
    write_in_pieces(&mut input, &packets);
    drop(input);
    publisher.succeed();
    viewer.succeed();
    assert!(reader.join().unwrap() == packets);
}

#[test]
fn an_output_file_holds_what_has_come_so_far() {
    let lab = Lab::new();
    let viewer = lab.watch_into("out", &[]);
    lab.until_sessions(1);
    let (publisher, mut input) = lab.start_publisher();
    let bytes = noise(50_000);
    write_in_pieces(&mut input, &bytes);
    until_bytes(&lab.path("out"), bytes.len());
    drop((publisher, viewer));
    assert!(fs::read(lab.path("out")).unwrap() == bytes);
}
