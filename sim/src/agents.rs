//! Model agents: each host is as its name says; workers die, are silent, and answer late.

use std::collections::BTreeMap;

use job::deliver::{DeliverAnswer, DeliverRequest, RecipientOutcome};
use job::outcome::OutcomeRequest;
use mail::{Delivered, MessageId, Outcome, Reply, StatusCode, SuccessReport};
use queue::{Ledger, ReportKind, Standing};
use scheduler::machine::{Peer, Send, Unanswered};
use scheduler::turns::Arrival;
use socket::PeerId;

use crate::acceptor::REPORTS;
use crate::chance::Chance;
use crate::clock::{MINUTE, SECOND};
use crate::process::Asked;
use crate::witness::hold;
use crate::world::{Event, World, settings_of_scheduler};

/// The channels.
pub(crate) const CHANNELS: [&str; 3] = ["smtp", "local", "error"];
pub(crate) const ERROR: usize = 2;
/// How long after its deadline the scheduler gives a job up, or a little less: it counts from before the job was written down.
const GIVEN_UP_AFTER: u64 = 11 * MINUTE - SECOND;

/// A job: the scheduler's life, and its number there.
pub(crate) type JobKey = (u64, u64);

/// All agents.
pub(crate) struct Agents {
    pub(crate) workers: Vec<Worker>,
    pub(crate) jobs: BTreeMap<JobKey, Job>,
    next: u64,
    /// Reports that are being committed, and for which job.
    committing: BTreeMap<MessageId, JobKey>,
    lanes: BTreeMap<(String, String), LaneSeen>,
    window: u32,
}

/// A worker of a channel.
pub(crate) struct Worker {
    pub(crate) channel: usize,
    pub(crate) peer: u64,
    window: u32,
}

/// A job in hand.
pub(crate) struct Job {
    channel: usize,
    peer: u64,
    pub(crate) request: DeliverRequest,
    sent_at: u64,
    sent_wall: u64,
    deadline: u64,
    answer: DeliverAnswer,
    /// Whom it has delivered to.
    dotted: Vec<u32>,
    answers_after: u64,
}

/// What was seen of a lane since the scheduler began.
#[derive(Default, Clone, Copy)]
struct LaneSeen {
    successes: u32,
    failed: bool,
}

impl Agents {
    pub(crate) fn new(chance: &mut Chance) -> Self {
        let window = chance.between(4, 12) as u32;
        let mut agents = Self {
            workers: Vec::new(),
            jobs: BTreeMap::new(),
            next: 0,
            committing: BTreeMap::new(),
            lanes: BTreeMap::new(),
            window,
        };
        for channel in [0, 0, 1] {
            agents.add(channel);
        }
        agents
    }

    fn add(&mut self, channel: usize) {
        self.next += 1;
        let window = if channel == 0 { self.window } else { 10 };
        self.workers.push(Worker { channel, peer: self.next, window });
    }

    /// Whether a lane's host takes everything at once.
    pub(crate) fn is_well(&self, lane: &(String, String)) -> bool {
        lane.0 == "local" || lane.1.starts_with("good")
    }

    /// Forgets what only a life of the scheduler knew.
    pub(crate) fn forget_lanes(&mut self) {
        self.lanes.clear();
    }

    fn lane_of(channel: usize, request: &DeliverRequest) -> (String, String) {
        (CHANNELS[channel].to_owned(), request.host.clone())
    }

    /// Jobs of a channel that count against the scheduler's limits, with their lanes.
    fn in_hand(&self, channel: usize, now: u64) -> impl Iterator<Item = &Job> {
        let counts = move |job: &&Job| {
            job.channel == channel && now < job.sent_at + job.deadline + GIVEN_UP_AFTER
        };
        self.jobs.values().filter(counts)
    }

