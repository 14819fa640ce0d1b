//! A connection to the host of the database that takes writes, checked before it is used.
//!
//! ```text
//! host by host: connect ─▶ read-only? ─▶ durable? ─▶ schema? ─▶ Connection ── its driver, a task, ends with it
//! ```

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::error::Severity;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage, Socket};

use crate::{Cause, Database, Fault, MayLose};
use crate::{schema, tls};

/// What must hold of a server before a connection to it is used. Each includes what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checks {
    /// It takes writes.
    Writable,
    /// Its schema is the one that this program knows.
    Schema,
    /// It does not lose what it has committed.
    Durable,
}

/// A connection that may be used by several tasks of one thread. Dropping it cuts it: what the server is doing then goes on.
pub struct Connection {
    client: Client,
    database: Database,
    /// Which of the database's hosts it leads to.
    host: usize,
    driver: AbortHandle,
    warnings: Rc<Cell<u64>>,
    last_warning: Rc<Cell<Option<String>>>,
}

/// A parameter of a typed statement.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The encoding that a database must have: addresses may be in any language.
const ENCODING: &str = "UTF8";

/// What the server says of itself: one row, in this order.
const ASK_SERVER: &str = "SELECT current_setting('transaction_read_only'), \
    current_setting('synchronous_commit', true), current_setting('fsync', true), \
    current_setting('full_page_writes', true), current_setting('server_encoding')";

impl Connection {
    /// Connects to the first host that takes writes and passes `checks`; the settings' `connect_timeout` is each host's.
    ///
    /// When none does, an answer that more waiting does not change counts more than others, then the first. Must be called on a
    /// local runtime.
    pub async fn open(database: &Database, checks: Checks) -> Result<Self, Fault> {
        Self::open_from(database, checks, 0).await
    }

    /// As [`Self::open`], and begins with another host: that of this number, counted round and round.
    pub(crate) async fn open_from(
        database: &Database,
        checks: Checks,
        first: usize,
    ) -> Result<Self, Fault> {
        let limit = database.settings().connect_timeout.0;
        let hosts = database.hosts()?;
        let in_turn = (0..hosts.len()).map(|number| (first + number) % hosts.len());
        let mut refused: Option<Fault> = None;
        for number in in_turn {
            let Some(host) = hosts.get(number) else { continue };
            let opened = timeout(limit, Self::open_host(database, number, host, checks)).await;
            match opened.unwrap_or_else(|_| Err(late(database, limit))) {
                Ok(connection) => return Ok(connection),
                Err(fault) => {
                    let counts = refused.as_ref().is_none_or(Fault::may_pass) && !fault.may_pass();
                    refused = if counts { Some(fault) } else { refused.or(Some(fault)) };
                }
            }
        }
        Err(refused.unwrap_or_else(|| Fault::Away {
            database: database.name().clone(),
            cause: Cause::Other("it names no host".into()),
        }))
    }

    async fn open_host(
        database: &Database,
        number: usize,
        host: &tokio_postgres::Config,
        checks: Checks,
    ) -> Result<Self, Fault> {
        let connection = match tls::of(database.settings()) {
            Ok(Some(tls)) => Self::connect(database, number, host, tls).await?,
            Ok(None) => Self::connect(database, number, host, NoTls).await?,
            Err(cause) => return Err(Fault::Refused { database: database.name().clone(), cause }),
        };
        connection.check(checks).await?;
        Ok(connection)
    }

    async fn connect<T>(
        database: &Database,
        number: usize,
        host: &tokio_postgres::Config,
        tls: T,
    ) -> Result<Self, Fault>
    where
        T: MakeTlsConnect<Socket, Stream: 'static>,
    {
        let connected = host.connect(tls).await;
        let (client, mut messages) =
            connected.map_err(|error| Fault::of(database.name(), error))?;
        let warnings = Rc::new(Cell::new(0));
        let last_warning = Rc::new(Cell::new(None));
        let (count, last) = (warnings.clone(), last_warning.clone());
        let driver = tokio::task::spawn_local(async move {
            // How it ends is told to whoever waits for an answer.
            while let Some(Ok(message)) = poll_fn(|context| messages.poll_message(context)).await {
                if let AsyncMessage::Notice(notice) = message
                    && notice.parsed_severity() == Some(Severity::Warning)
                {
                    count.set(count.get() + 1);
                    last.set(Some(notice.message().to_owned()));
                }
            }
        });
        let (database, driver) = (database.clone(), driver.abort_handle());
        Ok(Self { client, database, host: number, driver, warnings, last_warning })
    }

