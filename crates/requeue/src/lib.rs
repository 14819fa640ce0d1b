//! The run-once stage that sends accepted messages to the router again.
//!
//! ```text
//!            ┌ per segment that nobody writes to ─────────────────────────────────────────────────────────┐
//! started ─▶ │ accept records ─▶ known? (scheduler) ─▶ those it lacks, if old enough ─▶ route (router)     │ ─▶ ended
//!            └────────────────────────────────────────────────────────────────────────────────────────────┘
//!                 again, when someone asked meanwhile, or when those that were too young are old enough
//! ```
//!
//! A message is accepted (S1) when its accept record is synced; all hand-overs after that are hints. What becomes of a lost hint
//! is this farm: it is started at start, every five minutes, and when someone asks. It may run twice at once: a message that is
//! known already is acknowledged by the scheduler and nothing changes.
//!
//! **Invariant:** the scheduler alone judges what is known; this farm never reads its ledger. It never blocks new mail: it has
//! connections of its own, and a bounded number of requests on the way. Touches: accept records, for reading; sockets
//! `requeue.requeue`, `scheduler.known`, `scheduler.strike`, `router.route`. Never: bodies, the ledger, the network.

#![forbid(unsafe_code)]

mod pass;
mod run;
mod strikes;

use config::{Problem, Span};
use serde::{Deserialize, Serialize};

pub use pass::{Selection, select};
pub use run::{Error, run};

/// The section `[requeue]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Time between passes that nobody asked for. Default: 5m.
    pub every: Span,
    /// How many messages may be on their way to router at once. Default: 64.
    pub outstanding_max: usize,
    /// How long a pass waits for a scheduler or a router that does not answer, before it ends and leaves the rest to the next.
    /// Default: 30s.
    pub unreachable_after: Span,
}

/// What a worker is handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The section `[requeue]`.
    pub settings: Settings,
    /// How long router may take to route a message; what was accepted longer ago than twice this is sent again.
    pub route_deadline: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            every: Span::seconds(300),
            outstanding_max: 64,
            unreachable_after: Span::seconds(30),
        }
    }
}

impl Settings {
    /// Checks for contradictions.
    pub fn check(&self) -> Result<(), Problem> {
        if self.every.0.as_secs() == 0 {
            let wrong = format!("{}", self.every);
            return Err(Problem::new("requeue.every", wrong, "a second or more, such as \"5m\""));
        }
        if self.outstanding_max == 0 || self.outstanding_max > 10_000 {
            let wrong = self.outstanding_max.to_string();
            return Err(Problem::new("requeue.outstanding_max", wrong, "a number from 1 to 10000"));
        }
        if self.unreachable_after.0.as_secs() == 0 {
            let wrong = format!("{}", self.unreachable_after);
            let right = "a second or more, such as \"30s\"";
            return Err(Problem::new("requeue.unreachable_after", wrong, right));
        }
        Ok(())
    }
}

/// Names of the counters in the scoreboard.
pub const COUNTERS: &[&str] = &[
    "passes_total",
    "passes_cut_short_total",
    "messages_examined_total",
    "messages_wanted_total",
    "messages_routed_total",
    "messages_failed_total",
    "strikes_total",
];

/// Positions in [`COUNTERS`].
pub(crate) mod counter {
    pub(crate) const PASSES: usize = 0;
    pub(crate) const CUT_SHORT: usize = 1;
    pub(crate) const EXAMINED: usize = 2;
    pub(crate) const WANTED: usize = 3;
    pub(crate) const ROUTED: usize = 4;
    pub(crate) const FAILED: usize = 5;
    pub(crate) const STRIKES: usize = 6;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_settings() {
        assert_eq!(Settings::default().check(), Ok(()));
        for (settings, key) in [
            (Settings { every: Span::seconds(0), ..Settings::default() }, "requeue.every"),
            (Settings { outstanding_max: 0, ..Settings::default() }, "requeue.outstanding_max"),
            (
                Settings { unreachable_after: Span::millis(5), ..Settings::default() },
                "requeue.unreachable_after",
            ),
        ] {
            assert_eq!(settings.check().expect_err(key).key, key);
        }
    }
}
