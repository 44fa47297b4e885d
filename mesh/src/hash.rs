//! Keyed hashing, so that peers who choose keys cannot choose collisions, and equal seeds give equal runs.

use core::hash::BuildHasher;
use std::collections::HashMap;

use siphasher::sip::SipHasher13;

#[derive(Clone, Copy, Debug)]
pub(crate) struct SeededState {
    keys: [u64; 2],
}

impl SeededState {
    pub(crate) fn new(keys: [u64; 2]) -> SeededState {
        SeededState { keys }
    }
}

impl BuildHasher for SeededState {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.keys[0], self.keys[1])
    }
}

pub(crate) type SeededMap<K, V> = HashMap<K, V, SeededState>;
