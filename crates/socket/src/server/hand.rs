//! What a worker has in hand, and who waits because something is alone in it.
//!
//! ```text
//!   taken beside others ◀── nothing alone is in hand or waits ── request ── else ─▶ waits its turn ─▶ taken
//!                                                                             (the one that is to be alone: for an empty hand)
//! ```
//!
//! Whoever is alone in a worker's hand when it crashes is what it crashed of. That holds only if the sender can tell that its
//! request was alone *in hand*, not merely on its way; so the server says so before it looks at the request, and takes nothing
//! else until its answer is on its way too.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::link::Link;

/// How long a request that is to be alone keeps others waiting until the hand is empty; then it is not taken.
pub(crate) const EMPTY_WAIT_MAX: Duration = Duration::from_secs(5);
/// While somebody waits, the hand is looked at so often at least: a peer's reading and the passing of time are not told.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The requests in hand of a worker, shared by all its servers.
#[derive(Default)]
pub struct Hand {
    taken: Cell<usize>,
    alone: RefCell<Option<Alone>>,
    waiting: RefCell<VecDeque<Waiting>>,
    keeping: Cell<bool>,
    freed: Notify,
}

/// What is, or was last, alone in hand.
struct Alone {
    link: Rc<Link>,
    /// It is answered or set aside; the peer may not have been sent that yet.
    over: bool,
}

/// A request that waits for its turn.
struct Waiting {
    /// Alone, over this connection, and not later than this.
    alone: Option<(Rc<Link>, Instant)>,
    /// Takes the request; or, if it waited too long, does not.
    begin: Box<dyn FnOnce(bool)>,
}

impl Hand {
    /// Calls `begin` with true when a request may be taken, mostly at once. One that is to be alone in hand names its connection
    /// and how long it may wait; `begin` is called with false when that has passed.
    pub(crate) fn enter(
        self: &Rc<Self>,
        alone: Option<(Rc<Link>, Instant)>,
        begin: impl FnOnce(bool) + 'static,
    ) {
        if self.waiting.borrow().is_empty() && self.fits(alone.is_some()) {
            self.take(alone.map(|(link, _)| link));
            return begin(true);
        }
        self.waiting.borrow_mut().push_back(Waiting { alone, begin: Box::new(begin) });
        if !self.keeping.replace(true) {
            tokio::task::spawn_local(keep(Rc::clone(self)));
        }
    }

    /// A request has been answered, or set aside. What was alone in hand is so no longer, as soon as its peer has been sent that.
    pub(crate) fn leave(&self, was_alone: bool) {
        self.taken.set(self.taken.get() - 1);
        if was_alone && let Some(alone) = &mut *self.alone.borrow_mut() {
            alone.over = true;
        }
        if self.keeping.get() {
            self.freed.notify_one();
        }
    }

    fn take(&self, alone: Option<Rc<Link>>) {
        self.taken.set(self.taken.get() + 1);
        if let Some(link) = alone {
            self.alone.replace(Some(Alone { link, over: false }));
        }
    }

    fn fits(&self, alone: bool) -> bool {
        if let Some(last) = &*self.alone.borrow() {
            if !last.over {
                return false;
            }
            // Before anything else may end this process, it must be known that this did not.
            last.link.flush();
            if last.link.is_up() && !last.link.is_flushed() {
                return false;
            }
        }
        self.alone.take();
        !alone || self.taken.get() == 0
    }

    /// Takes those whose turn has come, in order.
    fn admit(&self) {
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let Some(first) = waiting.front() else { return };
            let is_late = first.alone.as_ref().is_some_and(|(_, until)| *until <= Instant::now());
            if !is_late && !self.fits(first.alone.is_some()) {
                return;
            }
            let Some(Waiting { alone, begin }) = waiting.pop_front() else { return };
            drop(waiting);
            if !is_late {
                self.take(alone.map(|(link, _)| link));
            }
            begin(!is_late);
        }
    }
}

/// Admits who waits, until nobody does.
async fn keep(hand: Rc<Hand>) {
    loop {
        hand.admit();
        if hand.waiting.borrow().is_empty() {
            hand.keeping.set(false);
            return;
        }
        let _ = tokio::time::timeout(LOOK_AGAIN, hand.freed.notified()).await;
    }
}

#[cfg(test)]
mod tests;
