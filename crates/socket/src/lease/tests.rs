use std::cell::RefCell;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::testing::hosts::{self, Hosts, Port};
use crate::testing::{Echo, Echoer, Place, Raw, Say, run, say, until};
use crate::{Address, CallError, Client, ClientSettings, Gate, SendOptions, ServerSettings};

type Left = Rc<Cell<Option<Duration>>>;

/// A client that says so much is left.
fn leased(place: &Place, left: &Left) -> Client<Echo> {
    Client::new(place.path(), settings(left))
}

fn settings(left: &Left) -> ClientSettings {
    let left = Rc::clone(left);
    ClientSettings { lease: Some(Rc::new(move || left.get())), ..ClientSettings::default() }
}

fn millis(millis: u64) -> Left {
    Rc::new(Cell::new(Some(Duration::from_millis(millis))))
}

/// Sends a request that is held, and gives its gate.
async fn hold(client: &Client<Echo>, echoer: &Echoer) -> Gate {
    client.connect();
    until(|| !client.peers().is_empty()).await;
    client.send(&say("held"), SendOptions::default(), |_| {}).unwrap();
    until(|| !echoer.held.borrow().is_empty()).await;
    echoer.held.borrow()[0].1.gate()
}

#[test]
fn a_gate_opens_with_the_first_answer_and_shuts_when_the_client_says_so() {
    run(async {
        let (place, echoer, left) = (Place::new(), Echoer::holding(), millis(600));
        let _server = place.serve(echoer.clone(), ServerSettings::default());
        let client = leased(&place, &left);
        let gate = hold(&client, &echoer).await;
        gate.leased().await;
        assert!(gate.is_leased());
        // It is asked again and again.
        tokio::time::sleep(Duration::from_millis(800)).await;
        assert!(gate.is_leased());
        left.set(Some(Duration::ZERO));
        until(|| !gate.is_leased()).await;
        left.set(Some(Duration::from_secs(5)));
        gate.leased().await;
        assert!(gate.is_leased());
    });
}

#[test]
fn what_has_no_end_is_leased_only_across_hosts() {
    run(async {
        let (place, echoer, left) = (Place::new(), Echoer::holding(), Left::default());
        let _server = place.serve(echoer.clone(), ServerSettings::default());
        let near = leased(&place, &left);
        let near_gate = hold(&near, &echoer).await;
        let (hosts, echoer) = (Hosts::new(), Echoer::holding());
        let keys = hosts.keys(hosts::HOST, &["test"]);
        let port = Port::open(keys, echoer.clone(), ServerSettings::default()).await;
        let places = hosts::places(vec![port.place()], hosts.keys("asker.example", &["asker"]));
        let far = Client::new(places, settings(&left));
        let far_gate = hold(&far, &echoer).await;
        far_gate.leased().await;
        assert!(near_gate.is_leased() && far_gate.is_leased());
        left.set(Some(Duration::ZERO));
        until(|| !far_gate.is_leased()).await;
        assert!(near_gate.is_leased(), "it was never asked");
    });
}

