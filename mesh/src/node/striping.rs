//! Several upstreams of one channel: each gives its stripes, and when one does not, the others give them.

use core::time::Duration;

use arrayvec::ArrayVec;
use codec::{ShardSet, SlotLayout, Stripes};
use slab::Slab;

use crate::channel::Channel;
use crate::limits::{DIALS_PER_CHANNEL_MAX, QUIET_MAX, REPAIR_TRIES_PER_WHOM, UPSTREAMS_PER_CHANNEL_MAX};
use crate::node::Node;
use crate::session::Session;
use crate::striping::{Standing, Striping};
use crate::time::Time;
use crate::window::Chunk;

const _: () = assert!(DIALS_PER_CHANNEL_MAX <= codec::STRIPES_MAX as usize, "a stripe for every dial");

impl Node {
    /// A session with an upstream that was dialled has begun. It is tried first, if it is not the only one.
    pub(super) fn join_others(&mut self, now: Time, session: usize) {
        let channel = self.sessions[session].channel;
        if self.members(channel).len() > 1 {
            self.striping_mut(session).try_again(now);
        }
        self.divide(channel);
    }

    /// The upstreams that a channel is divided among: those that were dialled. A publisher that came by itself gives all.
    fn members(&self, channel: usize) -> ArrayVec<usize, UPSTREAMS_PER_CHANNEL_MAX> {
        let upstreams = self.channels[channel].upstreams.iter().copied();
        upstreams.filter(|session| self.sessions[*session].dial().is_some()).collect()
    }

    fn striping(&self, session: usize) -> &Striping {
        &self.sessions[session].upstream().striping
    }

    fn striping_mut(&mut self, session: usize) -> &mut Striping {
        &mut self.sessions[session].upstream_mut().striping
    }

    /// Settles who is to give what. As long as one is not good, those who are give everything; whoever is on trial gives what it
    /// will give afterwards, whoever has failed gives nothing.
    pub(super) fn divide(&mut self, channel: usize) {
        let members = self.members(channel);
        if members.iter().all(|session| self.striping(*session).is_failed()) {
            members.iter().for_each(|session| self.striping_mut(*session).trust());
        }
        let counts = |standing: fn(Standing) -> bool| {
            let of = |session: &&usize| standing(self.striping(**session).standing);
            members.iter().filter(of).count()
        };
        let good = counts(|standing| standing == Standing::Good);
        let failed = counts(|standing| matches!(standing, Standing::Failed { .. }));
        let on_trial = members.len() - good - failed;
        let carries = |standing: Standing| match standing {
            Standing::Good => true,
            Standing::OnTrial { .. } => good == 0,
            Standing::Failed { .. } => false,
        };
        let carriers = if good > 0 { good } else { on_trial };
        let mut rank = 0;
        for (place, &session) in members.iter().enumerate() {
            let standing = self.striping(session).standing;
            let wanted = match standing {
                _ if carries(standing) => {
                    rank += 1;
                    Stripes::one(rank - 1, carriers)
                }
                Standing::Failed { .. } => Stripes::NONE,
                _ => Stripes::one(place, members.len()),
            };
            if self.striping_mut(session).want(wanted) {
                self.sessions[session].report_at = Time::default();
            }
        }
        self.channels[channel].is_short = failed > 0;
    }

    /// Finds out who does not give what it is to give, and has the others give it.
    pub(super) fn judge_upstreams(&mut self, now: Time, index: usize) {
        let members = self.members(index);
        if members.len() < 2 {
            return;
        }
        self.note_overdue(now, index, &members);
        let mut changed = false;
        for &session in &members {
            let striping = self.striping(session);
            let outdone = |other: &&usize| {
                let other = self.striping(**other);
                other.standing == Standing::Good && striping.misses_more_than(other)
            };
            let fails = striping.is_silent() || members.iter().any(|other| outdone(&other));
            let others = members.iter().filter(|other| **other != session).map(|other| self.striping(*other));
            let has_others = others.clone().any(|other| !other.is_failed());
            let good = others.filter(|other| other.standing == Standing::Good);
            let good_came_at = good.map(|other| other.came_at).max();
            let striping = self.striping_mut(session);
            let fails = fails && has_others && !striping.is_failed();
            if fails {
                striping.fail(now);
            }
            changed |= striping.review(now, has_others, good_came_at) || fails;
            if fails {
                self.ask_others(now, index, session);
            }
        }
        if changed {
            self.divide(index);
        }
    }

    /// What an upstream was asked for that has failed is asked of another at once, as long as that one still has it.
    fn ask_others(&mut self, now: Time, index: usize, failed: usize) {
        let channel = &mut self.channels[index];
        let place = channel.upstreams.iter().position(|session| *session == failed);
        let asked_of_it =
            |chunk: &&mut Chunk| chunk.asked_of.is_some() && chunk.asked_of.map(usize::from) == place;
        channel.window.unsettled_mut().filter(asked_of_it).for_each(|chunk| chunk.ask_at = now);
    }

