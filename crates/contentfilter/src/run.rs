//! The worker: reads drafts by handle and answers with a verdict.
//!
//! ```text
//! inspect, no draft yet ─▶ accept            (built-in filters look at whole messages)
//! inspect, draft ─▶ read its first bytes ─▶ judge: at once when small, else on a thread of its own ─▶ verdict
//! ```

use std::rc::Rc;
use std::sync::Arc;

use farm::{Worker, WorkerError};
use job::inspect::{DraftFacts, Inspect, InspectAnswer, InspectRequest, Step, Verdict};
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

/// Runs a worker of farm `contentfilter` until it has drained.
pub async fn run(
    worker: Worker,
    assignment: Assignment,
    reader: Rc<dyn Reader>,
) -> Result<(), Error> {
    let filters = Filters::new(&assignment.settings).map_err(Error::Filter)?;
    let inner = Inner {
        worker: worker.clone(),
        filters: Arc::new(filters),
        scan_bytes_max: usize::try_from(assignment.settings.scan_bytes_max.0).unwrap_or(usize::MAX),
        reader,
        scans: Semaphore::new(SCANS_MAX),
    };
    worker.serve::<Inspect>("contentfilter.inspect", Rc::new(Inspector(Rc::new(inner))))?;
    worker.ready();
    worker.draining().await;
    worker.drained().await;
    Ok(())
}

struct Inspector(Rc<Inner>);

struct Inner {
    worker: Worker,
    filters: Arc<Filters>,
    scan_bytes_max: usize,
    reader: Rc<dyn Reader>,
    scans: Semaphore,
}

impl Service<Inspect> for Inspector {
    fn call(&self, request: InspectRequest, responder: Responder<Inspect>) {
        let draft = match (request.step, request.draft) {
            (Step::Message, Some(draft)) => draft,
            _ => return responder.answer(&answer(Verdict::Accept, Vec::new())),
        };
        let inner = Rc::clone(&self.0);
        tokio::task::spawn_local(async move {
            let judgement = inner.inspect(&draft).await;
            inner.note(&draft, &judgement);
            responder.answer(&answer(judgement.verdict, judgement.edits));
        });
    }
}

fn answer(verdict: Verdict, edits: Vec<mail::Edit>) -> InspectAnswer {
    InspectAnswer { verdict, recipients: Vec::new(), edits, replaced_body: None }
}

impl Inner {
    async fn inspect(&self, draft: &DraftFacts) -> Judgement {
        if !self.filters.need_content() {
            return self.filters.judge(draft.size, Ok(&[]));
        }
        let _permit = self.scans.acquire().await;
        let content = match read(&*self.reader, draft, self.scan_bytes_max).await {
            Ok(content) => content,
            Err(error) => return self.filters.judge(draft.size, Err(&error.to_string())),
        };
        self.worker.count(counter::SCANNED_BYTES, content.len() as u64);
        if content.len() <= INLINE_BYTES_MAX {
            return self.filters.judge(draft.size, Ok(&content));
        }
        let (filters, size) = (Arc::clone(&self.filters), draft.size);
        let judged = tokio::task::spawn_blocking(move || filters.judge(size, Ok(&content))).await;
        match judged {
            Ok(judgement) => judgement,
            // A panic is this worker's death in every role: the message gets its strike.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

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
