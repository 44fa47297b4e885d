//! How well a stream survives loss, and for how many bytes: nodes on virtual time, over links with losses, bursts, long
//! round trips and queues.

mod changes;
mod link;
mod network;
mod regeneration;
mod rows;
