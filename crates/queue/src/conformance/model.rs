//! What follows from records, as simply as it can be told.

use std::collections::{BTreeMap, BTreeSet};

use mail::{MessageId, Timestamp};

use crate::{Handle, Owed, Record, ReportKind, Routed, State};

/// The state that follows from records, as simply as it can be told.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) live: BTreeMap<MessageId, Live>,
    /// Strikes of messages that are not routed, and why those are to be held.
    pub(super) struck: BTreeMap<MessageId, (Handle, u32, Option<String>)>,
    pub(super) suspended: BTreeMap<(String, Option<String>), Timestamp>,
}

/// A message, with what a snapshot does not say.
#[derive(Debug, PartialEq)]
pub(super) struct Live {
    pub(super) message: Routed,
    pub(super) reroute: Option<u32>,
    /// Held by a record of its own, which time does not end.
    pub(super) held_by_hand: bool,
    /// Recipients that are held so.
    pub(super) told: BTreeSet<u32>,
}

impl Live {
    pub(super) fn of(mut message: Routed) -> Self {
        message.owed.sort_by_key(|owed| owed.kind);
        Self { message, reroute: None, held_by_hand: false, told: BTreeSet::new() }
    }

    pub(super) fn owe(&mut self, kind: ReportKind, recipients: &[u32], due: Timestamp) {
        let message = &mut self.message;
        let its = message.recipients.iter_mut().filter(|it| recipients.contains(&it.index));
        for recipient in its.filter(|_| kind == ReportKind::Delay) {
            if let State::Open(attempt) | State::Held { then: attempt, .. } = &mut recipient.state {
                attempt.delay_reported = true;
            }
        }
        match message.owed.iter_mut().find(|owed| owed.kind == kind) {
            Some(owed) => {
                owed.recipients.extend_from_slice(recipients);
                owed.recipients.sort_unstable();
                owed.recipients.dedup();
                owed.due = due;
            }
            None => message.owed.push(Owed { kind, recipients: recipients.to_vec(), due }),
        }
        message.owed.sort_by_key(|owed| owed.kind);
    }

    pub(super) fn report(&mut self, kind: ReportKind, recipients: &[u32]) {
        for owed in self.message.owed.iter_mut().filter(|owed| owed.kind == kind) {
            owed.recipients.retain(|index| !recipients.contains(index));
        }
        self.message.owed.retain(|owed| !owed.recipients.is_empty());
    }

    pub(super) fn tell(&mut self, recipients: Vec<(u32, State)>) {
        for (index, state) in recipients {
            let found = self.message.recipients.iter_mut().find(|it| it.index == index);
            let Some(recipient) = found else { continue };
            match &state {
                State::Held { .. } => self.told.insert(index),
                _ => self.told.remove(&index),
            };
            recipient.state = state;
        }
    }
}

impl Model {
    pub(super) fn put(&mut self, message: Routed) {
        self.struck.remove(&message.id);
        self.live.insert(message.id, Live::of(message));
    }

    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Snapshot(message) => self.put(*message),
            Record::Routed(message) => {
                let newer = |old: &Live| old.message.routing < message.routing;
                if self.live.get(&message.id).is_none_or(newer) {
                    self.put(*message);
                }
            }
            Record::Retired { id, .. } => {
                self.live.remove(&id);
                self.struck.remove(&id);
            }
            Record::Strike { handle, id, strikes, hold } if !self.live.contains_key(&id) => {
                match strikes {
                    0 => drop(self.struck.remove(&id)),
                    _ => drop(self.struck.insert(id, (handle, strikes, hold))),
                }
            }
            Record::Hold { id, reason: None } if !self.live.contains_key(&id) => {
                self.struck.remove(&id);
            }
            Record::Suspend { channel, host, until } => {
                let lane = (channel, host);
                match until {
                    Some(until) => drop(self.suspended.insert(lane, until)),
                    None => drop(self.suspended.remove(&lane)),
                }
            }
            record => self.change(record),
        }
    }

    /// A record that is nothing to a message that is not routed.
    pub(super) fn change(&mut self, record: Record) {
        let id = match &record {
            Record::Outcome { id, .. }
            | Record::Hold { id, .. }
            | Record::Owes { id, .. }
            | Record::Reported { id, .. }
            | Record::Strike { id, .. }
            | Record::Reroute { id, .. }
            | Record::Moved { id, .. } => *id,
            _ => return,
        };
        let Some(live) = self.live.get_mut(&id) else { return };
        match record {
            Record::Outcome { recipients, .. } => live.tell(recipients),
            Record::Hold { reason, .. } => {
                live.held_by_hand = reason.is_some();
                live.message.hold = reason;
            }
            Record::Owes { kind, recipients, due, .. } => live.owe(kind, &recipients, due),
            Record::Reported { kind, recipients, .. } => live.report(kind, &recipients),
            Record::Strike { strikes, .. } => live.message.strikes = strikes,
            Record::Reroute { routing, .. } => {
                live.reroute = (routing > live.message.routing).then_some(routing);
            }
            Record::Moved { handle, .. } => live.message.handle = handle,
            _ => {}
        }
    }
}
