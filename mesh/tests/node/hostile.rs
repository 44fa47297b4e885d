//! What strangers, broken peers and a dishonest publisher send: dropped, counted, without effect on anybody.

use std::net::SocketAddr;
use std::time::Duration;

use codec::wire::control::{
    Bye, ByeReason, Control, Hello, RefuseReason, Repair, Report, Role, Sender, SessionHeader, SessionId,
    Wanted,
};
use codec::{
    ChannelKey, ChannelSecret, ChunkHeader, DATAGRAM_BYTES, Fec, Sequence, ShardSet, SlotLayout, seal_chunk,
};
use mesh::{Admission, ChannelId, DropReason, Event, Limits, LostReason, NodeConfig, Verdict, Whom};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::lab::{CLEAN, Net, address, key, relay_config, secret};

const RATE: usize = 500_000;

fn stranger(number: u32) -> SocketAddr {
    SocketAddr::from((number.to_be_bytes().map(|byte| byte | 0x40), 1_000 + (number % 60_000) as u16))
}

fn hello(role: Role, key: ChannelKey) -> Hello {
    Hello { role, key, nonce: 7, from: Sequence(0), cookie: [0; 16], signature: [0; 64] }
}

/// A relay that carries a stream to one viewer: (net, relay, publisher, channel, viewer).
pub(crate) fn running() -> (Net, usize, usize, ChannelId, usize) {
    let mut net = Net::new(1, CLEAN);
    let relay = net.add(relay_config());
    let (viewer, _) = net.viewer(relay, Sequence(0));
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    net.stream(publisher, channel, 1, RATE);
    (net, relay, publisher, channel, viewer)
}

/// All datagrams of a chunk as the publisher would make it.
fn chunk(sequence: u64, fill: u8) -> Vec<Vec<u8>> {
    let layout = SlotLayout::new(3, 2).unwrap();
    let header = ChunkHeader::new(key().tag(), Sequence(sequence), layout, 3_000).unwrap();
    let mut slot = vec![0; layout.slot_bytes()];
    seal_chunk(&mut slot, &header, [&[fill; 3_000][..]], &secret(), &mut Fec::new());
    slot.chunks(DATAGRAM_BYTES).map(<[u8]>::to_vec).collect()
}

pub(crate) fn edge(net: &Net, node: usize) -> u64 {
    net.peek(node).channels().next().unwrap().edge.0
}

/// The session header that a peer's next report to the relay carries.
pub(crate) fn session_header(net: &mut Net, host: usize) -> SessionHeader {
    let at = net.now.after(Duration::from_secs(1));
    net.node(host).handle_timeout(at);
    let sent = net.take_sent(host);
    let report = sent.iter().find_map(|(_, bytes)| match Control::parse(bytes) {
        Ok(Control::Report(report)) => Some(report),
        _ => None,
    });
    report.expect("a report each second").header
}

#[test]
fn a_hundred_thousand_spoofed_hellos_leave_nothing_and_get_no_more_than_they_sent() {
    let mut net = Net::new(2, CLEAN);
    let relay = net.add(relay_config());
    let hello = Control::Hello(hello(Role::Subscribe, key())).encode();
    for number in 0..100_000 {
        assert_eq!(net.inject(relay, stranger(number), &hello), Verdict::Kept);
        let sent = net.take_sent(relay);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].0, stranger(number));
        assert!(sent[0].1.len() <= hello.len(), "{} bytes for {}", sent[0].1.len(), hello.len());
    }
    let node = net.node(relay);
    assert_eq!((node.sessions(), node.channels().count(), node.window_bytes()), (0, 0, 0));
    assert_eq!(node.next_timeout(), None, "nothing to remember, nothing to do");
}

#[test]
fn hellos_faster_than_answers_can_leave_are_dropped_not_queued_without_bound() {
    let mut net = Net::new(3, CLEAN);
    let relay = net.add(relay_config());
    let hello = Control::Hello(hello(Role::Subscribe, key())).encode();
    let kept = (0..10_000).filter(|n| net.inject(relay, stranger(*n), &hello) == Verdict::Kept).count();
    assert_eq!(kept, mesh::limits::CONTROL_QUEUE_MAX / 2);
    assert_eq!(net.node(relay).counters().dropped_for(DropReason::QueueFull), 10_000 - kept as u64);
}

