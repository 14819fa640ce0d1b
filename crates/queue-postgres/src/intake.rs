//! The acceptor's side: drafts in memory until they are large, commits that resolve when the database has committed.
//!
//! ```text
//! worker's runtime                          store thread
//! Draft ── pieces of large bodies ────────▶ bodies lane ──▶ body
//!       ── commit ───────▶ those that wait ─▶ accept lanes ─▶ message, intake_batch ── COMMIT answered ─▶ waiters, one wake-up
//! ```
//!
//! **Invariants:** a waiter hears of success only after the database has answered COMMIT without a warning · what is in memory for
//! drafts and commits together stays below `draft_bytes_max` · a commit that has begun goes on without its future.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use mail::MessageId;
use queue::{Accept, Draft, Handle, Intake, IntakeError, Local, SizeHint};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::name::Name;
use crate::random::Ids;
use crate::thread::StoreThread;
use crate::{Checks, Database, Fault};

mod accept;
mod backlog;
mod bodies;
mod health;
mod memory;
mod persist;
mod rows;
mod worker;

use accept::{Commit, CommitBody};
pub(crate) use bodies::LOCK_BODIES;
use health::Health;
use memory::{Budget, Held};
use rows::{Large, Rows};
use worker::{Answer, Event, Waiter};

/// Bodies up to this size stand in the row of their message; larger ones go to `body` in pieces of this size. In bytes.
pub const PIECE_BYTES: usize = 256 << 10;

/// This process's right to add messages. Must be made on a local runtime; clones share it.
///
/// Dropping the last clone, with its drafts and commits, waits until the commits that had begun have ended, at most
/// [`worker::DRAIN_MAX`].
#[derive(Clone)]
pub struct PostgresIntake(Rc<Inner>);

struct Inner {
    events: Option<mpsc::UnboundedSender<Event>>,
    thread: StoreThread,
    pump: AbortHandle,
    health: Arc<Health>,
    budget: Arc<Budget>,
    large: Arc<Large>,
    ids: Ids,
}

impl PostgresIntake {
    /// Connects once and starts the thread. A database that is away is no error: until it is back, no draft begins.
    pub(crate) fn open(database: &Database) -> Result<Self, Fault> {
        let (events, from) = mpsc::unbounded_channel();
        let (answers, mut to_tell) = mpsc::unbounded_channel::<Vec<Answer>>();
        let health = Arc::new(Health::default());
        let (its_database, its_health) = (database.clone(), health.clone());
        let thread = StoreThread::open("pg-intake", database, Checks::Durable, move |first| {
            let first = first.map_err(|fault| its_health.ill(&fault)).ok();
            worker::run(its_database, its_health, first, from, answers)
        })?;
        let pump = tokio::task::spawn_local(async move {
            while let Some(batch) = to_tell.recv().await {
                // Who no longer waits has lost interest, not the message.
                for (waiter, result) in batch {
                    let _ = waiter.send(result);
                }
            }
        });
        let settings = database.settings();
        Ok(Self(Rc::new(Inner {
            events: Some(events),
            thread,
            pump: pump.abort_handle(),
            health,
            budget: Budget::new(settings.draft_bytes_max.0),
            large: Large::new(settings.large_bodies_max as usize),
            ids: Ids::default(),
        })))
    }
}

impl Inner {
    fn send(&self, event: Event) {
        // Only a thread that has panicked takes nothing; whoever waits then hears that the queue is closed.
        if let Some(events) = &self.events {
            let _ = events.send(event);
        }
    }

    /// Waits for an answer, keeping the thread alive meanwhile.
    async fn answer(
        self: Rc<Self>,
        answer: oneshot::Receiver<Result<(), IntakeError>>,
    ) -> Result<(), IntakeError> {
        answer.await.unwrap_or(Err(IntakeError::Closed))
    }
}

