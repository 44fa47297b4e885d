//! What a seed may have.

use strum::VariantArray;

/// Circumstances and troubles. Each is off at random, so that a seed has some of them and not always all (swarm testing: Groce
/// et al. 2012).
#[derive(Clone, Copy, PartialEq, Eq, Debug, VariantArray)]
pub(super) enum Feature {
    Loss,
    Bursts,
    Delay,
    Jitter,
    Reordering,
    Duplication,
    Rates,
    /// Lines change on the way.
    Changes,
    /// Relays of several nodes.
    Siblings,
    /// Relays that take channels from relays.
    Chain,
    /// Publishers that give their channel to all first relays.
    TwoUplinks,
    /// Viewers, and relays behind others, that take a channel from several relays at a time.
    TwoUpstreams,
    SeveralChannels,
    RelayRestarts,
    /// Relays that are replaced by their successors.
    HandOvers,
    PublisherRestarts,
    Churn,
    Hostile,
    /// Viewers whose reports and requests are nonsense.
    Liars,
    LittleMemory,
    SmallWindows,
    /// Clocks that do not agree.
    Clocks,
    SmallBatches,
    FewPlaces,
    /// Relays whose egress is capped, and one beside them that takes all whom they refuse.
    EgressCaps,
}
