//! Reports owed to senders: when they are due, and the jobs that write them.
//!
//! ```text
//!  owed ── record synced ──▶ waiting in the lane of channel `error` ── due ──▶ in hand ── delivered ──▶ reported
//!    ▲                                     ▲                                      │
//!    └── more recipients fail              └────────── deferred: by the schedule ─┘
//! ```

use job::deliver::Report;
use mail::{Outcome, Reply, StatusCode, Timestamp};
use queue::{Record, ReportKind};

use super::answer::Missing;
use super::backlog::{Message, Place, Recipient, Slot, Stand};
use super::dispatch::Job;
use super::lane::Entry;
use super::{Scheduler, Turn, retry};

/// The channel whose agent writes reports.
pub(super) const CHANNEL: &str = "error";
/// The most recipients in one report: their outcomes must fit into a frame.
const RECIPIENTS_MAX: usize = 200;
/// From here on, the index of something that waits in a lane is a report's kind.
pub(super) const REPORTS: u32 = u32::MAX - 2;

/// Whether what waits is a report.
pub(super) fn is_report(index: u32) -> bool {
    index >= REPORTS
}

/// The kind of report that an index stands for.
pub(super) fn kind_of(index: u32) -> Option<ReportKind> {
    match index.checked_sub(REPORTS)? {
        0 => Some(ReportKind::Failure),
        1 => Some(ReportKind::Delay),
        _ => Some(ReportKind::Success),
    }
}

fn index_of(kind: ReportKind) -> u32 {
    REPORTS
        + match kind {
            ReportKind::Failure => 0,
            ReportKind::Delay => 1,
            ReportKind::Success => 2,
        }
}

impl Scheduler {
    /// Owes the sender a report about these recipients too; one that waits already keeps its time.
    pub(super) fn owe(
        &mut self,
        turn: &mut Turn<'_>,
        slot: Slot,
        kind: ReportKind,
        recipients: Vec<u32>,
        due: Timestamp,
    ) {
        let message = self.backlog.message(slot);
        let id = message.id;
        let due = message.owing(kind).map_or(due, |owing| match owing.place {
            Place::InHand(_) => due,
            _ => due.min(owing.due),
        });
        self.record(turn, Record::Owes { id, kind, recipients, due });
        self.await_sync(turn, slot, kind);
    }

    /// Has a report wait until everything recorded so far has synced.
    fn await_sync(&mut self, turn: &mut Turn<'_>, slot: Slot, kind: ReportKind) {
        self.leave_report(turn, slot, kind);
        let batch = self.batch;
        let message = self.backlog.message_mut(slot);
        let id = message.id;
        let owing = message.owing_mut(kind).filter(|owing| owing.place == Place::Parked);
        if let Some(owing) = owing {
            owing.recorded = batch;
            self.unsynced.push_back((batch, slot, id, kind));
            turn.actions.sync = true;
        }
    }

    /// Has every report of a message wait for its time: after a start, or when a hold has ended.
    pub(super) fn place_reports(&mut self, turn: &mut Turn<'_>, slot: Slot) {
        for kind in [ReportKind::Failure, ReportKind::Delay, ReportKind::Success] {
            let message = self.backlog.message(slot);
            if message.owing(kind).is_some_and(|owing| owing.place == Place::Parked) {
                self.await_sync(turn, slot, kind);
            }
        }
    }

    /// Takes the reports of a message that was held out of the lane.
    pub(super) fn park_reports(&mut self, turn: &mut Turn<'_>, slot: Slot) {
        for kind in [ReportKind::Failure, ReportKind::Delay, ReportKind::Success] {
            self.leave_report(turn, slot, kind);
        }
    }

    pub(super) fn leave_report(&mut self, turn: &mut Turn<'_>, slot: Slot, kind: ReportKind) {
        let message = self.backlog.message_mut(slot);
        let accepted_at = message.accepted_at;
        let Some(owing) = message.owing_mut(kind) else { return };
        if let Place::Waiting(due) = owing.place {
            owing.place = Place::Parked;
            let entry = Entry { due, accepted_at, slot, index: index_of(kind) };
            self.leave(turn.now, self.report_lane, entry);
        }
    }

