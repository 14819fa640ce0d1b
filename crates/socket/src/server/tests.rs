use super::*;
use crate::frame::LINE_BYTES_MAX;
use crate::testing::{Echo, Echoer, Place, Say, run, until};

#[test]
fn a_person_can_speak_to_a_server() {
    run(async {
        let place = Place::new();
        let settings = ServerSettings { worker: "echo/2".into(), workers: 4, ..Default::default() };
        place.serve(Rc::default(), settings);
        let mut raw = place.raw().await;
        let hello = raw.line().await;
        let expect = format!(
            r#"{{"jsonrpc":"2.0","method":"hello","params":{{"conversation":"echo","versions":[3,2],"features":[],"window":256,"window_bytes":4194304,"worker":"echo/2","pid":{},"workers":4,"crashed":[]}}}}"#,
            std::process::id()
        );
        assert_eq!(hello, expect);
        let dialogue = [
            (
                r#"{"id":1,"method":"say","params":{"text":"a"}}"#,
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"choose a version first: method use, params {version}"}}"#,
            ),
            (
                r#"{"id":"u","method":"use","params":{"version":3,"more":1}}"#,
                r#"{"jsonrpc":"2.0","id":"u","result":{}}"#,
            ),
            (
                r#"{"id":2,"method":"say","params":{"text":"a","unknown":[]}}"#,
                r#"{"jsonrpc":"2.0","id":2,"result":{"text":"a"}}"#,
            ),
            (
                r#"{"id":"é","method":"say","params":{"text":"b"}}"#,
                r#"{"jsonrpc":"2.0","id":"é","result":{"text":"b"}}"#,
            ),
            (
                r#"{"id":3,"method":"shout","params":{}}"#,
                r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":"no such method"}}"#,
            ),
            (
                r#"{"id":4,"method":"say"}"#,
                r#"{"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"missing field `text` at line 1 column 2"}}"#,
            ),
            (
                "nonsense",
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"not JSON: expected ident at line 1 column 2"}}"#,
            ),
            (
                r#"{"method":"unknown"}
{"id":5,"method":"ping"}"#,
                r#"{"jsonrpc":"2.0","id":5,"result":{}}"#,
            ),
        ];
        for (request, answer) in dialogue {
            raw.write(&format!("{request}\n")).await;
            assert_eq!(raw.line().await, answer, "{request}");
        }
    });
}

#[test]
fn a_version_not_spoken_ends_the_connection() {
    run(async {
        let place = Place::new();
        let server = place.serve(Rc::default(), ServerSettings::default());
        let mut raw = place.raw().await;
        raw.line().await;
        raw.write("{\"method\":\"use\",\"params\":{\"version\":9}}\n").await;
        assert!(raw.rest().await.contains("choose one of the versions [3, 2]"));
        server.emptied().await;
    });
}

#[test]
fn garbage_and_long_lines_end_only_their_own_connection() {
    run(async {
        let place = Place::new();
        let server = place.serve(Rc::default(), ServerSettings::default());
        let mut good = place.raw().await;
        good.begin().await;
        let mut garbage = place.raw().await;
        garbage.begin().await;
        garbage.write(&"\u{0}garbage\n".repeat(MALFORMED_MAX as usize)).await;
        assert_eq!(garbage.rest().await.lines().count(), MALFORMED_MAX as usize);
        let mut long = place.raw().await;
        long.begin().await;
        long.write(&"x".repeat(LINE_BYTES_MAX)).await;
        let rest = long.rest().await;
        assert!(rest.contains("a frame has at most 1048576 bytes"), "{rest}");
        until(|| server.connections() == 1).await;
        good.write("{\"id\":1,\"method\":\"say\",\"params\":{\"text\":\"still here\"}}\n").await;
        assert!(good.line().await.contains("still here"));
    });
}

#[test]
fn the_window_is_held() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        let settings = ServerSettings { window: 2, ..Default::default() };
        let server = place.serve(echoer.clone(), settings);
        let mut raw = place.raw().await;
        raw.begin().await;
        for id in 1..=3 {
            raw.write(&format!(
                "{{\"id\":{id},\"method\":\"say\",\"params\":{{\"text\":\"\"}}}}\n"
            ))
            .await;
        }
        assert!(raw.line().await.contains("\"id\":3,\"error\":{\"code\":-32003"));
        assert_eq!(server.outstanding(), 2);
        let (_, last) = echoer.held.borrow_mut().pop().unwrap();
        drop(last);
        assert!(raw.line().await.contains("\"id\":2,\"error\":{\"code\":-32603"));
        echoer.answer_all();
        assert!(raw.line().await.contains("\"id\":1,\"result\""));
        assert_eq!(server.outstanding(), 0);
    });
}

