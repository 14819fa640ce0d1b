//! The ledger in memory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use mail::MessageId;
use queue::{Handle, Ledger, LedgerError, Local, Mark, Record, Standing};

use crate::{Store, parts};

/// A checkpoint is due when so many records were appended since the last, and twice as many as that one had.
const CHECKPOINT_RECORDS_MIN: u64 = 10_000;

/// What outlives a holder of the ledger.
#[derive(Default)]
pub(crate) struct Records {
    log: RefCell<Vec<Record>>,
    standings: RefCell<BTreeMap<MessageId, Standing>>,
    held: Cell<bool>,
}

pub(crate) struct MemoryLedger {
    store: Rc<Store>,
    mark: Cell<u64>,
    /// Where the present checkpoint begins in the log.
    checkpoint: Cell<Option<usize>>,
    since_checkpoint: Cell<u64>,
    checkpoint_records: Cell<u64>,
}

impl MemoryLedger {
    pub(crate) fn open(store: Rc<Store>) -> Result<Self, LedgerError> {
        if store.records.held.replace(true) {
            return Err(LedgerError::Held("this process".into()));
        }
        let since_checkpoint = Cell::new(store.records.log.borrow().len() as u64);
        Ok(Self {
            store,
            mark: Cell::new(0),
            checkpoint: Cell::new(None),
            since_checkpoint,
            checkpoint_records: Cell::new(0),
        })
    }

    fn note(&self, record: &Record) {
        let mut standings = self.store.records.standings.borrow_mut();
        match record {
            Record::Routed(routed) | Record::Snapshot(routed)
                if parts(&routed.handle).is_some() =>
            {
                standings.entry(routed.id).or_insert(Standing::Routed);
            }
            Record::Retired { id, handle } if parts(handle).is_some() => {
                standings.insert(*id, Standing::Retired);
                self.store.messages.borrow_mut().remove(id);
            }
            _ => {}
        }
    }
}

fn done() -> Local<'static, Result<(), LedgerError>> {
    Box::pin(std::future::ready(Ok(())))
}

impl Ledger for MemoryLedger {
    fn replay<'a>(
        &'a self,
        apply: &'a mut dyn FnMut(Record),
    ) -> Local<'a, Result<(), LedgerError>> {
        // The callback may ask for a standing; the log must not be borrowed meanwhile.
        let records = self.store.records.log.borrow().clone();
        records.into_iter().for_each(apply);
        done()
    }

    fn append(&self, records: &[Record]) -> Result<Mark, LedgerError> {
        records.iter().for_each(|record| self.note(record));
        self.store.records.log.borrow_mut().extend_from_slice(records);
        self.since_checkpoint.set(self.since_checkpoint.get() + records.len() as u64);
        self.mark.set(self.mark.get() + 1);
        Ok(Mark(self.mark.get()))
    }

    fn written(&self, _mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        done()
    }

    fn synced(&self, _mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        done()
    }

    fn standing(&self, handle: &Handle) -> Standing {
        let Some(('m', id)) = parts(handle) else { return Standing::Unknown };
        let known = self.store.records.standings.borrow().get(&id).copied();
        match known {
            Some(standing) => standing,
            None if self.store.messages.borrow().contains_key(&id) => Standing::Unknown,
            None => Standing::Retired,
        }
    }

    fn failure(&self) -> Option<LedgerError> {
        None
    }

    fn checkpoint_due(&self) -> bool {
        let worth = CHECKPOINT_RECORDS_MIN.max(2 * self.checkpoint_records.get());
        self.checkpoint.get().is_none() && self.since_checkpoint.get() >= worth
    }

    fn begin_checkpoint(&self) -> Result<(), LedgerError> {
        self.checkpoint.set(Some(self.store.records.log.borrow().len()));
        self.since_checkpoint.set(0);
        Ok(())
    }

    fn end_checkpoint(&self) -> Local<'static, Result<(), LedgerError>> {
        if let Some(begin) = self.checkpoint.take() {
            self.store.records.log.borrow_mut().drain(..begin);
            self.checkpoint_records.set(self.since_checkpoint.replace(0));
        }
        done()
    }
}

impl Drop for MemoryLedger {
    fn drop(&mut self) {
        self.store.records.held.set(false);
    }
}
