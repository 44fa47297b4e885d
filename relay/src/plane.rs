//! What every data plane has, whichever system calls move its datagrams: counters, errors, the waker, the memory of
//! who takes no trains.

pub(crate) mod budget;
mod counters;
mod error;
mod probe;
pub(crate) mod segmentation;
mod waker;

pub use counters::PlaneCounters;
pub use error::OpenError;
pub use probe::Probe;
pub use waker::Waker;
