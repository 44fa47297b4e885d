//! Caps on subscribers and on egress, on virtual time: what is promised is kept, and nobody pays for those who come later.

use std::sync::Arc;
use std::time::Duration;

use codec::Sequence;
use codec::wire::control::{ByeReason, RefuseReason};
use mesh::{ChannelId, ChannelLimits, Event, Ledger, LostReason, NodeConfig, SinkConfig};

use crate::lab::{CLEAN, Link, Net, address, edge_config, key, relay_config};

/// 4 Mbit/s.
const RATE: usize = 500_000;

const CAP_BPS: u64 = 50_000_000;

const LIVE: Sequence = Sequence(0);

fn capped(bps: u64) -> NodeConfig {
    let mut config = relay_config();
    config.limits.egress_bps_max = Some(bps);
    config
}

/// A metered relay that has this channel for a while; with the publisher and what it published.
fn live_relay(seed: u64, config: NodeConfig) -> (Net, usize, (usize, ChannelId), Vec<u8>) {
    let mut net = Net::new(seed, CLEAN);
    let relay = net.add(config);
    net.metered.insert(relay, Vec::new());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    let published = net.stream(publisher, channel, 3, RATE);
    (net, relay, (publisher, channel), published)
}

/// The most that hosts sent together in any second, bit/s.
fn busiest_second(net: &Net, hosts: &[usize]) -> u64 {
    let mut sent: Vec<_> = hosts.iter().flat_map(|host| net.metered[host].clone()).collect();
    sent.sort_unstable();
    let (mut first, mut within, mut most) = (0, 0, 0);
    for place in 0..sent.len() {
        within += sent[place].1;
        while sent[place].0.since(sent[first].0) >= Duration::from_secs(1) {
            within -= sent[first].1;
            first += 1;
        }
        most = most.max(within);
    }
    most * 8
}

fn assert_holds(busiest_second: u64, cap_bps: u64) {
    assert!(busiest_second <= cap_bps / 100 * 102, "{busiest_second} of {cap_bps} bit/s");
}

fn is_served(net: &Net, viewer: usize) -> bool {
    matches!(net.events(viewer).last(), Some(Event::Connected { .. }))
}

fn was_refused(net: &Net, viewer: usize, why: RefuseReason) -> bool {
    let is_it = |event: &Event| matches!(event, Event::Refused { reason, .. } if *reason == why);
    net.events(viewer).iter().any(is_it)
}

fn was_let_go(net: &Net, viewer: usize) -> bool {
    let is_bye =
        |event: &Event| matches!(event, Event::Lost { reason: LostReason::Bye(ByeReason::Closing), .. });
    net.events(viewer).iter().any(is_bye)
}

fn served(net: &Net, viewers: &[usize]) -> Vec<usize> {
    viewers.iter().copied().filter(|viewer| is_served(net, *viewer)).collect()
}

/// What each of these wrote is a piece of what was published, without a gap, and reaches its end.
fn assert_whole(net: &Net, viewers: &[usize], published: &[u8]) {
    for viewer in viewers {
        let output = net.output(*viewer);
        assert!(!output.is_empty() && published.ends_with(output), "viewer {viewer}: {} bytes", output.len());
        assert_eq!(net.peek(*viewer).counters().chunks_lost, 0, "viewer {viewer}");
    }
}

