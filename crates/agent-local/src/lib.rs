//! The transport agent that writes Maildirs.
//!
//! ```text
//! read message ─▶ tmp/NAME: Return-Path, Delivered-To, message ─▶ fsync ─▶ dot gate ─▶ link into new/ ─▶ fsync new/ ─▶ delivered
//! ```
//!
//! A file appears in `new/` whole and synced or not at all. Its name follows from the message and the recipient, so that a
//! job that is repeated finds what it did before. What an address says becomes part of a path only escaped ([`Template`]).
//!
//! Touches: mailboxes, the channel's job socket, the queue to read. Never: another file, the ledger, another farm.

#![forbid(unsafe_code)]

mod content;
mod deliver;
mod maildir;
mod publish;
mod settings;
mod template;

pub use deliver::LocalAgent;
pub use settings::{Assignment, LineEnding, Settings};
pub use template::{NAME_BYTES_MAX, Template, TemplateError};

use std::rc::Rc;

use agent::Counters;
use queue::Reader;

/// Names of this agent's counters on the scoreboard.
pub const COUNTERS: &[&str] = &[
    "recipients_delivered_total",
    "recipients_deferred_total",
    "recipients_failed_total",
    "maildir_bytes_written_total",
    "maildir_repeated_total",
    "maildir_syncs_total",
];

/// Positions in [`COUNTERS`].
mod counter {
    pub(crate) const OUTCOMES: usize = 0;
    pub(crate) const BYTES: usize = 3;
    pub(crate) const REPEATED: usize = 4;
    pub(crate) const SYNCS: usize = 5;
}

/// Why this agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mailbox setting is not a template.
    #[error("{0}")]
    Settings(config::Problem),
    /// The socket could not be served.
    #[error(transparent)]
    Agent(#[from] agent::Error),
}

/// Delivers into Maildirs until draining is done.
pub async fn run(
    worker: farm::Worker,
    assignment: Assignment,
    reader: Rc<dyn Reader>,
) -> Result<(), Error> {
    let socket = format!("{}.deliver", assignment.channel);
    let counters = Counters::of(&worker);
    let agent = LocalAgent::new(&assignment, reader, counters).map_err(Error::Settings)?;
    Ok(agent::run(worker, &socket, Rc::new(agent)).await?)
}
