//! A channel from several upstreams at a time: each gives its part, and the others give the part of one that does not.

use std::time::Duration;

use codec::{Sequence, Stripes};
use mesh::limits::{HOLD_OFF_MIN, LAG_MAX, TRIAL_TIME};
use mesh::{ChannelId, UpstreamSummary};

use crate::lab::{CLEAN, LOSSY, Link, Net, address, key, relay_config};

/// 4 Mbit/s.
const RATE: usize = 500_000;

/// So much of the stream may be under way to the viewer: a chunk's time, one for what is found missing, and the way.
const BEHIND_MAX: Duration = Duration::from_millis(200);

/// The same where shards are lost on each of two or three links: the viewers here leave time, so repair takes the place of
/// parity, and a chunk may need a few rounds of it on each.
const BEHIND_MAX_LOSSY: Duration = Duration::from_millis(300);

const HALVES: [Stripes; 2] = [Stripes::one(0, 2), Stripes::one(1, 2)];

struct Two {
    net: Net,
    relays: Vec<usize>,
    publisher: usize,
    channel: ChannelId,
    /// Whoever takes the channel from all relays.
    taker: usize,
    viewer: usize,
    published: Vec<u8>,
}

impl Two {
    /// A viewer of two relays to which one publisher publishes.
    fn with_viewer(seed: u64, link: Link) -> Two {
        let mut net = Net::new(seed, link);
        let relays: Vec<usize> = (0..2).map(|_| net.add(relay_config())).collect();
        let (viewer, _) = net.viewer(relays[0], Sequence(0));
        let (now, sink) = (net.now, net.sink(viewer));
        net.node(viewer).dial(now, sink, address(relays[1]));
        Two::publish(net, relays, viewer, viewer)
    }

    /// The same with a relay in between, which takes the channel from `count` relays.
    fn with_relay(seed: u64, link: Link, count: usize) -> Two {
        let mut net = Net::new(seed, link);
        let relays: Vec<usize> = (0..count).map(|_| net.add(relay_config())).collect();
        let taker = net.add(relay_config());
        let now = net.now;
        for relay in &relays {
            net.node(taker).pull(now, &key(), address(*relay)).expect("a valid key");
        }
        let (viewer, _) = net.viewer(taker, Sequence(0));
        Two::publish(net, relays, taker, viewer)
    }

    fn publish(mut net: Net, relays: Vec<usize>, taker: usize, viewer: usize) -> Two {
        let (publisher, channel) = net.publisher(relays[0]);
        let now = net.now;
        for relay in &relays[1..] {
            net.node(publisher).dial(now, channel, address(*relay));
        }
        net.run(Duration::from_secs(2));
        Two { net, relays, publisher, channel, taker, viewer, published: Vec::new() }
    }

    /// Publishes for a while. The viewer is never far behind.
    fn stream(&mut self, duration: Duration) {
        for _ in 0..duration.as_millis() / 10 {
            let piece = self.net.stream_without_join_point(self.publisher, self.channel, 1, RATE);
            self.published.extend(piece);
            let behind = self.published.len() - self.net.output(self.viewer).len();
            let behind_max = if self.net.link.loss_permille > 0 { BEHIND_MAX_LOSSY } else { BEHIND_MAX };
            let allowed = RATE * behind_max.as_millis() as usize / 1_000;
            assert!(behind <= allowed, "{behind} bytes behind, {allowed} may be, at {:?}", self.upstreams());
        }
    }

    /// Publishes until both are relied on.
    fn stream_until_halved(&mut self) {
        self.stream(TRIAL_TIME + Duration::from_secs(2));
        assert!(self.is_halved(), "{:?}", self.upstreams());
    }

    fn upstreams(&self) -> Vec<UpstreamSummary> {
        let mut upstreams: Vec<_> = self.net.peek(self.taker).upstreams().collect();
        upstreams.sort_by_key(|upstream| upstream.address);
        upstreams
    }

    fn is_halved(&self) -> bool {
        let stripes = self.stripes();
        HALVES.iter().all(|half| stripes.contains(half))
    }

    fn stripes(&self) -> Vec<Stripes> {
        self.upstreams().iter().map(|upstream| upstream.stripes).collect()
    }

    /// Shards that each relay sends to the taker while `act` runs.
    fn sent_during(&mut self, act: impl FnOnce(&mut Two)) -> Vec<usize> {
        self.net.recorded = Some(Vec::new());
        act(self);
        let recorded = self.net.recorded.take().unwrap();
        let of = |relay: usize| {
            let route = (address(relay), address(self.taker));
            recorded.iter().filter(|(from, to, _)| (*from, *to) == route).count()
        };
        self.relays.iter().map(|relay| of(*relay)).collect()
    }

