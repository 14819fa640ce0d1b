//! Reading by handle, in any process: without waiting where the page cache allows, else on a disk thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail::MessageId;
use queue::{Body, Handle, Local, ReadError, Reader, Stored};
use tokio::sync::Semaphore;

use crate::codec::{FileKind, HEAD_BYTES, Kind};
use crate::disk::Disk;
use crate::moved;
use crate::place::{BodyPlace, Home, Layout, MessagePlace, Place, RecordPlace, SegmentName};
use crate::read::{
    BLOCK_BYTES, BlockReader, BodyAt, Fault, OpenFile, accept_line, check_record, home_of,
};

/// Reads that may wait for the disk at a time; more wait their turn.
const DISK_READS_MAX: usize = 8;
/// A segment that was not read for so long is closed, so that its space can be given back.
const KEEP_OPEN: Duration = Duration::from_secs(5);

/// Reads messages of this spool. Clones share their open segments.
#[derive(Clone)]
pub struct SpoolReader(Rc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    layout: Layout,
    segments: Rc<RefCell<OpenSegments>>,
    disk_reads: Arc<Semaphore>,
}

/// The segments kept open, the least lately used first.
struct OpenSegments {
    files: Vec<(SegmentName, Arc<OpenFile>, Instant)>,
    files_max: usize,
    /// Whether a task is there that closes what is not used.
    tended: bool,
}

impl SpoolReader {
    pub(crate) fn new(disk: Arc<dyn Disk>, layout: Layout, files_max: u32) -> Self {
        let segments =
            OpenSegments { files: Vec::new(), files_max: files_max as usize, tended: false };
        Self(Rc::new(Inner {
            disk,
            layout,
            segments: Rc::new(RefCell::new(segments)),
            disk_reads: Arc::new(Semaphore::new(DISK_READS_MAX)),
        }))
    }
}

impl Inner {
    /// Runs `work` on a disk thread.
    async fn on_disk<A: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Disk, &Layout) -> Result<A, Fault> + Send + 'static,
    ) -> Result<A, Fault> {
        let permit = self.disk_reads.clone().acquire_owned().await;
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&*disk, &layout)
        });
        match done.await {
            Ok(result) => result,
            Err(ended) => Err(Fault::Io("a disk thread ended".into(), Arc::new(ended.into()))),
        }
    }

    /// An open segment, from those kept or opened now.
    async fn segment(&self, name: SegmentName) -> Result<Arc<OpenFile>, Fault> {
        if let Some(file) = self.segments.borrow_mut().find(name) {
            return Ok(file);
        }
        let file = self
            .on_disk(move |disk, layout| {
                OpenFile::open(disk, &layout.segment(name), FileKind::Segment).map(Arc::new)
            })
            .await?;
        let tend = self.segments.borrow_mut().keep(name, file.clone());
        if tend {
            tokio::task::spawn_local(close_unused(self.segments.clone()));
        }
        Ok(file)
    }

    /// A record's bytes, not checked yet.
    async fn record(
        &self,
        file: &Arc<OpenFile>,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, Fault> {
        if let Some(bytes) = read_now(file, offset, length) {
            return Ok(bytes);
        }
        let file = file.clone();
        self.on_disk(move |_, _| file.read(offset, length)).await
    }

    /// The file that holds a message's accept record, and the record there.
    ///
    /// Who holds the handle that a message had before it was moved finds it where it is now: its segment may have gone.
    async fn home(&self, place: MessagePlace) -> Result<(Arc<OpenFile>, u64, RecordPlace), Fault> {
        let record = place.record;
        let gone = match place.home {
            Home::Moved => None,
            Home::Segment => match self.segment(record.segment).await {
                Err(Fault::Gone(why)) => Some(why),
                segment => return segment.map(|file| (file, record.offset, record)),
            },
        };
        self.on_disk(move |disk, layout| {
            let place = match gone {
                None => place,
                Some(why) => match moved::look(disk, layout, (record.segment, record.offset)) {
                    Ok((found, _)) if found.record.id == record.id => found,
                    _ => return Err(Fault::Gone(why)),
                },
            };
            let (path, kind, offset) = home_of(layout, &place);
            let file = OpenFile::open(disk, &path, kind)?;
            Ok((Arc::new(file), offset, place.record))
        })
        .await
    }

    async fn open_message(&self, place: MessagePlace) -> Result<Stored, Fault> {
        let (file, offset, record) = self.home(place).await?;
        let bytes = self.record(&file, offset, record.length as usize).await?;
        let kinds = [Kind::Message, Kind::Accept];
        let head = check_record(&file, &bytes, offset, &kinds, record.id)?;
        let (accepted, at) = accept_line(&bytes, &head)?.accepted();
        let body: Box<dyn Body> = match at {
            BodyAt::Here => {
                let body = Bytes::from(bytes).split_off(HEAD_BYTES + head.accept_bytes as usize);
                Box::new(WholeBody { size: body.len() as u64, rest: body })
            }
            BodyAt::Record { offset, length } => {
                let place = RecordPlace { offset, length, ..record };
                Box::new(self.draft_body(&file, &place).await?)
            }
            BodyAt::File { nonce } => {
                let stripe = record.segment.stripe;
                let place = BodyPlace { stripe, id: record.id, size: accepted.size };
                Box::new(self.body_file(place, Some(nonce)).await?)
            }
        };
        Ok(Stored { accepted, body })
    }

    async fn draft_body(
        &self,
        file: &Arc<OpenFile>,
        place: &RecordPlace,
    ) -> Result<WholeBody, Fault> {
        let bytes = self.record(file, place.offset, place.length as usize).await?;
        check_record(file, &bytes, place.offset, &[Kind::Draft], place.id)?;
        let body = Bytes::from(bytes).split_off(HEAD_BYTES);
        Ok(WholeBody { size: body.len() as u64, rest: body })
    }

    async fn body_file(
        self: &Inner,
        place: BodyPlace,
        nonce: Option<String>,
    ) -> Result<FileBody, Fault> {
        let blocks = self
            .on_disk(move |disk, layout| {
                let named = nonce.is_some();
                BlockReader::open(disk, layout, &place, nonce.as_deref()).map_err(|fault| {
                    match fault {
                        // An accept record says that it is there.
                        Fault::Gone(why) if named => Fault::Damaged(why),
                        fault => fault,
                    }
                })
            })
            .await?;
        let reads = self.disk_reads.clone();
        let handle = Place::DraftFile(place).handle();
        Ok(FileBody { size: place.size, blocks, handle, reads, id: place.id })
    }
}

