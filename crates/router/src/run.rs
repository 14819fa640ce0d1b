//! The worker: answers `verify` from memory, and passes `route` on as `enqueue`.
//!
//! ```text
//! route, envelope in it ─▶ decide ─▶ enqueue, one part ─▶ acknowledged: answer
//! route by handle ─▶ read ─▶ decide ─▶ enqueue, part by part over one connection ─▶ all acknowledged: answer
//!                     any failure: refused; the queue is the truth, and requeue brings it again
//! ```
//!
//! A request that goes alone is alone in this worker's hand until it is decided, and then in the scheduler's.

use std::rc::Rc;
use std::time::Instant;

use farm::fault;
use farm::{Worker, WorkerError};
use job::enqueue::{Enqueue, EnqueueRequest};
use job::route::{Route, RouteFacts, RouteRequest};
use job::strike::Strike;
use job::verify::{Verified, Verify, VerifyAnswer, VerifyRequest, WholeDomain};
use job::{Acknowledged, PART_RECIPIENTS_MAX};
use lookup::Unavailable;
use mail::{Address, MessageId};
use queue::{ReadError, Reader, RoutedRecipient, State};
use socket::{CallError, ClientSettings, ErrorObject, Responder, Service, codes};

use crate::handover::Handover;
use crate::tables::Tables;
use crate::{Assignment, LoadError, Rules, counter};

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules cannot be made ready.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The worker could not begin.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// For how long nobody need ask again about a domain that is judged as a whole, in milliseconds: so late a route that has
/// changed may be known at RCPT. What is accepted meanwhile is routed by the new one.
const DOMAIN_HOLDS_MS: u32 = 10_000;

/// Runs a worker of farm `router` until it has drained.
pub async fn run(
    worker: Worker,
    assignment: Assignment,
    reader: Rc<dyn Reader>,
) -> Result<(), Error> {
    let rules = Rules::new(&assignment)?;
    let counting = worker.clone();
    let tables = Tables::new(rules.tables(), move |read, failed| {
        counting.count(counter::TABLES_READ, read as u64);
        counting.count(counter::TABLES_FAILED, failed as u64);
    });
    let settings = ClientSettings {
        deadline: assignment.settings.enqueue_deadline.0,
        waiting_max: assignment.settings.workers.concurrency as usize,
        ..ClientSettings::default()
    };
    let deadline = settings.deadline;
    let scheduler = worker.client::<Enqueue>("scheduler.enqueue", settings.clone());
    let strike = worker.client::<Strike>("scheduler.strike", settings);
    scheduler.connect();
    let handover = Handover::new(scheduler, strike, deadline);
    tables.fresh().await;
    let inner = Inner { worker: worker.clone(), rules, tables, reader, handover };
    let router = Router(Rc::new(inner));
    worker.serve::<Verify>("router.verify", Rc::new(router.clone()))?;
    worker.serve::<Route>("router.route", Rc::new(router))?;
    worker.ready();
    worker.draining().await;
    worker.drained().await;
    Ok(())
}

#[derive(Clone)]
struct Router(Rc<Inner>);

struct Inner {
    worker: Worker,
    rules: Rules,
    tables: Rc<Tables>,
    reader: Rc<dyn Reader>,
    handover: Rc<Handover>,
}

