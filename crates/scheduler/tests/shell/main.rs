//! The scheduler as a worker: real sockets in a scratch directory, agents in the same process, a ledger in memory.

mod ownership;

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use config::Span;
use farm::manager::{Farm, Mode, NamedSocket};
use farm::{DrainReason, Worker, Workers};
use job::admin::{Admin, AdminAnswer, AdminRequest, Nothing, Status};
use job::deliver::{Deliver, DeliverAnswer, DeliverRequest, RecipientOutcome};
use job::enqueue::{Enqueue, EnqueueRequest};
use job::home::{Home, HomeRequest, MovedMessage, MovedRequest, WhereRequest};
use job::known::{Known, KnownMessage, KnownRequest};
use mail::{
    Delivered, Envelope, MessageId, Origin, Outcome, Recipient, Reply, StatusCode, SuccessReport,
    Timestamp,
};
use queue::{
    Accept, Handle, Ledger, LedgerError, Local, Mark, Ownership, Record, RoutedRecipient, SizeHint,
    Sole, Standing, State,
};
use queue_memory::Memory;
use scheduler::{Assignment, ChannelFacts, Settings};
use socket::{CallError, Client, ClientSettings, Responder, Service};

const DEADLINE: Duration = Duration::from_secs(10);

fn farm(run_dir: &Path, name: &str, sockets: &[&str]) -> Farm {
    Farm {
        name: name.to_owned(),
        workers: Workers { start: 1, max: 1, concurrency: 50, ..Workers::default() },
        sockets: sockets
            .iter()
            .map(|name| NamedSocket { name: (*name).to_owned(), admin: name.ends_with("admin") })
            .collect(),
        tcp: Vec::new(),
        jobs: None,
        callers: std::collections::BTreeMap::new(),
        keys: None,
        places: std::collections::BTreeMap::new(),
        settings: b"{}".to_vec(),
        counters: scheduler::COUNTERS.iter().map(|name| (*name).to_owned()).collect(),
        run_dir: run_dir.to_owned(),
        data_dir: run_dir.join("data"),
        user: None,
        admin_group: None,
        mode: Mode::One,
        drain: Duration::from_secs(10),
        drain_reload: Duration::from_secs(10),
        on_crash: None,
        in_place: farm::manager::InPlace::All,
    }
}

/// An agent whose verdict a test chooses, and which remembers what it was given.
struct Agent {
    verdict: Box<dyn Fn(&DeliverRequest) -> Outcome>,
    seen: Rc<RefCell<Vec<DeliverRequest>>>,
}

impl Service<Deliver> for Agent {
    fn call(&self, request: DeliverRequest, responder: Responder<Deliver>) {
        let outcome = (self.verdict)(&request);
        self.seen.borrow_mut().push(request.clone());
        let outcomes = request
            .recipients
            .iter()
            .map(|one| RecipientOutcome { index: one.index, outcome: outcome.clone() })
            .collect();
        responder.answer(&DeliverAnswer { outcomes, ..DeliverAnswer::default() });
    }
}

type Seen = Rc<RefCell<Vec<DeliverRequest>>>;

/// Starts an agent's worker for a channel.
fn agent(
    run_dir: &Path,
    channel: &str,
    verdict: impl Fn(&DeliverRequest) -> Outcome + 'static,
) -> (Worker, farm::Alone, Seen) {
    let socket = format!("{channel}.deliver");
    let (worker, alone) = Worker::alone(&farm(run_dir, channel, &[&socket])).expect("an agent");
    let seen = Seen::default();
    let service = Agent { verdict: Box::new(verdict), seen: Rc::clone(&seen) };
    worker.serve::<Deliver>(&socket, Rc::new(service)).expect("its socket");
    worker.ready();
    (worker, alone, seen)
}

fn delivered() -> Outcome {
    Outcome::Delivered(Delivered {
        reply: Reply::ours(StatusCode::new(2, 0, 0), "250 ok"),
        report: SuccessReport::Final,
    })
}

