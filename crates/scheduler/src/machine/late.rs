//! Late outcomes: what agents did with jobs of a connection that ended, or of another scheduler, told by themselves.
//!
//! ```text
//!  open, waiting or in hand ── delivered, failed ──▶ final; an answer that is still due changes nothing
//!  open, and not in hand ───── deferred ───────────▶ one more attempt, unless it was counted before
//!  final, or not known ─────── anything ───────────▶ nothing
//!  routed anew since ───────── anything ───────────▶ nothing
//! ```

use job::deliver::RecipientOutcome;
use job::outcome::OutcomeRequest;
use mail::Outcome;
use queue::{Record, ReportKind, State};

use super::answer::{reply_of, shorten};
use super::backlog::{Place, Slot};
use super::{Scheduler, Turn};

impl Scheduler {
    /// Takes what became of recipients, as facts.
    pub(super) fn take_late_outcomes(&mut self, turn: &mut Turn<'_>, mut request: OutcomeRequest) {
        let Some(slot) = self.backlog.find(&request.id) else { return };
        request.outcomes.iter_mut().for_each(|one| shorten(reply_of(&mut one.outcome)));
        request.outcomes.sort_by_key(|one| one.index);
        request.outcomes.dedup_by_key(|one| one.index);
        tracing::info!(id = %request.id, recipients = request.outcomes.len(), report = ?request.report, "told late what became of it");
        self.clear_strikes(turn, slot, &request.id);
        match request.report {
            Some(kind) => self.take_late_report(turn, slot, kind, &request.outcomes),
            None if self.backlog.message(slot).routing != request.routing => {
                // A number may be another recipient's now: who was open then may be sent to again, but nobody is left out.
                tracing::warn!(id = %request.id, routing = request.routing, "it was routed anew since: not taken");
            }
            None => self.take_late_deliveries(turn, slot, request.attempt, request.outcomes),
        }
    }

    fn take_late_deliveries(
        &mut self,
        turn: &mut Turn<'_>,
        slot: Slot,
        attempt: u32,
        outcomes: Vec<RecipientOutcome>,
    ) {
        let mut changes: Vec<(u32, State)> = Vec::new();
        let mut lanes = Vec::new();
        for RecipientOutcome { index, outcome } in outcomes {
            let message = self.backlog.message(slot);
            let Some(recipient) = message.recipient(index).filter(|one| one.is_open()) else {
                continue;
            };
            let state = match outcome {
                Outcome::Delivered(delivered) => {
                    self.counts.delivered += 1;
                    State::Delivered(delivered)
                }
                Outcome::Failed(reply) => State::Failed(reply),
                Outcome::Deferred(reply) => {
                    let is_in_hand = matches!(recipient.place, Place::InHand(_));
                    let is_counted = recipient.count >= attempt || recipient.next > turn.now.wall;
                    if is_in_hand || is_counted {
                        continue;
                    }
                    lanes.push(recipient.lane);
                    let state = self.later(turn.now, slot, recipient, &reply);
                    self.counts.deferred += 1;
                    state
                }
            };
            changes.push((index, state));
        }
        if !changes.is_empty() {
            self.change(turn, slot, changes);
        }
        for lane in lanes {
            if self.lanes.get(lane).is_some() {
                self.plan_review(turn.now, lane);
            }
        }
    }

    /// A report was committed as a message: it is not owed any more. One that could not be is written anew, as it is owed.
    fn take_late_report(
        &mut self,
        turn: &mut Turn<'_>,
        slot: Slot,
        kind: ReportKind,
        outcomes: &[RecipientOutcome],
    ) {
        let is_written = |one: &&RecipientOutcome| matches!(one.outcome, Outcome::Delivered(_));
        let message = self.backlog.message(slot);
        let Some(owing) = message.owing(kind) else { return };
        let written = outcomes.iter().filter(is_written).map(|one| one.index);
        let recipients: Vec<u32> = written.filter(|one| owing.recipients.contains(one)).collect();
        if recipients.is_empty() {
            return;
        }
        let id = message.id;
        self.counts.reports += 1;
        self.leave_report(turn, slot, kind);
        self.reported(turn, slot, Record::Reported { id, kind, recipients });
        if self.backlog.same(slot, &id).is_some() {
            self.place_reports(turn, slot);
        }
    }
}
