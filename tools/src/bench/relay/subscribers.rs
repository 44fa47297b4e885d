//! The subscribers: light sessions, so that many of them cost little. They store and repair nothing; some of them compare
//! every byte with what was published.

use std::net::SocketAddrV4;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use codec::wire::control::Control;
use codec::{DATAGRAM_BYTES, ShardView};
use mesh::{Anchor, Time};

use super::board::Board;
use super::copies::{Arrived, Copies};
use super::sealed::Sealed;
use super::sessions::Sessions;
use crate::Error;
use crate::bench::sink::{Arrival, Sink};
use crate::bench::thread_cpu;

/// Open chunks are looked through this often.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

/// How long after the measured time its last copies may come.
const TAIL: Duration = Duration::from_millis(500);

/// Which of the subscribers receive shards, and who of these is checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiving {
    /// One in so many receives.
    pub(super) stride: u32,
    /// One in so many is checked; a multiple of the other one.
    pub(super) checked_stride: u32,
}

/// Who a subscriber is among the receivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Receiver {
    Counted(usize),
    Checked(usize),
}

impl Receiving {
    /// How many of the subscribers receive, and how many of them are checked.
    pub(super) fn counts(self, subscribers: u32) -> (u32, u32) {
        (subscribers.div_ceil(self.stride), subscribers.div_ceil(self.checked_stride))
    }

    /// Who a subscriber is that receives; each kind is numbered by itself.
    fn of(self, subscriber: u32) -> Receiver {
        if subscriber.is_multiple_of(self.checked_stride) {
            return Receiver::Checked((subscriber / self.checked_stride) as usize);
        }
        let (_, checked_before) = self.counts(subscriber);
        Receiver::Counted((subscriber / self.stride - checked_before) as usize)
    }
}

/// All of them.
struct Subscribers<'b> {
    sessions: Sessions<'b>,
    receiving: Receiving,
    sealed: &'b Sealed,
    clock: Anchor,
    copies: Copies<'b>,
    datagrams: u64,
    payload_bytes: u64,
    board: &'b Board,
}

/// Subscribes every destination to every channel; returns when the board says that it is over.
pub(super) fn subscribe(
    sink: &mut Sink,
    sessions: Sessions<'_>,
    receiving: Receiving,
    sealed: &Sealed,
    clock: Anchor,
    board: &Board,
) -> Result<Arrived, Error> {
    let (receivers, checked) = receiving.counts(sessions.addresses().count);
    let copies = Copies::new(sealed, receivers as usize, checked as usize);
    let relay = sessions.relay();
    let mut subscribers =
        Subscribers { sessions, receiving, sealed, clock, copies, datagrams: 0, payload_bytes: 0, board };
    let failed = |error| Error::System("the UDP socket failed", error);
    let mut settle_at = Instant::now();
    while !subscribers.is_done() {
        let wait = Duration::from_millis(5);
        let mut answers = Vec::new();
        sink.receive(wait, |arrival| answers.extend(subscribers.handle(arrival))).map_err(failed)?;
        for (from, control) in answers {
            sink.send(from, relay, &control.encode());
        }
        let now = subscribers.now();
        subscribers.sessions.go_on(sink, now);
        if settle_at <= Instant::now() {
            settle_at = Instant::now() + SETTLE_INTERVAL;
            subscribers.copies.settle(now.0, subscribers.measured());
        }
        subscribers.publish_counts();
    }
    if board.says_goodbye {
        subscribers.sessions.say_goodbye(sink);
    }
    let measured = subscribers.measured();
    Ok(subscribers.copies.finish(measured))
}

