//! A database that is restarted, cut off, read-only or failed over while somebody owns the ledger.

use std::time::Duration;

use queue::{LedgerError, Record};
use queue_postgres::testing::{Bouncer, End, Options, Server, block_on, shared};

use super::gate::Gate;
use super::support::{acquire, messages, over, replay, routings, synced, tables};

#[test]
fn a_commit_whose_answer_is_lost_is_made_once() {
    let name = shared().database();
    let gate = Gate::to(&shared().socket());
    block_on(async {
        let mail = messages(&shared().url(&name), 20).await;
        let owner = acquire(&gate.url(&name), "the owner").await;
        replay(&*owner.ledger).await;
        gate.lose_answer_to("INTO routed");
        synced(&*owner.ledger, &routings(&mail)).await.expect("it is written again");
        gate.wait_for_losses(1);
        let rows = "SELECT (SELECT count(*) FROM routed), (SELECT count(*) FROM recipient)";
        assert_eq!(shared().sql(&name, rows), "20|20");
        gate.lose_answer_to("DELETE FROM message");
        let retired =
            |(id, handle): &(_, queue::Handle)| Record::Retired { id: *id, handle: handle.clone() };
        let retired: Vec<Record> = mail.iter().map(retired).collect();
        synced(&*owner.ledger, &retired).await.expect("it is written again");
        gate.wait_for_losses(2);
        assert_eq!(shared().sql(&name, rows), "0|0");
        assert_eq!(shared().sql(&name, "SELECT count(*) FROM message"), "0");
        owner.ledger.release(true).await.expect("it can be given up");
    });
}

#[test]
fn what_was_written_outlives_a_server_that_is_killed() {
    let mut server = Server::start(Options::default());
    let name = server.database();
    let url = server.url(&name);
    block_on(async {
        let mail = messages(&url, 60).await;
        let owner = acquire(&url, "the owner").await;
        replay(&*owner.ledger).await;
        let all = routings(&mail);
        // Written and not synced: the server may lose it.
        for records in all.chunks(20) {
            let mark = owner.ledger.append(records).expect("it is its own");
            owner.ledger.written(mark).await.expect("it can be written");
        }
        server.end(End::Kill);
        let mark = owner.ledger.append(&all).expect("it does not know yet");
        server.run();
        owner.ledger.synced(mark).await.expect("it is there again in time");
        assert_eq!(server.sql(&name, "SELECT count(*) FROM routed"), "60");
        server.end(End::Fast);
        server.run();
        synced(&*owner.ledger, &[Record::Hold { id: mail[0].0, reason: Some("x".into()) }])
            .await
            .expect("and again");
        owner.ledger.release(true).await.expect("it can be given up");
        assert_eq!(replay(&*acquire(&url, "the next").await.ledger).await.len(), 61);
    });
}

#[test]
fn a_server_that_is_away_for_long_ends_an_owners_time_and_it_comes_back_by_itself() {
    let mut server = Server::start(Options::default());
    let name = server.database();
    let url = server.url(&name);
    block_on(async {
        let mail = messages(&url, 2).await;
        let owner = acquire(&url, "the owner").await;
        replay(&*owner.ledger).await;
        synced(&*owner.ledger, &routings(&mail)).await.expect("it can be written");
        server.end(End::Fast);
        let mark = owner.ledger.append(&[Record::Hold { id: mail[0].0, reason: None }]);
        let written = owner.ledger.written(mark.expect("it does not know yet"));
        assert!(matches!(over(&owner.ledger).await, LedgerError::Fenced(_)));
        assert!(matches!(written.await, Err(LedgerError::Fenced(_))));
        drop(owner);
        let next = queue_postgres::open_ownership(&super::support::database(&url), "the next");
        let mut next = queue::Ownership::acquire(&*next);
        let waits = tokio::time::timeout(Duration::from_secs(1), &mut next).await;
        assert!(waits.is_err(), "nobody answers");
        server.run();
        let next = tokio::time::timeout(super::support::PATIENCE, next).await;
        let next = next.expect("it comes back").expect("it can be opened");
        assert!(!next.is_clean);
        assert_eq!(replay(&*next.ledger).await.len(), 2);
    });
}

#[test]
fn a_server_that_takes_no_writes_is_waited_for() {
    let server = Server::start(Options::default());
    let name = server.database();
    let url = server.url(&name);
    let read_only = |value: &str| {
        server.configure(&[format!("default_transaction_read_only = {value}")]);
        server.reload();
    };
    block_on(async {
        let mail = messages(&url, 2).await;
        let owner = acquire(&url, "the owner").await;
        replay(&*owner.ledger).await;
        read_only("on");
        // It passes before the owner's time has.
        let mark = owner.ledger.append(&routings(&mail)).expect("it is its own");
        let synced = owner.ledger.synced(mark);
        let waits = tokio::time::timeout(Duration::from_millis(500), synced).await;
        assert!(waits.is_err(), "nothing can be written");
        read_only("off");
        owner.ledger.synced(mark).await.expect("it is written now");
        // And it does not.
        read_only("on");
        assert!(matches!(over(&owner.ledger).await, LedgerError::Fenced(_)));
        let before = tables(&server, &name);
        drop(owner);
        assert_eq!(tables(&server, &name), before);
        read_only("off");
        assert_eq!(replay(&*acquire(&url, "the next").await.ledger).await.len(), 2);
    });
}