    /// Everything up to a batch has synced: reports recorded until then may be sent when they are due.
    pub(super) fn synced(&mut self, turn: &mut Turn<'_>, batch: u64) {
        while let Some((_, slot, id, kind)) =
            self.unsynced.front().copied().filter(|(recorded, ..)| *recorded <= batch)
        {
            self.unsynced.pop_front();
            let Some(message) = self.backlog.same(slot, &id) else { continue };
            let all_final = message.open == 0;
            let held = message.hold.is_some();
            let Some(owing) = message.owing(kind) else { continue };
            // A later record about the same report stands further behind.
            if owing.place == Place::Parked && owing.recorded <= batch && !held {
                let due = if all_final { turn.now.wall } else { owing.due };
                let due = self.due(turn.now, due);
                self.wait_report(turn, slot, kind, due);
            }
        }
    }

    fn wait_report(&mut self, turn: &mut Turn<'_>, slot: Slot, kind: ReportKind, due: u64) {
        let due = due.max(self.not_before(&self.backlog.message(slot).id));
        let message = self.backlog.message_mut(slot);
        let accepted_at = message.accepted_at;
        let Some(owing) = message.owing_mut(kind) else { return };
        owing.place = Place::Waiting(due);
        let entry = Entry { due, accepted_at, slot, index: index_of(kind) };
        self.enter(turn.now, self.report_lane, entry, false);
    }

    /// All recipients are final: what is owed is due now.
    pub(super) fn hasten_reports(&mut self, turn: &mut Turn<'_>, slot: Slot) {
        for kind in [ReportKind::Failure, ReportKind::Delay, ReportKind::Success] {
            let waiting = self.backlog.message(slot).owing(kind).map(|owing| owing.place);
            if matches!(waiting, Some(Place::Waiting(due)) if due > turn.now.mono) {
                self.leave_report(turn, slot, kind);
                self.wait_report(turn, slot, kind, turn.now.mono);
            }
        }
    }

    /// Chooses whom the report that was just taken in hand is about; nothing if there is nothing left to say.
    pub(super) fn report_recipients(
        &mut self,
        turn: &mut Turn<'_>,
        slot: Slot,
        kind: ReportKind,
    ) -> Option<Vec<u32>> {
        let message = self.backlog.message(slot);
        let owing = message.owing(kind)?;
        let (said, stale): (Vec<u32>, Vec<u32>) =
            owing.recipients.iter().copied().partition(|index| {
                message.recipient(*index).is_some_and(|recipient| has_news(recipient, kind))
            });
        let id = message.id;
        if said.is_empty() {
            if let Some(owing) = self.backlog.message_mut(slot).owing_mut(kind) {
                owing.place = Place::Parked;
            }
            self.reported(turn, slot, Record::Reported { id, kind, recipients: stale });
            return None;
        }
        let most = RECIPIENTS_MAX.min(self.lanes.lane(self.report_lane).job_recipients as usize);
        Some(said.into_iter().take(most.max(1)).collect())
    }

    /// What is said about a recipient in a report.
    pub(super) fn reported_outcome(&self, recipient: &Recipient) -> Option<Outcome> {
        match &recipient.stand {
            Stand::Open | Stand::Held(_) => {
                let lane = self.lanes.lane(recipient.lane).last.as_deref();
                let last = recipient.last.as_deref().or(lane).cloned();
                let none = || Reply::ours(StatusCode::new(4, 4, 0), "not delivered yet");
                Some(Outcome::Deferred(last.unwrap_or_else(none)))
            }
            Stand::Delivered(delivered) => Some(Outcome::Delivered((**delivered).clone())),
            Stand::Failed(reply) => Some(Outcome::Failed((**reply).clone())),
            Stand::Removed => None,
        }
    }

    /// What kind of report a job asks for.
    pub(super) fn report(&self, message: &Message, kind: ReportKind) -> Report {
        let until = message.accepted_at.after(self.settings.expire.0);
        Report { kind, will_retry_until: (kind == ReportKind::Delay).then_some(until) }
    }

