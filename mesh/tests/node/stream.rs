//! A stream through nodes on a network of virtual time: what comes out is what went in.

use std::time::Duration;

use crate::lab::{CLEAN, LOSSY, Link, Net, address, relay_config};
use codec::Sequence;
use mesh::{DropReason, Event, LostReason};

/// 4 Mbit/s.
const RATE: usize = 500_000;

const LIVE: Sequence = Sequence(0);
const OLDEST: Sequence = Sequence(1);

#[test]
fn viewers_on_a_clean_network_get_the_stream_without_parity_or_repair() {
    let mut net = Net::new(1, CLEAN);
    let relay = net.add(relay_config());
    let viewers = [0; 3].map(|_| net.viewer(relay, LIVE).0);
    net.run(Duration::from_millis(100));
    let (publisher, channel) = net.publisher(relay);
    let published = net.stream(publisher, channel, 5, RATE);
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(2), "all viewers ended", |net| viewers.iter().all(|v| net.has_ended(*v)));
    for viewer in viewers {
        assert!(net.output(viewer) == published);
    }
    let counters = net.node(relay).counters().clone();
    assert_eq!((counters.shards_lost, counters.repairs_sent, counters.backlog_sent), (0, 0, 0));
    // Data shards only, each to each viewer, one train per chunk and viewer, one signature check per chunk.
    let uploaded = net.node(publisher).counters().shards_sent;
    assert_eq!(counters.shards_sent, 3 * uploaded);
    assert_eq!(counters.trains_sent, 3 * counters.chunks);
    assert_eq!(counters.signature_checks, counters.chunks + 1);
    net.run_to(Duration::from_secs(1), "drained", |net| net.peek(publisher).is_drained(channel));
}

#[test]
fn five_percent_loss_on_each_hop_loses_nothing() {
    for seed in 10..14 {
        let mut net = Net::new(seed, LOSSY);
        let relay = net.add(relay_config());
        let viewers = [0; 5].map(|_| net.viewer(relay, LIVE).0);
        net.run(Duration::from_secs(3));
        let (publisher, channel) = net.publisher(relay);
        net.run(Duration::from_secs(2));
        let published = net.stream(publisher, channel, 20, RATE);
        let now = net.now;
        net.node(publisher).finish(now, channel);
        net.run_to(Duration::from_secs(5), "all ended", |net| viewers.iter().all(|v| net.has_ended(*v)));
        for viewer in viewers {
            assert!(net.output(viewer) == published, "viewer {viewer} differs");
            let counters = net.node(viewer).counters();
            assert!(counters.shards_repaired > 0, "there is time for repair: {counters:?}");
            assert_eq!(counters.chunks_lost, 0);
            assert_eq!(counters.shards_lost, counters.shards_recovered + counters.shards_repaired);
        }
        let counters = net.node(relay).counters();
        assert!(counters.shards_lost > 0 && counters.chunks_lost == 0);
        println!(
            "relay: {} lost, {} by the erasure code, {} by repair",
            counters.shards_lost, counters.shards_recovered, counters.shards_repaired
        );
    }
}

#[test]
fn reordering_and_duplication_alone_cost_nothing_but_the_duplicates() {
    let link = Link { duplicate_permille: 200, jitter: Duration::from_millis(8), ..CLEAN };
    let mut net = Net::new(20, link);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    let published = net.stream(publisher, channel, 5, RATE);
    net.run(Duration::from_secs(1));
    assert!(published.starts_with(net.output(viewer)) && net.output(viewer).len() + 2_000 > published.len());
    let counters = net.node(viewer).counters();
    assert!(counters.dropped_for(DropReason::Duplicate) > 0);
    assert_eq!((counters.shards_lost, counters.chunks_lost), (0, 0));
}

