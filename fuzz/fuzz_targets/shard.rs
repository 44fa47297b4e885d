//! See `codec::fuzzing::shard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| codec::fuzzing::shard(bytes));
