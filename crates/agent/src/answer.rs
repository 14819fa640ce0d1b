//! Answers that agents have in common, and counting them.

use std::rc::Rc;

use job::deliver::{DeliverAnswer, DeliverRequest, RecipientOutcome};
use mail::{Outcome, Reply, StatusCode};
use queue::ReadError;

/// The same outcome for every recipient of a job.
pub fn answer_all(request: &DeliverRequest, outcome: &Outcome) -> DeliverAnswer {
    let of = |index| RecipientOutcome { index, outcome: outcome.clone() };
    let outcomes = request.recipients.iter().map(|recipient| of(recipient.index)).collect();
    DeliverAnswer { outcomes, ..DeliverAnswer::default() }
}

/// What a job is answered whose message cannot be read: every recipient is deferred with 4.3.0, and nothing was sent. One that
/// is damaged is to be held.
pub fn unreadable(request: &DeliverRequest, error: &ReadError) -> DeliverAnswer {
    tracing::warn!(id = %request.id, handle = %request.handle, %error, "message cannot be read");
    let text = match error {
        ReadError::Gone(..) => "message is not in the queue",
        ReadError::Damaged(..) => "message is damaged in the queue",
        ReadError::Foreign(_) => "message is in another queue",
        ReadError::Io { .. } => "queue cannot be read",
    };
    let reply = Reply::ours(StatusCode::new(4, 3, 0), text);
    DeliverAnswer { damaged: damage(error), ..answer_all(request, &Outcome::Deferred(reply)) }
}

/// What is damaged and where, for [`DeliverAnswer::damaged`]; nothing if the message is only not to be had.
pub fn damage(error: &ReadError) -> Option<String> {
    match error {
        ReadError::Damaged(_, what) => Some(what.clone()),
        ReadError::Gone(..) | ReadError::Foreign(_) | ReadError::Io { .. } => None,
    }
}

/// The counters that [`Counters::outcomes`] adds to; an agent's own `COUNTERS` contains them in this order.
pub const OUTCOME_COUNTERS: [&str; 3] =
    ["recipients_delivered_total", "recipients_deferred_total", "recipients_failed_total"];

/// Where an agent counts: its farm's scoreboard, or nowhere in a test. Cheap to clone.
#[derive(Clone)]
pub struct Counters(Rc<dyn Fn(usize, u64)>);

impl Counters {
    /// The counters of this worker.
    pub fn of(worker: &farm::Worker) -> Self {
        let worker = worker.clone();
        Self(Rc::new(move |counter, add| worker.count(counter, add)))
    }

    /// Counters of one's own.
    pub fn for_test(count: impl Fn(usize, u64) + 'static) -> Self {
        Self(Rc::new(count))
    }

    /// Adds to the counter at this position of the farm's list.
    pub fn add(&self, counter: usize, add: u64) {
        (self.0)(counter, add);
    }

    /// Counts the outcomes of an answer; [`OUTCOME_COUNTERS`] stand at `first` and behind it.
    pub fn outcomes(&self, first: usize, answer: &DeliverAnswer) {
        let mut totals = [0u64; 3];
        let [delivered, deferred, failed] = &mut totals;
        for recipient in &answer.outcomes {
            match recipient.outcome {
                Outcome::Delivered(_) => *delivered += 1,
                Outcome::Deferred(_) => *deferred += 1,
                Outcome::Failed(_) => *failed += 1,
            }
        }
        for (offset, total) in totals.into_iter().enumerate().filter(|(_, total)| *total > 0) {
            self.add(first + offset, total);
        }
    }
}
