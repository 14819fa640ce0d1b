//! Messages that are copied to places of their own while they wait.

use job::home::{Here, HomeAnswer, HomeRequest, Moved, MovedMessage, MovedRequest, WhereRequest};
use job::known::KnownMessage;
use queue::{Handle, Record, Standing};
use socket::codes;

use super::world::{MINUTE, World, deferred, handle, id, message, written_down};
use crate::Settings;
use crate::machine::{Actions, Answer, Event, Scheduler};

fn copy(number: u64) -> Handle {
    Handle::parse(&format!("memory:{}.moved", id(number))).expect("a handle")
}

fn ask(world: &mut World, request: HomeRequest, standings: Vec<Standing>) -> Answer {
    let token = world.token();
    world.turn(vec![Event::Home { token, request, standings }]);
    world.answers.remove(&token).expect("it is answered")
}

/// Asks where messages are, each under a handle.
fn homes(world: &mut World, messages: &[(u64, Handle)]) -> HomeAnswer {
    let standings = messages.iter().map(|(number, _)| world.standing(&id(*number))).collect();
    let messages = messages
        .iter()
        .map(|(number, handle)| KnownMessage { handle: handle.clone(), id: id(*number) })
        .collect();
    match ask(world, HomeRequest::Where(WhereRequest { messages }), standings) {
        Answer::Home(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// Tells of copies.
fn moved(world: &mut World, numbers: &[u64]) -> Answer {
    let standings = numbers.iter().map(|number| world.standing(&id(*number))).collect();
    let messages = numbers
        .iter()
        .map(|number| MovedMessage {
            id: id(*number),
            from: handle(id(*number)),
            to: copy(*number),
        })
        .collect();
    ask(world, HomeRequest::Moved(MovedRequest { messages }), standings)
}

/// Enqueues a message that is deferred at once.
fn defer(world: &mut World, number: u64) {
    let request = message(world, id(number), &["a.test"]);
    assert_eq!(world.enqueue(request), Answer::Enqueued);
    let job = world.job();
    world.answer_all(&job, &deferred());
}

#[test]
fn a_copy_becomes_the_place_of_a_message_that_waits() {
    let mut world = World::new();
    defer(&mut world, 1);
    assert_eq!(world.enqueue(message(&world, id(2), &["a.test"])), Answer::Enqueued);
    let job = world.job();
    world.deliver(&job);
    world.take_records();
    world.records.push(Record::Retired { id: id(2), handle: handle(id(2)) });

    let asked = [(1, handle(id(1))), (2, handle(id(2))), (3, handle(id(3)))];
    let here = vec![Here { index: 0, size: 4096 }];
    let expected = HomeAnswer { here, ended: vec![1], ..HomeAnswer::default() };
    assert_eq!(homes(&mut world, &asked), expected, "what it does not know it does not name");

    let to = vec![Moved { index: 0, handle: copy(1) }];
    let expected = HomeAnswer { moved: to.clone(), ended: vec![1], ..HomeAnswer::default() };
    assert_eq!(moved(&mut world, &[1, 2, 3]), Answer::Home(expected.clone()));
    let record = Record::Moved { id: id(1), handle: copy(1) };
    assert_eq!(world.records.iter().filter(|one| **one == record).count(), 1);
    // Told again, because the answer was lost: nothing more happens.
    assert_eq!(moved(&mut world, &[1, 2, 3]), Answer::Home(expected));
    assert_eq!(world.records.iter().filter(|one| **one == record).count(), 1);
    assert_eq!(homes(&mut world, &asked[..1]).moved, to, "it is not where it was");
    assert_eq!(homes(&mut world, &[(1, copy(1))]).here, [Here { index: 0, size: 4096 }]);

    world.pass(30 * MINUTE);
    let job = world.job();
    assert_eq!(job.request.handle, copy(1), "it is read where it is");
    world.deliver(&job);
    let retired = Record::Retired { id: id(1), handle: copy(1) };
    assert!(world.records.contains(&retired), "{:?}", world.records);
}

#[test]
fn what_was_known_under_its_old_handle_is_known() {
    let mut world = World::new();
    defer(&mut world, 1);
    moved(&mut world, &[1]);
    let before = world.written_down();
    // A hint that was on its way, and requeue's question about the old place.
    let late = message(&world, id(1), &["b.test"]);
    assert_eq!(world.enqueue_standing(late, Standing::Routed), Answer::Enqueued);
    assert_eq!(world.written_down(), before);
    let known = KnownMessage { handle: handle(id(1)), id: id(1) };
    let request = job::known::KnownRequest { messages: vec![known] };
    let token = world.token();
    world.turn(vec![Event::Known { token, request, standings: vec![Standing::Retired] }]);
    match world.answers.remove(&token) {
        Some(Answer::Known(answer)) => assert!(answer.wanted.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_new_place_outlives_replay_checkpoint_and_reroute() {
    let mut world = World::new();
    defer(&mut world, 1);
    let mut before = world.take_records();
    moved(&mut world, &[1]);
    before.extend(world.take_records());
    let mut again = Scheduler::new(Settings::default(), &[]);
    before.iter().for_each(|record| again.replay(record));
    assert_eq!(written_down(&again), world.written_down());

    let mut checkpoint = Actions::default();
    world.scheduler.begin_checkpoint(&mut checkpoint);
    while !world.scheduler.checkpoint_slice(10, &mut checkpoint) {}
    let mut again = Scheduler::new(Settings::default(), &[]);
    checkpoint.records.iter().for_each(|record| again.replay(record));
    assert_eq!(written_down(&again), world.written_down());

    world.turn(vec![Event::Admin {
        token: job_token(),
        request: Box::new(job::admin::AdminRequest::Reroute(job::admin::Change {
            select: job::admin::Selection { ids: vec![id(1)], ..Default::default() },
            reason: None,
        })),
    }]);
    let hint = world.routes.pop().expect("router is asked");
    assert_eq!(hint.handle, copy(1));
    // The answer may be one to a hint from before.
    let mut late = message(&world, id(1), &["b.test"]);
    late.routing = hint.routing;
    assert_eq!(world.enqueue_standing(late, Standing::Routed), Answer::Enqueued);
    let [routed] = &world.written_down()[..] else { panic!("one message") };
    assert_eq!((&routed.handle, routed.routing), (&copy(1), hint.routing));
}

fn job_token() -> crate::machine::Token {
    crate::machine::Token(u64::MAX)
}

#[test]
fn without_a_ledger_nothing_moves() {
    let mut world = World::new();
    defer(&mut world, 1);
    world.turn(vec![Event::LedgerFailed]);
    match moved(&mut world, &[1]) {
        Answer::Refused(error) => assert_eq!(error.code, codes::INTERNAL),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.written_down()[0].handle, handle(id(1)));
}
