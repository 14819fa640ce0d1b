//! What all drafts and commits of a process together may hold in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use queue::IntakeError;

/// The bytes that are held, and how many may be.
pub(crate) struct Budget {
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Budget {
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicU64::new(0), bytes_max })
    }

    /// Whether there is room for anything.
    pub(crate) fn check(&self) -> Result<(), IntakeError> {
        if self.bytes.load(Ordering::Relaxed) < self.bytes_max {
            Ok(())
        } else {
            Err(IntakeError::Busy)
        }
    }
}

/// A part of the budget, given back when it is dropped.
pub(crate) struct Held {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Held {
    /// Nothing yet.
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), bytes: 0 }
    }

    /// Takes more, if there is room.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), IntakeError> {
        let bytes = bytes as u64;
        let held = self.budget.bytes.fetch_add(bytes, Ordering::Relaxed);
        if held.saturating_add(bytes) > self.budget.bytes_max {
            self.budget.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(IntakeError::Busy);
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Hands on so much of it.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let bytes = self.bytes.min(bytes as u64);
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), bytes }
    }

    /// Hands on all of it.
    pub(crate) fn split_all(&mut self) -> Self {
        let bytes = std::mem::take(&mut self.bytes);
        Self { budget: self.budget.clone(), bytes }
    }

    /// Gives all of it back.
    pub(crate) fn give_back(&mut self) {
        self.budget.bytes.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_on_is_given_back_once() {
        let budget = Budget::new(100);
        let mut held = Held::new(&budget);
        held.take(60).expect("there is room");
        let part = held.split(20);
        assert!(matches!(Held::new(&budget).take(41), Err(IntakeError::Busy)));
        drop(held);
        assert_eq!(budget.bytes.load(Ordering::Relaxed), 20);
        drop(part);
        assert_eq!(budget.bytes.load(Ordering::Relaxed), 0);
        Held::new(&budget).take(100).expect("all of it is free");
    }

    #[test]
    fn a_full_budget_lets_nothing_begin() {
        let budget = Budget::new(10);
        let mut held = Held::new(&budget);
        held.take(10).expect("there is room");
        assert!(matches!(budget.check(), Err(IntakeError::Busy)));
        held.give_back();
        budget.check().expect("there is room");
    }
}
