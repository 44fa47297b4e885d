//! `superpeer top`: a relay's work on the terminal, live.

mod screen;

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use relay::status::Status;

use super::At;
use super::client::Client;
use crate::Error;
use crate::interrupt::Interrupt;
use screen::Screen;

/// Watch the relay on this machine at work
///
/// Rates, workers and channels, once a second. q or Ctrl-C ends it; s sorts the channels by the next column, r turns the
/// order round, arrows and page keys scroll. It goes on when the relay is started anew.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  superpeer top")]
pub struct Args {
    /// Where the relay is
    #[command(flatten)]
    pub at: At,
}

/// The relay counts this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks at what the relay said, if no key is pressed.
const TURN: Duration = Duration::from_millis(100);

/// What the relay does, or why that is not known.
type Seen = Result<Status, String>;

/// Runs the command.
///
/// # Errors
/// Without a terminal.
pub fn run(args: Args) -> Result<(), Error> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Error::Usage(
            "top needs a terminal; for programs there is `superpeer status --json`".to_owned(),
        ));
    }
    let client = Client::new(&args.at)?;
    let interrupt = Interrupt::listen_quietly()?;
    let (seen_to, seen) = mpsc::sync_channel(1);
    // The process may end while it waits: it holds nothing.
    let (_stop, stopped) = mpsc::sync_channel::<()>(0);
    thread::Builder::new()
        .name("status".to_owned())
        .spawn(move || look(&client, &seen_to, &stopped))
        .map_err(|error| Error::System("cannot start a thread", error))?;
    // From here on the terminal is restored whatever happens, also in a panic.
    let shown = ratatui::try_init().and_then(|mut terminal| show(&mut terminal, &seen, &interrupt));
    ratatui::restore();
    shown.map_err(|error| Error::System("cannot use the terminal", error))
}

/// Asks the relay until nobody wants to know any more.
fn look(client: &Client, seen_to: &SyncSender<Seen>, stopped: &Receiver<()>) {
    loop {
        if seen_to.send(client.status().map_err(|error| error.to_string())).is_err() {
            return;
        }
        if stopped.recv_timeout(LOOK_INTERVAL) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn show(terminal: &mut DefaultTerminal, seen: &Receiver<Seen>, interrupt: &Interrupt) -> io::Result<()> {
    let mut screen = Screen::default();
    while !interrupt.is_set() {
        seen.try_iter().for_each(|seen| screen.note(seen));
        terminal.draw(|frame| screen.draw(frame))?;
        if event::poll(TURN)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && !obey(&mut screen, key)
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns whether to go on.
fn obey(screen: &mut Screen, key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('s') => screen.sort_by_next(),
        KeyCode::Char('r') => screen.reverse(),
        KeyCode::Up => screen.scroll(-1),
        KeyCode::Down => screen.scroll(1),
        KeyCode::PageUp => screen.scroll(-10),
        KeyCode::PageDown => screen.scroll(10),
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_end_it_and_other_keys_do_not() {
        let mut screen = Screen::default();
        let mut goes_on = |code, modifiers| obey(&mut screen, KeyEvent::new(code, modifiers));
        assert!(!goes_on(KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(!goes_on(KeyCode::Esc, KeyModifiers::NONE));
        assert!(!goes_on(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(goes_on(KeyCode::Char('c'), KeyModifiers::NONE));
        assert!(goes_on(KeyCode::Char('s'), KeyModifiers::NONE));
    }
}
