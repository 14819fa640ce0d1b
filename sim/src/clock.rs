//! Virtual time.

use std::time::{Duration, Instant};

use mail::Timestamp;

/// A second, in milliseconds.
pub(crate) const SECOND: u64 = 1000;
/// A minute.
pub(crate) const MINUTE: u64 = 60 * SECOND;
/// An hour.
pub(crate) const HOUR: u64 = 60 * MINUTE;
/// A day.
pub(crate) const DAY: u64 = 24 * HOUR;

/// Both clocks: one goes on, one may be set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    base: Instant,
    /// Milliseconds since the beginning.
    pub(crate) mono: u64,
    /// What the wall clock shows more than that.
    pub(crate) ahead: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { base: Instant::now(), mono: 0, ahead: 1_700_000_000_000 }
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.mono + self.ahead)
    }

    /// As the scheduler takes it.
    pub(crate) fn of_scheduler(&self) -> scheduler::machine::Now {
        scheduler::machine::Now { wall: self.wall(), mono: self.mono }
    }

    /// As the spool takes it.
    pub(crate) fn of_spool(&self) -> queue_spool::Now {
        queue_spool::Now { at: self.base + Duration::from_millis(self.mono), wall: self.wall() }
    }

    /// A time of the spool, as milliseconds since the beginning, rounded up.
    pub(crate) fn of(&self, at: Instant) -> u64 {
        let span = at.saturating_duration_since(self.base);
        u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}
