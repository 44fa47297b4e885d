//! Who was granted what at all nodes of a process, and what is promised to them: what the caps on subscribers and on egress
//! are kept by. Behind a lock that is taken when a session begins or ends and with every sweep, and never for a datagram.

mod account;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use codec::ChannelKey;
use codec::wire::control::RefuseReason;

use crate::channel::Channel;
use crate::cookie::OwnHellos;
use crate::egress::{Bucket, Cap};
use crate::limits::{BACKLOG_PATIENCE, EGRESS_OVER_MAX, SWEEP_INTERVAL};
use crate::time::Time;
pub(crate) use account::Common;
use account::{Account, Grant, excess};

/// What the nodes of a process know together of their subscribers and of what they send; see [`crate::Siblings`].
#[derive(Debug, Default)]
pub struct Ledger {
    bucket: Bucket,
    /// Bytes of backlogs that are still to be sent.
    owed: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    nodes: u32,
    own_hellos: Option<OwnHellos>,
    serial: u64,
    subscribers: usize,
    cap: Option<Cap>,
    /// In the order of their keys, for the sake of equal runs.
    accounts: BTreeMap<ChannelKey, Account>,
    /// What all channels together were found to need is more than the cap since then.
    over_since: Option<Time>,
    looked_at: Time,
    /// When the backlogs that are owed have to be sent.
    owed_by: Time,
    /// Grants that were taken back: the node, and the number that it knows them by.
    leaving: Vec<(u32, u64)>,
}

/// What a newcomer asks for.
pub(crate) struct Ask {
    pub(crate) now: Time,
    pub(crate) node: u32,
    pub(crate) key: ChannelKey,
    /// Bytes with the headers of IP and UDP for each data shard of the channel.
    pub(crate) cost: u32,
    /// Bytes of what it would be sent between its join point and the live edge.
    pub(crate) backlog: u64,
    pub(crate) subscribers_max: usize,
    pub(crate) channel_subscribers_max: usize,
    pub(crate) cap: Option<Cap>,
    pub(crate) channel_cap: Option<Cap>,
}

/// What a newcomer gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Later ones have higher numbers; never 0.
    pub(crate) serial: u64,
    /// There is room for its backlog, which is counted as owed from now on.
    pub(crate) has_backlog: bool,
}

/// Why a newcomer gets nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Denied {
    /// It is told so.
    Refused(RefuseReason),
    /// It would delay the backlogs of those who came just before: its next `Hello` may find room.
    Later,
}

impl From<RefuseReason> for Denied {
    fn from(reason: RefuseReason) -> Denied {
        Denied::Refused(reason)
    }
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Whoever panicked while it had the lock ends the process's work anyway.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a node that is new, and by what all of them know their own `Hello`s: the first one's secret.
    pub(crate) fn join(&self, secret: [u8; 16]) -> (u32, OwnHellos) {
        let mut book = self.book();
        book.nodes += 1;
        let own_hellos = *book.own_hellos.get_or_insert(OwnHellos::new(secret));
        (book.nodes, own_hellos)
    }

    /// What all channels together may send.
    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// What the data path has of one channel; the same for all nodes as long as one of them has it.
    pub(crate) fn common_of(&self, key: ChannelKey) -> Arc<Common> {
        Arc::clone(&self.book().accounts.entry(key).or_default().common)
    }

    /// A subscriber begins, if it fits: exact over all nodes.
    pub(crate) fn admit(&self, ask: &Ask) -> Result<Place, Denied> {
        let mut book = self.book();
        book.cap = ask.cap;
        let (subscribers, promised) = (book.subscribers, book.promised());
        let account = book.accounts.entry(ask.key).or_default();
        account.cap = ask.channel_cap;
        if subscribers >= ask.subscribers_max || account.grants.len() >= ask.channel_subscribers_max {
            return Err(RefuseReason::Full.into());
        }
        let more = account.promise(u64::from(ask.cost));
        let left = |cap: Option<Cap>, promised: u64, alone: bool| match cap {
            None => Ok(u64::MAX),
            Some(cap) => match cap.promised_max().checked_sub(promised + more) {
                Some(left) => Ok(left),
                // Nobody knows yet what it needs, and nobody else suffers if it is too much.
                None if alone && account.rates.is_none() => Ok(0),
                None => Err(RefuseReason::EgressFull),
            },
        };
        let of_all = left(ask.cap, promised, subscribers == 0)?;
        let of_channel = left(ask.channel_cap, account.promised(), account.grants.is_empty())?;
        let has_backlog = self.has_room_for(&mut book, ask.now, ask.backlog, of_all.min(of_channel))?;
        book.serial += 1;
        book.subscribers += 1;
        let serial = book.serial;
        let account = book.accounts.entry(ask.key).or_default();
        account.add(Grant { serial, cost: ask.cost, data_cost: ask.cost, node: ask.node });
        Ok(Place { serial, has_backlog })
    }

    /// A subscriber that an earlier process let in keeps its place, and the number it had there, if that is free; returns its
    /// number. Where it does not fit a cap any more, the newest go.
    pub(crate) fn resume(&self, key: ChannelKey, node: u32, cost: u32, number: u64) -> u64 {
        let book = &mut *self.book();
        let account = book.accounts.entry(key).or_default();
        let serial = if number == 0 || account.has(number) { book.serial + 1 } else { number };
        account.add(Grant { serial, cost, data_cost: cost, node });
        book.serial = book.serial.max(serial);
        book.subscribers += 1;
        serial
    }

