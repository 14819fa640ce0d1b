//! Asking requeue for a pass.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use job::requeue::{Requeue, RequeueRequest};
use socket::ClientSettings;

/// The first and the longest wait before requeue is asked again.
const REQUEUE_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long an answer of requeue may take.
const REQUEUE_DEADLINE: Duration = Duration::from_secs(10);

/// Asks requeue for passes, one at a time and until one is acknowledged.
///
/// It connects only to ask: to an on-demand farm, a connection means work.
pub(super) struct RequeueAsker {
    worker: farm::Worker,
    socket: String,
    state: RefCell<Asking>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    Idle,
    Asks,
    /// It was asked again while it was asking: the pass acknowledged may have begun before.
    AsksAgain,
}

impl RequeueAsker {
    pub(super) fn new(worker: farm::Worker, socket: String) -> Self {
        Self { worker, socket, state: RefCell::new(Asking::Idle) }
    }

    pub(super) fn ask(self: &Rc<Self>) {
        let before = *self.state.borrow();
        if before != Asking::Idle {
            *self.state.borrow_mut() = Asking::AsksAgain;
            return;
        }
        *self.state.borrow_mut() = Asking::Asks;
        let asker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let settings = ClientSettings {
                deadline: REQUEUE_DEADLINE,
                waiting_max: 4,
                ..ClientSettings::default()
            };
            let client = asker.worker.client::<Requeue>(&asker.socket, settings);
            let mut wait = REQUEUE_RETRY.0;
            loop {
                let request = RequeueRequest { reason: "asked by the scheduler".to_owned() };
                if client.call(&request).await.is_err() {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(REQUEUE_RETRY.1);
                    continue;
                }
                let state = *asker.state.borrow();
                if state == Asking::AsksAgain {
                    *asker.state.borrow_mut() = Asking::Asks;
                    continue;
                }
                *asker.state.borrow_mut() = Asking::Idle;
                return;
            }
        });
    }
}
