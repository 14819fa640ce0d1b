//! What the tables hold: many messages, large ones, what has no rows and what is cleared away.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mail::{MessageId, Timestamp};
use queue::conformance::{accept, deliver, routed};
use queue::{Owed, Record, ReportKind, Routed};
use queue_postgres::testing::{block_on, shared};
use queue_postgres::{Name, STORE};

use super::support::{PATIENCE, acquire, database, messages, replay, routings, synced, tables};

fn message(record: Record) -> Routed {
    match record {
        Record::Routed(message) | Record::Snapshot(message) => *message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_messages_and_many_recipients_come_back_page_by_page() {
    let name = shared().database();
    let url = shared().url(&name);
    block_on(async {
        let mail = messages(&url, 1203).await;
        let mut all: BTreeMap<MessageId, Routed> =
            routings(&mail).into_iter().map(message).map(|one| (one.id, one)).collect();
        for (number, message) in all.values_mut().enumerate() {
            let first = message.recipients.first().expect("it has one").clone();
            // Pages of rows end in the midst of a message, at its end, and within one of many.
            let recipients = match number {
                7 => 0,
                500 => 12_345,
                number => number % 12,
            };
            message.recipients = (0..recipients as u32)
                .map(|index| queue::RoutedRecipient { index, ..first.clone() })
                .collect();
            if number % 100 == 3 {
                let due = Timestamp::from_millis(number as u64);
                let recipients = vec![0, 1];
                message.owed.push(Owed { kind: ReportKind::Failure, recipients, due });
            }
        }
        let owner = acquire(&url, "the owner").await;
        replay(&*owner.ledger).await;
        let records: Vec<Record> =
            all.values().map(|one| Record::Routed(Box::new(one.clone()))).collect();
        for part in records.chunks(100) {
            owner.ledger.append(part).expect("it is its own");
        }
        synced(&*owner.ledger, &[]).await.expect("it can be written");
        drop(owner);

        let owner = acquire(&url, "the next").await;
        let turns = Rc::new(Cell::new(0));
        let (others, counted) = (turns.clone(), turns.clone());
        let other = tokio::task::spawn_local(async move {
            loop {
                others.set(others.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let replayed = replay(&*owner.ledger).await;
        other.abort();
        assert!(counted.get() > 3, "others run in between");
        let replayed: BTreeMap<MessageId, Routed> =
            replayed.into_iter().map(message).map(|one| (one.id, one)).collect();
        assert!(replayed == all, "each is what it was");
        // What is owed is known to the writer: what is taken away is taken from that.
        let owes = replayed.values().find(|one| !one.owed.is_empty()).expect("some owe");
        let (kind, recipients) = (ReportKind::Failure, vec![1]);
        let reported = Record::Reported { id: owes.id, kind, recipients };
        let place = queue::Handle::parse("pg:elsewhere").expect("a handle");
        let moved = Record::Moved { id: owes.id, handle: place.clone() };
        synced(&*owner.ledger, &[reported, moved]).await.expect("it can be written");
        drop(owner);
        let owner = acquire(&url, "the last").await;
        let replayed = replay(&*owner.ledger).await;
        let its = replayed.into_iter().map(message).find(|one| one.id == owes.id);
        let its = its.expect("it is there");
        assert_eq!(its.handle, place);
        assert_eq!(its.owed.first().map(|owed| owed.recipients.clone()), Some(vec![0]));
    });
}

#[test]
fn a_message_that_is_not_stored_gets_no_rows() {
    let name = shared().database();
    let url = shared().url(&name);
    block_on(async {
        let owner = acquire(&url, "the owner").await;
        replay(&*owner.ledger).await;
        let before = tables(shared(), &name);
        let id = MessageId::new(Timestamp::from_millis(5), 5);
        let handle = Name::Message(id).handle();
        assert_eq!(handle.parts().0, STORE);
        let other = MessageId::new(Timestamp::from_millis(6), 6);
        let strike = |strikes| Record::Strike {
            handle: Name::Message(other).handle(),
            id: other,
            strikes,
            hold: None,
        };
        let records = [routed(id, &handle, 1), strike(1)];
        synced(&*owner.ledger, &records).await.expect("it can be written");
        let hold = Record::Hold { id, reason: Some("x".into()) };
        synced(&*owner.ledger, &[hold, routed(id, &handle, 2)]).await.expect("it can be written");
        assert_eq!(tables(shared(), &name), before);
    });
}

#[test]
fn a_message_that_ends_leaves_nothing() {
    let name = shared().database();
    let url = shared().url(&name);
    block_on(async {
        let empty = tables(shared(), &name);
        let intake = queue_postgres::open_intake(&database(&url)).expect("it can be opened");
        let mut mail = Vec::new();
        for length in [10, 300_000, 1_000_000] {
            mail.push(deliver(&*intake, &vec![b'x'; length], accept("a@example.test", 1)).await);
        }
        drop(intake);
        let owner = acquire(&url, "the owner").await;
        replay(&*owner.ledger).await;
        synced(&*owner.ledger, &routings(&mail)).await.expect("it can be written");
        assert!(shared().sql(&name, "SELECT count(*) FROM body") != "0");
        let zeros = Some("a \0 in it".to_owned());
        let (first, _) = mail.first().expect("there are three");
        let hold = Record::Hold { id: *first, reason: zeros };
        synced(&*owner.ledger, &[hold]).await.expect("what no text may hold is left out");
        let held = shared().sql(&name, "SELECT hold FROM routed WHERE hold IS NOT NULL");
        assert_eq!(held, "a \u{2400} in it");
        let ends = mail.into_iter().map(|(id, handle)| Record::Retired { id, handle });
        synced(&*owner.ledger, &ends.collect::<Vec<_>>()).await.expect("it can be written");
        owner.ledger.release(true).await.expect("it can be given up");
        shared()
            .sql(&name, "DELETE FROM intake_batch; UPDATE shard_epoch SET epoch = 0, owner = NULL");
        assert_eq!(tables(shared(), &name), empty);
    });
}

#[test]
fn what_nobody_needs_is_cleared_away_when_it_is_old() {
    let name = shared().database();
    let url = shared().url(&name);
    block_on(async {
        let intake = queue_postgres::open_intake(&database(&url)).expect("it can be opened");
        let body = vec![b'x'; 600_000];
        deliver(&*intake, &body, accept("a@example.test", 1)).await;
        drop(intake);
        let orphan = |id: &str, age: &str| {
            format!(
                "INSERT INTO body (id, seq, data, crc, at) SELECT '{id}', n, 'x', 1, \
                 clock_timestamp() - interval '{age}' FROM generate_series(0, 2) AS n;"
            )
        };
        let mut sql = String::from(
            "INSERT INTO body (id, seq, data, crc, at) \
             SELECT 'old' || m, n, 'x', 1, clock_timestamp() - interval '2 hours' \
             FROM generate_series(1, 1200) AS m, generate_series(0, 2) AS n;",
        );
        sql.push_str(&orphan("young", "10 minutes"));
        // One whose last piece came just now.
        sql.push_str(&orphan("slow", "2 hours"));
        sql.push_str("INSERT INTO body (id, seq, data, crc) VALUES ('slow', 3, 'x', 1);");
        sql.push_str("UPDATE intake_batch SET at = at - interval '10 minutes';");
        sql.push_str("INSERT INTO intake_batch (id, at) SELECT '0' || n, clock_timestamp() - interval '2 hours' \
                      FROM generate_series(1, 1200) AS n;");
        shared().sql(&name, &sql);
        let young = shared().sql(
            &name,
            "SELECT count(*) FROM intake_batch WHERE at > clock_timestamp() - interval '1 hour'",
        );
        let owner = acquire(&url, "the owner").await;
        replay(&*owner.ledger).await;
        let deadline = Instant::now() + PATIENCE;
        let left = "SELECT count(DISTINCT id) FROM body WHERE id LIKE 'old%'";
        while shared().sql(&name, left) != "0" {
            assert!(Instant::now() < deadline, "they stay");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let bodies =
            "SELECT id, count(*) FROM body WHERE id IN ('young', 'slow') GROUP BY id ORDER BY id";
        assert_eq!(shared().sql(&name, bodies), "slow|4\nyoung|3");
        assert_eq!(shared().sql(&name, "SELECT count(*) FROM body WHERE length(data) > 1"), "3");
        assert_eq!(shared().sql(&name, "SELECT count(*) FROM intake_batch"), young);
        owner.ledger.release(true).await.expect("it can be given up");
    });
}
