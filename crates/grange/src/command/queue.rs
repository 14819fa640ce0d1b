//! `grange queue …`: asks the scheduler; `list` and `show` read the store when there is none.

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;

use job::admin::{
    Admin, AdminAnswer, AdminRequest, Change, LaneChange, LaneSummary, ListQuery, Nothing, Page,
    QueuedMessage, Selection, ShowQuery,
};
use job::known::{Known, KnownMessage, KnownRequest};
use job::requeue::{Requeue, RequeueRequest};
use mail::MessageId;
use queue::{Listed, State};

use super::{Failure, ask, block_on, table};
use crate::cli;
use crate::configuration::Configuration;
use crate::stores;

/// Runs a command on the queue.
pub(super) fn run(configuration: &Configuration, command: cli::Queue) -> Result<ExitCode, Failure> {
    block_on(async {
        match command {
            cli::Queue::List { select, limit, cursor, output } => {
                list(configuration, select, limit, cursor, output).await
            }
            cli::Queue::Summary(output) => summary(configuration, output).await,
            cli::Queue::Show { id, raw: true, .. } => raw(configuration, id).await,
            cli::Queue::Show { id, output, .. } => show(configuration, id, output).await,
            cli::Queue::Hold(change) => apply(configuration, AdminRequest::Hold, change).await,
            cli::Queue::Release(change) => {
                apply(configuration, AdminRequest::Release, change).await
            }
            cli::Queue::Retry(change) => apply(configuration, AdminRequest::Retry, change).await,
            cli::Queue::Remove(change) => apply(configuration, AdminRequest::Remove, change).await,
            cli::Queue::Bounce(change) => apply(configuration, AdminRequest::Bounce, change).await,
            cli::Queue::Reroute(change) => {
                apply(configuration, AdminRequest::Reroute, change).await
            }
            cli::Queue::Suspend { lane, seconds, output } => {
                known_channel(configuration, &lane)?;
                let done = format!("{lane} is suspended");
                let request = AdminRequest::Suspend(LaneChange { lane, seconds });
                changed(configuration, &request, output, Some(done)).await
            }
            cli::Queue::Resume { lane, output } => {
                let done = format!("{lane} is not suspended");
                let request = AdminRequest::Resume(LaneChange { lane, seconds: None });
                changed(configuration, &request, output, Some(done)).await
            }
        }
    })?
}

/// A lane's channel must be one of the configuration: a slip of the pen would otherwise suspend nothing, silently. Resuming is
/// free of this, as a channel may be gone whose suspension is still written down.
fn known_channel(configuration: &Configuration, lane: &str) -> Result<(), Failure> {
    let channel = lane.split_once('/').map_or(lane, |(channel, _)| channel);
    let names: Vec<&str> = configuration.channels.iter().map(|one| one.name.as_str()).collect();
    if names.contains(&channel) {
        return Ok(());
    }
    let known = names.join(", ");
    Err(Failure::Usage(format!("there is no channel {channel:?}; there are {known}")))
}

/// Asks for a pass of requeue.
pub(super) fn requeue(configuration: &Configuration) -> Result<ExitCode, Failure> {
    let request = RequeueRequest { reason: "asked on the command line".to_owned() };
    block_on(ask::<Requeue>(&configuration.top.run_dir, "requeue.requeue", &request))??;
    println!("a pass over accepted messages has been asked for");
    Ok(ExitCode::SUCCESS)
}

async fn admin(
    configuration: &Configuration,
    request: &AdminRequest,
) -> Result<AdminAnswer, Failure> {
    ask::<Admin>(&configuration.top.run_dir, "scheduler.admin", request).await
}

fn selection(select: cli::Select) -> Selection {
    let cli::Select { ids, lane, domain, sender, held, all } = select;
    Selection { ids, lane, domain, sender, held, all }
}

fn unexpected() -> Failure {
    Failure::Refused("the scheduler gave an answer to another question".to_owned())
}

