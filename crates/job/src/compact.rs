//! `compact`: anyone asks for a pass that copies what lives out of segments that are mostly dead.
//!
//! ```text
//! command line, anyone ── compact {} ─▶ compact
//!                      ◀─ {}  at once ──
//! ```

use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

/// The conversation.
pub enum Compact {}

impl Conversation for Compact {
    const NAME: &'static str = "compact";
    const VERSIONS: &'static [u32] = &[1];
    type Request = CompactRequest;
    type Answer = crate::Acknowledged;
}

/// Make a pass; one serves all that asked before it began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactRequest {
    /// Who asks and why, for the log.
    #[serde(default)]
    pub reason: String,
}

single_request!(CompactRequest, "compact");
