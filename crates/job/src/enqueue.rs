//! `enqueue`: router hands a routed message to the scheduler. Acknowledged when written in the ledger.
//!
//! ```text
//! router ── enqueue {handle, id, routing, part, last, recipients} ─▶ scheduler
//!        ◀─ {}  when written, or when it was known already ─────────
//! ```
//!
//! A message with more than [`crate::PART_RECIPIENTS_MAX`] recipients comes in parts over one connection, in order; it takes
//! effect in one ledger write with its last part. Parts of a connection that ends are forgotten.

use mail::{Address, BodyType, MessageId, Ret, Timestamp};
use queue::{Handle, RoutedRecipient};
use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

use crate::is_default;

/// The conversation.
pub enum Enqueue {}

impl Conversation for Enqueue {
    const NAME: &'static str = "enqueue";
    const VERSIONS: &'static [u32] = &[1];
    type Request = EnqueueRequest;
    type Answer = crate::Acknowledged;
}

/// Take over this routed message, or this part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnqueueRequest {
    /// Where it is stored.
    pub handle: Handle,
    /// Its id.
    pub id: MessageId,
    /// The routing number; the first written routing wins, only a higher one replaces it.
    pub routing: u32,
    /// This part's number, from 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub part: u32,
    /// Whether more parts follow.
    #[serde(default, skip_serializing_if = "is_default")]
    pub more: bool,
    /// The reverse-path.
    pub sender: Option<Address>,
    /// Bytes of the body.
    pub size: u64,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// What the client said of the body.
    #[serde(default, skip_serializing_if = "is_default")]
    pub body: BodyType,
    /// Whether it needs SMTPUTF8.
    #[serde(default, skip_serializing_if = "is_default")]
    pub smtputf8: bool,
    /// RFC 3461 RET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Ret>,
    /// RFC 3461 ENVID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<String>,
    /// Why the whole message is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// The recipients of this part. One that router refuses comes with state `failed`, one on hold with `held`.
    pub recipients: Vec<RoutedRecipient>,
}

single_request!(EnqueueRequest, "enqueue");
