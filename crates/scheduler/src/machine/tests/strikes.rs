//! Workers that die with something in hand.

use job::strike::{StrikeAnswer, StrikeRequest};
use queue::{Record, Standing};

use super::world::*;
use crate::machine::{Answer, Event, Unanswered};

fn crash(world: &mut World, peer: u64) {
    let channel = world.scheduler.channel("smtp");
    world.turn(vec![Event::Crashed { channel, pid: 1000 + peer as u32 }]);
}

/// A router crashed with a message, and others, in hand.
fn strike(world: &mut World, number: u64) -> StrikeAnswer {
    strike_of(world, number, false)
}

fn strike_of(world: &mut World, number: u64, alone: bool) -> StrikeAnswer {
    let token = world.token();
    let standing = world.standing(&id(number));
    let (handle, id) = (handle(id(number)), id(number));
    let request = StrikeRequest { handle, id, stage: "router".to_owned(), alone };
    world.turn(vec![Event::Strike { token, request, standing }]);
    match world.answers.remove(&token) {
        Some(Answer::Struck(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

fn strikes(world: &World, number: u64) -> (u32, Option<String>) {
    let slot = world.scheduler.backlog.find(&id(number)).expect("live");
    let message = world.scheduler.backlog.message(slot);
    (message.strikes, message.hold.as_deref().map(Into::into))
}

/// All jobs at a worker are lost, and a new worker is there.
fn die(world: &mut World, peer: u64, next: u64) -> usize {
    let (lost, kept): (Vec<_>, Vec<_>) = world.jobs.drain(..).partition(|j| j.peer.0 == peer);
    world.jobs.extend(kept);
    world.connect("smtp", &[(next, 10)]);
    for job in &lost {
        world.unanswered(job, Unanswered::Lost);
    }
    crash(world, peer);
    crash(world, peer);
    lost.len()
}

#[test]
fn the_culprit_is_held_and_the_innocent_go_free() {
    let mut world = World::bare(Default::default());
    world.start();
    world.connect("smtp", &[(1, 10)]);
    for number in 1..=3 {
        let request = message(&world, id(number), &[&format!("h{number}.test")]);
        world.enqueue(request);
    }
    assert_eq!(die(&mut world, 1, 2), 3);
    assert_eq!(strikes(&world, 1), (1, None));
    assert_eq!(world.jobs.len(), 3, "sent again at once");
    assert_eq!(die(&mut world, 2, 3), 3);
    assert_eq!([1, 2, 3].map(|n| strikes(&world, n).0), [2, 2, 2]);
    // Now one at a time: number 1 is innocent.
    let mut next = 3;
    for _ in 0..6 {
        world.pass(10 * SECOND);
        if world.jobs.is_empty() {
            break;
        }
        assert_eq!(world.jobs.len(), 1, "alone");
        if world.jobs[0].request.id == id(2) {
            die(&mut world, next, next + 1);
            next += 1;
        } else {
            let job = world.job();
            world.deliver(&job);
        }
    }
    assert!(!world.is_live(id(1)) && !world.is_live(id(3)));
    let reason = "killed its worker three times (channel smtp)";
    assert_eq!(strikes(&world, 2), (3, Some(reason.to_owned())));
    assert!(world.jobs.is_empty());
    // The channel works on for others.
    let request = message(&world, id(9), &["h9.test"]);
    world.enqueue(request);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn an_answer_clears_the_strikes() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    die(&mut world, 1, 2);
    assert_eq!(strikes(&world, 1).0, 1);
    let job = world.job();
    world.answer_all(&job, &deferred());
    assert_eq!(strikes(&world, 1).0, 0);
}

#[test]
fn a_crash_told_before_its_connection_ended_counts_once() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    crash(&mut world, 1);
    world.connect("smtp", &[(2, 10)]);
    world.unanswered(&job, Unanswered::Lost);
    crash(&mut world, 1);
    assert_eq!(strikes(&world, 1).0, 1);
}

#[test]
fn a_worker_that_was_killed_costs_nothing() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    world.unanswered(&job, Unanswered::Lost);
    assert_eq!(strikes(&world, 1).0, 0);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn what_goes_out_alone_waits_for_a_free_worker_and_keeps_it() {
    let mut world = World::bare(Default::default());
    world.start();
    world.connect("smtp", &[(1, 10), (2, 10)]);
    for number in 1..=4 {
        let request = message(&world, id(number), &[&format!("h{number}.test")]);
        world.enqueue(request);
    }
    let others: Vec<_> = world.jobs.drain(..).collect();
    assert_eq!((strike(&mut world, 9).strikes, strike(&mut world, 9).strikes), (1, 2));
    let request = message(&world, id(9), &["h9.test"]);
    world.enqueue(request);
    assert!(world.jobs.is_empty(), "both workers have other jobs in hand");
    let (mut kept, mut freed) = (None, 0);
    for job in &others {
        world.deliver(job);
        freed += 1;
        if let Some(alone) = world.jobs.front() {
            kept = Some(alone.peer);
            break;
        }
    }
    assert!(freed < 4, "one of the two was kept free");
    let alone = world.job();
    assert_eq!(alone.request.id, id(9));
    for number in 20..40 {
        let request = message(&world, id(number), &[&format!("h{number}.test")]);
        world.enqueue(request);
    }
    assert!(world.jobs.iter().all(|job| Some(job.peer) != kept), "nothing else goes there");
    assert!(!world.jobs.is_empty());
    world.deliver(&alone);
    assert!(world.jobs.iter().any(|job| Some(job.peer) == kept));
}

#[test]
fn a_worker_is_not_kept_free_for_ever() {
    let mut world = World::bare(Default::default());
    world.start();
    world.connect("smtp", &[(1, 10)]);
    let request = message(&world, id(1), &["tarpit.test"]);
    world.enqueue(request);
    let tarpit = world.job();
    strike(&mut world, 9);
    strike(&mut world, 9);
    let request = message(&world, id(9), &["h9.test"]);
    world.enqueue(request);
    let request = message(&world, id(2), &["a.test"]);
    world.enqueue(request);
    assert!(world.jobs.is_empty(), "the only worker is kept free");
    world.pass(MINUTE);
    assert_eq!(world.job().request.id, id(2), "not for longer than a minute");
    // A job that was given up keeps nobody waiting, and its answer may never come.
    world.pass(2 * HOUR);
    let sent: Vec<_> = world.jobs.drain(..).collect();
    assert!(sent.iter().any(|job| job.request.id == id(9)), "it goes out alone at last");
    world.deliver(&tarpit);
}

#[test]
fn what_was_bounced_while_it_waited_to_go_out_alone_is_not_sent() {
    let mut world = World::bare(Default::default());
    world.start();
    world.connect("smtp", &[(1, 10)]);
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let busy = world.job();
    strike(&mut world, 9);
    strike(&mut world, 9);
    let mut request = message(&world, id(9), &["h9.test", "h9.test"]);
    request.recipients[1].address = "other@example.org".parse().expect("an address");
    world.enqueue(request);
    let token = world.token();
    let domain = Some("example.org".to_owned());
    let select = job::admin::Selection { domain, ..Default::default() };
    let change = job::admin::Change { select, reason: None };
    let request = Box::new(job::admin::AdminRequest::Bounce(change));
    world.turn(vec![Event::Admin { token, request }]);
    world.deliver(&busy);
    let alone = world.jobs.drain(..).find(|job| report(job).is_none()).expect("a job");
    let told: Vec<u32> = alone.request.recipients.iter().map(|one| one.index).collect();
    assert_eq!((alone.request.id, told), (id(9), vec![0]));
}

#[test]
fn an_idle_worker_takes_what_goes_out_alone() {
    let mut world = World::bare(Default::default());
    world.start();
    world.connect("smtp", &[(1, 10)]);
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    strike(&mut world, 9);
    strike(&mut world, 9);
    let request = message(&world, id(9), &["h9.test"]);
    world.enqueue(request);
    assert_eq!(world.jobs.len(), 1, "the only worker is busy, and kept free");
    world.connect("smtp", &[(1, 10), (2, 10)]);
    let alone = world.jobs.pop_back().expect("a job");
    assert_eq!((alone.request.id, alone.peer.0), (id(9), 2));
}

#[test]
fn a_message_that_ended_before_it_was_routed_leaves_no_strike() {
    let mut world = World::new();
    strike(&mut world, 1);
    let strike = world.take_records();
    let retired = Record::Retired { id: id(1), handle: handle(id(1)) };
    let mut world = World::bare(Default::default());
    for record in strike.iter().chain([&retired]) {
        world.scheduler.replay(record);
    }
    assert!(world.scheduler.backlog.struck.is_empty());
}

#[test]
fn strikes_before_routing_are_remembered() {
    let mut world = World::new();
    assert_eq!(strike(&mut world, 1), StrikeAnswer { strikes: 1, held: false });
    assert_eq!(strike(&mut world, 1), StrikeAnswer { strikes: 2, held: false });
    assert_eq!(
        strike(&mut world, 1),
        StrikeAnswer { strikes: 2, held: false },
        "it may only have been near"
    );
    assert!(world.scheduler.refuses(&id(1), false) && !world.scheduler.refuses(&id(1), true));
    assert_eq!(strike_of(&mut world, 1, true), StrikeAnswer { strikes: 3, held: true });
    assert_eq!(strike(&mut world, 1), StrikeAnswer { strikes: 3, held: true });
    assert!(world.scheduler.refuses(&id(1), true));
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue_standing(request, Standing::Unknown);
    let reason = "killed its worker three times (router)";
    assert_eq!(strikes(&world, 1), (3, Some(reason.to_owned())));
    assert!(world.jobs.is_empty());
    assert!(world.scheduler.backlog.struck.is_empty());
}

#[test]
fn what_was_taken_over_gets_no_strike_but_what_is_routed_anew_does() {
    let mut world = World::bare(Default::default());
    world.start();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    assert_eq!(strike(&mut world, 1), StrikeAnswer { strikes: 0, held: false });
    let token = world.token();
    let select = job::admin::Selection { ids: vec![id(1)], ..Default::default() };
    let change = job::admin::Change { select, reason: None };
    let request = Box::new(job::admin::AdminRequest::Reroute(change));
    world.turn(vec![Event::Admin { token, request }]);
    let wanted = |world: &World| {
        let messages = vec![job::known::KnownMessage { handle: handle(id(1)), id: id(1) }];
        let request = job::known::KnownRequest { messages };
        let answer = world.scheduler.known(&request, &[world.standing(&id(1))]);
        answer.wanted.first().map(|wanted| wanted.strikes)
    };
    assert_eq!(wanted(&world), Some(0));
    strike(&mut world, 1);
    strike(&mut world, 1);
    assert_eq!(wanted(&world), Some(2));
    assert!(world.scheduler.refuses(&id(1), false) && !world.scheduler.refuses(&id(1), true));
    assert_eq!(strike_of(&mut world, 1, true), StrikeAnswer { strikes: 3, held: true });
    assert_eq!(wanted(&world), None, "it would bring the next one down");
    assert!(world.scheduler.refuses(&id(1), true));
}
