//! The scheduler's side of the ledger: append now, wait for written or synced, checkpoint now and then.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mail::Timestamp;
use queue::{Handle, Ledger, LedgerError, Local, Mark, Record, Standing};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::Settings;
use crate::disk::{Disk, Held, Lock, read_text};
use crate::place::Layout;
use crate::thread::{DiskThread, Inbox, Now, Outbox};

#[cfg(any(test, feature = "simulated"))]
mod by_hand;
pub(crate) mod frame;
pub(crate) mod log;
mod logs;
pub mod machine;
pub(crate) mod reclaim;
pub(crate) mod record;
mod replay;
pub(crate) mod standing;
mod view;

use log::{Certainty, Found, failed};
use machine::{Answer, Book, Event, LedgerMachine, Limits, Spare};
use standing::Ending;

pub use frame::{FrameKind, push_frame};
pub use view::{LedgerView, read_standings};

/// A checkpoint is due when more than this was appended since the last, and more than half of what that one took: a start then reads
/// half as much again as lives, at most.
const CHECKPOINT_BYTES_MIN: u64 = 8 << 20;
/// Each life begins a log, with room for a checkpoint: one that has replayed more than so many writes a checkpoint, so that they go.
const LOGS_MAX: usize = 3;

type Waiter = oneshot::Sender<Result<(), LedgerError>>;

/// The ledger of this spool, held by this process alone. Dropping it writes and syncs what was appended.
pub struct SpoolLedger {
    disk: Arc<dyn Disk>,
    layout: Layout,
    limits: Limits,
    book: Book,
    /// What is to be replayed; taken by [`Ledger::replay`].
    found: RefCell<Option<Found>>,
    shared: Rc<Shared>,
    running: RefCell<Option<Running>>,
    _lock: Box<dyn Held>,
}

/// The thread and the way to it.
enum Running {
    Thread {
        thread: DiskThread<Event<Waiter>>,
        inbox: Arc<Inbox<Event<Waiter>>>,
        outbox: Arc<Outbox<Answer<Waiter>>>,
        pump: AbortHandle,
    },
    /// No thread: a simulation makes the turns.
    #[cfg(any(test, feature = "simulated"))]
    ByHand(Box<by_hand::ByHand>),
}

/// What the runtime knows of the thread's progress.
#[derive(Default)]
struct Shared {
    appended: Cell<u64>,
    written: Cell<u64>,
    synced: Cell<u64>,
    wanted: Cell<u64>,
    written_waiters: RefCell<Waiters>,
    synced_waiters: RefCell<Waiters>,
    /// After a failure, until a checkpoint has synced.
    failure: RefCell<Option<LedgerError>>,
    phase: Cell<Phase>,
    /// Whether what was replayed must be proven durable by a checkpoint.
    unproven: Cell<bool>,
    /// Whether more logs were replayed than are to be kept.
    crowded: Cell<bool>,
    /// Whether a checkpoint finds room.
    spare: Cell<Spare>,
    /// Bytes appended since the last checkpoint began, and those it took.
    bytes: Cell<u64>,
    checkpoint_bytes: Cell<u64>,
    /// Nothing is [`CHECKPOINT_BYTES_MIN`]; a simulation, whose logs are small, wants more of them.
    #[cfg(any(test, feature = "simulated"))]
    worth_bytes: Cell<Option<u64>>,
}

/// Where the present checkpoint stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Between,
    Checkpoint,
}

type Waiters = VecDeque<(u64, Waiter)>;