fn assignment(settings: Settings) -> Assignment {
    let facts = |name: &str| ChannelFacts {
        name: name.to_owned(),
        socket: format!("{name}.deliver"),
        slots_max: 0,
    };
    Assignment {
        settings,
        hostname: "mta.example.test".to_owned(),
        channels: vec![facts("smtp"), facts("error")],
        requeue: String::new(),
    }
}

const SOCKETS: [&str; 6] = [
    "scheduler.enqueue",
    "scheduler.known",
    "scheduler.home",
    "scheduler.strike",
    "scheduler.outcome",
    "scheduler.admin",
];

/// A scheduler that runs until it is drained.
struct Running {
    worker: Worker,
    alone: farm::Alone,
    ended: tokio::task::JoinHandle<Result<(), scheduler::Error>>,
}

impl Running {
    fn start(run_dir: &Path, settings: Settings, ledger: Rc<dyn Ledger>) -> Self {
        let ownership = Rc::new(Sole(move || Ok(Rc::clone(&ledger))));
        Self::contend(run_dir, settings, ownership)
    }

    fn contend(run_dir: &Path, settings: Settings, ownership: Rc<dyn Ownership>) -> Self {
        let (worker, alone) =
            Worker::alone(&farm(run_dir, "scheduler", &SOCKETS)).expect("a worker");
        let running = scheduler::run(worker.clone(), assignment(settings), ownership);
        Self { worker, alone, ended: tokio::task::spawn_local(running) }
    }

    fn client<C: socket::Conversation>(&self, name: &str) -> Client<C> {
        let settings = ClientSettings {
            deadline: DEADLINE,
            waiting_max: 100_000,
            ..ClientSettings::default()
        };
        self.worker.client(name, settings)
    }

