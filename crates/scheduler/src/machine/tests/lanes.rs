//! Lanes: two clocks, windows, fairness, affinity, suspension.

use std::collections::BTreeMap;

use config::Span;
use job::deliver::DeliverAnswer;
use queue::State;

use super::world::*;
use crate::Settings;
use crate::machine::{Actions, Event, Send, Unanswered};
use queue::Standing;

fn hosts(jobs: &[Send]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for job in jobs {
        *counts.entry(job.request.host.clone()).or_default() += 1;
    }
    counts
}

fn enqueue_many(world: &mut World, first: u64, count: u64, host: &str) {
    let mut events = Vec::new();
    for number in first..first + count {
        let request = message(world, id(number), &[host]);
        let token = world.token();
        events.push(Event::Enqueue {
            connection: 1,
            token,
            request: Box::new(request),
            standing: Standing::Unknown,
        });
    }
    world.turn(events);
}

#[test]
fn a_lane_grows_by_success_and_starts_again_after_a_failure() {
    let mut world = World::new();
    enqueue_many(&mut world, 0, 300, "a.test");
    assert_eq!(world.jobs.len(), 5);
    for successes in 1..=40usize {
        let job = world.job();
        world.deliver(&job);
        assert_eq!(world.scheduler.in_hand(), (5 + successes).min(20));
    }
    let job = world.job();
    world.fail_lane(&job);
    let rest: Vec<_> = world.jobs.drain(..).collect();
    for job in &rest {
        world.fail_lane(job);
    }
    assert_eq!(world.scheduler.counts().lane_failures, 1, "one burst is one failure");
    assert!(world.jobs.is_empty());
    world.pass(72 * SECOND);
    assert_eq!(world.jobs.len(), 1, "one probe");
    let probe = world.job();
    world.deliver(&probe);
    assert_eq!(world.jobs.len(), 6, "and the window from its start again, plus one");
}

#[test]
fn a_lane_failure_moves_the_lane_and_no_recipient() {
    let mut world = World::with(Settings { delay_notice: Span::seconds(0), ..Settings::default() });
    enqueue_many(&mut world, 0, 3, "a.test");
    let first = world.job();
    world.fail_lane(&first);
    assert!(matches!(world.state(id(0), 0), State::Open(a) if a.count == 0 && a.last.is_none()));
    let others: Vec<_> = world.jobs.drain(..).collect();
    for job in &others {
        world.unanswered(job, Unanswered::NotTaken);
    }
    world.connect("smtp", &[(1, 100)]);
    // New mail does not wake it.
    enqueue_many(&mut world, 10, 5, "a.test");
    world.pass(47 * SECOND);
    assert!(world.jobs.is_empty());
    let mut waits = Vec::new();
    let mut since = 47;
    for _ in 0..6 {
        while world.jobs.is_empty() {
            world.pass(SECOND);
            since += 1;
        }
        assert_eq!(world.jobs.len(), 1, "a probe is a single job");
        waits.push(since);
        since = 0;
        let probe = world.job();
        world.fail_lane(&probe);
    }
    for (wait, step) in waits.iter().zip([60u64, 300, 900, 3600, 14400, 14400]) {
        assert!((step * 8 / 10..=step * 12 / 10 + 1).contains(wait), "{wait} s for {step} s");
    }
}

#[test]
fn a_dead_lane_does_not_stop_a_good_one() {
    let mut world = World::bare(Settings::default());
    world.start();
    world.connect("smtp", &[(1, 10), (2, 10)]);
    enqueue_many(&mut world, 0, 10_000, "dead.test");
    enqueue_many(&mut world, 20_000, 1000, "good.test");
    let mut delivered = 0;
    let mut turns = 0;
    // The dead one never answers.
    while delivered < 1000 {
        let jobs: Vec<_> = world.jobs.drain(..).collect();
        turns += 1;
        assert!(turns < 1000, "the good lane stands still");
        for job in jobs.iter().filter(|job| job.request.host == "good.test") {
            world.deliver(job);
            delivered += 1;
        }
    }
}

