//! The scheduler's process: its turns and its ledger, and what they have done.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use job::admin::AdminAnswer;
use job::outcome::OutcomeRequest;
use job::route::RouteRequest;
use mail::MessageId;
use queue::{Handle, Ledger, LedgerError, Listed, Local, Record};
use queue_spool::disk::DiskFile;
use queue_spool::{Next, SpoolLedger};
use scheduler::ChannelFacts;
use scheduler::machine::{Answer, ChannelId, Scheduler, Send, Token, Unanswered};
use scheduler::turns::{Around, Arrival, Awaited, Hands, Progress, Turns};

use crate::agents::CHANNELS;
use crate::clock::SECOND;
use crate::tell::tell;
use crate::witness::{Journal, WitnessedLedger, hold};
use crate::world::{Event, World, settings_of_scheduler};

/// A checkpoint is worth it after so many bytes.
const CHECKPOINT_BYTES_MIN: u64 = 12 << 10;

/// A life of the scheduler.
pub(crate) struct Process {
    pub(crate) turns: Turns,
    pub(crate) ledger: Rc<SpoolLedger>,
    journal: Journal,
    /// How many records had been appended when the last checkpoint began.
    begun: Rc<Cell<u64>>,
    pub(crate) inbox: Vec<Arrival>,
    awaiting: Vec<(Awaited, Local<'static, Result<(), LedgerError>>)>,
    pub(crate) asked: BTreeMap<Token, Asked>,
    tokens: u64,
    pub(crate) channels: Vec<ChannelId>,
    /// Channels to which it is connected.
    pub(crate) connected: [bool; CHANNELS.len()],
    sync: Option<Sync>,
    due: Option<u64>,
    ledger_due: Option<u64>,
}

/// A sync that is under way.
enum Sync {
    Done(io::Result<()>),
    Waiting(Arc<dyn DiskFile>),
}

/// What somebody waits for.
pub(crate) enum Asked {
    Enqueue(MessageId, Handle, bool),
    Known(Vec<Listed>),
    Where(Vec<Listed>),
    Moved(Vec<Handle>),
    Told(Box<OutcomeRequest>),
    Removal(MessageId),
    Other,
}

/// What turns have done, in order.
#[derive(Debug)]
enum Done {
    Answer(Token, Answer),
    Send(Box<Send>),
    Connect(ChannelId),
    Requeue,
    Hint(Vec<RouteRequest>),
}

/// Takes everything down, to be done after the turn.
struct Notes<'a> {
    done: Vec<Done>,
    unsent: Vec<u64>,
    awaiting: &'a mut Vec<(Awaited, Local<'static, Result<(), LedgerError>>)>,
}

impl Hands for Notes<'_> {
    fn answer(&mut self, token: Token, answer: Answer) {
        self.done.push(Done::Answer(token, answer));
    }

    fn send(&mut self, send: Send) {
        self.done.push(Done::Send(Box::new(send)));
    }

    fn unsent(&mut self, job: u64) {
        self.unsent.push(job);
    }

    fn connect(&mut self, channel: ChannelId) {
        self.done.push(Done::Connect(channel));
    }

    fn requeue(&mut self) {
        self.done.push(Done::Requeue);
    }

    fn hint(&mut self, routes: Vec<RouteRequest>) {
        self.done.push(Done::Hint(routes));
    }

    fn await_ledger(&mut self, awaited: Awaited, until: Local<'static, Result<(), LedgerError>>) {
        self.awaiting.push((awaited, until));
    }
}

impl World {
    pub(crate) fn start_scheduler(&mut self) {
        if self.process.is_some() {
            return;
        }
        match self.open_ledger() {
            Ok(process) => {
                self.process = Some(process);
                self.life += 1;
                self.witness.well_since = self.clock.mono;
                let (now, is_calm) = (self.clock.of_scheduler(), self.is_calm);
                self.turn_with(|turns, around| {
                    if !is_calm {
                        turns.put_enqueues_aside(now.mono + 250);
                    }
                    turns.begin(around);
                });
            }
            Err(_) => self.after(SECOND, Event::StartScheduler),
        }
    }

