//! The spool as a simulation uses it: what processes do on disk threads, done at once, and looks at what is durable.

use std::path::{Path, PathBuf};

use mail::Timestamp;
use queue::{Accepted, CompactionError, Handle, Held, Listed, ReadError, Segment, Survey};

use crate::codec::{FileKind, HEAD_BYTES, Kept, Kind};
use crate::disk::Held as Lock;
use crate::place::{Home, Place, SegmentName, Stripe};
use crate::read::{
    BlockReader, BodyAt, Fault, OpenFile, Pieces, accept_line, check_record, draft_bytes, home_of,
};
use crate::scan::scan;
use crate::{Layout, Spool, compaction, moved, place, recovery, stripe};

impl Spool {
    /// As [`queue::Recovery::segments`] and [`queue::Recovery::accepted`], at once: what is in each segment, moved messages first.
    pub fn listed_now(&self, all: bool) -> Result<Vec<Vec<Listed>>, String> {
        let (disk, layout) = (&*self.disk, &self.layout);
        let mut listed = Vec::new();
        for stripe in stripe::stripes(disk, layout).unwrap_or_default() {
            listed.push(moved::list(disk, layout, stripe).map_err(said)?);
        }
        for name in recovery::list(disk, layout, all).map_err(said)? {
            listed.push(recovery::accepted(disk, layout, name).map_err(said)?);
        }
        Ok(listed)
    }

    /// Reads an accepted message whole, every byte checked.
    pub fn message_now(&self, handle: &Handle) -> Result<(Accepted, Vec<u8>), ReadError> {
        self.read_whole(handle).map_err(|fault| fault.of(handle))
    }

    fn read_whole(&self, handle: &Handle) -> Result<(Accepted, Vec<u8>), Fault> {
        let (disk, layout) = (&*self.disk, &self.layout);
        let Some(Place::Message(place)) = Place::parse(handle) else {
            return Err(Fault::Gone("it is no handle of a message".into()));
        };
        let (path, kind, offset) = home_of(layout, &place);
        let file = OpenFile::open(disk, &path, kind)?;
        let id = place.record.id;
        let bytes = file.read(offset, place.record.length as usize)?;
        let head = check_record(&file, &bytes, offset, &[Kind::Message, Kind::Accept], id)?;
        let (accepted, at) = accept_line(&bytes, &head)?.accepted();
        let body = match at {
            BodyAt::Here => {
                bytes.get(HEAD_BYTES + head.accept_bytes as usize..).unwrap_or_default().to_vec()
            }
            BodyAt::Record { offset, length } => {
                let place = place::RecordPlace { offset, length, ..place.record };
                draft_bytes(&file, &place)?
            }
            BodyAt::File { nonce } => {
                let stripe = place.record.segment.stripe;
                let body = place::BodyPlace { stripe, id, size: accepted.size };
                let mut pieces =
                    Pieces::File(BlockReader::open(disk, layout, &body, Some(&nonce))?);
                let mut whole = Vec::new();
                while let Some(piece) = pieces.next()? {
                    whole.extend(piece);
                }
                whole
            }
        };
        Ok((accepted, body))
    }

    /// Whether a file is a segment with an empty footer and more than a torn end: kept as evidence, and by nobody given back.
    pub fn lists_nothing(&self, path: &Path) -> bool {
        let Ok(file) = OpenFile::open(&*self.disk, path, FileKind::Segment) else { return false };
        let is_empty = matches!(file.footer(), Ok(Some(entries)) if entries.is_empty());
        let found = scan(&file, &mut |_| {});
        is_empty && found.is_ok_and(|found| !found.damage.is_empty())
    }

    /// The files that a message of this handle lives in: its segment or copy, and its body when that has a file of its own.
    pub fn files_of(&self, handle: &Handle) -> Vec<PathBuf> {
        let Some(Place::Message(place)) = Place::parse(handle) else { return Vec::new() };
        let record = &place.record;
        let home = match place.home {
            Home::Segment => self.layout.segment(record.segment),
            Home::Moved => self.layout.moved(record),
        };
        let body =
            (place.body == Kept::Apart).then(|| self.layout.body(record.segment.stripe, record.id));
        std::iter::once(home).chain(body).collect()
    }

    /// Where the accept record of a message that was just accepted stands: its file, its offset and its length, in bytes.
    pub fn record_of(&self, handle: &Handle) -> Option<(PathBuf, u64, u32)> {
        let Some(Place::Message(place)) = Place::parse(handle) else { return None };
        let (path, _, offset) = home_of(&self.layout, &place);
        Some((path, offset, place.record.length))
    }

    /// The names of this spool's files.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// Compaction, step by step; the right to it is held meanwhile.
pub struct CompactionNow {
    spool: Spool,
    _lock: Box<dyn Lock>,
}

impl CompactionNow {
    /// Takes the right to compact; [`CompactionError::Busy`] while another process has it.
    pub fn begin(spool: &Spool) -> Result<Self, CompactionError> {
        let lock = compaction::hold(&*spool.disk, &spool.layout)?;
        Ok(Self { spool: spool.clone(), _lock: lock })
    }

    /// As [`queue::Compaction::survey`].
    pub fn survey(&self) -> Result<Survey, CompactionError> {
        let Spool { disk, layout, settings, .. } = &self.spool;
        compaction::survey(&**disk, layout, settings.segment_bytes.0)
    }

    /// As [`queue::Compaction::held`].
    pub fn held(&self, segment: &Segment) -> Result<Vec<Held>, CompactionError> {
        match segment.0.parse::<SegmentName>() {
            Ok(name) => compaction::held(&*self.spool.disk, &self.spool.layout, name),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// As [`queue::Compaction::copies`].
    pub fn copies(&self) -> Result<Vec<Listed>, CompactionError> {
        let Spool { disk, layout, .. } = &self.spool;
        let stripes: Vec<Stripe> = stripe::stripes(&**disk, layout).unwrap_or_default();
        let lists = stripes
            .into_iter()
            .map(|stripe| moved::list(&**disk, layout, stripe).map_err(compaction::of_fault));
        Ok(lists.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// As [`queue::Compaction::copy`].
    pub fn copy(
        &self,
        messages: &[Handle],
        now: Timestamp,
    ) -> Result<Vec<Result<Handle, ReadError>>, CompactionError> {
        let Spool { disk, layout, .. } = &self.spool;
        moved::copy_all(&**disk, layout, messages, now)
            .map_err(|(path, error)| compaction::failed(path, error))
    }

    /// As [`queue::Compaction::discard`].
    pub fn discard(&self, copies: &[Handle]) -> Result<(), CompactionError> {
        let Spool { disk, layout, .. } = &self.spool;
        moved::discard(&**disk, layout, copies)
            .map_err(|(path, error)| compaction::failed(path, error))
    }
}

fn said(fault: Fault) -> String {
    format!("{fault:?}")
}
