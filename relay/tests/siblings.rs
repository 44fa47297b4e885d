//! Nodes of one process that share what comes in, without a kernel: datagrams and shares are carried by hand, in virtual
//! time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use codec::wire::control::Control;
use codec::{ChannelSecret, DATAGRAM_BYTES, Sequence};
use mesh::{
    Admission, ChannelId, DropReason, Limits, Memory, Node, NodeConfig, Outbox, Payload, Progress,
    SLOT_BYTES, Share, Siblings, SinkConfig, SlotIndex, Time, Transmit,
};
use relay::uring::SlotMemory;

/// A datagram on its way.
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// Two relay nodes that stand for the workers of one relay, a publisher that is connected to both, and a viewer at each.
struct House {
    now: Time,
    relays: [Node; 2],
    /// What each was told and has not taken in.
    inboxes: [VecDeque<Share>; 2],
    inbox_room: usize,
    publisher: Node,
    channel: ChannelId,
    viewers: Vec<Viewer>,
    /// A part of the slots that nobody uses: to see who holds which.
    observer: SlotMemory,
    slots: usize,
    loses: fn(&Datagram) -> bool,
}

struct Viewer {
    node: Node,
    sink: ChannelId,
    output: Vec<u8>,
}

fn relay_address(number: usize) -> SocketAddr {
    ([10, 0, 0, number as u8], 7450).into()
}

const PUBLISHER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 0)), 1);

fn viewer_address(number: usize) -> SocketAddr {
    ([10, 0, 2, number as u8], 1).into()
}

fn secret() -> ChannelSecret {
    ChannelSecret::from_seed(&[9; 32])
}

impl House {
    /// The publisher is connected to the first `homes` of the relays, and each has `slots` slots.
    fn new(homes: usize, slots: usize, loses: fn(&Datagram) -> bool) -> House {
        House::with_delay(homes, slots, loses, Duration::from_secs(1))
    }

    /// The viewers wait for so long for what is missing.
    fn with_delay(homes: usize, slots: usize, loses: fn(&Datagram) -> bool, delay: Duration) -> House {
        let now = Time(1_700_000_000_000_000);
        let (relays, observer) = relays(slots);
        let edge = |seed| {
            let config = NodeConfig::new(Admission::Nobody, Limits::default());
            Node::new(config, [seed; 32], Box::new(vec![0; 400 * SLOT_BYTES]))
        };
        let mut publisher = edge(10);
        let channel = publisher.add_source(now, secret());
        for number in 0..homes {
            publisher.dial(now, channel, relay_address(number));
        }
        let viewer = |number: usize| {
            let mut node = edge(20 + number as u8);
            let config = SinkConfig { delay, from: Sequence(0) };
            let sink = node.add_sink(&secret().key(), config).unwrap();
            node.dial(now, sink, relay_address(number));
            Viewer { node, sink, output: Vec::new() }
        };
        let viewers = (0..2).map(viewer).collect();
        let inboxes = [VecDeque::new(), VecDeque::new()];
        let mut house = House {
            now,
            relays,
            inboxes,
            inbox_room: usize::MAX,
            publisher,
            channel,
            viewers,
            observer,
            slots,
            loses,
        };
        house.run(1_000);
        house
    }

    /// Other nodes, with slots of their own, take the places of both relays. What these had told each other is lost.
    fn replace_relays(&mut self) {
        let left = self.relays.each_ref().map(|relay| relay.hand_over(self.now, usize::MAX));
        (self.relays, self.observer) = relays(self.slots);
        self.inboxes = [VecDeque::new(), VecDeque::new()];
        for (relay, left) in self.relays.iter_mut().zip(left) {
            relay.resume(self.now, left);
        }
    }

    /// Publishes some bytes.
    fn push(&mut self, bytes: &[u8]) {
        self.push_to(self.channel, bytes);
    }

    fn push_to(&mut self, channel: ChannelId, bytes: &[u8]) {
        self.publisher.next_is_join_point(channel);
        self.publisher.push(self.now, channel, bytes);
    }

    /// Further channels, which the publisher gives to the first relay only.
    fn add_channels(&mut self, count: u8) -> Vec<ChannelId> {
        let secrets = (0..count).map(|number| ChannelSecret::from_seed(&[100 + number; 32]));
        let channels: Vec<_> = secrets.map(|secret| self.publisher.add_source(self.now, secret)).collect();
        for channel in &channels {
            self.publisher.dial(self.now, *channel, relay_address(0));
        }
        self.run_awake(1_000);
        channels
    }

