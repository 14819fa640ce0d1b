//! One pass over what was accepted: ask the scheduler what it lacks, and send that to router.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use farm::fault;
use job::KNOWN_MAX;
use job::known::{Known, KnownAnswer, KnownMessage, KnownRequest, Wanted};
use job::route::{Route, RouteRequest};
use job::strike::{ALONE_FROM_STRIKES, Strike};
use mail::Timestamp;
use queue::{Listed, ReadError, Recovery, Segment};
use socket::{CallError, Client, SendError, SendOptions, codes};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::strikes::Strikes;
use crate::{Settings, counter};

/// Everything a pass works with.
pub(crate) struct Pass {
    pub(crate) settings: Settings,
    /// What was accepted longer ago than this is not on its way any more.
    pub(crate) old_after: Duration,
    pub(crate) route_deadline: Duration,
    pub(crate) recovery: Rc<dyn Recovery>,
    pub(crate) scheduler: Client<Known>,
    pub(crate) router: Client<Route>,
    pub(crate) striker: Client<Strike>,
    pub(crate) strikes: Rc<Strikes>,
    pub(crate) progress: Rc<Progress>,
    pub(crate) now: fn() -> Timestamp,
}

/// What a pass did and left.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) segments: usize,
    pub(crate) examined: u64,
    pub(crate) wanted: u64,
    /// Segments with messages that were too young, and when the youngest of them is old enough.
    pub(crate) young: Vec<Segment>,
    pub(crate) come_again_in: Option<Duration>,
}

/// Why a pass ended before its time. The next one, by the clock, does what was left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutShort {
    #[error("scheduler does not answer: {0}")]
    Scheduler(CallError),
    #[error("router does not answer")]
    Router,
    #[error("router answers with nothing but errors: {0}")]
    Refused(CallError),
    #[error(transparent)]
    Recovery(#[from] ReadError),
}

/// How the requests to router come along.
#[derive(Default)]
pub(crate) struct Progress {
    outstanding: Cell<usize>,
    pub(crate) routed: Cell<u64>,
    pub(crate) failed: Cell<u64>,
    /// Failures since the last success.
    failed_in_a_row: Cell<usize>,
    last_failure: RefCell<Option<CallError>>,
    /// What a draining router did not take, and whether it goes alone.
    not_taken: RefCell<Vec<(RouteRequest, bool)>>,
    answered: Notify,
}

/// After so many windows of failures and no success, a pass leaves the segment; it ends when that happens again.
const FAILED_WINDOWS_MAX: usize = 4;
/// How long after the last answer a word of a router's crash may come.
const CRASH_WORD_WAIT: Duration = Duration::from_secs(3);
/// How long to wait for room before looking again, when nothing told of it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A clock may have been set back since a message was accepted; one from further ahead than this is not young.
const AHEAD_MAX: Duration = Duration::from_secs(5);

/// What is to be done about the messages of a part of a segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// To be sent to router.
    pub send: Vec<RouteRequest>,
    /// To be sent at the end, each when router has nothing else in hand.
    pub alone: Vec<RouteRequest>,
    /// How many the scheduler lacks.
    pub wanted: u64,
    /// When those that may still be on their way are old enough that they cannot be; nothing when there are none.
    pub come_again_in: Option<Duration>,
}

/// Chooses, of a part of a segment, what router is to be sent: what the scheduler wants and what is old enough.
pub fn select(
    part: &[Listed],
    wanted: &[Wanted],
    now: Timestamp,
    old_after: Duration,
) -> Selection {
    let mut selection = Selection::default();
    for wanted in wanted {
        // A position that we did not ask about is the peer's mistake, not ours.
        let Some(message) = part.get(wanted.index as usize) else { continue };
        selection.wanted += 1;
        if let Some(wait) = too_young_for(message.accepted_at, now, old_after) {
            selection.come_again_in = selection.come_again_in.max(Some(wait));
        } else if wanted.strikes >= ALONE_FROM_STRIKES {
            selection.alone.push(request(message, wanted));
        } else {
            selection.send.push(request(message, wanted));
        }
    }
    selection
}

