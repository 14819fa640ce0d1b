//! Waiting for events with a deadline.

use std::time::{Duration, Instant};

/// How long a test waits for something that should come soon, on a machine that may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until there is something, for at most [`PATIENCE`]; else the test fails in these words.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, look)
}

/// Looks until there is something, for at most `patience`; else the test fails in these words.
pub fn until_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < patience, "waited {patience:?} in vain: {what}");
        std::thread::sleep(INTERVAL);
    }
}
