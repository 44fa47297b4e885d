//! Replays the kept fuzzing corpus: `fuzz` searches on from the same files through the same functions.

mod checks;
mod contact;
mod handover;
mod node;
mod steps;
mod world;

use std::fs;
use std::path::PathBuf;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        println!("{}", file.display());
        body(&fs::read(&file).unwrap());
    }
}

#[test]
fn node() {
    replay("node", node::node);
}

#[test]
fn handover() {
    replay("handover", handover::handover);
}

#[test]
fn contact() {
    replay("contact", contact::contact);
}