impl Inner {
    fn next_id(&self) -> Result<MessageId, IntakeError> {
        self.ids.next().map_err(|source| IntakeError::Io {
            context: "random bits".into(),
            source: source.into(),
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.events.take());
        self.thread.finish();
        self.pump.abort();
    }
}

impl Intake for PostgresIntake {
    fn begin(&self, hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError> {
        let id = self.0.next_id()?;
        self.begin_with((id, id), hint)
    }

    fn begin_as(&self, id: MessageId, hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError> {
        // Rows without a message are known to be old by their id: those of an old message must not look so.
        self.begin_with((id, self.0.next_id()?), hint)
    }
}

impl PostgresIntake {
    /// Begins a draft of a message and of a body, each under its id.
    fn begin_with(
        &self,
        (id, body_id): (MessageId, MessageId),
        hint: SizeHint,
    ) -> Result<Box<dyn Draft>, IntakeError> {
        let inner = self.0.clone();
        inner.health.check()?;
        inner.budget.check()?;
        let declared = hint.declared_bytes.unwrap_or(0);
        if declared > PIECE_BYTES as u64 {
            inner.large.check()?;
        }
        let expected = usize::try_from(declared).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let memory = Vec::with_capacity(expected);
        let held = Held::new(&inner.budget);
        let stage = Stage::Open;
        Ok(Box::new(PostgresDraft { inner, id, body_id, stage, memory, held, rows: None }))
    }
}

/// A message being written.
struct PostgresDraft {
    inner: Rc<Inner>,
    id: MessageId,
    /// The id of its rows in `body`, if it has any.
    body_id: MessageId,
    stage: Stage,
    /// What has not been handed on.
    memory: Vec<u8>,
    held: Held,
    /// Where the body goes when it is large, or finished.
    rows: Option<Arc<Rows>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The body is complete, and all of it was handed on.
    Finished,
    /// It was refused room, or committed.
    Spent,
}

impl PostgresDraft {
    /// Goes on in rows of `body`. A draft that is refused this is spent: nothing of it can be committed.
    fn grow_large(&mut self) -> Result<(), IntakeError> {
        match self.inner.large.take() {
            Ok(place) => {
                self.rows = Some(Rows::new(self.body_id, Some(place)));
                Ok(())
            }
            Err(error) => {
                self.stage = Stage::Spent;
                self.memory = Vec::new();
                self.held.give_back();
                Err(error)
            }
        }
    }

    /// Hands every full piece to the thread.
    fn send_pieces(&mut self) {
        let Some(rows) = &self.rows else { return };
        while self.memory.len() >= PIECE_BYTES {
            let rest = self.memory.split_off(PIECE_BYTES);
            let data = std::mem::replace(&mut self.memory, rest);
            let held = self.held.split(data.len());
            self.inner.send(Event::Piece(rows.piece(data, held)));
        }
    }

    /// Hands over the last piece. A body without a byte has one piece all the same, so that it is there.
    fn send_rest(&mut self) -> Arc<Rows> {
        let id = self.body_id;
        let rows = self.rows.get_or_insert_with(|| Rows::new(id, None)).clone();
        if self.stage == Stage::Open {
            self.stage = Stage::Finished;
            let data = std::mem::take(&mut self.memory);
            if !data.is_empty() || rows.pieces() == 0 {
                let held = self.held.split(data.len());
                self.inner.send(Event::Piece(rows.piece(data, held)));
            }
        }
        rows
    }

    async fn finish_draft(&mut self) -> Result<Handle, IntakeError> {
        if self.stage == Stage::Spent {
            return Err(IntakeError::Closed);
        }
        let rows = self.send_rest();
        rows.written().await?;
        Ok(Name::Body(self.body_id, rows.size()).handle())
    }

    /// Hands the message to the store. From here on it is the store's.
    fn hand_over(
        &mut self,
        mut accept: Accept,
        waiter: Waiter,
    ) -> Result<(), (Waiter, IntakeError)> {
        if self.stage == Stage::Spent {
            return Err((waiter, IntakeError::Closed));
        }
        let body = match accept.replaced_body.take() {
            Some(handle) => {
                let Some(Name::Body(id, size)) = Name::parse(&handle) else {
                    let source = io::Error::other(format!("{handle} is no draft of this store"));
                    let context = "the replaced body".into();
                    return Err((waiter, IntakeError::Io { context, source: source.into() }));
                };
                self.abort();
                CommitBody::Adopted { id, size }
            }
            None if self.rows.is_none() => CommitBody::Inline(std::mem::take(&mut self.memory)),
            None => CommitBody::Rows(self.send_rest()),
        };
        self.rows = None;
        self.stage = Stage::Spent;
        let commit = Commit::new(self.id, &accept, body, self.held.split_all(), waiter);
        self.inner.send(Event::Commit(commit));
        Ok(())
    }

    fn abort(&mut self) {
        self.memory = Vec::new();
        self.held.give_back();
        if self.rows.take().is_some() {
            self.inner.send(Event::Discard(self.body_id));
        }
        self.stage = Stage::Spent;
    }
}

impl Draft for PostgresDraft {
    fn id(&self) -> MessageId {
        self.id
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        if self.stage != Stage::Open {
            return Err(IntakeError::Closed);
        }
        if let Some(rows) = &self.rows {
            rows.check()?;
        }
        self.held.take(bytes.len())?;
        self.memory.extend_from_slice(bytes);
        if self.rows.is_none() && self.memory.len() > PIECE_BYTES {
            self.grow_large()?;
        }
        self.send_pieces();
        Ok(())
    }

    fn room(&mut self) -> Local<'_, Result<(), IntakeError>> {
        match &self.rows {
            Some(rows) => Box::pin(rows.room()),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }

    fn finish(&mut self) -> Local<'_, Result<Handle, IntakeError>> {
        Box::pin(self.finish_draft())
    }

    fn commit(mut self: Box<Self>, accept: Accept) -> Local<'static, Result<Handle, IntakeError>> {
        let (waiter, answer) = oneshot::channel();
        if let Err((waiter, error)) = self.hand_over(accept, waiter) {
            let _ = waiter.send(Err(error));
        }
        let (inner, id) = (self.inner.clone(), self.id);
        Box::pin(async move {
            inner.answer(answer).await?;
            Ok(Name::Message(id).handle())
        })
    }
}

impl Drop for PostgresDraft {
    fn drop(&mut self) {
        self.abort();
    }
}