    /// The viewer has had every byte.
    fn finish(mut self) {
        let now = self.net.now;
        self.net.node(self.publisher).finish(now, self.channel);
        let viewer = self.viewer;
        self.net.run_to(Duration::from_secs(5), "the end has come through", |net| net.has_ended(viewer));
        assert!(self.net.output(viewer) == self.published, "bytes are missing");
    }
}

#[test]
fn two_good_upstreams_give_a_half_each_and_together_one_copy() {
    for mut two in [Two::with_viewer(300, CLEAN), Two::with_relay(301, CLEAN, 2)] {
        two.stream_until_halved();
        let before = two.net.peek(two.taker).counters().shards_stored;
        let sent = two.sent_during(|two| two.stream(Duration::from_secs(10)));
        let stored = (two.net.peek(two.taker).counters().shards_stored - before) as usize;
        let total: usize = sent.iter().sum();
        assert!(stored > 4_000 && total * 100 <= stored * 102, "{sent:?} for {stored}");
        assert!(sent.iter().all(|half| (45..=55).contains(&(half * 100 / total))), "{sent:?}");
        two.finish();
    }
}

#[test]
fn three_upstreams_give_a_third_each_and_when_one_is_gone_the_others_a_half() {
    let mut three = Two::with_relay(302, CLEAN, 3);
    three.stream(TRIAL_TIME + Duration::from_secs(2));
    assert_eq!(three.stripes(), [0, 1, 2].map(|place| Stripes::one(place, 3)));
    three.net.kill(three.relays[1]);
    three.stream(Duration::from_millis(300));
    assert_eq!(three.stripes(), [HALVES[0], Stripes::NONE, HALVES[1]]);
    three.stream(Duration::from_secs(10));
    three.finish();
}

#[test]
fn when_one_of_two_upstreams_is_gone_no_byte_is_missing_and_the_viewer_is_not_held_up() {
    for (round, link) in [CLEAN, CLEAN, LOSSY, LOSSY].into_iter().enumerate() {
        for through_a_relay in [false, true] {
            let seed = 310 + round as u64;
            let mut two = match through_a_relay {
                true => Two::with_relay(seed, link, 2),
                false => Two::with_viewer(seed, link),
            };
            two.stream_until_halved();
            two.stream(Duration::from_millis(20 * round as u64));
            two.net.kill(two.relays[round % 2]);
            two.stream(Duration::from_millis(400));
            let mut expected = [Stripes::ALL; 2];
            expected[round % 2] = Stripes::NONE;
            assert_eq!(two.stripes(), expected);
            two.stream(Duration::from_secs(10));
            two.finish();
        }
    }
}

/// Bytes per second: a shard each 58 ms, so that each chunk is one upstream's, and four are missed before it counts as silent.
const SLOW_RATE: usize = 13_000;

/// Publishes slowly, and kills these relays on the way. Returns how many bytes the viewer was behind at most.
fn behind_when_gone(two: &mut Two, gone: &[usize]) -> usize {
    let (piece, mut behind_max) = (Duration::from_millis(58), 0);
    for pieces in 0..200 {
        if pieces == 100 {
            gone.iter().for_each(|relay| two.net.kill(two.relays[*relay]));
        }
        let bytes = vec![pieces; SLOW_RATE * piece.as_millis() as usize / 1_000];
        let (now, channel) = (two.net.now, two.channel);
        two.net.node(two.publisher).push(now, channel, &bytes);
        two.net.run(piece);
        two.published.extend(bytes);
        behind_max = behind_max.max(two.published.len() - two.net.output(two.viewer).len());
    }
    behind_max
}

#[test]
fn what_one_of_two_was_asked_for_in_vain_the_other_is_asked_for_next() {
    for seed in 150..160 {
        let delay = Duration::from_millis(5 * (seed - 140));
        let mut two = Two::with_viewer(seed, Link { delay, ..CLEAN });
        let behind_max = behind_when_gone(&mut two, &[seed as usize % 2]);
        // Two ways of the shard, two of the request in vain, two of the one that is answered.
        let allowed = SLOW_RATE * (BEHIND_MAX + 6 * delay).as_millis() as usize / 1_000;
        assert!(behind_max <= allowed, "{behind_max} bytes behind, {allowed} may be");
        two.finish();
    }
}

