//! Stripes: taking one to write to, and adopting what dead writers left.
//!
//! A stripe is a directory under a lock. Its holder is its only writer; death frees it. Whoever starts takes every free
//! stripe for a moment and brings it in order, then keeps one.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use std::collections::HashSet;

use mail::{MessageId, Timestamp};

use crate::aside;
use crate::codec::{self, Entry, FileKind, HEAD_BYTES, Kept, Mended, Nonce};
use crate::disk::{Access, Disk, DiskFile, Held, Lock};
use crate::place::{Layout, SegmentName, Stripe, StripeFile, stripe_file_of, stripe_of};
use crate::read::{Fault, OpenFile};
use crate::scan::{Scan, scan};
use crate::small::{self, Small};

/// How often a lock is tried: a look at whether a stripe has a writer holds it for a moment.
const LOCK_TRIES: u32 = 3;
/// How far the next number is from those that exist when the number that was promised last is lost.
pub(crate) const SAFE_DISTANCE: u64 = 1_000_000;
/// The most stripes a spool may have.
const STRIPES_MAX: u32 = 10_000;

/// What was found of dead writers and brought in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Segments that had no footer and have one now.
    pub segments: u64,
    /// Accept records in them: messages that may not be routed yet.
    pub messages: u64,
    /// Body files that no record named.
    pub bodies_removed: u64,
    /// Bytes that held no valid record: torn ends, or damage.
    pub damaged_bytes: u64,
}

impl Adopted {
    /// Whether a requeue pass should be asked for.
    pub fn needs_requeue(&self) -> bool {
        self.messages > 0
    }
}

/// A stripe that is ours to write to.
pub(crate) struct Hold {
    pub(crate) stripe: Stripe,
    pub(crate) dir: PathBuf,
    /// The number of the next segment.
    pub(crate) next: u64,
    /// Segments of dead writers whose footer could not be written yet.
    pub(crate) unsealed: Vec<Unsealed>,
    _lock: Box<dyn Held>,
}

/// A segment that gets no more records and has no footer yet.
pub(crate) struct Unsealed {
    pub(crate) segment: SegmentName,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) nonce: Nonce,
    /// Where the footer goes.
    pub(crate) end: u64,
    pub(crate) entries: Vec<Entry>,
}

impl Unsealed {
    /// Writes the footer, with which the file ends, and syncs it.
    pub(crate) fn seal(&self) -> io::Result<()> {
        // Zeros that its writer filled it with.
        if self.file.size()? > self.end {
            self.file.cut(self.end)?;
        }
        let bytes = codec::footer(&self.entries, &self.nonce, self.end);
        self.file.write_at(&bytes, self.end)?;
        self.file.sync()
    }
}

/// Adopts every free stripe and keeps one, or makes one.
///
/// `now` bounds the numbers of the segments that will be written from below: where a backup was restored, those of the time between
/// are not given again.
pub(crate) fn take(
    disk: &dyn Disk,
    layout: &Layout,
    now: Timestamp,
) -> io::Result<(Hold, Adopted)> {
    let mut adopted = Adopted::default();
    let mut kept = None;
    for stripe in stripes(disk, layout)? {
        match take_one(disk, layout, stripe, now, &mut adopted) {
            Ok(Some(hold)) if kept.is_none() => kept = Some(hold),
            Ok(_) => {}
            // One stripe that cannot be brought in order must not stop mail.
            Err(error) => {
                tracing::error!(stripe = stripe.0, %error, "cannot adopt a stripe of the queue");
            }
        }
    }
    match kept {
        Some(hold) => {
            // Whoever made the stripe may have died before its name was durable.
            disk.sync_dir(&layout.intake())?;
            Ok((hold, adopted))
        }
        None => Ok((make(disk, layout, now)?, adopted)),
    }
}

/// All stripes there are, by number.
pub(crate) fn stripes(disk: &dyn Disk, layout: &Layout) -> io::Result<Vec<Stripe>> {
    let mut stripes: Vec<_> =
        disk.list(&layout.intake())?.iter().filter_map(|name| stripe_of(name)).collect();
    stripes.sort();
    Ok(stripes)
}

/// Takes a stripe's lock and adopts it; nothing when it has a writer or cannot be written to.
fn take_one(
    disk: &dyn Disk,
    layout: &Layout,
    stripe: Stripe,
    now: Timestamp,
    adopted: &mut Adopted,
) -> io::Result<Option<Hold>> {
    let Some(lock) = lock(disk, layout, stripe)? else { return Ok(None) };
    let unsealed = adopt(disk, layout, stripe, adopted)?;
    let dir = layout.stripe(stripe);
    let files = disk.list(&dir)?;
    let last = files.iter().filter_map(|name| match stripe_file_of(name) {
        StripeFile::Segment(sequence) => Some(sequence),
        _ => None,
    });
    let last = last.max();
    let after_last = last.map_or(Ok(1), following)?;
    let next = match small::read(disk, &dir.join("next")) {
        Ok(Small::Number(next)) => next.max(after_last),
        Ok(Small::Missing) if last.is_none() => 1,
        // The number that was promised last is lost, and files with higher ones may have been given back.
        Ok(found @ (Small::Missing | Small::Damaged)) => {
            let next = after_last.checked_add(SAFE_DISTANCE).unwrap_or(after_last);
            tracing::error!(
                stripe = stripe.0,
                ?found,
                next,
                "a stripe's next number cannot be read; one that is far from all others is taken"
            );
            next
        }
        Err(error) => return Err(error),
    };
    // Seconds: a stripe fills no segment a second for long.
    let next = next.max(now.millis() / 1000);
    Ok(Some(Hold { stripe, dir, next, unsealed, _lock: lock }))
}