#[test]
fn a_lane_that_becomes_proven_leaves_the_slow_ring() {
    let mut world = World::bare(Settings::default());
    world.start();
    world.connect("smtp", &[(1, 20)]);
    enqueue_many(&mut world, 0, 20, "good.test");
    for lane in 0..20 {
        enqueue_many(&mut world, 1000 + lane * 100, 20, &format!("silent{lane}.test"));
    }
    // Half of the slots is held by lanes that connect; the others wait among the slow ones.
    let jobs: Vec<_> = world.jobs.drain(..).collect();
    assert_eq!(jobs.len(), 10);
    let good = jobs.iter().find(|job| job.request.host == "good.test").expect("it was first");
    world.deliver(good);
    assert!(hosts(world.jobs.make_contiguous()).contains_key("good.test"));
    let mut delivered = 1;
    while let Some(at) = world.jobs.iter().position(|job| job.request.host == "good.test") {
        let job = world.jobs.remove(at).expect("it is there");
        world.deliver(&job);
        delivered += 1;
    }
    assert!(delivered >= 16, "only {delivered} while silent lanes hold their half");
}

#[test]
fn slow_lanes_hold_at_most_half() {
    let mut world = World::bare(Settings::default());
    world.start();
    world.connect("smtp", &[(1, 20)]);
    for lane in 0..10 {
        enqueue_many(&mut world, lane * 100, 100, &format!("slow{lane}.test"));
    }
    assert_eq!(world.jobs.len(), 10, "connecting lanes hold half of the slots");
    enqueue_many(&mut world, 5000, 100, "good.test");
    // One job of a slow lane ends, and the good lane has its turn among those that connect.
    let mut good = 0;
    for _ in 0..200 {
        let Some(job) = world.jobs.pop_front() else { break };
        if job.request.host == "good.test" {
            world.deliver(&job);
            good += 1;
        } else if good == 0 {
            world.fail_lane(&job);
        }
    }
    assert_eq!(good, 100);
}

#[test]
fn lanes_that_wait_long_count_as_slow() {
    let mut world = World::bare(Settings::default());
    world.start();
    world.connect("smtp", &[(1, 40)]);
    enqueue_many(&mut world, 0, 200, "a.test");
    // It does well, grows to its twenty, and then falls silent.
    for _ in 0..30 {
        let job = world.job();
        world.deliver(&job);
    }
    assert_eq!(world.scheduler.in_hand(), 20);
    world.pass(31 * SECOND);
    enqueue_many(&mut world, 1000, 100, "new.test");
    let new = world.jobs.iter().filter(|job| job.request.host == "new.test").count();
    assert_eq!(new, 0, "the half is taken by the one that waits long");
    let job = world.job();
    world.deliver(&job);
    let new = world.jobs.iter().filter(|job| job.request.host == "new.test").count();
    assert_eq!(new, 1);
}

#[test]
fn lanes_take_turns() {
    let mut world = World::bare(Settings::default());
    world.start();
    world.connect("smtp", &[(1, 12)]);
    for lane in 0..3 {
        enqueue_many(&mut world, lane * 100, 50, &format!("l{lane}.test"));
    }
    for _ in 0..12 {
        let job = world.job();
        world.unanswered(&job, Unanswered::Lost);
    }
    let mut sent: Vec<Send> = Vec::new();
    for _ in 0..90 {
        let job = world.job();
        world.deliver(&job);
        sent.push(job);
    }
    let counts = hosts(&sent);
    assert!(counts.values().all(|count| (25..=35).contains(count)), "{counts:?}");
}

#[test]
fn nothing_is_sent_beyond_a_window() {
    let mut world = World::bare(Settings { lane_start: 50, lane_max: 50, ..Settings::default() });
    world.start();
    world.connect("smtp", &[(1, 3), (2, 4)]);
    enqueue_many(&mut world, 0, 100, "a.test");
    // An unproven lane may hold half of the slots.
    assert_eq!(world.jobs.len(), 3);
    let job = world.job();
    world.deliver(&job);
    let mut by_peer: BTreeMap<u64, usize> = BTreeMap::new();
    let in_hand: Vec<_> = world.jobs.iter().collect();
    for job in in_hand {
        *by_peer.entry(job.peer.0).or_default() += 1;
    }
    assert_eq!(by_peer, BTreeMap::from([(1, 3), (2, 4)]));
}

