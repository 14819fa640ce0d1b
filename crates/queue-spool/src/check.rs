//! Looking into a spool: every record of every file verified.

mod around;
mod findings;
mod moved;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use mail::MessageId;
use queue::{Handle, LedgerError, Standing};
use serde::Serialize;

use crate::OpenError;
use crate::codec::{FileKind, Kept, Kind};
use crate::disk::{Access, Disk, RealDisk};
use crate::ledger::log;
use crate::ledger::reclaim;
use crate::ledger::standing::Standings;
use crate::place::{
    BodyPlace, Home, Layout, MessagePlace, Place, RecordPlace, SegmentName, Stripe, StripeFile,
    stripe_file_of,
};
use crate::read::{
    BlockReader, BodyAt, Fault, OpenFile, accept_line, accept_line_of, check_record, draft_bytes,
};
use crate::scan::{Met, scan};
use crate::stripe::stripes;
use crate::thread::lock;

pub use findings::Finding;
pub(crate) use findings::below;
pub use moved::MovedReport;

/// What a check found. Fields are stable: `grange spool check --json` prints this.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every segment, by stripe and number.
    pub segments: Vec<SegmentReport>,
    /// Every message that was moved out of its segment.
    pub moved: Vec<MovedReport>,
    /// Body files that no accept record names; a living writer may be at work on them.
    pub unnamed_bodies: Vec<String>,
    /// The ledger's logs.
    pub logs: Vec<LogReport>,
    /// Everything that is not as it should be, one by one, with what it means for mail.
    pub findings: Vec<Finding>,
    /// Accepted messages in all.
    pub messages: u64,
    /// Bytes of all files that were read.
    pub bytes: u64,
}

/// What a check found in one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentReport {
    /// `STRIPE.SEQ`.
    pub segment: String,
    /// Whether a valid footer is there: no more records will come.
    pub sealed: bool,
    /// Valid records of all kinds.
    pub records: u64,
    /// Accepted messages.
    pub messages: u64,
    /// The file's size.
    pub bytes: u64,
    /// Where something is wrong.
    pub damage: Vec<DamageReport>,
}

/// One place where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamageReport {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How many bytes it spans; 0 when that is not known.
    pub bytes: u64,
    /// The message concerned, when it is known.
    pub id: Option<String>,
    /// What is wrong.
    pub what: String,
    /// Whether this may be a torn end, left by a writer that died or is at work: then nothing accepted is missing.
    pub torn_end: bool,
    /// Whether it is where nothing of a message stands.
    #[serde(skip)]
    pub(crate) is_around: bool,
}

/// What a check found in one log of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogReport {
    /// Its number.
    pub log: u64,
    /// Up to where its frames are valid.
    pub valid_bytes: u64,
    /// Whether replaying begins here, or passes through.
    pub replayed: bool,
}

impl Report {
    /// Whether nothing is damaged; a torn end is nothing wrong, nor is a file that is none of ours.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| !finding.damage)
    }
}

/// Verifies every byte of every file of a spool. Changes nothing; works beside living writers.
pub fn check(data_dir: &Path) -> Result<Report, OpenError> {
    let (disk, layout) = open(data_dir)?;
    let failed = |source| OpenError::Io { path: layout.root().display().to_string(), source };
    check_on(&disk, &layout).map_err(failed)
}

/// As [`check`], on any disk.
pub(crate) fn check_on(disk: &dyn Disk, layout: &Layout) -> io::Result<Report> {
    let mut report = Report::default();
    let stripes = match stripes(disk, layout) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        stripes => stripes?,
    };
    let (mut doubts, mut copies) = (Vec::new(), Vec::new());
    for stripe in &stripes {
        let moved = moved::check(disk, layout, *stripe)?;
        check_stripe(disk, layout, *stripe, &moved.named, &mut report, &mut doubts)?;
        copies.extend(moved.found);
    }
    // Read last: a message that ended while we looked is known to have ended now.
    let standings = match check_ledger(disk, layout, &mut report) {
        Ok(standings) => standings,
        Err(LedgerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Mutex::default()
        }
        Err(error) => {
            report.findings.push(Finding::of_ledger_error(&error));
            Mutex::default()
        }
    };
    for doubt in doubts {
        if lock(&standings).standing(&doubt.handle) != Standing::Retired
            && let Some(segment) = report.segments.get_mut(doubt.segment)
        {
            segment.damage.push(doubt.damage);
        }
    }
    for (copy, place) in copies {
        report.bytes += copy.bytes;
        // One of a message that has ended, or lives where it was, is on its way out: nobody reads it.
        if lock(&standings).standing(&Place::Message(place).handle()) != Standing::Retired {
            let segment = layout.segment(place.record.segment);
            report.messages += u64::from(is_missing(disk, &segment));
            report.moved.push(copy);
        }
    }
    around::check(disk, layout, &stripes, &mut report.findings)?;
    findings::collect(&mut report);
    Ok(report)
}

