//! Putting a spool right while nobody uses it: what is damaged is set aside, what is left is sealed and numbered again.
//!
//! Every byte that is taken out of use is in `spool/damaged` first. A message that the ledger knows is left where it is, damaged or
//! not: the scheduler holds it, and its sender can be told.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mail::MessageId;
use queue::Standing;
use serde::Serialize;

use crate::check::{self, Finding, below};
use crate::codec::{self, Entry, FileKind, HEAD_BYTES, Kept, Mended};
use crate::disk::{Access, Disk, Held, Lock, RealDisk, read_text};
use crate::ledger::standing::Standings;
use crate::ledger::{log, reclaim};
use crate::place::{
    Home, Layout, MessagePlace, Place, RecordPlace, SegmentName, Stripe, StripeFile, stripe_file_of,
};
use crate::read::{Fault, OpenFile};
use crate::scan::scan;
use crate::small::{self, Small};
use crate::stripe::{self, Adopted, Unsealed, stripes};
use crate::{OpenError, Report, aside, moved};

/// Whether a repair does what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Do,
    /// It only says what it would do.
    Say,
}

/// What a repair did, or would do, and what is left. Fields are stable: `grange spool repair --json` prints this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Step by step.
    pub steps: Vec<Step>,
    /// What a check finds afterwards.
    pub left: Vec<Finding>,
}

/// One step of a repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The file, below `spool`.
    pub file: String,
    /// The message concerned, when it is known.
    pub id: Option<String>,
    /// What is done, and why.
    pub what: String,
}

/// Why a spool was not repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// It cannot be read or written.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Somebody uses it.
    #[error("the queue is in use by process {0}; stop grange first")]
    Busy(String),
}

/// Repairs a spool, or says what that would come to. Takes every lock, so that nobody else is at work.
pub fn repair(data_dir: &Path, mode: Mode) -> Result<Repaired, RepairError> {
    let layout = Layout::new(data_dir);
    crate::check_version(data_dir)?;
    repair_on(&RealDisk, &layout, mode)
}

/// As [`repair`], on any disk.
pub(crate) fn repair_on(
    disk: &dyn Disk,
    layout: &Layout,
    mode: Mode,
) -> Result<Repaired, RepairError> {
    let failed = |source| OpenError::Io { path: layout.root().display().to_string(), source };
    let _locks = lock_all(disk, layout)?;
    let standings = standings(disk, layout).map_err(failed)?;
    let mut work = Work { disk, layout, mode, standings, steps: Vec::new() };
    work.all().map_err(failed)?;
    let report: Report = check::check_on(disk, layout).map_err(failed)?;
    Ok(Repaired { steps: work.steps, left: report.findings })
}

fn lock_all(disk: &dyn Disk, layout: &Layout) -> Result<Vec<Box<dyn Held>>, RepairError> {
    let failed = |path: &Path, source| OpenError::Io { path: path.display().to_string(), source };
    let intake = layout.intake();
    let stripes = stripes(disk, layout).map_err(|error| failed(&intake, error))?;
    let mut paths = vec![layout.ledger().join("lock"), layout.compact().join("lock")];
    paths.extend(stripes.iter().map(|stripe| layout.stripe_lock(*stripe)));
    let mut locks = Vec::new();
    for path in paths {
        match disk.lock(&path, Lock::Exclusive) {
            Ok(Some(held)) => locks.push(held),
            Ok(None) => {
                let holder = read_text(disk, &path).unwrap_or_default();
                return Err(RepairError::Busy(holder.trim().to_owned()));
            }
            // A part that was never begun has no writer.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, error).into()),
        }
    }
    Ok(locks)
}

fn standings(disk: &dyn Disk, layout: &Layout) -> io::Result<Standings> {
    let standings = Mutex::<Standings>::default();
    let broken = |error: queue::LedgerError| io::Error::other(error.to_string());
    match log::find(disk, layout) {
        Ok(found) => {
            for log in found.logs.get(found.start..).unwrap_or_default() {
                log::replay(log, layout, &standings, &mut drop, &mut Vec::new()).map_err(broken)?;
            }
        }
        Err(queue::LedgerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(broken(error)),
    }
    let mut standings = standings.into_inner().unwrap_or_else(PoisonError::into_inner);
    standings.survey(reclaim::survey(disk, layout)?);
    Ok(standings)
}

struct Work<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    mode: Mode,
    standings: Standings,
    steps: Vec<Step>,
}