#[test]
fn a_lease_counts_from_the_question_and_is_asked_for_only_while_something_is_unanswered() {
    run(async {
        let (place, echoer) = (Place::new(), Echoer::holding());
        let _server = place.serve(echoer.clone(), ServerSettings::default());
        let mut raw = place.raw().await;
        raw.line().await;
        raw.write("{\"method\":\"use\",\"params\":{\"version\":2,\"leased\":true}}\n").await;
        let ping = async |raw: &mut Raw, id: u64| {
            let expect = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping","params":{{}}}}"#);
            assert_eq!(raw.line().await, expect);
        };
        let grant =
            |id: u64, ms: u64| format!("{{\"id\":{id},\"result\":{{\"lease_ms\":{ms}}}}}\n");
        raw.write("{\"id\":7,\"method\":\"say\",\"params\":{\"text\":\"\"}}\n").await;
        ping(&mut raw, 1).await;
        let gate = echoer.held.borrow()[0].1.gate();
        tokio::time::sleep(Duration::from_millis(300)).await;
        raw.write(&grant(1, 250)).await;
        // Too late to be of use: it is asked again at once.
        ping(&mut raw, 2).await;
        assert!(!gate.is_leased());
        // More than there is to have; and nothing at all, from one that knows nothing of leases.
        raw.write(&grant(2, u64::MAX)).await;
        gate.leased().await;
        assert!(gate.is_leased());
        ping(&mut raw, 3).await;
        raw.write("{\"id\":3,\"result\":{}}\n").await;
        until(|| !gate.is_leased()).await;
        ping(&mut raw, 4).await;
        raw.write(&grant(4, 300)).await;
        gate.leased().await;
        echoer.answer_all();
        assert!(raw.line().await.contains("\"id\":7,\"result\""));
        let more = tokio::time::timeout(Duration::from_millis(700), raw.line()).await;
        assert!(more.is_err(), "nothing is unanswered, and it asks: {more:?}");
        raw.write("{\"id\":8,\"method\":\"say\",\"params\":{\"text\":\"\"}}\n").await;
        ping(&mut raw, 5).await;
        // An answer that was not asked for ends the connection, as it does without a lease.
        raw.write(&grant(4, 300)).await;
        assert_eq!(raw.rest().await, "");
    });
}

#[test]
fn who_waits_for_a_lease_does_not_wait_for_ever() {
    run(async {
        let (place, echoer) = (Place::new(), Echoer::holding());
        let _server = place.serve(echoer.clone(), ServerSettings::default());
        let mut raw = place.raw().await;
        raw.line().await;
        raw.write("{\"method\":\"use\",\"params\":{\"version\":2,\"leased\":true}}\n").await;
        raw.write("{\"id\":1,\"method\":\"say\",\"params\":{\"text\":\"\"}}\n").await;
        until(|| !echoer.held.borrow().is_empty()).await;
        let gate = echoer.held.borrow()[0].1.gate();
        let begun = Instant::now();
        gate.leased().await;
        assert!(!gate.is_leased() && begun.elapsed() >= WAIT_MAX);
        drop(raw);
        until(|| !gate.is_connected()).await;
    });
}

#[test]
fn a_client_asks_to_be_asked_and_answers_as_the_manual_says() {
    run(async {
        let place = Place::new();
        let listener = place.listen();
        let left = millis(60_000);
        let client = leased(&place, &left);
        client.connect();
        let mut raw = Raw::new(listener.accept().await.unwrap().0);
        let hello =
            "{\"method\":\"hello\",\"params\":{\"conversation\":\"echo\",\"versions\":[2]}}\n";
        raw.write(hello).await;
        let used = r#"{"jsonrpc":"2.0","method":"use","params":{"version":2,"leased":true}}"#;
        assert_eq!(raw.line().await, used);
        for (is_left, ms) in [(Some(60_000), 10_000), (Some(1), 1), (Some(0), 0), (None, 10_000)] {
            left.set(is_left.map(Duration::from_millis));
            raw.write("{\"id\":5,\"method\":\"ping\"}\n").await;
            let granted = format!(r#"{{"jsonrpc":"2.0","id":5,"result":{{"lease_ms":{ms}}}}}"#);
            assert_eq!(raw.line().await, granted);
        }
    });
}

/// What lies between two hosts, and can be cut.
struct Wire {
    address: Address,
    stopped: Rc<Cell<bool>>,
    cut: Rc<Notify>,
}

impl Wire {
    async fn to(port: &Port) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let number = listener.local_addr().unwrap().port();
        let (far, stopped, cut) = (port.address, Rc::new(Cell::new(false)), Rc::new(Notify::new()));
        let (stops, cuts) = (stopped.clone(), cut.clone());
        tokio::task::spawn_local(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(far).await.unwrap();
                let carry =
                    tokio::task::spawn_local(carry(near, far, stops.clone())).abort_handle();
                let cuts = cuts.clone();
                tokio::task::spawn_local(async move {
                    cuts.notified().await;
                    carry.abort();
                });
            }
        });
        let address = Address::Tcp { host: hosts::HOST.to_owned(), at: None, port: number };
        Self { address, stopped, cut }
    }
}

