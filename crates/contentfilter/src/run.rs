//! The worker: reads drafts by handle and answers with a verdict.
//!
//! ```text
//! inspect, no draft yet ─▶ accept            (built-in filters look at whole messages)
//! inspect, draft ─▶ wait for a turn ─▶ read its first bytes ─▶ judge: at once when small, else on a thread of its own ─▶ verdict
//! ```
//!
//! Whatever of this is not done shortly before the deadline is given up, and the filters' `on_failure` decides: nobody would read
//! a later answer, and work for nobody would make all that follows late too.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm::fault;
use farm::{Worker, WorkerError};
use job::inspect::{DraftFacts, Inspect, InspectAnswer, InspectRequest, Step, Verdict};
use mail::Address;
use queue::{ReadError, Reader};
use socket::{Responder, Service};
use tokio::sync::Semaphore;

use crate::rules::{Filters, Judgement};
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

/// A message up to this size is judged on the runtime's thread, in bytes: it takes less time than handing it over.
const INLINE_BYTES_MAX: usize = 32 << 10;
/// How many messages a worker reads and judges at once: what they may take of memory is this times `scan_bytes_max`.
const SCANS_MAX: usize = 8;

/// How long before its deadline a message is given up: the answer must still get there.
const ANSWER_TIME: Duration = Duration::from_millis(100);
/// Why filters could not look at a message that was given up.
const LATE: &str = "no time left";

/// Runs a worker of farm `contentfilter` until it has drained.
pub async fn run(
    worker: Worker,
    assignment: Assignment,
    reader: Rc<dyn Reader>,
) -> Result<(), Error> {
    let filters = Filters::new(&assignment.settings).map_err(Error::Filter)?;
    let scanner = Scanner {
        filters: Arc::new(filters),
        scan_bytes_max: usize::try_from(assignment.settings.scan_bytes_max.0).unwrap_or(usize::MAX),
        reader,
        scans: Arc::new(Semaphore::new(SCANS_MAX)),
    };
    let inner = Inner { worker: worker.clone(), scanner };
    worker.serve::<Inspect>("contentfilter.inspect", Rc::new(Inspector(Rc::new(inner))))?;
    worker.ready();
    worker.draining().await;
    worker.drained().await;
    Ok(())
}

struct Inspector(Rc<Inner>);

struct Inner {
    worker: Worker,
    scanner: Scanner,
}

/// Reads drafts and has them judged.
struct Scanner {
    filters: Arc<Filters>,
    scan_bytes_max: usize,
    reader: Rc<dyn Reader>,
    scans: Arc<Semaphore>,
}

impl Service<Inspect> for Inspector {
    fn call(&self, request: InspectRequest, responder: Responder<Inspect>) {
        let draft = match (request.step, request.draft) {
            (Step::Message, Some(draft)) => draft,
            _ => return responder.answer(&answer(Verdict::Accept, Vec::new())),
        };
        let inner = Rc::clone(&self.0);
        let sender = request.envelope.as_ref().and_then(|envelope| envelope.sender.as_ref());
        fault::taken("contentfilter", sender.map(Address::as_str));
        fault::point("contentfilter.inspect.before");
        tokio::task::spawn_local(async move {
            let end = responder.deadline().map(time_to_give_up);
            let judged = inner.scanner.inspect(&draft, end, || responder.is_connected()).await;
            let Some((judgement, scanned_bytes)) = judged else { return };
            inner.worker.count(counter::SCANNED_BYTES, scanned_bytes);
            inner.note(&draft, &judgement);
            fault::point("contentfilter.inspect.after");
            responder.answer(&answer(judgement.verdict, judgement.edits));
        });
    }
}

fn answer(verdict: Verdict, edits: Vec<mail::Edit>) -> InspectAnswer {
    InspectAnswer { verdict, recipients: Vec::new(), edits, replaced_body: None }
}

impl Inner {
    fn note(&self, draft: &DraftFacts, judgement: &Judgement) {
        let count = |counter| self.worker.count(counter, 1);
        count(counter::INSPECTED);
        for failure in &judgement.failures {
            count(counter::FAILURES);
            tracing::warn!(id = %draft.id, failure = %failure.escape_debug(), "a filter could not be asked");
        }
        let verdict = match &judgement.verdict {
            Verdict::Accept => return,
            Verdict::Reject(_) => (counter::REJECTED, "reject"),
            Verdict::Tempfail(_) => (counter::TEMPFAILED, "tempfail"),
            Verdict::Quarantine { .. } => (counter::QUARANTINED, "quarantine"),
            Verdict::Discard => (counter::DISCARDED, "discard"),
        };
        count(verdict.0);
        let filter = judgement.by.as_deref().unwrap_or_default();
        tracing::info!(id = %draft.id, size = draft.size, verdict = verdict.1, %filter, "filtered");
    }
}

impl Scanner {
    /// Judges a draft, and says how many bytes were looked at. What is not done at `end` is given up, and the filters say what
    /// follows from that. Nothing is looked at, or said, if nobody waits for the verdict any more.
    async fn inspect(
        &self,
        draft: &DraftFacts,
        end: Option<Instant>,
        is_wanted: impl Fn() -> bool,
    ) -> Option<(Judgement, u64)> {
        let without_content = |content| (self.filters.judge(draft.size, content), 0);
        if !self.filters.need_content() {
            return Some(without_content(Ok(&[])));
        }
        let Some(Ok(permit)) = in_time(end, Arc::clone(&self.scans).acquire_owned()).await else {
            return Some(without_content(Err(LATE)));
        };
        if !is_wanted() {
            return None;
        }
        let content = match in_time(end, read(&*self.reader, draft, self.scan_bytes_max)).await {
            Some(Ok(content)) => content,
            Some(Err(error)) => return Some(without_content(Err(&error.to_string()))),
            None => return Some(without_content(Err(LATE))),
        };
        if end.is_some_and(|end| end <= Instant::now()) {
            return Some(without_content(Err(LATE)));
        }
        let (size, scanned) = (draft.size, content.len() as u64);
        if content.len() <= INLINE_BYTES_MAX {
            return Some((self.filters.judge(size, Ok(&content)), scanned));
        }
        let filters = Arc::clone(&self.filters);
        let judging = tokio::task::spawn_blocking(move || {
            // Work that is given up goes on to its end, and its memory counts as long.
            let _permit = permit;
            filters.judge(size, Ok(&content))
        });
        match in_time(end, judging).await {
            Some(Ok(judgement)) => Some((judgement, scanned)),
            // A panic is this worker's death in every role: the message gets its strike.
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => Some((self.filters.judge(size, Err(LATE)), scanned)),
        }
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

/// Reads the first bytes of a draft, at most `bytes_max`.
pub(crate) async fn read(
    reader: &dyn Reader,
    draft: &DraftFacts,
    bytes_max: usize,
) -> Result<Vec<u8>, ReadError> {
    let mut body = reader.open_draft(&draft.handle).await?;
    let size = usize::try_from(body.size()).unwrap_or(usize::MAX);
    let mut content = Vec::with_capacity(size.min(bytes_max));
    while content.len() < bytes_max
        && let Some(piece) = body.next().await?
    {
        let room = bytes_max - content.len();
        content.extend_from_slice(piece.get(..room).unwrap_or(&piece));
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
