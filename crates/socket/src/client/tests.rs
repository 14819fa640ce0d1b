mod versions;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;

use tokio::net::UnixListener;

use super::*;
use crate::testing::{Echo, Echoer, Place, Raw, run, say, until};
use crate::{Server, ServerSettings, Serving, codes};

const HELLO: &str =
    "{\"method\":\"hello\",\"params\":{\"conversation\":\"echo\",\"versions\":[2]}}\n";

/// Collects answers.
#[derive(Clone, Default)]
struct Answers(Rc<RefCell<Vec<Result<String, CallError>>>>);

impl Answers {
    fn take(&self) -> impl FnOnce(Result<crate::testing::Say, CallError>) + 'static {
        let answers = self.0.clone();
        move |answer| answers.borrow_mut().push(answer.map(|say| say.text))
    }

    fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// A place that nobody connects to.
fn place() -> Rc<place::Place> {
    let places = PathBuf::from("unused").into();
    place::Place::arrange(&places, &[], &Cell::new(0)).remove(0)
}

/// Accepts the next connection as a raw peer.
async fn accept(listener: &UnixListener) -> Raw {
    Raw::new(listener.accept().await.unwrap().0)
}

#[test]
fn ten_thousand_requests_are_answered_out_of_order() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        place.serve(echoer.clone(), ServerSettings { window: 1000, ..Default::default() });
        let client = place.connected(1).await;
        client.changed().await;
        let right = Rc::new(Cell::new(0));
        let mut sent = 0;
        while sent < 10_000 {
            let text = format!("{sent}");
            let counted = right.clone();
            let expected = text.clone();
            let result = client.send(&say(text), SendOptions::default(), move |answer| {
                assert_eq!(answer.unwrap().text, expected);
                counted.set(counted.get() + 1);
            });
            match result {
                Ok(_) => sent += 1,
                Err(error) => {
                    assert_eq!(error, SendError::Full);
                    until(|| echoer.held.borrow().len() == 1000).await;
                    echoer.held.borrow_mut().reverse();
                    echoer.answer_all();
                    client.changed().await;
                }
            }
        }
        until(|| {
            echoer.answer_all();
            right.get() == 10_000
        })
        .await;
        assert_eq!(client.outstanding(), 0);
        assert!(client.dropped() > 0);
    });
}

#[test]
fn a_turn_makes_one_write_a_connection() {
    run(async {
        let place = Place::new();
        place.serve(Rc::default(), ServerSettings::default());
        let client = place.connected(1).await;
        until(|| client.outstanding() == 0).await;
        let before = crate::link::writes();
        let answers = Answers::default();
        for number in 0..100 {
            client.send(&say(number.to_string()), SendOptions::default(), answers.take()).unwrap();
        }
        until(|| answers.len() == 100).await;
        // One write of a hundred requests, one of a hundred answers.
        assert_eq!(crate::link::writes() - before, 2);
    });
}

#[test]
fn requests_of_many_tasks_leave_together() {
    run(async {
        let place = Place::new();
        place.serve(Rc::default(), ServerSettings::default());
        let client = place.connected(1).await;
        client.call(&say("warm")).await.unwrap();
        let before = crate::link::writes();
        let done = Rc::new(Cell::new(0));
        for _ in 0..50 {
            let (client, done) = (client.clone(), done.clone());
            tokio::task::spawn_local(async move {
                client.call(&say("x")).await.unwrap();
                done.set(done.get() + 1);
            });
        }
        until(|| done.get() == 50).await;
        assert_eq!(crate::link::writes() - before, 2);
    });
}

#[test]
fn a_call_waits_for_a_server_that_comes_late() {
    run(async {
        let place = Place::new();
        let client = place.client(Duration::from_secs(10));
        let call = client.clone();
        let call = tokio::task::spawn_local(async move { call.call(&say("late")).await });
        tokio::time::sleep(Duration::from_millis(30)).await;
        let _server = place.serve(Rc::default(), ServerSettings::default());
        assert_eq!(call.await.unwrap().unwrap().text, "late");
    });
}

