//! What the server says is sorted by what is to be done about it; and a message keeps the id that it is given, whatever its body.

use queue::conformance::{accept, pattern};
use queue::{Intake, Reader, SizeHint};
use queue_postgres::testing::{block_on, settings, shared};
use queue_postgres::{Checks, Connection, Database, Fault};

fn database() -> Database {
    let url = shared().url(&shared().database());
    Database::new(&url, &settings()).expect("it is a URL")
}

#[test]
fn a_commit_of_which_nothing_is_known_is_no_refusal() {
    let database = database();
    block_on(async {
        let connection = Connection::open(&database, Checks::Schema).await.expect("it is there");
        let meets = async |code: &str| {
            let raise = format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$");
            let raised = connection.client().batch_execute(&raise).await;
            Fault::of_commit(database.name(), raised.expect_err("it is raised"))
        };
        for code in ["40003", "25P03", "25P04", "57P01", "08006"] {
            let fault = meets(code).await;
            assert!(matches!(fault, Fault::Unknown { .. }), "{code}: {fault:?}");
        }
        assert!(matches!(meets("23505").await, Fault::Refused { .. }));
        assert!(matches!(meets("40001").await, Fault::Again { .. }));
    });
}

#[test]
fn a_message_with_an_id_of_its_own_may_be_finished_before_it_is_accepted() {
    let database = database();
    block_on(async {
        let intake = queue_postgres::open_intake(&database).expect("it can be opened");
        let reader = queue_postgres::open_reader(&database).expect("it can be opened");
        let id = mail::MessageId::new(mail::Timestamp::from_millis(5), 7);
        let body = pattern(300_000, 1);
        let mut draft = intake.begin_as(id, SizeHint::default()).expect("there is room");
        draft.write(&body).expect("there is room");
        let finished = draft.finish().await.expect("it can be finished");
        let mut found = reader.open_draft(&finished).await.expect("it is there");
        let mut read = Vec::new();
        while let Some(piece) = found.next().await.expect("it can be read") {
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, body);
        let handle = draft.commit(accept("a@example.test", 1)).await.expect("it can be accepted");
        let stored = reader.open(&handle).await.expect("it is there");
        assert_eq!((stored.accepted.id, stored.body.size()), (id, body.len() as u64));
    });
}
