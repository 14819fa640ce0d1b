//! Requests that are to be alone in hand, beside others that are not.

use std::cell::RefCell;

use super::*;
use crate::testing::{Echo, Echoer, Place, Raw, Say, run, say, until};
use crate::{CallError, Client, SendOptions, Server, ServerSettings, Serving, codes};

const ALONE: SendOptions =
    SendOptions { deadline: Some(Duration::from_secs(9)), give_up: true, alone: true, to: None };

type Answers = Rc<RefCell<Vec<Result<Say, CallError>>>>;

struct Case {
    echoer: Rc<Echoer>,
    server: Server<Echo>,
    clients: [Client<Echo>; 2],
    answers: Answers,
    _place: Place,
}

impl Case {
    /// A server that keeps what it takes, and two clients.
    async fn new() -> Self {
        let place = Place::new();
        let echoer = Echoer::holding();
        let server = place.serve(Rc::clone(&echoer), ServerSettings::default());
        let clients = [place.connected(1).await, place.connected(1).await];
        Self { echoer, server, clients, answers: Rc::default(), _place: place }
    }

    /// Sends, and waits until it has come.
    async fn send(&self, client: usize, text: &str, options: SendOptions) {
        let (answers, before) = (Rc::clone(&self.answers), self.server.outstanding());
        let on_answer = move |answer| answers.borrow_mut().push(answer);
        self.clients[client].send(&say(text), options, on_answer).expect("there is room");
        until(|| self.server.outstanding() == before + 1).await;
    }

    fn in_hand(&self) -> Vec<String> {
        self.echoer.held.borrow().iter().map(|(say, _)| say.text.clone()).collect()
    }
}

#[test]
fn it_is_taken_when_the_hand_is_empty_and_nothing_is_beside_it() {
    run(async {
        let case = Case::new().await;
        case.send(0, "a", SendOptions::default()).await;
        case.send(1, "alone", ALONE).await;
        case.send(0, "b", SendOptions::default()).await;
        case.send(1, "alone too", ALONE).await;
        assert_eq!(case.in_hand(), ["a"]);
        for expected in ["alone", "b", "alone too"] {
            case.echoer.answer_all();
            until(|| case.in_hand() == [expected]).await;
        }
        case.echoer.answer_all();
        until(|| case.answers.borrow().len() == 4).await;
        assert!(case.answers.borrow().iter().all(Result::is_ok));
        // And all is as it was before.
        case.send(0, "c", SendOptions::default()).await;
        case.send(1, "d", SendOptions::default()).await;
        assert_eq!(case.in_hand(), ["c", "d"]);
    });
}

#[test]
fn what_is_no_danger_any_more_lets_others_in() {
    run(async {
        let case = Case::new().await;
        case.send(0, "alone", ALONE).await;
        until(|| case.in_hand() == ["alone"]).await;
        case.send(1, "b", SendOptions::default()).await;
        assert_eq!(case.in_hand(), ["alone"]);
        {
            let mut held = case.echoer.held.borrow_mut();
            let responder = &mut held[0].1;
            assert!(responder.is_alone());
            responder.set_aside();
            responder.set_aside();
            assert!(responder.is_alone(), "its sender still wants it to be");
        }
        until(|| case.in_hand() == ["alone", "b"]).await;
        assert!(!case.echoer.held.borrow()[1].1.is_alone());
        case.send(1, "alone too", ALONE).await;
        assert_eq!(case.in_hand(), ["alone", "b"]);
        case.echoer.held.borrow_mut()[1].1.set_aside();
        until(|| case.in_hand() == ["alone", "b", "alone too"]).await;
        case.echoer.answer_all();
        case.send(1, "c", SendOptions::default()).await;
        until(|| case.in_hand() == ["c"]).await;
    });
}

#[test]
fn it_is_not_taken_when_its_time_is_over_and_the_others_go_on() {
    run(async {
        let case = Case::new().await;
        case.send(0, "slow", SendOptions::default()).await;
        let soon = SendOptions { deadline: Some(Duration::from_millis(50)), ..ALONE };
        case.send(1, "alone", soon).await;
        case.send(1, "b", SendOptions::default()).await;
        until(|| case.in_hand() == ["slow", "b"]).await;
        until(|| case.answers.borrow().len() == 1).await;
        let refused = case.answers.borrow()[0].clone();
        assert!(matches!(refused, Err(CallError::Refused(e)) if e.code == codes::NOT_TAKEN));
    });
}

