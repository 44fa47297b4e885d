//! Upstreams, publishers and subscribers that claim, ask or ask again for more than they should.

use std::net::SocketAddr;
use std::time::Duration;

use codec::wire::control::{
    Bye, ByeReason, Challenge, Control, Hello, Repair, Report, Role, Sender, SessionHeader, SessionId,
    Wanted, Welcome,
};
use codec::{
    ChunkHeader, DATAGRAM_BYTES, Fec, Sequence, ShardSet, ShardView, SlotLayout, Stripes, seal_chunk,
};
use mesh::{DropReason, Event, Verdict};

use crate::lab::{CLEAN, Net, address, edge_config, key, relay_config, secret};

const RATE: usize = 500_000;
const LIVE: Sequence = Sequence(0);

fn report(header: SessionHeader, highest: u64) -> Vec<u8> {
    let report = Report { highest: Sequence(highest), ..Report::new(header) };
    Control::Report(report).encode().to_vec()
}

fn chunk_with(sequence: u64, fill: u8, change: impl Fn(&mut ChunkHeader)) -> Vec<Vec<u8>> {
    chunk_of(SlotLayout::new(1, 0).unwrap(), sequence, &[fill; 1_000], change)
}

fn chunk_of(
    layout: SlotLayout,
    sequence: u64,
    payload: &[u8],
    change: impl Fn(&mut ChunkHeader),
) -> Vec<Vec<u8>> {
    let mut header = ChunkHeader::new(key().tag(), Sequence(sequence), layout, payload.len()).unwrap();
    change(&mut header);
    let mut slot = vec![0; layout.slot_bytes()];
    seal_chunk(&mut slot, &header, [payload], &secret(), &mut Fec::new());
    slot.chunks(DATAGRAM_BYTES).map(<[u8]>::to_vec).collect()
}

fn parse(sent: &[(SocketAddr, Vec<u8>)]) -> Vec<(SocketAddr, Control)> {
    sent.iter().filter_map(|(to, bytes)| Control::parse(bytes).ok().map(|control| (*to, control))).collect()
}

/// The session header of the next report that `host` sends to `to`.
fn header_to(net: &mut Net, host: usize, to: usize) -> SessionHeader {
    net.now = net.now.after(Duration::from_secs(1));
    let now = net.now;
    net.node(host).handle_timeout(now);
    let sent = net.take_sent(host);
    let found = parse(&sent).into_iter().find_map(|(at, control)| match control {
        Control::Report(report) if at == address(to) => Some(report.header),
        _ => None,
    });
    found.expect("a report each second")
}

/// A subscriber's `Hello` with the cookie that it was given.
fn proven_hello(net: &mut Net, relay: usize, address: SocketAddr, nonce: u64, from: Sequence) -> Hello {
    let mut hello =
        Hello { role: Role::Subscribe, key: key(), nonce, from, cookie: [0; 16], signature: [0; 64] };
    net.inject(relay, address, &Control::Hello(hello).encode());
    let Some((_, Control::Challenge(challenge))) = parse(&net.take_sent(relay)).pop() else { panic!() };
    hello.cookie = challenge.cookie;
    hello
}

fn subscribe(net: &mut Net, relay: usize, from: SocketAddr, nonce: u64) -> (SessionHeader, Welcome) {
    let hello = proven_hello(net, relay, from, nonce, Sequence(u64::MAX));
    net.inject(relay, from, &Control::Hello(hello).encode());
    let Some((_, Control::Welcome(welcome))) = parse(&net.take_sent(relay)).pop() else { panic!() };
    (SessionHeader { sender: Sender::Subscriber, tag: key().tag(), session: welcome.session }, welcome)
}

