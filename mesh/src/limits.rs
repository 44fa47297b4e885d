//! Every bound of a node, with its reason. What a user may want to set is in [`Limits`]; the rest is constant.

use core::time::Duration;

use crate::allowance::Rate;
use crate::outbox::SLOT_BYTES;

/// Bounds that a configuration sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Channels carried at once.
    pub channels_max: usize,
    /// Subscribers of all channels together.
    pub subscribers_max: usize,
    /// Subscribers of one channel; `None`: as many as of all together.
    pub subscribers_per_channel_max: Option<usize>,
    /// IP bits that may leave in any second, headers included; `None`: as many as there are. Below 2 Mbit/s only the mean holds.
    pub egress_bps_max: Option<u64>,
    /// Sessions from one IPv4 address or one IPv6 /64: room for a household or an office behind one address, not for
    /// one host to take every place.
    pub sessions_per_address_max: usize,
    /// How long a chunk is kept for repair and late joiners.
    pub window: Duration,
    /// Slot memory that one channel's window may fill, in bytes.
    pub window_bytes_max: usize,
}

impl Default for Limits {
    /// A small VPS: 10 s of window, of which 64 MiB hold 10 s at 30 Mbit/s.
    fn default() -> Limits {
        Limits {
            channels_max: 1_000,
            subscribers_max: 20_000,
            subscribers_per_channel_max: None,
            egress_bps_max: None,
            sessions_per_address_max: 256,
            window: Duration::from_secs(10),
            window_bytes_max: 64 << 20,
        }
    }
}

impl Limits {
    /// Chunks that one channel's window holds at most; never less than what reordering and repair need.
    pub fn window_chunks_max(&self) -> usize {
        (self.window_bytes_max / SLOT_BYTES).max(WINDOW_CHUNKS_MIN)
    }
}

/// What a configuration sets for one channel alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelLimits {
    /// Subscribers; `None`: [`Limits::subscribers_per_channel_max`].
    pub subscribers_max: Option<usize>,
    /// IP bits of its shards that may leave in any second, headers included.
    pub egress_bps_max: Option<u64>,
}

/// A third of a second of chunks: with less, repair has nothing to answer with.
pub const WINDOW_CHUNKS_MIN: usize = 8;

/// Publishers of one channel at a time: one, its replacement after a restart, and a second path for each.
pub const PUBLISHERS_PER_CHANNEL_MAX: usize = 4;

/// Upstreams that a subscriber takes one channel from at a time: more would carry less each, not more of them reach it.
pub const UPSTREAMS_AT_ONCE_MAX: usize = 4;

/// Nodes that one channel is dialled to: nobody's uplink feeds more relays.
pub const DIALS_PER_CHANNEL_MAX: usize = 16;

/// Sessions in which one channel comes to a node: accepted publishers and dialled relays.
pub const UPSTREAMS_PER_CHANNEL_MAX: usize = PUBLISHERS_PER_CHANNEL_MAX + DIALS_PER_CHANNEL_MAX;

/// A subscriber that the kernel would not send to this many times between two of its reports is let go.
pub const REFUSED_SENDS_MAX: u8 = 32;

/// How long a session holds without a report: five lost reports in a row.
pub const LEASE: Duration = Duration::from_secs(10);

/// How often the dialling end of a session reports.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How often a subscriber does that is sent the channel and loses nothing: half as many datagrams come to its relay and are
/// answered there.
pub const REPORT_INTERVAL_STEADY: Duration = Duration::from_secs(2);

/// So old is a session before that: until then its round trip is new.
pub(crate) const STEADY_AFTER: Duration = Duration::from_secs(5);

/// How often it reports while the last report, or its answer, seems to be lost.
pub const REPORT_INTERVAL_UNANSWERED: Duration = Duration::from_millis(250);

/// How often it reports while it waits for the last chunk to be settled at the other end.
pub const REPORT_INTERVAL_ENDING: Duration = Duration::from_millis(100);

