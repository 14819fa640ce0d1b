//! The scheduler: queue management, and nothing else. It starts and reaps nobody, reads no body and speaks no SMTP.
//!
//! ```text
//!  router ── enqueue ─▶ ┌───────────┐ ── deliver ─▶ agents, by channel
//! requeue ── known ───▶ │ scheduler │
//! compact ── home ────▶ │           │
//!  agents ── outcome ─▶ │           │     (what could not be answered)
//! senders ── strike ──▶ │  machine  │ ── records ─▶ ledger (written before anything is answered or sent)
//! grange ─── admin ───▶ └───────────┘ ── requeue ─▶ once after its start
//! ```
//!
//! - [`machine`]: everything that is decided, without a clock, a socket or a disk: it runs in a simulation.
//! - [`turns`]: what follows what: turns, the ledger's write and sync, what waits for them. Plain as well.
//! - [`run`]: the shell around both, a worker of a farm of one.
//!
//! Touches: the ledger, through [`queue::Ledger`]; the sockets of its conversations. Never: a message's body, a process, the network.

#![forbid(unsafe_code)]

mod by_number;
pub mod machine;
mod run;
mod settings;
pub mod turns;

pub use run::{Error, run};
pub use settings::{Assignment, ChannelFacts, Settings};

/// The names of this farm's counters on the scoreboard.
pub const COUNTERS: &[&str] = &[
    "enqueued_total",
    "retired_total",
    "jobs_total",
    "delivered_total",
    "deferred_total",
    "failed_total",
    "expired_total",
    "reports_total",
    "lane_failures_total",
    "lost_jobs_total",
    "strikes_total",
    "held_total",
    "moved_total",
];
