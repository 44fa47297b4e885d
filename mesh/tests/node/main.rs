//! Nodes among themselves and among strangers, on virtual time.

mod lab;
mod stream;