fn lock(disk: &dyn Disk, layout: &Layout, stripe: Stripe) -> io::Result<Option<Box<dyn Held>>> {
    for turn in 0..LOCK_TRIES {
        if turn > 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        if let Some(held) = disk.lock(&layout.stripe_lock(stripe), Lock::Exclusive)? {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

fn make(disk: &dyn Disk, layout: &Layout, now: Timestamp) -> io::Result<Hold> {
    let first = stripes(disk, layout)?.last().map_or(1, |last| last.0.saturating_add(1));
    for number in first..STRIPES_MAX {
        let stripe = Stripe(number);
        let dir = layout.stripe(stripe);
        disk.make_dir(&dir)?;
        disk.sync_dir(&layout.intake())?;
        // Another process may have made the same one at the same time.
        if let Some(hold) = take_one(disk, layout, stripe, now, &mut Adopted::default())? {
            return Ok(hold);
        }
    }
    Err(io::Error::other(format!("there are {STRIPES_MAX} stripes, and none is free")))
}

/// The number after one that was read: there may be none.
fn following(sequence: u64) -> io::Result<u64> {
    let none = || io::Error::new(io::ErrorKind::InvalidData, "there is no higher segment number");
    sequence.checked_add(1).ok_or_else(none)
}

impl Hold {
    /// Promises a number that no segment has had: synced before it is given out.
    pub(crate) fn next_segment(&mut self, disk: &dyn Disk) -> io::Result<SegmentName> {
        let sequence = self.next;
        let next = following(sequence)?;
        small::write(disk, &self.dir, "next", "next.new", next)?;
        self.next = next;
        Ok(SegmentName { stripe: self.stripe, sequence })
    }
}

/// Brings a stripe in order whose lock we hold. Gives the segments that could not be sealed now.
fn adopt(
    disk: &dyn Disk,
    layout: &Layout,
    stripe: Stripe,
    adopted: &mut Adopted,
) -> io::Result<Vec<Unsealed>> {
    let (mut named, mut bodies) = (HashSet::new(), Vec::new());
    let mut unsealed = Vec::new();
    let mut evidence_lost = false;
    for name in disk.list(&layout.stripe(stripe))? {
        match stripe_file_of(&name) {
            StripeFile::Segment(sequence) => {
                let segment = SegmentName { stripe, sequence };
                match adopt_segment(disk, layout, segment, adopted, &mut unsealed) {
                    Ok(segment) => {
                        named.extend(segment.bodies);
                        evidence_lost |= segment.evidence_lost;
                    }
                    Err(Fault::Gone(_) | Fault::Damaged(_)) => evidence_lost = true,
                    // One file that cannot be read must not keep the mail of all others.
                    Err(Fault::Io(what, error)) => {
                        tracing::error!(%segment, what, %error, "cannot adopt a segment of the queue");
                        evidence_lost = true;
                    }
                }
            }
            StripeFile::Body(id) => bodies.push(id),
            StripeFile::Moved(..) => match moved_id(disk, &layout.stripe(stripe).join(&name)) {
                Some(id) => drop(named.insert(id)),
                None => evidence_lost = true,
            },
            StripeFile::Other => {}
        }
    }
    // Where a record in the midst of others is damaged, it may have named a body: better to keep too much.
    if !evidence_lost {
        for id in bodies.into_iter().filter(|id| !named.contains(id)) {
            match disk.unlink(&layout.body(stripe, id)) {
                // The scheduler gives back what belongs to ended messages meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => {
                    removed?;
                    adopted.bodies_removed += 1;
                }
            }
        }
    }
    Ok(unsealed)
}

/// What a segment that was looked at names.
pub(crate) struct AdoptedSegment {
    /// Messages with a body file.
    pub(crate) bodies: Vec<MessageId>,
    /// Whether a record may be missing that was once acknowledged.
    pub(crate) evidence_lost: bool,
}

/// Seals a segment that has no footer, and sets aside what it will not list.
pub(crate) fn adopt_segment(
    disk: &dyn Disk,
    layout: &Layout,
    segment: SegmentName,
    adopted: &mut Adopted,
    unsealed: &mut Vec<Unsealed>,
) -> Result<AdoptedSegment, Fault> {
    let path = layout.segment(segment);
    let file = match OpenFile::open(disk, &path, FileKind::Segment) {
        Err(Fault::Gone(why) | Fault::Damaged(why)) => return headless(disk, &path, why),
        opened => opened?,
    };
    if file.mended == Mended::OneBit {
        tracing::error!(file = %path.display(), "a bit of a segment's head is wrong; it is read all the same");
    }
    if let Some(entries) = file.footer()? {
        return Ok(AdoptedSegment { bodies: bodies(&entries), evidence_lost: false });
    }
    let found = scan(&file, &mut |_| {})?;
    let evidence_lost = found.damage.iter().any(|damage| damage.followed);
    let damaged_bytes: u64 = found.damage.iter().map(|damage| damage.bytes).sum();
    // Of the end of a write that never succeeded nobody was told, and no footer would ever let it go.
    let torn = found.damage.iter().all(|damage| !damage.is_more_than_torn(found.size));
    if found.entries.is_empty() && torn {
        adopted.damaged_bytes += damaged_bytes;
        disk.unlink(&path).map_err(|error| Fault::io(&path, error))?;
        return Ok(AdoptedSegment { bodies: Vec::new(), evidence_lost });
    }
    tracing::info!(
        segment = %segment,
        messages = found.entries.len(),
        damaged_bytes,
        "adopted a segment of the queue"
    );
    let bodies = bodies(&found.entries);
    adopted.segments += 1;
    adopted.messages += found.entries.len() as u64;
    adopted.damaged_bytes += damaged_bytes;
    if let Err(error) = set_aside(disk, layout, &file, &path, &found) {
        // Unsealed, it keeps its place and all that is in it.
        tracing::error!(segment = %segment, %error, "cannot set aside what is damaged in a segment");
        return Ok(AdoptedSegment { bodies, evidence_lost: true });
    }
    let writable = disk.open(&path, Access::Write).map_err(|error| Fault::io(&path, error))?;
    let left = Unsealed {
        segment,
        file: Arc::from(writable),
        nonce: *file.nonce(),
        end: codec::align(found.size),
        entries: found.entries,
    };
    if let Err(error) = left.seal() {
        tracing::warn!(segment = %segment, %error, "cannot seal a segment yet");
        unsealed.push(left);
    }
    Ok(AdoptedSegment { bodies, evidence_lost })
}

/// Copies what a segment will not list: it goes when all that is listed has ended.
///
/// A torn end is left: the file ends in the midst of a record, or nothing tells that there was one.
fn set_aside(
    disk: &dyn Disk,
    layout: &Layout,
    file: &OpenFile,
    path: &std::path::Path,
    found: &Scan,
) -> io::Result<()> {
    for damage in found.damage.iter().filter(|damage| damage.is_more_than_torn(found.size)) {
        let length = damage.bytes.min(found.size - damage.offset);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let count = file.file.read_at(&mut bytes, damage.offset)?;
        bytes.truncate(count);
        let why = match damage.id {
            Some(id) => format!("the record of message {id} there fails its checksum"),
            None => "no record there passes its checks".to_owned(),
        };
        aside::part(disk, layout, (path, damage.offset), &bytes, &why)?;
        let (file, offset) = (path.display(), damage.offset);
        let id = damage.id.map(|id| id.to_string());
        if damage.followed {
            tracing::error!(id, %file, offset, length, "a record of the queue is damaged; it is set aside, and its message is not delivered");
        } else {
            tracing::warn!(id, %file, offset, length, "the last record of a segment is not whole; it is set aside, and not delivered: it may be the torn end of a message that never got 250, or is damaged");
        }
    }
    Ok(())
}

/// A segment whose writer died before its head was synced holds nothing; any other without a head is damage.
fn headless(disk: &dyn Disk, path: &std::path::Path, why: String) -> Result<AdoptedSegment, Fault> {
    let broken = |error| Fault::io(path, error);
    let file = disk.open(path, Access::Read).map_err(broken)?;
    if file.size().map_err(broken)? <= HEAD_BYTES as u64 {
        disk.unlink(path).map_err(broken)?;
        return Ok(AdoptedSegment { bodies: Vec::new(), evidence_lost: false });
    }
    tracing::error!(file = %path.display(), why, "a segment of the queue cannot be read");
    Ok(AdoptedSegment { bodies: Vec::new(), evidence_lost: true })
}

fn bodies(entries: &[Entry]) -> Vec<MessageId> {
    entries.iter().filter(|entry| entry.body == Kept::Apart).map(|entry| entry.id).collect()
}

fn moved_id(disk: &dyn Disk, path: &std::path::Path) -> Option<MessageId> {
    let file = OpenFile::open(disk, path, FileKind::Moved).ok()?;
    let head = file.read(HEAD_BYTES as u64, HEAD_BYTES).ok()?;
    codec::head(&head, file.nonce(), HEAD_BYTES as u64).map(|head| head.id)
}