#[test]
fn a_cookie_of_another_address_gets_no_session() {
    let mut net = Net::new(4, CLEAN);
    let relay = net.add(relay_config());
    let mut hello = hello(Role::Subscribe, key());
    net.inject(relay, stranger(1), &Control::Hello(hello).encode());
    let sent = net.take_sent(relay);
    let Ok(Control::Challenge(challenge)) = Control::parse(&sent[0].1) else { panic!("{sent:?}") };
    hello.cookie = challenge.cookie;
    net.inject(relay, stranger(2), &Control::Hello(hello).encode());
    assert_eq!(net.node(relay).sessions(), 0);
    net.inject(relay, stranger(1), &Control::Hello(hello).encode());
    assert_eq!(net.node(relay).sessions(), 1);
    // Repeated (its answer was lost), it is the same session.
    net.inject(relay, stranger(1), &Control::Hello(hello).encode());
    assert_eq!(net.node(relay).sessions(), 1);
}

#[test]
fn who_cannot_sign_is_not_let_in_as_publisher() {
    let mut net = Net::new(5, CLEAN);
    let relay = net.add(relay_config());
    let mut hello = hello(Role::Publish, key());
    net.inject(relay, stranger(1), &Control::Hello(hello).encode());
    let sent = net.take_sent(relay);
    let Ok(Control::Challenge(challenge)) = Control::parse(&sent[0].1) else { panic!("{sent:?}") };
    hello.cookie = challenge.cookie;
    hello.signature = ChannelSecret::from_seed(&[9; 32]).sign_hello(hello.nonce, &hello.cookie);
    net.inject(relay, stranger(1), &Control::Hello(hello).encode());
    let sent = net.take_sent(relay);
    let Ok(Control::Refuse(refuse)) = Control::parse(&sent[0].1) else { panic!("{sent:?}") };
    assert_eq!(refuse.reason, RefuseReason::KeyNotProven);
    assert_eq!((net.node(relay).sessions(), net.node(relay).channels().count()), (0, 0));
}

#[test]
fn a_channel_that_is_not_listed_is_refused_with_its_reason_at_both_ends() {
    let mut net = Net::new(6, CLEAN);
    let admission = Admission::Listed([ChannelKey([1; 32])].into());
    let relay = net.add(NodeConfig::new(admission, Limits::default()));
    let (viewer, _) = net.viewer(relay, Sequence(0));
    let (publisher, _) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    for host in [viewer, publisher] {
        let refused =
            |event: &Event| matches!(event, Event::Refused { reason: RefuseReason::ChannelNotAllowed, .. });
        assert!(net.events(host).iter().any(refused), "host {host}: {:?}", net.events(host));
    }
    assert_eq!(net.node(relay).sessions(), 0);
}

#[test]
fn newcomers_beyond_the_limits_are_refused_and_those_inside_stay() {
    let mut net = Net::new(7, CLEAN);
    let limits = Limits { subscribers_max: 3, ..Limits::default() };
    let relay = net.add(NodeConfig::new(Admission::Open, limits));
    let early = [0; 3].map(|_| net.viewer(relay, Sequence(0)).0);
    net.run(Duration::from_millis(100));
    let (late, _) = net.viewer(relay, Sequence(0));
    let (publisher, channel) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    net.stream(publisher, channel, 1, RATE);
    let full = |event: &Event| matches!(event, Event::Refused { reason: RefuseReason::Full, .. });
    assert!(net.events(late).iter().any(full) && net.output(late).is_empty());
    assert!(early.iter().all(|viewer| net.output(*viewer).len() > RATE / 2));
}

