//! Random histories: nothing is lost, the books balance, and the records give the state back.

use std::collections::{BTreeMap, BTreeSet};

use job::admin::{AdminRequest, Change, LaneChange, Selection};
use job::deliver::{DeliverAnswer, RecipientOutcome};
use job::strike::StrikeRequest;
use mail::{MessageId, Notify, Outcome, Reply, StatusCode, Timestamp};
use proptest::prelude::*;
use queue::{Record, ReportKind, Standing, State};

use super::world::*;
use crate::Settings;
use crate::machine::backlog::{Place, Stand};
use crate::machine::channel::Ring;
use crate::machine::{Actions, Event, Scheduler, Send, Unanswered};
use config::Span;

/// One step of a history; numbers choose among what is there.
#[derive(Debug, Clone)]
enum Step {
    Enqueue { hosts: Vec<u8>, kind: u8 },
    EnqueueAgain(u8),
    Answer { which: u8, how: u8 },
    Pass(u32),
    Jump(u32),
    Admin { what: u8, which: u8 },
    Strike(u8),
    Crash(u8),
    Peers(u8),
    Sync,
    Ledger,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::collection::vec(0..4u8, 0..5), any::<u8>())
            .prop_map(|(hosts, kind)| Step::Enqueue { hosts, kind }),
        1 => any::<u8>().prop_map(Step::EnqueueAgain),
        12 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| Step::Answer { which, how }),
        4 => (0..20_000_000u32).prop_map(Step::Pass),
        1 => (0..200_000_000u32).prop_map(Step::Jump),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(what, which)| Step::Admin { what, which }),
        1 => any::<u8>().prop_map(Step::Strike),
        1 => any::<u8>().prop_map(Step::Crash),
        1 => any::<u8>().prop_map(Step::Peers),
        2 => Just(Step::Sync),
        1 => Just(Step::Ledger),
    ]
}

/// A world with a history, and what the test itself knows of it.
struct History {
    world: World,
    next: u64,
    /// Every job not answered.
    open: Vec<Send>,
    reported: BTreeSet<(MessageId, u32)>,
    removed: bool,
    ids: Vec<MessageId>,
    peer: u64,
    /// Whether slices of a checkpoint are mixed in.
    checkpoint: bool,
}

impl History {
    fn new() -> Self {
        let settings = Settings { expire: Span::seconds(2 * 86_400), ..Settings::default() };
        let mut world = World::with(settings);
        world.syncs = false;
        Self {
            world,
            next: 0,
            open: Vec::new(),
            reported: BTreeSet::new(),
            removed: false,
            ids: Vec::new(),
            peer: 10,
            checkpoint: false,
        }
    }

    fn enqueue(&mut self, hosts: &[u8], kind: u8) {
        let names = ["a.test", "b.test", "dead.test", "slow.test"];
        let hosts: Vec<&str> = hosts.iter().map(|host| names[usize::from(*host)]).collect();
        let id = id_at(self.world.now.wall, self.next);
        self.next += 1;
        let mut request = message(&self.world, id, &hosts);
        match kind % 8 {
            1 => request.sender = None,
            2 => request.hold = Some("quarantined".to_owned()),
            3 => request.recipients.iter_mut().for_each(|r| r.notify = Some(Notify::NEVER)),
            4 => request.recipients.iter_mut().for_each(|r| r.notify = success()),
            5 => {
                if let Some(first) = request.recipients.first_mut() {
                    first.state = State::Failed(Reply::ours(StatusCode::new(5, 1, 1), "no"));
                }
            }
            6 => {
                if let Some(first) = request.recipients.first_mut() {
                    let reason = "odd".to_owned();
                    first.state = State::Held { reason, then: Default::default() };
                }
            }
            _ => {}
        }
        self.ids.push(id);
        self.world.enqueue(request);
    }

    fn enqueue_again(&mut self, which: u8) {
        let Some(id) = self.pick(which) else { return };
        let mut request = message(&self.world, id, &["a.test", "new.test", "b.test"]);
        request.routing = 2 + u32::from(which % 3);
        self.world.enqueue(request);
    }

    fn pick(&self, which: u8) -> Option<MessageId> {
        (!self.ids.is_empty()).then(|| self.ids[usize::from(which) % self.ids.len()])
    }

