//! Taking over once, in parts, again with a higher routing; and what is known.

use job::known::{KnownMessage, KnownRequest};
use mail::{Address, MessageId};
use queue::{Record, RoutedRecipient, Standing, State};

use super::world::*;
use crate::machine::{Answer, Event, Unanswered};

fn wanted(world: &mut World, ids: &[MessageId]) -> Vec<(u32, u32, u32)> {
    let messages =
        ids.iter().map(|id| KnownMessage { handle: handle(*id), id: *id }).collect::<Vec<_>>();
    let standings = ids.iter().map(|id| world.standing(id)).collect();
    let token = world.token();
    world.turn(vec![Event::Known { token, request: KnownRequest { messages }, standings }]);
    match world.answers.remove(&token) {
        Some(Answer::Known(answer)) => {
            answer.wanted.iter().map(|one| (one.index, one.routing, one.strikes)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_failed_because_there_were_too_many_still_fits() {
    let mut world = World::new();
    let parts = job::ENQUEUE_RECIPIENTS_MAX / job::PART_RECIPIENTS_MAX;
    for part in 0..parts {
        let mut request = message(&world, id(1), &[]);
        (request.part, request.more) = (part as u32, part + 1 < parts);
        let first = (part * job::PART_RECIPIENTS_MAX) as u32;
        let indexes = first..first + job::PART_RECIPIENTS_MAX as u32;
        request.recipients = indexes.map(|index| recipient(index, "a.test")).collect();
        assert_eq!(world.enqueue(request), Answer::Enqueued);
    }
    assert!(world.is_live(id(1)));
}

#[test]
fn a_known_message_is_acknowledged_and_changes_nothing() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    assert_eq!(world.enqueue(request.clone()), Answer::Enqueued);
    let records = world.records.len();
    let mut again = request.clone();
    again.recipients[0].host = "b.test".to_owned();
    assert_eq!(world.enqueue(again.clone()), Answer::Enqueued);
    again.routing = 2;
    assert_eq!(world.enqueue(again.clone()), Answer::Enqueued, "nobody asked for a new routing");
    assert_eq!((world.records.len(), world.jobs.len()), (records, 1));
    let job = world.job();
    world.deliver(&job);
    assert_eq!(world.enqueue(request), Answer::Enqueued);
    assert!(!world.is_live(id(1)), "it has ended, and stays ended");
    let other = message(&world, id(2), &["a.test"]);
    assert_eq!(world.enqueue_standing(other, Standing::Routed), Answer::Enqueued);
    assert!(!world.is_live(id(2)));
}

#[test]
fn twice_in_one_turn_is_once() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    let (one, two) = (world.token(), world.token());
    let event = |token| Event::Enqueue {
        connection: 1,
        token,
        request: Box::new(request.clone()),
        standing: Standing::Unknown,
    };
    world.turn(vec![event(one), event(two)]);
    assert_eq!((world.jobs.len(), world.records.len(), world.answers.len()), (1, 1, 2));
}

#[test]
fn parts_take_effect_with_the_last() {
    let mut world = World::new();
    let whole = message(&world, id(1), &["a.test"; 12]);
    let part = |number: u32, more: bool| {
        let mut part = whole.clone();
        let begin = number as usize * 4;
        part.recipients = whole.recipients[begin..begin + 4].to_vec();
        (part.part, part.more) = (number, more);
        part
    };
    assert_eq!(world.enqueue(part(0, true)), Answer::Enqueued);
    assert_eq!(world.enqueue(part(1, true)), Answer::Enqueued);
    assert_eq!((world.records.len(), world.jobs.len()), (0, 0));
    assert!(matches!(world.enqueue(part(1, true)), Answer::Refused(_)), "not the next part");
    assert!(matches!(world.enqueue(part(2, false)), Answer::Refused(_)), "it was forgotten");
    // From the beginning again, and then it waits too long.
    world.enqueue(part(0, true));
    world.enqueue(part(1, true));
    world.pass(MINUTE);
    assert!(matches!(world.enqueue(part(2, false)), Answer::Refused(_)));
    assert_eq!(world.wake, None);
    world.enqueue(part(0, true));
    world.enqueue(part(0, true));
    world.enqueue(part(1, true));
    assert_eq!(world.enqueue(part(2, false)), Answer::Enqueued);
    assert_eq!(world.records.len(), 1);
    assert_eq!(world.job().request.recipients.len(), 12);
}

#[test]
fn indexes_must_be_distinct() {
    let mut world = World::new();
    for indexes in [[0, 0], [5, u32::MAX]] {
        let mut request = message(&world, id(1), &["a.test", "b.test"]);
        for (recipient, index) in request.recipients.iter_mut().zip(indexes) {
            recipient.index = index;
        }
        assert!(matches!(world.enqueue(request), Answer::Refused(_)), "{indexes:?}");
    }
    assert!(world.records.is_empty());
}

#[test]
fn a_message_without_recipients_ends_at_once() {
    let mut world = World::new();
    let request = message(&world, id(1), &[]);
    world.enqueue(request);
    assert!(matches!(world.records.as_slice(), [Record::Routed(_), Record::Retired { .. }]));
}

#[test]
fn held_messages_and_recipients_wait() {
    let mut world = World::new();
    let mut whole = message(&world, id(1), &["a.test"]);
    whole.hold = Some("quarantined".to_owned());
    world.enqueue(whole);
    let mut part = message(&world, id(2), &["a.test", "a.test"]);
    part.recipients[1].state =
        State::Held { reason: "looks odd".to_owned(), then: Default::default() };
    world.enqueue(part);
    let job = world.job();
    assert_eq!((job.request.id, job.request.recipients.len()), (id(2), 1));
    assert!(world.jobs.is_empty());
    world.deliver(&job);
    assert!(world.is_live(id(1)) && world.is_live(id(2)));
    world.pass(30 * DAY);
    assert!(world.jobs.is_empty() && world.is_live(id(1)) && world.is_live(id(2)));
}

#[test]
fn what_is_known() {
    let mut world = World::new();
    for number in 1..=2 {
        let request = message(&world, id(number), &["a.test"]);
        world.enqueue(request);
    }
    let job = world.job();
    world.deliver(&job);
    assert_eq!(wanted(&mut world, &[id(1), id(2), id(3)]), [(2, 1, 0)]);
}

fn reroute(world: &mut World, id: MessageId) {
    use job::admin::{AdminRequest, Change, Selection};
    let select = Selection { ids: vec![id], ..Selection::default() };
    let token = world.token();
    let request = Box::new(AdminRequest::Reroute(Change { select, reason: None }));
    world.turn(vec![Event::Admin { token, request }]);
}

#[test]
fn a_new_routing_replaces_what_is_open() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test", "b.test", "c.test", "d.test"]);
    world.enqueue(request.clone());
    let jobs: Vec<_> = world.jobs.drain(..).collect();
    world.deliver(&jobs[0]);
    world.answer_all(&jobs[1], &deferred());
    world.unanswered(&jobs[2], Unanswered::NotSent);
    let asked = world.requeues;
    reroute(&mut world, id(1));
    assert_eq!(world.requeues, asked + 1);
    let hints: Vec<_> = world.routes.drain(..).map(|hint| (hint.id, hint.routing)).collect();
    assert_eq!(hints, [(id(1), 2)]);
    assert_eq!(wanted(&mut world, &[id(1)]), [(0, 2, 0)]);
    let mut again = request;
    again.routing = 2;
    for recipient in &mut again.recipients {
        recipient.host = "new.test".to_owned();
    }
    // What became an alias meanwhile gets a new recipient under an index that was taken.
    let address: Address = "other@example.test".parse().expect("an address");
    let aliased = RoutedRecipient {
        address,
        original: Some("user1@example.test".parse().expect("an address")),
        ..again.recipients[1].clone()
    };
    again.recipients[1] = RoutedRecipient { index: 0, ..aliased };
    again.recipients[0].index = 1;
    world.enqueue(again);
    assert_eq!(wanted(&mut world, &[id(1)]), []);
    let job = world.job();
    assert_eq!(job.request.host, "new.test");
    let to: Vec<_> = job.request.recipients.iter().map(|r| r.address.to_string()).collect();
    assert_eq!(to, ["user2@example.test", "other@example.test"]);
    // Number 3 is in hand by the old routing; number 0 has it already.
    world.deliver(&job);
    assert!(world.is_live(id(1)));
    world.deliver(&jobs[3]);
    assert!(!world.is_live(id(1)));
}
