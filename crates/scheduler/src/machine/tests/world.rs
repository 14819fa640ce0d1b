//! A scheduler with a clock that is moved by hand, workers that answer when told, and a ledger that is a list.

use std::collections::{BTreeMap, VecDeque};

use job::deliver::{DeliverAnswer, RecipientOutcome};
use job::enqueue::EnqueueRequest;
use mail::{
    BodyType, Delivered, MessageId, Notify, Outcome, Reply, StatusCode, SuccessReport, Timestamp,
};
use queue::{Handle, Record, ReportKind, Routed, RoutedRecipient, Standing, State};
use socket::PeerId;

use crate::machine::{Actions, Answer, Event, Now, Peer, Scheduler, Send, Token, Unanswered};
use crate::{ChannelFacts, Settings};

/// When every test begins.
pub(super) const BEGIN: u64 = 1_700_000_000_000;
pub(super) const SECOND: u64 = 1000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) now: Now,
    pub(super) records: Vec<Record>,
    pub(super) jobs: VecDeque<Send>,
    pub(super) answers: BTreeMap<Token, Answer>,
    /// Whether every batch is synced at once.
    pub(super) syncs: bool,
    pub(super) batch: u64,
    pub(super) requeues: u32,
    pub(super) routes: Vec<job::route::RouteRequest>,
    pub(super) wake: Option<u64>,
    seed: u64,
    token: u64,
}

impl World {
    /// Channels smtp, local and error, each with one worker of a hundred slots.
    pub(super) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(super) fn with(settings: Settings) -> Self {
        let mut world = Self::bare(settings);
        for (number, name) in ["smtp", "local", "error"].iter().enumerate() {
            world.connect(name, &[(number as u64 + 1, 100)]);
        }
        world.start();
        world
    }

    /// Nothing replayed, started or connected yet.
    pub(super) fn bare(settings: Settings) -> Self {
        settings.check().expect("settings of a test are right");
        let facts = |name: &str| ChannelFacts {
            name: name.to_owned(),
            socket: format!("{name}.deliver"),
            slots_max: 0,
        };
        Self {
            scheduler: Scheduler::new(settings, &[facts("smtp"), facts("local"), facts("error")]),
            now: Now { wall: Timestamp::from_millis(BEGIN), mono: 5000 },
            records: Vec::new(),
            jobs: VecDeque::new(),
            answers: BTreeMap::new(),
            syncs: true,
            batch: 0,
            requeues: 0,
            routes: Vec::new(),
            wake: None,
            seed: 42,
            token: 0,
        }
    }

    pub(super) fn start(&mut self) {
        let mut actions = Actions::default();
        self.scheduler.start(self.now, &mut chance(&mut self.seed), &mut actions);
        self.finish(actions);
    }

    /// Handles events in one turn.
    pub(super) fn turn(&mut self, events: Vec<Event>) {
        let mut actions = Actions::default();
        for event in events {
            let chance = &mut chance(&mut self.seed);
            self.scheduler.handle(self.now, chance, event, &mut actions);
        }
        self.finish(actions);
    }

    pub(super) fn finish(&mut self, mut actions: Actions) {
        self.scheduler.finish(self.now, &mut chance(&mut self.seed), &mut actions);
        self.batch = actions.batch;
        self.wake = actions.wake;
        self.records.append(&mut actions.records);
        self.jobs.extend(actions.jobs);
        self.answers.extend(actions.answers);
        self.answers.extend(actions.answers_synced);
        self.requeues += u32::from(actions.requeue);
        self.routes.append(&mut actions.routes);
        if actions.sync && self.syncs {
            let batch = self.batch;
            self.turn(vec![Event::Synced { batch }]);
        }
    }

    /// Lets time pass, waking the scheduler whenever it asked for it.
    pub(super) fn pass(&mut self, millis: u64) {
        let end = self.now.mono + millis;
        let mut wakes = 0;
        while let Some(wake) = self.wake.filter(|wake| *wake <= end) {
            wakes += 1;
            assert!(wakes < 50_000, "the scheduler does not come to rest");
            let step = wake.max(self.now.mono) - self.now.mono;
            self.move_clocks(step);
            let before = self.now.mono;
            self.turn(Vec::new());
            assert!(
                self.wake.is_none_or(|wake| wake > before),
                "the scheduler asks to be woken at a time that has passed"
            );
        }
        self.move_clocks(end - self.now.mono);
        self.turn(Vec::new());
    }

    fn move_clocks(&mut self, millis: u64) {
        self.now.mono += millis;
        self.now.wall = Timestamp::from_millis(self.now.wall.millis() + millis);
    }

    /// Workers of a channel: connection and window of each; the process id is the connection and 1000.
    pub(super) fn connect(&mut self, channel: &str, peers: &[(u64, u32)]) {
        let channel = self.scheduler.channel(channel);
        let peers = peers
            .iter()
            .map(|(id, window)| Peer {
                id: PeerId(*id),
                pid: 1000 + *id as u32,
                window: *window,
                draining: false,
            })
            .collect();
        self.turn(vec![Event::Peers { channel, peers }]);
    }

    pub(super) fn token(&mut self) -> Token {
        self.token += 1;
        Token(self.token)
    }

    /// Enqueues and says what was answered.
    pub(super) fn enqueue(&mut self, request: EnqueueRequest) -> Answer {
        let standing = self.standing(&request.id);
        self.enqueue_standing(request, standing)
    }

    pub(super) fn enqueue_standing(
        &mut self,
        request: EnqueueRequest,
        standing: Standing,
    ) -> Answer {
        let token = self.token();
        let request = Box::new(request);
        self.turn(vec![Event::Enqueue { connection: 7, token, request, standing }]);
        self.answers.remove(&token).expect("enqueue is answered at once")
    }

