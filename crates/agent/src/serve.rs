//! Serving a channel's socket.

use std::rc::Rc;

use farm::fault;
use job::PART_RECIPIENTS_MAX;
use job::deliver::{Deliver, DeliverRequest};
use mail::Address;
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
    let channel = socket.split('.').next().unwrap_or_default().into();
    worker.serve::<Deliver>(socket, Rc::new(Deliveries { agent, channel }))?;
    worker.ready();
    worker.drained().await;
    Ok(())
}

struct Deliveries {
    agent: Rc<dyn Agent>,
    channel: Rc<str>,
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
        let work = Rc::clone(&self.agent).deliver(Job { request, gate });
        tokio::task::spawn_local(async move {
            let answer = work.await;
            fault::point(format_args!("{channel}.answer.before"));
            responder.answer(&answer);
            fault::point(format_args!("{channel}.answer.after"));
        });
    }
}

#[cfg(test)]
mod tests;
