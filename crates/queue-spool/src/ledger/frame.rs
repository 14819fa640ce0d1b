//! How bytes lie in a log of the ledger. Pure, but for reading through a window.
//!
//! ```text
//! log    [file head 64][frame][frame] … [zeros up to what was preallocated]
//! frame  [head 32: magic, kind, length, synced, payload's CRC, own CRC][payload][zeros up to the next 32]
//! ```
//!
//! Both CRCs are mixed with the log's nonce and the frame's offset. `synced` is up to where the log had been synced when
//! the frame was written: a valid frame that says so much proves that damage before that point is damage, and no torn end.

use std::io;

use crate::codec::{Bytes, FileHead, HEAD_BYTES, Nonce, Pen};
use crate::disk::DiskFile;
use crate::place::{SegmentName, Stripe};
use crate::scan::Window;

const FRAME_HEAD_BYTES: usize = 32;
const FRAME_ALIGNMENT: u64 = 32;
const MAGIC: [u8; 2] = *b"Lf";
/// How much is looked through until it is asked anew where something stands.
const LOOK_BYTES: u64 = 1 << 20;
/// The largest payload of a frame, in bytes.
pub(crate) const FRAME_BYTES_MAX: usize = 256 << 20;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Records as JSON, one a line: what one `append` was given.
    Records = 1,
    /// A checkpoint begins: the first frame of its log.
    Begin = 2,
    /// A checkpoint is complete; the payload is the number of the log that it begins.
    End = 3,
    /// Which messages of a segment have ended.
    Standing = 4,
    /// Segments that were given back.
    Gone = 5,
}

/// A frame's head, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameHead {
    pub(crate) kind: FrameKind,
    length: u32,
    synced: u64,
    payload_crc: u32,
}

impl FrameHead {
    /// Where the frame behind the one at this offset begins.
    fn ends_at(&self, offset: u64) -> u64 {
        let end = offset + FRAME_HEAD_BYTES as u64 + u64::from(self.length);
        end.next_multiple_of(FRAME_ALIGNMENT)
    }
}

/// Adds a frame to a batch that will stand at `base` of its log, which had been synced up to `synced`.
pub fn push_frame(
    batch: &mut Vec<u8>,
    kind: FrameKind,
    payload: &[u8],
    nonce: &Nonce,
    base: u64,
    synced: u64,
) {
    assert!(payload.len() <= FRAME_BYTES_MAX, "appends are checked for their size");
    let offset = base + batch.len() as u64;
    let mut head = [0; FRAME_HEAD_BYTES];
    let mut pen = Pen(&mut head);
    pen.put(&MAGIC);
    pen.put(&[kind as u8, 1]);
    pen.put(&(payload.len() as u32).to_le_bytes());
    pen.put(&synced.to_le_bytes());
    pen.put(&[0; 8]);
    pen.put(&payload_crc(nonce, offset, payload).to_le_bytes());
    if let Some((fields, sum)) = head.split_last_chunk_mut::<4>() {
        *sum = crc32c::crc32c_append(seed(nonce, offset), fields).to_le_bytes();
    }
    batch.extend_from_slice(&head);
    batch.extend_from_slice(payload);
    let padded = batch.len().next_multiple_of(FRAME_ALIGNMENT as usize);
    batch.resize(padded, 0);
}

fn seed(nonce: &Nonce, offset: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&nonce.0), &offset.to_le_bytes())
}

fn payload_crc(nonce: &Nonce, offset: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(!seed(nonce, offset), payload)
}

