//! Streams through the command: publishers and viewers as processes, the relay in this one or as a daemon.
#![cfg(target_os = "linux")]

mod daemon;
mod demo;
mod endings;
mod impaired;
mod lab;
mod looking_after;
mod outputs;
mod processes;
mod sample;
mod trouble;
mod two_upstreams;
