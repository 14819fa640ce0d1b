//! Whose the ledger is: standing by, taking over, giving up and losing it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use config::Span;
use farm::scoreboard::{self, WorkerState};
use job::deliver::{Deliver, DeliverAnswer, DeliverRequest, RecipientOutcome};
use job::enqueue::Enqueue;
use job::outcome::{LateOutcome, OutcomeRequest};
use queue::{Handle, Ledger, LedgerError, Local, Mark, Ownership, Record, Standing, Tenure};
use queue_memory::Memory;
use scheduler::Settings;
use socket::{ErrorObject, Responder, Service, codes};
use tokio::sync::Notify;

use super::{DEADLINE, Running, accept, agent, delivered, enqueue_all, on_runtime, scratch};

/// A ledger that another may come to own.
struct Leased {
    inner: Rc<dyn Ledger>,
    until: Cell<Option<Instant>>,
    fenced: Cell<bool>,
    /// Whether it was given up, and how.
    released: Cell<Option<bool>>,
    /// Handles that it has looked up; nothing: it need not look.
    looked_up: Option<RefCell<HashSet<Handle>>>,
    /// A look-up ends when it is told to.
    looks: Notify,
}

impl Leased {
    fn of(memory: &Memory) -> Self {
        Self {
            inner: memory.ledger().expect("free"),
            until: Cell::new(Some(Instant::now() + Duration::from_secs(60))),
            fenced: Cell::new(false),
            released: Cell::new(None),
            looked_up: None,
            looks: Notify::new(),
        }
    }
}

/// The way to it, which opens when it is told to.
struct Line {
    ledger: Rc<Leased>,
    opens: Notify,
    is_clean: bool,
}

impl Line {
    fn to(ledger: Leased, is_clean: bool) -> Rc<Self> {
        Rc::new(Self { ledger: Rc::new(ledger), opens: Notify::new(), is_clean })
    }

    fn start(self: &Rc<Self>, run_dir: &Path, settings: Settings) -> Running {
        Running::contend(run_dir, settings, Rc::<Self>::clone(self))
    }
}

impl Ownership for Line {
    fn acquire(&self) -> Local<'_, Result<Tenure, LedgerError>> {
        Box::pin(async {
            self.opens.notified().await;
            let ledger: Rc<dyn Ledger> = Rc::new(Shared(Rc::clone(&self.ledger)));
            Ok(Tenure { ledger, is_clean: self.is_clean })
        })
    }
}

/// What the scheduler holds of it.
struct Shared(Rc<Leased>);

impl Ledger for Shared {
    fn replay<'a>(
        &'a self,
        apply: &'a mut dyn FnMut(Record),
    ) -> Local<'a, Result<(), LedgerError>> {
        self.0.inner.replay(apply)
    }
    fn append(&self, records: &[Record]) -> Result<Mark, LedgerError> {
        self.failure().map_or_else(|| self.0.inner.append(records), Err)
    }
    fn written(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        self.0.inner.written(mark)
    }
    fn synced(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        self.0.inner.synced(mark)
    }
    fn standing(&self, handle: &Handle) -> Standing {
        self.0.inner.standing(handle)
    }
    fn failure(&self) -> Option<LedgerError> {
        self.0.fenced.get().then(|| LedgerError::Fenced("a test took it".to_owned()))
    }
    fn checkpoint_due(&self) -> bool {
        false
    }
    fn begin_checkpoint(&self) -> Result<(), LedgerError> {
        Ok(())
    }
    fn end_checkpoint(&self) -> Local<'static, Result<(), LedgerError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn owned_until(&self) -> Option<Instant> {
        self.0.until.get()
    }
    fn look_up(&self, handles: &[&Handle]) -> Option<Local<'static, Result<(), LedgerError>>> {
        let looked_up = self.0.looked_up.as_ref()?;
        if handles.iter().all(|handle| looked_up.borrow().contains(*handle)) {
            return None;
        }
        let handles: Vec<Handle> = handles.iter().map(|handle| (*handle).clone()).collect();
        let ledger = Rc::clone(&self.0);
        Some(Box::pin(async move {
            ledger.looks.notified().await;
            if ledger.fenced.get() {
                return Err(LedgerError::Fenced("a test took it".to_owned()));
            }
            ledger.looked_up.iter().for_each(|known| known.borrow_mut().extend(handles.clone()));
            Ok(())
        }))
    }
    fn release(&self, is_clean: bool) -> Local<'static, Result<(), LedgerError>> {
        self.0.released.set(Some(is_clean));
        Box::pin(std::future::ready(Ok(())))
    }
}

