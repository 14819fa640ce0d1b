//! What the filters are told of a session, and what they say before its message.
//!
//! ```text
//!   connect ─▶ greeting or 554, 421     MAIL ─▶ 250 or a refusal          (each step only if a filter wants it)
//!   HELO ────▶ 250 or a refusal         RCPT ─▶ for each: 250 or a refusal
//! ```
//!
//! A session keeps to one worker of `contentfilter`, which remembers it; another is told all of it. A refusal has the reply code of the
//! filter; `421` is said to a client only when it connects, for the session goes on otherwise.

use std::cell::{Cell, OnceCell};

use job::inspect::{DraftFacts, InspectAnswer, InspectRequest, Step, Verdict};
use mail::{Envelope, Origin, Recipient};
use smtp::server::Reply;
use socket::PeerId;

use crate::door::{Client, Stage};
use crate::neighbours::Unavailable;
use crate::verdict::reply;
use crate::{Counter, OnFilterCrash};

/// The largest envelope that filters are asked about, as JSON, in bytes: a frame has room for it and for what else is said.
pub(crate) const ENVELOPE_BYTES_MAX: usize = 768 << 10;
/// What a recipient takes beside its addresses, in bytes.
const RECIPIENT_BYTES: usize = 100;

/// What a session and the filters know of each other.
#[derive(Default)]
pub(crate) struct Inspection {
    /// The session's name, made when a filter is asked first.
    name: OnceCell<Box<str>>,
    /// The worker that was asked last.
    worker: Cell<Option<PeerId>>,
    /// The number of the present transaction.
    transaction: Cell<u64>,
    /// Whether the worker keeps something of the session.
    is_kept: Cell<bool>,
    /// How long the present envelope is, as JSON.
    envelope_bytes: Cell<usize>,
}

/// What is known of a session beside its transaction.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) client: &'a Client,
    pub(crate) helo: Option<&'a str>,
    pub(crate) protocol: &'static str,
}

impl Known<'_> {
    /// Where a message of the session comes from.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            service: self.client.service.name().to_owned(),
            client: Some(self.client.address),
            helo: self.helo.map(str::to_owned),
            protocol: Some(self.protocol.to_owned()),
            user: None,
        }
    }
}

impl Inspection {
    /// A transaction begins.
    pub(crate) fn begin(&self) {
        self.transaction.set(self.transaction.get() + 1);
        self.envelope_bytes.set(0);
    }

    /// Makes room for a recipient in what the filters are told, or says that there is none.
    pub(crate) fn has_room_for(&self, recipient: &Recipient) -> bool {
        let bytes = self.envelope_bytes.get() + json_bytes(recipient);
        let fits = bytes <= ENVELOPE_BYTES_MAX;
        if fits {
            self.envelope_bytes.set(bytes);
        }
        fits
    }

    /// Asks about a step before the message, and says whether the session may go on. Filters that give no answer put the client off;
    /// only when they crash at it is that for their settings to say.
    pub(crate) async fn step(
        &self,
        stage: &Stage,
        known: Known<'_>,
        step: Step,
        envelope: Option<Envelope>,
        given: usize,
    ) -> Result<InspectAnswer, Reply> {
        let mut request = self.request(stage, known, step);
        request.envelope = envelope;
        request.given = u32::try_from(given).unwrap_or(u32::MAX);
        match self.ask(stage, &request).await {
            Ok(answer) => Ok(answer),
            Err(Unavailable::Crashed) if stage.on_filter_crash != OnFilterCrash::Tempfail => {
                Ok(InspectAnswer::default())
            }
            Err(_) => Err(Reply::new(451, 3, 0, "Cannot be checked now, try again later")),
        }
    }

    /// Asks about a message.
    pub(crate) async fn message(
        &self,
        stage: &Stage,
        known: Known<'_>,
        envelope: Envelope,
        draft: DraftFacts,
    ) -> (Result<InspectAnswer, Unavailable>, Envelope) {
        let mut request = self.request(stage, known, Step::Message);
        request.envelope = Some(envelope);
        request.draft = Some(draft);
        let answer = self.ask(stage, &request).await;
        if answer.as_ref().is_ok_and(|answer| answer.replaced_body.is_some()) {
            self.is_kept.set(true);
        }
        let Some(envelope) = request.envelope else { unreachable!("it was put there") };
        (answer, envelope)
    }

    /// Tells the worker that the transaction is over (`end`), or the session (`quit`), if it keeps anything of it.
    pub(crate) fn over(&self, stage: &Stage, known: Known<'_>, step: Step) {
        if let Some(worker) = self.worker.get().filter(|_| self.is_kept.get()) {
            stage.neighbours.inspected(&self.request(stage, known, step), worker);
        }
    }

    async fn ask(
        &self,
        stage: &Stage,
        request: &InspectRequest,
    ) -> Result<InspectAnswer, Unavailable> {
        if request.step != Step::Message {
            self.is_kept.set(true);
        }
        let answer = stage.neighbours.inspect(request, &self.worker).await;
        if let Err(error) = &answer {
            stage.neighbours.count(Counter::InspectFailures, 1);
            let id = request.draft.as_ref().map(|draft| draft.id);
            let id = id.as_ref().map(|id| id.as_str());
            tracing::warn!(id, step = ?request.step, %error, "no verdict");
        }
        answer
    }

    fn request(&self, stage: &Stage, known: Known<'_>, step: Step) -> InspectRequest {
        InspectRequest {
            session: self.name.get_or_init(|| stage.session_name().into()).to_string(),
            step,
            transaction: self.transaction.get(),
            origin: known.origin(),
            port: known.client.port,
            trusted: known.client.may_relay,
            envelope: None,
            given: 0,
            draft: None,
        }
    }
}

/// What a client hears when a step is refused; nothing when the session goes on.
pub(crate) fn refusal(verdict: &Verdict) -> Option<Reply> {
    match verdict {
        Verdict::Reject(refusal) => Some(reply(refusal, 550, 5)),
        Verdict::Tempfail(refusal) => Some(reply(refusal, 451, 4)),
        Verdict::Accept | Verdict::Quarantine { .. } | Verdict::Discard => None,
    }
}

/// What a client hears instead of a greeting.
pub(crate) fn refusal_to_greet(verdict: &Verdict) -> Option<Reply> {
    let refused = refusal(verdict)?;
    let code = if refused.code >= 500 { 554 } else { 421 };
    Some(Reply { code, ..refused })
}

/// The replies to recipients that came together, in their order. `places` says where each stands in the envelope.
pub(crate) fn replies(
    answer: &InspectAnswer,
    places: std::ops::Range<usize>,
) -> Vec<Option<Reply>> {
    let own = |place: usize| {
        let own = answer.recipients.iter().find(|(of, _)| *of as usize == place);
        refusal(own.map_or(&answer.verdict, |(_, verdict)| verdict))
    };
    places.map(own).collect()
}

fn json_bytes(recipient: &Recipient) -> usize {
    // What is escaped takes two bytes, and nothing in an address takes more.
    let orcpt = recipient.orcpt.as_ref().map_or(0, String::len);
    2 * (recipient.address.as_str().len() + orcpt) + RECIPIENT_BYTES
}
