//! The demo.

use std::io::Read;

use crate::processes::Superpeer;

#[test]
fn the_demo_carries_every_byte_to_every_viewer() {
    let (demo, mut output) = Superpeer::start_with_output(&["demo", "--viewers", "5", "--seconds", "2"]);
    let mut printed = String::new();
    output.read_to_string(&mut printed).unwrap();
    demo.succeed();
    assert!(printed.contains("5 of 5 got every byte"), "{printed}");
}

#[test]
fn ctrl_c_ends_the_demo_with_its_result() {
    let (demo, mut output) = Superpeer::start_with_output(&["demo", "--viewers", "2", "--seconds", "600"]);
    demo.until_said(" on UDP ");
    demo.until_it_listens_for_signals();
    demo.signal("INT");
    let mut printed = String::new();
    output.read_to_string(&mut printed).unwrap();
    demo.succeed();
    assert!(printed.contains("2 of 2 got every byte"), "{printed}");
}