#[test]
fn bytes_are_a_window_too_but_a_lone_request_may_be_long() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        place.serve(echoer.clone(), ServerSettings { window_bytes: 1000, ..Default::default() });
        let mut raw = place.raw().await;
        raw.begin().await;
        let long = "x".repeat(2000);
        for id in 1..=2 {
            let line =
                format!("{{\"id\":{id},\"method\":\"say\",\"params\":{{\"text\":\"{long}\"}}}}\n");
            raw.write(&line).await;
        }
        assert!(raw.line().await.contains("\"id\":2,\"error\":{\"code\":-32003"));
        assert_eq!(echoer.held.borrow().len(), 1);
    });
}

#[test]
fn the_dot_gate_knows_deadline_and_connection() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        place.serve(echoer.clone(), ServerSettings::default());
        let mut raw = place.raw().await;
        raw.begin().await;
        let before = Instant::now();
        raw.write(
            "{\"id\":1,\"method\":\"say\",\"deadline_ms\":5000,\"params\":{\"text\":\"\"}}\n",
        )
        .await;
        raw.write("{\"id\":2,\"method\":\"say\",\"params\":{\"text\":\"\"}}\n").await;
        until(|| echoer.held.borrow().len() == 2).await;
        {
            let held = echoer.held.borrow();
            let deadline = held[0].1.deadline().unwrap();
            assert!(
                deadline >= before + Duration::from_secs(5)
                    && deadline <= Instant::now() + Duration::from_secs(5)
            );
            assert_eq!(held[1].1.deadline(), None);
            assert!(held[0].1.is_connected());
            let pid = std::process::id();
            assert!(matches!(held[0].1.caller().who, Who::Local { pid: of, .. } if of == pid));
            // No turn of the runtime lies between the peer's end and the question.
            drop(raw);
            assert!(!held[0].1.is_connected());
        }
        echoer.answer_all();
    });
}

#[test]
fn a_draining_server_answers_what_it_took_and_refuses_what_crossed() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        let server = place.serve(echoer.clone(), ServerSettings::default());
        let mut raw = place.raw().await;
        raw.begin().await;
        raw.write("{\"id\":1,\"method\":\"say\",\"params\":{\"text\":\"taken\"}}\n").await;
        until(|| echoer.taken.get() == 1).await;
        server.drain();
        raw.write("{\"id\":2,\"method\":\"say\",\"params\":{\"text\":\"crossed\"}}\n").await;
        assert_eq!(raw.line().await, r#"{"jsonrpc":"2.0","method":"drain","params":{}}"#);
        assert!(raw.line().await.contains("\"id\":2,\"error\":{\"code\":-32001"));
        echoer.answer_all();
        assert!(raw.line().await.contains("taken"));
        // The peer does not close: the server does, after a while.
        server.emptied().await;
        assert_eq!(raw.rest().await, "");
    });
}

#[test]
fn a_stranger_is_refused() {
    if sys::effective_ids().0 != 0 {
        return; // Only root can come as somebody else.
    }
    run(async {
        let place = Place::new();
        let access = Access::default();
        let peer = sys::PeerIdentity { pid: 1, uid: 4711, gids: vec![4711] };
        assert!(!access.allows(&peer));
        // A connection by another user is tried end to end by the tests of the executable; here the refusal's form.
        let server = place.serve(Rc::default(), ServerSettings::default());
        server.drain();
        let mut raw = place.raw().await;
        assert!(raw.rest().await.contains("this worker drains"));
    });
}

#[test]
fn a_peer_that_does_not_read_is_not_read_from_and_dropped_at_last() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        let server =
            place.serve(echoer.clone(), ServerSettings { window: 200, ..Default::default() });
        let mut raw = place.raw().await;
        raw.begin().await;
        let long = "x".repeat(20_000);
        for id in 1..=200 {
            raw.write(&format!(
                "{{\"id\":{id},\"method\":\"say\",\"params\":{{\"text\":\"{long}\"}}}}\n"
            ))
            .await;
        }
        until(|| echoer.held.borrow().len() == 200).await;
        // Answers of 200 kB each, 40 MB in all, and nobody reads them.
        for (_, responder) in echoer.held.take() {
            responder.answer(&Say { text: "y".repeat(200_000) });
            tokio::task::yield_now().await;
        }
        server.emptied().await;
        assert_eq!(server.outstanding(), 0);
    });
}

