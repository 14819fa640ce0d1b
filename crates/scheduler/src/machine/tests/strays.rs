//! Mail of channels that are not configured any more.

use job::enqueue::EnqueueRequest;
use mail::MessageId;

use super::world::*;
use crate::machine::{Answer, Event, Unanswered};
use crate::{ChannelFacts, Settings};

fn configure(world: &mut World, channels: &[&str]) {
    let channels = channels.iter().map(|name| ChannelFacts {
        name: (*name).to_owned(),
        socket: format!("{name}.deliver"),
        slots_max: 0,
    });
    let settings = Box::new(Settings::default());
    world.turn(vec![Event::Settings { settings, channels: channels.collect() }]);
}

fn on_channel(world: &World, id: MessageId, channels: &[&str]) -> EnqueueRequest {
    let mut request = message(world, id, &vec!["a.test"; channels.len()]);
    for (recipient, channel) in request.recipients.iter_mut().zip(channels) {
        recipient.channel = (*channel).to_owned();
    }
    request
}

fn routes(world: &mut World) -> Vec<(MessageId, u32)> {
    world.routes.drain(..).map(|route| (route.id, route.routing)).collect()
}

#[test]
fn what_waits_for_a_channel_that_is_removed_is_routed_anew() {
    let mut world = World::new();
    configure(&mut world, &["smtp", "local", "error", "second"]);
    for (number, channels) in [(1, &["second"][..]), (2, &["smtp"]), (3, &["local", "second"])] {
        let request = on_channel(&world, id(number), channels);
        assert_eq!(world.enqueue(request), Answer::Enqueued);
    }
    assert_eq!(routes(&mut world), []);
    let asked = world.requeues;
    configure(&mut world, &["smtp", "local", "error"]);
    assert_eq!(routes(&mut world), [(id(1), 2), (id(3), 2)]);
    assert_eq!(world.requeues, asked + 1, "and requeue brings what router does not take");
    // A router of the old configuration was asked first.
    let mut again = on_channel(&world, id(1), &["second"]);
    again.routing = 2;
    world.enqueue(again);
    assert_eq!(routes(&mut world), []);
    world.pass(15 * SECOND);
    assert_eq!(routes(&mut world), [(id(1), 3)], "who was asked and has not answered is requeue's");
    for (number, routing) in [(1, 3), (3, 2)] {
        let mut again = on_channel(&world, id(number), &["smtp"]);
        again.routing = routing;
        world.enqueue(again);
    }
    world.pass(HOUR);
    assert_eq!(routes(&mut world), [], "nothing is left to look for");
    while let Some(job) = world.jobs.pop_front() {
        world.deliver(&job);
    }
    assert!([1, 2, 3].iter().all(|number| !world.is_live(id(*number))));
}

#[test]
fn what_comes_for_a_channel_that_is_not_configured_waits_for_it_a_little() {
    let mut world = World::new();
    for number in [1, 2] {
        let request = on_channel(&world, id(number), &["new"]);
        assert_eq!(world.enqueue(request), Answer::Enqueued);
    }
    // The scheduler hears of a new channel when router may have heard of it already.
    configure(&mut world, &["smtp", "local", "error", "new"]);
    world.pass(MINUTE);
    assert_eq!(routes(&mut world), []);
    configure(&mut world, &["smtp", "local", "error"]);
    assert_eq!(routes(&mut world).len(), 2);
}

#[test]
fn what_is_found_at_the_start_is_routed_anew_and_nothing_while_it_drains() {
    let mut first = World::new();
    configure(&mut first, &["smtp", "local", "error", "second"]);
    let request = on_channel(&first, id(1), &["second"]);
    first.enqueue(request);
    let mut second = World::bare(Settings::default());
    for record in first.take_records() {
        second.scheduler.replay(&record);
    }
    second.start();
    assert_eq!(routes(&mut second), [(id(1), 2)]);

    configure(&mut first, &["smtp", "local", "error", "second"]);
    first.turn(vec![Event::Draining]);
    configure(&mut first, &["smtp", "local", "error"]);
    first.pass(HOUR);
    assert_eq!(routes(&mut first), []);
}

#[test]
fn what_an_agent_of_a_removed_channel_has_in_hand_stays_there() {
    let mut world = World::new();
    configure(&mut world, &["smtp", "local", "error", "second"]);
    world.connect("second", &[(9, 10)]);
    let request = on_channel(&world, id(1), &["second"]);
    world.enqueue(request);
    let job = world.job();
    configure(&mut world, &["smtp", "local", "error"]);
    assert_eq!(routes(&mut world), [(id(1), 2)]);
    let mut again = on_channel(&world, id(1), &["smtp"]);
    again.routing = 2;
    world.enqueue(again);
    assert!(world.jobs.is_empty(), "nobody gets it twice");
    // The agent ends without an answer.
    world.unanswered(&job, Unanswered::Lost);
    world.pass(15 * SECOND);
    assert_eq!(routes(&mut world), [(id(1), 3)]);
}