    /// Opens and replays the ledger, and sees whether it knows what it must.
    fn open_ledger(&mut self) -> Result<Process, LedgerError> {
        let ledger = self.spool.ledger()?;
        let channels: Vec<_> = CHANNELS
            .iter()
            .map(|name| ChannelFacts {
                name: (*name).to_owned(),
                socket: format!("{name}.deliver"),
                slots_max: 0,
            })
            .collect();
        let mut scheduler = Scheduler::new(settings_of_scheduler(), &channels);
        let mut records: Vec<Record> = Vec::new();
        ledger.replay_by_hand(self.clock.of_spool(), CHECKPOINT_BYTES_MIN, &mut |record| {
            scheduler.replay(&record);
            records.push(record);
        })?;
        if !self.disk.is_crashed() {
            self.witness.replayed(records, |handle| ledger.standing(handle));
        }
        let journal = Journal::default();
        let begun = Rc::default();
        let watched = WitnessedLedger {
            ledger: Rc::clone(&ledger),
            journal: Rc::clone(&journal),
            begun: Rc::clone(&begun),
            appended: Cell::new(self.witness.records),
        };
        let mut turns = Turns::new(scheduler, Rc::new(watched));
        let channels = CHANNELS.iter().map(|name| turns.channel(name)).collect();
        Ok(Process {
            turns,
            ledger,
            journal,
            begun,
            inbox: Vec::new(),
            awaiting: Vec::new(),
            asked: BTreeMap::new(),
            tokens: 0,
            channels,
            connected: [false; CHANNELS.len()],
            sync: None,
            due: None,
            ledger_due: None,
        })
    }

    /// Something arrives at the scheduler, if it lives.
    pub(crate) fn arrive(&mut self, arrival: Arrival) {
        tell!(self.clock, "arrives {arrival:?}");
        if let Some(process) = &mut self.process {
            process.inbox.push(arrival);
            let wait = self.chance.below(2);
            self.scheduler_at(self.clock.mono + wait);
        }
    }

    /// As [`World::arrive`], for what is to be answered.
    pub(crate) fn ask(&mut self, asked: Asked, arrival: impl FnOnce(Token) -> Arrival) {
        if let Some(process) = &mut self.process {
            process.tokens += 1;
            let token = Token(process.tokens);
            process.asked.insert(token, asked);
            self.arrive(arrival(token));
        }
    }

    fn scheduler_at(&mut self, at: u64) {
        let (life, now) = (self.life, self.clock.mono);
        let Some(process) = &mut self.process else { return };
        if process.due.is_none_or(|due| at < due || due < now) {
            process.due = Some(at);
            self.at(at, Event::Scheduler(life));
        }
    }

    fn ledger_at(&mut self, at: u64) {
        let (life, now) = (self.life, self.clock.mono);
        let Some(process) = &mut self.process else { return };
        if process.ledger_due.is_none_or(|due| at < due || due < now) {
            process.ledger_due = Some(at);
            self.at(at, Event::Ledger(life));
        }
    }

    pub(crate) fn scheduler_due(&mut self, life: u64) {
        let now = self.clock.mono;
        let Some(process) = self.process.as_mut().filter(|_| self.life == life) else { return };
        if process.due.is_none_or(|due| due > now) {
            return;
        }
        process.due = None;
        let arrivals = std::mem::take(&mut process.inbox);
        for arrival in &arrivals {
            if let Arrival::Reached(_, Err(_)) = arrival {
                self.witness.seen.ledger_failures += 1;
                self.witness.well_since = now;
            }
        }
        self.turn_with(|turns, around| turns.turn(around, arrivals));
    }