impl SpoolLedger {
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        layout: Layout,
        settings: &Settings,
    ) -> Result<Self, LedgerError> {
        let held = hold(&*disk, &layout)?;
        let found = log::find(&*disk, &layout)?;
        log::report(&layout, &found.damage);
        let limits = Limits::of(settings);
        Ok(Self {
            disk,
            layout,
            limits,
            book: Book::default(),
            found: RefCell::new(Some(found)),
            shared: Rc::default(),
            running: RefCell::default(),
            _lock: held,
        })
    }

    async fn replay_all(&self, apply: &mut dyn FnMut(Record)) -> Result<(), LedgerError> {
        let Some(found) = self.found.borrow_mut().take() else {
            return Err(LedgerError::Damaged("the ledger has been replayed already".into()));
        };
        let (layout, book) = (self.layout.clone(), self.book.clone());
        let (found, endings) = replay::all(found, layout, book, apply).await?;
        self.note_replayed(&found);
        self.start(found, endings)
    }

    fn note_replayed(&self, found: &Found) {
        let replayed = found.logs.get(found.start..).unwrap_or_default();
        let checkpoint = replayed.first().map_or(0, log::Log::checkpoint_bytes);
        let all = replayed.iter().map(|log| log.end).sum::<u64>();
        self.shared.crowded.set(replayed.len() > LOGS_MAX);
        self.shared.checkpoint_bytes.set(checkpoint);
        self.shared.bytes.set(all - checkpoint);
        self.shared.unproven.set(found.certainty == Certainty::Unproven);
    }

    fn start(&self, found: Found, endings: Vec<Ending>) -> Result<(), LedgerError> {
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        let standings = self.book.standings.clone();
        let now = Now { at: Instant::now(), wall: Timestamp::from(SystemTime::now()) };
        let machine =
            LedgerMachine::go_on(disk, layout, self.limits, standings, found, endings, now)?;
        self.shared.spare.set(machine.spare());
        let outbox = Outbox::new();
        let answers = outbox.clone();
        let thread = DiskThread::start("spool-ledger", machine, move |batch| answers.put(batch))
            .map_err(|error| failed(&self.layout.ledger(), error))?;
        let shared = self.shared.clone();
        let pump = outbox.clone().pump(move |answer| shared.take(answer));
        let pump = tokio::task::spawn_local(pump).abort_handle();
        let inbox = thread.inbox().clone();
        *self.running.borrow_mut() = Some(Running::Thread { thread, inbox, outbox, pump });
        Ok(())
    }

    fn ask(&self, event: Event<Waiter>) -> Result<(), LedgerError> {
        match &mut *self.running.borrow_mut() {
            Some(Running::Thread { inbox, .. }) => {
                inbox.push(event, true);
                Ok(())
            }
            #[cfg(any(test, feature = "simulated"))]
            Some(Running::ByHand(hand)) => {
                hand.events.push(event);
                Ok(())
            }
            None => Err(LedgerError::Damaged("the ledger has not been replayed".into())),
        }
    }

    fn append_all(&self, records: &[Record]) -> Result<Mark, LedgerError> {
        if let Some(failure) = self.shared.refuses() {
            return Err(failure);
        }
        let mark = self.shared.appended.get() + 1;
        let event = self
            .book
            .append(mark, records)
            .map_err(|error| failed(&self.layout.ledger(), error))?;
        let Event::Append { payload, .. } = &event else { unreachable!("it is an append") };
        let bytes = self.shared.bytes.get() + payload.len() as u64;
        self.ask(event)?;
        self.shared.appended.set(mark);
        self.shared.bytes.set(bytes);
        Ok(Mark(mark))
    }
}

/// Takes the ledger's lock.
pub(crate) fn hold(disk: &dyn Disk, layout: &Layout) -> Result<Box<dyn Held>, LedgerError> {
    let path = layout.ledger().join("lock");
    let held = disk.lock(&path, Lock::Exclusive).map_err(|error| failed(&path, error))?;
    held.ok_or_else(|| {
        let holder = read_text(disk, &path).unwrap_or_default();
        LedgerError::Held(format!("process {}", holder.trim()))
    })
}

impl Shared {
    /// Why nothing can be appended: after a failure, until a checkpoint has begun.
    fn refuses(&self) -> Option<LedgerError> {
        match self.phase.get() {
            Phase::Checkpoint => None,
            Phase::Between => self.failure.borrow().clone(),
        }
    }

    /// How much must have been appended for a checkpoint to be worth it.
    fn worth_bytes(&self) -> u64 {
        #[cfg(any(test, feature = "simulated"))]
        if let Some(bytes) = self.worth_bytes.get() {
            return bytes;
        }
        CHECKPOINT_BYTES_MIN
    }

    fn take(&self, answer: Answer<Waiter>) {
        match answer {
            Answer::Written(mark) => {
                self.written.set(mark);
                release(&self.written_waiters, mark);
            }
            Answer::Synced(mark) => {
                self.synced.set(mark);
                release(&self.synced_waiters, mark);
            }
            Answer::Failed(error) => {
                *self.failure.borrow_mut() = Some(error.clone());
                self.phase.set(Phase::Between);
                for waiters in [&self.written_waiters, &self.synced_waiters] {
                    for (_, waiter) in waiters.take() {
                        let _ = waiter.send(Err(error.clone()));
                    }
                }
            }
            Answer::Spare(spare) => self.spare.set(spare),
            Answer::Ended(waiter, result) => {
                if result.is_ok() {
                    *self.failure.borrow_mut() = None;
                    self.unproven.set(false);
                    self.crowded.set(false);
                }
                // After a failure that has been told, another may have been begun.
                if self.failure.borrow().is_none() {
                    self.phase.set(Phase::Between);
                }
                let _ = waiter.send(result);
            }
        }
    }

