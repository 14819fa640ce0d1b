//! Verifying messages that were moved out of their segments.

use std::collections::HashSet;
use std::io;

use mail::{MessageId, Timestamp};
use serde::Serialize;

use super::{around, is_missing, read_through};
use crate::codec::{FileKind, HEAD_BYTES, Kept, Kind, align};
use crate::disk::Disk;
use crate::moved;
use crate::place::{BodyPlace, Home, Layout, MessagePlace, RecordPlace, Stripe};
use crate::read::{BodyAt, Fault, OpenFile, accept_line, check_record};

/// What a check found of a message that was moved out of its segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MovedReport {
    /// `STRIPE.SEQ.OFFSET`: the segment that it was in, and where.
    pub moved: String,
    /// The message, when its record can be read.
    pub id: Option<String>,
    /// The file's size.
    pub bytes: u64,
    /// What is wrong.
    pub damage: Option<String>,
}

/// What was found in a stripe: each with its place, by which the ledger knows it, and the messages that have a body file.
#[derive(Default)]
pub(super) struct Moved {
    pub(super) found: Vec<(MovedReport, MessagePlace)>,
    pub(super) named: HashSet<MessageId>,
}

/// Verifies all that was moved out of a stripe's segments.
pub(super) fn check(disk: &dyn Disk, layout: &Layout, stripe: Stripe) -> io::Result<Moved> {
    let mut moved = Moved::default();
    for (segment, offset) in moved::names(disk, layout, stripe)? {
        if is_missing(disk, &layout.copy(segment, offset)) {
            continue;
        }
        // The ledger knows it by its place; of a record that cannot be read there is no more to say.
        let nobody = MessageId::new(Timestamp::from_millis(0), 0);
        let record = RecordPlace { segment, offset, length: HEAD_BYTES as u32, id: nobody };
        let unread = MessagePlace { record, body: Kept::Within, home: Home::Moved };
        let mut report =
            MovedReport { moved: format!("{segment}.{offset}"), id: None, bytes: 0, damage: None };
        let looked = moved::look(disk, layout, (segment, offset));
        let place = looked.as_ref().map_or(unread, |(place, _)| *place);
        let checked = looked.and_then(|_| check_one(disk, layout, &place, &mut report));
        match checked {
            Ok(()) => {}
            Err(Fault::Gone(what) | Fault::Damaged(what) | Fault::Io(what, _)) => {
                report.damage = Some(what);
            }
        }
        if place.body == Kept::Apart {
            moved.named.insert(place.record.id);
        }
        moved.found.push((report, place));
    }
    Ok(moved)
}

fn check_one(
    disk: &dyn Disk,
    layout: &Layout,
    place: &MessagePlace,
    report: &mut MovedReport,
) -> Result<(), Fault> {
    let record = &place.record;
    report.id = Some(record.id.to_string());
    let path = layout.moved(record);
    let file = OpenFile::open(disk, &path, FileKind::Moved)?;
    report.bytes = file.file.size().map_err(|error| Fault::io(&path, error))?;
    let offset = HEAD_BYTES as u64;
    let bytes = file.read(offset, record.length as usize)?;
    let kinds = [Kind::Message, Kind::Accept];
    let head = check_record(&file, &bytes, offset, &kinds, record.id)?;
    let line = accept_line(&bytes, &head)?;
    let end = offset + head.record_bytes();
    if let Some(found) = around::mended(&file).or_else(|| around::padding(&file, end, 64)) {
        return Err(file.damaged(found.offset, &found.what));
    }
    if report.bytes != align(end) {
        return Err(file.damaged(align(end), "there is more than the message"));
    }
    let BodyAt::File { nonce } = line.body else { return Ok(()) };
    let body = BodyPlace { stripe: record.segment.stripe, id: record.id, size: line.size };
    read_through(disk, layout, &body, &nonce).map_err(|fault| match fault {
        Fault::Gone(what) | Fault::Damaged(what) => Fault::Damaged(format!("its body: {what}")),
        fault => fault,
    })
}
