//! The ledger as turns use it: one append a turn, one write and one sync waited for at a time, checkpoints, and what
//! holds after a failure.
//!
//! ```text
//!  well ── append, write or sync failed ──▶ failed ── checkpoint begun ──▶ written slice by slice ── synced ──▶ well
//!                                             ▲────────── failed again, tried later ──────┘
//! ```

use std::rc::Rc;

use queue::{Ledger, LedgerError, Mark, Record};

use super::{Around, Awaited, Progress};
use crate::machine::{Actions, Now};

/// The first and the longest wait before a failed ledger is tried again, in milliseconds.
const RETRY: (u64, u64) = (1000, 10_000);

/// The most ends of messages appended at once: one append is one frame, and a frame has a limit.
const UNWRITTEN_CHUNK: usize = 10_000;

pub(super) struct Records {
    ledger: Rc<dyn Ledger>,
    last: Mark,
    last_batch: u64,
    /// Whether a write is being waited for.
    writing: bool,
    /// Whether a sync is being waited for, and what is to be waited for next.
    syncing: bool,
    wanted: Option<(Mark, u64)>,
    checkpoint: Checkpoint,
    failure: Option<Failure>,
    /// What failed while a checkpoint's sync was being waited for: what came behind its snapshots may be in no log.
    failed_behind: Option<LedgerError>,
    /// Ends of messages that could not be appended: nothing else in memory tells of them.
    unwritten: Vec<Record>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Checkpoint {
    None,
    /// Slices are being appended.
    Open,
    /// The records of this turn are its last.
    Ends,
    /// Its sync is being waited for.
    Syncs,
}

/// Times are on the monotonic clock, in milliseconds.
struct Failure {
    retry_at: u64,
    wait: u64,
}

impl Records {
    pub(super) fn new(ledger: Rc<dyn Ledger>) -> Self {
        Self {
            ledger,
            last: Mark::default(),
            last_batch: 0,
            writing: false,
            syncing: false,
            wanted: None,
            checkpoint: Checkpoint::None,
            failure: None,
            failed_behind: None,
            unwritten: Vec::new(),
        }
    }

    pub(super) fn ledger(&self) -> &Rc<dyn Ledger> {
        &self.ledger
    }

    /// Whether slices of a checkpoint are being appended.
    pub(super) fn in_checkpoint(&self) -> bool {
        self.checkpoint == Checkpoint::Open
    }

    /// When a failed ledger is to be tried again.
    pub(super) fn retry_at(&self) -> Option<u64> {
        let idle = self.checkpoint == Checkpoint::None;
        self.failure.as_ref().filter(|_| idle).map(|failure| failure.retry_at)
    }

    /// Appends the records of a turn.
    pub(super) fn write(
        &mut self,
        around: &mut Around<'_>,
        actions: &Actions,
    ) -> Result<(), LedgerError> {
        self.last_batch = actions.batch;
        self.append(around.now, &actions.records)?;
        if self.checkpoint == Checkpoint::Ends {
            self.end_checkpoint(around);
        }
        if actions.sync {
            self.wanted = Some((self.last, actions.batch));
            self.sync(around);
        }
        Ok(())
    }

    fn append(&mut self, now: Now, records: &[Record]) -> Result<(), LedgerError> {
        if records.is_empty() {
            return Ok(());
        }
        match self.ledger.append(records) {
            Ok(mark) => {
                self.last = mark;
                Ok(())
            }
            Err(error) => {
                let ended = records.iter().filter(|one| is_end(one));
                self.unwritten.extend(ended.cloned());
                self.fail(now, &error);
                Err(error)
            }
        }
    }

    /// Waits until everything appended so far is written, unless a write is being waited for.
    pub(super) fn await_written(&mut self, around: &mut Around<'_>) {
        if !std::mem::replace(&mut self.writing, true) {
            let awaited = Awaited { batch: self.last_batch, what: Progress::Written };
            around.hands.await_ledger(awaited, self.ledger.written(self.last));
        }
    }

    /// A write has ended.
    pub(super) fn written(
        &mut self,
        now: Now,
        result: Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        self.writing = false;
        result.inspect_err(|error| self.fail(now, error))
    }

    /// Keeps the ends of messages of a turn that could not be written.
    pub(super) fn keep_ends(&mut self, records: Vec<Record>) {
        self.unwritten.extend(records.into_iter().filter(is_end));
    }

