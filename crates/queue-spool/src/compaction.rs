//! Compacting as a process does it: one at a time, beside living writers, a scheduler and readers.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use mail::Timestamp;
use queue::{
    Compaction, CompactionError, Handle, Held, Listed, Local, ReadError, Sealed, Segment, Survey,
};

use crate::codec::{Entry, FileKind, Kept};
use crate::disk::{Disk, Held as Lock, Lock as Locking};
use crate::moved;
use crate::place::{Home, Layout, MessagePlace, Place, RecordPlace, SegmentName};
use crate::read::{Fault, OpenFile};
use crate::recovery;
use crate::stripe::stripes;

/// How many whole segments a stripe may take beyond twice the live bytes.
const SPARE_SEGMENTS: u64 = 2;

/// Compacts this spool. The right to do so is taken by the first survey.
pub struct SpoolCompaction {
    disk: Arc<dyn Disk>,
    layout: Layout,
    segment_bytes: u64,
    /// Held by the work on disk threads too, which may outlive this.
    lock: Arc<Mutex<Option<Box<dyn Lock>>>>,
}

impl SpoolCompaction {
    pub(crate) fn new(disk: Arc<dyn Disk>, layout: Layout, segment_bytes: u64) -> Self {
        Self { disk, layout, segment_bytes, lock: Arc::default() }
    }

    /// Does what may wait on a disk thread.
    async fn on_disk<A: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Disk, &Layout) -> Result<A, CompactionError> + Send + 'static,
    ) -> Result<A, CompactionError> {
        let (disk, layout, lock) = (self.disk.clone(), self.layout.clone(), self.lock.clone());
        let work = move || {
            let result = work(&*disk, &layout);
            drop(lock);
            result
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(ended) => Err(failed("a disk thread".into(), ended.into())),
        }
    }
}

impl Compaction for SpoolCompaction {
    fn survey(&self) -> Local<'_, Result<Survey, CompactionError>> {
        let (lock, segment_bytes) = (self.lock.clone(), self.segment_bytes);
        Box::pin(self.on_disk(move |disk, layout| {
            let mut lock = crate::thread::lock(&lock);
            if lock.is_none() {
                *lock = Some(hold(disk, layout)?);
            }
            survey(disk, layout, segment_bytes)
        }))
    }

    fn held(&self, segment: &Segment) -> Local<'_, Result<Vec<Held>, CompactionError>> {
        let name = segment.0.parse::<SegmentName>();
        Box::pin(async move {
            // A name that is none of ours names nothing that is here.
            let Ok(name) = name else { return Ok(Vec::new()) };
            self.on_disk(move |disk, layout| held(disk, layout, name)).await
        })
    }

    fn copies(&self) -> Local<'_, Result<Vec<Listed>, CompactionError>> {
        Box::pin(self.on_disk(|disk, layout| {
            let mut found = Vec::new();
            for stripe in all_stripes(disk, layout)? {
                found.extend(moved::list(disk, layout, stripe).map_err(of_fault)?);
            }
            Ok(found)
        }))
    }

    fn copy(
        &self,
        messages: Vec<Handle>,
    ) -> Local<'_, Result<Vec<Result<Handle, ReadError>>, CompactionError>> {
        let now = Timestamp::from(SystemTime::now());
        Box::pin(self.on_disk(move |disk, layout| {
            moved::copy_all(disk, layout, &messages, now)
                .map_err(|(path, error)| failed(path, error))
        }))
    }

    fn discard(&self, copies: Vec<Handle>) -> Local<'_, Result<(), CompactionError>> {
        Box::pin(self.on_disk(move |disk, layout| {
            moved::discard(disk, layout, &copies).map_err(|(path, error)| failed(path, error))
        }))
    }
}

/// Takes the right to compact this spool.
pub(crate) fn hold(disk: &dyn Disk, layout: &Layout) -> Result<Box<dyn Lock>, CompactionError> {
    let dir = layout.compact();
    disk.make_dir(&dir).map_err(|error| failed(dir.clone(), error))?;
    let path = dir.join("lock");
    let held = disk.lock(&path, Locking::Exclusive).map_err(|error| failed(path, error))?;
    held.ok_or(CompactionError::Busy)
}

