//! `admin`: the command line sees into the queue and steers it.
//!
//! ```text
//! grange queue … ── list | summary | show | hold | release | retry | remove | bounce | reroute | suspend | resume | status ─▶ scheduler
//!                ◀─ data, or how many messages it concerned (once synced) ────────────────────────────────────────
//! ```

use mail::{Address, MessageId, Timestamp};
use queue::{Handle, RoutedRecipient, State};
use serde::{Deserialize, Serialize, Serializer};
use socket::{Conversation, requests};

/// The conversation.
pub enum Admin {}

impl Conversation for Admin {
    const NAME: &'static str = "admin";
    const VERSIONS: &'static [u32] = &[1];
    type Request = AdminRequest;
    type Answer = AdminAnswer;
}

requests! {
    /// What may be asked.
    pub enum AdminRequest {
        /// A page of messages.
        "list" => List(ListQuery),
        /// Lane by age, with the reason each waits.
        "summary" => Summary(Nothing),
        /// Everything about one message.
        "show" => Show(ShowQuery),
        /// Stop trying.
        "hold" => Hold(Change),
        /// Try again what was held.
        "release" => Release(Change),
        /// Try now, whatever the schedule says.
        "retry" => Retry(Change),
        /// Delete without telling anyone.
        "remove" => Remove(Change),
        /// Fail now and tell the sender.
        "bounce" => Bounce(Change),
        /// Ask router anew.
        "reroute" => Reroute(Change),
        /// Stop dispatching a lane, or a whole channel.
        "suspend" => Suspend(LaneChange),
        /// Dispatch it again.
        "resume" => Resume(LaneChange),
        /// Counters and sizes.
        "status" => Status(Nothing),
    }
}

/// No parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// Which messages or recipients a request is about; what is given must all match. Nothing given matches nothing, unless `all`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// These messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<MessageId>,
    /// Recipients of this lane: `channel` or `channel/host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// Recipients of this domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Messages of this sender; `<>` is the null reverse-path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Only what is held.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Only what a filter holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quarantined: bool,
    /// Only what was accepted before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
    /// Everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// A page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListQuery {
    /// Which; an empty selection is everything.
    #[serde(default)]
    pub select: Selection,
    /// At most this many, up to [`crate::LIST_MAX`].
    #[serde(default)]
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShowQuery {
    /// Its id.
    pub id: MessageId,
}

/// A change to what is selected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// To which messages.
    pub select: Selection,
    /// Why: shown with a hold, told to the sender with a bounce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A change to a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneChange {
    /// `channel` or `channel/host`.
    pub lane: String,
    /// For how many seconds; nothing is until resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminAnswer {
    /// A page of messages.
    List(Page),
    /// All lanes.
    Summary(Vec<LaneSummary>),
    /// One message.
    Message(Box<QueuedMessage>),
    /// A change was made and is synced.
    Changed(Changed),
    /// Counters and sizes.
    Status(Box<Status>),
}

/// A page of messages, as `grange queue list --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The messages, by id.
    pub messages: Vec<QueuedMessage>,
    /// Where the next page begins, or nothing at the end.
    pub cursor: Option<String>,
}

/// A queued message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueuedMessage {
    /// Its id.
    pub id: MessageId,
    /// `accepted` (not routed yet), `queued`, `active`, `held`, or `damaged` (not routed, and its record fails its checks).
    pub state: String,
    /// The reverse-path; null is `<>`.
    pub sender: Option<Address>,
    /// Bytes of the body.
    pub size: u64,
    /// When it was accepted, milliseconds since 1970.
    pub accepted_at: Timestamp,
    /// Where it is stored.
    pub handle: Handle,
    /// Why it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Its recipients and how each stands; of very many, the first. Shown with their state, also if it is the first.
    #[serde(serialize_with = "in_full")]
    pub recipients: Vec<RoutedRecipient>,
    /// How many recipients it has in all.
    #[serde(default)]
    pub recipients_total: u32,
}

/// Writes recipients with what between farms may be left out: people's programs read this.
fn in_full<S: Serializer>(
    recipients: &[RoutedRecipient],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct InFull<'a> {
        #[serde(flatten)]
        recipient: &'a RoutedRecipient,
        #[serde(skip_serializing_if = "Option::is_none")]
        state: Option<&'a State>,
    }
    serializer.collect_seq(recipients.iter().map(|recipient| {
        let state = (recipient.state == State::default()).then_some(&recipient.state);
        InFull { recipient, state }
    }))
}

/// What a change concerned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// How many messages.
    pub messages: u64,
    /// How many recipients.
    pub recipients: u64,
}

/// A lane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneSummary {
    /// Its channel.
    pub channel: String,
    /// Its host.
    pub host: String,
    /// Recipients waiting or being delivered.
    pub recipients: u64,
    /// Recipients being delivered now.
    pub active: u64,
    /// Recipients held.
    pub held: u64,
    /// How many may be delivered at once at present.
    pub concurrency: u32,
    /// Waiting recipients by age of their message: up to 5 min, 1 h, 4 h, 1 d, and older.
    pub ages: [u64; 5],
    /// Why it waits: `backing off`, `suspended`, `no agent`, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it will be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// What it was last told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// Counters since the scheduler started, and sizes now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Messages in the queue.
    pub messages: u64,
    /// Recipients not final.
    pub recipients: u64,
    /// Recipients being delivered now.
    pub active: u64,
    /// Messages held.
    pub held: u64,
    /// Lanes.
    pub lanes: u64,
    /// Lanes backing off.
    pub lanes_backing_off: u64,
    /// When the oldest message was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// Messages enqueued.
    pub enqueued: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Attempts deferred.
    pub deferred: u64,
    /// Recipients failed.
    pub failed: u64,
    /// Reports written.
    pub reports: u64,
}
