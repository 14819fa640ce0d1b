//! Programs of different versions at the two ends of a socket, as while an upgrade is under way.

use tokio::net::UnixListener;

use super::*;
use crate::testing::Say;
use crate::{Conversation, Responder, Service};

macro_rules! conversation {
    ($name:ident, $versions:expr) => {
        struct $name;

        impl Conversation for $name {
            const NAME: &'static str = "say";
            const VERSIONS: &'static [u32] = &$versions;
            type Request = Say;
            type Answer = Say;
        }

        impl Service<$name> for () {
            fn call(&self, request: Say, responder: Responder<$name>) {
                let text = format!("{} in {}", request.text, responder.version());
                responder.answer(&say(text));
            }
        }
    };
}

conversation!(First, [1]);
conversation!(Second, [2, 1]);
conversation!(Third, [3, 2]);

/// Serves every connection that comes, as a worker of that version does.
fn serve<C: Conversation>(listener: UnixListener) -> Server<C>
where
    (): Service<C>,
{
    let server = Server::new(Rc::new(()), ServerSettings::default());
    let accepting = server.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            accepting.take(stream, None);
        }
    });
    server
}

fn client<C: Conversation>(place: &Place) -> Client<C> {
    let deadline = Duration::from_secs(5);
    Client::new(
        place.path(),
        ClientSettings { deadline, waiting_max: 3, ..ClientSettings::default() },
    )
}

fn speak<S: Conversation, C: Conversation<Request = Say, Answer = Say>>(version: u32)
where
    (): Service<S>,
{
    run(async {
        let place = Place::new();
        let _server = serve::<S>(place.listen());
        let client = client::<C>(&place);
        assert_eq!(client.call(&say("x")).await.unwrap().text, format!("x in {version}"));
        assert_eq!(client.peers()[0].version, version);
    });
}

#[test]
fn two_that_differ_speak_the_newest_version_that_both_know() {
    speak::<First, First>(1);
    speak::<First, Second>(1);
    speak::<Second, First>(1);
    speak::<Second, Second>(2);
    speak::<Second, Third>(2);
    speak::<Third, Second>(2);
}

#[test]
fn two_without_a_version_in_common_do_not_speak() {
    run(async {
        let place = Place::new();
        let server = serve::<Third>(place.listen());
        let client = Client::<First>::new(
            place.path(),
            ClientSettings {
                deadline: Duration::from_millis(300),
                waiting_max: 3,
                ..ClientSettings::default()
            },
        );
        let answer = client.call(&say("x")).await;
        assert!(matches!(answer, Err(CallError::NotSent(_) | CallError::Deadline)), "{answer:?}");
        assert!(client.peers().is_empty());
        until(|| server.connections() == 0).await;
    });
}

#[test]
fn an_upgraded_server_is_spoken_to_in_its_version_while_the_old_one_drains() {
    run(async {
        let place = Place::new();
        let old = serve::<First>(place.listen());
        let client = client::<Second>(&place);
        assert_eq!(client.call(&say("a")).await.unwrap().text, "a in 1");
        // The new worker is ready before the old one drains.
        let _new = serve::<Second>(place.listen());
        let before = client.peers()[0].id;
        old.drain();
        until(|| client.peers().iter().any(|peer| peer.id != before)).await;
        assert_eq!(client.call(&say("b")).await.unwrap().text, "b in 2");
    });
}

#[test]
fn a_client_that_moves_takes_the_answers_that_are_due() {
    run(async {
        let (here, there) = (Place::new(), Place::new());
        let (slow, quick) = (Echoer::holding(), Rc::<Echoer>::default());
        here.serve(slow.clone(), ServerSettings::default());
        there.serve(quick.clone(), ServerSettings::default());
        let client = here.connected(1).await;
        let answers = Answers::default();
        client.send(&say("before"), SendOptions::default(), answers.take()).unwrap();
        until(|| slow.held.borrow().len() == 1).await;
        client.move_to(there.path());
        assert!(client.peers()[0].draining);
        assert_eq!(client.call(&say("after")).await.unwrap().text, "after");
        assert_eq!((slow.taken.get(), quick.taken.get()), (1, 1));
        slow.answer_all();
        until(|| answers.len() == 1).await;
        assert_eq!(answers.0.borrow()[0], Ok("before".to_owned()));
        until(|| client.peers().len() == 1).await;
        // Where it is already, nothing changes.
        let peer = client.peers()[0].id;
        client.move_to(there.path());
        assert!(client.peers().iter().all(|one| one.id == peer && !one.draining));
    });
}

#[test]
fn a_client_that_moves_while_it_connects_ends_where_it_was_sent() {
    run(async {
        let (here, there) = (Place::new(), Place::new());
        let listener = here.listen();
        there.serve(Rc::default(), ServerSettings::default());
        let client = here.client(Duration::from_secs(5));
        client.connect();
        let mut silent = accept(&listener).await;
        client.move_to(there.path());
        silent.write(HELLO).await;
        assert_eq!(silent.rest().await, "", "nothing is asked there any more");
        assert_eq!(client.call(&say("x")).await.unwrap().text, "x");
    });
}