    fn check_limits(&self, channel: usize, request: &DeliverRequest, now: u64) {
        let settings = settings_of_scheduler();
        let lane = Self::lane_of(channel, request);
        let seen = self.lanes.get(&lane).copied().unwrap_or_default();
        let in_lane =
            self.in_hand(channel, now).filter(|job| job.request.host == request.host).count()
                as u32;
        let limit = (settings.lane_start + seen.successes).min(settings.lane_max);
        hold!(in_lane < limit, "lane-limit", "{lane:?} gets job {} of {limit}", in_lane + 1);
        let slow_after = settings.slow_after.0.as_millis() as u64 + SECOND;
        let failed = |host: &str| {
            let lane = (CHANNELS[channel].to_owned(), host.to_owned());
            self.lanes.get(&lane).is_some_and(|it| it.failed)
        };
        let is_slow = |job: &&Job| now > job.sent_at + slow_after || failed(&job.request.host);
        let waits_long =
            self.in_hand(channel, now).any(|job| job.request.host == request.host && is_slow(&job));
        if channel == 0 && (waits_long || failed(&request.host)) {
            let slow = self.in_hand(channel, now).filter(is_slow).count() as u32;
            let slots: u32 =
                self.workers.iter().filter(|it| it.channel == channel).map(|it| it.window).sum();
            hold!(
                slow < (slots / 2).max(1),
                "slow-share",
                "{lane:?} gets job {} of {slots} slots for slow lanes",
                slow + 1
            );
        }
    }
}

impl World {
    pub(crate) fn tell_peers(&mut self, life: u64, channel: usize) {
        if life != self.life {
            return;
        }
        let Some(process) = &mut self.process else { return };
        process.connected[channel] = true;
        let workers = self.agents.workers.iter().filter(|it| it.channel == channel);
        let peers = workers
            .map(|it| Peer {
                id: PeerId(it.peer),
                pid: it.peer as u32,
                window: it.window,
                draining: false,
            })
            .collect();
        let id = process.channels[channel];
        self.arrive(Arrival::Peers(id, peers));
    }

    fn peers_changed(&mut self, channel: usize) {
        if self.process.as_ref().is_some_and(|it| it.connected[channel]) {
            self.witness.well_since = self.clock.mono;
            self.tell_peers(self.life, channel);
        }
    }

    pub(crate) fn start_worker(&mut self, channel: usize) {
        let there = self.agents.workers.iter().filter(|it| it.channel == channel).count();
        let wanted = if channel == 0 { 2 } else { 1 };
        if there < wanted && (channel != ERROR || self.acceptors[REPORTS].machines.is_some()) {
            self.agents.add(channel);
            self.peers_changed(channel);
        }
    }

    /// A worker dies. By its own fault or not: only the one counts against what it had in hand.
    pub(crate) fn kill_worker(&mut self, place: usize, is_crash: bool) {
        let worker = self.agents.workers.remove(place);
        self.witness.seen.crashes += 1;
        let lost: Vec<JobKey> = self
            .agents
            .jobs
            .iter()
            .filter(|(_, job)| job.peer == worker.peer)
            .map(|(key, _)| *key)
            .collect();
        for key in lost {
            self.lose(key);
        }
        if let Some(process) = self.process.as_ref().filter(|_| is_crash) {
            let channel = process.channels[worker.channel];
            self.arrive(Arrival::Crashed { channel, pid: worker.peer as u32 });
        }
        self.peers_changed(worker.channel);
        if worker.channel != ERROR {
            let wait = self.chance.between(20, 3 * SECOND);
            self.after(wait, Event::StartWorker(worker.channel));
        }
    }

    /// A job's worker, or its connection, is gone.
    fn lose(&mut self, key: JobKey) {
        let Some(job) = self.agents.jobs.remove(&key) else { return };
        self.agents.committing.retain(|_, of| *of != key);
        let indexes: Vec<u32> = job.request.recipients.iter().map(|it| it.index).collect();
        if job.channel == ERROR {
            self.witness.unheard(job.request.id, &indexes, true);
        } else {
            self.witness.unheard(job.request.id, &job.dotted, false);
            if !job.dotted.is_empty() && self.chance.percent(60) {
                self.write_down(&job);
            }
        }
        self.witness.touch(job.request.id, self.clock.mono);
        if key.0 == self.life {
            self.arrive(Arrival::Answered {
                job: key.1,
                result: Err(Unanswered::Lost),
                from: None,
            });
        }
    }

    /// An agent has kept what it did, and tells it later.
    fn write_down(&mut self, job: &Job) {
        let done = job.dotted.iter();
        let request = OutcomeRequest {
            handle: job.request.handle.clone(),
            id: job.request.id,
            attempt: job.request.attempt,
            routing: job.request.routing,
            report: None,
            outcomes: done
                .map(|index| RecipientOutcome { index: *index, outcome: delivered() })
                .collect(),
        };
        let wait = self.chance.between(1, 2 * MINUTE);
        self.after(wait, Event::Tell(Box::new(request)));
    }

