//! The transfer quota: what was used is written down ahead, the workers' meter is told how far they may go, and when it is
//! used up, everybody is let go.
//!
//! The figures are the account's (`account.rs`), which is pure; here are the clock, the file, the log and the relay.

mod account;
mod book;
mod period;
mod store;

use std::future::pending;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use jiff::Timestamp;
use tracing::{error, info, warn};

use super::door::{Cause, Door};
use super::status::{QuotaState, QuotaStatus};
use crate::config::{Counts, QuotaConfig};
use crate::meter::Meter;
use crate::running::Relay;
use account::{Account, Rules};
use book::Book;
use period::Layout;
use store::{Read, Store, Writing};

/// That the file cannot be written is said this often.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// A disk that takes longer is not waited for.
const WRITING_MAX: Duration = Duration::from_secs(5);

/// The quota, if there is one.
pub(super) struct Quota {
    meter: Arc<Meter>,
    uses_io_uring: bool,
    kept: Option<Kept>,
}

/// One of which account is kept.
struct Kept {
    config: QuotaConfig,
    account: Account,
    store: Store,
    /// What the meter showed when the account went on last.
    seen: u64,
    /// When the rate was taken last, and what the meter showed then.
    rated: (Instant, u64),
    /// What is being written, since when.
    writing: Option<(Book, Instant, Writing)>,
    complained_at: Option<Instant>,
}

impl Quota {
    /// Reads what was used so far.
    pub(super) fn open(config: &QuotaConfig, relay: &Relay) -> Quota {
        let (meter, uses_io_uring) = (Arc::clone(relay.meter()), relay.uses_io_uring());
        let kept = Kept::open(config, &meter, uses_io_uring);
        Quota { meter, uses_io_uring, kept }
    }

    /// Comes when there is something to [`Quota::settle`]. May be dropped and asked for again.
    pub(super) async fn stir(&mut self) {
        let Some(kept) = &mut self.kept else { return pending().await };
        let Some((book, _, writing)) = &mut kept.writing else { return self.meter.told().await };
        tokio::select! {
            () = self.meter.told() => {}
            result = writing => {
                let book = *book;
                kept.writing = None;
                kept.note_written(&book, result);
            }
        }
    }

    /// Once a second.
    pub(super) fn tick(&mut self, relay: &Relay, door: &mut Door) {
        if let Some(kept) = &mut self.kept {
            let (at, before) = std::mem::replace(&mut kept.rated, (Instant::now(), self.meter.used()));
            let spent = kept.rated.1.saturating_sub(before) as f64;
            kept.account.note_rate((spent / at.elapsed().as_secs_f64().max(0.1)) as u64);
            kept.note_hanging();
            // What could not be written is tried again.
            kept.write_what_is_due();
        }
        self.settle(relay, door);
        if self.kept.as_ref().is_some_and(|kept| kept.account.is_used_up()) {
            // More of them than find room in a worker's queue have to be told in turns.
            relay.let_all_go();
        }
    }

    /// Goes on with what the meter shows: says how far the workers may go, and who is let in.
    pub(super) fn settle(&mut self, relay: &Relay, door: &mut Door) {
        let Some(kept) = &mut self.kept else {
            door.set(relay, Cause::QuotaUsed, false);
            door.set(relay, Cause::Pacing, false);
            return;
        };
        let used = kept.go_on(&self.meter);
        if !kept.account.is_failing() {
            kept.write_what_is_due();
        }
        self.meter.allow(used, kept.account.ends());
        relay.wake();
        let is_used_up = kept.account.is_used_up();
        if door.set(relay, Cause::QuotaUsed, is_used_up) {
            kept.say_whether_used_up();
            if is_used_up {
                relay.let_all_go();
            }
        }
        if door.set(relay, Cause::Pacing, kept.account.is_paced()) {
            let what = match kept.account.is_paced() {
                true => "new subscribers are turned away, for use is ahead of an even pace",
                false => "new subscribers are let in again",
            };
            info!("quota: {what}: {}", kept.figures());
        }
    }

    /// Goes on under another configuration.
    pub(super) async fn configure(&mut self, config: &QuotaConfig) {
        match &mut self.kept {
            Some(kept) if config.max.0.is_some() && kept.config.file == config.file => {
                kept.go_on(&self.meter);
                kept.configure(config, &self.meter);
            }
            _ => {
                self.finish().await;
                self.kept = Kept::open(config, &self.meter, self.uses_io_uring);
            }
        }
        if self.kept.is_none() {
            self.meter.set_free();
        }
    }

    /// Writes down what was used, without what was set aside.
    pub(super) async fn finish(&mut self) {
        let Some(mut kept) = self.kept.take() else { return };
        kept.go_on(&self.meter);
        let before = kept.writing.take();
        let last = async {
            if let Some((_, _, writing)) = before {
                // The next one says whether it can be written.
                let _ = writing.await;
            }
            kept.store.write(&kept.account.last()).await
        };
        let result = tokio::time::timeout(WRITING_MAX, last).await;
        if let Err(error) = result.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
            error!("quota: {} cannot be written: {error}", kept.store.path.display());
        }
    }

    pub(super) fn status(&self) -> Option<QuotaStatus> {
        self.kept.as_ref().map(Kept::status)
    }
}