/// The row that the documents quote.
#[test]
fn of_thirty_who_ask_at_once_as_many_as_fit_are_served_whole_and_the_others_refused() {
    let mut config = capped(CAP_BPS);
    config.others.push(address(200));
    let (mut net, relay, (publisher, channel), mut published) = live_relay(1, config);
    let viewers: Vec<usize> = (0..30).map(|_| net.viewer(relay, LIVE).0).collect();
    published.extend(net.stream(publisher, channel, 10, RATE));
    let served = served(&net, &viewers);
    published.extend(net.stream(publisher, channel, 10, RATE));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run(Duration::from_secs(2));
    let peak = busiest_second(&net, &[relay]);
    let counters = net.peek(relay).counters().clone();
    println!(
        "{} of 30 served, busiest second {:.2} Mbit/s of {:.0}; {} refusals, {} joins deferred, {} backlogs skipped",
        served.len(),
        peak as f64 / 1e6,
        CAP_BPS as f64 / 1e6,
        counters.egress_refused,
        counters.joins_deferred,
        counters.backlogs_skipped,
    );
    assert_holds(peak, CAP_BPS);
    // Each takes 4.8 Mbit/s with the headers.
    assert_eq!(served.len(), 10);
    for viewer in &viewers {
        assert!(served.contains(viewer) || was_refused(&net, *viewer, RefuseReason::EgressFull));
        assert!(!was_let_go(&net, *viewer));
    }
    let with_others = |event: &Event| matches!(event, Event::Refused { nodes, .. } if nodes.len() == 1);
    let refused = viewers.iter().find(|viewer| !served.contains(viewer)).unwrap();
    assert!(net.events(*refused).iter().any(with_others));
    assert_whole(&net, &served, &published);
    assert_eq!((counters.jobs_skipped, counters.repairs_sent), (0, 0));
}

#[test]
fn sibling_nodes_keep_one_cap() {
    let mut net = Net::new(2, CLEAN);
    let ledger = Arc::new(Ledger::default());
    let relays = [0; 2].map(|_| net.add_with(&ledger, capped(CAP_BPS)));
    let (publisher, channel) = net.publisher(relays[0]);
    let now = net.now;
    net.node(publisher).dial(now, channel, address(relays[1]));
    relays.iter().for_each(|relay| {
        net.metered.insert(*relay, Vec::new());
    });
    net.run(Duration::from_millis(100));
    let mut published = net.stream(publisher, channel, 3, RATE);
    let viewers: Vec<usize> = (0..30).map(|number| net.viewer(relays[number % 2], LIVE).0).collect();
    published.extend(net.stream(publisher, channel, 10, RATE));
    let served = served(&net, &viewers);
    published.extend(net.stream(publisher, channel, 5, RATE));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run(Duration::from_secs(2));
    let peak = busiest_second(&net, &relays);
    println!("{} of 30 served by two, busiest second {:.2} Mbit/s", served.len(), peak as f64 / 1e6);
    assert_holds(peak, CAP_BPS);
    assert_eq!(served.len(), 10);
    assert!(relays.iter().all(|relay| net.peek(*relay).counters().sessions_granted > 1));
    assert_whole(&net, &served, &published);
}

#[test]
fn sibling_nodes_together_never_have_a_subscriber_too_many_of_a_channel() {
    let mut net = Net::new(3, CLEAN);
    let ledger = Arc::new(Ledger::default());
    let mut config = relay_config();
    config.limits.subscribers_per_channel_max = Some(7);
    let relays = [0; 2].map(|_| net.add_with(&ledger, config.clone()));
    let viewers: Vec<usize> = (0..20).map(|number| net.viewer(relays[number % 2], LIVE).0).collect();
    net.run(Duration::from_secs(1));
    assert_eq!(served(&net, &viewers).len(), 7);
    assert_eq!(viewers.iter().filter(|viewer| was_refused(&net, **viewer, RefuseReason::Full)).count(), 13);
    // A place that is given up is free at once, at either.
    let leaving = served(&net, &viewers)[0];
    net.node(leaving).close();
    // Who was refused asks again after five seconds.
    net.run_to(Duration::from_secs(8), "the place is taken", |net| {
        served(net, &viewers).iter().filter(|viewer| **viewer != leaving).count() == 7
    });
}