/// A dialled node that says nothing for this long (three answers to reports) is dialled anew.
pub const SILENCE_MAX: Duration = Duration::from_millis(3_200);

/// First wait for an answer to a `Hello`, and the longest one; between them it grows by half. The longest is short
/// enough to be back within 3 s of a relay's return.
pub const HELLO_WAIT_MIN: Duration = Duration::from_millis(200);
/// See [`HELLO_WAIT_MIN`].
pub const HELLO_WAIT_MAX: Duration = Duration::from_millis(1_000);

/// The user is told each time that this many `Hello`s more went unanswered.
pub const HELLOS_UNTIL_TOLD: u32 = 5;

/// A refusal asks the newcomer to wait this long.
pub const REFUSED_WAIT: Duration = Duration::from_secs(5);

/// How long a refused dial waits, whatever it is told: the least and the most.
pub const REFUSED_WAIT_MIN: Duration = Duration::from_secs(1);
/// See [`REFUSED_WAIT_MIN`].
pub const REFUSED_WAIT_MAX: Duration = Duration::from_secs(60);

/// Nodes that are asked one right after another when each refuses or ends its session: as many as a goodbye names. Those
/// after them have to be waited for.
pub(crate) const TURNS_AT_ONCE_MAX: u32 = codec::wire::control::NODES_MAX as u32;

/// A relay that refused for good is asked again after this time: its configuration may have changed.
pub const REFUSED_AGAIN: Duration = Duration::from_secs(60);

/// A session that brings a subscriber nothing of its channel for this long is told of: another node may have it.
pub const STARVED_MAX: Duration = Duration::from_secs(10);

/// Waits between two attempts to look up a relay's name: doubled each time up to the longest.
pub const LOOKUP_WAIT_MIN: Duration = Duration::from_secs(1);
/// See [`LOOKUP_WAIT_MIN`].
pub const LOOKUP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Relays that other relays name are remembered up to this number: enough to leave one that goes away, too few to be sent
/// around.
pub const HINTS_MAX: usize = 16;

/// A relay that none has named for this time makes room for one that is named now.
pub const HINT_KEPT: Duration = Duration::from_secs(3_600);

/// Addresses that a node remembers as its own for one channel: more than a machine has that others are told of.
pub(crate) const OWN_ADDRESSES_MAX: usize = 16;

/// A round trip longer than this is a mistake or a lie: the sample is not used.
pub const RTT_MAX: Duration = Duration::from_secs(5);

/// With another upstream to ask, nobody waits longer than this for an answer.
pub const REPAIR_INTERVAL_MAX: Duration = Duration::from_millis(250);

/// A cookie is made for a time bucket of this length and holds for that one and the next.
pub const COOKIE_BUCKET: Duration = Duration::from_secs(8);

/// Leases and windows are looked through this often.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// A viewer that nobody subscribes to needs what it has written no more, but for late datagrams to be known as such.
pub const WRITTEN_KEPT: Duration = Duration::from_millis(250);

/// While a chunk is short of shards or a joiner is behind, the node wants to be called this often.
pub const TICK_INTERVAL: Duration = Duration::from_millis(5);

/// What is missing of a chunk may only have been overtaken; nobody asks for it before this time has passed without
/// an arrival, or a longer one where shards have come further apart lately.
pub const REORDER_GRACE: Duration = Duration::from_millis(15);
/// The longest, beside a quarter of a round trip (as RFC 8985 §6.2 bounds its window for reordering).
pub(crate) const REORDER_GRACE_MAX: Duration = Duration::from_millis(60);

/// A peer's report names chunks that may still wait in its fan-out: they are not missing before this time.
pub const EDGE_GRACE: Duration = Duration::from_millis(100);

/// The least time between two requests for the same shards, beside the round trip.
pub const REPAIR_INTERVAL_MIN: Duration = Duration::from_millis(30);

