//! The programme clock reference (PCR, ISO/IEC 13818-1 §2.4.3.5) as time that only goes forward.

use mpeg2ts_reader::packet::{Packet, Pid};

/// The PCR counts at 27 MHz.
pub const TICKS_PER_SECOND: u64 = 27_000_000;

/// 33 bits at 90 kHz, each of 300 ticks: the PCR starts again after 26.5 hours.
const WRAP_TICKS: u64 = (1 << 33) * 300;

/// The standard asks for a PCR every 100 ms. A step this large is another time base, not a late PCR.
const STEP_TICKS_MAX: u64 = 10 * TICKS_PER_SECOND;

/// What the last PCR said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// The time since the first PCR, in units of [`TICKS_PER_SECOND`]. A break in the time base adds nothing.
    pub ticks: u64,
    /// Where in the stream its packet starts.
    pub position: u64,
    /// How often the time base broke: a splice, a loop, a restarted encoder.
    pub breaks: u32,
    pcr: u64,
}

/// Takes over the PCR of `packet` when it has one.
pub(super) fn read(clock: &mut Option<Clock>, clock_pid: Pid, packet: &Packet<'_>, position: u64) {
    if packet.pid() != clock_pid || packet.transport_error_indicator() {
        return;
    }
    let Some(field) = packet.adaptation_field() else { return };
    let Ok(pcr) = field.pcr() else { return };
    let pcr = u64::from(pcr) % WRAP_TICKS;
    *clock = Some(match *clock {
        None => Clock { ticks: 0, position, breaks: 0, pcr },
        Some(last) => last.advanced(pcr, position, field.discontinuity_indicator()),
    });
}

impl Clock {
    fn advanced(self, pcr: u64, position: u64, discontinuity: bool) -> Clock {
        let step = (pcr + WRAP_TICKS - self.pcr) % WRAP_TICKS;
        let breaks = discontinuity || step > STEP_TICKS_MAX;
        Clock {
            ticks: self.ticks + if breaks { 0 } else { step },
            breaks: self.breaks.wrapping_add(u32::from(breaks)),
            position,
            pcr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_on_when_the_counter_wraps() {
        let clock = Clock { ticks: 5, position: 0, breaks: 0, pcr: WRAP_TICKS - 10 };
        let later = clock.advanced(20, 188, false);
        assert_eq!((later.ticks, later.position, later.breaks), (35, 188, 0));
    }

    #[test]
    fn a_jump_is_a_break_and_no_time() {
        let clock = Clock { ticks: 5, position: 0, breaks: 0, pcr: 100 * TICKS_PER_SECOND };
        for pcr in [0, 99 * TICKS_PER_SECOND, 111 * TICKS_PER_SECOND] {
            let later = clock.advanced(pcr, 188, false);
            assert_eq!((later.ticks, later.breaks), (5, 1), "PCR {pcr}");
        }
        assert_eq!(clock.advanced(clock.pcr + 1, 188, true).breaks, 1);
    }
}
