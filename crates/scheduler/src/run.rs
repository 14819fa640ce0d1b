//! The shell around the machine: sockets, the ledger, the clocks and the timer of a worker of a farm of one.
//!
//! ```text
//!  sockets ─▶ inbox ─▶ machine ─▶ one append ─▶ pending ─ written ─▶ answers and jobs go out
//!    ▲                                 │                     └─▶ synced, later: admin answers, reports
//!    └── the next turn, meanwhile ─────┘
//! ```

mod inbox;
mod load;
mod records;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use farm::fault;
use job::deliver::{Deliver, DeliverAnswer};
use job::home::{Home, HomeRequest};
use job::requeue::{Requeue, RequeueRequest};
use job::route::{Route, RouteRequest};
use mail::Address;
use queue::{Ledger, LedgerError};
use socket::{
    CallError, Client, ClientSettings, ErrorObject, Responder, STANDSTILL, SendError, SendOptions,
    codes,
};

use self::inbox::{AnyResponder, Inbox, Incoming};
use self::records::Records;
use crate::by_number::ByNumber;
use crate::machine::{
    Actions, Answer, ChannelId, Event, Now, Peer, Scheduler, Send, Token, Unanswered,
};
use crate::{Assignment, COUNTERS};

/// Why the scheduler could not begin, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker could not take up its role.
    #[error(transparent)]
    Worker(#[from] farm::WorkerError),
    /// The ledger could not be read.
    #[error("cannot replay the ledger")]
    Replay(#[source] LedgerError),
}

/// Messages snapshotted in one turn of a checkpoint.
const SLICE_MESSAGES: usize = 500;
/// With at most so many messages, a checkpoint is written before the worker ends, so that the next one starts fast.
const LAST_CHECKPOINT_MESSAGES: usize = 20_000;
/// What is left of a drain for the last checkpoint and its sync.
const LAST_SYNC: Duration = Duration::from_secs(2);
/// The first and the longest wait before requeue is asked again.
const REQUEUE_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The socket that is asked to route messages anew.
const ROUTER: &str = "router.route";
/// The most messages of one turn that router is asked for directly.
const HINTS_MAX: usize = 256;
/// How long router may take: it answers when the scheduler has acknowledged the message.
const ROUTE_DEADLINE: Duration = Duration::from_secs(10);
/// After a standstill it reads so long before it goes on.
const CATCH_UP: Duration = Duration::from_millis(100);
/// After a crash of a scheduler, messages are taken over only when the senders had this time to tell what it had in hand: what
/// killed it may be among the first that come.
const STRIKES_FIRST: Duration = Duration::from_millis(250);
/// How long an answer of requeue may take.
const REQUEUE_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the scheduler in this worker until it is drained: replays the ledger, then serves `scheduler.enqueue`,
/// `scheduler.known`, `scheduler.home`, `scheduler.strike` and `scheduler.admin`, and sends to the channels' sockets.
pub async fn run(
    worker: farm::Worker,
    assignment: Assignment,
    ledger: Rc<dyn Ledger>,
) -> Result<(), Error> {
    let mut scheduler = Scheduler::new(assignment.settings.clone(), &assignment.channels);
    if !load::replay(&worker, &*ledger, &mut scheduler).await.map_err(Error::Replay)? {
        return Ok(());
    }
    let inbox = Rc::new(Inbox::default());
    inbox::serve(&worker, &inbox)?;
    let mut shell = Shell::new(worker.clone(), assignment, Rc::clone(&inbox), ledger, scheduler);
    shell.begin();
    watch(&worker, &inbox);
    if worker.has_crashed_lately() {
        inbox.put_enqueues_aside(Instant::now() + STRIKES_FIRST);
    }
    worker.ready();
    loop {
        let incoming = shell.wait().await;
        shell.turn(incoming);
        if shell.is_done() {
            break;
        }
    }
    shell.end().await;
    Ok(())
}

/// Turns what the manager says into things that arrive.
fn watch(worker: &farm::Worker, inbox: &Rc<Inbox>) {
    let (draining, drained) = (worker.clone(), Rc::clone(inbox));
    tokio::task::spawn_local(async move {
        draining.draining().await;
        drained.push(Incoming::Draining);
    });
    let (reloading, reloaded) = (worker.clone(), Rc::clone(inbox));
    tokio::task::spawn_local(async move {
        loop {
            match reloading.new_settings::<Reloaded>().await {
                Ok(
                    Reloaded::Handed { role: Role { assignment } } | Reloaded::Plain(assignment),
                ) => {
                    reloaded.push(Incoming::Settings(assignment));
                }
                Err(error) => {
                    tracing::error!(%error, "new settings are not understood and not taken");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
}

/// What the manager hands over at a reload: this worker's whole settings, as the composer wrote them, or the assignment alone.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Reloaded {
    Handed { role: Role },
    Plain(Box<Assignment>),
}

#[derive(serde::Deserialize)]
struct Role {
    assignment: Box<Assignment>,
}

/// A turn whose records are not known to be written; of those, only the ends of messages are kept.
struct Pending {
    actions: Actions,
    has_records: bool,
}

struct Shell {
    worker: farm::Worker,
    assignment: Assignment,
    inbox: Rc<Inbox>,
    scheduler: Scheduler,
    records: Records,
    clients: HashMap<ChannelId, Client<Deliver>, ByNumber>,
    requeue: Option<Rc<RequeueAsker>>,
    /// Made when it is first needed.
    router: Option<Client<Route>>,
    responders: HashMap<Token, AnyResponder, ByNumber>,
    /// What turns are to do once their records are written, in order.
    pending: VecDeque<Pending>,
    /// The batch of a checkpoint's last slice, until it is written: the next is made then.
    slice: Option<u64>,
    /// Answers that wait for the sync of a batch.
    answers_synced: Vec<(u64, Token, Answer)>,
    token_next: u64,
    begun: Instant,
    chance: SplitMix,
    wake: Option<u64>,
    drain_until: Option<Instant>,
    counted: [u64; COUNTERS.len()],
}

impl Shell {
    fn new(
        worker: farm::Worker,
        assignment: Assignment,
        inbox: Rc<Inbox>,
        ledger: Rc<dyn Ledger>,
        scheduler: Scheduler,
    ) -> Self {
        let requeue = (!assignment.requeue.is_empty()).then(|| {
            let (worker, socket) = (worker.clone(), assignment.requeue.clone());
            Rc::new(RequeueAsker { worker, socket, state: RefCell::new(Asking::Idle) })
        });
        let records = Records::new(ledger, Rc::clone(&inbox));
        let mut shell = Self {
            worker,
            assignment,
            inbox,
            scheduler,
            records,
            clients: HashMap::default(),
            requeue,
            router: None,
            responders: HashMap::default(),
            pending: VecDeque::new(),
            slice: None,
            answers_synced: Vec::new(),
            token_next: 0,
            begun: Instant::now(),
            chance: SplitMix(
                std::collections::hash_map::RandomState::new().build_hasher().finish(),
            ),
            wake: None,
            drain_until: None,
            counted: [0; COUNTERS.len()],
        };
        shell.make_clients();
        shell
    }

    fn now(&self) -> Now {
        let mono = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { wall: SystemTime::now().into(), mono }
    }

    /// Makes a client for every channel that has none, and lets the others connect where the channel is served now. Each connects
    /// when the machine first wants its channel.
    fn make_clients(&mut self) {
        for facts in &self.assignment.channels {
            let channel = self.scheduler.channel(&facts.name);
            if let Some(client) = self.clients.get(&channel) {
                // Its jobs in hand are answered where they were sent.
                self.worker.move_client(client, &facts.socket);
                continue;
            }
            let settings = ClientSettings {
                deadline: self.assignment.settings.deadline.0,
                // Jobs are sent only where there is room: none ever waits.
                waiting_max: 0,
            };
            let client = self.worker.client::<Deliver>(&facts.socket, settings);
            let inbox = Rc::clone(&self.inbox);
            client.on_crash(move |pid| inbox.push(Incoming::Crashed { channel, pid }));
            let (watched, inbox) = (client.clone(), Rc::clone(&self.inbox));
            tokio::task::spawn_local(async move {
                loop {
                    watched.changed().await;
                    inbox.push_peers(channel);
                }
            });
            self.clients.insert(channel, client);
        }
    }

    /// The first turn: what was replayed is put into its lanes.
    fn begin(&mut self) {
        let now = self.now();
        let mut actions = Actions::default();
        self.scheduler.start(now, &mut || self.chance.next(), &mut actions);
        self.finish(now, actions);
    }

    /// Waits until something arrives or is due.
    async fn wait(&mut self) -> Vec<Incoming> {
        // What is ready to run may have more for this turn: batches are the budget.
        tokio::task::yield_now().await;
        let makes_slices = self.records.in_checkpoint() && self.slice.is_none();
        if !makes_slices && self.inbox.is_empty() {
            let until = [
                self.wake.map(|wake| self.begun + Duration::from_millis(wake)),
                self.drain_until,
                self.records.retry_at(),
                self.inbox.aside_until(),
            ];
            match until.into_iter().flatten().min() {
                Some(at) => {
                    let arrival = self.inbox.arrival();
                    // Passing the time is what is wanted as much as an arrival.
                    let _ = tokio::time::timeout_at(at.into(), arrival).await;
                    if at.elapsed() > STANDSTILL {
                        // Answers that came meanwhile are read before anything is given up as unanswered.
                        tokio::time::sleep(CATCH_UP).await;
                    }
                }
                None => self.inbox.arrival().await,
            }
        }
        self.inbox.take()
    }

    fn turn(&mut self, incoming: Vec<Incoming>) {
        let now = self.now();
        let mut actions = Actions::default();
        for one in incoming {
            if let Some(event) = self.event(one) {
                self.scheduler.handle(now, &mut || self.chance.next(), event, &mut actions);
            }
        }
        self.finish(now, actions);
    }

    /// What arrived, as the machine takes it; nothing when it concerns the shell alone.
    fn event(&mut self, incoming: Incoming) -> Option<Event> {
        Some(match incoming {
            Incoming::Enqueue(request, responder) => {
                if self.scheduler.refuses(&request.id, responder.is_alone()) {
                    let message = "schedulers crashed with it in hand, or routers";
                    responder.refuse(ErrorObject::new(codes::SUSPECT, message));
                    return None;
                }
                let connection = responder.caller().connection;
                fault::taken("scheduler", request.sender.as_ref().map(Address::as_str));
                let standing = self.records.ledger().standing(&request.handle);
                let token = self.token(AnyResponder::Enqueue(responder));
                Event::Enqueue { connection, token, request, standing }
            }
            Incoming::Known(request, responder) => {
                if request.messages.len() > job::KNOWN_MAX {
                    responder.refuse(ErrorObject::new(codes::PARAMS, "too many messages"));
                    return None;
                }
                let ledger = self.records.ledger();
                let standings =
                    request.messages.iter().map(|one| ledger.standing(&one.handle)).collect();
                let token = self.token(AnyResponder::Known(responder));
                Event::Known { token, request, standings }
            }
            Incoming::Home(request, responder) => return self.home(request, responder),
            Incoming::Strike(request, responder) => {
                let standing = self.records.ledger().standing(&request.handle);
                let token = self.token(AnyResponder::Strike(responder));
                Event::Strike { token, request, standing }
            }
            Incoming::Admin(request, responder) => {
                let token = self.token(AnyResponder::Admin(responder));
                Event::Admin { token, request }
            }
            Incoming::Answered { job, result } => Event::Answered { job, result },
            Incoming::Peers(channel) => {
                let peers = self.clients.get(&channel).map(Client::peers).unwrap_or_default();
                let peers = peers
                    .iter()
                    .map(|peer| Peer {
                        id: peer.id,
                        pid: peer.pid,
                        window: peer.window,
                        draining: peer.draining,
                    })
                    .collect();
                Event::Peers { channel, peers }
            }
            Incoming::Crashed { channel, pid } => Event::Crashed { channel, pid },
            Incoming::Written { batch, result } => {
                let result = self.records.written(result);
                if result.is_err() {
                    self.abandon_pending();
                }
                return self.reached(batch, result, None);
            }
            Incoming::Synced { batch, result } => {
                let result = self.records.synced(result);
                return self.reached(batch, result, Some(Event::Synced { batch }));
            }
            Incoming::Checkpoint { batch, result } => {
                let result = self.records.checkpointed(result);
                return self.reached(batch, result, Some(Event::Checkpointed { batch }));
            }
            Incoming::Draining => {
                let until = Instant::now() + self.assignment.settings.drain.0;
                let ends = self.worker.drain_ends().and_then(|ends| ends.checked_sub(LAST_SYNC));
                self.drain_until = Some(ends.map_or(until, |ends| until.min(ends)));
                Event::Draining
            }
            Incoming::Settings(assignment) => {
                self.assignment = *assignment;
                self.make_clients();
                tracing::info!(
                    "new settings of the scheduler and its channels taken; what else changed for it needs a restart"
                );
                Event::Settings {
                    settings: Box::new(self.assignment.settings.clone()),
                    channels: self.assignment.channels.clone(),
                }
            }
        })
    }

    fn home(&mut self, request: HomeRequest, responder: Responder<Home>) -> Option<Event> {
        let ledger = self.records.ledger();
        let standings: Vec<_> = match &request {
            HomeRequest::Where(asked) => {
                asked.messages.iter().map(|one| ledger.standing(&one.handle)).collect()
            }
            HomeRequest::Moved(told) => {
                told.messages.iter().map(|one| ledger.standing(&one.from)).collect()
            }
        };
        if standings.len() > job::HOME_MAX {
            responder.refuse(ErrorObject::new(codes::PARAMS, "too many messages"));
            return None;
        }
        let token = self.token(AnyResponder::Home(responder));
        Some(Event::Home { token, request, standings })
    }

    /// The ledger has come to a batch, which is written and, where that is an event, synced; or it failed.
    fn reached(
        &mut self,
        batch: u64,
        result: Result<(), LedgerError>,
        synced: Option<Event>,
    ) -> Option<Event> {
        if let Err(error) = result {
            self.ledger_failed(&error);
            return Some(Event::LedgerFailed);
        }
        self.perform_written(batch);
        if synced.is_some() {
            self.answer_synced(batch);
        }
        synced
    }

    fn token(&mut self, responder: AnyResponder) -> Token {
        let token = Token(self.token_next);
        self.token_next += 1;
        self.responders.insert(token, responder);
        token
    }

    /// Ends a turn: one append; once that is written, everything goes out. Meanwhile the next turn may come.
    fn finish(&mut self, now: Now, mut actions: Actions) {
        if let Some(error) = self.records.unseen_failure() {
            self.ledger_failed(&error);
            let event = Event::LedgerFailed;
            self.scheduler.handle(now, &mut || self.chance.next(), event, &mut actions);
        }
        let slice = self.checkpoint(&mut actions);
        self.scheduler.finish(now, &mut || self.chance.next(), &mut actions);
        self.wake = actions.wake;
        match self.records.write(&actions) {
            Ok(()) => {
                let has_records = !actions.records.is_empty();
                self.slice = self.slice.or((slice && has_records).then_some(actions.batch));
                if has_records || !self.pending.is_empty() {
                    // What is answered may say that an earlier turn's record is there.
                    actions.records.retain(records::is_end);
                    self.pending.push_back(Pending { actions, has_records });
                    self.records.await_written();
                } else {
                    self.perform(actions);
                }
            }
            Err(error) => self.abandon(now, actions, &error),
        }
        self.count();
    }

    /// Does what turns up to this batch wait for, and waits for what was appended after it.
    fn perform_written(&mut self, batch: u64) {
        self.slice = self.slice.filter(|slice| *slice > batch);
        while let Some(first) = self.pending.front()
            && (first.actions.batch <= batch || !first.has_records)
            && let Some(pending) = self.pending.pop_front()
        {
            self.perform(pending.actions);
        }
        if !self.pending.is_empty() {
            self.records.await_written();
        }
    }

    /// Turns could not be written: nothing of them is answered or sent.
    fn abandon_pending(&mut self) {
        self.slice = None;
        for pending in std::mem::take(&mut self.pending) {
            let mut actions = pending.actions;
            self.records.keep_ends(std::mem::take(&mut actions.records));
            self.refuse(actions);
        }
    }

    /// Adds a slice of a checkpoint to the turn's records when one is due and the last is written; says whether it did.
    fn checkpoint(&mut self, actions: &mut Actions) -> bool {
        if self.slice.is_some() {
            return false;
        }
        if !self.records.in_checkpoint() {
            match self.records.begin_checkpoint() {
                Ok(false) => return false,
                Ok(true) => self.scheduler.begin_checkpoint(actions),
                Err(error) => {
                    tracing::error!(%error, "cannot begin a checkpoint; to be tried again");
                    return false;
                }
            }
        }
        if self.scheduler.checkpoint_slice(SLICE_MESSAGES, actions) {
            self.records.end_after_this();
        }
        true
    }

    fn perform(&mut self, actions: Actions) {
        fault::point("scheduler.answer.before");
        for (token, answer) in actions.answers {
            self.answer(token, answer);
        }
        let batch = actions.batch;
        let waiting = actions.answers_synced.into_iter();
        self.answers_synced.extend(waiting.map(|(token, answer)| (batch, token, answer)));
        for job in actions.jobs {
            self.send(job);
        }
        self.reach(&actions.connect, actions.requeue);
        self.hint(actions.routes);
        fault::point("scheduler.answer.after");
    }

    /// Asks router to route messages anew, as many as it may be asked at once: requeue brings the others.
    fn hint(&mut self, routes: Vec<RouteRequest>) {
        if routes.is_empty() {
            return;
        }
        let router = self.router.get_or_insert_with(|| {
            let settings = ClientSettings { deadline: ROUTE_DEADLINE, waiting_max: HINTS_MAX };
            self.worker.client::<Route>(ROUTER, settings)
        });
        for route in routes.into_iter().take(HINTS_MAX) {
            let router = router.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = router.call(&route).await {
                    tracing::debug!(id = %route.id, %error, "router did not take a message; requeue will bring it");
                }
            });
        }
    }

    /// Connects to channels, and asks requeue for a pass.
    fn reach(&self, channels: &[ChannelId], requeue: bool) {
        for client in channels.iter().filter_map(|channel| self.clients.get(channel)) {
            client.connect();
        }
        if let Some(asker) = self.requeue.as_ref().filter(|_| requeue) {
            asker.ask();
        }
    }

    /// The turn could not be written: nothing of it is answered or sent. What it changed is in the next checkpoint.
    fn abandon(&mut self, now: Now, actions: Actions, error: &LedgerError) {
        self.slice = None;
        self.refuse(actions);
        self.ledger_failed(error);
        let mut none = Actions::default();
        self.scheduler.handle(now, &mut || self.chance.next(), Event::LedgerFailed, &mut none);
    }

    fn refuse(&mut self, actions: Actions) {
        let refused = ErrorObject::new(codes::INTERNAL, "the ledger cannot be written now");
        for (token, _) in actions.answers.into_iter().chain(actions.answers_synced) {
            self.answer(token, Answer::Refused(refused.clone()));
        }
        for Send { job, .. } in actions.jobs {
            let result = Err(Unanswered::NotSent);
            self.inbox.push(Incoming::Answered { job, result });
        }
        self.reach(&actions.connect, actions.requeue);
    }

    fn ledger_failed(&mut self, error: &LedgerError) {
        tracing::error!(%error, "nothing is dispatched until a checkpoint of the ledger has synced");
        let refused = ErrorObject::new(codes::INTERNAL, "the ledger could not be synced");
        for (_, token, _) in std::mem::take(&mut self.answers_synced) {
            self.answer(token, Answer::Refused(refused.clone()));
        }
    }

    fn answer_synced(&mut self, batch: u64) {
        let all = std::mem::take(&mut self.answers_synced);
        let (synced, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.0 <= batch);
        self.answers_synced = waiting;
        for (_, token, answer) in synced {
            self.answer(token, answer);
        }
    }

    fn answer(&mut self, token: Token, answer: Answer) {
        if let Some(responder) = self.responders.remove(&token) {
            responder.answer(answer);
        }
    }

    fn send(&mut self, send: Send) {
        let job = send.job;
        let inbox = Rc::clone(&self.inbox);
        let on_answer = move |result: Result<DeliverAnswer, CallError>| {
            inbox.push(Incoming::Answered { job, result: result.map_err(unanswered) });
        };
        let options = SendOptions {
            deadline: Some(send.deadline),
            to: Some(send.peer),
            ..Default::default()
        };
        let sent = match self.clients.get(&send.channel) {
            Some(client) => client.send(&send.request, options, on_answer).map(drop),
            None => Err(SendError::Disconnected),
        };
        if let Err(error) = sent {
            self.inbox.push(Incoming::Answered { job, result: Err(not_sent(error)) });
            self.inbox.push_peers(send.channel);
        }
    }

    fn count(&mut self) {
        let values = self.scheduler.counts().values();
        for (place, (value, counted)) in values.iter().zip(&mut self.counted).enumerate() {
            if value != counted {
                self.worker.count(place, value - *counted);
                *counted = *value;
            }
        }
    }

    fn is_done(&self) -> bool {
        let Some(until) = self.drain_until else { return false };
        let changing = self.scheduler.is_changing();
        let collected =
            self.scheduler.in_hand() == 0 && self.answers_synced.is_empty() && !changing;
        (collected && self.pending.is_empty() && self.inbox.is_empty()) || until <= Instant::now()
    }

    /// Leaves the ledger synced, and short if that is cheap.
    async fn end(mut self) {
        let mut actions = Actions::default();
        if self.scheduler.messages() <= LAST_CHECKPOINT_MESSAGES && self.records.begin_last() {
            self.scheduler.begin_checkpoint(&mut actions);
            while !self.scheduler.checkpoint_slice(SLICE_MESSAGES, &mut actions) {}
            self.records.end_after_this();
        }
        let in_hand = self.scheduler.in_hand();
        match self.records.write_last(&actions.records).await {
            Ok(()) => {
                tracing::info!(messages = self.scheduler.messages(), in_hand, "ledger synced");
                // Jobs are sent no more.
                for pending in std::mem::take(&mut self.pending) {
                    let actions = pending.actions;
                    for (token, answer) in actions.answers.into_iter().chain(actions.answers_synced)
                    {
                        self.answer(token, answer);
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "the ledger could not be synced at the end");
                return;
            }
        }
        for (_, token, answer) in std::mem::take(&mut self.answers_synced) {
            self.answer(token, answer);
        }
    }
}

fn unanswered(error: CallError) -> Unanswered {
    match error {
        CallError::NotSent(error) => not_sent(error),
        CallError::Lost { .. } | CallError::Deadline => Unanswered::Lost,
        CallError::Refused(error) if error.code == codes::NOT_TAKEN => Unanswered::NotTaken,
        CallError::Refused(error) if error.code == codes::WINDOW => Unanswered::Full,
        CallError::Refused(error) => Unanswered::Refused(error.message),
    }
}

fn not_sent(error: SendError) -> Unanswered {
    match error {
        SendError::TooLong => Unanswered::TooLong,
        SendError::Full => Unanswered::Full,
        SendError::Disconnected => Unanswered::NotSent,
    }
}

/// Asks requeue for passes, one at a time and until one is acknowledged.
///
/// It connects only to ask: to an on-demand farm, a connection means work.
struct RequeueAsker {
    worker: farm::Worker,
    socket: String,
    state: RefCell<Asking>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    Idle,
    Asks,
    /// It was asked again while it was asking: the pass acknowledged may have begun before.
    AsksAgain,
}

impl RequeueAsker {
    fn ask(self: &Rc<Self>) {
        let before = *self.state.borrow();
        if before != Asking::Idle {
            *self.state.borrow_mut() = Asking::AsksAgain;
            return;
        }
        *self.state.borrow_mut() = Asking::Asks;
        let asker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let settings = ClientSettings { deadline: REQUEUE_DEADLINE, waiting_max: 4 };
            let client = asker.worker.client::<Requeue>(&asker.socket, settings);
            let mut wait = REQUEUE_RETRY.0;
            loop {
                let request = RequeueRequest { reason: "asked by the scheduler".to_owned() };
                if client.call(&request).await.is_err() {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(REQUEUE_RETRY.1);
                    continue;
                }
                let state = *asker.state.borrow();
                if state == Asking::AsksAgain {
                    *asker.state.borrow_mut() = Asking::Asks;
                    continue;
                }
                *asker.state.borrow_mut() = Asking::Idle;
                return;
            }
        });
    }
}

/// Chance for jitter; nothing secret hangs on it.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}
