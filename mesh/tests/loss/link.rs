//! One direction of a path: what it loses, how long it takes, what it can carry.

use std::time::Duration;

use mesh::Time;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What is lost of the datagrams of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Losses {
    None,
    /// Each datagram by itself.
    Uniform(f64),
    /// The mean share, in runs of this mean length (Gilbert 1960, with a bad state that loses all): of what is sent seldom, as
    /// requests are, a run takes a long time.
    Bursts {
        share: f64,
        length: f64,
    },
}

/// A bottleneck: bit/s, and for how long its queue can hold what comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bottleneck {
    pub(crate) bps: u64,
    pub(crate) queue: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkConfig {
    pub(crate) losses: Losses,
    /// One way.
    pub(crate) delay: Duration,
    /// Up to this much more, at random for each datagram.
    pub(crate) jitter: Duration,
    pub(crate) bottleneck: Option<Bottleneck>,
}

/// A link without losses that takes so long.
pub(crate) const fn clean(delay_ms: u64) -> LinkConfig {
    LinkConfig {
        losses: Losses::None,
        delay: Duration::from_millis(delay_ms),
        jitter: Duration::ZERO,
        bottleneck: None,
    }
}

/// One direction of a link.
pub(crate) struct Link {
    config: LinkConfig,
    random: ChaCha12Rng,
    is_bad: bool,
    /// Nothing comes through.
    pub(crate) is_cut: bool,
    /// When the bottleneck has sent all that it holds.
    free_at: Time,
}

impl Link {
    pub(crate) fn new(config: LinkConfig, seed: u64) -> Link {
        Link {
            config,
            random: ChaCha12Rng::seed_from_u64(seed),
            is_bad: false,
            is_cut: false,
            free_at: Time(0),
        }
    }

    /// When a datagram of so many bytes of IP arrives that is sent now; `None` if it does not.
    pub(crate) fn pass(&mut self, now: Time, ip_bytes: usize) -> Option<Time> {
        if self.is_cut {
            return None;
        }
        let mut at = now;
        if let Some(Bottleneck { bps, queue }) = self.config.bottleneck {
            if self.free_at.since(now) > queue {
                return None;
            }
            let takes = Duration::from_nanos(ip_bytes as u64 * 8 * 1_000_000_000 / bps);
            self.free_at = self.free_at.max(now).after(takes);
            at = self.free_at;
        }
        if self.loses() {
            return None;
        }
        let jitter = self.config.jitter.mul_f64(self.draw());
        Some(at.after(self.config.delay + jitter))
    }

    fn loses(&mut self) -> bool {
        match self.config.losses {
            Losses::None => false,
            Losses::Uniform(share) => self.draw() < share,
            Losses::Bursts { share, length } => {
                let (ends, begins) = (1.0 / length, share / (1.0 - share) / length);
                let turn = self.draw();
                self.is_bad = if self.is_bad { turn >= ends } else { turn < begins };
                self.is_bad
            }
        }
    }

    /// From 0 to 1, without 1.
    fn draw(&mut self) -> f64 {
        f64::from(self.random.next_u32()) / 4_294_967_296.0
    }
}
