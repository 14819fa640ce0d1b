//! A transaction of the owner, sent in one go: fenced off, it changes nothing.
//!
//! ```text
//! BEGIN │ limits │ fence │ statements … │ COMMIT      one write, one round trip; what fails undoes all of it
//! ```
//!
//! The fence holds the epoch against whoever takes over until COMMIT, and so a take-over waits for commits that are under way. A
//! process that stops in the midst of sending is undone by the server after [`IDLE_MAX`].

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};

use super::statements::Statement;
use crate::connection::{Parameter, in_order};
use crate::{Cause, Connection, Fault};

/// So long the server waits for the rest of a transaction.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Divides by zero where another has taken over. Also says which server process this is: a pooler may have led to another one, and
/// a server that was started again may have lost what it had not synced.
const FENCE: &str = "\
SELECT pg_backend_pid(), pg_postmaster_start_time()::text,
    1 / coalesce((SELECT 1 FROM shard_epoch WHERE shard = 0 AND epoch = $1 FOR SHARE), 0)";

/// Every statement is to look for few rows of large tables, one by one and by their keys, whatever the server believes of how many there
/// are: it may never have looked, as right after a restore.
const PLAN: &str = "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), \
    set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), \
    set_config('enable_material', 'off', true), set_config('jit', 'off', true); ";

/// The process of a server that took a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    process: i32,
    started: String,
}

/// What a transaction waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The server has it, and may lose it when it stops.
    Written,
    /// It is durable, by the server's setting, and so is all that was committed before.
    Synced,
}

/// A transaction that was made.
#[derive(Debug)]
pub(crate) struct Done {
    /// By whom.
    pub(crate) served: Served,
    /// Rows that its statements changed.
    pub(crate) rows: u64,
}

type Sent<'a> = Pin<Box<dyn Future<Output = Result<Answer, Error>> + 'a>>;

enum Answer {
    Nothing,
    Fence(Row),
    Rows(u64),
}

/// Makes a transaction of statements. [`Fault::Unknown`]: it may have been made, and can be made again as it was.
pub(crate) async fn transact<'a>(
    connection: &Connection,
    epoch: i64,
    wait: Wait,
    statements: impl IntoIterator<Item = &'a Statement>,
) -> Result<Done, Fault> {
    let (client, name) = (connection.client(), connection.database().name());
    let warnings = connection.warnings();
    let limits = limits(connection, wait);
    let simple = |text| -> Sent<'_> {
        Box::pin(async move { client.batch_execute(text).await.map(|()| Answer::Nothing) })
    };
    // A statement after a BEGIN that failed would be a transaction of its own: it stands alone, where nothing can fail.
    let mut sent: Vec<Sent<'_>> =
        vec![simple("BEGIN ISOLATION LEVEL READ COMMITTED"), simple(&limits)];
    sent.push(Box::pin(async {
        client.query_typed_one(FENCE, &[(&epoch, Type::INT8)]).await.map(Answer::Fence)
    }));
    for statement in statements {
        sent.push(Box::pin(async move {
            let parameters = statement.parameters();
            client.execute_typed(statement.text, &parameters).await.map(Answer::Rows)
        }));
    }
    sent.push(simple("SET LOCAL statement_timeout = 0; COMMIT"));
    let (mut served, mut rows) = (None, 0);
    for answer in in_turn(sent).await {
        match answer.map_err(|error| Fault::of_commit(name, error))? {
            Answer::Nothing => {}
            Answer::Fence(row) => served = Served::of(&row),
            Answer::Rows(changed) => rows += changed,
        }
    }
    if wait == Wait::Synced {
        connection.proven(warnings)?;
    }
    let served = served.ok_or_else(|| Fault::Unknown {
        database: name.clone(),
        cause: Cause::Other("it did not answer the fence".into()),
    })?;
    Ok(Done { served, rows })
}

impl Served {
    fn of(row: &Row) -> Option<Self> {
        Some(Self { process: row.try_get(0).ok()?, started: row.try_get(1).ok()? })
    }
}

fn limits(connection: &Connection, wait: Wait) -> String {
    let statement = connection.database().settings().statement_timeout.0.as_millis();
    let idle = IDLE_MAX.as_millis();
    let asynchronous = match wait {
        Wait::Written => "SET LOCAL synchronous_commit = off; ",
        Wait::Synced => "",
    };
    format!(
        "{asynchronous}{PLAN}SET LOCAL statement_timeout = {statement}; \
         SET LOCAL idle_in_transaction_session_timeout = {idle}; SET LOCAL client_min_messages = warning"
    )
}

/// Asks for rows, found as a transaction's statements find them.
pub(crate) async fn read(
    connection: &Connection,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, Fault> {
    let client = connection.client();
    let begin = format!("BEGIN READ ONLY; {PLAN}");
    let work = async {
        let query = client.query_typed(statement, parameters);
        let (rows, ended) = in_order(query, client.batch_execute("COMMIT")).await;
        ended.and(rows)
    };
    let (begun, rows) =
        in_order(connection.limited(client.batch_execute(&begin)), connection.limited(work)).await;
    begun?;
    rows
}

/// Drives all, the first ones first in every turn: what they send goes out in this order, in one write.
async fn in_turn<T>(sent: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
    let mut waiting: Vec<_> = sent.into_iter().map(Some).collect();
    let mut answers: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut is_done = true;
        for (sent, answer) in waiting.iter_mut().zip(&mut answers) {
            let Some(future) = sent else { continue };
            match future.as_mut().poll(context) {
                Poll::Ready(value) => {
                    *answer = Some(value);
                    *sent = None;
                }
                Poll::Pending => is_done = false,
            }
        }
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    answers.into_iter().flatten().collect()
}
