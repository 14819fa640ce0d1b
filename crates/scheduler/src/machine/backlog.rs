//! What the ledger says, in memory: every live message and how each of its recipients stands.
//!
//! [`Backlog::apply`] is the only way in which this changes, both while working and at replay: a scheduler that replays the
//! records it wrote has the state it had. Strings that repeat (channel and host) are held once, by the lane.

use std::collections::BTreeMap;

use mail::{Address, BodyType, Delivered, MessageId, Notify, Reply, Ret, Timestamp};
use queue::{Attempt, Handle, Owed, Record, ReportKind, Routed, RoutedRecipient, State};

use super::lane::{LaneId, Lanes};

/// Where a message is kept; used again after it has gone, so an id goes with it wherever it is kept for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) u32);

/// Every live message.
#[derive(Default)]
pub(crate) struct Backlog {
    by_id: BTreeMap<MessageId, Slot>,
    slots: Vec<Option<Box<Message>>>,
    free: Vec<Slot>,
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

/// A live message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) id: MessageId,
    pub(crate) handle: Handle,
    pub(crate) routing: u32,
    /// The routing number that an operator asked for.
    pub(crate) reroute: Option<u32>,
    pub(crate) sender: Option<Address>,
    pub(crate) size: u64,
    pub(crate) accepted_at: Timestamp,
    pub(crate) body: BodyType,
    pub(crate) smtputf8: bool,
    pub(crate) ret: Option<Ret>,
    pub(crate) envid: Option<Box<str>>,
    pub(crate) hold: Option<Box<str>>,
    /// Whether the hold came with the routing: only such a hold ends by itself.
    pub(crate) quarantined: bool,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) owing: Vec<Owing>,
    pub(crate) strikes: u32,
    /// Recipients not final.
    pub(crate) open: u32,
}

/// A recipient of a live message.
#[derive(Debug)]
pub(crate) struct Recipient {
    pub(crate) index: u32,
    pub(crate) lane: LaneId,
    pub(crate) address: Address,
    /// Nothing when it is the address.
    user: Option<Box<str>>,
    details: Option<Box<Details>>,
    pub(crate) count: u32,
    pub(crate) delay_reported: bool,
    /// Whether it came held with the routing.
    pub(crate) quarantined: bool,
    /// Not written down: connections lost with it in hand since the last answer.
    pub(crate) losses: u8,
    pub(crate) next: Timestamp,
    pub(crate) last: Option<Box<Reply>>,
    pub(crate) stand: Stand,
    /// Not written down: where it is at this moment.
    pub(crate) place: Place,
}

/// What most recipients lack.
#[derive(Debug)]
struct Details {
    original: Option<Address>,
    orcpt: Option<Box<str>>,
    notify: Option<Notify>,
}

/// [`State`] without what [`Recipient`] holds beside it.
#[derive(Debug)]
pub(crate) enum Stand {
    Open,
    Held(Box<str>),
    Delivered(Box<Delivered>),
    Failed(Box<Reply>),
    Removed,
}

/// Where an open recipient, or a report owed, is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Place {
    /// Nowhere: final, held, or a report whose record has not been synced.
    #[default]
    Parked,
    /// In its lane, due at this point of the monotonic clock.
    Waiting(u64),
    /// In the job of this number.
    InHand(u64),
}

/// A report owed, one per kind and message.
#[derive(Debug)]
pub(crate) struct Owing {
    pub(crate) kind: ReportKind,
    pub(crate) recipients: Vec<u32>,
    pub(crate) due: Timestamp,
    /// Not written down: attempts at it that were deferred.
    pub(crate) count: u32,
    /// Not written down: connections lost with it in hand since the last answer.
    pub(crate) losses: u8,
    /// Not written down: when the first of those attempts was made, on the monotonic clock.
    pub(crate) tried_since: Option<u64>,
    /// Not written down: the batch of its last record.
    pub(crate) recorded: u64,
    /// Not written down.
    pub(crate) place: Place,
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

    /// The message in a slot that is known to be taken.
    pub(crate) fn message(&self, slot: Slot) -> &Message {
        self.get(slot).expect("a slot in use holds its message")
    }

    /// The same, to change what is not written down.
    pub(crate) fn message_mut(&mut self, slot: Slot) -> &mut Message {
        self.slots
            .get_mut(slot.0 as usize)
            .and_then(Option::as_deref_mut)
            .expect("a slot in use holds its message")
    }

    fn get(&self, slot: Slot) -> Option<&Message> {
        self.slots.get(slot.0 as usize)?.as_deref()
    }

