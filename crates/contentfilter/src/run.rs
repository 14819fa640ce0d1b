//! The worker: reads drafts by handle and answers with what the filters say.
//!
//! ```text
//! inspect, an early step ─▶ the filters that want it ─▶ verdict                              (sessions: what filters know of each)
//! inspect, draft ─▶ wait for memory ─▶ read it ─▶ every filter in its turn ─▶ verdict, changes
//! ```
//!
//! Whatever of this is not done shortly before the deadline is given up, and the filters' `on_failure` decides: nobody would read
//! a later answer, and work for nobody would make all that follows late too.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use farm::fault;
use farm::{Worker, WorkerError};
use job::inspect::{
    DraftFacts, Inspect, InspectAnswer, InspectRequest, NewSender, Refusal, Step, Verdict,
};
use mail::{Address, Edit, MessageId, Recipient, StatusCode};
use queue::{ReadError, Reader};
use socket::{Responder, Service};
use tokio::sync::Semaphore;

use crate::bodies::{Bodies, OpenIntake, Replacement};
use crate::chain::Chain;
use crate::filter::Session;
use crate::judgement::Judgement;
use crate::message::Message;
use crate::sessions::Sessions;
use crate::trial::said;
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
pub(crate) const LATE: &str = "no time left";
/// In what units memory is lent, in bytes.
const MEMORY_UNIT: u64 = 1024;
/// The longest answer, as JSON, in bytes: a frame has room for it.
pub(crate) const ANSWER_BYTES_MAX: usize = 768 << 10;
/// What an entry of an answer takes beside its texts, in bytes.
const ENTRY_BYTES: usize = 80;
/// How often sessions that are silent are looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// How long a worker that ends waits for messages to be stored whose other bodies it holds.
const BODIES_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often it looks whether they are.
const BODIES_LOOK: Duration = Duration::from_millis(20);

/// Runs a worker of farm `contentfilter` until it has drained.
pub async fn run(
    worker: Worker,
    assignment: Assignment,
    reader: Rc<dyn Reader>,
    open_intake: OpenIntake,
) -> Result<(), Error> {
    let Assignment { settings, hostname, dns } = &assignment;
    let chain = Chain::new(settings, hostname, dns).map_err(Error::Filter)?;
    let inspector = Inspector::new(chain, reader, open_intake, settings);
    let told = RefCell::default();
    let inner = Rc::new(Inner { worker: worker.clone(), inspector, told });
    worker.serve::<Inspect>("contentfilter.inspect", Rc::new(Served(Rc::clone(&inner))))?;
    let sweeping = tokio::task::spawn_local(sweep(Rc::clone(&inner)));
    worker.ready();
    worker.draining().await;
    worker.drained().await;
    let end = Instant::now() + BODIES_WAIT_MAX;
    while inner.inspector.sessions.bodies() > 0 && Instant::now() < end {
        tokio::time::sleep(BODIES_LOOK).await;
    }
    sweeping.abort();
    Ok(())
}

async fn sweep(inner: Rc<Inner>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        inner.inspector.sessions.sweep(Instant::now());
        inner.inspector.chain.sweep();
    }
}

struct Served(Rc<Inner>);

struct Inner {
    worker: Worker,
    inspector: Inspector,
    /// What `grange status` says of filters that are left out.
    told: RefCell<Option<String>>,
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
            let inspected = inner.inspector.inspect(&request, end, is_wanted).await;
            inner.tell_left_out();
            let Some(inspected) = inspected else { return };
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

impl Inspected {
    /// That a message comes again later, whatever the filters' rules are.
    fn put_off(text: &str) -> Self {
        let refusal =
            Refusal { code: 451, status: StatusCode::new(4, 3, 0), text: text.to_owned() };
        let answer = InspectAnswer::from(Verdict::Tempfail(refusal));
        Self { answer, by: None, failures: Vec::new(), scanned_bytes: 0 }
    }
}

impl Inner {
    /// Has `grange status` say which filters are left out, if that has changed.
    fn tell_left_out(&self) {
        let left_out = self.inspector.chain.left_out();
        if *self.told.borrow() != left_out {
            self.worker.notice(left_out.as_deref());
            self.told.replace(left_out);
        }
    }

