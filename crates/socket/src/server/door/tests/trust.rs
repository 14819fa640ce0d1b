//! Whom a client believes, and what becomes of those who were believed.

use std::time::SystemTime;

use tls::{Keys, days_from_now};

use super::*;
use crate::testing::hosts::HOST;

/// Shows a client with good keys a server with these; says what became of a call.
async fn call(hosts: &Hosts, server: Rc<Keys>) -> Result<crate::testing::Say, CallError> {
    let echoer = Rc::<Echoer>::default();
    let port = Port::open(server, echoer.clone(), ServerSettings::default()).await;
    let keys = hosts.keys("asker.example", &["asker"]);
    let client = client(vec![port.place()], keys, Duration::from_millis(400));
    let answer = client.call(&say("?")).await;
    assert_eq!(echoer.taken.get(), usize::from(answer.is_ok()));
    answer
}

#[test]
fn a_client_believes_only_the_host_and_the_farm_that_it_wants() {
    run(async {
        let hosts = Hosts::new();
        assert!(call(&hosts, hosts.keys(HOST, &["router", "test"])).await.is_ok());
        assert!(call(&hosts, hosts.keys(HOST, &["router", "asker"])).await.is_err());
        assert!(call(&hosts, hosts.keys("other.example", &["test"])).await.is_err());
        assert!(call(&hosts, hosts.keys("127.0.0.1", &["test"])).await.is_err());
        let strangers = Hosts::new();
        assert!(call(&hosts, strangers.keys(HOST, &["test"])).await.is_err());
        let yesterday = SystemTime::now() - Duration::from_secs(24 * 3600);
        let old = Keys::load(&hosts.issue(HOST, &["test"], yesterday)).unwrap();
        assert!(call(&hosts, Rc::new(old)).await.is_err());
    });
}

#[test]
fn a_host_may_be_reached_elsewhere_than_by_its_name() {
    run(async {
        let hosts = Hosts::new();
        let server = hosts.keys("mx1.example", &["test"]);
        let port = Port::open(server, Rc::default(), ServerSettings::default()).await;
        let keys = hosts.keys("asker.example", &["asker"]);
        let at = |host: &str| {
            let (host, at) = (host.to_owned(), Some("127.0.0.1".to_owned()));
            crate::Address::Tcp { host, at, port: port.address.port() }
        };
        let deadline = Duration::from_millis(500);
        assert!(answers(&client(vec![at("mx1.example")], keys.clone(), deadline)).await);
        assert!(!answers(&client(vec![at("mx2.example")], keys, deadline)).await);
    });
}

#[test]
fn a_client_without_keys_connects_nowhere() {
    run(async {
        let hosts = Hosts::new();
        let port = port(&hosts, Rc::default(), "test/1").await;
        let places = crate::Places { addresses: vec![port.place()], remote: None };
        let settings =
            crate::ClientSettings { deadline: Duration::from_millis(200), ..Default::default() };
        let client = crate::Client::<crate::testing::Echo>::new(places, settings);
        assert!(!answers(&client).await);
    });
}

#[test]
fn a_connection_ends_when_a_certificate_runs_out_after_what_is_due() {
    run(async {
        let hosts = Hosts::new();
        let echoer = Echoer::holding();
        let port = port(&hosts, echoer.clone(), "test/1").await;
        let soon = SystemTime::now() + Duration::from_secs(3);
        let keys = Keys::load(&hosts.issue("asker.example", &["asker"], soon)).unwrap();
        let client = port.client(Rc::new(keys));
        connected(&client, 1).await;
        let answered = Rc::new(Cell::new(false));
        let told = answered.clone();
        let sent = client.send(&say("before"), SendOptions::default(), move |answer| {
            told.set(answer.is_ok());
        });
        sent.unwrap();
        until(|| client.peers()[0].draining).await;
        assert!(SystemTime::now() >= soon - Duration::from_secs(1));
        echoer.answer_all();
        until(|| answered.get()).await;
        until(|| client.peers().is_empty()).await;
        port.server.emptied().await;
    });
}

#[test]
fn an_authority_follows_another_without_a_restart() {
    run(async {
        let (old, new) = (Hosts::new(), Hosts::new());
        let server = old.issue(HOST, &["test"], days_from_now(9));
        let asker = old.issue("asker.example", &["asker"], days_from_now(9));
        let left_behind = old.keys("left.example", &["asker"]);
        let load = |directory| Rc::new(Keys::load(directory).unwrap());
        let (server_keys, asker_keys) = (load(&server), load(&asker));
        let port = Port::open(server_keys.clone(), Rc::default(), ServerSettings::default()).await;
        let client = port.client(asker_keys.clone());
        connected(&client, 1).await;
        let connection = client.peers()[0].id;
        let changed = async |times: u64| {
            until(|| server_keys.generation() == times && asker_keys.generation() == times).await;
        };
        // The new authority is believed beside the old one …
        let both = old.authority_text() + &new.authority_text();
        let old_text = old.authority_text();
        for directory in [&server, &asker] {
            std::fs::write(directory.join("ca.pem"), &both).unwrap();
        }
        changed(1).await;
        // … then hosts get its certificates, one after the other …
        std::fs::write(new.authority().join("ca.pem"), &both).unwrap();
        new.issue_to(asker.clone(), "asker.example", &["asker"], days_from_now(9));
        until(|| asker_keys.generation() == 2).await;
        assert!(answers(&port.client(asker_keys.clone())).await);
        new.issue_to(server.clone(), HOST, &["test"], days_from_now(9));
        changed(2).await;
        assert!(answers(&port.client(asker_keys.clone())).await);
        assert_eq!(client.peers()[0].id, connection, "nothing has disturbed who was connected");
        // … and the old one is believed no more.
        let only_new = both.strip_prefix(&old_text).unwrap();
        std::fs::write(server.join("ca.pem"), only_new).unwrap();
        until(|| server_keys.generation() >= 3).await;
        until(|| client.peers().iter().any(|peer| peer.id != connection)).await;
        until(|| client.peers().iter().all(|peer| peer.id != connection)).await;
        assert!(answers(&client).await);
        let deadline = Duration::from_millis(300);
        let late = crate::testing::hosts::client(vec![port.place()], left_behind, deadline);
        assert!(!answers(&late).await, "its authority is believed no more");
    });
}
