//! What the scheduler writes down, and the state of a message that follows from it.

use mail::{Address, BodyType, Delivered, MessageId, Notify, Reply, Ret, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Handle;

/// One entry of the ledger. Applying an entry twice changes nothing more than applying it once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A message was routed (S2); the first written routing wins, a higher routing number replaces open recipients.
    Routed(Box<Routed>),
    /// The whole state of a live message, for a checkpoint. Replaces what came before.
    Snapshot(Box<Routed>),
    /// Recipients have new states (S3).
    Outcome {
        /// The message.
        id: MessageId,
        /// Recipient index and its new state.
        recipients: Vec<(u32, State)>,
    },
    /// The message is held, or held no longer.
    Hold {
        /// The message.
        id: MessageId,
        /// Why; nothing releases it.
        reason: Option<String>,
    },
    /// A report is owed to the sender.
    Owes {
        /// The message.
        id: MessageId,
        /// Which report.
        kind: ReportKind,
        /// About whom.
        recipients: Vec<u32>,
        /// When it is due.
        due: Timestamp,
    },
    /// A report was committed as a message of its own: nothing is owed about these recipients any more.
    Reported {
        /// The message.
        id: MessageId,
        /// Which report.
        kind: ReportKind,
        /// About whom.
        recipients: Vec<u32>,
    },
    /// A worker died with a job of this message in hand.
    Strike {
        /// The message, which may be known or not.
        handle: Handle,
        /// Its id.
        id: MessageId,
        /// How many strikes it now has; 0 clears.
        strikes: u32,
        /// Why it is to be held once it is routed.
        hold: Option<String>,
    },
    /// An operator asks for a new routing; the next `enqueue` must carry at least this number.
    Reroute {
        /// The message.
        id: MessageId,
        /// The routing number that will replace the present one.
        routing: u32,
    },
    /// The message was copied to another place in the store, which is now its handle.
    Moved {
        /// The message.
        id: MessageId,
        /// Where it now is.
        handle: Handle,
    },
    /// Every recipient is final and nothing is owed (S4): its space may be given back.
    Retired {
        /// The message.
        id: MessageId,
        /// Its handle.
        handle: Handle,
    },
    /// An operator suspended a lane, or resumed it.
    Suspend {
        /// The lane's channel.
        channel: String,
        /// The lane's host; nothing is every lane of the channel.
        host: Option<String>,
        /// Until when; nothing resumes it.
        until: Option<Timestamp>,
    },
}

/// A routed message: what the scheduler knows of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Routed {
    /// The message.
    pub id: MessageId,
    /// Where it is stored.
    pub handle: Handle,
    /// 1 for the first routing; `reroute` asks for higher ones.
    pub routing: u32,
    /// The reverse-path.
    pub sender: Option<Address>,
    /// Bytes of the body.
    pub size: u64,
    /// When it was accepted: expiry counts from here.
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
    /// Every recipient, by index.
    pub recipients: Vec<RoutedRecipient>,
    /// Reports owed to the sender.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owed: Vec<Owed>,
    /// How often a worker died with it in hand since it was last answered for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strikes: u32,
}

/// A recipient as the router decided it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoutedRecipient {
    /// Its number within the message, which never changes.
    pub index: u32,
    /// The address to deliver to, after aliases.
    pub address: Address,
    /// The address as the sender gave it, when an alias changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Address>,
    /// RFC 3461 ORCPT as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<String>,
    /// RFC 3461 NOTIFY as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// The channel that delivers it.
    pub channel: String,
    /// The channel's next hop: with the channel, the lane. Empty when the channel has no hosts.
    pub host: String,
    /// Who it is to the channel: an address, or a mailbox name.
    pub user: String,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: State,
}

/// Whether a field may be left out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Where a recipient stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// To be tried at `next` or later.
    Open(Attempt),
    /// Not to be tried until released.
    Held {
        /// Why.
        reason: String,
        /// Where it will go on.
        then: Attempt,
    },
    /// Final: delivered.
    Delivered(Delivered),
    /// Final: failed.
    Failed(Reply),
    /// Final: an operator removed it; nobody is told.
    Removed,
}

/// How far the attempts at a recipient have come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// How many attempts were answered for.
    #[serde(default)]
    pub count: u32,
    /// When the next may be made; 0 is at once.
    #[serde(default)]
    pub next: Timestamp,
    /// What the last one was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Reply>,
    /// Whether the sender has been told of the delay.
    #[serde(default)]
    pub delay_reported: bool,
}

impl Default for State {
    fn default() -> Self {
        Self::Open(Attempt::default())
    }
}

/// A report that the sender is owed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Owed {
    /// Which.
    pub kind: ReportKind,
    /// About whom, by index.
    pub recipients: Vec<u32>,
    /// When it is due.
    pub due: Timestamp,
}

/// The kinds of delivery reports (RFC 3464 section 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    /// `failed`.
    Failure,
    /// `delayed`.
    Delay,
    /// `delivered` or `relayed`.
    Success,
}
