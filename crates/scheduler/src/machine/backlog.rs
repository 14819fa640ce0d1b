//! What the ledger says, in memory: every live message and how each of its recipients stands.
//!
//! [`Backlog::apply`] is the only way in which this changes, both while working and at replay: a scheduler that replays the
//! records it wrote has the state it had. Strings that repeat (channel and host) are held once, by the lane.

mod kept;
mod message;

use std::collections::BTreeMap;

use mail::{MessageId, Timestamp};
use queue::{Handle, Record, ReportKind, Routed, State};

use self::kept::Kept;
pub(crate) use self::kept::Look;
pub(crate) use self::message::{Message, Owing, Place, Recipient, Stand};
use super::lane::Lanes;

/// Where a message is kept; used again after it has gone, so an id goes with it wherever it is kept for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) u32);

/// Messages that may be unpacked at once while many are gone through.
const UNPACKED_MAX: usize = 1000;

/// Every live message.
#[derive(Default)]
pub(crate) struct Backlog {
    by_id: BTreeMap<MessageId, Slot>,
    kept: Kept,
    /// Strikes against messages that are not routed yet.
    pub(crate) struck: BTreeMap<MessageId, Struck>,
    /// Suspended lanes and, without a host, channels; until when.
    pub(crate) suspended: BTreeMap<(String, Option<String>), Timestamp>,
    /// Recipients not final.
    pub(crate) open: u64,
    /// Messages held.
    pub(crate) held: u64,
}

/// Strikes against a message that is not routed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Struck {
    pub(crate) handle: Handle,
    pub(crate) strikes: u32,
    pub(crate) hold: Option<Box<str>>,
}

impl Backlog {
    /// How many messages there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Where a message is.
    pub(crate) fn find(&self, id: &MessageId) -> Option<Slot> {
        self.by_id.get(id).copied()
    }

