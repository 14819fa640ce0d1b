//! Serving a channel's socket.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use farm::fault;
use job::PART_RECIPIENTS_MAX;
use job::deliver::{Deliver, DeliverRequest};
use mail::Address;
use socket::{ErrorObject, Responder, Service, codes};

use crate::{Agent, Gate, Job};

/// How long jobs may go on when the farm stops, if they have not passed their gate: a next hop that says nothing for minutes shall hold
/// no stop up.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why a transport agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker could not take up its role.
    #[error(transparent)]
    Worker(#[from] farm::WorkerError),
}

/// Serves the channel's `socket` (`smtp.deliver`) with `agent`: says it is ready, and returns once draining is done.
///
/// Each job gets a task of its own: whatever an agent does, it waits for a disk or a network. Every job in hand counts in the
/// scoreboard.
pub async fn run(worker: farm::Worker, socket: &str, agent: Rc<dyn Agent>) -> Result<(), Error> {
    let channel = socket.split('.').next().unwrap_or_default().into();
    let stop = Rc::new(Stop::default());
    worker
        .serve::<Deliver>(socket, Rc::new(Deliveries { agent, channel, stop: Rc::clone(&stop) }))?;
    worker.ready();
    let stopping = worker.clone();
    tokio::task::spawn_local(async move {
        stopping.stopping().await;
        tokio::time::sleep(STOP_GRACE).await;
        stop.give_up();
    });
    worker.drained().await;
    Ok(())
}

struct Deliveries {
    agent: Rc<dyn Agent>,
    channel: Rc<str>,
    stop: Rc<Stop>,
}

/// Whether jobs that have not passed their gate are given up.
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

impl Service<Deliver> for Deliveries {
    fn call(&self, request: DeliverRequest, responder: Responder<Deliver>) {
        if request.recipients.len() > PART_RECIPIENTS_MAX {
            let text = format!("more than {PART_RECIPIENTS_MAX} recipients");
            return responder.refuse(ErrorObject::new(codes::PARAMS, text));
        }
        let channel = Rc::clone(&self.channel);
        fault::taken(&channel, request.sender.as_ref().map(Address::as_str));
        fault::point(format_args!("{channel}.deliver.before"));
        let gate = Gate::from(responder.gate());
        let work = Rc::clone(&self.agent).deliver(Job { request, gate: gate.clone() });
        let stop = Rc::clone(&self.stop);
        tokio::task::spawn_local(async move {
            let Some(answer) = stop.work(&gate, work).await else {
                let text = "not taken: this worker stops";
                return responder.refuse(ErrorObject::new(codes::NOT_TAKEN, text));
            };
            fault::point(format_args!("{channel}.answer.before"));
            responder.answer(&answer);
            fault::point(format_args!("{channel}.answer.after"));
        });
    }
}

#[cfg(test)]
mod tests;
