//! The acceptor's side: drafts in memory until they are large, commits that resolve when they are synced.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mail::{MessageId, Timestamp};
use queue::{Accept, Draft, Handle, Intake, IntakeError, Local, SizeHint};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use crate::Settings;
use crate::disk::Disk;
use crate::place::{Layout, Place, RecordPlace, Stripe};
use crate::read::BLOCK_BYTES;
use crate::stripe::Hold;
use crate::thread::{DiskThread, Inbox, Machine as _, Outbox};

pub mod bodies;
mod events;
pub mod writer;

use bodies::Bodies;
use writer::{CommitBody, Health, Limits, Writer};

/// How much of a large body may wait for the disk before [`Draft::room`] holds its writer back, in bytes.
pub const UNWRITTEN_BYTES_MAX: u64 = 1 << 20;
/// How old the last look at the free space may be when a draft begins.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

type Waiter = oneshot::Sender<Result<Place, IntakeError>>;

/// This process's right to add messages: one stripe, one thread that commits, one that writes large bodies.
///
/// Dropping the last clone, with its drafts and commits, ends both threads and seals the segment.
#[derive(Clone)]
pub struct SpoolIntake(Rc<Inner>);

struct Inner {
    // Fields are dropped in this order: the bodies' thread hands its last commits to the writer.
    pumps: [AbortHandle; 2],
    bodies: DiskThread<bodies::Event<Waiter>>,
    writer: DiskThread<writer::Event<Waiter>>,
    to_bodies: Arc<Inbox<bodies::Event<Waiter>>>,
    to_writer: Arc<Inbox<writer::Event<Waiter>>>,
    from_bodies: Arc<Outbox<bodies::Answer<Waiter>>>,
    from_writer: Arc<Outbox<writer::Answer<Waiter>>>,
    large: Rc<LargeBodies>,
    draft_bytes: Budget,
    /// Messages that have begun and are not answered, and those of them that wait for the writer's answer.
    in_work: Cell<u32>,
    committing: Cell<u32>,
    health: Rc<RefCell<Health>>,
    looked_at: Cell<Instant>,
    chance: Chance,
    stripe: Stripe,
    body_file_bytes_min: u64,
    free_bytes_min: u64,
    large_bodies_max: usize,
}

/// What all drafts together hold in memory, until they are committed, dropped, or written to a file.
struct Budget {
    bytes: Cell<u64>,
    bytes_max: u64,
}

impl Budget {
    /// Whether there is room for so many bytes more.
    fn check(&self, more: u64) -> Result<(), IntakeError> {
        let bytes = self.bytes.get().saturating_add(more);
        if bytes < self.bytes_max { Ok(()) } else { Err(IntakeError::Busy) }
    }

    fn take(&self, more: usize, held: &mut u64) -> Result<(), IntakeError> {
        let more = more as u64;
        self.check(more)?;
        self.bytes.set(self.bytes.get() + more);
        *held += more;
        Ok(())
    }

    fn give_back(&self, held: &mut u64) {
        self.bytes.set(self.bytes.get() - std::mem::take(held));
    }
}

/// Bodies that are being written to files of their own.
#[derive(Default)]
struct LargeBodies {
    open: RefCell<HashMap<MessageId, Rc<Large>>>,
}

/// What the runtime knows of one of them.
#[derive(Default)]
struct Large {
    unwritten: Cell<u64>,
    failure: RefCell<Option<IntakeError>>,
    changed: Notify,
}

