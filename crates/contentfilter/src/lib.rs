//! The stage that looks at a message before it is accepted.
//!
//! ```text
//! smtpserver ── inspect {draft's handle} ─▶ contentfilter ── reads the draft, asks each filter in turn ─▶ verdict and header edits
//! ```
//!
//! - [`Settings`]: the filters, as an operator writes them. Without any, the composer leaves this hop out.
//! - `filter`: what a filter is, whatever its kind; `kinds`: where each kind is plugged in; `chain`: all of them in their order.
//! - [`run`]: the worker.
//! - [`trial`]: what each filter would say of a message, without a farm.
//!
//! **Invariant:** a filter that cannot be asked follows its own `on_failure`, `tempfail` unless an operator said otherwise; mail is
//! never let through because something broke. Every limit on what a message may cost is named: bytes looked at, MIME parts and
//! depth, size of regular expressions, memory, time. Touches: drafts, for reading, and
//! stored messages that are looked at again; drafts of its own, for other bodies; socket `contentfilter.inspect`; the services that the
//! filters name. Never: commits a message.

#![forbid(unsafe_code)]

mod authentication;
mod bodies;
mod breaker;
mod chain;
mod clamd;
mod clients;
mod decode;
mod endpoint;
#[cfg(test)]
mod failures;
mod filter;
mod judgement;
mod kinds;
mod message;
mod milter;
mod mime;
mod rules;
mod run;
mod sessions;
mod settings;
mod signing;
mod trial;

use serde::{Deserialize, Serialize};

pub use crate::authentication::{AuthenticationSetting, DmarcRule, TempErrorRule};
pub use bodies::OpenIntake;
pub use clients::Clients;
pub use endpoint::{Endpoint, EndpointError};
pub use mime::{MIME_DEPTH_MAX, MIME_PARTS_MAX, TooComplex};
pub use run::{Error, run};
pub use settings::{Action, EarlyStep, FilterSetting, HeaderLine, OnFailure, Settings, Timeouts};
pub use signing::{SealingKey, SigningKey};
pub use trial::{Facts, Found, Trial, Tried, trial};

/// Looks into a message as rules do, and sees to it that what it takes is within limits.
#[cfg(fuzzing)]
pub fn look_into(message: &[u8]) {
    let Ok(parts) = mime::parts(message) else { return };
    assert!(parts.types.len() <= 2 * MIME_PARTS_MAX && parts.texts.len() <= 2 * MIME_PARTS_MAX);
    assert!(parts.names.iter().all(|name| name.len() <= 4 * message.len()));
    // A header section that ends early is read in two ways, and a charset's character takes up to four bytes for one.
    let bytes: usize = parts.texts.iter().map(String::len).sum();
    assert!(bytes <= 16 * message.len() + 64, "{bytes} bytes of text from {}", message.len());
    let _ = message::decoded_headers(message);
}

/// Has a milter that says this look at a message, and sees to it that what it makes of it is well formed.
#[cfg(fuzzing)]
pub fn hear_milter(said: &[u8]) {
    let _ = milter::hear(said);
}

/// What a worker is handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The section `[contentfilter]`.
    pub settings: Settings,
    /// Our name.
    pub hostname: String,
    /// The section `[dns]`.
    pub dns: dns::Settings,
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
    "steps_total",
    "bodies_replaced_total",
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
    pub(crate) const STEPS: usize = 7;
    pub(crate) const BODIES_REPLACED: usize = 8;
}