/// What the page cache can give at once; nothing when that is not everything.
fn read_now(file: &OpenFile, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let count = file.file.read_now(&mut bytes, offset).ok()?;
    (count == length).then_some(bytes)
}

impl OpenSegments {
    fn find(&mut self, name: SegmentName) -> Option<Arc<OpenFile>> {
        let at = self.files.iter().position(|(held, ..)| *held == name)?;
        let (_, file, _) = self.files.remove(at);
        self.files.push((name, file.clone(), Instant::now()));
        Some(file)
    }

    /// Keeps a segment open. Says whether a task must be started that closes it again.
    fn keep(&mut self, name: SegmentName, file: Arc<OpenFile>) -> bool {
        self.files.retain(|(held, ..)| *held != name);
        if self.files.len() >= self.files_max {
            self.files.remove(0);
        }
        self.files.push((name, file, Instant::now()));
        !std::mem::replace(&mut self.tended, true)
    }
}

/// Closes what has not been read for a while; ends when nothing is open, so that an idle reader wakes nobody.
async fn close_unused(segments: Rc<RefCell<OpenSegments>>) {
    loop {
        tokio::time::sleep(KEEP_OPEN).await;
        let mut segments = segments.borrow_mut();
        segments.files.retain(|(_, _, used)| used.elapsed() < KEEP_OPEN);
        if segments.files.is_empty() {
            segments.tended = false;
            return;
        }
    }
}

impl Reader for SpoolReader {
    fn open(&self, handle: &Handle) -> Local<'_, Result<Stored, ReadError>> {
        let handle = handle.clone();
        Box::pin(async move {
            match Place::parse(&handle) {
                Some(Place::Message(place)) => {
                    self.0.open_message(place).await.map_err(|fault| fault.of(&handle))
                }
                Some(_) => Err(ReadError::Gone(handle, "it is a draft".into())),
                None => Err(ReadError::Foreign(handle)),
            }
        })
    }

    fn open_draft(&self, handle: &Handle) -> Local<'_, Result<Box<dyn Body>, ReadError>> {
        let handle = handle.clone();
        Box::pin(async move {
            let inner = &self.0;
            let opened: Result<Box<dyn Body>, Fault> = match Place::parse(&handle) {
                Some(Place::Draft(place)) => match inner.segment(place.segment).await {
                    Ok(file) => {
                        inner.draft_body(&file, &place).await.map(|body| Box::new(body) as _)
                    }
                    Err(fault) => Err(fault),
                },
                Some(Place::DraftFile(place)) => {
                    inner.body_file(place, None).await.map(|body| Box::new(body) as _)
                }
                Some(Place::Message(_)) => Err(Fault::Gone("it is no draft".into())),
                None => return Err(ReadError::Foreign(handle)),
            };
            opened.map_err(|fault| fault.of(&handle))
        })
    }
}

/// A body that was read, and checked, with its record.
struct WholeBody {
    size: u64,
    rest: Bytes,
}

impl Body for WholeBody {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        let piece = self.rest.split_to(self.rest.len().min(BLOCK_BYTES));
        Box::pin(std::future::ready(Ok((!piece.is_empty()).then_some(piece))))
    }
}

/// A body that is read block by block.
struct FileBody {
    size: u64,
    blocks: BlockReader,
    handle: Handle,
    reads: Arc<Semaphore>,
    id: MessageId,
}

impl FileBody {
    async fn next_block(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(length) = self.blocks.next_length() else { return Ok(None) };
        let (file, offset) = (self.blocks.file.clone(), self.blocks.offset);
        let record = match read_now(&file, offset, length) {
            Some(record) => record,
            None => {
                let permit = self.reads.clone().acquire_owned().await;
                let read = tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    file.read(offset, length)
                });
                read.await.unwrap_or_else(|ended| {
                    let context = format!("a disk thread ended while it read {}", self.id);
                    Err(Fault::Io(context, Arc::new(ended.into())))
                })?
            }
        };
        self.blocks.accept(&record)?;
        Ok(Some(Bytes::from(record).split_off(HEAD_BYTES)))
    }
}

impl Body for FileBody {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        Box::pin(async move {
            let block = self.next_block().await;
            block.map_err(|fault| fault.of(&self.handle))
        })
    }
}