#[test]
fn whoever_is_turned_away_or_let_go_hears_of_the_other_nodes_that_may_be_dialled() {
    let mut net = Net::new(7, CLEAN);
    let (far, here, nowhere) =
        (address(9), "127.0.0.1:7450".parse().unwrap(), "192.0.2.1:0".parse().unwrap());
    let others = [far, here, nowhere].into_iter().collect();
    let relay = net.add(NodeConfig { others, ..relay_config() });
    let (publisher, channel) = net.publisher(relay);
    let (early, _) = net.viewer(relay, Sequence(0));
    net.run(Duration::from_millis(100));
    net.node(relay).close_to_newcomers(Some(RefuseReason::Closing));
    let (late, _) = net.viewer(relay, Sequence(0));
    net.stream(publisher, channel, 1, RATE);
    assert!(net.output(early).len() > RATE / 2 && net.output(late).is_empty());
    let refused = |event: &Event| matches!(event, Event::Refused { reason: RefuseReason::Closing, nodes, .. } if nodes[..] == [far]);
    assert!(net.events(late).iter().any(refused), "{:?}", net.events(late));

    assert_eq!(net.node(relay).let_go(1), 1, "the viewer first");
    net.run(Duration::from_millis(10));
    let closing = LostReason::Bye(ByeReason::Closing);
    let gone = |event: &Event| matches!(event, Event::Lost { reason, nodes, .. } if *reason == closing && nodes[..] == [far]);
    assert!(net.events(early).iter().any(gone) && !net.events(publisher).iter().any(gone));
    assert_eq!(net.node(relay).let_go(9), 1);
    net.run(Duration::from_millis(10));
    assert!(net.events(publisher).iter().any(gone) && net.node(relay).sessions() == 0);
    net.node(relay).close_to_newcomers(None);
    net.run(Duration::from_secs(6));
    assert_eq!(net.node(relay).sessions(), 3, "the viewers and the publisher are back");
}

#[test]
fn a_node_closed_to_subscribers_lets_publishers_in() {
    let mut net = Net::new(8, CLEAN);
    let relay = net.add(relay_config());
    net.node(relay).close_to_subscribers(Some(RefuseReason::EgressFull));
    let (viewer, _) = net.viewer(relay, Sequence(0));
    let (publisher, _) = net.publisher(relay);
    net.run(Duration::from_millis(100));
    let refused = |event: &Event| matches!(event, Event::Refused { reason: RefuseReason::EgressFull, .. });
    assert!(net.events(viewer).iter().any(refused) && !net.events(publisher).iter().any(refused));
    assert_eq!(net.node(relay).sessions(), 1, "the publisher");
    net.node(relay).close_to_subscribers(None);
    net.run(Duration::from_secs(6));
    assert_eq!(net.node(relay).sessions(), 2);
}

#[test]
fn whoever_is_kicked_is_told_and_refused_until_the_time_is_over() {
    for whom in 0..3 {
        let mut net = Net::new(7, CLEAN);
        let others = [address(9)].into_iter().collect();
        let relay = net.add(NodeConfig { others, ..relay_config() });
        let (publisher, _) = net.publisher(relay);
        let (viewer, _) = net.viewer(relay, Sequence(0));
        net.run(Duration::from_millis(100));
        let (whom, ended) = [
            (Whom::Address(address(viewer).ip()), 1),
            (Whom::Peer(address(viewer)), 1),
            (Whom::Channel(key()), 2),
        ][whom];
        let until = net.now.after(Duration::from_secs(10));
        let now = net.now;
        assert_eq!(net.node(relay).kick(now, whom, until), Some(ended), "{whom:?}");
        assert_eq!(net.node(relay).granted_sessions(), 2 - ended);
        net.run(Duration::from_millis(9_900));
        assert_eq!(net.node(relay).granted_sessions(), 2 - ended);
        let bye = LostReason::Bye(ByeReason::Done);
        let gone = |event: &Event| matches!(event, Event::Lost { reason, nodes, .. } if *reason == bye && nodes.is_empty());
        let refused = |event: &Event| matches!(event, Event::Refused { reason: RefuseReason::Kicked, nodes, .. } if nodes.is_empty());
        let events = net.events(viewer);
        assert!(events.iter().any(gone) && events.iter().any(refused), "{events:?}");
        let publisher_gone = net.events(publisher).iter().any(gone);
        assert_eq!(publisher_gone, ended == 2, "{:?}", net.events(publisher));
        net.run(Duration::from_secs(6));
        assert_eq!(net.node(relay).granted_sessions(), 2, "let in again");
    }
}

