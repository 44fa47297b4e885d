//! What the fuzzer's bytes mean: how the nodes are set up, and what happens to them step by step.

use arbitrary::Arbitrary;

/// How the nodes are set up.
#[derive(Arbitrary, Debug)]
pub(crate) struct Setup {
    /// The second relay takes the channel from the first, not from the publisher.
    pub(crate) is_chained: bool,
    /// The relays' cap on egress, Mbit/s.
    pub(crate) cap_mbps: Option<u8>,
    /// Slots of each relay, beside the least that it needs.
    pub(crate) slots: u8,
    /// Everybody has said hello and the stream is under way when the steps begin.
    pub(crate) is_running: bool,
    /// The network is whole again in the end, and everybody has to get the stream once more.
    pub(crate) heals: bool,
}

/// One of the nodes or strangers, by number.
pub(crate) type Place = u8;

/// Puts four bytes where others were.
#[derive(Arbitrary, Debug)]
pub(crate) struct Patch {
    pub(crate) at: u16,
    pub(crate) with: u32,
}

/// One thing that happens.
#[derive(Arbitrary, Debug)]
pub(crate) enum Step {
    /// Time passes, and nobody does anything.
    Sleep { us: u16, ms: u8 },
    /// Everybody goes on; of what is sent, the datagrams whose bits are set are lost.
    Run { ms: u8, losses: u16 },
    /// The publisher has more of the stream.
    Push { bytes: u16, joins: bool },
    /// The publisher ends the channel.
    Finish,
    /// The oldest datagrams under way arrive.
    Deliver { count: u8 },
    /// One of them is lost.
    Lose { which: u8 },
    /// One arrives now, and once more later.
    Duplicate { which: u8 },
    /// One arrives before the others.
    Overtake { which: u8 },
    /// One arrives changed.
    Corrupt { which: u8, patch: Patch },
    /// A node does what is due, if it is, and sends at most this many messages.
    Poll { host: Place, timeouts: bool, room: u8 },
    /// A peer says what it, or who is at that address, said last, but for some bytes of it.
    SayAgain { by: Place, to: Place, kind: u8, patches: Vec<Patch> },
    /// A subscriber asks for shards of chunks about the live edge.
    AskFor { by: Place, of: Place, wanted: Vec<(i8, u64)> },
    /// Somebody says hello, with the cookie that was last sent there if there is one.
    Hello { by: Place, to: Place, publishes: bool, other_channel: bool, nonce: u8, from_back: u8 },
    /// A publisher with its channel's secret sends some shards of a chunk that it numbers as it likes.
    SendChunk { by: Place, to: Place, number: Number, data: u8, parity: u8, shards: u64 },
    /// Any bytes arrive.
    Say { by: Place, to: Place, bytes: Vec<u8> },
    /// A relay is replaced: what it hands over is changed on the way.
    HandOver { relay: Place, kilobytes: u8, pause_ms: u8, patches: Vec<Patch> },
    /// A relay is started anew and knows nothing.
    Restart { relay: Place },
    /// The relays' bounds change.
    Configure { cap_mbps: Option<u8>, channel_mbps: Option<u8>, subscribers: u8, is_open: bool },
    /// A relay keeps somebody out.
    Kick { relay: Place, whom: Place, by_channel: bool, seconds: u8 },
    /// A relay lets some go.
    LetGo { relay: Place, sessions: u8 },
    /// A relay lets in nobody, or everybody again.
    CloseTo { relay: Place, all: bool, subscribers: bool },
    /// A relay ends all sessions.
    Close { relay: Place },
    /// A relay cannot send to an address.
    Refuse { relay: Place, to: Place, times: u8 },
    /// A viewer turns one of its dials elsewhere.
    Redirect { viewer: Place, dial: u8, to: Place },
    /// A viewer takes the channel from this relay too.
    Dial { viewer: Place, to: Place },
    /// A viewer hangs up.
    HangUp { viewer: Place, dial: u8 },
}

/// How a publisher numbers a chunk.
#[derive(Arbitrary, Debug)]
pub(crate) enum Number {
    /// So far from the last one.
    Near(i16),
    /// Somewhere.
    Any(u64),
}
