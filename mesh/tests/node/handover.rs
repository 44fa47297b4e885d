//! A node takes the place of another, as when a relay is started again: nobody else notices.

use std::time::Duration;

use codec::wire::control::{
    Control, Hello, RefuseReason, Repair, Role, Sender, SessionHeader, SessionId, Wanted, Welcome,
};
use codec::{Sequence, ShardSet};
use mesh::{Admission, Event, Handover, Limits, LostReason, NodeConfig};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::lab::{CLEAN, LOSSY, Link, Net, address, key, relay_config};

/// 4 Mbit/s.
const RATE: usize = 500_000;

const LIVE: Sequence = Sequence(0);

/// How often a host was granted a session, and how often it lost one.
fn connections(net: &Net, host: usize) -> (usize, usize) {
    let count = |is: fn(&Event) -> bool| net.events(host).iter().filter(|event| is(event)).count();
    (
        count(|event| matches!(event, Event::Connected { .. })),
        count(|event| matches!(event, Event::Lost { .. })),
    )
}

#[test]
fn a_relay_that_is_replaced_again_and_again_loses_nobody_and_nothing() {
    for seed in 200..204 {
        let mut net = Net::new(seed, Link { control_loss_permille: 0, ..LOSSY });
        let relay = net.add(relay_config());
        let viewers = [0; 4].map(|_| net.viewer(relay, LIVE).0);
        net.run(Duration::from_secs(3));
        let (publisher, channel) = net.publisher(relay);
        net.run(Duration::from_secs(2));
        let mut published = Vec::new();
        for round in 0..40_u64 {
            published.extend(net.stream_without_join_point(publisher, channel, 20 + round as usize, RATE));
            let left = net.hand_over(relay);
            // What is sent meanwhile is lost, or nothing is.
            net.run(Duration::from_millis(round % 3 * 60));
            net.resume(relay, relay_config(), &left);
        }
        let now = net.now;
        net.node(publisher).finish(now, channel);
        net.run_to(Duration::from_secs(5), "all ended", |net| viewers.iter().all(|v| net.has_ended(*v)));
        for viewer in viewers {
            assert!(net.output(viewer) == published, "viewer {viewer} differs");
            assert_eq!(connections(&net, viewer), (1, 0));
        }
        assert_eq!(connections(&net, publisher), (1, 0));
        assert_eq!(net.node(relay).counters().sessions_granted, 0, "the last one granted none itself");
        assert_eq!(net.node(relay).sessions(), 5);
        net.run_to(Duration::from_secs(3), "drained", |net| net.peek(publisher).is_drained(channel));
    }
}

#[test]
fn nothing_is_sent_twice_on_a_clean_network() {
    let mut net = Net::new(210, CLEAN);
    let relay = net.add(relay_config());
    let viewers = [0; 3].map(|_| net.viewer(relay, LIVE).0);
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    for _ in 0..10 {
        net.stream_without_join_point(publisher, channel, 13, RATE);
        let left = net.hand_over(relay);
        net.resume(relay, relay_config(), &left);
    }
    net.run(Duration::from_millis(100));
    for viewer in viewers {
        let counters = net.node(viewer).counters();
        assert_eq!(counters.dropped.total(), 0, "{counters:?}");
        assert_eq!((counters.shards_lost, counters.chunks_lost), (0, 0));
    }
}

#[test]
fn what_a_cap_holds_back_is_sent_before_another_takes_over() {
    let mut config = relay_config();
    config.limits.egress_bps_max = Some(200_000_000);
    let mut net = Net::new(219, CLEAN);
    let relay = net.add(config.clone());
    let viewers = [0; 38].map(|_| net.viewer(relay, LIVE).0);
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    let mut published = net.stream(publisher, channel, 3, RATE);
    for round in 0..8 {
        published.extend(net.stream_without_join_point(publisher, channel, 20 + round % 4, RATE));
        let left = net.hand_over(relay);
        net.resume(relay, config.clone(), &left);
    }
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(5), "all ended", |net| viewers.iter().all(|v| net.has_ended(*v)));
    for viewer in viewers {
        let counters = net.node(viewer).counters();
        assert_eq!((counters.shards_lost, counters.dropped.total()), (0, 0), "viewer {viewer}");
        assert!(net.output(viewer) == published, "viewer {viewer} differs");
    }
}

