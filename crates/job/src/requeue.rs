//! `requeue`: anyone asks for a pass over what was accepted and may not be routed.
//!
//! ```text
//! scheduler, managers, command line ── requeue {} ─▶ requeue
//!                                   ◀─ {}  at once ─
//! ```

use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

/// The conversation.
pub enum Requeue {}

impl Conversation for Requeue {
    const NAME: &'static str = "requeue";
    const VERSIONS: &'static [u32] = &[1];
    type Request = RequeueRequest;
    type Answer = crate::Acknowledged;
}

/// Make a pass; one serves all that asked before it began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequeueRequest {
    /// Who asks and why, for the log.
    #[serde(default)]
    pub reason: String,
}

single_request!(RequeueRequest, "requeue");