fn state(run_dir: &Path) -> Option<WorkerState> {
    let views = scoreboard::read_all(run_dir).expect("there are scoreboards");
    let view = views.iter().find(|view| view.farm == "scheduler").expect("it has one");
    view.workers.first().map(|worker| worker.state)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the scheduler has ended by itself.
async fn ended(running: Running) {
    let ended = tokio::time::timeout(DEADLINE, running.ended).await.expect("it ends in time");
    ended.expect("it does not panic").expect("it ends well");
    assert!(running.worker.is_draining(), "its manager was told");
}

#[test]
fn one_that_stands_by_is_up_and_whoever_connected_is_served_when_it_takes_over() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let (_agent, _alone, seen) = agent(run_dir, "smtp", |_| delivered());
        let line = Line::to(Leased::of(&memory), true);
        let running = line.start(run_dir, Settings::default());
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        let request = accept(&memory, "a.test").await;
        let waiting = request.clone();
        let call = tokio::task::spawn_local(async move { enqueue.call(&waiting).await });
        until("it stands by", || state(run_dir) == Some(WorkerState::Standby)).await;
        assert!(!call.is_finished(), "nobody has accepted");
        line.opens.notify_one();
        call.await.expect("no panic").expect("acknowledged");
        until("it is delivered", || seen.borrow().len() == 1).await;
        assert_eq!(state(run_dir), Some(WorkerState::Ready));
        assert_eq!(seen.borrow()[0].settled, Some(0), "the ledger may become another's");
        running.stop().await;
        assert_eq!(line.ledger.released.get(), Some(true), "it was given up, with nothing in hand");
    });
}

#[test]
fn one_that_stands_by_stops_when_it_is_told() {
    let scratch = scratch();
    on_runtime(async {
        let memory = Memory::new();
        let line = Line::to(Leased::of(&memory), true);
        let running = line.start(scratch.path(), Settings::default());
        until("it stands by", || state(scratch.path()) == Some(WorkerState::Standby)).await;
        running.stop().await;
        assert_eq!(line.ledger.released.get(), None, "it never had it");
    });
}

#[test]
fn one_that_ends_before_agents_can_have_told_it_all_says_so_to_the_next() {
    let scratch = scratch();
    on_runtime(async {
        for (grace, is_clean) in [(Duration::from_secs(600), false), (Duration::ZERO, true)] {
            let memory = Memory::new();
            let line = Line::to(Leased::of(&memory), false);
            line.opens.notify_one();
            let settings = Settings { takeover_grace: Span(grace), ..Settings::default() };
            let running = line.start(scratch.path(), settings);
            running.status().await;
            running.stop().await;
            assert_eq!(line.ledger.released.get(), Some(is_clean), "{grace:?}");
        }
    });
}

/// Refuses the first job, and does the others.
struct Refusing(Rc<RefCell<Vec<Option<u64>>>>);

impl Service<Deliver> for Refusing {
    fn call(&self, request: DeliverRequest, responder: Responder<Deliver>) {
        self.0.borrow_mut().push(request.settled);
        if self.0.borrow().len() == 1 {
            return responder.refuse(ErrorObject::new(codes::PARAMS, "not this one"));
        }
        let outcome = |index| RecipientOutcome { index, outcome: delivered() };
        let outcomes = request.recipients.iter().map(|one| outcome(one.index)).collect();
        responder.answer(&DeliverAnswer { outcomes, ..DeliverAnswer::default() });
    }
}

#[test]
fn an_error_is_not_counted_as_an_answer_that_is_written_down() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let farm = super::farm(run_dir, "smtp", &["smtp.deliver"]);
        let (worker, _alone) = farm::Worker::alone(&farm).expect("an agent");
        let settled = Rc::<RefCell<Vec<Option<u64>>>>::default();
        let service = Rc::new(Refusing(Rc::clone(&settled)));
        worker.serve::<Deliver>("smtp.deliver", service).expect("its socket");
        worker.ready();
        let memory = Memory::new();
        let line = Line::to(Leased::of(&memory), true);
        line.opens.notify_one();
        let running = line.start(run_dir, Settings::default());
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        for number in 0..5 {
            enqueue_all(&enqueue, &[accept(&memory, &format!("{number}.test")).await]).await;
            until("it is sent", || settled.borrow().len() == number + 1).await;
        }
        let most = [0, 0, 1, 2, 3];
        let fits = |(settled, most): (&Option<u64>, u64)| settled.is_some_and(|it| it <= most);
        assert!(settled.borrow().iter().zip(most).all(fits), "{settled:?}");
        running.stop().await;
    });
}