#[test]
fn nobody_there_is_told_at_once_or_at_the_deadline() {
    run(async {
        let place = Place::new();
        let client = place.client(Duration::from_millis(50));
        let answers = Answers::default();
        let sent = client.send(&say(""), SendOptions::default(), answers.take());
        assert_eq!(sent, Err(SendError::Disconnected));
        assert_eq!((answers.len(), client.dropped()), (0, 1));
        let error = client.call(&say("")).await.unwrap_err();
        assert_eq!(error, CallError::NotSent(SendError::Disconnected));
    });
}

#[test]
fn calls_wait_for_room_in_bounded_number() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        place.serve(echoer.clone(), ServerSettings { window: 2, ..Default::default() });
        let client = place.connected(1).await;
        let done = Rc::new(RefCell::new(Vec::new()));
        // Two in the window, three that wait, and one too many.
        for number in 0..6 {
            let (client, done) = (client.clone(), done.clone());
            tokio::task::spawn_local(async move {
                let answer = client.call(&say(number.to_string())).await;
                done.borrow_mut().push(answer.map(|answer| answer.text));
            });
        }
        until(|| done.borrow().len() == 1).await;
        assert_eq!(done.borrow()[0], Err(CallError::NotSent(SendError::Full)));
        until(|| {
            echoer.answer_all();
            done.borrow().len() == 6
        })
        .await;
        let answered: Vec<_> = done.borrow().iter().flatten().cloned().collect();
        assert_eq!(answered, ["0", "1", "2", "3", "4"]);
    });
}

#[test]
fn a_deadline_passes_and_a_late_answer_is_swallowed() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        place.serve(echoer.clone(), ServerSettings { window: 1, ..Default::default() });
        let client = place.connected(1).await;
        let answers = Answers::default();
        let options = SendOptions {
            deadline: Some(Duration::from_millis(20)),
            give_up: true,
            ..Default::default()
        };
        let begun = Instant::now();
        client.send(&say("late"), options, answers.take()).unwrap();
        until(|| answers.len() == 1).await;
        assert_eq!(answers.0.borrow()[0], Err(CallError::Deadline));
        assert!(begun.elapsed() >= Duration::from_millis(20) + GIVE_UP_LATER);
        // The server still works on it: its place in the window stays taken.
        assert_eq!(
            client.send(&say(""), SendOptions::default(), answers.take()),
            Err(SendError::Full)
        );
        echoer.holds.set(false);
        echoer.answer_all();
        assert_eq!(client.call(&say("next")).await.unwrap().text, "next");
        assert_eq!(answers.len(), 1);
    });
}

#[test]
fn without_giving_up_a_late_answer_counts() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        place.serve(echoer.clone(), ServerSettings::default());
        let client = place.connected(1).await;
        let answers = Answers::default();
        let options =
            SendOptions { deadline: Some(Duration::from_millis(1)), ..Default::default() };
        client.send(&say("late"), options, answers.take()).unwrap();
        until(|| echoer.held.borrow().len() == 1).await;
        assert!(echoer.held.borrow()[0].1.deadline().is_some());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(answers.len(), 0);
        echoer.answer_all();
        until(|| answers.len() == 1).await;
        assert_eq!(answers.0.borrow()[0], Ok("late".into()));
    });
}

#[test]
fn a_lost_connection_fails_what_was_out_and_is_made_again() {
    run(async {
        let place = Place::new();
        let listener = place.listen();
        let client = place.client(Duration::from_secs(5));
        client.connect();
        let mut peer = accept(&listener).await;
        peer.write("{\"method\":\"hello\",\"params\":{\"conversation\":\"echo\",\"versions\":[2],\"worker\":\"echo/1\",\"pid\":77}}\n").await;
        until(|| client.peers().len() == 1).await;
        client.changed().await;
        let answers = Answers::default();
        client.send(&say("gone"), SendOptions::default(), answers.take()).unwrap();
        assert!(peer.line().await.contains("\"use\",\"params\":{\"version\":2}"));
        assert_eq!(
            peer.line().await,
            r#"{"jsonrpc":"2.0","id":1,"method":"say","deadline_ms":5000,"params":{"text":"gone"}}"#
        );
        drop(peer);
        client.changed().await;
        assert_eq!(
            answers.0.borrow()[0],
            Err(CallError::Lost { worker: "echo/1".into(), pid: 77, alone: false })
        );
        let mut peer = accept(&listener).await;
        peer.write(HELLO).await;
        until(|| client.peers().len() == 1).await;
        assert_ne!(client.peers()[0].id, PeerId(1));
    });
}

