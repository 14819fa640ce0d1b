//! When a crashed process may be started again: at once, then later and later, and after healthy seconds at once again.

use std::time::{Duration, Instant};

/// The first pause; the next ones are twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// After so long without a crash the next one is the first again.
const HEALTHY: Duration = Duration::from_secs(10);

/// One farm's crashes in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    in_a_row: u32,
    last: Option<Instant>,
    not_before: Option<Instant>,
}

impl Backoff {
    /// Notes a crash; returns how long nothing is started.
    pub(crate) fn crashed(&mut self, now: Instant) -> Duration {
        // The pause itself is no health.
        let quiet_since = self.not_before.max(self.last);
        if quiet_since.is_some_and(|since| now.saturating_duration_since(since) >= HEALTHY) {
            self.in_a_row = 0;
        }
        let pause = match self.in_a_row {
            0 => Duration::ZERO,
            row => PAUSE_MIN.saturating_mul(1 << (row - 1).min(20)).min(PAUSE_MAX),
        };
        self.in_a_row += 1;
        self.last = Some(now);
        self.not_before = Some(now + pause);
        pause
    }

    /// When something may be started, if not now.
    pub(crate) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_their_limit() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let pause = backoff.crashed(now);
            pauses.push(pause.as_millis());
            assert_eq!(backoff.waits_until(now).is_some(), !pause.is_zero());
            now += pause + Duration::from_secs(1);
            assert_eq!(backoff.waits_until(now), None);
        }
        let expect = [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000];
        assert_eq!(pauses, expect);
    }

    #[test]
    fn ten_healthy_seconds_forgive() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        for _ in 0..3 {
            backoff.crashed(now);
        }
        now += Duration::from_secs(11);
        assert_eq!(backoff.crashed(now), Duration::ZERO);
        assert_eq!(backoff.crashed(now), PAUSE_MIN);
    }
}
