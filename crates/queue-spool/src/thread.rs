//! A disk thread: the loop around a plain machine, its inbox, and the way back to the runtime.
//!
//! ```text
//! runtime ── push(event) ─▶ inbox ─▶ machine.turn(now, events) ─▶ answers ─▶ outbox ── one wake-up a turn ─▶ runtime
//! ```
//!
//! The machine sees every event that has come since its last turn, and one notification tells the runtime of all that
//! a turn answered: a batch of commits costs one wake-up in each direction.
//!
//! A sync that a machine does not want to wait for is done by a second thread, while turns go on:
//!
//! ```text
//! machine.to_sync() ── file ─▶ second thread: file.sync() ── result ─▶ inbox ─▶ machine.synced(result)
//! ```

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use mail::Timestamp;
use tokio::sync::Notify;

use crate::disk::DiskFile;

/// What a clock shows at the beginning of a turn.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For waiting.
    pub at: Instant,
    /// For writing down.
    pub wall: Timestamp,
}

/// When a machine wants its next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When an event comes.
    Event,
    /// When an event comes, or at this time.
    EventOr(Instant),
    /// At this time; of the events only an urgent one cuts the rest short.
    RestUntil(Instant),
}

/// Something that runs on a disk thread: events in, answers out, disk operations on the way.
pub trait Machine: Send + 'static {
    /// What it is asked.
    type Event: Send + 'static;
    /// What it answers.
    type Answer: Send + 'static;

    /// Does all that the events ask for and the time demands.
    fn turn(
        &mut self,
        now: Now,
        events: &mut Vec<Self::Event>,
        answers: &mut Vec<Self::Answer>,
    ) -> Next;

    /// The file of which a sync is to begin now, beside the turns: it covers what was written before this was asked.
    ///
    /// Asked after each turn. Whoever gets a file tells the machine with [`Machine::synced`] how its sync ended.
    fn to_sync(&mut self) -> Option<Arc<dyn DiskFile>> {
        None
    }

    /// Is told how the sync ended that [`Machine::to_sync`] asked for.
    fn synced(&mut self, _now: Now, _result: io::Result<()>, _answers: &mut Vec<Self::Answer>) {}

    /// Ends: nothing more will be asked, and no sync is under way.
    fn close(&mut self, now: Now, answers: &mut Vec<Self::Answer>);

    /// Whether an event cannot wait for the end of a rest.
    fn is_urgent(event: &Self::Event) -> bool;
}

/// Where events wait for the machine.
pub(crate) struct Inbox<E> {
    state: Mutex<InboxState<E>>,
    wake: Condvar,
}

struct InboxState<E> {
    events: Vec<E>,
    urgent: bool,
    closed: bool,
    /// How the sync ended that was under way.
    synced: Option<io::Result<()>>,
    waiting: Waiting,
}

/// What the thread wakes up for, beside events.
struct Taken {
    /// Whether more events may come.
    open: bool,
    synced: Option<io::Result<()>>,
}

/// What the thread is doing, so that a push need not wake it for nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Not,
    ForEvents,
    ForUrgent,
}

impl<E> Inbox<E> {
    fn new() -> Self {
        let state = InboxState {
            events: Vec::new(),
            urgent: false,
            closed: false,
            synced: None,
            waiting: Waiting::Not,
        };
        Self { state: Mutex::new(state), wake: Condvar::new() }
    }

    pub(crate) fn push(&self, event: E, urgent: bool) {
        let mut state = lock(&self.state);
        state.events.push(event);
        state.urgent |= urgent;
        let wake = match state.waiting {
            Waiting::Not => false,
            Waiting::ForEvents => true,
            Waiting::ForUrgent => urgent,
        };
        if wake {
            state.waiting = Waiting::Not;
            drop(state);
            self.wake.notify_one();
        }
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.wake.notify_one();
    }

    /// A sync has ended.
    fn note_synced(&self, result: io::Result<()>) {
        lock(&self.state).synced = Some(result);
        self.wake.notify_one();
    }