    fn note(&self, request: &InspectRequest, inspected: &Inspected) {
        let count = |counter| self.worker.count(counter, 1);
        let id = request.draft.as_ref().map(|draft| draft.id);
        for failure in &inspected.failures {
            count(counter::FAILURES);
            let failure = failure.escape_debug();
            tracing::warn!(id = id.as_ref().map(MessageId::as_str), %failure, "a filter could not be asked");
        }
        let Some(draft) = &request.draft else {
            return count(counter::STEPS);
        };
        count(counter::INSPECTED);
        self.worker.count(counter::SCANNED_BYTES, inspected.scanned_bytes);
        if inspected.answer.replaced_body.is_some() {
            count(counter::BODIES_REPLACED);
        }
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

impl From<Judgement> for Inspected {
    fn from(judgement: Judgement) -> Self {
        let answer = InspectAnswer {
            verdict: judgement.verdict(),
            recipients: judgement.recipients(),
            edits: Vec::new(),
            replaced_body: None,
            sender: judgement.sender.map(|address| NewSender { address }),
            add: judgement.add,
            remove: judgement.remove.into_iter().collect(),
            said: Vec::new(),
        };
        let Judgement { by, failures, .. } = judgement;
        Self { answer, by, failures, scanned_bytes: 0 }
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
    sessions: Sessions,
    bodies: Bodies,
}

impl Inspector {
    pub(crate) fn new(
        chain: Chain,
        reader: Rc<dyn Reader>,
        open_intake: OpenIntake,
        settings: &crate::Settings,
    ) -> Self {
        let units = settings.memory_max.0 / MEMORY_UNIT;
        let memory_units = u32::try_from(units).unwrap_or(u32::MAX).max(1);
        Self {
            chain,
            scan_bytes_max: usize::try_from(settings.scan_bytes_max.0).unwrap_or(usize::MAX),
            reader,
            memory: Arc::new(Semaphore::new(memory_units as usize)),
            memory_units,
            sessions: Sessions::default(),
            bodies: Bodies::new(open_intake),
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
        let name = &*request.session;
        let known = self.sessions.take(name);
        if request.step == Step::Quit {
            return Some(Inspected::from(Judgement::default()));
        }
        let mut looks = known.unwrap_or_else(|| self.chain.open());
        looks.enter(request.transaction);
        let mut session = session_of(request);
        let mut body = None;
        let inspected = match (request.step, &request.draft) {
            (Step::Message, Some(draft)) => {
                let read = self.message(draft, end, &is_wanted).await?;
                let mut tried = draft.stored.then(Vec::new);
                let tell = tried.as_mut();
                let (judgement, message) =
                    self.chain.message(&mut looks, &mut session, read, end, tell).await;
                looks.reset();
                let inspected = self.with_changes(judgement, &message, draft.stored).await;
                let (mut inspected, replacement) = inspected;
                inspected.answer.said = said(tried.unwrap_or_default());
                body = replacement;
                inspected
            }
            // Nobody has looked at it.
            (Step::Message, None) => Inspected::put_off("message cannot be looked at now"),
            (Step::End, _) => {
                looks.reset();
                Inspected::from(Judgement::default())
            }
            (step, _) => {
                Inspected::from(self.chain.step(&mut looks, &mut session, step, end).await)
            }
        };
        let is_remembered = self.chain.has_early_steps()
            && !request.draft.as_ref().is_some_and(|draft| draft.stored);
        self.sessions.keep(name, is_remembered.then_some(looks), body);
        Some(inspected)
    }

    /// What is said of a message, with its changes. If there are other bodies than can be kept, or it cannot be written, the message is
    /// put off.
    async fn with_changes(
        &self,
        judgement: Judgement,
        message: &Message,
        is_stored: bool,
    ) -> (Inspected, Option<Replacement>) {
        let mut inspected = Inspected::from(judgement);
        inspected.scanned_bytes = message.scanned_bytes() as u64;
        let is_taken =
            matches!(inspected.answer.verdict, Verdict::Accept | Verdict::Quarantine { .. })
                || !inspected.answer.recipients.is_empty();
        if !is_stored && is_taken {
            inspected.answer.edits = message.edits().to_vec();
        }
        let fits = answer_bytes(&inspected.answer) <= ANSWER_BYTES_MAX;
        let other = message.replaced().filter(|_| !is_stored && is_taken);
        let written = match other {
            _ if !fits => Err("more changes than can be told".to_owned()),
            None => return (inspected, None),
            Some(_) if !self.sessions.has_room() => Err("too many bodies at once".to_owned()),
            Some(other) => self.bodies.write(other).await,
        };
        match written {
            Ok(replacement) => {
                inspected.answer.replaced_body = Some(replacement.body.clone());
                (inspected, Some(replacement))
            }
            Err(why) => {
                let mut put_off = Inspected::put_off("message cannot be changed now");
                put_off.failures = inspected.failures;
                put_off.failures.push(format!("the message cannot be changed: {why}"));
                (put_off, None)
            }
        }
    }

    /// Reads a draft; or gives one without content and the reason why.
    async fn message(
        &self,
        draft: &DraftFacts,
        end: Option<Instant>,
        is_wanted: &impl Fn() -> bool,
    ) -> Option<Result<Message, (Message, String)>> {
        let message =
            |content, memory| Message::new(draft.size, content, self.scan_bytes_max, memory);
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
            Some(Ok((content, edits))) => {
                let message = message(content, Some(memory));
                Some(Ok(if edits.is_empty() { message } else { message.with(&edits, None) }))
            }
            Some(Err(error)) => without(&error.to_string()),
            None => without(LATE),
        }
    }
}

/// How long an answer is as JSON, and rather less than more is left out.
fn answer_bytes(answer: &InspectAnswer) -> usize {
    let text = |text: &str| {
        let bytes = text.bytes().map(|byte| match byte {
            0..0x20 => 6,
            b'"' | b'\\' => 2,
            _ => 1,
        });
        bytes.sum::<usize>()
    };
    let verdict = |verdict: &Verdict| match verdict {
        Verdict::Reject(refusal) | Verdict::Tempfail(refusal) => text(&refusal.text),
        Verdict::Quarantine { reason } => text(reason),
        Verdict::Accept | Verdict::Discard => 0,
    };
    let edit = |edit: &Edit| match edit {
        Edit::Prepend { name, value }
        | Edit::Append { name, value }
        | Edit::Insert { name, value, .. } => text(name) + text(value),
        Edit::Change { name, value, .. } => text(name) + value.as_deref().map_or(0, text),
    };
    let recipient = |recipient: &Recipient| {
        text(recipient.address.as_str()) + recipient.orcpt.as_deref().map_or(0, text)
    };
    let entries = answer.recipients.iter().map(|(_, own)| verdict(own));
    let entries = entries.chain(answer.edits.iter().map(edit));
    let entries = entries.chain(answer.add.iter().map(recipient));
    entries.map(|bytes| bytes + ENTRY_BYTES).sum::<usize>()
        + verdict(&answer.verdict)
        + 16 * answer.remove.len()
}

fn session_of(request: &InspectRequest) -> Session {
    let origin = &request.origin;
    Session {
        address: origin.client,
        port: request.port,
        trusted: request.trusted,
        service: origin.service.clone(),
        helo: origin.helo.clone(),
        protocol: origin.protocol.clone(),
        user: origin.user.clone(),
        envelope: request.envelope.clone().map(Rc::new),
        given: usize::try_from(request.given).unwrap_or(usize::MAX),
        id: request.draft.as_ref().map(|draft| draft.id),
        ..Session::default()
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

/// Reads a draft, or a stored message with its edits; it must be as long as it is said to be.
async fn read(reader: &dyn Reader, draft: &DraftFacts) -> Result<(Bytes, Vec<Edit>), ReadError> {
    let (mut body, edits) = match draft.stored {
        false => (reader.open_draft(&draft.handle).await?, Vec::new()),
        true => {
            let stored = reader.open(&draft.handle).await?;
            (stored.body, stored.accepted.accept.edits)
        }
    };
    let most = usize::try_from(draft.size).unwrap_or(usize::MAX);
    // Most messages are one piece, which needs not be copied.
    let first = body.next().await?.unwrap_or_default();
    let mut content = BytesMut::new();
    let mut bytes = first.len();
    while let Some(piece) = body.next().await? {
        if content.is_empty() {
            content.extend_from_slice(&first);
        }
        content.extend_from_slice(&piece);
        bytes = content.len();
        if bytes > most {
            break;
        }
    }
    if bytes != most {
        let why = format!("{bytes} bytes or more where there should be {most}");
        return Err(ReadError::Gone(draft.handle.clone(), why));
    }
    Ok((if content.is_empty() { first } else { content.freeze() }, edits))
}

#[cfg(test)]
mod tests;
