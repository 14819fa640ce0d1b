//! Outcomes that are told late, and the grace in which they are waited for.

use job::deliver::RecipientOutcome;
use job::outcome::OutcomeRequest;
use mail::{MessageId, Outcome};
use queue::{Record, ReportKind, State};
use socket::codes;

use super::world::*;
use crate::Settings;
use crate::machine::{Answer, Event};

/// Tells what became of recipients of the first attempt, and says what was answered.
fn tell(world: &mut World, id: MessageId, outcomes: &[(u32, Outcome)]) -> Option<Answer> {
    tell_of(world, id, 1, None, outcomes)
}

fn tell_of(
    world: &mut World,
    id: MessageId,
    attempt: u32,
    report: Option<ReportKind>,
    outcomes: &[(u32, Outcome)],
) -> Option<Answer> {
    let token = world.token();
    let outcomes = outcomes
        .iter()
        .map(|(index, outcome)| RecipientOutcome { index: *index, outcome: outcome.clone() })
        .collect();
    let request = OutcomeRequest { handle: handle(id), id, attempt, routing: 1, report, outcomes };
    world.turn(vec![Event::LateOutcome { token, request }]);
    world.answers.remove(&token)
}

/// Tells of the first message, under a routing of this number, that its recipient was delivered to.
fn one_delivered(routing: u32) -> OutcomeRequest {
    let outcomes = vec![RecipientOutcome { index: 0, outcome: delivered() }];
    let (handle, id) = (handle(id(1)), id(1));
    OutcomeRequest { handle, id, attempt: 1, routing, report: None, outcomes }
}

/// Another scheduler with what was written so far, its owner before not having given the ledger up.
fn taken_over(before: &mut World) -> World {
    let mut world = World::bare(Settings::default());
    world.now = before.now;
    before.take_records().iter().for_each(|record| world.scheduler.replay(record));
    let grace = world.now.mono + 15 * SECOND;
    world.scheduler.wait_for_late_outcomes(grace);
    for (number, name) in ["smtp", "local", "error"].iter().enumerate() {
        world.connect(name, &[(number as u64 + 1, 100)]);
    }
    world.start();
    world
}

#[test]
fn what_was_replayed_waits_and_new_mail_flows() {
    let mut before = World::new();
    before.enqueue(message(&before, id(1), &["a.test"]));
    before.enqueue(message(&before, id(5), &["a.test"]));
    let mut world = taken_over(&mut before);
    assert!(world.jobs.is_empty(), "they may be in hand of the other's agents");
    world.enqueue(message(&world, id(9), &["a.test"]));
    assert_eq!(world.job().request.id, id(9), "new mail goes at once");
    // Accepted before the newest that was replayed: it may have been in hand, and its record be lost.
    world.enqueue(message(&world, id(3), &["b.test"]));
    world.pass(15 * SECOND - 1);
    assert!(world.jobs.is_empty(), "{:?}", world.jobs);
    world.pass(1);
    let mut sent: Vec<_> = world.jobs.iter().map(|job| job.request.id).collect();
    sent.sort();
    assert_eq!(sent, [id(1), id(3), id(5)]);
}

