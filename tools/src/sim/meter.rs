//! What a relay sends in any second, held against its caps.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use codec::wire::{SHARD, kind_of};
use codec::{ChannelTag, ShardView};
use mesh::Time;

/// Bytes of the headers of IPv4 and UDP.
const HEADER_BYTES: u64 = 28;

/// What counts under a relay's caps.
#[derive(Default)]
pub(super) struct Meters {
    all: Option<Meter>,
    /// The cap of every channel.
    channel_bps_max: Option<u64>,
    channels: HashMap<ChannelTag, Meter>,
}

impl Meters {
    pub(super) fn new(all_bps_max: Option<u64>, channel_bps_max: Option<u64>) -> Meters {
        Meters { all: all_bps_max.map(Meter::new), channel_bps_max, channels: HashMap::new() }
    }

    /// Counts a datagram that is sent.
    ///
    /// # Errors
    /// When a cap is exceeded.
    pub(super) fn note(&mut self, now: Time, datagram: &[u8]) -> Result<(), String> {
        let bytes = datagram.len() as u64 + HEADER_BYTES;
        if let Some(all) = &mut self.all {
            all.note(now, bytes)?;
        }
        match self.channel_bps_max {
            // Of a channel, shards alone count.
            Some(bps_max) if kind_of(datagram) == Some(SHARD) => {
                let tag = ShardView::parse(datagram).expect("it was checked").tag();
                self.channels.entry(tag).or_insert_with(|| Meter::new(bps_max)).note(now, bytes)
            }
            _ => Ok(()),
        }
    }
}

struct Meter {
    bps_max: u64,
    /// What was sent in the last second, and when.
    sent: VecDeque<(Time, u64)>,
    within: u64,
}

impl Meter {
    fn new(bps_max: u64) -> Meter {
        Meter { bps_max, sent: VecDeque::new(), within: 0 }
    }

    fn note(&mut self, now: Time, bytes: u64) -> Result<(), String> {
        match self.sent.back_mut().filter(|(at, _)| *at == now) {
            Some((_, sum)) => *sum += bytes,
            None => self.sent.push_back((now, bytes)),
        }
        self.within += bytes;
        while let Some((_, bytes)) =
            self.sent.pop_front_if(|(at, _)| now.since(*at) >= Duration::from_secs(1))
        {
            self.within -= bytes;
        }
        // The relay's promise: no second exceeds a cap by more than 2 %.
        let (sent, most) = (self.within * 8, self.bps_max + self.bps_max / 50);
        if sent > most { Err(format!("sends {sent} bits in a second, {most} may be")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_second_counts_and_no_other() {
        let mut meter = Meter::new(1_000_000);
        let mut note = |at_ms: u64, bytes: u64| meter.note(Time(at_ms * 1_000), bytes).is_ok();
        assert!(note(0, 60_000) && note(900, 60_000) && note(1_000, 60_000));
        assert!(note(1_899, 7_500) && !note(1_899, 1));
    }
}
