//! The farms that this stage asks: `router`, `contentfilter` and, when a worker of theirs crashed, `scheduler`.

mod ask;
mod domains;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use job::hints::{Counted, Hints};
use job::inspect::{Inspect, InspectAnswer, InspectRequest};
use job::route::{Route, RouteRequest};
use job::strike::Strike;
use job::verify::{Verified, Verify, VerifyAnswer, VerifyRequest};
use queue::Local;
use socket::{Client, ClientSettings, PeerId};

use self::ask::Asker;
use self::domains::Domains;
use crate::Counter;

/// How long the scheduler may take for a strike.
const STRIKE_DEADLINE: Duration = Duration::from_secs(5);
/// The most questions of all sessions that wait for room in a window; a session more hears `451`.
const WAITING_MAX: usize = 10_000;

/// No answer was to be had; the client hears `451`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    /// Not in time, or nobody there.
    #[error("no answer in time")]
    Deadline,
    /// Three workers crashed with the question in hand, the last of them with nothing else in it.
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

    /// Asks the filters about a session or its message; the worker `at` if it is there. Leaves in `at` who was asked.
    fn inspect<'a>(
        &'a self,
        request: &'a InspectRequest,
        at: &'a Cell<Option<PeerId>>,
    ) -> Local<'a, Result<InspectAnswer, Unavailable>>;

    /// Tells the worker `at` that a transaction or a session is over. Never waits.
    fn inspected(&self, request: &InspectRequest, at: PeerId);

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
pub(crate) struct Farms {
    verify: Asker<Verify>,
    domains: RefCell<Domains>,
    inspect: Asker<Inspect>,
    pub(crate) hints: Hints,
    tally: Rc<dyn Tally>,
}

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

impl Clients {
    pub(crate) fn new(worker: &farm::Worker, deadlines: &Deadlines) -> Self {
        let settings = |deadline| ClientSettings {
            deadline,
            waiting_max: WAITING_MAX,
            ..ClientSettings::default()
        };
        Self {
            verify: worker.client("router.verify", settings(deadlines.verify)),
            inspect: worker.client("contentfilter.inspect", settings(deadlines.inspect)),
            route: worker.client("router.route", settings(deadlines.route)),
            strike: worker.client("scheduler.strike", settings(STRIKE_DEADLINE)),
        }
    }
}

impl Farms {
    pub(crate) fn new(clients: Clients, route_deadline: Duration, tally: Rc<dyn Tally>) -> Self {
        let Clients { verify, inspect, route, strike } = clients;
        let counting = Rc::clone(&tally);
        let hints = Hints::new(route, strike, route_deadline, move |counted| {
            let counter = match counted {
                Counted::Hint => Counter::RouteHints,
                Counted::Dropped => Counter::RouteHintsDropped,
                Counted::Unanswered => Counter::RouteHintsUnanswered,
            };
            counting.count(counter, 1);
        });
        let (verify, inspect) = (Asker::new(verify), Asker::new(inspect));
        Self { verify, domains: RefCell::default(), inspect, hints, tally }
    }

    /// Begins to connect to whom every message needs, so that the first does not wait for it.
    pub(crate) fn connect(&self, inspect: bool) {
        self.verify.connect();
        self.hints.connect();
        if inspect {
            self.inspect.connect();
        }
    }
}

impl Neighbours for Farms {
    fn verify<'a>(
        &'a self,
        request: &'a VerifyRequest,
    ) -> Local<'a, Result<VerifyAnswer, Unavailable>> {
        if self.domains.borrow().cover(request, Instant::now()) {
            let recipients = request.recipients.iter().map(|_| Verified::Deliverable).collect();
            let answer = VerifyAnswer { recipients, domains: Vec::new() };
            return Box::pin(std::future::ready(Ok(answer)));
        }
        Box::pin(async move {
            let answer = self.verify.ask(request).await?;
            let may_relay = request.client.may_relay;
            self.domains.borrow_mut().learn(&answer.domains, may_relay, Instant::now());
            Ok(answer)
        })
    }

    fn inspect<'a>(
        &'a self,
        request: &'a InspectRequest,
        at: &'a Cell<Option<PeerId>>,
    ) -> Local<'a, Result<InspectAnswer, Unavailable>> {
        Box::pin(async move {
            let mut asked = at.get();
            let answer = self.inspect.ask_at(request, &mut asked).await;
            at.set(asked);
            answer
        })
    }

    fn inspected(&self, request: &InspectRequest, at: PeerId) {
        self.inspect.tell(request, at);
    }

    fn route(&self, request: RouteRequest) {
        self.hints.send(request);
    }

    fn count(&self, counter: Counter, add: u64) {
        self.tally.count(counter, add);
    }

    fn job(&self) -> Job {
        self.tally.job()
    }
}

#[cfg(test)]
mod tests;