    fn answer(&mut self, which: u8, how: u8) {
        self.open.extend(self.world.jobs.drain(..));
        if self.open.is_empty() {
            return;
        }
        let job = self.open.swap_remove(usize::from(which) % self.open.len());
        let result = match how % 12 {
            0..=3 => Ok(self.mixed(&job, how, &delivered())),
            4 => Ok(self.mixed(&job, how, &failed())),
            5 => Ok(self.mixed(&job, how, &deferred())),
            6 | 7 => Ok(DeliverAnswer {
                outcomes: Vec::new(),
                lane: Some(Reply::ours(StatusCode::new(4, 4, 1), "refused")),
                ..DeliverAnswer::default()
            }),
            8 => Err(Unanswered::Lost),
            9 if how.is_multiple_of(2) => Err(Unanswered::Full),
            9 => Err(Unanswered::NotSent),
            10 => Err(Unanswered::Refused("no".to_owned())),
            _ => Err(Unanswered::TooLong),
        };
        if let Ok(answer) = &result {
            self.note(&job, answer);
        }
        self.world.turn(vec![Event::Answered { job: job.job, result }]);
    }

    /// An answer in which one recipient may be left out or have its own outcome.
    fn mixed(&self, job: &Send, how: u8, outcome: &Outcome) -> DeliverAnswer {
        let mut answer = all(job, outcome);
        if how.is_multiple_of(5) && job.request.report.is_none() {
            answer.outcomes.pop();
        }
        if how.is_multiple_of(7)
            && job.request.report.is_none()
            && let Some(first) = answer.outcomes.first_mut()
        {
            *first = RecipientOutcome { index: first.index, outcome: failed() };
        }
        answer
    }

    /// Notes whom the sender was told of.
    fn note(&mut self, job: &Send, answer: &DeliverAnswer) {
        let Some(report) = &job.request.report else { return };
        for one in &answer.outcomes {
            if report.kind == ReportKind::Failure && !matches!(one.outcome, Outcome::Deferred(_)) {
                self.reported.insert((job.request.id, one.index));
            }
        }
    }

    /// Every failure that was written down, and of which the sender wanted to hear.
    fn failures(&self) -> BTreeSet<(MessageId, u32)> {
        let mut wanting: BTreeSet<(MessageId, u32)> = BTreeSet::new();
        let mut failed = BTreeSet::new();
        for record in &self.world.records {
            match record {
                Record::Routed(routed) | Record::Snapshot(routed) => {
                    for one in routed.recipients.iter().filter(|_| routed.sender.is_some()) {
                        if one.notify.unwrap_or(Notify::DEFAULT).failure {
                            wanting.insert((routed.id, one.index));
                        }
                        if matches!(one.state, State::Failed(_)) {
                            failed.insert((routed.id, one.index));
                        }
                    }
                }
                Record::Outcome { id, recipients } => {
                    for (index, state) in recipients {
                        if matches!(state, State::Failed(_)) {
                            failed.insert((*id, *index));
                        }
                    }
                }
                _ => {}
            }
        }
        failed.intersection(&wanting).copied().collect()
    }