    /// Waits for the newest sync that is wanted, unless one is being waited for.
    fn sync(&mut self, around: &mut Around<'_>) {
        if self.syncing {
            return;
        }
        let Some((mark, batch)) = self.wanted.take() else { return };
        self.syncing = true;
        let awaited = Awaited { batch, what: Progress::Synced };
        around.hands.await_ledger(awaited, self.ledger.synced(mark));
    }

    /// A sync has ended.
    pub(super) fn synced(
        &mut self,
        around: &mut Around<'_>,
        result: Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        self.syncing = false;
        result.inspect_err(|error| self.fail(around.now, error))?;
        self.sync(around);
        Ok(())
    }

    fn fail(&mut self, now: Now, error: &LedgerError) {
        match self.checkpoint {
            Checkpoint::Syncs => self.failed_behind = Some(error.clone()),
            _ => self.checkpoint = Checkpoint::None,
        }
        let wait = match &self.failure {
            // Whatever fails before the next attempt is the same failure, and does not put that off.
            Some(failure) if failure.retry_at > now.mono => return,
            Some(failure) => (failure.wait * 2).min(RETRY.1),
            None => RETRY.0,
        };
        self.failure = Some(Failure { retry_at: now.mono.saturating_add(wait), wait });
    }

    /// A failure that nobody waited for: until a checkpoint has synced nothing is dispatched.
    pub(super) fn unseen_failure(&mut self, now: Now) -> Option<LedgerError> {
        if self.checkpoint != Checkpoint::None || self.failure.is_some() {
            return None;
        }
        self.ledger.failure().inspect(|error| self.fail(now, error))
    }

    /// Begins a checkpoint when one is due and possible; says whether it did.
    pub(super) fn begin_checkpoint(&mut self, now: Now) -> Result<bool, LedgerError> {
        let due = match &self.failure {
            Some(failure) => failure.retry_at <= now.mono,
            None => self.ledger.checkpoint_due(),
        };
        if self.checkpoint != Checkpoint::None || !due {
            return Ok(false);
        }
        self.ledger.begin_checkpoint().inspect_err(|error| self.fail(now, error))?;
        self.checkpoint = Checkpoint::Open;
        let unwritten = std::mem::take(&mut self.unwritten);
        let mut chunks = unwritten.chunks(UNWRITTEN_CHUNK);
        while let Some(chunk) = chunks.next() {
            if let Err(error) = self.append(now, chunk) {
                self.unwritten.extend(chunks.flatten().cloned());
                self.checkpoint = Checkpoint::None;
                return Err(error);
            }
        }
        Ok(true)
    }

    /// The records of this turn are the checkpoint's last.
    pub(super) fn end_after_this(&mut self) {
        if self.checkpoint == Checkpoint::Open {
            self.checkpoint = Checkpoint::Ends;
        }
    }

    fn end_checkpoint(&mut self, around: &mut Around<'_>) {
        self.checkpoint = Checkpoint::Syncs;
        let awaited = Awaited { batch: self.last_batch, what: Progress::Checkpointed };
        around.hands.await_ledger(awaited, self.ledger.end_checkpoint());
    }

    /// A checkpoint has ended.
    pub(super) fn checkpointed(
        &mut self,
        around: &mut Around<'_>,
        result: Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let now = around.now;
        self.checkpoint = Checkpoint::None;
        let failed_behind = self.failed_behind.take();
        result.inspect_err(|error| self.fail(now, error))?;
        if let Some(error) = failed_behind {
            // Another one, at once, holds it.
            self.failure = Some(Failure { retry_at: now.mono, wait: RETRY.0 });
            return Err(error);
        }
        if self.failure.take().is_some() {
            tracing::info!("a checkpoint of the ledger has synced: dispatching goes on");
        }
        self.sync(around);
        Ok(())
    }

    /// Begins the checkpoint before the end, if nothing stands against it.
    pub(super) fn begin_last(&mut self) -> bool {
        let free = self.checkpoint == Checkpoint::None && self.failure.is_none();
        free && self.ledger.has_checkpoints() && self.ledger.begin_checkpoint().is_ok()
    }

    /// Appends the last records, and says what is to be synced.
    pub(super) fn append_last(&mut self, records: &[Record]) -> Result<Mark, LedgerError> {
        match records {
            [] => Ok(self.last),
            _ => self.ledger.append(records),
        }
    }
}

/// Whether nothing else in memory tells of what a record says.
pub(super) fn is_end(record: &Record) -> bool {
    matches!(record, Record::Retired { .. })
}
