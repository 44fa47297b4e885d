//! See `mesh/tests/fuzzing/node.rs`.
#![no_main]

#[path = "../../mesh/tests/fuzzing/checks.rs"]
mod checks;
#[path = "../../mesh/tests/fuzzing/node.rs"]
mod node;
#[path = "../../mesh/tests/fuzzing/steps.rs"]
mod steps;
#[path = "../../mesh/tests/fuzzing/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| node::node(bytes));
