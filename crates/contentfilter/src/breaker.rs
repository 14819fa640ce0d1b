//! Leaves a filter out for a while that failed several times in a row, so that nobody waits for it in vain.
//!
//! A row of failures ends with an answer at the step of the failures, or a later one: a milter that takes every `HELO` and dies of every
//! message fails on and on. When its time out is over, one session tries the filter for all, from step to step.

use std::time::{Duration, Instant};

use job::inspect::Step;

/// After so many failures in a row a filter is left out.
pub(crate) const FAILURES_MAX: u32 = 5;

/// How a filter fared lately.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures: u32,
    /// The last step at which it failed.
    furthest: Step,
    out_until: Option<Instant>,
    /// For how long it is left out; then one session tries it.
    left_out: Duration,
}

impl Breaker {
    /// For a filter that is to be left out for so long.
    pub(crate) fn new(left_out: Duration) -> Self {
        Self { failures: 0, furthest: Step::Connect, out_until: None, left_out }
    }

    /// Whether a session may ask the filter now. The first that asks when its time out is over tries it for all, which `tries` keeps for
    /// its next steps.
    pub(crate) fn may_ask(&mut self, tries: &mut bool, now: Instant) -> bool {
        let Some(until) = self.out_until else { return true };
        if until <= now {
            self.out_until = Some(now + self.left_out);
            *tries = true;
        }
        *tries
    }

    /// It answered at a step, and decided something or not. Says whether it was left out until now.
    ///
    /// Of one that is left out a decision is enough: the session that tries it may not come further.
    pub(crate) fn succeeded(&mut self, step: Step, decides: bool) -> bool {
        let was_out = self.is_out();
        if step < self.furthest && !(was_out && decides) {
            return false;
        }
        *self = Self::new(self.left_out);
        was_out
    }

    /// It failed at a step. Says whether it is left out from now on and was not before.
    pub(crate) fn failed(&mut self, step: Step, now: Instant) -> bool {
        let was_out = self.is_out();
        self.failures = self.failures.saturating_add(1);
        self.furthest = self.furthest.max(step);
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

    /// One that has failed so often at this step that it is left out since `now`.
    fn out(step: Step, now: Instant) -> Breaker {
        let mut breaker = Breaker::new(LEFT_OUT);
        for _ in 1..FAILURES_MAX {
            assert!(breaker.may_ask(&mut false, now));
            assert!(!breaker.failed(step, now));
            assert!(!breaker.succeeded(Step::Recipient, true), "it was not left out");
        }
        assert!(breaker.failed(step, now));
        breaker
    }

    #[test]
    fn leaves_out_and_tries_again() {
        let mut now = Instant::now();
        let mut breaker = out(Step::Message, now);
        assert!(!breaker.may_ask(&mut false, now));
        now += LEFT_OUT;
        let mut tries = false;
        assert!(breaker.may_ask(&mut tries, now), "one tries it");
        assert!(tries);
        assert!(!breaker.may_ask(&mut false, now), "others wait for how that goes");
        assert!(!breaker.failed(Step::Message, now));
        assert!(!breaker.may_ask(&mut false, now + LEFT_OUT / 2));
        now += LEFT_OUT;
        assert!(breaker.may_ask(&mut tries, now));
        assert!(breaker.succeeded(Step::Message, false));
        assert!(breaker.may_ask(&mut false, now));
        assert!(!breaker.failed(Step::Message, now));
        assert!(!breaker.succeeded(Step::Message, false), "it was not left out");
    }

    #[test]
    fn an_answer_before_the_step_of_the_failures_says_nothing() {
        let mut now = Instant::now();
        let mut breaker = out(Step::Message, now);
        now += LEFT_OUT;
        let mut tries = false;
        for step in [Step::Connect, Step::Helo, Step::Mail, Step::Recipient] {
            assert!(breaker.may_ask(&mut tries, now), "who tries it goes on, at {step:?}");
            assert!(!breaker.may_ask(&mut false, now));
            assert!(!breaker.succeeded(step, false));
        }
        assert!(breaker.is_out());
        assert!(breaker.succeeded(Step::Recipient, true), "what decides works");
        assert!(breaker.may_ask(&mut false, now));
    }

    #[test]
    fn an_answer_at_the_step_of_the_failures_ends_the_row() {
        let now = Instant::now();
        let mut breaker = Breaker::new(LEFT_OUT);
        for _ in 0..2 * FAILURES_MAX {
            assert!(!breaker.failed(Step::Helo, now));
            assert!(!breaker.succeeded(Step::Mail, false));
        }
    }
}
