//! What the command line sees and steers.

use std::time::Duration;

use job::admin::{
    AdminAnswer, AdminRequest, Change, LaneChange, ListQuery, Nothing, Selection, ShowQuery,
};
use job::deliver::DeliverAnswer;
use mail::{MessageId, Timestamp};
use queue::{ReportKind, State};

use super::world::*;
use crate::Settings;
use crate::machine::{Answer, Event};
use config::Span;

fn ask(world: &mut World, request: AdminRequest) -> AdminAnswer {
    match try_ask(world, request) {
        Answer::Admin(answer) => *answer,
        other => panic!("{other:?}"),
    }
}

fn try_ask(world: &mut World, request: AdminRequest) -> Answer {
    let token = world.token();
    world.turn(vec![Event::Admin { token, request: Box::new(request) }]);
    world.answers.remove(&token).expect("an answer")
}

fn ids(ids: &[u64]) -> Change {
    let ids = ids.iter().map(|number| id(*number)).collect();
    Change { select: Selection { ids, ..Selection::default() }, reason: None }
}

fn lane(lane: &str) -> Change {
    let lane = Some(lane.to_owned());
    Change { select: Selection { lane, ..Selection::default() }, reason: None }
}

fn changed(answer: &AdminAnswer) -> (u64, u64) {
    match answer {
        AdminAnswer::Changed(changed) => (changed.messages, changed.recipients),
        other => panic!("{other:?}"),
    }
}

fn list(world: &mut World, query: ListQuery) -> (Vec<(MessageId, String)>, Option<String>) {
    match ask(world, AdminRequest::List(query)) {
        AdminAnswer::List(page) => {
            (page.messages.iter().map(|m| (m.id, m.state.clone())).collect(), page.cursor)
        }
        other => panic!("{other:?}"),
    }
}

fn filled(hosts: &[&str]) -> World {
    let mut world = World::bare(Settings::default());
    world.start();
    for (number, host) in (0..).zip(hosts) {
        let request = message(&world, id(number), &[host]);
        world.enqueue(request);
    }
    world
}

#[test]
fn pages_follow_each_other() {
    let mut world = filled(&["a.test"; 25]);
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let query = ListQuery { limit: Some(10), cursor, ..ListQuery::default() };
        let (messages, next) = list(&mut world, query);
        assert!(messages.len() <= 10);
        seen.extend(messages.into_iter().map(|(id, _)| id));
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(id).collect::<Vec<_>>());
    let query = ListQuery { cursor: Some("nonsense".to_owned()), ..ListQuery::default() };
    assert!(matches!(try_ask(&mut world, AdminRequest::List(query)), Answer::Refused(_)));
}

#[test]
fn show_tells_what_keeps_it() {
    let mut world = World::new();
    let request = message(&world, id(1), &["a.test"]);
    world.enqueue(request);
    let job = world.job();
    world.fail_lane(&job);
    let AdminAnswer::Message(shown) = ask(&mut world, AdminRequest::Show(ShowQuery { id: id(1) }))
    else {
        panic!("not a message")
    };
    let State::Open(attempt) = &shown.recipients[0].state else { panic!("{shown:?}") };
    assert_eq!(attempt.last.as_ref().map(|last| last.text.as_str()), Some("connection refused"));
    assert!(attempt.next > world.now.wall);
    let missing = try_ask(&mut world, AdminRequest::Show(ShowQuery { id: id(2) }));
    assert!(matches!(missing, Answer::Refused(_)));
}

#[test]
fn selections_must_match_in_everything_given() {
    let mut world = filled(&["a.test", "b.test", "a.test"]);
    let select = |change: &dyn Fn(&mut Selection)| {
        let mut select = Selection::default();
        change(&mut select);
        select
    };
    let cases: [(&str, Selection, usize); 9] = [
        ("nothing", select(&|_| {}), 0),
        ("all", select(&|s| s.all = true), 3),
        ("an id", select(&|s| s.ids = vec![id(1), id(77)]), 1),
        ("a lane", select(&|s| s.lane = Some("smtp/a.test".to_owned())), 2),
        ("a channel", select(&|s| s.lane = Some("smtp".to_owned())), 3),
        ("a domain", select(&|s| s.domain = Some("EXAMPLE.test".to_owned())), 3),
        ("a sender", select(&|s| s.sender = Some("sender@example.org".to_owned())), 3),
        ("the null sender", select(&|s| s.sender = Some("<>".to_owned())), 0),
        (
            "an id in another lane",
            select(&|s| {
                s.ids = vec![id(1)];
                s.lane = Some("smtp/a.test".to_owned());
            }),
            0,
        ),
    ];
    for (name, select, expected) in cases {
        let change = Change { select, reason: None };
        let answer = ask(&mut world, AdminRequest::Retry(change));
        assert_eq!(changed(&answer).0, expected as u64, "{name}");
    }
}

