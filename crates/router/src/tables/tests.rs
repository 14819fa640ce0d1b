//! When files are looked at.

use lookup::{FileTable, Kind};

use super::*;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test ends in time");
    });
}

#[test]
fn without_tables_nothing_is_ever_waited_for() {
    run(async {
        let tables = Tables::new(Vec::new(), |_, _| unreachable!("there is nothing to read"));
        assert!(tables.are_fresh(Instant::now()));
        tables.fresh().await;
    });
}

#[test]
fn files_are_looked_at_when_somebody_asks() {
    run(async {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let path = directory.path().join("aliases");
        std::fs::write(&path, "info: anna\n").expect("room on the disk");
        let table = Arc::new(FileTable::new(path.clone(), Kind::Aliases));
        let looks = Rc::new(Cell::new((0, 0)));
        let noted = Rc::clone(&looks);
        let tables =
            Tables::new(vec![Arc::clone(&table) as Arc<dyn Table>], move |read, failed| {
                let (all_read, all_failed) = noted.get();
                noted.set((all_read + read, all_failed + failed));
            });
        assert!(!tables.are_fresh(Instant::now()), "nothing was read yet");
        assert!(table.lookup("info").is_err());
        tables.fresh().await;
        assert!(table.lookup("info").expect("it was read").is_some());
        assert_eq!(looks.get(), (1, 0));

        // A second later it is still good enough, and looked at meanwhile; after a night it is not.
        std::fs::write(&path, "sales: anna\n").expect("room on the disk");
        let now = Instant::now();
        assert!(tables.are_fresh(now + LOOK_EVERY));
        assert!(!tables.are_fresh(now + Duration::from_secs(36_000)), "the look has not come back");
        while tables.is_looking.get() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(looks.get(), (2, 0));
        assert!(table.lookup("sales").expect("it was read").is_some());

        // What became bad is told once, and what was good stays.
        std::fs::write(&path, "sales anna carl\n").expect("room on the disk");
        for _ in 0..2 {
            assert!(!tables.are_fresh(Instant::now() + STALE_AFTER));
            while tables.is_looking.get() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert_eq!(looks.get(), (2, 1));
        assert!(table.lookup("sales").expect("it was read").is_some());
        assert!(tables.are_fresh(Instant::now()));
    });
}