    /// Waits until `reached` has come to `mark`.
    fn wait(
        &self,
        reached: &Cell<u64>,
        waiters: &RefCell<Waiters>,
        mark: u64,
    ) -> Local<'static, Result<(), LedgerError>> {
        if reached.get() >= mark {
            return Box::pin(std::future::ready(Ok(())));
        }
        if let Some(failure) = self.refuses() {
            return Box::pin(std::future::ready(Err(failure)));
        }
        let (waiter, answer) = oneshot::channel();
        let mut waiters = waiters.borrow_mut();
        let place = waiters.partition_point(|(waits_for, _)| *waits_for <= mark);
        waiters.insert(place, (mark, waiter));
        Box::pin(waited(answer))
    }
}

fn release(waiters: &RefCell<Waiters>, mark: u64) {
    let mut waiters = waiters.borrow_mut();
    while let Some((_, waiter)) = waiters.pop_front_if(|(waits_for, _)| *waits_for <= mark) {
        let _ = waiter.send(Ok(()));
    }
}

async fn waited(answer: oneshot::Receiver<Result<(), LedgerError>>) -> Result<(), LedgerError> {
    answer.await.unwrap_or_else(|_| {
        let source = Arc::new(std::io::ErrorKind::BrokenPipe.into());
        Err(LedgerError::Io { context: "the ledger was closed".into(), source })
    })
}

impl Ledger for SpoolLedger {
    fn replay<'a>(
        &'a self,
        apply: &'a mut dyn FnMut(Record),
    ) -> Local<'a, Result<(), LedgerError>> {
        Box::pin(self.replay_all(apply))
    }

    fn append(&self, records: &[Record]) -> Result<Mark, LedgerError> {
        self.append_all(records)
    }

    fn written(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        self.shared.wait(&self.shared.written, &self.shared.written_waiters, mark.0)
    }

    fn synced(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        if mark.0 > self.shared.wanted.get().max(self.shared.synced.get()) {
            self.shared.wanted.set(mark.0);
            if let Err(error) = self.ask(Event::Want(mark.0)) {
                return Box::pin(std::future::ready(Err(error)));
            }
        }
        self.shared.wait(&self.shared.synced, &self.shared.synced_waiters, mark.0)
    }

    fn standing(&self, handle: &Handle) -> Standing {
        self.book.standing(handle)
    }

    fn failure(&self) -> Option<LedgerError> {
        self.shared.refuses()
    }

    fn checkpoint_due(&self) -> bool {
        let worth = self.shared.worth_bytes().max(self.shared.checkpoint_bytes.get() / 2);
        let asked = self.shared.unproven.get() || self.shared.crowded.get();
        let wanted = asked || self.shared.bytes.get() >= worth;
        // A full disk must not stop a ledger that still has room: without a new log it goes on in the one it has.
        let possible = self.shared.spare.get() == Spare::There;
        let failed = self.shared.failure.borrow().is_some();
        self.shared.phase.get() == Phase::Between && (failed || wanted && possible)
    }

    fn begin_checkpoint(&self) -> Result<(), LedgerError> {
        self.ask(Event::Begin)?;
        self.shared.phase.set(Phase::Checkpoint);
        self.shared.spare.set(Spare::Missing);
        self.shared.bytes.set(0);
        Ok(())
    }

    fn end_checkpoint(&self) -> Local<'static, Result<(), LedgerError>> {
        let (waiter, answer) = oneshot::channel();
        if let Err(error) = self.ask(Event::End(waiter)) {
            return Box::pin(std::future::ready(Err(error)));
        }
        self.shared.checkpoint_bytes.set(self.shared.bytes.get());
        self.shared.bytes.set(0);
        Box::pin(waited(answer))
    }
}

impl Drop for SpoolLedger {
    fn drop(&mut self) {
        if let Some(Running::Thread { mut thread, outbox, pump, .. }) =
            self.running.borrow_mut().take()
        {
            thread.finish();
            pump.abort();
            outbox.take().into_iter().for_each(|answer| self.shared.take(answer));
        }
    }
}
