//! Relays that take a channel from relays.

use std::sync::Arc;
use std::time::Duration;

use codec::wire::control::{ByeReason, RefuseReason};
use codec::{ChannelSecret, Sequence};
use mesh::{Contact, DialId, DropReason, Event, LostReason};

use crate::lab::{CLEAN, LOSSY, Net, address, key, relay_config};

/// 4 Mbit/s.
const RATE: usize = 500_000;

const LIVE: Sequence = Sequence(0);

fn pull(net: &mut Net, relay: usize, from: usize) -> DialId {
    let now = net.now;
    net.node(relay).pull(now, &key(), address(from)).expect("a valid key")
}

fn finish(net: &mut Net, publisher: usize, channel: mesh::ChannelId, viewer: usize) {
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(5), "the end has come through", |net| net.has_ended(viewer));
}

#[test]
fn a_stream_through_two_relays_with_loss_on_every_hop_loses_nothing() {
    let mut net = Net::new(200, LOSSY);
    let (origin, edge) = (net.add(relay_config()), net.add(relay_config()));
    pull(&mut net, edge, origin);
    let (viewer, _) = net.viewer(edge, LIVE);
    net.run(Duration::from_secs(3));
    let (publisher, channel) = net.publisher(origin);
    net.run(Duration::from_secs(2));
    let published = net.stream(publisher, channel, 10, RATE);
    finish(&mut net, publisher, channel, viewer);
    assert!(net.output(viewer) == published);
    let counters = net.node(edge).counters();
    assert!(counters.shards_repaired > 0 && counters.chunks_lost == 0, "{counters:?}");
    let [upstream] = net.peek(edge).upstreams().collect::<Vec<_>>()[..] else { panic!("one upstream") };
    assert!(upstream.is_dialled && upstream.address == address(origin) && upstream.key == key());
    assert!(upstream.rtt.is_some_and(|rtt| rtt >= Duration::from_millis(20)), "{upstream:?}");
    assert!(upstream.delay_us_min.is_some_and(|delay| delay >= 20_000), "{upstream:?}");
    assert!(upstream.delay_us >= upstream.delay_us_min && upstream.spread_us > 0, "{upstream:?}");
    let made_good = upstream.shards_recovered + upstream.shards_repaired;
    assert!(upstream.shards_lost > 0 && upstream.shards_lost == made_good, "{upstream:?}");
    assert!(upstream.duplicates > 0 && upstream.shards_received > 4_000, "{upstream:?}");
}

#[test]
fn a_late_viewer_of_a_pulling_relay_starts_at_a_join_point() {
    let mut net = Net::new(205, CLEAN);
    let (origin, edge) = (net.add(relay_config()), net.add(relay_config()));
    let (publisher, channel) = net.publisher(origin);
    let mut published = net.stream(publisher, channel, 3, RATE);
    // The relay itself is late too.
    pull(&mut net, edge, origin);
    published.extend(net.stream(publisher, channel, 3, RATE));
    published.extend(net.stream_without_join_point(publisher, channel, 50, RATE));
    let (viewer, _) = net.viewer(edge, LIVE);
    published.extend(net.stream(publisher, channel, 1, RATE));
    finish(&mut net, publisher, channel, viewer);
    assert!(net.output(viewer) == &published[5 * RATE..]);
}

#[test]
fn an_upstream_that_is_started_anew_is_back_within_three_seconds_and_nothing_is_missing() {
    for away in [Duration::from_millis(300), Duration::from_secs(5)] {
        let mut net = Net::new(201, CLEAN);
        let (origin, edge) = (net.add(relay_config()), net.add(relay_config()));
        pull(&mut net, edge, origin);
        let (viewer, _) = net.viewer(edge, LIVE);
        let (publisher, channel) = net.publisher(origin);
        net.run(Duration::from_secs(1));
        let mut published = net.stream(publisher, channel, 3, RATE);
        net.kill(origin);
        net.run(away);
        net.start(origin, relay_config());
        let back = net.now;
        published.extend(net.stream(publisher, channel, 3, RATE));
        let taken = net.peek(edge).upstreams().map(|upstream| upstream.shards_received).sum::<u64>();
        assert!(taken > 0, "not within {:?} of the return after {away:?}", net.now.since(back));
        finish(&mut net, publisher, channel, viewer);
        assert!(net.output(viewer) == published, "{} of {}", net.output(viewer).len(), published.len());
    }
}

