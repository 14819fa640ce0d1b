//! Which host is connected to, and which connection is used again.

use super::*;

#[test]
fn mx_hosts_are_tried_one_after_the_other() {
    on_loop(async {
        let good = Server::start_on(
            "127.0.0.2:0".parse().unwrap(),
            vec![script(&[HELLO, ONE, &["> 250 ok"]]), script(&[HELLO, ONE, &["> 250 ok"]])],
        )
        .await;
        let port = good.address.port();
        let refusing = |code| vec![vec![code], vec![code]];
        let busy = Server::start_on(([127, 0, 0, 3], port).into(), refusing("> 421 busy")).await;
        let rude = Server::start_on(([127, 0, 0, 4], port).into(), refusing("> 554 go away")).await;
        let names = names::Server::start();
        names.mx(
            "example.org",
            &[(1, "dead.test"), (2, "busy.test"), (3, "rude.test"), (4, "good.test")],
        );
        names.host("dead.test", &["127.0.0.5"]).host("busy.test", &["127.0.0.3"]);
        names.host("rude.test", &["127.0.0.4"]).host("good.test", &["127.0.0.2"]);
        names.mx("null.test", &[(0, "")]).mx("sad.test", &[(1, "dead.test"), (2, "rude.test")]);
        let bench = Bench::new(Shelf::of(TEXT), |assignment| {
            assignment.settings.port = Some(port);
            assignment.settings.reuse_deliveries_max = 1;
            assignment.dns.nameservers = vec![names.address];
            assignment.dns.loopback_mx = true;
        });
        let answer = bench.deliver("example.org", &["r@example.org"]).await;
        assert_eq!(short(&answer, 1), "+2.0.0");
        let Outcome::Delivered(delivered) = &answer.outcomes[0].outcome else { panic!() };
        assert_eq!(delivered.reply.remote, Some(format!("good.test[127.0.0.2]:{port}")));
        assert_eq!((busy.heard().len(), rude.heard().len()), (1, 1));
        // Those that could not be reached a moment ago are tried last.
        assert_eq!(short(&bench.deliver("example.org", &["r@example.org"]).await, 1), "+2.0.0");
        assert_eq!((busy.heard().len(), rude.heard().len()), (1, 1));
        assert_eq!(short(&bench.deliver("sad.test", &["r@sad.test"]).await, 1), "? lane 4.0.0");
        assert_eq!(short(&bench.deliver("null.test", &["r@null.test"]).await, 1), "-5.1.10");
        assert_eq!(short(&bench.deliver("gone.test", &["r@gone.test"]).await, 1), "-5.1.2");
    });
}

#[test]
fn a_host_that_fails_in_a_session_gives_way_to_the_next() {
    on_loop(async {
        let good = script(&[HELLO, ONE, &["> 250 ok"]]);
        let address = "127.0.0.2:0".parse().unwrap();
        let good = Server::start_on(address, vec![good.clone(), good]).await;
        let port = good.address.port();
        let failing = script(&[HELLO, &["< MAIL", "> 250 ok", "> 421 4.3.2 no"]]);
        let failing = Server::start_on(([127, 0, 0, 3], port).into(), vec![failing]).await;
        let ours: Script = &["> 220 hi", "< EHLO", "> 250 MTA.example.test", "stall"];
        let ours = Server::start_on(([127, 0, 0, 4], port).into(), vec![ours.to_vec()]).await;
        let names = names::Server::start();
        names.mx("example.org", &[(1, "failing.test"), (2, "good.test")]);
        names.mx("loop.test", &[(1, "ours.test"), (2, "good.test")]);
        names.host("failing.test", &["127.0.0.3"]).host("good.test", &["127.0.0.2"]);
        names.host("ours.test", &["127.0.0.4"]);
        let bench = Bench::new(Shelf::of(TEXT), |assignment| {
            assignment.settings.port = Some(port);
            assignment.settings.reuse_deliveries_max = 1;
            assignment.dns.nameservers = vec![names.address];
            assignment.dns.loopback_mx = true;
        });
        for _ in 0..2 {
            let answer = bench.deliver("example.org", &["r@example.org"]).await;
            assert_eq!(short(&answer, 1), "+2.0.0");
        }
        assert_eq!((failing.heard().len(), good.heard().len()), (1, 2));
        // Who greets us with our own name is ourselves.
        assert_eq!(short(&bench.deliver("loop.test", &["r@loop.test"]).await, 1), "-5.4.6");
        assert_eq!(ours.heard().len(), 1);
    });
}