    /// Waits for the end of a sync that is under way.
    fn wait_synced(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        loop {
            match state.synced.take() {
                Some(result) => return result,
                None => state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Waits as `next` says, or for the end of a sync, then takes all there is.
    fn take(&self, events: &mut Vec<E>, next: Next) -> Taken {
        let mut state = lock(&self.state);
        loop {
            let due = match next {
                Next::Event => !state.events.is_empty(),
                Next::EventOr(at) => !state.events.is_empty() || Instant::now() >= at,
                Next::RestUntil(at) => state.urgent || Instant::now() >= at,
            };
            if due || state.closed || state.synced.is_some() {
                state.waiting = Waiting::Not;
                state.urgent = false;
                std::mem::swap(&mut state.events, events);
                return Taken { open: !state.closed, synced: state.synced.take() };
            }
            state.waiting = match next {
                Next::RestUntil(_) => Waiting::ForUrgent,
                _ => Waiting::ForEvents,
            };
            state = match next {
                Next::Event => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Next::EventOr(at) | Next::RestUntil(at) => {
                    let span = at.saturating_duration_since(Instant::now());
                    let (state, _) =
                        self.wake.wait_timeout(state, span).unwrap_or_else(PoisonError::into_inner);
                    state
                }
            };
        }
    }
}

/// A running disk thread. Dropping it lets the machine finish what it was given and waits for that.
pub(crate) struct DiskThread<E: Send + 'static> {
    inbox: Arc<Inbox<E>>,
    thread: Option<JoinHandle<()>>,
}

impl<E: Send + 'static> DiskThread<E> {
    /// Starts a thread; `deliver` is called on it with the answers of each turn that had any.
    pub(crate) fn start<M: Machine<Event = E>>(
        name: &str,
        mut machine: M,
        mut deliver: impl FnMut(&mut Vec<M::Answer>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let inbox = Arc::new(Inbox::new());
        let source = inbox.clone();
        let work = move || {
            let (mut events, mut answers) = (Vec::new(), Vec::new());
            let mut syncs = Syncs::new(source.clone());
            let mut next = Next::EventOr(Instant::now());
            loop {
                let Taken { open, synced } = source.take(&mut events, next);
                if let Some(result) = synced {
                    syncs.under_way = false;
                    machine.synced(now(), result, &mut answers);
                }
                next = machine.turn(now(), &mut events, &mut answers);
                events.clear();
                if let Some(file) = machine.to_sync() {
                    syncs.begin(file);
                }
                if !open {
                    if syncs.under_way {
                        machine.synced(now(), source.wait_synced(), &mut answers);
                    }
                    machine.close(now(), &mut answers);
                }
                if !answers.is_empty() {
                    deliver(&mut answers);
                    answers.clear();
                }
                if !open {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Self { inbox, thread: Some(thread) })
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox<E>> {
        &self.inbox
    }

    /// Lets the machine finish and waits for it.
    pub(crate) fn finish(&mut self) {
        self.inbox.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a disk thread of the queue panicked");
        }
    }
}

impl<E: Send + 'static> Drop for DiskThread<E> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The thread beside a disk thread that waits for syncs. It is started for the first one; dropping this ends it.
struct Syncs<E> {
    inbox: Arc<Inbox<E>>,
    thread: Option<SyncThread>,
    under_way: bool,
}

struct SyncThread {
    files: Sender<Arc<dyn DiskFile>>,
    thread: JoinHandle<()>,
}

impl<E: Send + 'static> Syncs<E> {
    fn new(inbox: Arc<Inbox<E>>) -> Self {
        Self { inbox, thread: None, under_way: false }
    }

    /// Begins a sync; the inbox is told how it ends.
    fn begin(&mut self, file: Arc<dyn DiskFile>) {
        assert!(!self.under_way, "a machine has one sync under way at a time");
        self.under_way = true;
        if self.thread.is_none() {
            let (files, from) = channel();
            let inbox = self.inbox.clone();
            let started = std::thread::Builder::new()
                .name("spool-sync".to_owned())
                .spawn(move || sync_all(&from, &inbox));
            self.thread = started.ok().map(|thread| SyncThread { files, thread });
        }
        // Without a second thread the machine waits; it is told in the same way.
        let refused = match &self.thread {
            Some(thread) => thread.files.send(file).err().map(|refused| refused.0),
            None => Some(file),
        };
        if let Some(file) = refused {
            self.inbox.note_synced(file.sync());
        }
    }
}

fn sync_all<E>(files: &Receiver<Arc<dyn DiskFile>>, inbox: &Inbox<E>) {
    for file in files {
        inbox.note_synced(file.sync());
    }
}

impl<E> Drop for Syncs<E> {
    fn drop(&mut self) {
        if let Some(SyncThread { files, thread }) = self.thread.take() {
            drop(files);
            if thread.join().is_err() {
                tracing::error!("a thread that syncs the queue panicked");
            }
        }
    }
}

/// Where answers wait for the runtime.
pub(crate) struct Outbox<A> {
    answers: Mutex<Vec<A>>,
    notify: Notify,
}

impl<A> Outbox<A> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(Vec::new()), notify: Notify::new() })
    }

    /// Adds a batch and wakes the runtime once.
    pub(crate) fn put(&self, batch: &mut Vec<A>) {
        lock(&self.answers).append(batch);
        self.notify.notify_one();
    }

    /// All answers that have come.
    pub(crate) fn take(&self) -> Vec<A> {
        std::mem::take(&mut *lock(&self.answers))
    }

    /// Hands every answer to `apply`, for ever. Spawned once for each store.
    pub(crate) async fn pump(self: Arc<Self>, mut apply: impl FnMut(A)) {
        loop {
            self.notify.notified().await;
            self.take().into_iter().for_each(&mut apply);
        }
    }
}

fn now() -> Now {
    Now { at: Instant::now(), wall: Timestamp::from(SystemTime::now()) }
}

/// A panic while such a lock was held has aborted the worker, or is being reported by a test.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
