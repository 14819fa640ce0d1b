//! Records as the tables take them, and many of them folded into one batch: what a message is at its end is what is written.
//!
//! ```text
//!  put, changed, changed ──▶ put, as changed        changed, changed ──▶ changed once
//!  put, changed, retired ──▶ retired: its rows are deleted, if there are any
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mail::{MessageId, Timestamp};
use queue::{Handle, Owed, Record, ReportKind, Routed, State};

/// A lane's channel and host; without a host, all of the channel.
pub(crate) type Lane = (String, Option<String>);

/// A record, with what is known of the rows that it meets.
#[derive(Debug)]
pub(crate) enum Operation {
    /// A message is what is said here. New: it has no rows yet.
    Put { message: Box<Routed>, is_new: bool, was_struck: bool },
    /// A message that has rows changes.
    Change(Record),
    /// A message ends.
    Retire { id: MessageId, was_struck: bool },
    /// A message that has no rows has strikes.
    Strike { id: MessageId, handle: Handle, strikes: u32, hold: Option<String> },
    /// And has none any more.
    Forgive { id: MessageId },
    /// A lane is suspended, or not any more.
    Suspend { lane: Lane, until: Option<Timestamp> },
}

/// What a transaction is to make of the tables, in the order of ids: transactions that lock rows in one order never wait for each other
/// in a circle.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) puts: BTreeMap<MessageId, Put>,
    pub(super) changes: BTreeMap<MessageId, Change>,
    pub(super) retired: BTreeSet<MessageId>,
    /// Strikes of messages without rows; nothing: they are forgiven.
    pub(super) struck: BTreeMap<MessageId, Option<Struck>>,
    pub(super) suspended: BTreeMap<Lane, Option<Timestamp>>,
}

/// A whole message.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) message: Box<Routed>,
    pub(super) held_by_hand: bool,
    /// Recipients whose state came later than the routing.
    pub(super) told: BTreeSet<u32>,
    pub(super) reroute: Option<u32>,
    /// It has no rows yet, as far as is known.
    pub(super) is_new: bool,
}

/// What changes of a message that has rows.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) hold: Option<Option<String>>,
    pub(super) strikes: Option<u32>,
    pub(super) reroute: Option<Reroute>,
    pub(super) handle: Option<Handle>,
    pub(super) owed: Option<Vec<Owed>>,
    pub(super) states: BTreeMap<u32, State>,
    /// Recipients of whose delay the sender is told, and which do not change otherwise.
    pub(super) delayed: BTreeSet<u32>,
}

/// A new routing is asked for, if it is higher than the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reroute(pub(super) u32);

/// Strikes of a message without rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Struck {
    pub(super) handle: Handle,
    pub(super) strikes: u32,
    pub(super) hold: Option<String>,
}

/// The reports that are owed now: a record tells what is added or taken away, a row what there is.
#[derive(Debug, Default)]
pub(crate) struct Owing(HashMap<MessageId, Vec<Owed>>);

impl Owing {
    pub(super) fn set(&mut self, id: MessageId, owed: &[Owed]) {
        match owed {
            [] => drop(self.0.remove(&id)),
            owed => drop(self.0.insert(id, owed.to_vec())),
        }
    }

    /// More is owed; says what is owed then.
    fn add(
        &mut self,
        id: MessageId,
        kind: ReportKind,
        recipients: &[u32],
        due: Timestamp,
    ) -> Vec<Owed> {
        let owed = self.0.entry(id).or_default();
        match owed.iter_mut().find(|owed| owed.kind == kind) {
            Some(owed) => {
                owed.recipients.extend_from_slice(recipients);
                owed.recipients.sort_unstable();
                owed.recipients.dedup();
                owed.due = due;
            }
            None => owed.push(Owed { kind, recipients: recipients.to_vec(), due }),
        }
        owed.clone()
    }

    /// Less is; says what is owed then.
    fn take(&mut self, id: MessageId, kind: ReportKind, recipients: &[u32]) -> Vec<Owed> {
        let Some(owed) = self.0.get_mut(&id) else { return Vec::new() };
        for owed in owed.iter_mut().filter(|owed| owed.kind == kind) {
            owed.recipients.retain(|index| !recipients.contains(index));
        }
        owed.retain(|owed| !owed.recipients.is_empty());
        let left = owed.clone();
        self.set(id, &left);
        left
    }
}

