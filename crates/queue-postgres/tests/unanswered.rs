//! A COMMIT whose answer does not come leads to exactly one message, whatever happens in between.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use config::Span;
use queue::conformance::{accept, begin, pattern, whole};
use queue::{Handle, IntakeError, Reader as _};
use queue_postgres::testing::{self, Cut, End, Options, Proxy, Server, block_on, shared};
use queue_postgres::{Database, PostgresIntake, Settings};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn database(url: &str) -> Database {
    let settings =
        Settings { connections: 1, statement_timeout: Span::seconds(3), ..testing::settings() };
    Database::new(url, &settings).expect("it is a URL")
}

/// Accepts one message.
async fn deliver(intake: &PostgresIntake, body: &[u8]) -> Result<Handle, IntakeError> {
    begin(intake, body).await.commit(accept("a@example.test", 1)).await
}

/// Begins to accept one message; the cell says what came of it.
async fn delivering(intake: &PostgresIntake, body: &[u8]) -> Rc<Cell<Option<Handle>>> {
    // From here on it is the store's, whether this thread runs or not.
    let commit = begin(intake, body).await.commit(accept("a@example.test", 1));
    let answer = Rc::new(Cell::new(None));
    let told = answer.clone();
    tokio::task::spawn_local(async move {
        told.set(Some(commit.await.expect("it is accepted")));
    });
    answer
}

async fn answered(answer: &Cell<Option<Handle>>) -> Handle {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(handle) = answer.take() {
            return handle;
        }
        assert!(Instant::now() < deadline, "it is answered");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it comes to pass");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn messages(server: &Server, name: &str) -> String {
    server.sql(name, "SELECT count(*) FROM message")
}

async fn check_whole(url: &str, handle: &Handle, body: &[u8]) {
    let reader = queue_postgres::open_reader(&database(url)).expect("it can be opened");
    let stored = reader.open(handle).await.expect("it is there");
    assert!(whole(stored).await == body, "it is whole");
}

#[test]
fn a_connection_cut_at_a_commit_leads_to_one_message() {
    for (cut, length) in [
        (Cut::BeforeCommit, 100),
        (Cut::AfterCommit, 100),
        (Cut::BeforeCommit, 700_000),
        (Cut::AfterCommit, 700_000),
    ] {
        let name = shared().database();
        let proxy = Proxy::start(&shared().socket());
        block_on(async {
            let intake =
                queue_postgres::open_intake(&database(&proxy.url(&name))).expect("it opens");
            let body = pattern(length, 1);
            proxy.cut(cut);
            let handle = deliver(&intake, &body).await.expect("it is accepted");
            proxy.wait_for_cuts(1);
            assert_eq!(messages(shared(), &name), "1", "{cut:?}");
            // The batch, and what its repeat wrote beside it.
            assert_eq!(shared().sql(&name, "SELECT count(*) FROM intake_batch"), "2", "{cut:?}");
            check_whole(&shared().url(&name), &handle, &body).await;
        });
    }
}

#[test]
fn a_message_that_was_retired_meanwhile_does_not_come_again() {
    let name = shared().database();
    let proxy = Proxy::start(&shared().socket());
    block_on(async {
        let intake = queue_postgres::open_intake(&database(&proxy.url(&name))).expect("it opens");
        for body in [pattern(100, 1), pattern(700_000, 1)] {
            proxy.cut_and_close(Cut::AfterCommit);
            let answer = delivering(&intake, &body).await;
            let cuts = if body.len() == 100 { 1 } else { 2 };
            proxy.wait_for_answers(cuts);
            assert_eq!(messages(shared(), &name), "1");
            shared().sql(&name, "DELETE FROM message; DELETE FROM body");
            proxy.open();
            answered(&answer).await;
            assert_eq!(messages(shared(), &name), "0");
        }
    });
}

#[test]
fn a_server_that_is_killed_after_a_commit_has_one_message() {
    for cut in [Cut::BeforeCommit, Cut::AfterCommit] {
        let mut server = Server::start(Options::default());
        let name = server.database();
        let proxy = Proxy::start(&server.socket());
        block_on(async {
            let intake =
                queue_postgres::open_intake(&database(&proxy.url(&name))).expect("it opens");
            proxy.cut_and_close(cut);
            let answer = delivering(&intake, &pattern(5000, 1)).await;
            match cut {
                Cut::BeforeCommit => proxy.wait_for_cuts(1),
                Cut::AfterCommit => proxy.wait_for_answers(1),
            }
            server.end(End::Kill);
            server.run();
            let kept = if cut == Cut::AfterCommit { "1" } else { "0" };
            assert_eq!(messages(&server, &name), kept);
            proxy.open();
            let handle = answered(&answer).await;
            assert_eq!(messages(&server, &name), "1", "{cut:?}");
            check_whole(&server.url(&name), &handle, &pattern(5000, 1)).await;
        });
    }
}

/// A primary whose commits wait for a standby, each behind a proxy.
struct Pair {
    primary: Server,
    standby: Server,
    proxies: [Proxy; 2],
    name: String,
}

