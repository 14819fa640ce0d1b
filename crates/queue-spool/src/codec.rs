//! How bytes lie in the files of the spool: file heads, records, footers. Pure.
//!
//! ```text
//! segment  [file head 64][record][record] … [footer record][trailer 64]
//! record   [head 64: magic, kind, nonce, id, lengths, payload's CRC, own CRC][payload][zeros up to the next 64]
//! payload  Message: accept record as JSON, then the body · Draft: the body · Accept: JSON alone · Block: a piece of a body file
//! ```
//!
//! The file's nonce, 128 random bits, stands in every record's head and is mixed into both CRCs with the record's own
//! offset: neither stale bytes nor bytes that a sender chose can parse as a record.

use mail::{MessageId, Timestamp};

/// Every record begins at a multiple of this, and heads are this long.
pub const ALIGNMENT: u64 = 64;
/// The length of a file's head, a record's head and a trailer, in bytes.
pub const HEAD_BYTES: usize = 64;
/// The largest payload of a record, in bytes: what one read may be made to allocate.
pub const PAYLOAD_BYTES_MAX: u32 = 128 << 20;
/// The format that this program reads and writes.
pub const VERSION: u32 = 1;

const FILE_MAGIC: &[u8; 8] = b"GrangeQ\n";
const RECORD_MAGIC: &[u8; 4] = b"GrRc";
const TRAILER_MAGIC: &[u8; 8] = b"GrSealed";

/// 128 random bits that belong to one file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `SEQ.seg`.
    Segment = 1,
    /// `ID.body`.
    Body = 2,
    /// `SEQ.OFFSET.moved`: one message copied out of its segment.
    Moved = 3,
    /// `SEQ.log` of the ledger.
    Log = 4,
}

/// The first 64 bytes of every file. Magic, version and the sum over all of it stand where they do in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHead {
    /// What kind of file it is.
    pub kind: FileKind,
    /// Its random bits.
    pub nonce: Nonce,
    /// Its number in its directory; 0 where names are not numbers.
    pub number: u64,
    /// When it was begun.
    pub created_at: Timestamp,
    /// For a log: the one before it; 0 for the first, and in other files.
    pub previous_number: u32,
    /// For a log: up to where the one before it had been synced.
    pub previous_synced: u64,
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An accept record and the body behind it.
    Message = 1,
    /// The body of a draft, readable before it is accepted.
    Draft = 2,
    /// An accept record whose body is elsewhere.
    Accept = 3,
    /// The list of a segment's accept records.
    Footer = 4,
    /// A piece of a body file.
    Block = 5,
}

/// A record's head, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the record holds.
    pub kind: Kind,
    /// The message it belongs to.
    pub id: MessageId,
    /// How much of the payload is an accept record.
    pub accept_bytes: u32,
    /// The length of the payload.
    pub payload_bytes: u32,
    payload_crc: u32,
}

impl Head {
    /// The record's length without the zeros behind it: what a handle names.
    pub fn record_bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.payload_bytes)
    }
}

/// One accept record, as a footer lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where the record begins.
    pub offset: u64,
    /// Its length with its head.
    pub length: u32,
    /// The message.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Where its body is.
    pub body: Kept,
}

/// Where the body of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kept {
    /// In the segment.
    Within,
    /// In a file of its own.
    Apart,
}

/// Rounds up to where the next record may begin.
pub fn align(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGNMENT)
}

