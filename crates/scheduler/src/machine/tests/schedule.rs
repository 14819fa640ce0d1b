//! When a recipient is tried, and when it is given up.

use config::Span;
use mail::{Notify, Timestamp};
use queue::{Record, ReportKind, State};

use super::world::*;
use crate::Settings;
use crate::machine::Unanswered;

#[test]
fn a_message_travels() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    assert_eq!((job.request.attempt, job.request.host.as_str()), (1, "a.test"));
    assert_eq!(world.scheduler.in_hand(), 1);
    world.deliver(&job);
    assert!(!world.is_live(id(1)));
    let records = world.take_records();
    assert!(
        matches!(records.as_slice(), [Record::Routed(_), Record::Retired { .. }]),
        "{records:?}"
    );
    assert_eq!((world.scheduler.in_hand(), world.scheduler.messages()), (0, 0));
    assert_eq!(world.wake, None, "an idle scheduler sleeps");
}

#[test]
fn deferred_recipients_follow_the_schedule() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let steps = [1, 5, 15, 60, 240, 240, 240].map(|minutes| minutes * MINUTE);
    for (attempt, step) in (1..).zip(steps) {
        let job = world.job();
        if report(&job).is_some() {
            world.deliver(&job);
            continue;
        }
        assert_eq!(job.request.attempt, attempt);
        world.answer_all(&job, &deferred());
        world.pass(step - 1);
        let early: Vec<_> = world.jobs.iter().filter(|job| report(job).is_none()).collect();
        assert!(early.is_empty(), "attempt {} came early", attempt + 1);
        let reports: Vec<_> = world.jobs.drain(..).collect();
        for report in reports {
            world.deliver(&report);
        }
        world.pass(1);
        assert_eq!(world.jobs.len(), 1, "attempt {} did not come", attempt + 1);
    }
}

#[test]
fn mail_expires_by_a_failed_attempt_after_its_time_only() {
    let mut world = World::new();
    let mut request = message(&world, id(1), &["a.test"]);
    request.recipients[0].notify = Some(Notify { failure: true, ..Notify::NEVER });
    world.enqueue(request);
    let mut attempts = Vec::new();
    while report(world.jobs.front().expect("a job")).is_none() {
        let job = world.job();
        attempts.push(world.now.wall.millis() - BEGIN);
        world.answer_all(&job, &deferred());
        if world.jobs.is_empty() {
            world.pass(4 * HOUR);
        }
    }
    // The last attempt is made when the time is up, not hours later.
    assert_eq!(attempts.last(), Some(&(5 * DAY)));
    let job = world.job();
    assert_eq!(report(&job), Some((ReportKind::Failure, vec![0])));
    let state = world.state(id(1), 0);
    let State::Failed(reply) = state else { panic!("{state:?}") };
    assert!(reply.text.starts_with("not delivered within 5d: 451 later"), "{}", reply.text);
    world.deliver(&job);
    assert!(!world.is_live(id(1)));
}

#[test]
fn a_clock_set_forward_bounces_nothing_untried() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    // The clock jumps while the job is in hand: the attempt began before the expiry.
    world.now.wall = Timestamp::from_millis(BEGIN + 30 * DAY);
    world.answer_all(&job, &deferred());
    assert!(matches!(world.state(id(1), 0), State::Open(_)));
    world.pass(MINUTE);
    let jobs: Vec<_> = world.jobs.drain(..).collect();
    let job = jobs.iter().find(|job| report(job).is_none()).expect("tried again");
    world.deliver(job);
    assert!(!matches!(world.state_or_none(id(1)), Some(State::Failed(_))));
}

#[test]
fn a_clock_set_back_delays_by_no_more_than_the_longest_step() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    world.answer_all(&job, &deferred());
    world.now.wall = Timestamp::from_millis(BEGIN - 300 * DAY);
    world.pass(MINUTE);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn days_switched_off_bounce_nothing_untried() {
    let mut first = World::new();
    for number in 0..10 {
        let request = message(&first, id(number), &["a.test"]);
        first.enqueue(request);
    }
    let records = first.take_records();
    let mut world = World::bare(Settings::default());
    world.now.wall = Timestamp::from_millis(BEGIN + 20 * DAY);
    for record in &records {
        world.scheduler.replay(record);
    }
    world.start();
    world.connect("error", &[(3, 100)]);
    world.connect("smtp", &[(1, 100)]);
    assert_eq!(world.requeues, 1);
    assert_eq!(world.jobs.len(), 5, "{:?}", world.jobs);
    // The destination fails once: that is no full back-off since the expiry for those not tried.
    let jobs: Vec<_> = world.jobs.drain(..).collect();
    for job in &jobs {
        world.fail_lane(job);
    }
    let open = |world: &World| {
        (0..10).filter(|n| matches!(world.state(id(*n), 0), State::Open(_))).count()
    };
    assert_eq!(open(&world), 5, "those five were tried in full after their time");
    world.pass(2 * MINUTE);
    let job = world.jobs.drain(..).find(|job| report(job).is_none()).expect("a probe");
    world.fail_lane(&job);
    assert_eq!(open(&world), 0, "the lane failed through a whole back-off");
}

#[test]
fn what_is_not_answered_for_is_deferred() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test", "a.test"]);
    world.enqueue(request);
    let job = world.job();
    assert_eq!(job.request.recipients.len(), 2);
    let mut answer = all(&job, &delivered());
    answer.outcomes.pop();
    world.answer(&job, answer);
    assert!(matches!(world.state(id(1), 0), State::Delivered(_)));
    assert!(matches!(world.state(id(1), 1), State::Open(attempt) if attempt.count == 1));
    world.pass(MINUTE);
    let job = world.job();
    world.unanswered(&job, Unanswered::Refused("no disk".to_owned()));
    assert!(matches!(world.state(id(1), 1), State::Open(attempt) if attempt.count == 2));
}