    async fn status(&self) -> Status {
        let admin = self.client::<Admin>("admin/scheduler.admin");
        match admin.call(&AdminRequest::Status(Nothing {})).await {
            Ok(AdminAnswer::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }

    async fn until(&self, done: impl Fn(&Status) -> bool) -> Status {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let status = self.status().await;
            if done(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "in vain: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.alone.drain(DrainReason::Stop, Duration::from_secs(10));
        let ended = tokio::time::timeout(DEADLINE, self.ended).await.expect("it ends in time");
        ended.expect("it does not panic").expect("it ends well");
    }
}

fn recipient(index: u32, host: &str) -> RoutedRecipient {
    RoutedRecipient {
        index,
        address: format!("user{index}@example.test").parse().expect("an address"),
        original: None,
        orcpt: None,
        notify: None,
        channel: "smtp".to_owned(),
        host: host.to_owned(),
        user: format!("user{index}@example.test"),
        state: State::default(),
    }
}

/// Accepts a message and says what router would send.
async fn accept(memory: &Memory, host: &str) -> EnqueueRequest {
    let mut draft = memory.intake().begin(SizeHint::default()).expect("a draft");
    let id: MessageId = draft.id();
    draft.write(b"Subject: test\r\n\r\n").expect("room");
    let address: mail::Address = "user0@example.test".parse().expect("an address");
    let sender: Option<mail::Address> = Some("sender@example.org".parse().expect("an address"));
    let accept = Accept {
        envelope: Envelope {
            sender: sender.clone(),
            recipients: vec![Recipient::from(address)],
            body: Default::default(),
            smtputf8: false,
            ret: None,
            envid: None,
        },
        origin: Origin::default(),
        accepted_at: std::time::SystemTime::now().into(),
        edits: Vec::new(),
        hold: None,
        replaced_body: None,
    };
    let accepted_at: Timestamp = accept.accepted_at;
    let handle = draft.commit(accept).await.expect("accepted");
    EnqueueRequest {
        handle,
        id,
        routing: 1,
        part: 0,
        more: false,
        sender,
        size: 17,
        accepted_at,
        body: Default::default(),
        smtputf8: false,
        ret: None,
        envid: None,
        hold: None,
        recipients: vec![recipient(0, host)],
    }
}

/// Enqueues as many at once as there are, and waits for all.
async fn enqueue_all(enqueue: &Client<Enqueue>, requests: &[EnqueueRequest]) {
    let mut calls = Vec::new();
    for request in requests {
        let (enqueue, request) = (enqueue.clone(), request.clone());
        calls.push(tokio::task::spawn_local(async move { enqueue.call(&request).await }));
    }
    for call in calls {
        call.await.expect("no panic").expect("acknowledged");
    }
}

/// A directory that is nobody else's, whatever the umask is at this moment: another test may be binding a socket.
fn scratch() -> tempfile::TempDir {
    let private = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(private).tempdir().expect("a directory")
}

fn on_runtime<F: Future>(test: F) -> F::Output {
    Worker::block_on(test).expect("a runtime")
}

#[test]
fn messages_travel_and_the_queue_is_empty() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let (_agent, _alone, seen) = agent(run_dir, "smtp", |_| delivered());
        let ledger = memory.ledger().expect("free");
        let running = Running::start(run_dir, Settings::default(), ledger);
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        let mut requests = Vec::new();
        for number in 0..2000 {
            requests.push(accept(&memory, &format!("h{}.test", number % 7)).await);
        }
        enqueue_all(&enqueue, &requests).await;
        let status = running.until(|status| status.messages == 0).await;
        assert_eq!((status.enqueued, status.delivered), (2000, 2000));
        assert_eq!(seen.borrow().len(), 2000);
        assert_eq!(memory.messages(), 0, "space was given back");
        // What has ended is acknowledged and not sent again; requeue hears that it is known.
        enqueue_all(&enqueue, &requests[..3]).await;
        let known = running.client::<Known>("scheduler.known");
        let messages = requests[..3]
            .iter()
            .map(|one| KnownMessage { handle: one.handle.clone(), id: one.id })
            .collect();
        let answer = known.call(&KnownRequest { messages }).await.expect("an answer");
        assert_eq!(answer.wanted, []);
        // And compact hears that nobody needs it any more, once that is synced.
        let home = running.client::<Home>("scheduler.home");
        let messages = requests[..2]
            .iter()
            .map(|one| KnownMessage { handle: one.handle.clone(), id: one.id })
            .collect();
        let asked = HomeRequest::Where(WhereRequest { messages });
        assert_eq!(home.call(&asked).await.expect("an answer").ended, [0, 1]);
        let copied = |one: &EnqueueRequest| MovedMessage {
            id: one.id,
            from: one.handle.clone(),
            to: "memory:copy".parse().expect("a handle"),
        };
        let messages = vec![copied(&requests[0]); job::HOME_MAX + 1];
        let told = HomeRequest::Moved(MovedRequest { messages });
        assert!(matches!(home.call(&told).await, Err(CallError::Refused(_))), "too many");
        let told = HomeRequest::Moved(MovedRequest { messages: vec![copied(&requests[0])] });
        assert_eq!(home.call(&told).await.expect("an answer").ended, [0]);
        assert_eq!(seen.borrow().len(), 2000);
        running.stop().await;
    });
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let settings = Settings { retry: vec![Span::millis(300)], ..Settings::default() };
        let later = Rc::new(Cell::new(true));
        let agents_later = Rc::clone(&later);
        let (_agent, _alone, seen) = agent(run_dir, "smtp", move |_| {
            let reply = Reply::ours(StatusCode::new(4, 2, 0), "451 later");
            if agents_later.get() { Outcome::Deferred(reply) } else { delivered() }
        });
        let ledger = memory.ledger().expect("free");
        let running = Running::start(run_dir, settings.clone(), ledger);
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        let requests = [accept(&memory, "a.test").await, accept(&memory, "b.test").await];
        enqueue_all(&enqueue, &requests).await;
        running.until(|status| status.deferred >= 2).await;
        running.stop().await;
        drop(enqueue);
        let before = seen.borrow().len();
        later.set(false);
        let ledger = memory.ledger().expect("the first has let go");
        let running = Running::start(run_dir, settings, ledger);
        running.until(|status| status.messages == 0 && status.delivered == 2).await;
        let attempts: Vec<u32> = seen.borrow()[before..].iter().map(|job| job.attempt).collect();
        assert!(attempts.iter().all(|attempt| *attempt >= 2), "{attempts:?}");
        running.stop().await;
    });
}