#[test]
fn what_two_of_three_were_asked_for_in_vain_the_third_is_asked_for_next() {
    for seed in 160..166 {
        let mut three = Two::with_relay(seed, CLEAN, 3);
        let stays = seed as usize % 3;
        let behind_max = behind_when_gone(&mut three, &[(stays + 1) % 3, (stays + 2) % 3]);
        let allowed = SLOW_RATE * BEHIND_MAX.as_millis() as usize / 1_000;
        assert!(behind_max <= allowed, "{behind_max} bytes behind, {allowed} may be");
        three.finish();
    }
}

#[test]
fn an_upstream_that_is_back_gives_its_half_again() {
    let mut two = Two::with_viewer(320, CLEAN);
    two.stream_until_halved();
    two.net.kill(two.relays[1]);
    two.stream(Duration::from_secs(5));
    two.net.start(two.relays[1], relay_config());
    two.stream(Duration::from_secs(8));
    assert!(two.is_halved(), "{:?}", two.upstreams());
    two.finish();
}

#[test]
fn an_upstream_that_loses_some_keeps_its_half_and_is_told_of_its_own_loss_alone() {
    let mut two = Two::with_viewer(330, CLEAN);
    two.net.links.insert(two.relays[1], Link { loss_permille: 50, ..CLEAN });
    two.stream_until_halved();
    two.stream(Duration::from_secs(10));
    assert!(two.is_halved(), "{:?}", two.upstreams());
    let [good, lossy] = &two.upstreams()[..] else { panic!("two upstreams") };
    assert!(good.shards_lost == 0 && lossy.shards_lost > 100, "{good:?} {lossy:?}");
    two.finish();
}

#[test]
fn an_upstream_that_loses_much_gives_nothing_until_it_is_better() {
    let mut two = Two::with_viewer(340, CLEAN);
    two.stream_until_halved();
    two.net.links.insert(two.relays[1], Link { loss_permille: 600, ..CLEAN });
    two.stream(Duration::from_secs(2));
    assert_eq!(two.stripes(), [Stripes::ALL, Stripes::NONE]);
    let sent = two.sent_during(|two| two.stream(Duration::from_secs(30)));
    assert!(sent[1] * 5 < sent[0], "{sent:?}: trials are seldom");
    two.net.links.clear();
    two.stream(HOLD_OFF_MIN * 16 + TRIAL_TIME * 2);
    assert!(two.is_halved(), "{:?}", two.upstreams());
    two.finish();
}

#[test]
fn an_upstream_that_lags_a_little_is_waited_for_and_one_that_lags_much_gives_nothing() {
    let slow = |delay_ms| Link { delay: Duration::from_millis(delay_ms), ..CLEAN };
    let mut two = Two::with_viewer(350, CLEAN);
    two.net.links.insert(two.relays[1], slow(40));
    two.stream_until_halved();
    let before = two.net.peek(two.taker).counters().shards_stored;
    let sent: usize = two.sent_during(|two| two.stream(Duration::from_secs(5))).iter().sum();
    let stored = (two.net.peek(two.taker).counters().shards_stored - before) as usize;
    assert!(sent * 100 <= stored * 102, "{sent} for {stored}: it was not asked for what was on its way");
    let lag = Duration::from_millis(300);
    assert!(lag > LAG_MAX);
    two.net.links.insert(two.relays[1], slow(lag.as_millis() as u64));
    two.stream(Duration::from_secs(2));
    assert_eq!(two.stripes(), [Stripes::ALL, Stripes::NONE]);
    two.finish();
}

#[test]
fn when_all_are_silent_whoever_comes_back_first_gives_everything() {
    let mut two = Two::with_viewer(360, CLEAN);
    two.net.links.insert(two.relays[1], Link { loss_permille: 600, ..CLEAN });
    two.stream(Duration::from_secs(6));
    assert_eq!(two.stripes()[0], Stripes::ALL);
    two.net.links.clear();
    // The one that gives everything goes while the other gives nothing.
    two.net.kill(two.relays[0]);
    let piece = two.net.stream_without_join_point(two.publisher, two.channel, 50, RATE);
    two.published.extend(piece);
    two.stream(Duration::from_secs(5));
    two.finish();
}

