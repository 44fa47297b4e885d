//! See `mesh/tests/fuzzing/contact.rs`.
#![no_main]

#[path = "../../mesh/tests/fuzzing/contact.rs"]
mod contact;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| contact::contact(bytes));
