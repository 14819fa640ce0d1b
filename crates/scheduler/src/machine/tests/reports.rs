//! What senders are told, and when.

use mail::{Delivered, Notify, Outcome, Reply, StatusCode, SuccessReport};
use queue::{Record, ReportKind, State};

use super::world::*;
use crate::Settings;
use crate::machine::{Event, Send, Unanswered};
use config::Span;

/// Takes the jobs that write reports out.
fn reports(world: &mut World) -> Vec<Send> {
    let (found, rest): (Vec<Send>, Vec<Send>) =
        world.jobs.drain(..).partition(|job| job.request.report.is_some());
    world.jobs.extend(rest);
    found
}

#[test]
fn a_failed_message_is_reported_at_once_after_the_sync() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    world.syncs = false;
    world.answer_all(&job, &failed());
    assert!(world.jobs.is_empty(), "the record is not synced yet");
    let batch = world.batch;
    world.turn(vec![Event::Synced { batch: batch - 1 }]);
    assert!(world.jobs.is_empty(), "that was an earlier batch");
    world.turn(vec![Event::Synced { batch }]);
    let job = world.job();
    assert_eq!(report(&job), Some((ReportKind::Failure, vec![0])));
    assert_eq!(job.request.host, "");
    assert_eq!(job.request.recipients[0].outcome, Some(failed()));
    assert_eq!(job.request.report.as_ref().and_then(|r| r.will_retry_until), None);
    world.deliver(&job);
    assert!(!world.is_live(id(1)));
    let kinds: Vec<_> = world.records.iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), 4, "routed, outcome, owes, retired: {:?}", world.records);
}

#[test]
fn failures_within_five_minutes_share_a_report() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test", "b.test", "c.test", "d.test"]);
    world.enqueue(request);
    let jobs: Vec<Send> = world.jobs.drain(..).collect();
    world.answer_all(&jobs[0], &failed());
    world.pass(MINUTE);
    world.answer_all(&jobs[1], &failed());
    assert!(world.jobs.is_empty());
    world.pass(4 * MINUTE - 1);
    assert!(world.jobs.is_empty());
    world.pass(1);
    let first = world.job();
    assert_eq!(report(&first), Some((ReportKind::Failure, vec![0, 1])));
    // While it is in hand another fails: that is for the next report, five minutes later.
    world.answer_all(&jobs[2], &failed());
    world.deliver(&first);
    world.pass(5 * MINUTE - 1);
    assert!(world.jobs.is_empty(), "{:?}", world.jobs);
    world.pass(1);
    let second = world.job();
    assert_eq!(report(&second), Some((ReportKind::Failure, vec![2])));
    world.deliver(&second);
    world.deliver(&jobs[3]);
    assert!(!world.is_live(id(1)));
}

#[test]
fn the_last_outcome_hastens_the_report() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test", "b.test"]);
    world.enqueue(request);
    let jobs: Vec<Send> = world.jobs.drain(..).collect();
    world.answer_all(&jobs[0], &failed());
    world.pass(MINUTE);
    assert!(world.jobs.is_empty());
    world.deliver(&jobs[1]);
    let report_job = world.job();
    assert_eq!(report(&report_job), Some((ReportKind::Failure, vec![0])));
}

#[test]
fn who_is_told_of_what() {
    let success = Notify { success: true, failure: false, delay: false };
    let relayed = Outcome::Delivered(Delivered {
        reply: Reply::ours(StatusCode::new(2, 0, 0), "250 ok"),
        report: SuccessReport::Relayed,
    });
    let passed_on = Outcome::Delivered(Delivered {
        reply: Reply::ours(StatusCode::new(2, 0, 0), "250 ok"),
        report: SuccessReport::PassedOn,
    });
    let cases: [(&str, Option<Notify>, Outcome, Option<ReportKind>); 9] = [
        ("default failed", None, failed(), Some(ReportKind::Failure)),
        ("default delivered", None, delivered(), None),
        ("never failed", Some(Notify::NEVER), failed(), None),
        ("success failed", Some(success), failed(), None),
        ("success delivered", Some(success), delivered(), Some(ReportKind::Success)),
        ("success relayed", Some(success), relayed, Some(ReportKind::Success)),
        ("success passed on", Some(success), passed_on, None),
        ("never delivered", Some(Notify::NEVER), delivered(), None),
        ("default deferred", None, deferred(), None),
    ];
    for (name, notify, outcome, expected) in cases {
        let mut world = World::new();
        let mut request = message(&world, id(1), &["a.test"]);
        request.recipients[0].notify = notify;
        world.enqueue(request);
        let job = world.job();
        world.answer_all(&job, &outcome);
        let found = world.jobs.front().and_then(report).map(|(kind, _)| kind);
        assert_eq!(found, expected, "{name}");
        let live = expected.is_some() || matches!(outcome, Outcome::Deferred(_));
        assert_eq!(world.is_live(id(1)), live, "{name}");
    }
}

#[test]
fn a_bounce_of_a_bounce_is_never_sent() {
    let mut world = World::new();
    let mut request = message(&world, id(1), &["a.test"]);
    request.sender = None;
    world.enqueue(request);
    let job = world.job();
    world.answer_all(&job, &failed());
    assert!(world.jobs.is_empty());
    assert!(!world.is_live(id(1)));
}