#[test]
fn jobs_of_a_worker_that_goes_are_sent_to_the_next() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let ledger = memory.ledger().expect("free");
        let running = Running::start(run_dir, Settings::default(), ledger);
        let socket = run_dir.join("sockets/smtp.deliver");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("the socket is free");
        let first = std::thread::spawn(move || take_two_and_go(&listener));
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        let requests = [accept(&memory, "a.test").await, accept(&memory, "b.test").await];
        enqueue_all(&enqueue, &requests).await;
        running.until(|_| first.is_finished()).await;
        first.join().expect("it did not panic");
        std::fs::remove_file(&socket).expect("it was there");
        let (_next, _alone, seen) = agent(run_dir, "smtp", |_| delivered());
        running.until(|status| status.messages == 0).await;
        assert_eq!(seen.borrow().len(), 2);
        assert!(seen.borrow().iter().all(|job| job.attempt == 1), "no attempt was counted");
        running.stop().await;
    });
}

/// An agent that takes two jobs and is gone without a word.
fn take_two_and_go(listener: &std::os::unix::net::UnixListener) {
    let (mut stream, _) = listener.accept().expect("the scheduler connects");
    let hello = r#"{"jsonrpc":"2.0","method":"hello","params":{"conversation":"deliver","versions":[1],"features":[],"window":9,"window_bytes":4194304,"worker":"smtp/1","pid":77,"workers":1}}"#;
    writeln!(stream, "{hello}").expect("it listens");
    let jobs = BufReader::new(stream).lines().map(|line| line.expect("text"));
    let taken = jobs.filter(|line| line.contains(r#""method":"deliver""#)).take(2).count();
    assert_eq!(taken, 2);
}

/// A ledger whose next writes or syncs fail.
struct Failing {
    inner: Rc<dyn Ledger>,
    appends: Cell<u32>,
    syncs: Cell<u32>,
    checkpoints: Rc<Cell<u32>>,
    /// Whether a sync has failed that nobody waited for.
    failed: Cell<bool>,
    /// Appends so far, and how many of them a write has to wait for.
    appended: Rc<Cell<u32>>,
    write_waits_for: Cell<u32>,
    /// Whether its replay comes to no end.
    is_endless: Cell<bool>,
}

impl Failing {
    fn of(memory: &Memory) -> Self {
        Self {
            inner: memory.ledger().expect("free"),
            appends: Cell::new(0),
            syncs: Cell::new(0),
            checkpoints: Rc::default(),
            failed: Cell::new(false),
            appended: Rc::default(),
            write_waits_for: Cell::new(0),
            is_endless: Cell::new(false),
        }
    }
}

fn broken() -> LedgerError {
    let source = Arc::new(std::io::Error::other("no"));
    LedgerError::Io { context: "a test".to_owned(), source }
}

fn counted_down(left: &Cell<u32>) -> bool {
    let fails = left.get() > 0;
    left.set(left.get().saturating_sub(1));
    fails
}

impl Ledger for Failing {
    fn replay<'a>(
        &'a self,
        apply: &'a mut dyn FnMut(Record),
    ) -> Local<'a, Result<(), LedgerError>> {
        if self.is_endless.get() {
            return Box::pin(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
        }
        self.inner.replay(apply)
    }
    fn append(&self, records: &[Record]) -> Result<Mark, LedgerError> {
        self.appended.set(self.appended.get() + 1);
        if counted_down(&self.appends) { Err(broken()) } else { self.inner.append(records) }
    }
    fn written(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        let (appended, wanted) = (Rc::clone(&self.appended), self.write_waits_for.get());
        let written = self.inner.written(mark);
        Box::pin(async move {
            while appended.get() < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            written.await
        })
    }
    fn synced(&self, mark: Mark) -> Local<'static, Result<(), LedgerError>> {
        if counted_down(&self.syncs) {
            Box::pin(std::future::ready(Err(broken())))
        } else {
            self.inner.synced(mark)
        }
    }
    fn standing(&self, handle: &Handle) -> Standing {
        self.inner.standing(handle)
    }
    fn failure(&self) -> Option<LedgerError> {
        self.failed.get().then(broken)
    }
    fn checkpoint_due(&self) -> bool {
        self.failed.get() || self.inner.checkpoint_due()
    }
    fn begin_checkpoint(&self) -> Result<(), LedgerError> {
        self.failed.set(false);
        self.inner.begin_checkpoint()
    }
    fn end_checkpoint(&self) -> Local<'static, Result<(), LedgerError>> {
        self.checkpoints.set(self.checkpoints.get() + 1);
        self.inner.end_checkpoint()
    }
}

