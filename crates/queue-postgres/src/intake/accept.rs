//! Messages become rows: what waits is inserted together, in one transaction that may be repeated.
//!
//! The row of `intake_batch` that the transaction inserts first is its idempotency record: while it is there, the transaction
//! has been done, and done again it inserts nothing. A repeat also writes a row that is new, so that its own COMMIT has to reach
//! the standbys, and with it, in the order of the log, the COMMIT that was not answered.

use std::rc::Rc;
use std::sync::Arc;

use mail::MessageId;
use queue::Accept;
use tokio::time::Instant;
use tokio_postgres::types::Type;

use super::PIECE_BYTES;
use super::backlog::Batched;
use super::bodies::Job;
use super::health::refusal;
use super::memory::Held;
use super::persist::{Attempt, GivenUp, persist};
use super::rows::Rows;
use super::worker::{Shared, Waiter};
use crate::checksum::MessageFields;
use crate::connection::{Connection, Parameter, in_order};
use crate::link::Link;
use crate::{Checks, Fault};

/// So many messages go in one transaction.
pub(super) const BATCH_MESSAGES_MAX: usize = 256;
/// Their rows have so many bytes together, unless one alone has more.
pub(super) const BATCH_BYTES_MAX: usize = 4 << 20;
/// How long the server keeps a transaction of which the rest does not come, in milliseconds.
const IDLE_MILLIS_MAX: u32 = 10_000;

/// A message to be accepted.
pub(crate) struct Commit {
    id: MessageId,
    accepted_at: i64,
    accepted: Vec<u8>,
    pub(crate) body: CommitBody,
    pub(crate) waiter: Waiter,
    pub(crate) begun: Instant,
    _held: Held,
}

/// Where its body is.
pub(crate) enum CommitBody {
    /// It goes into the message's row.
    Inline(Vec<u8>),
    /// In rows that this draft has written.
    Rows(Arc<Rows>),
    /// In rows that another draft has written.
    Adopted {
        /// The other draft.
        id: MessageId,
        /// How large its body is.
        size: u64,
    },
}

impl Commit {
    pub(crate) fn new(
        id: MessageId,
        accept: &Accept,
        body: CommitBody,
        held: Held,
        waiter: Waiter,
    ) -> Self {
        let accepted = serde_json::to_vec(accept).expect("an accept record is plain data");
        let accepted_at = i64::try_from(accept.accepted_at.millis()).unwrap_or(i64::MAX);
        Self { id, accepted_at, accepted, body, waiter, begun: Instant::now(), _held: held }
    }

    /// The rows of its body: their id, their bytes and their number.
    fn rows(&self) -> Option<(MessageId, u64, u64)> {
        let (id, size) = match &self.body {
            CommitBody::Inline(_) => return None,
            CommitBody::Rows(rows) => (rows.id(), rows.size()),
            CommitBody::Adopted { id, size } => (*id, *size),
        };
        Some((id, size, size.div_ceil(PIECE_BYTES as u64).max(1)))
    }
}

impl Batched for Commit {
    const TOGETHER_MAX: usize = BATCH_MESSAGES_MAX;
    const BYTES_MAX: usize = BATCH_BYTES_MAX;

    fn bytes(&self) -> usize {
        let body = if let CommitBody::Inline(body) = &self.body { body.len() } else { 0 };
        self.accepted.len() + body
    }

    fn joins(&self, _first: &Self) -> bool {
        true
    }
}

/// Takes what waits, again and again, until nothing more comes.
pub(crate) async fn lane(shared: Rc<Shared>, first: Option<Connection>) {
    let mut link = Link::new(shared.database.clone(), Checks::Durable, first, &shared.connected);
    while let Some(batch) = shared.commits.next().await {
        let given_up = commit(&shared, &mut link, &batch).await.err();
        match given_up {
            // One of them may be what the database refuses; the others have not deserved it.
            Some(GivenUp { fault: Fault::Refused { .. } | Fault::Fenced { .. }, .. })
                if batch.len() > 1 =>
            {
                for one in batch {
                    let one = vec![one];
                    let given_up = commit(&shared, &mut link, &one).await.err();
                    tell(&shared, one, given_up);
                }
            }
            given_up => tell(&shared, batch, given_up),
        }
    }
}

