//! Mail whose channel is not configured any more: nobody would ever take it, so router is asked where it goes now.
//!
//! ```text
//!   channel removed, or mail routed there all the same ─▶ (due) ─▶ a walk, a slice a turn ─▶ reroute ─▶ router ─▶ enqueue
//!                                                           ▲          │ there was some: looked for again
//!                                                           └──────────┘
//! ```

use job::route::RouteRequest;
use mail::MessageId;
use queue::Record;

use super::backlog::{Message, Slot};
use super::{Now, Scheduler, Turn, Walk, report};

/// How long router has to find another way before it is asked again, in milliseconds. A router with the old configuration may
/// have been asked first.
const AGAIN_MS: u64 = 15_000;
/// Recipients of the messages that a walk looks at in one turn.
const SLICE_MAX: usize = 10_000;

/// When strays are looked for, and how far that has come.
#[derive(Debug, Default)]
pub(super) struct Strays {
    due: Option<u64>,
    walk: Option<Walk>,
    /// The walk has met some.
    found: u64,
}

impl Scheduler {
    /// Channels have changed, or what waits for them is known now.
    pub(super) fn look_for_strays(&mut self, now: Now) {
        let mut used = self.lanes.iter().filter(|(_, lane)| lane.is_used());
        if used.any(|(_, lane)| self.is_stray(lane.channel)) {
            self.strays.due = Some(now.mono);
        }
    }

    /// A message was routed, perhaps by a router of the old configuration.
    pub(super) fn note_stray(&mut self, now: Now, slot: Slot) {
        if self.strays.due.is_none() && self.has_stray(self.backlog.message(slot)) {
            self.strays.due = Some(now.mono.saturating_add(AGAIN_MS));
        }
    }

    /// When there is something to do about them.
    pub(super) fn strays_wake(&self, now: Now) -> Option<u64> {
        match self.strays.walk {
            _ if self.leaves_strays() => None,
            Some(_) => Some(now.mono.saturating_add(1)),
            None => self.strays.due,
        }
    }

    /// Whether nothing is done about them now.
    fn leaves_strays(&self) -> bool {
        self.stopped.ledger_failed || self.stopped.draining
    }

    /// Does a slice of a walk that is under way or due.
    pub(super) fn route_strays(&mut self, turn: &mut Turn<'_>) {
        if self.leaves_strays() {
            return;
        }
        if self.strays.walk.is_none() && self.strays.due.is_some_and(|due| due <= turn.now.mono) {
            self.strays.due = None;
            self.strays.found = 0;
            self.strays.walk = self.backlog.last().map(|last| Walk { after: None, last });
        }
        let Some(mut walk) = self.strays.walk.take() else { return };
        let (mut found, mut looked_at, mut ended) = (Vec::new(), 0, true);
        for (id, slot) in self.backlog.after(walk.after).take_while(|(id, _)| *id <= walk.last) {
            if looked_at >= SLICE_MAX {
                ended = false;
                break;
            }
            walk.after = Some(id);
            let message = self.backlog.look(slot);
            looked_at += message.recipients.len().max(1);
            if self.has_stray(&message) {
                found.push((id, slot));
            }
        }
        self.strays.found += found.len() as u64;
        for (id, slot) in found {
            // Who was asked already is asked again by requeue.
            turn.actions.requeue = true;
            if self.backlog.message(slot).reroute.is_none() {
                tracing::info!(%id, "its channel is not configured any more: to be routed anew");
                self.route_anew(turn, id, slot);
            }
        }
        if !ended {
            self.strays.walk = Some(walk);
        } else if self.strays.found > 0 {
            self.strays.due = Some(turn.now.mono.saturating_add(AGAIN_MS));
        }
    }

    /// Asks router where the open recipients of a message go now; says how many those are.
    pub(super) fn route_anew(&mut self, turn: &mut Turn<'_>, id: MessageId, slot: Slot) -> usize {
        let message = self.backlog.message(slot);
        let routing = message.reroute.unwrap_or(message.routing).saturating_add(1);
        let (open, handle) = (message.open as usize, message.handle.clone());
        self.record(turn, Record::Reroute { id, routing });
        turn.actions.routes.push(RouteRequest { handle, id, routing, facts: None });
        open
    }

    fn has_stray(&self, message: &Message) -> bool {
        let open = message.recipients.iter().filter(|one| one.is_open());
        open.map(|one| self.lanes.lane(one.lane).channel).any(|channel| self.is_stray(channel))
    }

    fn is_stray(&self, channel: super::ChannelId) -> bool {
        let channel = self.lanes.channel(channel);
        // Reports go nowhere else.
        !channel.configured && channel.name != report::CHANNEL
    }
}