#[test]
fn subscribers_keep_their_places_and_count_for_every_cap() {
    let limits = Limits { subscribers_max: 3, ..Limits::default() };
    let config = NodeConfig::new(Admission::Open, limits);
    let mut net = Net::new(216, CLEAN);
    let relay = net.add(config.clone());
    let (leaving, dial) = net.viewer(relay, LIVE);
    let stay = [0; 2].map(|_| net.viewer(relay, LIVE).0);
    net.run(Duration::from_millis(200));
    let left = net.hand_over(relay);
    net.resume(relay, config, &left);
    let (late, _) = net.viewer(relay, LIVE);
    net.run(Duration::from_secs(1));
    let full = |event: &Event| matches!(event, Event::Refused { reason: RefuseReason::Full, .. });
    assert!(net.events(late).iter().any(full), "{:?}", net.events(late));
    let (now, elsewhere) = (net.now, address(99));
    net.node(leaving).redirect(now, dial, elsewhere);
    net.run(Duration::from_secs(10));
    assert_eq!(connections(&net, late).0, 1, "there is a place now");
    assert!(stay.iter().all(|viewer| connections(&net, *viewer) == (1, 0)));
}

#[test]
fn chunks_that_the_one_before_took_in_are_repaired_by_its_successor() {
    let mut net = Net::new(211, CLEAN);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    let mut published = net.stream(publisher, channel, 1, RATE);
    // The viewer hears nothing for a while, and so cannot ask, but the relay hears the publisher.
    let now = net.now;
    net.node(publisher).push(now, channel, &[5; 40_000]);
    published.extend([5; 40_000]);
    net.run_to(Duration::from_millis(500), "at the relay", |net| {
        net.peek(relay).channels().any(|channel| channel.edge.since(Sequence(0)) > 0)
    });
    net.link = Link { loss_permille: 1_000, control_loss_permille: 1_000, ..CLEAN };
    net.run(Duration::from_millis(300));
    let left = net.hand_over(relay);
    net.resume(relay, relay_config(), &left);
    net.link = CLEAN;
    published.extend(net.stream_without_join_point(publisher, channel, 100, RATE));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(3), "ended", |net| net.has_ended(viewer));
    assert!(net.output(viewer) == published);
}

fn parse(sent: Vec<(std::net::SocketAddr, Vec<u8>)>) -> Vec<Control> {
    sent.iter().filter_map(|(_, bytes)| Control::parse(bytes).ok()).collect()
}

/// A stranger's handshake, with another node in the relay's place after each step.
fn subscribe(net: &mut Net, relay: usize) -> Welcome {
    let from = address(999);
    let mut hello = Hello {
        role: Role::Subscribe,
        key: key(),
        nonce: 7,
        from: LIVE,
        cookie: [0; 16],
        signature: [0; 64],
    };
    let replace = |net: &mut Net| {
        let left = net.hand_over(relay);
        net.resume(relay, relay_config(), &left);
    };
    net.inject(relay, from, &Control::Hello(hello).encode());
    let Some(Control::Challenge(challenge)) = parse(net.take_sent(relay)).pop() else {
        panic!("a challenge")
    };
    replace(net);
    hello.cookie = challenge.cookie;
    net.inject(relay, from, &Control::Hello(hello).encode());
    let Some(Control::Welcome(welcome)) = parse(net.take_sent(relay)).pop() else { panic!("a welcome") };
    replace(net);
    // The answer got lost: the same session is granted once more.
    net.inject(relay, from, &Control::Hello(hello).encode());
    let Some(Control::Welcome(again)) = parse(net.take_sent(relay)).pop() else { panic!("a welcome again") };
    assert_eq!(again.session, welcome.session);
    welcome
}

#[test]
fn cookies_hold_and_a_granted_session_is_granted_again() {
    let mut net = Net::new(212, CLEAN);
    let relay = net.add(relay_config());
    subscribe(&mut net, relay);
    assert_eq!(net.node(relay).sessions(), 1);
}

fn repairs_of(net: &mut Net, relay: usize, session: SessionId) -> u64 {
    let before = net.node(relay).counters().repairs_sent;
    let edge = net.peek(relay).channels().next().expect("one channel").edge;
    let header = SessionHeader { sender: Sender::Subscriber, tag: key().tag(), session };
    let mut wanted = arrayvec::ArrayVec::new();
    (0..40).for_each(|back| wanted.push(Wanted { sequence: Sequence(edge.0 - back), shards: ShardSet::ALL }));
    net.inject(relay, address(999), &Control::Repair(Repair { header, number: 0, wanted }).encode());
    net.take_sent(relay);
    net.node(relay).counters().repairs_sent - before
}

