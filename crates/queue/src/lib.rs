//! The queue as every farm sees it: five contracts split by who may do what, and the states of a message.
//!
//! ```text
//!  S0 writing ──commit, synced──▶ S1 accepted ──Routed──▶ S2 routed ──Outcome──▶ S3 per recipient ──Retired──▶ S4
//!  Draft (acceptor)              Intake (acceptor)        Ledger (scheduler alone)                           space back
//! ```
//!
//! - [`Intake`]: acceptors write messages. `250` may be said when [`Draft::commit`] has resolved, not before.
//! - [`Reader`]: anyone who holds a [`Handle`] reads envelope and body.
//! - [`Ledger`]: the scheduler's own record of what was routed, tried and ended; [`Ownership`] is the way to it.
//! - [`Recovery`]: requeue lists what was accepted, segment by segment.
//! - [`Compaction`]: compact copies what still lives out of segments that are otherwise dead.
//!
//! The traits assume neither one host nor a file system. They are used as `dyn` from a current-thread
//! runtime: what waits returns a boxed local future. This crate knows no storage and opens no file.

#![forbid(unsafe_code)]

mod compaction;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod handle;
mod intake;
mod ledger;
mod ownership;
mod reader;
mod record;
mod recovery;

pub use compaction::{Compaction, CompactionError, Held, NothingToCompact, Sealed, Survey};
pub use error::{IntakeError, LedgerError, ReadError};
pub use handle::{Handle, HandleError};
pub use intake::{Accept, Draft, Intake, SizeHint};
pub use ledger::{Ledger, Mark, Standing};
pub use ownership::{Ownership, Sole, Tenure};
pub use reader::{Accepted, Body, Reader, Stored};
pub use record::{Attempt, Owed, Record, ReportKind, Routed, RoutedRecipient, State};
pub use recovery::{Listed, Recovery, Segment};

/// A future that stays on its thread: what every waiting method of the contracts returns.
pub type Local<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + 'a>>;
