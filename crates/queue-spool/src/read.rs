//! Reading records and body files back, on a disk thread: whole, checked, or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mail::MessageId;
use queue::{Accept, Accepted};
use serde::{Deserialize, Serialize};

use crate::codec::{self, FileHead, FileKind, HEAD_BYTES, Head, Kind, Mended, Nonce};
use crate::disk::{Access, Disk, DiskFile};
use crate::place::{
    BodyPlace, Home, Layout, MessagePlace, RecordPlace, StripeFile, stripe_file_of,
};

/// A body file is written in blocks of this many bytes; it is also the largest piece a reader hands out.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;

/// An accept record's JSON.
#[derive(Debug, Deserialize)]
pub(crate) struct AcceptLine {
    pub(crate) id: MessageId,
    pub(crate) size: u64,
    pub(crate) body: BodyAt,
    pub(crate) accept: Accept,
}

/// The same, to be written.
#[derive(Serialize)]
pub(crate) struct AcceptLineRef<'a> {
    pub(crate) id: MessageId,
    pub(crate) size: u64,
    pub(crate) body: BodyAt,
    pub(crate) accept: &'a Accept,
}

/// Where an accept record says that its body is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BodyAt {
    /// Behind the JSON, in the same record.
    Here,
    /// In a record of the same segment.
    Record { offset: u64, length: u32 },
    /// In the message's body file, which has this nonce.
    File { nonce: String },
}

/// Why something could not be read.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is not there.
    Gone(String),
    /// It is there and fails its checks: what is wrong, and where.
    Damaged(String),
    /// The system could not read.
    Io(String, Arc<io::Error>),
}

impl Fault {
    pub(crate) fn io(what: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone(format!("there is no {}", what.display())),
            io::ErrorKind::InvalidData => Self::Damaged(format!("{}: {error}", what.display())),
            _ => Self::Io(format!("cannot read {}", what.display()), Arc::new(error)),
        }
    }

    pub(crate) fn of(self, handle: &queue::Handle) -> queue::ReadError {
        match self {
            Self::Gone(why) => queue::ReadError::Gone(handle.clone(), why),
            Self::Damaged(what) => queue::ReadError::Damaged(handle.clone(), what),
            Self::Io(context, source) => queue::ReadError::Io { context, source },
        }
    }
}

/// A file whose head has been read and checked.
pub(crate) struct OpenFile {
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) head: FileHead,
    /// Whether a bit of its head is wrong.
    pub(crate) mended: Mended,
    path: PathBuf,
}

/// Whether a file's name and its head give it the same number. A copy under another name would be mail that comes twice.
fn names(path: &Path, head: &FileHead) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match stripe_file_of(name) {
        StripeFile::Segment(sequence) | StripeFile::Moved(sequence, _) => sequence == head.number,
        StripeFile::Body(_) | StripeFile::Other => true,
    }
}

impl OpenFile {
    pub(crate) fn open(disk: &dyn Disk, path: &Path, kind: FileKind) -> Result<Self, Fault> {
        let file = disk.open(path, Access::Read).map_err(|error| Fault::io(path, error))?;
        let mut bytes = [0; HEAD_BYTES];
        let length = file.read_at(&mut bytes, 0).map_err(|error| Fault::io(path, error))?;
        match FileHead::decode_or_mend(bytes.split_at(length).0) {
            Some((head, mended)) if head.kind == kind && names(path, &head) => {
                Ok(Self { file, head, mended, path: path.to_owned() })
            }
            // Begun this moment, or by a writer that died: nothing in it was ever named.
            _ if length < HEAD_BYTES => Err(Fault::Gone(format!("{} is empty", path.display()))),
            Some(_) => {
                Err(Fault::Damaged(format!("{}: by its head it is another file", path.display())))
            }
            None => Err(Fault::Damaged(format!("{}: its head is damaged", path.display()))),
        }
    }

    /// Something at an offset of this file is there and fails its checks.
    pub(crate) fn damaged(&self, offset: u64, what: &str) -> Fault {
        Fault::Damaged(format!("{} at byte {offset}: {what}", self.path.display()))
    }

    pub(crate) fn nonce(&self) -> &Nonce {
        &self.head.nonce
    }

    /// Reads `length` bytes at `offset`, without checking them; fewer are an error.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Fault> {
        let read = |error| Fault::io(Path::new("a file of the queue"), error);
        // A handle names a length: what the file cannot hold is not worth an allocation.
        let size = self.file.size().map_err(read)?;
        if offset.checked_add(length as u64).is_none_or(|end| end > size) {
            return Err(self.damaged(offset, &format!("the file ends at byte {size}")));
        }
        let mut bytes = vec![0; length];
        let count = self.file.read_at(&mut bytes, offset).map_err(read)?;
        if count == length { Ok(bytes) } else { Err(self.damaged(offset, "it is cut short")) }
    }

    /// Where the footer of a sealed segment is said to be, and its length.
    fn trailer(&self) -> Result<Option<(u64, u32)>, Fault> {
        let read = |error| Fault::io(Path::new("a segment's footer"), error);
        let size = self.file.size().map_err(read)?;
        let Some(at) = size.checked_sub(HEAD_BYTES as u64) else { return Ok(None) };
        let mut bytes = [0; HEAD_BYTES];
        self.file.read_at(&mut bytes, at).map_err(read)?;
        Ok(codec::trailer(&bytes, self.nonce(), at))
    }

    /// Whether a segment ends as a sealed one does. The footer itself is not looked at.
    pub(crate) fn is_sealed(&self) -> Result<bool, Fault> {
        Ok(self.trailer()?.is_some())
    }

    /// Takes the footer of a sealed segment; nothing when it has none that is whole.
    pub(crate) fn footer(&self) -> Result<Option<Vec<codec::Entry>>, Fault> {
        let Some((offset, length)) = self.trailer()? else { return Ok(None) };
        let record = self.read(offset, length as usize)?;
        Ok(codec::whole_record(&record, self.nonce(), offset)
            .filter(|head| head.kind == Kind::Footer)
            .and_then(|_| codec::entries(record.split_at(HEAD_BYTES).1)))
    }
}

