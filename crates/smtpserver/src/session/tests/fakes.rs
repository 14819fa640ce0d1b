//! A farm of one test: sessions on a loopback listener, a queue that can be made to fail, neighbours that answer by address.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use job::inspect::{InspectAnswer, InspectRequest, Steps, Verdict};
use job::route::RouteRequest;
use job::verify::VerifyAnswer;
use mail::{MessageId, Timestamp};
use queue::{Accept, Draft, Handle, Intake, Local};
use socket::PeerId;
use tokio::net::TcpListener;

use super::*;
use crate::neighbours::{Job, Neighbours};
use crate::{Assignment, OnFilterCrash};

/// Where the queue fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Never,
    Begin,
    Write,
    Room,
    Commit,
}

/// A message in the queue.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) id: MessageId,
    pub(super) body: Vec<u8>,
    pub(super) accept: Accept,
}

pub(super) struct Farm {
    pub(super) stage: Rc<Stage>,
    store: Rc<Store>,
    others: Rc<Others>,
    listener: Rc<TcpListener>,
    refuse_next: Rc<Cell<bool>>,
}

impl Farm {
    pub(super) async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start(change, None).await
    }

    pub(super) async fn filtered(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start(change, Some(OnFilterCrash::Tempfail)).await
    }

    /// A farm whose filters crash at every message.
    pub(super) async fn crashing(rule: OnFilterCrash) -> Self {
        let farm = Self::start(|_| {}, Some(rule)).await;
        farm.others.crashes.set(true);
        farm
    }

    async fn start(change: impl FnOnce(&mut Settings), filters: Option<OnFilterCrash>) -> Self {
        Self::start_with(change, filters, Steps::NONE).await
    }

    /// A farm whose filters want to hear of these steps.
    pub(super) async fn early(steps: Steps) -> Self {
        Self::start_with(|_| {}, Some(OnFilterCrash::Tempfail), steps).await
    }

    async fn start_with(
        change: impl FnOnce(&mut Settings),
        filters: Option<OnFilterCrash>,
        steps: Steps,
    ) -> Self {
        let store = Rc::new(Store::default());
        let intake = Rc::new(Writer(Rc::clone(&store)));
        Self::with(change, (filters, steps), store, intake).await
    }

    /// A farm that writes to another queue.
    pub(super) async fn writing_to(intake: Rc<dyn Intake>, inspect: bool) -> Self {
        let filters = inspect.then_some(OnFilterCrash::Tempfail);
        Self::with(|_| {}, (filters, Steps::NONE), Rc::default(), intake).await
    }

    async fn with(
        change: impl FnOnce(&mut Settings),
        (filters, steps): (Option<OnFilterCrash>, Steps),
        store: Rc<Store>,
        intake: Rc<dyn Intake>,
    ) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check().expect("the settings are right");
        let assignment = Assignment {
            settings,
            hostname: "mx.example.test".to_owned(),
            inspect: filters.is_some(),
            steps,
            on_filter_crash: filters.unwrap_or_default(),
        };
        let others = Rc::new(Others::default());
        let neighbours = Rc::clone(&others);
        let stage =
            Rc::new(Stage::new(assignment, intake, neighbours, "smtpserver/1-1".to_owned()));
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").await.expect("a listener"));
        let refuse_next = Rc::new(Cell::new(false));
        tokio::task::spawn_local({
            let (stage, listener) = (Rc::clone(&stage), Rc::clone(&listener));
            let refuse_next = Rc::clone(&refuse_next);
            async move {
                while let Ok((stream, peer)) = listener.accept().await {
                    let client = stage.client(peer, crate::Service::Mx);
                    if refuse_next.take() {
                        let reply = Reply::new(421, 7, 0, "Too many connections");
                        stage.refuse(stream, &client, &reply);
                        continue;
                    }
                    let session = Session::new(Rc::clone(&stage), stream, client);
                    tokio::task::spawn_local(session.run());
                }
            }
        });
        Self { stage, store, others, listener, refuse_next }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        let address = self.listener.local_addr().expect("an address");
        TcpStream::connect(address).await.expect("a connection")
    }

    /// Connects, and has said something before the session can have begun.
    pub(super) async fn connect_and_say(&self, text: &str) -> TcpStream {
        use std::io::Write;
        let address = self.listener.local_addr().expect("an address");
        // A blocking connection: nothing of ours runs before the bytes are there.
        let mut stream = std::net::TcpStream::connect(address).expect("a connection");
        stream.write_all(text.as_bytes()).expect("bytes are taken");
        stream.set_nonblocking(true).expect("a socket can be told not to wait");
        TcpStream::from_std(stream).expect("a connection")
    }

    /// A connection that no session has.
    pub(super) async fn pair(&self) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("a connection");
        (listener.accept().await.expect("a connection").0, client)
    }

    pub(super) fn drain(&self) {
        self.stage.watch.drain();
    }

    pub(super) fn refuse_next(&self) {
        self.refuse_next.set(true);
    }

    pub(super) fn fail(&self, failure: Failure) {
        self.store.failure.set(failure);
    }

    pub(super) fn stored(&self) -> Vec<Stored> {
        self.store.stored.borrow().clone()
    }

    /// Drafts that have neither been committed nor dropped.
    pub(super) fn drafts(&self) -> usize {
        self.store.drafts.get()
    }

    pub(super) fn rooms(&self) -> usize {
        self.store.rooms.get()
    }

    pub(super) fn hints(&self) -> Vec<RouteRequest> {
        self.others.hints.borrow().clone()
    }

    pub(super) fn verified(&self) -> Vec<VerifyRequest> {
        self.others.verified.borrow().clone()
    }

    pub(super) fn inspected(&self) -> Vec<InspectRequest> {
        self.others.inspected.borrow().clone()
    }

    pub(super) fn judge(&self, verdict: Option<Verdict>) {
        *self.others.verdict.borrow_mut() = verdict;
    }

    /// What the filters say of each step.
    pub(super) fn script(&self, script: impl Fn(&InspectRequest) -> InspectAnswer + 'static) {
        *self.others.script.borrow_mut() = Some(Box::new(script));
    }

    /// Makes the next question to router go unanswered.
    pub(super) fn silence_router(&self, why: Unavailable) {
        *self.others.silence.borrow_mut() = Some(why);
    }

    pub(super) fn counted(&self, counter: Counter) -> u64 {
        self.others.counters.borrow().get(&(counter as usize)).copied().unwrap_or(0)
    }
}

