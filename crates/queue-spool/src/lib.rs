//! The embedded queue: an append-only segment log and the scheduler's ledger.
//!
//! ```text
//! data_dir/spool/
//!   format                         the version; a newer one is refused
//!   intake/STRIPE/lock, next       a stripe has one writer; `next` is a number no segment has had
//!   intake/STRIPE/SEQ.seg          records: accept record and body, one write
//!   intake/STRIPE/ID.body          a body too large for a segment
//!   intake/STRIPE/SEQ.OFFSET.moved a message copied out of its segment, so that the rest of it can go
//!   compact/lock                   one process makes such copies at a time
//!   ledger/lock, SEQ.log           what the scheduler wrote
//!   damaged/                       what was found damaged, each beside a text that explains it
//! ```
//!
//! Each writer is a plain machine, [`intake::writer::Writer`], [`intake::bodies::Bodies`] and
//! [`ledger::machine::LedgerMachine`]: events in, answers and disk operations out, over one small synchronous
//! [`disk::Disk`]. A disk thread is a loop around a machine and a real disk; a simulation needs neither thread nor disk.
//!
//! What must hold: a commit is answered only after the sync of its accept record, and that comes after the sync of a
//! separate body and its directory · a byte is handed out only from a record whose nonce, id and checksums are right ·
//! files are appended to by whoever began them and unlinked, never overwritten · a segment is unlinked only when its
//! footer is there and every message in it has ended. Touches: files below `data_dir/spool`. Never: mail's content, a
//! network, a clock inside a machine.

#![forbid(unsafe_code)]

mod aside;
mod check;
pub mod codec;
mod compaction;
pub mod disk;
pub mod intake;
pub mod ledger;
mod moved;
pub mod place;
mod read;
mod reader;
mod recovery;
mod repair;
mod scan;
mod settings;
#[cfg(any(test, feature = "simulated"))]
pub mod simulation;
mod small;
mod stripe;
#[cfg(test)]
mod tests;
mod thread;
mod version;

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use disk::{Disk, Held, of_this_machine};
use intake::bodies::Bodies;
use intake::writer::{Limits, Writer};
use ledger::machine::{Book, LedgerMachine};
use mail::Timestamp;
use place::Layout;
use queue::{LedgerError, Record};
use small::Small;

pub use check::{DamageReport, Finding, LogReport, MovedReport, Report, SegmentReport, check};
pub use compaction::SpoolCompaction;
pub use intake::SpoolIntake;
pub use ledger::{LedgerView, SpoolLedger, read_standings};
pub use reader::SpoolReader;
pub use recovery::SpoolRecovery;
pub use repair::{Mode as RepairMode, RepairError, Repaired, Step, repair};
pub use settings::Settings;
pub use stripe::Adopted;
pub use thread::{Machine, Next, Now};
pub use version::check_version;

/// What an intake consists of: the writer of segments, the writer of large bodies, and what was adopted.
pub type IntakeMachines<T> = (Writer<T>, Bodies<T>, Adopted);

/// What a ledger consists of: its writer, what is known of messages, and the lock.
pub type LedgerMachines<T> = (LedgerMachine<T>, Book, Box<dyn Held>);

/// The version of the format that this program reads and writes.
const FORMAT: u32 = codec::VERSION;

/// Why a spool could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory of it could not be read or made.
    #[error("cannot open the queue in {path}")]
    Io {
        /// What.
        path: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// It was written by a newer program.
    #[error(
        "the queue in {path} has format {found:?}, this program knows up to {FORMAT}; use a newer grange"
    )]
    Newer {
        /// The file that says so: the format file, a segment or a log.
        path: String,
        /// What it says.
        found: String,
    },
}

/// Opens the queue for accepting messages: adopts what dead writers left, takes a stripe, starts two threads.
///
/// Must be called on a tokio `LocalRuntime`. Blocks while it adopts, which is why it is done before a worker is ready.
pub fn open_intake(
    data_dir: &Path,
    settings: &Settings,
) -> Result<(Rc<SpoolIntake>, Adopted), OpenError> {
    Spool::new(of_this_machine(), data_dir, settings.clone()).intake()
}

/// Opens the queue for reading messages by handle. Needs no right to write; works on a tokio `LocalRuntime`.
pub fn open_reader(data_dir: &Path, settings: &Settings) -> Result<Rc<SpoolReader>, OpenError> {
    Spool::new(of_this_machine(), data_dir, settings.clone()).reader()
}

/// Opens the queue for listing what was accepted. Needs no right to write but to look at locks; works on a tokio runtime.
pub fn open_recovery(data_dir: &Path) -> Result<Rc<SpoolRecovery>, OpenError> {
    Spool::new(of_this_machine(), data_dir, Settings::default()).recovery()
}

/// Opens the queue for compacting it; works on a tokio runtime. Needs the right to make and to remove files in the stripes.
pub fn open_compaction(
    data_dir: &Path,
    settings: &Settings,
) -> Result<Rc<SpoolCompaction>, OpenError> {
    Spool::new(of_this_machine(), data_dir, settings.clone()).compaction()
}

/// Opens the ledger; [`LedgerError::Held`] when another process has it.
///
/// Its thread starts with [`queue::Ledger::replay`], which must be called on a tokio `LocalRuntime`.
pub fn open_ledger(data_dir: &Path, settings: &Settings) -> Result<Rc<SpoolLedger>, LedgerError> {
    Spool::new(of_this_machine(), data_dir, settings.clone()).ledger()
}

/// A spool on any disk: what the functions above open on the real one.
#[derive(Clone)]
pub struct Spool {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    layout: Layout,
    settings: Settings,
}

