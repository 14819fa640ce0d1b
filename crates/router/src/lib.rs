//! The stage that decides channel, host and user of every recipient.
//!
//! ```text
//! smtpserver ── verify ─▶ router          may this recipient be accepted from this client?
//! acceptors, requeue ── route ─▶ router ── enqueue ─▶ scheduler          where does each recipient go?
//! ```
//!
//! - [`Settings`]: routes, alias tables and limits, as an operator writes them.
//! - [`Rules`]: the settings made ready: pure decisions over tables in memory. `verify`, `route` and `grange route` all walk
//!   the same code; the last only watches it ([`Step`]).
//! - [`run`]: the worker.
//!
//! **Invariant:** who may send where is decided on the address as given at RCPT, before aliases; `%`, `!` and source routes in
//! a local part mean nothing here. Touches: alias and user tables, for reading; sockets `router.*` and `scheduler.enqueue`;
//! envelopes in the queue. Never: bodies, the ledger, DNS.
//!
//! Domains are compared without regard to the case of ASCII letters. A-labels and U-labels are not taken for each other: a
//! route for an internationalised domain is written twice, in both forms.

#![forbid(unsafe_code)]

mod explain;
mod handover;
mod host;
mod mailbox;
mod rules;
mod run;
mod settings;
mod tables;

use serde::{Deserialize, Serialize};

pub use explain::Step;
pub use host::{HostError, normalise_host};
pub use rules::{LoadError, Rules};
pub use run::{Error, run};
pub use settings::{From, RouteSetting, Settings};

/// The channel whose domains are ours: its routes take mail from anyone by default, aliases apply to its bare names, and its
/// postmaster is always reachable.
pub const LOCAL_CHANNEL: &str = "local";
/// The channel of delivery reports; no route may name it.
pub const ERROR_CHANNEL: &str = "error";

/// What a worker is handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The section `[router]`.
    pub settings: Settings,
    /// This system's name: the domain of a bare `postmaster` when no route has one.
    pub hostname: String,
    /// The channels that are configured.
    pub channels: Vec<Channel>,
}

/// What router knows of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// Whether it delivers to hosts, so that a route without `host` means the recipient's domain. Otherwise a lane's host is
    /// the route's as written, or empty, and its user is the local part.
    pub hosts: bool,
}

/// Names of the counters in the scoreboard.
pub const COUNTERS: &[&str] = &[
    "routed_total",
    "route_failed_total",
    "recipients_total",
    "recipients_failed_total",
    "verified_total",
    "verify_unknown_total",
    "verify_denied_total",
    "verify_tempfail_total",
    "tables_read_total",
    "tables_failed_total",
];

/// Positions in [`COUNTERS`].
pub(crate) mod counter {
    pub(crate) const ROUTED: usize = 0;
    pub(crate) const ROUTE_FAILED: usize = 1;
    pub(crate) const RECIPIENTS: usize = 2;
    pub(crate) const RECIPIENTS_FAILED: usize = 3;
    pub(crate) const VERIFIED: usize = 4;
    pub(crate) const VERIFY_UNKNOWN: usize = 5;
    pub(crate) const VERIFY_DENIED: usize = 6;
    pub(crate) const VERIFY_TEMPFAIL: usize = 7;
    pub(crate) const TABLES_READ: usize = 8;
    pub(crate) const TABLES_FAILED: usize = 9;
}
