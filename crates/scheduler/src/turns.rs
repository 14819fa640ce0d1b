//! What follows what in the scheduler's work: a turn of the machine, one append, what waits for its write and what for its sync.
//!
//! ```text
//!  arrivals ─▶ machine ─▶ one append ─▶ pending ─ written ─▶ answers and jobs go out
//!     ▲                       │             └─▶ synced, later: admin answers, reports
//!     └── the next turn ──────┘
//! ```
//!
//! A plain machine like [`crate::machine`], around which the shell ([`crate::run()`]) lays sockets and clocks, and a simulation its
//! own. What it decides it has done by [`Hands`].
//!
//! What must hold: nothing is answered or sent before the records of its turn, and of all turns before, are written · what
//! waits for the sync waits for one that began after · a turn that could not be written is answered with an error, and none of
//! its jobs is sent. Touches: the ledger, through [`queue::Ledger`]. Never: a socket, a clock, chance of its own.

mod border;
mod records;
mod settled;
mod unsure;

use std::collections::VecDeque;
use std::rc::Rc;

use farm::fault;
use job::home::HomeRequest;
use mail::{Address, MessageId};
use queue::{Ledger, LedgerError, Mark};
use socket::{ErrorObject, PeerId, codes};

pub use self::border::{Around, Arrival, Awaited, Hands, Progress};
use self::records::Records;
use self::settled::Settled;
use self::unsure::Unsure;
use crate::machine::{Actions, Answer, ChannelId, Event, Now, Scheduler, Token};

/// Messages snapshotted in one turn of a checkpoint.
const SLICE_MESSAGES: usize = 500;
/// With at most so many messages, and open recipients of them, a checkpoint is written before the worker ends, so that the next one
/// starts fast.
const LAST_CHECKPOINT_MAX: u64 = 20_000;

/// A turn whose records are not known to be written; of those, only the ends of messages are kept.
struct Pending {
    actions: Actions,
    has_records: bool,
    /// The answers to jobs that it took.
    answered: Vec<(ChannelId, PeerId)>,
}

/// The scheduler with its ledger.
pub struct Turns {
    scheduler: Scheduler,
    records: Records,
    /// What turns are to do once their records are written, in order.
    pending: VecDeque<Pending>,
    /// The batch of a checkpoint's last slice, until it is written: the next is made then.
    slice: Option<u64>,
    /// Answers that wait for the sync of a batch.
    answers_synced: Vec<(u64, Token, Answer)>,
    /// Messages that are taken over later, and when.
    aside: Vec<Arrival>,
    aside_until: Option<u64>,
    settled: Settled,
    unsure: Unsure,
    wake: Option<u64>,
    drain_until: Option<u64>,
}

impl Turns {
    /// Turns of a scheduler into which the ledger has been replayed.
    pub fn new(scheduler: Scheduler, ledger: Rc<dyn Ledger>) -> Self {
        let settled = Settled::new(ledger.owned_until().is_some());
        Self {
            scheduler,
            records: Records::new(ledger),
            pending: VecDeque::new(),
            slice: None,
            answers_synced: Vec::new(),
            aside: Vec::new(),
            aside_until: None,
            settled,
            unsure: Unsure::default(),
            wake: None,
            drain_until: None,
        }
    }

    /// What is replayed is not sent before then, on the monotonic clock: the scheduler that owned the ledger before may have it in hand.
    pub fn wait_for_late_outcomes(&mut self, until: u64) {
        self.scheduler.wait_for_late_outcomes(until);
    }

    /// The first turn: what was replayed is put into its lanes.
    pub fn begin(&mut self, around: &mut Around<'_>) {
        let mut actions = Actions::default();
        self.scheduler.start(around.now, around.chance, &mut actions);
        self.finish(around, actions);
    }

    /// One turn, with all that has arrived.
    pub fn turn(&mut self, around: &mut Around<'_>, mut arrivals: Vec<Arrival>) {
        let now = around.now;
        if self.aside_until.is_some_and(|until| until <= now.mono) {
            self.aside_until = None;
            arrivals.append(&mut self.aside);
        }
        if !arrivals.is_sorted_by_key(Arrival::rank) {
            arrivals.sort_by_key(Arrival::rank);
        }
        let mut actions = Actions::default();
        for arrival in self.sure(around, arrivals) {
            if let Some(event) = self.event(around, arrival) {
                self.scheduler.handle(now, around.chance, event, &mut actions);
            }
        }
        self.finish(around, actions);
    }

    /// Until then, messages to be taken over are put aside.
    pub fn put_enqueues_aside(&mut self, until: u64) {
        self.aside_until = Some(until);
    }