/// What there is, oldest first. What a process left that died while it was copying is removed.
pub(crate) fn survey(
    disk: &dyn Disk,
    layout: &Layout,
    segment_bytes: u64,
) -> Result<Survey, CompactionError> {
    let stripes = all_stripes(disk, layout)?;
    for stripe in &stripes {
        moved::tidy(disk, layout, *stripe).map_err(|(path, error)| failed(path, error))?;
    }
    let mut survey = Survey { segments: Vec::new(), spare_bytes: 0 };
    let mut open_bytes = 0u64;
    for name in recovery::list(disk, layout, true).map_err(of_fault)? {
        match size_of(disk, layout, name) {
            Ok((bytes, true)) => {
                survey.segments.push(Sealed { segment: Segment(name.to_string()), bytes });
            }
            Ok((bytes, false)) => open_bytes = open_bytes.saturating_add(bytes),
            // Given back meanwhile, or damaged: it is not for us to judge.
            Err(Fault::Gone(_) | Fault::Damaged(_)) => {}
            Err(fault) => return Err(of_fault(fault)),
        }
    }
    let spare = SPARE_SEGMENTS.saturating_mul(segment_bytes).saturating_mul(stripes.len() as u64);
    survey.spare_bytes = spare.saturating_sub(open_bytes);
    Ok(survey)
}

/// A segment's size, and whether it has a footer.
fn size_of(disk: &dyn Disk, layout: &Layout, name: SegmentName) -> Result<(u64, bool), Fault> {
    let path = layout.segment(name);
    let file = OpenFile::open(disk, &path, FileKind::Segment)?;
    let bytes = file.file.size().map_err(|error| Fault::io(&path, error))?;
    Ok((bytes, file.is_sealed()?))
}

/// What a sealed segment's footer lists.
pub(crate) fn held(
    disk: &dyn Disk,
    layout: &Layout,
    name: SegmentName,
) -> Result<Vec<Held>, CompactionError> {
    let opened = OpenFile::open(disk, &layout.segment(name), FileKind::Segment);
    match opened.and_then(|file| file.footer()) {
        Ok(entries) => {
            Ok(entries.unwrap_or_default().iter().map(|one| of_entry(name, one)).collect())
        }
        Err(Fault::Gone(_) | Fault::Damaged(_)) => Ok(Vec::new()),
        Err(fault) => Err(of_fault(fault)),
    }
}

fn of_entry(segment: SegmentName, entry: &Entry) -> Held {
    let Entry { offset, length, id, accepted_at, body } = *entry;
    let record = RecordPlace { segment, offset, length, id };
    let place = MessagePlace { record, body, home: Home::Segment };
    Held {
        handle: Place::Message(place).handle(),
        id,
        accepted_at,
        record_bytes: u64::from(length),
        body_within: body == Kept::Within,
    }
}

fn all_stripes(
    disk: &dyn Disk,
    layout: &Layout,
) -> Result<Vec<crate::place::Stripe>, CompactionError> {
    match stripes(disk, layout) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        stripes => stripes.map_err(|error| failed(layout.intake(), error)),
    }
}

pub(crate) fn failed(path: PathBuf, error: io::Error) -> CompactionError {
    CompactionError::Io { context: path.display().to_string(), source: Arc::new(error) }
}

pub(crate) fn of_fault(fault: Fault) -> CompactionError {
    match fault {
        Fault::Io(context, source) => CompactionError::Io { context, source },
        Fault::Gone(context) => {
            let source = Arc::new(io::ErrorKind::NotFound.into());
            CompactionError::Io { context, source }
        }
        Fault::Damaged(context) => {
            let source = Arc::new(io::ErrorKind::InvalidData.into());
            CompactionError::Io { context, source }
        }
    }
}