    /// The messages in the order of their ids, from after `cursor` on.
    pub(crate) fn after(
        &self,
        cursor: Option<MessageId>,
    ) -> impl Iterator<Item = (MessageId, Slot)> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let begin = cursor.map_or(Unbounded, Excluded);
        self.by_id.range((begin, Unbounded)).map(|(id, slot)| (*id, *slot))
    }

    /// The messages that were held before they were routed, from after `cursor` on.
    pub(crate) fn held_unrouted(
        &self,
        cursor: Option<MessageId>,
    ) -> impl Iterator<Item = (MessageId, &Struck)> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let begin = cursor.map_or(Unbounded, Excluded);
        let all = self.struck.range((begin, Unbounded)).map(|(id, struck)| (*id, struck));
        all.filter(|(_, struck)| struck.hold.is_some())
    }

    /// The highest id.
    pub(crate) fn last(&self) -> Option<MessageId> {
        self.by_id.last_key_value().map(|(id, _)| *id)
    }

    /// The message in a slot that is known to be taken. It is unpacked until [`Backlog::pack`].
    pub(crate) fn message(&self, slot: Slot) -> &Message {
        self.kept.get(slot).expect("a slot in use holds its message")
    }

    /// The same, to change what is not written down.
    pub(crate) fn message_mut(&mut self, slot: Slot) -> &mut Message {
        self.kept.get_mut(slot).expect("a slot in use holds its message")
    }

    /// A look at the message in a slot that is known to be taken: whoever goes through many leaves them packed.
    pub(crate) fn look(&self, slot: Slot) -> Look<'_> {
        self.kept.look(slot).expect("a slot in use holds its message")
    }

    /// Whether the message in a slot, or a recipient of it, is held: known without unpacking it.
    pub(crate) fn has_hold(&self, slot: Slot) -> bool {
        self.kept.has_hold(slot)
    }

    /// The message in a slot, if it still is the one of that id.
    pub(crate) fn same(&self, slot: Slot, id: &MessageId) -> Option<&Message> {
        self.kept.get(slot).filter(|message| message.id == *id)
    }

    /// Packs the messages that were unpacked and have nothing in hand.
    pub(crate) fn pack(&mut self) {
        self.kept.pack();
    }

    /// The same, once so many are unpacked that it is worth it: while many are gone through.
    pub(crate) fn pack_many(&mut self) {
        if self.kept.unpacked() >= UNPACKED_MAX {
            self.kept.pack();
        }
    }

    /// Makes the state what a record says. Applying twice changes nothing more; what names an unknown message is ignored.
    pub(crate) fn apply(&mut self, record: &Record, lanes: &mut Lanes) {
        match record {
            Record::Routed(routed) => match self.find(&routed.id) {
                Some(slot) if self.message(slot).routing >= routed.routing => {}
                _ => self.put(routed, lanes),
            },
            Record::Snapshot(routed) => self.put(routed, lanes),
            Record::Outcome { id, recipients } => self.outcome(id, recipients),
            Record::Hold { id, reason } => {
                if let Some(slot) = self.find(id) {
                    self.set_hold(slot, reason.as_deref());
                } else if reason.is_none() {
                    self.struck.remove(id);
                }
            }
            Record::Owes { id, kind, recipients, due } => self.owes(id, *kind, recipients, *due),
            Record::Reported { id, kind, recipients } => self.reported(id, *kind, recipients),
            Record::Strike { handle, id, strikes, hold } => match self.find(id) {
                Some(slot) => self.message_mut(slot).strikes = *strikes,
                None if *strikes == 0 => drop(self.struck.remove(id)),
                None => {
                    let hold = hold.as_deref().map(Into::into);
                    let struck = Struck { handle: handle.clone(), strikes: *strikes, hold };
                    self.struck.insert(*id, struck);
                }
            },
            Record::Reroute { id, routing } => {
                if let Some(slot) = self.find(id) {
                    let message = self.message_mut(slot);
                    message.reroute = (*routing > message.routing).then_some(*routing);
                }
            }
            Record::Moved { id, handle } => {
                if let Some(slot) = self.find(id) {
                    self.message_mut(slot).handle = handle.clone();
                }
            }
            Record::Retired { id, .. } => {
                self.struck.remove(id);
                self.remove(id, lanes);
            }
            Record::Suspend { channel, host, until } => {
                let lane = (channel.clone(), host.clone());
                match until {
                    Some(until) => drop(self.suspended.insert(lane, *until)),
                    None => drop(self.suspended.remove(&lane)),
                }
            }
        }
    }

    fn put(&mut self, routed: &Routed, lanes: &mut Lanes) {
        // The new one first, so that lanes that both name stay.
        let message = Message::new(routed, lanes);
        self.remove(&routed.id, lanes);
        self.struck.remove(&routed.id);
        self.open += u64::from(message.open);
        self.held += u64::from(message.hold.is_some());
        let slot = self.kept.put(message);
        self.by_id.insert(routed.id, slot);
    }

    fn remove(&mut self, id: &MessageId, lanes: &mut Lanes) {
        let Some(slot) = self.by_id.remove(id) else { return };
        let Some(message) = self.kept.take(slot) else { return };
        self.open -= u64::from(message.open);
        self.held -= u64::from(message.hold.is_some());
        for recipient in &message.recipients {
            lanes.release(recipient.lane);
        }
    }

    fn outcome(&mut self, id: &MessageId, recipients: &[(u32, State)]) {
        let Some(slot) = self.find(id) else { return };
        let message = self.message_mut(slot);
        let before = message.open;
        for (index, state) in recipients {
            let Some(recipient) = message.recipient_mut(*index) else { continue };
            let open = recipient.is_open();
            recipient.set_state(state);
            recipient.quarantined = false;
            match (open, recipient.is_open()) {
                (true, false) => message.open -= 1,
                (false, true) => message.open += 1,
                _ => {}
            }
        }
        let after = message.open;
        self.open = self.open + u64::from(after) - u64::from(before);
    }

    fn set_hold(&mut self, slot: Slot, reason: Option<&str>) {
        let message = self.message_mut(slot);
        let before = message.hold.is_some();
        message.hold = reason.map(Into::into);
        message.quarantined = false;
        self.held = self.held + u64::from(reason.is_some()) - u64::from(before);
    }

    fn owes(&mut self, id: &MessageId, kind: ReportKind, recipients: &[u32], due: Timestamp) {
        let Some(slot) = self.find(id) else { return };
        let message = self.message_mut(slot);
        if kind == ReportKind::Delay {
            for index in recipients {
                if let Some(recipient) = message.recipient_mut(*index) {
                    recipient.delay_reported = true;
                }
            }
        }
        match message.owing.iter_mut().find(|owing| owing.kind == kind) {
            Some(owing) => {
                owing.recipients.extend_from_slice(recipients);
                owing.recipients.sort_unstable();
                owing.recipients.dedup();
                owing.due = due;
            }
            None => message.owing.push(Owing::new(kind, recipients.to_vec(), due)),
        }
    }

    fn reported(&mut self, id: &MessageId, kind: ReportKind, recipients: &[u32]) {
        let Some(slot) = self.find(id) else { return };
        for owing in self.message_mut(slot).owing.iter_mut().filter(|owing| owing.kind == kind) {
            owing.recipients.retain(|index| !recipients.contains(index));
        }
        self.message_mut(slot).owing.retain(|owing| !owing.recipients.is_empty());
    }
}
