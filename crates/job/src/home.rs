//! `home`: compact asks the scheduler where messages live, and tells it of copies that are to be their places.
//!
//! ```text
//! compact ── where {messages: [{handle, id} …]} ──────▶ scheduler
//!         ◀─ {here: [{index, size} …], moved: [{index, handle} …], ended: [index …]}
//!         ── moved {messages: [{id, from, to} …]} ────▶
//!         ◀─ {moved: [index …], ended: [index …]}  once that is synced
//! ```
//!
//! What an answer does not name is to be left as it is: the scheduler does not know it, or knows it to be elsewhere.

use mail::MessageId;
use queue::Handle;
use serde::{Deserialize, Serialize};
use socket::{Conversation, requests};

use crate::known::KnownMessage;

/// The conversation.
pub enum Home {}

impl Conversation for Home {
    const NAME: &'static str = "home";
    const VERSIONS: &'static [u32] = &[1];
    type Request = HomeRequest;
    type Answer = HomeAnswer;
}

requests! {
    /// What may be asked.
    pub enum HomeRequest {
        /// Where are these?
        "where" => Where(WhereRequest),
        /// These have been copied: take the copies for their places, if they still live.
        "moved" => Moved(MovedRequest),
    }
}

/// Stored messages, each under a handle it has or had: at most [`crate::HOME_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhereRequest {
    /// The messages.
    pub messages: Vec<KnownMessage>,
}

/// Copies that are durable: at most [`crate::HOME_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRequest {
    /// The messages.
    pub messages: Vec<MovedMessage>,
}

/// A message and its copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedMessage {
    /// The message.
    pub id: MessageId,
    /// Where it lives, as far as is known.
    pub from: Handle,
    /// Its copy.
    pub to: Handle,
}

/// How it stands with each message that the request named, by its position there. Each is named once, or not at all, and each
/// list is in the order of positions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeAnswer {
    /// To `where`: those that live where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub here: Vec<Here>,
    /// Those that live elsewhere; to `moved`, those that live at their copies from now on, or did before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<Moved>,
    /// Those that have ended, which is synced: nobody needs what is stored of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<u32>,
}

/// A message that lives where it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// Its position in the request.
    pub index: u32,
    /// The bytes of its body.
    pub size: u64,
}

/// A message that lives elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Its position in the request.
    pub index: u32,
    /// Where it lives.
    pub handle: Handle,
}
