//! The scheduler as a plain machine: events in, records to write and jobs to send out. Time and chance are arguments.
//!
//! ```text
//!  enqueue ─▶ waiting in its lane ── both clocks have come, a slot is free ──▶ in hand ── answer ──▶ final ─▶ (report) ─▶ retired
//!                 ▲   │ hold ▲                                                    │
//!                 │   ▼      │ release                                            │ deferred: its own clock moves
//!                 │  held ───┘                                                    │ lane failed: the lane's clock moves
//!                 └───────────────────────────────────────────────────────────────┘ connection lost: at once, then later and later
//! ```
//!
//! What is written down lives in [`backlog`] and changes by records alone. Everything else (lanes, slots, jobs in hand) is
//! made anew from it at a start.

mod admin;
mod answer;
mod backlog;
mod channel;
mod dispatch;
mod enqueue;
mod home;
mod lane;
mod late;
mod place;
mod report;
mod retry;
mod strays;
mod strike;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use job::admin::{AdminAnswer, AdminRequest};
use job::deliver::{DeliverAnswer, DeliverRequest};
use job::enqueue::EnqueueRequest;
use job::home::{HomeAnswer, HomeRequest};
use job::known::{KnownAnswer, KnownRequest};
use job::outcome::OutcomeRequest;
use job::route::RouteRequest;
use job::strike::{StrikeAnswer, StrikeRequest};
use mail::{MessageId, Timestamp};
use queue::{Record, ReportKind, Standing};
use socket::{ErrorObject, PeerId, codes};

use self::admin::Sweep;
use self::backlog::{Backlog, Slot};
pub use self::channel::{ChannelId, Peer};
use self::dispatch::Job;
use self::enqueue::Parts;
use self::lane::{LaneId, Lanes};
use self::strays::Strays;
use self::strike::Casualties;
use crate::by_number::ByNumber;
use crate::{ChannelFacts, Settings};

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// The wall clock, which may jump: expiry, and what is written down.
    pub wall: Timestamp,
    /// Milliseconds of a clock that only goes forward: everything that waits.
    pub mono: u64,
}

/// Which request an answer belongs to, as the shell numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// Router hands over a message, or a part of one.
    Enqueue {
        /// The connection it came over: parts belong to one.
        connection: u64,
        /// To answer.
        token: Token,
        /// The message.
        request: Box<EnqueueRequest>,
        /// What the ledger knows of it.
        standing: Standing,
    },
    /// Requeue asks what is not known.
    Known {
        /// To answer.
        token: Token,
        /// Of which messages.
        request: KnownRequest,
        /// What the ledger knows of each.
        standings: Vec<Standing>,
    },
    /// Compact asks where messages live, or tells of copies.
    Home {
        /// To answer, once synced.
        token: Token,
        /// What.
        request: HomeRequest,
        /// What the ledger knows of each message under the handle that it is asked about, or copied from.
        standings: Vec<Standing>,
    },
    /// A sender tells that a worker of its next stage crashed.
    Strike {
        /// To answer.
        token: Token,
        /// With what in hand.
        request: StrikeRequest,
        /// What the ledger knows of it.
        standing: Standing,
    },
    /// An agent tells what became of recipients that it could not answer for.
    LateOutcome {
        /// To answer, once synced.
        token: Token,
        /// What.
        request: OutcomeRequest,
    },
    /// The command line asks.
    Admin {
        /// To answer.
        token: Token,
        /// What.
        request: Box<AdminRequest>,
    },
    /// A job was answered, or will not be.
    Answered {
        /// The job.
        job: u64,
        /// How.
        result: Result<DeliverAnswer, Unanswered>,
    },
    /// The connected workers of a channel are now these.
    Peers {
        /// The channel.
        channel: ChannelId,
        /// Its workers.
        peers: Vec<Peer>,
    },
    /// A worker of a channel crashed (it was not killed) with jobs in hand.
    Crashed {
        /// The channel.
        channel: ChannelId,
        /// The worker's process.
        pid: u32,
    },
    /// Everything up to this batch has been synced.
    Synced {
        /// The batch.
        batch: u64,
    },
    /// The ledger could not be written or synced: nothing is dispatched.
    LedgerFailed,
    /// A checkpoint has synced, and everything up to this batch with it: dispatching goes on.
    Checkpointed {
        /// The batch.
        batch: u64,
    },
    /// The worker drains: nothing is dispatched any more.
    Draining,
    /// New settings, in place.
    Settings {
        /// The section.
        settings: Box<Settings>,
        /// The channels.
        channels: Vec<ChannelFacts>,
    },
}

