//! Verifying what stands around the records: heads, padding, small files, and files that are none of ours.

use std::io;
use std::path::Path;

use super::DamageReport;
use super::findings::Finding;
use crate::codec::Mended;
use crate::disk::{Access, Disk, Lock};
use crate::ledger::log;
use crate::place::{Layout, Stripe, StripeFile, log_of, stripe_file_of, stripe_of};
use crate::read::OpenFile;
use crate::small::{self, Small};

/// A bit of a file's head that is wrong.
pub(super) fn mended(file: &OpenFile) -> Option<DamageReport> {
    (file.mended == Mended::OneBit).then(|| DamageReport {
        offset: 0,
        bytes: 64,
        id: None,
        what: "a bit of the file's head is wrong; it is read all the same".into(),
        torn_end: false,
        is_around: true,
    })
}

/// Bytes between `end` and the next multiple of `alignment` that are not zero, as far as the file goes.
pub(super) fn padding(file: &OpenFile, end: u64, alignment: u64) -> Option<DamageReport> {
    let mut bytes = [0; 64];
    let length = (end.next_multiple_of(alignment) - end) as usize;
    let count = file.file.read_at(bytes.get_mut(..length)?, end).ok()?;
    let at = bytes.get(..count)?.iter().position(|byte| *byte != 0)?;
    Some(DamageReport {
        offset: end + at as u64,
        bytes: 1,
        id: None,
        what: "padding is not zero; nobody reads it".into(),
        torn_end: false,
        is_around: true,
    })
}

/// Looks at the small files, at what stands between the ledger's frames, and for strangers.
pub(super) fn check(
    disk: &dyn Disk,
    layout: &Layout,
    stripes: &[Stripe],
    findings: &mut Vec<Finding>,
) -> io::Result<()> {
    let root = layout.root();
    small(disk, layout, &root.join("format"), findings)?;
    for stripe in stripes {
        let dir = layout.stripe(*stripe);
        let next = small(disk, layout, &dir.join("next"), findings)?;
        let mut last = 0;
        for name in disk.list(&dir).unwrap_or_default() {
            match stripe_file_of(&name) {
                StripeFile::Segment(sequence) => last = last.max(sequence),
                StripeFile::Body(_) | StripeFile::Moved(..) => {}
                StripeFile::Other => stranger(layout, &dir, &name, &IN_STRIPE, findings),
            }
        }
        if let Small::Number(next) = next
            && next <= last
        {
            findings.push(Finding::of_next(layout, &dir.join("next"), last));
        }
    }
    for name in disk.list(&layout.intake()).unwrap_or_default() {
        if stripe_of(&name).is_none() {
            stranger(layout, &layout.intake(), &name, &[], findings);
        }
    }
    for name in disk.list(&layout.ledger()).unwrap_or_default() {
        if log_of(&name).is_none() {
            stranger(layout, &layout.ledger(), &name, &["lock"], findings);
        }
    }
    for name in disk.list(root).unwrap_or_default() {
        let ours = ["format", "intake", "ledger", "compact", "damaged"];
        if !name.starts_with("format.") {
            stranger(layout, root, &name, &ours, findings);
        }
    }
    frames(disk, layout, findings)
}

/// What a stripe holds beside segments, bodies and copies.
const IN_STRIPE: [&str; 4] = ["lock", "next", "next.new", "moved.new"];

fn stranger(layout: &Layout, dir: &Path, name: &str, ours: &[&str], findings: &mut Vec<Finding>) {
    if !ours.contains(&name) {
        findings.push(Finding::of_stranger(layout, &dir.join(name)));
    }
}

fn small(
    disk: &dyn Disk,
    layout: &Layout,
    path: &Path,
    findings: &mut Vec<Finding>,
) -> io::Result<Small> {
    let found = small::read(disk, path)?;
    if found == Small::Damaged {
        findings.push(Finding::of_small(layout, path));
    }
    Ok(found)
}

/// Looks at the logs' heads and at what stands between frames and behind the last.
fn frames(disk: &dyn Disk, layout: &Layout, findings: &mut Vec<Finding>) -> io::Result<()> {
    // What cannot be read at all has been told.
    let Ok(found) = log::find_beside_writer(disk, layout) else { return Ok(()) };
    for log in found.logs.iter().filter(|log| log.is_mended()) {
        findings.push(Finding::of_log_head(layout, log.sequence));
    }
    for unused in &found.unused {
        let path = layout.log(*unused);
        let mut head = [0; 64];
        let read = disk.open(&path, Access::Read).and_then(|file| file.read_at(&mut head, 0));
        if read.is_ok() && head.iter().any(|byte| *byte != 0) {
            findings.push(Finding::of_unused_log(layout, &path));
        }
    }
    // Behind the last frame of a log that is being written, more come.
    let lock = disk.lock(&layout.ledger().join("lock"), Lock::Shared);
    let writing = found.logs.last().filter(|_| !matches!(lock, Ok(Some(_))));
    let writing = writing.map(|log| log.sequence);
    for log in &found.logs {
        let around = log::around_frames(log)?;
        let path = layout.log(log.sequence);
        findings.extend(around.padding.map(|at| Finding::of_padding(layout, &path, at)));
        let behind = around.behind.filter(|_| writing != Some(log.sequence));
        findings.extend(behind.map(|at| Finding::of_torn_log(layout, &path, at)));
    }
    Ok(())
}
