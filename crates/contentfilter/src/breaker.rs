//! Leaves a filter out for a while that failed several times in a row, so that nobody waits for it in vain.

use std::time::{Duration, Instant};

/// After so many failures in a row a filter is left out.
pub(crate) const FAILURES_MAX: u32 = 5;

/// How a filter fared lately.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures: u32,
    out_until: Option<Instant>,
    /// For how long it is left out; then one message tries it.
    left_out: Duration,
}

impl Breaker {
    /// For a filter that is to be left out for so long.
    pub(crate) fn new(left_out: Duration) -> Self {
        Self { failures: 0, out_until: None, left_out }
    }

    /// Whether the filter may be asked now. When its time out is over, the first who asks tries it for all.
    pub(crate) fn may_ask(&mut self, now: Instant) -> bool {
        match self.out_until {
            Some(until) if now < until => false,
            Some(_) => {
                self.out_until = Some(now + self.left_out);
                true
            }
            None => true,
        }
    }

    /// It answered. Says whether it was left out before.
    pub(crate) fn succeeded(&mut self) -> bool {
        let was_out = self.is_out();
        *self = Self::new(self.left_out);
        was_out
    }

    /// It failed. Says whether it is left out from now on and was not before.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        let was_out = self.is_out();
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX {
            self.out_until = Some(now + self.left_out);
        }
        self.is_out() && !was_out
    }

    /// Whether it is left out, or only tried.
    pub(crate) fn is_out(&self) -> bool {
        self.out_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT_OUT: Duration = Duration::from_secs(30);

    #[test]
    fn leaves_out_and_tries_again() {
        let mut breaker = Breaker::new(LEFT_OUT);
        let mut now = Instant::now();
        for _ in 1..FAILURES_MAX {
            assert!(breaker.may_ask(now));
            assert!(!breaker.failed(now));
        }
        assert!(breaker.may_ask(now));
        assert!(breaker.failed(now));
        assert!(!breaker.may_ask(now));
        now += LEFT_OUT;
        assert!(breaker.may_ask(now), "one tries it");
        assert!(!breaker.may_ask(now), "others wait for how that goes");
        assert!(!breaker.failed(now));
        assert!(!breaker.may_ask(now + LEFT_OUT / 2));
        now += LEFT_OUT;
        assert!(breaker.may_ask(now));
        assert!(breaker.succeeded());
        assert!(breaker.may_ask(now));
        assert!(!breaker.failed(now));
        assert!(!breaker.succeeded(), "it was not left out");
    }
}