    /// Makes a turn and does what comes of it.
    fn turn_with(&mut self, turn: impl FnOnce(&mut Turns, &mut Around<'_>)) {
        let Some(process) = &mut self.process else { return };
        let mut notes =
            Notes { done: Vec::new(), unsent: Vec::new(), awaiting: &mut process.awaiting };
        let chance = &mut self.chance;
        let now = self.clock.of_scheduler();
        let mut around = Around { now, chance: &mut || chance.next(), hands: &mut notes };
        turn(&mut process.turns, &mut around);
        let Notes { done, unsent, .. } = notes;
        let records = std::mem::take(&mut *process.journal.borrow_mut());
        let lives: Vec<u64> = self.acceptors.iter().map(|it| it.life).collect();
        self.witness.appended(&self.clock, records, &lives);
        for job in unsent {
            self.arrive(Arrival::Answered { job, result: Err(Unanswered::NotSent), from: None });
        }
        done.into_iter().for_each(|done| self.done(done));
        self.come_again();
    }

    fn come_again(&mut self) {
        self.poll_ledger();
        let Some(process) = &self.process else { return };
        let (goes_on, due) = (process.turns.goes_on(), process.turns.due());
        if process.ledger.is_asked() {
            let wait = self.chance.below(3);
            self.ledger_at(self.clock.mono + wait);
        }
        if goes_on {
            self.scheduler_at(self.clock.mono);
        } else if let Some(due) = due {
            self.scheduler_at(due.max(self.clock.mono + 1));
        }
    }

    fn done(&mut self, done: Done) {
        tell!(self.clock, "does {done:?}");
        match done {
            Done::Answer(token, answer) => self.answered(token, answer),
            Done::Send(send) => self.sent(*send),
            Done::Connect(channel) => {
                let place = self
                    .process
                    .as_ref()
                    .and_then(|it| it.channels.iter().position(|one| *one == channel));
                if let Some(place) = place {
                    let (life, wait) = (self.life, self.chance.between(1, 20));
                    self.after(wait, Event::Peers(life, place));
                }
            }
            Done::Requeue => self.want_requeue(10),
            Done::Hint(routes) => {
                for route in
                    routes.into_iter().filter(|_| self.chance.percent(70)).collect::<Vec<_>>()
                {
                    let wait = self.chance.below(SECOND);
                    self.after(wait, Event::Route(route));
                }
            }
        }
    }

    fn answered(&mut self, token: Token, answer: Answer) {
        let Some(asked) = self.process.as_mut().and_then(|it| it.asked.remove(&token)) else {
            return;
        };
        match (asked, answer) {
            (Asked::Enqueue(id, handle, is_last), Answer::Enqueued) if is_last => {
                self.check_enqueued(id, &handle)
            }
            (Asked::Known(part), Answer::Known(answer)) => self.known(&part, &answer.wanted),
            (Asked::Where(part), Answer::Home(answer)) => self.homes(&part, &answer),
            (Asked::Where(_), _) => self.compactor.end(),
            (Asked::Moved(copies), Answer::Home(answer)) => self.moved(&copies, &answer),
            (Asked::Moved(_), _) => self.compactor.end(),
            (Asked::Told(request), Answer::Noted) => self.noted(&request),
            (Asked::Removal(id), Answer::Admin(answer)) => {
                if let AdminAnswer::Changed(changed) = *answer
                    && changed.messages > 0
                {
                    self.witness.mail(id).removed_at = Some(self.clock.mono);
                }
            }
            _ => {}
        }
    }

    /// What is acknowledged as taken over is written down.
    fn check_enqueued(&mut self, id: MessageId, handle: &Handle) {
        let Some(process) = &self.process else { return };
        let standing = process.ledger.standing(handle);
        let is_known = standing == queue::Standing::Retired || self.witness.is_routed(id);
        hold!(
            is_known,
            "record-before-answer",
            "enqueue of {id} is acknowledged before its record is written; {standing:?}"
        );
    }

    pub(crate) fn ledger_due(&mut self, life: u64) {
        let now = self.clock.mono;
        let Some(process) = self.process.as_mut().filter(|_| self.life == life) else { return };
        if process.ledger_due.is_none_or(|due| due > now) {
            return;
        }
        process.ledger_due = None;
        let next = process.ledger.turn(self.clock.of_spool());
        if let Some(file) = process.ledger.to_sync() {
            hold!(process.sync.is_none(), "one-sync", "a second sync begins");
            let at_once = self.chance.percent(50);
            process.sync =
                Some(if at_once { Sync::Done(file.sync()) } else { Sync::Waiting(file) });
            let wait = if self.chance.percent(5) { SECOND } else { self.chance.between(1, 30) };
            self.after(wait, Event::SyncEnds(life));
        }
        self.ledger_next(next);
    }

    pub(crate) fn sync_ends(&mut self, life: u64) {
        let Some(process) = self.process.as_mut().filter(|_| self.life == life) else { return };
        let result = match process.sync.take() {
            None => return,
            Some(Sync::Done(result)) => result,
            Some(Sync::Waiting(file)) => file.sync(),
        };
        let is_well = result.is_ok();
        process.ledger.sync_ended(self.clock.of_spool(), result);
        if is_well {
            self.witness.settle();
        }
        self.ledger_next(Next::EventOr(self.clock.of_spool().at));
    }

    fn ledger_next(&mut self, next: Next) {
        if let Next::EventOr(at) | Next::RestUntil(at) = next {
            self.ledger_at(self.clock.of(at).max(self.clock.mono));
        }
        self.poll_ledger();
    }

    /// Sees what of the ledger has been reached.
    fn poll_ledger(&mut self) {
        let Some(process) = &mut self.process else { return };
        let mut context = Context::from_waker(Waker::noop());
        let mut reached = Vec::new();
        process.awaiting.retain_mut(|(awaited, until)| match Pin::new(until).poll(&mut context) {
            Poll::Ready(result) => {
                reached.push(Arrival::Reached(*awaited, result));
                false
            }
            Poll::Pending => true,
        });
        let begun = process.begun.get();
        for arrival in reached {
            if let Arrival::Reached(Awaited { what: Progress::Checkpointed, .. }, Ok(())) = arrival
            {
                self.witness.checkpointed(begun);
            }
            self.arrive(arrival);
        }
    }

    /// The scheduler ends in order: all is synced, answers are sent.
    pub(crate) fn stop_scheduler(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let is_syncing = process.sync.is_some();
        if let Ok((_, begun)) = process.turns.append_last()
            && !is_syncing
        {
            let ended = begun.then(|| process.ledger.end_checkpoint());
            process.ledger.close_by_hand(self.clock.of_spool());
            drop(ended);
        }
        let records = std::mem::take(&mut *process.journal.borrow_mut());
        let lives: Vec<u64> = self.acceptors.iter().map(|it| it.life).collect();
        self.witness.appended(&self.clock, records, &lives);
    }
}