#[test]
fn a_server_that_talks_nonsense_is_left() {
    let cases = [
        "{\"id\":99,\"result\":{}}\n",
        "{\"id\":\"text\",\"result\":{}}\n",
        "garbage\n",
        "{\"id\":null,\"error\":{\"code\":-32700,\"message\":\"?\"}}\n",
    ];
    for case in cases {
        run(async {
            let place = Place::new();
            let listener = place.listen();
            let client = place.client(Duration::from_secs(5));
            client.connect();
            let mut peer = accept(&listener).await;
            peer.write(HELLO).await;
            until(|| client.peers().len() == 1).await;
            let answers = Answers::default();
            client.send(&say(""), SendOptions::default(), answers.take()).unwrap();
            peer.write(case).await;
            peer.rest().await;
            until(|| answers.len() == 1).await;
            assert!(matches!(answers.0.borrow()[0], Err(CallError::Lost { .. })), "{case}");
        });
    }
}

#[test]
fn a_server_that_cannot_be_spoken_with_is_left_and_tried_again() {
    let cases = [
        "{\"method\":\"hello\",\"params\":{\"conversation\":\"echo\",\"versions\":[1]}}\n",
        "{\"method\":\"hello\",\"params\":{\"conversation\":\"other\",\"versions\":[2]}}\n",
        "{\"method\":\"hello\",\"params\":{}}\n",
        "220 mx.example.test ESMTP\r\n",
        "\n",
    ];
    for case in cases {
        run(async {
            let place = Place::new();
            let listener = place.listen();
            let client = place.client(Duration::from_secs(5));
            client.connect();
            for _ in 0..3 {
                let mut peer = accept(&listener).await;
                peer.write(case).await;
                assert_eq!(peer.rest().await, "", "{case}");
            }
            assert!(client.peers().is_empty());
        });
    }
}