    /// Tells it, again and again until that is acknowledged.
    pub(crate) fn tell_late(&mut self, request: OutcomeRequest) {
        let id = request.id;
        if request.outcomes.iter().all(|one| self.witness.is_noted(id, one.index)) {
            return;
        }
        self.after(2 * MINUTE, Event::Tell(Box::new(request.clone())));
        if self.process.is_none() {
            return;
        }
        for one in &request.outcomes {
            let has = |job: &Job| {
                let its = job.request.recipients.iter().any(|it| it.index == one.index);
                job.channel != ERROR && job.request.id == id && its
            };
            let is_beside =
                self.agents.jobs.values().any(|job| has(job) && !job.dotted.contains(&one.index));
            self.witness.told(id, one.index, is_beside);
        }
        let asked = Asked::Told(Box::new(request.clone()));
        self.ask(asked, |token| Arrival::LateOutcome(token, request));
    }

    /// It was acknowledged. Of a message that was not known nothing was written: its routing was lost.
    pub(crate) fn noted(&mut self, request: &OutcomeRequest) {
        let Some(process) = &self.process else { return };
        if process.ledger.standing(&request.handle) != Standing::Unknown {
            for one in &request.outcomes {
                self.witness.noted(request.id, one.index, request.routing);
            }
        }
    }

    /// Everything that agents have in hand of a scheduler that is gone: what is not at its dot yet never will be.
    pub(crate) fn lose_all_jobs(&mut self) {
        let keys: Vec<JobKey> = self.agents.jobs.keys().copied().collect();
        keys.into_iter().for_each(|key| self.lose(key));
        self.agents.forget_lanes();
    }

    pub(crate) fn sent(&mut self, send: Send) {
        let Some(channel) = self
            .process
            .as_ref()
            .and_then(|it| it.channels.iter().position(|one| *one == send.channel))
        else {
            return;
        };
        if self.disk.is_crashed() {
            return;
        }
        self.witness.sent(&self.clock, &send.request);
        let is_there = self.agents.workers.iter().any(|it| it.peer == send.peer.0);
        if !is_there || self.chance.percent(u64::from(!self.is_calm)) {
            return self.arrive(Arrival::Answered {
                job: send.job,
                result: Err(Unanswered::NotSent),
                from: None,
            });
        }
        self.agents.check_limits(channel, &send.request, self.clock.mono);
        let key = (self.life, send.job);
        let deadline = send.deadline.as_millis() as u64;
        let (answer, dot_after, answers_after) = self.decide(channel, &send.request, deadline);
        let job = Job {
            channel,
            peer: send.peer.0,
            request: send.request,
            sent_at: self.clock.mono,
            sent_wall: self.clock.wall().millis(),
            deadline,
            answer,
            dotted: Vec::new(),
            answers_after,
        };
        self.agents.jobs.insert(key, job);
        self.after(dot_after, Event::Dot(key));
    }

    /// What an agent will answer, when it is at the dot, and how long after that it answers.
    fn decide(
        &mut self,
        channel: usize,
        request: &DeliverRequest,
        deadline: u64,
    ) -> (DeliverAnswer, u64, u64) {
        let chance = &mut self.chance;
        let fast = (chance.between(20, 2 * SECOND), chance.below(500));
        if channel != 0 {
            return (all(request, &delivered()), fast.0, fast.1);
        }
        let host = request.host.split('.').next().unwrap_or_default().to_owned();
        match host.as_str() {
            "slow" => (
                all(request, &delivered()),
                chance.between(20 * SECOND, 5 * MINUTE),
                chance.below(10 * SECOND),
            ),
            "flaky" => {
                let mut answer = all(request, &delivered());
                for one in &mut answer.outcomes {
                    match chance.below(10) {
                        0..4 => {
                            one.outcome = Outcome::Deferred(Reply::ours(
                                StatusCode::new(4, 2, 0),
                                "451 later",
                            ))
                        }
                        4 => one.outcome = failed(),
                        _ => {}
                    }
                }
                answer.outcomes.retain(|_| chance.percent(95));
                (answer, fast.0, fast.1)
            }
            "picky" => (all(request, &failed()), fast.0, fast.1),
            "down" => {
                let lane = Some(Reply::ours(StatusCode::new(4, 4, 1), "connection refused"));
                (DeliverAnswer { lane, ..DeliverAnswer::default() }, fast.0, 10)
            }
            "throttle" => {
                let throttle = chance.percent(50).then(|| chance.between(1, 600) as u32);
                (DeliverAnswer { throttle, ..all(request, &delivered()) }, fast.0, fast.1)
            }
            // At its dot shortly before the deadline, and told minutes later; or not heard of before it is given up.
            "silent" => match chance.below(3) {
                0 => (
                    all(request, &delivered()),
                    chance.between(deadline / 2, deadline - 1),
                    chance.below(9 * MINUTE),
                ),
                1 => (DeliverAnswer::default(), deadline, chance.between(10 * MINUTE, 30 * MINUTE)),
                _ => (all(request, &delivered()), fast.0, chance.below(5 * MINUTE)),
            },
            _ => (all(request, &delivered()), fast.0, fast.1),
        }
    }