#[test]
fn a_channel_has_bounds_of_its_own() {
    let mut config = relay_config();
    let own = ChannelLimits { subscribers_max: Some(3), egress_bps_max: None };
    config.channel_limits.insert(key(), own);
    let (mut net, relay, (publisher, channel), mut published) = live_relay(4, config.clone());
    let viewers: Vec<usize> = (0..5).map(|_| net.viewer(relay, LIVE).0).collect();
    published.extend(net.stream(publisher, channel, 2, RATE));
    assert_eq!(served(&net, &viewers).len(), 3);
    // The configuration is changed: more subscribers, and 11 Mbit/s.
    let own = ChannelLimits { subscribers_max: Some(100), egress_bps_max: Some(11_000_000) };
    config.channel_limits.insert(key(), own);
    net.node(relay).configure(config);
    let changed_at = net.now;
    published.extend(net.stream(publisher, channel, 5, RATE));
    let served = served(&net, &viewers);
    assert_eq!(served.len(), 2, "the newest had to go");
    published.extend(net.stream(publisher, channel, 5, RATE));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run(Duration::from_secs(2));
    let sent = net.metered.get_mut(&relay).unwrap();
    sent.retain(|(at, _)| *at > changed_at);
    let peak = busiest_second(&net, &[relay]);
    // Control is not of the channel.
    assert_holds(peak, 11_030_000);
    assert_whole(&net, &served, &published);
}

#[test]
fn when_a_channel_grows_the_newest_are_let_go_and_the_others_stay_whole() {
    let (mut net, relay, (publisher, channel), mut published) = live_relay(5, capped(CAP_BPS));
    let mut viewers = Vec::new();
    for _ in 0..8 {
        viewers.push(net.viewer(relay, LIVE).0);
        published.extend(net.stream(publisher, channel, 1, RATE));
    }
    assert_eq!(served(&net, &viewers), viewers);
    // Half as much again: 7 Mbit/s each on the wire, 57 together.
    published.extend(net.stream(publisher, channel, 10, RATE / 2 * 3));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run(Duration::from_secs(3));
    let peak = busiest_second(&net, &[relay]);
    let let_go: Vec<usize> = viewers.iter().copied().filter(|viewer| was_let_go(&net, *viewer)).collect();
    println!("let go {let_go:?} of {viewers:?}, busiest second {:.2} Mbit/s", peak as f64 / 1e6);
    assert_holds(peak, CAP_BPS);
    assert_eq!(let_go, viewers[viewers.len() - let_go.len()..], "the newest");
    assert_eq!(net.peek(relay).counters().egress_let_go, let_go.len() as u64);
    let staying = &viewers[..viewers.len() - let_go.len()];
    assert_eq!(staying.len(), 6);
    assert_whole(&net, staying, &published);
}

#[test]
fn those_who_wait_for_a_channel_leave_room_for_those_who_are_served() {
    let (mut net, relay, (publisher, channel), mut published) = live_relay(6, capped(CAP_BPS));
    let viewers: Vec<usize> = (0..5).map(|_| net.viewer(relay, LIVE).0).collect();
    published.extend(net.stream(publisher, channel, 3, RATE));
    let other = codec::ChannelSecret::from_seed(&[43; 32]);
    let waiting: Vec<usize> = (0..20).map(|_| net.viewer_of(relay, other.key()).0).collect();
    published.extend(net.stream(publisher, channel, 3, RATE));
    let waiting_first = served(&net, &waiting).len();
    assert!((3..=5).contains(&waiting_first), "{waiting_first}");
    // It starts.
    let (second, second_channel) = net.publisher_of(relay, other);
    net.run(Duration::from_millis(50));
    for _ in 0..500 {
        let now = net.now;
        net.node(second).push(now, second_channel, &[7; RATE / 100]);
        published.extend(net.stream_without_join_point(publisher, channel, 1, RATE));
    }
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run(Duration::from_secs(2));
    println!("{waiting_first} waited, {} are served", served(&net, &waiting).len());
    assert_holds(busiest_second(&net, &[relay]), CAP_BPS);
    assert!(served(&net, &waiting).len() >= waiting_first);
    assert_eq!(net.peek(relay).counters().egress_let_go, 0);
    assert_whole(&net, &viewers, &published);
}

