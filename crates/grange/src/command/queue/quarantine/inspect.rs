//! `grange quarantine release --inspect`: the filters look again at what they hold, and what all accept is released.
//!
//! ```text
//! scheduler ─ a page of what is held ─▶ each, some at once: accept record ─▶ contentfilter ─┬─ all accept ─▶ released
//!                                                                                          └─ else it stays held, and why is said
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::rc::Rc;

use job::admin::{AdminAnswer, AdminRequest, Change, Changed, ListQuery, QueuedMessage, Selection};
use job::inspect::{DraftFacts, Heard, Inspect, InspectAnswer, InspectRequest, Step, Verdict};
use mail::{Address, Envelope, MessageId};
use queue::{Accept, Accepted, Handle, Reader};
use serde::Serialize;
use socket::{CallError, Client, ClientSettings};
use tokio::task::JoinSet;

use super::super::{admin, missing, unexpected, unreadable};
use crate::cli;
use crate::command::{Failure, chain, client, filter, store, table};
use crate::configuration::Configuration;

/// So many messages are looked at at once.
const AT_ONCE: usize = 8;
/// Of so many recipients it is told why a message stays held.
const TOLD_MAX: usize = 10;
/// The exit status when a message stays held.
const STILL_HELD: u8 = 1;

/// What `--json` prints.
#[derive(Default, Serialize)]
struct Report {
    /// What was released.
    #[serde(flatten)]
    released: Changed,
    /// What stays held.
    held: Vec<StillHeld>,
}

/// A message that stays held.
#[derive(Serialize)]
struct StillHeld {
    id: MessageId,
    /// Why, a line each.
    why: Vec<String>,
}

/// Releases those of the selected messages that all filters accept.
pub(super) async fn release(
    configuration: &Configuration,
    select: &Selection,
    output: cli::Output,
) -> Result<ExitCode, Failure> {
    let inspector = Rc::new(Inspector::new(configuration)?);
    let named: BTreeSet<MessageId> = select.ids.iter().copied().collect();
    let mut report = Report::default();
    let (mut found, mut cursor) = (0, None);
    loop {
        let query = ListQuery { select: select.clone(), limit: Some(job::LIST_MAX), cursor };
        let answer = admin(configuration, &AdminRequest::List(query)).await?;
        let AdminAnswer::List(page) = answer else { return Err(unexpected()) };
        found += page.messages.len() as u64;
        let (accepted, held) = inspector.look_at(page.messages).await?;
        let released = let_go(configuration, select, accepted).await?;
        report.released.messages += released.messages;
        report.released.recipients += released.recipients;
        if !output.json {
            held.iter().for_each(print);
        }
        report.held.extend(held);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    if output.json {
        table::json(&report)?;
    } else {
        let Changed { messages, recipients } = report.released;
        println!("{messages} messages, {recipients} recipients");
    }
    missing(&named, found)?;
    Ok(if report.held.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(STILL_HELD) })
}

/// Releases these messages, as far as they are selected and still held.
async fn let_go(
    configuration: &Configuration,
    select: &Selection,
    ids: Vec<MessageId>,
) -> Result<Changed, Failure> {
    if ids.is_empty() {
        return Ok(Changed::default());
    }
    let select = Selection { ids, all: false, ..select.clone() };
    let request = AdminRequest::Release(Change { select, reason: None });
    match admin(configuration, &request).await? {
        AdminAnswer::Changed(changed) => Ok(changed),
        _ => Err(unexpected()),
    }
}

fn print(held: &StillHeld) {
    println!("{} stays held", held.id);
    for why in &held.why {
        println!("  {}", table::plain(why));
    }
}

/// Asks the filters about stored messages.
struct Inspector {
    reader: Rc<dyn Reader>,
    contentfilter: Client<Inspect>,
    smtpserver: smtpserver::Settings,
}

impl Inspector {
    fn new(configuration: &Configuration) -> Result<Self, Failure> {
        if configuration.is_whole && !configuration.inspects() {
            let text = "there are no filters to look at it again: release it without --inspect";
            return Err(Failure::Usage(text.to_owned()));
        }
        let smtpserver = configuration.smtpserver.clone();
        let settings = ClientSettings {
            deadline: smtpserver.inspect_timeout.0,
            waiting_max: AT_ONCE,
            ..ClientSettings::default()
        };
        let contentfilter = client::<Inspect>(configuration, "contentfilter.inspect", settings)?;
        let (reader, _) = store(configuration)?;
        Ok(Self { reader, contentfilter, smtpserver })
    }

