//! Ctrl-C and SIGTERM, as a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mio::Waker;
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::iterator::Signals;

use crate::Error;

/// Set once somebody asks the command to end.
#[derive(Clone, Default)]
pub struct Interrupt {
    flag: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on; `waker` is used when a signal comes. A second signal ends the process at once.
    ///
    /// # Errors
    /// When the system does not let the process listen for signals.
    pub fn listen(waker: Arc<Waker>) -> Result<Interrupt, Error> {
        let interrupt = Interrupt::default();
        let flag = Arc::clone(&interrupt.flag);
        let failed = |error| Error::System("cannot listen for signals", error);
        let mut signals = Signals::new(TERM_SIGNALS).map_err(failed)?;
        let body = move || {
            for signal in signals.forever() {
                if flag.swap(true, Ordering::AcqRel) {
                    std::process::exit(128 + signal);
                }
                // The flag is looked at once a second in any case.
                let _ = waker.wake();
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(body).map_err(failed)?;
        Ok(interrupt)
    }

    /// Whether a signal came.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// The flag itself.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}
