//! A table in a file, read again when the file changes.
//!
//! ```text
//! unread ──refresh, good──▶ good ──refresh, same file──▶ good
//!    ▲ └─bad─▶ unread        │ ▲ └─changed, bad─▶ good (last content), told once
//!                            └─┘ changed, good
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::text::{canonical, parse};
use crate::{Content, Entry, Kind, Refreshed, Table, TableError, Unavailable};

/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// A table in a file. See [`parse`] for what may stand in it.
#[derive(Debug)]
pub struct FileTable {
    name: String,
    path: PathBuf,
    kind: Kind,
    /// What answers come from; the lock is held for no longer than a clone.
    content: Mutex<Option<Arc<Content>>>,
    /// What was last seen of the file; held while it is read, so that two threads do not read it at once.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    stamp: Option<Stamp>,
    /// What was last told of a failure: it is told once.
    failure: Option<String>,
}

/// What changes when a file is written to or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileTable {
    /// A table in a file that is not read yet.
    pub fn new(path: PathBuf, kind: Kind) -> Self {
        let name = format!("file:{}", path.display());
        Self { name, path, kind, content: Mutex::default(), seen: Mutex::default() }
    }

    fn current(&self) -> Option<Arc<Content>> {
        lock(&self.content).clone()
    }

    fn read(&self) -> Result<(Stamp, Content), TableError> {
        let (stamp, bytes) = read_file(&self.path).map_err(|error| TableError::Unreadable {
            path: self.path.clone(),
            source: Arc::new(error),
        })?;
        let malformed = |(line, wrong): (usize, String)| TableError::Malformed {
            place: format!("{}:{line}", self.path.display()),
            wrong,
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            malformed((line, "not UTF-8".to_owned()))
        })?;
        let content = parse(text, self.kind).map_err(malformed)?;
        Ok((stamp, content))
    }
}

impl Table for FileTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn lookup(&self, key: &str) -> Result<Option<Arc<Entry>>, Unavailable> {
        let Some(content) = self.current() else {
            return Err(Unavailable(self.name.clone()));
        };
        Ok(match content.entries.get(key) {
            Some(entry) => Some(Arc::clone(entry)),
            None => content.entries.get(&canonical(key)).cloned(),
        })
    }

    fn may_name(&self, domain: &str) -> bool {
        self.current().is_none_or(|content| content.domains.contains(domain))
    }

    fn refresh(&self) -> Refreshed {
        let mut seen = lock(&self.seen);
        let stamp = std::fs::metadata(&self.path).ok().map(|metadata| Stamp::of(&metadata));
        if stamp.is_some() && stamp == seen.stamp {
            return Refreshed::Unchanged;
        }
        match self.read() {
            Ok((stamp, content)) => {
                seen.stamp = Some(stamp);
                seen.failure = None;
                let entries = content.entries.len();
                let place = |(line, text): &(usize, String)| {
                    format!("{}:{line}: {text}", self.path.display())
                };
                let warnings = content.warnings.iter().map(place).collect();
                *lock(&self.content) = Some(Arc::new(content));
                Refreshed::Read { entries, warnings }
            }
            Err(error) => {
                // A malformed file is looked at again when it changes; one that cannot be read, every time.
                seen.stamp = match error {
                    TableError::Malformed { .. } => stamp,
                    TableError::Source(_) | TableError::Unreadable { .. } => None,
                };
                let text = error.to_string();
                if seen.failure.as_ref() == Some(&text) {
                    return Refreshed::Unchanged;
                }
                seen.failure = Some(text);
                Refreshed::Failed(error)
            }
        }
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Reads a whole file. The stamp is from before the reading: a change meanwhile is seen at the next look.
fn read_file(path: &Path) -> io::Result<(Stamp, Vec<u8>)> {
    // A pipe would make us wait at the opening, for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "over 256 MiB"));
    }
    Ok((stamp, bytes))
}

/// A panic while a lock is held cannot leave half a value: each is replaced in one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
