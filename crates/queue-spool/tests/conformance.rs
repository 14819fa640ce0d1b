//! The spool does what every backend must, with small segments and without special settings.

use std::rc::Rc;

use queue::conformance::{Backend, run};
use queue::{Compaction, Intake, Ledger, LedgerError, Reader, Recovery};
use queue_spool::Settings;

struct Spool {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Spool {
    fn new(settings: Settings) -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), settings }
    }
}

impl Backend for Spool {
    fn intake(&self) -> Rc<dyn Intake> {
        queue_spool::open_intake(self.dir.path(), &self.settings).expect("it can be opened").0
    }

    fn reader(&self) -> Rc<dyn Reader> {
        queue_spool::open_reader(self.dir.path(), &self.settings).expect("it can be opened")
    }

    fn recovery(&self) -> Rc<dyn Recovery> {
        queue_spool::open_recovery(self.dir.path()).expect("it can be opened")
    }

    fn compaction(&self) -> Rc<dyn Compaction> {
        queue_spool::open_compaction(self.dir.path(), &self.settings).expect("it can be opened")
    }

    fn ledger(&self) -> Result<Rc<dyn Ledger>, LedgerError> {
        Ok(queue_spool::open_ledger(self.dir.path(), &self.settings)?)
    }
}

#[test]
fn with_defaults() {
    run(|| Spool::new(Settings::default()));
}

#[test]
fn with_tiny_segments() {
    let settings = Settings {
        segment_bytes: config::ByteSize(64 << 10),
        ledger_bytes: config::ByteSize(64 << 10),
        ..Settings::default()
    };
    run(|| Spool::new(settings.clone()));
}

#[test]
fn with_every_body_in_a_file() {
    let settings = Settings {
        body_file_bytes_min: config::ByteSize(0),
        large_bodies_max: 200,
        ..Settings::default()
    };
    run(|| Spool::new(settings.clone()));
}
