//! What the tests share.

use std::rc::Rc;
use std::time::{Duration, Instant};

use config::Span;
use mail::MessageId;
use queue::conformance::{accept, deliver, routed};
use queue::{Handle, Ledger, LedgerError, Ownership, Record, Tenure};
use queue_postgres::testing::{Server, settings};
use queue_postgres::{Database, Settings};

/// The lease in tests.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// How long anything may take that is to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) fn database(url: &str) -> Database {
    let settings = Settings {
        lease: Span(LEASE),
        lease_renewal: Span::millis(500),
        lease_margin: Span::millis(1000),
        standby_look: Span::millis(100),
        connect_timeout: Span::millis(1000),
        ..settings()
    };
    Database::new(url, &settings).expect("it is a URL")
}

/// Becomes the owner, in time.
pub(crate) async fn acquire(url: &str, holder: &str) -> Tenure {
    let ownership = queue_postgres::open_ownership(&database(url), holder);
    let acquired = tokio::time::timeout(PATIENCE, ownership.acquire());
    acquired.await.expect("it becomes free").expect("it can be opened")
}

/// Everything that the ledger says now.
pub(crate) async fn replay(ledger: &dyn Ledger) -> Vec<Record> {
    let mut records = Vec::new();
    ledger.replay(&mut |record| records.push(record)).await.expect("it can be replayed");
    records
}

/// Accepts so many messages.
pub(crate) async fn messages(url: &str, count: usize) -> Vec<(MessageId, Handle)> {
    let intake = queue_postgres::open_intake(&database(url)).expect("it can be opened");
    let mut messages = Vec::new();
    for _ in 0..count {
        messages.push(deliver(&*intake, b"x", accept("a@example.test", 1)).await);
    }
    messages
}

pub(crate) fn routings(messages: &[(MessageId, Handle)]) -> Vec<Record> {
    messages.iter().map(|(id, handle)| routed(*id, handle, 1)).collect()
}

pub(crate) async fn synced(ledger: &dyn Ledger, records: &[Record]) -> Result<(), LedgerError> {
    let mark = ledger.append(records)?;
    let synced = tokio::time::timeout(PATIENCE, ledger.synced(mark));
    synced.await.expect("it ends in time")
}

/// Waits until an owner knows that its time is over, and says why.
pub(crate) async fn over(ledger: &Rc<dyn Ledger>) -> LedgerError {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(error) = ledger.failure() {
            return error;
        }
        assert!(Instant::now() < deadline, "its time does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every row of every table, but for until when the lease lasts.
pub(crate) fn tables(server: &Server, database: &str) -> String {
    let tables = server.sql(
        database,
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'shard_lease' ORDER BY 1",
    );
    let mut all = server.sql(database, "SELECT shard, clean FROM shard_lease");
    assert!(tables.lines().count() >= 9, "{tables}");
    for table in tables.lines() {
        let rows = server.sql(database, &format!("SELECT t FROM {table} AS t ORDER BY t::text"));
        all.push_str(&format!("\n{table}:\n{rows}"));
    }
    all
}
