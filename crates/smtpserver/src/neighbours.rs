//! The farms that this stage asks: `router`, `contentfilter` and, when a worker of theirs crashed, `scheduler`.

mod ask;
mod left;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use job::inspect::{Inspect, InspectAnswer, InspectRequest};
use job::route::{Route, RouteRequest};
use job::strike::{Strike, StrikeAnswer, StrikeRequest};
use job::verify::{Verify, VerifyAnswer, VerifyRequest};
use queue::Local;
use socket::{CallError, Client, ClientSettings, SendOptions, codes};

use self::ask::Asker;
use self::left::Left;
use crate::Counter;

/// How long the scheduler may take for a strike.
const STRIKE_DEADLINE: Duration = Duration::from_secs(5);
/// The most questions of all sessions that wait for room in a window; a session more hears `451`.
const WAITING_MAX: usize = 10_000;
/// The most lost hints whose workers' fates are awaited; the oldest is forgotten first, and requeue brings it back without a strike.
const LOST_MAX: usize = 4096;
/// The most hints that are sent a second time at once.
const RESENDS_MAX: usize = 1000;
/// The most crashed workers that are remembered.
const CRASHED_MAX: usize = 16;

/// No answer was to be had; the client hears `451`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    /// Not in time, or nobody there.
    #[error("no answer in time")]
    Deadline,
    /// Three workers crashed with the question in hand, the last of them with no other suspect.
    #[error("the workers that were asked crashed")]
    Crashed,
    /// It could not be said, or whoever was asked went away each time.
    #[error("{0}")]
    Failed(String),
}

/// What a session needs of other farms. The real ones, or a test's.
pub(crate) trait Neighbours {
    /// Asks whether recipients may be accepted.
    fn verify<'a>(
        &'a self,
        request: &'a VerifyRequest,
    ) -> Local<'a, Result<VerifyAnswer, Unavailable>>;

    /// Asks the filters about a message.
    fn inspect<'a>(
        &'a self,
        request: &'a InspectRequest,
    ) -> Local<'a, Result<InspectAnswer, Unavailable>>;

    /// Tells router of an accepted message. Never waits; a hint that finds no room is dropped, and comes again later.
    fn route(&self, request: RouteRequest);

    /// Adds to a counter.
    fn count(&self, counter: Counter, add: u64);

    /// Counts a message in hand as long as what it gives lives.
    fn job(&self) -> Job;
}

/// A message in hand, in the scoreboard's eyes.
pub(crate) struct Job {
    _counted: Option<farm::Job>,
}

impl Job {
    /// A job that no scoreboard counts.
    #[cfg(test)]
    pub(crate) fn uncounted() -> Self {
        Self { _counted: None }
    }
}

/// Where a worker's work is counted.
pub(crate) trait Tally {
    /// Adds to a counter.
    fn count(&self, counter: Counter, add: u64);

    /// Counts a message in hand.
    fn job(&self) -> Job;
}

impl Tally for farm::Worker {
    fn count(&self, counter: Counter, add: u64) {
        farm::Worker::count(self, counter as usize, add);
    }

    fn job(&self) -> Job {
        Job { _counted: Some(farm::Worker::job(self)) }
    }
}

/// The farms on their job sockets.
pub(crate) struct Farms(Rc<Inner>);

/// Clients of the sockets that a session's questions go to.
pub(crate) struct Clients {
    pub(crate) verify: Client<Verify>,
    pub(crate) inspect: Client<Inspect>,
    pub(crate) route: Client<Route>,
    pub(crate) strike: Client<Strike>,
}

/// How long each question may take.
pub(crate) struct Deadlines {
    pub(crate) verify: Duration,
    pub(crate) inspect: Duration,
    pub(crate) route: Duration,
}

struct Inner {
    clients: Clients,
    verify: Asker<Verify>,
    inspect: Asker<Inspect>,
    route_deadline: Duration,
    tally: Box<dyn Tally>,
    fates: RefCell<Fates>,
    /// Hints that are being sent a second time.
    resends: Cell<usize>,
    left: Rc<Left>,
}

/// Hints that were in hand when a connection ended. Whether its worker crashed, or drained or was killed by an operator, is said
/// on another connection, before or after.
#[derive(Default)]
struct Fates {
    lost: VecDeque<(u32, Rc<RouteRequest>)>,
    crashed: VecDeque<u32>,
}

impl Clients {
    pub(crate) fn new(worker: &farm::Worker, deadlines: &Deadlines) -> Self {
        let settings = |deadline| ClientSettings { deadline, waiting_max: WAITING_MAX };
        Self {
            verify: worker.client("router.verify", settings(deadlines.verify)),
            inspect: worker.client("contentfilter.inspect", settings(deadlines.inspect)),
            route: worker.client("router.route", settings(deadlines.route)),
            strike: worker.client("scheduler.strike", settings(STRIKE_DEADLINE)),
        }
    }

    /// Begins to connect to whom every message needs, so that the first does not wait for it.
    pub(crate) fn connect(&self, inspect: bool) {
        self.verify.connect();
        self.route.connect();
        if inspect {
            self.inspect.connect();
        }
    }
}

