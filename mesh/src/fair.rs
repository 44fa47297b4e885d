//! A bounded queue that many channels share without getting into each other's way.

use std::collections::VecDeque;

use slab::Slab;

/// Items of many channels: in order within a channel, channels in turn.
///
/// *Turns.* Round robin, [`TURN_MESSAGES`] messages a turn. That is deficit round robin (Shreedhar and Varghese, SIGCOMM
/// '95) where there is no deficit: it carries over what a turn had left because the next packet was too large for
/// it, and here everything costs one message.
///
/// *Places.* A channel may hold as many items as there are free places (Choudhury and Hahne, "Dynamic queue length
/// thresholds for shared-memory packet switches", 1998): alone it has half of them, `n` channels that want all they
/// can get have 1/(n + 1) each, and what they leave is there for who comes next.
pub(crate) struct FairQueue<T> {
    items: Slab<Item<T>>,
    places: usize,
    /// By channel.
    lines: Vec<Line>,
    /// The channels that have items; the first one's turn it is.
    round: VecDeque<usize>,
    /// What is left of the turn, in messages.
    turn: usize,
}

struct Item<T> {
    item: T,
    /// The next one of the channel, if this is not the last.
    next: usize,
}

/// The items of one channel; `first` and `last` mean something when there are any.
#[derive(Clone, Copy, Default)]
struct Line {
    first: usize,
    last: usize,
    length: usize,
}

/// Messages that a channel sends in a turn. Many enough that the change from one channel to the next costs nothing
/// beside them, and few enough that eight channels are served in a batch of 256.
pub(crate) const TURN_MESSAGES: usize = 32;

