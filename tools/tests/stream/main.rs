//! Streams through the command: publishers and viewers as processes, the relay in this one.
#![cfg(target_os = "linux")]

mod demo;
mod endings;
mod lab;
mod outputs;
mod processes;
mod sample;
mod trouble;
