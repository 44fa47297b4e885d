//! Nodes among themselves and among strangers, on virtual time.

mod claims;
mod crowd;
mod fairness;
mod hostile;
mod lab;
mod memory;
mod stream;