impl<T> FairQueue<T> {
    /// Room for `places` items; allocated now and never again. What is kept for each channel grows with their number.
    pub(crate) fn new(places: usize) -> FairQueue<T> {
        FairQueue {
            items: Slab::with_capacity(places),
            places,
            lines: Vec::new(),
            round: VecDeque::new(),
            turn: TURN_MESSAGES,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.round.is_empty()
    }

    /// Whether a channel may add an item.
    pub(crate) fn has_room(&self, channel: usize) -> bool {
        let held = self.lines.get(channel).map_or(0, |line| line.length);
        held < self.places - self.items.len()
    }

    /// Adds an item; the caller has seen that there is room.
    pub(crate) fn push(&mut self, channel: usize, item: T) {
        debug_assert!(self.has_room(channel));
        if channel >= self.lines.len() {
            self.lines.resize(channel + 1, Line::default());
            self.round.reserve(self.lines.len() - self.round.len());
        }
        let place = self.items.insert(Item { item, next: 0 });
        let line = &mut self.lines[channel];
        match line.length {
            0 => {
                line.first = place;
                self.round.push_back(channel);
            }
            _ => self.items[line.last].next = place,
        }
        line.last = place;
        line.length += 1;
    }

    /// The items of a channel, oldest first.
    pub(crate) fn of(&self, channel: usize) -> impl Iterator<Item = &T> {
        let mut left = self.lines.get(channel).copied().unwrap_or_default();
        core::iter::from_fn(move || {
            left.length = left.length.checked_sub(1)?;
            let item = &self.items[left.first];
            left.first = item.next;
            Some(&item.item)
        })
    }

    /// The item that a channel added last.
    pub(crate) fn last_mut(&mut self, channel: usize) -> Option<&mut T> {
        let line = self.lines.get(channel).filter(|line| line.length > 0)?;
        Some(&mut self.items[line.last].item)
    }

    /// Adds an item in place of the channel's oldest one. Returns `false` when it has none.
    pub(crate) fn replace_oldest(&mut self, channel: usize, item: T) -> bool {
        let Some(line) = self.lines.get_mut(channel).filter(|line| line.length > 0) else { return false };
        let place = line.first;
        self.items[place].item = item;
        if line.length > 1 {
            line.first = self.items[place].next;
            self.items[line.last].next = place;
            line.last = place;
        }
        true
    }

    /// The item that is next, its channel, and how many messages may be sent of it now; at least one.
    pub(crate) fn front_mut(&mut self) -> Option<(usize, usize, &mut T)> {
        let &channel = self.round.front()?;
        Some((channel, self.turn, &mut self.items[self.lines[channel].first].item))
    }

    /// How many channels have items.
    pub(crate) fn channels(&self) -> usize {
        self.round.len()
    }

    /// The channel whose turn it is cannot use it: the next one has it.
    pub(crate) fn pass(&mut self) {
        self.turn = TURN_MESSAGES;
        self.round.rotate_left(1);
    }

    /// So many messages were sent of the item that is next; `done` if that was all of it.
    pub(crate) fn served(&mut self, messages: usize, done: bool) {
        let channel = self.round[0];
        let line = &mut self.lines[channel];
        if done {
            line.first = self.items.remove(line.first).next;
            line.length -= 1;
        }
        let is_empty = line.length == 0;
        self.turn = self.turn.saturating_sub(messages);
        if is_empty || self.turn == 0 {
            self.turn = TURN_MESSAGES;
            self.round.pop_front();
            if !is_empty {
                self.round.push_back(channel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(queue: &mut FairQueue<u32>) -> Vec<(usize, u32)> {
        let mut drained = Vec::new();
        while let Some((channel, _, &mut item)) = queue.front_mut() {
            drained.push((channel, item));
            queue.served(1, true);
        }
        drained
    }

    #[test]
    fn a_channel_that_wants_every_place_leaves_others_theirs_and_its_oldest_make_room() {
        let mut queue = FairQueue::new(64);
        let mut skipped = 0;
        for item in 0..1_000 {
            match queue.has_room(0) {
                true => queue.push(0, item),
                false => skipped += u32::from(queue.replace_oldest(0, item)),
            }
        }
        assert_eq!(skipped, 1_000 - 32);
        for channel in 1..=16 {
            assert!(queue.has_room(channel));
            queue.push(channel, 7);
        }
        let drained = drain(&mut queue);
        let of_0: Vec<u32> =
            drained.iter().filter(|(channel, _)| *channel == 0).map(|(_, item)| *item).collect();
        assert_eq!(of_0, (1_000 - 32..1_000).collect::<Vec<_>>());
        assert_eq!(drained.len(), 32 + 16);
    }

    #[test]
    fn nobody_waits_longer_than_a_turn_of_each_other_channel() {
        let mut queue = FairQueue::new(10_000);
        (0..1_000).for_each(|item| (0..3).for_each(|channel| queue.push(channel, item)));
        queue.push(3, 0);
        let before = drain(&mut queue).iter().position(|(channel, _)| *channel == 3).unwrap();
        assert_eq!(before, 3 * TURN_MESSAGES);
    }

    proptest! {
        /// Against the plainest thing that it could be: one `VecDeque` per channel.
        #[test]
        fn it_holds_what_was_put_in_and_each_channel_in_order(
            steps in proptest::collection::vec((0_usize..4, any::<bool>()), 0..400),
        ) {
            let mut queue = FairQueue::new(12);
            let mut plain: Vec<VecDeque<u32>> = vec![VecDeque::new(); 4];
            for (number, (channel, adds)) in steps.into_iter().enumerate() {
                let item = number as u32;
                if adds {
                    if queue.has_room(channel) {
                        queue.push(channel, item);
                        plain[channel].push_back(item);
                    } else if queue.replace_oldest(channel, item) {
                        plain[channel].pop_front();
                        plain[channel].push_back(item);
                    }
                    prop_assert_eq!(queue.last_mut(channel).copied(), plain[channel].back().copied());
                } else if let Some((channel, turn, &mut item)) = queue.front_mut() {
                    prop_assert!(turn > 0);
                    prop_assert_eq!(Some(item), plain[channel].pop_front());
                    queue.served(1, true);
                }
                prop_assert!(queue.items.len() <= 12);
                prop_assert_eq!(queue.is_empty(), plain.iter().all(VecDeque::is_empty));
            }
        }
    }
}
