//! The writer: takes all records that wait, folds them, and makes one transaction of them, again and again.
//!
//! ```text
//!  waiting ─▶ batch ─ committed ─▶ written, kept ─ a synced commit ─▶ synced, forgotten
//!               ▲                     │
//!               └── the connection ended, or the server was another: all that is kept is written once more
//! ```

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use queue::LedgerError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::operation::{Batch, Operation, Owing};
use super::statements::{Statement, TOUCH, statements};
use super::tenancy::{Tenancy, first};
use super::transaction::{Served, Wait, transact};
use crate::link::{BackOff, Connected, Link};
use crate::{Cause, Checks, Connection, Fault};

/// What is written is synced at the latest after so long, whether anybody waits for it or not.
const SYNC_AFTER: Duration = Duration::from_millis(200);
/// The most records in one transaction, those of the last turn on top.
const BATCH_MAX: usize = 5000;
/// How long a closing ledger tries to write what was appended and to give itself up.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// A database that has no room is asked again no sooner.
const FULL_PAUSE: Duration = Duration::from_secs(1);

pub(crate) type Waiter = oneshot::Sender<Result<(), LedgerError>>;

/// What the owner asks of its writer, in order. The end of commands: it is dropped.
pub(crate) enum Command {
    /// Operations, up to this mark.
    Append(u64, Vec<Operation>),
    /// The reports owed by messages that were replayed.
    Owing(Owing),
    /// Somebody waits until all is synced up to this mark.
    Sync(u64),
    /// The ledger is given up, after what stands before.
    Release { is_clean: bool, waiter: Waiter },
}

pub(crate) struct Writer {
    tenancy: Rc<Tenancy>,
    link: Link,
    waiting: VecDeque<(u64, Vec<Operation>)>,
    owing: Owing,
    wanted: u64,
    written: u64,
    /// What is written and not known to be synced, in order.
    kept: Vec<Rc<Vec<Statement>>>,
    /// Since when there is something of that.
    kept_since: Option<Instant>,
    /// What is kept may be lost, and is to be written again with what comes next.
    is_doubtful: bool,
    served: Option<Served>,
    release: Option<(bool, Waiter)>,
    is_closing: bool,
}

impl Writer {
    pub(crate) fn new(tenancy: &Rc<Tenancy>, first: Option<Connection>) -> Self {
        let database = tenancy.database.clone();
        Self {
            tenancy: tenancy.clone(),
            link: Link::new(database, Checks::Durable, first, &Connected::default()),
            waiting: VecDeque::new(),
            owing: Owing::default(),
            wanted: 0,
            written: 0,
            kept: Vec::new(),
            kept_since: None,
            is_doubtful: false,
            served: None,
            release: None,
            is_closing: false,
        }
    }

