//! Giving space back: looking at footers, removing what belongs to ended messages. Files are unlinked, never overwritten.

use std::io;

use crate::codec::{Entry, FileKind, Kept};
use crate::disk::Disk;
use crate::ledger::standing::{Ending, Found, slot_at};
use crate::moved;
use crate::place::{Home, Layout, SegmentName, StripeFile, stripe_file_of};
use crate::read::{Fault, OpenFile};
use crate::small::{self, Small};
use crate::stripe::stripes;

/// What a look at a segment's footer shows.
pub(crate) enum Footer {
    /// It is sealed and lists these.
    Sealed(Vec<Entry>),
    /// It is still written to, or waits to be adopted; or it could not be read now.
    NotYet,
    /// There is no such file.
    Missing,
}

/// Looks for a segment's footer.
pub(crate) fn footer(disk: &dyn Disk, layout: &Layout, segment: SegmentName) -> Footer {
    let path = layout.segment(segment);
    match OpenFile::open(disk, &path, FileKind::Segment).and_then(|file| file.footer()) {
        Ok(Some(entries)) => Footer::Sealed(entries),
        Ok(None) => Footer::NotYet,
        Err(Fault::Gone(_)) => match disk.open(&path, crate::disk::Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Footer::Missing,
            _ => Footer::NotYet,
        },
        // It is not for us to remove.
        Err(Fault::Damaged(_)) => Footer::NotYet,
        Err(Fault::Io(context, error)) => {
            tracing::warn!(segment = %segment, context, %error, "cannot look at a segment");
            Footer::NotYet
        }
    }
}

/// Removes segments whose unlinking a power cut undid.
pub(crate) fn remove_segments(disk: &dyn Disk, layout: &Layout, segments: &[SegmentName]) {
    for segment in segments {
        if let Err(error) = disk.unlink(&layout.segment(*segment)) {
            tracing::warn!(segment = %segment, %error, "cannot give a segment back");
        }
    }
}

/// Whether a message that ended had files of its own.
pub(crate) fn has_files(ending: &Ending) -> bool {
    matches!(ending, Ending::Retired(place) if place.body == Kept::Apart || place.home == Home::Moved)
}

/// Removes the files that belonged to one message alone.
pub(crate) fn remove_files(disk: &dyn Disk, layout: &Layout, ending: &Ending) {
    let Ending::Retired(place) = ending else { return };
    let record = &place.record;
    let body = (place.body == Kept::Apart).then(|| layout.body(record.segment.stripe, record.id));
    let moved = (place.home == Home::Moved).then(|| layout.moved(record));
    for path in body.into_iter().chain(moved) {
        match disk.unlink(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), %error, "cannot give a file back");
            }
            _ => {}
        }
    }
}

/// Removes what was copied out of a segment in vain: its messages ended before they were moved. Once this has succeeded no power
/// cut brings a copy back: were the segment gone then, the copy would be taken for a message that nobody knows.
pub(crate) fn remove_copies(
    disk: &dyn Disk,
    layout: &Layout,
    segment: SegmentName,
    is_moved: impl Fn(u64) -> bool,
) -> io::Result<()> {
    let names = moved::names(disk, layout, segment.stripe)?;
    let in_vain: Vec<_> =
        names.into_iter().filter(|(of, offset)| *of == segment && !is_moved(*offset)).collect();
    for (of, offset) in &in_vain {
        match disk.unlink(&layout.copy(*of, *offset)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    if in_vain.is_empty() { Ok(()) } else { disk.sync_dir(&layout.stripe(segment.stripe)) }
}

/// Which segments and moved messages there are, and up to which number each stripe's had all been made before we looked.
pub(crate) fn survey(disk: &dyn Disk, layout: &Layout) -> io::Result<Found> {
    let mut found = Found::default();
    let stripes = match stripes(disk, layout) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        stripes => stripes?,
    };
    for stripe in stripes {
        let dir = layout.stripe(stripe);
        // The number promised last may be a segment that is being made; all before it have been.
        if let Small::Number(next) = small::read(disk, &dir.join("next"))? {
            found.horizon.insert(stripe, next.saturating_sub(2));
        }
        // What is not listed is gone for good then, and need not be remembered.
        disk.sync_dir(&dir)?;
        for name in disk.list(&dir)? {
            match stripe_file_of(&name) {
                StripeFile::Segment(sequence) => {
                    found.existing.insert(SegmentName { stripe, sequence });
                }
                StripeFile::Moved(sequence, offset) => {
                    let segment = SegmentName { stripe, sequence };
                    found.copies.insert((segment, slot_at(offset)));
                }
                StripeFile::Body(_) | StripeFile::Other => {}
            }
        }
    }
    Ok(found)
}
