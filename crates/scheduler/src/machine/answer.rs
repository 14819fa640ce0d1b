//! What became of jobs: outcomes, failures of whole destinations, lost connections.

use job::deliver::DeliverAnswer;
use mail::{Outcome, Reply, StatusCode, Timestamp};
use queue::{Attempt, Record, ReportKind, State};

use super::backlog::{Place, Recipient, Slot, Stand};
use super::dispatch::Job;
use super::strike::Casualty;
use super::{Now, Scheduler, Turn, Unanswered, retry};

/// How long a job waits that could not be sent, in milliseconds.
const NOT_SENT_MS: u64 = 200;
/// Connections lost in a row that cost a recipient nothing: it is sent again at once.
const LOSSES_FREE: u8 = 1;
/// From so many lost in a row on, each counts as an attempt that was deferred.
const LOSSES_MAX: u8 = 4;
/// How long a recipient waits after the first loss that is not free, in milliseconds; after the next four times as long.
const LOSS_MS: u64 = 1000;
/// The longest text of a reply that is kept, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// The longest name of a host in a reply that is kept, in bytes.
const REMOTE_BYTES_MAX: usize = 255;
/// The longest pause that a destination may ask for, in milliseconds.
const THROTTLE_MS_MAX: u64 = 24 * 3_600_000;
/// The delivery time has expired (RFC 3463 section 3.5).
const EXPIRED: StatusCode = StatusCode::new(5, 4, 7);
/// Something in the mail system went wrong (RFC 3463 section 3.4).
const AGENT_FAILED: StatusCode = StatusCode::new(4, 3, 0);

impl Scheduler {
    /// Takes the answer to a job, or that there is none.
    pub(super) fn answered(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        result: Result<DeliverAnswer, Unanswered>,
    ) {
        let Some(job) = self.jobs.remove(&number) else { return };
        if job.long {
            let due = job.sent.mono.saturating_add(job.deadline_ms);
            self.overdue.remove(&(due.saturating_add(super::dispatch::OVERDUE_MS), number));
        }
        self.leave_peer(number, &job);
        self.note_room(turn.now, &job, &result);
        if !job.given_up {
            self.leave_lane(turn.now, &job);
        }
        match result {
            Ok(answer) => self.take_answer(turn, number, &job, answer),
            Err(Unanswered::Refused(text)) => {
                let mut reply = Reply::ours(AGENT_FAILED, format!("the agent could not: {text}"));
                shorten(&mut reply);
                self.clear_losses(&job);
                self.take_outcomes(turn, number, &job, &[], Missing::Deferred(reply));
            }
            Err(unanswered) => self.take_back_unanswered(turn, number, job, unanswered),
        }
    }

    fn take_back_unanswered(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        job: Job,
        unanswered: Unanswered,
    ) {
        let mut due = turn.now.mono;
        match unanswered {
            Unanswered::Lost => {
                self.counts.lost += 1;
                self.casualties.lost(Casualty::of(&job, turn.now.mono));
                let losses = self.count_loss(number, &job);
                if losses >= LOSSES_MAX {
                    let text = format!("{losses} agents in a row lost their connection unanswered");
                    let missing = Missing::Deferred(Reply::ours(AGENT_FAILED, text));
                    self.take_outcomes(turn, number, &job, &[], missing);
                    return;
                }
                due = due.saturating_add(loss_pause(losses));
            }
            Unanswered::NotTaken => {
                // It says so itself, perhaps before the shell has seen that it drains.
                let channel = self.lanes.channel_mut(job.channel);
                if let Some(connected) = job.peer.and_then(|peer| channel.peer_mut(peer)) {
                    connected.peer.draining = true;
                }
            }
            Unanswered::TooLong if job.recipients.len() <= 1 => {
                let reply = Reply::ours(AGENT_FAILED, "the job does not fit into a frame");
                self.take_outcomes(turn, number, &job, &[], Missing::Deferred(reply));
                return;
            }
            Unanswered::TooLong => {
                if let Some(lane) = self.lanes.get_mut(job.lane) {
                    lane.job_recipients = (job.recipients.len() as u32 / 2).max(1);
                }
            }
            // It goes elsewhere, or waits for the worker.
            Unanswered::Full => {}
            _ => due = due.saturating_add(NOT_SENT_MS),
        }
        if !job.given_up {
            self.free_recipients(turn, number, &job, due);
        }
    }