    /// Takes what became of a job that was to write a report.
    pub(super) fn take_report_outcomes(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        job: &Job,
        kind: ReportKind,
        outcomes: &[(u32, Outcome)],
        missing: Missing,
    ) {
        let id = job.id;
        let mut written = Vec::new();
        let mut deferred = matches!(missing, Missing::Deferred(_));
        for (index, outcome) in outcomes.iter().filter(|(index, _)| job.recipients.contains(index))
        {
            match outcome {
                Outcome::Delivered(_) => written.push(*index),
                Outcome::Failed(reply) => {
                    tracing::error!(%id, status = %reply.status, reply = %reply.text.escape_debug(), "a report could not be written and is given up");
                    written.push(*index);
                }
                Outcome::Deferred(_) => deferred = true,
            }
        }
        deferred &= written.len() < job.recipients.len();
        if let Some(owing) = self.backlog.message_mut(job.slot).owing_mut(kind)
            && owing.place == Place::InHand(number)
        {
            owing.place = Place::Parked;
            owing.count = if deferred { owing.count.saturating_add(1) } else { 0 };
            owing.tried_since = deferred.then(|| owing.tried_since.unwrap_or(job.sent.mono));
        }
        if deferred && self.is_hopeless(turn.now.mono, job, kind) {
            tracing::error!(%id, recipients = job.recipients.len(), "a report could not be written in time and is given up");
            written = job.recipients.clone();
        }
        if !written.is_empty() {
            self.counts.reports += 1;
            self.leave_report(turn, job.slot, kind);
            self.reported(turn, job.slot, Record::Reported { id, kind, recipients: written });
        }
        self.retry_report(turn, job, kind, deferred);
    }

    /// Whether a report was tried for as long as a message is: not by the wall clock, which may have jumped.
    fn is_hopeless(&self, now: u64, job: &Job, kind: ReportKind) -> bool {
        let owing = self.backlog.same(job.slot, &job.id).and_then(|message| message.owing(kind));
        let since = owing.and_then(|owing| owing.tried_since);
        since.is_some_and(|at| now.saturating_sub(at) >= retry::millis(self.settings.expire))
    }

    /// Has what is left of a report wait again.
    fn retry_report(&mut self, turn: &mut Turn<'_>, job: &Job, kind: ReportKind, deferred: bool) {
        let Some(message) = self.backlog.same(job.slot, &job.id) else { return };
        let Some(owing) = message.owing(kind) else { return };
        if owing.place != Place::Parked || message.hold.is_some() {
            return;
        }
        if deferred {
            let wait = retry::delay(&self.settings, owing.count);
            self.wait_report(turn, job.slot, kind, turn.now.mono.saturating_add(wait));
        } else {
            self.await_sync(turn, job.slot, kind);
        }
    }

    /// Puts a report back that is in the hand of a job without an answer.
    pub(super) fn free_report(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        slot: Slot,
        kind: ReportKind,
        due: u64,
    ) {
        let message = self.backlog.message_mut(slot);
        let held = message.hold.is_some();
        let Some(owing) = message.owing_mut(kind) else { return };
        if owing.place == Place::InHand(number) {
            owing.place = Place::Parked;
            if !held {
                self.wait_report(turn, slot, kind, due);
            }
        }
    }

    /// Writes down that nothing is owed about these recipients any more, and ends the message if that was all.
    pub(super) fn reported(&mut self, turn: &mut Turn<'_>, slot: Slot, record: Record) {
        self.backlog.apply(&record, &mut self.lanes);
        if self.backlog.message(slot).has_ended() {
            self.retire(turn, slot);
        } else {
            turn.actions.records.push(record);
        }
    }
}

/// Whether a report of that kind still is true of a recipient.
fn has_news(recipient: &Recipient, kind: ReportKind) -> bool {
    match kind {
        ReportKind::Failure => matches!(recipient.stand, Stand::Failed(_)),
        ReportKind::Delay => recipient.is_open(),
        ReportKind::Success => matches!(recipient.stand, Stand::Delivered(_)),
    }
}
