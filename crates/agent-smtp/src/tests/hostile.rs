//! Servers that stall, reset, refuse and babble, at every step; and the dot gate.

use bytes::Bytes;
use smtp::client::{Client, Message, Recipient, Step};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connection::{Connection, Peer};

/// What a first connection that behaves so is answered.
fn check(behaviour: &[Script], expected: &str) {
    let behaviour = script(behaviour);
    on_loop(async {
        let server = Server::start(vec![behaviour.clone()]).await;
        let bench = Bench::hasty(Shelf::of(TEXT));
        let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
        assert_eq!(short(&answer, 1), expected, "{behaviour:?}");
    });
}

#[test]
fn a26_what_fails_before_the_message_is_the_lanes() {
    check(&[&["stall"]], "? lane 4.4.2");
    check(&[&["reset"]], "? lane 4.4.2");
    check(&[&[]], "? lane 4.4.2");
    check(&[&["> 421 4.3.2 busy"]], "? lane 4.3.2");
    check(&[&["> 554 5.7.1 go away"]], "? lane 4.7.1");
    check(&[&["> 220 hi", "< EHLO", "stall"]], "? lane 4.4.2");
    check(&[&["> 220 hi", "< EHLO", "> 421 no"]], "? lane 4.0.0");
    check(&[HELLO, &["< MAIL", "stall"]], "? lane 4.4.2");
    check(&[HELLO, &["< MAIL", "reset"]], "? lane 4.4.2");
    check(&[HELLO, &["< MAIL", "> 421 4.7.0 later"]], "? lane 4.7.0");
    check(&[HELLO, &["< MAIL", "> 250 ok", "stall"]], "? lane 4.4.2");
    check(
        &[HELLO, &["< MAIL", "> 250 ok", "> 250 ok", "< RCPT", "< DATA", "stall"]],
        "? lane 4.4.2",
    );
}

#[test]
fn a25_nonsense_is_the_lanes() {
    check(&[&["> HTTP/1.1 400 Bad Request"]], "? lane 4.5.0");
    check(&[&["> 220 hi", "< EHLO", "> 250-a", "> 550 b"]], "? lane 4.5.0");
    check(&[&["> 220 hi", "< EHLO", "endless"]], "? lane 4.5.0");
    check(&[&["> 220 hi", "< EHLO", "flood"]], "? lane 4.5.0");
    check(&[&[">> 220-a", "stall"]], "? lane 4.4.2");
    check(&[HELLO, &["< MAIL", "> 354 go"]], "? lane 4.5.0");
    check(&[HELLO, &["< MAIL", "endless"]], "? lane 4.5.0");
    check(&[HELLO, &["< MAIL", "> 250 ok", "> 250 ok", "> 250 ok"]], "? lane 4.5.0");
}

#[test]
fn a26_a_server_that_refuses_and_hangs_up_is_no_failure_of_the_lane() {
    check(&[HELLO, &["< MAIL", "> 554 5.7.1 no", "reset"]], "-5.7.1");
    check(&[HELLO, &["< MAIL", "> 250 ok", "> 550 5.1.1 no"]], "-5.1.1");
    check(&[HELLO, &["< MAIL", "> 451 4.7.1 no", "> 421 4.7.0 bye"]], "~4.7.1 lane 4.7.0");
}

#[test]
fn a26_what_fails_with_the_message_under_way_is_the_messages_too() {
    check(&[HELLO, ONE, &["stall"]], "~4.4.2");
    check(&[HELLO, ONE, &["reset"]], "~4.4.2");
    check(&[HELLO, ONE, &[]], "~4.4.2");
    check(&[HELLO, ONE, &["> 421 4.7.0 later"]], "~4.7.0 lane 4.7.0");
    check(&[HELLO, ONE, &["> 354 go"]], "~4.5.0");
    check(&[HELLO, ONE, &["> 451 4.3.0 later"]], "~4.3.0");
    check(&[HELLO, ONE, &["> 554 5.6.0 no"]], "-5.6.0");
    check(&[HELLO, ONE, &["> 250 ok", "reset"]], "+2.0.0");
    check(&[HELLO, ONE, &["> 250 ok", "> 250 and again"]], "+2.0.0");
}

#[test]
fn a_dead_host_is_the_lanes() {
    on_loop(async {
        let bench = Bench::hasty(Shelf::of(TEXT));
        let answer = bench.deliver("[127.0.0.1]:1", &["r@example.test"]).await;
        assert_eq!(short(&answer, 1), "? lane 4.4.1");
        assert_eq!(bench.count(counter::DEFERRED), 1);
        let text = answer.lane.unwrap().text;
        assert!(text.starts_with("cannot connect to 127.0.0.1[127.0.0.1]:1: "), "{text}");
        // A host that cannot be is nobody's fault but the routing's.
        let answer = bench.deliver("no such host", &["r@example.test"]).await;
        assert_eq!(short(&answer, 1), "-5.1.2");
    });
}

