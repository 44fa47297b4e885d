//! A subscriber whose reports and requests are lies: what it gets by them, and what others pay.

use codec::wire::control::{Control, Repair, Report, Wanted};
use codec::{Sequence, ShardSet, Stripes};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::hostile::{edge, running, session_header};
use crate::lab::address;

const RATE: usize = 500_000;

/// Shards sent meanwhile: to the liar, to the viewer, to the relay, and the data shards of the stream.
struct Sent {
    liar: usize,
    viewer: usize,
    relay: usize,
    data: usize,
}

/// Of 20 s in which one of two subscribers reports every 60 ms what `lie` makes of it, and asks for the newest chunks anew.
fn listen_to(mut lie: impl FnMut(&mut Report)) -> Sent {
    let (mut net, relay, publisher, channel, viewer) = running();
    let (liar, _) = net.viewer(relay, Sequence(0));
    net.stream(publisher, channel, 2, RATE);
    let header = session_header(&mut net, liar);
    net.kill(liar);
    net.recorded = Some(Vec::new());
    let mut report = Report::new(header);
    report.stamp_us = net.now.0;
    for _ in 0..333 {
        net.stream_without_join_point(publisher, channel, 6, RATE);
        report.stamp_us += 60_000;
        lie(&mut report);
        net.inject(relay, address(liar), &Control::Report(report).encode());
        let newest = edge(&net, relay);
        let wanted = (0..64).map(|back| Wanted { sequence: Sequence(newest - back), shards: ShardSet::ALL });
        let repair = Control::Repair(Repair { header, number: 0, wanted: wanted.collect() });
        net.inject(relay, address(liar), &repair.encode());
    }
    let recorded = net.recorded.take().unwrap_or_default();
    let to = |host: usize| recorded.iter().filter(move |(_, to, _)| *to == address(host));
    let data = to(viewer).filter(|(_, _, shard)| shard[5] < shard[6]).count();
    Sent { liar: to(liar).count(), viewer: to(viewer).count(), relay: to(relay).count(), data }
}

fn assert_bounded(sent: &Sent) {
    // A publisher makes one parity shard for two of data; half of both may be asked for again.
    let most = sent.data * 9 / 4 + mesh::limits::REPAIR_CREDIT_MAX as usize;
    assert!(sent.data > 9_000, "the stream goes on: {}", sent.data);
    assert!(sent.liar <= most, "{} of {} data shards", sent.liar, sent.data);
    assert_eq!(sent.viewer, sent.data, "others are sent the stream alone");
    assert!(sent.relay <= sent.data + 32, "{}: the publisher sends the stream alone", sent.relay);
}

#[test]
fn who_claims_to_lose_a_fifth_and_to_have_no_time_is_sent_what_that_calls_for_and_others_pay_nothing() {
    let sent = listen_to(|report| {
        report.chunks += 3;
        report.expected += 30;
        report.lost += 6;
        report.lost_squares += 12;
        report.received += 300;
    });
    assert!(sent.liar > sent.data * 7 / 4, "{} of {} data shards", sent.liar, sent.data);
    assert_bounded(&sent);
}

#[test]
fn numbers_that_make_no_sense_do_no_harm() {
    let mut random = ChaCha12Rng::seed_from_u64(5);
    let sent = listen_to(|report| {
        let mut draw = || match random.next_u32() % 4 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (random.next_u32() % 64),
            _ => random.next_u64(),
        };
        *report = Report {
            stripes: Stripes::ALL,
            echo_us: draw(),
            held_us: draw() as u32,
            spread_us: draw() as u32,
            highest: Sequence(draw()),
            settled: Sequence(draw()),
            received: draw(),
            lost: draw(),
            recovered: draw(),
            repaired: draw(),
            chunks: draw() as u32,
            expected: draw() as u32,
            lost_squares: draw() as u32,
            slack_ms: draw() as u16,
            queued_ms: draw() as u16,
            strained: draw() & 1 == 1,
            ..*report
        };
    });
    assert_bounded(&sent);
}
