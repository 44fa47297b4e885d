//! The relay: a [`mesh::Node`] driven over io_uring (or `sendmmsg`), one per worker thread, and the daemon `superpeerd` around it.
//!
//! It does not know the protocol (that is `mesh`) nor the wire (that is `codec`); it owns the socket, the memory, the
//! threads and the clock. `DESIGN.md` beside this crate says who owns what when.

pub mod budget;
pub mod config;
mod control;
mod daemon;
mod handover;
mod inbox;
mod kept;
mod log;
mod meter;
pub mod mmsg;
pub mod plane;
pub mod process;
mod pulls;
mod running;
mod snapshot;
mod sockets;
mod upstreams;
pub mod uring;
mod worker;

pub use config::{Config, Workers};
pub use control::{commands, status};
pub use daemon::{command, run};
pub use running::{Relay, StartError};
pub use snapshot::Snapshot;
pub use upstreams::UpstreamView;
