//! `inspect`: smtpserver asks contentfilter about a session and its message, before `250`.
//!
//! ```text
//! smtpserver ── inspect {session, step: connect | helo | mail | recipient} ─▶ contentfilter   (only steps it asked for in hello)
//!            ◀─ {verdict} ─────────────────────────────────────────────────
//!            ── inspect {session, step: message, draft} ───────────────────▶
//!            ◀─ {verdict, recipients, edits, replaced_body} ───────────────
//!            ── inspect {session, step: end} ──────────────────────────────▶
//! ```
//!
//! Every request carries all the facts so far, so that another worker can take the session over when one dies.

use mail::{Edit, Envelope, MessageId, Origin, StatusCode};
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
    /// Client facts.
    pub origin: Origin,
    /// Sender and recipients accepted so far; the one just given is the last. Nothing before MAIL, and nothing with the step
    /// `message` when there are more than [`crate::ENVELOPE_RECIPIENTS_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
    /// The draft to look at, with the step `message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<DraftFacts>,
}

single_request!(InspectRequest, "inspect");

/// A finished draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftFacts {
    /// Its handle, readable as a draft.
    pub handle: Handle,
    /// The id the message will have.
    pub id: MessageId,
    /// Its size in bytes.
    pub size: u64,
}

/// What has happened in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A client connected.
    Connect,
    /// HELO or EHLO.
    Helo,
    /// MAIL.
    Mail,
    /// RCPT.
    Recipient,
    /// End of data: the draft is finished.
    Message,
    /// The transaction or session ended without a message; no verdict is wanted.
    End,
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
            Step::End => self != Self::NONE,
        }
    }
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectAnswer {
    /// For the message, or for the step.
    pub verdict: Verdict,
    /// For single recipients by their index, where it differs from `verdict`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<(u32, Verdict)>,
    /// Header edits, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
    /// A new body, a finished draft of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_body: Option<Handle>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Take it.
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
    /// The text, one line.
    pub text: String,
}