#[test]
fn joiners_do_not_cost_those_who_are_served_anything() {
    let (mut net, relay, (publisher, channel), mut published) = live_relay(7, capped(CAP_BPS));
    let first: Vec<usize> = (0..6).map(|_| net.viewer(relay, LIVE).0).collect();
    published.extend(net.stream(publisher, channel, 3, RATE));
    // Nobody can start later than here: three seconds without a join point.
    published.extend(net.stream_without_join_point(publisher, channel, 300, RATE));
    let late: Vec<usize> = (0..4).map(|_| net.viewer(relay, LIVE).0).collect();
    published.extend(net.stream(publisher, channel, 6, RATE));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run(Duration::from_secs(2));
    let counters = net.peek(relay).counters();
    println!(
        "{} deferrals, {} shards of backlogs, {} backlogs skipped",
        counters.joins_deferred, counters.backlog_sent, counters.backlogs_skipped
    );
    assert_holds(busiest_second(&net, &[relay]), CAP_BPS);
    assert_eq!(served(&net, &late).len(), 4);
    assert_eq!((counters.jobs_skipped, counters.repairs_sent), (0, 0));
    assert_whole(&net, &first, &published);
    assert_whole(&net, &late, &published);
}

#[test]
fn those_who_take_halves_count_for_halves_and_nobody_is_let_go_for_the_rest() {
    const CAP: u64 = 20_000_000;
    let (mut net, relay, (publisher, channel), _) = live_relay(8, capped(CAP));
    let other = net.add(relay_config());
    let now = net.now;
    net.node(publisher).dial(now, channel, address(other));
    let mut viewers = Vec::new();
    for _ in 0..6 {
        let (viewer, _) = net.viewer(relay, LIVE);
        let (now, sink) = (net.now, net.sink(viewer));
        net.node(viewer).dial(now, sink, address(other));
        viewers.push(viewer);
        net.stream(publisher, channel, 6, RATE);
    }
    net.stream(publisher, channel, 6, RATE);
    assert_eq!(net.peek(relay).counters().egress_let_go, 0);
    assert_eq!(net.peek(relay).granted_sessions(), 6 + 1, "with the publisher");
    assert_holds(busiest_second(&net, &[relay]), CAP);
    for viewer in viewers {
        assert_eq!(net.peek(viewer).counters().chunks_lost, 0);
    }
}

