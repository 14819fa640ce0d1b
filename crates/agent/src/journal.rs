//! What was done for a scheduler that could not be told: in a synced file, until whichever scheduler owns the ledger has heard it.
//!
//! ```text
//!  add ──▶ memory ──▶ file, synced ──▶ told, several at a time ──▶ acknowledged ──▶ file emptied when all are
//!                        ▲ another worker's, whose process has ended: adopted at the start, and again while there is something to do
//! ```
//!
//! What must hold: an entry is in the file and synced before it is told, unless the disk fails, which is said and keeps nobody from
//! telling · a file is one process's, by flock; one whose process has ended is anybody's of the same channel.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use job::outcome::{LateOutcome, OutcomeRequest};
use queue::Local;
use rustix::fs::{FlockOperation, flock};
use socket::{CallError, Client, codes};
use tokio::sync::Notify;

/// The most entries that wait to be told. What comes to more is lost, which is said, and may be delivered twice.
const ENTRIES_MAX: usize = 100_000;
/// Entries told at a time.
const TOLD_AT_ONCE: usize = 32;
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// The most files of one channel.
const FILES_MAX: usize = 1000;
/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Tells the scheduler.
pub(crate) trait Tell {
    /// Tells one entry; resolves when it is acknowledged.
    fn tell(&self, entry: OutcomeRequest) -> Local<'static, Result<(), CallError>>;
}

impl Tell for Client<LateOutcome> {
    fn tell(&self, entry: OutcomeRequest) -> Local<'static, Result<(), CallError>> {
        let client = self.clone();
        Box::pin(async move { client.call(&entry).await.map(drop) })
    }
}

/// The journal of a worker. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal(Rc<Inner>);

struct Inner {
    folder: PathBuf,
    channel: String,
    teller: Box<dyn Tell>,
    entries: RefCell<VecDeque<OutcomeRequest>>,
    /// How many of the entries, from the first on, are in the file.
    written: Cell<usize>,
    /// Made when it is first needed; nothing if it cannot be.
    file: RefCell<Option<File>>,
    lost: Cell<u64>,
    added: Notify,
}

impl Journal {
    /// A journal of a channel in a folder, which may have to be made. Nothing is read or told before [`Journal::run`].
    pub(crate) fn new(folder: PathBuf, channel: &str, teller: Box<dyn Tell>) -> Self {
        Self(Rc::new(Inner {
            folder,
            channel: channel.to_owned(),
            teller,
            entries: RefCell::default(),
            written: Cell::new(0),
            file: RefCell::default(),
            lost: Cell::new(0),
            added: Notify::new(),
        }))
    }

    /// Adds what was done.
    pub(crate) fn add(&self, done: impl IntoIterator<Item = OutcomeRequest>) {
        let mut entries = self.0.entries.borrow_mut();
        let before = entries.len();
        for entry in done {
            if entries.len() < ENTRIES_MAX {
                entries.push_back(entry);
            } else if self.0.lost.replace(self.0.lost.get() + 1) == 0 {
                tracing::error!(
                    entries = ENTRIES_MAX,
                    "too much waits to be told to the scheduler: what is delivered now may be delivered again"
                );
            }
        }
        if entries.len() > before {
            self.0.added.notify_one();
        }
    }

