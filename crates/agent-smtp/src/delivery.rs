//! One deliver job: connections, transactions, and what becomes of each recipient.

use std::rc::Rc;
use std::time::{Duration, Instant};

use agent::{Job, Outgoing, Trail, damage};
use bytes::Bytes;
use job::deliver::{DeliverAnswer, DeliverRequest, RecipientOutcome};
use mail::{BodyType, Outcome, Reply, StatusCode, header};
use queue::ReadError;
use smtp::client::{Cause, Failure, Message, Phase, Recipient, Step, Verdict};

use crate::connect::{Unreachable, connect};
use crate::connection::Connection;
use crate::{Smtp, counter};

/// How many hosts of a lane may fail one job in the middle of a session.
const SESSIONS_MAX: u32 = 2;

/// Delivers a message to the recipients of a job.
pub(crate) async fn deliver(smtp: Rc<Smtp>, job: Job) -> DeliverAnswer {
    let mut delivery = Delivery::new(&smtp, &job);
    delivery.run().await;
    let answer = delivery.answer;
    smtp.counters.outcomes(counter::OUTCOMES, &answer);
    let unsaid = job.request.recipients.len().saturating_sub(answer.outcomes.len());
    smtp.counters.add(counter::DEFERRED, unsaid as u64);
    let Trace { remote, connecting, transacting } = &delivery.trace;
    let remote = (!remote.is_empty()).then_some(remote.as_str());
    Trail { remote, stages: [*connecting, *transacting] }.log(&job.request, &answer);
    answer
}

struct Delivery<'a> {
    smtp: &'a Smtp,
    job: &'a Job,
    /// Positions of recipients without an outcome, in the request.
    pending: Vec<usize>,
    answer: DeliverAnswer,
    trace: Trace,
}

/// What the log says of a job beside its outcomes.
#[derive(Default)]
struct Trace {
    remote: String,
    connecting: Duration,
    transacting: Duration,
}

/// How a transaction went.
enum Transacted {
    /// Verdicts were taken; the connection is idle.
    Idle,
    /// Verdicts were taken as far as there were any; the session is over.
    Ended,
    /// Verdicts were taken; the server closed the connection behind them.
    Closed,
    /// The reused connection was dead: nothing was said, nothing was sent that counts.
    Stale,
    /// The host failed before it had the message, and the lane's host has other addresses.
    Elsewhere,
}

impl<'a> Delivery<'a> {
    fn new(smtp: &'a Smtp, job: &'a Job) -> Self {
        let recipients = job.request.recipients.len();
        let answer =
            DeliverAnswer { outcomes: Vec::with_capacity(recipients), ..DeliverAnswer::default() };
        let pending = (0..recipients).collect();
        Self { smtp, job, pending, answer, trace: Trace::default() }
    }

    async fn run(&mut self) {
        let host = self.job.request.host.as_str();
        let mut connection = self.smtp.pool.take(host);
        if connection.is_some() {
            self.smtp.counters.add(counter::REUSED, 1);
        }
        let (mut retried, mut sessions) = (false, 1);
        // The job has only just come: the first time its deadline is all there is to ask for.
        let mut may_begin = self.job.gate.has_time();
        while !self.pending.is_empty() {
            if !may_begin {
                self.gate_closed("before the transaction");
                break;
            }
            let mut open = match connection.take() {
                Some(open) => open,
                None => match self.connect(host).await {
                    Ok(open) => open,
                    Err(unreachable) => return self.unreachable(unreachable),
                },
            };
            let (started, sent, before) = (Instant::now(), open.sent, self.pending.len());
            let transacted = self.transact(&mut open, !retried, sessions < SESSIONS_MAX).await;
            self.trace.transacting += started.elapsed();
            self.smtp.counters.add(counter::SENT_BYTES, open.sent - sent);
            may_begin = self.pending.is_empty() || self.job.gate.looks_open();
            match transacted {
                Ok(Transacted::Idle) if self.pending.is_empty() => connection = Some(open),
                Ok(Transacted::Idle | Transacted::Closed) if self.pending.len() >= before => {
                    unreachable!("a transaction that ends says something of one recipient at least")
                }
                Ok(Transacted::Idle) if self.smtp.pool.may_go_on(&open, Instant::now()) => {
                    connection = Some(open);
                }
                Ok(Transacted::Idle) => self.smtp.pool.put(host, open),
                Ok(Transacted::Closed) => {}
                Ok(Transacted::Stale) => retried = true,
                Ok(Transacted::Elsewhere) => sessions += 1,
                Ok(Transacted::Ended) => break,
                Err(error) => {
                    self.unreadable(&error);
                    connection = Some(open).filter(|open| open.client.step() == Step::Idle);
                    break;
                }
            }
        }
        if let Some(open) = connection {
            self.smtp.pool.put(host, open);
        }
    }

