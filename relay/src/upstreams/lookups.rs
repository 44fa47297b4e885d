//! Names being looked up, each once however many channels wait for it.

use std::collections::{HashSet, VecDeque};
use std::net::ToSocketAddrs;
use std::sync::mpsc::Sender;
use std::thread;

use super::Message;

/// The resolver blocks for as long as it likes, a thread for each name: so many at a time.
const AT_ONCE_MAX: usize = 8;

pub(super) struct Lookups {
    waiting: VecDeque<String>,
    under_way: HashSet<String>,
    answers: Sender<Message>,
}

impl Lookups {
    pub(super) fn new(answers: Sender<Message>) -> Lookups {
        Lookups { waiting: VecDeque::new(), under_way: HashSet::new(), answers }
    }

    /// The answer comes as [`Message::Found`].
    pub(super) fn want(&mut self, name: String) {
        if !self.under_way.contains(&name) && !self.waiting.contains(&name) {
            self.waiting.push_back(name);
        }
    }

    pub(super) fn start(&mut self) {
        while self.under_way.len() < AT_ONCE_MAX
            && let Some(name) = self.waiting.pop_front()
        {
            let (answers, for_thread) = (self.answers.clone(), name.clone());
            let body = move || {
                let answer = for_thread.to_socket_addrs().map(Iterator::collect);
                // Nobody listens any more once the relay has ended.
                let _ = answers.send(Message::Found { name: for_thread, answer });
            };
            let started = thread::Builder::new().name("superpeer-dns".to_owned()).spawn(body);
            if let Err(error) = started {
                let _ = self.answers.send(Message::Found { name: name.clone(), answer: Err(error) });
            }
            self.under_way.insert(name);
        }
    }

    pub(super) fn note_answer(&mut self, name: &str) {
        self.under_way.remove(name);
    }
}
