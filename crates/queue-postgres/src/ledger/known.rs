//! What this owner knows of messages without asking the database, and what each record therefore is to the tables.
//!
//! ```text
//!  routed, by replay or by a record ──▶ live          ended by a record ──▶ retired, the last of them
//!  anything else: newer than the take-over ──▶ surely not routed;   older ──▶ is looked up
//! ```

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use mail::{MessageId, Timestamp};
use queue::{Handle, Record, Standing};

use super::operation::Operation;
use crate::Name;

/// So many messages that have ended are remembered.
const RETIRED_MAX: usize = 100_000;
/// By so much the clocks of the hosts may differ: an id tells the time of the host that made it.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(300);

/// What is known.
pub(super) struct Known {
    /// Messages routed and not ended, with their routing numbers.
    live: HashMap<MessageId, u32>,
    /// Messages not routed that have strikes.
    struck: HashSet<MessageId>,
    retired: HashSet<MessageId>,
    /// The same, in the order in which they ended.
    retired_in_order: VecDeque<MessageId>,
    /// What the last look-up found.
    looked_up: HashMap<MessageId, Standing>,
    /// Up to this id, a message that is nowhere here may have ended.
    unsure_through: Option<MessageId>,
}

impl Known {
    /// Knows nothing yet. `taken_over` is when this owner's time began by the database's clock; nothing when it is the first ever.
    pub(super) fn since(taken_over: Option<Timestamp>) -> Self {
        let last = |at: Timestamp| MessageId::new(at.after(CLOCKS_DIFFER_MAX), u64::MAX);
        Self {
            live: HashMap::new(),
            struck: HashSet::new(),
            retired: HashSet::new(),
            retired_in_order: VecDeque::new(),
            looked_up: HashMap::new(),
            unsure_through: taken_over.map(last),
        }
    }

    /// Takes note of what is replayed.
    pub(super) fn replayed(&mut self, record: &Record) {
        match record {
            Record::Snapshot(message) => drop(self.live.insert(message.id, message.routing)),
            Record::Strike { id, .. } => drop(self.struck.insert(*id)),
            _ => {}
        }
    }

    /// How a message stands, as far as is known: surely so if [`Known::unsure`] does not name it.
    pub(super) fn standing(&self, handle: &Handle) -> Standing {
        let Some(Name::Message(id)) = Name::parse(handle) else { return Standing::Unknown };
        if self.live.contains_key(&id) {
            Standing::Routed
        } else if self.retired.contains(&id) {
            Standing::Retired
        } else {
            self.looked_up.get(&id).copied().unwrap_or(Standing::Unknown)
        }
    }

    /// Which of these messages must be looked up.
    pub(super) fn unsure(&self, handles: &[&Handle]) -> Vec<MessageId> {
        let ids = handles.iter().filter_map(|handle| match Name::parse(handle) {
            Some(Name::Message(id)) => Some(id),
            _ => None,
        });
        ids.filter(|id| {
            let is_known = self.live.contains_key(id)
                || self.retired.contains(id)
                || self.looked_up.contains_key(id);
            !is_known && self.unsure_through.is_some_and(|through| *id <= through)
        })
        .collect()
    }

    /// Takes what a look-up found in place of what the last one did: of those asked about, those that are stored.
    pub(super) fn look_up(&mut self, asked: Vec<MessageId>, stored: &HashSet<MessageId>) {
        let standing = |id: MessageId| match stored.contains(&id) {
            true => (id, Standing::Unknown),
            false => (id, Standing::Retired),
        };
        self.looked_up = asked.into_iter().map(standing).collect();
    }

    /// What a record is to the tables; nothing when it changes nothing.
    pub(super) fn operation(&mut self, record: &Record) -> Option<Operation> {
        match record {
            Record::Routed(message) => {
                let is_older = |routing: &u32| *routing >= message.routing;
                if self.live.get(&message.id).is_some_and(is_older) {
                    return None;
                }
                Some(self.put(message))
            }
            Record::Snapshot(message) => Some(self.put(message)),
            Record::Strike { id, .. } | Record::Hold { id, .. } if !self.live.contains_key(id) => {
                self.before_routing(record)
            }
            Record::Outcome { id, .. }
            | Record::Hold { id, .. }
            | Record::Owes { id, .. }
            | Record::Reported { id, .. }
            | Record::Strike { id, .. }
            | Record::Reroute { id, .. }
            | Record::Moved { id, .. } => {
                self.live.contains_key(id).then(|| Operation::Change(record.clone()))
            }
            Record::Retired { id, .. } => {
                self.live.remove(id);
                self.looked_up.remove(id);
                self.retire(*id);
                Some(Operation::Retire { id: *id, was_struck: self.struck.remove(id) })
            }
            Record::Suspend { channel, host, until } => {
                Some(Operation::Suspend { lane: (channel.clone(), host.clone()), until: *until })
            }
        }
    }

