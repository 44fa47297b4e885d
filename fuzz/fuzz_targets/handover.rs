//! See `mesh/tests/fuzzing/handover.rs`.
#![no_main]

#[path = "../../mesh/tests/fuzzing/handover.rs"]
mod handover;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| handover::handover(bytes));