#[test]
fn hold_and_release() {
    let mut world = World::new();
    world.connect("smtp", &[]);
    for number in 0..4 {
        let host = if number < 2 { "a.test" } else { "b.test" };
        let request = message(&world, id(number), &[host, "c.test"]);
        world.enqueue(request);
    }
    assert_eq!(changed(&ask(&mut world, AdminRequest::Hold(ids(&[0])))), (1, 2));
    assert_eq!(changed(&ask(&mut world, AdminRequest::Hold(lane("smtp/b.test")))), (2, 2));
    let held = ListQuery {
        select: Selection { held: true, ..Selection::default() },
        ..ListQuery::default()
    };
    let (found, _) = list(&mut world, held);
    assert_eq!(found.len(), 3);
    world.connect("smtp", &[(5, 50)]);
    let sent: Vec<_> = world.jobs.drain(..).map(|job| (job.request.id, job.request.host)).collect();
    assert_eq!(sent.len(), 4, "{sent:?}");
    let all_held =
        Change { select: Selection { held: true, ..Selection::default() }, reason: None };
    assert_eq!(changed(&ask(&mut world, AdminRequest::Release(all_held))), (3, 4));
    assert_eq!(world.jobs.len(), 4);
}

#[test]
fn retry_wakes_recipients_and_lanes() {
    let mut world = World::new();
    for (number, host) in [(0, "a.test"), (1, "dead.test")] {
        let request = message(&world, id(number), &[host]);
        world.enqueue(request);
    }
    let jobs: Vec<_> = world.jobs.drain(..).collect();
    world.answer_all(&jobs[0], &deferred());
    world.fail_lane(&jobs[1]);
    assert!(world.jobs.is_empty());
    let all = Change { select: Selection { all: true, ..Selection::default() }, reason: None };
    assert_eq!(changed(&ask(&mut world, AdminRequest::Retry(all))), (2, 2));
    assert_eq!(world.jobs.len(), 2);
}

#[test]
fn remove_tells_nobody_and_bounce_tells_the_sender() {
    let mut world = World::new();
    world.connect("smtp", &[]);
    for number in 0..2 {
        let request = message(&world, id(number), &["a.test"]);
        world.enqueue(request);
    }
    assert_eq!(changed(&ask(&mut world, AdminRequest::Remove(ids(&[0])))), (1, 1));
    assert!(!world.is_live(id(0)) && world.jobs.is_empty());
    let mut bounce = ids(&[1]);
    bounce.reason = Some("no longer wanted".to_owned());
    ask(&mut world, AdminRequest::Hold(ids(&[1])));
    assert_eq!(changed(&ask(&mut world, AdminRequest::Bounce(bounce))), (1, 1));
    let job = world.job();
    assert_eq!(report(&job), Some((ReportKind::Failure, vec![0])));
    let told = format!("{:?}", job.request.recipients[0].outcome);
    assert!(told.contains("no longer wanted"), "{told}");
    assert_eq!(changed(&ask(&mut world, AdminRequest::Remove(ids(&[1])))), (1, 0));
    assert!(!world.is_live(id(1)), "removed with the report it owed");
}