impl Pair {
    fn start() -> Self {
        let primary = Server::start(Options::default());
        let name = primary.database();
        let standby = primary.standby("s1", Options::default());
        primary.wait_for_standbys("ANY 1 (s1)");
        until(|| {
            let state = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 's1'";
            primary.sql(&name, state) == "quorum"
        });
        let proxies = [Proxy::start(&primary.socket()), Proxy::start(&standby.socket())];
        Self { primary, standby, proxies, name }
    }

    fn url(&self) -> String {
        let [first, second] = self.proxies.each_ref().map(Proxy::port);
        let user = testing::USER;
        format!("postgres://{user}@127.0.0.1:{first},127.0.0.1:{second}/{}", self.name)
    }

    /// Waits until so many transactions on the primary wait for the standby.
    fn wait_for_waiting(&self, count: usize) {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        until(|| self.primary.sql(testing::ADMIN, waiting) == count.to_string());
    }
}

#[test]
fn a_standby_that_is_promoted_has_one_message() {
    for cut in [Cut::BeforeCommit, Cut::AfterCommit] {
        let mut pair = Pair::start();
        block_on(async {
            let intake = queue_postgres::open_intake(&database(&pair.url())).expect("it opens");
            pair.proxies[0].cut_and_close(cut);
            let answer = delivering(&intake, &pattern(5000, 1)).await;
            match cut {
                Cut::BeforeCommit => pair.proxies[0].wait_for_cuts(1),
                Cut::AfterCommit => pair.proxies[0].wait_for_answers(1),
            }
            pair.primary.end(End::Kill);
            pair.standby.promote();
            let handle = answered(&answer).await;
            assert_eq!(messages(&pair.standby, &pair.name), "1", "{cut:?}");
            check_whole(&pair.standby.url(&pair.name), &handle, &pattern(5000, 1)).await;
        });
    }
}

#[test]
fn a_commit_that_no_standby_has_is_not_answered() {
    let pair = Pair::start();
    block_on(async {
        let intake = queue_postgres::open_intake(&database(&pair.url())).expect("it opens");
        pair.standby.freeze();
        let answer = delivering(&intake, b"body").await;
        pair.wait_for_waiting(1);
        // The server shows the row to everybody once this is done, but no standby has it.
        pair.primary.sql(
            testing::ADMIN,
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
        );
        until(|| messages(&pair.primary, &pair.name) == "1");
        // The server warned, so it is committed again, and that waits for the standby too.
        pair.wait_for_waiting(1);
        assert_eq!(answer.take(), None);
        pair.standby.go_on();
        answered(&answer).await;
        assert_eq!(messages(&pair.primary, &pair.name), "1");
        until(|| messages(&pair.standby, &pair.name) == "1");
    });
}

#[test]
fn no_time_limit_of_a_server_ends_a_commit() {
    let pair = Pair::start();
    pair.primary
        .sql(&pair.name, &format!("ALTER DATABASE {} SET statement_timeout = 500", pair.name));
    block_on(async {
        let intake = queue_postgres::open_intake(&database(&pair.url())).expect("it opens");
        pair.standby.freeze();
        let answer = delivering(&intake, b"body").await;
        pair.wait_for_waiting(1);
        // Longer than the server's limit and than ours: it is sent again, and what was sent first still waits.
        let limit = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
                     AND clock_timestamp() - query_start > interval '4 s'";
        until(|| pair.primary.sql(testing::ADMIN, limit) == "1");
        assert_eq!(messages(&pair.primary, &pair.name), "0");
        assert_eq!(answer.take(), None);
        pair.standby.go_on();
        answered(&answer).await;
        assert_eq!(messages(&pair.primary, &pair.name), "1");
    });
}

#[test]
fn what_stays_unknown_is_told_as_refused() {
    let pair = Pair::start();
    let settings = Settings {
        connections: 1,
        statement_timeout: Span::seconds(1),
        commit_timeout: Span::seconds(2),
        ..testing::settings()
    };
    let database = Database::new(&pair.url(), &settings).expect("it is a URL");
    block_on(async {
        let intake = queue_postgres::open_intake(&database).expect("it opens");
        pair.standby.freeze();
        let refused = deliver(&intake, b"body").await;
        assert!(matches!(refused, Err(IntakeError::Io { .. })), "{refused:?}");
        pair.standby.go_on();
        // It was accepted all the same, once.
        until(|| messages(&pair.primary, &pair.name) == "1");
    });
}

#[test]
fn a_primary_that_was_left_behind_is_left() {
    let pair = Pair::start();
    block_on(async {
        let intake = queue_postgres::open_intake(&database(&pair.url())).expect("it opens");
        // Nobody told the old primary: it takes writes, and waits for a standby that it no longer has.
        pair.standby.promote();
        let handle = deliver(&intake, &pattern(5000, 1)).await.expect("it is accepted");
        assert_eq!(messages(&pair.standby, &pair.name), "1");
        assert_eq!(messages(&pair.primary, &pair.name), "0");
        check_whole(&pair.standby.url(&pair.name), &handle, &pattern(5000, 1)).await;
    });
}
