//! Steps are taken once, whoever takes them.

use super::*;
use crate::testing::{block_on, settings, shared};

const TWO_MORE: &[Step] = &[
    Step { sql: "this was done long ago", postgres: "" },
    Step { sql: "CREATE TABLE added (one integer)", postgres: "ALTER TABLE added ADD two integer" },
    Step { sql: "INSERT INTO added VALUES (1, 2)", postgres: "" },
];

fn database(name: &str) -> Database {
    Database::new(&shared().url(name), &settings()).expect("it is a URL")
}

fn climb_in(name: &str, steps: &'static [Step]) -> Result<u32, Fault> {
    block_on(async {
        let connection = Connection::open(&database(name), Checks::Writable).await?;
        climb(&connection, steps).await
    })
}

#[test]
fn several_that_migrate_at_once_take_each_step_once() {
    let name = shared().database();
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let name = name.clone();
            std::thread::spawn(move || climb_in(&name, TWO_MORE))
        })
        .collect();
    let mut befores: Vec<_> = threads
        .into_iter()
        .map(|it| it.join().expect("it ends well").expect("it is migrated"))
        .collect();
    befores.sort();
    assert_eq!(befores, [1, 3, 3, 3, 3, 3]);
    assert_eq!(shared().sql(&name, "SELECT version FROM grange_schema"), "3");
    assert_eq!(shared().sql(&name, "SELECT one, two FROM added"), "1|2");
    let refused = block_on(async { check(&database(&name)).await });
    assert!(matches!(refused, Err(Fault::Version { found: Found::Version(3), .. })));
}

#[test]
fn a_step_that_fails_leaves_everything_as_it_was() {
    const WRONG: &[Step] = &[
        Step { sql: "this was done long ago", postgres: "" },
        Step { sql: "CREATE TABLE added (one integer)", postgres: "this is no statement" },
    ];
    let name = shared().database();
    let fault = climb_in(&name, WRONG).expect_err("it is no statement");
    assert!(matches!(fault, Fault::Refused { .. }), "{fault}");
    assert_eq!(shared().sql(&name, "SELECT version FROM grange_schema"), "1");
    assert_eq!(shared().sql(&name, "SELECT count(*) FROM pg_class WHERE relname = 'added'"), "0");
}
