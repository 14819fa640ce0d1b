//! The worker: reads drafts by handle and answers with what the filters say.
//!
//! ```text
//! inspect, an early step ─▶ the filters that want it ─▶ verdict
//! inspect, draft ─▶ wait for memory ─▶ read it ─▶ every filter in its turn ─▶ verdict, changes
//! ```
//!
//! Whatever of this is not done shortly before the deadline is given up, and the filters' `on_failure` decides: nobody would read
//! a later answer, and work for nobody would make all that follows late too.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use farm::fault;
use farm::{Worker, WorkerError};
use job::inspect::{DraftFacts, Inspect, InspectAnswer, InspectRequest, Step, Verdict};
use mail::{Address, MessageId};
use queue::{ReadError, Reader};
use socket::{Responder, Service};
use tokio::sync::Semaphore;

use crate::chain::Chain;
use crate::filter::Session;
use crate::judgement::Judgement;
use crate::message::Message;
use crate::{Assignment, counter};

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A filter cannot be made ready.
    #[error("contentfilter: {0}")]
    Filter(String),
    /// The worker could not begin.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// How long before its deadline a message is given up: the answer must still get there.
const ANSWER_TIME: Duration = Duration::from_millis(100);
/// Why filters could not look at a message that was given up.
const LATE: &str = "no time left";
/// In what units memory is lent, in bytes.
const MEMORY_UNIT: u64 = 1024;

/// Runs a worker of farm `contentfilter` until it has drained.
pub async fn run(
    worker: Worker,
    assignment: Assignment,
    reader: Rc<dyn Reader>,
) -> Result<(), Error> {
    let Assignment { settings, hostname, dns } = &assignment;
    let chain = Chain::new(settings, hostname, dns).map_err(Error::Filter)?;
    let inspector = Inspector::new(chain, reader, settings);
    let inner = Inner { worker: worker.clone(), inspector };
    worker.serve::<Inspect>("contentfilter.inspect", Rc::new(Served(Rc::new(inner))))?;
    worker.ready();
    worker.draining().await;
    worker.drained().await;
    Ok(())
}

struct Served(Rc<Inner>);

struct Inner {
    worker: Worker,
    inspector: Inspector,
}

impl Service<Inspect> for Served {
    fn call(&self, request: InspectRequest, responder: Responder<Inspect>) {
        let inner = Rc::clone(&self.0);
        let sender = request.envelope.as_ref().and_then(|envelope| envelope.sender.as_ref());
        fault::taken("contentfilter", sender.map(Address::as_str));
        fault::point("contentfilter.inspect.before");
        tokio::task::spawn_local(async move {
            let end = responder.deadline().map(time_to_give_up);
            let is_wanted = || responder.is_connected();
            let Some(inspected) = inner.inspector.inspect(&request, end, is_wanted).await else {
                return;
            };
            inner.note(&request, &inspected);
            fault::point("contentfilter.inspect.after");
            responder.answer(&inspected.answer);
        });
    }
}

/// What came of a request.
pub(crate) struct Inspected {
    pub(crate) answer: InspectAnswer,
    by: Option<String>,
    failures: Vec<String>,
    scanned_bytes: u64,
}

impl Inner {
    fn note(&self, request: &InspectRequest, inspected: &Inspected) {
        let count = |counter| self.worker.count(counter, 1);
        let id = request.draft.as_ref().map(|draft| draft.id);
        for failure in &inspected.failures {
            count(counter::FAILURES);
            let failure = failure.escape_debug();
            tracing::warn!(id = id.as_ref().map(MessageId::as_str), %failure, "a filter could not be asked");
        }
        let Some(draft) = &request.draft else { return };
        count(counter::INSPECTED);
        self.worker.count(counter::SCANNED_BYTES, inspected.scanned_bytes);
        let verdict = match &inspected.answer.verdict {
            Verdict::Accept => return,
            Verdict::Reject(_) => (counter::REJECTED, "reject"),
            Verdict::Tempfail(_) => (counter::TEMPFAILED, "tempfail"),
            Verdict::Quarantine { .. } => (counter::QUARANTINED, "quarantine"),
            Verdict::Discard => (counter::DISCARDED, "discard"),
        };
        count(verdict.0);
        let filter = inspected.by.as_deref().unwrap_or_default();
        tracing::info!(id = %draft.id, size = draft.size, verdict = verdict.1, %filter, "filtered");
    }
}

/// Reads drafts and asks the filters.
pub(crate) struct Inspector {
    chain: Chain,
    scan_bytes_max: usize,
    reader: Rc<dyn Reader>,
    /// What is left of the memory for messages, in units.
    memory: Arc<Semaphore>,
    memory_units: u32,
}

