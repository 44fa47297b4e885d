//! Replays the kept fuzzing corpus: `fuzz` searches on from the same files through the same functions.

use std::fs;
use std::path::PathBuf;

use codec::fuzzing;

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
fn shard() {
    replay("shard", fuzzing::shard);
}

#[test]
fn control() {
    replay("control", fuzzing::control);
}

#[test]
fn link() {
    replay("link", fuzzing::link);
}

#[test]
fn chunk() {
    replay("chunk", fuzzing::chunk);
}