impl SpoolIntake {
    /// Starts the threads for a stripe that is held. Must be called on a local runtime.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        layout: Layout,
        settings: &Settings,
        hold: Hold,
    ) -> std::io::Result<Self> {
        let stripe = hold.stripe;
        let health = Health { trouble: None, free_bytes: disk.free_bytes(&layout.intake()).ok() };
        let health = Rc::new(RefCell::new(health));
        let large = Rc::new(LargeBodies::default());
        let limits = Limits::of(settings);
        let chance = Chance::new(disk.clone());
        let file_bytes_min = settings.body_file_bytes_min.0;
        let machine = Writer::new(disk.clone(), layout.clone(), limits, hold, Instant::now());
        let from_writer = Outbox::new();
        let outbox = from_writer.clone();
        let writer =
            DiskThread::start("spool-writer", machine, move |answers| outbox.put(answers))?;
        let machine = Bodies::new(disk, layout, stripe, file_bytes_min);
        let from_bodies = Outbox::new();
        let (outbox, to_writer) = (from_bodies.clone(), writer.inbox().clone());
        let bodies = DiskThread::start("spool-bodies", machine, move |answers| {
            let mut rest = Vec::new();
            for answer in answers.drain(..) {
                match answer {
                    bodies::Answer::Forward(event) => to_writer.push(event, false),
                    answer => rest.push(answer),
                }
            }
            outbox.put(&mut rest);
        })?;
        let (known, seen) = (large.clone(), health.clone());
        let pumps = [
            tokio::task::spawn_local(
                from_bodies.clone().pump(move |answer| apply_bodies(&known, answer)),
            )
            .abort_handle(),
            tokio::task::spawn_local(
                from_writer.clone().pump(move |answer| apply_writer(&seen, answer)),
            )
            .abort_handle(),
        ];
        Ok(Self(Rc::new(Inner {
            pumps,
            to_bodies: bodies.inbox().clone(),
            to_writer: writer.inbox().clone(),
            bodies,
            writer,
            from_bodies,
            from_writer,
            large,
            draft_bytes: Budget { bytes: Cell::new(0), bytes_max: settings.draft_bytes_max.0 },
            in_work: Cell::new(0),
            committing: Cell::new(0),
            health,
            looked_at: Cell::new(Instant::now()),
            chance,
            stripe,
            body_file_bytes_min: file_bytes_min,
            free_bytes_min: settings.free_bytes_min.0,
            large_bodies_max: settings.large_bodies_max as usize,
        })))
    }

    /// The stripe that this process writes to.
    pub fn stripe(&self) -> Stripe {
        self.0.stripe
    }
}

fn apply_writer(health: &RefCell<Health>, answer: writer::Answer<Waiter>) {
    // Who no longer waits has lost interest, not the message.
    match answer {
        writer::Answer::Drafted(waiter, result) => {
            let _ = waiter.send(result.map(Place::Draft));
        }
        writer::Answer::Committed(waiter, result) => {
            let _ = waiter.send(result.map(Place::Message));
        }
        writer::Answer::Health(seen) => *health.borrow_mut() = seen,
    }
}

fn apply_bodies(large: &LargeBodies, answer: bodies::Answer<Waiter>) {
    match answer {
        bodies::Answer::Wrote(id, bytes) => large.update(id, |body| {
            body.unwritten.set(body.unwritten.get().saturating_sub(bytes));
        }),
        bodies::Answer::Broken(id, error) => {
            large.update(id, |body| *body.failure.borrow_mut() = Some(error));
        }
        bodies::Answer::Finished(waiter, result) => {
            let _ = waiter.send(result.map(Place::DraftFile));
        }
        bodies::Answer::Failed(waiter, error) => {
            let _ = waiter.send(Err(error));
        }
        bodies::Answer::Forward(_) => unreachable!("forwarded on the bodies' thread"),
    }
}

impl LargeBodies {
    fn update(&self, id: MessageId, change: impl FnOnce(&Large)) {
        let body = self.open.borrow().get(&id).cloned();
        if let Some(body) = body {
            change(&body);
            body.changed.notify_one();
        }
    }
}

impl Inner {
    fn ask_writer(&self, event: writer::Event<Waiter>) {
        let urgent = Writer::<Waiter>::is_urgent(&event);
        self.to_writer.push(event, urgent);
    }

