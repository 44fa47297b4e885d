use std::collections::HashMap;

use codec::MAX_SHARDS;

use super::*;
use crate::parity::Losses;
use crate::{Payload, SLOT_BYTES};

fn run(slot: SlotRef, layout: SlotLayout, shards: core::ops::Range<usize>) -> Run {
    Run {
        is_late: false,
        slot,
        sequence: Sequence(1),
        layout,
        first: shards.start,
        end: shards.end,
        train_max: MAX_SHARDS,
    }
}

fn seat(port: u16) -> Seat {
    Seat::new(SocketAddr::from(([192, 0, 2, 1], port)))
}

#[test]
fn a_train_reaches_everybody_once_through_outboxes_of_any_size_and_the_start_rotates() {
    let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
    let slot = arena.take().unwrap();
    let layout = SlotLayout::new(4, 2).unwrap();
    let mut seats = Seats::default();
    (1..=10).for_each(|port| {
        seats.take(seat(port));
    });
    seats.leave(3);
    let (mut fanout, mut counters) = (Fanout::new(), Counters::default());
    let mut starts = Vec::new();
    for _ in 0..3 {
        fanout.add(Time(0), 0, &mut seats, run(slot, layout, 0..4), &mut counters);
        let mut reached: HashMap<SocketAddr, usize> = HashMap::new();
        let mut out = Outbox::new(4);
        while !fanout.is_empty() {
            out.clear();
            fanout.send(
                Time(0),
                |_| Some(Audience { seats: &seats, budget: None, without_parity: false }),
                &arena,
                &mut out,
                &mut counters,
            );
            if reached.is_empty() {
                starts.push(out.transmits()[0].to);
            }
            out.transmits().iter().for_each(|transmit| *reached.entry(transmit.to).or_default() += 1);
        }
        assert_eq!(reached.len(), 9);
        assert!(reached.values().all(|count| *count == 1));
    }
    starts.dedup();
    assert_eq!(starts.len(), 3, "another subscriber is first each time");
}

#[test]
fn what_subscribers_want_is_summed_and_what_was_sent_outlives_them() {
    let mut seats = Seats::default();
    let places = [1, 2, 3].map(|port| seats.take(seat(port)));
    seats.set_stripes(places[1], Stripes::one(0, 2));
    seats.set_stripes(places[2], Stripes::NONE);
    assert_eq!(seats.wanted_permille(), 1_500);
    seats.note_sent(7);
    places.into_iter().for_each(|place| seats.leave(place));
    assert_eq!((seats.wanted_permille(), seats.shards_sent(), seats.len()), (0, 7, 0));
}

#[test]
fn who_takes_halves_is_sent_them_as_trains_through_outboxes_of_any_size() {
    let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
    let (slot, layout) = (arena.take().unwrap(), SlotLayout::new(8, 4).unwrap());
    let mut seats = Seats::default();
    for half in 0..2 {
        let losses = Losses { share: 0.3, correlation: 0.0 };
        let place = seats.take(Seat { parity: Parity::needed(&losses, 0), ..seat(half + 1) });
        seats.set_stripes(place, Stripes::one(usize::from(half), 2));
    }
    seats.take(seat(3));
    let (mut fanout, mut counters, mut out) = (Fanout::new(), Counters::default(), Outbox::new(1));
    fanout.add(Time(0), 0, &mut seats, run(slot, layout, 0..12), &mut counters);
    let mut trains: HashMap<u16, Vec<usize>> = HashMap::new();
    let waiting =
        |fanout: &Fanout| [0, 1, 2].map(|place| fanout.waiting_for(0, slot, place, &seats.seat(place)));
    let at_first = waiting(&fanout);
    assert_eq!(at_first.map(|shards| shards.len()), [6, 6, 8]);
    let mut sent = [ShardSet::EMPTY; 3];
    while !fanout.is_empty() {
        out.clear();
        let audience = |_| Some(Audience { seats: &seats, budget: None, without_parity: false });
        fanout.send(Time(0), audience, &arena, &mut out, &mut counters);
        for transmit in out.transmits() {
            let Payload::Train { first, count, .. } = transmit.payload else { panic!("a train") };
            let (first, place) = (usize::from(first), usize::from(transmit.to.port()) - 1);
            sent[place] = sent[place].union(ShardSet::range(first, first + usize::from(count)));
            trains.entry(transmit.to.port()).or_default().push(usize::from(count));
        }
        let left = waiting(&fanout);
        (0..3).for_each(|place| assert_eq!(left[place], at_first[place].minus(sent[place])));
    }
    // Four data shards as one train and two of the parity; all data as one.
    assert_eq!((&trains[&1], &trains[&2]), (&vec![4, 1, 1], &vec![4, 1, 1]));
    assert_eq!(trains[&3], [8]);
}