#[test]
fn a_connection_that_died_while_idle_is_replaced_without_counting() {
    let first = script(&[HELLO, ONE, &["> 250 ok"]]);
    let second = script(&[HELLO, ONE, &["> 250 2.1.0 ok"]]);
    let ends: [Script; 5] =
        [&[], &["> 421 idle"], &["< MAIL"], &["< MAIL", "> 421 enough"], &["< MAIL", "reset"]];
    for end in ends {
        on_loop(async {
            let dying = [first.clone(), end.to_vec()].concat();
            let server = Server::start(vec![dying, second.clone()]).await;
            let bench = Bench::new(Shelf::of(TEXT), |_| ());
            bench.deliver(&server.host(), &["r@example.test"]).await;
            let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
            assert_eq!(short(&answer, 1), "+2.1.0", "{end:?}");
        });
    }
    // Once: a host that is gone for good is the lane's failure.
    on_loop(async {
        let dead: Script = &["> 220 hi", "< EHLO", "> 250 hi", "< MAIL", "reset"];
        let server =
            Server::start(vec![[first.clone(), vec!["< MAIL"]].concat(), dead.to_vec()]).await;
        let bench = Bench::new(Shelf::of(TEXT), |_| ());
        bench.deliver(&server.host(), &["r@example.test"]).await;
        let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
        assert_eq!(short(&answer, 1), "? lane 4.4.2");
    });
}

#[test]
fn what_follows_the_answer_to_a_message_does_not_send_it_again() {
    let second = script(&[HELLO, ONE, &["> 250 2.1.0 again"]]);
    for end in [
        ">> 250 2.6.0 ok\r\n421 too many messages\r\n",
        ">> 250 2.6.0 ok\r\n250 2.6.0 ok\r\n",
        ">> 250 2.6.0 ok\r\nHTTP/1.1 400 Bad Request\r\n",
    ] {
        on_loop(async {
            let first = [&script(&[HELLO, ONE, &["> 250 ok"], ONE])[..], &[end]].concat();
            let server = Server::start(vec![first, second.clone()]).await;
            let bench = Bench::new(Shelf::of(TEXT), |_| ());
            bench.deliver(&server.host(), &["r@example.test"]).await;
            let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
            assert_eq!(short(&answer, 1), "+2.6.0", "{end:?}");
            assert_eq!(server.heard().len(), 1, "{end:?}");
        });
        // The same in the second transaction of one job.
        on_loop(async {
            let first = [&script(&[HELLO, ONE, &["> 250 2.6.1 ok"], ONE])[..], &[end]].concat();
            let server = Server::start(vec![first, second.clone()]).await;
            let bench =
                Bench::new(Shelf::of(TEXT), |assignment| assignment.settings.recipients_max = 1);
            let answer = bench.deliver(&server.host(), &["a@example.test", "b@example.test"]).await;
            assert_eq!(short(&answer, 2), "+2.6.1 +2.6.0", "{end:?}");
            assert_eq!(server.heard().len(), 1, "{end:?}");
        });
    }
}

#[test]
fn connections_are_not_kept_longer_than_allowed() {
    on_loop(async {
        let one = script(&[HELLO, ONE, &["> 250 ok", "< QUIT", "> 221 bye"]]);
        let server = Server::start(vec![one.clone(), one.clone()]).await;
        let bench = Bench::new(Shelf::of(TEXT), |assignment| {
            assignment.settings.reuse_deliveries_max = 1;
        });
        for _ in 0..2 {
            bench.deliver(&server.host(), &["r@example.test"]).await;
        }
        assert_eq!(server.heard().len(), 2);

        let server = Server::start(vec![one]).await;
        let bench = Bench::new(Shelf::of(TEXT), |assignment| {
            assignment.settings.reuse_idle = Span::millis(50);
        });
        bench.deliver(&server.host(), &["r@example.test"]).await;
        while server.heard()[0].last().map(String::as_str) != Some("QUIT") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_job_in_hand_takes_little_room() {
    let bench = Bench::new(Shelf::of(TEXT), |_| ());
    let job = Job { request: request("x", &["r@example.test"]), gate: bench.gate.clone() };
    let size = size_of_val(&delivery::deliver(Rc::clone(&bench.smtp), job));
    assert!(size <= 2048, "{size}");
}

#[test]
fn jobs_of_many_lanes_do_not_wait_for_each_other() {
    on_loop(async {
        let stuck = Server::start(vec![vec!["stall"]]).await;
        let server = Server::start(vec![script(&[HELLO, ONE, &["> 250 ok"]])]).await;
        let bench = Bench::new(Shelf::of(TEXT), |_| ());
        let host = stuck.host();
        let waiting = bench.smtp.clone().deliver(Job {
            request: request(&host, &["r@example.test"]),
            gate: Gate::open_for_test(),
        });
        let ended = Rc::new(Cell::new(false));
        let end = Rc::clone(&ended);
        let waiting = tokio::task::spawn_local(async move {
            waiting.await;
            end.set(true);
        });
        let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
        assert_eq!((short(&answer, 1).as_str(), ended.get()), ("+2.0.0", false));
        waiting.abort();
    });
}