    fn admin(&mut self, what: u8, which: u8) {
        let select = match (self.pick(which), which % 4) {
            (_, 0) => Selection { lane: Some("smtp/a.test".to_owned()), ..Selection::default() },
            (Some(id), _) => Selection { ids: vec![id], ..Selection::default() },
            (None, _) => return,
        };
        let change = Change { select, reason: None };
        let lane = LaneChange {
            lane: if which.is_multiple_of(2) { "smtp/b.test" } else { "smtp" }.to_owned(),
            seconds: (!which.is_multiple_of(3)).then_some(3600),
        };
        let request = match what % 9 {
            0 => AdminRequest::Hold(change),
            1 | 2 => AdminRequest::Release(change),
            3 => AdminRequest::Retry(change),
            4 => {
                self.removed = true;
                AdminRequest::Remove(change)
            }
            5 => AdminRequest::Bounce(change),
            6 => AdminRequest::Reroute(change),
            7 => AdminRequest::Suspend(lane),
            _ => AdminRequest::Resume(lane),
        };
        let token = self.world.token();
        self.world.turn(vec![Event::Admin { token, request: Box::new(request) }]);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Enqueue { hosts, kind } => self.enqueue(hosts, *kind),
            Step::EnqueueAgain(which) => self.enqueue_again(*which),
            Step::Answer { which, how } => self.answer(*which, *how),
            Step::Pass(millis) => self.world.pass(u64::from(*millis)),
            Step::Jump(millis) => {
                let wall = self.world.now.wall.millis() + u64::from(*millis);
                self.world.now.wall = Timestamp::from_millis(wall);
                self.world.turn(Vec::new());
            }
            Step::Admin { what, which } => self.admin(*what, *which),
            Step::Strike(which) => {
                let number = if which.is_multiple_of(2) { self.pick(*which) } else { None };
                let id = number.unwrap_or_else(|| id(1_000_000 + u64::from(*which % 4)));
                let (handle, stage) = (handle(id), "router".to_owned());
                let request = StrikeRequest { handle, id, stage, alone: which % 3 == 0 };
                let token = self.world.token();
                let standing = self.world.standing(&id);
                self.world.turn(vec![Event::Strike { token, request, standing }]);
            }
            Step::Crash(which) => {
                let channel = self.world.scheduler.channel("smtp");
                let pid = 1000 + u32::try_from(self.peer).expect("small") - u32::from(which % 2);
                self.world.turn(vec![Event::Crashed { channel, pid }]);
            }
            Step::Peers(which) => self.change_peers(*which),
            Step::Sync => {
                let batch = self.world.batch;
                self.world.turn(vec![Event::Synced { batch }]);
            }
            Step::Ledger => self.write_slice(),
        }
    }

    /// Some workers go, and what they had in hand is lost; others come.
    fn change_peers(&mut self, which: u8) {
        self.open.extend(self.world.jobs.drain(..));
        let before = self.peer;
        self.peer += 1;
        let mut peers = vec![(self.peer, if which.is_multiple_of(5) { 0 } else { 6 })];
        if which.is_multiple_of(2) {
            peers.push((before, 6));
        }
        let stay: Vec<u64> = peers.iter().map(|peer| peer.0).chain([2, 3]).collect();
        self.world.connect("smtp", &peers);
        let (stays, lost): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.open).into_iter().partition(|job| stay.contains(&job.peer.0));
        self.open = stays;
        for job in lost {
            self.world.unanswered(&job, Unanswered::Lost);
        }
    }

    /// Writes one slice of a checkpoint into the records.
    fn write_slice(&mut self) {
        let mut actions = Actions::default();
        if !self.checkpoint {
            self.world.scheduler.begin_checkpoint(&mut actions);
        }
        self.checkpoint = !self.world.scheduler.checkpoint_slice(2, &mut actions);
        self.world.finish(actions);
    }

    /// What must hold at every moment.
    fn check(&mut self) {
        self.open.extend(self.world.jobs.drain(..));
        check_books(&self.world.scheduler);
        let replayed = replayed(&self.world.records);
        assert_eq!(written_down(&replayed), self.world.written_down());
        let (live, again) = (&self.world.scheduler.backlog, &replayed.backlog);
        assert_eq!((live.open, live.held), (again.open, again.held));
        assert_eq!(live.struck, again.struck);
        assert_eq!(quarantined(&self.world.scheduler), quarantined(&replayed));
        let lasting = |scheduler: &Scheduler| -> BTreeMap<_, _> {
            let now = self.world.now.wall;
            let all = scheduler.backlog.suspended.iter();
            all.filter(|(_, until)| **until > now).map(|(l, u)| (l.clone(), *u)).collect()
        };
        assert_eq!(lasting(&self.world.scheduler), lasting(&replayed));
    }

    /// From here on everything goes well: everything must end.
    fn end_well(&mut self) {
        for lane in ["smtp", "smtp/b.test"] {
            let token = self.world.token();
            let change = LaneChange { lane: lane.to_owned(), seconds: None };
            let request = Box::new(AdminRequest::Resume(change));
            self.world.turn(vec![Event::Admin { token, request }]);
        }
        self.world.syncs = true;
        let batch = self.world.batch;
        self.world.turn(vec![Event::Synced { batch }]);
        self.world.connect("smtp", &[(900, 50), (901, 50)]);
        let all = Change { select: Selection { all: true, ..Selection::default() }, reason: None };
        for round in 0..60 {
            self.open.extend(self.world.jobs.drain(..));
            for job in std::mem::take(&mut self.open) {
                let gone = job.peer.0 < 900 && ![2, 3].contains(&job.peer.0);
                if gone {
                    self.world.unanswered(&job, Unanswered::Lost);
                } else {
                    let answer = all_delivered(&job);
                    self.note(&job, &answer);
                    self.world.answer(&job, answer);
                }
            }
            if round % 5 == 0 {
                let token = self.world.token();
                let request = Box::new(AdminRequest::Release(all.clone()));
                self.world.turn(vec![Event::Admin { token, request }]);
            }
            self.world.pass(2 * HOUR);
        }
        assert_eq!(self.world.scheduler.messages(), 0, "{:?}", self.world.written_down());
        assert_eq!(self.world.scheduler.in_hand(), 0);
        if !self.removed {
            let untold: Vec<_> = self.failures().difference(&self.reported).copied().collect();
            assert_eq!(untold, [], "failures of which nobody was told");
        }
    }
}

