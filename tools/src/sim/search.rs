//! Many seeds, on all cores.

use std::io::{IsTerminal, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::run::run;
use super::world::Talk;

/// A seed under which something was that must not be.
#[derive(Clone, Debug)]
pub struct FailedSeed {
    /// The seed.
    pub seed: u64,
    /// What was, and when.
    pub why: String,
}

/// How often progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Runs a seed; a panic is a failure, too.
pub(super) fn try_seed(seed: u64, talk: Talk) -> (Result<(), FailedSeed>, String) {
    let ran = panic::catch_unwind(AssertUnwindSafe(|| run(seed, talk)));
    let (failure, summary) = match ran {
        Ok(outcome) => (outcome.failure, outcome.summary),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            (Some(format!("it panicked: {}", text.unwrap_or("without a word"))), String::new())
        }
    };
    (failure.map_or(Ok(()), |why| Err(FailedSeed { seed, why })), summary)
}

/// Runs `count` seeds from `from` on, or as many as there is time for; each failure is told as it is found. Returns how many
/// were run, and the failures in the order of their seeds.
pub fn search(
    from: u64,
    count: u64,
    time_max: Option<Duration>,
    tell: impl Fn(&FailedSeed) + Sync,
) -> (u64, Vec<FailedSeed>) {
    let workers = thread::available_parallelism().map_or(1, |cores| cores.get());
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let begun = Instant::now();
    let is_over = || time_max.is_some_and(|most| begun.elapsed() >= most);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count || is_over() {
                return;
            }
            if let (Err(failure), _) = try_seed(from.wrapping_add(number), Talk::Nothing) {
                tell(&failure);
                failed.lock().expect("nobody panics with it").push(failure);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        if std::io::stderr().is_terminal() {
            while !workers.iter().all(|worker| worker.is_finished()) {
                let failures = failed.lock().expect("nobody panics with it").len();
                let line = (done.load(Ordering::Relaxed), begun.elapsed().as_secs());
                // With standard error closed there is nobody to show it to.
                let _ = write!(
                    std::io::stderr(),
                    "\r{} of {count} seeds, {failures} failed, {} s ",
                    line.0,
                    line.1
                );
                thread::sleep(PROGRESS_INTERVAL);
            }
            let _ = writeln!(std::io::stderr());
        }
    });
    let mut failed = failed.into_inner().expect("nobody panics with it");
    failed.sort_by_key(|failure| failure.seed);
    (done.into_inner(), failed)
}