#[test]
fn a_publisher_restarted_after_a_minute_is_taken_at_once() {
    let mut net = Net::new(100, CLEAN);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    let (first, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    net.stream(first, channel, 60, RATE);
    net.kill(first);
    net.run(Duration::from_millis(500));
    let seen = net.output(viewer).len();
    let (second, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    net.stream(second, channel, 4, RATE);
    let far = net.node(relay).counters().dropped_for(DropReason::FarFuture);
    assert!(net.output(viewer).len() > seen, "4 s after the restart nothing plays; far future: {far}");
    assert_eq!(far, 0);
}

#[test]
fn a_welcome_cannot_push_a_publisher_past_the_last_sequence_number() {
    let mut net = Net::new(101, CLEAN);
    let (publisher, channel) = net.publisher(0xbad);
    let now = net.now;
    net.node(publisher).handle_timeout(now);
    let sent = net.take_sent(publisher);
    let Some((_, Control::Hello(hello))) = parse(&sent).pop() else { panic!() };
    let welcome = Welcome {
        nonce: hello.nonce,
        session: SessionId(1),
        lease_ms: 10_000,
        edge: Sequence(u64::MAX),
        oldest: Sequence(0),
        start: Sequence(0),
        observed: address(publisher),
    };
    net.inject(publisher, address(0xbad), &Control::Welcome(welcome).encode());
    net.node(publisher).push(now, channel, &[1; 60_000]);
}

#[test]
fn reports_of_an_upstream_move_the_edge_no_further_than_one_gap() {
    let mut net = Net::new(102, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    net.stream(publisher, channel, 1, RATE);
    let header = header_to(&mut net, publisher, relay);
    net.take_sent(relay);
    let edge = net.node(relay).channels().next().unwrap().edge.0;
    for claim in 1..=2_000 {
        net.inject(relay, address(publisher), &report(header, edge + 256 * claim));
        net.take_sent(relay);
    }
    let ahead = net.node(relay).channels().next().unwrap().edge.0 - edge;
    assert!(ahead <= mesh::limits::GAP_CHUNKS_MAX, "{ahead} chunks on nobody's signature");
}

#[test]
fn a_relay_that_claims_too_much_does_not_stop_a_viewer_of_another() {
    let mut net = Net::new(104, CLEAN);
    let (a, b) = (net.add(relay_config()), net.add(relay_config()));
    let (publisher, channel) = net.publisher(a);
    let now = net.now;
    net.node(publisher).dial(now, channel, address(b));
    let (viewer, _) = net.viewer(a, LIVE);
    let sink = net.sink(viewer);
    net.node(viewer).dial(now, sink, address(b));
    net.run(Duration::from_millis(200));
    net.stream(publisher, channel, 2, RATE);
    let to_b = header_to(&mut net, viewer, b);
    let header = SessionHeader { sender: Sender::Upstream, ..to_b };
    net.stream(publisher, channel, 1, RATE);
    // b says once that it has ten seconds more than there are.
    let edge = net.node(viewer).channels().next().unwrap().edge.0;
    assert_eq!(net.inject(viewer, address(b), &report(header, edge + 250)), Verdict::Kept);
    net.stream(publisher, channel, 4, RATE);
    let seen = net.output(viewer).len();
    net.stream(publisher, channel, 2, RATE);
    let got = net.output(viewer).len() - seen;
    assert!(got > RATE, "{got} bytes in 2 s at {RATE} a second");
}

#[test]
fn a_relay_that_starts_a_viewer_in_the_far_future_does_not_silence_the_other() {
    let mut net = Net::new(105, CLEAN);
    let (a, b) = (net.add(relay_config()), 0xbad);
    let (publisher, channel) = net.publisher(a);
    let (viewer, _) = net.viewer(b, LIVE);
    let now = net.now;
    net.node(viewer).handle_timeout(now);
    let sent = net.take_sent(viewer);
    let Some((_, Control::Hello(hello))) = parse(&sent).pop() else { panic!() };
    let welcome = Welcome {
        nonce: hello.nonce,
        session: SessionId(1),
        lease_ms: 10_000,
        edge: Sequence(1 << 62),
        oldest: Sequence(1 << 62),
        start: Sequence(1 << 62),
        observed: address(viewer),
    };
    net.inject(viewer, address(b), &Control::Welcome(welcome).encode());
    let sink = net.sink(viewer);
    net.node(viewer).dial(now, sink, address(a));
    net.run(Duration::from_millis(200));
    net.stream(publisher, channel, 3, RATE);
    assert!(!net.output(viewer).is_empty());
}

#[test]
fn a_join_point_with_nothing_pending_before_it_is_one() {
    let mut net = Net::new(106, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    net.recorded = Some(Vec::new());
    for _ in 0..5 {
        let now = net.now;
        net.node(publisher).push(now, channel, &[7; 3_000]);
        net.node(publisher).mark_join_point(now, channel, 3_000);
        net.run(Duration::from_millis(100));
    }
    let recorded = net.recorded.take().unwrap();
    let joins: std::collections::BTreeSet<_> = recorded
        .iter()
        .map(|(.., bytes)| ShardView::parse(bytes).unwrap().header())
        .filter(|header| header.join_distance == 0)
        .map(|header| header.sequence)
        .collect();
    assert_eq!(joins.len(), 5, "each frame was marked");
}

#[test]
fn a_viewer_of_a_channel_that_is_not_live_wants_few_calls() {
    let mut net = Net::new(107, CLEAN);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    net.run(Duration::from_secs(3));
    let mut calls = 0;
    let end = net.now.after(Duration::from_millis(500));
    while let Some(at) = net.node(viewer).next_timeout().filter(|at| *at < end) {
        net.now = at;
        net.node(viewer).handle_timeout(at);
        net.take_sent(viewer);
        calls += 1;
    }
    assert!(calls <= 5, "{calls} calls in half a second");
}

#[test]
fn who_asks_for_the_start_before_there_is_one_waits_no_longer_than_others() {
    let mut net = Net::new(108, CLEAN);
    let relay = net.add(relay_config());
    let (live, _) = net.viewer(relay, LIVE);
    let (oldest, _) = net.viewer(relay, Sequence(1));
    net.run(Duration::from_millis(200));
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    net.stream_without_join_point(publisher, channel, 50, RATE);
    assert!(!net.output(live).is_empty());
    assert!(!net.output(oldest).is_empty(), "half a second in, nothing");
}

#[test]
fn a_subscriber_cannot_renew_its_repair_credit_by_saying_hello_again() {
    let mut net = Net::new(110, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    net.stream(publisher, channel, 5, 2_000_000);
    net.take_sent(relay);
    let from = address(0x999);
    let mut hello = proven_hello(&mut net, relay, from, 0, Sequence(u64::MAX));
    let edge = net.node(relay).channels().next().unwrap().edge.0;
    let (mut sent_in, mut sent_out) = (0, 0);
    for nonce in 1..=20 {
        hello.nonce = nonce;
        let bytes = Control::Hello(hello).encode();
        sent_in += bytes.len();
        net.inject(relay, from, &bytes);
        let sent = net.take_sent(relay);
        sent_out += sent.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let Some((_, Control::Welcome(welcome))) = parse(&sent).pop() else { panic!() };
        let header = SessionHeader { sender: Sender::Subscriber, tag: key().tag(), session: welcome.session };
        let wanted = (1..65).map(|back| Wanted { sequence: Sequence(edge - back), shards: ShardSet::ALL });
        let repair = Control::Repair(Repair { header, number: 0, wanted: wanted.collect() }).encode();
        sent_in += repair.len();
        net.inject(relay, from, &repair);
        sent_out += net.take_sent(relay).iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    }
    let most = (mesh::limits::REPAIR_CREDIT_MAX as usize) * DATAGRAM_BYTES;
    assert!(
        sent_out <= most,
        "{sent_in} bytes in, {sent_out} out, at one moment: {} times",
        sent_out / sent_in
    );
}

#[test]
fn a_backlog_is_paced_also_when_capture_times_say_nothing() {
    let mut net = Net::new(111, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, _) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    let first = net.now.0;
    for number in 0..500 {
        let shard = &chunk_with(first + number, 1, |header| header.join_distance = number as u16)[0];
        net.inject(relay, address(publisher), shard);
    }
    net.take_sent(relay);
    let from = address(0x999);
    let hello = proven_hello(&mut net, relay, from, 1, Sequence(1));
    net.inject(relay, from, &Control::Hello(hello).encode());
    let sent = net.take_sent(relay).len();
    assert!(sent < 50, "{sent} datagrams at once");
}

#[test]
fn a_relay_that_is_stopped_and_started_again_is_found_within_three_seconds() {
    let mut net = Net::new(112, CLEAN);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    let mut published = net.stream(publisher, channel, 3, RATE);
    net.node(relay).close();
    // It sees to it that the goodbyes leave.
    published.extend(net.stream_without_join_point(publisher, channel, 10, RATE));
    net.start(relay, relay_config());
    let (up, seen) = (net.now, net.output(viewer).len());
    published.extend(net.stream(publisher, channel, 3, RATE));
    assert!(net.output(viewer).len() > seen, "not playing {:?} after the relay came back", net.now.since(up));
}

#[test]
fn a_stream_whose_only_chunk_is_lost_is_repaired_and_drained() {
    let mut net = Net::new(113, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(1_200));
    net.link.loss_permille = 1_000;
    let now = net.now;
    net.node(publisher).push(now, channel, &[1; 1_000]);
    net.node(publisher).finish(now, channel);
    net.run(Duration::from_millis(50));
    net.link.loss_permille = 0;
    net.run_to(Duration::from_secs(5), "drained", |net| net.peek(publisher).is_drained(channel));
}

#[test]
fn a_repair_of_what_is_held_restores_nothing() {
    let mut net = Net::new(201, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    net.stream(publisher, channel, 2, RATE);
    let (session, welcome) = subscribe(&mut net, relay, address(0x999), 5);
    let before = net.node(relay).counters().chunks_restored;
    let wanted = (1..17)
        .map(|back| Wanted { sequence: Sequence(welcome.edge.0 - back), shards: ShardSet::ALL })
        .collect();
    net.inject(
        relay,
        address(0x999),
        &Control::Repair(Repair { header: session, number: 0, wanted }).encode(),
    );
    let sent = net.take_sent(relay);
    assert!(sent.iter().all(|(_, bytes)| {
        let shard = ShardView::parse(bytes).unwrap();
        shard.index() < shard.header().layout().data_shards()
    }));
    assert_eq!(net.node(relay).counters().chunks_restored, before);
}

/// The shards that go to `to`.
fn shards_to(net: &mut Net, relay: usize, to: SocketAddr) -> ShardSet {
    let mut shards = ShardSet::EMPTY;
    let sent = net.take_sent(relay);
    let of_it = sent.iter().filter(|(address, _)| *address == to);
    of_it
        .filter_map(|(_, bytes)| ShardView::parse(bytes).ok())
        .for_each(|shard| shards.insert(shard.index()));
    shards
}

#[test]
fn what_others_were_sent_is_not_on_its_way_to_who_takes_half_of_each_chunk() {
    let mut net = Net::new(203, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    net.stream(publisher, channel, 2, RATE);
    let (half, whole) = (address(0x998), address(0x999));
    let mut next = net.node(relay).channels().next().unwrap().edge.0;
    for (nonce, (from, stripes)) in
        [(half, Stripes::one(0, 2)), (whole, Stripes::ALL)].into_iter().enumerate()
    {
        let (header, _) = subscribe(&mut net, relay, from, nonce as u64 + 1);
        // A round trip of 300 ms.
        let echo_us = net.now.0 - 300_000;
        let report = Report { stripes, stamp_us: 1, echo_us, ..Report::new(header) };
        net.inject(relay, from, &Control::Report(report).encode());
        net.take_sent(relay);
        next += 1;
        let layout = SlotLayout::new(4, 0).unwrap();
        for shard in chunk_of(layout, next, &[7; 4_000], |_| {}) {
            net.inject(relay, address(publisher), &shard);
        }
        let sent = shards_to(&mut net, relay, from);
        assert_eq!(sent, stripes.shards(Sequence(next), layout));
        let wanted = [Wanted { sequence: Sequence(next), shards: ShardSet::ALL }].into_iter().collect();
        let repair = Control::Repair(Repair { header, number: 0, wanted }).encode();
        net.inject(relay, from, &repair);
        let answer = shards_to(&mut net, relay, from);
        let expected = if from == half { layout.all_shards() } else { ShardSet::EMPTY };
        assert_eq!(answer, expected, "{stripes:?}");
    }
}

#[test]
fn a_joiner_whose_welcome_was_lost_is_sent_its_backlog_again_until_it_reports() {
    let mut net = Net::new(204, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    net.stream(publisher, channel, 2, RATE);
    let from = address(0x999);
    let hello = proven_hello(&mut net, relay, from, 1, Sequence(1));
    let mut welcomed = None;
    // For as long as the backlog takes, and longer: its first chunks, and how many shards.
    let mut greet = |net: &mut Net| {
        net.inject(relay, from, &Control::Hello(hello).encode());
        let mut sent = Vec::new();
        for _ in 0..200 {
            sent.extend(net.take_sent(relay).into_iter().filter(|(to, _)| *to == from));
            net.now = net.now.after(Duration::from_millis(5));
            let now = net.now;
            net.node(relay).handle_timeout(now);
        }
        let Control::Welcome(welcome) = parse(&sent)[0].1 else { panic!() };
        welcomed = Some(welcome);
        let shards: Vec<ShardView> =
            sent.iter().filter_map(|(_, bytes)| ShardView::parse(bytes).ok()).collect();
        (shards.first().map(|shard| shard.header().sequence), shards.len())
    };
    let first = greet(&mut net);
    assert!(first.1 > 100, "{first:?}");
    assert_eq!(greet(&mut net), first);
    let session = welcomed.expect("it was answered").session;
    let header = SessionHeader { sender: Sender::Subscriber, tag: key().tag(), session };
    let report = Report { stamp_us: net.now.0, ..Report::new(header) };
    net.inject(relay, from, &Control::Report(report).encode());
    let greet = |net: &mut Net| {
        net.inject(relay, from, &Control::Hello(hello).encode());
        shards_to(net, relay, from)
    };
    assert_eq!(greet(&mut net), ShardSet::EMPTY);
}

#[test]
fn a_run_that_jumps_ahead_starts_a_new_join_point() {
    let mut net = Net::new(202, CLEAN);
    let relay = net.add(relay_config());
    let (first, channel) = net.publisher(relay);
    net.stream(first, channel, 1, RATE);
    net.run(Duration::from_millis(100));
    net.kill(first);
    let edge = net.node(relay).channels().next().unwrap().edge;
    let second = net.add(edge_config());
    let an_hour_ago = mesh::Time(net.now.0 - 3_600_000_000);
    let now = net.now;
    let channel = net.node(second).add_source(an_hour_ago, secret());
    // Some chunks before the relay answers.
    for _ in 0..5 {
        net.node(second).push(now, channel, &[1; 40_000]);
    }
    net.node(second).dial(now, channel, address(relay));
    net.recorded = Some(Vec::new());
    net.run(Duration::from_millis(100));
    net.stream_without_join_point(second, channel, 50, RATE);
    let recorded = net.recorded.take().unwrap();
    let header = recorded
        .iter()
        .map(|(.., bytes)| ShardView::parse(bytes).unwrap().header())
        .find(|header| header.sequence > edge)
        .unwrap();
    assert_eq!(
        (header.sequence, header.join_distance),
        (edge.next(), 0),
        "its join point lies before its run"
    );
}

#[test]
fn a_late_joiner_of_a_fast_lossy_stream_misses_nothing() {
    let rate = 4_000_000;
    let mut net = Net::new(203, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    let mut published = net.stream(publisher, channel, 1, rate);
    published.extend(net.stream_without_join_point(publisher, channel, 200, rate));
    let (viewer, _) = net.viewer(relay, LIVE);
    net.run(Duration::from_millis(5));
    net.link.loss_permille = 20;
    published.extend(net.stream_without_join_point(publisher, channel, 60, rate));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(5), "ended", |net| net.has_ended(viewer));
    let c = net.node(viewer).channels().next().unwrap().counters;
    assert!(net.output(viewer) == published, "{} of {}: {c:?}", net.output(viewer).len(), published.len());
}

#[test]
fn a_node_that_welcomes_and_leaves_at_once_is_not_dialled_at_once_each_time() {
    let mut net = Net::new(204, CLEAN);
    let (viewer, _) = net.viewer(0xbad, LIVE);
    let (mut bytes_in, mut bytes_out) = (0, 0);
    for round in 0..100_u64 {
        let now = net.now;
        net.node(viewer).handle_timeout(now);
        let sent = net.take_sent(viewer);
        bytes_out += sent.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let Some((_, Control::Hello(hello))) = parse(&sent).pop() else { break };
        let welcome = Welcome {
            nonce: hello.nonce,
            session: SessionId(round),
            lease_ms: 1,
            edge: LIVE,
            oldest: LIVE,
            start: LIVE,
            observed: address(1),
        };
        let header = SessionHeader { sender: Sender::Upstream, tag: key().tag(), session: SessionId(round) };
        for answer in [
            Control::Welcome(welcome),
            Control::Bye(Bye { header, reason: ByeReason::Closing, nodes: Default::default() }),
        ] {
            let bytes = answer.encode();
            bytes_in += bytes.len();
            net.inject(viewer, address(0xbad), &bytes);
        }
    }
    assert!(bytes_out < 10 * DATAGRAM_BYTES, "{bytes_out} bytes for {bytes_in} in no time");
}

#[test]
fn a_node_that_only_challenges_is_given_up() {
    let mut net = Net::new(205, CLEAN);
    let (viewer, _) = net.viewer(0xbad, LIVE);
    let now = net.now;
    net.node(viewer).handle_timeout(now);
    let Some((_, Control::Hello(hello))) = parse(&net.take_sent(viewer)).pop() else { panic!() };
    let mut hellos = 0;
    for round in 1..=100_u8 {
        let challenge = Challenge { nonce: hello.nonce, cookie: [round; 16] };
        net.inject(viewer, address(0xbad), &Control::Challenge(challenge).encode());
        hellos += net.take_sent(viewer).len();
    }
    assert!(hellos < 10, "{hellos} hellos of 1232 bytes for as many challenges of 32, in no time");
}

#[test]
fn two_dials_to_one_node_are_one() {
    let mut net = Net::new(206, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, channel) = net.publisher(relay);
    let now = net.now;
    net.node(publisher).dial(now, channel, address(relay));
    net.run(Duration::from_secs(20));
    let connected =
        net.events(publisher).iter().filter(|event| matches!(event, Event::Connected { .. })).count();
    assert!(connected <= 2, "{connected} times connected in 20 s");
}

#[test]
fn a_viewer_learns_of_the_end_after_a_pause_though_the_last_chunk_was_lost() {
    let mut net = Net::new(207, CLEAN);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, LIVE);
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    net.stream(publisher, channel, 1, RATE);
    net.run(Duration::from_millis(700));
    let now = net.now;
    net.node(publisher).finish(now, channel);
    // It gets as far as the relay; its train to the viewer is lost.
    net.run(Duration::from_micros(500));
    net.link.loss_permille = 1_000;
    net.run(Duration::from_millis(20));
    net.link.loss_permille = 0;
    net.run_to(Duration::from_secs(4), "ended", |net| net.has_ended(viewer));
}