#[test]
fn who_comes_when_all_others_left_is_sent_a_train_once() {
    let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
    let slot = arena.take().unwrap();
    let layout = SlotLayout::new(4, 2).unwrap();
    let mut seats = Seats::default();
    let taken: Vec<u32> = (1..=100).map(|port| seats.take(seat(port))).collect();
    let (mut fanout, mut counters, mut out) = (Fanout::new(), Counters::default(), Outbox::new(256));
    fanout.add(Time(0), 0, &mut seats, run(slot, layout, 0..4), &mut counters);
    taken.into_iter().for_each(|place| seats.leave(place));
    seats.take(seat(7));
    fanout.send(
        Time(0),
        |_| Some(Audience { seats: &seats, budget: None, without_parity: false }),
        &arena,
        &mut out,
        &mut counters,
    );
    assert_eq!(out.transmits().len(), 1);
}

#[test]
fn who_comes_during_a_train_takes_nobody_elses_turn() {
    let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
    let (slot, layout) = (arena.take().unwrap(), SlotLayout::new(4, 2).unwrap());
    let mut seats = Seats::default();
    (0..10).for_each(|port| {
        seats.take(seat(port));
    });
    let (mut fanout, mut counters, mut out) = (Fanout::new(), Counters::default(), Outbox::new(4));
    fanout.add(Time(0), 0, &mut seats, run(slot, layout, 0..4), &mut counters);
    let mut reached = Vec::new();
    while !fanout.is_empty() {
        out.clear();
        fanout.send(
            Time(0),
            |_| Some(Audience { seats: &seats, budget: None, without_parity: false }),
            &arena,
            &mut out,
            &mut counters,
        );
        reached.extend(out.transmits().iter().map(|transmit| transmit.to.port()));
        seats.take(seat(100));
    }
    reached.sort_unstable();
    assert_eq!(reached, (0..10).collect::<Vec<u16>>());
}

#[test]
fn what_continues_a_train_goes_with_it_until_that_has_left() {
    let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
    let (slot, layout) = (arena.take().unwrap(), SlotLayout::new(8, 0).unwrap());
    let mut seats = Seats::default();
    (0..3).for_each(|port| {
        seats.take(seat(port));
    });
    let (mut fanout, mut counters, mut out) = (Fanout::new(), Counters::default(), Outbox::new(1));
    for first in 0..4 {
        fanout.add(Time(0), 0, &mut seats, run(slot, layout, first..first + 1), &mut counters);
    }
    fanout.send(
        Time(0),
        |_| Some(Audience { seats: &seats, budget: None, without_parity: false }),
        &arena,
        &mut out,
        &mut counters,
    );
    fanout.add(Time(0), 0, &mut seats, run(slot, layout, 4..6), &mut counters);
    while !fanout.is_empty() {
        out.clear();
        fanout.send(
            Time(0),
            |_| Some(Audience { seats: &seats, budget: None, without_parity: false }),
            &arena,
            &mut out,
            &mut counters,
        );
    }
    assert_eq!((counters.trains_sent, counters.shards_sent), (2 * 3, 6 * 3));
}

#[test]
fn a_late_train_is_skipped_and_counted() {
    let mut arena = Arena::new(Box::new(vec![0; SLOT_BYTES]));
    let slot = arena.take().unwrap();
    let mut seats = Seats::default();
    seats.take(seat(1));
    let (mut fanout, mut counters, mut out) = (Fanout::new(), Counters::default(), Outbox::new(4));
    let layout = SlotLayout::new(1, 0).unwrap();
    fanout.add(Time(0), 0, &mut seats, run(slot, layout, 0..1), &mut counters);
    fanout.send(
        Time(0).after(2 * JOB_AGE_MAX),
        |_| Some(Audience { seats: &seats, budget: None, without_parity: false }),
        &arena,
        &mut out,
        &mut counters,
    );
    assert!(out.is_empty() && fanout.is_empty());
    assert_eq!(counters.jobs_skipped, 1);
}
