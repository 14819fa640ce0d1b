//! One coarse clock for all sessions of a worker, and the word that draining has begun.
//!
//! A session sets its deadline, which costs a store, and waits. One task looks at all deadlines twice a second, as long as there are
//! sessions, and wakes those that have passed: a deadline is kept to within [`TICK`], and an idle worker has no timer at all.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// How often deadlines are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(500);

/// The clock of a worker.
#[derive(Default)]
pub(crate) struct Watch {
    timers: RefCell<Vec<Weak<Timer>>>,
    is_ticking: Cell<bool>,
    is_draining: Cell<bool>,
}

/// One session's place on the clock.
#[derive(Default)]
pub(crate) struct Timer {
    deadline: Cell<Option<Instant>>,
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    has_expired: bool,
    is_draining: bool,
}

/// Why a wait was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The deadline has passed.
    Expired,
    /// The worker drains, and the wait was one that may be ended by that.
    Draining,
}

/// Whether draining ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drain {
    Ends,
    Waits,
}

impl Watch {
    /// Gives a session its timer. Call within the runtime.
    pub(crate) fn timer(self: &Rc<Self>) -> Rc<Timer> {
        let timer = Rc::new(Timer::default());
        timer.state.set(State { is_draining: self.is_draining.get(), has_expired: false });
        self.timers.borrow_mut().push(Rc::downgrade(&timer));
        if !self.is_ticking.replace(true) {
            tokio::task::spawn_local(Rc::clone(self).tick());
        }
        timer
    }

    /// Tells all sessions, now and later, that the worker drains.
    pub(crate) fn drain(&self) {
        self.is_draining.set(true);
        for timer in self.timers.borrow().iter().filter_map(Weak::upgrade) {
            timer.change(State { is_draining: true, ..timer.state.get() });
        }
    }

    async fn tick(self: Rc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            let now = Instant::now();
            let mut timers = self.timers.borrow_mut();
            timers.retain(|timer| match timer.upgrade() {
                Some(timer) => {
                    if timer.deadline.get().is_some_and(|deadline| deadline <= now) {
                        timer.change(State { has_expired: true, ..timer.state.get() });
                    }
                    true
                }
                None => false,
            });
            if timers.is_empty() {
                self.is_ticking.set(false);
                return;
            }
        }
    }
}

impl Timer {
    /// Sets the deadline of the waits that follow.
    pub(crate) fn set(&self, deadline: Instant) {
        self.deadline.set(Some(deadline));
        self.state.set(State { has_expired: false, ..self.state.get() });
    }

    /// Whether the worker drains.
    pub(crate) fn is_draining(&self) -> bool {
        self.state.get().is_draining
    }

    /// Waits for `future`, or until the deadline, or until draining begins if that ends this wait.
    pub(crate) async fn guard<F: Future>(
        &self,
        drain: Drain,
        future: F,
    ) -> Result<F::Output, Interrupt> {
        let mut future = pin!(future);
        std::future::poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            let state = self.state.get();
            if state.has_expired {
                return Poll::Ready(Err(Interrupt::Expired));
            }
            if state.is_draining && drain == Drain::Ends {
                return Poll::Ready(Err(Interrupt::Draining));
            }
            let mut waker = self.waker.borrow_mut();
            match &mut *waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }

    fn change(&self, state: State) {
        if self.state.replace(state) != state
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
