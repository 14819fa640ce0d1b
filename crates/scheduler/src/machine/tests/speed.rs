//! How long the machine takes for a message: a bound that only a wrong order of growth breaks.

use std::time::Instant;

use super::world::*;
use crate::Settings;
use crate::machine::{Actions, Event, Now, Scheduler};
use job::deliver::{DeliverAnswer, RecipientOutcome};
use queue::Standing;

/// Drives messages through enqueue, deliver and outcome in turns of 64; gives nanoseconds a message.
fn through(messages: u64, hosts: u64) -> u64 {
    let mut world = World::bare(Settings::default());
    world.start();
    world.connect("smtp", &[(1, 1000), (2, 1000)]);
    let requests: Vec<_> = (0..messages)
        .map(|number| message(&world, id(number), &[&format!("h{}.test", number % hosts)]))
        .collect();
    let scheduler: &mut Scheduler = &mut world.scheduler;
    let mut now = Now { wall: world.now.wall, mono: 10_000 };
    let mut chance = || 7;
    let mut waiting = Vec::new();
    let mut requests = requests.into_iter();
    let begun = Instant::now();
    let mut ended = 0;
    while ended < messages {
        now.mono += 1;
        let mut actions = Actions::default();
        for request in requests.by_ref().take(64) {
            let token = crate::machine::Token(0);
            let event = Event::Enqueue {
                connection: 1,
                token,
                request: Box::new(request),
                standing: Standing::Unknown,
            };
            scheduler.handle(now, &mut chance, event, &mut actions);
        }
        for (job, index) in waiting.drain(..) {
            let outcomes = vec![RecipientOutcome { index, outcome: delivered() }];
            let answer = DeliverAnswer { outcomes, ..DeliverAnswer::default() };
            let event = Event::Answered { job, result: Ok(answer) };
            scheduler.handle(now, &mut chance, event, &mut actions);
            ended += 1;
        }
        scheduler.finish(now, &mut chance, &mut actions);
        for job in actions.jobs {
            waiting.push((job.job, job.request.recipients[0].index));
        }
    }
    assert_eq!(scheduler.messages(), 0);
    u64::try_from(begun.elapsed().as_nanos()).expect("short") / messages
}

#[test]
fn a_message_costs_microseconds_however_many_there_are() {
    let few = through(2_000, 5);
    let many = through(if cfg!(debug_assertions) { 20_000 } else { 100_000 }, 5);
    let lanes = through(if cfg!(debug_assertions) { 20_000 } else { 100_000 }, 2_000);
    println!("nanoseconds a message: {few} of few, {many} of many, {lanes} in many lanes");
    let bound = if cfg!(debug_assertions) { 200_000 } else { 20_000 };
    assert!(many < bound && lanes < bound, "{few} {many} {lanes}");
}

#[test]
fn a_backlog_of_one_dead_lane_costs_nothing_beside_a_good_one() {
    let mut world = World::bare(Settings::default());
    world.start();
    world.connect("smtp", &[(1, 20)]);
    for number in 0..10_000 {
        let request = message(&world, id(number), &["dead.test"]);
        world.enqueue(request);
    }
    let begun = Instant::now();
    for number in 20_000..21_000 {
        let request = message(&world, id(number), &["good.test"]);
        world.enqueue(request);
        while let Some(place) = world.jobs.iter().position(|j| j.request.host == "good.test") {
            let job = world.jobs.remove(place).expect("it is there");
            world.deliver(&job);
        }
    }
    assert_eq!(world.scheduler.counts().delivered, 1000);
    let each = begun.elapsed().as_micros() / 1000;
    // The helper of this test looks through its own records for each message; the machine does not.
    assert!(each < 5000, "{each} µs a message");
}
