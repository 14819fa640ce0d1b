//! `deliver`: the scheduler has an agent deliver a message to recipients of one lane.
//!
//! ```text
//! scheduler ── deliver {handle, id, sender, host, recipients, attempt} + deadline ─▶ agent
//!           ◀─ {outcomes: [{index, delivered | deferred | failed}], lane?, throttle?} ─
//! ```
//!
//! **The dot gate.** What cannot be undone (final dot, rename into `new/`, last byte to a pipe) is done only while the
//! connection is up and the deadline, on the agent's own monotonic clock, has not passed. What is not positively
//! answered is deferred; a late answer still counts.

use mail::{Address, BodyType, MessageId, Notify, Outcome, Reply, Ret, Timestamp};
use queue::{Handle, ReportKind};
use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

use crate::is_default;

/// The conversation.
pub enum Deliver {}

impl Conversation for Deliver {
    const NAME: &'static str = "deliver";
    const VERSIONS: &'static [u32] = &[1];
    type Request = DeliverRequest;
    type Answer = DeliverAnswer;
}

/// Deliver this message to these recipients, all with the same channel and host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverRequest {
    /// Where the message is stored.
    pub handle: Handle,
    /// Its id.
    pub id: MessageId,
    /// The reverse-path.
    pub sender: Option<Address>,
    /// Bytes of the body, before edits.
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
    /// The lane's host; empty when the channel has no hosts.
    pub host: String,
    /// Which attempt this is for the recipient tried most often, from 1.
    pub attempt: u32,
    /// The number of the routing that chose the recipients: what is told late of them names it.
    #[serde(default)]
    pub routing: u32,
    /// How many of the answers that came over this connection, counted from its first and without errors, have been written down
    /// with all that follows from them: nobody needs to be told of those again. Nothing: the answer alone is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<u64>,
    /// At most [`crate::PART_RECIPIENTS_MAX`].
    pub recipients: Vec<DeliverRecipient>,
    /// With channel `error`: the report to write about the recipients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

single_request!(DeliverRequest, "deliver");

/// A recipient to deliver to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverRecipient {
    /// Its number within the message.
    pub index: u32,
    /// The address to deliver to.
    pub address: Address,
    /// The address as the sender gave it, when an alias changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Address>,
    /// Who it is to the channel.
    pub user: String,
    /// RFC 3461 NOTIFY as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// RFC 3461 ORCPT as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<String>,
    /// What to report about it, with channel `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// A report to be written and sent to the message's sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which.
    pub kind: ReportKind,
    /// Of a delay: until when delivery will be tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub will_retry_until: Option<Timestamp>,
}

/// What became of each recipient. One that is missing is deferred.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverAnswer {
    /// By recipient.
    #[serde(default)]
    pub outcomes: Vec<RecipientOutcome>,
    /// The whole destination failed (connection, greeting, TLS, 421): the lane backs off, its recipients' own clocks stand still.
    /// Recipients without an outcome of their own are deferred in these words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Reply>,
    /// The destination asks for a pause of the lane, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<u32>,
    /// The stored message fails its checks, and was sent to nobody who is not among the delivered: the scheduler holds it with
    /// these words, which say what is damaged and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientOutcome {
    /// Its number within the message.
    pub index: u32,
    /// What became of it.
    pub outcome: Outcome,
}
