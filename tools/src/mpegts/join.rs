//! Where a late joiner can start.

use mpeg2ts_reader::packet::Packet;
use mpeg2ts_reader::psi::pat::PAT_PID;

use super::programme::{StreamKind, Streams};
use super::{PACKET_BYTES, TICKS_PER_SECOND};

/// Muxers put PAT, PMT and perhaps a little audio before a key frame. A PAT further back than this many bytes is not
/// worth holding a cut back for.
const TABLES_REACH_BYTES: u64 = 16 * PACKET_BYTES as u64;

/// A stand-in for a second where the clock is missing or broken: audio has 4 to 50 PES packets a second.
const AUDIO_STARTS_MAX: u32 = 64;

#[derive(Default)]
pub(super) struct JoinFinder {
    /// The last PAT, unless the lead stream went on since or it is out of reach.
    tables_at: Option<u64>,
    last_audio_join: Option<AudioJoin>,
}

struct AudioJoin {
    ticks: Option<u64>,
    starts_since: u32,
}

impl JoinFinder {
    pub(super) fn tables_at(&self) -> Option<u64> {
        self.tables_at
    }

    pub(super) fn forget_tables(&mut self) {
        self.tables_at = None;
    }

    /// Returns where the join point starts that this packet completes. `ticks` is the stream's clock.
    pub(super) fn look_at(
        &mut self,
        packet: &Packet<'_>,
        position: u64,
        streams: Option<Streams>,
        ticks: Option<u64>,
    ) -> Option<u64> {
        if packet.pid() == PAT_PID && packet.payload_unit_start_indicator() {
            self.tables_at = Some(position);
        }
        let lead = streams.and_then(|streams| streams.lead);
        let Some(lead) = lead.filter(|lead| lead.pid == packet.pid()) else {
            let reach_ends = position + PACKET_BYTES as u64;
            self.tables_at = self.tables_at.filter(|tables| reach_ends - tables < TABLES_REACH_BYTES);
            return None;
        };
        let tables_at = self.tables_at.take();
        if !packet.payload_unit_start_indicator() || packet.transport_error_indicator() {
            return None;
        }
        let joinable = match lead.kind {
            StreamKind::Video => {
                packet.adaptation_field().is_some_and(|field| field.random_access_indicator())
            }
            StreamKind::Audio | StreamKind::Private => self.audio_join_is_due(ticks, tables_at.is_some()),
        };
        joinable.then(|| tables_at.unwrap_or(position))
    }

    /// Every audio frame can be decoded by itself, so a second of them is waited for; and for one more when no
    /// tables stand before this one, since without them a player cannot start.
    fn audio_join_is_due(&mut self, ticks: Option<u64>, after_tables: bool) -> bool {
        let seconds = if after_tables { 1 } else { 2 };
        let due = self.last_audio_join.as_mut().is_none_or(|last| {
            last.starts_since += 1;
            let waited =
                ticks.zip(last.ticks).is_some_and(|(now, then)| now - then >= seconds * TICKS_PER_SECOND);
            waited || last.starts_since >= AUDIO_STARTS_MAX
        });
        if due {
            self.last_audio_join = Some(AudioJoin { ticks, starts_since: 0 });
        }
        due
    }
}