/// Carries bytes both ways; while it is stopped they wait.
async fn carry(mut near: TcpStream, mut far: TcpStream, stopped: Rc<Cell<bool>>) {
    let mut bytes = vec![0; 65536];
    loop {
        let mut moved = false;
        if !stopped.get() {
            for (from, to) in [(0, 1), (1, 0)] {
                let ends = [&mut near, &mut far];
                match ends[from].try_read(&mut bytes) {
                    Ok(0) => return,
                    Ok(length) => {
                        moved = true;
                        ends[to].write_all(&bytes[..length]).await.unwrap();
                    }
                    Err(_) => {}
                }
            }
        }
        if !moved {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A client and a server with a wire between them, and a request that the server holds.
struct Apart {
    wire: Wire,
    _port: Port,
    echoer: Rc<Echoer>,
    client: Client<Echo>,
    gate: Gate,
    answer: Rc<RefCell<Option<Result<Say, CallError>>>>,
}

impl Apart {
    async fn new(left: &Left) -> Self {
        let (hosts, echoer) = (Hosts::new(), Echoer::holding());
        let keys = hosts.keys(hosts::HOST, &["test"]);
        let port = Port::open(keys, echoer.clone(), ServerSettings::default()).await;
        let wire = Wire::to(&port).await;
        let keys = hosts.keys("asker.example", &["asker"]);
        let places = hosts::places(vec![wire.address.clone()], keys);
        let client = Client::new(places, settings(left));
        client.connect();
        until(|| !client.peers().is_empty()).await;
        let answer = Rc::new(RefCell::new(None));
        let told = answer.clone();
        let on_answer = move |answer| drop(told.borrow_mut().replace(answer));
        client.send(&say("held"), SendOptions::default(), on_answer).unwrap();
        until(|| !echoer.held.borrow().is_empty()).await;
        let gate = echoer.held.borrow()[0].1.gate();
        gate.leased().await;
        assert!(gate.is_leased());
        Self { wire, _port: port, echoer, client, gate, answer }
    }

    fn is_lost(&self) -> bool {
        matches!(*self.answer.borrow(), Some(Err(CallError::Lost { .. })))
    }
}

#[test]
fn who_is_cut_off_acts_no_more() {
    run(async {
        let apart = Apart::new(&millis(800)).await;
        apart.wire.stopped.set(true);
        until(|| !apart.gate.is_leased()).await;
        assert!(apart.gate.is_connected(), "the kernel knows nothing of it");
        apart.wire.stopped.set(false);
        apart.gate.leased().await;
        assert!(apart.gate.is_leased());
        apart.echoer.answer_all();
        until(|| apart.answer.borrow().is_some()).await;
        assert!(!apart.is_lost());
    });
}

#[test]
fn what_a_server_may_still_act_on_is_not_lost_yet() {
    run(async {
        let apart = Apart::new(&millis(1500)).await;
        // The server does not hear that the client is cut off; the client does.
        apart.wire.stopped.set(true);
        tokio::time::sleep(Duration::from_millis(10)).await;
        apart.wire.cut.notify_one();
        until(|| apart.client.peers().is_empty()).await;
        assert_eq!(apart.client.outstanding(), 1);
        until(|| {
            let lost = apart.is_lost();
            assert!(!lost || !apart.gate.is_leased(), "lost, and the server may still act");
            lost
        })
        .await;
        assert_eq!(apart.client.outstanding(), 0);
    });
}

#[test]
fn what_a_server_gave_back_in_order_is_lost_at_once() {
    run(async {
        let apart = Apart::new(&millis(9000)).await;
        let held = apart.echoer.held.borrow()[0].1.gate();
        held.close_for_test();
        let begun = Instant::now();
        until(|| apart.is_lost()).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    });
}
