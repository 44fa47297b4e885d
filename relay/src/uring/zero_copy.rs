//! Sending trains without a copy: which ones, from memory that the kernel has pinned, and what is held until it says
//! that it is done.

use std::fmt;
use std::io;
use std::time::Instant;

use mesh::{SLOT_BYTES, SlotIndex};
use slab::Slab;
use tracing::warn;

use super::budget::{SEGMENT_SLOTS_MIN, SEGMENTS_MAX, ZERO_COPY_IN_FLIGHT};
use super::memory::SlotRegion;
use super::ring::Ring;
use super::transmit::Sending;
use crate::plane::PlaneCounters;
use crate::plane::copies::{CopyWatch, Outcome};

/// A zero-copy send, from when it is queued until the kernel has done with its slot.
struct InFlight {
    slot: SlotIndex,
    bytes: u32,
    /// In the window that it is sent with; of no meaning once the kernel has said how it went.
    position: usize,
    sent: bool,
}

/// Where a zero-copy send is kept in mind; goes with the request and comes back with its completions.
pub(super) struct Ticket(pub(super) usize);

/// The zero-copy sends of a plane.
pub(super) struct ZeroCopy {
    /// Trains of at least so many bytes are sent so.
    from_bytes: usize,
    /// Why there are none at all.
    missing: Option<String>,
    watch: CopyWatch,
    /// When the latest window was sent.
    now: Instant,
    region: SlotRegion,
    segments: Segments,
    in_flight: Slab<InFlight>,
}

impl ZeroCopy {
    /// Finds out whether the kernel has what is needed; `from_bytes` 0 is for none.
    pub(super) fn open(from_bytes: usize, region: SlotRegion, ring: &mut Ring) -> ZeroCopy {
        let segments = Segments::new(region.slots());
        let missing = if from_bytes == 0 {
            Some("switched off".to_owned())
        } else {
            let made = ring.probe_zero_copy().and_then(|()| ring.open_segments(segments.count() as u32));
            made.err().map(|error| format!("the kernel does not offer it: {error}"))
        };
        ZeroCopy {
            from_bytes,
            missing,
            watch: CopyWatch::new(),
            now: Instant::now(),
            region,
            segments,
            in_flight: Slab::with_capacity(ZERO_COPY_IN_FLIGHT),
        }
    }

    /// Why there are no zero-copy sends at all.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// A window is about to be sent.
    pub(super) fn begin_window(&mut self) {
        if self.missing.is_none() {
            self.now = Instant::now();
        }
    }

    /// If this is to be sent without a copy: the number of the registered memory that it is in, and its ticket. Holds its
    /// slot.
    pub(super) fn take_up(
        &mut self,
        sending: &Sending,
        position: usize,
        ring: &Ring,
    ) -> Option<(u16, Ticket)> {
        let slot = sending.slot.filter(|_| sending.bytes as usize >= self.from_bytes)?;
        if self.missing.is_some() || self.in_flight.len() == ZERO_COPY_IN_FLIGHT {
            return None;
        }
        // First, so that nothing is pinned for a device that copies.
        if !self.watch.may_ask(self.now) {
            return None;
        }
        let Some(segment) = self.segments.registered(slot, &self.region, ring) else {
            self.watch.note(Outcome::NotSent, self.now);
            return None;
        };
        self.region.hold(slot);
        let in_flight = InFlight { slot, bytes: sending.bytes, position, sent: false };
        Some((segment, Ticket(self.in_flight.insert(in_flight))))
    }

    /// The kernel has said how a send went (`errno` 0: well) and whether it will say when it has done with the slot.
    /// Returns the send's position in its window.
    pub(super) fn note_result(
        &mut self,
        ticket: Ticket,
        errno: i32,
        done_follows: bool,
        counters: &mut PlaneCounters,
    ) -> usize {
        let in_flight = &mut self.in_flight[ticket.0];
        in_flight.sent = errno == 0;
        let position = in_flight.position;
        if !done_follows {
            self.let_go(ticket);
        }
        match errno {
            0 => {}
            // What the kernel may have against the way; it will be copied.
            libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::EFAULT | libc::ENOMEM => {
                self.note(Outcome::Copied, counters)
            }
            // A full socket, or no way to the destination.
            _ => self.note(Outcome::NotSent, counters),
        }
        position
    }

    /// The kernel has done with the slot of a send.
    pub(super) fn note_done(&mut self, ticket: Ticket, copied: bool, counters: &mut PlaneCounters) {
        let InFlight { bytes, sent, .. } = self.let_go(ticket);
        // What was not sent was not copied either, which the kernel calls copied.
        if !sent {
            return;
        }
        let (counter, outcome) = match copied {
            true => (&mut counters.copied_bytes, Outcome::Copied),
            false => (&mut counters.zero_copy_bytes, Outcome::ZeroCopied),
        };
        *counter += u64::from(bytes);
        self.note(outcome, counters);
    }

    fn note(&mut self, outcome: Outcome, counters: &mut PlaneCounters) {
        counters.zero_copy_pauses += u64::from(self.watch.note(outcome, self.now));
    }

