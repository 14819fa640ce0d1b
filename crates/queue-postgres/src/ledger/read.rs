//! Reading the tables: everything once, in pages by key, and single messages when they are asked for; and clearing away what is old.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use mail::{MessageId, Timestamp};
use queue::{Handle, LedgerError, Record};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::types::Type;

use super::operation::Owing;
use super::rows::{self, MESSAGE, RECIPIENT, Recipient, Stored, Unreadable};
use super::statements::Statement;
use super::tenancy::Tenancy;
use super::transaction::{Wait, read, transact};
use crate::connection::Parameter;
use crate::intake::LOCK_BODIES;
use crate::link::{BackOff, Connected, Link};
use crate::{Checks, Connection, Fault};

/// Messages in a page, and rows of recipients read at a time.
const PAGE_MESSAGES: i64 = 500;
const PAGE_RECIPIENTS: i64 = 5000;
/// Pages that are read ahead of whoever takes them.
pub(super) const PAGES_AHEAD: usize = 2;
/// How often what is old is cleared away, and rows at a time.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// How soon after the ledger became its owner's.
const SWEEP_FIRST: Duration = Duration::from_secs(2);
const SWEEP_ROWS: i64 = 500;

/// What is asked.
pub(crate) enum Ask {
    /// Everything that is written, page by page; then the reports that are owed.
    Replay(mpsc::Sender<Result<Page, LedgerError>>),
    /// Which of these messages are stored.
    LookUp(Vec<MessageId>, oneshot::Sender<Result<HashSet<MessageId>, LedgerError>>),
}

/// A part of what is written.
pub(crate) enum Page {
    Records(Vec<Record>),
    /// The end.
    Owing(Owing),
}

/// Answers what is asked, on a connection of its own, and clears away what is old meanwhile.
pub(crate) async fn serve(
    tenancy: Rc<Tenancy>,
    first: Option<Connection>,
    mut asked: mpsc::UnboundedReceiver<Ask>,
) {
    let database = tenancy.database.clone();
    let mut reader = Reader {
        link: Link::new(database, Checks::Durable, first, &Connected::default()),
        tenancy: tenancy.clone(),
        swept: Swept::default(),
    };
    let mut sweep_at = Instant::now() + SWEEP_FIRST;
    loop {
        let ask = tenancy.unless_over(timeout_at(sweep_at, asked.recv())).await;
        match ask {
            Some(Ok(Some(Ask::Replay(pages)))) => reader.replay(&pages).await,
            Some(Ok(Some(Ask::LookUp(ids, waiter)))) => {
                let _ = waiter.send(reader.look_up(&ids).await);
            }
            Some(Err(_is_time)) => {
                sweep_at = reader.sweep().await;
            }
            Some(Ok(None)) | None => return,
        }
    }
}

struct Reader {
    tenancy: Rc<Tenancy>,
    link: Link,
    swept: Swept,
}

/// How far clearing away has come.
#[derive(Default)]
enum Swept {
    #[default]
    Nothing,
    /// All batches, and bodies up to this id.
    Bodies(String),
}

const REPLAY_SUSPENDED: &str = "SELECT channel, host, every, until FROM suspended WHERE shard = 0 ORDER BY channel, host, every";
const REPLAY_STRIKES: &str = "\
SELECT message_id, handle, strikes, hold FROM strike WHERE shard = 0 AND message_id > $1 ORDER BY message_id LIMIT $2";
const LOOK_UP: &str = "SELECT id FROM message WHERE id = ANY ($1)";
/// Ids of batches sort by time: the oldest come first.
const SWEEP_BATCHES: &str = "\
DELETE FROM intake_batch WHERE id IN (SELECT id FROM intake_batch ORDER BY id LIMIT $1)
    AND at < clock_timestamp() - interval '1 hour'";
