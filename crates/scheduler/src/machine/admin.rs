//! What the command line asks: to see into the queue, and to steer it.

mod select;
mod views;

use std::collections::BTreeSet;

use job::admin::{AdminAnswer, AdminRequest, Change, Changed, LaneChange, Selection};
use job::route::RouteRequest;
use mail::{MessageId, Reply, StatusCode};
use queue::{Handle, Record, ReportKind, State};
use socket::{ErrorObject, codes};

use self::select::{Filter, lane_named};
use super::backlog::{Message, Place, Recipient, Slot, Stand};
use super::lane::{LaneId, NEVER};
use super::{Answer, Scheduler, Token, Turn};

/// Recipients of the messages that a change looks at in one turn.
const SLICE_MAX: usize = 10_000;
/// What a bounced recipient fails with when the operator gives no reason.
const BOUNCED: &str = "returned by the administrator";

/// A message that is selected, with the recipients if it is not the whole of it.
struct Selected {
    slot: Slot,
    id: MessageId,
    recipients: Option<Vec<u32>>,
}

impl Scheduler {
    /// Takes a request of the command line.
    pub(super) fn admin(&mut self, turn: &mut Turn<'_>, token: Token, request: Box<AdminRequest>) {
        let reads = matches!(
            *request,
            AdminRequest::List(_)
                | AdminRequest::Summary(_)
                | AdminRequest::Show(_)
                | AdminRequest::Status(_)
        );
        if self.stopped.ledger_failed && !reads {
            let error = ErrorObject::new(codes::INTERNAL, "the ledger cannot be written now");
            turn.actions.answers.push((token, Answer::Refused(error)));
            return;
        }
        log_change(&request);
        let request = match Sweep::of(token, request, self.backlog.last()) {
            Ok(sweep) => return self.go_on(turn, sweep),
            Err(request) => request,
        };
        let answer = match *request {
            AdminRequest::List(query) => self.list(turn.now, &query),
            AdminRequest::Summary(_) => Ok(AdminAnswer::Summary(self.summary(turn.now))),
            AdminRequest::Show(query) => self.show(turn.now, &query.id),
            AdminRequest::Suspend(change) => self.suspend(turn, &change, Suspension::Begins),
            AdminRequest::Resume(change) => self.suspend(turn, &change, Suspension::Ends),
            AdminRequest::Status(_) => Ok(AdminAnswer::Status(Box::new(self.status()))),
            _ => unreachable!("a change of messages is a sweep"),
        };
        match answer {
            Ok(answer) if reads => {
                turn.actions.answers.push((token, Answer::Admin(Box::new(answer))));
            }
            Ok(answer) => {
                turn.actions.answers_synced.push((token, Answer::Admin(Box::new(answer))));
            }
            Err(error) => turn.actions.answers.push((token, Answer::Refused(error))),
        }
    }

    /// Does one slice of a change; answers when it was the last, else goes on with the next turn.
    fn go_on(&mut self, turn: &mut Turn<'_>, mut sweep: Sweep) {
        sweep.batch = self.batch;
        let progress = &mut sweep.progress;
        let done = match &*sweep.request {
            AdminRequest::Hold(change) => self.admin_hold(turn, change, progress),
            AdminRequest::Release(change) => self.release(turn, change, progress),
            AdminRequest::Retry(change) => self.retry_now(turn, change, progress),
            AdminRequest::Remove(change) => self.remove(turn, change, progress),
            AdminRequest::Bounce(change) => self.bounce(turn, change, progress),
            AdminRequest::Reroute(change) => self.ask_reroute(turn, change, progress),
            _ => unreachable!("only a change of messages is a sweep"),
        };
        match done {
            Err(error) => turn.actions.answers.push((sweep.token, Answer::Refused(error))),
            Ok(()) if sweep.progress.ended => {
                let changed = sweep.progress.changed;
                let (messages, recipients) = (changed.messages, changed.recipients);
                tracing::info!(messages, recipients, "the administrator's change is made");
                let answer = Answer::Admin(Box::new(AdminAnswer::Changed(changed)));
                turn.actions.answers_synced.push((sweep.token, answer));
            }
            Ok(()) => self.sweeps.push_back(sweep),
        }
    }