impl Subscribers<'_> {
    fn now(&self) -> Time {
        self.clock.time_at(Instant::now())
    }

    /// The measured time; without an end as long as it is not known.
    fn measured(&self) -> Range<u64> {
        let known = |time: u64| if time == 0 { u64::MAX } else { time };
        let (from, until) = (&self.board.from_us, &self.board.until_us);
        known(from.load(Ordering::Acquire))..known(until.load(Ordering::Acquire))
    }

    fn is_done(&self) -> bool {
        let until = self.board.until_us.load(Ordering::Acquire);
        self.board.is_over() && (until == 0 || self.now() > Time(until).after(TAIL))
    }

    fn publish_counts(&self) {
        self.board.subscriptions.store(self.sessions.live(), Ordering::Release);
        self.board.note_refusal(self.sessions.refusal());
        self.board.datagrams.store(self.datagrams, Ordering::Relaxed);
        self.board.payload_bytes.store(self.payload_bytes, Ordering::Relaxed);
        self.board.sink_cpu_us.store(thread_cpu().as_micros() as u64, Ordering::Relaxed);
    }

    /// Takes in what came; returns the answer that it needs at once.
    fn handle(&mut self, arrival: &Arrival<'_>) -> Option<(SocketAddrV4, Control)> {
        let subscriber = arrival.number?;
        if let Ok(control) = Control::parse(arrival.bytes) {
            return self.sessions.handle(&control);
        }
        match self.receiving.of(subscriber) {
            Receiver::Counted(receiver) => self.count_train(arrival, subscriber, receiver),
            Receiver::Checked(receiver) => self.check_train(arrival, subscriber, receiver),
        }
        None
    }

    /// Believes what the first datagram says.
    fn count_train(&mut self, arrival: &Arrival<'_>, subscriber: u32, receiver: usize) {
        let Ok(shard) = ShardView::parse(arrival.bytes) else { return };
        let Some((channel, place)) = self.place_of(&shard) else { return };
        let shards = arrival.datagrams();
        let whole = self.copies.note_train(place, receiver, shards, arrival.at);
        self.note(&shard, subscriber, channel, shards, whole);
    }

    /// Looks at every byte of every datagram.
    fn check_train(&mut self, arrival: &Arrival<'_>, subscriber: u32, receiver: usize) {
        for datagram in arrival.bytes.chunks(DATAGRAM_BYTES) {
            let shard = ShardView::parse(datagram).ok();
            let found = shard.and_then(|shard| {
                let (channel, place) = self.place_of(&shard)?;
                self.sealed.is_of(place, &shard).then_some((shard, channel, place))
            });
            let Some((shard, channel, place)) = found else {
                self.copies.note_wrong();
                continue;
            };
            let whole = self.copies.note_shard(place, receiver, shard.index(), arrival.at);
            self.note(&shard, subscriber, channel, 1, whole);
        }
    }

    fn place_of(&self, shard: &ShardView<'_>) -> Option<(usize, usize)> {
        let channel = self.sealed.channel_with(shard.tag())?;
        Some((channel, self.sealed.place_of(channel, shard.header().sequence)?))
    }

    fn note(&mut self, shard: &ShardView<'_>, subscriber: u32, channel: usize, shards: u64, whole: bool) {
        let session = self.sessions.of_subscriber(subscriber as usize, channel);
        session.received += shards;
        session.highest = session.highest.max(shard.header().sequence);
        self.datagrams += shards;
        if whole {
            self.payload_bytes += shard.header().payload_bytes() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use codec::wire::control::Role;

    use super::super::sealed::tests::sealed;
    use super::*;
    use crate::bench::Destinations;

    #[test]
    fn one_flipped_byte_in_a_train_is_one_wrong_datagram() {
        let (sealed, board) = (sealed(2), Board::default());
        let first = Ipv4Addr::new(127, 1, 0, 0);
        let addresses = Destinations { first, count: 1, one_address: false, ports: vec![1], sample: None };
        let relay = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let clock = Anchor::new(std::time::UNIX_EPOCH, Instant::now());
        let mut subscribers = Subscribers {
            sessions: Sessions::new(Role::Subscribe, relay, addresses, sealed.secrets()),
            receiving: Receiving { stride: 1, checked_stride: 1 },
            sealed: &sealed,
            clock,
            copies: Copies::new(&sealed, 1, 1),
            datagrams: 0,
            payload_bytes: 0,
            board: &board,
        };
        let (mut train, shards) = (Vec::new(), sealed.layout().data_shards() as u64);
        for place in [0, 1] {
            sealed.note_sent(place, Time(1_000));
            sealed.write(place, sealed.layout().data_set(), &mut train);
            if place == 1 {
                *train.last_mut().unwrap() ^= 1;
            }
            let arrival = Arrival { bytes: &train, length: train.len(), number: Some(0), at: Time(1_100) };
            assert!(subscribers.handle(&arrival).is_none());
        }
        let checked = subscribers.copies.finish(0..2_000).checked;
        assert_eq!((checked.datagrams, checked.wrong), (2 * shards, 1));
        assert_eq!((checked.missing, checked.incomplete), (1, 1), "what is wrong is not there");
        assert_eq!(subscribers.datagrams, 2 * shards - 1);
    }

    #[test]
    fn receivers_of_each_kind_are_numbered_without_gaps() {
        for (stride, checked_stride, subscribers) in [(1, 1, 7), (1, 3, 10), (4, 4, 64), (2, 6, 31)] {
            let receiving = Receiving { stride, checked_stride };
            let (mut counted, mut checked) = (0, 0);
            for subscriber in (0..subscribers).step_by(stride as usize) {
                match receiving.of(subscriber) {
                    Receiver::Counted(number) => {
                        assert_eq!(number, counted, "{subscriber} of {receiving:?}");
                        counted += 1;
                    }
                    Receiver::Checked(number) => {
                        assert_eq!(number, checked, "{subscriber} of {receiving:?}");
                        checked += 1;
                    }
                }
            }
            let (receivers, all_checked) = receiving.counts(subscribers);
            assert_eq!((counted + checked, checked), (receivers as usize, all_checked as usize));
        }
    }
}
