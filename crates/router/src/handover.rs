//! Handing a routed message to the scheduler.
//!
//! ```text
//! one part ──room──▶ sent ─▶ acknowledged
//!             │       ├─ not taken ─▶ again, when there is a connection
//!             │       └─ connection lost ─▶ what became of that scheduler? the next one tells
//!             │            ├─ it did not crash ─▶ again
//!             │            └─ it crashed ─▶ strike, written ─▶ again; from two strikes on alone; at the third it is held: refused
//!             └─ no room ─▶ waits for it, within the deadline
//! parts ─▶ in order over one connection, as there is room ─▶ all acknowledged; else as above
//! ```
//!
//! What was in hand when a scheduler crashed may be what it crashed of. It is not sent again before its strike is written, or it
//! would bring the next one down too, again and again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use job::Acknowledged;
use job::enqueue::{Enqueue, EnqueueRequest};
use job::strike::{ALONE_FROM_STRIKES, Strike, StrikeAnswer, StrikeRequest};
use socket::{CallError, Client, ErrorObject, PeerId, SendError, SendOptions, codes};
use tokio::sync::Notify;

/// The way to the scheduler.
pub(crate) struct Handover {
    pub(crate) scheduler: Client<Enqueue>,
    strike: Client<Strike>,
    /// How long the scheduler may take for a message, or for a part of one.
    deadline: Duration,
    /// Schedulers that crashed.
    crashed: RefCell<VecDeque<u32>>,
}

/// How long to wait for room before looking again, when nothing told of it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often a message is sent again at most.
const AGAIN_MAX: u32 = 6;
/// How long the next scheduler is waited for, to hear what became of the last one.
const FATE_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often a strike is told until it is taken, and the pause between.
const STRIKE_TRIES: u32 = 5;
const STRIKE_PAUSE: Duration = Duration::from_millis(100);
/// The most crashed schedulers that are remembered.
const CRASHED_MAX: usize = 16;

/// How far the parts of one message have come.
#[derive(Default)]
struct Progress {
    acknowledged: Cell<usize>,
    failed: Cell<Option<CallError>>,
    moved: Notify,
}

impl Progress {
    /// Of several failures, that of the part which was alone in a scheduler's hand says most.
    fn fail(&self, error: CallError) {
        let before = self.failed.take();
        let says_more = matches!(before, Some(CallError::Lost { alone: true, .. }));
        self.failed.set(if says_more { before } else { Some(error) });
    }
}

impl Handover {
    /// Hands over to `scheduler`, which has `deadline` for each part; tells `strike` of what a scheduler crashed with.
    pub(crate) fn new(
        scheduler: Client<Enqueue>,
        strike: Client<Strike>,
        deadline: Duration,
    ) -> Rc<Self> {
        let this = Rc::new(Self { scheduler, strike, deadline, crashed: RefCell::default() });
        let weak = Rc::downgrade(&this);
        this.scheduler.on_crash(move |pid| {
            if let Some(this) = weak.upgrade() {
                let mut crashed = this.crashed.borrow_mut();
                if crashed.len() >= CRASHED_MAX {
                    crashed.pop_front();
                }
                crashed.push_back(pid);
            }
        });
        this
    }

