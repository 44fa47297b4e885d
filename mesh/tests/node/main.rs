//! Nodes among themselves and among strangers, on virtual time.

mod hostile;
mod lab;
mod stream;