#[test]
fn one_that_is_told_to_stop_while_it_replays_stops_and_writes_nothing() {
    let scratch = scratch();
    on_runtime(async {
        let memory = Memory::new();
        let failing = Rc::new(Failing::of(&memory));
        failing.is_endless.set(true);
        let (appended, checkpoints) =
            (Rc::clone(&failing.appended), Rc::clone(&failing.checkpoints));
        let running = Running::start(scratch.path(), Settings::default(), failing);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!running.ended.is_finished(), "there is more to replay");
        running.stop().await;
        assert_eq!((appended.get(), checkpoints.get()), (0, 0));
    });
}

#[test]
fn a_ledger_that_fails_stops_everything_until_a_checkpoint_has_synced() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let (_agent, _alone, seen) = agent(run_dir, "smtp", |_| delivered());
        let failing = Rc::new(Failing::of(&memory));
        let checkpoints = Rc::clone(&failing.checkpoints);
        let ledger: Rc<dyn Ledger> = Rc::<Failing>::clone(&failing);
        let running = Running::start(run_dir, Settings::default(), ledger);
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        running.status().await;
        failing.appends.set(1);
        let request = accept(&memory, "a.test").await;
        assert!(enqueue.call(&request).await.is_err(), "not written, not acknowledged");
        assert_eq!(seen.borrow().len(), 0);
        // A second later the checkpoint holds it, and it goes out; the router's next try is acknowledged.
        running.until(|status| status.delivered == 1).await;
        assert_eq!(checkpoints.get(), 1);
        enqueue.call(&request).await.expect("acknowledged");
        assert_eq!(seen.borrow().len(), 1);
        running.until(|status| status.messages == 0).await;
        assert_eq!(memory.messages(), 0);
        running.stop().await;
        let mut live = Vec::new();
        let ledger = memory.ledger();
        drop(failing);
        let ledger = ledger.or_else(|_| memory.ledger()).expect("free");
        ledger.replay(&mut |record| live.push(record)).await.expect("replayed");
        assert!(
            live.iter().all(|record| !matches!(record, Record::Snapshot(_))),
            "nothing lives: {live:?}"
        );
    });
}

#[test]
fn turns_go_on_while_a_write_is_under_way() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let (_agent, _alone, seen) = agent(run_dir, "smtp", |_| delivered());
        let failing = Rc::new(Failing::of(&memory));
        let ledger: Rc<dyn Ledger> = Rc::<Failing>::clone(&failing);
        let running = Running::start(run_dir, Settings::default(), ledger);
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        running.status().await;
        // The write of the first message ends only when the second was appended too.
        failing.write_waits_for.set(failing.appended.get() + 2);
        let (first, second) = (accept(&memory, "a.test").await, accept(&memory, "b.test").await);
        let (one, other) = (enqueue.clone(), first.clone());
        let call = tokio::task::spawn_local(async move { one.call(&other).await });
        let before = failing.appended.get();
        while failing.appended.get() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(seen.borrow().len(), 0, "not written, not sent");
        // Asked again, it is known, and yet not acknowledged before it is written.
        let mut again = std::pin::pin!(enqueue.call(&first));
        let early = tokio::time::timeout(Duration::from_millis(50), again.as_mut()).await;
        assert!(early.is_err(), "acknowledged before it was written");
        enqueue.call(&second).await.expect("acknowledged");
        again.await.expect("acknowledged");
        call.await.expect("no panic").expect("acknowledged");
        running.until(|status| status.messages == 0).await;
        running.stop().await;
    });
}

