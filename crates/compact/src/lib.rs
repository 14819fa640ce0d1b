//! The run-once stage that copies what still lives out of segments in which most has ended.
//!
//! ```text
//!            ┌ copies that an earlier pass left: told of again, or removed ──────────────────────────────┐
//! started ─▶ │ sealed segments ─▶ where? (scheduler) ─▶ those worth it, the emptiest first:              │ ─▶ ended
//!            │                       copied, synced ─▶ moved (scheduler) ─▶ those that have ended removed │
//!            └───────────────────────────────────────────────────────────────────────────────────────────┘
//!                 again, when someone asked meanwhile, or when there was more than one pass may copy
//! ```
//!
//! A segment's file goes when everything in it has ended: a few messages that are deferred for days would keep it. Its
//! survivors are copied, each to a place of its own, and the store gives the segment back by itself.
//!
//! **The rule.** A segment is worth copying from when
//! - its youngest message was accepted [`Settings::age_min`] ago or earlier, so that mail which is delivered at its first
//!   attempts is never copied; or younger segments, too, together keep the store from the bound below;
//! - what lives in it is less than [`Settings::live_max`] of it, and copies would take less than the segment does, each counted in
//!   whole blocks of a file system;
//! - the scheduler knows all of it: a message that is not routed yet keeps its segment.
//!
//! Each segment that is left has at least half of its bytes alive, so that **the store takes less than twice its live bytes, and
//! two segments for each stripe beside**.
//!
//! **Invariant:** the scheduler alone says what lives and where; a copy is removed only when it has said that the message has
//! ended. Killed at any moment, nothing is lost: an unfinished copy is nobody's, a finished one is told of by the next pass.
//! Touches: sealed segments, for reading; files of moved messages; sockets `compact.compact`, `scheduler.home`. Never: bodies in
//! files of their own, the ledger, the network.

#![forbid(unsafe_code)]

mod pass;
mod rule;
mod run;

use config::{ByteSize, Problem, Span};
use serde::{Deserialize, Serialize};

pub use run::{Error, run};

/// The section `[compact]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Time between passes that nobody asked for. Default: 1m.
    pub every: Span,
    /// Messages younger than this are not copied, unless the queue takes too much space. Default: 15m.
    pub age_min: Span,
    /// Messages are copied out of a segment when less than this share of it, in percent, still lives. Default: 50.
    pub live_max: u32,
    /// How much a pass copies; what is left is the next one's, which follows at once. Default: 256 MiB.
    pub pass_bytes_max: ByteSize,
    /// How long a pass waits for a scheduler that does not answer, before it ends and leaves the rest to the next. Default: 30s.
    pub unreachable_after: Span,
}

/// What a worker is handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The section `[compact]`.
    pub settings: Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            every: Span::seconds(60),
            age_min: Span::seconds(900),
            live_max: 50,
            pass_bytes_max: ByteSize(256 << 20),
            unreachable_after: Span::seconds(30),
        }
    }
}

impl Settings {
    /// Checks for contradictions.
    pub fn check(&self) -> Result<(), Problem> {
        let spans = [("every", self.every), ("unreachable_after", self.unreachable_after)];
        for (key, span) in spans {
            if span.0.as_secs() == 0 {
                let right = "a second or more, such as \"1m\"";
                return Err(Problem::new(format!("compact.{key}"), span.to_string(), right));
            }
        }
        if !(1..=90).contains(&self.live_max) {
            let wrong = self.live_max.to_string();
            return Err(Problem::new(
                "compact.live_max",
                wrong,
                "a number of percent from 1 to 90",
            ));
        }
        if self.pass_bytes_max.0 < PASS_BYTES_MIN {
            let right = format!("{} or more", ByteSize(PASS_BYTES_MIN));
            let wrong = format!("{} is too little", self.pass_bytes_max);
            return Err(Problem::new("compact.pass_bytes_max", wrong, right));
        }
        Ok(())
    }
}

/// A pass that copies less hardly gets on.
const PASS_BYTES_MIN: u64 = 1 << 20;

/// Names of the counters in the scoreboard.
pub const COUNTERS: &[&str] = &[
    "passes_total",
    "passes_cut_short_total",
    "segments_examined_total",
    "segments_emptied_total",
    "messages_moved_total",
    "messages_damaged_total",
    "bytes_copied_total",
    "copies_removed_total",
];

/// Positions in [`COUNTERS`].
pub(crate) mod counter {
    pub(crate) const PASSES: usize = 0;
    pub(crate) const CUT_SHORT: usize = 1;
    pub(crate) const EXAMINED: usize = 2;
    pub(crate) const EMPTIED: usize = 3;
    pub(crate) const MOVED: usize = 4;
    pub(crate) const DAMAGED: usize = 5;
    pub(crate) const COPIED: usize = 6;
    pub(crate) const REMOVED: usize = 7;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_settings() {
        let ours = Settings::default;
        assert_eq!(ours().check(), Ok(()));
        for (settings, key) in [
            (Settings { every: Span::millis(5), ..ours() }, "compact.every"),
            (
                Settings { unreachable_after: Span::seconds(0), ..ours() },
                "compact.unreachable_after",
            ),
            (Settings { live_max: 0, ..ours() }, "compact.live_max"),
            (Settings { live_max: 91, ..ours() }, "compact.live_max"),
            (Settings { pass_bytes_max: ByteSize(1), ..ours() }, "compact.pass_bytes_max"),
        ] {
            assert_eq!(settings.check().expect_err(key).key, key);
        }
    }
}
