//! Where what is to be done waits for a lane. On one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::sync::Notify;

/// Something that is done together with others of its kind.
pub(crate) trait Batched {
    /// So many are done together at most.
    const TOGETHER_MAX: usize;
    /// They are together no larger than this, unless one alone is. In bytes.
    const BYTES_MAX: usize;

    /// How large it is.
    fn bytes(&self) -> usize;

    /// Whether it may be done together with what is first.
    fn joins(&self, first: &Self) -> bool;
}

/// Things that wait, in their order.
pub(crate) struct Backlog<T> {
    waiting: RefCell<VecDeque<T>>,
    is_closed: Cell<bool>,
    changed: Notify,
}

impl<T: Batched> Backlog<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: RefCell::default(), is_closed: Cell::new(false), changed: Notify::new() }
    }

    /// Adds one, and wakes the lane that was busy last: its connection is there.
    pub(crate) fn push(&self, one: T) {
        self.waiting.borrow_mut().push_back(one);
        self.changed.notify_last();
    }

    /// Nothing more will come.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        self.changed.notify_waiters();
    }

    /// Takes from the front what may be done together, at least one; nothing when it is empty and closed.
    pub(crate) async fn next(&self) -> Option<Vec<T>> {
        loop {
            // Made before looking: it hears of what comes after.
            let changed = self.changed.notified();
            let taken = self.take();
            if !taken.is_empty() {
                return Some(taken);
            }
            if self.is_closed.get() {
                return None;
            }
            changed.await;
        }
    }

    fn take(&self) -> Vec<T> {
        let mut waiting = self.waiting.borrow_mut();
        let (mut taken, mut bytes) = (Vec::<T>::new(), 0);
        while let Some(one) = waiting.pop_front_if(|one| match taken.first() {
            None => true,
            Some(first) => {
                taken.len() < T::TOGETHER_MAX
                    && bytes + one.bytes() <= T::BYTES_MAX
                    && one.joins(first)
            }
        }) {
            bytes += one.bytes();
            taken.push(one);
        }
        if !waiting.is_empty() {
            self.changed.notify_last();
        }
        taken
    }

    /// Takes out those that are of no use any more.
    pub(crate) fn take_if(&self, mut is_spent: impl FnMut(&T) -> bool) -> VecDeque<T> {
        let mut waiting = self.waiting.borrow_mut();
        let all = std::mem::take(&mut *waiting).into_iter();
        let (spent, rest) = all.partition(|one| is_spent(one));
        *waiting = rest;
        spent
    }
}