    /// When the next turn is due if nothing arrives before, on the monotonic clock; nothing if only an arrival makes one.
    pub fn due(&self) -> Option<u64> {
        let times = [self.wake, self.drain_until, self.records.retry_at(), self.aside_until];
        times.into_iter().flatten().min()
    }

    /// Whether the next turn is due at once: a checkpoint is being made, slice by slice.
    pub fn goes_on(&self) -> bool {
        self.records.in_checkpoint() && self.slice.is_none()
    }

    /// Whether the worker, which drains, has nothing left to wait for, as long as nothing arrives.
    pub fn is_collected(&self) -> bool {
        let in_hand = self.scheduler.in_hand() > 0 || self.scheduler.is_changing();
        let waits = !self.answers_synced.is_empty() || !self.pending.is_empty();
        let asks = !self.aside.is_empty() || !self.unsure.is_empty();
        self.drain_until.is_some() && !in_hand && !waits && !asks
    }

    /// Whether the time is over in which answers are waited for.
    pub fn drain_is_over(&self, now: Now) -> bool {
        self.drain_until.is_some_and(|until| until <= now.mono)
    }

    /// The scheduler, to look at.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// The number of a channel, which is the same for ever.
    pub fn channel(&mut self, name: &str) -> ChannelId {
        self.scheduler.channel(name)
    }

    /// The last append: a checkpoint if that is cheap. Its sync is to be waited for, and then, if one was begun, its end; then
    /// [`Turns::close`].
    pub fn append_last(&mut self) -> Result<(Mark, bool), LedgerError> {
        let mut actions = Actions::default();
        let (messages, recipients) = (self.scheduler.messages() as u64, self.scheduler.open());
        let is_cheap = messages.max(recipients) <= LAST_CHECKPOINT_MAX;
        let begun = is_cheap && self.records.begin_last();
        if begun {
            self.scheduler.begin_checkpoint(&mut actions);
            while !self.scheduler.checkpoint_slice(SLICE_MESSAGES, &mut actions) {}
        }
        Ok((self.records.append_last(&actions.records)?, begun))
    }

    /// All is synced: answers what waits. Jobs are sent no more.
    pub fn close(self, hands: &mut dyn Hands) {
        let pending = self.pending.into_iter().flat_map(|pending| {
            pending.actions.answers.into_iter().chain(pending.actions.answers_synced)
        });
        let waiting = self.answers_synced.into_iter().map(|(_, token, answer)| (token, answer));
        pending.chain(waiting).for_each(|(token, answer)| hands.answer(token, answer));
    }
}

