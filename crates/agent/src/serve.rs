//! Serving a channel's socket.

use std::rc::Rc;

use job::PART_RECIPIENTS_MAX;
use job::deliver::{Deliver, DeliverRequest};
use socket::{ErrorObject, Responder, Service, codes};

use crate::{Agent, Gate, Job};

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
    worker.serve::<Deliver>(socket, Rc::new(Deliveries { agent }))?;
    worker.ready();
    worker.drained().await;
    Ok(())
}

struct Deliveries {
    agent: Rc<dyn Agent>,
}

impl Service<Deliver> for Deliveries {
    fn call(&self, request: DeliverRequest, responder: Responder<Deliver>) {
        if request.recipients.len() > PART_RECIPIENTS_MAX {
            let text = format!("more than {PART_RECIPIENTS_MAX} recipients");
            return responder.refuse(ErrorObject::new(codes::PARAMS, text));
        }
        let gate = Gate::from(responder.gate());
        let work = Rc::clone(&self.agent).deliver(Job { request, gate });
        tokio::task::spawn_local(async move {
            let answer = work.await;
            responder.answer(&answer);
        });
    }
}

#[cfg(test)]
mod tests;
