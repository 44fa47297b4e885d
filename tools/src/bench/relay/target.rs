//! The relay that is measured: the bench's own, or one that runs already.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::child::RelayProcess;
use super::running::RunningRelay;
use super::sample::{About, Sample};
use super::{Sinking, lab};
use crate::Error;
use crate::bench::limit::drain;
use crate::bench::sink::{At, Sink};
use crate::bench::{LOOPBACK, LOOPBACK_PUBLISHERS};

/// See above.
pub(super) enum Target<'r> {
    /// Started for one run.
    Own(RelayProcess),
    /// It outlives the bench.
    Running(&'r RunningRelay),
}

impl Target<'_> {
    pub(super) fn address(&self) -> SocketAddrV4 {
        match self {
            Target::Own(relay) => relay.address,
            Target::Running(relay) => relay.address,
        }
    }

    /// As far as it tells.
    pub(super) fn about(&self) -> Option<About> {
        match self {
            Target::Own(relay) => Some(relay.about.clone()),
            Target::Running(relay) => relay.about.clone(),
        }
    }

    /// Where subscribers and publishers are to be.
    pub(super) fn peers(&self, sink: Sinking) -> [At; 2] {
        match (self, sink) {
            (Target::Running(relay), _) if !relay.is_here() => [At::One(relay.source); 2],
            (_, Sinking::Loopback) => [LOOPBACK, LOOPBACK_PUBLISHERS].map(At::From),
            (_, Sinking::Lab) => [lab::SUBSCRIBERS, lab::PUBLISHERS].map(At::From),
        }
    }

    /// Where its datagrams go, for the report.
    pub(super) fn sink_name(&self, sink: Sinking) -> &'static str {
        match self {
            Target::Running(relay) if !relay.is_here() => "network",
            _ => sink.name(),
        }
    }

    /// What it has allocated at a moment after this call; only the bench's own tells.
    pub(super) fn heap_bytes(&self) -> Result<Option<u64>, Error> {
        let Target::Own(relay) = self else { return Ok(None) };
        relay.skip_samples()?;
        relay.sample()?;
        Ok(relay.sample()?.heap_bytes)
    }

    /// What it had counted at a moment after this call.
    pub(super) fn first_sample(&self) -> Result<Sample, Error> {
        match self {
            Target::Own(relay) => relay.skip_samples().and_then(|()| relay.sample()),
            Target::Running(relay) => relay.first_sample(),
        }
    }

    /// What it had counted about a second after the last one.
    pub(super) fn sample(&self) -> Result<Sample, Error> {
        match self {
            Target::Own(relay) => relay.sample(),
            Target::Running(relay) => relay.sample(),
        }
    }

    /// Gbit/s of the bare kernel in its place, into the same sink, if that is on this machine; stops the bench's own
    /// relay. `train` is the mean length of those that the relay sent.
    pub(super) fn limit(self, sink: &mut Sink, train: Option<usize>) -> Result<Option<f64>, Error> {
        let Some(train) = train else { return Ok(None) };
        let destinations = sink.destinations().clone();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| drain(sink, &over, &Default::default()));
            let limit = match self {
                Target::Own(relay) => relay.limit(train, &destinations).map(Some),
                Target::Running(relay) => relay.limit(train, &destinations),
            };
            over.store(true, Ordering::Release);
            limit
        })
    }
}