    /// Enqueues all parts of a message, of which there is one at least, and says once how it went. If it goes `alone`, the
    /// scheduler has nothing else in hand with it.
    pub(crate) fn begin(
        self: &Rc<Self>,
        parts: Vec<EnqueueRequest>,
        alone: bool,
        done: impl FnOnce(Result<(), CallError>) + 'static,
    ) {
        let slot = Rc::new(RefCell::new(Some((parts, done))));
        let sent = match slot.borrow().as_ref().map(|(parts, _)| parts.as_slice()) {
            Some([part]) => {
                let (this, waiting) = (Rc::clone(self), Rc::clone(&slot));
                self.scheduler.send(part, self.options(alone, None), move |answer| {
                    if let Some((parts, done)) = waiting.take() {
                        match answer {
                            Err(error) if is_to_be_sent_again(&error, alone) => {
                                tokio::task::spawn_local(async move {
                                    done(this.again(&parts, alone, Some(error)).await);
                                });
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
            let this = Rc::clone(self);
            tokio::task::spawn_local(async move { done(this.again(&parts, alone, None).await) });
        }
    }

    /// Sends until it is settled. Enqueueing twice changes nothing, so what may have been lost is sent again.
    async fn again(
        &self,
        parts: &[EnqueueRequest],
        mut alone: bool,
        mut failed: Option<CallError>,
    ) -> Result<(), CallError> {
        for _ in 0..AGAIN_MAX {
            if let Some(error) = failed.take() {
                alone = self.consider(parts, alone, error).await?;
            }
            let result = match parts {
                [part] if alone => self.scheduler.call_alone(part).await.map(drop),
                [part] => self.scheduler.call(part).await.map(drop),
                parts => self.in_parts(parts, alone).await,
            };
            match result {
                Err(error) if is_to_be_sent_again(&error, alone) => failed = Some(error),
                result => return result,
            }
        }
        // The last loss counts as well.
        let error = failed.unwrap_or(CallError::Deadline);
        match self.consider(parts, alone, error.clone()).await? {
            true => Err(suspicion()),
            false => Err(error),
        }
    }

    /// Decides whether a message is sent again after this error, and whether alone.
    async fn consider(
        &self,
        parts: &[EnqueueRequest],
        alone: bool,
        error: CallError,
    ) -> Result<bool, CallError> {
        let (pid, was_alone) = match &error {
            CallError::Lost { pid, alone, .. } => (*pid, *alone),
            CallError::Refused(error) => return Ok(alone || error.code == codes::SUSPECT),
            CallError::NotSent(_) | CallError::Deadline => return Err(error),
        };
        let fate = tokio::time::timeout(FATE_WAIT_MAX, self.has_crashed(pid)).await;
        if !fate.map_err(|_| error)? {
            return Ok(alone);
        }
        match self.strike(parts, was_alone).await {
            Some(StrikeAnswer { strikes, held: false }) => {
                Ok(alone || strikes >= ALONE_FROM_STRIKES)
            }
            _ => Err(suspicion()),
        }
    }

    /// Whether a scheduler crashed, or drained or was killed by an operator. The next one knows, and says so before it takes anything.
    async fn has_crashed(&self, pid: u32) -> bool {
        // Of those who share a client one alone is told of a change.
        let scheduler = self.scheduler.clone();
        loop {
            let peers = scheduler.peers();
            if peers.iter().any(|peer| peer.pid == pid && !peer.draining) {
                return false;
            }
            if peers.iter().any(|peer| !peer.draining) {
                return self.crashed.borrow().contains(&pid);
            }
            scheduler.changed().await;
        }
    }

    /// Tells the scheduler that one crashed with this message in hand.
    async fn strike(&self, parts: &[EnqueueRequest], alone: bool) -> Option<StrikeAnswer> {
        let EnqueueRequest { handle, id, .. } = parts.first()?;
        let (handle, id, stage) = (handle.clone(), *id, "scheduler".to_owned());
        let request = StrikeRequest { handle, id, stage, alone };
        for _ in 0..STRIKE_TRIES {
            match self.strike.call(&request).await {
                Ok(answer) => {
                    let StrikeAnswer { strikes, held } = answer;
                    tracing::debug!(%id, strikes, held, alone, "scheduler crashed with a message");
                    return Some(answer);
                }
                Err(error) => {
                    tracing::warn!(%id, %error, "cannot tell scheduler of a strike");
                    tokio::time::sleep(STRIKE_PAUSE).await;
                }
            }
        }
        None
    }

    /// Sends parts in order over one connection, as there is room, and waits until all are acknowledged. The scheduler forgets
    /// parts whose connection ends.
    async fn in_parts(&self, parts: &[EnqueueRequest], alone: bool) -> Result<(), CallError> {
        let progress = Rc::new(Progress::default());
        let mut connection = None;
        for (sent, part) in parts.iter().enumerate() {
            let options = self.options(alone, connection);
            match self.in_time(self.send_part(part, options, &progress)).await? {
                Ok(peer) => _ = connection.get_or_insert(peer),
                Err(error @ CallError::NotSent(_)) => {
                    // What became of the parts before says more.
                    self.acknowledged(sent, &progress).await?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        self.acknowledged(parts.len(), &progress).await
    }

    /// Waits until so many parts are acknowledged.
    async fn acknowledged(&self, count: usize, progress: &Progress) -> Result<(), CallError> {
        loop {
            let moved = progress.moved.notified();
            if let Some(error) = progress.failed.take() {
                return Err(error);
            }
            if progress.acknowledged.get() == count {
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
        options: SendOptions,
        progress: &Rc<Progress>,
    ) -> Result<PeerId, CallError> {
        loop {
            if let Some(error) = progress.failed.take() {
                return Err(error);
            }
            let noted = Rc::clone(progress);
            let sent = self.scheduler.send(part, options.clone(), move |answer| {
                match answer {
                    Ok(Acknowledged {}) => noted.acknowledged.set(noted.acknowledged.get() + 1),
                    Err(error) => noted.fail(error),
                }
                noted.moved.notify_one();
            });
            match sent {
                Ok(peer) => return Ok(peer),
                Err(SendError::Disconnected) if options.to.is_some() => {
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

    fn options(&self, alone: bool, to: Option<PeerId>) -> SendOptions {
        SendOptions { deadline: Some(self.deadline), give_up: true, alone, to }
    }
}

fn is_to_be_sent_again(error: &CallError, alone: bool) -> bool {
    match error {
        CallError::Lost { .. } => true,
        CallError::Refused(error) => {
            error.code == codes::NOT_TAKEN || (error.code == codes::SUSPECT && !alone)
        }
        CallError::NotSent(_) | CallError::Deadline => false,
    }
}

/// Schedulers crash with this message in hand: others are not to send it as if nothing were.
fn suspicion() -> CallError {
    let message = "schedulers crashed with it in hand";
    CallError::Refused(ErrorObject::new(codes::SUSPECT, message))
}

#[cfg(test)]
mod tests;
