//! The queue in a PostgreSQL database, so that farms may run on several hosts.
//!
//! ```text
//!  intake     collects what waits ─▶ one INSERT of many rows, one COMMIT ─▶ 250 to each      message, body, intake_batch
//!  reader     reads by handle, checks every byte                                             message, body
//!  ledger     one owner's, by a lease: folds its records ─▶ a few statements of many rows     routed, recipient, message, body …
//!  recovery   lists what was accepted, by key, a part at a time                              message, routed
//! ```
//!
//! Handles are `pg:m.ID` for a message and `pg:b.ID.SIZE` for the body of a finished draft. What each table holds, who writes it and
//! what an operator may ask it stands in `docs/database-format.md`.
//!
//! Each opened role has a thread of its own with its own runtime and connections (`thread::StoreThread`), as the spool has
//! disk threads: opening is synchronous, and a worker's runtime never waits for the database.
//!
//! What must hold: a commit is answered only after the database has answered COMMIT without a warning · an unanswered COMMIT is
//! unknown, never failed, and is done again as it was · no COMMIT is ever cancelled · a byte is handed out only after its checksum
//! · nothing rests on what a connection remembers between transactions, so that a pooler may stand in between. Touches: the
//! database. Never: the file system (but the files with password and authority), mail's content, passwords in texts.

#![forbid(unsafe_code)]

mod ask;
mod checksum;
mod connection;
mod database;
mod fault;
mod intake;
mod lease;
mod ledger;
mod link;
mod name;
mod ownership;
mod random;
mod reader;
mod recovery;
mod schema;
mod settings;
#[cfg(feature = "testing")]
pub mod testing;
mod thread;
mod tls;
mod verify;

use std::rc::Rc;

use queue::{Compaction, Handle, NothingToCompact};

pub use connection::{Checks, Connection};
pub use database::Database;
pub use fault::{Cause, Fault};
pub use intake::{PIECE_BYTES, PostgresIntake};
pub use ledger::PostgresLedger;
pub use name::{Name, STORE};
pub use ownership::PostgresOwnership;
pub use reader::PostgresReader;
pub use recovery::PostgresRecovery;
pub use schema::{Found, VERSION, check, init, migrate};
pub use settings::{MayLose, Settings};
pub use verify::{Verified, verify};

/// Opens the queue for accepting messages. Must be called on a tokio `LocalRuntime`.
///
/// Connects once before it returns. A database that is away then is no error, no draft begins until it is back; one that has
/// another schema, refuses, or may lose what it has committed is.
pub fn open_intake(database: &Database) -> Result<Rc<PostgresIntake>, Fault> {
    PostgresIntake::open(database).map(Rc::new)
}

/// Opens the queue for reading messages by handle; connects as [`open_intake`] does.
pub fn open_reader(database: &Database) -> Result<Rc<PostgresReader>, Fault> {
    PostgresReader::open(database).map(Rc::new)
}

/// Opens the queue for listing what was accepted; connects as [`open_intake`] does.
pub fn open_recovery(database: &Database) -> Result<Rc<PostgresRecovery>, Fault> {
    PostgresRecovery::open(database).map(Rc::new)
}

/// The way to the scheduler's ledger, for one of several that stand in line. `holder` says to others who has it: host and process.
pub fn open_ownership(database: &Database, holder: &str) -> Rc<PostgresOwnership> {
    Rc::new(PostgresOwnership::new(database, holder))
}

/// Opens the scheduler's ledger if nobody else has it at this moment, as a tool does while no scheduler runs. Must be called on a tokio
/// `LocalRuntime`, which it holds up until the database has answered.
pub fn open_ledger(
    database: &Database,
    holder: &str,
) -> Result<Rc<PostgresLedger>, queue::LedgerError> {
    PostgresOwnership::new(database, holder).acquire_now().map(Rc::new)
}

/// Opens the queue for compacting it: there is never anything to do.
pub fn open_compaction() -> Rc<dyn Compaction> {
    Rc::new(NothingToCompact(|handle: &Handle| Name::parse(handle).is_some()))
}