    /// A subscriber that was started anew at its old address, which has its place already: whether it may have its
    /// backlog. The caps are the asker's: those of the book may be from before, and whoever has none owes nothing.
    pub(crate) fn may_have_backlog(&self, ask: &Ask) -> bool {
        let mut book = self.book();
        let left = |cap: Option<Cap>, promised: u64| {
            cap.map_or(u64::MAX, |cap| cap.promised_max().saturating_sub(promised))
        };
        let promised_of_channel = book.accounts.get(&ask.key).map_or(0, Account::promised);
        let left = left(ask.cap, book.promised()).min(left(ask.channel_cap, promised_of_channel));
        self.has_room_for(&mut book, ask.now, ask.backlog, left) == Ok(true)
    }

    /// Whether a backlog can be sent in time beside those that are owed; if so, it is owed from now on. `left`: bytes per
    /// second that nothing else needs.
    fn has_room_for(&self, book: &mut Book, now: Time, backlog: u64, left: u64) -> Result<bool, Denied> {
        if left == u64::MAX {
            return Ok(true);
        }
        let owed = self.owed.load(Ordering::Relaxed);
        if owed == 0 {
            book.owed_by = now.after(BACKLOG_PATIENCE);
        }
        let in_time = u128::from(left) * book.owed_by.since(now).as_micros() / 1_000_000;
        if owed > 0 && u128::from(owed) > in_time {
            return Err(Denied::Later);
        }
        let fits = u128::from(owed + backlog) <= in_time;
        if fits {
            self.owed.fetch_add(backlog, Ordering::Relaxed);
        }
        Ok(fits)
    }

    /// So much of what was owed was sent, or nobody waits for it any more.
    pub(crate) fn paid(&self, bytes: u64) {
        if bytes > 0 {
            self.owed.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// A subscriber is gone. Without effect for one that was let go.
    pub(crate) fn leave(&self, key: &ChannelKey, serial: u64) {
        let book = &mut *self.book();
        if book.accounts.get_mut(key).is_some_and(|account| account.remove(serial)) {
            book.subscribers -= 1;
        }
    }

    /// A subscriber costs more or less than before; `data_cost` of it without parity.
    pub(crate) fn set_cost(&self, key: &ChannelKey, serial: u64, cost: u32, data_cost: u32) {
        if let Some(account) = self.book().accounts.get_mut(key) {
            account.set_cost(serial, cost, data_cost);
        }
    }

    /// What a node has measured of its channels, and the caps.
    pub(crate) fn note<'c>(
        &self,
        now: Time,
        node: u32,
        cap: Option<Cap>,
        channels: impl Iterator<Item = &'c Channel>,
    ) {
        let mut book = self.book();
        book.cap = cap;
        for channel in channels {
            let account = book.accounts.entry(channel.verifier.key()).or_default();
            account.cap = channel.cap();
            account.note(now, node, channel.rates);
        }
    }

    /// Takes back the newest grants where what is needed exceeds a cap and has done so for a while. Returns those of this
    /// node that were taken back since its last call, in order; they have left the ledger.
    pub(crate) fn let_go(&self, now: Time, node: u32) -> Vec<u64> {
        let mut book = self.book();
        if now.since(book.looked_at) >= SWEEP_INTERVAL / 2 {
            book.looked_at = now;
            book.look(now);
        }
        let mine = book.leaving.extract_if(.., |(of, _)| *of == node);
        let mut mine: Vec<u64> = mine.map(|(_, serial)| serial).collect();
        mine.sort_unstable();
        mine
    }

    /// What is promised to the subscribers of all channels, and of one, bytes per second.
    pub(crate) fn promised(&self) -> u64 {
        self.book().promised()
    }

    /// See [`Ledger::promised`].
    pub(crate) fn promised_of(&self, key: &ChannelKey) -> u64 {
        self.book().accounts.get(key).map_or(0, Account::promised)
    }
}

impl Book {
    fn promised(&self) -> u64 {
        self.accounts.values().map(Account::promised).sum()
    }

    fn look(&mut self, now: Time) {
        let needed = self.accounts.values().map(Account::needs_with_parity).sum::<u64>();
        let no_parity = self.cap.is_some_and(|cap| needed > cap.promised_max());
        self.accounts.values().for_each(|account| account.withhold_parity(no_parity));
        for account in self.accounts.values_mut() {
            let Some(cap) = account.cap else {
                account.over_since = None;
                continue;
            };
            let over = excess(cap, [&*account].into_iter());
            if is_over_for_long(now, &mut account.over_since, over) {
                while excess(cap, [&*account].into_iter()) && account.take_newest(&mut self.leaving) {
                    self.subscribers -= 1;
                }
            }
        }
        if let Some(cap) = self.cap {
            let over = excess(cap, self.accounts.values());
            if is_over_for_long(now, &mut self.over_since, over) {
                self.shed(cap);
            }
        }
        // Those that no node has any more.
        self.accounts
            .retain(|_, account| !account.grants.is_empty() || Arc::strong_count(&account.common) > 1);
    }

    /// Takes back the newest grants, whatever their channel, until the rest fits.
    fn shed(&mut self, cap: Cap) {
        while excess(cap, self.accounts.values()) {
            // Of channels that are not live nothing is gained.
            let live = self.accounts.values_mut().filter(|account| account.is_live());
            let newest = live.max_by_key(|account| account.newest());
            if !newest.is_some_and(|account| account.take_newest(&mut self.leaving)) {
                return;
            }
            self.subscribers -= 1;
        }
    }
}

fn is_over_for_long(now: Time, since: &mut Option<Time>, is_over: bool) -> bool {
    if !is_over {
        *since = None;
        return false;
    }
    now.since(*since.get_or_insert(now)) >= EGRESS_OVER_MAX
}