#[test]
fn a_failed_sync_that_nobody_waited_for_stops_what_is_sent() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let (_agent, _alone, seen) = agent(run_dir, "smtp", |_| delivered());
        let failing = Rc::new(Failing::of(&memory));
        let ledger: Rc<dyn Ledger> = Rc::<Failing>::clone(&failing);
        let running = Running::start(run_dir, Settings::default(), ledger);
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        running.status().await;
        failing.failed.set(true);
        let request = accept(&memory, "a.test").await;
        enqueue.call(&request).await.expect("acknowledged");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(seen.borrow().len(), 0, "sent before a checkpoint has synced");
        running.until(|status| status.delivered == 1).await;
        assert_eq!(failing.checkpoints.get(), 1);
        running.stop().await;
    });
}

#[test]
fn an_end_that_could_not_be_written_is_written_later() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let failing = Rc::new(Failing::of(&memory));
        let breaks = Rc::clone(&failing);
        let (_agent, _alone, _seen) = agent(run_dir, "smtp", move |_| {
            breaks.appends.set(1);
            delivered()
        });
        let ledger: Rc<dyn Ledger> = Rc::<Failing>::clone(&failing);
        let running = Running::start(run_dir, Settings::default(), ledger);
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        let request = accept(&memory, "a.test").await;
        enqueue.call(&request).await.expect("acknowledged");
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while memory.messages() > 0 {
            assert!(tokio::time::Instant::now() < deadline, "the end was forgotten");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.stop().await;
    });
}

#[test]
fn failures_are_reported_through_channel_error() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let (_agent, _alone, _seen) = agent(run_dir, "smtp", |_| {
            Outcome::Failed(Reply::ours(StatusCode::new(5, 1, 1), "550 no such user"))
        });
        let (_error, _error_alone, reports) = agent(run_dir, "error", |_| delivered());
        let ledger = memory.ledger().expect("free");
        let running = Running::start(run_dir, Settings::default(), ledger);
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        let requests = [accept(&memory, "a.test").await];
        enqueue_all(&enqueue, &requests).await;
        let status = running.until(|status| status.messages == 0).await;
        assert_eq!((status.failed, status.reports), (1, 1));
        let report = reports.borrow()[0].clone();
        assert_eq!(report.report.map(|report| report.kind), Some(queue::ReportKind::Failure));
        assert!(matches!(report.recipients[0].outcome, Some(Outcome::Failed(_))));
        running.stop().await;
    });
}

#[test]
fn new_settings_are_taken_in_place() {
    let scratch = scratch();
    on_runtime(async {
        let run_dir = scratch.path();
        let memory = Memory::new();
        let (_agent, _alone, seen) = agent(run_dir, "smtp", |_| {
            Outcome::Deferred(Reply::ours(StatusCode::new(4, 2, 0), "451 later"))
        });
        let ledger = memory.ledger().expect("free");
        let running = Running::start(run_dir, Settings::default(), ledger);
        let enqueue = running.client::<Enqueue>("scheduler.enqueue");
        enqueue_all(&enqueue, &[accept(&memory, "a.test").await]).await;
        running.until(|status| status.deferred == 1).await;
        let shorter = Settings { retry: vec![Span::millis(100)], ..Settings::default() };
        let assignment = serde_json::to_string(&assignment(shorter)).expect("JSON");
        let handed =
            format!(r#"{{"log":{{}},"role":{{"role":"scheduler","assignment":{assignment}}}}}"#);
        running.alone.new_settings(handed.as_bytes()).expect("handed over");
        // The first recipient keeps its time of a minute; the next follows the new schedule.
        tokio::time::sleep(Duration::from_millis(50)).await;
        enqueue_all(&enqueue, &[accept(&memory, "b.test").await]).await;
        running.until(|status| status.deferred >= 4).await;
        let hosts = seen.borrow().iter().filter(|job| job.host == "b.test").count();
        assert!(hosts >= 3);
        running.stop().await;
    });
}
