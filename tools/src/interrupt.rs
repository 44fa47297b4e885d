//! Ctrl-C and SIGTERM, as a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mio::Waker;
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::iterator::Signals;

use crate::Error;

/// Set once somebody asks the command to end.
#[derive(Clone)]
pub struct Interrupt {
    flag: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on; `flag` is set and `waker` is used when a signal comes. A second signal ends the process at
    /// once.
    ///
    /// # Errors
    /// When the system does not let the process listen for signals.
    pub fn listen(flag: Arc<AtomicBool>, waker: Arc<Waker>) -> Result<Interrupt, Error> {
        // The flag is looked at once a second in any case.
        Interrupt::start(flag, move || drop(waker.wake()))
    }

    /// Listens from now on, for those who look at the flag often enough without being woken.
    ///
    /// # Errors
    /// As [`Interrupt::listen`].
    pub fn listen_quietly() -> Result<Interrupt, Error> {
        Interrupt::start(Arc::default(), || ())
    }

    fn start(flag: Arc<AtomicBool>, wake: impl Fn() + Send + 'static) -> Result<Interrupt, Error> {
        let interrupt = Interrupt { flag: Arc::clone(&flag) };
        let failed = |error| Error::System("cannot listen for signals", error);
        let mut signals = Signals::new(TERM_SIGNALS).map_err(failed)?;
        let body = move || {
            for signal in signals.forever() {
                if flag.swap(true, Ordering::AcqRel) {
                    std::process::exit(128 + signal);
                }
                wake();
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(body).map_err(failed)?;
        Ok(interrupt)
    }

    /// Whether a signal came.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
}