    fn found_no_slot(&self, relay: usize) -> u64 {
        self.relays[relay].counters().dropped_for(DropReason::NoSlot)
    }

    /// Lets so many ms pass.
    fn run(&mut self, milliseconds: usize) {
        for _ in 0..milliseconds {
            self.now = self.now.after(Duration::from_millis(1));
            self.turn();
        }
    }

    /// The same, while each relay hears the other at once.
    fn run_awake(&mut self, milliseconds: usize) {
        for _ in 0..milliseconds {
            self.run(1);
            self.hear();
        }
    }

    fn turn(&mut self) {
        let mut sent = Vec::new();
        self.publisher.handle_timeout(self.now);
        collect(&mut self.publisher, self.now, PUBLISHER, &mut sent);
        for (number, viewer) in self.viewers.iter_mut().enumerate() {
            viewer.node.handle_timeout(self.now);
            collect(&mut viewer.node, self.now, viewer_address(number), &mut sent);
        }
        self.deliver(sent);
        for number in 0..2 {
            self.relays[number].handle_timeout(self.now);
            let (room, inbox) = (self.inbox_room, &mut self.inboxes[1 - number]);
            self.relays[number].share(self.now, |sibling, share| {
                assert_eq!(sibling, 0, "there is one other");
                let has_room = inbox.len() < room;
                if has_room {
                    inbox.push_back(share);
                }
                has_room
            });
        }
        let mut sent = Vec::new();
        for number in 0..2 {
            self.fan_out(number, &mut sent);
        }
        self.deliver(sent);
        for viewer in &mut self.viewers {
            while let Some(chunk) = viewer.node.next_chunk(self.now, viewer.sink) {
                viewer.output.extend(viewer.node.payload(&chunk).flatten());
            }
        }
    }

    /// The relays take in what they were told.
    fn hear(&mut self) {
        for number in 0..2 {
            while let Some(share) = self.inboxes[number].pop_front() {
                self.relays[number].handle_share(self.now, &share);
            }
        }
    }

    /// What a relay sends may lie in the slots of the other.
    fn fan_out(&mut self, number: usize, sent: &mut Vec<Datagram>) {
        let mut outbox = Outbox::new(64);
        loop {
            outbox.clear();
            let progress = self.relays[number].poll_transmit(self.now, &mut outbox);
            for transmit in outbox.transmits() {
                let owner = match transmit.payload {
                    Payload::Train { slot: SlotIndex(slot), .. } => slot as usize / self.slots,
                    Payload::Control(_) => number,
                };
                let bytes = self.relays[owner].bytes_of(transmit, &outbox);
                cut(relay_address(number), transmit, bytes, sent);
            }
            if progress == Progress::Idle {
                return;
            }
        }
    }

    fn deliver(&mut self, sent: Vec<Datagram>) {
        for datagram in sent.into_iter().filter(|datagram| !(self.loses)(datagram)) {
            let Datagram { from, to, bytes } = datagram;
            let node =
                match (0..2).find(|&number| relay_address(number) == to || viewer_address(number) == to) {
                    Some(number) if relay_address(number) == to => &mut self.relays[number],
                    Some(number) => &mut self.viewers[number].node,
                    None => &mut self.publisher,
                };
            node.handle_datagram(self.now, from, &bytes);
        }
    }

    fn slots_held(&self) -> usize {
        (0..self.observer.slots()).filter(|&slot| self.observer.is_held(SlotIndex(slot))).count()
    }
}

/// Two nodes that have a part of the slots each, and a part that nobody has.
fn relays(slots: usize) -> ([Node; 2], SlotMemory) {
    let mut parts = SlotMemory::map_parts(slots, 3).unwrap();
    let observer = parts.pop().unwrap();
    let siblings = Siblings { count: 1, ..Siblings::default() };
    let mut seed = 0;
    let mut relay = |memory: SlotMemory| {
        seed += 1;
        let config = NodeConfig::new(Admission::Open, Limits::default());
        Node::among(siblings.clone(), config, [seed; 32], Box::new(memory))
    };
    let second = relay(parts.pop().unwrap());
    ([relay(parts.pop().unwrap()), second], observer)
}

