//! Asking for what is missing.

use core::time::Duration;

use arrayvec::ArrayVec;
use codec::ShardSet;
use codec::wire::control::{Control, REPAIRS_MAX, Repair, Wanted};

use crate::copies::Copies;
use crate::limits::{REPAIR_INTERVAL_MAX, REPAIR_INTERVAL_MIN, REPAIR_TRIES_MAX};
use crate::node::Node;
use crate::node::striping::{awaited, whom_to_ask};
use crate::session::Session;
use crate::time::Time;
use crate::window::Chunk;

impl Node {
    /// Asks for what is overdue of a channel's chunks, as long as an answer comes in time. Where losses come in bursts, runs of
    /// requests are lost too: then each goes out again and again until something comes, or the next one is due.
    pub(super) fn ask_for_repair(&mut self, now: Time, index: usize) {
        let channel = &mut self.channels[index];
        if channel.upstreams.is_empty() {
            return;
        }
        let waits = channel.patience(now);
        let place = whom_to_ask(now, waits, channel, &self.sessions);
        let session = channel.upstreams[place];
        let Session { id, round_trip, is_strained, .. } = self.sessions[session];
        let mean = round_trip.map_or(Duration::ZERO, |round_trip| round_trip.mean());
        let patience = round_trip.map_or(REPAIR_INTERVAL_MIN, |round_trip| round_trip.timeout());
        let patience = patience.max(REPAIR_INTERVAL_MIN);
        let still_waits = |chunk: &Chunk, time: Duration| now.since(chunk.first_seen) + time < waits;
        channel.window.set_round_trip(mean);
        let alone = channel.upstreams.len() == 1;
        let again_at = now.after(if alone { patience } else { patience.min(REPAIR_INTERVAL_MAX) });
        let upstream = self.sessions[session].upstream();
        let losses = upstream.estimate.losses();
        // Several upstreams would each answer.
        let in_copies = alone && !is_strained && losses.are_in_bursts();
        let number = if in_copies { upstream.next_request() } else { 0 };
        let usual = channel.window.usual_layout();
        let (upstreams, sessions) = (&channel.upstreams, &self.sessions);
        let due = channel
            .window
            .unsettled_mut()
            .filter(|chunk| chunk.ask_at <= now && chunk.asks < REPAIR_TRIES_MAX && !chunk.is_complete())
            .filter(|chunk| still_waits(chunk, mean));
        let mut wanted: ArrayVec<Wanted, REPAIRS_MAX> = ArrayVec::new();
        for chunk in due {
            let awaited = awaited(now, chunk, usual, upstreams, sessions);
            let shards = chunk.wanted(awaited, !still_waits(chunk, patience + mean), &losses);
            if !shards.is_empty() {
                chunk.asked_of = Some(place as u8);
                chunk.was_asked(shards, now.after(mean * 7 / 8), again_at);
                chunk.copies = in_copies.then(|| Copies::new((id, number), shards, now, again_at));
                wanted.push(Wanted { sequence: chunk.sequence, shards });
            }
            if wanted.is_full() {
                break;
            }
        }
        let room = wanted.remaining_capacity();
        let rumoured = channel.window.rumoured(now, again_at, room);
        wanted.extend(rumoured.map(|sequence| Wanted { sequence, shards: ShardSet::ALL }));
        if !wanted.is_empty() {
            channel.asks = channel.asks.wrapping_add(1);
            if in_copies {
                self.sessions[session].upstream_mut().request = number;
            }
            self.queue_repair(session, number, wanted);
        }
        if in_copies {
            self.repeat_requests(now, index, session, waits.saturating_sub(mean));
        }
    }

    /// Sends the copies that are due of requests for chunks that are younger than `age_max`, each without what has come.
    fn repeat_requests(&mut self, now: Time, index: usize, session: usize, age_max: Duration) {
        let id = self.sessions[session].id;
        loop {
            let chunks = self.channels[index].window.unsettled_mut();
            let due = chunks.filter_map(|chunk| {
                let is_wanted = !chunk.is_complete() && now.since(chunk.first_seen) < age_max;
                let copies = chunk.copies.as_mut().filter(|copies| is_wanted && copies.is_due(now))?;
                (copies.request.0 == id).then_some((chunk.sequence, copies))
            });
            let mut number = None;
            let mut wanted: ArrayVec<Wanted, REPAIRS_MAX> = ArrayVec::new();
            for (sequence, copies) in due {
                let its = copies.request.1;
                if its == *number.get_or_insert(its) && !wanted.is_full() {
                    copies.note_sent(now);
                    wanted.push(Wanted { sequence, shards: copies.shards });
                }
            }
            let Some(number) = number else { break };
            self.queue_repair(session, number, wanted);
        }
    }

    fn queue_repair(&mut self, session: usize, number: u16, wanted: ArrayVec<Wanted, REPAIRS_MAX>) {
        let session = &self.sessions[session];
        let (to, repair) = (session.peer.address, Repair { header: session.header(), number, wanted });
        // With a full queue it is asked for again.
        let _ = self.queue_control(to, Control::Repair(repair));
    }
}
