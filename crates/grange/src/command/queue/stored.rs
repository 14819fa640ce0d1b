//! What the store says of its messages: those that no scheduler knows yet (S1), or all of them when none answers.

use std::collections::HashSet;

use job::admin::{Page, QueuedMessage, Selection};
use job::known::{Known, KnownMessage, KnownRequest};
use mail::MessageId;
use queue::{Listed, ReadError, Reader, State};

use crate::command::{Failure, ask, store, table};
use crate::configuration::Configuration;

/// The state of a message that is not routed and whose record fails its checks.
const DAMAGED: &str = "damaged";
/// Begins a cursor within what is accepted and not known to the scheduler: it lists these after all others.
const ACCEPTED: &str = "accepted:";

/// Where a page of accepted messages begins: behind an id, or at the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct After(Option<MessageId>);

impl After {
    /// The beginning.
    pub(super) const NOTHING: Self = Self(None);

    /// The cursor that goes on here, among messages that the scheduler lacks.
    fn cursor(self) -> String {
        format!("{ACCEPTED}{}", self.0.map(|id| id.to_string()).unwrap_or_default())
    }
}

/// What a cursor means if it is one for accepted messages; any other is the scheduler's own.
pub(super) fn accepted_after(cursor: Option<&str>) -> Result<Option<After>, Failure> {
    let Some(id) = cursor.and_then(|cursor| cursor.strip_prefix(ACCEPTED)) else {
        return Ok(None);
    };
    match id {
        "" => Ok(Some(After::NOTHING)),
        id => Ok(Some(After(Some(parsed(id)?)))),
    }
}

fn parsed(id: &str) -> Result<MessageId, Failure> {
    id.parse().map_err(|_| Failure::Usage("the cursor is not one of ours".to_owned()))
}

/// A page of what is accepted and not known to the scheduler yet, behind an id. What is in `known` need not be asked about.
pub(super) async fn accepted(
    configuration: &Configuration,
    select: &Selection,
    limit: usize,
    after: After,
    known: &[QueuedMessage],
) -> Result<Page, Failure> {
    let (reader, recovery) = store(configuration)?;
    let known: HashSet<MessageId> = known.iter().map(|message| message.id).collect();
    let mut listed = listed(&*recovery, after).await?;
    listed.retain(|one| !known.contains(&one.id));
    let mut page = Page { messages: Vec::new(), cursor: None };
    let mut cut = Cut { room: limit, last: after, more: false };
    for part in listed.chunks(job::KNOWN_MAX) {
        let mut lacking = unknown(configuration, part).await?;
        lacking.dedup_by_key(|one| one.id);
        cut.fill(&*reader, select, lacking, &mut page.messages).await;
        if cut.more {
            page.cursor = Some(cut.last.cursor());
            break;
        }
    }
    keep_damaged(configuration, &mut page.messages).await?;
    Ok(page)
}

/// Leaves out what was found damaged and is known by now: the body of a message that has ended goes before its record does.
async fn keep_damaged(
    configuration: &Configuration,
    messages: &mut Vec<QueuedMessage>,
) -> Result<(), Failure> {
    let is_damaged = |message: &&QueuedMessage| message.state == DAMAGED;
    let of = |message: &QueuedMessage| Listed {
        handle: message.handle.clone(),
        id: message.id,
        accepted_at: message.accepted_at,
    };
    let damaged: Vec<Listed> = messages.iter().filter(is_damaged).map(of).collect();
    let mut lacking = HashSet::new();
    for part in damaged.chunks(job::KNOWN_MAX) {
        lacking.extend(unknown(configuration, part).await?.into_iter().map(|one| one.id));
    }
    messages.retain(|message| message.state != DAMAGED || lacking.contains(&message.id));
    Ok(())
}

/// What the scheduler knows, and what was accepted and not known to it when that was asked a moment earlier: its word counts.
pub(super) fn joined(routed: Page, accepted: Page, limit: usize) -> Page {
    let Page { messages, cursor } = routed;
    if cursor.is_some() {
        return Page { messages, cursor };
    }
    let known: HashSet<MessageId> = messages.iter().map(|message| message.id).collect();
    let mut cursor = accepted.cursor;
    let mut accepted = accepted.messages;
    accepted.retain(|message| !known.contains(&message.id));
    let room = limit.saturating_sub(messages.len());
    if accepted.len() > room {
        accepted.truncate(room);
        cursor = Some(After(accepted.last().map(|message| message.id)).cursor());
    }
    let mut messages = messages;
    messages.append(&mut accepted);
    messages.sort_by_key(|message| message.id);
    Page { messages, cursor }
}

/// A page of all that the store holds and that has not ended; the cursor is the last id of the page before.
pub(super) async fn whole_store(
    configuration: &Configuration,
    select: &Selection,
    limit: usize,
    cursor: Option<&str>,
) -> Result<Page, Failure> {
    let after = match (accepted_after(cursor)?, cursor) {
        (Some(after), _) => after,
        (None, Some(id)) => After(Some(parsed(id)?)),
        (None, None) => After::NOTHING,
    };
    let (reader, recovery) = store(configuration)?;
    let mut listed = listed(&*recovery, after).await?;
    let retired = configuration.stores().retired()?;
    listed.retain(|one| !retired(&one.handle));
    // One that was moved, and whose segment is there still, is listed twice.
    listed.dedup_by_key(|one| one.id);
    let mut page = Page { messages: Vec::new(), cursor: None };
    let mut cut = Cut { room: limit, last: after, more: false };
    cut.fill(&*reader, select, listed, &mut page.messages).await;
    page.cursor = cut.last.0.filter(|_| cut.more).map(|id| id.to_string());
    Ok(page)
}