#[test]
fn one_whose_time_has_passed_sends_nothing_and_ends() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let (_agent, _alone, seen) = agent(run_dir, "smtp", |_| delivered());
        let line = Line::to(Leased::of(&memory), true);
        line.opens.notify_one();
        let running = line.start(run_dir, Settings::default());
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        running.status().await;
        // Too little is left for anybody to do something with a job.
        line.ledger.until.set(Some(Instant::now() + Duration::from_millis(300)));
        enqueue_all(&enqueue, &[accept(&memory, "a.test").await]).await;
        ended(running).await;
        assert!(Instant::now() >= line.ledger.until.get().expect("it was set"));
        assert_eq!(seen.borrow().len(), 0);
        assert_eq!(line.ledger.released.get(), None, "it is not its own to give up");
    });
}

#[test]
fn one_that_is_fenced_off_ends() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let line = Line::to(Leased::of(&memory), true);
        line.opens.notify_one();
        let running = line.start(run_dir, Settings::default());
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        running.status().await;
        line.ledger.fenced.set(true);
        let request = accept(&memory, "a.test").await;
        assert!(enqueue.call(&request).await.is_err(), "not written, not acknowledged");
        ended(running).await;
    });
}

#[test]
fn a_new_owner_waits_for_outcomes_of_the_one_before() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        // No agent is there: both stay queued.
        let running = Running::start(run_dir, Settings::default(), memory.ledger().expect("free"));
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        let requests = [accept(&memory, "a.test").await, accept(&memory, "a.test").await];
        enqueue_all(&enqueue, &requests).await;
        running.stop().await;

        let (_agent, _alone, seen) = agent(run_dir, "smtp", |_| delivered());
        let line = Line::to(Leased::of(&memory), false);
        line.opens.notify_one();
        let grace = Duration::from_secs(2);
        let settings = Settings { takeover_grace: config::Span(grace), ..Settings::default() };
        let begun = Instant::now();
        let running = line.start(run_dir, settings);
        let outcome = running.client::<LateOutcome>("scheduler.outcome");
        let [first, second] = &requests;
        let outcomes = vec![RecipientOutcome { index: 0, outcome: delivered() }];
        let (handle, id) = (first.handle.clone(), first.id);
        let told = OutcomeRequest { handle, id, attempt: 1, routing: 1, report: None, outcomes };
        outcome.call(&told).await.expect("acknowledged");
        running.until(|status| status.messages == 1).await;
        running.until(|status| status.messages == 0).await;
        assert!(begun.elapsed() >= grace, "sent before others could have told");
        assert_eq!(seen.borrow().iter().map(|job| job.id).collect::<Vec<_>>(), [second.id]);
        running.stop().await;
    });
}

#[test]
fn what_the_ledger_must_look_up_is_answered_when_it_has() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let mut leased = Leased::of(&memory);
        leased.looked_up = Some(RefCell::default());
        let line = Line::to(leased, true);
        line.opens.notify_one();
        let running = line.start(run_dir, Settings::default());
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        running.status().await;
        let request = accept(&memory, "a.test").await;
        let (one, other) = (enqueue.clone(), request.clone());
        let call = tokio::task::spawn_local(async move { one.call(&other).await });
        let early = tokio::time::timeout(Duration::from_millis(50), enqueue.call(&request)).await;
        assert!(early.is_err(), "nobody knows yet whether it has ended");
        assert!(!call.is_finished());
        line.ledger.looks.notify_one();
        call.await.expect("no panic").expect("acknowledged");
        assert_eq!(running.status().await.messages, 1);
        // Those that came meanwhile are looked up next; a look-up that fails is an error to whoever asked.
        let next = accept(&memory, "b.test").await;
        let asks = enqueue.clone();
        let call = tokio::task::spawn_local(async move { asks.call(&next).await });
        running.status().await;
        line.ledger.fenced.set(true);
        line.ledger.looks.notify_one();
        assert!(call.await.expect("no panic").is_err());
        ended(running).await;
    });
}