impl Batch {
    /// Adds an operation behind those that it has.
    pub(super) fn add(&mut self, operation: Operation, owing: &mut Owing) {
        match operation {
            Operation::Put { message, is_new, was_struck } => {
                let id = message.id;
                owing.set(id, &message.owed);
                let is_new = is_new || self.puts.get(&id).is_some_and(|before| before.is_new);
                self.changes.remove(&id);
                self.forgive(id, was_struck);
                let told = BTreeSet::new();
                let put = Put { message, held_by_hand: false, told, reroute: None, is_new };
                self.puts.insert(id, put);
            }
            Operation::Change(record) => self.change(record, owing),
            Operation::Retire { id, was_struck } => {
                owing.set(id, &[]);
                self.puts.remove(&id);
                self.changes.remove(&id);
                self.forgive(id, was_struck);
                self.retired.insert(id);
            }
            Operation::Strike { id, handle, strikes, hold } => {
                self.struck.insert(id, Some(Struck { handle, strikes, hold }));
            }
            Operation::Forgive { id } => self.forgive(id, true),
            Operation::Suspend { lane, until } => drop(self.suspended.insert(lane, until)),
        }
    }

    fn forgive(&mut self, id: MessageId, was_struck: bool) {
        if was_struck {
            self.struck.insert(id, None);
        }
    }

    fn change(&mut self, record: Record, owing: &mut Owing) {
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
        let owed = match &record {
            Record::Owes { kind, recipients, due, .. } => {
                Some(owing.add(id, *kind, recipients, *due))
            }
            Record::Reported { kind, recipients, .. } => Some(owing.take(id, *kind, recipients)),
            _ => None,
        };
        match self.puts.get_mut(&id) {
            Some(put) => put.change(record, owed),
            None => self.changes.entry(id).or_default().change(record, owed),
        }
    }
}

impl Put {
    fn change(&mut self, record: Record, owed: Option<Vec<Owed>>) {
        let message = &mut self.message;
        match record {
            Record::Outcome { recipients, .. } => {
                for (index, state) in recipients {
                    let its = message.recipients.iter_mut().find(|its| its.index == index);
                    if let Some(recipient) = its {
                        recipient.state = state;
                        self.told.insert(index);
                    }
                }
            }
            Record::Hold { reason, .. } => {
                self.held_by_hand = reason.is_some();
                message.hold = reason;
            }
            Record::Owes { kind: ReportKind::Delay, recipients, .. } => {
                let told = |index: &u32| recipients.contains(index);
                let told = message.recipients.iter_mut().filter(|its| told(&its.index));
                told.for_each(|recipient| report_delay(&mut recipient.state));
            }
            Record::Strike { strikes, .. } => message.strikes = strikes,
            Record::Reroute { routing, .. } => {
                self.reroute = (routing > message.routing).then_some(routing);
            }
            Record::Moved { handle, .. } => message.handle = handle,
            _ => {}
        }
        if let Some(owed) = owed {
            message.owed = owed;
        }
    }
}

impl Change {
    fn change(&mut self, record: Record, owed: Option<Vec<Owed>>) {
        match record {
            Record::Outcome { recipients, .. } => {
                for (index, state) in recipients {
                    self.delayed.remove(&index);
                    self.states.insert(index, state);
                }
            }
            Record::Hold { reason, .. } => self.hold = Some(reason),
            Record::Owes { kind: ReportKind::Delay, recipients, .. } => {
                for index in recipients {
                    match self.states.get_mut(&index) {
                        Some(state) => report_delay(state),
                        None => drop(self.delayed.insert(index)),
                    }
                }
            }
            Record::Strike { strikes, .. } => self.strikes = Some(strikes),
            Record::Reroute { routing, .. } => self.reroute = Some(Reroute(routing)),
            Record::Moved { handle, .. } => self.handle = Some(handle),
            _ => {}
        }
        self.owed = owed.or_else(|| self.owed.take());
    }
}

/// The sender is told of the delay of a recipient that is still to be tried.
pub(super) fn report_delay(state: &mut State) {
    if let State::Open(attempt) | State::Held { then: attempt, .. } = state {
        attempt.delay_reported = true;
    }
}