#[test]
fn relays_that_take_a_channel_from_each_other_pass_it_on_once_wherever_it_comes_in() {
    let mut net = Net::new(202, CLEAN);
    let ring: Vec<usize> = (0..3).map(|_| net.add(relay_config())).collect();
    for place in 0..3 {
        pull(&mut net, ring[place], ring[(place + 1) % 3]);
        pull(&mut net, ring[place], ring[(place + 2) % 3]);
    }
    let viewers = [0, 1, 2].map(|place: usize| net.viewer(ring[place], LIVE).0);
    for (round, &relay) in ring.iter().enumerate() {
        let (publisher, channel) = net.publisher(relay);
        net.run(Duration::from_secs(2));
        let published = net.stream(publisher, channel, 2, RATE);
        net.run(Duration::from_secs(1));
        for viewer in viewers {
            let output = net.output(viewer);
            assert!(
                output.len() >= (round + 1) * (2 * RATE - 20_000),
                "{} bytes, round {round}",
                output.len()
            );
            let tail = &published[..published.len() - 20_000];
            let found = output.len() - (published.len() - 20_000)..;
            assert!(
                output.windows(1_000).any(|window| window == &tail[..1_000]) && !output[found].is_empty()
            );
        }
        let now = net.now;
        net.node(publisher).finish(now, channel);
        net.run_to(Duration::from_secs(5), "drained", |net| net.peek(publisher).is_drained(channel));
        net.kill(publisher);
        net.run(Duration::from_secs(1));
    }
    // Each relay sends each shard once to each of its three or four subscribers, however the relays are joined up.
    net.run(Duration::from_secs(5));
    let sent: Vec<u64> = ring.iter().map(|relay| net.peek(*relay).counters().shards_sent).collect();
    net.run(Duration::from_secs(20));
    let later: Vec<u64> = ring.iter().map(|relay| net.peek(*relay).counters().shards_sent).collect();
    assert_eq!(sent, later, "nothing goes round");
    for relay in ring {
        let counters = net.peek(relay).counters().clone();
        assert!(counters.dropped_for(DropReason::Duplicate) > 0);
        assert!(counters.shards_sent <= 3 * counters.shards_stored, "{counters:?}");
        assert_eq!(counters.chunks_lost, 0, "{counters:?}");
    }
}

#[test]
fn a_relay_that_dials_itself_finds_out_and_keeps_nothing() {
    let mut net = Net::new(203, CLEAN);
    let relay = net.add(relay_config());
    let dial = pull(&mut net, relay, relay);
    net.run(Duration::from_millis(100));
    assert_eq!(net.events(relay), [Event::Itself { dial }]);
    assert_eq!((net.node(relay).sessions(), net.node(relay).counters().sessions_granted), (0, 0));
    assert_eq!(net.node(relay).counters().dropped_for(DropReason::Itself), 1);
}

#[test]
fn a_relay_that_is_led_back_to_another_of_its_nodes_takes_nothing_from_itself() {
    let mut net = Net::new(204, CLEAN);
    let ledger = Arc::default();
    let [one, other] = [0; 2].map(|_| net.add_with(&ledger, relay_config()));
    let stranger = net.add(relay_config());
    for from in [one, stranger] {
        pull(&mut net, from, other);
    }
    net.run(Duration::from_secs(10));
    assert!(matches!(net.events(one), [Event::Unanswered { .. }, ..]), "{:?}", net.events(one));
    assert!(matches!(net.events(stranger), [Event::Connected { .. }, ..]), "{:?}", net.events(stranger));
    assert_eq!(net.node(other).sessions(), 1);
    assert!(net.node(other).counters().dropped_for(DropReason::Itself) > 0);
}