/// Why a message could not be handed to the scheduler.
#[derive(Debug, thiserror::Error)]
enum RouteError {
    #[error(transparent)]
    Table(#[from] Unavailable),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("scheduler: {0}")]
    Enqueue(#[from] CallError),
}

impl Service<Verify> for Router {
    fn call(&self, request: VerifyRequest, responder: Responder<Verify>) {
        let inner = Rc::clone(&self.0);
        if inner.tables.are_fresh(Instant::now()) {
            responder.answer(&inner.verify(&request));
            return;
        }
        tokio::task::spawn_local(async move {
            inner.tables.fresh().await;
            responder.answer(&inner.verify(&request));
        });
    }
}

impl Service<Route> for Router {
    fn call(&self, request: RouteRequest, responder: Responder<Route>) {
        let inner = Rc::clone(&self.0);
        if request.facts.is_some() && inner.tables.are_fresh(Instant::now()) {
            inner.route_at_once(request, responder);
        } else {
            tokio::task::spawn_local(inner.route_later(request, responder));
        }
    }
}

impl Inner {
    fn verify(&self, request: &VerifyRequest) -> VerifyAnswer {
        let verdict = |address| self.rules.verify(address, &request.client);
        let recipients: Vec<Verified> = request.recipients.iter().map(verdict).collect();
        self.worker.count(counter::VERIFIED, recipients.len() as u64);
        for verdict in &recipients {
            match verdict {
                Verified::Deliverable => {}
                Verified::Unknown(_) => self.worker.count(counter::VERIFY_UNKNOWN, 1),
                Verified::RelayDenied(_) => self.worker.count(counter::VERIFY_DENIED, 1),
                Verified::Tempfail(_) => self.worker.count(counter::VERIFY_TEMPFAIL, 1),
            }
        }
        let judged = request.recipients.iter().zip(&recipients);
        let mut domains: Vec<WholeDomain> = judged
            .filter(|(address, verdict)| {
                matches!(verdict, Verified::Deliverable) && self.rules.is_judged_by_domain(address)
            })
            .map(|(address, _)| address.domain().to_ascii_lowercase())
            .map(|domain| WholeDomain { domain, holds_ms: DOMAIN_HOLDS_MS })
            .collect();
        domains.dedup();
        VerifyAnswer { recipients, domains }
    }

    /// The way of nearly every message: everything is in memory.
    fn route_at_once(self: Rc<Self>, mut request: RouteRequest, responder: Responder<Route>) {
        let Some(facts) = request.facts.take() else {
            unreachable!("only a request with facts is routed at once");
        };
        self.hand_over(request, facts, responder);
    }

    /// Routes what must be read first, or what came while tables were stale.
    async fn route_later(self: Rc<Self>, mut request: RouteRequest, responder: Responder<Route>) {
        self.tables.fresh().await;
        let facts = match request.facts.take() {
            Some(facts) => Ok(facts),
            None => self.read(&request).await,
        };
        match facts {
            Ok(facts) => self.hand_over(request, facts, responder),
            Err(error) => self.finish(request.id, responder, Err(error)),
        }
    }

    fn hand_over(
        self: Rc<Self>,
        request: RouteRequest,
        facts: RouteFacts,
        mut responder: Responder<Route>,
    ) {
        let id = request.id;
        match self.decide(request, facts) {
            Ok(parts) => {
                // The scheduler's word may take its time.
                responder.set_aside();
                let inner = Rc::clone(&self);
                self.handover.begin(parts, responder.is_alone(), move |result| {
                    inner.finish(id, responder, result.map_err(RouteError::from));
                });
            }
            Err(error) => self.finish(id, responder, Err(error)),
        }
    }

    async fn read(&self, request: &RouteRequest) -> Result<RouteFacts, RouteError> {
        let accepted = self.reader.open(&request.handle).await?.accepted;
        Ok(RouteFacts {
            envelope: accepted.accept.envelope,
            size: accepted.size,
            accepted_at: accepted.accept.accepted_at,
            hold: accepted.accept.hold,
        })
    }

    /// Decides for every recipient, and writes the parts of the request to the scheduler; there is at least one.
    fn decide(
        &self,
        request: RouteRequest,
        facts: RouteFacts,
    ) -> Result<Vec<EnqueueRequest>, RouteError> {
        fault::taken("router", facts.envelope.sender.as_ref().map(Address::as_str));
        fault::point("router.route.before");
        let recipients = self.rules.route(&facts.envelope)?;
        let is_failed = |one: &&RoutedRecipient| matches!(one.state, State::Failed(_));
        let failed = recipients.iter().filter(is_failed).count();
        self.worker.count(counter::RECIPIENTS, recipients.len() as u64);
        self.worker.count(counter::RECIPIENTS_FAILED, failed as u64);
        if failed > 0 {
            tracing::info!(id = %request.id, recipients = recipients.len(), failed, "recipients cannot be routed");
        }
        Ok(parts_of(request, facts, recipients))
    }

    fn finish(&self, id: MessageId, responder: Responder<Route>, result: Result<(), RouteError>) {
        match result {
            Ok(()) => {
                self.worker.count(counter::ROUTED, 1);
                fault::point("router.enqueue.after");
                responder.answer(&Acknowledged {});
            }
            Err(error) => {
                self.worker.count(counter::ROUTE_FAILED, 1);
                tracing::warn!(%id, %error, "not routed; requeue will bring it again");
                responder.refuse(ErrorObject::new(error.code(), error.to_string()));
            }
        }
    }
}

impl RouteError {
    fn code(&self) -> i32 {
        match self {
            Self::Read(ReadError::Gone(..) | ReadError::Damaged(..)) => codes::NOT_FOUND,
            Self::Enqueue(CallError::Refused(error)) if error.code == codes::SUSPECT => {
                codes::SUSPECT
            }
            Self::Read(_) | Self::Table(_) | Self::Enqueue(_) => codes::INTERNAL,
        }
    }
}

/// Writes the request to the scheduler, in parts of at most [`PART_RECIPIENTS_MAX`] recipients.
fn parts_of(
    request: RouteRequest,
    facts: RouteFacts,
    recipients: Vec<RoutedRecipient>,
) -> Vec<EnqueueRequest> {
    let count = recipients.len().div_ceil(PART_RECIPIENTS_MAX).max(1);
    let envelope = facts.envelope;
    let mut whole = EnqueueRequest {
        handle: request.handle,
        id: request.id,
        routing: request.routing,
        part: 0,
        more: false,
        sender: envelope.sender,
        size: facts.size,
        accepted_at: facts.accepted_at,
        body: envelope.body,
        smtputf8: envelope.smtputf8,
        ret: envelope.ret,
        envid: envelope.envid,
        hold: facts.hold,
        recipients: Vec::new(),
    };
    if count == 1 {
        whole.recipients = recipients;
        return vec![whole];
    }
    let mut recipients = recipients.into_iter();
    let part = |number: usize| EnqueueRequest {
        part: u32::try_from(number).unwrap_or(u32::MAX),
        more: number + 1 < count,
        recipients: recipients.by_ref().take(PART_RECIPIENTS_MAX).collect(),
        ..whole.clone()
    };
    (0..count).map(part).collect()
}

#[cfg(test)]
mod tests;
