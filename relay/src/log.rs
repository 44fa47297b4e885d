//! The log: with its fields to the journal under systemd, else to standard error. Messages say what matters in words, for
//! `journalctl` does not show fields unasked. What goes wrong again and again makes few lines, so that neither a hostile peer
//! nor a kernel that fails each call fills the disk.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, info, warn};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// The target of what answers a signal or a command: whoever runs the relay asked for it, and gets it each time.
pub(crate) const OPERATOR: &str = "relay::operator";

/// So many lines of one message and cause are shown in this time; of the others, only their number.
const LINES_MAX: u32 = 10;
/// See [`LINES_MAX`].
const WINDOW: Duration = Duration::from_secs(60);

/// Causes that are told apart; what comes from further ones is told apart only by the place in the program.
const CAUSES_MAX: usize = 256;

/// Starts the log. What it held back is to be told now and then by [`Restraint::tell`].
pub(crate) fn init() -> Arc<Restraint> {
    let restraint = Arc::new(Restraint::default());
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let journal = if is_journal() { tracing_journald::layer().ok() } else { None };
    let stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            // A log that cannot be written must not end the relay.
            .log_internal_errors(false)
    });
    let journal = journal.map(|journal| journal.with_syslog_identifier("superpeerd".to_owned()));
    let restrained = Restrained(Arc::clone(&restraint));
    tracing_subscriber::registry().with(filter).with(restrained).with(journal).with(stderr).init();
    restraint
}

/// Whether standard error leads to the journal (systemd.exec(5), `$JOURNAL_STREAM`).
fn is_journal() -> bool {
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let metadata = stderr.and_then(|stderr| stderr.metadata());
    let named = std::env::var("JOURNAL_STREAM");
    metadata
        .is_ok_and(|stderr| named.is_ok_and(|named| named == format!("{}:{}", stderr.dev(), stderr.ino())))
}

/// What was said lately, and how often.
#[derive(Default)]
pub(crate) struct Restraint {
    windows: Mutex<HashMap<Cause, Window>>,
    hashing: RandomState,
}

/// A place in the program, with the hash of the message and error that it told; 0 where they are not told apart.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Cause {
    callsite: Identifier,
    said: u64,
}

struct Window {
    began_at: Instant,
    lines: u32,
    held_back: u64,
    level: Level,
    said: String,
}

impl Restraint {
    /// Whether this line is to be shown.
    fn admits(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        let is_asked_for = metadata.target() == OPERATOR || *metadata.level() > Level::INFO;
        if is_asked_for {
            return true;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let mut windows = self.windows();
        let mut cause = Cause { callsite: metadata.callsite(), said: self.hashing.hash_one(&said.0) };
        if windows.len() >= CAUSES_MAX && !windows.contains_key(&cause) {
            cause.said = 0;
        }
        let level = *metadata.level();
        let fresh = || Window { began_at: now, lines: 0, held_back: 0, level, said: said.0 };
        let window = windows.entry(cause).or_insert_with(fresh);
        if now.duration_since(window.began_at) >= WINDOW {
            (window.began_at, window.lines) = (now, 0);
        }
        let is_shown = window.lines < LINES_MAX;
        if is_shown {
            window.lines += 1;
        } else {
            window.held_back += 1;
        }
        is_shown
    }

    /// Says of what was held back how often it came, once its time is over; at the end, of everything.
    pub(crate) fn tell(&self, now: Instant, is_end: bool) {
        let is_over = |window: &Window| is_end || now.duration_since(window.began_at) >= WINDOW;
        let over: Vec<Window> =
            self.windows().extract_if(|_, window| is_over(window)).map(|(_, window)| window).collect();
        for Window { held_back, level, said, .. } in over.into_iter().filter(|window| window.held_back > 0) {
            match level {
                Level::INFO => info!(held_back, "{held_back} times more, not shown: {said}"),
                _ => warn!(held_back, "{held_back} times more, not shown: {said}"),
            }
        }
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<Cause, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event's message, and its error if it has one.
#[derive(Default)]
struct Said(String);

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        // Writing into a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            "error" => write!(self.0, " ({value:?})"),
            _ => Ok(()),
        };
    }
}

/// Keeps from the log what there is too much of.
struct Restrained(Arc<Restraint>);

impl<S: Subscriber> Layer<S> for Restrained {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.admits(event, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What the log shows of what `speak` says.
    fn shown(speak: impl FnOnce(&Restraint)) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let restraint = Arc::new(Restraint::default());
        let keep = Keep(Arc::clone(&lines));
        let subscriber = tracing_subscriber::registry().with(Restrained(Arc::clone(&restraint))).with(keep);
        tracing::subscriber::with_default(subscriber, || speak(&restraint));
        lines.lock().unwrap().drain(..).collect()
    }

    struct Keep(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Keep {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut said = Said::default();
            event.record(&mut said);
            self.0.lock().unwrap().push(said.0);
        }
    }

    #[test]
    fn a_flood_of_one_cause_makes_few_lines_and_a_count() {
        let lines = shown(|restraint| {
            for number in 0..10_000 {
                warn!(number, error = "no buffer space", "cannot send");
                if number % 5_000 == 0 {
                    warn!(error = "no route", "cannot send");
                }
            }
            restraint.tell(Instant::now(), false);
            restraint.tell(Instant::now() + WINDOW, false);
            restraint.tell(Instant::now() + WINDOW, false);
        });
        let of = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        assert_eq!((of("cannot send (\"no buffer space\")"), of("no route")), (11, 2), "{lines:?}");
        assert!(lines.last().unwrap().starts_with("9990 times more, not shown: cannot send"), "{lines:?}");
        assert_eq!(lines.len(), 13);
    }

    #[test]
    fn causes_without_end_make_few_lines_too() {
        let lines = shown(|_| (0..10_000).for_each(|number| warn!("peer {number} did something new")));
        assert_eq!(lines.len(), CAUSES_MAX + LINES_MAX as usize);
    }

    #[test]
    fn who_runs_the_relay_gets_each_answer() {
        let lines = shown(|_| (0..100).for_each(|_| info!(target: OPERATOR, "read anew")));
        assert_eq!(lines.len(), 100);
    }
}
