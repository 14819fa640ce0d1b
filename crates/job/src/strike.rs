//! `strike`: a sender tells the scheduler that a worker crashed with a job of this message in hand.
//!
//! ```text
//! smtpserver, requeue, router ── strike {handle, id, stage, alone} ─▶ scheduler
//!                             ◀─ {strikes, held} ────────────────────
//! ```
//!
//! Only what was alone in a worker's hand gets its third strike: others may only have been near.

use mail::MessageId;
use queue::Handle;
use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

/// The conversation.
pub enum Strike {}

impl Conversation for Strike {
    const NAME: &'static str = "strike";
    const VERSIONS: &'static [u32] = &[1];
    type Request = StrikeRequest;
    type Answer = StrikeAnswer;
}

/// How many deaths with a message in hand, the last of them alone, make it the culprit.
pub const STRIKES_MAX: u32 = 3;
/// From so many strikes on a message goes out alone.
pub const ALONE_FROM_STRIKES: u32 = STRIKES_MAX - 1;

/// A worker crashed with this message in hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrikeRequest {
    /// Where the message is stored.
    pub handle: Handle,
    /// Its id.
    pub id: MessageId,
    /// The stage whose worker died: `router` or `scheduler`.
    pub stage: String,
    /// Whether nothing else was in its hand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
}

single_request!(StrikeRequest, "strike");

/// How it stands with the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrikeAnswer {
    /// Its strikes.
    pub strikes: u32,
    /// Whether it is held now.
    pub held: bool,
}
