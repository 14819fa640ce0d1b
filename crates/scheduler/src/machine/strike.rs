//! Strikes: a worker that crashes had something in hand, and what is alone in hand at a third death is held.

use std::collections::VecDeque;

use job::strike::{ALONE_FROM_STRIKES, STRIKES_MAX, StrikeAnswer, StrikeRequest};
use mail::MessageId;
use queue::{Handle, Record, Standing};

use super::backlog::Slot;
use super::channel::ChannelId;
use super::dispatch::Job;
use super::{Scheduler, Turn};

/// How long a lost job, or a crash, is remembered for the other, in milliseconds.
const MEMORY_MS: u64 = 120_000;
/// The most of each that are remembered.
const MEMORY_MAX: usize = 50_000;

/// Jobs whose connection ended: if their worker's crash becomes known, they get a strike.
#[derive(Debug, Default)]
pub(crate) struct Casualties {
    lost: VecDeque<Casualty>,
    crashed: VecDeque<(u64, ChannelId, u32)>,
}

/// A job that was in hand when its connection ended.
#[derive(Debug, Clone)]
pub(crate) struct Casualty {
    at: u64,
    channel: ChannelId,
    pid: u32,
    slot: Slot,
    id: MessageId,
    alone: bool,
    struck: bool,
}

impl Casualty {
    pub(crate) fn of(job: &Job, at: u64) -> Self {
        Self {
            at,
            channel: job.channel,
            pid: job.pid,
            slot: job.slot,
            id: job.id,
            alone: job.alone,
            struck: job.struck,
        }
    }
}

impl Casualties {
    pub(crate) fn lost(&mut self, casualty: Casualty) {
        self.forget_old(casualty.at);
        if !casualty.struck {
            self.lost.push_back(casualty);
        }
    }

    fn forget_old(&mut self, now: u64) {
        let old = |at: u64| at.saturating_add(MEMORY_MS) < now;
        while self.lost.front().is_some_and(|c| old(c.at)) || self.lost.len() > MEMORY_MAX {
            self.lost.pop_front();
        }
        while self.crashed.front().is_some_and(|c| old(c.0)) || self.crashed.len() > MEMORY_MAX {
            self.crashed.pop_front();
        }
    }

    /// Takes out what a worker had in hand; nothing when its crash was counted before.
    fn of_crash(&mut self, now: u64, channel: ChannelId, pid: u32) -> Option<Vec<Casualty>> {
        self.forget_old(now);
        if self.crashed.iter().any(|crash| (crash.1, crash.2) == (channel, pid)) {
            return None;
        }
        self.crashed.push_back((now, channel, pid));
        let mut found = Vec::new();
        self.lost.retain(|casualty| {
            let its = (casualty.channel, casualty.pid) == (channel, pid);
            if its {
                found.push(casualty.clone());
            }
            !its
        });
        Some(found)
    }
}

impl Scheduler {
    /// A worker of a channel crashed: what it had in hand gets a strike, whether its connection has ended already or not.
    pub(super) fn crashed(&mut self, turn: &mut Turn<'_>, channel: ChannelId, pid: u32) {
        let Some(mut found) = self.casualties.of_crash(turn.now.mono, channel, pid) else { return };
        for job in self.jobs.values_mut() {
            if job.channel == channel && job.pid == pid && job.peer.is_some() && !job.struck {
                job.struck = true;
                found.push(Casualty::of(job, turn.now.mono));
            }
        }
        found.sort_by_key(|casualty| casualty.id);
        found.dedup_by_key(|casualty| casualty.id);
        let name = self.lanes.channel_name(channel).to_owned();
        for casualty in found {
            let Some(message) = self.backlog.same(casualty.slot, &casualty.id) else { continue };
            let (handle, strikes) = (message.handle.clone(), message.strikes);
            let strikes = one_more(strikes, casualty.alone);
            self.strike(turn, casualty.slot, handle, strikes, &format!("channel {name}"));
        }
    }

