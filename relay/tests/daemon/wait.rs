//! Waiting for conditions.

use std::time::{Duration, Instant};

/// What has not happened after this time does not happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at something that cannot wake anybody.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Looks until there is something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up_at = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < give_up_at, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}