    /// Gives up a job that waited to go out alone: its recipients go where their state says.
    pub(super) fn take_back(&mut self, turn: &mut Turn<'_>, number: u64) {
        let Some(job) = self.jobs.remove(&number) else { return };
        self.leave_lane(turn.now, &job);
        self.free_recipients(turn, number, &job, turn.now.mono);
    }

    /// Puts the recipients of a job, or the report it was to write, back where they wait.
    pub(super) fn free_recipients(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        job: &Job,
        due: u64,
    ) {
        if self.backlog.same(job.slot, &job.id).is_none() {
            return;
        }
        if let Some(kind) = job.report {
            self.free_report(turn, number, job.slot, kind, due);
            return;
        }
        for index in &job.recipients {
            self.free_recipient(turn.now, number, job.slot, *index, due);
        }
    }

    pub(super) fn free_recipient(
        &mut self,
        now: Now,
        number: u64,
        slot: Slot,
        index: u32,
        due: u64,
    ) {
        let message = self.backlog.message_mut(slot);
        let held = message.hold.is_some();
        let Some(recipient) = message.recipient_mut(index) else { return };
        if recipient.place == Place::InHand(number) {
            recipient.place = Place::Parked;
            if !held && matches!(recipient.stand, Stand::Open) {
                self.wait(now, slot, index, due);
            }
        }
    }

    /// Gives back the slot that a job held in its worker.
    fn leave_peer(&mut self, number: u64, job: &Job) {
        let channel = self.lanes.channel_mut(job.channel);
        let Some(peer) = job.peer else { return };
        channel.in_use -= 1;
        channel.slow_in_use -= u32::from(job.slow);
        if let Some(connected) = channel.peer_mut(peer) {
            connected.outstanding = connected.outstanding.saturating_sub(1);
            connected.given_up = connected.given_up.saturating_sub(u32::from(job.given_up));
        }
        channel.end_alone(number);
        self.stir(job.channel);
    }

    /// A job has left its worker. One that had no room may have some again once it has answered, or owes no answer any more.
    fn note_room(&mut self, now: Now, job: &Job, result: &Result<DeliverAnswer, Unanswered>) {
        let channel = self.lanes.channel_mut(job.channel);
        let Some(connected) = job.peer.and_then(|peer| channel.peer_mut(peer)) else { return };
        connected.full_until = match result {
            Err(Unanswered::Full) => connected.rests_until(now.mono),
            Err(Unanswered::NotSent | Unanswered::TooLong) if connected.full_until > 0 => {
                connected.rests_until(now.mono)
            }
            _ => 0,
        };
    }

    /// Counts a lost connection against what a job had in hand; says how many that makes in a row.
    fn count_loss(&mut self, number: u64, job: &Job) -> u8 {
        if self.backlog.same(job.slot, &job.id).is_none() {
            return 0;
        }
        let message = self.backlog.message_mut(job.slot);
        if let Some(kind) = job.report {
            let owing = message.owing_mut(kind).filter(|one| one.place == Place::InHand(number));
            return owing.map_or(0, |owing| {
                owing.losses = owing.losses.saturating_add(1);
                owing.losses
            });
        }
        let mut most = 0;
        for index in &job.recipients {
            if let Some(recipient) = message.recipient_mut(*index)
                && recipient.place == Place::InHand(number)
            {
                recipient.losses = recipient.losses.saturating_add(1);
                most = most.max(recipient.losses);
            }
        }
        most
    }

    /// A worker answered for what a job had in hand.
    fn clear_losses(&mut self, job: &Job) {
        if self.backlog.same(job.slot, &job.id).is_none() {
            return;
        }
        let message = self.backlog.message_mut(job.slot);
        match job.report {
            Some(kind) => {
                if let Some(owing) = message.owing_mut(kind) {
                    owing.losses = 0;
                }
            }
            None => {
                for index in &job.recipients {
                    if let Some(recipient) = message.recipient_mut(*index) {
                        recipient.losses = 0;
                    }
                }
            }
        }
    }

    /// Gives back what a job held in its lane.
    pub(super) fn leave_lane(&mut self, now: Now, job: &Job) {
        if job.peer.is_some() {
            self.in_hand -= 1;
            self.in_hand_recipients -= job.recipients.len() as u64;
        }
        let lane = self.lanes.lane_mut(job.lane);
        lane.active -= 1;
        lane.active_recipients -= job.recipients.len() as u32;
        lane.long -= u32::from(job.long);
        if lane.waiting.is_empty() {
            self.lanes.rest(job.lane);
        } else if lane.queued.is_none() {
            self.refresh(now, job.lane);
        }
    }

