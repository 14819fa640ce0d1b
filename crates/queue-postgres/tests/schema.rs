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