impl FileHead {
    /// The head as bytes.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let mut pen = Pen(&mut bytes);
        pen.put(FILE_MAGIC);
        pen.put(&VERSION.to_le_bytes());
        pen.put(&(self.kind as u32).to_le_bytes());
        pen.put(&self.nonce.0);
        pen.put(&self.number.to_le_bytes());
        pen.put(&self.created_at.millis().to_le_bytes());
        pen.put(&self.previous_synced.to_le_bytes());
        pen.put(&self.previous_number.to_le_bytes());
        sign(&mut bytes, 0);
        bytes
    }

    /// Takes a head from bytes; nothing when they are none, or a newer version's.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = signed(bytes, 0)?;
        if bytes.take()? != *FILE_MAGIC || u32::from_le_bytes(bytes.take()?) != VERSION {
            return None;
        }
        let kind = match u32::from_le_bytes(bytes.take()?) {
            1 => FileKind::Segment,
            2 => FileKind::Body,
            3 => FileKind::Moved,
            4 => FileKind::Log,
            _ => return None,
        };
        Some(Self {
            kind,
            nonce: Nonce(bytes.take()?),
            number: u64::from_le_bytes(bytes.take()?),
            created_at: Timestamp::from_millis(u64::from_le_bytes(bytes.take()?)),
            previous_synced: u64::from_le_bytes(bytes.take()?),
            previous_number: u32::from_le_bytes(bytes.take()?),
        })
    }
}

impl FileHead {
    /// Takes a head from bytes, one bit of which may be wrong; says whether one was.
    ///
    /// Everything in a file hangs on its nonce, which stands in its head alone. The sum tells any one wrong bit from all others, and
    /// other damage passes for one bit with a chance of 2⁻²³, before magic, version and kind have had their say.
    pub fn decode_or_mend(bytes: &[u8]) -> Option<(Self, Mended)> {
        if let Some(head) = Self::decode(bytes) {
            return Some((head, Mended::No));
        }
        let mut mended: [u8; HEAD_BYTES] = *bytes.first_chunk()?;
        (0..8 * HEAD_BYTES).find_map(|bit| {
            flip(&mut mended, bit);
            let head = Self::decode(&mended);
            flip(&mut mended, bit);
            head.map(|head| (head, Mended::OneBit))
        })
    }
}

/// Whether what was read was as it had been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// It was.
    No,
    /// One bit of it was wrong.
    OneBit,
}

fn flip(bytes: &mut [u8; HEAD_BYTES], bit: usize) {
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

/// The message whose record has a head here of which one bit is wrong, and its length: enough to name it, not to read it.
pub fn mended_head(bytes: &[u8], nonce: &Nonce, offset: u64) -> Option<Head> {
    let mut mended: [u8; HEAD_BYTES] = *bytes.first_chunk()?;
    (0..8 * HEAD_BYTES).find_map(|bit| {
        flip(&mut mended, bit);
        let found = head(&mended, nonce, offset);
        flip(&mut mended, bit);
        found
    })
}

/// Whether so few bits of a block are unlike a head of this file that it was one: magic or nonce is whole.
pub fn resembles_head(bytes: &[u8], nonce: &Nonce) -> bool {
    bytes.starts_with(RECORD_MAGIC) || bytes.get(8..24) == Some(&nonce.0)
}

/// The version that a file's head names, if that is whole and newer than [`VERSION`].
pub fn newer_version(bytes: &[u8]) -> Option<u32> {
    let mut bytes = signed(bytes, 0)?;
    let is_ours = bytes.take()? == *FILE_MAGIC;
    let version = u32::from_le_bytes(bytes.take()?);
    (is_ours && version > VERSION).then_some(version)
}

/// Makes room for a record's head at the end of `buffer` and says where it begins; the payload is to follow.
pub fn begin_record(buffer: &mut Vec<u8>) -> usize {
    let start = buffer.len();
    buffer.resize(start + HEAD_BYTES, 0);
    start
}

/// Ends the record that begins at `start` of `buffer` and will stand at `offset` of its file: writes the head and pads.
///
/// Gives the record's length without the padding. The payload must not be longer than [`PAYLOAD_BYTES_MAX`].
pub fn end_record(
    buffer: &mut Vec<u8>,
    start: usize,
    record: NewRecord,
    nonce: &Nonce,
    offset: u64,
) -> u32 {
    let (_, written) = buffer.split_at_mut(start);
    let (head, payload) = written.split_at_mut(HEAD_BYTES);
    let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    assert!(
        payload_bytes <= PAYLOAD_BYTES_MAX,
        "a record is checked for its size before it is written"
    );
    let mut bytes = [0; HEAD_BYTES];
    let mut pen = Pen(&mut bytes);
    pen.put(RECORD_MAGIC);
    pen.put(&[1, record.kind as u8, 0, 0]);
    pen.put(&nonce.0);
    pen.put(record.id.as_bytes());
    pen.put(&record.accept_bytes.to_le_bytes());
    pen.put(&payload_bytes.to_le_bytes());
    pen.put(&payload_crc(nonce, offset, payload).to_le_bytes());
    sign(&mut bytes, head_seed(nonce, offset));
    head.copy_from_slice(&bytes);
    let padded = start + (HEAD_BYTES + payload.len()).next_multiple_of(ALIGNMENT as usize);
    buffer.resize(padded, 0);
    HEAD_BYTES as u32 + payload_bytes
}

/// What [`end_record`] writes into the head.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord {
    /// What the record holds.
    pub kind: Kind,
    /// The message it belongs to.
    pub id: MessageId,
    /// How much of the payload is an accept record.
    pub accept_bytes: u32,
}