    /// The dot gate: what cannot be undone is done only while the connection is up and the deadline has not passed.
    pub(crate) fn dot(&mut self, key: JobKey) {
        let Some(job) = self.agents.jobs.get_mut(&key) else { return };
        if job.channel == ERROR {
            return self.report(key);
        }
        let may = key.0 == self.life && self.clock.mono - job.sent_at < job.deadline;
        let body = self.spool.message_now(&job.request.handle);
        let (Ok((_, body)), true) = (body, may) else {
            // Gone, or too late: what is not positively answered is deferred.
            job.answer.outcomes.retain(|it| !matches!(it.outcome, Outcome::Delivered(_)));
            let wait = job.answers_after;
            return self.after(wait, Event::Answers(key));
        };
        let (id, wait) = (job.request.id, job.answers_after);
        for one in &job.answer.outcomes {
            if matches!(one.outcome, Outcome::Delivered(_)) {
                job.dotted.push(one.index);
                self.witness.delivered(id, one.index, &body);
            }
        }
        self.after(wait, Event::Answers(key));
    }

    /// The error agent commits a report as a new message.
    fn report(&mut self, key: JobKey) {
        let Some(job) = self.agents.jobs.get(&key) else { return };
        let of = job.request.id;
        let kind = job.request.report.as_ref().map_or(ReportKind::Failure, |it| it.kind);
        let recipients: Vec<u32> = job.request.recipients.iter().map(|it| it.index).collect();
        let Some(to) = job.request.sender.as_ref().map(ToString::to_string) else {
            return self.after(1, Event::Answers(key));
        };
        let id = self.new_id();
        // The commit may be answered within this call.
        self.agents.committing.insert(id, key);
        self.submit(REPORTS, id, None, &[to], 200, None, Some((of, kind, recipients)));
    }

    /// A report was committed, or could not be.
    pub(crate) fn report_ends(&mut self, id: MessageId, is_committed: bool) {
        if is_committed {
            self.witness.reported(id);
        }
        let Some(key) = self.agents.committing.remove(&id) else {
            if is_committed {
                self.witness.orphan_report(id);
            }
            return;
        };
        if let Some(job) = self.agents.jobs.get_mut(&key) {
            if !is_committed {
                job.answer.outcomes.clear();
            }
            let wait = self.chance.below(100);
            self.after(wait, Event::Answers(key));
        }
    }

    pub(crate) fn answers(&mut self, key: JobKey) {
        let Some(job) = self.agents.jobs.remove(&key) else { return };
        if key.0 != self.life {
            return;
        }
        let lane = Agents::lane_of(job.channel, &job.request);
        let seen = self.agents.lanes.entry(lane.clone()).or_default();
        if job.answer.lane.is_some() {
            *seen = LaneSeen { successes: 0, failed: true };
            self.witness.lane_failed(&lane, self.clock.wall().millis());
        } else if !job.answer.outcomes.is_empty() {
            *seen = LaneSeen { successes: seen.successes + 1, failed: false };
        }
        if job.channel != ERROR {
            self.witness.tried(job.request.id, &job.answer, &job.request, job.sent_wall);
        }
        self.arrive(Arrival::Answered { job: key.1, result: Ok(job.answer), from: None });
    }
}

fn delivered() -> Outcome {
    Outcome::Delivered(Delivered {
        reply: Reply::ours(StatusCode::new(2, 0, 0), "250 ok"),
        report: SuccessReport::Final,
    })
}

fn failed() -> Outcome {
    Outcome::Failed(Reply::ours(StatusCode::new(5, 1, 1), "550 no such user"))
}

fn all(request: &DeliverRequest, outcome: &Outcome) -> DeliverAnswer {
    let outcomes = request.recipients.iter();
    let outcomes = outcomes
        .map(|one| RecipientOutcome { index: one.index, outcome: outcome.clone() })
        .collect();
    DeliverAnswer { outcomes, ..DeliverAnswer::default() }
}
