//! The stage that looks at a message before it is accepted.
//!
//! ```text
//! smtpserver ── inspect {draft's handle} ─▶ contentfilter ── reads the draft, asks each filter in turn ─▶ verdict and header edits
//! ```
//!
//! - [`Settings`]: the filters, as an operator writes them. Without any, the composer leaves this hop out.
//! - [`Filters`]: the filters made ready: a pure function of a message's bytes.
//! - [`run`]: the worker.
//!
//! **Invariant:** a filter that cannot be asked follows its own `on_failure`, `tempfail` unless an operator said otherwise; mail is
//! never let through because something broke. Every limit on what a message may cost is named: bytes looked at, MIME parts and
//! depth, size of regular expressions. Touches: drafts, for reading; socket `contentfilter.inspect`. Never: accepted messages,
//! the network, other processes.

#![forbid(unsafe_code)]

mod decode;
mod mime;
mod rules;
mod run;
mod settings;

use serde::{Deserialize, Serialize};

pub use mime::{MIME_DEPTH_MAX, MIME_PARTS_MAX, TooComplex};
pub use rules::{Filters, Judgement};
pub use run::{Error, run};
pub use settings::{Action, FilterSetting, HeaderLine, OnFailure, Settings};

/// What a worker is handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The section `[contentfilter]`.
    pub settings: Settings,
}

/// Names of the counters in the scoreboard.
pub const COUNTERS: &[&str] = &[
    "inspected_total",
    "rejected_total",
    "tempfailed_total",
    "quarantined_total",
    "discarded_total",
    "failures_total",
    "scanned_bytes_total",
];

/// Positions in [`COUNTERS`].
pub(crate) mod counter {
    pub(crate) const INSPECTED: usize = 0;
    pub(crate) const REJECTED: usize = 1;
    pub(crate) const TEMPFAILED: usize = 2;
    pub(crate) const QUARANTINED: usize = 3;
    pub(crate) const DISCARDED: usize = 4;
    pub(crate) const FAILURES: usize = 5;
    pub(crate) const SCANNED_BYTES: usize = 6;
}
