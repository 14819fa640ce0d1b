//! The transport agent that writes delivery reports, and refuses what an operator routes to it.
//!
//! ```text
//! deliver + report ─▶ read message ─▶ write report ─▶ dot gate ─▶ commit as a new message, synced ─▶ delivered
//!                                                                  └─ route (a hint) ─▶ router
//! deliver          ─▶ failed, in the words of the lane's host
//! ```
//!
//! A report is a message like any other: it has the null reverse-path, so that it is never reported on itself, and once
//! committed it is found again by requeue if its hint is lost. A repeated job may write a second report, never none.
//!
//! Touches: the channel's job socket, the queue to read and to add to, socket `router.route`. Never: the ledger.

#![forbid(unsafe_code)]

mod deliver;
mod refuse;
mod settings;

pub use deliver::ErrorAgent;
pub use settings::{Assignment, Settings};

use std::rc::Rc;
use std::time::{Duration, Instant};

use agent::Counters;
use job::hints::{Counted, Hints};
use queue::{Intake, Reader};
use socket::ClientSettings;

/// Names of this agent's counters on the scoreboard.
pub const COUNTERS: &[&str] = &[
    "recipients_delivered_total",
    "recipients_deferred_total",
    "recipients_failed_total",
    "reports_failure_total",
    "reports_delay_total",
    "reports_success_total",
    "reports_double_bounce_total",
    "route_hints_dropped_total",
];

/// Positions in [`COUNTERS`].
mod counter {
    pub(crate) const OUTCOMES: usize = 0;
    pub(crate) const FAILURE: usize = 3;
    pub(crate) const DELAY: usize = 4;
    pub(crate) const SUCCESS: usize = 5;
    pub(crate) const DOUBLE_BOUNCE: usize = 6;
    pub(crate) const HINTS_DROPPED: usize = 7;
}

/// How long router may take over a hint; nobody waits for it.
const ROUTE_DEADLINE: Duration = Duration::from_secs(5);
/// The most hints that are sent a second time and wait for a connection.
const WAITING_MAX: usize = 1000;

/// Why this agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be served.
    #[error(transparent)]
    Agent(#[from] agent::Error),
}

/// How long a worker that has drained waits for router to acknowledge its reports.
const SETTLED: Duration = Duration::from_secs(1);

/// Writes reports until draining is done.
///
/// Gives how many reports router has not acknowledged: once the intake is closed, requeue should look for them.
pub async fn run(
    worker: farm::Worker,
    assignment: Assignment,
    reader: Rc<dyn Reader>,
    intake: Rc<dyn Intake>,
) -> Result<usize, Error> {
    let socket = format!("{}.deliver", assignment.channel);
    let counters = Counters::of(&worker);
    let settings = ClientSettings {
        deadline: ROUTE_DEADLINE,
        waiting_max: WAITING_MAX,
        ..ClientSettings::default()
    };
    let route = worker.client("router.route", settings.clone());
    let strike = worker.client("scheduler.strike", settings);
    let dropped = counters.clone();
    let hints = Hints::new(route, strike, ROUTE_DEADLINE, move |counted| {
        if counted == Counted::Dropped {
            dropped.add(counter::HINTS_DROPPED, 1);
        }
    });
    hints.connect();
    let sender = hints.clone();
    let hint = move |request| sender.send(request);
    let agent = ErrorAgent::new(&assignment, reader, intake, hint, counters);
    agent::run(worker, &socket, Rc::new(agent)).await?;
    Ok(hints.settle(Instant::now() + SETTLED).await)
}