#[test]
fn repair_credit_that_was_used_up_stays_used_up() {
    let mut net = Net::new(213, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    net.stream(publisher, channel, 2, RATE);
    let session = subscribe(&mut net, relay).session;
    assert!(repairs_of(&mut net, relay, session) > 100);
    let left = net.hand_over(relay);
    net.resume(relay, relay_config(), &left);
    assert_eq!(repairs_of(&mut net, relay, session), 0);
}

#[test]
fn a_joiner_is_given_the_rest_of_what_it_is_owed() {
    let mut net = Net::new(214, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    let mut published = net.stream(publisher, channel, 1, RATE);
    published.extend(net.stream_without_join_point(publisher, channel, 300, RATE));
    // Four seconds of backlog take one: it is in the middle of them.
    let (viewer, _) = net.viewer(relay, LIVE);
    net.run(Duration::from_millis(300));
    let left = net.hand_over(relay);
    net.resume(relay, relay_config(), &left);
    published.extend(net.stream_without_join_point(publisher, channel, 200, RATE));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(3), "ended", |net| net.has_ended(viewer));
    assert!(net.output(viewer) == published, "{} of {}", net.output(viewer).len(), published.len());
    assert_eq!(connections(&net, viewer), (1, 0));
    assert_eq!(net.node(viewer).counters().shards_lost, 0, "nothing had to be asked for");
}

#[test]
fn sessions_of_channels_that_are_not_carried_any_more_are_told() {
    let mut net = Net::new(215, CLEAN);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    net.run(Duration::from_millis(200));
    let left = net.hand_over(relay);
    net.resume(relay, NodeConfig { admission: Admission::Listed([].into()), ..relay_config() }, &left);
    net.run(Duration::from_millis(10));
    let told = net.events(viewer).iter().any(|event| {
        matches!(event, Event::Lost { reason: LostReason::Bye(codec::wire::control::ByeReason::Closing), .. })
    });
    assert!(told && net.node(relay).sessions() == 0);
}

#[test]
fn less_room_than_was_asked_for_leaves_out_the_oldest_chunks() {
    let mut net = Net::new(216, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    net.stream(publisher, channel, 3, RATE);
    let (now, edge) = (net.now, net.peek(relay).channels().next().unwrap().edge);
    let by_room = [(0, 0), (100_000, 5), (usize::MAX, 62)]
        .map(|(bytes_max, chunks)| (net.node(relay).hand_over(now, bytes_max), chunks));
    for (handover, chunks) in by_room {
        assert!((chunks..chunks + 9).contains(&handover.chunks()), "{}", handover.chunks());
        net.resume(relay, relay_config(), &postcard::to_stdvec(&handover).unwrap());
        let channel = net.peek(relay).channels().next().unwrap();
        assert_eq!((channel.edge, channel.chunks), (edge, handover.chunks()));
    }
    let (viewer, _) = net.viewer(relay, LIVE);
    net.run_to(Duration::from_secs(1), "played", |net| !net.output(viewer).is_empty());
}

#[test]
fn what_is_damaged_is_refused_or_harmless() {
    let mut net = Net::new(217, LOSSY);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_secs(2));
    net.stream(publisher, channel, 1, RATE / 4);
    net.viewer(relay, LIVE);
    net.run(Duration::from_millis(130));
    net.stream(publisher, channel, 1, RATE / 4);
    let left = net.hand_over(relay);
    for length in (0..left.len()).step_by(97) {
        postcard::from_bytes::<Handover>(&left[..length]).expect_err("a part of it is none");
    }
    let mut random = ChaCha12Rng::seed_from_u64(218);
    let (mut refused, mut taken) = (0, 0);
    for round in 0..600 {
        let mut damaged = left.clone();
        // Most of it is payload: half of the time the sessions and numbers at its ends are meant.
        let reach = if round % 2 == 0 { damaged.len() } else { 400 };
        let mut place = random.next_u32() as usize % reach;
        if round % 4 == 3 {
            place = damaged.len() - 1 - place;
        }
        damaged[place] ^= (1 + random.next_u32() % 255) as u8;
        let Ok(handover) = postcard::from_bytes::<Handover>(&damaged) else {
            refused += 1;
            continue;
        };
        taken += 1;
        net.start(relay, relay_config());
        let now = net.now;
        net.node(relay).resume(now, handover);
        net.stream_without_join_point(publisher, channel, 5, RATE / 4);
    }
    println!("{refused} refused, {taken} harmless");
    assert!(refused > 100 && taken > 10);
}