#[test]
fn a_lost_connection_sends_at_once_and_costs_no_attempt() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    world.unanswered(&job, Unanswered::Lost);
    assert_eq!(world.jobs.front().map(|job| job.request.attempt), Some(1));
    let job = world.job();
    world.unanswered(&job, Unanswered::NotSent);
    assert!(world.jobs.is_empty());
    world.pass(SECOND);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn connections_lost_again_and_again_wait_longer_and_become_attempts() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    for pause in [0, SECOND, 4 * SECOND] {
        let job = world.job();
        world.unanswered(&job, Unanswered::Lost);
        if pause > 0 {
            world.pass(pause - 1);
            assert!(world.jobs.is_empty(), "not before {pause} ms");
            world.pass(1);
        }
        assert_eq!(world.jobs.front().map(|job| job.request.attempt), Some(1));
    }
    // From now on it follows the schedule, and expires by it.
    let mut losses = 0;
    while !matches!(world.state_or_none(id(1)), Some(State::Failed(_))) {
        let job = world.jobs.drain(..).find(|job| report(job).is_none());
        if let Some(job) = job {
            world.unanswered(&job, Unanswered::Lost);
            losses += 1;
        } else {
            world.pass(HOUR);
        }
        assert!(losses < 100);
    }
    assert!(world.now.mono <= 5 * DAY + HOUR, "given up when its time has come");
}

#[test]
fn an_answer_makes_the_next_lost_connection_free_again() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    world.unanswered(&job, Unanswered::Lost);
    let job = world.job();
    world.answer_all(&job, &deferred());
    world.pass(MINUTE);
    let job = world.job();
    world.unanswered(&job, Unanswered::Lost);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn a_full_worker_gets_nothing_until_its_next_answer() {
    let mut world = World::bare(Settings::default());
    world.start();
    world.connect("smtp", &[(1, 1000)]);
    for number in 0..10 {
        let request = message(&world, id(number), &[&format!("h{number}.test")]);
        world.enqueue(request);
    }
    let mut jobs: Vec<_> = world.jobs.drain(..).collect();
    let last = jobs.pop().expect("a job");
    world.unanswered(&last, Unanswered::Full);
    assert!(world.jobs.is_empty());
    world.pass(10 * SECOND);
    assert!(world.jobs.is_empty(), "time alone makes no room");
    assert_eq!(world.scheduler.in_hand(), 9);
    let first = jobs.pop().expect("a job");
    world.deliver(&first);
    assert_eq!(world.jobs.len(), 1);
    // One that says so with nothing in hand is asked again a little later.
    for job in &jobs {
        world.deliver(job);
    }
    let job = world.job();
    world.unanswered(&job, Unanswered::Full);
    assert!(world.jobs.is_empty());
    world.pass(SECOND);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn a_worker_that_had_no_room_for_all_it_had_in_hand_gets_jobs_again() {
    let mut world = World::bare(Settings::default());
    world.start();
    world.connect("smtp", &[(1, 8)]);
    for number in 0..10 {
        let request = message(&world, id(number), &[&format!("h{number}.test")]);
        world.enqueue(request);
    }
    for unanswered in [Unanswered::Full, Unanswered::NotSent] {
        let jobs: Vec<_> = world.jobs.drain(..).collect();
        let (last, others) = jobs.split_last().expect("jobs");
        assert_eq!(others.len(), 3, "new lanes may hold half of it");
        for job in others {
            world.unanswered(job, Unanswered::Full);
        }
        assert!(world.jobs.is_empty(), "it owes an answer");
        world.unanswered(last, unanswered);
        assert!(world.jobs.is_empty(), "it has said that it has no room");
        world.pass(SECOND);
        assert_eq!(world.jobs.len(), 4);
    }
}

#[test]
fn what_an_agent_says_is_kept_up_to_a_kibibyte() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    let text = "é".repeat(100_000);
    let reply = mail::Reply {
        remote: Some(text.clone()),
        ..mail::Reply::ours(mail::StatusCode::new(4, 2, 0), text)
    };
    world.answer_all(&job, &mail::Outcome::Deferred(reply));
    let State::Open(attempt) = world.state(id(1), 0) else { panic!("deferred") };
    let last = attempt.last.expect("a reply");
    assert_eq!((last.text.len(), last.remote.map(|remote| remote.len())), (1024, Some(254)));
}

#[test]
fn an_unanswered_job_is_sent_again_eleven_minutes_after_its_deadline_and_a_late_answer_counts() {
    let settings = Settings { deadline: Span::seconds(600), ..Settings::default() };
    let mut world = World::with(settings);
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    let deadline = u64::try_from(job.deadline.as_millis()).expect("short");
    world.pass(deadline + 11 * MINUTE - 1);
    assert!(world.jobs.is_empty());
    world.pass(1);
    let again = world.job();
    assert_eq!(again.request.recipients, job.request.recipients);
    world.deliver(&job);
    assert!(!world.is_live(id(1)), "the late answer counts");
    world.answer_all(&again, &failed());
    assert_eq!(world.scheduler.in_hand(), 0);
    assert_eq!(world.scheduler.counts().failed, 0);
}

#[test]
fn the_deadline_grows_with_the_size() {
    let mut world = World::new();
    let mut small = message(&world, id(1), &["a.test"]);
    small.size = 0;
    let mut large = message(&world, id(2), &["b.test"]);
    large.size = 50 << 20;
    world.enqueue(small);
    world.enqueue(large);
    assert_eq!(world.job().deadline.as_secs(), 20 * 60);
    assert_eq!(world.job().deadline.as_secs(), 20 * 60 + (50 << 20) / (8 << 10));
}