fn open(data_dir: &Path) -> Result<(RealDisk, Layout), OpenError> {
    crate::Spool::new(Arc::new(RealDisk), data_dir, crate::Settings::default()).check_format()?;
    Ok((RealDisk, Layout::new(data_dir)))
}

/// A message without its body file, which is damage unless it has ended: its body goes before its segment does.
struct Doubt {
    /// The segment's index in the report.
    segment: usize,
    handle: Handle,
    damage: DamageReport,
}

fn check_ledger(
    disk: &dyn Disk,
    layout: &Layout,
    report: &mut Report,
) -> Result<Mutex<Standings>, LedgerError> {
    let found = log::find_beside_writer(disk, layout)?;
    let standings = Mutex::<Standings>::default();
    report.findings.extend(found.damage.iter().map(|damage| Finding::of_ledger(layout, damage)));
    for (number, log) in found.logs.iter().enumerate() {
        report.bytes += log.end;
        let replayed = number >= found.start;
        report.logs.push(LogReport { log: log.sequence, valid_bytes: log.end, replayed });
        if replayed {
            log::replay(log, layout, &standings, &mut drop, &mut Vec::new())?;
        }
    }
    // What is there and the ledger knows nothing of is not taken for what has ended.
    if let Ok(found) = reclaim::survey(disk, layout) {
        lock(&standings).survey(found);
    }
    Ok(standings)
}

fn check_stripe(
    disk: &dyn Disk,
    layout: &Layout,
    stripe: Stripe,
    moved: &HashSet<MessageId>,
    report: &mut Report,
    doubts: &mut Vec<Doubt>,
) -> io::Result<()> {
    let (mut sequences, mut bodies) = (Vec::new(), Vec::new());
    for name in disk.list(&layout.stripe(stripe))? {
        match stripe_file_of(&name) {
            StripeFile::Segment(sequence) => sequences.push(sequence),
            StripeFile::Body(id) => bodies.push(id),
            StripeFile::Moved(..) | StripeFile::Other => {}
        }
    }
    sequences.sort_unstable();
    for sequence in sequences {
        let segment = SegmentName { stripe, sequence };
        let mut found = Bodies::default();
        let checked = check_segment(disk, layout, segment, &mut found);
        let Bodies { named, missing, .. } = found;
        match checked {
            Ok(Some(found)) => {
                let index = report.segments.len();
                doubts.extend(missing.into_iter().map(|(handle, damage)| Doubt {
                    segment: index,
                    handle,
                    damage,
                }));
                report.messages += found.messages;
                report.bytes += found.bytes;
                report.segments.push(found);
            }
            // Given back while we looked.
            Ok(None) => {}
            Err(Fault::Gone(what) | Fault::Damaged(what) | Fault::Io(what, _)) => {
                let damage = DamageReport {
                    offset: 0,
                    bytes: 0,
                    id: None,
                    what,
                    torn_end: false,
                    is_around: false,
                };
                report.segments.push(SegmentReport {
                    segment: segment.to_string(),
                    sealed: false,
                    records: 0,
                    messages: 0,
                    bytes: 0,
                    damage: vec![damage],
                });
            }
        }
        bodies.retain(|id| !named.contains(id));
    }
    bodies.retain(|id| !moved.contains(id));
    let name = |id| findings::below(layout, &layout.body(stripe, id));
    report.unnamed_bodies.extend(bodies.into_iter().map(name));
    Ok(())
}

/// What was found of bodies that are elsewhere.
#[derive(Default)]
struct Bodies {
    /// Messages with a body file.
    named: Vec<MessageId>,
    /// Those whose body file is not there.
    missing: Vec<(Handle, DamageReport)>,
    damage: Vec<DamageReport>,
}

