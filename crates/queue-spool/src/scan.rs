//! Walking through a segment from its head to its end, past any damage.

use mail::{MessageId, Timestamp};
use serde::Deserialize;

use crate::codec::{self, ALIGNMENT, Entry, HEAD_BYTES, Head, Kept, Kind};
use crate::disk::DiskFile;
use crate::read::{BodyAt, Fault, OpenFile};

/// How much is read at once.
const WINDOW_BYTES: usize = 1 << 20;
/// How much is read at once in search of the end.
const FILL_READ_BYTES: usize = 64 << 10;

/// A stretch of a file that holds no valid record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// The message whose record began there, when its head could be read.
    pub(crate) id: Option<MessageId>,
    /// Where that record ends.
    pub(crate) ends_at: Option<u64>,
    /// Whether a valid record follows that its writer wrote, or a footer lists one here: then it is no torn end. The footer
    /// itself may have been written by whoever adopted the segment, torn end and all.
    pub(crate) followed: bool,
}

impl Damage {
    /// Whether this cannot be the end of a write that never succeeded, as far as can be told: a record follows, or there was one
    /// that ends before a file of this size does.
    pub(crate) fn is_more_than_torn(&self, size: u64) -> bool {
        self.followed || self.ends_at.is_some_and(|end| end <= size)
    }
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Accept records, in order.
    pub(crate) entries: Vec<Entry>,
    /// Valid records of all kinds.
    pub(crate) records: u64,
    pub(crate) damage: Vec<Damage>,
    /// The size of the file, without the zeros that its writer had filled it up with.
    pub(crate) size: u64,
}

/// A valid record met on the way, for whoever wants to look closer.
pub(crate) struct Met<'a> {
    pub(crate) offset: u64,
    pub(crate) head: &'a Head,
    pub(crate) payload: &'a [u8],
}

/// Walks through a segment and calls `meet` for every valid record.
pub(crate) fn scan(file: &OpenFile, meet: &mut dyn FnMut(Met<'_>)) -> Result<Scan, Fault> {
    let broken = |error| Fault::io(std::path::Path::new("a segment"), error);
    let filled = file.file.size().map_err(broken)?;
    let size = without_fill(&*file.file, filled).map_err(broken)?;
    let mut found = Scan { size, ..Scan::default() };
    let mut window = Window::new(&*file.file, filled);
    let mut offset = HEAD_BYTES as u64;
    while offset < size {
        match record_at(&mut window, file, offset).map_err(broken)? {
            At::Record(head) => {
                let payload = window
                    .at(offset + HEAD_BYTES as u64, head.payload_bytes as usize)
                    .map_err(broken)?;
                found.meet(offset, &head, payload);
                meet(Met { offset, head: &head, payload });
                offset = codec::align(offset + head.record_bytes());
            }
            At::Trailer => offset += ALIGNMENT,
            At::Nothing(head) => {
                found.damaged(offset, (size - offset).min(ALIGNMENT), head);
                offset += ALIGNMENT;
            }
        }
    }
    // Zeros may be the end of a record.
    found.size = size.max(offset.min(filled));
    Ok(found)
}

/// Where the zeros begin with which a file of this size ends, or the next record would stand.
fn without_fill(file: &dyn DiskFile, size: u64) -> std::io::Result<u64> {
    let (mut end, mut piece) = (size, vec![0; FILL_READ_BYTES]);
    while end > 0 {
        let start = end.saturating_sub(FILL_READ_BYTES as u64);
        piece.resize(usize::try_from(end - start).unwrap_or(FILL_READ_BYTES), 0);
        let count = file.read_at(&mut piece, start)?;
        piece.truncate(count);
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            return Ok(codec::align(start + last as u64 + 1).min(size));
        }
        end = start;
    }
    Ok(0)
}

enum At {
    Record(Head),
    Trailer,
    Nothing(Option<Head>),
}

