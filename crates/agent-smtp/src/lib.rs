//! The transport agent that speaks SMTP and LMTP.
//!
//! ```text
//!  deliver job ─▶ an idle connection of the lane ──────────────────────────▶ transactions ─▶ outcomes
//!                 └─ none: dns ─▶ target after target ─▶ greeting, hello ─▶┘      │
//!                                 └─ all refuse: lane                            └─▶ the connection waits for the lane's next job
//! ```
//!
//! What concerns the host (connection, greeting, hello, 421) is answered as `lane`: the lane backs off and no recipient's
//! clock moves. What was said of recipients, or happened once the message was on its way, is an outcome of their own.
//!
//! Touches: the channel's job socket; the queue, to read; name servers; next hops. Never: the ledger, another farm.

#![forbid(unsafe_code)]

mod connect;
mod connection;
mod delivery;
mod pool;
mod settings;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use agent::{Agent, Counters, Job};
use job::deliver::DeliverAnswer;
use queue::{Local, Reader};
use serde::{Deserialize, Serialize};

use crate::connect::Shunned;
use crate::pool::Pool;
use crate::settings::DOT_WAIT_MAX;
pub use crate::settings::{Protocol, Settings, Timeouts};

/// What a worker of an SMTP channel is handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The channel's settings.
    pub settings: Settings,
    /// Our own name: what we say in EHLO, and whose MX is ourselves.
    pub hostname: String,
    /// The channel's name; its socket is `NAME.deliver`.
    pub channel: String,
    /// How names are looked up.
    pub dns: dns::Settings,
}

/// The farm's counters.
pub const COUNTERS: &[&str] = &[
    agent::OUTCOME_COUNTERS[0],
    agent::OUTCOME_COUNTERS[1],
    agent::OUTCOME_COUNTERS[2],
    "connections_total",
    "connections_reused_total",
    "connections_failed_total",
    "sent_bytes_total",
];

/// Positions in [`COUNTERS`].
mod counter {
    pub(crate) const OUTCOMES: usize = 0;
    pub(crate) const DEFERRED: usize = 1;
    pub(crate) const CONNECTIONS: usize = 3;
    pub(crate) const REUSED: usize = 4;
    pub(crate) const CONNECT_FAILED: usize = 5;
    pub(crate) const SENT_BYTES: usize = 6;
}

/// Why the agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The channel's socket could not be served.
    #[error(transparent)]
    Agent(#[from] agent::Error),
}

/// Serves the channel: takes `deliver` jobs until draining is done, then says goodbye to the connections that idle.
pub async fn run(
    worker: farm::Worker,
    assignment: Assignment,
    reader: Rc<dyn Reader>,
) -> Result<(), Error> {
    let socket = format!("{}.deliver", assignment.channel);
    let smtp = Rc::new(Smtp::new(assignment, reader, Counters::of(&worker)));
    let served = agent::run(worker, &socket, Rc::clone(&smtp) as Rc<dyn Agent>).await;
    smtp.pool.close(&smtp.assignment.settings.timeouts).await;
    Ok(served?)
}

/// The agent: what all jobs of a worker share.
pub struct Smtp {
    assignment: Assignment,
    reader: Rc<dyn Reader>,
    counters: Counters,
    resolver: dns::Resolver,
    pool: Rc<Pool>,
    shunned: RefCell<Shunned>,
    /// [`settings::DOT_WAIT_MAX`], or what a test has time for.
    dot_wait_max: Duration,
}

impl Smtp {
    /// An agent that reads messages from `reader` and counts in `counters`.
    pub fn new(assignment: Assignment, reader: Rc<dyn Reader>, counters: Counters) -> Self {
        let resolver = dns::Resolver::new(assignment.dns.clone());
        let pool = Rc::new(Pool::new(&assignment.settings));
        Self {
            assignment,
            reader,
            counters,
            resolver,
            pool,
            shunned: RefCell::default(),
            dot_wait_max: DOT_WAIT_MAX,
        }
    }
}

impl Agent for Smtp {
    fn deliver(self: Rc<Self>, job: Job) -> Local<'static, DeliverAnswer> {
        Box::pin(delivery::deliver(self, job))
    }
}
