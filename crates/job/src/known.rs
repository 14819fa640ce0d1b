//! `known`: requeue asks the scheduler which of a segment's messages it lacks.
//!
//! ```text
//! requeue ── known {messages: [{handle, id} …]} ─▶ scheduler
//!         ◀─ {wanted: [{index, routing}]} ────────
//! ```

use mail::MessageId;
use queue::Handle;
use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

/// The conversation.
pub enum Known {}

impl Conversation for Known {
    const NAME: &'static str = "known";
    const VERSIONS: &'static [u32] = &[1];
    type Request = KnownRequest;
    type Answer = KnownAnswer;
}

/// Do you know these? At most [`crate::KNOWN_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownRequest {
    /// Accepted messages.
    pub messages: Vec<KnownMessage>,
}

/// An accepted message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMessage {
    /// Where it is stored.
    pub handle: Handle,
    /// Its id.
    pub id: MessageId,
}

single_request!(KnownRequest, "known");

/// Those that are to be routed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownAnswer {
    /// Which of the messages asked about.
    pub wanted: Vec<Wanted>,
}

/// A message to be routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its position in the request.
    pub index: u32,
    /// The routing number to route it with: 1, or higher when an operator asked for `reroute`.
    pub routing: u32,
    /// How many workers have died with it in hand: from 2 on it goes out alone.
    #[serde(default)]
    pub strikes: u32,
}
