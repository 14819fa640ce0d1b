//! Taking messages over from router, in parts if they are large, once only; and saying which are known.

use std::collections::{BTreeMap, HashSet};

use job::ENQUEUE_RECIPIENTS_MAX;
use job::enqueue::EnqueueRequest;
use job::known::{KnownAnswer, KnownRequest, Wanted};
use job::strike::STRIKES_MAX;
use mail::{Address, MessageId};
use queue::{Attempt, Owed, Record, Routed, RoutedRecipient, Standing, State};
use socket::{ErrorObject, codes};

use super::answer::owed_by;
use super::backlog::{Place, Slot};
use super::{Answer, Scheduler, Turn, report};

/// The most recipients in messages whose last part has not come.
const PARTS_RECIPIENTS_MAX: usize = 500_000;
/// How long the next part may take, in milliseconds: then the message is forgotten, and requeue brings it back.
const PART_MS_MAX: u64 = 60_000;

/// Messages whose last part has not come, by connection.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    open: BTreeMap<(u64, MessageId), Part>,
    recipients: usize,
}

#[derive(Debug)]
struct Part {
    request: EnqueueRequest,
    next: u32,
    at: u64,
}

impl Parts {
    /// Adds a part; gives the whole message when it was the last.
    fn add(
        &mut self,
        connection: u64,
        mut request: EnqueueRequest,
        now: u64,
    ) -> Result<Option<EnqueueRequest>, ErrorObject> {
        let key = (connection, request.id);
        if request.part == 0 && !request.more {
            return Ok(Some(request));
        }
        if request.part == 0 {
            self.forget(&key);
        }
        let more = request.more;
        let added = std::mem::take(&mut request.recipients);
        let mut part = match self.open.remove(&key) {
            Some(part) if part.next == request.part && part.request.routing == request.routing => {
                self.recipients -= part.request.recipients.len();
                part
            }
            None if request.part == 0 => Part { request, next: 0, at: now },
            other => {
                self.recipients -= other.map_or(0, |part| part.request.recipients.len());
                return Err(ErrorObject::new(codes::CONFLICT, "this part was not the next one"));
            }
        };
        let total = part.request.recipients.len() + added.len();
        if total > ENQUEUE_RECIPIENTS_MAX || self.recipients + total > PARTS_RECIPIENTS_MAX {
            return Err(ErrorObject::new(codes::CONFLICT, "too many recipients in parts"));
        }
        part.request.recipients.extend(added);
        part.next += 1;
        part.at = now;
        if !more {
            return Ok(Some(part.request));
        }
        self.recipients += total;
        self.open.insert(key, part);
        Ok(None)
    }

    fn forget(&mut self, key: &(u64, MessageId)) {
        if let Some(part) = self.open.remove(key) {
            self.recipients -= part.request.recipients.len();
        }
    }

    /// Forgets messages whose next part does not come.
    pub(crate) fn forget_old(&mut self, now: u64) {
        let recipients = &mut self.recipients;
        self.open.retain(|_, part| {
            let stays = part.at.saturating_add(PART_MS_MAX) > now;
            if !stays {
                *recipients -= part.request.recipients.len();
            }
            stays
        });
    }

    /// When the first of them is forgotten.
    pub(crate) fn first_forgotten(&self) -> Option<u64> {
        self.open.values().map(|part| part.at.saturating_add(PART_MS_MAX)).min()
    }
}

impl Scheduler {
    /// Takes a message, or a part of one, over. What is known is acknowledged and changes nothing.
    pub(super) fn enqueue(
        &mut self,
        turn: &mut Turn<'_>,
        connection: u64,
        request: EnqueueRequest,
        standing: Standing,
    ) -> Answer {
        let id = request.id;
        let found = self.backlog.find(&id);
        let wanted = match found {
            Some(slot) => self.backlog.message(slot).reroute.is_some_and(|n| request.routing >= n),
            None => standing == Standing::Unknown,
        };
        if !wanted {
            return Answer::Enqueued;
        }
        let whole = match self.parts.add(connection, request, turn.now.mono) {
            Ok(Some(whole)) => whole,
            Ok(None) => return Answer::Enqueued,
            Err(error) => return Answer::Refused(error),
        };
        let mut routed = match routed(whole) {
            Ok(routed) => routed,
            Err(error) => return Answer::Refused(error),
        };
        match found {
            Some(slot) => self.reroute(turn, slot, routed),
            None => {
                let mut culprit = false;
                if let Some(struck) = self.backlog.struck.get(&id) {
                    routed.strikes = struck.strikes;
                    routed.hold = routed.hold.or(struck.hold.as_deref().map(Into::into));
                    culprit = struck.hold.is_some();
                }
                self.owe_at_once(turn, &mut routed, |_| true);
                self.counts.enqueued += 1;
                self.counts.held += u64::from(routed.hold.is_some());
                // A second record says that this hold is none that ends by itself.
                let by_strikes = routed.hold.clone().filter(|_| culprit);
                self.record(turn, Record::Routed(Box::new(routed)));
                if let Some(reason) = by_strikes {
                    self.record(turn, Record::Hold { id, reason: Some(reason) });
                }
            }
        }
        if let Some(slot) = self.backlog.find(&id) {
            self.note_stray(turn.now, slot);
            self.place_message(turn, slot);
        }
        Answer::Enqueued
    }

