//! `route`: an acceptor, or requeue, tells router of an accepted message. A hint: the queue is the truth.
//!
//! ```text
//! smtpserver, agent-error, requeue ── route {handle, id, routing, envelope?} ─▶ router
//!                                  ◀─ {}  once the scheduler has it ──────────
//! ```

use mail::{Envelope, MessageId, Timestamp};
use queue::Handle;
use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

/// The conversation.
pub enum Route {}

impl Conversation for Route {
    const NAME: &'static str = "route";
    const VERSIONS: &'static [u32] = &[1];
    type Request = RouteRequest;
    type Answer = crate::Acknowledged;
}

/// Route this message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRequest {
    /// Where it is stored.
    pub handle: Handle,
    /// Its id.
    pub id: MessageId,
    /// 1, or the number an operator's `reroute` asked for.
    pub routing: u32,
    /// What router would else read from the store; absent above [`crate::ENVELOPE_RECIPIENTS_MAX`] recipients and from requeue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<RouteFacts>,
}

/// The part of the accept record that routing needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFacts {
    /// The envelope.
    pub envelope: Envelope,
    /// Bytes of the body.
    pub size: u64,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Why the whole message is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
}

single_request!(RouteRequest, "route");
