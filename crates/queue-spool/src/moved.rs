//! Messages copied out of their segments, on a disk thread: `SEQ.OFFSET.moved`, one record behind the file's head.
//!
//! ```text
//! segment ── record, checked ──▶ moved.new ── synced ──▶ renamed to SEQ.OFFSET.moved ── directory synced ──▶ told
//! ```
//!
//! The file holds what the accept record said, and the body where that stood in the segment; a body in a file of its own
//! stays there. A file of that name is whole, whatever crashed: one that is not has been damaged since.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use mail::Timestamp;
use queue::{Listed, ReadError};
use serde_json::Value;

use crate::codec::{
    self, FileHead, FileKind, HEAD_BYTES, Kept, Kind, NewRecord, PAYLOAD_BYTES_MAX,
};
use crate::disk::Disk;
use crate::place::{
    Home, Layout, MessagePlace, Place, RecordPlace, SegmentName, Stripe, StripeFile, stripe_file_of,
};
use crate::read::{
    BodyAt, Fault, OpenFile, accept_line, accept_line_of, check_record, draft_bytes,
};

/// The name of a copy that is being made; one process makes copies at a time.
const ASIDE: &str = "moved.new";

/// Where the record begins in its file.
const OFFSET: u64 = HEAD_BYTES as u64;

/// A copy by its file's name: the segment that the message was written to, and the offset there.
pub(crate) type CopyName = (SegmentName, u64);

/// The copies in a stripe's directory.
pub(crate) fn names(disk: &dyn Disk, layout: &Layout, stripe: Stripe) -> io::Result<Vec<CopyName>> {
    let copy = |name: &String| match stripe_file_of(name) {
        StripeFile::Moved(sequence, offset) => Some((SegmentName { stripe, sequence }, offset)),
        _ => None,
    };
    let mut names: Vec<_> = disk.list(&layout.stripe(stripe))?.iter().filter_map(copy).collect();
    names.sort_unstable();
    Ok(names)
}

/// Looks at a copy: its place, and when the message was accepted. The body is not looked at.
pub(crate) fn look(
    disk: &dyn Disk,
    layout: &Layout,
    (segment, offset): CopyName,
) -> Result<(MessagePlace, Timestamp), Fault> {
    let file = OpenFile::open(disk, &layout.copy(segment, offset), FileKind::Moved)?;
    let damaged = || file.damaged(OFFSET, "the head of its record fails its checksum");
    let head = codec::head(&file.read(OFFSET, HEAD_BYTES)?, file.nonce(), OFFSET);
    let head = head.ok_or_else(damaged)?;
    let json = file.read(OFFSET + HEAD_BYTES as u64, head.accept_bytes as usize)?;
    let line = accept_line_of(&json, &head)?;
    let length = HEAD_BYTES as u32 + head.payload_bytes;
    let record = RecordPlace { segment, offset, length, id: head.id };
    let body = match (head.kind, &line.body) {
        (Kind::Message, BodyAt::Here) => Kept::Within,
        (Kind::Accept, BodyAt::File { .. }) => Kept::Apart,
        _ => return Err(file.damaged(OFFSET, "it is no record of a moved message")),
    };
    let place = MessagePlace { record, body, home: Home::Moved };
    Ok((place, line.accept.accepted_at))
}

/// Checks every byte of a copy's record.
pub(crate) fn check(disk: &dyn Disk, layout: &Layout, place: &MessagePlace) -> Result<(), Fault> {
    let record = &place.record;
    let file = OpenFile::open(disk, &layout.moved(record), FileKind::Moved)?;
    let bytes = file.read(OFFSET, record.length as usize)?;
    let kinds = [Kind::Message, Kind::Accept];
    check_record(&file, &bytes, OFFSET, &kinds, record.id).map(drop)
}

/// What a copy says, for listing.
pub(crate) fn listed(disk: &dyn Disk, layout: &Layout, name: CopyName) -> Result<Listed, Fault> {
    let (place, accepted_at) = look(disk, layout, name)?;
    Ok(Listed { handle: Place::Message(place).handle(), id: place.record.id, accepted_at })
}

