//! Named places where a test may have something go wrong. Without the feature `faults` there are none.
//!
//! `GRANGE_FAULTS` names a directory. Whoever comes by the point `ledger.sync.before` looks for a file of that name there
//! and does what it says: `kill`, `stop` or `abort` (this process), or for a point that may fail, a system error by its
//! name (`EIO`, `ENOSPC`, …). The file is removed first, so that of all processes exactly one is struck; one that ends in
//! ` always` stays. What struck is added to the file `fired`, a line each: point, action, process id, milliseconds since 1970.
//!
//! `poison.STAGE` holds a reverse-path instead: whoever takes a job of that sender's in that stage aborts. It stays.

#[cfg(feature = "faults")]
mod armed;

/// A point where this process may be killed, stopped or aborted.
#[cfg(feature = "faults")]
pub fn point(name: impl std::fmt::Display) {
    armed::point(&name.to_string());
}

/// A point where this process may be killed, stopped or aborted.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: impl std::fmt::Display) {}

/// A point that may fail.
///
/// # Errors
///
/// The system error that a test wants here.
#[cfg(feature = "faults")]
pub fn fallible(name: impl std::fmt::Display) -> std::io::Result<()> {
    armed::fallible(&name.to_string())
}

/// A point that may fail.
///
/// # Errors
///
/// None.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn fallible(_name: impl std::fmt::Display) -> std::io::Result<()> {
    Ok(())
}

/// A stage takes a job of a message from this sender: a poisoned one ends this process as a bug would.
#[cfg(feature = "faults")]
pub fn taken(stage: &str, sender: Option<&str>) {
    armed::taken(stage, sender.unwrap_or("<>"));
}

/// A stage takes a job of a message from this sender: a poisoned one ends this process as a bug would.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn taken(_stage: &str, _sender: Option<&str>) {}