impl Kept {
    fn open(config: &QuotaConfig, meter: &Meter, uses_io_uring: bool) -> Option<Kept> {
        let rules = rules(config)?;
        let path = config.file.0.clone()?;
        let store = Store { path, uses_io_uring };
        let book = read(&store, &rules);
        // Until something is written, nothing is sent.
        let seen = meter.used();
        meter.allow(seen, crate::meter::Ends { trains: 0, all: 0, tell: u64::MAX });
        let mut kept = Kept {
            config: config.clone(),
            account: Account::new(rules, book),
            store,
            seen,
            rated: (Instant::now(), seen),
            writing: None,
            complained_at: None,
        };
        kept.configure(config, meter);
        info!("quota: {}", kept.figures());
        Some(kept)
    }

    fn configure(&mut self, config: &QuotaConfig, meter: &Meter) {
        if let Some(rules) = rules(config) {
            self.account.configure(rules);
        }
        meter.count(config.counts != Counts::Rx, config.counts != Counts::Tx);
        self.config = config.clone();
    }

    /// Brings the account up to now; returns what the meter shows.
    fn go_on(&mut self, meter: &Meter) -> u64 {
        let used = meter.used();
        let spent = used as i64 - self.seen as i64;
        self.seen = used;
        if let Some(percent) = self.account.advance(Timestamp::now(), spent) {
            warn!("quota: {percent} % are reached: {}", self.figures());
        }
        used
    }

    /// One writing at a time.
    fn write_what_is_due(&mut self) {
        if self.writing.is_none()
            && let Some(book) = self.account.due()
        {
            self.writing = Some((book, Instant::now(), self.store.write(&book)));
        }
    }

    /// A writing that hangs goes on, and the relay does without it.
    fn note_hanging(&mut self) {
        if let Some((book, since, _)) = &self.writing
            && since.elapsed() > WRITING_MAX
        {
            let book = *book;
            self.note_written(&book, Err(ErrorKind::TimedOut.into()));
        }
    }

    fn note_written(&mut self, book: &Book, result: io::Result<()>) {
        self.account.note_written(book, result.is_ok());
        let path = self.store.path.display();
        match result {
            Ok(()) if self.complained_at.take().is_some() => info!("quota: {path} can be written again"),
            Ok(()) => {}
            Err(error) if self.complained_at.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) => {
                self.complained_at = Some(Instant::now());
                error!(
                    "quota: {path} cannot be written: {error}; the relay goes on for at most 5 % of the quota beyond \
                     what is written, and tries again every second"
                );
            }
            Err(_) => {}
        }
    }

    fn say_whether_used_up(&self) {
        let figures = self.figures();
        match (self.account.is_used_up(), self.account.is_failing()) {
            (true, true) => error!("quota: no more is sent before the file can be written: {figures}"),
            (true, false) => warn!("quota: used up; everybody is let go: {figures}"),
            (false, _) => info!("quota: newcomers are let in again: {figures}"),
        }
    }

    fn figures(&self) -> String {
        let current = &self.account.book().current;
        let bytes = |bytes: u64| ByteSize(bytes).display().si();
        format!(
            "{} of {} used, the period ends {}",
            bytes(current.used_bytes),
            bytes(self.account.rules.max),
            current.period.end
        )
    }

    fn status(&self) -> QuotaStatus {
        let (account, book) = (&self.account, self.account.book());
        let state = match book.warned_percent {
            _ if account.is_used_up() => QuotaState::UsedUp,
            _ if account.is_paced() => QuotaState::Paced,
            0 => QuotaState::Ok,
            _ => QuotaState::Warned,
        };
        QuotaStatus {
            max_bytes: account.rules.max,
            used_bytes: account.used(),
            left_bytes: account.rules.max.saturating_sub(account.used()),
            counts: self.config.counts,
            period_start: book.current.period.start,
            period_end: book.current.period.end,
            state,
            is_written: !account.is_failing(),
        }
    }
}

fn rules(config: &QuotaConfig) -> Option<Rules> {
    let layout = Layout { period: config.period, start_day: config.start_day };
    let counts_sent = config.counts != Counts::Rx;
    config.max.0.map(|max| Rules { max, layout, pacing: config.pacing, counts_sent })
}

/// What was used so far. Of what cannot be read, nobody knows whether it was all: then it counts as used up.
fn read(store: &Store, rules: &Rules) -> Book {
    let mut book = Book::new(rules.layout, Timestamp::now());
    match store.read() {
        Read::Book(book) => return book,
        Read::Nothing => {}
        Read::Unknown(why) => {
            book.current.used_bytes = rules.max - rules.farewell();
            say_unknown(&store.path, &why, store.put_aside());
        }
    }
    book
}

fn say_unknown(path: &Path, why: &str, aside: io::Result<std::path::PathBuf>) {
    let (path, aside) = (
        path.display(),
        match aside {
            Ok(aside) => format!("it is now {}", aside.display()),
            Err(error) => format!("it cannot be put aside: {error}"),
        },
    );
    error!(
        "quota: {path} is no account of a quota: {why}; {aside}. What was used is not known, so the quota counts as used up: \
         if you know, stop the relay and set used_bytes in {path}; with that file removed, it begins at 0"
    );
}
