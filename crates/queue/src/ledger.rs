//! The scheduler's own record.

use crate::{Handle, LedgerError, Local, Record};

/// The right to say what became of messages. Held by the scheduler alone; a second holder is refused when opening.
///
/// Acknowledgements and `deliver` jobs wait for [`Ledger::written`]; reports, admin answers and the
/// giving back of space wait for [`Ledger::synced`]. The store gives back the space of retired messages by itself.
pub trait Ledger {
    /// Hands over, in order, every record that matters since the last complete checkpoint. Called once, before anything else.
    ///
    /// There may be millions: it lets others run in between. Whoever wants no more of them drops the future, and with it the ledger:
    /// nothing was changed.
    fn replay<'a>(&'a self, apply: &'a mut dyn FnMut(Record))
    -> Local<'a, Result<(), LedgerError>>;

    /// Queues records for writing, in order, and says up to where. One call a turn is one write.
    fn append(&self, records: &[Record]) -> Result<Mark, LedgerError>;

    /// Waits until everything up to `mark` has been handed to the system.
    fn written(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>>;

    /// Waits until everything up to `mark` has been synced.
    fn synced(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>>;

    /// What the ledger knows of a message. A message whose storage is gone is retired.
    fn standing(&self, handle: &Handle) -> Standing;

    /// Why nothing can be appended, until a checkpoint has begun: a write or a sync failed, whether anybody waited for it or not.
    fn failure(&self) -> Option<LedgerError>;

    /// Whether a checkpoint should be begun: so much has been appended since the last that another is worth its cost, the
    /// last sync failed, or what was replayed is not proven durable, so that no space is given back until one has ended.
    fn checkpoint_due(&self) -> bool;

    /// Begins a checkpoint in a new file. The scheduler then appends a [`Record::Snapshot`] of every live message, a
    /// slice a turn and mixed with ordinary records as they happen, and calls [`Ledger::end_checkpoint`].
    ///
    /// What no snapshot holds is to be appended anew too: [`Record::Suspend`] of suspended lanes, [`Record::Strike`] of
    /// messages that are not routed, [`Record::Reroute`] that has not been answered by a new routing.
    fn begin_checkpoint(&self) -> Result<(), LedgerError>;

    /// Ends the checkpoint: once this has synced, what came before it is forgotten. After a failed sync, resolving is
    /// the leave to dispatch again.
    fn end_checkpoint(&self) -> Local<'static, Result<(), LedgerError>>;
}

/// A place in the ledger's order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

/// What the ledger knows of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: it may have been accepted, it was not routed.
    Unknown,
    /// It was routed and is not ended (S2, S3).
    Routed,
    /// It has ended (S4), or its storage is gone.
    Retired,
}