#[test]
fn one_address_cannot_take_every_place() {
    let mut net = Net::new(8, CLEAN);
    let limits = Limits { sessions_per_address_max: 2, ..Limits::default() };
    let relay = net.add(NodeConfig::new(Admission::Open, limits));
    let mut granted = 0;
    for port in 1..=5 {
        let from = SocketAddr::from(([10, 9, 9, 9], port));
        let mut hello = hello(Role::Subscribe, key());
        net.inject(relay, from, &Control::Hello(hello).encode());
        let sent = net.take_sent(relay);
        let Ok(Control::Challenge(challenge)) = Control::parse(&sent[0].1) else { panic!("{sent:?}") };
        hello.cookie = challenge.cookie;
        net.inject(relay, from, &Control::Hello(hello).encode());
        let sent = net.take_sent(relay);
        granted += usize::from(matches!(Control::parse(&sent[0].1), Ok(Control::Welcome(_))));
    }
    assert_eq!(granted, 2);
}

#[test]
fn any_flipped_bit_is_dropped_and_no_viewer_notices() {
    let (mut net, relay, publisher, channel, viewer) = running();
    net.run(Duration::from_millis(100));
    net.recorded = Some(Vec::new());
    let published = net.output(viewer).len();
    let now = net.now;
    net.node(publisher).push(now, channel, &[3; 20_000]);
    net.now = now.after(mesh::limits::CHUNK_TIME);
    let now = net.now;
    net.node(publisher).handle_timeout(now);
    // Take the chunk off the wire: the relay sees only what follows.
    let sent = net.take_sent(publisher);
    let shards: Vec<Vec<u8>> =
        sent.into_iter().map(|(_, bytes)| bytes).filter(|bytes| bytes[3] == 0).collect();
    assert!(shards.len() > 10);
    let (from, first) = (address(publisher), &shards[0]);
    let before = net.node(relay).counters().clone();

    // Nothing of the chunk is here yet: a flipped bit costs a signature check, of which there is a budget.
    let mut flips = 0;
    for bit in 0..DATAGRAM_BYTES * 8 {
        let mut flipped = first.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if bit % 500 == 0 {
            net.now = net.now.after(Duration::from_millis(500));
        }
        let Verdict::Dropped(reason) = net.inject(relay, from, &flipped) else {
            panic!("bit {bit} was taken")
        };
        let expected: &[DropReason] = match bit / 8 {
            0..4 => &[DropReason::NotOurs, DropReason::MalformedControl],
            4..8 => &[DropReason::MalformedShard, DropReason::BadSignature],
            8..16 => &[DropReason::UnknownChannel],
            16..24 => &[
                DropReason::BadSignature,
                DropReason::TooOld,
                DropReason::FarFuture,
                DropReason::Duplicate,
                DropReason::BadProof,
                DropReason::MalformedShard,
            ],
            _ => &[DropReason::BadSignature, DropReason::MalformedShard],
        };
        assert!(expected.contains(&reason), "bit {bit}: {reason}");
        flips += 1;
    }
    // The chunk is known by its first shard: every other one is held against its root.
    assert_eq!(net.inject(relay, from, first), Verdict::Kept);
    for bit in 100 * 8..DATAGRAM_BYTES * 8 {
        let mut flipped = shards[1].clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(net.inject(relay, from, &flipped), Verdict::Dropped(DropReason::BadProof), "bit {bit}");
        flips += 1;
    }
    let after = net.node(relay).counters().clone();
    assert_eq!(after.shards_stored, before.shards_stored + 1);
    assert_eq!(after.dropped.total() - before.dropped.total(), flips);

    for shard in &shards[1..] {
        assert_eq!(net.inject(relay, from, shard), Verdict::Kept);
    }
    let now = net.now;
    net.node(publisher).finish(now, channel);
    net.run_to(Duration::from_secs(1), "the viewer has the end", |net| net.has_ended(viewer));
    assert!(net.output(viewer)[published..].ends_with(&[3; 20_000]));
    let recorded = net.recorded.take().unwrap();
    let honest = |bytes: &Vec<u8>| {
        let sent = recorded.iter().filter(|(from, ..)| *from == address(publisher));
        shards.contains(bytes) || sent.map(|(.., sent)| sent).any(|sent| sent == bytes)
    };
    let forwarded: Vec<_> = recorded.iter().filter(|(_, to, _)| *to == address(viewer)).collect();
    assert!(forwarded.len() >= 19 && forwarded.iter().all(|(.., bytes)| honest(bytes)));
}

