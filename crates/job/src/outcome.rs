//! `outcome`: an agent tells the scheduler what became of recipients whose `deliver` it could not answer.
//!
//! ```text
//! agent ── outcome {handle, id, attempt, routing, report?, outcomes: [{index, delivered | deferred | failed}]} ─▶ scheduler
//!       ◀─ {}  once that is synced, or changes nothing ─────────────────────────────────────────────────
//! ```
//!
//! The connection over which the job came may have ended, or the scheduler that sent it: whichever scheduler owns the ledger now
//! takes what happened for a fact. Told twice, it changes nothing more.

use mail::MessageId;
use queue::{Handle, ReportKind};
use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

use crate::Acknowledged;
use crate::deliver::RecipientOutcome;

/// The conversation.
pub enum LateOutcome {}

impl Conversation for LateOutcome {
    const NAME: &'static str = "outcome";
    const VERSIONS: &'static [u32] = &[1];
    type Request = OutcomeRequest;
    type Answer = Acknowledged;
}

/// What became of recipients of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRequest {
    /// The message's handle, as the job gave it.
    pub handle: Handle,
    /// Its id.
    pub id: MessageId,
    /// The job's `attempt`: one that was answered for meanwhile is not deferred once more.
    pub attempt: u32,
    /// The job's `routing`: after another one, a number may be another recipient's.
    pub routing: u32,
    /// The kind of report that the job asked for, with channel `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportKind>,
    /// By recipient, at most [`crate::PART_RECIPIENTS_MAX`]. One that is missing stays as it is.
    pub outcomes: Vec<RecipientOutcome>,
}

single_request!(OutcomeRequest, "outcome");