/// Checks a record that has been read whole, and that it is the one meant.
pub(crate) fn check_record(
    file: &OpenFile,
    bytes: &[u8],
    offset: u64,
    kinds: &[Kind],
    id: MessageId,
) -> Result<Head, Fault> {
    let Some(head) = codec::head(bytes, file.nonce(), offset) else {
        return Err(file.damaged(offset, "the head of its record fails its checksum"));
    };
    if head.id != id || !kinds.contains(&head.kind) {
        return Err(Fault::Gone("another record is in its place".into()));
    }
    match codec::whole_record(bytes, file.nonce(), offset) {
        Some(head) => Ok(head),
        None => Err(file.damaged(offset, "its record fails its checksum")),
    }
}

/// Where the accept record of a message is: the file, its kind, and the offset there.
pub(crate) fn home_of(
    layout: &Layout,
    place: &MessagePlace,
) -> (std::path::PathBuf, FileKind, u64) {
    match place.home {
        Home::Segment => {
            (layout.segment(place.record.segment), FileKind::Segment, place.record.offset)
        }
        Home::Moved => (layout.moved(&place.record), FileKind::Moved, HEAD_BYTES as u64),
    }
}

/// Takes the accept record from a checked record's bytes.
pub(crate) fn accept_line(bytes: &[u8], head: &Head) -> Result<AcceptLine, Fault> {
    accept_line_of(bytes.get(HEAD_BYTES..).unwrap_or_default(), head)
}

/// The same, from its payload.
pub(crate) fn accept_line_of(payload: &[u8], head: &Head) -> Result<AcceptLine, Fault> {
    let json = payload.get(..head.accept_bytes as usize).unwrap_or_default();
    let line: AcceptLine = serde_json::from_slice(json)
        .map_err(|error| Fault::Damaged(format!("its accept record cannot be read: {error}")))?;
    if line.id == head.id {
        Ok(line)
    } else {
        Err(Fault::Damaged("its accept record names another id".into()))
    }
}

impl AcceptLine {
    pub(crate) fn accepted(self) -> (Accepted, BodyAt) {
        (Accepted { id: self.id, size: self.size, accept: self.accept }, self.body)
    }
}

/// A body, taken piece by piece with waiting.
pub(crate) enum Pieces {
    /// One that fits in memory.
    Whole(Option<Vec<u8>>),
    /// A body file.
    File(BlockReader),
}

/// Walks through the blocks of a body file.
pub(crate) struct BlockReader {
    pub(crate) file: Arc<OpenFile>,
    pub(crate) id: MessageId,
    pub(crate) offset: u64,
    pub(crate) left: u64,
}

impl BlockReader {
    /// Opens a body file; with `nonce`, the one that the accept record names.
    pub(crate) fn open(
        disk: &dyn Disk,
        layout: &Layout,
        place: &BodyPlace,
        nonce: Option<&str>,
    ) -> Result<Self, Fault> {
        let path = layout.body(place.stripe, place.id);
        let file = OpenFile::open(disk, &path, FileKind::Body)?;
        if nonce.is_some_and(|nonce| nonce != file.nonce().to_string()) {
            return Err(Fault::Gone("another body file is in its place".into()));
        }
        Ok(Self { file: Arc::new(file), id: place.id, offset: HEAD_BYTES as u64, left: place.size })
    }

    /// How long the next record is; nothing at the end.
    pub(crate) fn next_length(&self) -> Option<usize> {
        let block = self.left.min(BLOCK_BYTES as u64) as usize;
        (block > 0).then_some(HEAD_BYTES + block)
    }

    /// Checks the next record, which has been read, and steps behind it.
    pub(crate) fn accept(&mut self, record: &[u8]) -> Result<(), Fault> {
        check_record(&self.file, record, self.offset, &[Kind::Block], self.id)?;
        self.offset = codec::align(self.offset + record.len() as u64);
        self.left -= (record.len() - HEAD_BYTES) as u64;
        Ok(())
    }

    /// Where the record of the last piece, of so many bytes, ended.
    pub(crate) fn end_of(&self, piece_bytes: usize) -> u64 {
        let record = (HEAD_BYTES + piece_bytes) as u64;
        self.offset - codec::align(record) + record
    }

    /// The next piece; nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let Some(length) = self.next_length() else { return Ok(None) };
        let mut record = self.file.read(self.offset, length)?;
        self.accept(&record)?;
        record.drain(..HEAD_BYTES);
        Ok(Some(record))
    }
}

impl Pieces {
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        match self {
            Self::Whole(bytes) => Ok(bytes.take()),
            Self::File(blocks) => blocks.next(),
        }
    }
}

/// Reads the body of a draft from its segment.
pub(crate) fn draft_bytes(file: &OpenFile, place: &RecordPlace) -> Result<Vec<u8>, Fault> {
    let mut bytes = file.read(place.offset, place.length as usize)?;
    check_record(file, &bytes, place.offset, &[Kind::Draft], place.id)?;
    bytes.drain(..HEAD_BYTES);
    Ok(bytes)
}