    /// Sends whose slots are still held.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Lets all slots go, whether the kernel has done with them or not.
    pub(super) fn let_all_go(&mut self) {
        for in_flight in self.in_flight.drain() {
            self.region.release(in_flight.slot);
        }
    }

    fn let_go(&mut self, ticket: Ticket) -> InFlight {
        let in_flight = self.in_flight.remove(ticket.0);
        self.region.release(in_flight.slot);
        in_flight
    }
}

/// For the line that the plane says at its start.
impl fmt::Display for ZeroCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.missing {
            None => write!(f, "trains from {} bytes on zero-copy", self.from_bytes),
            Some(why) => write!(f, "no zero-copy ({why})"),
        }
    }
}

/// The slot memory cut into pieces, each of which is registered with the ring when the first train is to be sent from
/// it: registering makes every page of it real and pins it.
struct Segments {
    slots_each: usize,
    registered: Vec<bool>,
    /// The kernel would not pin any more.
    refused: bool,
}

impl Segments {
    fn new(slots: usize) -> Segments {
        let slots_each = SEGMENT_SLOTS_MIN.max(slots.div_ceil(SEGMENTS_MAX));
        Segments { slots_each, registered: vec![false; slots.div_ceil(slots_each)], refused: false }
    }

    fn count(&self) -> usize {
        self.registered.len()
    }

    /// The number of the segment of this slot, registered with the ring.
    fn registered(&mut self, slot: SlotIndex, region: &SlotRegion, ring: &Ring) -> Option<u16> {
        let segment = slot.0 as usize / self.slots_each;
        if !self.registered[segment] {
            if self.refused {
                return None;
            }
            match self.register(segment, region, ring) {
                Ok(()) => self.registered[segment] = true,
                Err(error) => {
                    self.refused = true;
                    self.complain(&error);
                    return None;
                }
            }
        }
        Some(segment as u16)
    }

    fn register(&self, segment: usize, region: &SlotRegion, ring: &Ring) -> io::Result<()> {
        let first = segment * self.slots_each;
        let end = (first + self.slots_each).min(region.slots());
        let range = first * SLOT_BYTES..end * SLOT_BYTES;
        // SAFETY: promises 1 and 9: `range` is within the mapping, of which the plane has a `SlotRegion`.
        unsafe { ring.register_segment(segment as u32, region.address(&range), range.len()) }
    }

    fn complain(&self, error: &io::Error) {
        let (have, all) = (self.registered.iter().filter(|registered| **registered).count(), self.count());
        warn!(
            "the kernel does not pin more slot memory: {error}; trains from {} of {all} parts of it are copied. Raise \
             the limit on locked memory (LimitMEMLOCK= in the unit, `ulimit -l` in a shell)",
            all - have
        );
    }
}

#[cfg(test)]
mod tests {
    use mesh::Memory;

    use super::*;
    use crate::uring::SlotMemory;

    #[test]
    fn a_result_that_no_notification_follows_ends_the_holding() {
        let slots = SlotMemory::map(1).unwrap();
        let mut zero_copy = ZeroCopy::open(1, slots.region(), &mut Ring::open().unwrap());
        let slot = SlotIndex(0);
        let mut send = |position, errno, done_follows| {
            slots.hold(slot);
            let in_flight = InFlight { slot, bytes: 9, position, sent: false };
            let ticket = zero_copy.in_flight.insert(in_flight);
            let mut counters = PlaneCounters::default();
            let told = zero_copy.note_result(Ticket(ticket), errno, done_follows, &mut counters);
            assert_eq!(told, position);
            if done_follows {
                assert!(slots.is_held(slot));
                zero_copy.note_done(Ticket(ticket), errno != 0, &mut counters);
            }
            assert!(!slots.is_held(slot));
            counters.zero_copy_bytes + counters.copied_bytes
        };
        assert_eq!(send(3, libc::ENOMEM, false), 0);
        assert_eq!(send(4, libc::EAGAIN, true), 0, "what was not sent was not copied either");
        assert_eq!(send(5, 0, true), 9);
    }

    #[test]
    fn without_a_length_to_begin_at_there_is_none() {
        let slots = SlotMemory::map(1).unwrap();
        let mut ring = Ring::open().unwrap();
        assert_eq!(ZeroCopy::open(0, slots.region(), &mut ring).to_string(), "no zero-copy (switched off)");
        let all = ZeroCopy::open(19_712, slots.region(), &mut ring);
        assert_eq!(all.to_string(), "trains from 19712 bytes on zero-copy");
    }

    #[test]
    fn segments_cover_all_slots_within_what_a_ring_takes() {
        for slots in [1, 3, 4, 5, 9_078, SEGMENTS_MAX * SEGMENT_SLOTS_MIN, 18_593_103] {
            let segments = Segments::new(slots);
            assert!((1..=SEGMENTS_MAX).contains(&segments.count()), "{slots} slots");
            assert_eq!((slots - 1) / segments.slots_each, segments.count() - 1, "{slots} slots");
            assert!(segments.slots_each * SLOT_BYTES <= 1 << 30, "{slots} slots");
        }
    }
}