fn check_segment(
    disk: &dyn Disk,
    layout: &Layout,
    segment: SegmentName,
    bodies: &mut Bodies,
) -> Result<Option<SegmentReport>, Fault> {
    let path = layout.segment(segment);
    let file = match OpenFile::open(disk, &path, FileKind::Segment) {
        Err(Fault::Gone(_)) if is_missing(disk, &path) => return Ok(None),
        file => file?,
    };
    let mut padding = Vec::new();
    let found = scan(&file, &mut |met| {
        padding.extend(around::padding(&file, met.offset + met.head.record_bytes(), 64));
        check_body(disk, layout, &file, segment, &met, bodies);
    })?;
    let mut damage = std::mem::take(&mut bodies.damage);
    damage.extend(found.damage.iter().map(|it| DamageReport {
        offset: it.offset,
        bytes: it.bytes,
        id: it.id.map(|id| id.to_string()),
        what: if it.followed { "no valid record" } else { "no valid record up to the end" }.into(),
        torn_end: !it.followed,
        is_around: false,
    }));
    damage.extend(around::mended(&file));
    damage.extend(padding);
    damage.sort_by_key(|damage| damage.offset);
    Ok(Some(SegmentReport {
        segment: segment.to_string(),
        sealed: file.footer()?.is_some(),
        records: found.records,
        messages: found.entries.len() as u64,
        bytes: found.size,
        damage,
    }))
}

/// Verifies the body of an accept record that is elsewhere.
fn check_body(
    disk: &dyn Disk,
    layout: &Layout,
    file: &OpenFile,
    segment: SegmentName,
    met: &Met<'_>,
    bodies: &mut Bodies,
) {
    if met.head.kind != Kind::Accept {
        return;
    }
    // A record without a readable accept part is reported by the scan.
    let Ok(line) = accept_line_of(met.payload, met.head) else { return };
    let id = met.head.id;
    let damage = |what| DamageReport {
        offset: met.offset,
        bytes: 0,
        id: Some(id.to_string()),
        what: format!("its body: {what}"),
        torn_end: false,
        is_around: false,
    };
    let checked = match &line.body {
        BodyAt::Here => Ok(()),
        BodyAt::Record { offset, length } => {
            let place = RecordPlace { segment, offset: *offset, length: *length, id };
            draft_bytes(file, &place).map(drop)
        }
        BodyAt::File { nonce } => {
            bodies.named.push(id);
            let body = BodyPlace { stripe: segment.stripe, id, size: line.size };
            if is_missing(disk, &layout.body(body.stripe, id)) {
                let length = met.head.record_bytes() as u32;
                let record = RecordPlace { segment, offset: met.offset, length, id };
                let place = MessagePlace { record, body: Kept::Apart, home: Home::Segment };
                let what = "there is no such file".to_owned();
                bodies.missing.push((Place::Message(place).handle(), damage(what)));
                return;
            }
            read_through(disk, layout, &body, nonce)
        }
    };
    if let Err(Fault::Gone(what) | Fault::Damaged(what) | Fault::Io(what, _)) = checked {
        bodies.damage.push(damage(what));
    }
}

/// Verifies a message that a footer lists: its record, and its body wherever that is.
pub(crate) fn message(
    disk: &dyn Disk,
    layout: &Layout,
    file: &OpenFile,
    place: &MessagePlace,
) -> Result<(), Fault> {
    let RecordPlace { segment, offset, length, id } = place.record;
    let bytes = file.read(offset, length as usize)?;
    let head = check_record(file, &bytes, offset, &[Kind::Message, Kind::Accept], id)?;
    let line = accept_line(&bytes, &head)?;
    match &line.body {
        BodyAt::Here => Ok(()),
        BodyAt::Record { offset, length } => {
            let draft = RecordPlace { offset: *offset, length: *length, ..place.record };
            draft_bytes(file, &draft).map(drop)
        }
        BodyAt::File { nonce } => {
            let body = BodyPlace { stripe: segment.stripe, id, size: line.size };
            let read =
                BlockReader::open(disk, layout, &body, Some(nonce)).and_then(|mut blocks| {
                    while blocks.next()?.is_some() {}
                    Ok(())
                });
            read.map_err(|fault| match fault {
                Fault::Gone(why) => Fault::Damaged(why),
                fault => fault,
            })
        }
    }
}

fn is_missing(disk: &dyn Disk, path: &Path) -> bool {
    disk.open(path, Access::Read).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn read_through(
    disk: &dyn Disk,
    layout: &Layout,
    place: &BodyPlace,
    nonce: &str,
) -> Result<(), Fault> {
    let mut blocks = BlockReader::open(disk, layout, place, Some(nonce))?;
    if let Some(bit) = around::mended(&blocks.file) {
        return Err(blocks.file.damaged(0, &bit.what));
    }
    while let Some(piece) = blocks.next()? {
        let end = blocks.end_of(piece.len());
        if let Some(found) = around::padding(&blocks.file, end, 64) {
            return Err(blocks.file.damaged(found.offset, &found.what));
        }
    }
    let size = blocks.file.file.size().map_err(|error| Fault::io(Path::new("a body"), error))?;
    match size == blocks.offset {
        true => Ok(()),
        false => Err(blocks.file.damaged(blocks.offset, "there is more than the body")),
    }
}