/// Bodies that no message names are drafts, or what is left of them.
const SWEEP_BODIES: &str = "\
SELECT DISTINCT id, NOT EXISTS (SELECT 1 FROM message WHERE message.body_id = body.id)
FROM body WHERE id > $1 AND at < clock_timestamp() - interval '1 hour' ORDER BY id LIMIT $2";
const SWEEP_BODY: &str = "\
DELETE FROM body WHERE id = ANY ($1) AND NOT EXISTS (SELECT 1 FROM message WHERE message.body_id = body.id)
    AND NOT EXISTS (SELECT 1 FROM body AS newer WHERE newer.id = body.id
        AND newer.at >= clock_timestamp() - interval '1 hour')";

impl Reader {
    /// Asks until there is an answer or the owner's time is over.
    async fn ask<T>(
        &mut self,
        question: impl AsyncFn(&Connection) -> Result<T, Unreadable>,
    ) -> Result<T, LedgerError> {
        let tenancy = self.tenancy.clone();
        let mut back_off = BackOff::new();
        let answer = tenancy.unless_over(async {
            loop {
                let connection = match self.link.get(self.tenancy.deadline(), |_| {}).await {
                    Ok(connection) => connection,
                    Err(fault) if fault.may_pass() => {
                        sleep(back_off.next()).await;
                        continue;
                    }
                    Err(fault) => return Err(Unreadable::Fault(fault)),
                };
                match question(&connection).await {
                    Err(Unreadable::Fault(fault)) if fault.may_pass() => {
                        tracing::warn!(error = %fault.whole(), "the ledger is read again");
                        self.link.cut();
                        sleep(back_off.next()).await;
                    }
                    answer => return answer,
                }
            }
        });
        match answer.await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(unreadable)) => Err(LedgerError::Damaged(unreadable.to_string())),
            None => Err(tenancy.error()),
        }
    }

    async fn replay(&mut self, pages: &mpsc::Sender<Result<Page, LedgerError>>) {
        let mut owing = Owing::default();
        let result = self.replay_all(pages, &mut owing).await;
        // Whoever wants no more of it has gone.
        let _ = pages.send(result.map(|()| Page::Owing(owing))).await;
    }

    async fn replay_all(
        &mut self,
        pages: &mpsc::Sender<Result<Page, LedgerError>>,
        owing: &mut Owing,
    ) -> Result<(), LedgerError> {
        let suspended = self.ask(suspensions).await?;
        if pages.send(Ok(Page::Records(suspended))).await.is_err() {
            return Ok(());
        }
        let mut after = String::new();
        loop {
            let strikes = self.ask(async |it: &Connection| strikes(it, &after).await).await?;
            let Some(last) = strikes.last().and_then(id_of) else { break };
            after = last.to_string();
            if pages.send(Ok(Page::Records(strikes))).await.is_err() {
                return Ok(());
            }
        }
        let mut after = String::new();
        loop {
            let stored = self.ask(async |it: &Connection| messages(it, &after).await).await?;
            let Some(last) = stored.last() else { return Ok(()) };
            after = last.message.id.to_string();
            let mut records = Vec::with_capacity(stored.len());
            for stored in stored {
                owing.set(stored.message.id, &stored.message.owed);
                stored.records(&mut records);
            }
            if pages.send(Ok(Page::Records(records))).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn look_up(&mut self, ids: &[MessageId]) -> Result<HashSet<MessageId>, LedgerError> {
        let ids: Vec<&str> = ids.iter().map(MessageId::as_str).collect();
        self.ask(async |connection: &Connection| {
            let parameters: [Parameter; 1] = [(&ids, Type::TEXT_ARRAY)];
            let rows = read(connection, LOOK_UP, &parameters).await?;
            let id = |row: &tokio_postgres::Row| row.try_get::<_, &str>(0).ok()?.parse().ok();
            Ok(rows.iter().filter_map(id).collect())
        })
        .await
    }

    /// Clears away a little of what is old; says when there is more to do. What fails is tried the next time.
    async fn sweep(&mut self) -> Instant {
        let tenancy = self.tenancy.clone();
        let swept = std::mem::take(&mut self.swept);
        let swept = tenancy.unless_over(async {
            let connection = self.link.get(tenancy.deadline(), |_| {}).await?;
            sweep(&connection, tenancy.epoch, swept).await
        });
        match swept.await {
            Some(Ok(Some(swept))) => {
                self.swept = swept;
                return Instant::now();
            }
            Some(Err(fault)) => {
                tracing::debug!(error = %fault.whole(), "what is old is cleared away later");
                self.link.cut();
            }
            Some(Ok(None)) | None => {}
        }
        Instant::now() + SWEEP_EVERY
    }
}

fn id_of(record: &Record) -> Option<MessageId> {
    match record {
        Record::Strike { id, .. } => Some(*id),
        _ => None,
    }
}

async fn suspensions(connection: &Connection) -> Result<Vec<Record>, Unreadable> {
    let rows = read(connection, REPLAY_SUSPENDED, &[]).await?;
    let record = |row: &tokio_postgres::Row| {
        let (host, every): (String, bool) = (row.try_get(1)?, row.try_get(2)?);
        let until: i64 = row.try_get(3)?;
        let until = Some(Timestamp::from_millis(until.cast_unsigned()));
        Ok(Record::Suspend { channel: row.try_get(0)?, host: (!every).then_some(host), until })
    };
    let records: Result<Vec<_>, tokio_postgres::Error> = rows.iter().map(record).collect();
    records.map_err(|error| rows::unreadable("suspended", "?", error))
}

async fn strikes(connection: &Connection, after: &str) -> Result<Vec<Record>, Unreadable> {
    let parameters: [Parameter; 2] = [(&after, Type::TEXT), (&PAGE_MESSAGES, Type::INT8)];
    let rows = read(connection, REPLAY_STRIKES, &parameters).await?;
    let record = |row: &tokio_postgres::Row| {
        let id: &str = row.try_get(0).map_err(|error| rows::unreadable("strike", "?", error))?;
        let wrong = |why: &dyn ToString| rows::unreadable("strike", id, why.to_string());
        let sql = |error: tokio_postgres::Error| wrong(&error);
        let handle: &str = row.try_get(1).map_err(sql)?;
        Ok(Record::Strike {
            handle: Handle::parse(handle).map_err(|error| wrong(&error))?,
            id: id.parse().map_err(|error| wrong(&error))?,
            strikes: row.try_get::<_, i32>(2).map_err(sql)?.cast_unsigned(),
            hold: row.try_get(3).map_err(sql)?,
        })
    };
    rows.iter().map(record).collect()
}

/// The messages of a page, whole.
async fn messages(connection: &Connection, after: &str) -> Result<Vec<Stored>, Unreadable> {
    let text = format!(
        "SELECT {MESSAGE} FROM routed WHERE shard = 0 AND message_id > $1 ORDER BY message_id LIMIT $2"
    );
    let parameters: [Parameter; 2] = [(&after, Type::TEXT), (&PAGE_MESSAGES, Type::INT8)];
    let rows = read(connection, &text, &parameters).await?;
    let mut stored = rows.iter().map(rows::message).collect::<Result<Vec<_>, _>>()?;
    if let Some(last) = stored.last().map(|stored| stored.message.id.to_string()) {
        add_recipients(connection, after, &last, &mut stored).await?;
    }
    Ok(stored)
}

/// Adds the recipients of messages, which are all those that have rows after one id and up to another.
async fn add_recipients(
    connection: &Connection,
    after: &str,
    last: &str,
    stored: &mut [Stored],
) -> Result<(), Unreadable> {
    let text = format!(
        "SELECT {RECIPIENT} FROM recipient WHERE shard = 0 AND (message_id, index) > ($1, $2) \
         AND message_id <= $3 ORDER BY message_id, index LIMIT $4"
    );
    let mut from = (after.to_owned(), i32::MAX);
    let mut messages = stored.iter_mut().peekable();
    loop {
        let parameters: [Parameter; 4] = [
            (&from.0, Type::TEXT),
            (&from.1, Type::INT4),
            (&last, Type::TEXT),
            (&PAGE_RECIPIENTS, Type::INT8),
        ];
        let rows = read(connection, &text, &parameters).await?;
        for row in &rows {
            let recipient = Recipient::of(row)?;
            from = (recipient.id.to_string(), recipient.index());
            while messages.next_if(|stored| stored.message.id < recipient.id).is_some() {}
            if let Some(stored) = messages.peek_mut()
                && stored.message.id == recipient.id
            {
                stored.add(recipient);
            }
        }
        if (rows.len() as i64) < PAGE_RECIPIENTS {
            return Ok(());
        }
    }
}

/// One step; says where the next one begins, if there is more to do.
async fn sweep(connection: &Connection, epoch: i64, swept: Swept) -> Result<Option<Swept>, Fault> {
    let Swept::Bodies(after) = swept else {
        let batches = Statement::new(SWEEP_BATCHES).with(SWEEP_ROWS, Type::INT8);
        let done = transact(connection, epoch, Wait::Written, [&batches]).await?;
        // Among the oldest may be young ones, of a host whose clock is slow.
        let is_more = done.rows > 0;
        return Ok(Some(if is_more { Swept::Nothing } else { Swept::Bodies(String::new()) }));
    };
    let parameters: [Parameter; 2] = [(&after, Type::TEXT), (&SWEEP_ROWS, Type::INT8)];
    let rows = read(connection, SWEEP_BODIES, &parameters).await?;
    let Some(last) = rows.last().and_then(|row| row.try_get(0).ok()) else { return Ok(None) };
    // To lock a row is to write it: those that a message names are left alone.
    let unnamed = rows.iter().filter(|row| row.try_get(1).unwrap_or(false));
    let ids: Vec<String> = unnamed.filter_map(|row| row.try_get(0).ok()).collect();
    if ids.is_empty() {
        return Ok(Some(Swept::Bodies(last)));
    }
    // What is locked first is looked at after every accept transaction that has such a body: none is swept from under it.
    let lock = Statement::new(LOCK_BODIES).with(ids.clone(), Type::TEXT_ARRAY);
    let bodies = Statement::new(SWEEP_BODY).with(ids, Type::TEXT_ARRAY);
    transact(connection, epoch, Wait::Written, [&lock, &bodies]).await?;
    Ok(Some(Swept::Bodies(last)))
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::Database;
    use crate::testing::{block_on, settings, shared};

    #[test]
    fn old_bodies_that_no_message_names_are_cleared_away_and_others_not_touched() {
        let (server, name) = (shared(), shared().database());
        server.sql(
            &name,
            "INSERT INTO body (id, seq, data, crc, at) SELECT id, seq, 'x', 0, clock_timestamp() - age * interval '1 minute'
                FROM (VALUES ('left', 61), ('named', 61), ('young', 59)) AS new (id, age), generate_series(0, 1) AS seq;
            INSERT INTO message (id, accepted_at, accepted, size, crc, body_id) VALUES ('m', 0, '', 2, 0, 'named')",
        );
        let database = Database::new(&server.url(&name), &settings()).expect("it is a URL");
        block_on(async {
            let connection =
                Connection::open(&database, Checks::Schema).await.expect("it is there");
            let mut swept = Some(Swept::Nothing);
            while let Some(step) = swept {
                swept = sweep(&connection, 0, step).await.expect("it can be swept");
            }
        });
        let left = server.sql(&name, "SELECT id, seq, xmax = 0 FROM body ORDER BY id, seq");
        assert_eq!(left, "named|0|t\nnamed|1|t\nyoung|0|t\nyoung|1|t");
    }
}