    fn take_answer(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        job: &Job,
        mut answer: DeliverAnswer,
    ) {
        answer.outcomes.iter_mut().for_each(|one| shorten(reply_of(&mut one.outcome)));
        answer.lane.iter_mut().for_each(shorten);
        self.clear_losses(job);
        let delivered =
            answer.outcomes.iter().any(|one| matches!(one.outcome, Outcome::Delivered(_)));
        self.clear_strikes(turn, job.slot, &job.id);
        let through = match &answer.lane {
            Some(reply) => self.lane_failed(turn, job, reply),
            None => {
                self.lane_answered(turn.now, job, !answer.outcomes.is_empty(), delivered);
                None
            }
        };
        if let (Some(seconds), Some(lane)) = (answer.throttle, self.lanes.get_mut(job.lane)) {
            let pause = (u64::from(seconds) * 1000).min(THROTTLE_MS_MAX);
            lane.not_before = lane.not_before.max(turn.now.mono.saturating_add(pause));
        }
        if let Some(what) = answer.damaged {
            self.hold_damaged(turn, job, what);
        }
        let mut outcomes: Vec<(u32, Outcome)> =
            answer.outcomes.into_iter().map(|one| (one.index, one.outcome)).collect();
        outcomes.sort_by_key(|(index, _)| *index);
        let missing = match answer.lane {
            Some(reply) => Missing::LaneFailed(reply),
            None => Missing::Deferred(Reply::ours(AGENT_FAILED, "the agent did not say")),
        };
        self.take_outcomes(turn, number, job, &outcomes, missing);
        if let Some(through) = through {
            self.expire_waiting(turn, job.lane, through);
        }
        if self.lanes.get(job.lane).is_some_and(|lane| lane.failures > 0) {
            self.plan_review(turn.now, job.lane);
        }
        self.refresh(turn.now, job.lane);
    }

    /// Holds a message that its agent could not read whole: it would fail in the same way each time, and an operator may be able
    /// to help. A report is written without the message that it is about. One that is held already keeps the reason it has.
    fn hold_damaged(&mut self, turn: &mut Turn<'_>, job: &Job, mut what: String) {
        let known = self.backlog.same(job.slot, &job.id);
        if job.report.is_none() && known.is_some_and(|message| message.hold.is_none()) {
            cut(&mut what, TEXT_BYTES_MAX);
            self.hold(turn, job.slot, format!("damaged: {what}"));
        }
    }

    fn lane_answered(&mut self, now: Now, job: &Job, answered: bool, delivered: bool) {
        let Some(lane) = self.lanes.get_mut(job.lane).filter(|_| answered) else { return };
        lane.succeeded(job.sent.mono, delivered, now, &self.settings);
        if let Some(peer) = job.peer {
            if lane.warm.len() >= self.settings.lane_max as usize {
                lane.warm.pop_front();
            }
            lane.warm.push_back(peer);
        }
    }

    /// Moves the lane's clock; says since when it has failed, if that was through a whole back-off.
    fn lane_failed(&mut self, turn: &mut Turn<'_>, job: &Job, reply: &Reply) -> Option<Timestamp> {
        let lane = self.lanes.get_mut(job.lane)?;
        let chance = (turn.chance)();
        let failed = lane.failed(job.sent.mono, reply.clone(), turn.now, &self.settings, chance)?;
        self.counts.lane_failures += 1;
        failed
    }

    /// Writes down what became of the recipients of a job.
    fn take_outcomes(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        job: &Job,
        outcomes: &[(u32, Outcome)],
        missing: Missing,
    ) {
        if self.backlog.same(job.slot, &job.id).is_none() {
            return;
        }
        if let Some(kind) = job.report {
            self.take_report_outcomes(turn, number, job, kind, outcomes, missing);
            return;
        }
        let mut changes: Vec<(u32, State)> = Vec::with_capacity(job.recipients.len());
        let mut unmoved: Vec<u32> = Vec::new();
        for index in &job.recipients {
            let outcome = outcomes
                .binary_search_by_key(index, |(index, _)| *index)
                .ok()
                .and_then(|position| outcomes.get(position))
                .map(|(_, outcome)| outcome);
            match self.verdict(turn.now, number, job, *index, outcome, &missing) {
                Verdict::Change(state) => changes.push((*index, state)),
                Verdict::Unmoved => unmoved.push(*index),
                Verdict::Nothing => {}
            }
        }
        for index in unmoved {
            self.free_recipient(turn.now, number, job.slot, index, turn.now.mono);
        }
        for (index, _) in &changes {
            if let Some(recipient) = self.backlog.message_mut(job.slot).recipient_mut(*index)
                && recipient.place == Place::InHand(number)
            {
                recipient.place = Place::Parked;
            }
        }
        let deferred = changes.iter().any(|(_, state)| matches!(state, State::Open(_)));
        if !changes.is_empty() {
            self.change(turn, job.slot, changes);
        }
        if deferred && self.lanes.get(job.lane).is_some() {
            self.plan_review(turn.now, job.lane);
        }
    }