    /// Recipients that come as failed owe a report from the beginning.
    fn owe_at_once(&mut self, turn: &Turn<'_>, routed: &mut Routed, is_new: impl Fn(u32) -> bool) {
        let failed: Vec<(u32, State)> = routed
            .recipients
            .iter()
            .filter(|recipient| matches!(recipient.state, State::Failed(_)))
            .filter(|recipient| is_new(recipient.index))
            .map(|recipient| (recipient.index, recipient.state.clone()))
            .collect();
        if failed.is_empty() {
            return;
        }
        self.counts.failed += failed.len() as u64;
        let recipients = &routed.recipients;
        let notify = |index: u32| {
            let found =
                recipients.binary_search_by_key(&index, |recipient| recipient.index).ok()?;
            recipients.get(found)?.notify
        };
        let owed = owed_by(routed.sender.is_some(), &failed, notify);
        let due = turn.now.wall.after(self.settings.report_delay.0);
        for (kind, recipients) in owed {
            match routed.owed.iter_mut().find(|owed| owed.kind == kind) {
                Some(owed) => owed.recipients.extend(recipients),
                None => routed.owed.push(Owed { kind, recipients, due }),
            }
        }
        if routed.owed.is_empty() {
            tracing::info!(id = %routed.id, recipients = failed.len(), "failed, and nobody is to be told");
        }
    }

    /// Replaces the open recipients of a message by those of a new routing. What is final, or in hand at this moment, stays.
    fn reroute(&mut self, turn: &mut Turn<'_>, slot: Slot, new: Routed) {
        let message = self.backlog.message(slot);
        let mut merged = message.routed(&self.lanes);
        let in_hand: Vec<(u32, Place)> = message
            .recipients
            .iter()
            .filter(|recipient| matches!(recipient.place, Place::InHand(_)))
            .map(|recipient| (recipient.index, recipient.place))
            .collect();
        let reports: Vec<_> = message
            .owing
            .iter()
            .filter(|owing| matches!(owing.place, Place::InHand(_)))
            .map(|owing| (owing.kind, owing.place))
            .collect();
        let indexes: Vec<u32> = message.recipients.iter().map(|r| r.index).collect();
        let is_in_hand = |index: u32| in_hand.iter().any(|(held, _)| *held == index);
        let added = merge(&mut merged, new, is_in_hand);
        self.owe_at_once(turn, &mut merged, |index| added.contains(&index));
        tracing::info!(id = %merged.id, routing = merged.routing, recipients = merged.recipients.len(), "routed anew");
        for index in indexes {
            self.unwait(turn.now, slot, index);
        }
        self.park_reports(turn, slot);
        let id = merged.id;
        let by_hand: Vec<Record> = self.backlog.message(slot).held_by_hand(is_in_hand).collect();
        self.record(turn, Record::Routed(Box::new(merged)));
        for record in by_hand {
            self.record(turn, record);
        }
        let Some(slot) = self.backlog.find(&id) else { return };
        let message = self.backlog.message_mut(slot);
        for (index, place) in in_hand {
            if let Some(recipient) = message.recipient_mut(index) {
                recipient.place = place;
            }
        }
        for (kind, place) in reports {
            if let Some(owing) = message.owing_mut(kind) {
                owing.place = place;
            }
        }
    }

