//! The file system of this machine, failing where a test wants it to: fault points around every operation that is to last.
//!
//! A point is `KIND.OPERATION.before` or `….after`; KIND is what the file is for (`segment`, `body`, `moved`, `ledger`, else
//! the file's name), and for a directory its role (`stripe`, `ledger`, `spool`). Before the operation it may also fail; of a write
//! that fails, half has been written.

use std::io;
use std::path::Path;

use sys::fault::{fallible, point};

use super::{Access, Disk, DiskFile, Held, Lock, RealDisk};
use crate::codec::Nonce;
use crate::place::{StripeFile, log_of, stripe_file_of};

/// [`RealDisk`] with fault points.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FaultyDisk;

/// One operation between its two points.
fn between<T>(kind: &str, operation: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    fallible(format_args!("{kind}.{operation}.before"))?;
    let done = work()?;
    point(format_args!("{kind}.{operation}.after"));
    Ok(done)
}

fn kind_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match stripe_file_of(&name) {
        _ if log_of(&name).is_some() => "ledger".to_owned(),
        StripeFile::Segment(_) => "segment".to_owned(),
        StripeFile::Body(_) => "body".to_owned(),
        StripeFile::Moved(..) => "moved".to_owned(),
        // What is written aside first has a nonce behind its name.
        StripeFile::Other => name.split('.').next().unwrap_or_default().to_owned(),
    }
}

fn kind_of_dir(path: &Path) -> String {
    let parent = path.parent().and_then(Path::file_name);
    match parent.is_some_and(|parent| parent == "intake") {
        true => "stripe".to_owned(),
        false => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

impl Disk for FaultyDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        between(&kind_of_dir(path), "make_dir", || RealDisk.make_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        between(&kind_of_dir(dir), "list", || RealDisk.list(dir))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let kind = kind_of(path);
        let file = between(&kind, "create", || RealDisk.create(path))?;
        Ok(Box::new(FaultyFile { file, kind }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let kind = kind_of(path);
        let file = between(&kind, "open", || RealDisk.open(path, access))?;
        Ok(Box::new(FaultyFile { file, kind }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        between(&kind_of(to), "rename", || RealDisk.rename(from, to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        between(&kind_of(path), "unlink", || RealDisk.unlink(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        between(&kind_of_dir(dir), "sync_dir", || RealDisk.sync_dir(dir))
    }

    fn lock(&self, path: &Path, lock: Lock) -> io::Result<Option<Box<dyn Held>>> {
        RealDisk.lock(path, lock)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(dir)
    }

    fn nonce(&self) -> io::Result<Nonce> {
        RealDisk.nonce()
    }
}

struct FaultyFile {
    file: Box<dyn DiskFile>,
    kind: String,
}

impl DiskFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = fallible(format_args!("{}.write.before", self.kind)) {
            let (half, _) = bytes.split_at(bytes.len() / 2);
            self.file.write_at(half, offset)?;
            return Err(error);
        }
        self.file.write_at(bytes, offset)?;
        point(format_args!("{}.write.after", self.kind));
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        fallible(format_args!("{}.read.before", self.kind))?;
        self.file.read_at(bytes, offset)
    }

    fn read_now(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        fallible(format_args!("{}.read.before", self.kind))?;
        self.file.read_now(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        between(&self.kind, "sync", || self.file.sync())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        between(&self.kind, "preallocate", || self.file.preallocate(bytes))
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        between(&self.kind, "cut", || self.file.cut(bytes))
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.data_from(offset)
    }
}