fn all_delivered(job: &Send) -> DeliverAnswer {
    all(job, &delivered())
}

fn replayed(records: &[Record]) -> Scheduler {
    let mut scheduler = Scheduler::new(Settings::default(), &[]);
    for record in records {
        scheduler.replay(record);
    }
    scheduler
}

/// Everything that waits stands in its lane and nothing else does; every count is right; nothing is forgotten.
/// What may end by itself because it came held.
fn quarantined(scheduler: &Scheduler) -> Vec<(MessageId, bool, Vec<u32>)> {
    let of = |slot| scheduler.backlog.message(slot);
    let all = scheduler.backlog.after(None).map(|(id, slot)| {
        let some = of(slot).recipients.iter().filter(|one| one.quarantined);
        (id, of(slot).quarantined, some.map(|one| one.index).collect())
    });
    all.collect()
}

fn check_books(scheduler: &Scheduler) {
    let mut waiting = 0;
    for (_, slot) in scheduler.backlog.after(None) {
        let message = scheduler.backlog.message(slot);
        assert!(!message.has_ended(), "a message that ended was kept: {}", message.id);
        let open = message.recipients.iter().filter(|recipient| recipient.is_open()).count();
        assert_eq!(message.open as usize, open);
        for recipient in &message.recipients {
            let goes = message.hold.is_none() && matches!(recipient.stand, Stand::Open);
            match recipient.place {
                Place::Waiting(due) => {
                    assert!(goes, "{} {} waits", message.id, recipient.index);
                    let lane = scheduler.lanes.lane(recipient.lane);
                    let stands = lane.waiting.iter().any(|entry| {
                        (entry.due, entry.slot, entry.index) == (due, slot, recipient.index)
                    });
                    assert!(stands, "{} {} is not in its lane", message.id, recipient.index);
                    waiting += 1;
                }
                Place::InHand(job) => assert!(!goes || scheduler.jobs.contains_key(&job)),
                Place::Parked => {
                    assert!(!goes, "{} {} is forgotten", message.id, recipient.index);
                }
            }
        }
        for owing in &message.owing {
            match owing.place {
                Place::Waiting(_) => waiting += 1,
                Place::InHand(job) => assert!(scheduler.jobs.contains_key(&job)),
                Place::Parked => {
                    let awaits = scheduler.unsynced.iter().any(|(batch, at, id, kind)| {
                        (*batch, *at, *id, *kind) == (owing.recorded, slot, message.id, owing.kind)
                    });
                    assert!(awaits || message.hold.is_some(), "a report is forgotten");
                }
            }
        }
    }
    let in_lanes: usize = scheduler.lanes.iter().map(|(_, lane)| lane.waiting.len()).sum();
    assert_eq!(in_lanes, waiting);
    for (id, lane) in scheduler.lanes.iter() {
        let jobs = scheduler.jobs.values().filter(|job| job.lane == id && !job.given_up);
        assert_eq!(lane.active as usize, jobs.clone().count());
        let recipients: usize = jobs.map(|job| job.recipients.len()).sum();
        assert_eq!(lane.active_recipients as usize, recipients);
        if let Some((ring, place)) = lane.queued {
            let channel = scheduler.lanes.channel(lane.channel);
            let ring = if ring == Ring::Good { &channel.good } else { &channel.slow };
            assert_eq!(ring.get(&place), Some(&id), "a lane stands where it says");
        }
        if let Some(timer) = lane.timer {
            assert!(scheduler.timers.contains(&(timer, id)));
        }
    }
    let sent = scheduler.jobs.values().filter(|job| job.peer.is_some());
    let counted = sent.clone().filter(|job| !job.given_up).count();
    assert_eq!(scheduler.in_hand, counted);
    for number in 0..3 {
        let id = crate::machine::ChannelId(number);
        let channel = scheduler.lanes.channel(id);
        let of_channel = sent.clone().filter(|job| job.channel == id);
        assert_eq!(channel.in_use as usize, of_channel.clone().count());
        assert_eq!(channel.slow_in_use as usize, of_channel.filter(|job| job.slow).count());
        for connected in &channel.peers {
            assert!(connected.outstanding <= connected.peer.window);
            let given_up = sent.clone().filter(|job| job.channel == id && job.given_up);
            let its = given_up.filter(|job| job.peer == Some(connected.peer.id));
            assert_eq!(connected.given_up as usize, its.count());
        }
        for (ring, lanes) in [(Ring::Good, &channel.good), (Ring::Slow, &channel.slow)] {
            for (place, lane) in lanes {
                assert_eq!(scheduler.lanes.lane(*lane).queued, Some((ring, *place)), "once");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn random_histories(steps in prop::collection::vec(step(), 1..80)) {
        let mut history = History::new();
        for step in &steps {
            history.take(step);
            history.check();
        }
        history.end_well();
    }
}

#[test]
fn every_failure_is_reported_and_nothing_is_delivered_twice_in_good_weather() {
    let mut world = World::new();
    let mut delivered_to: BTreeMap<(MessageId, u32), u32> = BTreeMap::new();
    let mut reported: BTreeSet<(MessageId, u32)> = BTreeSet::new();
    for number in 0..500 {
        let request = message(&world, id(number), &["a.test", "b.test", "c.test"]);
        world.enqueue(request);
        while let Some(job) = world.jobs.pop_front() {
            if let Some((kind, who)) = report(&job) {
                assert_eq!(kind, ReportKind::Failure);
                reported.extend(who.into_iter().map(|index| (job.request.id, index)));
                world.deliver(&job);
            } else if job.request.host == "c.test" {
                world.answer_all(&job, &failed());
            } else {
                for recipient in &job.request.recipients {
                    *delivered_to.entry((job.request.id, recipient.index)).or_default() += 1;
                }
                world.deliver(&job);
            }
        }
    }
    assert_eq!(world.scheduler.messages(), 0);
    assert_eq!(delivered_to.len(), 1000);
    assert!(delivered_to.values().all(|count| *count == 1));
    assert_eq!(reported, (0..500).map(|number| (id(number), 2)).collect());
}

#[test]
fn a_checkpoint_alone_gives_the_state_back() {
    let mut world = World::new();
    world.connect("smtp", &[(1, 50)]);
    for number in 0..60 {
        let host = ["a.test", "b.test", "dead.test"][number as usize % 3];
        let request = message(&world, id(number), &[host, host]);
        world.enqueue(request);
    }
    for number in 0..20 {
        let job = world.job();
        match number % 4 {
            0 => world.deliver(&job),
            1 => world.answer_all(&job, &deferred()),
            2 => world.answer_all(&job, &failed()),
            _ => world.fail_lane(&job),
        }
    }
    let strike = |world: &mut World, number| {
        let token = world.token();
        let id = id(number);
        let (handle, stage) = (handle(id), "router".to_owned());
        let request = StrikeRequest { handle, id, stage, alone: false };
        world.turn(vec![Event::Strike { token, request, standing: Standing::Unknown }]);
    };
    strike(&mut world, 7000);
    // A checkpoint in slices, with life going on between them; the file before it is forgotten.
    world.take_records();
    let mut actions = Actions::default();
    world.scheduler.begin_checkpoint(&mut actions);
    world.finish(actions);
    loop {
        let mut actions = Actions::default();
        let done = world.scheduler.checkpoint_slice(7, &mut actions);
        world.finish(actions);
        if done {
            break;
        }
        if let Some(job) = world.jobs.pop_front() {
            world.deliver(&job);
        }
        let number = 100 + world.records.len() as u64;
        let request = message(&world, id(number), &["a.test"]);
        world.enqueue(request);
        strike(&mut world, 7001);
    }
    let replayed = replayed(&world.records);
    assert_eq!(written_down(&replayed), world.written_down());
    assert_eq!(replayed.backlog.struck, world.scheduler.backlog.struck);
    assert!(world.scheduler.messages() > 40);
}