    /// Says which of the messages asked about are to be routed.
    pub(super) fn known(&self, request: &KnownRequest, standings: &[Standing]) -> KnownAnswer {
        let mut wanted = Vec::new();
        for ((index, message), standing) in (0..).zip(&request.messages).zip(standings) {
            let struck = self.backlog.struck.get(&message.id);
            let found = self.backlog.find(&message.id).map(|slot| self.backlog.look(slot));
            match found {
                Some(known) => {
                    // One that is held for its strikes would kill the next worker.
                    if let Some(routing) = known.reroute
                        && known.strikes < STRIKES_MAX
                    {
                        wanted.push(Wanted { index, routing, strikes: known.strikes });
                    }
                }
                // Held before it was routed: it would kill the next worker.
                None if struck.is_some_and(|struck| struck.hold.is_some()) => {}
                None if *standing == Standing::Unknown => {
                    let strikes = struck.map_or(0, |struck| struck.strikes);
                    wanted.push(Wanted { index, routing: 1, strikes });
                }
                None => {}
            }
        }
        KnownAnswer { wanted }
    }
}

/// Checks what router sent: indexes must be distinct.
fn routed(request: EnqueueRequest) -> Result<Routed, ErrorObject> {
    let mut recipients = request.recipients;
    recipients.sort_by_key(|recipient| recipient.index);
    let distinct = recipients.windows(2).all(|pair| match pair {
        [left, right] => left.index != right.index,
        _ => true,
    });
    let too_high = recipients.last().is_some_and(|last| report::is_report(last.index));
    if !distinct || too_high || recipients.len() > ENQUEUE_RECIPIENTS_MAX {
        return Err(ErrorObject::new(codes::PARAMS, "recipient indexes must be distinct numbers"));
    }
    Ok(Routed {
        id: request.id,
        handle: request.handle,
        routing: request.routing,
        sender: request.sender,
        size: request.size,
        accepted_at: request.accepted_at,
        body: request.body,
        smtputf8: request.smtputf8,
        ret: request.ret,
        envid: request.envid,
        hold: request.hold,
        recipients,
        owed: Vec::new(),
        strikes: 0,
    })
}

/// Who a recipient is in the envelope.
fn given(recipient: &RoutedRecipient) -> &Address {
    recipient.original.as_ref().unwrap_or(&recipient.address)
}

fn is_open(recipient: &RoutedRecipient) -> bool {
    matches!(recipient.state, State::Open(_) | State::Held { .. })
}

/// Replaces the open recipients of `present` by those of `new`.
///
/// A new recipient is left out when its address stays, or when everything that its recipient in the envelope became before
/// is final: nobody gets the message twice. A new one whose index is taken gets a fresh one. Gives the indexes of the new.
fn merge(present: &mut Routed, new: Routed, in_hand: impl Fn(u32) -> bool) -> HashSet<u32> {
    let before = std::mem::take(&mut present.recipients);
    let (stay, go): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|one| !is_open(one) || in_hand(one.index));
    let told: HashSet<Address> = go
        .iter()
        .filter(|one| match &one.state {
            State::Open(attempt) | State::Held { then: attempt, .. } => attempt.delay_reported,
            _ => false,
        })
        .map(|one| given(one).clone())
        .collect();
    let unfinished: HashSet<&Address> = go.iter().map(given).collect();
    let addresses: HashSet<&Address> = stay.iter().map(|one| &one.address).collect();
    let finished: HashSet<&Address> =
        stay.iter().map(given).filter(|given| !unfinished.contains(given)).collect();
    let mut taken: HashSet<u32> = stay.iter().map(|one| one.index).collect();
    let highest = |all: &[RoutedRecipient]| all.iter().map(|one| one.index).max().unwrap_or(0);
    let mut next = highest(&stay).max(highest(&new.recipients)).saturating_add(1);
    let mut added: Vec<RoutedRecipient> = Vec::new();
    for mut one in new.recipients {
        if addresses.contains(&one.address) || finished.contains(given(&one)) {
            continue;
        }
        if !taken.insert(one.index) {
            one.index = next;
            taken.insert(next);
            next += 1;
        }
        if told.contains(given(&one))
            && let State::Open(attempt) | State::Held { then: attempt, .. } = &mut one.state
        {
            *attempt = Attempt { delay_reported: true, ..attempt.clone() };
        }
        added.push(one);
    }
    let fresh = added.iter().map(|one| one.index).collect();
    present.routing = new.routing;
    present.recipients = stay;
    present.recipients.extend(added);
    present.recipients.sort_by_key(|one| one.index);
    let indexes: HashSet<u32> = present.recipients.iter().map(|one| one.index).collect();
    for owed in &mut present.owed {
        owed.recipients.retain(|index| indexes.contains(index));
    }
    present.owed.retain(|owed| !owed.recipients.is_empty());
    fresh
}
