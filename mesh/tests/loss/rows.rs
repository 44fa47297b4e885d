//! The figures, row by row. `SECONDS=600 cargo test --release -p mesh --test loss -- --show-output` measures as long as
//! that.

use std::time::Duration;

use codec::wire::control::ByeReason;
use mesh::{Event, LostReason};

use crate::link::{Bottleneck, LinkConfig, Losses, clean};
use crate::network::{Network, PUBLISHER, RELAY, Sent};

/// 14 data shards a chunk, every 30 ms.
const FOUR_MBPS: usize = 4_000_000;
/// 32 data shards a chunk, every 27 ms.
const TEN_MBPS: usize = 10_000_000;

/// How long the estimates have before it counts.
const WARM_UP: Duration = Duration::from_secs(10);

fn seconds(usual: u64) -> Duration {
    let seconds = std::env::var("SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(usual))
}

/// A round trip of so many ms with these losses each way.
fn path(rtt_ms: u64, losses: Losses) -> LinkConfig {
    LinkConfig { losses, ..clean(rtt_ms / 2) }
}

/// What one viewer and the relay are sent.
struct Row {
    viewer: Sent,
    relay: Sent,
}

fn measure(name: &str, uplink: LinkConfig, downlink: LinkConfig, delay_ms: u64, bps: usize) -> Row {
    measure_for(30, name, uplink, downlink, delay_ms, bps)
}

fn measure_for(
    usual_seconds: u64,
    name: &str,
    uplink: LinkConfig,
    downlink: LinkConfig,
    delay_ms: u64,
    bps: usize,
) -> Row {
    let mut network = Network::new(uplink);
    let viewer = network.viewer(Duration::from_millis(delay_ms), downlink);
    network.stream(WARM_UP, bps);
    let (before, relay_before) = (network.sent_to(viewer), network.uplink());
    network.stream(seconds(usual_seconds), bps);
    let row =
        Row { viewer: network.sent_since(viewer, before), relay: network.sent_since(RELAY, relay_before) };
    println!(
        "{name}: {} of {} chunks lost ({:.1e}); to the viewer +{:.2} %, to the relay +{:.2} %",
        row.viewer.chunks_skipped,
        row.viewer.chunks_skipped + row.viewer.chunks_delivered,
        row.viewer.loss_of_chunks(),
        100.0 * row.viewer.overhead(),
        100.0 * row.relay.overhead()
    );
    assert!(row.viewer.chunks_delivered > 100, "{name}: the stream came");
    row
}

#[test]
fn uniform_loss_of_three_percent_on_two_hops_loses_nothing() {
    let hop = path(100, Losses::Uniform(0.03));
    let row = measure("3 % on two hops, 100 ms, delay 400", hop, hop, 400, FOUR_MBPS);
    assert_eq!(row.viewer.chunks_skipped, 0);
}

#[test]
fn uniform_loss_of_ten_percent_on_two_hops_loses_nothing() {
    let hop = path(100, Losses::Uniform(0.1));
    let row = measure("10 % on two hops, 100 ms, delay 400", hop, hop, 400, FOUR_MBPS);
    assert_eq!(row.viewer.chunks_skipped, 0);
}

#[test]
fn bursts_on_two_hops_lose_nothing() {
    let hop = path(100, Losses::Bursts { share: 0.03, length: 5.0 });
    // Runs of requests that are lost have to be met, of which there are few.
    let row = measure_for(120, "bursts of 5, 3 %, on two hops, 100 ms, delay 400", hop, hop, 400, FOUR_MBPS);
    assert_eq!(row.viewer.chunks_skipped, 0);
}

#[test]
fn without_loss_nothing_is_sent_beyond_the_stream() {
    let row = measure("no loss", clean(25), clean(25), 400, FOUR_MBPS);
    assert_eq!(row.viewer.chunks_skipped, 0);
    assert!(row.viewer.overhead() <= 0.01 && row.relay.overhead() <= 0.02);
}

#[test]
fn where_there_is_time_loss_costs_repair_alone() {
    let downlink = path(50, Losses::Uniform(0.03));
    let row = measure("3 %, 50 ms, delay 400", clean(10), downlink, 400, FOUR_MBPS);
    assert_eq!(row.viewer.chunks_skipped, 0);
    assert!(row.viewer.overhead() <= 0.08, "{}", row.viewer.overhead());
    assert!(row.relay.overhead() <= 0.02, "{}", row.relay.overhead());
}

#[test]
fn where_there_is_no_time_for_repair_parity_takes_its_place() {
    let downlink = path(300, Losses::Uniform(0.03));
    let row = measure("3 %, 300 ms, delay 200, k = 32", clean(10), downlink, 200, TEN_MBPS);
    assert!(row.viewer.loss_of_chunks() <= 1e-4, "{}", row.viewer.loss_of_chunks());
    assert!(row.viewer.overhead() <= 0.30, "{}", row.viewer.overhead());
    assert!(row.relay.overhead() <= 0.02, "{}", row.relay.overhead());
}

#[test]
fn datagrams_that_overtake_each_other_are_not_taken_for_lost() {
    let hop = LinkConfig { jitter: Duration::from_millis(20), ..clean(25) };
    let row = measure("jitter of 20 ms, no loss", hop, hop, 400, FOUR_MBPS);
    assert_eq!(row.viewer.chunks_skipped, 0);
    assert!(row.viewer.overhead() <= 0.01, "{}", row.viewer.overhead());
}

#[test]
fn loss_and_jitter_together_cost_little_more_than_loss() {
    let hop = LinkConfig { jitter: Duration::from_millis(20), ..path(50, Losses::Uniform(0.03)) };
    let row = measure("3 % and jitter of 20 ms, 50 ms, delay 400", hop, hop, 400, FOUR_MBPS);
    assert_eq!(row.viewer.chunks_skipped, 0);
    assert!(row.viewer.overhead() <= 0.25, "{}", row.viewer.overhead());
}

#[test]
fn a_line_that_cannot_take_the_stream_is_let_go_and_others_see_nothing() {
    let bottleneck = Some(Bottleneck { bps: 2_000_000, queue: Duration::from_millis(100) });
    let mut network = Network::new(clean(10));
    let well = network.viewer(Duration::from_millis(400), clean(25));
    network.stream(Duration::from_secs(3), FOUR_MBPS);
    let thin = network.viewer(Duration::from_secs(1), LinkConfig { bottleneck, ..clean(25) });
    let before = network.sent_to(well);
    network.stream(Duration::from_secs(10), FOUR_MBPS);
    let too_thin = LostReason::Bye(ByeReason::LineTooThin);
    let is_goodbye = |event: &&Event| matches!(event, Event::Lost { reason, .. } if *reason == too_thin);
    let goodbyes = |network: &Network| network.events(thin).iter().filter(is_goodbye).count();
    assert_eq!(goodbyes(&network), 1, "{:?}", network.events(thin));
    assert!(network.events(thin).iter().any(|event| matches!(event, Event::Strained { .. })));
    let left = network.sent_to(thin);
    network.stream(Duration::from_secs(15), FOUR_MBPS);
    assert_eq!(network.sent_since(thin, left).shards, 0, "it does not come back at once");
    let others = network.sent_since(well, before);
    assert_eq!((others.chunks_skipped, others.shards), (0, others.data));
    assert_eq!(network.counters(RELAY).sessions_strained, 1);
}

#[test]
fn who_loses_nothing_reports_every_other_second_and_each_second_when_nothing_comes() {
    let mut network = Network::new(clean(10));
    let viewer = network.viewer(Duration::from_millis(400), clean(25));
    let lossy = network.viewer(Duration::from_millis(400), path(50, Losses::Uniform(0.03)));
    let sent = |network: &Network| [viewer, lossy].map(|host| network.counters(host).control_sent);
    network.stream(WARM_UP, FOUR_MBPS);
    let at_first = sent(&network);
    network.stream(Duration::from_secs(20), FOUR_MBPS);
    let then = sent(&network);
    assert!((9..=11).contains(&(then[0] - at_first[0])), "{at_first:?} {then:?}");
    assert!(then[1] - at_first[1] >= 19, "{at_first:?} {then:?}");
    network.cut_uplink(true);
    network.stream(Duration::from_secs(5), FOUR_MBPS);
    let reports = sent(&network)[0] - then[0];
    assert!((4..=6).contains(&reports), "{reports}");
}

#[test]
fn a_publisher_over_a_thin_line_is_told_and_stays_even_when_its_relay_starts_anew() {
    let bottleneck = Some(Bottleneck { bps: 2_000_000, queue: Duration::from_millis(100) });
    let mut network = Network::new(LinkConfig { bottleneck, ..clean(25) });
    network.stream(Duration::from_secs(10), FOUR_MBPS);
    assert!(network.events(PUBLISHER).iter().any(|event| matches!(event, Event::Strained { .. })));
    let before = network.events(PUBLISHER).len();
    network.restart_relay();
    network.stream(Duration::from_secs(5), FOUR_MBPS);
    let unknown = LostReason::Bye(ByeReason::UnknownSession);
    let events = &network.events(PUBLISHER)[before..];
    let is_back =
        matches!(events, [Event::Lost { reason, .. }, Event::Connected { .. }, ..] if *reason == unknown);
    assert!(is_back, "{events:?}");
}

#[test]
fn lossy_lines_that_take_the_stream_are_not_let_go() {
    let lines = [
        path(100, Losses::Uniform(0.15)),
        path(100, Losses::Bursts { share: 0.08, length: 20.0 }),
        LinkConfig { jitter: Duration::from_millis(80), ..path(40, Losses::Uniform(0.05)) },
    ];
    let mut network = Network::new(clean(10));
    let viewers = lines.map(|line| network.viewer(Duration::from_secs(1), line));
    network.stream(seconds(30), FOUR_MBPS);
    for viewer in viewers {
        let events = network.events(viewer);
        assert!(matches!(events, [Event::Connected { .. }]), "{events:?}");
    }
}

#[test]
fn a_relay_that_gets_nothing_for_a_while_lets_nobody_go() {
    let mut network = Network::new(clean(10));
    let viewers: Vec<usize> =
        (0..8).map(|_| network.viewer(Duration::from_millis(500), path(40, Losses::Uniform(0.01)))).collect();
    network.stream(Duration::from_secs(5), FOUR_MBPS);
    // Chunks are made, and their numbers used up, but nothing of them comes through.
    network.cut_uplink(true);
    network.stream(Duration::from_secs(8), FOUR_MBPS);
    network.cut_uplink(false);
    network.stream(Duration::from_secs(20), FOUR_MBPS);
    for viewer in viewers {
        let events = network.events(viewer);
        assert!(matches!(events, [Event::Connected { .. }]), "{events:?}");
    }
}
