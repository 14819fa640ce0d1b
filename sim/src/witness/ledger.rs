//! A ledger that tells the witness of every record that is appended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use queue::{Handle, Ledger, LedgerError, Local, Mark, Record, Standing};
use queue_spool::SpoolLedger;

/// Records since the witness last looked.
pub(crate) type Journal = Rc<RefCell<Vec<Record>>>;

/// The spool's ledger, watched.
pub(crate) struct WitnessedLedger {
    pub(crate) ledger: Rc<SpoolLedger>,
    pub(crate) journal: Journal,
    /// How many records of the journal had been appended when the last checkpoint began.
    pub(crate) begun: Rc<Cell<u64>>,
    pub(crate) appended: Cell<u64>,
}

impl Ledger for WitnessedLedger {
    fn replay<'a>(
        &'a self,
        apply: &'a mut dyn FnMut(Record),
    ) -> Local<'a, Result<(), LedgerError>> {
        self.ledger.replay(apply)
    }

    fn append(&self, records: &[Record]) -> Result<Mark, LedgerError> {
        let mark = self.ledger.append(records)?;
        self.appended.set(self.appended.get() + records.len() as u64);
        self.journal.borrow_mut().extend(records.iter().cloned());
        Ok(mark)
    }

    fn written(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        self.ledger.written(mark)
    }

    fn synced(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        self.ledger.synced(mark)
    }

    fn standing(&self, handle: &Handle) -> Standing {
        self.ledger.standing(handle)
    }

    fn failure(&self) -> Option<LedgerError> {
        self.ledger.failure()
    }

    fn checkpoint_due(&self) -> bool {
        self.ledger.checkpoint_due()
    }

    fn begin_checkpoint(&self) -> Result<(), LedgerError> {
        self.ledger.begin_checkpoint()?;
        self.begun.set(self.appended.get());
        Ok(())
    }

    fn end_checkpoint(&self) -> Local<'static, Result<(), LedgerError>> {
        self.ledger.end_checkpoint()
    }
}
