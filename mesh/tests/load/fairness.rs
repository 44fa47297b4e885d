//! Who waits for whom while a node has more to send than fits a batch.

use codec::wire::control::{Control, Role};
use codec::{Sequence, ShardSet, SlotLayout};
use mesh::{Payload, Progress};

use crate::crowd::{BATCH, Channel, Crowd, address, hello};

const CHUNK: SlotLayout = SlotLayout::new(8, 4).expect("counts within bounds");
const PARITY: ShardSet = ShardSet::range(8, 12);

/// A relay that is just sending the first trains of a chunk to 10,000 subscribers; and the chunk before that one.
fn busy() -> (Crowd, Channel, Sequence) {
    let mut crowd = Crowd::new(64);
    let mut popular = crowd.channel(0, 10_000);
    let before = popular.publish(&mut crowd, CHUNK, PARITY);
    assert_eq!(crowd.drain(), 10_000);
    popular.publish(&mut crowd, CHUNK, PARITY);
    assert_eq!(crowd.batch(), Progress::More);
    (crowd, popular, before)
}

#[test]
fn control_is_answered_in_the_next_batch_of_a_fan_out_to_10_000() {
    let (mut crowd, popular, _) = busy();
    crowd.take(address(9, 1), &Control::Hello(hello(&popular.secret, Role::Subscribe)).encode());
    popular.report(&mut crowd, 5_000, (8, 0));
    popular.report_of_publisher(&mut crowd);
    assert_eq!(crowd.batch(), Progress::More);
    let answered: Vec<_> = crowd.controls();
    assert!(matches!(answered[0], (to, Control::Challenge(_)) if to == address(9, 1)));
    assert!(matches!(answered[1], (to, Control::Report(_)) if to == address(0, 5_000)));
    assert!(matches!(answered[2], (to, Control::Report(_)) if to == address(0, 0)));
    assert_eq!(crowd.trains_to(0), BATCH - 3);
}

#[test]
fn repair_is_answered_in_the_next_batch_of_a_fan_out_to_10_000() {
    let (mut crowd, popular, before) = busy();
    popular.ask(&mut crowd, 9_999, before, ShardSet::range(3, 5));
    assert_eq!(crowd.batch(), Progress::More);
    let first = &crowd.outbox.transmits()[0];
    assert_eq!(first.to, address(0, 9_999));
    assert!(matches!(first.payload, Payload::Train { first: 3, count: 2, .. }), "{first:?}");
    assert_eq!(crowd.node.counters().repairs_sent, 2);
}

/// Batches until everybody has the chunk that is being fanned out, with this happening before each.
fn batches_with(crowd: &mut Crowd, mut disturb: impl FnMut(&mut Crowd, u32)) -> u32 {
    let sent = |crowd: &Crowd| {
        let counters = crowd.node.counters();
        counters.shards_sent - counters.repairs_sent
    };
    // Two chunks of eight data shards each, to everybody.
    let all = 2 * 8 * 10_000;
    for batch in 0.. {
        if sent(crowd) == all {
            return batch;
        }
        disturb(crowd, batch);
        crowd.batch();
    }
    unreachable!()
}

#[test]
fn a_flood_of_repair_requests_leaves_the_fan_out_half() {
    let (mut crowd, popular, before) = busy();
    // Four runs, hence four messages, each.
    let scattered = ShardSet::from_bits(0b0101_0101);
    let batches = batches_with(&mut crowd, |crowd, batch| {
        (0..128).for_each(|ask| popular.ask(crowd, (batch * 128 + ask) % 10_000 + 1, before, scattered));
    });
    assert_eq!(batches, (10_000 - BATCH as u32).div_ceil(BATCH as u32 / 2));
    assert!(crowd.node.counters().repairs_sent >= u64::from(batches) * BATCH as u64 / 2 - 4);
}

#[test]
fn a_flood_of_hellos_and_one_of_repair_requests_leave_the_fan_out_a_quarter() {
    let (mut crowd, popular, before) = busy();
    let hello = Control::Hello(hello(&popular.secret, Role::Subscribe)).encode();
    let scattered = ShardSet::from_bits(0b0101_0101);
    let batches = batches_with(&mut crowd, |crowd, batch| {
        (0..128).for_each(|stranger| crowd.take(address(9, stranger), &hello));
        (0..128).for_each(|ask| popular.ask(crowd, (batch * 128 + ask) % 10_000 + 1, before, scattered));
    });
    assert_eq!(batches, (10_000 - BATCH as u32).div_ceil(BATCH as u32 / 4));
}

/// Chunks into `flooding`, shard by shard with every other one missing, until the node has to skip some.
fn flood(crowd: &mut Crowd, flooding: &mut Channel) {
    let skipped = crowd.node.counters().jobs_skipped;
    while crowd.node.counters().jobs_skipped == skipped {
        flooding.seal(crowd.now, CHUNK);
        (0..8).step_by(2).for_each(|index| flooding.give(crowd, index));
        crowd.batch();
    }
}

#[test]
fn a_channel_with_more_than_can_be_sent_neither_delays_a_small_one_nor_costs_it_a_train() {
    // So much room that chunks do not leave the window before their trains.
    let mut crowd = Crowd::new(2_000);
    let (mut popular, mut small) = (crowd.channel(0, 10_000), crowd.channel(1, 5));
    flood(&mut crowd, &mut popular);
    for _ in 0..100 {
        flood(&mut crowd, &mut popular);
        small.publish(&mut crowd, CHUNK, PARITY);
        crowd.batch();
        assert_eq!(crowd.trains_to(1), 5, "in the next batch");
    }
}

#[test]
fn a_small_channel_among_busy_ones_waits_for_one_turn_of_each() {
    let mut crowd = Crowd::new(2_000);
    let mut busy: Vec<Channel> = (1..=20).map(|number| crowd.channel(number, 1_000)).collect();
    let mut small = crowd.channel(0, 5);
    for channel in &mut busy {
        for _ in 0..8 {
            channel.publish(&mut crowd, CHUNK, PARITY);
        }
    }
    crowd.batch();
    small.publish(&mut crowd, CHUNK, PARITY);
    let mut batches = 1;
    while crowd.batch() == Progress::More && crowd.trains_to(0) == 0 {
        batches += 1;
    }
    // 20 channels with turns of 32 messages are two and a half batches.
    assert_eq!((batches, crowd.trains_to(0)), (3, 5));
}

#[test]
fn answers_to_one_channels_subscribers_do_not_wait_for_those_to_anothers() {
    let mut crowd = Crowd::new(64);
    let (mut popular, mut small) = (crowd.channel(0, 4_000), crowd.channel(1, 5));
    let (of_popular, of_small) =
        (popular.publish(&mut crowd, CHUNK, PARITY), small.publish(&mut crowd, CHUNK, PARITY));
    crowd.drain();
    let scattered = ShardSet::from_bits(0b0101_0101);
    (1..=4_000).for_each(|subscriber| popular.ask(&mut crowd, subscriber, of_popular, scattered));
    let refused = crowd.node.counters().repairs_refused;
    assert!(refused > 0, "more than there is room for");
    (1..=5).for_each(|subscriber| small.ask(&mut crowd, subscriber, of_small, scattered));
    assert_eq!(crowd.node.counters().repairs_refused, refused);
    crowd.batch();
    assert_eq!(crowd.trains_to(1), 4 * 5);
}