impl Work<'_> {
    fn all(&mut self) -> io::Result<()> {
        let root = self.layout.root().to_owned();
        if small::read(self.disk, &root.join("format"))? == Small::Damaged {
            self.step(&root.join("format"), None, "its number is damaged: written anew");
            if self.mode == Mode::Do {
                let format = u64::from(codec::VERSION);
                small::write(self.disk, &root, "format", "format.repair", format)?;
            }
        }
        for stripe in stripes(self.disk, self.layout)? {
            self.stripe(stripe)?;
        }
        self.ledger()
    }

    fn step(&mut self, path: &Path, id: Option<MessageId>, what: &str) {
        let (file, id) = (below(self.layout, path), id.map(|id| id.to_string()));
        self.steps.push(Step { file, id, what: what.to_owned() });
    }

    /// Moves a whole file aside.
    fn file_aside(&mut self, path: &Path, id: Option<MessageId>, why: &str) -> io::Result<()> {
        self.step(path, id, &format!("{why}: moved to damaged/"));
        match self.mode {
            Mode::Do => aside::file(self.disk, self.layout, path, why).map(drop),
            Mode::Say => Ok(()),
        }
    }

    fn stripe(&mut self, stripe: Stripe) -> io::Result<()> {
        let dir = self.layout.stripe(stripe);
        let (mut segments, mut bodies, mut copies) = (Vec::new(), Vec::new(), Vec::new());
        for name in self.disk.list(&dir)? {
            match stripe_file_of(&name) {
                StripeFile::Segment(sequence) => segments.push(sequence),
                StripeFile::Body(id) => bodies.push(id),
                StripeFile::Moved(sequence, offset) => copies.push((sequence, offset)),
                StripeFile::Other => {}
            }
        }
        segments.sort_unstable();
        let last = segments.last().copied().unwrap_or(0);
        let mut named = Named::default();
        for sequence in segments {
            self.segment(SegmentName { stripe, sequence }, &mut named)?;
        }
        for (sequence, offset) in copies {
            self.copy((SegmentName { stripe, sequence }, offset), &mut named)?;
        }
        for id in bodies {
            self.body(stripe, id, &named)?;
        }
        if small::read(self.disk, &dir.join("next"))? == Small::Damaged {
            let next = last.saturating_add(stripe::SAFE_DISTANCE);
            self.step(
                &dir.join("next"),
                None,
                &format!("its number is damaged: written anew as {next}"),
            );
            if self.mode == Mode::Do {
                small::write(self.disk, &dir, "next", "next.new", next)?;
            }
        }
        Ok(())
    }

    /// Gives a file its head back, one bit of which is wrong.
    fn head(&mut self, path: &Path, file: &OpenFile) -> io::Result<()> {
        if file.mended == Mended::No {
            return Ok(());
        }
        let why = "a bit of its head is wrong";
        self.step(path, None, &format!("{why}: written right, the old head copied to damaged/"));
        if self.mode == Mode::Do {
            let mut old = [0; HEAD_BYTES];
            file.file.read_at(&mut old, 0)?;
            aside::part(self.disk, self.layout, (path, 0), &old, why)?;
            let writable = self.disk.open(path, Access::Write)?;
            writable.write_at(&file.head.encode(), 0)?;
            writable.sync()?;
        }
        Ok(())
    }

    fn segment(&mut self, segment: SegmentName, named: &mut Named) -> io::Result<()> {
        let path = self.layout.segment(segment);
        let file = match OpenFile::open(self.disk, &path, FileKind::Segment) {
            Ok(file) => file,
            Err(Fault::Damaged(why)) => {
                named.evidence_lost = true;
                if self.standings.has_open(segment) {
                    let what = format!(
                        "{why}: left for the messages that are held; bounce or remove these with grange queue"
                    );
                    self.step(&path, None, &what);
                    return Ok(());
                }
                return self.file_aside(&path, None, &why);
            }
            // Empty: adoption removes it.
            Err(Fault::Gone(_)) => return Ok(()),
            Err(fault) => return Err(of_fault(fault)),
        };
        self.head(&path, &file)?;
        match file.footer().map_err(of_fault)? {
            Some(entries) => self.sealed(segment, &path, &file, entries, named),
            None => self.unsealed(segment, &path, &file, named),
        }
    }

    fn unsealed(
        &mut self,
        segment: SegmentName,
        path: &Path,
        file: &OpenFile,
        named: &mut Named,
    ) -> io::Result<()> {
        self.step(
            path,
            None,
            "nobody writes to it any more: damaged records copied to damaged/, and sealed",
        );
        let found = scan(file, &mut |_| {}).map_err(of_fault)?;
        let apart = found.entries.iter().filter(|entry| entry.body == Kept::Apart);
        named.bodies.extend(apart.map(|entry| entry.id));
        named.evidence_lost |= found.damage.iter().any(|damage| damage.followed);
        if self.mode == Mode::Do {
            let mut unsealed = Vec::new();
            let mut adopted = Adopted::default();
            let (disk, layout) = (self.disk, self.layout);
            stripe::adopt_segment(disk, layout, segment, &mut adopted, &mut unsealed)
                .map_err(of_fault)?;
        }
        Ok(())
    }

    /// Sets aside what a sealed segment lists, fails its checks, and is unknown to the ledger; lists the rest anew.
    fn sealed(
        &mut self,
        segment: SegmentName,
        path: &Path,
        file: &OpenFile,
        entries: Vec<Entry>,
        named: &mut Named,
    ) -> io::Result<()> {
        let (mut kept, mut dropped) = (Vec::new(), false);
        for entry in entries {
            let Entry { offset, length, id, body, .. } = entry;
            let record = RecordPlace { segment, offset, length, id };
            let place = MessagePlace { record, body, home: Home::Segment };
            let checked = check::message(self.disk, self.layout, file, &place);
            let standing = self.standings.standing(&Place::Message(place).handle());
            match (checked, standing) {
                (Err(Fault::Damaged(why)), Standing::Unknown) => {
                    dropped = true;
                    self.step(
                        path,
                        Some(id),
                        &format!("{why}: copied to damaged/, and not listed any more"),
                    );
                    if self.mode == Mode::Do {
                        let mut bytes = vec![0; length as usize];
                        let count = file.file.read_at(&mut bytes, offset)?;
                        bytes.truncate(count);
                        let why = format!("message {id} is damaged: {why}");
                        aside::part(self.disk, self.layout, (path, offset), &bytes, &why)?;
                    }
                    continue;
                }
                (Err(Fault::Damaged(why)), Standing::Routed) => {
                    self.step(path, Some(id), &format!("{why}: left, as the message is held; bounce or remove it with grange queue"));
                }
                _ => {}
            }
            if body == Kept::Apart {
                named.bodies.push(id);
            }
            kept.push(entry);
        }
        match self.mode {
            Mode::Do if dropped && kept.is_empty() => {
                self.file_aside(path, None, "all that it lists is damaged")
            }
            Mode::Do if dropped => {
                let end = codec::align(file.file.size()?);
                let writable = self.disk.open(path, Access::Write)?;
                let nonce = *file.nonce();
                Unsealed { segment, file: writable.into(), nonce, end, entries: kept }.seal()
            }
            _ => Ok(()),
        }
    }

    fn copy(&mut self, (segment, offset): moved::CopyName, named: &mut Named) -> io::Result<()> {
        let path = self.layout.copy(segment, offset);
        if let Ok(file) = OpenFile::open(self.disk, &path, FileKind::Moved) {
            self.head(&path, &file)?;
        }
        let checked = moved::look(self.disk, self.layout, (segment, offset));
        let checked = checked
            .and_then(|(place, _)| moved::check(self.disk, self.layout, &place).map(|()| place));
        match checked {
            Ok(place) => named.bodies.push(place.record.id),
            Err(Fault::Damaged(why)) => {
                named.evidence_lost = true;
                if self.standings.has_copy(segment, offset) {
                    let what = format!(
                        "{why}: left, as its message is held; bounce or remove it with grange queue"
                    );
                    self.step(&path, None, &what);
                } else {
                    self.file_aside(&path, None, &why)?;
                }
            }
            Err(Fault::Gone(_) | Fault::Io(..)) => named.evidence_lost = true,
        }
        Ok(())
    }

    /// Moves a body aside that nothing names. Where a record is lost, that may have named it.
    fn body(&mut self, stripe: Stripe, id: MessageId, named: &Named) -> io::Result<()> {
        let path = self.layout.body(stripe, id);
        if named.bodies.contains(&id) {
            if let Ok(file) = OpenFile::open(self.disk, &path, FileKind::Body) {
                self.head(&path, &file)?;
            }
            return Ok(());
        }
        if named.evidence_lost {
            self.step(&path, Some(id), "no record names it, but one may have that is lost: left");
            return Ok(());
        }
        self.file_aside(&path, Some(id), "no accept record names it")
    }

    fn ledger(&mut self) -> io::Result<()> {
        let Ok(found) = log::find(self.disk, self.layout) else { return Ok(()) };
        let logs: Vec<PathBuf> = found.unreadable.iter().map(|log| self.layout.log(*log)).collect();
        for path in logs {
            self.file_aside(&path, None, "its head cannot be read")?;
        }
        let damaged: HashSet<u64> =
            found.damage.iter().filter(|it| !it.may_be_torn).map(|it| it.log).collect();
        for log in
            found.logs.iter().filter(|log| log.is_damaged() || damaged.contains(&log.sequence))
        {
            let what = "what is damaged is passed over at the next start, and the log moved to damaged/ by the checkpoint that follows";
            self.step(&self.layout.log(log.sequence), None, what);
        }
        Ok(())
    }
}

/// What the records of a stripe name.
#[derive(Default)]
struct Named {
    /// Messages with a body file.
    bodies: Vec<MessageId>,
    /// Whether a record may be lost that named another.
    evidence_lost: bool,
}

fn of_fault(fault: Fault) -> io::Error {
    match fault {
        Fault::Gone(why) => io::Error::new(io::ErrorKind::NotFound, why),
        Fault::Damaged(why) => io::Error::new(io::ErrorKind::InvalidData, why),
        Fault::Io(what, error) => io::Error::new(error.kind(), format!("{what}: {error}")),
    }
}