#[test]
fn signature_checks_for_one_session_are_bounded_for_chunks_known_and_unknown() {
    let (mut net, relay, publisher, ..) = running();
    let known = chunk(edge(&net, relay) + 1, 1);
    let unknown = chunk(edge(&net, relay) + 2, 1);
    assert_eq!(net.inject(relay, address(publisher), &known[0]), Verdict::Kept);
    let checks = net.node(relay).counters().signature_checks;
    for flip in 0..5_000_u16 {
        for shard in [&known[1], &unknown[1]] {
            let mut forged = shard.clone();
            forged[60..62].copy_from_slice(&flip.to_be_bytes());
            net.inject(relay, address(publisher), &forged);
        }
    }
    let checked = net.node(relay).counters().signature_checks - checks;
    assert!(checked <= 1_000, "{checked} checks");
    assert!(net.node(relay).counters().dropped_for(DropReason::SignatureFlood) > 8_000);
    // What needs no check is taken all the same.
    assert_eq!(net.inject(relay, address(publisher), &known[2]), Verdict::Kept);
}

#[test]
fn shards_from_who_is_no_upstream_are_not_even_looked_at() {
    let (mut net, relay, publisher, channel, viewer) = running();
    let now = net.now;
    net.node(publisher).push(now, channel, &[3; 20_000]);
    net.node(publisher).finish(now, channel);
    let sent = net.take_sent(publisher);
    let checks = net.node(relay).counters().signature_checks;
    for (_, shard) in sent.iter().filter(|(_, bytes)| bytes[3] == 0) {
        for from in [stranger(1), address(viewer)] {
            assert_eq!(net.inject(relay, from, shard), Verdict::Dropped(DropReason::NotUpstream));
        }
    }
    assert_eq!(net.node(relay).counters().signature_checks, checks);
}

#[test]
fn old_far_and_second_chunks_are_dropped() {
    let (mut net, relay, publisher, ..) = running();
    let from = address(publisher);
    let edge = edge(&net, relay);
    let drop = |reason| Verdict::Dropped(reason);
    assert_eq!(net.inject(relay, from, &chunk(edge - 1_000, 1)[0]), drop(DropReason::TooOld));
    let far = net.now.0.max(edge) + 2 * mesh::limits::SEQUENCE_AHEAD_MAX;
    assert_eq!(net.inject(relay, from, &chunk(far, 1)[0]), drop(DropReason::FarFuture));
    assert_eq!(net.inject(relay, from, &chunk(edge + 1, 1)[0]), Verdict::Kept);
    assert_eq!(net.inject(relay, from, &chunk(edge + 1, 1)[0]), drop(DropReason::Duplicate));
    assert_eq!(net.inject(relay, from, &chunk(edge + 1, 2)[1]), drop(DropReason::Equivocation));
    assert_eq!(net.inject(relay, from, &chunk(edge + 1, 1)[1]), Verdict::Kept, "the first is kept");
}

#[test]
fn data_that_parity_overtook_is_no_duplicate_the_first_time() {
    let (mut net, relay, publisher, ..) = running();
    let shards = chunk(edge(&net, relay) + 1, 1);
    let mut inject = |shard: usize| net.inject(relay, address(publisher), &shards[shard]);
    for shard in [1, 3, 4] {
        assert_eq!(inject(shard), Verdict::Kept);
    }
    assert_eq!(inject(0), Verdict::Dropped(DropReason::Overtaken));
    assert_eq!(inject(0), Verdict::Dropped(DropReason::Duplicate));
    assert_eq!(inject(1), Verdict::Dropped(DropReason::Duplicate));
}