#[test]
fn unknown_words_of_a_server_are_ignored_and_its_ping_is_answered() {
    run(async {
        let place = Place::new();
        let listener = place.listen();
        let client = place.client(Duration::from_secs(5));
        client.connect();
        let mut peer = accept(&listener).await;
        peer.write(HELLO).await;
        peer.line().await;
        peer.write("{\"method\":\"unheard\",\"params\":[]}\n{\"id\":1,\"method\":\"ping\"}\n")
            .await;
        assert_eq!(peer.line().await, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        peer.write("{\"id\":2,\"method\":\"other\"}\n").await;
        assert!(peer.line().await.contains("-32601"));
        assert_eq!(client.peers().len(), 1);
    });
}

#[test]
fn what_a_draining_worker_did_not_take_goes_to_the_next() {
    run(async {
        let place = Place::new();
        let listener = place.listen();
        let client = place.client(Duration::from_secs(5));
        let caller = client.clone();
        let call = tokio::task::spawn_local(async move { caller.call(&say("x")).await });
        let mut old = accept(&listener).await;
        old.write(HELLO).await;
        assert!(old.line().await.contains("use"));
        assert!(old.line().await.contains("\"id\":1"));
        old.write("{\"method\":\"drain\",\"params\":{}}\n").await;
        let mut new = accept(&listener).await;
        new.write(HELLO).await;
        until(|| client.peers().len() == 2).await;
        assert_eq!(client.peers().iter().filter(|peer| peer.draining).count(), 1);
        old.write("{\"id\":1,\"error\":{\"code\":-32001,\"message\":\"not taken\"}}\n").await;
        assert_eq!(old.rest().await, "", "the client closes when it has its answers");
        new.line().await;
        assert!(new.line().await.contains("\"text\":\"x\""));
        new.write("{\"id\":1,\"result\":{\"text\":\"y\"}}\n").await;
        assert_eq!(call.await.unwrap().unwrap().text, "y");
    });
}

#[test]
fn a_connection_for_each_worker_and_never_two_to_one() {
    run(async {
        let place = Place::new();
        let listener = place.listen();
        let client = place.client(Duration::from_secs(5));
        client.connect();
        let hello = |pid: u32, workers: u32| {
            format!(
                "{{\"method\":\"hello\",\"params\":{{\"conversation\":\"echo\",\"versions\":[2],\"pid\":{pid},\"workers\":{workers},\"window\":1}}}}\n"
            )
        };
        let mut first = accept(&listener).await;
        first.write(&hello(11, 2)).await;
        // The kernel gives us the same worker twice: not wanted.
        for _ in 0..2 {
            let mut again = accept(&listener).await;
            again.write(&hello(11, 2)).await;
            assert_eq!(again.rest().await, "");
        }
        let mut second = accept(&listener).await;
        second.write(&hello(22, 2)).await;
        until(|| client.peers().len() == 2).await;
        // Each gets one, and then there is no room.
        let answers = Answers::default();
        let one = client.send(&say(""), SendOptions::default(), answers.take()).unwrap();
        let two = client.send(&say(""), SendOptions::default(), answers.take()).unwrap();
        assert_ne!(one, two);
        let full = client.send(&say(""), SendOptions::default(), answers.take());
        assert_eq!(full, Err(SendError::Full));
        let only = SendOptions { to: Some(PeerId(12345)), ..Default::default() };
        assert_eq!(client.send(&say(""), only, answers.take()), Err(SendError::Disconnected));
        second.write("{\"method\":\"workers\",\"params\":{\"workers\":3,\"crashed\":[]}}\n").await;
        let mut third = accept(&listener).await;
        third.write(&hello(33, 3)).await;
        until(|| client.peers().len() == 3).await;
    });
}

#[test]
fn a_crash_is_told_once() {
    run(async {
        let place = Place::new();
        let server: Server<Echo> =
            place.serve(Rc::default(), ServerSettings { crashed: vec![5], ..Default::default() });
        let crashed = Rc::new(RefCell::new(Vec::new()));
        let client = place.client(Duration::from_secs(5));
        let seen = crashed.clone();
        client.on_crash(move |pid| seen.borrow_mut().push(pid));
        client.connect();
        until(|| client.peers().len() == 1).await;
        server.set_workers(1, &[5, 6]);
        until(|| crashed.borrow().len() == 2).await;
        server.set_workers(1, &[5, 6, 7]);
        until(|| crashed.borrow().len() == 3).await;
        assert_eq!(*crashed.borrow(), [5, 6, 7]);
    });
}

#[test]
fn requests_too_long_for_a_frame_are_refused_here() {
    run(async {
        let place = Place::new();
        place.serve(Rc::default(), ServerSettings::default());
        let client = place.connected(1).await;
        let error = client.call(&say("x".repeat(2 << 20))).await.unwrap_err();
        assert_eq!(error, CallError::NotSent(SendError::TooLong));
        assert_eq!(client.call(&say("x".repeat(1 << 19))).await.unwrap().text.len(), 1 << 19);
    });
}

#[test]
fn an_error_reply_is_given_to_the_caller() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        place.serve(echoer.clone(), ServerSettings::default());
        let client = place.connected(1).await;
        let answers = Answers::default();
        client.send(&say(""), SendOptions::default(), answers.take()).unwrap();
        until(|| echoer.held.borrow().len() == 1).await;
        let (_, responder) = echoer.held.borrow_mut().pop().unwrap();
        responder.refuse(ErrorObject::new(codes::NOT_FOUND, "no \"such\" thing\n"));
        until(|| answers.len() == 1).await;
        let error = ErrorObject::new(codes::NOT_FOUND, "no \"such\" thing\n");
        assert_eq!(answers.0.borrow()[0], Err(CallError::Refused(error)));
    });
}