/// Whether the sender has been told of a recipient's delay.
pub(super) fn is_delay_reported(state: &State) -> bool {
    match state {
        State::Open(attempt) | State::Held { then: attempt, .. } => attempt.delay_reported,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use queue::Attempt;
    use queue::conformance::routed;

    use super::super::known::Known;
    use super::*;
    use crate::Name;

    fn id(number: u64) -> MessageId {
        MessageId::new(Timestamp::from_millis(1), number)
    }

    fn put(number: u64, routing: u32) -> Record {
        routed(id(number), &Name::Message(id(number)).handle(), routing)
    }

    fn retired(number: u64) -> Record {
        Record::Retired { id: id(number), handle: Name::Message(id(number)).handle() }
    }

    fn folded(records: &[Record], known: &mut Known) -> Batch {
        let mut batch = Batch::default();
        let mut owing = Owing::default();
        for record in records {
            if let Some(operation) = known.operation(record) {
                batch.add(operation, &mut owing);
            }
        }
        batch
    }

    #[test]
    fn a_message_that_ends_in_its_batch_leaves_deletions_only() {
        let outcome = Record::Outcome { id: id(1), recipients: vec![(0, State::Removed)] };
        let batch = folded(&[put(1, 1), outcome, retired(1)], &mut Known::since(None));
        assert!(batch.puts.is_empty() && batch.changes.is_empty() && batch.struck.is_empty());
        assert_eq!(batch.retired, BTreeSet::from([id(1)]));
    }

    #[test]
    fn changes_of_a_message_become_one() {
        let mut known = Known::since(None);
        folded(&[put(1, 1)], &mut known);
        let open = |count| State::Open(Attempt { count, ..Attempt::default() });
        let outcome = |count| Record::Outcome { id: id(1), recipients: vec![(0, open(count))] };
        let delay = Record::Owes {
            id: id(1),
            kind: ReportKind::Delay,
            recipients: vec![0, 1],
            due: Timestamp::from_millis(9),
        };
        let done = Record::Reported { id: id(1), kind: ReportKind::Delay, recipients: vec![1] };
        let hold =
            |reason: Option<&str>| Record::Hold { id: id(1), reason: reason.map(Into::into) };
        let all = [outcome(1), hold(Some("x")), outcome(2), delay.clone(), done, hold(None), delay];
        let batch = folded(&all, &mut known);
        assert!(batch.puts.is_empty());
        let change = &batch.changes[&id(1)];
        let told = Attempt { count: 2, delay_reported: true, ..Attempt::default() };
        assert_eq!(change.states, BTreeMap::from([(0, State::Open(told))]));
        assert_eq!(change.delayed, BTreeSet::from([1]));
        assert_eq!(change.hold, Some(None));
        let owed = change.owed.as_ref().map(|owed| owed[0].recipients.clone());
        assert_eq!(owed, Some(vec![0, 1]));
    }

    #[test]
    fn a_new_routing_after_a_change_finds_rows() {
        let mut known = Known::since(None);
        assert!(folded(&[put(1, 1)], &mut known).puts[&id(1)].is_new);
        let hold = Record::Hold { id: id(1), reason: Some("x".into()) };
        let batch = folded(&[hold, put(1, 2)], &mut known);
        assert!(batch.changes.is_empty(), "it is whole");
        let put = &batch.puts[&id(1)];
        assert_eq!((put.is_new, put.message.routing, &put.message.hold), (false, 2, &None));
    }

    #[test]
    fn two_routings_in_one_batch_are_one_new_message() {
        let batch = folded(&[put(1, 1), put(1, 2)], &mut Known::since(None));
        let put = &batch.puts[&id(1)];
        assert_eq!((put.is_new, put.message.routing), (true, 2));
    }

    #[test]
    fn strikes_before_a_routing_go_with_it() {
        let mut known = Known::since(None);
        let handle = Name::Message(id(1)).handle();
        let strike =
            |strikes| Record::Strike { handle: handle.clone(), id: id(1), strikes, hold: None };
        let batch = folded(&[strike(1), strike(2)], &mut known);
        assert_eq!(batch.struck[&id(1)].as_ref().map(|struck| struck.strikes), Some(2));
        let batch = folded(&[put(1, 1), strike(1)], &mut known);
        assert_eq!(batch.struck[&id(1)], None);
        assert_eq!(batch.puts[&id(1)].message.strikes, 1);
    }
}
