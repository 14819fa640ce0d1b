//! What was answered and is not known to be written down: kept until the scheduler says that it is.
//!
//! ```text
//!  answer ──▶ kept, by connection ── settled: so many ──▶ forgotten
//!                   └── the connection ends ──▶ journal ── outcome ──▶ whichever scheduler owns the ledger then
//! ```

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};

use job::deliver::{DeliverAnswer, DeliverRequest};
use job::outcome::OutcomeRequest;
use mail::Outcome;

/// The most answers that are kept of all connections together. The oldest of more are taken for written down: they are minutes old,
/// and a scheduler writes within milliseconds.
const ANSWERS_MAX: usize = 20_000;

/// The answers of a worker.
#[derive(Default)]
pub(crate) struct Kept {
    connections: RefCell<HashMap<u64, Answers>>,
}

/// The answers of a connection.
#[derive(Default)]
struct Answers {
    /// How many there were since it began.
    given: u64,
    /// Those not known to be written down, with their numbers from 1.
    unsettled: VecDeque<(u64, OutcomeRequest)>,
}

impl Kept {
    /// So many answers of a connection are written down.
    pub(crate) fn settle(&self, connection: u64, settled: u64) {
        if let Some(answers) = self.connections.borrow_mut().get_mut(&connection) {
            while answers.unsettled.front().is_some_and(|(number, _)| *number <= settled) {
                answers.unsettled.pop_front();
            }
        }
    }

    /// A job was answered; `done` is what must not be forgotten of that.
    pub(crate) fn answered(&self, connection: u64, done: Option<OutcomeRequest>) {
        let mut connections = self.connections.borrow_mut();
        let answers = connections.entry(connection).or_default();
        answers.given += 1;
        answers.unsettled.extend(done.map(|done| (answers.given, done)));
        let kept: usize = connections.values().map(|answers| answers.unsettled.len()).sum();
        if kept > ANSWERS_MAX {
            let longest = connections.values_mut().max_by_key(|answers| answers.unsettled.len());
            longest.and_then(|answers| answers.unsettled.pop_front());
        }
    }

    /// A connection has ended: gives what was not known to be written down.
    pub(crate) fn gone(&self, connection: u64) -> Vec<OutcomeRequest> {
        let answers = self.connections.borrow_mut().remove(&connection).unwrap_or_default();
        answers.unsettled.into_iter().map(|(_, done)| done).collect()
    }

    /// All connections have ended.
    pub(crate) fn all_gone(&self) -> Vec<OutcomeRequest> {
        let all = self.connections.take().into_values().flat_map(|answers| answers.unsettled);
        all.map(|(_, done)| done).collect()
    }
}

/// What of a job is told again if need be.
pub(crate) struct Facts(OutcomeRequest);

impl Facts {
    /// Those of a job whose answer alone is not enough; nothing of any other.
    pub(crate) fn of(request: &DeliverRequest) -> Option<Self> {
        request.settled.map(|_| {
            Self(OutcomeRequest {
                handle: request.handle.clone(),
                id: request.id,
                attempt: request.attempt,
                routing: request.routing,
                report: request.report.as_ref().map(|report| report.kind),
                outcomes: Vec::new(),
            })
        })
    }

    /// What an answer says that cannot be undone: recipients delivered and failed. A deferral need not be told again: who was
    /// deferred is tried again.
    pub(crate) fn done(self, answer: &DeliverAnswer) -> Option<OutcomeRequest> {
        let is_final = |outcome: &Outcome| !matches!(outcome, Outcome::Deferred(_));
        let outcomes = answer.outcomes.iter().filter(|one| is_final(&one.outcome));
        let done = OutcomeRequest { outcomes: outcomes.cloned().collect(), ..self.0 };
        (!done.outcomes.is_empty()).then_some(done)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use mail::{MessageId, Timestamp};

    use super::*;

    /// What was done with a message of this number.
    pub(crate) fn outcome(number: u64) -> OutcomeRequest {
        OutcomeRequest {
            handle: queue::Handle::parse("test:1").expect("a handle"),
            id: MessageId::new(Timestamp::from_millis(1), number),
            attempt: 1,
            routing: 1,
            report: None,
            outcomes: Vec::new(),
        }
    }

    #[test]
    fn answers_are_kept_until_they_are_written_down() {
        let kept = Kept::default();
        kept.answered(7, Some(outcome(1)));
        kept.answered(7, None);
        kept.answered(7, Some(outcome(3)));
        kept.answered(8, Some(outcome(4)));
        kept.settle(7, 2);
        kept.settle(9, 5);
        assert_eq!(kept.gone(7), [outcome(3)]);
        assert_eq!(kept.gone(7), []);
        kept.settle(8, 0);
        assert_eq!(kept.gone(8), [outcome(4)]);
        kept.answered(9, Some(outcome(5)));
        assert_eq!(kept.all_gone(), [outcome(5)]);
        assert_eq!(kept.all_gone(), []);
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let kept = Kept::default();
        for number in 0..ANSWERS_MAX as u64 + 5 {
            kept.answered(number % 2, Some(outcome(number)));
        }
        assert_eq!(kept.gone(0).len() + kept.gone(1).len(), ANSWERS_MAX);
    }
}