struct Store {
    stored: RefCell<Vec<Stored>>,
    failure: Cell<Failure>,
    begun: Cell<u64>,
    drafts: Cell<usize>,
    rooms: Cell<usize>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            stored: RefCell::default(),
            failure: Cell::new(Failure::Never),
            begun: Cell::new(0),
            drafts: Cell::new(0),
            rooms: Cell::new(0),
        }
    }
}

fn broken() -> IntakeError {
    let source = std::io::Error::other("the disk is broken").into();
    IntakeError::Io { context: "test".to_owned(), source }
}

/// The right to write to the store.
struct Writer(Rc<Store>);

impl Intake for Writer {
    fn begin(&self, _hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError> {
        if self.0.failure.get() == Failure::Begin {
            return Err(IntakeError::Full("test".to_owned()));
        }
        self.0.begun.set(self.0.begun.get() + 1);
        self.0.drafts.set(self.0.drafts.get() + 1);
        let id = MessageId::new(Timestamp::from_millis(1), self.0.begun.get());
        Ok(Box::new(Writing { store: Rc::clone(&self.0), id, body: Vec::new() }))
    }

    fn begin_as(&self, _: MessageId, hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError> {
        self.begin(hint)
    }
}

struct Writing {
    store: Rc<Store>,
    id: MessageId,
    body: Vec<u8>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.store.drafts.set(self.store.drafts.get() - 1);
    }
}

impl Draft for Writing {
    fn id(&self) -> MessageId {
        self.id
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        if self.store.failure.get() == Failure::Write && self.body.len() > 10_000 {
            return Err(broken());
        }
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    fn room(&mut self) -> Local<'_, Result<(), IntakeError>> {
        self.store.rooms.set(self.store.rooms.get() + 1);
        Box::pin(async {
            tokio::task::yield_now().await;
            match self.store.failure.get() {
                Failure::Room => Err(IntakeError::Busy),
                _ => Ok(()),
            }
        })
    }

