//! Nodes among themselves and among strangers, on virtual time.

mod caps;
mod chain;
mod claims;
mod contact;
mod handover;
mod hostile;
mod lab;
mod lies;
mod stream;
mod two_upstreams;
