//! What drafts may take, in memory and in the database, and that they give it back.

use std::time::{Duration, Instant};

use config::ByteSize;
use queue::conformance::{accept, begin, deliver, pattern};
use queue::{Intake as _, IntakeError, ReadError, Reader as _, SizeHint};
use queue_postgres::testing::{self, block_on, shared};
use queue_postgres::{Database, PIECE_BYTES, Settings};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn database(name: &str, settings: Settings) -> Database {
    Database::new(&shared().url(name), &settings).expect("it is a URL")
}

async fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it comes to pass");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn large_bodies_in_flight_are_limited() {
    let name = shared().database();
    let settings = Settings { large_bodies_max: 2, ..testing::settings() };
    let large = SizeHint { declared_bytes: Some(1 << 20) };
    block_on(async {
        let intake = queue_postgres::open_intake(&database(&name, settings)).expect("it opens");
        let body = pattern(PIECE_BYTES + 1, 1);
        let first = begin(&*intake, &body).await;
        let second = begin(&*intake, &body).await;
        assert!(matches!(intake.begin(large).err(), Some(IntakeError::Busy)));
        let mut undeclared = intake.begin(SizeHint::default()).expect("it may be small");
        assert!(matches!(undeclared.write(&body), Err(IntakeError::Busy)));
        let spent = undeclared.commit(accept("a@example.test", 1)).await;
        assert!(matches!(spent, Err(IntakeError::Closed)));
        drop(first);
        second.commit(accept("a@example.test", 1)).await.expect("it is accepted");
        until(|| intake.begin(large).is_ok()).await;
    });
    assert_eq!(shared().sql(&name, "SELECT count(*) FROM message"), "1");
    assert_eq!(shared().sql(&name, "SELECT count(DISTINCT id) FROM body"), "1");
}

#[test]
fn what_drafts_hold_in_memory_is_limited() {
    let name = shared().database();
    let settings = Settings { draft_bytes_max: ByteSize(1 << 20), ..testing::settings() };
    block_on(async {
        let intake = queue_postgres::open_intake(&database(&name, settings)).expect("it opens");
        let body = pattern(200_000, 1);
        let mut drafts = Vec::new();
        for _ in 0..5 {
            drafts.push(begin(&*intake, &body).await);
        }
        let mut one_more = intake.begin(SizeHint::default()).expect("there is a little room");
        assert!(matches!(one_more.write(&body), Err(IntakeError::Busy)));
        drop(one_more);
        // What is committed or dropped gives it back.
        let first = drafts.pop().expect("there are five");
        first.commit(accept("a@example.test", 1)).await.expect("it is accepted");
        drop(drafts);
        for _ in 0..20 {
            deliver(&*intake, &body, accept("a@example.test", 1)).await;
        }
    });
}

#[test]
fn a_dropped_draft_leaves_no_rows() {
    let name = shared().database();
    let database = database(&name, testing::settings());
    block_on(async {
        let intake = queue_postgres::open_intake(&database).expect("it opens");
        let reader = queue_postgres::open_reader(&database).expect("it opens");
        for length in [0, 1000, 700_000] {
            let mut draft = begin(&*intake, &pattern(length, 1)).await;
            let handle = draft.finish().await.expect("it can be finished");
            reader.open_draft(&handle).await.expect("it is there");
            drop(draft);
            until(|| shared().sql(&name, "SELECT count(*) FROM body") == "0").await;
            assert!(matches!(reader.open_draft(&handle).await, Err(ReadError::Gone(..))));
        }
        // One that is not finished, and one whose message is refused because it adopts what is not there.
        drop(begin(&*intake, &pattern(700_000, 1)).await);
        let mut gone = begin(&*intake, b"gone").await;
        let gone_handle = gone.finish().await.expect("it can be finished");
        drop(gone);
        until(|| shared().sql(&name, "SELECT count(*) FROM body") == "0").await;
        let draft = begin(&*intake, &pattern(700_000, 2)).await;
        let accept =
            queue::Accept { replaced_body: Some(gone_handle), ..accept("a@example.test", 1) };
        let refused = draft.commit(accept).await;
        assert!(matches!(refused, Err(IntakeError::Io { .. })), "{refused:?}");
        until(|| shared().sql(&name, "SELECT count(*) FROM body") == "0").await;
    });
    assert_eq!(shared().sql(&name, "SELECT count(*) FROM message"), "0");
}
