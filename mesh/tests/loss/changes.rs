//! What is to be told from loss: outages elsewhere, longer paths, players without patience; and loss that is too much.

use std::time::Duration;

use codec::wire::control::ByeReason;
use mesh::{Event, LostReason};

use crate::link::{LinkConfig, Losses, clean};
use crate::network::{Network, PUBLISHER, RELAY};

const FOUR_MBPS: usize = 4_000_000;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn path(rtt_ms: u64, losses: Losses) -> LinkConfig {
    LinkConfig { losses, ..clean(rtt_ms / 2) }
}

fn is_told_too_thin(event: &Event) -> bool {
    let too_thin = LostReason::Bye(ByeReason::LineTooThin);
    matches!(event, Event::Lost { reason, .. } if *reason == too_thin)
}

#[test]
fn what_a_relay_never_got_is_not_taken_for_loss_of_its_subscribers_lines() {
    // There is no time to ask the publisher for what was lost.
    let mut network = Network::new(clean(150));
    let well = network.viewer(Duration::from_millis(200), clean(150));
    let lossy = network.viewer(Duration::from_millis(200), path(50, Losses::Uniform(0.005)));
    network.stream(seconds(30), FOUR_MBPS);
    let usual = network.sent_to(lossy);
    network.stream(seconds(30), FOUR_MBPS);
    let usual = network.sent_since(lossy, usual).overhead();
    network.cut_uplink(true);
    network.stream(seconds(1), FOUR_MBPS);
    network.cut_uplink(false);
    network.stream(seconds(1), FOUR_MBPS);
    let before = [well, lossy].map(|viewer| network.sent_to(viewer));
    network.stream(seconds(30), FOUR_MBPS);
    let after = network.sent_since(well, before[0]).overhead();
    assert!(after <= 0.001, "{after}");
    let after = network.sent_since(lossy, before[1]).overhead();
    assert!(after <= usual + 0.02, "{after} after {usual}");
}

#[test]
fn a_publisher_that_comes_back_by_a_longer_way_costs_no_lossy_viewer_its_session() {
    let mut network = Network::new(clean(10));
    let viewers: Vec<usize> =
        (0..4).map(|_| network.viewer(Duration::from_millis(400), path(50, Losses::Uniform(0.04)))).collect();
    network.stream(seconds(10), FOUR_MBPS);
    network.restart_publisher(clean(160));
    network.stream(seconds(20), FOUR_MBPS);
    for viewer in viewers {
        let events = network.events(viewer);
        assert!(matches!(events, [Event::Connected { .. }]), "{events:?}");
    }
}

#[test]
fn parity_does_not_hide_that_a_line_loses_more_than_it_may() {
    let mut network = Network::new(clean(10));
    let viewer = network.viewer(Duration::from_millis(400), path(100, Losses::Uniform(0.35)));
    network.stream(seconds(15), FOUR_MBPS);
    let events = network.events(viewer);
    assert!(events.iter().any(|event| matches!(event, Event::Strained { .. })), "{events:?}");
    assert!(network.counters(RELAY).sessions_strained > 0 || events.iter().any(is_told_too_thin));
}

#[test]
fn a_viewer_without_patience_does_not_make_its_relay_take_what_is_on_its_way_for_lost() {
    let mut network = Network::new(LinkConfig { jitter: Duration::from_millis(12), ..clean(40) });
    let viewer = network.viewer(Duration::ZERO, clean(5));
    network.stream(seconds(20), FOUR_MBPS);
    let (uplink, downlink) = (network.uplink().overhead(), network.sent_to(viewer).overhead());
    assert!(uplink <= 0.01, "{uplink}");
    assert!(downlink <= 0.01, "{downlink}");
}

#[test]
fn a_publisher_whose_reports_are_lost_does_not_give_its_session_up() {
    let mut network = Network::new(path(50, Losses::Uniform(0.15)));
    network.viewer(Duration::from_millis(400), clean(10));
    network.stream(seconds(180), 200_000);
    let events = network.events(PUBLISHER);
    assert!(!events.iter().any(|event| matches!(event, Event::Lost { .. })), "{events:?}");
}
