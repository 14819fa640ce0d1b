//! Handing a routed message to the scheduler.
//!
//! ```text
//! one part ──room──▶ sent ─▶ acknowledged
//!             │       └─ not taken, or connection lost ─▶ once more, when there is a connection
//!             └─ no room ─▶ waits for it, within the deadline
//! parts ─▶ in order over one connection, as there is room ─▶ all acknowledged; else all is given up
//! ```

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use job::Acknowledged;
use job::enqueue::{Enqueue, EnqueueRequest};
use socket::{CallError, Client, PeerId, SendError, SendOptions, codes};
use tokio::sync::Notify;

/// The way to the scheduler.
pub(crate) struct Handover {
    pub(crate) scheduler: Client<Enqueue>,
    /// How long the scheduler may take for a message, or for a part of one.
    pub(crate) deadline: Duration,
}

/// How long to wait for room before looking again, when nothing told of it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How far the parts of one message have come.
#[derive(Default)]
struct Progress {
    acknowledged: Cell<usize>,
    failed: Cell<Option<CallError>>,
    moved: Notify,
}

impl Handover {
    /// Enqueues all parts of a message, and says once how it went.
    pub(crate) fn begin(
        self: &Rc<Self>,
        parts: Vec<EnqueueRequest>,
        done: impl FnOnce(Result<(), CallError>) + 'static,
    ) {
        let slot = Rc::new(RefCell::new(Some((parts, done))));
        let sent = match slot.borrow().as_ref().map(|(parts, _)| parts.as_slice()) {
            Some([part]) => {
                let (this, waiting) = (Rc::clone(self), Rc::clone(&slot));
                self.scheduler.send(part, self.options(None), move |answer| {
                    if let Some((parts, done)) = waiting.take() {
                        match answer {
                            // Enqueueing twice changes nothing, so what may have been lost is sent once more.
                            Err(error) if is_to_be_sent_elsewhere(&error) => {
                                tokio::task::spawn_local(this.later(parts, done));
                            }
                            answer => done(answer.map(drop)),
                        }
                    }
                })
            }
            _ => Err(SendError::Full),
        };
        if sent.is_err()
            && let Some((parts, done)) = slot.take()
        {
            tokio::task::spawn_local(Rc::clone(self).later(parts, done));
        }
    }

    async fn later(
        self: Rc<Self>,
        parts: Vec<EnqueueRequest>,
        done: impl FnOnce(Result<(), CallError>),
    ) {
        let result = match parts.as_slice() {
            [part] => self.scheduler.call(part).await.map(drop),
            parts => self.in_parts(parts).await,
        };
        done(result);
    }

    /// Sends parts in order over one connection, as there is room, and waits until all are acknowledged. The scheduler forgets
    /// parts whose connection ends.
    async fn in_parts(&self, parts: &[EnqueueRequest]) -> Result<(), CallError> {
        let progress = Rc::new(Progress::default());
        let mut connection = None;
        for part in parts {
            let sent = self.send_part(part, connection, &progress);
            let peer = self.in_time(sent).await??;
            connection.get_or_insert(peer);
        }
        loop {
            let moved = progress.moved.notified();
            if let Some(error) = progress.failed.take() {
                return Err(error);
            }
            if progress.acknowledged.get() == parts.len() {
                return Ok(());
            }
            self.in_time(moved).await?;
        }
    }

    /// Each part has the deadline of a message: until there is room for it, and again until one more is acknowledged.
    async fn in_time<T>(&self, step: impl Future<Output = T>) -> Result<T, CallError> {
        tokio::time::timeout(self.deadline, step).await.map_err(|_| CallError::Deadline)
    }

    async fn send_part(
        &self,
        part: &EnqueueRequest,
        connection: Option<PeerId>,
        progress: &Rc<Progress>,
    ) -> Result<PeerId, CallError> {
        loop {
            if let Some(error) = progress.failed.take() {
                return Err(error);
            }
            let noted = Rc::clone(progress);
            let sent = self.scheduler.send(part, self.options(connection), move |answer| {
                match answer {
                    Ok(Acknowledged {}) => noted.acknowledged.set(noted.acknowledged.get() + 1),
                    Err(error) => noted.failed.set(Some(error)),
                }
                noted.moved.notify_one();
            });
            match sent {
                Ok(peer) => return Ok(peer),
                Err(SendError::Disconnected) if connection.is_some() => {
                    return Err(SendError::Disconnected.into());
                }
                Err(error @ SendError::TooLong) => return Err(error.into()),
                // Another message may take the room that was told of, so it is looked for again after a moment at the latest.
                Err(SendError::Full | SendError::Disconnected) => {
                    let _ = tokio::time::timeout(LOOK_AGAIN, self.scheduler.changed()).await;
                }
            }
        }
    }

    fn options(&self, to: Option<PeerId>) -> SendOptions {
        SendOptions { deadline: Some(self.deadline), give_up: true, to }
    }
}

fn is_to_be_sent_elsewhere(error: &CallError) -> bool {
    match error {
        CallError::Lost { .. } => true,
        CallError::Refused(error) => error.code == codes::NOT_TAKEN,
        CallError::NotSent(_) | CallError::Deadline => false,
    }
}

#[cfg(test)]
mod tests;
