//! placeholder
pub mod uring;