/// How long until a message is old enough that it cannot be on its way; nothing when it is.
fn too_young_for(accepted_at: Timestamp, now: Timestamp, old_after: Duration) -> Option<Duration> {
    if accepted_at.since(now) > AHEAD_MAX {
        return None;
    }
    let left = old_after.saturating_sub(now.since(accepted_at));
    (!left.is_zero()).then_some(left)
}

impl Pass {
    /// Goes over every segment that nobody writes to, or over `only` these.
    pub(crate) async fn go(&self, only: Option<Vec<Segment>>) -> Result<Report, CutShort> {
        let segments = match only {
            Some(segments) => segments,
            None => self.recovery.segments(false).await?,
        };
        let mut report = Report { segments: segments.len(), ..Report::default() };
        let mut alone = Vec::new();
        let mut is_first_refusal = true;
        for segment in segments {
            let name = segment.0.escape_debug();
            match self.segment(&segment, &mut report, &mut alone).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(segment = %name, %error, "segment not read"),
                // One bad stretch, met first by every pass, must not hide all that lies behind it.
                Err(CutShort::Refused(error)) if std::mem::take(&mut is_first_refusal) => {
                    tracing::warn!(segment = %name, %error, "router answers with nothing but errors: segment left to the next pass");
                    self.leave().await;
                }
                Err(cut_short) => return Err(cut_short),
            }
        }
        self.settled().await?;
        for request in alone {
            self.send(request, true).await?;
            self.settled().await?;
        }
        Ok(report)
    }

    async fn segment(
        &self,
        segment: &Segment,
        report: &mut Report,
        alone: &mut Vec<RouteRequest>,
    ) -> Result<Result<(), ReadError>, CutShort> {
        let listed = match self.recovery.accepted(segment).await {
            Ok(listed) => listed,
            Err(error) => return Ok(Err(error)),
        };
        for part in listed.chunks(KNOWN_MAX) {
            report.examined += part.len() as u64;
            let wanted = self.ask(part).await?.wanted;
            let selection = select(part, &wanted, (self.now)(), self.old_after);
            report.wanted += selection.wanted;
            report.come_again_in = report.come_again_in.max(selection.come_again_in);
            if selection.come_again_in.is_some() && report.young.last() != Some(segment) {
                report.young.push(segment.clone());
            }
            alone.extend(selection.alone);
            for request in selection.send {
                self.send(request, false).await?;
            }
        }
        Ok(Ok(()))
    }

    async fn ask(&self, part: &[Listed]) -> Result<KnownAnswer, CutShort> {
        let message = |one: &Listed| KnownMessage { handle: one.handle.clone(), id: one.id };
        let request = KnownRequest { messages: part.iter().map(message).collect() };
        let begun = Instant::now();
        loop {
            match self.scheduler.call(&request).await {
                Ok(answer) => return Ok(answer),
                Err(error) if begun.elapsed() >= self.settings.unreachable_after.0 => {
                    return Err(CutShort::Scheduler(error));
                }
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Sends one message to router when there is room; if it goes `alone`, router has nothing else in hand with it.
    async fn send(&self, request: RouteRequest, alone: bool) -> Result<(), CutShort> {
        self.answered(self.settings.outstanding_max - 1).await?;
        let begun = Instant::now();
        loop {
            let (progress, strikes) = (Rc::clone(&self.progress), Rc::clone(&self.strikes));
            let sending = request.clone();
            let options =
                SendOptions { deadline: Some(self.route_deadline), give_up: true, alone, to: None };
            let sent = self.router.send(&request, options, move |answer| {
                if let Err(CallError::Lost { pid, alone, .. }) = &answer {
                    strikes.lost(*pid, sending.handle.clone(), sending.id, *alone);
                }
                progress.note((sending, alone), answer.map(drop));
            });
            match sent {
                Ok(_) => {
                    fault::point("requeue.route.after");
                    self.progress.outstanding.set(self.progress.outstanding.get() + 1);
                    return Ok(());
                }
                Err(SendError::TooLong) => unreachable!("a handle and an id fit a frame"),
                Err(SendError::Full | SendError::Disconnected)
                    if begun.elapsed() >= self.settings.unreachable_after.0 =>
                {
                    return Err(CutShort::Router);
                }
                Err(SendError::Full | SendError::Disconnected) => {
                    let _ = tokio::time::timeout(LOOK_AGAIN, self.router.changed()).await;
                }
            }
        }
    }

    /// Waits until all is answered; sends what a draining router did not take to another.
    async fn settled(&self) -> Result<(), CutShort> {
        loop {
            self.answered(0).await?;
            let again = self.progress.not_taken.take();
            if again.is_empty() {
                return Ok(());
            }
            for (request, alone) in again {
                self.send(request, alone).await?;
            }
        }
    }

    /// Waits until at most so many requests are unanswered. Each is answered, or given up, within its deadline.
    async fn answered(&self, outstanding_max: usize) -> Result<(), CutShort> {
        let progress = &self.progress;
        loop {
            let answered = progress.answered.notified();
            if progress.failed_in_a_row.get() > FAILED_WINDOWS_MAX * self.settings.outstanding_max
                && let Some(error) = progress.last_failure.take()
            {
                return Err(CutShort::Refused(error));
            }
            if progress.outstanding.get() <= outstanding_max {
                return Ok(());
            }
            answered.await;
        }
    }

    /// Waits until all is answered, whatever the answers are, and forgets that they were failures.
    async fn leave(&self) {
        let progress = &self.progress;
        loop {
            let answered = progress.answered.notified();
            if progress.outstanding.get() == 0 {
                progress.failed_in_a_row.set(0);
                return;
            }
            answered.await;
        }
    }

    /// Tells the scheduler of the messages that were in hand when a router crashed. Gives how many it told of.
    pub(crate) async fn strike(&self) -> u64 {
        let until = Instant::now() + CRASH_WORD_WAIT;
        while self.strikes.is_unsure() {
            if tokio::time::timeout_at(until, self.strikes.changed()).await.is_err() {
                self.strikes.forget_lost();
            }
        }
        let mut told = 0;
        for request in self.strikes.take_due() {
            match self.striker.call(&request).await {
                Ok(answer) => {
                    told += 1;
                    tracing::warn!(id = %request.id, strikes = answer.strikes, held = answer.held, "a router crashed with this message in hand");
                }
                Err(error) => tracing::warn!(id = %request.id, %error, "strike not told"),
            }
        }
        told
    }
}

impl Progress {
    fn note(&self, request: (RouteRequest, bool), answer: Result<(), CallError>) {
        self.outstanding.set(self.outstanding.get().saturating_sub(1));
        match answer {
            Ok(()) => {
                self.routed.set(self.routed.get() + 1);
                self.failed_in_a_row.set(0);
            }
            Err(CallError::Refused(error)) if error.code == codes::NOT_TAKEN => {
                self.not_taken.borrow_mut().push(request);
            }
            // It was retired meanwhile, or its storage is damaged, which router has logged; or it is under suspicion, and goes alone
            // in the next pass, if it is not held by then.
            Err(CallError::Refused(error))
                if error.code == codes::NOT_FOUND || error.code == codes::SUSPECT =>
            {
                self.failed.set(self.failed.get() + 1);
            }
            Err(error) => {
                self.failed.set(self.failed.get() + 1);
                self.failed_in_a_row.set(self.failed_in_a_row.get() + 1);
                self.last_failure.replace(Some(error));
            }
        }
        self.answered.notify_one();
    }

    /// Takes the counts since the last call: routed, failed.
    pub(crate) fn take_counts(&self) -> (u64, u64) {
        self.not_taken.take();
        self.failed_in_a_row.set(0);
        (self.routed.take(), self.failed.take())
    }
}

impl Report {
    /// The numbers for the scoreboard.
    pub(crate) fn counts(&self) -> [(usize, u64); 2] {
        [(counter::EXAMINED, self.examined), (counter::WANTED, self.wanted)]
    }
}

fn request(message: &Listed, wanted: &Wanted) -> RouteRequest {
    RouteRequest {
        handle: message.handle.clone(),
        id: message.id,
        routing: wanted.routing,
        facts: None,
    }
}

#[cfg(test)]
mod tests;