#[test]
fn who_goes_while_waiting_is_forgotten() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        let server = place.serve(Rc::clone(&echoer), ServerSettings::default());
        let staying = place.connected(1).await;
        staying.send(&say("a"), SendOptions::default(), drop).expect("there is room");
        until(|| echoer.taken.get() == 1).await;
        let mut raw = place.raw().await;
        raw.begin().await;
        raw.write("{\"id\":1,\"method\":\"say\",\"alone\":true,\"params\":{\"text\":\"b\"}}\n")
            .await;
        raw.write("{\"id\":2,\"method\":\"say\",\"params\":{\"text\":\"c\"}}\n").await;
        until(|| server.outstanding() == 3).await;
        drop(raw);
        until(|| server.connections() == 1).await;
        echoer.answer_all();
        until(|| server.outstanding() == 0).await;
        assert_eq!(echoer.taken.get(), 1);
    });
}

/// What a client makes of a server that says this of its request, and dies.
async fn lost(said: &[&str]) -> bool {
    let place = Place::new();
    let listener = place.listen();
    let client = place.client(Duration::from_secs(5));
    client.connect();
    let mut peer = Raw::new(listener.accept().await.expect("a client").0);
    let hello = "{\"method\":\"hello\",\"params\":{\"conversation\":\"echo\",\"versions\":[2]}}\n";
    peer.write(hello).await;
    until(|| client.peers().len() == 1).await;
    let call = client.clone();
    let call = tokio::task::spawn_local(async move { call.call_alone(&say("x")).await });
    assert!(peer.line().await.contains("\"use\""));
    let request = peer.line().await;
    assert!(request.contains("\"alone\":true,\"params\":{\"text\":\"x\"}"), "{request}");
    for params in said {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"in_hand\",\"params\":{params}}}\n");
        peer.write(&line).await;
    }
    drop(peer);
    match call.await.expect("no panic") {
        Err(CallError::Lost { alone, .. }) => alone,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn a_sender_knows_whether_what_it_lost_was_alone() {
    run(async {
        assert!(!lost(&[]).await, "it was on its way");
        assert!(lost(&[r#"{"id":1,"alone":true}"#]).await);
        assert!(!lost(&[r#"{"id":1,"alone":true}"#, r#"{"id":1,"alone":false}"#]).await);
        assert!(!lost(&[r#"{"id":7,"alone":true}"#, "{}"]).await);
    });
}

#[test]
fn a_peer_is_told_before_its_request_is_looked_at() {
    run(async {
        let place = Place::new();
        let echoer = Echoer::holding();
        place.serve(Rc::clone(&echoer), ServerSettings::default());
        let mut raw = place.raw().await;
        raw.begin().await;
        raw.write("{\"id\":5,\"method\":\"say\",\"alone\":true,\"params\":{\"text\":\"b\"}}\n")
            .await;
        let told = r#"{"jsonrpc":"2.0","method":"in_hand","params":{"id":5,"alone":true}}"#;
        assert_eq!(raw.line().await, told);
        until(|| echoer.taken.get() == 1).await;
        echoer.answer_all();
        assert_eq!(raw.line().await, r#"{"jsonrpc":"2.0","id":5,"result":{"text":"b"}}"#);
    });
}

#[test]
fn servers_of_one_worker_share_a_hand() {
    run(async {
        let (one, other) = (Place::new(), Place::new());
        let echoer = Echoer::holding();
        let settings = ServerSettings::default();
        one.serve(Rc::clone(&echoer), settings.clone());
        other.serve(Rc::clone(&echoer), settings);
        let (first, second) = (one.connected(1).await, other.connected(1).await);
        first.send(&say("alone"), ALONE, drop).expect("there is room");
        until(|| echoer.taken.get() == 1).await;
        second.send(&say("b"), SendOptions::default(), drop).expect("there is room");
        // Answered by a server that reads it after that.
        let mut raw = other.raw().await;
        raw.begin().await;
        raw.write("{\"id\":1,\"method\":\"ping\"}\n").await;
        raw.line().await;
        assert_eq!(echoer.taken.get(), 1);
        echoer.answer_all();
        until(|| echoer.taken.get() == 2).await;
    });
}