fn record_at(window: &mut Window<'_>, file: &OpenFile, offset: u64) -> std::io::Result<At> {
    let bytes = window.at(offset, HEAD_BYTES)?;
    if !codec::may_be_head(bytes, file.nonce()) {
        // One with records behind it was written before a repair listed anew what the segment holds.
        let is_trailer = codec::trailer(bytes, file.nonce(), offset).is_some();
        return Ok(match is_trailer {
            true => At::Trailer,
            false => At::Nothing(named(bytes, file, offset)),
        });
    }
    let Some(head) = codec::head(bytes, file.nonce(), offset) else {
        return Ok(At::Nothing(named(bytes, file, offset)));
    };
    let payload = window.at(offset + HEAD_BYTES as u64, head.payload_bytes as usize)?;
    let whole = codec::payload_is_whole(&head, payload, file.nonce(), offset);
    Ok(if whole { At::Record(head) } else { At::Nothing(Some(head)) })
}

/// The head that this was before a bit of it changed.
fn named(bytes: &[u8], file: &OpenFile, offset: u64) -> Option<Head> {
    let resembles = codec::resembles_head(bytes, file.nonce());
    resembles.then(|| codec::mended_head(bytes, file.nonce(), offset)).flatten()
}

/// As much of an accept record as a footer needs.
#[derive(Deserialize)]
struct Brief {
    body: BodyAt,
    accept: BriefAccept,
}

#[derive(Deserialize)]
struct BriefAccept {
    accepted_at: Timestamp,
}

impl Scan {
    fn meet(&mut self, offset: u64, head: &Head, payload: &[u8]) {
        self.records += 1;
        if head.kind == Kind::Footer {
            let listed = codec::entries(payload).unwrap_or_default();
            for damage in &mut self.damage {
                let range = damage.offset..damage.offset + damage.bytes;
                damage.followed |= listed.iter().any(|entry| range.contains(&entry.offset));
            }
        } else if let Some(last) = self.damage.last_mut() {
            last.followed = true;
        }
        if !matches!(head.kind, Kind::Message | Kind::Accept) {
            return;
        }
        let json = payload.get(..head.accept_bytes as usize).unwrap_or_default();
        match serde_json::from_slice::<Brief>(json) {
            Ok(brief) => self.entries.push(Entry {
                offset,
                length: HEAD_BYTES as u32 + head.payload_bytes,
                id: head.id,
                accepted_at: brief.accept.accepted_at,
                body: match brief.body {
                    BodyAt::File { .. } => Kept::Apart,
                    BodyAt::Here | BodyAt::Record { .. } => Kept::Within,
                },
            }),
            Err(_) => self.damage.push(Damage {
                offset,
                bytes: head.record_bytes(),
                id: Some(head.id),
                ends_at: Some(offset + head.record_bytes()),
                followed: true,
            }),
        }
    }

    fn damaged(&mut self, offset: u64, bytes: u64, head: Option<Head>) {
        // A footer belongs to no message, and what it lists is found without it.
        let head = head.filter(|head| head.kind != Kind::Footer);
        match self.damage.last_mut() {
            Some(last)
                if !last.followed && last.offset + last.bytes == offset && head.is_none() =>
            {
                last.bytes += bytes;
            }
            _ => {
                let (id, ends_at) =
                    (head.map(|head| head.id), head.map(|it| offset + it.record_bytes()));
                self.damage.push(Damage { offset, bytes, id, ends_at, followed: false });
            }
        }
    }
}

/// A file seen through a buffer that moves forward.
pub(crate) struct Window<'a> {
    file: &'a dyn DiskFile,
    size: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    /// Looks at the first `size` bytes of a file.
    pub(crate) fn new(file: &'a dyn DiskFile, size: u64) -> Self {
        Self { file, size, start: 0, bytes: Vec::new() }
    }

    /// Up to `length` bytes at `offset`; fewer at the end.
    pub(crate) fn at(&mut self, offset: u64, length: usize) -> std::io::Result<&[u8]> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(left);
        let held = self.start..self.start + self.bytes.len() as u64;
        if offset < held.start || offset + length as u64 > held.end {
            self.start = offset;
            self.bytes.resize(length.max(WINDOW_BYTES).min(left), 0);
            let count = self.file.read_at(&mut self.bytes, offset)?;
            self.bytes.truncate(count);
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let rest = self.bytes.get(from..).unwrap_or_default();
        Ok(rest.get(..length).unwrap_or(rest))
    }
}
