//! The tables: made, brought up to date, and looked at.
//!
//! ```text
//! init: nothing there ──▶ version 1 … VERSION        migrate: version N ──▶ … VERSION
//! ```
//!
//! A schema newer than this program knows is refused before anything is touched. Two that make or migrate at once do not meet:
//! the row of `grange_schema` is locked while steps are made, and the table itself can be created once.

use std::fmt;

use tokio_postgres::error::SqlState;

use crate::connection::{Checks, first_row};
use crate::{Connection, Database, Fault};

/// The version of the schema that this program reads and writes.
pub const VERSION: u32 = STEPS.len() as u32;

/// What leads from each version to the next; the first makes everything.
const STEPS: &[Step] =
    &[Step { sql: include_str!("schema/1.sql"), postgres: include_str!("schema/1.postgres.sql") }];

struct Step {
    /// What any database of this wire protocol understands.
    sql: &'static str,
    /// What only PostgreSQL itself understands: how rows are stored.
    postgres: &'static str,
}

/// What schema a database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// None.
    Nothing,
    /// This version.
    Version(u32),
}

impl Found {
    /// Whether it is the one that this program works with.
    pub fn is_known(self) -> bool {
        self == Self::Version(VERSION)
    }

    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Nothing => "run grange store init",
            Self::Version(version) if version < VERSION => "run grange store migrate",
            Self::Version(_) => "use a newer grange",
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => formatter.write_str("has no schema of ours"),
            Self::Version(version) => write!(formatter, "has schema version {version}"),
        }
    }
}

/// Makes the tables where there are none, and says which version there was. Must be called on a local runtime, as the others.
///
/// One of an older version is left as it is: [`Fault::Version`].
pub async fn init(database: &Database) -> Result<Found, Fault> {
    let connection = Connection::open(database, Checks::Writable).await?;
    let found = look(&connection).await?;
    if found != Found::Nothing {
        return known_or_else(database, found);
    }
    match make(&connection).await {
        Ok(()) => Ok(Found::Nothing),
        // Somebody else has made it at the same time.
        Err(fault) if is_there(&fault) => {
            run(&connection, "ROLLBACK").await?;
            known_or_else(database, look(&connection).await?)
        }
        Err(fault) => Err(fault),
    }
}

/// Brings the tables to [`VERSION`] and says which version there was.
pub async fn migrate(database: &Database) -> Result<Found, Fault> {
    let connection = Connection::open(database, Checks::Writable).await?;
    let found = look(&connection).await?;
    match found {
        Found::Version(before) if before < VERSION => {}
        _ => return known_or_else(database, found),
    }
    match climb(&connection, STEPS).await? {
        before if before <= VERSION => Ok(Found::Version(before)),
        newer => known_or_else(database, Found::Version(newer)),
    }
}

/// Takes the steps that are missing, in one transaction, and says from where.
async fn climb(connection: &Connection, steps: &[Step]) -> Result<u32, Fault> {
    let is_postgres = is_postgres(connection).await?;
    run(connection, "BEGIN; SET LOCAL statement_timeout = 0").await?;
    // Whoever waits here, for as long as it takes, finds what the other has made of it.
    let rows =
        connection.client().simple_query("SELECT version FROM grange_schema FOR UPDATE").await;
    let found = version(first_row(&rows.map_err(|error| connection.fault(error))?));
    let Found::Version(before) = found else {
        return Err(Fault::Version { database: connection.database().name().clone(), found });
    };
    let missing = steps.get(before as usize..).unwrap_or_default();
    for step in missing {
        step.take(connection, is_postgres).await?;
    }
    if !missing.is_empty() {
        run(connection, &format!("UPDATE grange_schema SET version = {}", steps.len())).await?;
    }
    run(connection, "COMMIT").await?;
    Ok(before)
}

/// Looks whether everything is as it should be, and changes nothing.
pub async fn check(database: &Database) -> Result<(), Fault> {
    Connection::open(database, Checks::Durable).await.map(drop)
}

/// Which version there is.
pub(crate) async fn look(connection: &Connection) -> Result<Found, Fault> {
    match connection.ask("SELECT version FROM grange_schema").await {
        Ok(row) => Ok(version(row)),
        Err(fault) if fault.is_code(&SqlState::UNDEFINED_TABLE) => Ok(Found::Nothing),
        Err(fault) => Err(fault),
    }
}

fn version(row: Option<Vec<Option<String>>>) -> Found {
    let text = row.and_then(|row| row.into_iter().next().flatten());
    text.and_then(|text| text.parse().ok()).map_or(Found::Nothing, Found::Version)
}

fn known_or_else(database: &Database, found: Found) -> Result<Found, Fault> {
    if found.is_known() {
        Ok(found)
    } else {
        Err(Fault::Version { database: database.name().clone(), found })
    }
}

async fn make(connection: &Connection) -> Result<(), Fault> {
    let is_postgres = is_postgres(connection).await?;
    run(connection, "BEGIN; SET LOCAL statement_timeout = 0").await?;
    for step in STEPS {
        step.take(connection, is_postgres).await?;
    }
    run(connection, &format!("INSERT INTO grange_schema (version) VALUES ({VERSION}); COMMIT"))
        .await
}

impl Step {
    async fn take(&self, connection: &Connection, is_postgres: bool) -> Result<(), Fault> {
        run(connection, self.sql).await?;
        if is_postgres { run(connection, self.postgres).await } else { Ok(()) }
    }
}

/// Whether it is PostgreSQL itself, and not another engine that speaks its protocol.
async fn is_postgres(connection: &Connection) -> Result<bool, Fault> {
    let row = connection.ask("SELECT version()").await?;
    let text = row.and_then(|row| row.into_iter().next().flatten()).unwrap_or_default();
    Ok(text.starts_with("PostgreSQL ") && !text.contains("-YB-"))
}

/// Runs statements without parameters. There is no time limit: a migration takes as long as it takes.
async fn run(connection: &Connection, statements: &str) -> Result<(), Fault> {
    let done = connection.client().batch_execute(statements).await;
    done.map_err(|error| connection.fault(error))
}

fn is_there(fault: &Fault) -> bool {
    let codes = [SqlState::DUPLICATE_TABLE, SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_OBJECT];
    codes.iter().any(|code| fault.is_code(code))
}

#[cfg(test)]
mod tests;
