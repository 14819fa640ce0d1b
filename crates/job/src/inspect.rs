//! `inspect`: smtpserver asks contentfilter about a session and its message, before `250`.
//!
//! ```text
//! smtpserver ── inspect {session, step: connect | helo | mail | recipient} ─▶ contentfilter   (the steps that a filter wants)
//!            ◀─ {verdict, recipients} ─────────────────────────────────────
//!            ── inspect {session, step: message, draft} ───────────────────▶
//!            ◀─ {verdict, recipients, edits, replaced_body, sender, add, remove}
//!            ── inspect {session, step: end | quit} ───────────────────────▶                 (if it keeps something of the session)
//!
//! command line ─ inspect {step: message, draft: stored} ─────────────────▶                 (a held message is looked at again)
//!            ◀─ {verdict, recipients, said}
//! ```
//!
//! One session asks one worker. Every request carries all the facts so far, so that another can take the session over when that one
//! dies. Nothing that was said of one transaction counts for another: each has its number.

use mail::{Address, Edit, Envelope, MessageId, Origin, Recipient, StatusCode};
use queue::Handle;
use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

/// The conversation.
pub enum Inspect {}

impl Conversation for Inspect {
    const NAME: &'static str = "inspect";
    const VERSIONS: &'static [u32] = &[1];
    type Request = InspectRequest;
    type Answer = InspectAnswer;
}

/// One step of a session, with all that is known of it by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectRequest {
    /// The session's name, unique among all smtpserver workers.
    pub session: String,
    /// What has just happened.
    pub step: Step,
    /// Which transaction of the session it is about; each has a number that no other of the session has.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub transaction: u64,
    /// Client facts.
    pub origin: Origin,
    /// The client's port.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub port: u16,
    /// Whether the client may relay: it is one of ours.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub trusted: bool,
    /// Sender and recipients accepted so far, those just given last. Nothing before MAIL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
    /// How many recipients of the envelope have just been given, with the step `recipient`.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub given: u32,
    /// The draft to look at, with the step `message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<DraftFacts>,
}

single_request!(InspectRequest, "inspect");

/// A finished draft, or a message that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftFacts {
    /// Its handle, readable as a draft unless it is `stored`.
    pub handle: Handle,
    /// The id the message will have.
    pub id: MessageId,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it is an accepted message, which is looked at again; of the answer only the verdicts count then.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub stored: bool,
}

/// What has happened in the session; what comes later is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A client connected.
    Connect,
    /// HELO or EHLO.
    Helo,
    /// MAIL.
    Mail,
    /// RCPT, one or several that came together.
    Recipient,
    /// End of data: the draft is finished.
    Message,
    /// The transaction is over; no verdict is wanted.
    End,
    /// The session is over; no verdict is wanted.
    Quit,
}

/// The steps before the message that are asked about as they happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    /// [`Step::Connect`].
    pub connect: bool,
    /// [`Step::Helo`].
    pub helo: bool,
    /// [`Step::Mail`].
    pub mail: bool,
    /// [`Step::Recipient`].
    pub recipient: bool,
}

impl Steps {
    /// None of them: all is asked with the message.
    pub const NONE: Self = Self { connect: false, helo: false, mail: false, recipient: false };
    /// Each of them.
    pub const ALL: Self = Self { connect: true, helo: true, mail: true, recipient: true };

    /// These and those.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            connect: self.connect || other.connect,
            helo: self.helo || other.helo,
            mail: self.mail || other.mail,
            recipient: self.recipient || other.recipient,
        }
    }

    /// Whether a step is among them; the message always is.
    pub fn contain(self, step: Step) -> bool {
        match step {
            Step::Connect => self.connect,
            Step::Helo => self.helo,
            Step::Mail => self.mail,
            Step::Recipient => self.recipient,
            Step::Message => true,
            Step::End | Step::Quit => false,
        }
    }
}

/// The verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectAnswer {
    /// For the message, or for the step.
    pub verdict: Verdict,
    /// For single recipients by their index, where it differs from `verdict`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<(u32, Verdict)>,
    /// Header edits, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
    /// The message with another body: a finished draft of its own, with the header section as it was before the edits. It can be
    /// committed until `end`, or for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_body: Option<ReplacedBody>,
    /// Another sender; `null` within is the null sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<NewSender>,
    /// Recipients to add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Recipient>,
    /// Recipients to remove, by their index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<u32>,
    /// Of a stored message: the filters that did not simply accept it, in their order; of many, the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<Said>,
}

impl From<Verdict> for InspectAnswer {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, ..Self::default() }
    }
}

/// What one filter said of a stored message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The filter's name.
    pub filter: String,
    /// Its verdict, or why it gave none.
    pub what: Heard,
}

/// What was heard of a filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heard {
    /// Its verdict for the message.
    Verdict(Verdict),
    /// Why it could not be asked; `verdict` of the answer is then by its rule.
    Failure(String),
}

/// A draft that takes a message's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedBody {
    /// Its handle.
    pub handle: Handle,
    /// Its size in bytes.
    pub size: u64,
}

/// A sender that a filter wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSender {
    /// The address; nothing is the null sender.
    pub address: Option<Address>,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Take it.
    #[default]
    Accept,
    /// Refuse it for good, in these words.
    Reject(Refusal),
    /// Refuse it for now, in these words.
    Tempfail(Refusal),
    /// Take it, but hold it for this reason.
    Quarantine {
        /// The reason an operator sees.
        reason: String,
    },
    /// Say `250` and forget it.
    Discard,
}

/// The words of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The SMTP reply code, 4xx or 5xx.
    pub code: u16,
    /// The enhanced status code.
    pub status: StatusCode,
    /// The text; line feeds make it several lines.
    pub text: String,
}
