//! Nodes among themselves and among strangers, on virtual time.

mod claims;
mod hostile;
mod lab;
mod stream;
