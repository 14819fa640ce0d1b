//! The store in a database does what every backend must.

use std::rc::Rc;

use queue::conformance::{Backend, run};
use queue::{Compaction, Intake, Ledger, LedgerError, Reader, Recovery};
use queue_postgres::Database;
use queue_postgres::testing::{Bouncer, settings, shared};

struct Store(Database);

impl Store {
    /// A database of its own on the server that the cases share, reached as `url` says.
    fn new(url: impl Fn(&str) -> String) -> Self {
        let url = url(&shared().database());
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
        let ledger: Rc<dyn Ledger> = queue_postgres::open_ledger(&self.0, "a test")?;
        Ok(ledger)
    }
}

#[test]
fn postgres_conforms() {
    run(|| Store::new(|name| shared().url(name)));
}

#[test]
fn postgres_conforms_behind_a_pooler() {
    let bouncer = Bouncer::start(shared(), 4);
    run(|| Store::new(|name| bouncer.url(name)));
}
