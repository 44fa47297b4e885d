//! See `codec::fuzzing::chunk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| codec::fuzzing::chunk(bytes));