    /// Whose part of a chunk is overdue although others' came.
    fn note_overdue(&mut self, now: Time, index: usize, members: &[usize]) {
        let usual = self.channels[index].window.usual_layout();
        let (channel, sessions) = (&mut self.channels[index], &mut self.sessions);
        for chunk in channel.window.unsettled_mut().filter(|chunk| !chunk.is_complete() && !chunk.is_lent()) {
            let (sequence, first_seen, layout) = (chunk.sequence, chunk.first_seen, chunk.layout(usual));
            let held = chunk.body.as_ref().map_or(ShardSet::EMPTY, |body| body.held);
            let came = |session: usize| sessions[session].upstream().striping.came_at >= first_seen;
            let last_to_come = members.iter().filter(|session| came(**session)).count();
            for &session in members {
                let striping = &mut sessions[session].upstream_mut().striping;
                let is_silent = striping.came_at < first_seen && last_to_come > 0;
                if !striping.is_failed() && striping.is_to_judge(now, sequence, first_seen) && is_silent {
                    let part = striping.shards(sequence, layout).intersection(layout.data_set());
                    striping.note_silence(part.minus(held).len());
                }
            }
        }
    }

    /// While an upstream gives nothing, the node looks whether the others go on giving: with nothing from anybody, it is tried
    /// again, and if something comes from it alone, the others are found to be silent. Relied on at once, a bad one would cost
    /// something after every pause of the publisher. Returns whether the node has to look again soon.
    pub(super) fn is_watched_for_quiet(&mut self, now: Time, index: usize) -> bool {
        let channel = &self.channels[index];
        if !channel.is_short || channel.window.has_ended() {
            return false;
        }
        let is_quiet = now.since(channel.fresh_at) > QUIET_MAX;
        if is_quiet {
            for session in self.members(index) {
                if self.striping(session).is_failed() {
                    self.striping_mut(session).try_again(now);
                }
            }
            self.divide(index);
        }
        !is_quiet
    }
}

/// Those of several upstreams whose part nobody else gives: the good ones. Whoever is on trial may be gone still.
fn relied_on(upstreams: &[usize], sessions: &Slab<Session>) -> ArrayVec<usize, UPSTREAMS_PER_CHANNEL_MAX> {
    let those = |fits: fn(&Striping) -> bool| {
        let of = |session: &usize| fits(&sessions[*session].upstream().striping);
        upstreams.iter().copied().filter(of).collect::<ArrayVec<_, _>>()
    };
    let good = those(|striping| striping.standing == Standing::Good);
    if good.is_empty() { those(|striping| !striping.is_failed()) } else { good }
}

/// Which data shards of a chunk may still come by itself from one of several upstreams, so that nobody is to be asked for it.
pub(super) fn awaited(
    now: Time,
    chunk: &Chunk,
    usual: SlotLayout,
    upstreams: &[usize],
    sessions: &Slab<Session>,
) -> ShardSet {
    if upstreams.len() < 2 {
        return ShardSet::EMPTY;
    }
    let age = now.since(chunk.first_seen);
    let relied_on = relied_on(upstreams, sessions);
    let stripings = relied_on.iter().map(|session| &sessions[*session].upstream().striping);
    let patient = stripings.filter(|striping| age < striping.patience());
    let held = chunk.body.as_ref().map_or(ShardSet::EMPTY, |body| body.held);
    let layout = chunk.layout(usual);
    // Of parity it is not known how much is sent.
    let missing = layout.data_set().minus(held);
    let parts = patient.map(|striping| striping.shards(chunk.sequence, layout).intersection(missing));
    parts.fold(ShardSet::EMPTY, ShardSet::union)
}

/// The place of the upstream whose turn it is to be asked for repair: of those that are relied on, unless they were asked in
/// vain, and whose answer would come before chunks are given up that are waited for so long (`waits`). First one from which
/// something has come since the chunk was due, then each in turn.
pub(super) fn whom_to_ask(
    now: Time,
    waits: Duration,
    channel: &mut Channel,
    sessions: &Slab<Session>,
) -> usize {
    let in_vain = channel.window.unsettled_mut().any(|chunk| chunk.asks >= REPAIR_TRIES_PER_WHOM);
    let is_due = |chunk: &&mut Chunk| chunk.ask_at <= now && !chunk.is_complete();
    let ages = channel.window.unsettled_mut().filter(is_due).map(|chunk| now.since(chunk.first_seen));
    let age = ages.min().unwrap_or_default();
    let most_asked = channel.window.unsettled_mut().filter(is_due).max_by_key(|chunk| chunk.asks);
    let missing_since = most_asked.as_ref().map_or(now, |chunk| chunk.first_seen);
    let asked_last = most_asked.and_then(|chunk| chunk.asked_of).map(usize::from);
    let all = &channel.upstreams;
    let relied_on = relied_on(all, sessions);
    let is_relied_on = |place: &usize| relied_on.contains(&all[*place]);
    let answers_in_time = |place: &usize| {
        let round_trip = sessions[all[*place]].round_trip;
        age + round_trip.map_or(Duration::ZERO, |round_trip| round_trip.mean()) < waits
    };
    let gives = |place: &usize| sessions[all[*place]].upstream().striping.came_at >= missing_since;
    let mut places: Places = (0..all.len()).collect();
    if !in_vain {
        keep_if_any(&mut places, is_relied_on);
    }
    keep_if_any(&mut places, answers_in_time);
    match asked_last {
        Some(last) => places.iter().copied().find(|place| *place > last).unwrap_or(places[0]),
        None => {
            keep_if_any(&mut places, gives);
            places[channel.asks % places.len()]
        }
    }
}

type Places = ArrayVec<usize, UPSTREAMS_PER_CHANNEL_MAX>;

/// Leaves those out that are not such, unless that are all.
fn keep_if_any(places: &mut Places, is_such: impl Fn(&usize) -> bool) {
    if places.iter().any(&is_such) {
        places.retain(|place| is_such(place));
    }
}