/// Arrivals as the machine takes them.
impl Turns {
    /// Lets those wait whose messages the ledger has to look up, and adds those that it has looked up.
    fn sure(&mut self, around: &mut Around<'_>, arrivals: Vec<Arrival>) -> Vec<Arrival> {
        let ledger = Rc::clone(self.records.ledger());
        let mut taken = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            match arrival {
                Arrival::Reached(Awaited { what: Progress::LookedUp, .. }, result) => {
                    let looked_up = self.unsure.take();
                    match result {
                        Ok(()) => taken.extend(looked_up),
                        Err(error) => refuse_unsure(around, &looked_up, &error),
                    }
                }
                arrival => taken.extend(self.unsure.admit(&*ledger, arrival)),
            }
        }
        if let Some(looked_up) = self.unsure.look_up(&*ledger) {
            let awaited = Awaited { batch: 0, what: Progress::LookedUp };
            around.hands.await_ledger(awaited, looked_up);
        }
        taken
    }

    /// Nothing when it is no event for the machine, or not now.
    fn event(&mut self, around: &mut Around<'_>, arrival: Arrival) -> Option<Event> {
        Some(match arrival {
            Arrival::Enqueue { .. } if self.aside_until.is_some() => {
                self.aside.push(arrival);
                return None;
            }
            Arrival::Enqueue { connection, token, request, is_alone } => {
                if self.refuses(around, token, &request.id, is_alone) {
                    return None;
                }
                fault::taken("scheduler", request.sender.as_ref().map(Address::as_str));
                let standing = self.records.ledger().standing(&request.handle);
                Event::Enqueue { connection, token, request, standing }
            }
            Arrival::Known(token, request) => {
                if too_many(around, token, request.messages.len(), job::KNOWN_MAX) {
                    return None;
                }
                let ledger = self.records.ledger();
                let standings =
                    request.messages.iter().map(|one| ledger.standing(&one.handle)).collect();
                Event::Known { token, request, standings }
            }
            Arrival::Home(token, request) => return self.home(around, token, request),
            Arrival::Strike(token, request) => {
                let standing = self.records.ledger().standing(&request.handle);
                Event::Strike { token, request, standing }
            }
            Arrival::Admin(token, request) => Event::Admin { token, request },
            Arrival::LateOutcome(token, request) => {
                let outcomes = request.outcomes.len();
                if too_many(around, token, outcomes, job::PART_RECIPIENTS_MAX) {
                    return None;
                }
                Event::LateOutcome { token, request }
            }
            Arrival::Answered { job, result, from } => {
                self.settled.came(from);
                Event::Answered { job, result }
            }
            Arrival::Peers(channel, peers) => {
                self.settled.keep(channel, &peers);
                Event::Peers { channel, peers }
            }
            Arrival::Crashed { channel, pid } => Event::Crashed { channel, pid },
            Arrival::Reached(awaited, result) => return self.reached(around, awaited, result),
            Arrival::Draining { until } => {
                self.drain_until = Some(until);
                Event::Draining
            }
            Arrival::Settings(settings, channels) => Event::Settings { settings, channels },
        })
    }

    /// A message that killed whoever took it is not taken beside others.
    fn refuses(
        &self,
        around: &mut Around<'_>,
        token: Token,
        id: &MessageId,
        is_alone: bool,
    ) -> bool {
        let refused = self.scheduler.refuses(id, is_alone);
        if refused {
            let message = "schedulers crashed with it in hand, or routers";
            let error = ErrorObject::new(codes::SUSPECT, message);
            around.hands.answer(token, Answer::Refused(error));
        }
        refused
    }

    fn home(
        &mut self,
        around: &mut Around<'_>,
        token: Token,
        request: HomeRequest,
    ) -> Option<Event> {
        let ledger = self.records.ledger();
        let standings: Vec<_> = match &request {
            HomeRequest::Where(asked) => {
                asked.messages.iter().map(|one| ledger.standing(&one.handle)).collect()
            }
            HomeRequest::Moved(told) => {
                told.messages.iter().map(|one| ledger.standing(&one.from)).collect()
            }
        };
        let refused = too_many(around, token, standings.len(), job::HOME_MAX);
        (!refused).then_some(Event::Home { token, request, standings })
    }

    /// The ledger has come to a batch, which is written or synced; or it failed.
    fn reached(
        &mut self,
        around: &mut Around<'_>,
        awaited: Awaited,
        result: Result<(), LedgerError>,
    ) -> Option<Event> {
        let batch = awaited.batch;
        let result = match awaited.what {
            Progress::LookedUp => return None,
            Progress::Written => {
                let result = self.records.written(around.now, result);
                if result.is_err() {
                    self.abandon_pending(around);
                }
                result
            }
            Progress::Synced => self.records.synced(around, result),
            Progress::Checkpointed => self.records.checkpointed(around, result),
        };
        if let Err(error) = result {
            self.ledger_failed(around, &error);
            return Some(Event::LedgerFailed);
        }
        self.perform_written(around, batch);
        let event = match awaited.what {
            Progress::LookedUp | Progress::Written => return None,
            Progress::Synced => Event::Synced { batch },
            Progress::Checkpointed => Event::Checkpointed { batch },
        };
        self.answer_synced(around, batch);
        Some(event)
    }
}

/// Whoever asked about messages that could not be looked up asks again.
fn refuse_unsure(around: &mut Around<'_>, arrivals: &[Arrival], error: &LedgerError) {
    tracing::warn!(%error, requests = arrivals.len(), "cannot look up whether messages are known");
    let refused = ErrorObject::new(codes::INTERNAL, "the ledger cannot be asked now");
    for token in arrivals.iter().filter_map(unsure::token) {
        around.hands.answer(token, Answer::Refused(refused.clone()));
    }
}

/// Refuses a request that asks about more messages or recipients than one may.
fn too_many(around: &mut Around<'_>, token: Token, messages: usize, messages_max: usize) -> bool {
    let refused = messages > messages_max;
    if refused {
        let error = ErrorObject::new(codes::PARAMS, "too many at once");
        around.hands.answer(token, Answer::Refused(error));
    }
    refused
}

/// What comes of a turn.
impl Turns {
    /// Ends a turn: one append; once that is written, everything goes out. Meanwhile the next turn may come.
    fn finish(&mut self, around: &mut Around<'_>, mut actions: Actions) {
        let now = around.now;
        if let Some(error) = self.records.unseen_failure(now) {
            self.ledger_failed(around, &error);
            self.scheduler.handle(now, around.chance, Event::LedgerFailed, &mut actions);
        }
        let answered = self.settled.take();
        let slice = self.checkpoint(now, &mut actions);
        self.scheduler.finish(now, around.chance, &mut actions);
        self.wake = actions.wake;
        match self.records.write(around, &actions) {
            Ok(()) => {
                let has_records = !actions.records.is_empty();
                self.slice = self.slice.or((slice && has_records).then_some(actions.batch));
                if has_records || !self.pending.is_empty() {
                    // What is answered may say that an earlier turn's record is there.
                    actions.records.retain(records::is_end);
                    self.pending.push_back(Pending { actions, has_records, answered });
                    self.records.await_written(around);
                } else {
                    self.perform(around, actions, &answered);
                }
            }
            Err(error) => self.abandon(around, actions, &error),
        }
    }