    /// What a ledger would say, from the records.
    pub(super) fn standing(&self, id: &MessageId) -> Standing {
        let mut standing = Standing::Unknown;
        for record in &self.records {
            match record {
                Record::Routed(routed) | Record::Snapshot(routed) if routed.id == *id => {
                    standing = Standing::Routed;
                }
                Record::Retired { id: retired, .. } if retired == id => {
                    standing = Standing::Retired;
                }
                _ => {}
            }
        }
        standing
    }

    /// The next job that was sent.
    pub(super) fn job(&mut self) -> Send {
        self.jobs.pop_front().expect("a job was sent")
    }

    pub(super) fn answer(&mut self, job: &Send, answer: DeliverAnswer) {
        self.turn(vec![Event::Answered { job: job.job, result: Ok(answer) }]);
    }

    pub(super) fn unanswered(&mut self, job: &Send, why: Unanswered) {
        self.turn(vec![Event::Answered { job: job.job, result: Err(why) }]);
    }

    /// Answers the same for every recipient.
    pub(super) fn answer_all(&mut self, job: &Send, outcome: &Outcome) {
        self.answer(job, all(job, outcome));
    }

    /// Answers a job with success, as last hop.
    pub(super) fn deliver(&mut self, job: &Send) {
        self.answer_all(job, &delivered());
    }

    /// The destination failed.
    pub(super) fn fail_lane(&mut self, job: &Send) {
        let lane = Some(Reply::ours(StatusCode::new(4, 4, 1), "connection refused"));
        self.answer(job, DeliverAnswer { lane, ..DeliverAnswer::default() });
    }

    /// Takes the records out.
    pub(super) fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// The state of a recipient, which is live.
    pub(super) fn state(&self, id: MessageId, index: u32) -> State {
        let slot = self.scheduler.backlog.find(&id).expect("the message is live");
        let message = self.scheduler.backlog.message(slot);
        message.recipient(index).expect("the recipient exists").state()
    }

    pub(super) fn is_live(&self, id: MessageId) -> bool {
        self.scheduler.backlog.find(&id).is_some()
    }

    /// Everything that is written down, in one order.
    pub(super) fn written_down(&self) -> Vec<Routed> {
        written_down(&self.scheduler)
    }
}

/// What of a scheduler's state the ledger must give back.
pub(super) fn written_down(scheduler: &Scheduler) -> Vec<Routed> {
    let backlog = &scheduler.backlog;
    backlog
        .after(None)
        .map(|(_, slot)| {
            let mut routed = backlog.message(slot).routed(&scheduler.lanes);
            routed.owed.sort_by_key(|owed| owed.kind);
            routed
        })
        .collect()
}

fn chance(seed: &mut u64) -> impl FnMut() -> u64 + '_ {
    move || {
        *seed =
            seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 20
    }
}

pub(super) fn id(number: u64) -> MessageId {
    MessageId::new(Timestamp::from_millis(BEGIN), number)
}

/// Ids of messages accepted at different times sort by those.
pub(super) fn id_at(at: Timestamp, number: u64) -> MessageId {
    MessageId::new(at, number)
}

pub(super) fn handle(id: MessageId) -> Handle {
    Handle::parse(&format!("memory:{id}")).expect("a handle")
}

/// A recipient on channel smtp.
pub(super) fn recipient(index: u32, host: &str) -> RoutedRecipient {
    RoutedRecipient {
        index,
        address: format!("user{index}@example.test").parse().expect("an address"),
        original: None,
        orcpt: None,
        notify: None,
        channel: "smtp".to_owned(),
        host: host.to_owned(),
        user: format!("user{index}@example.test"),
        state: State::default(),
    }
}

/// A message of one recipient for each host, accepted now.
pub(super) fn message(world: &World, id: MessageId, hosts: &[&str]) -> EnqueueRequest {
    EnqueueRequest {
        handle: handle(id),
        id,
        routing: 1,
        part: 0,
        more: false,
        sender: Some("sender@example.org".parse().expect("an address")),
        size: 4096,
        accepted_at: world.now.wall,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        hold: None,
        recipients: (0..).zip(hosts).map(|(index, host)| recipient(index, host)).collect(),
    }
}

pub(super) fn delivered() -> Outcome {
    Outcome::Delivered(Delivered {
        reply: Reply::ours(StatusCode::new(2, 0, 0), "250 ok"),
        report: SuccessReport::Final,
    })
}

pub(super) fn deferred() -> Outcome {
    Outcome::Deferred(Reply::ours(StatusCode::new(4, 2, 0), "451 later"))
}

pub(super) fn failed() -> Outcome {
    Outcome::Failed(Reply::ours(StatusCode::new(5, 1, 1), "550 no such user"))
}

/// The same outcome for every recipient of a job.
pub(super) fn all(job: &Send, outcome: &Outcome) -> DeliverAnswer {
    let outcomes = job
        .request
        .recipients
        .iter()
        .map(|one| RecipientOutcome { index: one.index, outcome: outcome.clone() })
        .collect();
    DeliverAnswer { outcomes, ..DeliverAnswer::default() }
}

/// What kind of report a job writes, about whom.
pub(super) fn report(job: &Send) -> Option<(ReportKind, Vec<u32>)> {
    let report = job.request.report.as_ref()?;
    Some((report.kind, job.request.recipients.iter().map(|one| one.index).collect()))
}

pub(super) fn success() -> Option<Notify> {
    Some(Notify { success: true, failure: false, delay: false })
}

impl World {
    /// The state of a message's first recipient, if it is live.
    pub(super) fn state_or_none(&self, id: MessageId) -> Option<State> {
        self.is_live(id).then(|| self.state(id, 0))
    }
}