async fn list(
    configuration: &Configuration,
    select: cli::Select,
    limit: u32,
    cursor: Option<String>,
    output: cli::Output,
) -> Result<ExitCode, Failure> {
    let select = selection(select);
    let mut page = Page { messages: Vec::new(), cursor: cursor.clone() };
    let mut first = true;
    while page.messages.len() < limit as usize && (first || page.cursor.is_some()) {
        first = false;
        let missing = limit - page.messages.len() as u32;
        let query = ListQuery {
            select: select.clone(),
            limit: Some(missing.min(job::LIST_MAX)),
            cursor: page.cursor.take(),
        };
        match admin(configuration, &AdminRequest::List(query)).await {
            Ok(AdminAnswer::List(next)) => {
                page.messages.extend(next.messages);
                page.cursor = next.cursor;
            }
            Ok(_) => return Err(unexpected()),
            Err(Failure::Unavailable(why)) => {
                if select.lane.is_some() {
                    let why = format!("{why}; the store alone does not know of lanes");
                    return Err(Failure::Unavailable(why));
                }
                eprintln!("grange: {why}; reading the store instead");
                page = whole_store(configuration, &select, limit, cursor.as_deref()).await?;
                break;
            }
            Err(other) => return Err(other),
        }
    }
    let whole = page.cursor.is_none();
    if whole && !select.held && select.lane.is_none() && page.messages.len() < limit as usize {
        add_accepted(configuration, &select, limit, &mut page).await;
    }
    if output.json {
        table::json(&page)?;
    } else {
        print_page(&page)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A page of all that the store holds, by id; the cursor is the last id of the page before.
async fn whole_store(
    configuration: &Configuration,
    select: &Selection,
    limit: u32,
    cursor: Option<&str>,
) -> Result<Page, Failure> {
    let after: Option<MessageId> = cursor
        .map(str::parse)
        .transpose()
        .map_err(|_| Failure::Usage("the cursor is not one of ours".to_owned()))?;
    let mut page = stored_page(configuration, select, u32::MAX, None).await?;
    page.messages.retain(|message| after.is_none_or(|after| message.id > after));
    page.messages.sort_by_key(|message| message.id);
    if page.messages.len() > limit as usize {
        page.messages.truncate(limit as usize);
        page.cursor = page.messages.last().map(|message| message.id.to_string());
    }
    Ok(page)
}

/// Adds what is accepted and not known to the scheduler yet (S1).
async fn add_accepted(
    configuration: &Configuration,
    select: &Selection,
    limit: u32,
    page: &mut Page,
) {
    let have: HashSet<MessageId> = page.messages.iter().map(|message| message.id).collect();
    let Ok(stored) = stored_page(configuration, select, u32::MAX, Some(&have)).await else {
        return;
    };
    let room = limit as usize - page.messages.len().min(limit as usize);
    page.messages.extend(stored.messages.into_iter().take(room));
    page.messages.sort_by_key(|message| message.id);
}

/// Reads messages from the store. With `have`, only those that the scheduler says it does not know; else all, as nobody can
/// say which of them have ended.
async fn stored_page(
    configuration: &Configuration,
    select: &Selection,
    limit: u32,
    have: Option<&HashSet<MessageId>>,
) -> Result<Page, Failure> {
    let (reader, recovery) = stores::read_only(configuration)?;
    let segments = recovery.segments(true).await.map_err(anyhow::Error::from)?;
    let mut messages = Vec::new();
    for segment in segments {
        let mut listed = recovery.accepted(&segment).await.map_err(anyhow::Error::from)?;
        if let Some(have) = have {
            listed.retain(|message| !have.contains(&message.id));
            listed = unknown(configuration, listed).await?;
        } else {
            let retired = stores::retired(configuration)?;
            listed.retain(|message| !retired(&message.handle));
        }
        for message in listed {
            if messages.len() >= limit as usize {
                return Ok(Page { messages, cursor: None });
            }
            let Ok(stored) = reader.open(&message.handle).await else { continue };
            let found = accepted_message(&message, stored.accepted);
            if selects(select, &found) {
                messages.push(found);
            }
        }
    }
    Ok(Page { messages, cursor: None })
}

/// Keeps those that the scheduler lacks.
async fn unknown(
    configuration: &Configuration,
    listed: Vec<Listed>,
) -> Result<Vec<Listed>, Failure> {
    let mut lacking = Vec::new();
    for part in listed.chunks(job::KNOWN_MAX) {
        let messages = part
            .iter()
            .map(|one| KnownMessage { handle: one.handle.clone(), id: one.id })
            .collect();
        let request = KnownRequest { messages };
        let answer = ask::<Known>(&configuration.top.run_dir, "scheduler.known", &request).await?;
        let wanted = answer.wanted.iter().filter_map(|wanted| part.get(wanted.index as usize));
        lacking.extend(wanted.cloned());
    }
    Ok(lacking)
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
                state: State::default(),
            })
            .collect(),
    }
}