    /// Does the next slice of the change that was begun first; those that the ledger does not take end.
    pub(super) fn sweep(&mut self, turn: &mut Turn<'_>) {
        if self.stopped.ledger_failed {
            for sweep in std::mem::take(&mut self.sweeps) {
                let text = "the ledger cannot be written now: a part was changed";
                let error = ErrorObject::new(codes::INTERNAL, text);
                turn.actions.answers.push((sweep.token, Answer::Refused(error)));
            }
        }
        if self.sweeps.front().is_some_and(|sweep| sweep.batch != self.batch)
            && let Some(sweep) = self.sweeps.pop_front()
        {
            self.go_on(turn, sweep);
        }
    }

    /// Every message in the order of ids, with those that are held and not routed yet, which have no slot.
    fn with_unrouted(
        &self,
        cursor: Option<MessageId>,
    ) -> impl Iterator<Item = (MessageId, Option<Slot>)> + '_ {
        let mut routed = self.backlog.after(cursor).peekable();
        let mut unrouted = self.backlog.held_unrouted(cursor).map(|(id, _)| id).peekable();
        std::iter::from_fn(move || match (routed.peek(), unrouted.peek()) {
            (Some((left, _)), Some(right)) if right < left => unrouted.next().map(|id| (id, None)),
            (Some(_), _) => routed.next().map(|(id, slot)| (id, Some(slot))),
            (None, _) => unrouted.next().map(|id| (id, None)),
        })
    }

    /// Finds what the next slice of a change is about.
    fn select(
        &self,
        select: &Selection,
        progress: &mut Progress,
    ) -> Result<Vec<Selected>, ErrorObject> {
        let filter = Filter::new(select)?;
        let one = |id: MessageId, slot: Slot, message: &Message| {
            let recipients = filter.matches(self, message)?;
            Some(Selected { slot, id, recipients })
        };
        if !select.ids.is_empty() {
            // Somebody may name a message twice.
            let ids: BTreeSet<&MessageId> = select.ids.iter().collect();
            let found = ids.into_iter().filter_map(|id| {
                let slot = self.backlog.find(id)?;
                one(*id, slot, &self.backlog.look(slot))
            });
            progress.ended = true;
            return Ok(found.collect());
        }
        progress.ended = true;
        let mut selected = Vec::new();
        let Some(last) = progress.last.filter(|_| *select != Selection::default()) else {
            return Ok(selected);
        };
        let mut looked_at = 0;
        for (id, slot) in self.backlog.after(progress.after).take_while(|(id, _)| *id <= last) {
            if looked_at >= SLICE_MAX {
                progress.ended = false;
                break;
            }
            progress.after = Some(id);
            let message = self.backlog.look(slot);
            looked_at += message.recipients.len().max(1);
            selected.extend(one(id, slot, &message));
        }
        Ok(selected)
    }

    /// The recipients of a selection that are not final.
    fn open_of(&self, selected: &Selected) -> Vec<u32> {
        let message = self.backlog.message(selected.slot);
        let all = message.recipients.iter().filter(|recipient| recipient.is_open());
        match &selected.recipients {
            None => all.map(|recipient| recipient.index).collect(),
            Some(some) => some
                .iter()
                .copied()
                .filter(|index| message.recipient(*index).is_some_and(Recipient::is_open))
                .collect(),
        }
    }

    fn admin_hold(
        &mut self,
        turn: &mut Turn<'_>,
        change: &Change,
        progress: &mut Progress,
    ) -> Result<(), ErrorObject> {
        let reason = change.reason.clone().unwrap_or_else(|| "by the administrator".to_owned());
        self.for_each(turn, &change.select, progress, |scheduler, turn, selected| {
            let open = scheduler.open_of(selected);
            if selected.recipients.is_none() {
                scheduler.hold(turn, selected.slot, reason.clone());
                return open.len();
            }
            let message = scheduler.backlog.message(selected.slot);
            let held = open
                .iter()
                .filter_map(|index| message.recipient(*index))
                .filter(|recipient| matches!(recipient.stand, Stand::Open))
                .map(|recipient| {
                    let then = recipient.attempt();
                    (recipient.index, State::Held { reason: reason.clone(), then })
                })
                .collect();
            scheduler.set(turn, selected.slot, held)
        })
    }

    fn release(
        &mut self,
        turn: &mut Turn<'_>,
        change: &Change,
        progress: &mut Progress,
    ) -> Result<(), ErrorObject> {
        self.release_unrouted(turn, &change.select, progress)?;
        self.for_each(turn, &change.select, progress, |scheduler, turn, selected| {
            let (slot, id) = (selected.slot, selected.id);
            let message = scheduler.backlog.message(slot);
            let whole = selected.recipients.is_none() && message.hold.is_some();
            let struck = message.strikes > 0;
            let handle = message.handle.clone();
            let open = scheduler.open_of(selected);
            let message = scheduler.backlog.message(slot);
            let released: Vec<(u32, State)> = open
                .iter()
                .filter_map(|index| message.recipient(*index))
                .filter(|recipient| matches!(recipient.stand, Stand::Held(_)))
                .map(|recipient| (recipient.index, State::Open(recipient.attempt())))
                .collect();
            if struck {
                scheduler.record(turn, Record::Strike { handle, id, strikes: 0, hold: None });
            }
            let count = if whole { open.len() } else { released.len() };
            if whole {
                scheduler.record(turn, Record::Hold { id, reason: None });
            }
            scheduler.set(turn, slot, released);
            if whole {
                for index in open {
                    scheduler.place(turn.now, slot, index);
                }
                scheduler.place_reports(turn, slot);
            }
            count
        })
    }

    /// Releases messages that were held before they were routed. Router is asked for them at once: requeue looks only where nobody
    /// writes any more.
    fn release_unrouted(
        &mut self,
        turn: &mut Turn<'_>,
        select: &Selection,
        progress: &mut Progress,
    ) -> Result<(), ErrorObject> {
        let released = self.take_unrouted(select, progress)?;
        turn.actions.requeue |= !released.is_empty();
        progress.changed.messages += released.len() as u64;
        for (id, handle) in released {
            tracing::info!(%id, "changed by the administrator");
            let route = RouteRequest { handle: handle.clone(), id, routing: 1, facts: None };
            turn.actions.routes.push(route);
            self.record(turn, Record::Strike { handle, id, strikes: 0, hold: None });
        }
        Ok(())
    }

    /// The selected messages that were held before they were routed, once a change.
    fn take_unrouted(
        &self,
        select: &Selection,
        progress: &Progress,
    ) -> Result<Vec<(MessageId, Handle)>, ErrorObject> {
        if progress.after.is_some() || *select == Selection::default() {
            return Ok(Vec::new());
        }
        let filter = Filter::new(select)?;
        let held = self.backlog.held_unrouted(None).filter(|(id, _)| filter.takes_unrouted(id));
        Ok(held.map(|(id, struck)| (id, struck.handle.clone())).collect())
    }

    fn retry_now(
        &mut self,
        turn: &mut Turn<'_>,
        change: &Change,
        progress: &mut Progress,
    ) -> Result<(), ErrorObject> {
        let mut lanes: Vec<LaneId> = Vec::new();
        self.for_each(turn, &change.select, progress, |scheduler, turn, selected| {
            let now = turn.now.wall;
            let mut sooner = Vec::new();
            let mut count = 0;
            let message = scheduler.backlog.message(selected.slot);
            if message.hold.is_some() {
                return 0;
            }
            for index in scheduler.open_of(selected) {
                let Some(recipient) = message.recipient(index) else { continue };
                if !matches!((&recipient.stand, recipient.place), (Stand::Open, Place::Waiting(_)))
                {
                    continue;
                }
                count += 1;
                if lanes.last() != Some(&recipient.lane) {
                    lanes.push(recipient.lane);
                }
                if recipient.next > now {
                    let mut attempt = recipient.attempt();
                    attempt.next = now;
                    sooner.push((index, State::Open(attempt)));
                }
            }
            scheduler.set(turn, selected.slot, sooner);
            count
        })?;
        lanes.sort_unstable();
        lanes.dedup();
        for id in lanes {
            let lane = self.lanes.lane_mut(id);
            lane.not_before = lane.not_before.min(turn.now.mono);
            self.refresh(turn.now, id);
        }
        Ok(())
    }

    fn remove(
        &mut self,
        turn: &mut Turn<'_>,
        change: &Change,
        progress: &mut Progress,
    ) -> Result<(), ErrorObject> {
        for (id, handle) in self.take_unrouted(&change.select, progress)? {
            tracing::info!(%id, "changed by the administrator");
            progress.changed.messages += 1;
            self.counts.retired += 1;
            self.record(turn, Record::Retired { id, handle });
        }
        self.end_by_hand(turn, change, progress, |_| State::Removed)
    }

    fn bounce(
        &mut self,
        turn: &mut Turn<'_>,
        change: &Change,
        progress: &mut Progress,
    ) -> Result<(), ErrorObject> {
        let unrouted = |id: &&MessageId| self.unrouted(id).is_some();
        if let Some(id) = change.select.ids.iter().find(unrouted) {
            let text = format!(
                "{id} was held before it was routed, and its sender is not known here: release or remove it"
            );
            return Err(ErrorObject::new(codes::CONFLICT, text));
        }
        let text = change.reason.clone().unwrap_or_else(|| BOUNCED.to_owned());
        let reply = Reply::ours(StatusCode::new(5, 0, 0), text);
        self.end_by_hand(turn, change, progress, |_| State::Failed(reply.clone()))
    }

    /// Ends recipients: removed, or failed so that the sender is told.
    fn end_by_hand(
        &mut self,
        turn: &mut Turn<'_>,
        change: &Change,
        progress: &mut Progress,
        state: impl Fn(u32) -> State,
    ) -> Result<(), ErrorObject> {
        self.for_each(turn, &change.select, progress, |scheduler, turn, selected| {
            let (slot, id) = (selected.slot, selected.id);
            let ended: Vec<(u32, State)> = scheduler
                .open_of(selected)
                .into_iter()
                .map(|index| (index, state(index)))
                .collect();
            let count = ended.len();
            let whole = selected.recipients.is_none();
            if whole && scheduler.backlog.message(slot).hold.is_some() {
                scheduler.record(turn, Record::Hold { id, reason: None });
            }
            if whole && matches!(state(0), State::Removed) {
                scheduler.forget_reports(turn, slot);
            }
            if !ended.is_empty() {
                scheduler.change(turn, slot, ended);
            } else if scheduler.backlog.message(slot).has_ended() {
                scheduler.retire(turn, slot);
            } else {
                scheduler.place_reports(turn, slot);
            }
            count
        })
    }

    /// Nothing is owed about a message any more: an operator removed it.
    fn forget_reports(&mut self, turn: &mut Turn<'_>, slot: Slot) {
        self.park_reports(turn, slot);
        for kind in [ReportKind::Failure, ReportKind::Delay, ReportKind::Success] {
            let message = self.backlog.message(slot);
            let id = message.id;
            let recipients = message.owing(kind).map(|owing| owing.recipients.clone());
            if let Some(recipients) = recipients {
                self.record(turn, Record::Reported { id, kind, recipients });
            }
        }
    }

    fn ask_reroute(
        &mut self,
        turn: &mut Turn<'_>,
        change: &Change,
        progress: &mut Progress,
    ) -> Result<(), ErrorObject> {
        turn.actions.requeue = true;
        self.for_each(turn, &change.select, progress, |scheduler, turn, selected| {
            let message = scheduler.backlog.message(selected.slot);
            if message.open == 0 {
                return 0;
            }
            scheduler.route_anew(turn, selected.id, selected.slot)
        })
    }

    fn suspend(
        &mut self,
        turn: &mut Turn<'_>,
        change: &LaneChange,
        suspension: Suspension,
    ) -> Result<AdminAnswer, ErrorObject> {
        let (channel, host) = lane_named(&change.lane)?;
        let until = match (suspension, change.seconds) {
            (Suspension::Ends, _) => None,
            (Suspension::Begins, None) => Some(NEVER),
            (Suspension::Begins, Some(seconds)) => {
                Some(turn.now.wall.after(std::time::Duration::from_secs(seconds)))
            }
        };
        tracing::info!(lane = %change.lane.escape_debug(), seconds = change.seconds, "{}", match suspension {
            Suspension::Begins => "lane suspended by the administrator",
            Suspension::Ends => "lane resumed by the administrator",
        });
        let key = (channel.clone(), host.clone());
        self.suspensions.remove(&key);
        if let Some(until) = until {
            self.plan_resume(turn.now, key, until);
        }
        self.record(turn, Record::Suspend { channel, host, until });
        self.take_suspensions(turn.now);
        Ok(AdminAnswer::Changed(Changed::default()))
    }

    /// Writes new states of recipients down that are not final, and puts them where those say.
    fn set(&mut self, turn: &mut Turn<'_>, slot: Slot, recipients: Vec<(u32, State)>) -> usize {
        let count = recipients.len();
        if count > 0 {
            let id = self.backlog.message(slot).id;
            let indexes: Vec<u32> = recipients.iter().map(|(index, _)| *index).collect();
            self.record(turn, Record::Outcome { id, recipients });
            for index in indexes {
                self.place(turn.now, slot, index);
            }
        }
        count
    }

    /// Does something to every selected message of a slice and counts.
    fn for_each(
        &mut self,
        turn: &mut Turn<'_>,
        select: &Selection,
        progress: &mut Progress,
        mut change: impl FnMut(&mut Self, &mut Turn<'_>, &Selected) -> usize,
    ) -> Result<(), ErrorObject> {
        for one in &self.select(select, progress)? {
            let recipients = change(self, turn, one);
            tracing::info!(id = %one.id, recipients, "changed by the administrator");
            progress.changed.messages += 1;
            progress.changed.recipients += recipients as u64;
        }
        Ok(())
    }
}