#[test]
fn a_replayed_chunk_that_left_the_window_is_too_old() {
    let (mut net, relay, publisher, channel, _) = running();
    net.recorded = Some(Vec::new());
    net.stream(publisher, channel, 1, RATE);
    let old = net.recorded.take().unwrap().into_iter().find(|(_, to, _)| *to == address(relay)).unwrap();
    net.stream(publisher, channel, 12, RATE);
    let stored = net.node(relay).counters().shards_stored;
    assert_eq!(net.inject(relay, address(publisher), &old.2), Verdict::Dropped(DropReason::TooOld));
    assert_eq!(net.node(relay).counters().shards_stored, stored);
}

#[test]
fn wrong_sessions_get_nothing_and_unknown_ones_a_reset_no_longer_than_what_they_sent() {
    let (mut net, relay, _, _, viewer) = running();
    let header = session_header(&mut net, viewer);
    let report = |header| Control::Report(Report::new(header)).encode();
    let wrong = SessionHeader { session: SessionId(header.session.0 ^ 1), ..header };
    let wrong_bye = Control::Bye(Bye { header: wrong, reason: ByeReason::Done, nodes: Default::default() });
    net.take_sent(relay);
    for (bytes, answers) in [(report(wrong), 1), (wrong_bye.encode(), 0)] {
        let verdict = net.inject(relay, address(viewer), &bytes);
        assert_eq!(verdict, Verdict::Dropped(DropReason::WrongSession));
        let sent = net.take_sent(relay);
        assert!(sent.len() == answers && sent.iter().all(|(_, sent)| sent.len() <= bytes.len()));
    }

    // The right session from the wrong address.
    let bytes = report(header);
    let verdict = net.inject(relay, stranger(1), &bytes);
    assert_eq!(verdict, Verdict::Dropped(DropReason::UnknownSession));
    let sent = net.take_sent(relay);
    assert!(sent.len() == 1 && sent[0].1.len() <= bytes.len() && sent[0].0 == stranger(1));
    // A reset is never answered: no ping-pong between two nodes.
    net.inject(relay, stranger(1), &sent[0].1);
    assert!(net.take_sent(relay).is_empty());
    assert_eq!(net.node(relay).sessions(), 2);
}

#[test]
fn a_lease_that_is_not_renewed_ends() {
    let (mut net, relay, publisher, channel, viewer) = running();
    let header = session_header(&mut net, viewer);
    net.kill(viewer);
    net.stream(publisher, channel, 11, RATE);
    assert_eq!(net.node(relay).counters().leases_expired, 1);
    assert_eq!(net.node(relay).sessions(), 1, "the publisher's is renewed");
    let wanted = [Wanted { sequence: Sequence(1), shards: ShardSet::ALL }].into_iter().collect();
    let repair = Control::Repair(Repair { header, number: 0, wanted }).encode();
    let verdict = net.inject(relay, address(viewer), &repair);
    assert_eq!(verdict, Verdict::Dropped(DropReason::UnknownSession));
}

#[test]
fn repair_is_answered_within_credit_and_only_for_what_is_held() {
    let (mut net, relay, _, _, viewer) = running();
    let header = session_header(&mut net, viewer);
    assert_eq!(header.sender, Sender::Subscriber);
    net.take_sent(relay);
    let edge = edge(&net, relay);
    let mut sent = 0;
    for _ in 0..200 {
        let wanted = (0..64).map(|back| Wanted { sequence: Sequence(edge - back), shards: ShardSet::ALL });
        let repair = Control::Repair(Repair { header, number: 0, wanted: wanted.collect() }).encode();
        assert_eq!(net.inject(relay, address(viewer), &repair), Verdict::Kept);
        sent += net.take_sent(relay).len();
    }
    assert!(sent > 0 && sent <= mesh::limits::REPAIR_CREDIT_MAX as usize, "{sent} shards");
    assert!(net.node(relay).counters().repairs_refused > 0);
}

