//! Serving a channel's socket.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use farm::fault;
use job::PART_RECIPIENTS_MAX;
use job::deliver::{Deliver, DeliverRequest};
use job::outcome::LateOutcome;
use mail::Address;
use socket::{ClientSettings, ErrorObject, Responder, Service, codes};

use crate::journal::Journal;
use crate::kept::{Facts, Kept};
use crate::{Agent, Gate, Job};

/// How long jobs may go on when the farm stops, if they have not passed their gate: a next hop that says nothing for minutes shall hold
/// no stop up.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Where in `data_dir` agents write down what they did and could not tell.
const JOURNALS: &str = "outcomes";

/// Why a transport agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker could not take up its role.
    #[error(transparent)]
    Worker(#[from] farm::WorkerError),
}

/// How long the scheduler may take to write down what it is told late.
const TELL_DEADLINE: Duration = Duration::from_secs(10);

/// Serves the channel's `socket` (`smtp.deliver`) with `agent`: says it is ready, and returns once draining is done.
///
/// Each job gets a task of its own: whatever an agent does, it waits for a disk or a network. Every job in hand counts in the
/// scoreboard.
pub async fn run(worker: farm::Worker, socket: &str, agent: Rc<dyn Agent>) -> Result<(), Error> {
    let channel: Rc<str> = socket.split('.').next().unwrap_or_default().into();
    let settings = ClientSettings { deadline: TELL_DEADLINE, waiting_max: 1000, lease: None };
    let teller = worker.client::<LateOutcome>("scheduler.outcome", settings);
    let journal = Journal::new(worker.data_dir().join(JOURNALS), &channel, Box::new(teller));
    let deliveries = Rc::new(Deliveries::new(agent, channel, journal.clone()));
    worker.serve::<Deliver>(socket, Rc::<Deliveries>::clone(&deliveries))?;
    worker.ready();
    let telling = tokio::task::spawn_local(journal.clone().run());
    let kept = Rc::clone(&deliveries.kept);
    let stopping = worker.clone();
    tokio::task::spawn_local(async move {
        stopping.stopping().await;
        tokio::time::sleep(STOP_GRACE).await;
        deliveries.give_up();
    });
    worker.drained().await;
    telling.abort();
    journal.add(kept.all_gone());
    journal.end().await;
    Ok(())
}

struct Deliveries {
    agent: Rc<dyn Agent>,
    channel: Rc<str>,
    /// Jobs by the connection that they came over.
    stops: RefCell<HashMap<u64, Rc<Stop>>>,
    stops_all: Cell<bool>,
    kept: Rc<Kept>,
    journal: Journal,
}

/// Whether the jobs of a connection that have not passed their gate are given up.
#[derive(Default)]
struct Stop {
    given_up: Cell<bool>,
    told: tokio::sync::Notify,
}

impl Stop {
    fn give_up(&self) {
        self.given_up.set(true);
        self.told.notify_waiters();
    }

    /// Does a job's work to its end; nothing when it was given up. What the work has left to others finds the gate shut then.
    async fn work<T>(&self, gate: &Gate, work: impl Future<Output = T>) -> Option<T> {
        let (mut work, mut told) = (pin!(work), pin!(self.told.notified()));
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            let given_up = self.given_up.get() || told.as_mut().poll(context).is_ready();
            if given_up && gate.shut() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

impl Deliveries {
    fn new(agent: Rc<dyn Agent>, channel: Rc<str>, journal: Journal) -> Self {
        let (stops, stops_all) = (RefCell::default(), Cell::new(false));
        Self { agent, channel, stops, stops_all, kept: Rc::default(), journal }
    }

    /// Jobs that have not passed their gate are given up, now and later.
    fn give_up(&self) {
        self.stops_all.set(true);
        self.stops.borrow().values().for_each(|stop| stop.give_up());
    }

    fn stop(&self, connection: u64) -> Rc<Stop> {
        let mut stops = self.stops.borrow_mut();
        let stop = stops.entry(connection).or_default();
        stop.given_up.set(stop.given_up.get() || self.stops_all.get());
        Rc::clone(stop)
    }
}

impl Service<Deliver> for Deliveries {
    fn call(&self, request: DeliverRequest, responder: Responder<Deliver>) {
        let connection = responder.caller().connection;
        if let Some(settled) = request.settled {
            self.kept.settle(connection, settled);
        }
        if request.recipients.len() > PART_RECIPIENTS_MAX {
            let text = format!("more than {PART_RECIPIENTS_MAX} recipients");
            return responder.refuse(ErrorObject::new(codes::PARAMS, text));
        }
        let channel = Rc::clone(&self.channel);
        fault::taken(&channel, request.sender.as_ref().map(Address::as_str));
        fault::point(format_args!("{channel}.deliver.before"));
        let gate = Gate::from(responder.gate());
        let facts = Facts::of(&request);
        let work = Rc::clone(&self.agent).deliver(Job { request, gate: gate.clone() });
        let (stop, kept, journal) =
            (self.stop(connection), Rc::clone(&self.kept), self.journal.clone());
        tokio::task::spawn_local(async move {
            let Some(answer) = stop.work(&gate, work).await else {
                let text = "not taken: this worker stops";
                return responder.refuse(ErrorObject::new(codes::NOT_TAKEN, text));
            };
            fault::point(format_args!("{channel}.answer.before"));
            if let Some(facts) = facts {
                let done = facts.done(&answer);
                if !responder.is_connected() {
                    return journal.add(done);
                }
                kept.answered(connection, done);
            }
            responder.answer(&answer);
            fault::point(format_args!("{channel}.answer.after"));
        });
    }

    fn gone(&self, connection: u64) {
        // Whoever sent them sends them to others: what has not passed its gate finds it shut.
        if let Some(stop) = self.stops.borrow_mut().remove(&connection) {
            stop.give_up();
        }
        self.journal.add(self.kept.gone(connection));
    }
}

#[cfg(test)]
mod tests;