impl Spool {
    /// The spool in `data_dir` of a disk. Nothing is touched yet.
    pub fn new(disk: Arc<dyn Disk>, data_dir: &Path, settings: Settings) -> Self {
        let layout = Layout::new(data_dir);
        Self { disk, data_dir: data_dir.to_owned(), layout, settings }
    }

    /// As [`open_intake`].
    pub fn intake(&self) -> Result<(Rc<SpoolIntake>, Adopted), OpenError> {
        self.prepare()?;
        let dir = self.layout.intake();
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        let (hold, adopted) = stripe::take(&*disk, &layout, Timestamp::from(SystemTime::now()))
            .map_err(|error| failed(&dir, error))?;
        let intake = SpoolIntake::start(disk, layout, &self.settings, hold)
            .map_err(|error| failed(&dir, error))?;
        Ok((Rc::new(intake), adopted))
    }

    /// As [`open_reader`].
    pub fn reader(&self) -> Result<Rc<SpoolReader>, OpenError> {
        self.check_format()?;
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        Ok(Rc::new(SpoolReader::new(disk, layout, self.settings.reader_files_max)))
    }

    /// As [`open_recovery`].
    pub fn recovery(&self) -> Result<Rc<SpoolRecovery>, OpenError> {
        self.check_format()?;
        Ok(Rc::new(SpoolRecovery::new(self.disk.clone(), self.layout.clone())))
    }

    /// As [`open_compaction`].
    pub fn compaction(&self) -> Result<Rc<SpoolCompaction>, OpenError> {
        self.prepare()?;
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        Ok(Rc::new(SpoolCompaction::new(disk, layout, self.settings.segment_bytes.0)))
    }

    /// As [`open_ledger`].
    pub fn ledger(&self) -> Result<Rc<SpoolLedger>, LedgerError> {
        self.prepare().map_err(of_ledger)?;
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        Ok(Rc::new(SpoolLedger::open(disk, layout, &self.settings)?))
    }

    /// The machines of an intake without their threads, for a simulation.
    pub fn intake_machines<T: Send + 'static>(
        &self,
        now: Now,
    ) -> Result<IntakeMachines<T>, OpenError> {
        self.prepare()?;
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        let (hold, adopted) = stripe::take(&*disk, &layout, now.wall)
            .map_err(|error| failed(&layout.intake(), error))?;
        let file_bytes_min = self.settings.body_file_bytes_min.0;
        let bodies = Bodies::new(disk.clone(), layout.clone(), hold.stripe, file_bytes_min);
        let writer = Writer::new(disk, layout, Limits::of(&self.settings), hold, now.at);
        Ok((writer, bodies, adopted))
    }

    /// The machine of the ledger without its thread, for a simulation; hands what it replays to `apply`.
    pub fn ledger_machine<T: Send + 'static>(
        &self,
        now: Now,
        apply: &mut dyn FnMut(Record),
    ) -> Result<LedgerMachines<T>, LedgerError> {
        self.prepare().map_err(of_ledger)?;
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        let held = ledger::hold(&*disk, &layout)?;
        let found = ledger::log::find(&*disk, &layout)?;
        ledger::log::report(&layout, &found.damage);
        let (book, mut endings) = (Book::default(), Vec::new());
        for log in found.logs.get(found.start..).unwrap_or_default() {
            ledger::log::replay(log, &layout, &book.standings, apply, &mut endings)?;
        }
        let limits = ledger::machine::Limits::of(&self.settings);
        let standings = book.standings.clone();
        let machine = LedgerMachine::go_on(disk, layout, limits, standings, found, endings, now)?;
        Ok((machine, book, held))
    }

    /// Makes the directories and the format file where they are missing.
    fn prepare(&self) -> Result<(), OpenError> {
        self.check_format()?;
        let (disk, root) = (&*self.disk, self.layout.root());
        for dir in [root, &self.layout.intake(), &self.layout.ledger()] {
            disk.make_dir(dir).map_err(|error| failed(dir, error))?;
        }
        let format =
            small::read(disk, &root.join("format")).map_err(|error| failed(root, error))?;
        if let Small::Missing | Small::Damaged = format {
            if format == Small::Damaged {
                tracing::error!(spool = %root.display(), "the format file is damaged; it is written anew");
            }
            // Several workers may begin a spool at once; whoever renames last writes the same.
            let begun = disk.nonce().and_then(|nonce| {
                let aside = format!("format.{nonce}");
                small::write(disk, root, "format", &aside, u64::from(FORMAT))
            });
            begun.map_err(|error| failed(root, error))?;
        }
        // Another worker may have made them a moment ago: what we write must not hang from a name that is not durable.
        for dir in [root, &self.data_dir] {
            disk.sync_dir(dir).map_err(|error| failed(dir, error))?;
        }
        Ok(())
    }

    /// Checks the format, if there is a spool. A damaged format file says nothing; the heads of the files do.
    fn check_format(&self) -> Result<(), OpenError> {
        let path = self.layout.root().join("format");
        match small::read(&*self.disk, &path).map_err(|error| failed(&path, error))? {
            Small::Number(format) if format != u64::from(FORMAT) => {
                let path = path.display().to_string();
                Err(OpenError::Newer { path, found: format.to_string() })
            }
            Small::Number(_) | Small::Missing => Ok(()),
            Small::Damaged => version::check_heads(&*self.disk, &self.layout),
        }
    }
}

fn failed(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { path: path.display().to_string(), source }
}

fn of_ledger(error: OpenError) -> LedgerError {
    match error {
        OpenError::Io { path, source } => {
            LedgerError::Io { context: path, source: Arc::new(source) }
        }
        OpenError::Newer { .. } => LedgerError::Damaged(error.to_string()),
    }
}