    async fn connect(&mut self, host: &str) -> Result<Box<Connection>, Unreachable> {
        let started = Instant::now();
        // Boxed, because few jobs connect, and every job's task would have room for it.
        let connected = Box::pin(connect(self.smtp, host, self.job.gate.deadline())).await;
        self.trace.connecting += started.elapsed();
        connected.map(Box::new)
    }

    /// Sends the message to as many of the pending recipients as one transaction may have.
    async fn transact(
        &mut self,
        connection: &mut Connection,
        may_retry: bool,
        may_go_elsewhere: bool,
    ) -> Result<Transacted, ReadError> {
        let (smtp, request) = (self.smtp, &self.job.request);
        self.trace.remote.clear();
        self.trace.remote.push_str(connection.client.remote());
        let mut outgoing = Outgoing::open(smtp.reader.as_ref(), &request.handle).await?;
        let first = outgoing.next().await?.unwrap_or_default();
        let end = self.pending.len().min(smtp.assignment.settings.recipients_max);
        let rest = self.pending.split_off(end);
        let chunk = std::mem::replace(&mut self.pending, rest);
        let recipients: Vec<Recipient<'_>> =
            chunk.iter().filter_map(|place| recipient(request, *place)).collect();
        let reused = connection.deliveries > 0;
        connection.deliveries = connection.deliveries.saturating_add(1);
        connection.client.begin(&message(request, &outgoing, &first), &recipients);
        self.converse(connection, &mut outgoing, first).await;
        let failure = connection.client.failure().cloned();
        let verdicts = connection.client.take_verdicts();
        if let Some(failure) = &failure
            && reused
            && may_retry
            && is_before_mail(failure)
        {
            self.pending.splice(0..0, chunk);
            return Ok(Transacted::Stale);
        }
        for (place, verdict) in chunk.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Outcome(outcome) => self.outcome(place, outcome),
                Verdict::Again | Verdict::Unknown => self.pending.push(place),
            }
        }
        match failure {
            None => Ok(Transacted::Idle),
            Some(failure) if failure.phase == Phase::Idle => Ok(Transacted::Closed),
            Some(failure) => {
                let early = is_before_message(&failure) && !self.pending.is_empty();
                if early {
                    self.smtp.shunned.borrow_mut().note(connection.peer.address, Instant::now());
                }
                if early && may_go_elsewhere && connection.peer.has_others {
                    return Ok(Transacted::Elsewhere);
                }
                self.failed(&failure);
                Ok(Transacted::Ended)
            }
        }
    }

    /// Drives the transaction to its end: envelope, body, and the dot if the gate is open.
    async fn converse(
        &mut self,
        connection: &mut Connection,
        outgoing: &mut Outgoing,
        first: Bytes,
    ) {
        let (timeouts, gate) = (&self.smtp.assignment.settings.timeouts, &self.job.gate);
        let bound = gate.deadline();
        if connection.turn(timeouts, bound).await != Step::Body {
            return;
        }
        let mut piece = Some(first);
        while let Some(bytes) = piece {
            connection.client.body(&bytes);
            connection.write_gathered(timeouts, bound).await;
            if connection.client.step() != Step::Body {
                return;
            }
            piece = match outgoing.next().await {
                Ok(piece) => piece,
                Err(error) => {
                    warn_unreadable(&self.job.request, &error);
                    self.answer.damaged = damage(&error);
                    return connection.client.abandon(unreadable_reply());
                }
            };
        }
        connection.write_before_dot(timeouts, bound).await;
        if connection.client.step() != Step::Body {
            return;
        }
        connection.end_body(timeouts, gate).await;
        // The dot has left before the gate closed, if it has left at all.
        let last = bound.unwrap_or_else(Instant::now) + self.smtp.dot_wait_max;
        connection.turn(timeouts, Some(last)).await;
    }

    fn outcome(&mut self, place: usize, outcome: Outcome) {
        if let Some(recipient) = self.job.request.recipients.get(place) {
            self.answer.outcomes.push(RecipientOutcome { index: recipient.index, outcome });
        }
    }

    /// Takes the end of a session into account: what it says of the lane, and of recipients nothing was said about.
    fn failed(&mut self, failure: &Failure) {
        if self.pending.is_empty() && failure.cause != Cause::ShuttingDown {
            // All was said, by one reply to MAIL perhaps, and then the server hung up.
            return;
        }
        let sending = matches!(failure.phase, Phase::Body | Phase::Dot);
        let shutting_down = failure.cause == Cause::ShuttingDown;
        // A lane that failed says nothing about a message. But what went wrong while this message was under way may be
        // its doing, and then it must not stand in the way of the others: its own clock moves too.
        let is_lane = shutting_down || (!sending && failure.cause != Cause::Abandoned);
        if is_lane {
            self.answer.lane = Some(failure.reply.clone());
        }
        if sending || !is_lane {
            self.defer_pending(&failure.reply);
        }
    }

    fn unreachable(&mut self, unreachable: Unreachable) {
        match unreachable {
            Unreachable::Lane(reply) => self.answer.lane = Some(reply),
            Unreachable::Never(reply) => {
                for place in std::mem::take(&mut self.pending) {
                    self.outcome(place, Outcome::Failed(reply.clone()));
                }
            }
        }
    }

    fn gate_closed(&mut self, when: &str) {
        self.defer_pending(&gate_reply(when));
    }

    fn unreadable(&mut self, error: &ReadError) {
        warn_unreadable(&self.job.request, error);
        self.answer.damaged = damage(error);
        self.defer_pending(&unreadable_reply());
    }

    fn defer_pending(&mut self, reply: &Reply) {
        for place in std::mem::take(&mut self.pending) {
            self.outcome(place, Outcome::Deferred(reply.clone()));
        }
    }
}

