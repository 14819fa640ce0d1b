//! The shell around the turns: sockets, the clocks and the timer of a worker of a farm of one.
//!
//! ```text
//!  sockets ─▶ inbox ─▶ turns ─▶ doors: answers, jobs, requests of its own
//!               ▲ written, synced │
//!               └──── ledger ◀────┘
//! ```

mod asker;
mod inbox;
mod load;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use job::deliver::{Deliver, DeliverAnswer};
use job::route::{Route, RouteRequest};
use queue::{Ledger, LedgerError, Local, Ownership, Tenure};
use socket::{
    CallError, Client, ClientSettings, LeaseLeft, STANDSTILL, SendError, SendOptions, codes,
};

use self::asker::RequeueAsker;
use self::inbox::{AnyResponder, Inbox, Incoming};
use crate::by_number::ByNumber;
use crate::machine::{Answer, ChannelId, Now, Peer, Scheduler, Send, Token, Unanswered};
use crate::turns::{Around, Arrival, Awaited, Hands, Turns};
use crate::{Assignment, COUNTERS};

/// Why the scheduler could not begin, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker could not take up its role.
    #[error(transparent)]
    Worker(#[from] farm::WorkerError),
    /// The ledger could not be opened.
    #[error("cannot open the ledger")]
    Ledger(#[source] LedgerError),
    /// The ledger could not be read.
    #[error("cannot replay the ledger")]
    Replay(#[source] LedgerError),
}

/// What is left of a drain for the last checkpoint and its sync.
const LAST_SYNC: Duration = Duration::from_secs(2);
/// No job is sent when the ledger's time ends so soon: nobody could do anything with it.
const SEND_MARGIN: Duration = Duration::from_millis(500);
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

/// Runs the scheduler in this worker until it is drained or the ledger is its own no longer: waits for the ledger, replays it, then serves `scheduler.enqueue`,
/// `scheduler.known`, `scheduler.home`, `scheduler.strike`, `scheduler.outcome` and `scheduler.admin`, and sends to the channels' sockets.
pub async fn run(
    worker: farm::Worker,
    assignment: Assignment,
    ownership: Rc<dyn Ownership>,
) -> Result<(), Error> {
    let tenure = load::acquire(&worker, &*ownership).await.map_err(Error::Ledger)?;
    let Some(Tenure { ledger, is_clean }) = tenure else {
        return Ok(());
    };
    let mut scheduler = Scheduler::new(assignment.settings.clone(), &assignment.channels);
    match load::replay(&worker, &*ledger, &mut scheduler).await {
        Ok(true) => {}
        Ok(false) => {
            give_up(&*ledger, is_clean).await;
            return Ok(());
        }
        Err(error @ LedgerError::Fenced(_)) => {
            lost(&worker, &error);
            return Ok(());
        }
        Err(error) => return Err(Error::Replay(error)),
    }
    let inbox = Rc::new(Inbox::default());
    inbox::serve(&worker, &inbox)?;
    let mut shell = Shell::new(worker.clone(), assignment, Rc::clone(&inbox), ledger, scheduler);
    shell.begin(is_clean);
    watch(&worker, &inbox);
    worker.ready();
    loop {
        let incoming = shell.wait().await;
        if let Some(error) = shell.loss(&incoming) {
            lost(&worker, &error);
            return Ok(());
        }
        shell.turn(incoming);
        if let Some(error) = shell.loss(&[]) {
            lost(&worker, &error);
            return Ok(());
        }
        if shell.is_done() {
            break;
        }
    }
    shell.end().await;
    Ok(())
}

/// The ledger is another's, or may be: this worker ends at once, and with it its connections, so that agents go on with nothing that
/// it sent. The next one stands by.
fn lost(worker: &farm::Worker, error: &LedgerError) {
    tracing::error!(%error, "the ledger is lost to this worker: it sends nothing more and ends");
    worker.resign();
}

/// Gives the ledger up, so that whoever stands by need not wait.
async fn give_up(ledger: &dyn Ledger, is_clean: bool) {
    let released = tokio::time::timeout(LAST_SYNC, ledger.release(is_clean)).await;
    if let Err(error) = released.unwrap_or_else(|_late| Err(late("the release of the ledger"))) {
        tracing::warn!(%error, "the ledger could not be given up: whoever stands by waits until its time has passed");
    }
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

struct Shell {
    worker: farm::Worker,
    assignment: Assignment,
    inbox: Rc<Inbox>,
    ledger: Rc<dyn Ledger>,
    /// For how long what is sent now may be acted on; nothing: for as long as its connection is up.
    lease_left: LeaseLeft,
    turns: Turns,
    doors: Doors,
    token_next: u64,
    begun: Instant,
    /// Until then, on its clock, agents may tell of jobs that the owner before had in hand.
    late_until: u64,
    chance: SplitMix,
    counted: [u64; COUNTERS.len()],
}

/// The ways out.
struct Doors {
    worker: farm::Worker,
    lease_left: LeaseLeft,
    inbox: Rc<Inbox>,
    clients: HashMap<ChannelId, Client<Deliver>, ByNumber>,
    requeue: Option<Rc<RequeueAsker>>,
    /// Made when it is first needed.
    router: Option<Client<Route>>,
    responders: HashMap<Token, AnyResponder, ByNumber>,
}

impl Shell {
    fn new(
        worker: farm::Worker,
        assignment: Assignment,
        inbox: Rc<Inbox>,
        ledger: Rc<dyn Ledger>,
        scheduler: Scheduler,
    ) -> Self {
        let requeue = (!assignment.requeue.is_empty())
            .then(|| Rc::new(RequeueAsker::new(worker.clone(), assignment.requeue.clone())));
        let lease_left = lease_left(&ledger);
        let doors = Doors {
            worker: worker.clone(),
            lease_left: Rc::clone(&lease_left),
            inbox: Rc::clone(&inbox),
            clients: HashMap::default(),
            requeue,
            router: None,
            responders: HashMap::default(),
        };
        let seed = std::collections::hash_map::RandomState::new().build_hasher().finish();
        let mut shell = Self {
            worker,
            assignment,
            inbox,
            ledger: Rc::clone(&ledger),
            lease_left,
            turns: Turns::new(scheduler, ledger),
            doors,
            token_next: 0,
            begun: Instant::now(),
            late_until: 0,
            chance: SplitMix(seed),
            counted: [0; COUNTERS.len()],
        };
        shell.make_clients();
        shell
    }

    fn now(&self) -> Now {
        Now { wall: SystemTime::now().into(), mono: millis(self.begun.elapsed()) }
    }

    /// Makes a client for every channel that has none, and lets the others connect where the channel is served now. Each connects
    /// when the machine first wants its channel.
    fn make_clients(&mut self) {
        for facts in &self.assignment.channels {
            let channel = self.turns.channel(&facts.name);
            if let Some(client) = self.doors.clients.get(&channel) {
                // Its jobs in hand are answered where they were sent.
                self.worker.move_client(client, &facts.socket);
                continue;
            }
            let settings = ClientSettings {
                deadline: self.assignment.settings.deadline.0,
                // Jobs are sent only where there is room: none ever waits.
                waiting_max: 0,
                lease: Some(Rc::clone(&self.lease_left)),
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
            self.doors.clients.insert(channel, client);
        }
    }

    /// The first turn. Where the owner before did not give the ledger up, what it sent may be under way.
    fn begin(&mut self, is_clean: bool) {
        if !is_clean {
            let grace = self.assignment.settings.takeover_grace.0;
            tracing::warn!(
                grace_s = grace.as_secs(),
                "the ledger was not given up in order: what was replayed waits for late outcomes"
            );
            self.late_until = self.now().mono.saturating_add(millis(grace));
            self.turns.wait_for_late_outcomes(self.late_until);
        }
        if self.worker.has_crashed_lately() {
            self.turns.put_enqueues_aside(self.now().mono.saturating_add(millis(STRIKES_FIRST)));
        }
        let now = self.now();
        let chance = &mut || self.chance.next();
        self.turns.begin(&mut Around { now, chance, hands: &mut self.doors });
        self.count();
    }

    /// Waits until something arrives or is due, or the ledger's time has passed.
    async fn wait(&mut self) -> Vec<Incoming> {
        // What is ready to run may have more for this turn: batches are the budget.
        tokio::task::yield_now().await;
        if !self.turns.goes_on() && self.inbox.is_empty() {
            let due = self.turns.due().map(|due| self.begun + Duration::from_millis(due));
            match [due, self.ledger.owned_until()].into_iter().flatten().min() {
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

    /// Why the ledger is this worker's no longer, if so.
    fn loss(&self, incoming: &[Incoming]) -> Option<LedgerError> {
        let is_loss = |error: &LedgerError| matches!(error, LedgerError::Fenced(_));
        let told = incoming.iter().find_map(|one| match one {
            Incoming::Reached(_, Err(error)) if is_loss(error) => Some(error.clone()),
            _ => None,
        });
        told.or_else(|| self.ledger.failure().filter(is_loss)).or_else(|| {
            let is_over = (self.lease_left)().is_some_and(|left| left.is_zero());
            is_over.then(|| LedgerError::Fenced("its time with it has passed".to_owned()))
        })
    }

    fn turn(&mut self, incoming: Vec<Incoming>) {
        let now = self.now();
        let arrivals = incoming.into_iter().map(|one| self.arrival(one)).collect();
        let chance = &mut || self.chance.next();
        self.turns.turn(&mut Around { now, chance, hands: &mut self.doors }, arrivals);
        self.count();
    }

    /// What arrived, as turns take it.
    fn arrival(&mut self, incoming: Incoming) -> Arrival {
        match incoming {
            Incoming::Enqueue(request, responder) => {
                let connection = responder.caller().connection;
                let is_alone = responder.is_alone();
                let token = self.token(AnyResponder::Enqueue(responder));
                Arrival::Enqueue { connection, token, request, is_alone }
            }
            Incoming::Known(request, responder) => {
                Arrival::Known(self.token(AnyResponder::Known(responder)), request)
            }
            Incoming::Home(request, responder) => {
                Arrival::Home(self.token(AnyResponder::Home(responder)), request)
            }
            Incoming::Strike(request, responder) => {
                Arrival::Strike(self.token(AnyResponder::Strike(responder)), request)
            }
            Incoming::Admin(request, responder) => {
                Arrival::Admin(self.token(AnyResponder::Admin(responder)), request)
            }
            Incoming::LateOutcome(request, responder) => {
                Arrival::LateOutcome(self.token(AnyResponder::LateOutcome(responder)), request)
            }
            Incoming::Answered { job, result, from } => Arrival::Answered { job, result, from },
            Incoming::Peers(channel) => Arrival::Peers(channel, self.doors.peers(channel)),
            Incoming::Crashed { channel, pid } => Arrival::Crashed { channel, pid },
            Incoming::Reached(awaited, result) => Arrival::Reached(awaited, result),
            Incoming::Draining => {
                let until = Instant::now() + self.assignment.settings.drain.0;
                let ends = self.worker.drain_ends().and_then(|ends| ends.checked_sub(LAST_SYNC));
                let until = ends.map_or(until, |ends| until.min(ends));
                Arrival::Draining { until: millis(until.saturating_duration_since(self.begun)) }
            }
            Incoming::Settings(assignment) => {
                self.assignment = *assignment;
                self.make_clients();
                tracing::info!(
                    "new settings of the scheduler and its channels taken; what else changed for it needs a restart"
                );
                let settings = Box::new(self.assignment.settings.clone());
                Arrival::Settings(settings, self.assignment.channels.clone())
            }
        }
    }

    fn token(&mut self, responder: AnyResponder) -> Token {
        let token = Token(self.token_next);
        self.token_next += 1;
        self.doors.responders.insert(token, responder);
        token
    }

    fn count(&mut self) {
        let values = self.turns.scheduler().counts().values();
        for (place, (value, counted)) in values.iter().zip(&mut self.counted).enumerate() {
            if value != counted {
                self.worker.count(place, value - *counted);
                *counted = *value;
            }
        }
    }

    fn is_done(&self) -> bool {
        let collected = self.turns.is_collected() && self.inbox.is_empty();
        collected || self.turns.drain_is_over(self.now())
    }

    /// Leaves the ledger synced, and short if that is cheap, and gives it up.
    async fn end(mut self) {
        let synced = tokio::time::timeout(LAST_SYNC, self.sync_last()).await;
        match synced.unwrap_or_else(|_late| Err(late("the last sync"))) {
            Ok(()) => {
                let (messages, in_hand) =
                    (self.turns.scheduler().messages(), self.turns.scheduler().in_hand());
                tracing::info!(messages, in_hand, "ledger synced");
                let is_clean = in_hand == 0 && self.now().mono >= self.late_until;
                self.turns.close(&mut self.doors);
                give_up(&*self.ledger, is_clean).await;
            }
            Err(error) => tracing::error!(%error, "the ledger could not be synced at the end"),
        }
    }

    async fn sync_last(&mut self) -> Result<(), LedgerError> {
        let (mark, ends_checkpoint) = self.turns.append_last()?;
        self.ledger.synced(mark).await?;
        if ends_checkpoint && let Err(error) = self.ledger.end_checkpoint().await {
            tracing::warn!(%error, "the last checkpoint did not end: the next start replays what was before it");
        }
        Ok(())
    }
}

impl Doors {
    fn peers(&self, channel: ChannelId) -> Vec<Peer> {
        let peers = self.clients.get(&channel).map(Client::peers).unwrap_or_default();
        let peer = |peer: &socket::Peer| Peer {
            id: peer.id,
            pid: peer.pid,
            window: peer.window,
            draining: peer.draining,
        };
        peers.iter().map(peer).collect()
    }
}

impl Hands for Doors {
    fn answer(&mut self, token: Token, answer: Answer) {
        if let Some(responder) = self.responders.remove(&token) {
            responder.answer(answer);
        }
    }

    fn send(&mut self, send: Send) {
        let (job, connection) = (send.job, (send.channel, send.peer));
        let inbox = Rc::clone(&self.inbox);
        let on_answer = move |result: Result<DeliverAnswer, CallError>| {
            // Not an error: it may come from the socket, which an agent does not hear of.
            let from = result.is_ok().then_some(connection);
            let result = result.map_err(unanswered);
            inbox.push(Incoming::Answered { job, result, from });
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
            let result = Err(not_sent(error));
            self.inbox.push(Incoming::Answered { job, result, from: None });
            self.inbox.push_peers(send.channel);
        }
    }

    fn unsent(&mut self, job: u64) {
        let result = Err(Unanswered::NotSent);
        self.inbox.push(Incoming::Answered { job, result, from: None });
    }

    fn connect(&mut self, channel: ChannelId) {
        if let Some(client) = self.clients.get(&channel) {
            client.connect();
        }
    }

    fn requeue(&mut self) {
        if let Some(asker) = &self.requeue {
            asker.ask();
        }
    }

    /// As many as router may be asked at once: requeue brings the others.
    fn hint(&mut self, routes: Vec<RouteRequest>) {
        let router = self.router.get_or_insert_with(|| {
            let settings = ClientSettings {
                deadline: ROUTE_DEADLINE,
                waiting_max: HINTS_MAX,
                ..ClientSettings::default()
            };
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

    fn may_send(&self) -> bool {
        (self.lease_left)().is_none_or(|left| left > SEND_MARGIN)
    }

    fn await_ledger(&mut self, awaited: Awaited, until: Local<'static, Result<(), LedgerError>>) {
        let inbox = Rc::clone(&self.inbox);
        tokio::task::spawn_local(async move {
            let result = until.await;
            inbox.push(Incoming::Reached(awaited, result));
        });
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn late(context: &str) -> LedgerError {
    let source = Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut));
    LedgerError::Io { context: context.to_owned(), source }
}

fn lease_left(ledger: &Rc<dyn Ledger>) -> LeaseLeft {
    // Whoever asks may outlive it: nobody stands behind anything then.
    let ledger = Rc::downgrade(ledger);
    Rc::new(move || match ledger.upgrade() {
        Some(ledger) => {
            ledger.owned_until().map(|until| until.saturating_duration_since(Instant::now()))
        }
        None => Some(Duration::ZERO),
    })
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
