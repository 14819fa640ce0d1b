//! What a filter is, whatever its kind: what it is shown, and what it may find.
//!
//! ```text
//! Filter (one a worker) ── open ─▶ Look (one a session) ◀── step: connect, helo, mail, recipient … ── message ── reset ── …
//! ```
//!
//! A look hears of every step in order: `connect`, `helo`, `mail`, `recipient` once or more often, then the message. Where a filter
//! does not want the early steps as they happen, or another worker knew the session before, it hears of them right before the
//! message; it cannot tell the difference. A look that failed or came too late is dropped.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use job::inspect::{Step, Verdict};
use mail::{Address, Edit, Envelope, MessageId, Recipient};
use queue::Local;

use crate::message::Message;

/// A filter made ready, one for each worker.
pub(crate) trait Filter {
    /// Whether it looks into messages. If not, [`Look::message`] may be shown one that could not be read, which then has no content.
    fn needs_content(&self) -> bool {
        true
    }

    /// Begins to look at a session.
    fn open(self: Rc<Self>, session: &Session) -> Box<dyn Look>;

    /// Is called every ten seconds or so, to let go of what is not used.
    fn sweep(&self) {}
}

/// What one filter knows of one session. Dropped when the session ends, and after a failure.
///
/// The time that a call may take is limited by whoever calls ([`crate::settings::Timeouts`]); a call that is late is dropped, and the
/// look with it.
pub(crate) trait Look {
    /// A step before the message. With `recipient`, those that are new are the last [`Session::given`] of the envelope.
    ///
    /// Of what is found, only the verdicts count here. One for all at `recipient` is one for each that is new.
    fn step<'a>(
        &'a mut self,
        session: &'a Session,
        step: Step,
    ) -> Local<'a, Result<Finding, FilterError>> {
        let _ = (session, step);
        Box::pin(std::future::ready(Ok(Finding::default())))
    }

    /// The message, as the filters before left it.
    fn message<'a>(
        &'a mut self,
        session: &'a Session,
        message: &'a Message,
    ) -> Local<'a, Result<Finding, FilterError>>;

    /// The transaction is over, with a message or without: what is next is `mail`, or `helo`. Nothing of it may be kept.
    fn reset(&mut self) {}
}

/// A filter that looks at messages alone, and remembers nothing of a session.
pub(crate) trait OfMessage {
    /// As in [`Filter`].
    fn needs_content(&self) -> bool {
        true
    }

    /// The message, as the filters before left it.
    async fn find(&self, session: &Session, message: &Message) -> Result<Finding, FilterError>;
}

impl<F: OfMessage + 'static> Filter for F {
    fn needs_content(&self) -> bool {
        OfMessage::needs_content(self)
    }

    fn open(self: Rc<Self>, _: &Session) -> Box<dyn Look> {
        Box::new(AtMessage(self))
    }
}

struct AtMessage<F>(Rc<F>);

impl<F: OfMessage> Look for AtMessage<F> {
    fn message<'a>(
        &'a mut self,
        session: &'a Session,
        message: &'a Message,
    ) -> Local<'a, Result<Finding, FilterError>> {
        Box::pin(self.0.find(session, message))
    }
}

/// What is known of a session at a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// The client's address; nothing for what is ours.
    pub(crate) address: Option<IpAddr>,
    /// Its port.
    pub(crate) port: u16,
    /// Whether it may relay: it is one of ours.
    pub(crate) trusted: bool,
    /// The service: `mx`, `submission`.
    pub(crate) service: String,
    /// The name it gave in HELO or EHLO.
    pub(crate) helo: Option<String>,
    /// `SMTP`, `ESMTP`, `UTF8SMTP`, as the Received field says it.
    pub(crate) protocol: Option<String>,
    /// Who authenticated.
    pub(crate) user: Option<String>,
    /// Sender and recipients, from `mail` on, as the client gave them.
    pub(crate) envelope: Option<Rc<Envelope>>,
    /// How many of the recipients are new, the last ones.
    pub(crate) given: usize,
    /// The message's id, with the message.
    pub(crate) id: Option<MessageId>,
    /// Recipients that filters before have added to the message.
    pub(crate) added: Vec<Recipient>,
    /// Recipients that filters before have removed from it, by their places in the envelope.
    pub(crate) removed: BTreeSet<u32>,
}

impl Session {
    /// The sender; nothing is the null sender, or that there is no transaction.
    pub(crate) fn sender(&self) -> Option<&Address> {
        self.envelope.as_ref()?.sender.as_ref()
    }

    /// All recipients so far.
    pub(crate) fn recipients(&self) -> &[Recipient] {
        self.envelope.as_ref().map_or(&[], |envelope| &envelope.recipients)
    }

    /// The recipients that are new, with their places in the envelope.
    pub(crate) fn new_recipients(&self) -> impl Iterator<Item = (u32, &Recipient)> {
        let all = self.recipients();
        let before = all.len().saturating_sub(self.given);
        (0..).zip(all).skip(before)
    }
}

/// What a filter found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// For the message or the step. `Reject`, `Tempfail` and `Discard` end the walk; after `Accept` and `Quarantine` the next filter is
    /// asked.
    pub(crate) verdict: Verdict,
    /// Whether no later filter is asked although this one accepts.
    pub(crate) is_last: bool,
    /// For single recipients, by their places in the envelope. `Accept` means that no later filter decides on this one.
    pub(crate) recipients: Vec<(u32, Verdict)>,
    /// Changes to the header section as the filter was shown it, in order.
    pub(crate) edits: Vec<Edit>,
    /// A new body, what follows the empty line; it is made text in CRLF lines.
    pub(crate) body: Option<Vec<u8>>,
    /// A new sender; `Some(None)` is the null sender.
    pub(crate) sender: Option<Option<Address>>,
    /// Recipients to add.
    pub(crate) add: Vec<Recipient>,
    /// Recipients to remove, by their places in the envelope.
    pub(crate) remove: Vec<u32>,
    /// Recipients that filters before have added, and that are not to be added after all.
    pub(crate) retract: Vec<Address>,
}

impl Default for Finding {
    fn default() -> Self {
        Self::from(Verdict::Accept)
    }
}

impl From<Verdict> for Finding {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            is_last: false,
            recipients: Vec::new(),
            edits: Vec::new(),
            body: None,
            sender: None,
            add: Vec::new(),
            remove: Vec::new(),
            retract: Vec::new(),
        }
    }
}

/// Why a filter could not say anything: its setting `on_failure` decides then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    /// It cannot be reached.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("took too long")]
    Late,
    /// It went away in the middle.
    #[error("went away: {0}")]
    Lost(String),
    /// It said what makes no sense.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// It said itself that it cannot.
    #[error("{0}")]
    Failed(String),
    /// It failed too often lately, and is not asked for a while.
    #[error("left out for now, it failed too often")]
    LeftOut,
    /// This message cannot be looked at, which says nothing of the filter.
    #[error("{0}")]
    Message(String),
}

impl FilterError {
    /// Whether it tells of the filter, and not of the message.
    pub(crate) fn is_of_filter(&self) -> bool {
        !matches!(self, Self::Message(_) | Self::LeftOut)
    }
}
