//! What a node allocates, counted by an allocator that counts for each thread.

use std::time::Duration;

use allocation_counter::{measure, opt_out};
use codec::wire::control::SessionHeader;
use codec::{ShardSet, SlotLayout};

use crate::crowd::{Channel, Crowd};

#[test]
fn a_subscriber_costs_less_than_a_kibibyte() {
    // Just after something has doubled a subscriber costs the most.
    for subscribers in [4_097, 7_169, 8_193, 10_000, 16_385] {
        let mut crowd = Crowd::new(64);
        let one = crowd.channel(0, 1);
        one.report(&mut crowd, 1, (0, 0));
        crowd.drain();
        let mut channel = None;
        let allocated = measure(|| {
            let channel = channel.insert(crowd.channel(1, subscribers));
            // With as many answers waiting as there may be.
            (1..=subscribers.min(4_096)).for_each(|number| channel.report(&mut crowd, number, (0, 0)));
        });
        let of_the_test = size_of::<SessionHeader>() * subscribers as usize;
        let each = (allocated.bytes_current as usize - of_the_test) / subscribers as usize;
        println!("{subscribers} subscribers: {each} bytes each");
        assert!(each < 1_024, "{subscribers} subscribers: {each} bytes each");
    }
}

/// Of a relay with four channels of 100 subscribers, windows of 128 chunks, and losses on the way in and out.
struct Busy {
    crowd: Crowd,
    channels: Vec<Channel>,
    /// For what is drawn.
    rounds: u64,
}

/// The channels' chunks: small ones and the largest.
const LAYOUTS: [SlotLayout; 2] = [
    SlotLayout::new(8, 4).expect("counts within bounds"),
    SlotLayout::new(32, 16).expect("counts within bounds"),
];

/// What is lost on the way in, in turns.
const LOST: [ShardSet; 5] = [
    ShardSet::EMPTY,
    ShardSet::range(0, 1),
    ShardSet::range(3, 5),
    ShardSet::range(5, 8),
    ShardSet::range(8, 12),
];

impl Busy {
    fn new(egress_bps_max: Option<u64>) -> Busy {
        let mut crowd = Crowd::capped(4 * 128, egress_bps_max);
        let channels = (0..4).map(|number| crowd.channel(number, 100)).collect();
        Busy { crowd, channels, rounds: 0 }
    }

    /// 20 ms: a chunk of each channel comes in and goes out; some subscribers report loss, some ask for repair. In 2 s
    /// everybody reports.
    fn round(&mut self) {
        self.round_with(LOST[(self.rounds % 5) as usize]);
    }

    fn round_with(&mut self, lost: ShardSet) {
        let round = self.rounds;
        self.rounds += 1;
        for channel in &mut self.channels {
            let layout = LAYOUTS[usize::from(channel.number % 2)];
            let mut sequence = None;
            opt_out(|| sequence = Some(channel.seal(self.crowd.now, layout)));
            // One chunk in fifty stays a shard short: it is asked for in vain until it is given up.
            let enough = layout.data_shards() - usize::from(round % 50 == 49);
            for index in layout.all_shards().minus(lost).lowest(enough).iter() {
                channel.give(&mut self.crowd, index);
                if index.is_multiple_of(4) {
                    self.crowd.batch();
                }
            }
            let subscriber = (round % 100) as u32 + 1;
            channel.report(&mut self.crowd, subscriber, (round * 95, round * 5 * u64::from(subscriber % 3)));
            let scattered = ShardSet::from_bits(0b1010_0110);
            channel.ask(&mut self.crowd, subscriber, sequence.expect("sealed"), scattered);
            if round.is_multiple_of(100) {
                channel.report_of_publisher(&mut self.crowd);
            }
        }
        self.crowd.drain();
        self.crowd.after(Duration::from_millis(20));
    }
}

#[test]
fn a_relay_that_has_warmed_up_allocates_nothing() {
    nothing_is_allocated(None);
}

#[test]
fn a_relay_with_a_cap_on_what_it_sends_allocates_nothing_either() {
    nothing_is_allocated(Some(20_000_000_000));
}

fn nothing_is_allocated(egress_bps_max: Option<u64>) {
    let mut busy = Busy::new(egress_bps_max);
    // Windows fill up, each set of lost shards is rebuilt once, every subscriber has reported.
    (0..400).for_each(|_| busy.round());
    let before = busy.crowd.node.counters().clone();
    let window_bytes = busy.crowd.node.window_bytes();
    let allocated = measure(|| (0..1_000).for_each(|_| busy.round()));
    let after = busy.crowd.node.counters().clone();
    assert_eq!(allocated.count_total, 0, "{} bytes", allocated.bytes_total);
    // What it did meanwhile.
    assert_eq!(after.chunks - before.chunks, 4 * 1_000);
    assert!(after.chunks_restored - before.chunks_restored > 4 * 1_000 / 2);
    assert!(after.chunks_lost - before.chunks_lost >= 4 * 1_000 / 50 - 4);
    assert!(after.trains_sent - before.trains_sent > 4 * 1_000 * 100);
    assert!(after.control_sent - before.control_sent >= 4 * 1_000);
    assert!(after.repairs_sent - before.repairs_sent >= 4 * 1_000);
    assert_eq!(busy.crowd.node.window_bytes(), window_bytes, "windows were full already");
}

/// The one exception: `reed-solomon-erasure` inverts a matrix for each set of lost shards that is not among the last 254
/// which it has rebuilt with these k and m.
#[test]
fn shards_lost_in_a_way_not_seen_before_cost_a_few_allocations_once() {
    let mut busy = Busy::new(None);
    (0..400).for_each(|_| busy.round());
    let new = ShardSet::from_bits(0b0010_0100);
    let first = measure(|| busy.round_with(new));
    assert!((1..=16).contains(&first.count_total), "{first:?}");
    assert_eq!(measure(|| busy.round_with(new)).count_total, 0);
}
