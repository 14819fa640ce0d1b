//! One job: a report committed as a new message.

use std::rc::Rc;
use std::time::SystemTime;

use agent::{Agent, Counters, Job, Outgoing, answer_all};
use farm::fault;
use job::deliver::{DeliverAnswer, DeliverRequest};
use job::route::{RouteFacts, RouteRequest};
use mail::report::{self, Kind, Original, RETURNED_HEADER_BYTES_MAX, Report, Returned, Written};
use mail::{
    Address, Delivered, Envelope, MessageId, Notify, Origin, Outcome, Recipient, Reply, Ret,
    StatusCode, SuccessReport, Timestamp, header,
};
use queue::{Accept, Handle, Intake, IntakeError, Local, ReadError, Reader, ReportKind, SizeHint};
use tokio::sync::Semaphore;

use crate::refuse::refusal;
use crate::{Assignment, Settings, counter};

/// The service that stands in the origin of a report.
const SERVICE: &str = "report";
/// How much of messages a worker holds in memory for its reports, in KiB; further jobs wait.
const HELD_KIB_IN_ALL: u32 = 128 << 10;

/// Writes delivery reports.
pub struct ErrorAgent {
    inner: Rc<Inner>,
}

struct Inner {
    settings: Settings,
    hostname: String,
    reader: Rc<dyn Reader>,
    intake: Rc<dyn Intake>,
    hint: Box<dyn Fn(RouteRequest)>,
    counters: Counters,
    /// KiB of messages that may be held in memory.
    memory: Semaphore,
}

/// Why a report was not committed.
enum Refusal {
    Read(ReadError),
    Intake(IntakeError),
    GateClosed,
}

/// What was read of the message.
enum Read {
    Gone,
    Headers(Vec<u8>),
    Message(Vec<u8>),
}

impl ErrorAgent {
    /// Makes the agent of a channel. `hint` tells router of a new message; it must not wait.
    pub fn new(
        assignment: &Assignment,
        reader: Rc<dyn Reader>,
        intake: Rc<dyn Intake>,
        hint: impl Fn(RouteRequest) + 'static,
        counters: Counters,
    ) -> Self {
        let inner = Inner {
            settings: assignment.settings.clone(),
            hostname: assignment.hostname.clone(),
            reader,
            intake,
            hint: Box::new(hint),
            counters,
            memory: Semaphore::new(HELD_KIB_IN_ALL as usize),
        };
        Self { inner: Rc::new(inner) }
    }
}

impl Agent for ErrorAgent {
    fn deliver(self: Rc<Self>, job: Job) -> Local<'static, DeliverAnswer> {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move {
            let outcome = inner.outcome(&job).await;
            let answer = answer_all(&job.request, &outcome);
            inner.counters.outcomes(counter::OUTCOMES, &answer);
            answer
        })
    }
}

impl Inner {
    /// All recipients of a job share one outcome: there is one report, or none.
    async fn outcome(&self, job: &Job) -> Outcome {
        let request = &job.request;
        let Some(asked) = &request.report else {
            let outcome = refusal(&request.host);
            log_refused(request, &outcome);
            return outcome;
        };
        let Some(sender) = &request.sender else {
            self.counters.add(counter::DOUBLE_BOUNCE, 1);
            tracing::warn!(id = %request.id, recipients = request.recipients.len(), "a report cannot be reported on: double bounce dropped");
            return delivered("nobody to report to");
        };
        let kind = match asked.kind {
            ReportKind::Failure => Kind::Failure,
            ReportKind::Delay => Kind::Delay,
            ReportKind::Success => Kind::Success,
        };
        match self.report(job, kind, sender, asked.will_retry_until).await {
            Ok(id) => {
                self.counters.add(counter_of(kind), 1);
                let said = format!("reported in {id}");
                tracing::info!(
                    %id, about = %request.id, recipient = %sender.as_str().escape_debug(),
                    recipients = request.recipients.len(), kind = ?kind, size = request.size,
                    delay_ms = delay_ms(request), reply = said, "reported"
                );
                delivered(&said)
            }
            Err(refusal) => deferred(request, &refusal),
        }
    }

    /// Writes a report and commits it; gives the id of its message.
    async fn report(
        &self,
        job: &Job,
        kind: Kind,
        sender: &Address,
        will_retry_until: Option<Timestamp>,
    ) -> Result<MessageId, Refusal> {
        let request = &job.request;
        let limit = self.full_bytes_max(request, kind);
        let kib = limit.max(RETURNED_HEADER_BYTES_MAX as u64).min(request.size) / 1024 + 1;
        let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(HELD_KIB_IN_ALL);
        let _held = self.memory.acquire_many(kib).await;
        let read = self.read(&request.handle, limit).await.map_err(Refusal::Read)?;
        let mut draft = self.intake.begin(SizeHint::default()).map_err(Refusal::Intake)?;
        let id = draft.id();
        let now = Timestamp::from(SystemTime::now());
        let written = report::write(&Report {
            kind,
            id,
            hostname: &self.hostname,
            written_at: now,
            sender,
            original: Original {
                id: request.id,
                accepted_at: request.accepted_at,
                envid: request.envid.as_deref(),
                smtputf8: request.smtputf8,
            },
            recipients: recipients(request),
            will_retry_until,
            returned: match &read {
                Read::Gone => Returned::Nothing,
                Read::Headers(bytes) => Returned::Headers(bytes),
                Read::Message(bytes) => Returned::Message(bytes),
            },
        });
        drop(read);
        draft.write(&written.message).map_err(Refusal::Intake)?;
        draft.room().await.map_err(Refusal::Intake)?;
        let envelope = envelope(sender, &written);
        let accept = Accept {
            envelope: envelope.clone(),
            origin: Origin { service: SERVICE.to_owned(), ..Origin::default() },
            accepted_at: now,
            edits: Vec::new(),
            hold: None,
            replaced_body: None,
        };
        job.gate.leased().await;
        if !job.gate.is_open() {
            return Err(Refusal::GateClosed);
        }
        fault::point("error.commit.before");
        let handle = draft.commit(accept).await.map_err(Refusal::Intake)?;
        fault::point("error.commit.after");
        let size = written.message.len() as u64;
        let facts = RouteFacts { envelope, size, accepted_at: now, hold: None };
        (self.hint)(RouteRequest { handle, id, routing: 1, facts: Some(facts) });
        Ok(id)
    }

