//! One message, from 354 to the reply to its last dot.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use farm::fault;
use job::ENVELOPE_RECIPIENTS_MAX;
use job::inspect::{DraftFacts, InspectAnswer, Refusal, ReplacedBody, Verdict};
use job::route::{RouteFacts, RouteRequest};
use mail::{Edit, Envelope, MessageId, StatusCode, Timestamp, header};
use queue::{Accept, Draft, Handle, IntakeError};
use smtp::server::{HopCounter, Reply};

use crate::door::Stage;
use crate::inspection::{Inspection, Known};
use crate::neighbours::{Job, Unavailable};
use crate::session::error_chain;
use crate::verdict::{Decision, decide};
use crate::{Counter, OnFilterCrash};

/// After so many bytes the store is asked whether it has caught up.
const ROOM_BYTES: usize = 64 << 10;

/// A message that is being received.
pub(crate) struct Incoming {
    draft: Box<dyn Draft>,
    id: MessageId,
    size: u64,
    /// Bytes written since the store was last asked for room.
    unasked: usize,
    /// The beginning of what the client sent, until it shows whether it is a header field.
    opening: Option<Vec<u8>>,
    hops: HopCounter,
    hops_max: u32,
    began: Instant,
    _in_hand: Job,
}

/// What became of a message.
enum Fate {
    Stored(Handle, Option<RouteFacts>),
    Discarded,
}

/// How long the parts of a message's way through this stage took.
#[derive(Default)]
struct Delays {
    receive: Duration,
    filter: Duration,
    commit: Duration,
}

/// What a filter left of a message.
struct Filtered {
    envelope: Envelope,
    hold: Option<String>,
    edits: Vec<Edit>,
    replaced_body: Option<ReplacedBody>,
}

impl Incoming {
    pub(crate) fn new(draft: Box<dyn Draft>, stage: &Stage) -> Self {
        Self {
            id: draft.id(),
            draft,
            size: 0,
            unasked: 0,
            opening: Some(Vec::new()),
            hops: HopCounter::default(),
            hops_max: stage.settings.hops_max,
            began: Instant::now(),
            _in_hand: stage.neighbours.job(),
        }
    }

    pub(crate) fn id(&self) -> MessageId {
        self.id
    }

    /// Writes a line of ours.
    pub(crate) fn write_own(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        self.size += bytes.len() as u64;
        self.unasked += bytes.len();
        self.draft.write(bytes)
    }

