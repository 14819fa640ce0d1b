//! The file system of this machine.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, IoSliceMut, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::rand::GetRandomFlags;

use crate::codec::Nonce;
use crate::disk::{Access, Disk, DiskFile, Held, Lock, RANDOM_BYTES};

/// Files may be read by the group that may read the spool.
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;
/// How much is written at once where the file system cannot preallocate.
const ZEROS_BYTES: usize = 1 << 20;

fn no_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is no ordinary file")
}

/// The file system of this machine, by ordinary system calls. Files are close-on-exec.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(DIR_MODE).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        // What somebody else put there may be a pipe, on which opening would wait.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let write = access == Access::Write;
        let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Err(no_file()),
            file => file?,
        };
        match file.metadata()?.is_file() {
            true => Ok(Box::new(RealFile(file))),
            false => Err(no_file()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path, lock: Lock) -> io::Result<Option<Box<dyn Held>>> {
        // Looking must not need the right to write, nor make a lock file where none is.
        let file = match lock {
            Lock::Shared => match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Some(Box::new(Unmade)));
                }
                opened => opened?,
            },
            Lock::Exclusive => OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(FILE_MODE)
                .open(path)?,
        };
        let taken = match lock {
            Lock::Exclusive => file.try_lock(),
            Lock::Shared => file.try_lock_shared(),
        };
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if lock == Lock::Exclusive {
            leave_process_id(&file)?;
        }
        Ok(Some(Box::new(RealLock { _file: file })))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let figures = rustix::fs::statvfs(dir)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }

    fn nonce(&self) -> io::Result<Nonce> {
        random().map(Nonce)
    }

    fn random(&self) -> io::Result<[u8; RANDOM_BYTES]> {
        random()
    }
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let count = rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())?;
    // The system gives up to 256 bytes whole once its pool has been filled.
    if count == bytes.len() { Ok(bytes) } else { Err(io::ErrorKind::Interrupted.into()) }
}

/// On a full disk the id is missing and the lock holds all the same.
fn leave_process_id(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    match writeln!(file, "{}", std::process::id()) {
        Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(error),
        _ => Ok(()),
    }
}

struct RealLock {
    _file: File,
}

impl Held for RealLock {}

/// The lock file is not there, so nobody holds it.
struct Unmade;

impl Held for Unmade {}

struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn read_now(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut pieces = [IoSliceMut::new(bytes)];
        match rustix::io::preadv2(&self.0, &mut pieces, offset, ReadWriteFlags::NOWAIT) {
            Ok(count) => Ok(count),
            // A file system that cannot promise not to wait is read on a disk thread.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(bytes),
            done => Ok(done?),
        }
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.0, SeekFrom::Data(offset)) {
            Ok(data) => Ok(Some(data)),
            Err(Errno::NXIO) => Ok(None),
            // A file system that does not tell: all of it is read.
            Err(_) => Ok(Some(offset)),
        }
    }
}

impl RealFile {
    /// Fills the file up to `bytes` from where it now ends.
    fn write_zeros(&self, bytes: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut offset = self.size()?;
        while offset < bytes {
            let length = (bytes - offset).min(ZEROS_BYTES as u64);
            let (piece, _) = zeros.split_at(usize::try_from(length).unwrap_or(ZEROS_BYTES));
            self.0.write_all_at(piece, offset)?;
            offset += length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_preallocated_and_not_written_need_not_be_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = RealDisk.create(&dir.path().join("file")).expect("a file");
        file.preallocate(8 << 20).expect("room");
        file.write_at(&[1; 100], 4 << 20).expect("written");
        // Not every file system tells; what one that does not tell says is true as well.
        let first = file.data_from(4096).expect("it can be asked").expect("something is there");
        assert!((4096..=4 << 20).contains(&first), "{first}");
        let last = file.data_from(6 << 20).expect("it can be asked");
        assert!(last.is_none_or(|at| at >= 6 << 20), "{last:?}");
        assert_eq!(file.data_from(9 << 20).expect("it can be asked").unwrap_or(9 << 20), 9 << 20);
    }
}
