//! See `codec::fuzzing::link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| codec::fuzzing::link(bytes));