#[test]
fn an_upstream_that_is_started_again_goes_on_with_its_half() {
    let mut two = Two::with_viewer(370, CLEAN);
    two.stream_until_halved();
    let before = two.net.peek(two.taker).counters().shards_stored;
    let sent = two.sent_during(|two| {
        for round in 0..8 {
            let relay = two.relays[round % 2];
            let left = two.net.hand_over(relay);
            two.net.resume(relay, relay_config(), &left);
            two.stream(Duration::from_millis(500));
        }
    });
    let stored = (two.net.peek(two.taker).counters().shards_stored - before) as usize;
    assert!(sent.iter().sum::<usize>() * 100 <= stored * 102, "{sent:?} for {stored}");
    two.finish();
}

#[test]
fn an_upstream_that_names_chunks_that_there_are_not_makes_none_count_as_lost() {
    let mut two = Two::with_viewer(380, CLEAN);
    two.net.liars.insert(two.relays[1], |report| report.highest.0 += 1_000);
    two.stream_until_halved();
    for _ in 0..15 {
        // So long that it is asked for what is said to be there.
        two.net.run(Duration::from_millis(300));
        two.stream(Duration::from_secs(1));
    }
    let lost: u64 = two.upstreams().iter().map(|upstream| upstream.shards_lost).sum();
    assert_eq!(lost, 0);
    two.finish();
}

#[test]
fn an_upstream_that_says_that_its_answers_take_too_long_does_not_keep_repair_from_the_other() {
    for lossy in 0..2 {
        let mut two = Two::with_viewer(390, CLEAN);
        // The answer to what was said so long ago.
        two.net.liars.insert(two.relays[1], |report| {
            report.echo_us = report.echo_us.saturating_sub(4_900_000);
            report.held_us = 0;
        });
        two.stream(TRIAL_TIME + Duration::from_secs(8));
        let link = Link { loss_permille: 50, ..CLEAN };
        two.net.links.insert(two.relays[lossy], link);
        two.stream(Duration::from_secs(20));
        let counters = two.net.peek(two.taker).counters();
        println!("{} of {} lost shards repaired", counters.shards_repaired, counters.shards_lost);
        assert_eq!(counters.chunks_lost, 0);
        two.finish();
    }
}

/// Streams for so many seconds, each followed by a pause of the publisher, while the second upstream is bad by turns: `bad` and
/// then `good` milliseconds long. Returns what each sent, what was new, and the shards that had to be asked for.
fn with_a_bad_upstream(
    seed: u64,
    bad: Link,
    turns_ms: (u64, u64),
    pause_ms: u64,
) -> (Vec<usize>, usize, u64) {
    let mut two = Two::with_viewer(seed, CLEAN);
    two.stream_until_halved();
    let count = |two: &Two| {
        let counters = two.net.peek(two.taker).counters();
        (counters.shards_stored as usize, counters.shards_repaired)
    };
    let before = count(&two);
    let sent = two.sent_during(|two| {
        for _ in 0..20 {
            let second = two.net.now.after(Duration::from_secs(1));
            while two.net.now < second {
                two.net.links.insert(two.relays[1], bad);
                two.stream(Duration::from_millis(turns_ms.0));
                two.net.links.remove(&two.relays[1]);
                two.stream(Duration::from_millis(turns_ms.1));
            }
            two.net.run(Duration::from_millis(pause_ms));
        }
    });
    let after = count(&two);
    let chunks_lost = two.net.peek(two.taker).counters().chunks_lost;
    two.finish();
    assert_eq!(chunks_lost, 0);
    (sent, after.0 - before.0, after.1 - before.1)
}

#[test]
fn a_bad_upstream_costs_little_however_it_is_bad() {
    let silent = Link { loss_permille: 1_000, control_loss_permille: 1_000, ..CLEAN };
    let withholding = Link { loss_permille: 500, ..CLEAN };
    let slow = Link { delay: Duration::from_millis(300), ..CLEAN };
    for (seed, bad, turns_ms) in [
        (400, silent, (100, 100)),
        (401, withholding, (100, 0)),
        (402, slow, (100, 0)),
        (403, slow, (500, 500)),
    ] {
        for pause_ms in [0, 300] {
            let (sent, stored, repaired) = with_a_bad_upstream(seed, bad, turns_ms, pause_ms);
            println!(
                "{bad:?} {turns_ms:?}, pauses of {pause_ms} ms: {sent:?} for {stored}, {repaired} repaired"
            );
            assert!(repaired * 100 <= stored as u64 * 5, "{repaired} of {stored} had to be asked for");
            assert!(sent.iter().sum::<usize>() * 10 <= stored * 12, "{sent:?} for {stored}");
        }
    }
}