#[test]
fn a_delay_is_reported_once_after_four_hours() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test", "dead.test", "c.test"]);
    world.enqueue(request);
    let jobs: Vec<Send> = world.jobs.drain(..).collect();
    world.answer_all(&jobs[0], &deferred());
    world.fail_lane(&jobs[1]);
    world.deliver(&jobs[2]);
    let mut told = Vec::new();
    for _ in 0..(12 * 60) {
        world.pass(MINUTE);
        for job in reports(&mut world) {
            let at = (world.now.wall.millis() - BEGIN) / MINUTE;
            told.push((at, report(&job).expect("a report"), job.request.clone()));
            world.deliver(&job);
        }
        while let Some(job) = world.jobs.pop_front() {
            if job.request.host == "dead.test" {
                world.fail_lane(&job);
            } else {
                world.answer_all(&job, &deferred());
            }
        }
    }
    let mut who: Vec<u32> = told.iter().flat_map(|(_, (_, who), _)| who.clone()).collect();
    who.sort_unstable();
    assert_eq!(who, [0, 1], "once each: {told:?}");
    for (at, (kind, _), request) in &told {
        assert_eq!(*kind, ReportKind::Delay);
        assert!((240..=241).contains(at), "told after {at} minutes");
        let until = request.report.as_ref().and_then(|report| report.will_retry_until);
        assert_eq!(until.map(|until| until.millis()), Some(BEGIN + 5 * DAY));
        for recipient in &request.recipients {
            let words = match &recipient.outcome {
                Some(Outcome::Deferred(reply)) => reply.text.clone(),
                other => panic!("{other:?}"),
            };
            let expected = if recipient.index == 0 { "451 later" } else { "connection refused" };
            assert_eq!(words, expected);
        }
    }
}

#[test]
fn a_report_too_long_for_a_frame_is_told_in_parts() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"; 8]);
    world.enqueue(request);
    let job = world.job();
    world.answer_all(&job, &failed());
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let job = world.job();
        sizes.push(job.request.recipients.len());
        world.unanswered(&job, Unanswered::TooLong);
    }
    assert_eq!(sizes, [8, 4, 2]);
    // One recipient that does not fit is tried again by the schedule, not at once.
    let job = world.job();
    assert_eq!(job.request.recipients.len(), 1);
    world.unanswered(&job, Unanswered::TooLong);
    assert!(world.jobs.is_empty());
    world.pass(MINUTE);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn a_reload_without_delay_notices_sends_none() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    world.answer_all(&job, &deferred());
    world.pass(SECOND);
    let settings = Settings { delay_notice: Span::seconds(0), ..Settings::default() };
    world.turn(vec![Event::Settings { settings: Box::new(settings), channels: Vec::new() }]);
    world.pass(DAY);
    assert_eq!(reports(&mut world).len(), 0);
}

#[test]
fn a_report_that_is_deferred_is_tried_again() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    world.answer_all(&job, &failed());
    for (attempt, step) in [(1, MINUTE), (2, 5 * MINUTE)] {
        let job = world.job();
        assert_eq!(job.request.attempt, attempt);
        world.answer_all(&job, &deferred());
        world.pass(step - 1);
        assert!(world.jobs.is_empty());
        world.pass(1);
    }
    let job = world.job();
    world.deliver(&job);
    assert!(!world.is_live(id(1)));
}

#[test]
fn a_report_in_part_leaves_the_rest_owed() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test", "a.test"]);
    world.enqueue(request);
    let job = world.job();
    world.answer_all(&job, &failed());
    let job = world.job();
    assert_eq!(report(&job), Some((ReportKind::Failure, vec![0, 1])));
    let mut answer = all(&job, &delivered());
    answer.outcomes.remove(0);
    world.answer(&job, answer);
    world.pass(MINUTE);
    let job = world.job();
    assert_eq!(report(&job), Some((ReportKind::Failure, vec![0])));
}

#[test]
fn recipients_refused_by_router_are_reported() {
    let mut world = World::new();
    let refused = || State::Failed(Reply::ours(StatusCode::new(5, 1, 1), "no such user"));
    let mut request = message(&world, id(1), &["", ""]);
    for recipient in &mut request.recipients {
        recipient.state = refused();
    }
    world.enqueue(request);
    let job = world.job();
    assert_eq!(report(&job), Some((ReportKind::Failure, vec![0, 1])));
    world.deliver(&job);
    assert!(!world.is_live(id(1)));

    let mut request = message(&world, id(2), &["", "a.test"]);
    request.recipients[0].state = refused();
    world.enqueue(request);
    let job = world.job();
    assert_eq!(report(&job), None);
    world.pass(5 * MINUTE);
    let job = world.job();
    assert_eq!(report(&job), Some((ReportKind::Failure, vec![0])));
}

#[test]
fn a_delay_that_has_passed_is_not_reported() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    world.answer_all(&job, &deferred());
    // The agent of reports is away; meanwhile the message is late, and then delivered.
    world.connect("error", &[]);
    while world.now.wall.millis() < BEGIN + 4 * HOUR {
        world.pass(MINUTE);
        if let Some(job) = world.jobs.pop_front()
            && world.now.wall.millis() < BEGIN + 4 * HOUR
        {
            world.answer_all(&job, &deferred());
        }
    }
    let owes = world.records.iter().filter(|r| matches!(r, Record::Owes { .. })).count();
    assert_eq!(owes, 1);
    world.pass(90 * MINUTE);
    let job = world.job();
    world.deliver(&job);
    assert!(world.is_live(id(1)), "a report is owed still");
    world.connect("error", &[(30, 10)]);
    assert!(world.jobs.is_empty(), "{:?}", world.jobs);
    assert!(!world.is_live(id(1)));
}
