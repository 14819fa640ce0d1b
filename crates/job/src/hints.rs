//! What an acceptor does after `250`: it tells router of the message, and never waits for it.
//!
//! ```text
//! send ─▶ sent ─▶ acknowledged
//!          ├─ a draining worker did not take it, or its connection was lost ─▶ once more, elsewhere ─ lost ─▶ alone
//!          ├─ it is under suspicion, or lost alone ─▶ left to requeue
//!          └─ no room, no answer ─▶ kept ─▶ again and again, until it is acknowledged
//! ```
//!
//! A hint may be lost: requeue finds every accepted message that the scheduler lacks. But it looks only where no living writer
//! writes, so a writer brings its own hints back, and before it ends it waits for them a while ([`Hints::settle`]).

mod left;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket::{CallError, Client, SendOptions, codes};
use tokio::sync::Notify;

use self::left::Left;
use crate::route::{Route, RouteRequest};
use crate::strike::{Strike, StrikeAnswer, StrikeRequest};

/// The most lost hints whose workers' fates are awaited; the oldest is forgotten first, and requeue brings it back without a strike.
const LOST_MAX: usize = 4096;
/// The most hints that are sent a second time at once.
const RESENDS_MAX: usize = 1000;
/// How many workers a hint may be lost with until it is left to requeue.
const LOSSES_MAX: u32 = 6;
/// The most crashed workers that are remembered.
const CRASHED_MAX: usize = 16;

/// What a sender of hints has to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// A hint was to be sent.
    Hint,
    /// It found no room, and is kept.
    Dropped,
    /// It was sent and not acknowledged.
    Unanswered,
}

/// The hints of one worker. Cheap to clone.
#[derive(Clone)]
pub struct Hints(Rc<Inner>);

struct Inner {
    route: Client<Route>,
    strike: Client<Strike>,
    deadline: Duration,
    count: Box<dyn Fn(Counted)>,
    fates: RefCell<Fates>,
    /// Hints that are being sent a second time.
    resends: Cell<usize>,
    left: Rc<Left>,
    open: Rc<Open>,
}

/// Hints that are neither acknowledged nor given up.
#[derive(Default)]
struct Open {
    hints: Cell<usize>,
    /// Left to requeue: under suspicion, or one too many.
    given_up: Cell<usize>,
    ended: Notify,
}

impl Open {
    fn acknowledged(&self) {
        self.hints.set(self.hints.get() - 1);
        self.ended.notify_one();
    }

    fn give_up(&self) {
        self.given_up.set(self.given_up.get() + 1);
        self.acknowledged();
    }
}

/// Hints that were in hand when a connection ended. Whether its worker crashed, or drained or was killed by an operator, is said
/// on another connection, before or after.
#[derive(Default)]
struct Fates {
    lost: VecDeque<(u32, Lost)>,
    crashed: VecDeque<u32>,
}

/// A hint that was in hand when its connection ended, and whether nothing else was.
struct Lost {
    request: Rc<RouteRequest>,
    alone: bool,
}

impl Hints {
    /// Sends to `route`, where an answer may take `deadline`; tells `strike` of messages that a router crashed with.
    pub fn new(
        route: Client<Route>,
        strike: Client<Strike>,
        deadline: Duration,
        count: impl Fn(Counted) + 'static,
    ) -> Self {
        let open = Rc::<Open>::default();
        let left = Left::new(route.clone(), deadline, Rc::clone(&open));
        let (fates, resends, count) = (RefCell::default(), Cell::new(0), Box::new(count));
        let inner = Rc::new(Inner { route, strike, deadline, count, fates, resends, left, open });
        let weak = Rc::downgrade(&inner);
        inner.route.on_crash(move |pid| {
            if let Some(inner) = weak.upgrade() {
                inner.crashed(pid);
            }
        });
        Self(inner)
    }

    /// Begins to connect, so that the first hint does not wait for it.
    pub fn connect(&self) {
        self.0.route.connect();
    }

    /// Tells router of a message that was accepted.
    pub fn send(&self, request: RouteRequest) {
        self.0.open.hints.set(self.0.open.hints.get() + 1);
        self.0.hint(request);
    }

    /// Waits until router has acknowledged every hint, at the latest until then. Gives how many messages the scheduler may not know
    /// of: if there are any, ask requeue for a pass once their segment is sealed.
    pub async fn settle(&self, until: Instant) -> usize {
        let open = &self.0.open;
        while open.hints.get() > 0 {
            if tokio::time::timeout_at(until.into(), open.ended.notified()).await.is_err() {
                break;
            }
        }
        open.hints.get() + open.given_up.get()
    }
}