#[test]
fn dropping_the_last_clone_fails_what_is_out() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        let server = place.serve(echoer.clone(), ServerSettings::default());
        let client = place.connected(1).await;
        let answers = Answers::default();
        client.send(&say(""), SendOptions::default(), answers.take()).unwrap();
        until(|| echoer.held.borrow().len() == 1).await;
        drop(client);
        assert!(matches!(answers.0.borrow()[0], Err(CallError::Lost { .. })));
        server.emptied().await;
    });
}

#[test]
fn a_silent_server_is_pinged_and_then_left() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let (one, two) = tokio::net::UnixStream::pair().unwrap();
        let (link, read) = crate::link::Link::new(crate::stream::Stream::Unix(one));
        let hello = serde_json::from_str(r#"{"conversation":"echo","versions":[2]}"#).unwrap();
        let pool = Pool::<Echo>::new(&PathBuf::from("unused").into(), ClientSettings::default());
        let connection = Rc::new(super::connection::Connection::new(
            Rc::downgrade(&pool),
            link.clone(),
            PeerId(1),
            place(),
            &hello,
        ));
        let answers = Answers::default();
        connection.send(
            "say",
            (Duration::from_secs(600), false),
            b"{}",
            None,
            Box::new(answers.take()),
        );
        let begun = Instant::now();
        let at = |seconds: f64| begun + Duration::from_secs_f64(seconds);
        let mut peer = Raw::new(two);
        assert_eq!(connection.check_times(at(14.0)).unwrap().duration_since(begun).as_secs(), 14);
        assert!(peer.line().await.contains("\"say\""));
        connection.check_times(at(15.1)).unwrap();
        assert_eq!(peer.line().await, r#"{"jsonrpc":"2.0","id":2,"method":"ping","params":{}}"#);
        connection.check_times(at(29.0)).unwrap();
        assert!(link.is_up());
        assert_eq!(connection.check_times(at(30.1)), None);
        assert!(!link.is_up());
        drop(read);
    });
}

/// Gives a client that wants two workers the same one again and again, as the kernel may, so that the pauses of its dialling task grow:
/// after eight times the next is 640 ms at least. What is returned is the one connection that stays.
async fn pausing(listener: &UnixListener, times: usize) -> Raw {
    let hello = "{\"method\":\"hello\",\"params\":{\"conversation\":\"echo\",\"versions\":[2],\"pid\":11,\"workers\":2}}\n";
    let mut only = accept(listener).await;
    only.write(hello).await;
    for _ in 0..times {
        let mut again = accept(listener).await;
        again.write(hello).await;
        assert_eq!(again.rest().await, "");
    }
    only
}