fn frame_head(bytes: &[u8], nonce: &Nonce, offset: u64) -> Option<FrameHead> {
    let (fields, sum) = bytes.get(..FRAME_HEAD_BYTES)?.split_last_chunk::<4>()?;
    if !fields.starts_with(&MAGIC)
        || crc32c::crc32c_append(seed(nonce, offset), fields).to_le_bytes() != *sum
    {
        return None;
    }
    let mut bytes = Bytes(fields);
    let [_, _, kind, 1] = bytes.take()? else { return None };
    let kind = match kind {
        1 => FrameKind::Records,
        2 => FrameKind::Begin,
        3 => FrameKind::End,
        4 => FrameKind::Standing,
        5 => FrameKind::Gone,
        _ => return None,
    };
    let length = u32::from_le_bytes(bytes.take()?);
    let synced = u64::from_le_bytes(bytes.take()?);
    let _: [u8; 8] = bytes.take()?;
    let payload_crc = u32::from_le_bytes(bytes.take()?);
    (length as usize <= FRAME_BYTES_MAX).then_some(FrameHead { kind, length, synced, payload_crc })
}

/// A part of a log that holds no valid frame, and that valid frames follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Walks through the frames of a log, past damage and up to a torn end.
///
/// What is not whole is damage if the log is known to have been synced beyond where it begins. All else a power cut may have left of
/// writes that nobody was told of, in any order: what stands behind it may hang from what is lost, and is not read.
pub(crate) struct Frames<'a> {
    file: &'a dyn DiskFile,
    window: Window<'a>,
    nonce: Nonce,
    pub(crate) offset: u64,
    /// Up to where the frames so far say that the log had been synced.
    pub(crate) synced: u64,
    /// What was passed over so far.
    pub(crate) damage: Vec<Stretch>,
    /// The torn end, if valid frames stand behind it, which are not read.
    pub(crate) torn: Option<Stretch>,
    /// Up to where the log is known to have been synced, by others or by frames that were looked at ahead.
    proven: u64,
    size: u64,
}

impl<'a> Frames<'a> {
    /// Begins at the first. `proven` is up to where others know the log to have been synced; 0 when nobody does.
    pub(crate) fn new(file: &'a dyn DiskFile, head: &FileHead, proven: u64) -> io::Result<Self> {
        let size = file.size()?;
        let offset = HEAD_BYTES as u64;
        Ok(Self {
            file,
            window: Window::new(file, size),
            nonce: head.nonce,
            offset,
            synced: offset,
            damage: Vec::new(),
            torn: None,
            proven,
            size,
        })
    }

    /// The next valid frame; nothing where none follows, or where the log is torn.
    pub(crate) fn next(&mut self) -> io::Result<Option<(FrameKind, &[u8])>> {
        let head = match self.valid_at(self.offset)? {
            Some(head) => head,
            None => {
                let Some((offset, head)) = self.find_behind(self.offset)? else { return Ok(None) };
                let hole = Stretch { offset: self.offset, bytes: offset - self.offset };
                if !self.is_damage(hole)? {
                    self.torn = Some(hole);
                    return Ok(None);
                }
                self.damage.push(hole);
                self.offset = offset;
                head
            }
        };
        self.synced = self.synced.max(head.synced);
        let at = self.offset + FRAME_HEAD_BYTES as u64;
        self.offset = head.ends_at(self.offset);
        let payload = self.window.at(at, head.length as usize)?;
        Ok(Some((head.kind, payload)))
    }

    /// Whether the log had been synced past the beginning of a hole: what is known says so, or a valid frame behind it.
    fn is_damage(&mut self, hole: Stretch) -> io::Result<bool> {
        let mut offset = hole.offset + hole.bytes;
        // The later a frame stands the more it says, and never more than where it stands: one look ahead serves all holes before.
        while self.proven <= hole.offset {
            let (at, head) = match self.valid_at(offset)? {
                Some(head) => (offset, head),
                None => match self.find_behind(offset)? {
                    Some(found) => found,
                    None => return Ok(false),
                },
            };
            self.proven = self.proven.max(head.synced);
            offset = head.ends_at(at);
        }
        Ok(true)
    }

    fn valid_at(&mut self, offset: u64) -> io::Result<Option<FrameHead>> {
        let bytes = self.window.at(offset, FRAME_HEAD_BYTES)?;
        let Some(head) = frame_head(bytes, &self.nonce, offset) else { return Ok(None) };
        let at = offset + FRAME_HEAD_BYTES as u64;
        if at + u64::from(head.length) > self.size {
            return Ok(None);
        }
        let payload = self.window.at(at, head.length as usize)?;
        let whole = payload.len() == head.length as usize
            && payload_crc(&self.nonce, offset, payload) == head.payload_crc;
        Ok(whole.then_some(head))
    }