impl Inspector {
    pub(crate) fn new(chain: Chain, reader: Rc<dyn Reader>, settings: &crate::Settings) -> Self {
        let units = settings.memory_max.0 / MEMORY_UNIT;
        let memory_units = u32::try_from(units).unwrap_or(u32::MAX).max(1);
        Self {
            chain,
            scan_bytes_max: usize::try_from(settings.scan_bytes_max.0).unwrap_or(usize::MAX),
            reader,
            memory: Arc::new(Semaphore::new(memory_units as usize)),
            memory_units,
        }
    }

    /// Has the filters look. What is not done at `end` is given up, and the filters say what follows from that. Nothing is looked at, or
    /// said, if nobody waits for the answer any more.
    pub(crate) async fn inspect(
        &self,
        request: &InspectRequest,
        end: Option<Instant>,
        is_wanted: impl Fn() -> bool,
    ) -> Option<Inspected> {
        let mut session = session_of(request);
        let mut looks = self.chain.open();
        match (request.step, &request.draft) {
            (Step::Message, Some(draft)) => {
                let read = self.message(draft, end, &is_wanted).await?;
                let (judgement, message) =
                    self.chain.message(&mut looks, &mut session, read, end).await;
                Some(self.answer(judgement, Some(&message)))
            }
            (Step::Message | Step::End, _) => Some(self.answer(Judgement::default(), None)),
            (step, _) => {
                let judgement = self.chain.step(&mut looks, &mut session, step, end).await;
                Some(self.answer(judgement, None))
            }
        }
    }

    fn answer(&self, judgement: Judgement, message: Option<&Message>) -> Inspected {
        Inspected {
            answer: InspectAnswer {
                verdict: judgement.verdict(),
                recipients: judgement.recipients(),
                edits: message.map_or_else(Vec::new, |message| message.edits().to_vec()),
                replaced_body: None,
            },
            scanned_bytes: message.map_or(0, |message| message.scanned_bytes() as u64),
            by: judgement.by,
            failures: judgement.failures,
        }
    }

    /// Reads a draft; or gives one without content and the reason why.
    async fn message(
        &self,
        draft: &DraftFacts,
        end: Option<Instant>,
        is_wanted: &impl Fn() -> bool,
    ) -> Option<Result<Message, (Message, String)>> {
        let message = |content, memory| {
            Message::new(draft.id, draft.size, content, self.scan_bytes_max, memory)
        };
        if !self.chain.needs_content() {
            return Some(Ok(message(Bytes::new(), None)));
        }
        let without = |why: &str| Some(Err((message(Bytes::new(), None), why.to_owned())));
        let units = u32::try_from(draft.size / MEMORY_UNIT).unwrap_or(u32::MAX).max(1);
        let units = units.min(self.memory_units);
        let lent = in_time(end, Arc::clone(&self.memory).acquire_many_owned(units)).await;
        let Some(Ok(memory)) = lent else { return without(LATE) };
        if !is_wanted() {
            return None;
        }
        match in_time(end, read(&*self.reader, draft)).await {
            Some(Ok(content)) => Some(Ok(message(content, Some(memory)))),
            Some(Err(error)) => without(&error.to_string()),
            None => without(LATE),
        }
    }
}

fn session_of(request: &InspectRequest) -> Session {
    let origin = &request.origin;
    Session {
        address: origin.client,
        port: 0,
        trusted: false,
        service: origin.service.clone(),
        helo: origin.helo.clone(),
        protocol: origin.protocol.clone(),
        user: origin.user.clone(),
        envelope: request.envelope.clone().map(Rc::new),
        given: 0,
        id: request.draft.as_ref().map(|draft| draft.id),
    }
}

/// When to give up what must be answered by `deadline`.
fn time_to_give_up(deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    deadline.checked_sub(ANSWER_TIME.min(left / 4)).unwrap_or(deadline)
}

/// Waits for `future` up to `end`.
async fn in_time<F: Future>(end: Option<Instant>, future: F) -> Option<F::Output> {
    match end {
        Some(end) => tokio::time::timeout_at(end.into(), future).await.ok(),
        None => Some(future.await),
    }
}

/// Reads a draft, which may not be longer than it is said to be.
async fn read(reader: &dyn Reader, draft: &DraftFacts) -> Result<Bytes, ReadError> {
    let mut body = reader.open_draft(&draft.handle).await?;
    let most = usize::try_from(draft.size).unwrap_or(usize::MAX);
    let mut content = BytesMut::new();
    while let Some(piece) = body.next().await? {
        if content.is_empty() && piece.len() == most {
            return Ok(piece);
        }
        content.extend_from_slice(&piece);
        if content.len() > most {
            let why = format!("longer than {most} bytes");
            return Err(ReadError::Gone(draft.handle.clone(), why));
        }
    }
    Ok(content.freeze())
}

#[cfg(test)]
mod tests;