/// Whether a head of this file may begin here; cheap, and decides nothing.
pub fn may_be_head(bytes: &[u8], nonce: &Nonce) -> bool {
    bytes.starts_with(RECORD_MAGIC) && bytes.get(8..24) == Some(&nonce.0)
}

/// Checks the head that stands at `offset` of a file; `bytes` begins there.
pub fn head(bytes: &[u8], nonce: &Nonce, offset: u64) -> Option<Head> {
    let mut bytes = signed(bytes, head_seed(nonce, offset))?;
    if bytes.take()? != *RECORD_MAGIC {
        return None;
    }
    let [1, kind, 0, 0] = bytes.take()? else { return None };
    let kind = match kind {
        1 => Kind::Message,
        2 => Kind::Draft,
        3 => Kind::Accept,
        4 => Kind::Footer,
        5 => Kind::Block,
        _ => return None,
    };
    if bytes.take()? != nonce.0 {
        return None;
    }
    let id = MessageId::from_bytes(&bytes.take::<{ MessageId::LENGTH }>()?).ok()?;
    let accept_bytes = u32::from_le_bytes(bytes.take()?);
    let payload_bytes = u32::from_le_bytes(bytes.take()?);
    let payload_crc = u32::from_le_bytes(bytes.take()?);
    let plausible = accept_bytes <= payload_bytes && payload_bytes <= PAYLOAD_BYTES_MAX;
    plausible.then_some(Head { kind, id, accept_bytes, payload_bytes, payload_crc })
}

/// Whether `payload` is what the head at `offset` was written with.
pub fn payload_is_whole(head: &Head, payload: &[u8], nonce: &Nonce, offset: u64) -> bool {
    payload.len() == head.payload_bytes as usize
        && payload_crc(nonce, offset, payload) == head.payload_crc
}

/// Checks a whole record, `bytes` being exactly its head and payload, and gives the head.
pub fn whole_record(bytes: &[u8], nonce: &Nonce, offset: u64) -> Option<Head> {
    let (head_bytes, payload) = bytes.split_at_checked(HEAD_BYTES)?;
    let head = head(head_bytes, nonce, offset)?;
    payload_is_whole(&head, payload, nonce, offset).then_some(head)
}