    /// Writes what the client sent. What does not begin with a header field is kept out of our own, which stands before it.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        self.hops.feed(bytes);
        let Some(mut opening) = self.opening.take() else { return self.write_own(bytes) };
        let whole = match opening.is_empty() {
            true => bytes,
            false => {
                opening.extend_from_slice(bytes);
                &opening
            }
        };
        match header::opens_with_field(whole) {
            Some(true) => self.write_own(whole),
            Some(false) => {
                self.write_own(b"\r\n")?;
                self.write_own(whole)
            }
            None => {
                self.opening = Some(whole.to_vec());
                Ok(())
            }
        }
    }

    /// Waits until the store has caught up, if much has been written since the last time.
    pub(crate) async fn room(&mut self) -> Result<(), IntakeError> {
        if self.unasked < ROOM_BYTES {
            return Ok(());
        }
        self.unasked = 0;
        self.draft.room().await
    }

    /// Whether the message has been received so often that it must be in a loop.
    pub(crate) fn goes_in_circles(&self) -> bool {
        self.hops.hops() > self.hops_max
    }

    /// Has the message filtered, stores it, tells router of it, and says what the client is to hear.
    pub(crate) async fn end(
        self: Box<Self>,
        stage: &Rc<Stage>,
        known: Known<'_>,
        inspection: Option<&Inspection>,
        envelope: Envelope,
    ) -> Reply {
        let sender = envelope.sender.clone();
        let recipients = envelope.recipients.len();
        let (id, size, began) = (self.id, self.size, self.began);
        let mut delays = Delays { receive: began.elapsed(), ..Delays::default() };
        let result = self.take(stage, known, inspection, envelope, &mut delays).await;
        let (reply, what, counter) = match &result {
            Ok(Fate::Stored(..)) => (queued(id), "accepted", Counter::Accepted),
            Ok(Fate::Discarded) => (queued(id), "discarded", Counter::Discarded),
            Err(reply) if reply.code >= 500 => (reply.clone(), "rejected", Counter::Rejected),
            Err(reply) => (reply.clone(), "put off", Counter::Tempfailed),
        };
        stage.neighbours.count(counter, 1);
        tracing::info!(
            id = id.as_str(),
            client = %known.client.address,
            helo = known.helo,
            sender = sender.as_ref().map_or("<>", |sender| sender.as_str()),
            recipients,
            size,
            reply = %reply,
            delay_ms = began.elapsed().as_millis() as u64,
            %delays,
            "{what}"
        );
        if let Ok(Fate::Stored(handle, facts)) = result {
            stage.neighbours.count(Counter::Bytes, size);
            stage.neighbours.route(RouteRequest { handle, id, routing: 1, facts });
            fault::point("smtpserver.route.after");
        }
        reply
    }

    async fn take(
        mut self: Box<Self>,
        stage: &Rc<Stage>,
        known: Known<'_>,
        inspection: Option<&Inspection>,
        envelope: Envelope,
        delays: &mut Delays,
    ) -> Result<Fate, Reply> {
        let origin = known.origin();
        let filtered = if let Some(inspection) = inspection {
            let since = Instant::now();
            let filtered = self.filter(stage, known, inspection, envelope).await;
            delays.filter = since.elapsed();
            match filtered? {
                Some(filtered) => filtered,
                None => return Ok(Fate::Discarded),
            }
        } else {
            Filtered { envelope, hold: None, edits: Vec::new(), replaced_body: None }
        };
        let Filtered { envelope, hold, edits, replaced_body } = filtered;
        let size = replaced_body.as_ref().map_or(self.size, |replaced| replaced.size);
        let replaced_body = replaced_body.map(|replaced| replaced.handle);
        let since = Instant::now();
        let accepted_at = Timestamp::from(SystemTime::now());
        let route_facts = (envelope.recipients.len() <= ENVELOPE_RECIPIENTS_MAX).then(|| {
            let (envelope, hold) = (envelope.clone(), hold.clone());
            RouteFacts { envelope, size, accepted_at, hold }
        });
        let accept = Accept { envelope, origin, accepted_at, edits, hold, replaced_body };
        fault::point("smtpserver.commit.before");
        let committed = self.draft.commit(accept).await;
        fault::point("smtpserver.commit.after");
        delays.commit = since.elapsed();
        match committed {
            Ok(handle) => Ok(Fate::Stored(handle, route_facts)),
            Err(error) => Err(not_stored(self.id, &error)),
        }
    }

    /// Asks the filters, and decides by what they say. Nothing is left of a message that is to be discarded. Filters that give no
    /// answer put the message off; only when they crash at it is that for their settings to say.
    async fn filter(
        &mut self,
        stage: &Rc<Stage>,
        known: Known<'_>,
        inspection: &Inspection,
        envelope: Envelope,
    ) -> Result<Option<Filtered>, Reply> {
        let handle = self.draft.finish().await.map_err(|error| not_stored(self.id, &error))?;
        let draft = DraftFacts { handle, id: self.id, size: self.size, stored: false };
        let (answer, mut envelope) = inspection.message(stage, known, envelope, draft).await;
        let answer = answer.unwrap_or_else(|error| {
            InspectAnswer::from(verdict_of_silence(&error, stage.on_filter_crash))
        });
        let recipients = std::mem::take(&mut envelope.recipients);
        match decide(&answer, recipients, stage.settings.mixed) {
            Decision::Refuse(reply) => Err(reply),
            Decision::Discard => Ok(None),
            Decision::Take { recipients, hold } => {
                envelope.recipients = recipients;
                let InspectAnswer { edits, replaced_body, sender, .. } = answer;
                if let Some(sender) = sender {
                    envelope.sender = sender.address;
                }
                let mut addresses = envelope.recipients.iter().map(|one| &one.address);
                envelope.smtputf8 |= !addresses.all(|address| address.is_ascii())
                    || !envelope.sender.as_ref().is_none_or(|address| address.is_ascii());
                Ok(Some(Filtered { envelope, hold, edits, replaced_body }))
            }
        }
    }
}

/// Milliseconds for receiving, filtering and committing.
impl fmt::Display for Delays {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [receive, filter, commit] =
            [self.receive, self.filter, self.commit].map(|delay| delay.as_millis());
        write!(formatter, "{receive}/{filter}/{commit}")
    }
}

/// The verdict on a message on which there is none.
fn verdict_of_silence(error: &Unavailable, on_crash: OnFilterCrash) -> Verdict {
    match (error, on_crash) {
        (Unavailable::Crashed, OnFilterCrash::Accept) => Verdict::Accept,
        (Unavailable::Crashed, OnFilterCrash::Quarantine) => {
            Verdict::Quarantine { reason: "contentfilter crashed at the message".to_owned() }
        }
        _ => Verdict::Tempfail(Refusal {
            code: 451,
            status: StatusCode::new(4, 3, 0),
            text: "Message cannot be checked now, try again later".to_owned(),
        }),
    }
}

fn queued(id: MessageId) -> Reply {
    Reply::new(250, 0, 0, format!("Ok: queued as {id}"))
}

fn not_stored(id: MessageId, error: &IntakeError) -> Reply {
    tracing::error!(id = id.as_str(), error = error_chain(error), "cannot store a message");
    intake_reply(error)
}

/// What a client hears when the store cannot take a message.
pub(crate) fn intake_reply(error: &IntakeError) -> Reply {
    match error {
        IntakeError::Full(_) => Reply::new(452, 3, 1, "No space for messages, try again later"),
        IntakeError::Io { .. } => Reply::new(451, 3, 0, "Cannot store messages, try again later"),
        IntakeError::Closed => Reply::new(451, 3, 2, "Not taking messages, try again later"),
        IntakeError::Busy => Reply::new(451, 3, 2, "Too many messages at once, try again later"),
    }
}
