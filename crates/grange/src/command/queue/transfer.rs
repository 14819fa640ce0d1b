//! `grange queue export` and `import`: a queue carried from one store to another, while no scheduler works with either.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use mail::MessageId;
use queue::{Handle, Ledger, Listed, Reader, Record, Routed, SizeHint, Standing, Tenure};
use scheduler::machine::{Actions, Scheduler};

use super::Failure;
use crate::configuration::Configuration;
use crate::transfer::{Item, Message, TransferError, Writer};
use crate::{farms, transfer};

/// How long to wait until the ledger is free.
const OWNED: Duration = Duration::from_secs(30);
/// Messages of one write to the ledger.
const BATCH: usize = 500;

/// Writes the whole queue to a file, or to standard output for `-`.
pub(super) async fn export(configuration: &Configuration, path: &Path) -> Result<u64, Failure> {
    super::super::stored_somewhere(configuration)?;
    configuration.stores().check_version()?;
    let Tenure { ledger, is_clean } = acquired(configuration).await?;
    let exported = match is_clean {
        true => export_from(configuration, &*ledger, path).await,
        false => Err(Failure::Refused(
            "the last scheduler did not end in order, and what it had sent may not be written down yet: start one, and stop it \
             when it is at work"
                .to_owned(),
        )),
    };
    give_up(&*ledger, is_clean).await?;
    exported
}

async fn export_from(
    configuration: &Configuration,
    ledger: &dyn Ledger,
    path: &Path,
) -> Result<u64, Failure> {
    let mut writer = Writer::begin(output(path)?)?;
    let (mut routed, others) = state(configuration, ledger).await?;
    let (reader, recovery) = configuration.stores().read_only()?;
    let listed = super::stored::everything(&*recovery).await?;
    look_up(ledger, &listed).await?;
    for one in listed {
        let known = routed.remove(&one.id);
        // A message that was moved is listed where it was too, and one that has ended until its space is given back.
        let is_here = match &known {
            Some(message) => message.handle == one.handle,
            None => ledger.standing(&one.handle) == Standing::Unknown,
        };
        match (is_here, known) {
            (true, known) => write(&mut writer, &*reader, &one, known).await?,
            (false, Some(known)) => drop(routed.insert(one.id, known)),
            (false, None) => {}
        }
    }
    if let Some(lost) = routed.values().next() {
        let text = format!(
            "{} of {} messages are not where the ledger says, such as {}: grange spool check says more",
            routed.len(),
            routed.len(),
            lost.id
        );
        return Err(Failure::Damaged(text));
    }
    for record in others {
        writer.record(record)?;
    }
    let (_, messages) = writer.end()?;
    Ok(messages)
}

async fn write<W: Write>(
    writer: &mut Writer<W>,
    reader: &dyn Reader,
    one: &Listed,
    routed: Option<Routed>,
) -> Result<(), Failure> {
    let mut stored = reader.open(&one.handle).await.map_err(super::unreadable)?;
    let bytes = stored.body.size();
    writer.message(Message { accepted: stored.accepted, routed, bytes })?;
    while let Some(piece) = stored.body.next().await.map_err(super::unreadable)? {
        writer.body(&piece)?;
    }
    Ok(writer.end_body()?)
}

/// Reads a queue from a file, or from standard input for `-`, into the store of the configuration. What is there already stays,
/// and is not read twice: an import that was cut off may be made again.
pub(super) async fn import(configuration: &Configuration, path: &Path) -> Result<u64, Failure> {
    let reader = transfer::Reader::begin(input(path)?).map_err(|error| wrong(path, error))?;
    let Tenure { ledger, is_clean } = acquired(configuration).await?;
    let imported = import_into(configuration, &*ledger, reader, path).await;
    give_up(&*ledger, is_clean).await?;
    imported
}

/// What the owner before has left undone is left to the next: jobs of its that may be in hand yet.
async fn give_up(ledger: &dyn Ledger, is_clean: bool) -> Result<(), Failure> {
    Ok(ledger.release(is_clean).await.map_err(anyhow::Error::from)?)
}

async fn import_into(
    configuration: &Configuration,
    ledger: &dyn Ledger,
    mut reader: transfer::Reader<Box<dyn std::io::BufRead>>,
    path: &Path,
) -> Result<u64, Failure> {
    ledger.replay(&mut |_| {}).await.map_err(anyhow::Error::from)?;
    let (intake, recovery) = configuration.stores().for_import()?;
    let there = super::stored::everything(&*recovery).await?;
    let there: HashMap<MessageId, Handle> =
        there.into_iter().map(|one| (one.id, one.handle)).collect();
    let (mut messages, mut records, mut unrouted) = (0, Vec::new(), HashMap::new());
    while let Some(item) = reader.next().map_err(|error| wrong(path, error))? {
        let message = match item {
            Item::Record(record) => {
                records.push(here(record, &unrouted));
                continue;
            }
            Item::Message(message) => message,
        };
        let handle = match there.get(&message.accepted.id) {
            Some(handle) => {
                while reader.piece().map_err(|error| wrong(path, error))?.is_some() {}
                handle.clone()
            }
            None => {
                let hint = SizeHint { declared_bytes: Some(message.bytes) };
                let draft = intake.begin_as(message.accepted.id, hint);
                let mut draft = draft.map_err(anyhow::Error::from)?;
                while let Some(piece) = reader.piece().map_err(|error| wrong(path, error))? {
                    draft.write(&piece).map_err(anyhow::Error::from)?;
                    draft.room().await.map_err(anyhow::Error::from)?;
                }
                draft.commit(message.accepted.accept).await.map_err(anyhow::Error::from)?
            }
        };
        messages += 1;
        if message.routed.is_none() {
            unrouted.insert(message.accepted.id, handle.clone());
        }
        let routed = message.routed.filter(|_| ledger.standing(&handle) != Standing::Routed);
        records
            .extend(routed.map(|routed| Record::Snapshot(Box::new(Routed { handle, ..routed }))));
        if records.len() >= BATCH {
            append(ledger, &mut records).await?;
        }
    }
    append(ledger, &mut records).await?;
    Ok(messages)
}

