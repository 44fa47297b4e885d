//! The account: how far the workers may go, what is to be written before they do, and who is let in. Pure: time and what was
//! used are arguments.

use jiff::Timestamp;

use super::book::Book;
use super::period::Layout;
use crate::meter::{Ends, MESSAGE_IP_BYTES_MAX};

/// Steps at which there is a warning, percent.
const WARN_AT_PERCENT: [u8; 2] = [80, 95];

/// Of the quota, this part is kept for goodbyes and refusals.
const FAREWELL_PARTS: u64 = 200;

/// What is set aside on disk before it is used: what two seconds take, within these parts of the quota; but never less than
/// two messages, for with less than one the workers wait.
const SHARE_SECONDS: u64 = 2;
const SHARE_PARTS_LEAST: u64 = 512;
const SHARE_PARTS_MOST: u64 = 128;

/// Of the quota, so much may be used beyond what was written, when writing fails.
const UNWRITTEN_PARTS: u64 = 20;

/// Use may be ahead of an even pace by this part of the quota: a day of a month. Below half of that, newcomers are let in
/// again.
const AHEAD_PARTS: u64 = 30;

/// What the configuration says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rules {
    pub(super) max: u64,
    pub(super) layout: Layout,
    pub(super) pacing: bool,
    /// Whether what is sent counts.
    pub(super) counts_sent: bool,
}

impl Rules {
    /// What is kept for goodbyes and refusals, bytes.
    pub(super) fn farewell(&self) -> u64 {
        self.max / FAREWELL_PARTS
    }
}

/// The account of one quota.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) rules: Rules,
    book: Book,
    /// The figure of this period on disk: what will count as used after a kill.
    written: u64,
    /// The book has changed in more than its figure.
    is_changed: bool,
    /// The last attempt to write came to nothing.
    is_failing: bool,
    is_used_up: bool,
    is_paced: bool,
    /// Bytes a second, lately.
    rate: u64,
}

/// How far anything may go.
#[derive(Clone, Copy)]
struct Caps {
    trains: u64,
    all: u64,
}

impl Account {
    /// Goes on with what was read. Nothing may be sent before it has been written again.
    pub(super) fn new(rules: Rules, book: Book) -> Account {
        Account {
            rules,
            book,
            written: book.current.used_bytes,
            is_changed: true,
            is_failing: false,
            is_used_up: false,
            is_paced: false,
            rate: 0,
        }
    }

    /// Goes on to `now`, after `spent` bytes; returns the step of warning that was reached, percent.
    pub(super) fn advance(&mut self, now: Timestamp, spent: i64) -> Option<u8> {
        self.book.spend(spent);
        let book = self.book.at(self.rules.layout, now);
        if (book.current.period, book.before) != (self.book.current.period, self.book.before) {
            self.is_changed = true;
            // What is on disk is another period's: until this one's is there, there is nothing to be had.
            self.written = book.current.used_bytes;
            self.is_used_up = false;
        }
        self.book = book;
        let slack = if self.is_used_up { 4 } else { 1 } * MESSAGE_IP_BYTES_MAX;
        self.is_used_up = self.used() + slack > self.caps().trains;
        let ahead = self.rules.max / AHEAD_PARTS / if self.is_paced { 2 } else { 1 };
        let even = self.rules.max as f64 * self.book.current.period.passed(now);
        self.is_paced = self.rules.pacing && self.used() > (even as u64).saturating_add(ahead);
        let step = self.step();
        (step > self.book.warned_percent).then(|| {
            self.book.warned_percent = step;
            self.is_changed = true;
            step
        })
    }

    /// Goes on under other rules.
    pub(super) fn configure(&mut self, rules: Rules) {
        self.rules = rules;
        self.is_used_up = false;
        self.book.warned_percent = self.book.warned_percent.min(self.step());
        self.is_changed = true;
    }

    /// The last step of warning that use has reached, percent.
    fn step(&self) -> u8 {
        let reached = |step: &&u8| self.used() >= self.rules.max / 100 * u64::from(**step);
        WARN_AT_PERCENT.iter().rev().find(reached).copied().unwrap_or(0)
    }