#[test]
fn a_viewer_that_is_started_anew_just_after_a_cap_was_set_owes_nothing_for_ever() {
    let (mut net, relay, (publisher, channel), _) = live_relay(9, relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    for round in 0..10 {
        net.node(relay).configure(relay_config());
        net.stream(publisher, channel, 1, RATE);
        net.stream_without_join_point(publisher, channel, 20 + round, RATE);
        net.node(relay).configure(capped(CAP_BPS));
        net.start(viewer, edge_config());
        let config = SinkConfig { delay: Duration::from_secs(1), from: LIVE };
        let now = net.now;
        let sink = net.node(viewer).add_sink(&key(), config).expect("a valid key");
        net.node(viewer).dial(now, sink, address(relay));
        net.run(Duration::from_millis(20));
    }
    net.stream(publisher, channel, 2, RATE);
    let late = net.viewer(relay, LIVE).0;
    net.stream(publisher, channel, 2, RATE);
    assert!(is_served(&net, late), "{:?}", net.events(late));
}

#[test]
fn repair_that_a_cap_held_back_until_it_was_of_no_use_is_not_sent() {
    // What is live takes 48 of 50 Mbit/s.
    let (mut net, relay, (publisher, channel), _) = live_relay(11, capped(CAP_BPS));
    let viewers: Vec<usize> = (0..10).map(|_| net.viewer(relay, LIVE).0).collect();
    net.stream(publisher, channel, 8, RATE);
    assert_eq!(served(&net, &viewers).len(), 10);
    net.links.insert(relay, Link { loss_permille: 150, ..CLEAN });
    net.stream(publisher, channel, 2, RATE);
    net.links.clear();
    // Viewers wait for a chunk for a second.
    net.stream(publisher, channel, 2, RATE);
    let sent = net.peek(relay).counters().repairs_sent;
    assert!(sent > 0);
    net.stream(publisher, channel, 3, RATE);
    assert_eq!(net.peek(relay).counters().repairs_sent, sent);
}

#[test]
fn after_a_restart_the_newest_are_still_the_newest() {
    let (mut net, relay, (publisher, channel), _) = live_relay(10, capped(CAP_BPS));
    // The place of one that leaves is taken by the newest.
    let (leaving, dial) = net.viewer(relay, LIVE);
    net.stream(publisher, channel, 1, RATE);
    let old: Vec<usize> = (0..6).map(|_| net.viewer(relay, LIVE).0).collect();
    net.stream(publisher, channel, 1, RATE);
    let (now, elsewhere) = (net.now, address(99));
    net.node(leaving).redirect(now, dial, elsewhere);
    net.stream(publisher, channel, 1, RATE);
    let new: Vec<usize> = (0..2).map(|_| net.viewer(relay, LIVE).0).collect();
    net.stream(publisher, channel, 1, RATE);
    let left = net.hand_over(relay);
    net.resume(relay, capped(CAP_BPS), &left);
    net.stream(publisher, channel, 2, RATE);
    net.stream(publisher, channel, 8, RATE / 2 * 3);
    assert!(new.iter().all(|viewer| was_let_go(&net, *viewer)), "they do not fit any more");
    assert!(!old.iter().any(|viewer| was_let_go(&net, *viewer)), "{:?}", served(&net, &old));
}

#[test]
fn subscribers_of_a_part_of_each_chunk_take_that_part_of_the_cap_and_stay() {
    let mut net = Net::new(20, CLEAN);
    let relays = [capped(CAP_BPS), relay_config()].map(|config| net.add(config));
    net.metered.insert(relays[0], Vec::new());
    let (publisher, channel) = net.publisher(relays[0]);
    let now = net.now;
    net.node(publisher).dial(now, channel, address(relays[1]));
    net.run(Duration::from_millis(100));
    net.stream(publisher, channel, 3, RATE);
    let mut viewers = Vec::new();
    // Ten that took all of it would fill the cap.
    for _ in 0..16 {
        let (viewer, _) = net.viewer(relays[0], LIVE);
        let (now, sink) = (net.now, net.sink(viewer));
        net.node(viewer).dial(now, sink, address(relays[1]));
        viewers.push(viewer);
        net.stream(publisher, channel, 4, RATE);
    }
    net.stream(publisher, channel, 10, RATE);
    assert_holds(busiest_second(&net, &relays[..1]), CAP_BPS);
    let counters = net.peek(relays[0]).counters().clone();
    assert_eq!((counters.egress_refused, counters.egress_let_go), (0, 0));
    assert!(viewers.iter().all(|viewer| !was_let_go(&net, *viewer)));
    assert_eq!(net.peek(relays[0]).channels().map(|channel| channel.subscribers).sum::<usize>(), 16);
}

#[test]
fn relays_that_replace_one_another_keep_one_cap() {
    let (mut net, relay, (publisher, channel), _) = live_relay(21, capped(CAP_BPS));
    for _ in 0..9 {
        net.viewer(relay, LIVE);
        net.stream(publisher, channel, 1, RATE);
    }
    // All there is, is spent as soon as it is there.
    for _ in 0..20 {
        net.stream_without_join_point(publisher, channel, 5, 4 * RATE);
        let left = net.hand_over(relay);
        net.resume(relay, capped(CAP_BPS), &left);
    }
    assert_holds(busiest_second(&net, &[relay]), CAP_BPS);
}
