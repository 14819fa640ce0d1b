//! A database that is read-only, full, slow, restarted, of another schema, unsafe, or damaged.

use std::collections::BTreeSet;
use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use config::Span;
use queue::conformance::{accept, begin, deliver, pattern, whole};
use queue::{Handle, Intake as _, IntakeError, ReadError, Reader as _, Recovery as _, SizeHint};
use queue_postgres::testing::{self, ADMIN, End, Options, Server, block_on, shared};
use queue_postgres::{Database, Fault, MayLose, PostgresIntake, Settings};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn database_with(url: &str, settings: Settings) -> Database {
    Database::new(url, &settings).expect("it is a URL")
}

fn database(url: &str) -> Database {
    database_with(url, testing::settings())
}

/// Begins drafts until one is refused, or until none is.
async fn until_begun(intake: &PostgresIntake, is_begun: bool) {
    let deadline = Instant::now() + PATIENCE;
    while intake.begin(SizeHint::default()).is_ok() != is_begun {
        assert!(Instant::now() < deadline, "a draft is begun: {is_begun}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every handle that is listed.
async fn listed(database: &Database) -> Vec<Handle> {
    let recovery = queue_postgres::open_recovery(database).expect("it can be opened");
    let mut handles = Vec::new();
    for segment in recovery.segments(true).await.expect("it can be read") {
        let some = recovery.accepted(&segment).await.expect("it can be read");
        handles.extend(some.into_iter().map(|one| one.handle));
    }
    handles
}

#[test]
fn a_server_restarted_in_the_midst_loses_nothing_and_doubles_nothing() {
    for how in [End::Kill, End::Fast] {
        let mut server = Server::start(Options::default());
        let name = server.database();
        let database = database(&server.url(&name));
        block_on(async {
            let intake = queue_postgres::open_intake(&database).expect("it opens");
            let mut commits = Vec::new();
            for number in 0..1000u32 {
                let body = pattern(1000 + number as usize, number as u8);
                let commit = loop {
                    // While it is away no draft begins; an acceptor's client would come again.
                    match intake.begin(SizeHint::default()) {
                        Ok(mut draft) => {
                            draft.write(&body).expect("there is room");
                            break draft.commit(accept("a@example.test", 1));
                        }
                        Err(IntakeError::Io { .. }) => {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                };
                commits.push((body, commit));
                // Some have been answered, some wait, some are under way.
                if number == 300 || number == 700 {
                    commits.swap_remove(0).1.await.expect("it is accepted");
                    server.end(how);
                    server.run();
                }
            }
            let mut accepted = BTreeSet::new();
            let reader = queue_postgres::open_reader(&database).expect("it can be opened");
            for (body, commit) in commits {
                let handle = commit.await.expect("it is accepted");
                let stored = reader.open(&handle).await.expect("it is there");
                assert!(whole(stored).await == body, "it is whole");
                assert!(accepted.insert(handle), "each has a handle of its own");
            }
            assert_eq!(accepted.len(), 998);
            let listed = listed(&database).await;
            assert_eq!(listed.len(), 1000, "each is there once");
            assert!(accepted.is_subset(&listed.into_iter().collect()));
        });
    }
}

#[test]
fn a_database_that_is_away_lets_no_draft_begin_until_it_is_back() {
    let mut server = Server::start(Options::default());
    let name = server.database();
    let settings = Settings { commit_timeout: Span::seconds(1), ..testing::settings() };
    let database = database_with(&server.url(&name), settings);
    block_on(async {
        let intake = queue_postgres::open_intake(&database).expect("it opens");
        let draft = begin(&*intake, b"body").await;
        server.end(End::Fast);
        let refused = draft.commit(accept("a@example.test", 1)).await;
        assert!(matches!(refused, Err(IntakeError::Io { .. })), "{refused:?}");
        let refused = intake.begin(SizeHint::default()).err().expect("it is away");
        assert!(matches!(refused, IntakeError::Io { .. }), "{refused:?}");
        // The error's own text says which database, for whoever logs no more of it; what stands behind it says why.
        assert!(refused.to_string().contains(&**database.name()), "{refused}");
        assert!(refused.source().is_some_and(|source| !source.to_string().is_empty()));
        // One that is opened meanwhile waits for it too.
        let other = queue_postgres::open_intake(&database).expect("it opens");
        assert!(other.begin(SizeHint::default()).is_err());
        server.run();
        for intake in [&intake, &other] {
            until_begun(intake, true).await;
            deliver(&**intake, b"body", accept("a@example.test", 1)).await;
        }
        assert_eq!(listed(&database).await.len(), 2);
    });
}

#[test]
fn a_database_that_becomes_read_only_is_waited_for() {
    let server = Server::start(Options::default());
    let name = server.database();
    let settings = Settings { commit_timeout: Span::seconds(1), ..testing::settings() };
    let database = database_with(&server.url(&name), settings);
    let read_only = |value: &str| {
        server.sql(ADMIN, &format!("ALTER SYSTEM SET default_transaction_read_only = {value}"));
        server.reload();
    };
    block_on(async {
        let intake = queue_postgres::open_intake(&database).expect("it opens");
        let handle = deliver(&*intake, b"body", accept("a@example.test", 1)).await.1;
        read_only("on");
        let refused = begin(&*intake, b"body").await.commit(accept("a@example.test", 1)).await;
        assert!(matches!(refused, Err(IntakeError::Io { .. })), "{refused:?}");
        until_begun(&intake, false).await;
        let fault = queue_postgres::check(&database).await.expect_err("it takes no writes");
        assert!(fault.may_pass() && fault.whole().contains("read-only"), "{}", fault.whole());
        read_only("off");
        until_begun(&intake, true).await;
        let second = deliver(&*intake, b"body", accept("a@example.test", 1)).await.1;
        assert_eq!(listed(&database).await, [handle, second]);
    });
}

#[test]
fn a_database_that_answers_late_is_asked_again() {
    let server = Server::start(Options::default());
    let name = server.database();
    let settings = Settings {
        connect_timeout: Span::seconds(1),
        statement_timeout: Span::seconds(1),
        ..testing::settings()
    };
    let database = database_with(&server.url(&name), settings);
    block_on(async {
        let intake = queue_postgres::open_intake(&database).expect("it opens");
        let reader = queue_postgres::open_reader(&database).expect("it opens");
        let first = deliver(&*intake, b"body", accept("a@example.test", 1)).await.1;
        server.freeze();
        let commits: Vec<_> = (0..20)
            .map(|_| {
                let mut draft = intake.begin(SizeHint::default()).expect("nothing is known yet");
                draft.write(b"body").expect("there is room");
                draft.commit(accept("a@example.test", 1))
            })
            .collect();
        until_begun(&intake, false).await;
        let late = reader.open(&first).await.err();
        assert!(matches!(late, Some(ReadError::Io { .. })), "{late:?}");
        server.go_on();
        for commit in commits {
            commit.await.expect("it is accepted");
        }
        assert_eq!(listed(&database).await.len(), 21, "each is there once");
        reader.open(&first).await.expect("it is there");
    });
}

/// A file system in memory for a table space of its own.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(server: &Server) -> Self {
        let path = server.dir().join("small");
        std::fs::create_dir(&path).expect("root may");
        let (uid, gid) = testing::other_user().expect("only root mounts");
        let options = format!("size=12m,uid={uid},gid={gid},mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path);
        assert!(mount.status().expect("it can be run").success());
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

#[test]
fn a_full_database_refuses_and_takes_mail_again() {
    if testing::other_user().is_none() {
        println!("not run: only root can mount a small file system");
        return;
    }
    let server = Server::start(Options::default());
    let small = Small::mount(&server);
    let place = small.0.display();
    server.sql(ADMIN, &format!("CREATE TABLESPACE small LOCATION '{place}'"));
    server.sql(ADMIN, "CREATE DATABASE full_one TABLESPACE small");
    testing::init(&server.url("full_one"));
    // Something that can be dropped in a moment.
    server.sql(
        "full_one",
        "CREATE TABLE ballast AS SELECT repeat('x', 1000) FROM generate_series(1, 1500)",
    );
    let database = database(&server.url("full_one"));
    block_on(async {
        let intake = queue_postgres::open_intake(&database).expect("it opens");
        let mut accepted = Vec::new();
        for length in [200_000, 900_000] {
            let refused = loop {
                assert!(accepted.len() < 1000, "it is full some time");
                let draft = begin(&*intake, &pattern(length, 1)).await;
                match draft.commit(accept("a@example.test", 1)).await {
                    Ok(handle) => accepted.push(handle),
                    Err(refused) => break refused,
                }
            };
            assert!(matches!(refused, IntakeError::Full(_)), "{refused:?}");
        }
        assert!(!accepted.is_empty());
        // What was refused leaves nothing behind that is listed; what was accepted is there.
        let mut listed = listed(&database).await;
        listed.sort();
        accepted.sort();
        assert_eq!(listed, accepted);
        server.sql("full_one", "DROP TABLE ballast");
        deliver(&*intake, &pattern(200_000, 1), accept("a@example.test", 1)).await;
    });
}

#[test]
fn a_server_that_may_lose_mail_is_refused_unless_it_is_named() {
    let cases = [
        ("synchronous_commit", "off", MayLose::SynchronousCommit),
        ("synchronous_commit", "local", MayLose::SynchronousCommit),
        ("fsync", "off", MayLose::Fsync),
        ("full_page_writes", "off", MayLose::FullPageWrites),
    ];
    for (setting, value, may_lose) in cases {
        let line = format!("{setting} = {value}");
        // A setting is taken once only where it stands last.
        let server = Server::start(Options::with(&["fsync = on", &line]));
        let name = server.database();
        let strict = database_with(&server.url(&name), Settings::default());
        block_on(async {
            let fault = queue_postgres::check(&strict).await.expect_err("it may lose mail");
            assert!(matches!(fault, Fault::NotDurable { .. }), "{fault}");
            for word in [setting, value, "may_lose", "queue.postgres"] {
                assert!(fault.to_string().contains(word), "{fault}");
            }
            let opened = queue_postgres::open_intake(&strict);
            assert!(matches!(opened.err(), Some(Fault::NotDurable { .. })));
            // Whoever only reads loses nothing.
            queue_postgres::open_reader(&strict).expect("it opens");
            let settings = Settings { may_lose: vec![may_lose], ..Settings::default() };
            let named = database_with(&server.url(&name), settings);
            queue_postgres::check(&named).await.expect("it is named");
        });
    }
}

#[test]
fn another_schema_is_refused_by_everybody() {
    for (change, advice) in [
        ("UPDATE grange_schema SET version = 999", "use a newer grange"),
        ("UPDATE grange_schema SET version = 0", "run grange store migrate"),
        ("DROP TABLE grange_schema", "run grange store init"),
    ] {
        let name = shared().database();
        shared().sql(&name, change);
        let database = database(&shared().url(&name));
        block_on(async {
            let faults = [
                queue_postgres::open_intake(&database).err(),
                queue_postgres::open_reader(&database).err(),
                queue_postgres::open_recovery(&database).err(),
            ];
            for fault in faults {
                let fault = fault.expect("it is refused");
                assert!(matches!(fault, Fault::Version { .. }), "{fault}");
                assert!(fault.to_string().contains(advice), "{fault}");
            }
        });
    }
}

#[test]
fn a_damaged_row_is_never_handed_out() {
    let name = shared().database();
    let database = database(&shared().url(&name));
    let flip = "set_byte(BODY, 5, get_byte(BODY, 5) # 1)";
    let cases = [
        (100, format!("UPDATE message SET body = {}", flip.replace("BODY", "body"))),
        (100, format!("UPDATE message SET accepted = {}", flip.replace("BODY", "accepted"))),
        (100, "UPDATE message SET accepted_at = accepted_at + 1".to_owned()),
        (100, "UPDATE message SET size = size + 1".to_owned()),
        (700_000, format!("UPDATE body SET data = {} WHERE seq = 1", flip.replace("BODY", "data"))),
        (700_000, "UPDATE body SET data = '' WHERE seq = 2".to_owned()),
        (700_000, "UPDATE body SET seq = 9 - seq WHERE seq IN (0, 1); UPDATE body SET seq = seq - 8 WHERE seq > 7".to_owned()),
    ];
    block_on(async {
        let intake = queue_postgres::open_intake(&database).expect("it opens");
        let reader = queue_postgres::open_reader(&database).expect("it opens");
        for (length, damage) in cases {
            let handle =
                deliver(&*intake, &pattern(length, 1), accept("a@example.test", 1)).await.1;
            let sound = queue_postgres::verify(&database, |_, _| panic!("it is sound"));
            let sound = sound.await.expect("it can be read");
            assert_eq!((sound.messages, sound.bytes), (1, length as u64));
            shared().sql(&name, &damage);
            let error = match reader.open(&handle).await {
                Err(error) => error,
                Ok(mut stored) => loop {
                    match stored.body.next().await {
                        Ok(Some(piece)) => {
                            assert!(pattern(length, 1).windows(piece.len()).any(|it| it == piece))
                        }
                        Ok(None) => panic!("{damage}: it was handed out"),
                        Err(error) => break error,
                    }
                },
            };
            let mut found = Vec::new();
            let verified =
                queue_postgres::verify(&database, |handle, _| found.push(handle.clone()));
            let verified = verified.await.expect("it can be read");
            assert_eq!((verified.messages, verified.damaged), (0, 1), "{damage}");
            assert_eq!(found, std::slice::from_ref(&handle));
            assert!(
                matches!(&error, ReadError::Damaged(which, _) if *which == handle),
                "{damage}: {error}"
            );
            shared().sql(&name, "DELETE FROM message; DELETE FROM body");
        }
        let handle = deliver(&*intake, &pattern(700_000, 1), accept("a@example.test", 1)).await.1;
        shared().sql(&name, "DELETE FROM body WHERE seq = 2");
        let mut stored = reader.open(&handle).await.expect("the message is there");
        stored.body.next().await.expect("the first is there");
        stored.body.next().await.expect("the second is there");
        assert!(matches!(stored.body.next().await, Err(ReadError::Damaged(..))));
        // One that ends while it is read is no damage.
        let mut stored = reader.open(&handle).await.expect("the message is there");
        stored.body.next().await.expect("the first is there");
        shared().sql(&name, "DELETE FROM body; DELETE FROM message");
        assert!(matches!(stored.body.next().await, Err(ReadError::Gone(..))));
    });
}

#[test]
fn a_body_that_was_swept_is_not_accepted() {
    let name = shared().database();
    let database = database(&shared().url(&name));
    block_on(async {
        let intake = queue_postgres::open_intake(&database).expect("it opens");
        let mut draft = begin(&*intake, &pattern(700_000, 1)).await;
        draft.finish().await.expect("it can be finished");
        shared().sql(&name, "DELETE FROM body WHERE seq = 1");
        // It must not keep those away that are committed with it.
        let others: Vec<_> = (0..5)
            .map(|_| {
                let mut draft = intake.begin(SizeHint::default()).expect("there is room");
                draft.write(b"body").expect("there is room");
                draft.commit(accept("a@example.test", 1))
            })
            .collect();
        let refused = draft.commit(accept("a@example.test", 1)).await;
        assert!(matches!(refused, Err(IntakeError::Io { .. })), "{refused:?}");
        for other in others {
            other.await.expect("it is accepted");
        }
        assert_eq!(listed(&database).await.len(), 5);
    });
}