    /// The first valid frame behind an offset.
    fn find_behind(&mut self, offset: u64) -> io::Result<Option<(u64, FrameHead)>> {
        let mut offset = offset + FRAME_ALIGNMENT;
        let mut data = offset;
        while offset < self.size {
            // What was preallocated and not written is not read.
            if offset >= data {
                let Some(next) = self.file.data_from(offset)? else { break };
                offset = offset.max(next / FRAME_ALIGNMENT * FRAME_ALIGNMENT);
                data = offset + LOOK_BYTES;
            }
            let may_begin = self.window.at(offset, FRAME_HEAD_BYTES)?.starts_with(&MAGIC);
            if may_begin && let Some(head) = self.valid_at(offset)? {
                return Ok(Some((offset, head)));
            }
            offset += FRAME_ALIGNMENT;
        }
        Ok(None)
    }
}

/// Which messages of a segment have ended, as a frame's payload: the segment, then slots as differences.
pub(crate) fn standing_payload(
    segment: SegmentName,
    retired: &mut Vec<u32>,
    moved: &mut Vec<u32>,
) -> Vec<u8> {
    let mut payload = Vec::with_capacity(16 + 2 * (retired.len() + moved.len()));
    put_segment(&mut payload, segment);
    for slots in [retired, moved] {
        slots.sort_unstable();
        put_number(&mut payload, slots.len() as u64);
        let mut last = 0;
        for slot in slots.iter() {
            put_number(&mut payload, u64::from(slot - last));
            last = *slot;
        }
    }
    payload
}

/// Takes a [`FrameKind::Standing`] apart: the segment, its retired and its moved slots.
pub(crate) fn standing_of(payload: &[u8]) -> Option<(SegmentName, Vec<u32>, Vec<u32>)> {
    let mut bytes = Bytes(payload);
    let segment = take_segment(&mut bytes)?;
    let mut sets = [Vec::new(), Vec::new()];
    for set in &mut sets {
        let mut last = 0u32;
        for _ in 0..take_number(&mut bytes)? {
            last = last.checked_add(u32::try_from(take_number(&mut bytes)?).ok()?)?;
            set.push(last);
        }
    }
    let [retired, moved] = sets;
    Some((segment, retired, moved))
}

/// Segments as a [`FrameKind::Gone`] payload.
pub(crate) fn gone_payload(segments: impl IntoIterator<Item = SegmentName>) -> Vec<u8> {
    let mut payload = Vec::new();
    segments.into_iter().for_each(|segment| put_segment(&mut payload, segment));
    payload
}

/// Takes a [`FrameKind::Gone`] apart.
pub(crate) fn gone_of(payload: &[u8]) -> Option<Vec<SegmentName>> {
    let mut bytes = Bytes(payload);
    let mut segments = Vec::new();
    while !bytes.0.is_empty() {
        segments.push(take_segment(&mut bytes)?);
    }
    Some(segments)
}

fn put_segment(payload: &mut Vec<u8>, segment: SegmentName) {
    put_number(payload, u64::from(segment.stripe.0));
    put_number(payload, segment.sequence);
}

fn take_segment(bytes: &mut Bytes<'_>) -> Option<SegmentName> {
    let stripe = Stripe(u32::try_from(take_number(bytes)?).ok()?);
    Some(SegmentName { stripe, sequence: take_number(bytes)? })
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn put_number(payload: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        payload.push(number as u8 | 0x80);
        number >>= 7;
    }
    payload.push(number as u8);
}

fn take_number(bytes: &mut Bytes<'_>) -> Option<u64> {
    let mut number = 0u64;
    for place in 0..10 {
        let [byte] = bytes.take()?;
        number |= u64::from(byte & 0x7f).checked_shl(7 * place)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