/// All copies of a stripe that can be read; one that went meanwhile is left out.
pub(crate) fn list(disk: &dyn Disk, layout: &Layout, stripe: Stripe) -> Result<Vec<Listed>, Fault> {
    let dir = layout.stripe(stripe);
    let names = names(disk, layout, stripe).map_err(|error| Fault::io(&dir, error))?;
    let mut found = Vec::new();
    for (segment, offset) in names {
        match listed(disk, layout, (segment, offset)) {
            Ok(listed) => found.push(listed),
            Err(Fault::Gone(why)) => {
                tracing::debug!(%segment, offset, why, "a moved message is not listed");
            }
            Err(Fault::Damaged(what)) => {
                tracing::error!(%segment, offset, what, "a moved message is damaged; it is set aside");
            }
            Err(Fault::Io(what, error)) => {
                tracing::error!(%segment, offset, what, %error, "a moved message cannot be read");
            }
        }
    }
    Ok(found)
}

/// Copies messages and syncs what holds the copies. Each gives the place of its copy, or why it is not whole.
///
/// An error is one of writing: none of these copies counts then, though some may be there.
pub(crate) fn copy_all(
    disk: &dyn Disk,
    layout: &Layout,
    messages: &[queue::Handle],
    now: Timestamp,
) -> Result<Vec<Result<queue::Handle, ReadError>>, (PathBuf, io::Error)> {
    let mut copies = Vec::with_capacity(messages.len());
    let mut stripes = HashSet::new();
    for handle in messages {
        let place = match Place::parse(handle) {
            Some(Place::Message(place)) => place,
            Some(_) => {
                copies.push(Err(ReadError::Gone(handle.clone(), "it is a draft".into())));
                continue;
            }
            None => {
                copies.push(Err(ReadError::Foreign(handle.clone())));
                continue;
            }
        };
        let path = layout.moved(&place.record);
        let copied = copy(disk, layout, &place, now).map_err(|error| (path, error))?;
        stripes.insert(place.record.segment.stripe);
        copies.push(match copied {
            Ok(place) => Ok(Place::Message(place).handle()),
            Err(fault) => Err(fault.of(handle)),
        });
    }
    for stripe in stripes {
        let dir = layout.stripe(stripe);
        disk.sync_dir(&dir).map_err(|error| (dir, error))?;
    }
    Ok(copies)
}

/// Removes copies whose messages have ended.
pub(crate) fn discard(
    disk: &dyn Disk,
    layout: &Layout,
    copies: &[queue::Handle],
) -> Result<(), (PathBuf, io::Error)> {
    for handle in copies {
        let Some(Place::Message(place)) = Place::parse(handle) else { continue };
        unlink(disk, &layout.moved(&place.record))?;
    }
    Ok(())
}

/// Removes what a process left that died while it was copying.
pub(crate) fn tidy(
    disk: &dyn Disk,
    layout: &Layout,
    stripe: Stripe,
) -> Result<(), (PathBuf, io::Error)> {
    let aside = layout.stripe(stripe).join(ASIDE);
    if disk.open(&aside, crate::disk::Access::Read).is_ok() {
        unlink(disk, &aside)?;
    }
    Ok(())
}

fn unlink(disk: &dyn Disk, path: &Path) -> Result<(), (PathBuf, io::Error)> {
    match disk.unlink(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err((path.to_owned(), error)),
        _ => Ok(()),
    }
}

/// Copies one message; the copy's name is durable only when its directory has been synced.
fn copy(
    disk: &dyn Disk,
    layout: &Layout,
    place: &MessagePlace,
    now: Timestamp,
) -> io::Result<Result<MessagePlace, Fault>> {
    let RecordPlace { segment, offset, id, .. } = place.record;
    if let Ok((there, _)) = look(disk, layout, (segment, offset))
        && there.record.id == id
        && check(disk, layout, &there).is_ok()
    {
        return Ok(Ok(there));
    }
    let original = match Original::read(disk, layout, place) {
        Ok(original) => original,
        Err(fault) => return Ok(Err(fault)),
    };
    let (bytes, length) = original.encode(place, disk.nonce()?, now);
    let dir = layout.stripe(segment.stripe);
    let aside = dir.join(ASIDE);
    let written = write(disk, &aside, &bytes)
        .and_then(|()| disk.rename(&aside, &layout.moved(&place.record)));
    if let Err(error) = written {
        // The next one that is copied, or the next survey, tries again.
        let _ = disk.unlink(&aside);
        return Err(error);
    }
    let record = RecordPlace { length, ..place.record };
    Ok(Ok(MessagePlace { record, body: original.kept(), home: Home::Moved }))
}

