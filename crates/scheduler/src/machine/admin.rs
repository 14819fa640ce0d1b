//! What the command line asks: to see into the queue, and to steer it.

use job::LIST_MAX;
use job::admin::{
    AdminAnswer, AdminRequest, Change, Changed, LaneChange, LaneSummary, ListQuery, Page,
    QueuedMessage, Selection, Status,
};
use job::route::RouteRequest;
use mail::{MessageId, Reply, StatusCode, Timestamp};
use queue::{Handle, Record, ReportKind, State};
use socket::{ErrorObject, codes};

use super::backlog::{Message, Place, Recipient, Slot, Stand};
use super::lane::{Lane, LaneId, NEVER};
use super::{Answer, Now, Scheduler, Token, Turn};

/// Messages on a page if the request does not say.
const LIST_DEFAULT: u32 = 100;
/// Recipients shown on one page, and of one message: an answer must fit into a frame of 1 MiB.
const SHOWN_RECIPIENTS_MAX: usize = 500;
/// The most messages looked at for one page.
const LOOKED_AT_MAX: usize = 100_000;
/// Recipients of the messages that a change looks at in one turn.
const SLICE_MAX: usize = 10_000;
/// What a bounced recipient fails with when the operator gives no reason.
const BOUNCED: &str = "returned by the administrator";
/// The ages that a summary tells apart, in milliseconds.
const AGES: [u64; 4] = [300_000, 3_600_000, 4 * 3_600_000, 86_400_000];

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

    fn list(&self, now: Now, query: &ListQuery) -> Result<AdminAnswer, ErrorObject> {
        let cursor =
            match &query.cursor {
                Some(text) => Some(text.parse().map_err(|_| {
                    ErrorObject::new(codes::PARAMS, "the cursor is not one of ours")
                })?),
                None => None,
            };
        let limit = query.limit.unwrap_or(LIST_DEFAULT).clamp(1, LIST_MAX) as usize;
        let everything = query.select == Selection::default();
        let filter = Filter::new(&query.select)?;
        let mut page = Page { messages: Vec::new(), cursor: None };
        let mut shown = 0;
        for (looked_at, (id, slot)) in self.with_unrouted(cursor).enumerate() {
            if page.messages.len() >= limit
                || shown >= SHOWN_RECIPIENTS_MAX
                || looked_at >= LOOKED_AT_MAX
            {
                return Ok(AdminAnswer::List(page));
            }
            page.cursor = Some(id.to_string());
            let Some(slot) = slot else {
                if everything || filter.takes_unrouted(&id) {
                    page.messages.extend(self.unrouted(&id));
                }
                continue;
            };
            let message = self.backlog.message(slot);
            if everything || filter.matches(self, message).is_some() {
                let queued = self.queued(now, message, SHOWN_RECIPIENTS_MAX.min(limit.max(20)));
                shown += queued.recipients.len();
                page.messages.push(queued);
            }
        }
        page.cursor = None;
        Ok(AdminAnswer::List(page))
    }

    fn show(&self, now: Now, id: &MessageId) -> Result<AdminAnswer, ErrorObject> {
        if let Some(slot) = self.backlog.find(id) {
            let message = self.queued(now, self.backlog.message(slot), SHOWN_RECIPIENTS_MAX);
            return Ok(AdminAnswer::Message(Box::new(message)));
        }
        match self.unrouted(id) {
            Some(message) => Ok(AdminAnswer::Message(Box::new(message))),
            None => Err(ErrorObject::new(codes::NOT_FOUND, format!("no message {id}"))),
        }
    }

    /// What is known of a message that was held before it was routed.
    fn unrouted(&self, id: &MessageId) -> Option<QueuedMessage> {
        let struck = self.backlog.struck.get(id).filter(|struck| struck.hold.is_some())?;
        Some(QueuedMessage {
            id: *id,
            state: "held".to_owned(),
            sender: None,
            size: 0,
            accepted_at: Timestamp::default(),
            handle: struck.handle.clone(),
            hold: struck.hold.as_deref().map(Into::into),
            recipients: Vec::new(),
            recipients_total: 0,
        })
    }

    fn queued(&self, now: Now, message: &Message, recipients_max: usize) -> QueuedMessage {
        let in_hand = |r: &Recipient| matches!(r.place, Place::InHand(_));
        let open = |r: &&Recipient| r.is_open();
        let all_held =
            message.recipients.iter().filter(open).all(|r| matches!(r.stand, Stand::Held(_)));
        let state = if message.hold.is_some() || (all_held && message.open > 0) {
            "held"
        } else if message.recipients.iter().any(in_hand) {
            "active"
        } else {
            "queued"
        };
        QueuedMessage {
            id: message.id,
            state: state.to_owned(),
            sender: message.sender.clone(),
            size: message.size,
            accepted_at: message.accepted_at,
            handle: message.handle.clone(),
            hold: message.hold.as_deref().map(Into::into),
            recipients: message
                .recipients
                .iter()
                .take(recipients_max)
                .map(|recipient| self.shown(now, recipient))
                .collect(),
            recipients_total: u32::try_from(message.recipients.len()).unwrap_or(u32::MAX),
        }
    }

    /// A recipient with what keeps its lane from it.
    fn shown(&self, now: Now, recipient: &Recipient) -> queue::RoutedRecipient {
        let mut routed = recipient.routed(&self.lanes);
        let lane = self.lanes.lane(recipient.lane);
        if let State::Open(attempt) = &mut routed.state {
            if attempt.last.is_none() {
                attempt.last = lane.last.as_deref().cloned();
            }
            if let Some(next) = backs_off(lane, now) {
                attempt.next = attempt.next.max(next);
            }
        }
        routed
    }

    fn summary(&self, now: Now) -> Vec<LaneSummary> {
        let mut held: std::collections::HashMap<LaneId, u64> = std::collections::HashMap::new();
        for (_, slot) in self.backlog.after(None) {
            let message = self.backlog.message(slot);
            for recipient in message.recipients.iter().filter(|r| r.is_open()) {
                if message.hold.is_some() || matches!(recipient.stand, Stand::Held(_)) {
                    *held.entry(recipient.lane).or_default() += 1;
                }
            }
        }
        let mut lanes: Vec<LaneSummary> = self
            .lanes
            .iter()
            .map(|(id, lane)| self.summarise(now, lane, held.get(&id).copied().unwrap_or_default()))
            .filter(|lane| lane.recipients + lane.held > 0 || lane.reason.is_some())
            .collect();
        lanes.sort_by(|left, right| {
            (right.recipients, &left.channel, &left.host).cmp(&(
                left.recipients,
                &right.channel,
                &right.host,
            ))
        });
        lanes.truncate(LIST_MAX as usize);
        lanes
    }

    fn summarise(&self, now: Now, lane: &Lane, held: u64) -> LaneSummary {
        let channel = self.lanes.channel(lane.channel);
        let mut ages = [0; 5];
        for entry in &lane.waiting {
            let age = now.wall.since(entry.accepted_at).as_millis();
            let class = AGES.iter().position(|limit| age < u128::from(*limit)).unwrap_or(4);
            if let Some(count) = ages.get_mut(class) {
                *count += 1;
            }
        }
        let backing_off = backs_off(lane, now);
        let reason = if lane.suspended {
            Some("suspended")
        } else if backing_off.is_some() {
            Some("backing off")
        } else if channel.peers.is_empty() && !lane.waiting.is_empty() {
            Some("no agent")
        } else {
            None
        };
        LaneSummary {
            channel: channel.name.clone(),
            host: lane.host.to_string(),
            recipients: lane.waiting.len() as u64 + u64::from(lane.active_recipients),
            active: u64::from(lane.active_recipients),
            held,
            concurrency: lane.limit(&self.settings),
            ages,
            reason: reason.map(Into::into),
            next: match lane.suspended {
                true => self.resumes(&channel.name, &lane.host),
                false => backing_off.or_else(|| {
                    let due =
                        lane.waiting.first()?.due.checked_sub(now.mono).filter(|wait| *wait > 0)?;
                    Some(now.wall.after(std::time::Duration::from_millis(due)))
                }),
            },
            last: lane.last.as_ref().map(|reply| reply.text.clone()),
        }
    }

    /// When the suspensions of a lane end, its own and its channel's; nothing if not before somebody resumes it.
    fn resumes(&self, channel: &str, host: &str) -> Option<Timestamp> {
        let of = |host: Option<&str>| {
            self.backlog.suspended.get(&(channel.to_owned(), host.map(str::to_owned))).copied()
        };
        of(None).max(of(Some(host))).filter(|until| *until != NEVER)
    }

    fn status(&self) -> Status {
        let oldest = self.backlog.after(None).next();
        Status {
            messages: self.backlog.len() as u64,
            recipients: self.backlog.open,
            active: self.in_hand_recipients,
            held: self.backlog.held + self.backlog.held_unrouted(None).count() as u64,
            lanes: self.lanes.used() as u64,
            lanes_backing_off: self.lanes.iter().filter(|(_, l)| l.failures > 0).count() as u64,
            oldest: oldest.map(|(_, slot)| self.backlog.message(slot).accepted_at),
            enqueued: self.counts.enqueued,
            delivered: self.counts.delivered,
            deferred: self.counts.deferred,
            failed: self.counts.failed,
            reports: self.counts.reports,
        }
    }

    /// Finds what the next slice of a change is about.
    fn select(
        &self,
        select: &Selection,
        progress: &mut Progress,
    ) -> Result<Vec<Selected>, ErrorObject> {
        let filter = Filter::new(select)?;
        let one = |id: MessageId, slot: Slot| {
            let recipients = filter.matches(self, self.backlog.message(slot))?;
            Some(Selected { slot, id, recipients })
        };
        if !select.ids.is_empty() {
            let found = select.ids.iter().filter_map(|id| one(*id, self.backlog.find(id)?));
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
            looked_at += self.backlog.message(slot).recipients.len().max(1);
            selected.extend(one(id, slot));
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

    /// Releases messages that were held before they were routed.
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
            let routing = message.reroute.unwrap_or(message.routing).saturating_add(1);
            let (open, handle, id) = (message.open as usize, message.handle.clone(), selected.id);
            scheduler.record(turn, Record::Reroute { id, routing });
            turn.actions.routes.push(RouteRequest { handle, id, routing, facts: None });
            open
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

/// Until when a lane backs off or pauses; nothing if it does not.
fn backs_off(lane: &Lane, now: Now) -> Option<Timestamp> {
    let wait = lane.not_before.checked_sub(now.mono).filter(|wait| *wait > 0)?;
    Some(now.wall.after(std::time::Duration::from_millis(wait)))
}

/// A selection, taken apart.
struct Filter<'a> {
    select: &'a Selection,
    lane: Option<(String, Option<String>)>,
    /// Sorted.
    ids: Vec<MessageId>,
}

impl<'a> Filter<'a> {
    fn new(select: &'a Selection) -> Result<Self, ErrorObject> {
        let lane = select.lane.as_deref().map(lane_named).transpose()?;
        let mut ids = select.ids.clone();
        ids.sort_unstable();
        Ok(Self { select, lane, ids })
    }

    fn names(&self, id: &MessageId) -> bool {
        self.ids.is_empty() || self.ids.binary_search(id).is_ok()
    }

    /// Whether a message is selected of which only the id is known.
    fn takes_unrouted(&self, id: &MessageId) -> bool {
        let Selection { lane, domain, sender, .. } = self.select;
        lane.is_none() && domain.is_none() && sender.is_none() && self.names(id)
    }

    /// Whether a message is selected: the whole of it (`Some(None)`), or some recipients.
    fn matches(&self, scheduler: &Scheduler, message: &Message) -> Option<Option<Vec<u32>>> {
        let select = self.select;
        if !self.names(&message.id) {
            return None;
        }
        if let Some(wanted) = &select.sender {
            let sender = message.sender.as_ref().map_or("", |sender| sender.as_str());
            let wanted = wanted.trim_start_matches('<').trim_end_matches('>');
            if !sender.eq_ignore_ascii_case(wanted) {
                return None;
            }
        }
        let some_held = select.held && message.hold.is_none();
        if self.lane.is_none() && select.domain.is_none() && !some_held {
            return Some(None);
        }
        let recipients: Vec<u32> = message
            .recipients
            .iter()
            .filter(|recipient| recipient.is_open())
            .filter(|recipient| !some_held || matches!(recipient.stand, Stand::Held(_)))
            .filter(|recipient| self.is_in(scheduler, recipient))
            .map(|recipient| recipient.index)
            .collect();
        (!recipients.is_empty()).then_some(Some(recipients))
    }

    fn is_in(&self, scheduler: &Scheduler, recipient: &Recipient) -> bool {
        let domain = self.select.domain.as_deref();
        let given = recipient.original().unwrap_or(&recipient.address);
        if domain.is_some_and(|domain| {
            !recipient.address.domain().eq_ignore_ascii_case(domain)
                && !given.domain().eq_ignore_ascii_case(domain)
        }) {
            return false;
        }
        let Some((channel, host)) = &self.lane else { return true };
        let lane = scheduler.lanes.lane(recipient.lane);
        scheduler.lanes.channel_name(lane.channel) == channel
            && host.as_deref().is_none_or(|host| *lane.host == *host)
    }
}

/// Takes `channel` or `channel/host` apart.
fn lane_named(text: &str) -> Result<(String, Option<String>), ErrorObject> {
    let (channel, host) = match text.split_once('/') {
        Some((channel, host)) => (channel, Some(host.to_owned())),
        None => (text, None),
    };
    if channel.is_empty() || text.len() > 512 || text.chars().any(char::is_control) {
        return Err(ErrorObject::new(codes::PARAMS, "a lane is CHANNEL or CHANNEL/HOST"));
    }
    Ok((channel.to_owned(), host))
}