fn tell(shared: &Shared, batch: Vec<Commit>, given_up: Option<GivenUp>) {
    let refused = given_up.map(|GivenUp { fault, last }| {
        let ids = || batch.iter().map(|commit| commit.id.as_str()).collect::<Vec<_>>().join(" ");
        match last {
            Attempt::First => tracing::warn!(error = %fault.whole(), messages = batch.len(), "not accepted"),
            Attempt::AfterUnknown => tracing::error!(
                error = %fault.whole(), ids = ids(),
                "whether the database has accepted these is not known; their senders are told that it has not, and may send them again"
            ),
        }
        refusal(fault)
    });
    if refused.is_some() {
        for commit in &batch {
            if let CommitBody::Rows(rows) = &commit.body {
                shared.jobs.push(Job::Discard(rows.id()));
            }
        }
    }
    let result = refused.map_or(Ok(()), Err);
    shared.answer(batch.into_iter().map(|commit| (commit.waiter, result.clone())).collect());
}

async fn commit(shared: &Shared, link: &mut Link, batch: &[Commit]) -> Result<(), GivenUp> {
    let system = |error: std::io::Error| {
        let database = shared.database.name().clone();
        GivenUp { fault: Fault::Refused { database, cause: error.into() }, last: Attempt::First }
    };
    let statement = Insert::new(shared.ids.next().map_err(system)?, batch);
    persist(shared, link, async |connection, attempt| {
        let fresh = match attempt {
            Attempt::First => None,
            Attempt::AfterUnknown => Some(shared.ids.next().map_err(|error| {
                let database = shared.database.name().clone();
                Fault::Away { database, cause: error.into() }
            })?),
        };
        statement.run(&connection, fresh).await
    })
    .await
}

/// The rows of a batch, as the arrays that one statement takes.
struct Insert<'a> {
    batch: MessageId,
    ids: Vec<&'a str>,
    accepted_at: Vec<i64>,
    accepted: Vec<&'a [u8]>,
    sizes: Vec<i64>,
    crcs: Vec<i64>,
    bodies: Vec<Option<&'a [u8]>>,
    body_ids: Vec<Option<String>>,
    /// What the rows of `body` must be, all of them together.
    pieces: i64,
    piece_bytes: i64,
}

