//! The tables are made once, brought up to date, and refused when they are newer.

use queue_postgres::testing::{block_on, settings, shared};
use queue_postgres::{Database, Fault, Found, VERSION, check, init, migrate};

fn database(name: &str) -> Database {
    Database::new(&shared().url(name), &settings()).expect("it is a URL")
}

#[test]
fn a_database_is_made_ready_once() {
    let name = shared().empty_database();
    let database = database(&name);
    block_on(async {
        let fault = check(&database).await.expect_err("there is nothing");
        assert!(fault.to_string().contains("run grange store init"), "{fault}");
        assert_eq!(init(&database).await.expect("it can be made"), Found::Nothing);
        assert_eq!(init(&database).await.expect("it is there"), Found::Version(VERSION));
        assert_eq!(migrate(&database).await.expect("it is there"), Found::Version(VERSION));
        check(&database).await.expect("it is sound");
    });
}

#[test]
fn a_newer_schema_is_refused_and_not_touched() {
    let name = shared().database();
    let database = database(&name);
    shared().sql(&name, "UPDATE grange_schema SET version = 1000");
    let before = shared().sql(&name, "SELECT count(*) FROM pg_class");
    block_on(async {
        for refused in [
            init(&database).await.map(drop),
            migrate(&database).await.map(drop),
            check(&database).await,
        ] {
            let fault = refused.expect_err("it is newer");
            assert!(matches!(fault, Fault::Version { .. }), "{fault}");
            assert!(fault.to_string().contains("use a newer grange"), "{fault}");
        }
    });
    assert_eq!(shared().sql(&name, "SELECT count(*) FROM pg_class"), before);
    assert_eq!(shared().sql(&name, "SELECT version FROM grange_schema"), "1000");
}

#[test]
fn two_that_make_the_tables_at_once_do_not_meet() {
    let name = shared().empty_database();
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let database = database(&name);
            std::thread::spawn(move || block_on(init(&database)))
        })
        .collect();
    let ends: Vec<_> = threads.into_iter().map(|it| it.join().expect("it ends well")).collect();
    for end in &ends {
        end.as_ref().expect("the tables are there, whoever made them");
    }
    assert_eq!(shared().sql(&name, "SELECT version FROM grange_schema"), VERSION.to_string());
    block_on(async { check(&database(&name)).await.expect("it is sound") });
}

#[test]
fn a_database_of_another_encoding_is_refused() {
    let options = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    shared().sql("postgres", &format!("CREATE DATABASE latin {options}"));
    block_on(async {
        let fault = init(&database("latin")).await.expect_err("it is of another encoding");
        assert!(fault.whole().contains("LATIN1"), "{}", fault.whole());
    });
}
