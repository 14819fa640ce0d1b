//! Named job sockets: JSON-RPC 2.0 lines over Unix sockets, with windows, deadlines and peer checks.
//!
//! One socket carries one [`Conversation`]. The server speaks first (`hello`), the client chooses a version,
//! then requests and answers flow, at most a window of them outstanding. This crate knows neither farms nor
//! mail: it moves typed requests, and tells its user when a connection came, went or drains.
//!
//! ```text
//! server  ── hello {conversation, versions, window, worker, pid, workers} ─▶ client
//! server  ◀─ use {version} ──────────────────────────────────────────────── client
//! server  ◀─ request id 1, 2, 3 … (one write a turn) ────────────────────── client
//! server  ── answers in any order · workers · drain ──────────────────────▶ client
//! ```
//!
//! Another host is spoken with through TLS, where both ends show certificates ([`Address`], [`Door`]); what it asks may be acted on only
//! as long as it says so ([`LeaseLeft`]).
//!
//! **Batching is the budget.** One turn of the runtime reads all that is ready on every connection, hands each frame to
//! its service or callback in the same breath, and then makes one write per connection: what is sent or answered is
//! only appended to that connection's buffer, and a flush runs after the tasks that were already runnable. There is no
//! task, timer or channel per request.
//!
//! Everything here runs on one thread, inside a tokio `LocalRuntime`.

#![forbid(unsafe_code)]

mod address;
mod client;
mod conversation;
mod frame;
mod lease;
mod link;
mod listener;
mod peer;
mod server;
mod stream;
#[cfg(test)]
mod testing;

/// Whoever looks at the time so much later than it meant to was stopped, or its machine slept: nobody was silent in that time, for
/// nobody listened.
pub const STANDSTILL: std::time::Duration = std::time::Duration::from_secs(1);

pub use address::{Address, AddressError};
pub use client::{
    CallError, Client, ClientSettings, Peer, PeerId, Places, Remote, SendError, SendOptions, Watch,
};
pub use conversation::{
    Conversation, ErrorObject, Request, RequestError, codes, read_text, write_json,
};
pub use frame::LINE_BYTES_MAX;
pub use lease::LeaseLeft;
pub use listener::{Access, BindError, Ownership, bind, serve_listener};
pub use server::{
    Caller, Door, Gate, Gauge, Hand, Responder, Server, ServerSettings, Service, Serving, WINDOW,
    WINDOW_BYTES, Who,
};

#[doc(hidden)]
pub use serde_json::value::RawValue;
