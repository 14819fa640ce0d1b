//! Hints that found no room or no answer, kept to be sent again. What is lost here, in a crash or for want of room, requeue finds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use socket::{CallError, Client, SendOptions};
use tokio::sync::Notify;

use super::{Open, is_suspicion};
use crate::route::{Route, RouteRequest};

/// The most hints that are kept; the oldest is forgotten first.
const KEPT_MAX: usize = 20_000;
/// How many are sent before their answers are awaited: they stand back behind new ones.
const BATCH: usize = 64;
/// The first pause, and the one after a batch that was not answered whole.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause, when nobody answers for long.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The hints that one worker has left.
pub(super) struct Left {
    route: Client<Route>,
    deadline: Duration,
    kept: RefCell<VecDeque<RouteRequest>>,
    sending: Cell<bool>,
    open: Rc<Open>,
}

/// A batch under way.
#[derive(Default)]
struct Batch {
    unanswered: Cell<usize>,
    failed: Cell<bool>,
    answered: Notify,
}

impl Left {
    /// Keeps nothing yet. Sends to `route`, which may take `deadline` for an answer.
    pub(super) fn new(route: Client<Route>, deadline: Duration, open: Rc<Open>) -> Rc<Self> {
        let (kept, sending) = (RefCell::default(), Cell::new(false));
        Rc::new(Self { route, deadline, kept, sending, open })
    }

    /// Keeps a hint, without what router can read from the store.
    pub(super) fn keep(self: &Rc<Self>, request: &RouteRequest) {
        let RouteRequest { handle, id, routing, facts: _ } = request.clone();
        self.push(RouteRequest { handle, id, routing, facts: None });
        if !self.sending.replace(true) {
            let this = Rc::clone(self);
            tokio::task::spawn_local(async move { this.send_all().await });
        }
    }

    fn push(&self, request: RouteRequest) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
            self.open.give_up();
        }
        kept.push_back(request);
    }

    async fn send_all(self: Rc<Self>) {
        let mut pause = PAUSE_MIN;
        while !self.kept.borrow().is_empty() {
            tokio::time::sleep(pause).await;
            pause = match self.send_batch().await {
                true => Duration::ZERO,
                false => (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX),
            };
        }
        self.sending.set(false);
    }

    /// Sends some and waits for their answers; says whether all were taken. Those that were not are kept again.
    async fn send_batch(self: &Rc<Self>) -> bool {
        let batch = Rc::new(Batch::default());
        for _ in 0..BATCH {
            let Some(request) = self.kept.borrow_mut().pop_front() else { break };
            let options =
                SendOptions { deadline: Some(self.deadline), give_up: true, ..Default::default() };
            let (this, of, sent) = (Rc::clone(self), Rc::clone(&batch), request.clone());
            let sending = self.route.send(&request, options, move |answer| {
                match answer {
                    Ok(_) => this.open.acknowledged(),
                    // One that is lost with its worker is under suspicion: requeue counts strikes, and sends suspects alone.
                    Err(CallError::Lost { .. }) => this.open.give_up(),
                    Err(error) if is_suspicion(&error) => this.open.give_up(),
                    Err(_) => {
                        of.failed.set(true);
                        this.push(sent);
                    }
                }
                of.unanswered.set(of.unanswered.get() - 1);
                of.answered.notify_one();
            });
            if sending.is_err() {
                batch.failed.set(true);
                self.kept.borrow_mut().push_front(request);
                break;
            }
            batch.unanswered.set(batch.unanswered.get() + 1);
        }
        while batch.unanswered.get() > 0 {
            batch.answered.notified().await;
        }
        !batch.failed.get()
    }
}