    /// Up to which size the message is returned whole. Only a failure returns more than the header section (RFC 3461 section 4.3).
    fn full_bytes_max(&self, request: &DeliverRequest, kind: Kind) -> u64 {
        match (kind, request.ret) {
            (Kind::Failure, Some(Ret::Full)) => self.settings.return_full_bytes_max.0,
            (Kind::Failure, None) => self.settings.return_bytes_max.0,
            _ => 0,
        }
    }

    /// Reads the message if it has at most `full_bytes_max`, else its header section. One that is gone or damaged is no error:
    /// its sender is told without it.
    async fn read(&self, handle: &Handle, full_bytes_max: u64) -> Result<Read, ReadError> {
        match self.read_open(handle, full_bytes_max).await {
            Err(ReadError::Gone(..) | ReadError::Damaged(..) | ReadError::Foreign(_)) => {
                Ok(Read::Gone)
            }
            other => other,
        }
    }

    async fn read_open(&self, handle: &Handle, full_bytes_max: u64) -> Result<Read, ReadError> {
        let mut outgoing = Outgoing::open(self.reader.as_ref(), handle).await?;
        let is_whole = outgoing.size().is_some_and(|size| size <= full_bytes_max);
        let mut bytes = Vec::new();
        while let Some(piece) = outgoing.next().await? {
            bytes.extend_from_slice(&piece);
            let enough = bytes.len() >= RETURNED_HEADER_BYTES_MAX;
            if !is_whole && (enough || header::section(&bytes).complete) {
                break;
            }
        }
        Ok(if is_whole { Read::Message(bytes) } else { Read::Headers(bytes) })
    }
}

fn recipients(request: &DeliverRequest) -> Vec<report::Recipient<'_>> {
    let about = request.recipients.iter().map(|recipient| report::Recipient {
        address: &recipient.address,
        original: recipient.original.as_ref(),
        orcpt: recipient.orcpt.as_deref(),
        outcome: recipient.outcome.as_ref(),
        last_attempt_at: None,
    });
    about.collect()
}

/// The envelope of a report: the null reverse-path, and no wish to hear of it (RFC 3461 section 6.1, RFC 5321 section 4.5.5).
fn envelope(sender: &Address, written: &Written) -> Envelope {
    let recipient = Recipient { notify: Some(Notify::NEVER), ..Recipient::from(sender.clone()) };
    Envelope {
        sender: None,
        recipients: vec![recipient],
        body: written.body,
        smtputf8: written.smtputf8,
        ret: None,
        envid: None,
    }
}

fn counter_of(kind: Kind) -> usize {
    match kind {
        Kind::Failure => counter::FAILURE,
        Kind::Delay => counter::DELAY,
        Kind::Success => counter::SUCCESS,
    }
}

fn log_refused(request: &DeliverRequest, outcome: &Outcome) {
    let (what, reply) = match outcome {
        Outcome::Failed(reply) => ("failed", reply),
        Outcome::Deferred(reply) => ("deferred", reply),
        Outcome::Delivered(by) => ("delivered", &by.reply),
    };
    tracing::info!(
        id = %request.id, recipients = request.recipients.len(), host = %request.host.escape_debug(),
        size = request.size, status = %reply.status, delay_ms = delay_ms(request), reply = reply.text,
        "{what}"
    );
}

/// How long ago the message was accepted.
fn delay_ms(request: &DeliverRequest) -> u64 {
    let delay = Timestamp::from(SystemTime::now()).since(request.accepted_at);
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}

fn delivered(text: &str) -> Outcome {
    let reply = Reply::ours(StatusCode::new(2, 0, 0), text);
    Outcome::Delivered(Delivered { reply, report: SuccessReport::PassedOn })
}

fn deferred(request: &DeliverRequest, refusal: &Refusal) -> Outcome {
    let (detail, text) = match refusal {
        Refusal::Read(error) => {
            tracing::warn!(id = %request.id, handle = %request.handle, %error, "message cannot be read for its report");
            (0, "message cannot be read from the queue")
        }
        Refusal::Intake(error) => {
            tracing::error!(id = %request.id, %error, "report cannot be committed");
            match error {
                IntakeError::Full(_) => (1, "no space in the queue for a report"),
                IntakeError::Busy => (2, "too much is being written for a report"),
                IntakeError::Io { .. } | IntakeError::Closed => (0, "report cannot be written"),
            }
        }
        Refusal::GateClosed => (2, "the time for this attempt ran out"),
    };
    Outcome::Deferred(Reply::ours(StatusCode::new(4, 3, detail), text))
}

#[cfg(test)]
mod tests;
