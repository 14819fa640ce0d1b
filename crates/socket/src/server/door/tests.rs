mod attacks;
mod trust;

use super::*;
use crate::testing::hosts::{Hosts, Port, answers, client, connected};
use crate::testing::{Echoer, run, say, until};
use crate::{CallError, SendOptions, ServerSettings, Serving, Who};

async fn port(hosts: &Hosts, echoer: Rc<Echoer>, worker: &str) -> Port {
    let settings = ServerSettings { worker: worker.to_owned(), ..Default::default() };
    Port::open(hosts.keys("localhost", &["test"]), echoer, settings).await
}

#[test]
fn requests_and_answers_cross_hosts() {
    run(async {
        let hosts = Hosts::new();
        let echoer = Echoer::holding();
        let port = port(&hosts, echoer.clone(), "test/1").await;
        let client = port.client(hosts.keys("asker.example", &["asker"]));
        let call = client.clone();
        let call = tokio::task::spawn_local(async move { call.call(&say("over there")).await });
        until(|| echoer.held.borrow().len() == 1).await;
        let who = echoer.held.borrow()[0].1.caller().who.clone();
        assert_eq!(who, Who::Host { name: "asker.example".into() });
        echoer.answer_all();
        assert_eq!(call.await.unwrap().unwrap().text, "over there");
        drop(client);
        port.server.emptied().await;
    });
}

#[test]
fn a_turn_makes_one_write_a_connection_here_too() {
    run(async {
        let hosts = Hosts::new();
        let port = port(&hosts, Rc::default(), "test/1").await;
        let client = port.client(hosts.keys("asker.example", &["asker"]));
        client.call(&say("warm")).await.unwrap();
        let before = crate::link::writes();
        let count = Rc::new(Cell::new(0));
        for number in 0..100 {
            let count = count.clone();
            let counted = move |answer: Result<crate::testing::Say, CallError>| {
                assert_eq!(answer.unwrap().text, number.to_string());
                count.set(count.get() + 1);
            };
            client.send(&say(number.to_string()), SendOptions::default(), counted).unwrap();
        }
        until(|| count.get() == 100).await;
        assert_eq!(crate::link::writes() - before, 2);
    });
}

#[test]
fn much_goes_through_both_ways() {
    run(async {
        let hosts = Hosts::new();
        let port = port(&hosts, Rc::default(), "test/1").await;
        let client = port.client(hosts.keys("asker.example", &["asker"]));
        client.call(&say("warm")).await.unwrap();
        // More than TLS and the kernel hold, so that both ends wait for room now and then.
        let text = "x".repeat(700_000);
        let calls: Vec<_> = (0..5)
            .map(|number| {
                let (client, text) = (client.clone(), format!("{number}{text}"));
                tokio::task::spawn_local(async move {
                    for _ in 0..8 {
                        assert!(client.call(&say(text.clone())).await.unwrap().text == text);
                    }
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
    });
}

#[test]
fn one_client_uses_all_places_and_does_not_confuse_their_processes() {
    run(async {
        let hosts = Hosts::new();
        // Both run in this process, and so have one process id.
        let (one, two) = (Echoer::holding(), Echoer::holding());
        let ports =
            [port(&hosts, one.clone(), "one/1").await, port(&hosts, two.clone(), "two/1").await];
        let keys = hosts.keys("asker.example", &["asker"]);
        let places = ports.iter().map(Port::place).collect();
        let client = client(places, keys, Duration::from_secs(5));
        connected(&client, 2).await;
        let peers = client.peers();
        assert_ne!(peers[0].pid, peers[1].pid);
        for _ in 0..10 {
            client.send(&say(""), SendOptions::default(), |_| {}).unwrap();
        }
        until(|| one.taken.get() + two.taken.get() == 10).await;
        assert_eq!((one.taken.get(), two.taken.get()), (5, 5));
        // A crash on one host is none of the other's.
        let crashed = Rc::new(RefCell::new(Vec::new()));
        let told = crashed.clone();
        client.on_crash(move |process| told.borrow_mut().push(process));
        ports[0].server.set_workers(1, &[77]);
        ports[1].server.set_workers(1, &[77]);
        until(|| crashed.borrow().len() == 2).await;
        assert_ne!(crashed.borrow()[0], crashed.borrow()[1]);
    });
}

#[test]
fn a_place_that_is_away_holds_nobody_up_and_is_left_when_the_client_moves() {
    run(async {
        let hosts = Hosts::new();
        let port_one = port(&hosts, Rc::default(), "one/1").await;
        let port_two = port(&hosts, Rc::default(), "two/1").await;
        let keys = hosts.keys("asker.example", &["asker"]);
        let away = "tcp:localhost:1".parse().unwrap();
        let client = client(vec![away, port_one.place()], keys.clone(), Duration::from_secs(5));
        assert!(answers(&client).await);
        let farm = "test".to_owned();
        let remote = crate::Remote { keys, farm, socket: "test.echo".to_owned() };
        let addresses = vec![port_two.place()];
        client.move_to(crate::Places { addresses, remote: Some(remote) });
        port_one.server.emptied().await;
        assert!(answers(&client).await);
        assert_eq!(client.peers()[0].worker, "two/1");
    });
}

#[test]
fn a_draining_server_tells_and_closes_here_too() {
    run(async {
        let hosts = Hosts::new();
        let echoer = Echoer::holding();
        let port = port(&hosts, echoer.clone(), "test/1").await;
        let client = port.client(hosts.keys("asker.example", &["asker"]));
        connected(&client, 1).await;
        let call = client.clone();
        let call = tokio::task::spawn_local(async move { call.call(&say("late")).await });
        until(|| echoer.held.borrow().len() == 1).await;
        port.server.drain();
        until(|| client.peers()[0].draining).await;
        echoer.answer_all();
        assert_eq!(call.await.unwrap().unwrap().text, "late");
        port.server.emptied().await;
    });
}