    /// Runs until the ledger is dropped or given up, or its owner's time is over. `stop_lease` is called before it is given up.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        stop_lease: impl AsyncFnOnce(),
    ) {
        let tenancy = self.tenancy.clone();
        while tenancy.unless_over(self.wait(&mut commands)).await.is_some() {
            while let Ok(command) = commands.try_recv() {
                self.take(command);
            }
            if self.is_closing {
                break;
            }
            if self.has_work() && !self.write().await {
                break;
            }
            if self.release.is_some() && !self.has_work() {
                break;
            }
        }
        let release = self.release.take();
        let closing =
            timeout(CLOSE_MAX, self.close(release.as_ref().is_some_and(|it| it.0), stop_lease));
        let result = closing.await.unwrap_or(Err("it took too long".to_owned()));
        if let Err(error) = &result
            && !tenancy.is_over()
        {
            tracing::warn!(error, "the ledger was not given up");
        }
        tenancy.end("it was given up".to_owned());
        if let Some((_, waiter)) = release {
            let _ = waiter.send(result.map_err(LedgerError::Fenced));
        }
    }

    /// Waits until there may be something to do.
    async fn wait(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) {
        if self.has_work() || self.release.is_some() {
            return;
        }
        let command = match self.kept_since {
            Some(since) => timeout_at(since + SYNC_AFTER, commands.recv()).await,
            None => Ok(commands.recv().await),
        };
        match command {
            Ok(Some(command)) => self.take(command),
            Ok(None) => self.is_closing = true,
            Err(_is_time) => {}
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Append(mark, operations) => self.waiting.push_back((mark, operations)),
            Command::Owing(owing) => self.owing = owing,
            Command::Sync(mark) => self.wanted = self.wanted.max(mark),
            Command::Release { is_clean, waiter } => self.release = Some((is_clean, waiter)),
        }
    }

    /// How much is to be synced now.
    fn syncs(&self) -> bool {
        let is_due = self.kept_since.is_some_and(|since| since.elapsed() >= SYNC_AFTER);
        let is_last = self.release.is_some() || self.is_closing;
        is_due
            || self.wanted > self.tenancy.progress.borrow().synced
            || is_last && self.kept_since.is_some()
    }

    fn has_work(&self) -> bool {
        !self.waiting.is_empty() || self.syncs()
    }

    /// Makes a transaction of what waits; says whether that was possible.
    async fn write(&mut self) -> bool {
        let wait = if self.syncs() { Wait::Synced } else { Wait::Written };
        let mut batch = Batch::default();
        let mut records = 0;
        while records < BATCH_MAX
            && let Some((mark, operations)) = self.waiting.pop_front()
        {
            records += operations.len();
            self.written = mark;
            operations.into_iter().for_each(|operation| batch.add(operation, &mut self.owing));
        }
        let mut statements = statements(&batch);
        drop(batch);
        if statements.is_empty() && wait == Wait::Synced {
            statements.push(Statement::new(TOUCH));
        }
        let statements = Rc::new(statements);
        if !self.commit(&statements, wait).await {
            return false;
        }
        let (written, is_synced) = (self.written, wait == Wait::Synced);
        if is_synced {
            self.kept.clear();
            self.kept_since = None;
        } else {
            self.kept.push(statements);
            self.kept_since.get_or_insert_with(Instant::now);
        }
        self.tenancy.progress.send_modify(|progress| {
            progress.written = written;
            if is_synced {
                progress.synced = written;
            }
        });
        true
    }

    /// Commits, however often the database has to be asked; not once the owner's time is over.
    async fn commit(&mut self, statements: &Rc<Vec<Statement>>, wait: Wait) -> bool {
        let tenancy = self.tenancy.clone();
        let mut back_off = BackOff::new();
        loop {
            let attempt = tenancy.unless_over(self.attempt(statements, wait)).await;
            let Some(attempt) = attempt else { return false };
            match attempt {
                Ok(served) => {
                    let is_other =
                        self.served.replace(served.clone()).is_some_and(|it| it != served);
                    let was_written_again = std::mem::take(&mut self.is_doubtful);
                    if !is_other || was_written_again || self.kept.is_empty() {
                        return true;
                    }
                    self.is_doubtful = true;
                }
                Err(Fault::Again { .. }) => {}
                Err(fault) if fault.may_pass() => {
                    tracing::warn!(error = %fault.whole(), "the ledger's transaction is tried again");
                    self.link.cut();
                    self.is_doubtful = true;
                    let pause = back_off.next();
                    let is_full = matches!(fault, Fault::Full { .. });
                    let pause = if is_full { pause.max(FULL_PAUSE) } else { pause };
                    if tenancy.unless_over(sleep(pause)).await.is_none() {
                        return false;
                    }
                }
                Err(fault) => {
                    tenancy.end_by(&fault);
                    return false;
                }
            }
        }
    }

    async fn attempt(&mut self, statements: &[Statement], wait: Wait) -> Result<Served, Fault> {
        let mut suspicions = self.tenancy.suspicions.subscribe();
        let connection = self.link.get(self.tenancy.deadline(), |_| {}).await?;
        let kept: &[Rc<Vec<Statement>>] = if self.is_doubtful { &self.kept } else { &[] };
        let all = kept.iter().flat_map(|kept| kept.iter()).chain(statements);
        let suspected = async {
            if suspicions.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let done = first(transact(&connection, self.tenancy.epoch, wait, all), suspected).await;
        let lost = |()| {
            let cause = Cause::Other("another connection to it was lost meanwhile".into());
            Err(Fault::Unknown { database: self.tenancy.database.name().clone(), cause })
        };
        done.unwrap_or_else(lost).map(|done| done.served)
    }

    /// Writes and syncs what is left, and gives the ledger up. A ledger that is dropped without a word may have jobs in hand.
    async fn close(
        &mut self,
        is_clean: bool,
        stop_lease: impl AsyncFnOnce(),
    ) -> Result<(), String> {
        self.is_closing = true;
        while !self.tenancy.is_over() && self.has_work() {
            self.write().await;
        }
        if self.tenancy.is_over() {
            return Err(self.tenancy.error().to_string());
        }
        stop_lease().await;
        let release = crate::lease::release(is_clean);
        if self.commit(&Rc::new(vec![release]), Wait::Synced).await {
            Ok(())
        } else {
            Err(self.tenancy.error().to_string())
        }
    }
}