#[test]
fn of_the_copies_of_a_request_the_first_is_answered() {
    let (mut net, relay, _, _, viewer) = running();
    let header = session_header(&mut net, viewer);
    net.take_sent(relay);
    let edge = edge(&net, relay);
    let mut ask = |number: u16, back: u64| {
        let wanted =
            [Wanted { sequence: Sequence(edge - back), shards: ShardSet::ALL }].into_iter().collect();
        let repair = Control::Repair(Repair { header, number, wanted }).encode();
        let verdict = net.inject(relay, address(viewer), &repair);
        (verdict, net.take_sent(relay).len())
    };
    let (verdict, shards) = ask(7, 1);
    assert!(verdict == Verdict::Kept && shards > 0);
    let copy = (Verdict::Dropped(DropReason::Copy), 0);
    assert_eq!((ask(7, 1), ask(7, 2)), (copy, copy));
    // The next request is another, whatever it asks for, and so is one without a number.
    assert_eq!((ask(8, 1), ask(7, 1)), ((Verdict::Kept, shards), copy));
    assert_eq!((ask(0, 1), ask(0, 1)), ((Verdict::Kept, shards), (Verdict::Kept, shards)));
}

#[test]
fn garbage_of_every_length_is_counted_and_changes_nothing() {
    let (mut net, relay, publisher, channel, viewer) = running();
    let mut random = ChaCha12Rng::seed_from_u64(99);
    let sessions = net.node(relay).sessions();
    for length in 0..=1_500 {
        for kind in 0..=9 {
            let mut bytes = vec![0; length];
            random.fill_bytes(&mut bytes);
            if kind < 9 && length >= 4 {
                bytes[..4].copy_from_slice(&[b'S', b'P', 1, kind]);
            }
            for from in [stranger(1), address(publisher), address(viewer)] {
                for host in [relay, viewer, publisher] {
                    let verdict = net.inject(host, from, &bytes);
                    // A random Hello may be well-formed: it is challenged.
                    let hello = bytes.get(3) == Some(&1) && host == relay;
                    assert!(hello || matches!(verdict, Verdict::Dropped(_)), "{length} bytes, kind {kind}");
                }
            }
        }
        net.take_sent(relay);
    }
    assert_eq!(net.node(relay).sessions(), sessions);
    let output = net.output(viewer).len();
    net.stream(publisher, channel, 1, RATE);
    assert!(net.output(viewer).len() > output + RATE / 2, "the stream goes on");
}

#[test]
fn a_subscriber_that_the_kernel_will_not_send_to_is_let_go_but_not_for_a_few_refusals() {
    let (mut net, relay, publisher, channel, viewer) = running();
    let refuse = |net: &mut Net, times| {
        (0..times).for_each(|_| net.node(relay).note_refused(address(viewer)));
        net.node(relay).sessions()
    };
    let most = mesh::limits::REFUSED_SENDS_MAX;
    assert_eq!(refuse(&mut net, most - 1), 2);
    // A report shows that it is there.
    net.stream(publisher, channel, 2, RATE);
    assert_eq!(refuse(&mut net, most - 1), 2);
    assert_eq!(refuse(&mut net, 1), 1);
    assert_eq!(net.node(relay).counters().sessions_unreachable, 1);
}

#[test]
fn a_chunk_number_at_the_end_of_the_range_stops_nothing() {
    let mut net = Net::new(9, CLEAN);
    let relay = net.add(relay_config());
    let (publisher, _) = net.publisher(relay);
    net.run(Duration::from_millis(200));
    for shard in chunk((1 << 63) - 1, 1) {
        assert_eq!(net.inject(relay, address(publisher), &shard), Verdict::Kept);
    }
    let (viewer, _) = net.viewer(relay, Sequence(0));
    net.run_to(Duration::from_secs(1), "the one chunk", |net| net.output(viewer).len() == 3_000);
}