impl Inner {
    /// Sends a hint if there is room for it.
    fn hint(self: &Rc<Self>, request: RouteRequest) {
        let request = Rc::new(request);
        let options =
            SendOptions { deadline: Some(self.deadline), give_up: true, ..Default::default() };
        let (inner, sent) = (Rc::clone(self), Rc::clone(&request));
        let sending = self.route.send(&request, options, move |answer| match answer {
            Ok(_) => inner.open.acknowledged(),
            Err(CallError::Lost { pid, alone, .. }) => {
                inner.lost(pid, &sent, alone);
                inner.resend(sent);
            }
            Err(CallError::Refused(error)) if error.code == codes::NOT_TAKEN => inner.resend(sent),
            Err(error) if is_suspicion(&error) => {
                (inner.count)(Counted::Unanswered);
                inner.open.give_up();
            }
            Err(_) => {
                (inner.count)(Counted::Unanswered);
                inner.left.keep(&sent);
            }
        });
        (self.count)(Counted::Hint);
        if sending.is_err() {
            self.drop_hint(&request);
        }
    }

    /// Sends a hint elsewhere that was in hand when its worker went, once. What is lost a second time goes alone, until it was so in
    /// its worker's hand, and is left to requeue if that does not settle it: sent like any other it might bring down one after the other.
    fn resend(self: &Rc<Self>, request: Rc<RouteRequest>) {
        if self.resends.get() >= RESENDS_MAX {
            return self.drop_hint(&request);
        }
        self.resends.set(self.resends.get() + 1);
        let inner = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let mut losses = 1;
            let answer = loop {
                let answer = match losses {
                    1 => inner.route.call(&request).await,
                    _ => inner.route.call_alone(&request).await,
                };
                let Err(CallError::Lost { pid, alone, .. }) = answer else { break answer };
                inner.lost(pid, &request, alone);
                losses += 1;
                // One that was not alone in hand was on its way while another was.
                if alone || losses >= LOSSES_MAX {
                    break answer;
                }
            };
            inner.resends.set(inner.resends.get() - 1);
            if answer.is_err() {
                (inner.count)(Counted::Unanswered);
            }
            match answer {
                Ok(_) => inner.open.acknowledged(),
                Err(error) if losses > 1 || is_suspicion(&error) => inner.open.give_up(),
                Err(_) => inner.left.keep(&request),
            }
        });
    }

    /// There is no room for a hint now: it comes again later.
    fn drop_hint(&self, request: &RouteRequest) {
        (self.count)(Counted::Dropped);
        self.left.keep(request);
    }

    fn lost(self: &Rc<Self>, pid: u32, request: &Rc<RouteRequest>, alone: bool) {
        let lost = Lost { request: Rc::clone(request), alone };
        let mut fates = self.fates.borrow_mut();
        if fates.crashed.contains(&pid) {
            drop(fates);
            return self.strike(&lost);
        }
        if fates.lost.len() >= LOST_MAX {
            fates.lost.pop_front();
        }
        fates.lost.push_back((pid, lost));
    }

    fn crashed(self: &Rc<Self>, pid: u32) {
        let mut fates = self.fates.borrow_mut();
        if fates.crashed.contains(&pid) {
            return;
        }
        if fates.crashed.len() >= CRASHED_MAX {
            fates.crashed.pop_front();
        }
        fates.crashed.push_back(pid);
        let (struck, left): (VecDeque<_>, _) = fates.lost.drain(..).partition(|(of, _)| *of == pid);
        fates.lost = left;
        drop(fates);
        for (_, lost) in struck {
            self.strike(&lost);
        }
    }

    /// Tells the scheduler that router crashed with this message in hand.
    fn strike(self: &Rc<Self>, lost: &Lost) {
        let (handle, id, alone) = (lost.request.handle.clone(), lost.request.id, lost.alone);
        let strike = self.strike.clone();
        tokio::task::spawn_local(async move {
            let request = StrikeRequest { handle, id, stage: "router".to_owned(), alone };
            match strike.call(&request).await {
                Ok(StrikeAnswer { strikes, held }) => {
                    tracing::warn!(%id, strikes, held, "router crashed with a message");
                }
                Err(error) => {
                    tracing::warn!(%id, %error, "cannot tell scheduler of a strike");
                }
            }
        });
    }
}

/// Whether router says that a message may be what others crash of: sent again like any other, it would bring them down again.
fn is_suspicion(error: &CallError) -> bool {
    matches!(error, CallError::Refused(error) if error.code == codes::SUSPECT)
}

#[cfg(test)]
mod tests;