    /// Asks the writer to commit, at once when few others can share the sync.
    fn ask_to_commit(&self, id: MessageId, accept: Box<Accept>, body: CommitBody, waiter: Waiter) {
        let (committing, company) = (self.committing.get(), self.in_work.get());
        self.to_writer.push(writer::Event::Company(company), false);
        // Those that are being synced are counted too: at worst the writer wakes, and finds that it is to wait on.
        let urgent = writer::is_joined(committing as usize, company);
        self.to_writer.push(writer::Event::Commit { id, accept, body, waiter }, urgent);
    }

    fn ask_bodies(&self, event: bodies::Event<Waiter>) {
        self.to_bodies.push(event, true);
    }

    /// Whether there is space for `bytes` more, as far as the last look says.
    fn check_room(&self, bytes: u64) -> Result<(), IntakeError> {
        let now = Instant::now();
        if now.duration_since(self.looked_at.get()) >= LOOK_AGAIN {
            self.looked_at.set(now);
            self.ask_writer(writer::Event::Look);
        }
        let health = self.health.borrow();
        if let Some(trouble) = &health.trouble {
            return Err(trouble.clone());
        }
        match health.free_bytes {
            Some(free) if free < self.free_bytes_min.saturating_add(bytes) => {
                Err(IntakeError::Full(format!("{free} bytes are free")))
            }
            _ => Ok(()),
        }
    }

    fn check_large(&self) -> Result<(), IntakeError> {
        let open = self.large.open.borrow().len();
        if open < self.large_bodies_max { Ok(()) } else { Err(IntakeError::Busy) }
    }

    /// Waits for an answer, keeping the threads alive meanwhile.
    async fn answer(
        self: Rc<Self>,
        answer: oneshot::Receiver<Result<Place, IntakeError>>,
    ) -> Result<Place, IntakeError> {
        answer.await.unwrap_or(Err(IntakeError::Closed))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.bodies.finish();
        self.writer.finish();
        self.pumps.iter().for_each(AbortHandle::abort);
        // What was answered last is still to be told.
        self.from_bodies.take().into_iter().for_each(|answer| apply_bodies(&self.large, answer));
        self.from_writer.take().into_iter().for_each(|answer| apply_writer(&self.health, answer));
    }
}

