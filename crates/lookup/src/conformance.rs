//! What every table must do, whatever it is made of: run by the tests of each.

use std::sync::Arc;

use crate::{Entry, Kind, Refreshed, Table, Target};

/// Makes a table of these keys and values, written as in an alias file, read and ready.
pub type Make<'a> = &'a dyn Fn(&[(&str, &str)], Kind) -> Arc<dyn Table>;

/// Checks a kind of table; panics where it does not conform.
pub fn check(make: Make<'_>) {
    finds_entries_whatever_their_case(make);
    keeps_targets_in_order(make);
    ignores_values_of_keys(make);
    stays_as_it_is(make);
}

fn find(table: &dyn Table, key: &str) -> Option<Arc<Entry>> {
    table.lookup(key).expect("a table that was read is available")
}

fn shown(table: &dyn Table, key: &str) -> Vec<String> {
    find(table, key)
        .map(|entry| entry.targets.iter().map(Target::to_string).collect())
        .unwrap_or_default()
}

fn finds_entries_whatever_their_case(make: Make<'_>) {
    let table = make(
        &[
            ("Postmaster", "anna"),
            ("info@Example.test", "berta"),
            ("@example.org", "carl"),
            ("\"dora\"", "emil"),
            ("\"f g\"@example.test", "hugo"),
        ],
        Kind::Aliases,
    );
    for (key, expected) in [
        ("postmaster", "anna"),
        ("POSTMASTER", "anna"),
        ("INFO@example.TEST", "berta"),
        ("@EXAMPLE.org", "carl"),
        ("dora", "emil"),
        ("\"f g\"@example.test", "hugo"),
    ] {
        assert_eq!(shown(&*table, key), [expected], "{key}");
    }
    for (domain, named) in
        [("example.test", true), ("example.org", true), ("example.net", false), ("", false)]
    {
        assert_eq!(table.may_name(domain), named, "{domain:?}");
    }
    for key in ["", "post", "postmaster ", "info", "@", "example.org", "f g"] {
        assert!(find(&*table, key).is_none(), "{key:?} must not be found");
    }
}

fn keeps_targets_in_order(make: Make<'_>) {
    let table = make(
        &[(
            "all",
            "berta, anna@example.test, \\carl, \"d e\"@example.test, Emil <emil@example.org>, /dev/null,",
        )],
        Kind::Aliases,
    );
    let expected = [
        "berta",
        "anna@example.test",
        "\\carl",
        "\"d e\"@example.test",
        "emil@example.org",
        "/dev/null",
    ];
    assert_eq!(shown(&*table, "all"), expected);
}

fn ignores_values_of_keys(make: Make<'_>) {
    let table = make(&[("anna", "x:1000:1000::/home/anna:/bin/sh"), ("berta", "")], Kind::Keys);
    assert!(find(&*table, "Anna").is_some_and(|entry| entry.targets.is_empty()));
    assert!(find(&*table, "berta").is_some());
    assert!(find(&*table, "carl").is_none());
}

fn stays_as_it_is(make: Make<'_>) {
    let table = make(&[("info", "anna")], Kind::Aliases);
    assert!(matches!(table.refresh(), Refreshed::Unchanged), "nothing has changed");
    assert_eq!(shown(&*table, "info"), ["anna"]);
    assert!(!table.name().is_empty());
}