#[test]
fn a_failover_loses_nothing_that_was_synced_and_nothing_of_a_living_owner() {
    let mut primary = Server::start(Options::default());
    let name = primary.database();
    let standby = primary.standby("s1", Options::default());
    primary.wait_for_standbys("s1");
    let both = {
        let (first, second) = (primary.url(&name), standby.url(&name));
        let host = |url: &str| {
            let rest = url.split('@').nth(1).expect("it has a host").to_owned();
            rest.split('/').next().expect("it has a host").to_owned()
        };
        first.replace(&host(&first), &format!("{},{}", host(&first), host(&second)))
    };
    block_on(async {
        let mail = messages(&both, 60).await;
        let owner = acquire(&both, "the owner").await;
        replay(&*owner.ledger).await;
        let all = routings(&mail);
        let (some, rest) = all.split_at(20);
        synced(&*owner.ledger, some).await.expect("it is on both");
        let mark = owner.ledger.append(rest).expect("it is its own");
        owner.ledger.written(mark).await.expect("it is on one at least");
        primary.end(End::Kill);
        standby.promote();
        // Its time may have passed meanwhile: what was synced is there then.
        let synced = owner.ledger.synced(mark).await;
        let rows: usize =
            standby.sql(&name, "SELECT count(*) FROM routed").parse().expect("a number");
        match synced {
            Ok(()) => assert_eq!(rows, 60),
            Err(error) => {
                assert!(matches!(error, LedgerError::Fenced(_)), "{error}");
                assert!(rows >= 20, "{rows}");
            }
        }
        drop(owner);
        let next = acquire(&both, "the next").await;
        assert_eq!(replay(&*next.ledger).await.len(), rows);
    });
}

#[test]
fn a_pooler_may_give_each_transaction_another_connection() {
    let name = shared().database();
    let bouncer = Bouncer::start(shared(), 3);
    let url = bouncer.url(&name);
    block_on(async {
        let mail = messages(&url, 40).await;
        let owner = acquire(&url, "the owner").await;
        replay(&*owner.ledger).await;
        let second = queue_postgres::open_ownership(&super::support::database(&url), "the second");
        let mut second = queue::Ownership::acquire(&*second);
        let waits = tokio::time::timeout(Duration::from_millis(500), &mut second).await;
        assert!(waits.is_err(), "the first has it");
        for (number, records) in routings(&mail).chunks(4).enumerate() {
            let mark = owner.ledger.append(records).expect("it is its own");
            match number % 2 {
                0 => owner.ledger.written(mark).await.expect("it can be written"),
                _ => owner.ledger.synced(mark).await.expect("it can be synced"),
            }
        }
        let handles: Vec<_> = mail.iter().map(|(_, handle)| handle).collect();
        assert!(owner.ledger.look_up(&handles).is_none(), "it has routed them itself");
        owner.ledger.release(true).await.expect("it can be given up");
        let second = second.await.expect("it can be opened");
        assert!(second.is_clean);
        assert_eq!(replay(&*second.ledger).await.len(), 40, "{}", bouncer.log());
        second.ledger.release(true).await.expect("it can be given up");
    });
}

#[test]
fn while_no_standby_has_a_commit_nobody_owns_the_ledger() {
    let primary = Server::start(Options::default());
    let name = primary.database();
    let url = primary.url(&name);
    let mut standby = primary.standby("s1", Options::default());
    primary.wait_for_standbys("s1");
    block_on(async {
        let mail = messages(&url, 3).await;
        let owner = acquire(&url, "the owner").await;
        replay(&*owner.ledger).await;
        synced(&*owner.ledger, &routings(&mail[..2])).await.expect("both have it");
        standby.end(End::Kill);
        let mark = owner.ledger.append(&routings(&mail[2..])).expect("it does not know yet");
        owner.ledger.written(mark).await.expect("that waits for nobody");
        assert!(matches!(owner.ledger.synced(mark).await, Err(LedgerError::Fenced(_))));
        assert!(matches!(over(&owner.ledger).await, LedgerError::Fenced(_)));
        drop(owner);
        // An operator goes on without it.
        primary.wait_for_standbys("");
        let next = acquire(&url, "the next").await;
        assert!(!next.is_clean);
        assert_eq!(replay(&*next.ledger).await.len(), 3);
    });
}