/// A change of messages that is being made, a slice a turn: a turn is one entry of the ledger, and must not be without bound.
#[derive(Debug)]
pub(super) struct Sweep {
    token: Token,
    request: Box<AdminRequest>,
    progress: Progress,
    /// The batch of its last slice.
    batch: u64,
}

/// How far a change has come.
#[derive(Debug)]
struct Progress {
    after: Option<MessageId>,
    /// What comes later than the request is not its business.
    last: Option<MessageId>,
    ended: bool,
    changed: Changed,
}

impl Sweep {
    /// A change of messages as one; any other request is given back.
    fn of(
        token: Token,
        request: Box<AdminRequest>,
        last: Option<MessageId>,
    ) -> Result<Self, Box<AdminRequest>> {
        match *request {
            AdminRequest::Hold(_)
            | AdminRequest::Release(_)
            | AdminRequest::Retry(_)
            | AdminRequest::Remove(_)
            | AdminRequest::Bounce(_)
            | AdminRequest::Reroute(_) => {
                let changed = Changed::default();
                let progress = Progress { after: None, last, ended: false, changed };
                Ok(Self { token, request, progress, batch: 0 })
            }
            _ => Err(request),
        }
    }
}

/// Says what the administrator asked for, before a line for each message says that it was done.
fn log_change(request: &AdminRequest) {
    let (action, change) = match request {
        AdminRequest::Hold(change) => ("hold", change),
        AdminRequest::Release(change) => ("release", change),
        AdminRequest::Retry(change) => ("retry", change),
        AdminRequest::Remove(change) => ("remove", change),
        AdminRequest::Bounce(change) => ("bounce", change),
        AdminRequest::Reroute(change) => ("reroute", change),
        _ => return,
    };
    let Change { select, reason } = change;
    tracing::info!(
        action,
        ids = select.ids.len(),
        lane = select.lane,
        domain = select.domain,
        sender = select.sender,
        held = select.held,
        quarantined = select.quarantined,
        all = select.all,
        reason,
        "asked by the administrator"
    );
}

#[derive(Clone, Copy)]
enum Suspension {
    Begins,
    Ends,
}