    /// Writes a strike down, and holds the message at the third.
    fn strike(
        &mut self,
        turn: &mut Turn<'_>,
        slot: Slot,
        handle: Handle,
        strikes: u32,
        stage: &str,
    ) {
        let id = self.backlog.message(slot).id;
        self.counts.strikes += 1;
        self.record(turn, Record::Strike { handle, id, strikes, hold: None });
        tracing::warn!(%id, strikes, stage, "a worker died with this message in hand");
        if strikes >= STRIKES_MAX {
            self.hold(turn, slot, culprit(stage));
        }
    }

    /// Holds a whole message.
    pub(super) fn hold(&mut self, turn: &mut Turn<'_>, slot: Slot, reason: String) {
        let message = self.backlog.message(slot);
        let id = message.id;
        let indexes: Vec<u32> = message.recipients.iter().map(|r| r.index).collect();
        self.counts.held += u64::from(message.hold.is_none());
        tracing::warn!(%id, reason = %reason.escape_debug(), "held");
        self.record(turn, Record::Hold { id, reason: Some(reason) });
        for index in indexes {
            self.place(turn.now, slot, index);
        }
        self.park_reports(turn, slot);
    }

    /// Any answer clears the strikes of the message that it is about.
    pub(super) fn clear_strikes(&mut self, turn: &mut Turn<'_>, slot: Slot, id: &MessageId) {
        let Some(message) = self.backlog.same(slot, id).filter(|message| message.strikes > 0)
        else {
            return;
        };
        let handle = message.handle.clone();
        self.record(turn, Record::Strike { handle, id: *id, strikes: 0, hold: None });
    }

    /// Whether a message must not be taken over now: it is held by strikes, or it has so many that it is to come alone.
    pub fn refuses(&self, id: &MessageId, alone: bool) -> bool {
        let most = if alone { STRIKES_MAX } else { ALONE_FROM_STRIKES };
        let strikes = match self.backlog.find(id).map(|slot| self.backlog.look(slot)) {
            Some(known) => known.reroute.map_or(0, |_| known.strikes),
            None => self.backlog.struck.get(id).map_or(0, |struck| struck.strikes),
        };
        strikes >= most
    }

    /// Takes a strike that another sender tells of.
    pub(super) fn struck(
        &mut self,
        turn: &mut Turn<'_>,
        request: &StrikeRequest,
        standing: Standing,
    ) -> StrikeAnswer {
        let stage = request.stage.escape_debug().to_string();
        if let Some(slot) = self.backlog.find(&request.id) {
            let message = self.backlog.message(slot);
            if message.reroute.is_none() {
                // It was taken over all the same: nobody will be handed it for that again.
                let (strikes, held) = (message.strikes, message.hold.is_some());
                return StrikeAnswer { strikes, held };
            }
            let strikes = one_more(message.strikes, request.alone);
            self.strike(turn, slot, request.handle.clone(), strikes, &stage);
            let held = self.backlog.message(slot).hold.is_some();
            return StrikeAnswer { strikes, held };
        }
        if standing != Standing::Unknown {
            return StrikeAnswer { strikes: 0, held: false };
        }
        let before = self.backlog.struck.get(&request.id).map_or(0, |struck| struck.strikes);
        let strikes = one_more(before, request.alone);
        let held = strikes >= STRIKES_MAX;
        self.counts.strikes += 1;
        tracing::warn!(id = %request.id, strikes, stage, held, "a worker died with this message in hand");
        self.record(
            turn,
            Record::Strike {
                handle: request.handle.clone(),
                id: request.id,
                strikes,
                hold: held.then(|| culprit(&stage)),
            },
        );
        StrikeAnswer { strikes, held }
    }
}

/// Counts a strike. Only what was alone in the worker's hand at the third death is the culprit for certain.
fn one_more(strikes: u32, alone: bool) -> u32 {
    let most = if alone { STRIKES_MAX } else { STRIKES_MAX - 1 };
    strikes.max(strikes.saturating_add(1).min(most))
}

fn culprit(stage: &str) -> String {
    format!("killed its worker three times ({stage})")
}