#[test]
fn the_last_connections_drain_ends_the_pause_of_the_dialling_task() {
    run(async {
        let place = Place::new();
        let listener = place.listen();
        let client = place.client(Duration::from_secs(5));
        client.connect();
        let mut only = pausing(&listener, 8).await;
        let begun = Instant::now();
        only.write("{\"method\":\"drain\",\"params\":{}}\n").await;
        accept(&listener).await;
        assert!(begun.elapsed() < Duration::from_millis(600), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_drain_is_not_forgotten_while_the_dialling_task_connects() {
    run(async {
        let place = Place::new();
        let listener = place.listen();
        let client = place.client(Duration::from_secs(5));
        client.connect();
        let mut only = pausing(&listener, 7).await;
        // It waits for a hello that never comes, as from a worker that just ends.
        let mut ending = accept(&listener).await;
        only.write("{\"method\":\"drain\",\"params\":{}}\n").await;
        until(|| client.peers().is_empty()).await;
        let begun = Instant::now();
        ending.write("garbage\n").await;
        accept(&listener).await;
        assert!(begun.elapsed() < Duration::from_millis(600), "{:?}", begun.elapsed());
    });
}

#[test]
fn what_expires_soon_is_given_up_in_time_although_the_server_was_pinged() {
    run(async {
        let (one, _two) = tokio::net::UnixStream::pair().unwrap();
        let (link, _read) = crate::link::Link::new(crate::stream::Stream::Unix(one));
        let hello = serde_json::from_str(r#"{"conversation":"echo","versions":[2]}"#).unwrap();
        let connection = Rc::new(super::connection::Connection::<Echo>::new(
            std::rc::Weak::new(),
            link,
            PeerId(1),
            place(),
            &hello,
        ));
        let answers = Answers::default();
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let answer = Box::new(answers.take());
        connection.send("say", (Duration::from_secs(20), false), b"{}", Some(at(20)), answer);
        // This look sends the ping; the next is due when the request expires, not when the silence does.
        assert_eq!(connection.check_times(at(16)), Some(at(20)));
        connection.check_times(at(20));
        assert_eq!(*answers.0.borrow(), [Err(CallError::Deadline)]);
    });
}

#[test]
fn an_answer_that_came_before_a_failing_write_counts() {
    run(async {
        let place = Place::new();
        let listener = place.listen();
        let client = place.client(Duration::from_secs(5));
        client.connect();
        let mut peer = accept(&listener).await;
        peer.write(HELLO).await;
        until(|| client.peers().len() == 1).await;
        let answers = Answers::default();
        client.send(&say("one"), SendOptions::default(), answers.take()).unwrap();
        peer.line().await;
        assert!(peer.line().await.contains("one"));
        // No turn of the runtime lies between these: the write fails while the answer waits to be read.
        peer.write("{\"id\":1,\"result\":{\"text\":\"done\"}}\n").await;
        drop(peer);
        client.send(&say("two"), SendOptions::default(), answers.take()).unwrap();
        until(|| answers.len() == 2).await;
        assert_eq!(answers.0.borrow()[0], Ok("done".into()));
        assert!(matches!(answers.0.borrow()[1], Err(CallError::Lost { .. })));
        until(|| client.peers().is_empty()).await;
    });
}

#[test]
fn the_window_of_bytes_is_never_overrun() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        place.serve(echoer.clone(), ServerSettings { window_bytes: 10_000, ..Default::default() });
        let client = place.connected(1).await;
        let answers = Answers::default();
        // Their parameters alone would just fit.
        let sent = (0..10)
            .filter(|_| {
                let text = say("x".repeat(985));
                client.send(&text, SendOptions::default(), answers.take()).is_ok()
            })
            .count();
        assert!((7..10).contains(&sent), "{sent}");
        until(|| echoer.held.borrow().len() + answers.len() == sent).await;
        echoer.answer_all();
        until(|| answers.len() == sent).await;
        assert!(answers.0.borrow().iter().all(Result::is_ok));
    });
}

#[test]
fn a_call_goes_to_the_worker_it_names_if_that_has_room() {
    run(async {
        let place = Place::new();
        let listener = place.listen();
        let client = place.client(Duration::from_secs(5));
        client.connect();
        let hello = |pid: u32| {
            format!(
                "{{\"method\":\"hello\",\"params\":{{\"conversation\":\"echo\",\"versions\":[2],\"pid\":{pid},\"workers\":2,\"window\":2}}}}\n"
            )
        };
        let mut workers = Vec::new();
        for pid in [11, 22] {
            let mut worker = accept(&listener).await;
            worker.write(&hello(pid)).await;
            workers.push(worker);
        }
        until(|| client.peers().len() == 2).await;
        let outstanding = |id: PeerId| {
            client.peers().iter().find(|peer| peer.id == id).map_or(0, |peer| peer.outstanding)
        };
        let (one, other) = (client.peers()[0].id, client.peers()[1].id);
        let ask = |to: PeerId| {
            let client = client.clone();
            tokio::task::spawn_local(async move {
                let _ = client.call_at(&say("x"), &mut Some(to)).await;
            });
        };
        for (to, expected) in [(one, (1, 0)), (one, (2, 0)), (one, (2, 1)), (PeerId(4711), (2, 2))]
        {
            ask(to);
            until(|| (outstanding(one), outstanding(other)) == expected).await;
        }
    });
}