#[test]
fn a_channel_is_kept_as_long_as_it_is_pulled_and_no_longer() {
    let mut net = Net::new(204, CLEAN);
    let (origin, edge) = (net.add(relay_config()), net.add(relay_config()));
    let dial = pull(&mut net, edge, origin);
    net.run(Duration::from_secs(25));
    assert_eq!((net.peek(edge).channels().count(), net.peek(origin).sessions()), (1, 1));
    let starved = Event::Starved { dial };
    assert_eq!(
        net.events(edge).iter().filter(|event| **event == starved).count(),
        2,
        "{:?}",
        net.events(edge)
    );
    net.node(edge).hang_up(dial);
    net.run(Duration::from_secs(1));
    assert_eq!((net.peek(edge).channels().count(), net.peek(edge).sessions()), (0, 0));
    assert_eq!(net.peek(origin).sessions(), 0, "it was told");
}

#[test]
fn a_relay_that_all_upstreams_refuse_asks_on_but_not_as_fast_as_they_answer() {
    let mut net = Net::new(220, CLEAN);
    let upstreams = [net.add(relay_config()), net.add(relay_config())];
    for upstream in upstreams {
        net.node(upstream).close_to_newcomers(Some(RefuseReason::QuotaUsed));
    }
    let edge = net.add(relay_config());
    let mut contact = Contact::new(net.now, &upstreams.map(|upstream| address(upstream).to_string()));
    contact.poll(net.now, |_| true);
    let dial = pull(&mut net, edge, upstreams[0]);
    let mut seen = 0;
    for _ in 0..6_000 {
        net.run(Duration::from_millis(10));
        let now = net.now;
        let events = net.events(edge)[seen..].to_vec();
        seen += events.len();
        for event in &events {
            contact.handle_event(now, event, |to| net.node(edge).redirect(now, dial, to));
        }
    }
    let asked = upstreams.map(|upstream| net.peek(upstream).counters().sessions_refused);
    assert!(asked.iter().all(|asked| (20..50).contains(asked)), "within 60 s: {asked:?}");
    net.node(upstreams[1]).close_to_newcomers(None);
    net.run(Duration::from_secs(10));
    assert!(matches!(net.events(edge).last(), Some(Event::Connected { .. } | Event::Refused { .. })));
}

#[test]
fn what_becomes_of_many_dials_at_once_is_told_of_each() {
    const CHANNELS: u8 = 250;
    const OF_EACH: usize = 2;
    let mut net = Net::new(221, CLEAN);
    let upstreams = [(); OF_EACH].map(|()| net.add(relay_config()));
    let edge = net.add(relay_config());
    let now = net.now;
    for number in 0..CHANNELS {
        let key = ChannelSecret::from_seed(&[number; 32]).key();
        for upstream in upstreams {
            net.node(edge).pull(now, &key, address(upstream)).expect("a valid key");
        }
    }
    let of = |net: &Net, is_meant: fn(&Event) -> bool| {
        net.events(edge).iter().filter(|event| is_meant(event)).count()
    };
    let all = usize::from(CHANNELS) * OF_EACH;
    net.run(Duration::from_secs(2));
    assert_eq!(of(&net, |event| matches!(event, Event::Connected { .. })), all);
    for upstream in upstreams {
        assert_eq!(net.node(upstream).let_go(usize::MAX), usize::from(CHANNELS));
    }
    net.run(Duration::from_millis(10));
    let is_goodbye =
        |event: &Event| matches!(event, Event::Lost { reason: LostReason::Bye(ByeReason::Closing), .. });
    assert_eq!(of(&net, is_goodbye), all);
}