/// Requests for one chunk: at 10 % loss each way, ten in a row fail once in 10^7.
pub const REPAIR_TRIES_MAX: u8 = 10;

/// On a line that loses in bursts a request is sent so many times until the next one is due: where five datagrams in a row are
/// lost in the mean, those of two rounds all are once in a thousand bursts. For one chunk, those of a round have 1,088 bytes of IP: less than a shard.
pub(crate) const REPAIR_COPIES_MAX: u32 = 16;

/// Of several upstreams, those that have failed are asked too for what the others were asked for so often.
pub(crate) const REPAIR_TRIES_PER_WHOM: u8 = 3;

/// A relay without subscribers stops asking for a chunk after this time; with some, when none of them waits for it any more.
pub const REPAIR_HORIZON: Duration = Duration::from_secs(2);

/// By how much an answer may be later than round trips were lately, beside four times what they vary (RFC 6298).
pub(crate) const REPAIR_MARGIN: Duration = Duration::from_millis(10);

/// The round trip to a subscriber before it is known.
pub(crate) const ROUND_TRIP_ASSUMED: Duration = Duration::from_millis(200);

/// A relay's subscribers may say that they have no time at all; its upstream is told of this much, so that one of them does
/// not make parity of its uplink's bytes for all.
pub(crate) const SPARE_MIN: Duration = Duration::from_millis(100);

/// A chunk that is this much behind its first shard when it leaves here is late: what is left of its subscribers' time is
/// shorter by a round of repair.
pub(crate) const LATE_AFTER: Duration = Duration::from_millis(40);

/// A line that loses more than this share of what is sent does not take the stream. Where it is no queue that loses it, repair
/// and parity would cope with a little more, but half as many bytes again would be too many for others on it (RFC 8083 §4.3).
pub(crate) const LINE_LOSS_MAX: f64 = 0.25;