/// Why a job has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswered {
    /// The connection ended: to be sent elsewhere, the first time at once.
    Lost,
    /// The worker drains and did not take it.
    NotTaken,
    /// It could not be sent.
    NotSent,
    /// The worker has no room after all: by the bytes outstanding, or by its own count.
    Full,
    /// The job does not fit into a frame.
    TooLong,
    /// An error reply: its recipients are deferred.
    Refused(String),
}

/// An answer to one of the scheduler's own sockets.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To `enqueue`.
    Enqueued,
    /// To `known`.
    Known(KnownAnswer),
    /// To `home`.
    Home(HomeAnswer),
    /// To `outcome`.
    Noted,
    /// To `strike`.
    Struck(StrikeAnswer),
    /// To `admin`.
    Admin(Box<AdminAnswer>),
    /// To any: an error.
    Refused(ErrorObject),
}

/// A job to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Send {
    /// Its number.
    pub job: u64,
    /// To which channel.
    pub channel: ChannelId,
    /// To which of its workers.
    pub peer: PeerId,
    /// How long the worker has.
    pub deadline: Duration,
    /// The job.
    pub request: DeliverRequest,
}

/// What the shell is to do, in this order: append the records, wait until they are written, then answer and send.
#[derive(Debug, Default)]
pub struct Actions {
    /// The number of this batch.
    pub batch: u64,
    /// To append to the ledger, in order.
    pub records: Vec<Record>,
    /// Answers that wait until this batch is written.
    pub answers: Vec<(Token, Answer)>,
    /// Answers that wait until this batch is synced.
    pub answers_synced: Vec<(Token, Answer)>,
    /// Jobs that wait until this batch is written.
    pub jobs: Vec<Send>,
    /// Whether [`Event::Synced`] of this batch is waited for.
    pub sync: bool,
    /// Whether a requeue pass is to be asked for.
    pub requeue: bool,
    /// Messages to be routed anew: hints for router, which requeue brings again if they are lost.
    pub routes: Vec<RouteRequest>,
    /// Channels to connect to.
    pub connect: Vec<ChannelId>,
    /// When to come again if nothing happens before, on the monotonic clock.
    pub wake: Option<u64>,
}

/// What the counters of the scoreboard count, in the order of [`crate::COUNTERS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages enqueued.
    pub enqueued: u64,
    /// Messages retired.
    pub retired: u64,
    /// Jobs sent.
    pub jobs: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Attempts at a recipient that were deferred.
    pub deferred: u64,
    /// Recipients failed, expired ones among them.
    pub failed: u64,
    /// Recipients expired.
    pub expired: u64,
    /// Reports written.
    pub reports: u64,
    /// Failures of whole destinations.
    pub lane_failures: u64,
    /// Jobs whose connection ended.
    pub lost: u64,
    /// Deaths of workers counted against a message.
    pub strikes: u64,
    /// Messages held.
    pub held: u64,
    /// Messages moved to places of their own.
    pub moved: u64,
}

impl Counts {
    /// The counts in the order of [`crate::COUNTERS`].
    pub fn values(&self) -> [u64; crate::COUNTERS.len()] {
        [
            self.enqueued,
            self.retired,
            self.jobs,
            self.delivered,
            self.deferred,
            self.failed,
            self.expired,
            self.reports,
            self.lane_failures,
            self.lost,
            self.strikes,
            self.held,
            self.moved,
        ]
    }
}

