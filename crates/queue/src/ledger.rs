//! The scheduler's own record.

use std::time::Instant;

use crate::{Handle, LedgerError, Local, Record};

/// The right to say what became of messages. Held by the scheduler alone: [`Ownership`](crate::Ownership) gives it to one at a time.
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

    /// Whether the ledger gives back space by checkpoints, and starts faster after one.
    fn has_checkpoints(&self) -> bool {
        true
    }

    /// Begins a checkpoint in a new file. The scheduler then appends a [`Record::Snapshot`] of every live message, a
    /// slice a turn and mixed with ordinary records as they happen, and calls [`Ledger::end_checkpoint`].
    ///
    /// What no snapshot holds is to be appended anew too: [`Record::Suspend`] of suspended lanes, [`Record::Strike`] of
    /// messages that are not routed, [`Record::Reroute`] that has not been answered by a new routing.
    fn begin_checkpoint(&self) -> Result<(), LedgerError>;

    /// Ends the checkpoint: once this has synced, what came before it is forgotten. After a failed sync, resolving is
    /// the leave to dispatch again.
    fn end_checkpoint(&self) -> Local<'static, Result<(), LedgerError>>;

    /// Until when the ledger is surely this holder's, on the monotonic clock; it moves on while all is well. Later, another may own
    /// it, whatever this holder knows: nothing is to be sent any more, and what is appended is refused as
    /// [`LedgerError::Fenced`] and changes nothing. Nothing: it is this holder's for as long as it lives.
    fn owned_until(&self) -> Option<Instant> {
        None
    }

    /// Looks up what [`Ledger::standing`] cannot tell of these messages; nothing is done before the future is polled. When it has
    /// resolved well, that tells the truth of them until the next look-up has. Nothing: it tells the truth now.
    fn look_up(&self, handles: &[&Handle]) -> Option<Local<'static, Result<(), LedgerError>>> {
        let _ = handles;
        None
    }

    /// Gives the ledger up, at an orderly end, after the last sync and when nothing is sent any more: another may own it at once.
    /// `is_clean` says that no job is in hand anywhere. Nothing can be appended afterwards.
    ///
    /// # Errors
    ///
    /// When it could not be given up: it is another's once this holder's time has passed.
    fn release(&self, is_clean: bool) -> Local<'static, Result<(), LedgerError>> {
        let _ = is_clean;
        Box::pin(std::future::ready(Ok(())))
    }
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
