//! What the command line is shown: pages of messages, one message, lanes by age, the counts.

use job::LIST_MAX;
use job::admin::{AdminAnswer, LaneSummary, ListQuery, Page, QueuedMessage, Selection, Status};
use mail::{MessageId, Timestamp};
use queue::State;
use socket::{ErrorObject, codes};

use super::super::backlog::{Message, Place, Recipient, Stand};
use super::super::lane::{Lane, LaneId, NEVER};
use super::super::{Now, Scheduler};
use super::select::Filter;

/// Messages on a page if the request does not say.
const LIST_DEFAULT: u32 = 100;
/// Recipients shown on one page, and of one message: an answer must fit into a frame of 1 MiB.
const SHOWN_RECIPIENTS_MAX: usize = 500;
/// The most messages looked at for one page.
const LOOKED_AT_MAX: usize = 100_000;
/// The ages that a summary tells apart, in milliseconds.
const AGES: [u64; 4] = [300_000, 3_600_000, 4 * 3_600_000, 86_400_000];

impl Scheduler {
    pub(super) fn list(&self, now: Now, query: &ListQuery) -> Result<AdminAnswer, ErrorObject> {
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
            let message = self.backlog.look(slot);
            if everything || filter.matches(self, &message).is_some() {
                let queued = self.queued(now, &message, SHOWN_RECIPIENTS_MAX.min(limit.max(20)));
                shown += queued.recipients.len();
                page.messages.push(queued);
            }
        }
        page.cursor = None;
        Ok(AdminAnswer::List(page))
    }

    pub(super) fn show(&self, now: Now, id: &MessageId) -> Result<AdminAnswer, ErrorObject> {
        if let Some(slot) = self.backlog.find(id) {
            let message = self.queued(now, &self.backlog.look(slot), SHOWN_RECIPIENTS_MAX);
            return Ok(AdminAnswer::Message(Box::new(message)));
        }
        match self.unrouted(id) {
            Some(message) => Ok(AdminAnswer::Message(Box::new(message))),
            None => Err(ErrorObject::new(codes::NOT_FOUND, format!("no message {id}"))),
        }
    }

    /// What is known of a message that was held before it was routed.
    pub(super) fn unrouted(&self, id: &MessageId) -> Option<QueuedMessage> {
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

    pub(super) fn summary(&self, now: Now) -> Vec<LaneSummary> {
        let mut held: std::collections::HashMap<LaneId, u64> = std::collections::HashMap::new();
        for (_, slot) in self.backlog.after(None).filter(|(_, slot)| self.backlog.has_hold(*slot)) {
            let message = self.backlog.look(slot);
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
    pub(super) fn resumes(&self, channel: &str, host: &str) -> Option<Timestamp> {
        let of = |host: Option<&str>| {
            self.backlog.suspended.get(&(channel.to_owned(), host.map(str::to_owned))).copied()
        };
        of(None).max(of(Some(host))).filter(|until| *until != NEVER)
    }

    pub(super) fn status(&self) -> Status {
        let oldest = self.backlog.after(None).next();
        Status {
            messages: self.backlog.len() as u64,
            recipients: self.backlog.open,
            active: self.in_hand_recipients,
            held: self.backlog.held + self.backlog.held_unrouted(None).count() as u64,
            lanes: self.lanes.used() as u64,
            lanes_backing_off: self.lanes.iter().filter(|(_, l)| l.failures > 0).count() as u64,
            oldest: oldest.map(|(_, slot)| self.backlog.look(slot).accepted_at),
            enqueued: self.counts.enqueued,
            delivered: self.counts.delivered,
            deferred: self.counts.deferred,
            failed: self.counts.failed,
            reports: self.counts.reports,
        }
    }
}

/// Until when a lane backs off or pauses; nothing if it does not.
fn backs_off(lane: &Lane, now: Now) -> Option<Timestamp> {
    let wait = lane.not_before.checked_sub(now.mono).filter(|wait| *wait > 0)?;
    Some(now.wall.after(std::time::Duration::from_millis(wait)))
}