fn selects(select: &Selection, message: &QueuedMessage) -> bool {
    let sender = table::sender(message.sender.as_ref());
    (select.ids.is_empty() || select.ids.contains(&message.id))
        && (!select.held || message.hold.is_some())
        && select.sender.as_ref().is_none_or(|wanted| sender.eq_ignore_ascii_case(wanted))
        && select.domain.as_ref().is_none_or(|wanted| {
            message.recipients.iter().any(|one| one.address.domain().eq_ignore_ascii_case(wanted))
        })
}

fn print_page(page: &Page) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = page
        .messages
        .iter()
        .map(|message| {
            let mut recipients = message.recipients.iter();
            let first = recipients.next().map(|one| one.address.to_string()).unwrap_or_default();
            let more = match recipients.count() {
                0 => String::new(),
                more => format!(" (+{more})"),
            };
            vec![
                message.id.to_string(),
                message.state.clone(),
                table::ago(message.accepted_at),
                table::size(message.size),
                table::sender(message.sender.as_ref()),
                format!("{first}{more}"),
                table::plain(&waits_for(message)),
            ]
        })
        .collect();
    if rows.is_empty() {
        println!("no messages");
        return Ok(());
    }
    table::print(&["ID", "STATE", "AGE", "SIZE", "SENDER", "RECIPIENT", "WAITS FOR"], &rows)?;
    if let Some(cursor) = &page.cursor {
        println!("more: --cursor {cursor}");
    }
    Ok(())
}

/// Why a message is still here, in its first unfinished recipient's last words.
fn waits_for(message: &QueuedMessage) -> String {
    if let Some(hold) = &message.hold {
        return hold.clone();
    }
    message
        .recipients
        .iter()
        .find_map(|one| match &one.state {
            State::Open(attempt) => attempt.last.as_ref().map(|reply| reply.text.clone()),
            State::Held { reason, .. } => Some(reason.clone()),
            _ => None,
        })
        .unwrap_or_default()
}