/// A report that comes so soon after the one before says nothing new of the line: the next will, for counts are totals. A
/// subscriber has reason for ten a second at most.
pub(crate) const LINE_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Losses are congestion where a queue stands this high, and is never lower for a second (as CoDel looks at it, RFC 8289
/// §3.2). By a little less chunks differ that had to fill up first ...
pub(crate) const LINE_QUEUE_MAX: Duration = Duration::from_millis(80);
/// ... from this share on.
pub(crate) const LINE_QUEUED_LOSS_MAX: f64 = 0.02;

/// Whose line is over these limits for so long, which is two reports, is sent data alone ...
pub(crate) const LINE_STRAINED_AFTER: Duration = Duration::from_millis(1_800);
/// ... and is let go after this time: with the seconds until it shows, within ten.
pub(crate) const LINE_STRAINED_MAX: Duration = Duration::from_millis(5_800);

/// Lines that are let go: so many at once and a second. When it is this node's own line that loses, the others see it
/// recover before it is their turn.
pub(crate) const LINES_LET_GO: Rate = Rate { burst: 4, per_second: 4 };

/// A dial whose line could not take the stream waits so long: whoever else uses the line may have finished by then.
pub const LINE_REST: Duration = Duration::from_secs(30);

/// What is lost of a chunk is counted this long after its first shard: until then it may only have been overtaken.
pub(crate) const COUNT_AFTER: Duration = Duration::from_millis(100);

/// A subscriber reports at once when it has lost so many shards more, and twice as many as the last report said ...
pub(crate) const LOST_TO_REPORT: u64 = 8;
/// ... but not before this time has passed.
pub(crate) const REPORT_INTERVAL_LOSSY: Duration = Duration::from_millis(250);

/// A joiner is not yet owed the chunks between its join point and the live edge: they are paced out to it.
pub const JOIN_GRACE: Duration = Duration::from_millis(250);

/// How many chunks before the first one seen a joiner waits for: 8 s at 32 Mbit/s, where a chunk is full after 8 ms; 40 s
/// at 4 Mbit/s.
pub const JOIN_DISTANCE_MAX: u64 = 1_024;

/// Of several upstreams, one whose stripes come later than the others' by more than this gives none: what it brings would
/// be asked of others before, or hold up every chunk.
pub const LAG_MAX: Duration = Duration::from_millis(100);

/// So many shards overdue from one upstream while others' came, and nothing from it since: it is taken for gone. At 10 %
/// loss four in a row are lost once in 10^4, and that costs a trial.
pub const SILENT_SHARDS_MAX: usize = 4;

/// An upstream that lets others give more of its stripes than this, in millionths, is done without: repair of more takes
/// more than the subscriber's credit is refilled by.
pub(crate) const MISSED_PPM_MAX: i64 = 200_000;

/// How long an upstream that has failed gives nothing: at first, and at most.
pub const HOLD_OFF_MIN: Duration = Duration::from_secs(2);
/// See [`HOLD_OFF_MIN`].
pub const HOLD_OFF_MAX: Duration = Duration::from_secs(60);

/// For so long, and so many shards, an upstream has to bring what another one brings too before it is relied on.
pub const TRIAL_TIME: Duration = Duration::from_secs(2);
/// See [`TRIAL_TIME`].
pub const TRIAL_SHARDS: u64 = 16;

/// When nothing at all has come for so long, five chunks' time, upstreams that give nothing are asked for their part.
pub const QUIET_MAX: Duration = Duration::from_millis(200);

/// A gap of more chunks than this is not loss but a new start of the publisher: nothing in it is asked for. Together with
/// the window's slots it bounds how many chunks are kept track of: 2,200 of 300 bytes at the default window.
pub const GAP_CHUNKS_MAX: u64 = 1_024;

/// A sequence number may be ahead of both the live edge and this node's clock by this much, in µs, for publishers start
/// from theirs: a day of clock error.
pub const SEQUENCE_AHEAD_MAX: u64 = 86_400_000_000;

/// A publisher believes a relay that says the channel has got this far (2100-01-01 in µs), and goes on from there; more
/// would use up the numbers that a channel has.
pub const EDGE_BELIEVED_MAX: u64 = 4_102_444_800_000_000;

/// A subscriber of a channel that has not been live is taken to need so many data shards a second, about 5 Mbit/s on the
/// wire: what is promised to those who wait must not be taken from those who are served when the channel starts.
pub(crate) const ASSUMED_SHARDS_PER_SECOND: u64 = 500;

/// Under a cap, a joiner is served a backlog only if all backlogs can be sent within this time, so that nobody takes for
/// lost what is on its way: [`JOIN_GRACE`] without a long round trip.
pub(crate) const BACKLOG_PATIENCE: Duration = Duration::from_millis(200);

/// A backlog that was granted under a cap and is not sent by then is given up, for newcomers wait for it; the joiner has asked for
/// repair of what it lacks.
pub(crate) const BACKLOG_OWED_MAX: Duration = Duration::from_secs(1);

/// Under a cap, trains are so short that a subscriber waits for the next of a chunk no longer than this, however full the cap
/// is: after [`REORDER_GRACE`] it would ask for what is on its way.
pub(crate) const CAPPED_ROUND_MAX: Duration = Duration::from_micros(7_500);

/// A second that exceeds a cap by this part is reason enough to let subscribers go; less is, over five seconds.
pub(crate) const EGRESS_TOLERANCE_PARTS: u64 = 20;

/// What does not fit for so long is let go: two looks at it.
pub(crate) const EGRESS_OVER_MAX: Duration = SWEEP_INTERVAL;

/// A node that waits for a cap sleeps at least so long: what it earns meanwhile leaves in one batch.
pub(crate) const EGRESS_WAIT_MIN: Duration = Duration::from_micros(250);

/// A joiner is served its backlog this many times faster than real time, so that it neither waits nor floods its line.
pub const BACKLOG_SPEED: u64 = 4;

/// The longest wait between two chunks of a backlog.
pub const BACKLOG_INTERVAL_MAX: Duration = Duration::from_millis(10);

/// The shortest, whatever capture times say: a chunk each ms is 265 Mbit/s.
pub const BACKLOG_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Repair shards a subscriber may ask for before it was sent anything; what it joins with comes as backlog.
pub const REPAIR_CREDIT_START: u32 = 128;
/// The most it can save up.
pub const REPAIR_CREDIT_MAX: u32 = 4_096;

/// Signature checks that find nothing new to keep: what a session may cause at once and per second. At 33 µs each, 3 % of
/// a core.
pub(crate) const WASTED_CHECKS: Rate = Rate { burst: 1_000, per_second: 1_000 };

/// Signature checks of publishers' handshakes, all peers together.
pub(crate) const HELLO_CHECKS: Rate = Rate { burst: 500, per_second: 500 };

/// New sessions per second for one address, once it has used up as many as it may hold: each costs a backlog.
pub(crate) const GRANTS_PER_SECOND: u32 = 1;

/// Peers and channels that whoever runs the node keeps out: more than anybody types, and with 1,024 of 56 bytes no memory
/// to speak of.
pub(crate) const KICKED_MAX: usize = 1_024;

/// A session of this length was worth having: the next attempt starts with short waits again.
pub const SESSION_WORTH: Duration = Duration::from_secs(5);

/// Control datagrams waiting to be sent; challenges, which anybody can cause, take up half of it at most. Past it a
/// `Hello` goes unanswered and is repeated by its sender.
pub const CONTROL_QUEUE_MAX: usize = 4_096;

/// Answers to repair requests waiting to be sent; one channel's are at most as many as there are free places.
pub const ANSWER_QUEUE_MAX: usize = 4_096;

/// Chunks of which another node of the process had no room to be told: 20 ms of 500 channels in pieces. Older ones it has
/// missed.
pub(crate) const SHARES_WAITING_MAX: usize = 1_024;

/// Trains waiting to be fanned out; one channel's are at most as many as there are free places. 500 channels, each with
/// a chunk in four pieces.
pub const JOB_QUEUE_MAX: usize = 2_048;

/// A train that has waited this long is no longer live: it is skipped, the subscribers that miss it ask for repair
/// once the load is gone.
pub const JOB_AGE_MAX: Duration = Duration::from_millis(250);

/// Parity that has waited this long is left out: whoever lacks it has asked for repair, and what is late because there is too
/// little room must not make it less.
pub(crate) const PARITY_AGE_MAX: Duration = Duration::from_millis(50);

/// Events waiting to be taken, for each dial: more than one datagram, or one look at what is due, brings about. What comes
/// to many dials at once, as when the node at the other end goes, is told of each.
pub const EVENTS_PER_DIAL_MAX: usize = 8;

/// Local input that one push may bring: two whole chunks.
pub const PUSH_BYTES_MAX: usize = 64 << 10;

/// How long a publisher collects bytes before it makes a chunk of them.
pub const CHUNK_TIME: Duration = Duration::from_millis(40);

/// How much longer it keeps bytes that may turn out to be the start of a join point: the tables of an MPEG-TS come just
/// before the key frame.
pub const UNDECIDED_WAIT: Duration = Duration::from_millis(15);

const _: () = assert!(LINE_QUEUE_MAX.as_micros() > CHUNK_TIME.as_micros() + UNDECIDED_WAIT.as_micros());
const _: () = assert!(SLOT_BYTES <= 65_507, "a whole chunk fits one UDP message");
const _: () = assert!(CAPPED_ROUND_MAX.as_micros() * 2 <= REORDER_GRACE.as_micros());
const _: () = assert!(REPAIR_CREDIT_MAX <= u16::MAX as u32);
const _: () = assert!(GAP_CHUNKS_MAX >= JOIN_DISTANCE_MAX);
