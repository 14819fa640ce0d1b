//! The ledger without its thread: a simulation makes the machine's turns, with a clock of its own.

use std::io;
use std::sync::Arc;

use queue::{LedgerError, Record};

use super::log;
use super::machine::{Answer, Event, LedgerMachine};
use super::{Running, SpoolLedger, Waiter};
use crate::disk::DiskFile;
use crate::thread::{Machine as _, Next, Now};

/// The machine, and what it was asked since its last turn.
pub(super) struct ByHand {
    machine: LedgerMachine<Waiter>,
    pub(super) events: Vec<Event<Waiter>>,
}

impl ByHand {
    fn new(machine: LedgerMachine<Waiter>) -> Self {
        Self { machine, events: Vec::new() }
    }
}

impl SpoolLedger {
    /// As [`queue::Ledger::replay`], at once, and no thread is started. A checkpoint is worth it after so many bytes.
    pub fn replay_by_hand(
        &self,
        now: Now,
        checkpoint_bytes_min: u64,
        apply: &mut dyn FnMut(Record),
    ) -> Result<(), LedgerError> {
        self.shared.worth_bytes.set(Some(checkpoint_bytes_min));
        let Some(found) = self.found.borrow_mut().take() else { return Ok(()) };
        let mut endings = Vec::new();
        for log in found.logs.get(found.start..).unwrap_or_default() {
            log::replay(log, &self.layout, &self.book.standings, apply, &mut endings)?;
        }
        self.note_replayed(&found);
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        let standings = self.book.standings.clone();
        let machine =
            LedgerMachine::go_on(disk, layout, self.limits, standings, found, endings, now)?;
        self.shared.spare.set(machine.spare());
        *self.running.borrow_mut() = Some(Running::ByHand(Box::new(ByHand::new(machine))));
        Ok(())
    }

    /// One turn of the machine. Futures of this ledger that it resolves are to be polled after it.
    pub fn turn(&self, now: Now) -> Next {
        let mut answers = Vec::new();
        let next = self.by_hand(|hand| hand.machine.turn(now, &mut hand.events, &mut answers));
        self.take_all(answers);
        next.unwrap_or(Next::Event)
    }

    /// Whether something was asked since the last turn.
    pub fn is_asked(&self) -> bool {
        self.by_hand(|hand| !hand.events.is_empty()).unwrap_or(false)
    }

    /// The file of which a sync is to begin now, beside the turns.
    pub fn to_sync(&self) -> Option<Arc<dyn DiskFile>> {
        self.by_hand(|hand| hand.machine.to_sync()).flatten()
    }

    /// That sync has ended.
    pub fn sync_ended(&self, now: Now, result: io::Result<()>) {
        let mut answers = Vec::new();
        self.by_hand(|hand| hand.machine.synced(now, result, &mut answers));
        self.take_all(answers);
    }

    /// Ends it in order; no sync is under way.
    pub fn close_by_hand(&self, now: Now) {
        let mut answers = Vec::new();
        self.by_hand(|hand| {
            hand.machine.turn(now, &mut hand.events, &mut answers);
            hand.machine.close(now, &mut answers);
        });
        self.take_all(answers);
    }

    fn take_all(&self, answers: Vec<Answer<Waiter>>) {
        answers.into_iter().for_each(|answer| self.shared.take(answer));
    }

    fn by_hand<A>(&self, work: impl FnOnce(&mut ByHand) -> A) -> Option<A> {
        match &mut *self.running.borrow_mut() {
            Some(Running::ByHand(hand)) => Some(work(hand)),
            _ => None,
        }
    }
}