#[test]
fn a26_a_large_message_that_is_not_taken_is_deferred_or_refused() {
    let to_data: Script = &["< MAIL", "< RCPT", "< DATA", "> 250 ok", "> 250 ok", "> 354 go"];
    for (behaviour, expected) in [
        (&["half", "stall"][..], "+"),
        (&["half", "reset"], "~4.4.2"),
        (&["half", "> 552 5.3.4 too large", "stall"], "-5.3.4"),
        (&["half", "> 250 ok", "stall"], "~4.5.0"),
        (&["half", "> 421 4.3.2 bye", "stall"], "~4.3.2 lane 4.3.2"),
    ] {
        on_loop(async {
            let server = Server::start(vec![script(&[HELLO, to_data, behaviour])]).await;
            // More than both ends' buffers hold: it cannot all be under way before the server says anything.
            let body =
                Bytes::from("A line of a message that has very many of them.\r\n".repeat(600_000));
            let bench = Bench::hasty(Shelf { body, ..large() });
            let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
            if expected == "+" {
                // It reads and never answers.
                assert_eq!(short(&answer, 1), "~4.4.2");
            } else {
                assert_eq!(short(&answer, 1), expected, "{behaviour:?}");
            }
        });
    }
}

#[test]
fn the_dot_leaves_only_through_an_open_gate() {
    for body in [Shelf::of(TEXT), large()] {
        on_loop(async {
            let to_data: Script =
                &["< MAIL", "< RCPT", "< DATA", "> 250 ok", "> 250 ok", "> 354 go"];
            let server = Server::start(vec![script(&[HELLO, to_data, &["stall"]])]).await;
            let (gate, switch) = Gate::switch_for_test(None);
            let at_end = Rc::new(move || switch.set(false));
            let mut bench = Bench::new(Shelf { at_end, ..body }, |_| ());
            bench.gate = gate;
            let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
            assert_eq!(short(&answer, 1), "~4.4.2");
            while server.heard()[0].len() < 5 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(!server.heard()[0][4].contains(r"\n.\r\n"));
            // Behind a closed gate nothing begins.
            bench.gate = Gate::switch_for_test(Some(Instant::now())).0;
            assert_eq!(
                short(&bench.deliver(&server.host(), &["r@example.test"]).await, 1),
                "~4.4.2"
            );
            assert_eq!(server.heard().len(), 1);
        });
    }
}

#[test]
fn nothing_before_the_dot_lasts_longer_than_the_gate() {
    let stalls: [&[Script]; 3] =
        [&[&["stall"]], &[HELLO, &["stall"]], &[HELLO, &["< MAIL", "> 250 ok", "stall"]]];
    for behaviour in stalls {
        on_loop(async {
            let server = Server::start(vec![script(behaviour)]).await;
            let mut bench = Bench::new(Shelf::of(TEXT), |_| ());
            let deadline = Instant::now() + Duration::from_millis(100);
            bench.gate = Gate::switch_for_test(Some(deadline)).0;
            let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
            assert_eq!(short(&answer, 1), "? lane 4.4.2");
            assert!(deadline.elapsed() < Duration::from_secs(10));
        });
    }
    on_loop(async {
        let names = names::Server::start();
        names.say("silent.test", names::MX, names::Say::Nothing);
        let mut bench = Bench::new(Shelf::of(TEXT), |assignment| {
            assignment.dns.nameservers = vec![names.address];
            assignment.dns.timeout = Span::seconds(60);
        });
        let deadline = Instant::now() + Duration::from_millis(100);
        bench.gate = Gate::switch_for_test(Some(deadline)).0;
        let answer = bench.deliver("silent.test", &["r@silent.test"]).await;
        assert_eq!(short(&answer, 1), "? lane 4.4.3");
        assert!(deadline.elapsed() < Duration::from_secs(10));
    });
    // What waits for the reply to the dot has RFC 5321's ten minutes.
    on_loop(async {
        let server = Server::start(vec![script(&[HELLO, ONE, &["stall"]])]).await;
        let mut bench = Bench::hasty(Shelf::of(TEXT));
        let deadline = Instant::now() + Duration::from_millis(100);
        bench.gate = Gate::switch_for_test(Some(deadline)).0;
        bench.deliver(&server.host(), &["r@example.test"]).await;
        assert!(deadline.elapsed() >= Duration::from_millis(80), "{:?}", deadline.elapsed());
    });
}

