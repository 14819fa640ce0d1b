//! The stage that speaks SMTP, stores messages and answers 250.
//!
//! ```text
//!  client ── SMTP ──▶ session ── verify ──▶ router            at RCPT, pipelined recipients together
//!                        │ ───── draft ───▶ queue             as the message comes
//!                        │ ── inspect ────▶ contentfilter     at its end, if there are filters; earlier too if one wants to
//!                        │ ───── commit ──▶ queue  ──▶ 250    once it is synced, never before
//!                        └ ────── route ──▶ router            a hint: requeue finds what it loses
//! ```
//!
//! Each session is one task around a machine of crate `smtp`. While a session waits for its client it holds no buffer and no timer
//! of its own ([`input`], [`watch`]).
//!
//! Touches: its clients' connections, the queue's `Intake`, the sockets of router, contentfilter and scheduler.
//! Never: reads a stored message, opens a file, looks into a message beyond counting its Received fields.

#![forbid(unsafe_code)]

mod door;
mod input;
mod inspection;
mod neighbours;
mod network;
mod received;
mod session;
mod settings;
mod transaction;
mod verdict;
mod watch;

use std::rc::Rc;
use std::time::{Duration, Instant};

use farm::DrainReason;
use job::inspect::Steps;
use queue::Intake;
use serde::{Deserialize, Serialize};

use crate::door::{Door, Stage};
use crate::neighbours::{Clients, Deadlines, Farms};

pub use network::{Network, NetworkError};
pub use received::Received;
pub use settings::{
    BareNewline, Listen, Mixed, Pipelining, Service, ServiceError, Settings, overlap,
};

/// What a worker of this stage is handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The stage's own section.
    pub settings: Settings,
    /// Our name, in the greeting and in Received fields.
    pub hostname: String,
    /// Whether any filter is configured: without one the hop is skipped.
    pub inspect: bool,
    /// The steps before the message that filters want to hear of as they happen.
    pub steps: Steps,
    /// What is done with a message at which `contentfilter` crashes each time it is asked.
    pub on_filter_crash: OnFilterCrash,
}

/// What is done with a message at which `contentfilter` crashes each time it is asked: what its filters say of failure, and of
/// several the strictest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFilterCrash {
    /// It is refused for now.
    #[default]
    Tempfail,
    /// It is taken as if there were no filters.
    Accept,
    /// It is taken and held.
    Quarantine,
}

/// Why a worker of this stage could not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker could not take up its role.
    #[error(transparent)]
    Worker(#[from] farm::WorkerError),
}

/// The stage's counters, by their places in [`COUNTERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    Accepted,
    Rejected,
    Tempfailed,
    Discarded,
    Sessions,
    SessionsRefused,
    SessionsTimedOut,
    Bytes,
    Recipients,
    RecipientsRefused,
    VerifyFailures,
    InspectFailures,
    RouteHints,
    RouteHintsDropped,
    RouteHintsUnanswered,
}

/// Names of the stage's counters, in the order in which the scoreboard keeps them.
pub const COUNTERS: &[&str] = &[
    "accepted_total",
    "rejected_total",
    "tempfailed_total",
    "discarded_total",
    "sessions_total",
    "sessions_refused_total",
    "sessions_timed_out_total",
    "bytes_total",
    "recipients_total",
    "recipients_refused_total",
    "verify_failures_total",
    "inspect_failures_total",
    "route_hints_total",
    "route_hints_dropped_total",
    "route_hints_unanswered_total",
];

const _: () = assert!(COUNTERS.len() == Counter::RouteHintsUnanswered as usize + 1);

/// How long before a replaced worker is killed its sessions are asked to end.
const LAST_CALL: Duration = Duration::from_secs(10);
/// How long a replaced worker without sessions waits for router to acknowledge what it accepted.
const SETTLED: Duration = Duration::from_secs(8);
/// How long it waits when the farm stops; router may have stopped before.
const SETTLED_AT_STOP: Duration = Duration::from_secs(1);

/// Works as one worker of the farm until draining is done: every listener of the settings, by the names that
/// [`Settings::listeners`] gives them.
///
/// Gives how many messages it accepted that router has not acknowledged: once the intake is closed, requeue should look for them.
pub async fn run(
    worker: farm::Worker,
    assignment: Assignment,
    intake: Rc<dyn Intake>,
) -> Result<usize, Error> {
    let settings = &assignment.settings;
    let deadlines = Deadlines {
        verify: settings.verify_timeout.0,
        inspect: settings.inspect_timeout.0,
        route: settings.route_timeout.0,
    };
    let clients = Clients::new(&worker, &deadlines);
    let farms = Farms::new(clients, deadlines.route, Rc::new(worker.clone()));
    farms.connect(assignment.inspect);
    let hints = farms.hints.clone();
    let services: Vec<Service> = settings.listen.iter().map(|listen| listen.service).collect();
    let name = format!("{}-{}", worker.name(), std::process::id());
    let stage = Rc::new(Stage::new(assignment, intake, Rc::new(farms), name));
    let door = Rc::new(Door { worker: worker.clone(), stage: Rc::clone(&stage) });
    for (index, service) in services.into_iter().enumerate() {
        let door = Rc::clone(&door);
        worker.accept(&settings::listener_name(index), move |stream, client, connection| {
            door.open(stream, client, service, connection);
        })?;
    }
    let last_call = tokio::task::spawn_local(end_sessions(worker.clone(), stage));
    worker.ready();
    worker.drained().await;
    // It holds the intake, which is to be closed when this returns.
    last_call.abort();
    let _ = last_call.await;
    let patience = match worker.drain_reason() {
        Some(DrainReason::Stop) => SETTLED_AT_STOP,
        _ => SETTLED,
    };
    Ok(hints.settle(Instant::now() + patience).await)
}

/// Ends sessions between their messages when the farm stops. When this worker is only replaced they run to their end, unless that
/// takes so long that they would be cut off.
async fn end_sessions(worker: farm::Worker, stage: Rc<Stage>) {
    worker.draining().await;
    if let Some(last_call) = worker.drain_ends().and_then(|ends| ends.checked_sub(LAST_CALL)) {
        let _ = tokio::time::timeout_at(last_call.into(), worker.stopping()).await;
    }
    stage.watch.drain();
}

#[cfg(test)]
mod tests;