/// The scheduler.
pub struct Scheduler {
    settings: Settings,
    backlog: Backlog,
    lanes: Lanes,
    /// The lane of all reports.
    report_lane: LaneId,
    jobs: HashMap<u64, Job, ByNumber>,
    /// Jobs in hand: sent and neither answered nor given up.
    in_hand: usize,
    /// Recipients in them.
    in_hand_recipients: u64,
    job_next: u64,
    /// When each lane is to be looked at.
    timers: BTreeSet<(u64, LaneId)>,
    /// When jobs long unanswered are to be sent again.
    overdue: BTreeSet<(u64, u64)>,
    /// When held messages are to be removed.
    quarantine: BTreeSet<(u64, Slot, MessageId)>,
    /// When suspensions end.
    suspensions: BTreeMap<(String, Option<String>), u64>,
    stirred: Vec<ChannelId>,
    /// Lanes one of whose jobs has become slow in this turn.
    slow_lanes: Vec<LaneId>,
    parts: Parts,
    casualties: Casualties,
    /// Reports whose record is in that batch.
    unsynced: VecDeque<(u64, Slot, MessageId, ReportKind)>,
    /// The batch being put together.
    batch: u64,
    stopped: Stopped,
    /// Changes that the command line asked for and that go on, in order.
    sweeps: VecDeque<Sweep>,
    strays: Strays,
    checkpoint: Option<Walk>,
    grace: Option<Grace>,
    counts: Counts,
}

/// What another scheduler may have in hand yet is not sent before its agents had time to tell what they did.
#[derive(Debug, Clone, Copy)]
struct Grace {
    /// On the monotonic clock.
    until: u64,
    /// The last message that was replayed: what was accepted before may have been in hand too, and its record be lost.
    through: MessageId,
}

/// How far a checkpoint has come. What is routed after its beginning is in its file already.
#[derive(Debug, Clone, Copy)]
struct Walk {
    after: Option<MessageId>,
    last: MessageId,
}

/// Why nothing is dispatched.
#[derive(Debug, Clone, Copy, Default)]
struct Stopped {
    ledger_failed: bool,
    draining: bool,
}

/// What every step needs: the moment, chance, and where to put what follows.
struct Turn<'a> {
    now: Now,
    chance: &'a mut dyn FnMut() -> u64,
    actions: &'a mut Actions,
}

impl Scheduler {
    /// Makes a scheduler that knows no message yet.
    pub fn new(settings: Settings, channels: &[ChannelFacts]) -> Self {
        let mut lanes = Lanes::default();
        let report_lane = lanes.hold(report::CHANNEL, "");
        let mut scheduler = Self {
            settings,
            backlog: Backlog::default(),
            lanes,
            report_lane,
            jobs: HashMap::default(),
            in_hand: 0,
            in_hand_recipients: 0,
            job_next: 1,
            timers: BTreeSet::new(),
            overdue: BTreeSet::new(),
            quarantine: BTreeSet::new(),
            suspensions: BTreeMap::new(),
            stirred: Vec::new(),
            slow_lanes: Vec::new(),
            parts: Parts::default(),
            casualties: Casualties::default(),
            unsynced: VecDeque::new(),
            batch: 1,
            stopped: Stopped::default(),
            sweeps: VecDeque::new(),
            strays: Strays::default(),
            checkpoint: None,
            grace: None,
            counts: Counts::default(),
        };
        scheduler.take_channels(channels);
        scheduler
    }

    fn take_channels(&mut self, channels: &[ChannelFacts]) {
        self.lanes.channels_mut().for_each(|(_, channel)| channel.configured = false);
        for facts in channels {
            let id = self.lanes.channel_id(&facts.name);
            let channel = self.lanes.channel_mut(id);
            channel.configured = true;
            channel.slots_max = facts.slots_max;
        }
    }

    /// The number of a channel, which is the same for ever.
    pub fn channel(&mut self, name: &str) -> ChannelId {
        self.lanes.channel_id(name)
    }