fn collect(node: &mut Node, now: Time, from: SocketAddr, sent: &mut Vec<Datagram>) {
    let mut outbox = Outbox::new(64);
    loop {
        outbox.clear();
        let progress = node.poll_transmit(now, &mut outbox);
        for transmit in outbox.transmits() {
            cut(from, transmit, node.bytes_of(transmit, &outbox), sent);
        }
        if progress == Progress::Idle {
            return;
        }
    }
}

fn cut(from: SocketAddr, transmit: &Transmit, bytes: &[u8], sent: &mut Vec<Datagram>) {
    let datagrams = bytes.chunks(DATAGRAM_BYTES);
    sent.extend(datagrams.map(|bytes| Datagram { from, to: transmit.to, bytes: bytes.to_vec() }));
}

/// Bytes that are nowhere the same, 20 KB: about one chunk.
fn piece(number: u32) -> Vec<u8> {
    (number * 5_000..).flat_map(u32::to_le_bytes).take(20_000).collect()
}

fn nothing(_: &Datagram) -> bool {
    false
}

#[test]
fn what_comes_in_at_one_is_verified_there_and_sent_by_both() {
    let mut house = House::new(1, 200, nothing);
    let mut published = Vec::new();
    for number in 0..100 {
        house.push(&piece(number));
        published.extend(piece(number));
        house.hear();
        house.run(10);
    }
    house.run_awake(100);
    assert!(house.viewers[0].output == published && house.viewers[1].output == published);
    let [home, other] = house.relays.each_ref().map(|relay| relay.counters().clone());
    assert_eq!((other.signature_checks, other.shards_stored, other.chunks), (0, 0, 0));
    assert_eq!(other.chunks_lent, home.chunks);
    assert_eq!(other.shards_sent, home.shards_sent);
    assert_eq!(house.relays[1].window_bytes(), 0, "its own slots stay empty");
}

/// Of each shard, the first relay gets the even ones, the second the odd ones, and nobody asks for anything.
fn halves(datagram: &Datagram) -> bool {
    if matches!(Control::parse(&datagram.bytes), Ok(Control::Repair(_))) {
        return true;
    }
    let Ok(shard) = codec::ShardView::parse(&datagram.bytes) else { return false };
    let odd = shard.index() % 2 == 1;
    (datagram.to == relay_address(0) && odd) || (datagram.to == relay_address(1) && !odd)
}

#[test]
fn two_nodes_that_get_half_of_a_channel_each_have_all_of_it() {
    let mut house = House::new(2, 200, halves);
    let mut published = Vec::new();
    for number in 0..100 {
        house.push(&piece(number));
        published.extend(piece(number));
        house.run_awake(10);
    }
    house.run_awake(100);
    for viewer in &house.viewers {
        assert!(viewer.output == published, "{} of {} bytes", viewer.output.len(), published.len());
    }
    for relay in &house.relays {
        assert_eq!(relay.counters().chunks_lost, 0);
    }
}

#[test]
fn a_node_that_falls_behind_costs_the_other_no_slots_for_good() {
    let mut house = House::new(1, 256, nothing);
    house.inbox_room = 8;
    for number in 0..700 {
        house.push(&piece(number));
        house.run(10);
        // The other looks up once in a while.
        if number % 10 == 9 {
            house.hear();
        }
    }
    let home = house.relays[0].counters().clone();
    assert!(home.shares_refused > 0, "{home:?}");
    assert_eq!(home.dropped_for(DropReason::NoSlot), 0, "{home:?}");
    assert!(!house.viewers[1].output.is_empty());
    // With both awake, everything comes through again.
    house.run_awake(1_500);
    let seen = house.viewers.iter().map(|viewer| viewer.output.len()).collect::<Vec<_>>();
    let mut published = Vec::new();
    for number in 1_000..1_050 {
        house.push(&piece(number));
        published.extend(piece(number));
        house.run_awake(10);
    }
    house.run_awake(100);
    for (viewer, seen) in house.viewers.iter().zip(seen) {
        assert!(viewer.output[seen..] == published, "{} bytes", viewer.output.len() - seen);
    }
    // When the windows have run out, nobody holds anything.
    house.run_awake(12_000);
    assert_eq!(house.slots_held(), 0);
    assert_eq!(house.relays[0].window_bytes(), 0);
}