#[test]
fn suspended_lanes_rest_until_resumed() {
    let mut world = World::new();
    let change = |lane: &str, seconds| LaneChange { lane: lane.to_owned(), seconds };
    ask(&mut world, AdminRequest::Suspend(change("smtp/a.test", None)));
    for (number, host) in [(0, "a.test"), (1, "b.test")] {
        let request = message(&world, id(number), &[host]);
        world.enqueue(request);
    }
    let job = world.job();
    assert_eq!(job.request.host, "b.test");
    world.deliver(&job);
    world.pass(10 * DAY);
    assert!(world.jobs.is_empty());
    let AdminAnswer::Summary(lanes) = ask(&mut world, AdminRequest::Summary(Nothing {})) else {
        panic!("no summary")
    };
    assert_eq!(lanes[0].reason.as_deref(), Some("suspended"));
    assert_eq!(lanes[0].next, None, "not before somebody resumes it");
    ask(&mut world, AdminRequest::Resume(change("smtp/a.test", None)));
    let job = world.job();
    world.deliver(&job);
    // A whole channel, for a while.
    ask(&mut world, AdminRequest::Suspend(change("smtp", Some(60))));
    let request = message(&world, id(2), &["a.test"]);
    world.enqueue(request);
    world.pass(MINUTE - 1);
    assert!(world.jobs.is_empty());
    world.pass(1);
    assert_eq!(world.jobs.len(), 1);
    let nonsense = change("", None);
    assert!(matches!(try_ask(&mut world, AdminRequest::Suspend(nonsense)), Answer::Refused(_)));
}

#[test]
fn a_message_named_twice_is_changed_once() {
    for request in [AdminRequest::Remove, AdminRequest::Bounce, AdminRequest::Hold] {
        let mut world = filled(&["a.test", "b.test"]);
        let answer = ask(&mut world, request(ids(&[0, 0, 1])));
        assert_eq!(changed(&answer), (2, 2));
    }
}

#[test]
fn held_mail_is_removed_only_if_so_set() {
    let settings =
        Settings { quarantine_expire: Some(Span::seconds(7 * 86_400)), ..Settings::default() };
    let mut world = World::with(settings);
    let mut request = message(&world, id(1), &["a.test"]);
    request.hold = Some("quarantined".to_owned());
    world.enqueue(request);
    world.pass(7 * DAY - 1);
    assert!(world.is_live(id(1)));
    world.pass(1);
    assert!(!world.is_live(id(1)) && world.jobs.is_empty());
}

#[test]
fn what_is_held_before_it_is_routed_can_be_seen_and_ended() {
    let mut world = filled(&["a.test"]);
    let strike = |world: &mut World, number: u64| {
        for alone in [false, false, true] {
            let token = world.token();
            let request = job::strike::StrikeRequest {
                handle: handle(id(number)),
                id: id(number),
                stage: "router".to_owned(),
                alone,
            };
            let standing = queue::Standing::Unknown;
            world.turn(vec![Event::Strike { token, request, standing }]);
        }
    };
    (7..=9).for_each(|number| strike(&mut world, number));
    let held = || "held".to_owned();
    let all = [(id(0), "queued".to_owned()), (id(7), held()), (id(8), held()), (id(9), held())];
    assert_eq!(list(&mut world, ListQuery::default()).0, all);
    let query = ListQuery { cursor: Some(id(7).to_string()), ..ListQuery::default() };
    assert_eq!(list(&mut world, query).0, all[2..]);
    let select = Selection { held: true, ..Selection::default() };
    let query = ListQuery { select: select.clone(), ..ListQuery::default() };
    assert_eq!(list(&mut world, query).0, all[1..]);
    let refused = try_ask(&mut world, AdminRequest::Bounce(ids(&[0, 7])));
    assert!(
        matches!(refused, Answer::Refused(error) if error.message.contains("release or remove"))
    );
    assert_eq!(changed(&ask(&mut world, AdminRequest::Remove(ids(&[7])))), (1, 0));
    assert_eq!(world.standing(&id(7)), queue::Standing::Retired);
    assert_eq!(changed(&ask(&mut world, AdminRequest::Release(ids(&[8])))), (1, 0));
    assert_eq!(world.requeues, 2, "at the start and now");
    let change = Change { select, reason: None };
    assert_eq!(changed(&ask(&mut world, AdminRequest::Remove(change))), (1, 0));
    assert_eq!(list(&mut world, ListQuery::default()).0, all[..1]);
}