async fn summary(configuration: &Configuration, output: cli::Output) -> Result<ExitCode, Failure> {
    let AdminAnswer::Summary(lanes) =
        admin(configuration, &AdminRequest::Summary(Nothing {})).await?
    else {
        return Err(unexpected());
    };
    if output.json {
        table::json(&lanes)?;
        return Ok(ExitCode::SUCCESS);
    }
    if lanes.is_empty() {
        println!("no lanes: the queue is empty");
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = lanes
        .iter()
        .map(|lane| {
            let mut row = vec![
                table::plain(&format!("{}/{}", lane.channel, lane.host)),
                lane.recipients.to_string(),
                lane.active.to_string(),
                lane.held.to_string(),
            ];
            row.extend(lane.ages.iter().map(u64::to_string));
            row.push(table::plain(&why(lane)));
            row
        })
        .collect();
    let heading = ["LANE", "WAIT", "ACTIVE", "HELD", "<5m", "<1h", "<4h", "<1d", "OLDER", "WHY"];
    table::print(&heading, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// Why a lane waits and for how long, with the last reply; a lane that waits for nothing is between its recipients' attempts.
fn why(lane: &LaneSummary) -> String {
    let wait = lane.next.filter(|next| *next > table::now());
    let wait = wait.map(|next| table::span(next.since(table::now())));
    let words = match (&lane.reason, wait) {
        (Some(reason), Some(wait)) => format!("{reason} for {wait}"),
        (Some(reason), None) => reason.clone(),
        (None, Some(wait)) => format!("next attempt in {wait}"),
        (None, None) => String::new(),
    };
    match &lane.last {
        Some(last) if words.is_empty() => last.clone(),
        Some(last) => format!("{words}: {last}"),
        None => words,
    }
}

async fn find(configuration: &Configuration, id: MessageId) -> Result<QueuedMessage, Failure> {
    let request = AdminRequest::Show(ShowQuery { id });
    let missing = match admin(configuration, &request).await {
        Ok(AdminAnswer::Message(message)) => return Ok(*message),
        Ok(_) => return Err(unexpected()),
        Err(error @ (Failure::NotFound(_) | Failure::Unavailable(_))) => error,
        Err(other) => return Err(other),
    };
    if let Failure::Unavailable(why) = &missing {
        eprintln!("grange: {why}; reading the store instead");
    }
    let select = Selection { ids: vec![id], ..Selection::default() };
    let running = matches!(missing, Failure::NotFound(_)).then(HashSet::new);
    let page = stored_page(configuration, &select, 1, running.as_ref()).await?;
    let found = page.messages.into_iter().next();
    found.ok_or_else(|| Failure::NotFound(format!("there is no message {id} in the queue")))
}

async fn show(
    configuration: &Configuration,
    id: MessageId,
    output: cli::Output,
) -> Result<ExitCode, Failure> {
    let message = find(configuration, id).await?;
    if output.json {
        table::json(&message)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("id        {}", message.id);
    println!("state     {}", message.state);
    println!("sender    {}", table::sender(message.sender.as_ref()));
    println!("size      {}", table::size(message.size));
    println!("accepted  {} ago", table::ago(message.accepted_at));
    println!("handle    {}", message.handle);
    if let Some(hold) = &message.hold {
        println!("held      {}", table::plain(hold));
    }
    for recipient in &message.recipients {
        println!();
        println!("recipient {}", recipient.address);
        if let Some(original) = &recipient.original {
            println!("  given as {original}");
        }
        if !recipient.channel.is_empty() {
            println!("  lane     {}/{}", recipient.channel, table::plain(&recipient.host));
        }
        println!("  state    {}", table::plain(&state_in_words(&recipient.state)));
    }
    Ok(ExitCode::SUCCESS)
}

fn state_in_words(state: &State) -> String {
    match state {
        State::Open(attempt) => {
            let mut words = format!("waiting, {} attempts", attempt.count);
            if attempt.next > table::now() {
                let wait = attempt.next.since(table::now());
                words.push_str(&format!(", next in {}", table::span(wait)));
            }
            if let Some(last) = &attempt.last {
                words.push_str(&format!("; last: {} {}", last.status, last.text));
            }
            words
        }
        State::Held { reason, .. } => format!("held: {reason}"),
        State::Delivered(delivered) => {
            format!("delivered: {} {}", delivered.reply.status, delivered.reply.text)
        }
        State::Failed(reply) => format!("failed: {} {}", reply.status, reply.text),
        State::Removed => "removed".to_owned(),
    }
}

async fn raw(configuration: &Configuration, id: MessageId) -> Result<ExitCode, Failure> {
    let message = find(configuration, id).await?;
    let (reader, _) = stores::read_only(configuration)?;
    let mut stored = reader.open(&message.handle).await.map_err(anyhow::Error::from)?;
    let mut out = std::io::stdout().lock();
    while let Some(piece) = stored.body.next().await.map_err(anyhow::Error::from)? {
        out.write_all(&piece)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn apply(
    configuration: &Configuration,
    request: fn(Change) -> AdminRequest,
    change: cli::Change,
) -> Result<ExitCode, Failure> {
    let cli::Change { select, reason, output } = change;
    let select = selection(select);
    if select == Selection::default() {
        let right = "say which messages: ids, --lane, --domain, --sender, --held or --all";
        return Err(Failure::Usage(right.to_owned()));
    }
    changed(configuration, &request(Change { select, reason }), output, None).await
}

async fn changed(
    configuration: &Configuration,
    request: &AdminRequest,
    output: cli::Output,
    done: Option<String>,
) -> Result<ExitCode, Failure> {
    let AdminAnswer::Changed(changed) = admin(configuration, request).await? else {
        return Err(unexpected());
    };
    if output.json {
        table::json(&changed)?;
    } else if let Some(done) = done {
        println!("{}", table::plain(&done));
    } else {
        println!("{} messages, {} recipients", changed.messages, changed.recipients);
    }
    Ok(ExitCode::SUCCESS)
}