    /// Does what turns up to this batch wait for, and waits for what was appended after it.
    fn perform_written(&mut self, around: &mut Around<'_>, batch: u64) {
        self.slice = self.slice.filter(|slice| *slice > batch);
        while let Some(first) = self.pending.front()
            && (first.actions.batch <= batch || !first.has_records)
            && let Some(pending) = self.pending.pop_front()
        {
            self.perform(around, pending.actions, &pending.answered);
        }
        if !self.pending.is_empty() {
            self.records.await_written(around);
        }
    }

    /// Turns could not be written: nothing of them is answered or sent.
    fn abandon_pending(&mut self, around: &mut Around<'_>) {
        self.slice = None;
        for pending in std::mem::take(&mut self.pending) {
            let mut actions = pending.actions;
            self.records.keep_ends(std::mem::take(&mut actions.records));
            refuse(around, actions);
        }
    }

    /// Adds a slice of a checkpoint to the turn's records when one is due and the last is written; says whether it did.
    fn checkpoint(&mut self, now: Now, actions: &mut Actions) -> bool {
        if self.slice.is_some() {
            return false;
        }
        if !self.records.in_checkpoint() {
            match self.records.begin_checkpoint(now) {
                Ok(false) => return false,
                Ok(true) => self.scheduler.begin_checkpoint(actions),
                Err(error) => {
                    tracing::error!(%error, "cannot begin a checkpoint; to be tried again");
                    return false;
                }
            }
        }
        if self.scheduler.checkpoint_slice(SLICE_MESSAGES, actions) {
            self.records.end_after_this();
        }
        true
    }

    fn perform(
        &mut self,
        around: &mut Around<'_>,
        actions: Actions,
        answered: &[(ChannelId, PeerId)],
    ) {
        self.settled.settle(answered);
        fault::point("scheduler.answer.before");
        let Actions { batch, answers, answers_synced, jobs, connect, requeue, routes, .. } =
            actions;
        for (token, answer) in answers {
            around.hands.answer(token, answer);
        }
        let waiting = answers_synced.into_iter();
        self.answers_synced.extend(waiting.map(|(token, answer)| (batch, token, answer)));
        for mut job in jobs {
            job.request.settled = self.settled.of((job.channel, job.peer));
            if around.hands.may_send() {
                around.hands.send(job);
            } else {
                around.hands.unsent(job.job);
            }
        }
        reach(around, &connect, requeue);
        if !routes.is_empty() {
            around.hands.hint(routes);
        }
        fault::point("scheduler.answer.after");
    }

    /// The turn could not be written: nothing of it is answered or sent. What it changed is in the next checkpoint.
    fn abandon(&mut self, around: &mut Around<'_>, actions: Actions, error: &LedgerError) {
        self.slice = None;
        refuse(around, actions);
        self.ledger_failed(around, error);
        let mut none = Actions::default();
        self.scheduler.handle(around.now, around.chance, Event::LedgerFailed, &mut none);
    }

    fn ledger_failed(&mut self, around: &mut Around<'_>, error: &LedgerError) {
        self.settled.end();
        tracing::error!(%error, "nothing is dispatched until a checkpoint of the ledger has synced");
        let refused = ErrorObject::new(codes::INTERNAL, "the ledger could not be synced");
        for (_, token, _) in std::mem::take(&mut self.answers_synced) {
            around.hands.answer(token, Answer::Refused(refused.clone()));
        }
    }

    fn answer_synced(&mut self, around: &mut Around<'_>, batch: u64) {
        let all = std::mem::take(&mut self.answers_synced);
        let (synced, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.0 <= batch);
        self.answers_synced = waiting;
        for (_, token, answer) in synced {
            around.hands.answer(token, answer);
        }
    }
}

/// Connects to channels, and asks requeue for a pass.
fn reach(around: &mut Around<'_>, channels: &[ChannelId], requeue: bool) {
    channels.iter().for_each(|channel| around.hands.connect(*channel));
    if requeue {
        around.hands.requeue();
    }
}

/// Nothing of a turn is answered with more than an error, or sent.
fn refuse(around: &mut Around<'_>, actions: Actions) {
    let refused = ErrorObject::new(codes::INTERNAL, "the ledger cannot be written now");
    for (token, _) in actions.answers.into_iter().chain(actions.answers_synced) {
        around.hands.answer(token, Answer::Refused(refused.clone()));
    }
    actions.jobs.iter().for_each(|send| around.hands.unsent(send.job));
    reach(around, &actions.connect, actions.requeue);
}