impl Farms {
    pub(crate) fn new(clients: Clients, route_deadline: Duration, tally: Box<dyn Tally>) -> Self {
        let (fates, resends) = (RefCell::default(), Cell::new(0));
        let left = Left::new(clients.route.clone(), route_deadline);
        let verify = Asker::new(clients.verify.clone());
        let inspect = Asker::new(clients.inspect.clone());
        let inner = Inner { clients, verify, inspect, route_deadline, tally, fates, resends, left };
        let inner = Rc::new(inner);
        let weak = Rc::downgrade(&inner);
        inner.clients.route.on_crash(move |pid| {
            if let Some(inner) = weak.upgrade() {
                inner.crashed(pid);
            }
        });
        Self(inner)
    }
}

impl Neighbours for Farms {
    fn verify<'a>(
        &'a self,
        request: &'a VerifyRequest,
    ) -> Local<'a, Result<VerifyAnswer, Unavailable>> {
        Box::pin(self.0.verify.ask(request))
    }

    fn inspect<'a>(
        &'a self,
        request: &'a InspectRequest,
    ) -> Local<'a, Result<InspectAnswer, Unavailable>> {
        Box::pin(self.0.inspect.ask(request))
    }

    fn route(&self, request: RouteRequest) {
        self.0.hint(request);
    }

    fn count(&self, counter: Counter, add: u64) {
        self.0.tally.count(counter, add);
    }

    fn job(&self) -> Job {
        self.0.tally.job()
    }
}

impl Inner {
    /// Sends a hint if there is room for it.
    fn hint(self: &Rc<Self>, request: RouteRequest) {
        let request = Rc::new(request);
        let options = SendOptions { deadline: Some(self.route_deadline), give_up: true, to: None };
        let (inner, sent) = (Rc::clone(self), Rc::clone(&request));
        let sending = self.clients.route.send(&request, options, move |answer| match answer {
            Ok(_) => {}
            Err(CallError::Lost { pid, .. }) => {
                inner.lost(pid, &sent);
                inner.resend(sent);
            }
            Err(CallError::Refused(error)) if error.code == codes::NOT_TAKEN => inner.resend(sent),
            Err(_) => {
                inner.tally.count(Counter::RouteHintsUnanswered, 1);
                inner.left.keep(&sent);
            }
        });
        self.tally.count(Counter::RouteHints, 1);
        if sending.is_err() {
            self.drop_hint(&request);
        }
    }

    /// Sends a hint elsewhere that was in hand when its worker went, once: what is lost a second time is left to requeue, which
    /// sends suspects alone.
    fn resend(self: &Rc<Self>, request: Rc<RouteRequest>) {
        if self.resends.get() >= RESENDS_MAX {
            return self.drop_hint(&request);
        }
        self.resends.set(self.resends.get() + 1);
        let inner = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let answer = inner.clients.route.call(&request).await;
            inner.resends.set(inner.resends.get() - 1);
            if answer.is_err() {
                inner.tally.count(Counter::RouteHintsUnanswered, 1);
            }
            match answer {
                Ok(_) => {}
                Err(CallError::Lost { pid, .. }) => inner.lost(pid, &request),
                Err(_) => inner.left.keep(&request),
            }
        });
    }

    /// There is no room for a hint now: it comes again later.
    fn drop_hint(&self, request: &RouteRequest) {
        self.tally.count(Counter::RouteHintsDropped, 1);
        self.left.keep(request);
    }

    fn lost(self: &Rc<Self>, pid: u32, request: &Rc<RouteRequest>) {
        let mut fates = self.fates.borrow_mut();
        if fates.crashed.contains(&pid) {
            drop(fates);
            return self.strike(request);
        }
        if fates.lost.len() >= LOST_MAX {
            fates.lost.pop_front();
        }
        fates.lost.push_back((pid, Rc::clone(request)));
    }

    fn crashed(self: &Rc<Self>, pid: u32) {
        let mut fates = self.fates.borrow_mut();
        if fates.crashed.contains(&pid) {
            return;
        }
        if fates.crashed.len() >= CRASHED_MAX {
            fates.crashed.pop_front();
        }
        fates.crashed.push_back(pid);
        let (struck, left): (VecDeque<_>, _) = fates.lost.drain(..).partition(|(of, _)| *of == pid);
        fates.lost = left;
        drop(fates);
        for (_, request) in struck {
            self.strike(&request);
        }
    }

    /// Tells the scheduler that router crashed with this message in hand.
    fn strike(self: &Rc<Self>, request: &RouteRequest) {
        let (handle, id) = (request.handle.clone(), request.id);
        let strike = self.clients.strike.clone();
        tokio::task::spawn_local(async move {
            let request = StrikeRequest { handle, id, stage: "router".to_owned() };
            match strike.call(&request).await {
                Ok(StrikeAnswer { strikes, held }) => {
                    tracing::warn!(
                        id = id.as_str(),
                        strikes,
                        held,
                        "router crashed with a message"
                    );
                }
                Err(error) => {
                    let error = error.to_string();
                    tracing::warn!(id = id.as_str(), error, "cannot tell scheduler of a strike");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