/// The bytes of a footer and its trailer, to be written at `offset`, where the records end.
pub fn footer(entries: &[Entry], nonce: &Nonce, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 * HEAD_BYTES + entries.len() * ENTRY_BYTES);
    let start = begin_record(&mut bytes);
    for entry in entries {
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.length.to_le_bytes());
        bytes.extend_from_slice(entry.id.as_bytes());
        bytes.extend_from_slice(&entry.accepted_at.millis().to_le_bytes());
        bytes.push(u8::from(entry.body == Kept::Apart));
    }
    let record = NewRecord { kind: Kind::Footer, id: nobody(), accept_bytes: 0 };
    let length = end_record(&mut bytes, start, record, nonce, offset);
    let mut trailer = [0; HEAD_BYTES];
    let mut pen = Pen(&mut trailer);
    pen.put(TRAILER_MAGIC);
    pen.put(&nonce.0);
    pen.put(&offset.to_le_bytes());
    pen.put(&length.to_le_bytes());
    let end = offset + bytes.len() as u64;
    sign(&mut trailer, head_seed(nonce, end));
    bytes.extend_from_slice(&trailer);
    bytes
}

const ENTRY_BYTES: usize = 8 + 4 + MessageId::LENGTH + 8 + 1;

/// Finds the footer from a file's last 64 bytes, which stand at `offset`: its offset and length.
pub fn trailer(bytes: &[u8], nonce: &Nonce, offset: u64) -> Option<(u64, u32)> {
    let mut bytes = signed(bytes, head_seed(nonce, offset))?;
    if bytes.take()? != *TRAILER_MAGIC || bytes.take()? != nonce.0 {
        return None;
    }
    let footer_at = u64::from_le_bytes(bytes.take()?);
    let length = u32::from_le_bytes(bytes.take()?);
    let fits = footer_at.checked_add(u64::from(length)).is_some_and(|end| align(end) == offset);
    fits.then_some((footer_at, length))
}

/// Takes the entries from a footer's payload.
pub fn entries(payload: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::with_capacity(payload.len() / ENTRY_BYTES);
    let mut bytes = Bytes(payload);
    while !bytes.0.is_empty() {
        let offset = u64::from_le_bytes(bytes.take()?);
        let length = u32::from_le_bytes(bytes.take()?);
        let id = MessageId::from_bytes(&bytes.take::<{ MessageId::LENGTH }>()?).ok()?;
        let accepted_at = Timestamp::from_millis(u64::from_le_bytes(bytes.take()?));
        let body = match bytes.take()? {
            [0] => Kept::Within,
            [1] => Kept::Apart,
            _ => return None,
        };
        entries.push(Entry { offset, length, id, accepted_at, body });
    }
    Some(entries)
}

/// The id of records that belong to no message.
fn nobody() -> MessageId {
    MessageId::new(Timestamp::from_millis(0), 0)
}

fn head_seed(nonce: &Nonce, offset: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&nonce.0), &offset.to_le_bytes())
}

/// Differs from a head's seed, so that the two sums never stand for each other.
fn payload_crc(nonce: &Nonce, offset: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(!head_seed(nonce, offset), payload)
}

/// Writes the CRC of a 64-byte head into its last four bytes.
fn sign(bytes: &mut [u8; HEAD_BYTES], seed: u32) {
    if let Some((body, sum)) = bytes.split_last_chunk_mut::<4>() {
        *sum = crc32c::crc32c_append(seed, body).to_le_bytes();
    }
}

/// The first 64 bytes when their CRC is right.
fn signed(bytes: &[u8], seed: u32) -> Option<Bytes<'_>> {
    let (body, sum) = bytes.get(..HEAD_BYTES)?.split_last_chunk::<4>()?;
    (crc32c::crc32c_append(seed, body).to_le_bytes() == *sum).then_some(Bytes(body))
}

/// Writes one field after the other.
pub(crate) struct Pen<'a>(pub(crate) &'a mut [u8]);

impl Pen<'_> {
    pub(crate) fn put(&mut self, field: &[u8]) {
        let (place, rest) = std::mem::take(&mut self.0).split_at_mut(field.len());
        place.copy_from_slice(field);
        self.0 = rest;
    }
}

/// Reads one field after the other.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Bytes<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

impl std::fmt::Debug for Nonce {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Nonce(…)")
    }
}

impl std::fmt::Display for Nonce {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}