/// A record as it is in this store: strikes name the place of a message that was not routed.
fn here(record: Record, unrouted: &HashMap<MessageId, Handle>) -> Record {
    match record {
        Record::Strike { handle, id, strikes, hold } => {
            let handle = unrouted.get(&id).cloned().unwrap_or(handle);
            Record::Strike { handle, id, strikes, hold }
        }
        other => other,
    }
}

async fn append(ledger: &dyn Ledger, records: &mut Vec<Record>) -> Result<(), Failure> {
    let mark = ledger.append(records).map_err(anyhow::Error::from)?;
    records.clear();
    Ok(ledger.synced(mark).await.map_err(anyhow::Error::from)?)
}

/// The ledger, which nobody else may hold meanwhile.
async fn acquired(configuration: &Configuration) -> Result<Tenure, Failure> {
    super::super::may_write(configuration)?;
    let (hostname, pid) = (&configuration.top.hostname, std::process::id());
    let holder = format!("a command on {hostname}, process {pid}");
    let ownership = configuration.stores().ownership(&holder).map_err(Failure::System)?;
    match tokio::time::timeout(OWNED, ownership.acquire()).await {
        Ok(Ok(tenure)) => Ok(tenure),
        Ok(Err(queue::LedgerError::Held(who))) => Err(Failure::Refused(format!(
            "a scheduler works with the queue ({who}): stop it first"
        ))),
        Ok(Err(error)) => Err(Failure::System(error.into())),
        Err(_) => Err(Failure::Refused(
            "a scheduler works with the queue: stop it, and those that stand by, first".to_owned(),
        )),
    }
}

/// Every routed message by its id, and what belongs to none.
async fn state(
    configuration: &Configuration,
    ledger: &dyn Ledger,
) -> Result<(HashMap<MessageId, Routed>, Vec<Record>), Failure> {
    let assignment = farms::scheduler_assignment(configuration);
    let mut scheduler = Scheduler::new(assignment.settings, &assignment.channels);
    let replayed = ledger.replay(&mut |record| scheduler.replay(&record)).await;
    replayed.map_err(anyhow::Error::from)?;
    let mut actions = Actions::default();
    scheduler.begin_checkpoint(&mut actions);
    while !scheduler.checkpoint_slice(BATCH, &mut actions) {}
    let (mut routed, mut others) = (HashMap::new(), Vec::new());
    for record in actions.records {
        match record {
            Record::Snapshot(message) => drop(routed.insert(message.id, *message)),
            other => others.push(other),
        }
    }
    Ok((routed, others))
}

async fn look_up(ledger: &dyn Ledger, listed: &[Listed]) -> Result<(), Failure> {
    for part in listed.chunks(BATCH) {
        let handles: Vec<&Handle> = part.iter().map(|one| &one.handle).collect();
        if let Some(looked_up) = ledger.look_up(&handles) {
            looked_up.await.map_err(anyhow::Error::from)?;
        }
    }
    Ok(())
}

fn output(path: &Path) -> Result<Box<dyn Write>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(std::io::stdout())));
    }
    // What is in it is mail: nobody else's business; and a queue that was exported before is not written over.
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
    let file = options.open(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(Box::new(BufWriter::new(Synced(file))))
}

/// A file that is on the disk once it has been flushed.
struct Synced(File);

impl Write for Synced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.sync_all()
    }
}

fn input(path: &Path) -> Result<Box<dyn std::io::BufRead>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

fn wrong(path: &Path, error: TransferError) -> Failure {
    Failure::Damaged(format!("{}: {:#}", path.display(), anyhow::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strike_names_the_place_that_its_message_has_here() {
        let id = MessageId::new(mail::Timestamp::from_millis(1), 1);
        let handle = |text: &str| Handle::parse(text).expect("a handle");
        let strike =
            |handle: Handle| Record::Strike { handle, id, strikes: 3, hold: Some("x".into()) };
        let unrouted = HashMap::from([(id, handle("pg:m.1"))]);
        assert_eq!(here(strike(handle("spool:1.1")), &unrouted), strike(handle("pg:m.1")));
        let other = Record::Reroute { id, routing: 2 };
        assert_eq!(here(other.clone(), &unrouted), other);
    }
}
