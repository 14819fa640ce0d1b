//! The statements that the manual shows an operator work, on a queue that has something in it.

use queue::conformance::{accept, deliver, pattern, routed};
use queue::{Ownership as _, Reader as _};
use queue_postgres::testing::{block_on, settings, shared};
use queue_postgres::{Database, Name};

const MANUAL: &str = include_str!("../../../docs/database-format.md");

/// The blocks of SQL in the manual.
fn statements() -> Vec<&'static str> {
    let blocks = MANUAL.split("```sql\n").skip(1);
    blocks.filter_map(|block| block.split("```").next()).collect()
}

#[test]
fn every_statement_shows_something() {
    let name = shared().database();
    let database = Database::new(&shared().url(&name), &settings()).expect("it is a URL");
    let id = block_on(async {
        let intake = queue_postgres::open_intake(&database).expect("it opens");
        deliver(&*intake, b"Subject: to be routed\r\n\r\nbody\r\n", accept("a@example.test", 1))
            .await;
        let (id, handle) =
            deliver(&*intake, &pattern(700_000, 1), accept("a@example.test", 2)).await;
        let owner = queue_postgres::open_ownership(&database, "a test");
        let ledger = owner.acquire().await.expect("nobody has it").ledger;
        ledger.replay(&mut |_| {}).await.expect("it can be replayed");
        let mark = ledger.append(&[routed(id, &handle, 1)]).expect("it can be written");
        ledger.synced(mark).await.expect("it can be written");
        let reader = queue_postgres::open_reader(&database).expect("it opens");
        reader.open(&Name::Message(id).handle()).await.expect("it is there");
        id
    });
    let statements = statements();
    assert!(statements.len() >= 8, "the manual has {}", statements.len());
    for statement in statements {
        let statement = statement.replace("06e1x4k7n2m8p3q5r9st", id.as_str());
        let shown = shared().sql(&name, &statement);
        assert!(!shown.is_empty(), "{statement}");
    }
}