#[test]
fn a_change_of_everything_goes_in_slices() {
    let mut world = World::bare(Settings::default());
    world.start();
    let events = (0..25_000).map(|number| {
        let request = Box::new(message(&world, id(number), &["a.test"]));
        let standing = queue::Standing::Unknown;
        Event::Enqueue { connection: 1, token: crate::machine::Token(0), request, standing }
    });
    let events = events.collect();
    world.turn(events);
    world.take_records();
    let token = world.token();
    let select = Selection { all: true, ..Selection::default() };
    let request = Box::new(AdminRequest::Hold(Change { select, reason: None }));
    world.turn(vec![Event::Admin { token, request }]);
    assert_eq!(world.records.len(), 10_000);
    assert!(!world.answers.contains_key(&token));
    // What comes meanwhile is not changed.
    let request = message(&world, id(99_999), &["a.test"]);
    world.enqueue(request);
    world.pass(10);
    let Some(Answer::Admin(answer)) = world.answers.remove(&token) else { panic!("no answer") };
    assert_eq!(changed(&answer), (25_000, 25_000));
    assert_eq!(world.scheduler.held(), 25_000);
}

#[test]
fn what_filters_hold_is_told_from_what_operators_hold() {
    let mut world = World::bare(Settings::default());
    world.start();
    for number in 1..=4 {
        let mut request = message(&world, id(number), &["a.test", "b.test"]);
        request.hold = (number == 1).then(|| "a virus".to_owned());
        if number == 2 {
            let reason = "not for you".to_owned();
            request.recipients[0].state = State::Held { reason, then: Default::default() };
        }
        world.enqueue(request);
        world.pass(1000);
    }
    ask(&mut world, AdminRequest::Hold(ids(&[3])));
    let quarantined = Selection { quarantined: true, ..Selection::default() };
    let query = ListQuery { select: quarantined.clone(), ..ListQuery::default() };
    let found: Vec<_> = list(&mut world, query).0.into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, [id(1), id(2)]);
    let AdminAnswer::Message(first) = ask(&mut world, AdminRequest::Show(ShowQuery { id: id(1) }))
    else {
        panic!("a message is shown")
    };
    let before = Some(first.accepted_at.after(Duration::from_millis(1)));
    let old = Change { select: Selection { before, ..quarantined.clone() }, reason: None };
    let mut others = old.clone();
    others.select.ids = vec![id(2), id(3), id(4)];
    assert_eq!(changed(&ask(&mut world, AdminRequest::Remove(others))), (0, 0));
    assert_eq!(changed(&ask(&mut world, AdminRequest::Remove(old))), (1, 2));
    let all = Change { select: quarantined, reason: None };
    assert_eq!(changed(&ask(&mut world, AdminRequest::Release(all.clone()))), (1, 1));
    assert_eq!(
        changed(&ask(&mut world, AdminRequest::Release(all))),
        (0, 0),
        "what operators hold stays"
    );
}

#[test]
fn what_an_operator_or_a_strike_holds_is_never_removed() {
    let settings =
        Settings { quarantine_expire: Some(Span::seconds(86_400)), ..Settings::default() };
    let mut world = World::bare(settings.clone());
    world.start();
    for number in 1..=5 {
        let mut request = message(&world, id(number), &["a.test", "b.test"]);
        request.hold = (number == 5).then(|| "quarantined".to_owned());
        if number == 4 {
            let reason = "quarantined".to_owned();
            request.recipients[0].state = State::Held { reason, then: Default::default() };
        }
        if number == 3 {
            for alone in [false, false, true] {
                let token = world.token();
                let (handle, id, stage) = (handle(id(3)), id(3), "router".to_owned());
                let request = job::strike::StrikeRequest { handle, id, stage, alone };
                let standing = queue::Standing::Unknown;
                world.turn(vec![Event::Strike { token, request, standing }]);
            }
        }
        world.enqueue(request);
    }
    ask(&mut world, AdminRequest::Hold(ids(&[1])));
    let mut some = lane("smtp/a.test");
    some.select.ids = vec![id(2)];
    ask(&mut world, AdminRequest::Hold(some));
    // What is written down says so too, also by a checkpoint.
    let mut actions = crate::machine::Actions::default();
    world.scheduler.begin_checkpoint(&mut actions);
    while !world.scheduler.checkpoint_slice(2, &mut actions) {}
    let mut again = World::bare(settings.clone());
    actions.records.iter().for_each(|record| again.scheduler.replay(record));
    let mut replayed = World::bare(settings);
    world.records.iter().for_each(|record| replayed.scheduler.replay(record));
    again.start();
    replayed.start();
    for world in [&mut world, &mut again, &mut replayed] {
        world.pass(2 * DAY);
        let live = [1, 2, 3, 4, 5].map(|number| world.is_live(id(number)));
        assert_eq!(live, [true, true, true, true, false]);
        assert!(matches!(world.state(id(2), 0), State::Held { .. }));
        assert_eq!(world.state(id(4), 0), State::Removed);
        assert_eq!(world.scheduler.held(), 2);
    }
}