#[test]
fn a_second_home_that_has_room_holds_nothing_that_the_first_has_given_up() {
    let mut house = House::new(2, 64, nothing);
    let other = house.add_channels(1)[0];
    for number in 0..60 {
        house.push(&piece(number));
        house.push_to(other, &piece(number));
        house.run_awake(10);
    }
    house.run_awake(100);
    assert_eq!((house.found_no_slot(0), house.found_no_slot(1)), (0, 0));
    let chunks: Vec<_> = house.relays.iter().map(|relay| relay.window_bytes() / SLOT_BYTES).collect();
    assert!(chunks[0] >= 58 && chunks[1] < 64, "the first is full, the second is not: {chunks:?}");
}

#[test]
fn the_smallest_part_has_a_slot_to_spare() {
    let mut house = House::new(1, 8, nothing);
    for number in 0..60 {
        house.push(&piece(number));
        house.run_awake(10);
    }
    assert_eq!(house.found_no_slot(0), 0);
}

#[test]
fn a_lack_of_slots_is_no_news_of_channels_that_gave_up_none() {
    let mut house = House::new(1, 64, nothing);
    let others = house.add_channels(20);
    for other in others {
        house.push_to(other, &piece(0));
        house.run_awake(50);
    }
    let mut news = Vec::new();
    for number in 0..200 {
        house.push(&piece(number));
        let (found_none, told) = (house.found_no_slot(0), house.inboxes[1].len());
        // The other does not look up.
        house.run(1);
        if house.found_no_slot(0) > found_none {
            news.push(house.inboxes[1].len() - told);
        }
    }
    assert!(news.len() > 10 && news.iter().all(|&news| news <= 2), "{news:?}");
}

/// One shard in ten that the second relay sends is lost on the way, and none other.
fn a_tenth_behind_the_second(datagram: &Datagram) -> bool {
    let Ok(shard) = codec::ShardView::parse(&datagram.bytes) else { return false };
    let place = shard.header().sequence.0 * 48 + shard.index() as u64;
    datagram.from == relay_address(1) && (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) & 0xff < 26
}

#[test]
fn a_lossy_viewer_of_the_other_node_gets_parity_that_the_owner_makes() {
    // There is no time to have it repaired.
    let delay = Duration::from_millis(10);
    let mut house = House::with_delay(1, 400, a_tenth_behind_the_second, delay);
    for number in 0..300 {
        house.push(&piece(number));
        house.run_awake(10);
    }
    let viewer = &house.viewers[1];
    assert!(viewer.node.channel_counters(viewer.sink).shards_recovered > 0);
    assert!(house.relays[0].counters().chunks_restored > 0, "the publisher uploads no parity");
}

#[test]
fn what_the_other_had_no_room_to_hear_is_told_again_without_new_shards() {
    let mut house = House::new(1, 200, nothing);
    house.inbox_room = 0;
    house.push(&piece(0));
    house.run_awake(200);
    assert!(house.viewers[0].output == piece(0) && house.viewers[1].output.is_empty());
    house.inbox_room = 1;
    house.run_awake(50);
    assert!(house.viewers[1].output == piece(0));
}

#[test]
fn nodes_in_the_places_of_others_lend_what_these_had_lent_and_send_nothing_twice() {
    let mut house = House::new(1, 200, nothing);
    let mut published = Vec::new();
    for number in 0..100 {
        house.push(&piece(number));
        published.extend(piece(number));
        house.run_awake(10);
        if number % 9 == 0 {
            house.replace_relays();
        }
    }
    house.run_awake(100);
    for viewer in &house.viewers {
        assert!(viewer.output == published, "{} of {} bytes", viewer.output.len(), published.len());
        assert_eq!(viewer.node.counters().dropped.total(), 0);
    }
    assert_eq!(house.relays.each_ref().map(Node::sessions), [2, 1]);
}

/// The second viewer is sent nothing of the channel.
fn to_the_second_viewer(datagram: &Datagram) -> bool {
    datagram.to == viewer_address(1) && codec::ShardView::parse(&datagram.bytes).is_ok()
}

#[test]
fn a_chunk_that_was_lent_before_is_repaired_by_the_node_in_the_borrowers_place() {
    let mut house = House::new(1, 200, nothing);
    house.push(&piece(0));
    house.run_awake(60);
    house.loses = to_the_second_viewer;
    house.push(&piece(1));
    house.run_awake(60);
    house.replace_relays();
    house.loses = nothing;
    house.push(&piece(2));
    house.run_awake(1_000);
    let published: Vec<u8> = (0..3).flat_map(piece).collect();
    assert!(house.viewers[1].output == published, "{} bytes", house.viewers[1].output.len());
    assert!(house.relays[1].counters().repairs_sent > 0);
}
