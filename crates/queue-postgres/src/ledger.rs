//! The scheduler's record as rows: what a message is now stands in the tables, and no log of how it became so.
//!
//! ```text
//! worker's runtime                            store thread
//! append ── operations ─────────────────────▶ writer: fold, one transaction ─▶ routed, recipient … ─▶ written, synced
//! standing: from memory; look_up, replay ───▶ reader: pages by key
//! owned_until ◀───────────────────────────── lease: renewed on a connection of its own
//! ```
//!
//! `written` is a transaction that the server has committed with `synchronous_commit` off; `synced` one that it has committed by its
//! setting, then or later. What is written and not synced is kept here and written again when it may be lost: when the connection has
//! ended, or another server answers.

mod known;
mod operation;
mod read;
mod rows;
pub(crate) mod statements;
pub(crate) mod tenancy;
pub(crate) mod transaction;
mod writer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use queue::{Handle, Ledger, LedgerError, Local, Mark, Record, Standing};
use tokio::sync::{mpsc, oneshot, watch};

use known::Known;
use read::PAGES_AHEAD;
pub(crate) use read::{Ask, Page, serve};
use tenancy::{Owned, Progress};
pub(crate) use writer::{Command, Writer};

use crate::lease::Claimed;
use crate::thread::StoreThread;

/// An owner's ledger. Dropping it writes what was appended and gives the lease up, if that is possible in a few seconds; a ledger that
/// was not released counts as left with jobs in hand.
pub struct PostgresLedger {
    /// Closed before the thread is waited for.
    ways: Option<Ways>,
    progress: watch::Receiver<Progress>,
    owned: Arc<Owned>,
    known: Rc<RefCell<Known>>,
    appended: Cell<u64>,
    _thread: StoreThread,
}

/// The ways to the thread.
pub(crate) struct Ways {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) asks: mpsc::UnboundedSender<Ask>,
    /// Dropped, nobody waits for the ledger any more.
    pub(crate) _wanted: oneshot::Sender<()>,
}

/// What the thread has when the ledger is its owner's.
pub(crate) struct Granted {
    pub(crate) claimed: Claimed,
    pub(crate) owned: Arc<Owned>,
    pub(crate) progress: watch::Receiver<Progress>,
}

/// The first epoch there is.
const EPOCH_FIRST: i64 = 1;

impl PostgresLedger {
    pub(crate) fn new(granted: Granted, ways: Ways, thread: StoreThread) -> Self {
        let Granted { claimed, owned, progress } = granted;
        // Nobody has ended a message before the first owner ever.
        let taken_over = (claimed.epoch > EPOCH_FIRST).then_some(claimed.at);
        Self {
            ways: Some(ways),
            progress,
            owned,
            known: Rc::new(RefCell::new(Known::since(taken_over))),
            appended: Cell::new(0),
            _thread: thread,
        }
    }

    fn over(&self) -> Option<LedgerError> {
        self.progress.borrow().over.clone()
    }

    fn gone(&self) -> LedgerError {
        self.over().unwrap_or_else(|| LedgerError::Fenced("its thread has ended".to_owned()))
    }

    fn command(&self, command: Command) -> Result<(), LedgerError> {
        let ways = self.ways.as_ref().ok_or_else(|| self.gone())?;
        ways.commands.send(command).map_err(|_| self.gone())
    }

    fn ask(&self, ask: Ask) -> Result<(), LedgerError> {
        let ways = self.ways.as_ref().ok_or_else(|| self.gone())?;
        ways.asks.send(ask).map_err(|_| self.gone())
    }