    /// Has the filters look at messages; gives those that all accept, and those that stay held.
    async fn look_at(
        self: &Rc<Self>,
        messages: Vec<QueuedMessage>,
    ) -> Result<(Vec<MessageId>, Vec<StillHeld>), Failure> {
        let mut waiting = messages.into_iter();
        let mut running = JoinSet::new();
        let mut whys = BTreeMap::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(QueuedMessage { id, handle, .. }) = waiting.next()
            {
                let this = Rc::clone(self);
                running.spawn_local(async move { (id, this.inspect(id, handle).await) });
            }
            let Some(done) = running.join_next().await else { break };
            let (id, why) = done.map_err(anyhow::Error::from)?;
            whys.insert(id, why);
        }
        let (accepted, held): (Vec<_>, Vec<_>) =
            whys.into_iter().partition(|(_, why)| why.is_empty());
        let accepted = accepted.into_iter().map(|(id, _)| id).collect();
        Ok((accepted, held.into_iter().map(|(id, why)| StillHeld { id, why }).collect()))
    }

    /// Has the filters look at one message; says why it stays held, or nothing if it does not.
    async fn inspect(&self, id: MessageId, handle: Handle) -> Vec<String> {
        let Accepted { size, accept, .. } = match self.reader.open(&handle).await {
            Ok(stored) => stored.accepted,
            Err(error) => return vec![format!("it cannot be read: {}", chain(&unreadable(error)))],
        };
        let Accept { envelope, origin, hold, .. } = accept;
        let trusted = origin.client.is_some_and(|client| self.smtpserver.may_relay(client));
        let request = InspectRequest {
            session: format!("grange/{}-{id}", std::process::id()),
            step: Step::Message,
            transaction: 1,
            origin,
            port: 0,
            trusted,
            envelope: Some(envelope.clone()),
            given: 0,
            draft: Some(DraftFacts { handle, id, size, stored: true }),
        };
        match self.contentfilter.call(&request).await {
            Ok(answer) => why_held(&answer, &envelope, hold.is_some()),
            Err(CallError::Refused(error)) => {
                vec![format!("contentfilter refuses to look: {}", error.message)]
            }
            Err(error) => vec![format!("contentfilter gave no answer: {error}")],
        }
    }
}

/// Why a message stays held that the filters were asked about; nothing if they accept it. Of one that is not held as a whole, those
/// recipients count for whom it is. A filter that could not be asked has not accepted it, whatever its rule.
fn why_held(answer: &InspectAnswer, envelope: &Envelope, is_whole: bool) -> Vec<String> {
    let own: BTreeMap<u32, &Verdict> =
        answer.recipients.iter().map(|(place, verdict)| (*place, verdict)).collect();
    let is_whole = is_whole || envelope.recipients.iter().all(|one| one.hold.is_none());
    let held = (0..).zip(&envelope.recipients).filter(|(_, one)| is_whole || one.hold.is_some());
    let verdicts: Vec<(&Address, Option<&Verdict>)> =
        held.map(|(place, one)| (&one.address, own.get(&place).copied())).collect();
    let refused: Vec<(&Address, &Verdict)> = verdicts
        .iter()
        .filter_map(|(address, own)| Some((*address, own.filter(|own| **own != Verdict::Accept)?)))
        .collect();
    let is_refused =
        answer.verdict != Verdict::Accept && verdicts.iter().any(|(_, own)| own.is_none());
    let has_failed = answer.said.iter().any(|said| matches!(said.what, Heard::Failure(_)));
    if !is_refused && refused.is_empty() && !has_failed {
        return Vec::new();
    }
    let said = answer.said.iter().map(|said| match &said.what {
        Heard::Verdict(verdict) => format!("{}: {}", said.filter, filter::verdict(verdict)),
        Heard::Failure(why) => format!("{}: failed: {why}", said.filter),
    });
    let mut why: Vec<String> = said.collect();
    if is_refused && why.is_empty() {
        why.push(format!("contentfilter: {}", filter::verdict(&answer.verdict)));
    }
    let told = refused.iter().take(TOLD_MAX);
    why.extend(told.map(|(address, own)| format!("{address}: {}", filter::verdict(own))));
    if refused.len() > TOLD_MAX {
        why.push(format!("and {} recipients more", refused.len() - TOLD_MAX));
    }
    why
}

#[cfg(test)]
mod tests;