    /// Takes a record of the ledger, before [`Scheduler::start`].
    pub fn replay(&mut self, record: &Record) {
        self.backlog.apply(record, &mut self.lanes);
        self.backlog.pack_many();
    }

    /// What is replayed, and what was accepted before the newest of it, is not sent before `until`, on the monotonic clock: the
    /// scheduler that owned the ledger before may have it in hand. Called after the last replay.
    pub fn wait_for_late_outcomes(&mut self, until: u64) {
        self.grace = self.backlog.last().map(|through| Grace { until, through });
    }

    /// Before when a message is not to be sent, because another scheduler's agents may have it in hand.
    fn not_before(&self, id: &MessageId) -> u64 {
        self.grace.filter(|grace| *id <= grace.through).map_or(0, |grace| grace.until)
    }

    /// Puts everything that was replayed into its lane.
    pub fn start(&mut self, now: Now, chance: &mut dyn FnMut() -> u64, actions: &mut Actions) {
        let mut turn = Turn { now, chance, actions };
        self.begin_suspensions(&turn);
        let all: Vec<(MessageId, Slot)> = self.backlog.after(None).collect();
        for (_, slot) in all {
            self.place_message(&mut turn, slot);
            self.backlog.pack_many();
        }
        self.look_for_strays(now);
        turn.actions.requeue = true;
    }

    /// Takes one event. The actions of all events of a turn are done together, after [`Scheduler::finish`].
    pub fn handle(
        &mut self,
        now: Now,
        chance: &mut dyn FnMut() -> u64,
        event: Event,
        actions: &mut Actions,
    ) {
        let turn = &mut Turn { now, chance, actions };
        if self.stopped.ledger_failed
            && let Event::Enqueue { token, .. }
            | Event::Known { token, .. }
            | Event::Home { token, .. }
            | Event::Strike { token, .. }
            | Event::LateOutcome { token, .. } = &event
        {
            let error = ErrorObject::new(codes::INTERNAL, "the ledger cannot be written now");
            turn.actions.answers.push((*token, Answer::Refused(error)));
            return;
        }
        match event {
            Event::Enqueue { connection, token, request, standing } => {
                let answer = self.enqueue(turn, connection, *request, standing);
                turn.actions.answers.push((token, answer));
            }
            Event::Known { token, request, standings } => {
                let answer = self.known(&request, &standings);
                turn.actions.answers.push((token, Answer::Known(answer)));
            }
            Event::Home { token, request, standings } => {
                let answer = match request {
                    HomeRequest::Where(request) => self.homes(&request, &standings),
                    HomeRequest::Moved(request) => self.moved(turn, request, &standings),
                };
                // Files are removed for it: what it says must not be lost.
                turn.actions.answers_synced.push((token, Answer::Home(answer)));
            }
            Event::Strike { token, request, standing } => {
                let answer = self.struck(turn, &request, standing);
                turn.actions.answers.push((token, Answer::Struck(answer)));
            }
            Event::LateOutcome { token, request } => {
                self.take_late_outcomes(turn, request);
                // It may have been written before, and not be synced yet.
                turn.actions.answers_synced.push((token, Answer::Noted));
            }
            Event::Admin { token, request } => self.admin(turn, token, request),
            Event::Answered { job, result } => self.answered(turn, job, result),
            Event::Peers { channel, peers } => self.set_peers(channel, &peers),
            Event::Crashed { channel, pid } => self.crashed(turn, channel, pid),
            Event::Synced { batch } => self.synced(turn, batch),
            Event::LedgerFailed => self.stopped.ledger_failed = true,
            Event::Checkpointed { batch } => {
                self.stopped.ledger_failed = false;
                self.synced(turn, batch);
                self.stir_all();
            }
            Event::Draining => self.stopped.draining = true,
            Event::Settings { settings, channels } => {
                self.take_settings(turn, *settings, &channels)
            }
        }
    }