fn write(disk: &dyn Disk, aside: &Path, bytes: &[u8]) -> io::Result<()> {
    unlink(disk, aside).map_err(|(_, error)| error)?;
    let file = disk.create(aside)?;
    file.write_at(bytes, 0)?;
    file.sync()
}

/// A message as it stands in its segment, checked.
struct Original {
    kind: Kind,
    accept: Vec<u8>,
    body: Vec<u8>,
}

impl Original {
    fn read(disk: &dyn Disk, layout: &Layout, place: &MessagePlace) -> Result<Self, Fault> {
        if place.home == Home::Moved {
            return Err(Fault::Gone("it has been moved already".into()));
        }
        let record = &place.record;
        let file = OpenFile::open(disk, &layout.segment(record.segment), FileKind::Segment)?;
        let mut bytes = file.read(record.offset, record.length as usize)?;
        let kinds = [Kind::Message, Kind::Accept];
        let head = check_record(&file, &bytes, record.offset, &kinds, record.id)?;
        let line = accept_line(&bytes, &head)?;
        let mut payload = bytes.split_off(HEAD_BYTES);
        let body = payload.split_off(head.accept_bytes as usize);
        let original = match line.body {
            BodyAt::Here => Self { kind: Kind::Message, accept: payload, body },
            BodyAt::File { .. } => Self { kind: Kind::Accept, accept: payload, body },
            BodyAt::Record { offset, length } => {
                let draft = RecordPlace { offset, length, ..*record };
                let body = draft_bytes(&file, &draft)?;
                Self { kind: Kind::Message, accept: with_body_here(&payload)?, body }
            }
        };
        let bytes = original.accept.len().saturating_add(original.body.len());
        match u32::try_from(bytes) {
            Ok(bytes) if bytes <= PAYLOAD_BYTES_MAX => Ok(original),
            _ => Err(Fault::Gone("it is too large for one record".into())),
        }
    }

    fn kept(&self) -> Kept {
        if self.kind == Kind::Accept { Kept::Apart } else { Kept::Within }
    }

    /// The file, and its record's length.
    fn encode(&self, place: &MessagePlace, nonce: codec::Nonce, now: Timestamp) -> (Vec<u8>, u32) {
        let head = FileHead {
            kind: FileKind::Moved,
            nonce,
            number: place.record.segment.sequence,
            created_at: now,
            previous_number: 0,
            previous_synced: 0,
        };
        let mut bytes = Vec::with_capacity(3 * HEAD_BYTES + self.accept.len() + self.body.len());
        bytes.extend_from_slice(&head.encode());
        let start = codec::begin_record(&mut bytes);
        bytes.extend_from_slice(&self.accept);
        bytes.extend_from_slice(&self.body);
        let accept_bytes = u32::try_from(self.accept.len()).unwrap_or(u32::MAX);
        let record = NewRecord { kind: self.kind, id: place.record.id, accept_bytes };
        let length = codec::end_record(&mut bytes, start, record, &nonce, OFFSET);
        (bytes, length)
    }
}

/// An accept record's JSON as it is, but that the body follows it. Fields of a later version are kept.
fn with_body_here(accept: &[u8]) -> Result<Vec<u8>, Fault> {
    let unreadable = |error| Fault::Damaged(format!("its accept record cannot be read: {error}"));
    let mut line: Value = serde_json::from_slice(accept).map_err(unreadable)?;
    if let Some(body) = line.get_mut("body") {
        *body = serde_json::to_value(BodyAt::Here).map_err(unreadable)?;
    }
    serde_json::to_vec(&line).map_err(unreadable)
}