    /// Whether nothing waits to be told.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.entries.borrow().is_empty()
    }

    /// Writes and tells, for ever. What a process left that has ended is told as well.
    pub(crate) async fn run(self) {
        loop {
            self.adopt().await;
            if self.is_empty() {
                self.0.added.notified().await;
                continue;
            }
            self.write().await;
            if !self.tell().await {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Writes what is not in the file: the next worker tells it. [`Journal::run`] must have ended.
    pub(crate) async fn end(self) {
        self.write().await;
    }

    /// Writes what is not in the file, and says whether all is in it. A disk that fails is told of, and the entries are told all
    /// the same.
    async fn write(&self) -> bool {
        let fresh: Vec<OutcomeRequest> =
            self.0.entries.borrow().iter().skip(self.0.written.get()).cloned().collect();
        if fresh.is_empty() {
            return true;
        }
        let count = fresh.len();
        let (file, folder) = (self.0.file.take(), self.0.folder.clone());
        let channel = self.0.channel.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut file = match file {
                Some(file) => file,
                None => own(&folder, &channel)?,
            };
            append(&mut file, &fresh)?;
            Ok::<File, io::Error>(file)
        });
        match written.await {
            Ok(Ok(file)) => {
                *self.0.file.borrow_mut() = Some(file);
                self.0.written.set(self.0.written.get() + count);
                tracing::warn!(
                    jobs = count,
                    "the scheduler may not have heard what was done: written down, to be told again"
                );
                true
            }
            Ok(Err(error)) => {
                let folder = self.0.folder.display();
                tracing::error!(%error, %folder, "what was done cannot be written down; it is told all the same");
                false
            }
            Err(error) => {
                tracing::error!(%error, "what was done cannot be written down");
                false
            }
        }
    }

    /// Tells the first entries; says whether all were heard. The file is emptied when nothing waits.
    async fn tell(&self) -> bool {
        let part: Vec<OutcomeRequest> =
            self.0.entries.borrow().iter().take(TOLD_AT_ONCE).cloned().collect();
        let count = part.len();
        let told: Vec<_> = part.iter().map(|entry| self.0.teller.tell(entry.clone())).collect();
        let mut unheard = Vec::new();
        for (entry, told) in part.into_iter().zip(told) {
            match told.await {
                Ok(()) => {
                    tracing::info!(id = %entry.id, recipients = entry.outcomes.len(), "the scheduler has heard what was done");
                }
                Err(CallError::Refused(error)) if error.code == codes::PARAMS => {
                    tracing::error!(id = %entry.id, %error, "the scheduler does not take what was done");
                }
                Err(error) => {
                    tracing::debug!(id = %entry.id, %error, "the scheduler has not heard what was done");
                    unheard.push(entry);
                }
            }
        }
        let all = unheard.is_empty();
        let heard = count - unheard.len();
        // More may have come meanwhile, behind those that were told.
        let mut entries = self.0.entries.borrow_mut();
        entries.drain(..count);
        unheard.into_iter().rev().for_each(|entry| entries.push_front(entry));
        self.0.written.set(self.0.written.get().saturating_sub(heard));
        let is_over = entries.is_empty();
        drop(entries);
        if is_over && let Some(file) = &*self.0.file.borrow() {
            // Should this fail, the next to hold the file tells what is known: it changes nothing.
            if let Err(error) = file.set_len(0) {
                tracing::warn!(%error, "the journal cannot be emptied");
            }
            self.0.written.set(0);
        }
        all
    }

    /// Takes over what processes have left that have ended.
    async fn adopt(&self) {
        let (folder, channel) = (self.0.folder.clone(), self.0.channel.clone());
        let left = tokio::task::spawn_blocking(move || left_behind(&folder, &channel));
        let Ok(Ok((left, files))) = left.await else { return };
        if left.is_empty() {
            return;
        }
        tracing::info!(jobs = left.len(), "taken over what another worker did and could not tell");
        let has_room = self.0.entries.borrow().len() + left.len() <= ENTRIES_MAX;
        self.add(left);
        if !self.write().await || !has_room {
            return;
        }
        // They are in the file of this process now, and synced.
        for (path, _held) in files {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a journal cannot be removed");
            }
        }
    }
}

fn path(folder: &Path, channel: &str, number: usize) -> PathBuf {
    folder.join(format!("{channel}.{number}.journal"))
}

/// Opens a file that no living process holds, and holds it; nothing if another does.
fn hold(path: &Path, create: bool) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(create);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Whoever held it until now may have removed it.
        Ok(()) => Ok((file.metadata()?.nlink() > 0).then_some(file)),
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A file of this process's own, empty: the first that is there and empty, or that can be made.
fn own(folder: &Path, channel: &str) -> io::Result<File> {
    std::fs::create_dir_all(folder)?;
    for number in 0..FILES_MAX {
        if let Some(file) = hold(&path(folder, channel, number), true)?
            && file.metadata()?.len() == 0
        {
            File::open(folder)?.sync_all()?;
            return Ok(file);
        }
    }
    Err(io::Error::other(format!("{FILES_MAX} journals of {channel} are in use")))
}

fn append(file: &mut File, entries: &[OutcomeRequest]) -> io::Result<()> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry)?;
        lines.push(b'\n');
    }
    file.write_all(&lines)?;
    file.sync_data()
}

/// What was left, and the files that it stands in, held.
type Left = (Vec<OutcomeRequest>, Vec<(PathBuf, File)>);

/// What processes left that have ended. A line that is not whole was never told of as written.
fn left_behind(folder: &Path, channel: &str) -> io::Result<Left> {
    let (mut left, mut files) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix(channel).and_then(|rest| rest.strip_prefix('.'));
        if number.and_then(|rest| rest.strip_suffix(".journal")).is_none_or(|it| it.contains('.')) {
            continue;
        }
        let Some(mut file) = hold(&path, false)? else { continue };
        let mut text = Vec::new();
        file.rewind()?;
        (&mut file).take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        let lines = text.split(|byte| *byte == b'\n');
        left.extend(lines.filter_map(|line| serde_json::from_slice::<OutcomeRequest>(line).ok()));
        files.push((path, file));
    }
    Ok((left, files))
}

#[cfg(test)]
mod tests;
