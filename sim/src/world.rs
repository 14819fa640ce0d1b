//! What there is, and what happens next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{ByteSize, Span};
use job::enqueue::EnqueueRequest;
use job::outcome::OutcomeRequest;
use job::route::RouteRequest;
use mail::MessageId;
use queue_spool::Spool;
use queue_spool::disk::simulated::SimulatedDisk;

use crate::acceptor::Acceptor;
use crate::agents::{Agents, JobKey};
use crate::chance::Chance;
use crate::clock::{Clock, DAY, HOUR, MINUTE, SECOND};
use crate::compactor::Compactor;
use crate::faults::Fault;
use crate::process::Process;
use crate::tell::tell;
use crate::witness::{Seen, Witness, hold};

/// Something that is to happen.
pub(crate) enum Event {
    /// A client sends a message.
    Client,
    /// An acceptor starts.
    StartAcceptor(usize),
    /// An acceptor's machine wants a turn.
    Acceptor(usize, u64),
    /// A filter has looked at a draft, or its client has gone.
    DraftEnds(usize, u64, MessageId),
    /// A hint arrives at router.
    Route(RouteRequest),
    /// Router hands a message over.
    Enqueue(u64, Box<EnqueueRequest>),
    /// The scheduler starts.
    StartScheduler,
    /// The scheduler wants a turn, its ledger, or a sync of that ends.
    Scheduler(u64),
    Ledger(u64),
    SyncEnds(u64),
    /// The scheduler hears which workers a channel has.
    Peers(u64, usize),
    /// An agent is at the final dot, and answers.
    Dot(JobKey),
    Answers(JobKey),
    /// An agent tells what it did in a job whose connection ended.
    Tell(Box<OutcomeRequest>),
    /// A worker starts.
    StartWorker(usize),
    Requeue,
    Compact,
    Operator,
    Fault,
    /// What a fault began ends.
    FaultEnds(Fault),
    /// The witness looks around.
    Look,
    /// From now on nothing goes wrong.
    Calm,
}

/// Everything.
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) clock: Clock,
    events: BTreeMap<(u64, u64), Event>,
    event_next: u64,
    pub(crate) disk: SimulatedDisk,
    pub(crate) spool: Spool,
    pub(crate) witness: Witness,
    pub(crate) acceptors: Vec<Acceptor>,
    pub(crate) process: Option<Process>,
    /// How many lives the scheduler has had.
    pub(crate) life: u64,
    pub(crate) agents: Agents,
    pub(crate) compactor: Compactor,
    pub(crate) is_calm: bool,
    pub(crate) calm_at: u64,
    /// What the acceptors of drafts are to say of them.
    pub(crate) envelopes: BTreeMap<MessageId, Box<queue::Accept>>,
    pub(crate) ids: u64,
    pub(crate) connections: u64,
    pub(crate) to_send: u64,
    /// When requeue is to run next, if that is decided.
    pub(crate) requeue_at: Option<u64>,
}

/// How long anything may go wrong.
const CHAOS: (u64, u64) = (20 * MINUTE, 3 * HOUR);
/// By when everything must have ended.
const END: u64 = 12 * DAY;
/// How long a recipient of a host that is well may wait: some jobs of others, at most.
const WAITS_MAX: u64 = 3 * HOUR;
/// Events after which a run is stuck.
const EVENTS_MAX: u64 = 300_000;