/// Inserts the messages if this batch was not done before.
const INSERT: &str = "\
WITH first AS (
    INSERT INTO intake_batch (id) VALUES ($1) ON CONFLICT (id) DO NOTHING RETURNING id
)
INSERT INTO message (id, accepted_at, accepted, size, crc, body, body_id)
SELECT * FROM unnest($2::text[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bytea[], $8::text[])
WHERE EXISTS (SELECT 1 FROM first)";

/// The same for messages some of which have bodies in rows. Those rows are locked against whoever sweeps them, and counted:
/// where one is missing the division by zero undoes everything.
const INSERT_WITH_ROWS: &str = "\
WITH first AS (
    INSERT INTO intake_batch (id) VALUES ($1) ON CONFLICT (id) DO NOTHING RETURNING id
), held AS (
    SELECT octet_length(data) AS bytes FROM body
    WHERE id = ANY ($8::text[]) AND EXISTS (SELECT 1 FROM first) FOR KEY SHARE
)
INSERT INTO message (id, accepted_at, accepted, size, crc, body, body_id)
SELECT * FROM unnest($2::text[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bytea[], $8::text[])
WHERE CASE WHEN NOT EXISTS (SELECT 1 FROM first) THEN false
    ELSE 1 / (SELECT CASE WHEN count(*) = $9 AND sum(bytes) = $10 THEN 1 ELSE 0 END FROM held) = 1 END";

/// A row that is new.
const INSERT_FRESH: &str = "INSERT INTO intake_batch (id) VALUES ($1)";

impl<'a> Insert<'a> {
    fn new(batch_id: MessageId, batch: &'a [Commit]) -> Self {
        let mut insert = Self {
            batch: batch_id,
            ids: Vec::new(),
            accepted_at: Vec::new(),
            accepted: Vec::new(),
            sizes: Vec::new(),
            crcs: Vec::new(),
            bodies: Vec::new(),
            body_ids: Vec::new(),
            pieces: 0,
            piece_bytes: 0,
        };
        batch.iter().for_each(|commit| insert.add(commit));
        insert
    }

    fn add(&mut self, commit: &'a Commit) {
        let rows = commit.rows();
        let inline = match &commit.body {
            CommitBody::Inline(body) => Some(&body[..]),
            _ => None,
        };
        let size = rows.map_or(inline.unwrap_or_default().len() as u64, |(_, size, _)| size);
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let body_id = rows.map(|(id, ..)| id.to_string());
        let fields = MessageFields {
            id: commit.id.as_str(),
            accepted_at: commit.accepted_at,
            accepted: &commit.accepted,
            size,
            body: inline.unwrap_or_default(),
            body_id: body_id.as_deref(),
        };
        self.crcs.push(fields.crc());
        self.ids.push(commit.id.as_str());
        self.accepted_at.push(commit.accepted_at);
        self.accepted.push(&commit.accepted);
        self.sizes.push(size);
        self.bodies.push(inline);
        self.body_ids.push(body_id);
        if let Some((_, size, pieces)) = rows {
            self.pieces = self.pieces.saturating_add(i64::try_from(pieces).unwrap_or(i64::MAX));
            self.piece_bytes =
                self.piece_bytes.saturating_add(i64::try_from(size).unwrap_or(i64::MAX));
        }
    }

    /// One round trip: BEGIN, the rows, COMMIT. No statement_timeout is in force when COMMIT is.
    async fn run(&self, connection: &Connection, fresh: Option<MessageId>) -> Result<(), Fault> {
        let limit = connection.database().settings().statement_timeout.0.as_millis();
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {limit}; \
             SET LOCAL idle_in_transaction_session_timeout = {IDLE_MILLIS_MAX}; SET LOCAL client_min_messages = warning"
        );
        let batch = self.batch.as_str();
        let mut parameters: Vec<Parameter> = vec![
            (&batch, Type::TEXT),
            (&self.ids, Type::TEXT_ARRAY),
            (&self.accepted_at, Type::INT8_ARRAY),
            (&self.accepted, Type::BYTEA_ARRAY),
            (&self.sizes, Type::INT8_ARRAY),
            (&self.crcs, Type::INT8_ARRAY),
            (&self.bodies, Type::BYTEA_ARRAY),
            (&self.body_ids, Type::TEXT_ARRAY),
        ];
        let mut insert = INSERT;
        if self.pieces > 0 {
            insert = INSERT_WITH_ROWS;
            parameters.push((&self.pieces, Type::INT8));
            parameters.push((&self.piece_bytes, Type::INT8));
        }
        let client = connection.client();
        let rows = async {
            let fresh = fresh.as_ref().map(MessageId::as_str);
            let write_fresh = async {
                match &fresh {
                    Some(id) => {
                        client.execute_typed(INSERT_FRESH, &[(id, Type::TEXT)]).await.map(drop)
                    }
                    None => Ok(()),
                }
            };
            let (fresh, rows) =
                in_order(write_fresh, client.execute_typed(insert, &parameters)).await;
            fresh.and(rows.map(drop))
        };
        committed(connection, &begin, rows).await
    }
}

/// Sends a transaction in one go, and says whether it was committed.
pub(crate) async fn committed(
    connection: &Connection,
    begin: &str,
    work: impl Future<Output = Result<(), tokio_postgres::Error>>,
) -> Result<(), Fault> {
    let (client, name) = (connection.client(), connection.database().name());
    let warnings = connection.warnings();
    let commit = client.batch_execute("SET LOCAL statement_timeout = 0; COMMIT");
    let (begun, (worked, committed)) =
        in_order(client.batch_execute(begin), in_order(work, commit)).await;
    if let Err(error) = begun {
        // Without BEGIN each statement would have been a transaction of its own.
        let cause = Fault::of(name, error).into_cause();
        return Err(Fault::Unknown { database: name.clone(), cause });
    }
    worked.and(committed).map_err(|error| Fault::of_commit(name, error))?;
    connection.proven(warnings)
}