#[test]
fn no_change_brings_a_message_out_of_its_grace() {
    let mut before = World::new();
    before.enqueue(message(&before, id(1), &["a.test"]));
    let mut world = taken_over(&mut before);
    let select = job::admin::Selection { ids: vec![id(1)], ..Default::default() };
    let change = job::admin::Change { select, reason: None };
    let token = world.token();
    let request = Box::new(job::admin::AdminRequest::Retry(change));
    world.turn(vec![Event::Admin { token, request }]);
    world.pass(SECOND);
    assert!(world.jobs.is_empty(), "{:?}", world.jobs);
    world.pass(15 * SECOND);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn a_report_waits_for_the_grace_too_and_one_that_was_written_is_not_written_again() {
    let mut before = World::new();
    before.enqueue(message(&before, id(1), &["a.test"]));
    before.enqueue(message(&before, id(2), &["a.test"]));
    for _ in 0..2 {
        let job = before.job();
        before.answer_all(&job, &failed());
    }
    let mut world = taken_over(&mut before);
    assert!(world.jobs.is_empty(), "the reports may be in hand");
    let answer = tell_of(&mut world, id(1), 1, Some(ReportKind::Failure), &[(0, delivered())]);
    assert_eq!(answer, Some(Answer::Noted));
    assert!(!world.is_live(id(1)), "all is said");
    world.pass(15 * SECOND);
    let job = world.job();
    assert_eq!((job.request.id, report(&job)), (id(2), Some((ReportKind::Failure, vec![0]))));
    assert!(world.jobs.is_empty());
}

#[test]
fn a_delivery_that_happened_is_a_fact() {
    let mut before = World::new();
    before.enqueue(message(&before, id(1), &["a.test", "b.test"]));
    let mut world = taken_over(&mut before);
    world.syncs = false;
    let answer = tell(&mut world, id(1), &[(0, delivered()), (7, delivered())]);
    assert_eq!(answer, Some(Answer::Noted));
    assert!(matches!(world.state(id(1), 0), State::Delivered(_)));
    assert_eq!(world.state(id(1), 1), State::default(), "nothing was told of it");
    let records = world.take_records();
    let [Record::Outcome { recipients, .. }] = &records[..] else { panic!("{records:?}") };
    assert_eq!(recipients.len(), 1);
    // Told again, or in other words: final is final.
    tell(&mut world, id(1), &[(0, failed())]);
    assert_eq!(world.take_records(), []);
    world.pass(15 * SECOND);
    let job = world.job();
    assert_eq!(job.request.recipients.iter().map(|one| one.index).collect::<Vec<_>>(), [1]);
    tell(&mut world, id(1), &[(1, delivered())]);
    assert!(!world.is_live(id(1)), "a job in hand does not keep it");
    world.deliver(&job);
    assert_eq!(world.take_records().len(), 1, "retired, once");
    assert_eq!(tell(&mut world, id(1), &[(1, failed())]), Some(Answer::Noted));
    assert_eq!(world.take_records(), []);
}

#[test]
fn a_deferral_counts_once_and_not_against_a_job_in_hand() {
    let mut before = World::new();
    before.enqueue(message(&before, id(1), &["a.test"]));
    let mut world = taken_over(&mut before);
    tell(&mut world, id(1), &[(0, deferred())]);
    let State::Open(attempt) = world.state(id(1), 0) else { panic!("it is open") };
    assert_eq!(attempt.count, 1);
    assert_eq!(attempt.next.millis(), world.now.wall.millis() + MINUTE);
    tell(&mut world, id(1), &[(0, deferred())]);
    assert!(matches!(world.state(id(1), 0), State::Open(attempt) if attempt.count == 1));
    world.pass(MINUTE);
    let job = world.job();
    assert_eq!(job.request.attempt, 2);
    tell_of(&mut world, id(1), 2, None, &[(0, deferred())]);
    assert!(matches!(world.state(id(1), 0), State::Open(attempt) if attempt.count == 1));
    world.deliver(&job);
    assert!(!world.is_live(id(1)), "the job in hand was answered");
}

#[test]
fn a_failure_told_late_is_reported() {
    let mut before = World::new();
    before.enqueue(message(&before, id(1), &["a.test"]));
    let mut world = taken_over(&mut before);
    tell(&mut world, id(1), &[(0, failed())]);
    world.pass(15 * SECOND);
    assert_eq!(report(&world.job()), Some((ReportKind::Failure, vec![0])));
}

#[test]
fn it_is_acknowledged_once_it_is_synced_and_refused_without_a_ledger() {
    let mut world = World::new();
    world.enqueue(message(&world, id(1), &["a.test"]));
    let token = world.token();
    let request = one_delivered(1);
    let mut actions = crate::machine::Actions::default();
    let event = Event::LateOutcome { token, request };
    world.scheduler.handle(world.now, &mut || 0, event, &mut actions);
    assert_eq!(
        (&actions.answers[..], &actions.answers_synced[..]),
        (&[][..], &[(token, Answer::Noted)][..])
    );
    world.turn(vec![Event::LedgerFailed]);
    match tell(&mut world, id(1), &[(0, delivered())]) {
        Some(Answer::Refused(error)) => assert_eq!(error.code, codes::INTERNAL),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_told_of_another_routing_is_not_taken() {
    let mut world = World::new();
    world.enqueue(message(&world, id(1), &["a.test"]));
    let token = world.token();
    let request = one_delivered(2);
    world.turn(vec![Event::LateOutcome { token, request }]);
    assert_eq!(world.answers.remove(&token), Some(Answer::Noted));
    assert!(world.is_live(id(1)), "its recipient is another one now");
    tell(&mut world, id(1), &[(0, delivered())]);
    assert!(!world.is_live(id(1)));
}