/// Runs one seed to its end. Panics with an invariant's name when that is violated.
pub fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    world.begin();
    let mut events = 0;
    while let Some(((at, _), event)) = world.events.pop_first() {
        world.clock.mono = world.clock.mono.max(at);
        world.handle(event);
        if world.disk.is_crashed() {
            world.power_cut();
        }
        world.witness.check_unlinked();
        if world.is_calm && world.is_over() {
            break;
        }
        events += 1;
        hold!(
            events < EVENTS_MAX,
            "comes-to-rest",
            "after {events} events at {} s",
            world.clock.mono / SECOND
        );
        hold!(world.clock.mono < END, "every-message-ends", "{}", world.what_is_left());
    }
    world.witness.seen
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        let settings = queue_spool::Settings {
            segment_bytes: ByteSize(12 << 10),
            body_file_bytes_min: ByteSize(2 << 10),
            ledger_bytes: ByteSize(16 << 10),
            ..queue_spool::Settings::default()
        };
        let spool = Spool::new(Arc::new(disk.clone()), Path::new("/"), settings);
        let mut chance = Chance::new(seed);
        let to_send = chance.between(8, 40);
        let witness = Witness {
            disk: disk.clone(),
            spool: spool.clone(),
            mails: BTreeMap::new(),
            seen: Seen::default(),
            well_since: 0,
            records: 0,
            expire_ms: settings_of_scheduler().expire.0.as_millis() as u64,
        };
        Self {
            agents: Agents::new(&mut chance),
            chance,
            clock: Clock::new(),
            events: BTreeMap::new(),
            event_next: 0,
            disk,
            spool,
            witness,
            acceptors: vec![Acceptor::default(), Acceptor::default()],
            process: None,
            life: 0,
            compactor: Compactor::default(),
            is_calm: false,
            calm_at: 0,
            envelopes: BTreeMap::new(),
            ids: 0,
            connections: 0,
            to_send,
            requeue_at: None,
        }
    }

    fn begin(&mut self) {
        self.after(0, Event::StartAcceptor(0));
        self.after(0, Event::StartAcceptor(1));
        self.after(0, Event::StartScheduler);
        self.after(100, Event::Client);
        self.after(5 * MINUTE, Event::Requeue);
        self.after(10 * MINUTE, Event::Compact);
        self.after(10 * MINUTE, Event::Look);
        let (operator, fault) =
            (self.chance.between(SECOND, 10 * MINUTE), self.chance.between(SECOND, 3 * MINUTE));
        self.after(operator, Event::Operator);
        self.after(fault, Event::Fault);
        let calm = self.chance.between(CHAOS.0, CHAOS.1);
        self.after(calm, Event::Calm);
    }

    /// Has something happen in so many milliseconds.
    pub(crate) fn after(&mut self, wait: u64, event: Event) {
        self.at(self.clock.mono + wait, event);
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.event_next += 1;
        self.events.insert((at.max(self.clock.mono), self.event_next), event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Client => self.client(),
            Event::StartAcceptor(which) => self.start_acceptor(which),
            Event::Acceptor(which, life) => self.acceptor_due(which, life),
            Event::DraftEnds(which, life, id) => self.draft_ends(which, life, id),
            Event::Route(route) => self.route(route),
            Event::Enqueue(connection, request) => self.enqueue(connection, request),
            Event::StartScheduler => self.start_scheduler(),
            Event::Scheduler(life) => self.scheduler_due(life),
            Event::Ledger(life) => self.ledger_due(life),
            Event::SyncEnds(life) => self.sync_ends(life),
            Event::Peers(life, channel) => self.tell_peers(life, channel),
            Event::Dot(job) => self.dot(job),
            Event::Answers(job) => self.answers(job),
            Event::Tell(request) => self.tell_late(*request),
            Event::StartWorker(channel) => self.start_worker(channel),
            Event::Requeue => self.requeue(),
            Event::Compact => self.compact(),
            Event::Operator => self.operate(),
            Event::Fault => self.fault(),
            Event::FaultEnds(fault) => self.fault_ends(fault),
            Event::Look => self.look(),
            Event::Calm => self.calm(),
        }
    }

    fn look(&mut self) {
        let hosts = &self.agents;
        self.witness.check_waiting(&self.clock, |lane| hosts.is_well(lane), WAITS_MAX);
        self.after(if self.is_calm { HOUR } else { 10 * MINUTE }, Event::Look);
    }

    /// Whether every message has ended and its space is given back.
    fn is_over(&self) -> bool {
        let Some(process) = &self.process else { return false };
        let ended = self.to_send == 0 && process.turns.scheduler().messages() == 0;
        ended && self.witness.mails.values().all(|mail| !mail.is_owed()) && self.left().is_empty()
    }

    /// The files that should have been given back.
    fn left(&self) -> Vec<String> {
        let dir = self.spool.layout().intake();
        let names = self.disk.names_below(&dir);
        let of_mail = |path: &PathBuf| match path.extension().and_then(|it| it.to_str()) {
            Some("body" | "moved") => true,
            // One that lists nothing is kept for what may be damaged in it; what nobody was promised may take space for a while.
            Some("seg") => !self.spool.lists_nothing(path) && self.holds_promised(path),
            _ => false,
        };
        names.into_iter().filter(of_mail).map(|path| path.display().to_string()).collect()
    }

    /// Whether a message was ever accepted that lives in a file.
    fn holds_promised(&self, path: &Path) -> bool {
        self.witness.mails.values().any(|mail| {
            let handles = mail.handle.iter().chain(mail.before.iter().map(|(handle, _)| handle));
            handles
                .into_iter()
                .any(|handle| self.spool.files_of(handle).iter().any(|it| it == path))
        })
    }

    fn what_is_left(&self) -> String {
        let owed: Vec<_> = self.witness.mails.iter().filter(|(_, mail)| mail.is_owed()).collect();
        let mails: Vec<String> = owed
            .iter()
            .take(3)
            .map(|(id, mail)| {
                format!(
                    "{id} {:?} held {} handle {:?} routed {} retired {:?} {:?}",
                    mail.promise,
                    mail.held,
                    mail.handle.as_ref().map(ToString::to_string),
                    mail.routed.is_some(),
                    mail.retired.as_ref().map(|it| it.is_durable()),
                    mail.fates
                )
            })
            .collect();
        let known = self.process.as_ref().map(|it| it.turns.scheduler().messages());
        let left: Vec<String> = self
            .disk
            .files()
            .into_iter()
            .filter(|(path, _)| self.left().contains(&path.display().to_string()))
            .map(|(path, bytes)| format!("{} of {} bytes", path.display(), bytes.len()))
            .collect();
        let listed = self.spool.listed_now(true);
        tell!(self.clock, "left {left:?} listed {listed:?}");
        format!(
            "{} messages have not ended, the scheduler knows {known:?}, files {:?}: {mails:?}",
            owed.len(),
            self.left()
        )
    }
}

/// The scheduler's settings: as they come, but for what would take too long.
pub(crate) fn settings_of_scheduler() -> scheduler::Settings {
    scheduler::Settings {
        retry: [60, 300, 1800, 4 * 3600].map(Span::seconds).to_vec(),
        expire: Span::seconds(2 * 86_400),
        lane_start: 2,
        lane_max: 5,
        ..scheduler::Settings::default()
    }
}