    fn finish(&mut self) -> Local<'_, Result<Handle, IntakeError>> {
        Box::pin(async { Ok(Handle::parse("test:draft").expect("a handle")) })
    }

    fn commit(self: Box<Self>, accept: Accept) -> Local<'static, Result<Handle, IntakeError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.store.failure.get() == Failure::Commit {
                return Err(broken());
            }
            let stored = Stored { id: self.id, body: self.body.clone(), accept };
            self.store.stored.borrow_mut().push(stored);
            Ok(Handle::parse(&format!("test:{}", self.id)).expect("a handle"))
        })
    }
}

/// What filters say of a request.
type Script = dyn Fn(&InspectRequest) -> InspectAnswer;

#[derive(Default)]
struct Others {
    verified: RefCell<Vec<VerifyRequest>>,
    inspected: RefCell<Vec<InspectRequest>>,
    hints: RefCell<Vec<RouteRequest>>,
    counters: RefCell<HashMap<usize, u64>>,
    verdict: RefCell<Option<Verdict>>,
    script: RefCell<Option<Box<Script>>>,
    silence: RefCell<Option<Unavailable>>,
    crashes: Cell<bool>,
}

impl Neighbours for Others {
    fn verify<'a>(
        &'a self,
        request: &'a VerifyRequest,
    ) -> Local<'a, Result<VerifyAnswer, Unavailable>> {
        self.verified.borrow_mut().push(request.clone());
        let judge = |address: &mail::Address| {
            let reply = |code, class, subject, detail| VerifyReply {
                code,
                status: StatusCode::new(class, subject, detail),
                text: format!("not {address}"),
            };
            match address.domain() {
                "unknown.test" => Verified::Unknown(reply(550, 5, 1, 1)),
                "denied.test" => Verified::RelayDenied(reply(554, 5, 7, 1)),
                "later.test" => Verified::Tempfail(reply(451, 4, 3, 0)),
                _ => Verified::Deliverable,
            }
        };
        let answer = match self.silence.take() {
            Some(why) => Err(why),
            None => Ok(VerifyAnswer {
                recipients: request.recipients.iter().map(judge).collect(),
                domains: Vec::new(),
            }),
        };
        Box::pin(async move {
            tokio::task::yield_now().await;
            answer
        })
    }

    fn inspect<'a>(
        &'a self,
        request: &'a InspectRequest,
        at: &'a Cell<Option<PeerId>>,
    ) -> Local<'a, Result<InspectAnswer, Unavailable>> {
        self.inspected.borrow_mut().push(request.clone());
        let why = if self.crashes.get() { Unavailable::Crashed } else { Unavailable::Deadline };
        let answer = self.script.borrow().as_ref().map(|script| script(request));
        let verdict = self.verdict.borrow().clone().ok_or(why);
        at.set(Some(PeerId(at.get().map_or(1, |peer| peer.0))));
        let answer = answer.map_or_else(|| verdict.map(InspectAnswer::from), Ok);
        Box::pin(async move { answer })
    }

    fn inspected(&self, request: &InspectRequest, _: PeerId) {
        self.inspected.borrow_mut().push(request.clone());
    }

    fn route(&self, request: RouteRequest) {
        self.hints.borrow_mut().push(request);
    }

    fn count(&self, counter: Counter, add: u64) {
        *self.counters.borrow_mut().entry(counter as usize).or_default() += add;
    }

    fn job(&self) -> Job {
        Job::uncounted()
    }
}