    /// Ends a turn: does what is due, sends what may be sent, and says when to come again.
    pub fn finish(&mut self, now: Now, chance: &mut dyn FnMut() -> u64, actions: &mut Actions) {
        let turn = &mut Turn { now, chance, actions };
        self.sweep(turn);
        self.route_strays(turn);
        self.run_timers(turn);
        if !self.stopped.ledger_failed && !self.stopped.draining {
            self.dispatch(turn);
        }
        turn.actions.sync |= !turn.actions.answers_synced.is_empty();
        turn.actions.batch = self.batch;
        turn.actions.wake = self.wake().into_iter().chain(self.strays_wake(now)).min();
        if !self.sweeps.is_empty() {
            let soon = now.mono.saturating_add(1);
            turn.actions.wake = Some(turn.actions.wake.map_or(soon, |wake| wake.min(soon)));
        }
        self.batch += 1;
        self.backlog.pack();
    }

    fn take_settings(
        &mut self,
        turn: &mut Turn<'_>,
        settings: Settings,
        channels: &[ChannelFacts],
    ) {
        self.settings = settings;
        self.take_channels(channels);
        self.quarantine.clear();
        if self.settings.delay_notice.0.is_zero() {
            self.lanes.forget_reviews();
        }
        let all: Vec<(MessageId, Slot)> = self.backlog.after(None).collect();
        for (_, slot) in all {
            self.note_hold(turn.now, slot);
        }
        let lanes: Vec<LaneId> = self.lanes.iter().map(|(id, _)| id).collect();
        for lane in lanes {
            self.refresh(turn.now, lane);
        }
        self.look_for_strays(turn.now);
        self.stir_all();
    }

    /// Begins a checkpoint, or begins it anew: from now on every turn may add a slice of it.
    pub fn begin_checkpoint(&mut self, actions: &mut Actions) {
        self.checkpoint = self.backlog.last().map(|last| Walk { after: None, last });
        for ((channel, host), until) in &self.backlog.suspended {
            let (channel, host) = (channel.clone(), host.clone());
            actions.records.push(Record::Suspend { channel, host, until: Some(*until) });
        }
        for (id, struck) in &self.backlog.struck {
            actions.records.push(Record::Strike {
                handle: struck.handle.clone(),
                id: *id,
                strikes: struck.strikes,
                hold: struck.hold.as_deref().map(Into::into),
            });
        }
    }

    /// Adds the snapshots of up to `messages` messages to the records; says whether that was the end of the checkpoint.
    pub fn checkpoint_slice(&mut self, messages: usize, actions: &mut Actions) -> bool {
        let Some(walk) = self.checkpoint.take() else { return true };
        let mut taken = 0;
        let mut after = walk.after;
        let rest = self.backlog.after(walk.after).take_while(|(id, _)| *id <= walk.last);
        for (id, slot) in rest.take(messages) {
            let message = self.backlog.look(slot);
            actions.records.push(Record::Snapshot(Box::new(message.routed(&self.lanes))));
            actions.records.extend(message.held_by_hand(|_| true));
            if let Some(routing) = message.reroute {
                actions.records.push(Record::Reroute { id, routing });
            }
            after = Some(id);
            taken += 1;
        }
        let ended = taken < messages;
        if !ended {
            self.checkpoint = Some(Walk { after, ..walk });
        }
        ended
    }

    /// Jobs sent whose answers are waited for.
    pub fn in_hand(&self) -> usize {
        self.in_hand
    }

    /// Whether a change of many messages is being made, and not at its end.
    pub fn is_changing(&self) -> bool {
        !self.sweeps.is_empty()
    }

    /// How many messages there are.
    pub fn messages(&self) -> usize {
        self.backlog.len()
    }

    /// Recipients that are open.
    pub fn open(&self) -> u64 {
        self.backlog.open
    }

    /// Messages that are held now.
    pub fn held(&self) -> u64 {
        self.backlog.held
    }

    /// The counts since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Applies a record and has it written.
    fn record(&mut self, turn: &mut Turn<'_>, record: Record) {
        self.backlog.apply(&record, &mut self.lanes);
        turn.actions.records.push(record);
    }
}