#[test]
fn the_replies_to_the_dot_are_not_waited_for_longer_than_the_scheduler_waits() {
    on_loop(async {
        let session: Script = &[
            "> 220 hi",
            "< LHLO",
            "> 250-hi",
            "> 250 PIPELINING",
            "< MAIL",
            "< RCPT",
            "< RCPT",
            "< DATA",
            "> 250 ok",
            "> 250 ok",
            "> 250 ok",
            "> 354 go",
            ".",
            "> 250 2.1.5 ok",
            "stall",
        ];
        let server = Server::start(vec![session.to_vec()]).await;
        let mut bench = Bench::new(Shelf::of(TEXT), |assignment| {
            assignment.settings.protocol = Protocol::Lmtp;
        });
        Rc::get_mut(&mut bench.smtp).unwrap().dot_wait_max = Duration::from_millis(200);
        let deadline = Instant::now() + Duration::from_secs(1);
        bench.gate = Gate::switch_for_test(Some(deadline)).0;
        let recipients = ["a@example.test", "b@example.test"];
        let answer = bench.deliver(&server.host(), &recipients).await;
        // What was said by then counts.
        assert_eq!(short(&answer, 2), "+2.1.5 ~4.4.2");
        assert!(deadline.elapsed() >= Duration::from_millis(200));
    });
}

/// A connection in the middle of a message, of which it can write no more until its server reads, and that server's end.
async fn full_connection() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let server = tokio::task::spawn_local(async move {
        let mut server = BufStream::new(listener.accept().await.unwrap().0);
        let said = ["220 hi", "250-hi\r\n250 PIPELINING", "250 ok", "250 ok", "354 go"]
            .map(|reply| format!("{reply}\r\n"));
        for reply in said {
            server.write_all(reply.as_bytes()).await.unwrap();
            server.flush().await.unwrap();
            if !reply.starts_with("354") {
                server.read_line(&mut String::new()).await.unwrap();
            }
        }
        server.into_inner()
    });
    let client = Client::new(smtp::client::Protocol::Smtp, "mta.example.test", "mx");
    let peer = Peer { address, has_others: false };
    let mut connection = Connection::new(stream, client, peer, Instant::now());
    let (timeouts, to) = (Timeouts::default(), Address::parse("r@example.test").unwrap());
    assert_eq!(connection.turn(&timeouts, None).await, Step::Idle);
    let recipient = Recipient { address: &to, original: None, notify: None, orcpt: None };
    connection.client.begin(&Message::default(), &[recipient]);
    assert_eq!(connection.turn(&timeouts, None).await, Step::Body);
    // More than the buffers of two sockets hold.
    connection.client.body(&vec![b'x'; 48 << 20]);
    let turn = tokio::time::timeout(Duration::from_millis(200), connection.turn(&timeouts, None));
    assert!(turn.await.is_err(), "all of it was written");
    (connection, server.await.unwrap())
}

#[test]
fn a_dot_that_had_to_wait_leaves_only_through_an_open_gate() {
    on_loop(async {
        let (mut connection, mut server) = full_connection().await;
        let (gate, switch) = Gate::switch_for_test(None);
        let timeouts = Timeouts::default();
        let heard = {
            let mut ending = std::pin::pin!(connection.end_body(&timeouts, &gate));
            let waited = tokio::time::timeout(Duration::from_millis(20), ending.as_mut());
            assert!(waited.await.is_err(), "all of it was written");
            switch.set(false);
            let heard = tokio::task::spawn_local(async move {
                let mut heard = Vec::new();
                server.read_to_end(&mut heard).await.map(|_| heard)
            });
            ending.await;
            heard
        };
        assert_eq!(connection.client.step(), Step::Ended);
        drop(connection);
        assert!(!heard.await.unwrap().unwrap().ends_with(b"\r\n.\r\n"));
    });
    // Nor does it wait for room longer than that.
    on_loop(async {
        let (mut connection, _server) = full_connection().await;
        let deadline = Instant::now() + Duration::from_millis(50);
        let gate = Gate::switch_for_test(Some(deadline)).0;
        connection.end_body(&Timeouts::default(), &gate).await;
        assert_eq!(connection.client.step(), Step::Ended);
    });
}

#[test]
fn a_message_that_cannot_be_read_is_never_sent_as_a_whole() {
    on_loop(async {
        let to_data: Script = &["< MAIL", "< RCPT", "< DATA", "> 250 ok", "> 250 ok", "> 354 go"];
        let server = Server::start(vec![script(&[HELLO, to_data, &["stall"]])]).await;
        let bench = Bench::new(Shelf { is_damaged: true, piece: 9, ..Shelf::of(TEXT) }, |_| ());
        let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
        assert_eq!(short(&answer, 1), "~4.3.0");
        while server.heard()[0].len() < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(server.heard()[0][4], r#"then """#);
    });
}