    /// What an answer means for one recipient, which may have become final or have been sent again meanwhile.
    fn verdict(
        &mut self,
        now: Now,
        number: u64,
        job: &Job,
        index: u32,
        outcome: Option<&Outcome>,
        missing: &Missing,
    ) -> Verdict {
        let message = self.backlog.message(job.slot);
        let Some(recipient) = message.recipient(index).filter(|recipient| recipient.is_open())
        else {
            return Verdict::Nothing;
        };
        let mine = recipient.place == Place::InHand(number);
        let held = message.hold.is_some() || matches!(recipient.stand, Stand::Held(_));
        // Tried in full after its time: it may be given up.
        let expired = message.accepted_at.after(self.settings.expire.0) <= job.sent.wall && !held;
        let reply = match (outcome, missing) {
            (Some(Outcome::Delivered(delivered)), _) => {
                self.counts.delivered += 1;
                return Verdict::Change(State::Delivered(delivered.clone()));
            }
            (Some(Outcome::Failed(reply)), _) => {
                return Verdict::Change(State::Failed(reply.clone()));
            }
            // What was given up is being tried elsewhere: only a final word counts.
            _ if !mine => return Verdict::Nothing,
            (None, Missing::LaneFailed(reply)) if expired => {
                self.counts.expired += 1;
                return Verdict::Change(State::Failed(self.expired(Some(reply))));
            }
            (None, Missing::LaneFailed(_)) => return Verdict::Unmoved,
            (Some(Outcome::Deferred(reply)), _) | (None, Missing::Deferred(reply)) => reply,
        };
        self.counts.deferred += 1;
        if expired {
            self.counts.expired += 1;
            return Verdict::Change(State::Failed(self.expired(Some(reply))));
        }
        let recipient = self.backlog.message(job.slot).recipient(index);
        let attempt = recipient.map(|recipient| self.later(now, job.slot, recipient, reply));
        attempt.map_or(Verdict::Nothing, Verdict::Change)
    }

    /// The state of a recipient after one more attempt that was deferred.
    pub(super) fn later(
        &self,
        now: Now,
        slot: Slot,
        recipient: &Recipient,
        reply: &Reply,
    ) -> State {
        let count = recipient.count.saturating_add(1);
        let step = retry::delay(&self.settings, count);
        let next = now.wall.millis().saturating_add(step);
        // The last attempt is made when the message expires, not hours later.
        let accepted_at = self.backlog.message(slot).accepted_at;
        let expires = accepted_at.after(self.settings.expire.0).millis();
        let soonest = now.wall.millis().saturating_add(retry::delay(&self.settings, 1));
        let next = Timestamp::from_millis(next.min(expires.max(soonest)));
        let delay_reported = recipient.delay_reported;
        let then = Attempt { count, next, last: Some(reply.clone()), delay_reported };
        match &recipient.stand {
            Stand::Held(reason) => State::Held { reason: reason.to_string(), then },
            _ => State::Open(then),
        }
    }

    /// The reply that a recipient fails with whose time has come.
    pub(super) fn expired(&self, last: Option<&Reply>) -> Reply {
        let span = self.settings.expire;
        let text = match last {
            Some(last) => format!("not delivered within {span}: {}", last.text),
            None => format!("not delivered within {span}"),
        };
        Reply { status: EXPIRED, text, remote: last.and_then(|last| last.remote.clone()) }
    }

