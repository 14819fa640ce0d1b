//! Files that change, break and go away.

use std::io::Write;

use super::*;
use crate::conformance;

fn shown(table: &dyn Table, key: &str) -> Option<String> {
    let entry = table.lookup(key).expect("available")?;
    Some(entry.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file in our own directory");
}

/// Replaces a file the way that editors and configuration tools do.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    write(&new, text);
    std::fs::rename(&new, path).expect("both are in our own directory");
}

fn table(path: &Path) -> FileTable {
    FileTable::new(path.to_owned(), Kind::Aliases)
}

#[test]
fn conforms() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let count = std::cell::Cell::new(0);
    conformance::check(&|entries, kind| {
        count.set(count.get() + 1);
        let path = directory.path().join(format!("table{}", count.get()));
        let mut file = File::create(&path).expect("a file in our own directory");
        for (key, value) in entries {
            writeln!(file, "{key}: {value}").expect("room on the disk");
        }
        let table = FileTable::new(path, kind);
        assert!(table.lookup("anna").is_err(), "nothing was read yet");
        let read = table.refresh();
        assert!(
            matches!(read, Refreshed::Read { entries: n, .. } if n == entries.len()),
            "{read:?}"
        );
        Arc::new(table)
    });
}

#[test]
fn reads_again_when_the_file_changes() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let path = directory.path().join("aliases");
    write(&path, "info: anna\n");
    let table = table(&path);
    assert!(matches!(table.refresh(), Refreshed::Read { entries: 1, .. }));
    assert!(matches!(table.refresh(), Refreshed::Unchanged));
    replace(&path, "info: berta\n");
    assert!(matches!(table.refresh(), Refreshed::Read { .. }));
    assert_eq!(shown(&table, "info").as_deref(), Some("berta"));
    write(&path, "info: berta, carl\n");
    assert!(matches!(table.refresh(), Refreshed::Read { .. }));
    assert_eq!(shown(&table, "info").as_deref(), Some("berta, carl"));
}

#[test]
fn keeps_the_last_good_content_and_tells_once() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let path = directory.path().join("aliases");
    write(&path, "info: anna\n");
    let table = table(&path);
    table.refresh();
    replace(&path, "# ok\nsales: berta\ninfo anna berta\n");
    match table.refresh() {
        Refreshed::Failed(error) => {
            let expected = format!("{}:3: \"anna berta\" is neither", path.display());
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(table.refresh(), Refreshed::Unchanged), "told once");
    assert_eq!(shown(&table, "info").as_deref(), Some("anna"));
    std::fs::remove_file(&path).expect("it is there");
    assert!(matches!(table.refresh(), Refreshed::Failed(TableError::Unreadable { .. })));
    assert!(matches!(table.refresh(), Refreshed::Unchanged), "told once");
    assert_eq!(shown(&table, "info").as_deref(), Some("anna"));
    write(&path, "info: dora\n");
    assert!(matches!(table.refresh(), Refreshed::Read { .. }));
    assert_eq!(shown(&table, "info").as_deref(), Some("dora"));
}

#[test]
fn refuses_what_is_not_a_text_file() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    assert!(matches!(
        table(directory.path()).refresh(),
        Refreshed::Failed(TableError::Unreadable { .. })
    ));
    let path = directory.path().join("latin1");
    std::fs::write(&path, b"a: b\nj\xf6rg: anna\n").expect("a file in our own directory");
    let table = table(&path);
    match table.refresh() {
        Refreshed::Failed(error) => assert!(error.to_string().ends_with("latin1:2: not UTF-8")),
        other => panic!("{other:?}"),
    }
    assert!(table.lookup("a").is_err());
}
