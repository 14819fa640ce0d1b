//! Writing into a Maildir. Everything here blocks and belongs on a disk thread.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use farm::fault;
use mail::{MessageId, Timestamp};

/// The mode of every directory that is made.
const DIRECTORY_MODE: u32 = 0o700;
/// The mode of a message's file.
const FILE_MODE: u32 = 0o600;

/// How many directories above a new Maildir are synced even if they are not new: another worker may have just made them.
const PARENTS_SYNCED_MIN: usize = 3;

/// Where one message for one recipient goes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The Maildir.
    pub(crate) maildir: PathBuf,
    /// The file's name in `new/`: the same whenever the same message is delivered to the same recipient.
    pub(crate) name: String,
}

impl Place {
    /// Names the file `TIME.ID_INDEX.HOST`, as Maildir wants it, with the time of acceptance.
    pub(crate) fn new(
        maildir: PathBuf,
        accepted_at: Timestamp,
        id: MessageId,
        index: u32,
        hostname: &str,
    ) -> Self {
        let host = hostname.replace('/', "\\057").replace(':', "\\072");
        let name = format!("{}.{id}_{index}.{host}", accepted_at.millis() / 1000);
        Self { maildir, name }
    }
}

/// A file in `tmp/` that is being written. Dropping it removes it.
pub(crate) struct Writing {
    file: File,
    waiting: Waiting,
}

/// A file in `tmp/` that is whole and synced. Dropping it removes it, also once it stands in `new/`.
#[derive(Debug)]
pub(crate) struct Waiting {
    place: Place,
    path: PathBuf,
}

/// Whether a file was put into `new/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// It was.
    Now,
    /// An earlier job of the same message and recipient had done it.
    Before,
}

impl Writing {
    /// Opens a file in `tmp/`, making the Maildir and the directories above it if they are not there.
    pub(crate) fn create(place: Place) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        // A job that is repeated while its first run still writes must have a file of its own.
        let name = format!("{}.{}_{count}", place.name, std::process::id());
        let path = place.maildir.join("tmp").join(name);
        let open = || OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_maildir(&place.maildir)?;
                open()?
            }
            other => other?,
        };
        Ok(Self { file, waiting: Waiting { place, path } })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        fault::fallible("local.write.before")?;
        self.file.write_all(bytes)
    }

    /// Makes the file durable. What it is called does not matter yet.
    pub(crate) fn sync(self) -> io::Result<Waiting> {
        fault::fallible("local.sync.before")?;
        self.file.sync_data()?;
        Ok(self.waiting)
    }
}

impl Waiting {
    /// The directory in which it will appear.
    pub(crate) fn directory(&self) -> PathBuf {
        self.place.maildir.join("new")
    }

    /// Puts the file into `new/`, unless it stands there already or was taken to `cur/` unread or merely seen. The directory is not synced yet.
    pub(crate) fn publish(&self) -> io::Result<Published> {
        let name = &self.place.name;
        for flags in ["", "S"] {
            if self.place.maildir.join(format!("cur/{name}:2,{flags}")).try_exists()? {
                return Ok(Published::Before);
            }
        }
        let target = self.directory().join(name);
        match std::fs::hard_link(&self.path, &target) {
            Ok(()) => Ok(Published::Now),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Published::Before),
            // Some file systems have no links. There the name is looked for first, which leaves a repeated job a gap to
            // replace the file by its like.
            Err(error) if may_lack_links(&error) => match target.try_exists()? {
                true => Ok(Published::Before),
                false => std::fs::rename(&self.path, &target).map(|()| Published::Now),
            },
            Err(error) => Err(error),
        }
    }

    /// Takes back what [`Waiting::publish`] did, as far as that can be.
    pub(crate) fn withdraw(&self) {
        let _ = std::fs::remove_file(self.directory().join(&self.place.name));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // What stays behind in `tmp/` is removed by any reader of Maildirs after 36 hours.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn may_lack_links(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported)
}

/// Syncs the entries of a directory.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a Maildir, durably, with its three directories and all above it.
///
/// Others may be making it at the same time, or one may have died while making it. `tmp` comes last, when all else is
/// durable: whoever finds it there may rely on the rest.
fn make_maildir(maildir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = maildir
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && matches!(path.try_exists(), Ok(false)))
        .collect();
    for path in missing.iter().rev() {
        make_directory(path)?;
    }
    for name in ["new", "cur"] {
        make_directory(&maildir.join(name))?;
    }
    for path in maildir.ancestors().take(1 + missing.len().max(PARENTS_SYNCED_MIN)) {
        match sync_directory(path) {
            // What we may not even read was not made by us.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => break,
            other => other?,
        }
    }
    make_directory(&maildir.join("tmp"))
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