    /// Writes new states of recipients down with what follows from them: reports owed, or the end of the message.
    pub(super) fn change(&mut self, turn: &mut Turn<'_>, slot: Slot, changes: Vec<(u32, State)>) {
        let message = self.backlog.message(slot);
        let id = message.id;
        let owed = owed_by(message.sender.is_some(), &changes, |index| {
            message.recipient(index).and_then(Recipient::notify)
        });
        let mut ended = 0;
        let mut expired = 0;
        for (index, state) in &changes {
            let was_open = message.recipient(*index).is_some_and(Recipient::is_open);
            let is_final = !matches!(state, State::Open(_) | State::Held { .. });
            ended += u32::from(was_open && is_final);
            if let State::Failed(reply) = state {
                self.counts.failed += 1;
                expired += u32::from(reply.status == EXPIRED);
                if let Some(recipient) = message.recipient(*index)
                    && !owed.iter().any(|(_, indexes)| indexes.contains(index))
                {
                    tracing::info!(%id, recipient = %recipient.address, status = %reply.status, reply = %reply.text.escape_debug(), "failed, and nobody is to be told");
                }
            }
        }
        if expired > 0 {
            let lane = changes.first().and_then(|(index, _)| message.recipient(*index));
            let host = lane.map(|recipient| self.lanes.lane(recipient.lane).host.to_string());
            tracing::info!(%id, recipients = expired, host, "not delivered in time: given up");
        }
        let all_final = message.open == ended;
        if all_final && owed.is_empty() && message.owing.is_empty() {
            for (index, _) in &changes {
                self.unwait(turn.now, slot, *index);
            }
            self.retire(turn, slot);
            return;
        }
        let indexes: Vec<u32> = changes.iter().map(|(index, _)| *index).collect();
        if all_final && message.hold.is_some() {
            // Nothing is left to be held; what is owed may go out.
            self.record(turn, Record::Hold { id, reason: None });
        }
        self.record(turn, Record::Outcome { id, recipients: changes });
        for index in indexes {
            self.place(turn.now, slot, index);
        }
        for (kind, recipients) in owed {
            let due = turn.now.wall.after(self.settings.report_delay.0);
            self.owe(turn, slot, kind, recipients, due);
        }
        if all_final {
            self.place_reports(turn, slot);
            self.hasten_reports(turn, slot);
        }
    }

    /// Ends a message: every recipient is final, and nothing is owed.
    pub(super) fn retire(&mut self, turn: &mut Turn<'_>, slot: Slot) {
        let message = self.backlog.message(slot);
        let (id, handle) = (message.id, message.handle.clone());
        debug_assert!(
            message.recipients.iter().all(|r| !matches!(r.place, Place::Waiting(_))),
            "nothing of a message that ends waits in a lane"
        );
        self.counts.retired += 1;
        self.record(turn, Record::Retired { id, handle });
    }
}

/// What holds for recipients that an answer does not mention.
pub(super) enum Missing {
    /// They are deferred, and their own clocks move.
    Deferred(Reply),
    /// The destination failed: the lane's clock moved, not theirs.
    LaneFailed(Reply),
}

pub(super) fn reply_of(outcome: &mut Outcome) -> &mut Reply {
    match outcome {
        Outcome::Delivered(delivered) => &mut delivered.reply,
        Outcome::Deferred(reply) | Outcome::Failed(reply) => reply,
    }
}

/// Cuts what an agent says to what is kept: an agent of somebody's own may say anything.
pub(super) fn shorten(reply: &mut Reply) {
    cut(&mut reply.text, TEXT_BYTES_MAX);
    reply.remote.iter_mut().for_each(|remote| cut(remote, REMOTE_BYTES_MAX));
}

fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
}

/// How long a recipient waits after so many connections lost in a row, in milliseconds.
fn loss_pause(losses: u8) -> u64 {
    match losses.checked_sub(LOSSES_FREE + 1) {
        None => 0,
        Some(paid) => LOSS_MS << (2 * u32::from(paid)).min(16),
    }
}

enum Verdict {
    Change(State),
    Unmoved,
    Nothing,
}

/// Which reports the new states of recipients give the sender a right to (RFC 3461 section 4.1).
pub(super) fn owed_by(
    has_sender: bool,
    changes: &[(u32, State)],
    notify: impl Fn(u32) -> Option<mail::Notify>,
) -> Vec<(ReportKind, Vec<u32>)> {
    let mut owed: Vec<(ReportKind, Vec<u32>)> = Vec::new();
    if !has_sender {
        return owed;
    }
    for (index, state) in changes {
        let kind = match state {
            State::Failed(_) => ReportKind::Failure,
            State::Delivered(delivered) if delivered.report != mail::SuccessReport::PassedOn => {
                ReportKind::Success
            }
            _ => continue,
        };
        let notify = notify(*index).unwrap_or(mail::Notify::DEFAULT);
        let wanted = if kind == ReportKind::Failure { notify.failure } else { notify.success };
        if !wanted {
            continue;
        }
        match owed.iter_mut().find(|(owed, _)| *owed == kind) {
            Some((_, indexes)) => indexes.push(*index),
            None => owed.push((kind, vec![*index])),
        }
    }
    owed
}