    async fn check(&self, checks: Checks) -> Result<(), Fault> {
        let found = async {
            if checks >= Checks::Schema { schema::look(self).await.map(Some) } else { Ok(None) }
        };
        let (server, found) = in_order(self.ask(ASK_SERVER), found).await;
        let server = server?.unwrap_or_default();
        let value = |number: usize| server.get(number).and_then(Option::as_deref);
        if value(0) != Some("off") {
            return Err(Fault::Away {
                database: self.database.name().clone(),
                cause: Cause::ReadOnly,
            });
        }
        if let Some(encoding) = value(4).filter(|encoding| *encoding != ENCODING) {
            return Err(Fault::Refused {
                database: self.database.name().clone(),
                cause: Cause::Other(format!(
                    "its encoding is {encoding}, a queue needs {ENCODING}"
                )),
            });
        }
        if let Some(found) = found?
            && !found.is_known()
        {
            return Err(Fault::Version { database: self.database.name().clone(), found });
        }
        if checks >= Checks::Durable {
            self.check_durable(value(1), value(2), value(3))?;
        }
        Ok(())
    }

    /// A setting that the server does not have cannot be off: it is another engine than PostgreSQL, with rules of its own.
    fn check_durable(
        &self,
        synchronous_commit: Option<&str>,
        fsync: Option<&str>,
        full_page_writes: Option<&str>,
    ) -> Result<(), Fault> {
        let unsafe_values = [
            (MayLose::SynchronousCommit, synchronous_commit, &["off", "local"][..]),
            (MayLose::Fsync, fsync, &["off"][..]),
            (MayLose::FullPageWrites, full_page_writes, &["off"][..]),
        ];
        for (what, value, unsafe_values) in unsafe_values {
            let Some(value) = value.filter(|value| unsafe_values.contains(value)) else { continue };
            if !self.database.may_lose(what) {
                return Err(Fault::NotDurable {
                    database: self.database.name().clone(),
                    setting: what.name(),
                    value: value.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// What statements are sent with; use typed queries, which name no prepared statement.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The database that it leads to.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Which of the database's hosts it leads to, by number.
    pub(crate) fn host(&self) -> usize {
        self.host
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// How many warnings have come.
    pub(crate) fn warnings(&self) -> u64 {
        self.warnings.get()
    }

    /// Whether a COMMIT is proven that was answered well: one that came with a warning, after so many, is not.
    pub(crate) fn proven(&self, warnings: u64) -> Result<(), Fault> {
        if self.warnings.get() == warnings {
            return Ok(());
        }
        let warning = self.last_warning.take().unwrap_or_default();
        Err(Fault::Unknown {
            database: self.database.name().clone(),
            cause: Cause::Warned(warning),
        })
    }

    /// Sorts an error that was met anywhere but at a COMMIT.
    pub fn fault(&self, error: tokio_postgres::Error) -> Fault {
        Fault::of(self.database.name(), error)
    }

    /// Waits for what is no COMMIT, within the settings' `statement_timeout`.
    pub async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Fault> {
        let limit = self.database.settings().statement_timeout.0;
        match timeout(limit, work).await {
            Ok(result) => result.map_err(|error| self.fault(error)),
            Err(_) => Err(late(&self.database, limit)),
        }
    }

    /// The first row that a statement without parameters gives, as text.
    pub(crate) async fn ask(&self, statement: &str) -> Result<Option<Vec<Option<String>>>, Fault> {
        self.limited(self.client.simple_query(statement)).await.map(|rows| first_row(&rows))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Nothing came in time.
pub(crate) fn late(database: &Database, limit: Duration) -> Fault {
    Fault::Away { database: database.name().clone(), cause: Cause::Late(limit) }
}

/// Drives two futures together, the first one first in every turn: what they send goes out in this order, in one write.
pub(crate) async fn in_order<A, B>(
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut first_output, mut second_output) = (None, None);
    poll_fn(move |context| {
        poll_once(first.as_mut(), &mut first_output, context);
        poll_once(second.as_mut(), &mut second_output, context);
        match (first_output.take(), second_output.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            (first, second) => {
                (first_output, second_output) = (first, second);
                Poll::Pending
            }
        }
    })
    .await
}

fn poll_once<F: Future>(
    future: Pin<&mut F>,
    output: &mut Option<F::Output>,
    context: &mut std::task::Context<'_>,
) {
    if output.is_none()
        && let Poll::Ready(value) = future.poll(context)
    {
        *output = Some(value);
    }
}

/// The first row of an answer, as text.
pub(crate) fn first_row(answer: &[SimpleQueryMessage]) -> Option<Vec<Option<String>>> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|number| row.get(number).map(str::to_owned)).collect())
        }
        _ => None,
    })
}