    /// Waits until so much is reached, or the owner's time is over.
    fn reached(
        &self,
        mark: Mark,
        reached: impl Fn(&Progress) -> u64 + 'static,
    ) -> Local<'static, Result<(), LedgerError>> {
        let mut progress = self.progress.clone();
        Box::pin(async move {
            let is_there = |progress: &Progress| reached(progress) >= mark.0;
            let seen = progress.wait_for(|it| is_there(it) || it.over.is_some()).await;
            match seen {
                Ok(seen) if is_there(&seen) => Ok(()),
                Ok(seen) => Err(seen.over.clone().unwrap_or_else(thread_ended)),
                Err(_closed) => Err(thread_ended()),
            }
        })
    }

    async fn replay_all(&self, apply: &mut dyn FnMut(Record)) -> Result<(), LedgerError> {
        let (pages, mut from) = mpsc::channel(PAGES_AHEAD);
        self.ask(Ask::Replay(pages))?;
        while let Some(page) = from.recv().await {
            match page? {
                Page::Records(records) => {
                    for record in records {
                        self.known.borrow_mut().replayed(&record);
                        apply(record);
                    }
                    tokio::task::yield_now().await;
                }
                Page::Owing(owing) => return self.command(Command::Owing(owing)),
            }
        }
        Err(self.gone())
    }
}

fn thread_ended() -> LedgerError {
    LedgerError::Fenced("its thread has ended".to_owned())
}

impl Ledger for PostgresLedger {
    fn replay<'a>(
        &'a self,
        apply: &'a mut dyn FnMut(Record),
    ) -> Local<'a, Result<(), LedgerError>> {
        Box::pin(self.replay_all(apply))
    }

    fn append(&self, records: &[Record]) -> Result<Mark, LedgerError> {
        if let Some(over) = self.over() {
            return Err(over);
        }
        let mut known = self.known.borrow_mut();
        let operations = records.iter().filter_map(|record| known.operation(record)).collect();
        let mark = self.appended.get() + 1;
        self.command(Command::Append(mark, operations))?;
        self.appended.set(mark);
        Ok(Mark(mark))
    }

    fn written(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        self.reached(mark, |progress| progress.written)
    }

    fn synced(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        match self.command(Command::Sync(mark.0)) {
            Ok(()) => self.reached(mark, |progress| progress.synced),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn standing(&self, handle: &Handle) -> Standing {
        self.known.borrow().standing(handle)
    }

    fn failure(&self) -> Option<LedgerError> {
        self.over()
    }

    fn checkpoint_due(&self) -> bool {
        false
    }

    fn has_checkpoints(&self) -> bool {
        false
    }

    fn begin_checkpoint(&self) -> Result<(), LedgerError> {
        self.over().map_or(Ok(()), Err)
    }

    fn end_checkpoint(&self) -> Local<'static, Result<(), LedgerError>> {
        self.synced(Mark(self.appended.get()))
    }

    fn owned_until(&self) -> Option<Instant> {
        Some(self.owned.get())
    }

    fn look_up(&self, handles: &[&Handle]) -> Option<Local<'static, Result<(), LedgerError>>> {
        let ids = self.known.borrow().unsure(handles);
        if ids.is_empty() {
            return None;
        }
        let asks = self.ways.as_ref().map(|ways| ways.asks.clone());
        let (known, progress) = (self.known.clone(), self.progress.clone());
        Some(Box::pin(async move {
            let gone = || progress.borrow().over.clone().unwrap_or_else(thread_ended);
            let (waiter, answer) = oneshot::channel();
            let asks = asks.ok_or_else(gone)?;
            asks.send(Ask::LookUp(ids.clone(), waiter)).map_err(|_| gone())?;
            let stored = answer.await.map_err(|_| gone())??;
            known.borrow_mut().look_up(ids, &stored);
            Ok(())
        }))
    }

    fn release(&self, is_clean: bool) -> Local<'static, Result<(), LedgerError>> {
        let (waiter, answer) = oneshot::channel();
        let asked = self.command(Command::Release { is_clean, waiter });
        Box::pin(async move {
            asked?;
            answer.await.unwrap_or_else(|_| Err(thread_ended()))
        })
    }
}

impl Drop for PostgresLedger {
    fn drop(&mut self) {
        // The thread, which is waited for, ends when these have.
        drop(self.ways.take());
    }
}