    /// The message in a slot, if it still is the one of that id.
    pub(crate) fn same(&self, slot: Slot, id: &MessageId) -> Option<&Message> {
        self.get(slot).filter(|message| message.id == *id)
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
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(u32::try_from(self.slots.len() - 1).expect("fewer messages than 2^32"))
        });
        if let Some(place) = self.slots.get_mut(slot.0 as usize) {
            *place = Some(Box::new(message));
        }
        self.by_id.insert(routed.id, slot);
    }

    fn remove(&mut self, id: &MessageId, lanes: &mut Lanes) {
        let Some(slot) = self.by_id.remove(id) else { return };
        let Some(message) = self.slots.get_mut(slot.0 as usize).and_then(Option::take) else {
            return;
        };
        self.free.push(slot);
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

impl Owing {
    fn new(kind: ReportKind, recipients: Vec<u32>, due: Timestamp) -> Self {
        Self {
            kind,
            recipients,
            due,
            count: 0,
            losses: 0,
            tried_since: None,
            recorded: 0,
            place: Place::Parked,
        }
    }
}

impl Message {
    fn new(routed: &Routed, lanes: &mut Lanes) -> Self {
        let recipients: Vec<Recipient> =
            routed.recipients.iter().map(|routed| Recipient::new(routed, lanes)).collect();
        let open = recipients.iter().filter(|recipient| recipient.is_open()).count();
        Self {
            id: routed.id,
            handle: routed.handle.clone(),
            routing: routed.routing,
            reroute: None,
            sender: routed.sender.clone(),
            size: routed.size,
            accepted_at: routed.accepted_at,
            body: routed.body,
            smtputf8: routed.smtputf8,
            ret: routed.ret,
            envid: routed.envid.as_deref().map(Into::into),
            hold: routed.hold.as_deref().map(Into::into),
            quarantined: routed.hold.is_some(),
            recipients,
            owing: routed
                .owed
                .iter()
                .map(|owed| Owing::new(owed.kind, owed.recipients.clone(), owed.due))
                .collect(),
            strikes: routed.strikes,
            open: u32::try_from(open).unwrap_or(u32::MAX),
        }
    }

    /// The message as the ledger writes it.
    pub(crate) fn routed(&self, lanes: &Lanes) -> Routed {
        Routed {
            id: self.id,
            handle: self.handle.clone(),
            routing: self.routing,
            sender: self.sender.clone(),
            size: self.size,
            accepted_at: self.accepted_at,
            body: self.body,
            smtputf8: self.smtputf8,
            ret: self.ret,
            envid: self.envid.as_deref().map(Into::into),
            hold: self.hold.as_deref().map(Into::into),
            recipients: self.recipients.iter().map(|recipient| recipient.routed(lanes)).collect(),
            owed: self.owing.iter().map(Owing::owed).collect(),
            strikes: self.strikes,
        }
    }

    /// What is to be written behind [`Message::routed`], so that a hold which did not come with the routing never ends by
    /// itself.
    pub(crate) fn held_by_hand(&self, of: impl Fn(u32) -> bool) -> impl Iterator<Item = Record> {
        let id = self.id;
        let hold = self.hold.as_deref().filter(|_| !self.quarantined);
        let whole = hold.map(|reason| Record::Hold { id, reason: Some(reason.into()) });
        let recipients: Vec<(u32, State)> = self
            .recipients
            .iter()
            .filter(|recipient| matches!(recipient.stand, Stand::Held(_)) && !recipient.quarantined)
            .filter(|recipient| of(recipient.index))
            .map(|recipient| (recipient.index, recipient.state()))
            .collect();
        let some = (!recipients.is_empty()).then_some(Record::Outcome { id, recipients });
        whole.into_iter().chain(some)
    }

    /// The recipient of that index.
    pub(crate) fn recipient(&self, index: u32) -> Option<&Recipient> {
        self.position(index).and_then(|position| self.recipients.get(position))
    }

    /// The same, to be changed.
    pub(crate) fn recipient_mut(&mut self, index: u32) -> Option<&mut Recipient> {
        self.position(index).and_then(|position| self.recipients.get_mut(position))
    }

    /// Recipients are sorted by index, and mostly numbered without a gap.
    fn position(&self, index: u32) -> Option<usize> {
        let guess = index as usize;
        match self.recipients.get(guess) {
            Some(recipient) if recipient.index == index => Some(guess),
            _ => self.recipients.binary_search_by_key(&index, |recipient| recipient.index).ok(),
        }
    }

    /// The report of that kind that is owed.
    pub(crate) fn owing_mut(&mut self, kind: ReportKind) -> Option<&mut Owing> {
        self.owing.iter_mut().find(|owing| owing.kind == kind)
    }

    /// The same, to look at.
    pub(crate) fn owing(&self, kind: ReportKind) -> Option<&Owing> {
        self.owing.iter().find(|owing| owing.kind == kind)
    }

    /// Whether the message may be retired.
    pub(crate) fn has_ended(&self) -> bool {
        self.open == 0 && self.owing.is_empty()
    }
}

impl Owing {
    /// As the ledger writes it.
    fn owed(&self) -> Owed {
        Owed { kind: self.kind, recipients: self.recipients.clone(), due: self.due }
    }
}

impl Recipient {
    fn new(routed: &RoutedRecipient, lanes: &mut Lanes) -> Self {
        let details = (routed.original.is_some()
            || routed.orcpt.is_some()
            || routed.notify.is_some())
        .then(|| {
            Box::new(Details {
                original: routed.original.clone(),
                orcpt: routed.orcpt.as_deref().map(Into::into),
                notify: routed.notify,
            })
        });
        let user = (routed.user != routed.address.as_str()).then(|| routed.user.as_str().into());
        let mut recipient = Self {
            index: routed.index,
            lane: lanes.hold(&routed.channel, &routed.host),
            address: routed.address.clone(),
            user,
            details,
            count: 0,
            delay_reported: false,
            losses: 0,
            quarantined: matches!(routed.state, State::Held { .. }),
            next: Timestamp::default(),
            last: None,
            stand: Stand::Open,
            place: Place::Parked,
        };
        recipient.set_state(&routed.state);
        recipient
    }

    /// The recipient as the ledger writes it.
    pub(crate) fn routed(&self, lanes: &Lanes) -> RoutedRecipient {
        let lane = lanes.lane(self.lane);
        RoutedRecipient {
            index: self.index,
            address: self.address.clone(),
            original: self.original().cloned(),
            orcpt: self.orcpt().map(Into::into),
            notify: self.notify(),
            channel: lanes.channel_name(lane.channel).to_owned(),
            host: lane.host.to_string(),
            user: self.user().to_owned(),
            state: self.state(),
        }
    }

    fn set_state(&mut self, state: &State) {
        match state {
            State::Open(attempt) => {
                self.set_attempt(attempt);
                self.stand = Stand::Open;
            }
            State::Held { reason, then } => {
                self.set_attempt(then);
                self.stand = Stand::Held(reason.as_str().into());
            }
            State::Delivered(delivered) => {
                self.stand = Stand::Delivered(Box::new(delivered.clone()))
            }
            State::Failed(reply) => self.stand = Stand::Failed(Box::new(reply.clone())),
            State::Removed => self.stand = Stand::Removed,
        }
        if !self.is_open() {
            self.set_attempt(&Attempt::default());
        }
    }

    fn set_attempt(&mut self, attempt: &Attempt) {
        self.count = attempt.count;
        self.next = attempt.next;
        self.last = attempt.last.clone().map(Box::new);
        self.delay_reported = attempt.delay_reported;
    }

    /// Its state as the ledger writes it.
    pub(crate) fn state(&self) -> State {
        match &self.stand {
            Stand::Open => State::Open(self.attempt()),
            Stand::Held(reason) => State::Held { reason: reason.to_string(), then: self.attempt() },
            Stand::Delivered(delivered) => State::Delivered((**delivered).clone()),
            Stand::Failed(reply) => State::Failed((**reply).clone()),
            Stand::Removed => State::Removed,
        }
    }

    /// How far its attempts have come.
    pub(crate) fn attempt(&self) -> Attempt {
        Attempt {
            count: self.count,
            next: self.next,
            last: self.last.as_deref().cloned(),
            delay_reported: self.delay_reported,
        }
    }

    /// Whether it is not final: open or held.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stand, Stand::Open | Stand::Held(_))
    }

    /// Who it is to the channel.
    pub(crate) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or(self.address.as_str())
    }

    /// The address as the sender gave it, when an alias changed it.
    pub(crate) fn original(&self) -> Option<&Address> {
        self.details.as_ref()?.original.as_ref()
    }

    /// RFC 3461 ORCPT.
    pub(crate) fn orcpt(&self) -> Option<&str> {
        self.details.as_ref()?.orcpt.as_deref()
    }

    /// RFC 3461 NOTIFY.
    pub(crate) fn notify(&self) -> Option<Notify> {
        self.details.as_ref()?.notify
    }
}