/// Whether a session ended before the server had any of the message: then another of its hosts may have it
/// (RFC 5321 section 5.1).
fn is_before_message(failure: &Failure) -> bool {
    matches!(failure.phase, Phase::Reset | Phase::Mail | Phase::Rcpt | Phase::Data)
}

/// Whether a session ended before anything was said of this transaction: on a reused connection that is the old news
/// that the server had closed it. A session that ends in [`Phase::Idle`] has answered all of the transaction before.
fn is_before_mail(failure: &Failure) -> bool {
    let early = matches!(failure.phase, Phase::Reset | Phase::Mail);
    early && failure.cause != Cause::TimedOut
}

pub(crate) fn gate_reply(when: &str) -> Reply {
    Reply::ours(StatusCode::new(4, 4, 2), format!("the job's time was over {when}"))
}

fn unreadable_reply() -> Reply {
    Reply::ours(StatusCode::new(4, 3, 0), "the message could not be read from the queue")
}

fn warn_unreadable(request: &DeliverRequest, error: &ReadError) {
    tracing::warn!(id = %request.id, handle = %request.handle, %error, "message cannot be read");
}

fn recipient(request: &DeliverRequest, place: usize) -> Option<Recipient<'_>> {
    let recipient = request.recipients.get(place)?;
    Some(Recipient {
        address: &recipient.address,
        original: recipient.original.as_ref(),
        notify: recipient.notify,
        orcpt: recipient.orcpt.as_deref(),
    })
}

fn message<'a>(request: &'a DeliverRequest, outgoing: &Outgoing, first: &[u8]) -> Message<'a> {
    let size = outgoing.size();
    // What was not looked at may hold anything: a filter's new body, the rest of a large one.
    let is_whole = size.is_some_and(|size| size <= first.len() as u64);
    Message {
        sender: request.sender.as_ref(),
        size,
        eight_bit: request.body == BodyType::EightBitMime || !is_whole || !first.is_ascii(),
        smtputf8: request.smtputf8,
        utf8_header: request.smtputf8 && !header::section_of(first).is_ascii(),
        ret: request.ret,
        envid: request.envid.as_deref(),
    }
}