    fn caps(&self) -> Caps {
        let farewell = self.rules.farewell();
        let unwritten = self.written.saturating_add(self.rules.max / UNWRITTEN_PARTS);
        let all = if self.is_failing { self.rules.max.min(unwritten) } else { self.rules.max };
        Caps { trains: all.saturating_sub(farewell), all }
    }

    /// How far the use may go now, bytes from 0: trains, and anything.
    fn allowed(&self) -> Caps {
        let Caps { trains, all } = self.caps();
        if self.is_failing {
            return Caps { trains, all };
        }
        Caps { trains: trains.min(self.written), all: all.min(self.written) }
    }

    /// How far the workers may go from here.
    pub(super) fn ends(&self) -> Ends {
        let from_here = |figure: u64| figure.saturating_sub(self.used());
        let (allowed, cap) = (self.allowed(), self.reach());
        let tell = if allowed.all < cap {
            // In time for more.
            let base = self.base();
            from_here(base + allowed.all.saturating_sub(base) / 2).max(1)
        } else if self.is_used_up {
            u64::MAX
        } else {
            from_here(allowed.trains).saturating_sub(MESSAGE_IP_BYTES_MAX - 1).max(1)
        };
        // Where only what comes in counts, goodbyes cost nothing, and without them more comes.
        let goodbyes_are_free = self.is_used_up && !self.rules.counts_sent;
        let all = if goodbyes_are_free { u64::MAX } else { from_here(allowed.all) };
        Ends { trains: from_here(allowed.trains), all, tell }
    }

    /// How far can be set aside now: what is kept for goodbyes is not touched before they are due.
    fn reach(&self) -> u64 {
        if self.is_used_up { self.caps().all } else { self.caps().trains }
    }

    /// From where on something is set aside.
    fn base(&self) -> u64 {
        // The last piece of what trains may take is too short for one.
        if self.is_used_up { self.used().max(self.caps().trains) } else { self.used() }
    }

    /// What is set aside at once.
    fn share(&self) -> u64 {
        let max = self.rules.max;
        if self.is_used_up {
            return self.rules.farewell() / 4;
        }
        let lately = self.rate.saturating_mul(SHARE_SECONDS);
        let share = lately.clamp(max / SHARE_PARTS_LEAST, max / SHARE_PARTS_MOST);
        share.max(2 * MESSAGE_IP_BYTES_MAX)
    }

    /// What is to be written now, if anything.
    pub(super) fn due(&self) -> Option<Book> {
        let cap = if self.is_failing { self.rules.max } else { self.reach() };
        let is_low = self.written.saturating_sub(self.base()) <= self.share() / 2 && self.written < cap;
        (is_low || self.is_changed || self.is_failing).then(|| {
            let mut book = self.book;
            book.current.used_bytes = self.base().saturating_add(self.share()).min(cap).max(self.used());
            book
        })
    }

    /// What is to be written at the end: what was used.
    pub(super) fn last(&self) -> Book {
        self.book
    }

    /// So much is on disk now, or was not to be written.
    pub(super) fn note_written(&mut self, book: &Book, succeeded: bool) {
        self.is_failing = !succeeded;
        let is_same = (book.current.period, book.before) == (self.book.current.period, self.book.before);
        if succeeded && is_same {
            self.written = book.current.used_bytes;
            self.is_changed = book.warned_percent != self.book.warned_percent;
        }
    }

    /// What a second takes, bytes.
    pub(super) fn note_rate(&mut self, rate: u64) {
        self.rate = rate;
    }

    pub(super) fn used(&self) -> u64 {
        self.book.current.used_bytes
    }

    pub(super) fn book(&self) -> &Book {
        &self.book
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.is_used_up
    }

    pub(super) fn is_paced(&self) -> bool {
        self.is_paced
    }

    pub(super) fn is_failing(&self) -> bool {
        self.is_failing
    }
}

#[cfg(test)]
mod tests;