#[test]
fn a_peer_that_reads_late_gets_everything() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        place.serve(echoer.clone(), ServerSettings::default());
        let mut raw = place.raw().await;
        raw.begin().await;
        for id in 1..=20 {
            raw.write(&format!(
                "{{\"id\":{id},\"method\":\"say\",\"params\":{{\"text\":\"\"}}}}\n"
            ))
            .await;
        }
        until(|| echoer.held.borrow().len() == 20).await;
        for (_, responder) in echoer.held.take() {
            responder.answer(&Say { text: "y".repeat(200_000) });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        for id in 1..=20 {
            let line = raw.line().await;
            assert_eq!(
                line.len(),
                200_000
                    + format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"text\":\"\"}}}}")
                        .len()
            );
        }
    });
}

#[test]
fn a_gauge_counts_what_is_in_hand() {
    #[derive(Default)]
    struct Counted(Cell<i32>, Cell<i32>);
    impl Gauge for Counted {
        fn begun(&self) {
            self.0.set(self.0.get() + 1);
        }
        fn ended(&self) {
            self.1.set(self.1.get() + 1);
        }
    }
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        let gauge = Rc::new(Counted::default());
        let settings = ServerSettings { gauge: Some(gauge.clone()), ..Default::default() };
        let server: Server<Echo> = place.serve(echoer.clone(), settings);
        let mut raw = place.raw().await;
        raw.begin().await;
        raw.write("{\"id\":1,\"method\":\"say\",\"params\":{\"text\":\"\"}}\n").await;
        until(|| gauge.0.get() == 1).await;
        drop(raw);
        server.emptied().await;
        assert_eq!(gauge.1.get(), 0, "still in the worker's hand");
        echoer.answer_all();
        assert_eq!(gauge.1.get(), 1);
    });
}

#[test]
fn a_gate_outlives_its_responder_and_ends_with_its_connection() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        let server: Server<Echo> = place.serve(echoer.clone(), ServerSettings::default());
        let mut raw = place.raw().await;
        raw.begin().await;
        raw.write("{\"id\":1,\"method\":\"say\",\"params\":{\"text\":\"\"}}\n").await;
        until(|| echoer.held.borrow().len() == 1).await;
        let gate = echoer.held.borrow()[0].1.gate();
        echoer.answer_all();
        assert!(gate.is_connected());
        assert_eq!(gate.deadline(), None);
        drop(raw);
        server.emptied().await;
        assert!(!gate.is_connected());
    });
}

#[test]
fn a_request_that_only_begins_as_ours_is_read_with_care() {
    let begin = r#"{"jsonrpc":"2.0","id":1,"method":"#;
    let cases = [
        (r#""say","params":{"text":"a"}}"#, r#""id":1,"result":{"text":"a"}"#),
        (r#""say","deadline_ms":9,"params":{"text":"a","new":[]}}"#, r#""id":1,"result""#),
        (r#""say","params":{"text":"a"},"later":{}}"#, r#""id":1,"result":{"text":"a"}"#),
        (r#""s\u0061y","params":{"text":"a"}}"#, r#""id":1,"result":{"text":"a"}"#),
        (r#""say","params":{"text":"a"}}}"#, r#""id":null,"error":{"code":-32700"#),
        (r#""say","params":{"text":"a"}"#, r#""id":null,"error":{"code":-32700"#),
        (r#""say","params":{}}"#, r#""id":1,"error":{"code":-32602"#),
        (r#""say","params":}"#, r#""id":null,"error":{"code":-32700"#),
        (r#""other","params":{}}"#, r#""id":1,"error":{"code":-32601"#),
        (r#""ping","params":{}}"#, r#""id":1,"result":{}"#),
    ];
    run(async {
        let place = Place::new();
        place.serve(Rc::default(), ServerSettings::default());
        let mut raw = place.raw().await;
        raw.begin().await;
        for (rest, expect) in cases {
            raw.write(&format!("{begin}{rest}\n")).await;
            let line = raw.line().await;
            assert!(line.contains(expect), "{rest}: {line}");
        }
    });
}
