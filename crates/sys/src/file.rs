//! What a store needs of files beyond the standard library: reads that do not wait, room, syncs, locks.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::{Errno, ReadWriteFlags};

/// How a file is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Together with other holders of shared locks.
    Shared,
    /// Alone.
    Exclusive,
}

/// Reads at `offset` only what the page cache has: `None` when the read would wait for the disk or the file system cannot
/// say so, `Some(0)` at the end of the file. A short read may also mean that the rest is not in the cache.
pub fn read_nowait(fd: impl AsFd, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    loop {
        let mut slices = [IoSliceMut::new(buf)];
        match rustix::io::preadv2(fd.as_fd(), &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(length) => return Ok(Some(length)),
            Err(Errno::AGAIN | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reserves room for `length` bytes at `offset`, so that writing them cannot fail for want of space; the file becomes as
/// long as that.
pub fn fallocate(fd: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    allocate(fd, FallocateFlags::empty(), offset, length)
}

/// Reserves room as [`fallocate`] does, and leaves the file's length as it is.
pub fn fallocate_keep_size(fd: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    allocate(fd, FallocateFlags::KEEP_SIZE, offset, length)
}

fn allocate(fd: impl AsFd, flags: FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| rustix::fs::fallocate(fd.as_fd(), flags, offset, length))?)
}

/// Syncs a file's data, and of its metadata what is needed to read it. Never repeated when it fails: after a failed sync
/// the kernel may have dropped what it could not write.
pub fn fdatasync(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(fd)?)
}

/// Syncs a directory, so that names made or removed in it survive a power cut.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Locks an open file if that needs no waiting, and says whether it did. The lock is the open file's: it ends when the last
/// descriptor of it is closed, so open it close-on-exec (the standard library does). Changing a held lock's kind is not atomic.
pub fn flock(fd: impl AsFd, lock: Lock) -> io::Result<bool> {
    let operation = match lock {
        Lock::Shared => FlockOperation::NonBlockingLockShared,
        Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::io::retry_on_intr(|| rustix::fs::flock(fd.as_fd(), operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives up a lock before its file is closed.
pub fn unlock(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::flock(fd, FlockOperation::Unlock)?)
}

#[cfg(test)]
mod tests;
