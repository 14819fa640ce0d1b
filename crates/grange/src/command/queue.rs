//! `grange queue …`: asks the scheduler; `list` and `show` read the store when there is none.

mod quarantine;
mod stored;
mod transfer;

use std::collections::BTreeSet;
use std::process::ExitCode;

use job::admin::{
    Admin, AdminAnswer, AdminRequest, Change, LaneChange, LaneSummary, ListQuery, Nothing, Page,
    QueuedMessage, Selection, ShowQuery,
};
use job::compact::{Compact, CompactRequest};
use job::requeue::{Requeue, RequeueRequest};
use mail::MessageId;
use queue::State;

use super::{Failure, ask, block_on, chain, store, table, unreadable};
use crate::configuration::Configuration;
use crate::{cli, print};

pub(super) use quarantine::run as quarantine;

/// Runs a command on the queue.
pub(super) fn run(configuration: &Configuration, command: cli::Queue) -> Result<ExitCode, Failure> {
    block_on(async {
        match command {
            cli::Queue::List { select, page } => {
                list(configuration, &selection(select), page).await
            }
            cli::Queue::Summary(output) => summary(configuration, output).await,
            cli::Queue::Show(options) => show(configuration, options).await,
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
                changed(configuration, &request, output, Some(done)).await?;
                Ok(ExitCode::SUCCESS)
            }
            cli::Queue::Export { file } => {
                let messages = transfer::export(configuration, &file).await?;
                eprintln!("grange: {messages} messages written");
                Ok(ExitCode::SUCCESS)
            }
            cli::Queue::Import { file } => {
                let messages = transfer::import(configuration, &file).await?;
                eprintln!("grange: {messages} messages read, and in the queue");
                Ok(ExitCode::SUCCESS)
            }
            cli::Queue::Resume { lane, output } => {
                let done = format!("{lane} goes on");
                let request = AdminRequest::Resume(LaneChange { lane, seconds: None });
                changed(configuration, &request, output, Some(done)).await?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })?
}

/// A lane's channel must be one of the configuration: a slip of the pen would otherwise suspend nothing, silently. Resuming is
/// free of this, as a channel may be gone whose suspension is still written down.
fn known_channel(configuration: &Configuration, lane: &str) -> Result<(), Failure> {
    if !configuration.is_whole {
        return Ok(());
    }
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
    block_on(ask::<Requeue>(configuration, "requeue.requeue", &request))??;
    println!("a pass over accepted messages has been asked for");
    Ok(ExitCode::SUCCESS)
}

/// Asks for a pass of compact.
pub(super) fn compact(configuration: &Configuration) -> Result<ExitCode, Failure> {
    let request = CompactRequest { reason: "asked on the command line".to_owned() };
    block_on(ask::<Compact>(configuration, "compact.compact", &request))??;
    println!("a pass over segments in which little lives has been asked for");
    Ok(ExitCode::SUCCESS)
}

async fn admin(
    configuration: &Configuration,
    request: &AdminRequest,
) -> Result<AdminAnswer, Failure> {
    ask::<Admin>(configuration, "scheduler.admin", request).await
}

fn selection(select: cli::Select) -> Selection {
    let cli::Select { ids, lane, domain, sender, held, all } = select;
    Selection { ids, lane, domain, sender, held, all, ..Selection::default() }
}

fn unexpected() -> Failure {
    Failure::Refused("the scheduler gave an answer to another question".to_owned())
}

async fn list(
    configuration: &Configuration,
    select: &Selection,
    part: cli::Page,
) -> Result<ExitCode, Failure> {
    let cli::Page { limit, cursor, output } = part;
    let page = match page(configuration, select, limit, cursor.clone()).await {
        Err(Failure::Unavailable(why)) if select.lane.is_some() => {
            let why = format!("{why}; the store alone does not know of lanes");
            return Err(Failure::Unavailable(why));
        }
        Err(Failure::Unavailable(why)) => {
            eprintln!("grange: {why}; reading the store instead");
            stored::whole_store(configuration, select, limit as usize, cursor.as_deref()).await?
        }
        page => page?,
    };
    if output.json {
        table::json(&page)?;
    } else {
        print_page(&page)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A page of what the scheduler knows, and behind the last of these of what it does not know yet.
async fn page(
    configuration: &Configuration,
    select: &Selection,
    limit: u32,
    cursor: Option<String>,
) -> Result<Page, Failure> {
    let limit_all = limit as usize;
    if let Some(after) = stored::accepted_after(cursor.as_deref())? {
        return stored::accepted(configuration, select, limit_all, after, &[]).await;
    }
    let page = routed(configuration, select, limit, cursor.clone()).await?;
    if page.cursor.is_some() || select.lane.is_some() {
        return Ok(page);
    }
    let room = limit_all.saturating_sub(page.messages.len());
    let after = stored::After::NOTHING;
    match stored::accepted(configuration, select, room, after, &page.messages).await {
        // What was routed between the two questions is in neither answer, and in this one.
        Ok(accepted) => {
            let again = routed(configuration, select, limit, cursor).await?;
            Ok(stored::joined(again, accepted, limit_all))
        }
        // Who may ask the scheduler may still not read the spool.
        Err(error) => {
            let why = chain(&error);
            eprintln!("grange: what is accepted and not routed yet cannot be listed: {why}");
            Ok(page)
        }
    }
}

/// A page of what the scheduler knows.
async fn routed(
    configuration: &Configuration,
    select: &Selection,
    limit: u32,
    cursor: Option<String>,
) -> Result<Page, Failure> {
    let mut page = Page { messages: Vec::new(), cursor };
    loop {
        let missing = limit.saturating_sub(page.messages.len() as u32);
        let limit_here = Some(missing.min(job::LIST_MAX));
        let cursor = page.cursor.take();
        let query = ListQuery { select: select.clone(), limit: limit_here, cursor };
        let AdminAnswer::List(found) = admin(configuration, &AdminRequest::List(query)).await?
        else {
            return Err(unexpected());
        };
        page.messages.extend(found.messages);
        page.cursor = found.cursor;
        if page.cursor.is_none() || page.messages.len() >= limit as usize {
            return Ok(page);
        }
    }
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
    } else {
        let heading = ["ID", "STATE", "AGE", "SIZE", "SENDER", "RECIPIENT", "WAITS FOR"];
        table::print(&heading, &rows)?;
    }
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

/// What `grange queue summary --json` prints.
#[derive(Debug, serde::Serialize)]
struct Lanes {
    lanes: Vec<LaneSummary>,
}

async fn summary(configuration: &Configuration, output: cli::Output) -> Result<ExitCode, Failure> {
    let AdminAnswer::Summary(lanes) =
        admin(configuration, &AdminRequest::Summary(Nothing {})).await?
    else {
        return Err(unexpected());
    };
    if output.json {
        table::json(&Lanes { lanes })?;
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
    let scheduler = matches!(missing, Failure::NotFound(_));
    let found = stored::find(configuration, id, scheduler).await?;
    found.ok_or_else(|| Failure::NotFound(format!("there is no message {id} in the queue")))
}

async fn show(configuration: &Configuration, options: cli::Show) -> Result<ExitCode, Failure> {
    let cli::Show { id, raw: is_raw, output } = options;
    if is_raw {
        return raw(configuration, id).await;
    }
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
    let (reader, _) = store(configuration)?;
    let mut stored = reader.open(&message.handle).await.map_err(unreadable)?;
    while let Some(piece) = stored.body.next().await.map_err(anyhow::Error::from)? {
        print::bytes(&piece);
    }
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
    apply_to(configuration, request, Change { select, reason }, output).await
}

/// Makes a change, and complains if some of the messages that it names were not there.
async fn apply_to(
    configuration: &Configuration,
    request: fn(Change) -> AdminRequest,
    change: Change,
    output: cli::Output,
) -> Result<ExitCode, Failure> {
    let named: BTreeSet<MessageId> = change.select.ids.iter().copied().collect();
    let request = request(change);
    let found = changed(configuration, &request, output, None).await?;
    missing(&named, found)?;
    Ok(ExitCode::SUCCESS)
}

/// Complains if fewer messages were found than were named.
fn missing(named: &BTreeSet<MessageId>, found: u64) -> Result<(), Failure> {
    let named = named.len() as u64;
    if found >= named {
        return Ok(());
    }
    let missing = named - found;
    Err(Failure::NotFound(format!(
        "{missing} of the {named} messages named are not in the queue, not routed yet, or not as the other conditions say"
    )))
}

/// Asks for a change and shows what it came to; gives how many messages it concerned.
async fn changed(
    configuration: &Configuration,
    request: &AdminRequest,
    output: cli::Output,
    done: Option<String>,
) -> Result<u64, Failure> {
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
    Ok(changed.messages)
}

#[cfg(test)]
mod tests;
