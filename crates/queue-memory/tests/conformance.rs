//! The store in memory does what every backend must.

use std::rc::Rc;

use queue::conformance::{Backend, run};
use queue::{Compaction, Intake, Ledger, LedgerError, Reader, Recovery};
use queue_memory::Memory;

struct Store(Memory);

impl Backend for Store {
    fn intake(&self) -> Rc<dyn Intake> {
        self.0.intake()
    }

    fn reader(&self) -> Rc<dyn Reader> {
        self.0.reader()
    }

    fn recovery(&self) -> Rc<dyn Recovery> {
        self.0.recovery()
    }

    fn compaction(&self) -> Rc<dyn Compaction> {
        self.0.compaction()
    }

    fn ledger(&self) -> Result<Rc<dyn Ledger>, LedgerError> {
        self.0.ledger()
    }
}

#[test]
fn memory_conforms() {
    run(|| Store(Memory::new()));
}