/// One message by its id; with `scheduler`, only if the scheduler lacks it.
pub(super) async fn find(
    configuration: &Configuration,
    id: MessageId,
    scheduler: bool,
) -> Result<Option<QueuedMessage>, Failure> {
    let (reader, recovery) = store(configuration)?;
    let mut listed = listed(&*recovery, After::NOTHING).await?;
    listed.retain(|one| one.id == id);
    if scheduler {
        listed = unknown(configuration, &listed).await?;
    } else {
        let retired = configuration.stores().retired()?;
        listed.retain(|one| !retired(&one.handle));
    }
    let mut found = Vec::new();
    let mut cut = Cut { room: 1, last: After::NOTHING, more: false };
    cut.fill(&*reader, &Selection::default(), listed, &mut found).await;
    Ok(found.pop())
}

/// Everything that is accepted, in the order of ids.
pub(super) async fn everything(recovery: &dyn queue::Recovery) -> Result<Vec<Listed>, Failure> {
    listed(recovery, After::NOTHING).await
}

/// What is accepted after an id, in the order of ids.
async fn listed(recovery: &dyn queue::Recovery, after: After) -> Result<Vec<Listed>, Failure> {
    let mut listed = Vec::new();
    for segment in recovery.segments(true).await.map_err(anyhow::Error::from)? {
        let accepted = recovery.accepted(&segment).await.map_err(anyhow::Error::from)?;
        listed.extend(accepted.into_iter().filter(|one| after.0.is_none_or(|id| one.id > id)));
    }
    listed.sort_by_key(|one| one.id);
    Ok(listed)
}

/// Where a list is cut off.
struct Cut {
    room: usize,
    /// The last message in it, or where it began.
    last: After,
    /// There is another, and no room for it.
    more: bool,
}

impl Cut {
    /// Opens messages until there is no room for one that is selected.
    async fn fill(
        &mut self,
        reader: &dyn Reader,
        select: &Selection,
        listed: Vec<Listed>,
        into: &mut Vec<QueuedMessage>,
    ) {
        for one in listed {
            if !select.ids.is_empty() && !select.ids.contains(&one.id) {
                continue;
            }
            let found = match reader.open(&one.handle).await {
                Ok(stored) => accepted_message(&one, stored.accepted),
                Err(ReadError::Damaged(_, what)) => damaged_message(&one, what),
                // It may have ended meanwhile.
                Err(_) => continue,
            };
            if !selects(select, &found) {
                continue;
            }
            if self.room == 0 {
                self.more = true;
                return;
            }
            self.room -= 1;
            self.last = After(Some(found.id));
            into.push(found);
        }
    }
}

/// Keeps those that the scheduler lacks.
async fn unknown(configuration: &Configuration, listed: &[Listed]) -> Result<Vec<Listed>, Failure> {
    let messages =
        listed.iter().map(|one| KnownMessage { handle: one.handle.clone(), id: one.id }).collect();
    let request = KnownRequest { messages };
    let answer = ask::<Known>(configuration, "scheduler.known", &request).await?;
    let wanted = answer.wanted.iter().filter_map(|wanted| listed.get(wanted.index as usize));
    Ok(wanted.cloned().collect())
}

fn accepted_message(listed: &Listed, accepted: queue::Accepted) -> QueuedMessage {
    let recipients = accepted.accept.envelope.recipients.iter().zip(0..);
    QueuedMessage {
        id: accepted.id,
        state: "accepted".to_owned(),
        sender: accepted.accept.envelope.sender.clone(),
        size: accepted.size,
        accepted_at: accepted.accept.accepted_at,
        handle: listed.handle.clone(),
        hold: accepted.accept.hold.clone(),
        recipients_total: accepted.accept.envelope.recipients.len() as u32,
        recipients: recipients
            .map(|(recipient, index)| queue::RoutedRecipient {
                index,
                address: recipient.address.clone(),
                original: None,
                orcpt: recipient.orcpt.clone(),
                notify: recipient.notify,
                channel: String::new(),
                host: String::new(),
                user: String::new(),
                state: match &recipient.hold {
                    Some(reason) => {
                        State::Held { reason: reason.clone(), then: Default::default() }
                    }
                    None => State::default(),
                },
            })
            .collect(),
    }
}

/// What is left to say of a message that fails its checks: neither its sender nor its recipients can be trusted.
fn damaged_message(listed: &Listed, what: String) -> QueuedMessage {
    QueuedMessage {
        id: listed.id,
        state: DAMAGED.to_owned(),
        sender: None,
        size: 0,
        accepted_at: listed.accepted_at,
        handle: listed.handle.clone(),
        hold: Some(format!("damaged: {what}")),
        recipients_total: 0,
        recipients: Vec::new(),
    }
}

/// Whether all or some of an accepted message is held: by a filter, since nobody else can before it is routed, or for its damage.
fn is_held(message: &QueuedMessage) -> bool {
    let some = |one: &queue::RoutedRecipient| matches!(one.state, State::Held { .. });
    message.hold.is_some() || message.recipients.iter().any(some)
}

fn selects(select: &Selection, message: &QueuedMessage) -> bool {
    let sender = table::sender(message.sender.as_ref());
    (select.ids.is_empty() || select.ids.contains(&message.id))
        && (!select.held || is_held(message))
        && (!select.quarantined || (is_held(message) && message.state != DAMAGED))
        && select.before.is_none_or(|before| message.accepted_at < before)
        && select.sender.as_ref().is_none_or(|wanted| sender.eq_ignore_ascii_case(wanted))
        && select.domain.as_ref().is_none_or(|wanted| {
            message.recipients.iter().any(|one| one.address.domain().eq_ignore_ascii_case(wanted))
        })
}

#[cfg(test)]
mod tests;