impl Intake for SpoolIntake {
    fn begin(&self, hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError> {
        let now = Timestamp::from(SystemTime::now());
        self.begin_as(MessageId::new(now, self.0.chance.draw()?), hint)
    }

    fn begin_as(&self, id: MessageId, hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError> {
        let declared = hint.declared_bytes.unwrap_or(0);
        self.0.check_room(declared)?;
        self.0.draft_bytes.check(0)?;
        if declared > self.0.body_file_bytes_min {
            self.0.check_large()?;
        }
        let expected = declared.min(self.0.body_file_bytes_min);
        let state = State::Memory(Vec::with_capacity(usize::try_from(expected).unwrap_or(0)));
        self.0.in_work.set(self.0.in_work.get() + 1);
        Ok(Box::new(SpoolDraft { inner: self.0.clone(), id, state, held: 0, is_committing: false }))
    }
}

/// A message being written.
struct SpoolDraft {
    inner: Rc<Inner>,
    id: MessageId,
    state: State,
    /// What it has taken of [`Inner::draft_bytes`].
    held: u64,
    is_committing: bool,
}

enum State {
    /// Small so far.
    Memory(Vec<u8>),
    /// Written to a segment for a filter.
    Drafted(RecordPlace),
    /// Going to a file of its own; what does not fill a block yet.
    Large(Rc<Large>, Vec<u8>),
    /// The same, complete.
    LargeFinished(Rc<Large>, Place),
    /// Being written by a `finish` that has not been answered.
    Finishing,
    /// Committed or aborted.
    Spent,
}

impl SpoolDraft {
    /// Goes on in a file. A draft that is refused this is spent: nothing of it can be committed.
    fn grow_large(&mut self) -> Result<(), IntakeError> {
        let State::Memory(bytes) = std::mem::replace(&mut self.state, State::Spent) else {
            unreachable!("only what is in memory grows out of it")
        };
        self.inner.draft_bytes.give_back(&mut self.held);
        self.inner.check_large()?;
        let large = Rc::new(Large::default());
        self.inner.large.open.borrow_mut().insert(self.id, large.clone());
        self.inner.ask_bodies(bodies::Event::Open { id: self.id });
        self.state = State::Large(large, bytes);
        self.send_blocks();
        Ok(())
    }

    /// Hands every full block to the disk thread.
    fn send_blocks(&mut self) {
        let State::Large(large, bytes) = &mut self.state else { return };
        while bytes.len() >= BLOCK_BYTES {
            let rest = bytes.split_off(BLOCK_BYTES);
            let block = std::mem::replace(bytes, rest);
            large.unwritten.set(large.unwritten.get() + block.len() as u64);
            self.inner.ask_bodies(bodies::Event::Block { id: self.id, bytes: block });
        }
    }

    /// Hands over the last block, which may be short.
    fn send_rest(&self, large: &Large, rest: Vec<u8>) {
        if !rest.is_empty() {
            large.unwritten.set(large.unwritten.get() + rest.len() as u64);
            self.inner.ask_bodies(bodies::Event::Block { id: self.id, bytes: rest });
        }
    }

    async fn finish_draft(&mut self) -> Result<Handle, IntakeError> {
        let (waiter, answer) = oneshot::channel();
        let id = self.id;
        match std::mem::replace(&mut self.state, State::Finishing) {
            State::Memory(body) => {
                self.inner.ask_writer(writer::Event::Draft { id, body, waiter });
                let place = self.inner.clone().answer(answer).await?;
                let Place::Draft(record) = place else { unreachable!("a draft is a draft") };
                self.inner.draft_bytes.give_back(&mut self.held);
                self.state = State::Drafted(record);
                Ok(place.handle())
            }
            State::Large(large, rest) => {
                self.send_rest(&large, rest);
                self.inner.ask_bodies(bodies::Event::Finish { id, waiter });
                let place = self.inner.clone().answer(answer).await?;
                self.state = State::LargeFinished(large, place);
                Ok(place.handle())
            }
            State::Drafted(record) => {
                self.state = State::Drafted(record);
                Ok(Place::Draft(record).handle())
            }
            State::LargeFinished(large, place) => {
                self.state = State::LargeFinished(large, place);
                Ok(place.handle())
            }
            state @ (State::Finishing | State::Spent) => {
                self.state = state;
                Err(IntakeError::Closed)
            }
        }
    }

    /// The large body is no longer ours to count.
    fn forget_large(&self) {
        self.inner.large.open.borrow_mut().remove(&self.id);
    }

    /// Hands the message to the store. From here on it is the store's.
    fn hand_over(&mut self, mut accept: Accept, waiter: Waiter) {
        let id = self.id;
        if let Some(handle) = accept.replaced_body.take() {
            self.abort();
            let Some(from) = Place::parse(&handle) else {
                let foreign = std::io::Error::other(format!("{handle} is no draft of this store"));
                let _ = waiter.send(Err(writer::refusal("the replaced body".into(), foreign)));
                return;
            };
            let accept = Box::new(accept);
            return self.inner.ask_bodies(bodies::Event::Adopt { id, from, accept, waiter });
        }
        let accept = Box::new(accept);
        match std::mem::replace(&mut self.state, State::Spent) {
            State::Memory(body) => {
                self.inner.ask_to_commit(id, accept, CommitBody::Whole(body), waiter);
            }
            State::Drafted(record) => {
                self.inner.ask_to_commit(id, accept, CommitBody::Drafted(record), waiter);
            }
            State::Large(large, rest) => {
                self.send_rest(&large, rest);
                self.inner.ask_bodies(bodies::Event::Commit { id, accept, waiter });
            }
            State::LargeFinished(..) => {
                self.inner.ask_bodies(bodies::Event::Commit { id, accept, waiter });
            }
            State::Finishing | State::Spent => {
                let _ = waiter.send(Err(IntakeError::Closed));
            }
        }
    }

    fn abort(&mut self) {
        match std::mem::replace(&mut self.state, State::Spent) {
            State::Memory(_) | State::Spent => {}
            State::Drafted(_) => self.inner.ask_writer(writer::Event::Release(self.id)),
            State::Large(..) | State::LargeFinished(..) => {
                self.forget_large();
                self.inner.ask_bodies(bodies::Event::Abort { id: self.id });
            }
            // Whichever of the two has it comes to this after the write.
            State::Finishing => {
                self.inner.ask_writer(writer::Event::Release(self.id));
                self.inner.ask_bodies(bodies::Event::Abort { id: self.id });
            }
        }
    }
}

impl Draft for SpoolDraft {
    fn id(&self) -> MessageId {
        self.id
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        match &mut self.state {
            State::Memory(body) => {
                self.inner.draft_bytes.take(bytes.len(), &mut self.held)?;
                body.extend_from_slice(bytes);
                if body.len() as u64 > self.inner.body_file_bytes_min {
                    self.grow_large()?;
                }
                Ok(())
            }
            State::Large(large, pending) => {
                if let Some(error) = large.failure.borrow().clone() {
                    return Err(error);
                }
                pending.extend_from_slice(bytes);
                self.send_blocks();
                Ok(())
            }
            State::Drafted(_) | State::LargeFinished(..) | State::Finishing | State::Spent => {
                Err(IntakeError::Closed)
            }
        }
    }

    fn room(&mut self) -> Local<'_, Result<(), IntakeError>> {
        let State::Large(large, _) = &self.state else {
            return Box::pin(std::future::ready(Ok(())));
        };
        let large = large.clone();
        Box::pin(async move {
            loop {
                if let Some(error) = large.failure.borrow().clone() {
                    return Err(error);
                }
                if large.unwritten.get() <= UNWRITTEN_BYTES_MAX {
                    return Ok(());
                }
                large.changed.notified().await;
            }
        })
    }

    fn finish(&mut self) -> Local<'_, Result<Handle, IntakeError>> {
        Box::pin(self.finish_draft())
    }