#[test]
fn a_live_publisher_is_never_far_ahead_of_its_relay() {
    let mut net = Net::new(22, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    assert_eq!(net.peek(publisher).unsettled(channel), 0);
    net.run(Duration::from_millis(100));
    for _ in 0..300 {
        net.stream_without_join_point(publisher, channel, 1, RATE);
        let behind = net.peek(publisher).unsettled(channel);
        assert!(behind < 60, "{behind} chunks, at about 30 a second and a report each second");
    }
    net.kill(relay);
    net.stream(publisher, channel, 4, RATE);
    assert_eq!(net.peek(publisher).unsettled(channel), 0, "nobody is connected any more");
}

#[test]
fn a_late_joiner_starts_at_the_latest_join_point_and_at_once() {
    let mut net = Net::new(30, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    let mut published = net.stream(publisher, channel, 3, RATE);
    published.extend(net.stream_without_join_point(publisher, channel, 50, RATE));
    let (viewer, _) = net.viewer(relay, LIVE);
    let joined = net.now;
    net.run_to(Duration::from_millis(50), "first byte", |net| !net.output(viewer).is_empty());
    println!("first byte after {:?}", net.now.since(joined));
    published.extend(net.stream(publisher, channel, 2, RATE));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(2), "ended", |net| net.has_ended(viewer));
    // The last join point before the viewer came was at 2 s.
    assert!(net.output(viewer) == &published[2 * RATE..]);
}

#[test]
fn a_join_point_just_after_a_chunk_was_made_is_one() {
    let mut net = Net::new(33, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    net.stream_without_join_point(publisher, channel, 50, RATE);
    // Everything pending leaves as chunks; then the join point comes first.
    net.run(Duration::from_millis(100));
    let now = net.now;
    net.node(publisher).push(now, channel, &[7; 2_000]);
    net.node(publisher).mark_join_point(now, channel, 2_000);
    net.run(Duration::from_millis(100));
    let (viewer, _) = net.viewer(relay, LIVE);
    net.run_to(Duration::from_millis(100), "first bytes", |net| !net.output(viewer).is_empty());
    net.run(Duration::from_millis(100));
    assert!(net.output(viewer) == [7; 2_000]);
}

#[test]
fn a_newcomer_to_a_channel_that_ended_waits_for_its_next_start() {
    let mut net = Net::new(34, CLEAN);
    let relay = net.add(relay_config());
    let (first, channel) = net.publisher(relay);
    net.stream(first, channel, 2, RATE);
    let now = net.now;
    net.node(first).finish(now, channel);
    net.run(Duration::from_secs(1));
    net.node(first).close();
    let viewers = [net.viewer(relay, LIVE).0, net.viewer(relay, OLDEST).0];
    net.run(Duration::from_secs(1));
    let (second, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    let begun = net.now;
    let mut published = net.stream_without_join_point(second, channel, 20, RATE);
    for viewer in viewers {
        assert!(!net.output(viewer).is_empty(), "nothing within {:?}", net.now.since(begun));
    }
    published.extend(net.stream(second, channel, 1, RATE));
    let now = net.now;
    net.node(second).finish(now, channel);
    net.run_to(Duration::from_secs(2), "ended", |net| viewers.iter().all(|v| net.has_ended(*v)));
    assert!(viewers.iter().all(|viewer| net.output(*viewer) == published));
}

#[test]
fn who_asks_for_the_start_gets_the_whole_window() {
    let mut net = Net::new(31, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    let published = net.stream(publisher, channel, 5, RATE);
    let (viewer, _) = net.viewer(relay, OLDEST);
    net.run(Duration::from_secs(2));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(2), "ended", |net| net.has_ended(viewer));
    assert!(net.output(viewer) == published);
}

#[test]
fn a_viewer_of_a_lossy_network_joins_late_and_misses_nothing_from_its_join_point_on() {
    let mut net = Net::new(32, LOSSY);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_secs(3));
    let mut published = net.stream(publisher, channel, 3, RATE);
    let viewers = [0; 4].map(|_| net.viewer(relay, LIVE).0);
    published.extend(net.stream(publisher, channel, 5, RATE));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(5), "ended", |net| viewers.iter().all(|v| net.has_ended(*v)));
    for viewer in viewers {
        let output = net.output(viewer);
        assert!(
            output.len() >= 5 * RATE && output.len().is_multiple_of(RATE),
            "a join point: {}",
            output.len()
        );
        assert!(published.ends_with(output));
    }
}

#[test]
fn a_restarted_publisher_goes_on_and_viewers_with_it() {
    let mut net = Net::new(40, CLEAN);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    let (first, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    let mut published = net.stream(first, channel, 2, RATE);
    net.run(Duration::from_millis(100));
    net.kill(first);
    let (second, channel) = net.publisher(relay);
    published.extend(net.stream(second, channel, 2, RATE));
    let now = net.now;
    net.node(second).finish(now, channel);
    net.run_to(Duration::from_secs(3), "ended", |net| net.has_ended(viewer));
    assert!(net.output(viewer) == published);
    assert!(net.chunks(viewer).is_sorted());
}

#[test]
fn a_publisher_whose_clock_was_set_back_goes_on_where_the_channel_stands() {
    let mut net = Net::new(41, CLEAN);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    let (first, channel) = net.publisher(relay);
    let mut published = net.stream(first, channel, 1, RATE);
    net.run(Duration::from_millis(100));
    let edge = *net.chunks(viewer).last().unwrap();
    net.kill(first);

    let second = net.add(crate::lab::edge_config());
    let now = net.now;
    let an_hour_ago = mesh::Time(now.0 - 3_600_000_000);
    let channel = net.node(second).add_source(an_hour_ago, crate::lab::secret());
    net.node(second).dial(now, channel, address(relay));
    net.run(Duration::from_millis(100));
    published.extend(net.stream(second, channel, 1, RATE));
    net.run(Duration::from_secs(2));
    assert!(net.chunks(viewer).iter().any(|sequence| *sequence > edge), "chunks after {edge}");
    assert!(published.starts_with(net.output(viewer)));
}

#[test]
fn two_publishers_of_the_same_chunks_are_one_stream_and_either_may_go() {
    let mut net = Net::new(50, LOSSY);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    net.run(Duration::from_secs(3));
    let (a, channel_a) = net.publisher(relay);
    let (b, channel_b) = net.publisher(relay);
    net.run(Duration::from_secs(2));
    let mut published = Vec::new();
    for push in 0..500_u32 {
        let piece: Vec<u8> = (0..RATE as u32 / 100).map(|i| (i ^ push) as u8).collect();
        let now = net.now;
        for (host, channel) in [(a, channel_a), (b, channel_b)] {
            if host != b || push < 300 {
                net.node(host).push(now, channel, &piece);
            }
        }
        if push == 300 {
            net.kill(b);
        }
        published.extend(piece);
        net.run(Duration::from_millis(10));
    }
    let now = net.now;
    net.node(a).finish(now, channel_a);
    net.run_to(Duration::from_secs(5), "ended", |net| net.has_ended(viewer));
    assert!(net.output(viewer) == published);
    let counters = net.node(relay).counters();
    assert!(counters.dropped_for(DropReason::Duplicate) > 1_000);
    assert_eq!(counters.dropped_for(DropReason::Equivocation), 0);
}

#[test]
fn a_relay_that_is_killed_and_started_again_is_found_within_three_seconds_and_nothing_is_lost() {
    let mut net = Net::new(60, CLEAN);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    let mut published = net.stream(publisher, channel, 3, RATE);
    net.kill(relay);
    published.extend(net.stream(publisher, channel, 3, RATE));
    net.start(relay, relay_config());
    let (up, seen) = (net.now, net.output(viewer).len());
    published.extend(net.stream(publisher, channel, 3, RATE));
    assert!(
        net.output(viewer).len() > seen,
        "playing again {:?} after the relay came back",
        net.now.since(up)
    );
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(3), "ended", |net| net.has_ended(viewer));
    assert!(net.output(viewer) == published, "{} of {}", net.output(viewer).len(), published.len());
}

#[test]
fn a_relay_that_closes_says_goodbye_to_all() {
    let mut net = Net::new(61, CLEAN);
    let relay = net.add(relay_config());
    let viewers = [0; 100].map(|_| net.viewer(relay, LIVE).0);
    let (publisher, _) = net.publisher(relay);
    net.run(Duration::from_secs(1));
    assert_eq!(net.node(relay).sessions(), 101);
    net.node(relay).close();
    net.run(Duration::from_millis(50));
    assert_eq!(net.node(relay).sessions(), 0);
    for host in viewers.into_iter().chain([publisher]) {
        let closed = |event: &Event| {
            let reason = LostReason::Bye(codec::wire::control::ByeReason::Closing);
            matches!(event, Event::Lost { reason: lost, .. } if *lost == reason)
        };
        assert!(net.events(host).iter().any(closed), "host {host} was told");
    }
}

#[test]
fn memory_smaller_than_the_window_shortens_the_window_and_hurts_nobody_live() {
    let mut net = Net::new(70, CLEAN);
    let mut config = relay_config();
    config.limits.window_bytes_max = 20 * mesh::SLOT_BYTES;
    let relay = net.add(config);
    let (viewer, _) = net.viewer(relay, LIVE);
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    let published = net.stream(publisher, channel, 5, RATE);
    net.run(Duration::from_millis(500));
    assert!(published.starts_with(net.output(viewer)) && net.output(viewer).len() + 2_000 > published.len());
    assert!(net.node(relay).window_bytes() <= 20 * mesh::SLOT_BYTES);
}

#[test]
fn an_idle_node_wants_no_calls_and_one_with_a_quiet_session_few() {
    let mut net = Net::new(80, CLEAN);
    let relay = net.add(relay_config());
    assert_eq!(net.node(relay).next_timeout(), None);
    let (_viewer, _) = net.viewer(relay, LIVE);
    net.run(Duration::from_secs(2));
    let mut calls = 0;
    let end = net.now.after(Duration::from_secs(1));
    while let Some(at) = net.node(relay).next_timeout().filter(|at| *at < end) {
        net.now = at;
        net.node(relay).handle_timeout(at);
        calls += 1;
    }
    assert!(calls <= 5, "{calls} calls in a second");
}