    fn put(&mut self, message: &queue::Routed) -> Operation {
        self.looked_up.remove(&message.id);
        let is_new = self.live.insert(message.id, message.routing).is_none();
        let was_struck = self.struck.remove(&message.id);
        Operation::Put { message: Box::new(message.clone()), is_new, was_struck }
    }

    /// A record about a message that is not routed: only its strikes are kept.
    fn before_routing(&mut self, record: &Record) -> Option<Operation> {
        match record {
            Record::Strike { handle, id, strikes, hold } if *strikes > 0 => {
                self.struck.insert(*id);
                let (handle, hold) = (handle.clone(), hold.clone());
                Some(Operation::Strike { id: *id, handle, strikes: *strikes, hold })
            }
            Record::Strike { id, .. } | Record::Hold { id, reason: None } => {
                self.struck.remove(id).then_some(Operation::Forgive { id: *id })
            }
            _ => None,
        }
    }

    fn retire(&mut self, id: MessageId) {
        if self.retired.insert(id) {
            self.retired_in_order.push_back(id);
        }
        if self.retired.len() > RETIRED_MAX
            && let Some(forgotten) = self.retired_in_order.pop_front()
        {
            self.retired.remove(&forgotten);
            self.unsure_through = self.unsure_through.max(Some(forgotten));
        }
    }
}

#[cfg(test)]
mod tests {
    use queue::conformance::routed;

    use super::*;

    fn id(millis: u64, number: u64) -> MessageId {
        MessageId::new(Timestamp::from_millis(millis), number)
    }

    fn retired(id: MessageId) -> Record {
        Record::Retired { id, handle: Name::Message(id).handle() }
    }

    fn asks(known: &Known, id: MessageId) -> bool {
        !known.unsure(&[&Name::Message(id).handle()]).is_empty()
    }

    #[test]
    fn only_what_may_be_older_than_the_take_over_is_looked_up() {
        let at = 1_700_000_000_000;
        let mut known = Known::since(Some(Timestamp::from_millis(at)));
        let (old, close, new) = (id(5, 1), id(at + 299_999, 1), id(at + 300_001, 1));
        assert_eq!([old, close, new].map(|id| asks(&known, id)), [true, true, false]);
        known.look_up(vec![old, close], &HashSet::from([close]));
        assert!(!asks(&known, old) && !asks(&known, close));
        assert_eq!(known.standing(&Name::Message(old).handle()), Standing::Retired);
        assert_eq!(known.standing(&Name::Message(close).handle()), Standing::Unknown);
        known.operation(&routed(close, &Name::Message(close).handle(), 1));
        assert_eq!(known.standing(&Name::Message(close).handle()), Standing::Routed);
        known.look_up(Vec::new(), &HashSet::new());
        assert!(asks(&known, old) && !asks(&known, close));
        assert!(!asks(&Known::since(None), old), "the first owner ever knows all");
    }

    #[test]
    fn what_it_has_forgotten_is_looked_up() {
        let mut known = Known::since(None);
        for number in 0..=RETIRED_MAX as u64 {
            assert!(!asks(&known, id(number, 0)));
            known.operation(&retired(id(number, 0)));
        }
        assert_eq!(known.standing(&Name::Message(id(1, 0)).handle()), Standing::Retired);
        assert!(asks(&known, id(0, 0)), "it ended first of all");
        assert!(!asks(&known, id(RETIRED_MAX as u64 + 1, 0)));
        assert_eq!(known.retired.len(), RETIRED_MAX);
        assert_eq!(known.retired_in_order.len(), RETIRED_MAX);
    }

    #[test]
    fn a_lower_routing_and_what_names_nobody_change_nothing() {
        let mut known = Known::since(None);
        let (one, other) = (id(1, 1), id(2, 2));
        let handle = Name::Message(one).handle();
        assert!(known.operation(&routed(one, &handle, 2)).is_some());
        assert!(known.operation(&routed(one, &handle, 2)).is_none());
        assert!(known.operation(&routed(one, &handle, 1)).is_none());
        assert!(known.operation(&Record::Reroute { id: other, routing: 2 }).is_none());
        assert!(known.operation(&Record::Hold { id: other, reason: Some("x".into()) }).is_none());
        let strike =
            |strikes| Record::Strike { handle: handle.clone(), id: other, strikes, hold: None };
        assert!(known.operation(&strike(0)).is_none(), "there is none to clear");
        assert!(known.operation(&strike(1)).is_some());
        assert!(known.operation(&Record::Hold { id: other, reason: None }).is_some());
        assert!(known.operation(&Record::Hold { id: other, reason: None }).is_none());
    }
}