    fn commit(mut self: Box<Self>, accept: Accept) -> Local<'static, Result<Handle, IntakeError>> {
        let (waiter, answer) = oneshot::channel();
        self.is_committing = true;
        self.inner.committing.set(self.inner.committing.get() + 1);
        self.hand_over(accept, waiter);
        Box::pin(async move {
            let answer = self.inner.clone().answer(answer).await;
            self.forget_large();
            Ok(answer?.handle())
        })
    }
}

impl Drop for SpoolDraft {
    fn drop(&mut self) {
        self.abort();
        self.forget_large();
        let inner = &self.inner;
        inner.draft_bytes.give_back(&mut self.held);
        inner.in_work.set(inner.in_work.get() - 1);
        inner.committing.set(inner.committing.get() - u32::from(self.is_committing));
    }
}

/// Random bits for message ids, drawn from the system many at a time.
struct Chance {
    disk: Arc<dyn Disk>,
    spare: RefCell<Vec<u64>>,
}

impl Chance {
    fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, spare: RefCell::default() }
    }

    fn draw(&self) -> Result<u64, IntakeError> {
        let failed = |error| writer::refusal("cannot draw random bits".into(), error);
        let mut spare = self.spare.borrow_mut();
        if spare.is_empty() {
            let bytes = self.disk.random().map_err(failed)?;
            let (numbers, _) = bytes.as_chunks::<8>();
            spare.extend(numbers.iter().map(|number| u64::from_le_bytes(*number)));
        }
        spare.pop().ok_or_else(|| failed(std::io::ErrorKind::UnexpectedEof.into()))
    }
}
