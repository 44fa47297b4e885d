//! A relay's node under load: who waits for whom, and what is allocated.

mod crowd;
mod fairness;
mod memory;
