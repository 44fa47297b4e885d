//! What whoever runs the relay asks of it, by signal or by command.

use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::commands::{self, Answer, Command, Draining, Kicked, Reloaded};
use super::door::{Cause, Door};
use super::drain::Drain;
use crate::config::{Config, ConfigError};
use crate::log::OPERATOR;
use crate::running::Relay;

/// The relay, with what was asked of it.
pub(super) struct Operator<'r, L> {
    relay: &'r Relay,
    started_with: Config,
    config: Config,
    load: L,
    drain: Option<Drain>,
    /// Sessions that others asked for, as of the last count.
    sessions: usize,
}

impl<'r, L: Fn() -> Result<Config, ConfigError>> Operator<'r, L> {
    pub(super) fn new(relay: &'r Relay, config: Config, load: L) -> Operator<'r, L> {
        Operator { relay, started_with: config.clone(), config, load, drain: None, sessions: 0 }
    }

    /// The configuration, as it was read last.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns whether the configuration was read anew.
    pub(super) fn hangup(&mut self) -> bool {
        // What is wrong is in the log, and there is nobody else to tell.
        self.reload("SIGHUP").is_ok()
    }

    /// Whoever has gone meanwhile need not be told. Returns whether the configuration was read anew.
    pub(super) fn obey(&mut self, command: Command, door: &mut Door) -> bool {
        match command {
            Command::Kick(whom, time, answer) => self.kick(whom, time, answer),
            Command::Reload(answer) => {
                let reloaded = self.reload("reload");
                let is_new = reloaded.is_ok();
                let _ = answer.send(reloaded);
                return is_new;
            }
            Command::Drain(asked, answer) => drop(answer.send(Ok(self.begin_drain(&asked, door)))),
            Command::CancelDrain(answer) => drop(answer.send(self.cancel_drain(door))),
        }
        false
    }

    fn kick(&self, whom: mesh::Whom, time: Duration, answer: Answer<Kicked>) {
        let mut ended = self.relay.kick(whom, time);
        // The workers take a moment; signals and counts do not wait for them.
        tokio::spawn(async move {
            let kicked = kicked(&mut ended).await;
            let seconds = time.as_secs();
            match &kicked {
                Ok(Kicked { sessions }) => {
                    info!(target: OPERATOR, %whom, seconds, sessions, "kicked {whom} for {seconds} s: {sessions} sessions ended");
                }
                Err(error) => warn!(target: OPERATOR, %whom, seconds, "{whom} is not kicked: {error}"),
            }
            let _ = answer.send(kicked);
        });
    }

    /// A configuration that is wrong changes nothing.
    fn reload(&mut self, by: &str) -> Result<Reloaded, String> {
        let new = (self.load)().map_err(|error| {
            error!(target: OPERATOR, "{by}: {error}; the relay goes on as before");
            error.to_string()
        })?;
        let later = self.started_with.only_at_restart(&new);
        if !later.is_empty() {
            let keys = later.join(", ");
            warn!(target: OPERATOR, "changed, and acts when the relay is started again: {keys}");
        }
        self.config = new;
        self.configure();
        info!(target: OPERATOR, "{by}: the configuration was read anew");
        Ok(Reloaded { at_restart: later.into_iter().map(str::to_owned).collect() })
    }

    /// The configuration, under which a drain names other nodes.
    fn configure(&self) {
        let to = self.drain.as_ref().map(|drain| &drain.to).filter(|to| !to.is_empty());
        let others = to.unwrap_or(&self.config.others).clone();
        self.relay.configure(&Config { others, ..self.config.clone() });
    }

    fn begin_drain(&mut self, asked: &commands::Drain, door: &mut Door) -> Draining {
        let now = Instant::now();
        let drain = Drain::new(asked, self.sessions, now);
        let progress = drain.progress(self.sessions, now);
        let (sessions, seconds, to) = (self.sessions, asked.for_s, &asked.to);
        info!(target: OPERATOR, sessions, seconds, ?to, "draining {sessions} sessions within {seconds} s, to {to:?}");
        self.drain = Some(drain);
        self.configure();
        door.set(self.relay, Cause::Drain, true);
        progress
    }

    fn cancel_drain(&mut self, door: &mut Door) -> Result<Draining, String> {
        let Some(drain) = self.drain.take() else {
            return Err("the relay is not being drained".to_owned());
        };
        self.configure();
        door.set(self.relay, Cause::Drain, false);
        info!(target: OPERATOR, sessions = self.sessions, "the drain was cancelled; drains keep no newcomer out any more");
        Ok(drain.progress(self.sessions, Instant::now()))
    }

    /// So many sessions there are now that others asked for.
    pub(super) fn note_sessions(&mut self, sessions: usize) {
        self.sessions = sessions;
        if let Some(drain) = &mut self.drain {
            drain.note_sessions(sessions);
        }
    }

    pub(super) fn draining(&self) -> Option<Draining> {
        self.drain.as_ref().map(|drain| drain.progress(self.sessions, Instant::now()))
    }

    /// Lets some go, if the relay is being drained. Returns whether that is over.
    pub(super) fn let_some_go(&self) -> bool {
        let Some(drain) = &self.drain else { return false };
        match drain.portion(self.sessions, Instant::now()) {
            Some(portion) => self.relay.let_go(portion, self.sessions),
            None => return true,
        }
        false
    }
}

async fn kicked(ended: &mut UnboundedReceiver<Option<usize>>) -> Result<Kicked, String> {
    let mut sessions = 0;
    while let Some(of_worker) = ended.recv().await {
        sessions +=
            of_worker.ok_or("so many are kept out already that the list is full; kick a channel, or wait")?;
    }
    Ok(Kicked { sessions })
}