#[test]
fn the_worker_with_the_open_connection_is_preferred_and_load_is_even() {
    let mut world = World::bare(Settings::default());
    world.start();
    world.connect("smtp", &[(1, 100), (2, 100)]);
    enqueue_many(&mut world, 0, 1, "a.test");
    let first = world.job();
    world.deliver(&first);
    enqueue_many(&mut world, 1, 1, "b.test");
    let other = world.job();
    enqueue_many(&mut world, 2, 1, "a.test");
    let second = world.job();
    assert_eq!(second.peer, first.peer, "the connection is there");
    world.deliver(&second);
    world.deliver(&other);
    enqueue_many(&mut world, 100, 1000, "a.test");
    let mut by_peer: BTreeMap<u64, usize> = BTreeMap::new();
    for _ in 0..1000 {
        let job = world.job();
        *by_peer.entry(job.peer.0).or_default() += 1;
        world.deliver(&job);
    }
    assert!(by_peer.values().all(|count| *count >= 400), "{by_peer:?}");
}

#[test]
fn recipients_of_a_message_in_a_lane_go_together() {
    let mut world = World::new();
    let hosts: Vec<&str> = (0..250).map(|n| if n % 2 == 0 { "a.test" } else { "b.test" }).collect();
    let request = message(&world, id(1), &hosts);
    world.enqueue(request);
    let mut sizes: Vec<_> =
        world.jobs.iter().map(|j| (j.request.host.clone(), j.request.recipients.len())).collect();
    sizes.sort();
    let expected = [("a.test", 25), ("a.test", 100), ("b.test", 25), ("b.test", 100)];
    assert_eq!(sizes, expected.map(|(host, count)| (host.to_owned(), count)));
    let job = world.job();
    world.unanswered(&job, Unanswered::TooLong);
    let smaller = world.jobs.iter().filter(|j| j.request.host == job.request.host).count();
    assert_eq!(smaller, 3);
}

#[test]
fn a_throttled_lane_pauses() {
    let mut world = World::new();
    enqueue_many(&mut world, 0, 20, "a.test");
    let job = world.job();
    let answer = DeliverAnswer { throttle: Some(90), ..all(&job, &delivered()) };
    world.answer(&job, answer);
    let rest: Vec<_> = world.jobs.drain(..).collect();
    for job in &rest {
        world.answer_all(job, &deferred());
    }
    world.pass(89 * SECOND);
    assert!(world.jobs.is_empty());
    world.pass(SECOND);
    assert!(world.jobs.len() > 1, "a pause is no failure");
}

#[test]
fn a_draining_worker_gets_nothing_and_a_draining_scheduler_sends_nothing() {
    let mut world = World::new();
    enqueue_many(&mut world, 0, 1, "a.test");
    let job = world.job();
    world.unanswered(&job, Unanswered::NotTaken);
    assert!(world.jobs.is_empty());
    world.connect("smtp", &[(9, 10)]);
    assert_eq!(world.job().peer.0, 9);
    world.turn(vec![Event::Draining]);
    enqueue_many(&mut world, 1, 1, "b.test");
    assert!(world.jobs.is_empty());
    assert!(world.is_live(id(1)));
}

#[test]
fn nothing_is_dispatched_after_a_failure_of_the_ledger() {
    let mut world = World::new();
    enqueue_many(&mut world, 0, 1, "a.test");
    let job = world.job();
    world.turn(vec![Event::LedgerFailed]);
    let request = message(&world, id(1), &["a.test"]);
    let answer = world.enqueue(request);
    assert!(matches!(answer, crate::machine::Answer::Refused(_)));
    world.unanswered(&job, Unanswered::Lost);
    assert!(world.jobs.is_empty());
    let mut actions = Actions::default();
    world.scheduler.begin_checkpoint(&mut actions);
    while !world.scheduler.checkpoint_slice(10, &mut actions) {}
    assert_eq!(actions.records.len(), 1);
    world.finish(actions);
    let batch = world.batch;
    world.turn(vec![Event::Checkpointed { batch }]);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn ten_thousand_hosts_are_forgotten_again() {
    let mut world = World::new();
    for number in 0..12_000u64 {
        let request = message(&world, id(number), &[&format!("h{number}.test")]);
        world.enqueue(request);
        let job = world.job();
        world.deliver(&job);
    }
    assert!(world.scheduler.lanes.iter().count() <= 10_001);
    assert_eq!(world.scheduler.lanes.used(), 1, "the lane of reports");
}