#[test]
fn summary_and_status_count() {
    let mut world = World::new();
    for (number, host) in [(0, "a.test"), (1, "a.test"), (2, "dead.test"), (3, "a.test")] {
        let mut request = message(&world, id(number), &[host]);
        request.accepted_at = Timestamp::from_millis(BEGIN - 2 * HOUR);
        world.enqueue(request);
    }
    let jobs: Vec<_> = world.jobs.drain(..).collect();
    world.fail_lane(&jobs[2]);
    world.deliver(&jobs[0]);
    world.answer_all(&jobs[1], &deferred());
    let AdminAnswer::Summary(lanes) = ask(&mut world, AdminRequest::Summary(Nothing {})) else {
        panic!("no summary")
    };
    let [a, dead] = lanes.as_slice() else { panic!("{lanes:?}") };
    assert_eq!((a.host.as_str(), a.recipients, a.active), ("a.test", 2, 1));
    assert_eq!(a.ages, [0, 0, 1, 0, 0]);
    assert_eq!(dead.reason.as_deref(), Some("backing off"));
    assert_eq!(dead.last.as_deref(), Some("connection refused"));
    assert!(dead.next.is_some_and(|next| next > world.now.wall));
    let AdminAnswer::Status(status) = ask(&mut world, AdminRequest::Status(Nothing {})) else {
        panic!("no status")
    };
    assert_eq!((status.messages, status.recipients, status.active), (3, 3, 1));
    assert_eq!((status.delivered, status.deferred, status.lanes_backing_off), (1, 1, 1));
    assert_eq!(status.oldest, Some(Timestamp::from_millis(BEGIN - 2 * HOUR)));
}

#[test]
fn a_message_that_is_held_keeps_its_reason_when_it_turns_out_to_be_damaged() {
    let mut world = World::new();
    world.enqueue(message(&world, id(0), &["one.example", "two.example"]));
    let jobs = [world.job(), world.job()];
    ask(&mut world, AdminRequest::Hold(ids(&[0])));
    let before = world.written_down().remove(0).hold;
    assert!(before.as_ref().is_some_and(|why| !why.starts_with("damaged")), "{before:?}");
    for job in &jobs {
        let damaged = Some("its record fails its checksum".to_owned());
        world.answer(job, DeliverAnswer { damaged, ..all(job, &deferred()) });
    }
    assert_eq!(world.written_down().remove(0).hold, before);
}

#[test]
fn a_damaged_message_is_held_until_it_is_released_and_never_expires() {
    let mut world = World::new();
    let mut request = message(&world, id(0), &["one.example"]);
    request.accepted_at = Timestamp::from_millis(world.now.wall.millis() - 6 * 24 * 3_600_000);
    world.enqueue(request);
    let job = world.job();
    let what = "intake/1/7.seg at byte 64: its record fails its checksum".to_owned();
    world.answer(&job, DeliverAnswer { damaged: Some(what.clone()), ..all(&job, &deferred()) });
    assert!(matches!(world.state(id(0), 0), State::Open(_)), "it has not failed");
    let held = Selection { held: true, ..Selection::default() };
    let (found, _) = list(&mut world, ListQuery { select: held, limit: None, cursor: None });
    assert_eq!(found, [(id(0), "held".to_owned())]);
    let hold = world.written_down().remove(0).hold;
    assert_eq!(hold, Some(format!("damaged: {what}")));
    assert_eq!(changed(&ask(&mut world, AdminRequest::Release(ids(&[0])))).0, 1);
    world.pass(24 * 3_600_000);
    let job = world.job();
    world.deliver(&job);
    assert!(!world.is_live(id(0)), "what an operator has mended is delivered");
}
