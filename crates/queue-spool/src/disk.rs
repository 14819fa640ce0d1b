//! The file system as the spool uses it: one small synchronous border, real or simulated.
//!
//! Everything that the spool does to a disk goes through [`Disk`] and [`DiskFile`]; nothing else in this crate touches a
//! path. A simulation implements the two and decides what a crash leaves behind. Touches: files. Never: a clock, a socket.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::codec::Nonce;

#[cfg(feature = "faults")]
mod faulty;
mod real;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;

pub use real::RealDisk;

/// The disk of this machine.
#[cfg(not(feature = "faults"))]
pub(crate) fn of_this_machine() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

/// The disk of this machine, failing where a test wants it to.
#[cfg(feature = "faults")]
pub(crate) fn of_this_machine() -> Arc<dyn Disk> {
    Arc::new(faulty::FaultyDisk)
}

/// How much [`Disk::random`] gives: what the system gives whole in one call.
pub const RANDOM_BYTES: usize = 256;

/// A file system. Every call may block; none is made on a runtime's thread except while opening a store.
pub trait Disk: Send + Sync {
    /// Makes a directory; one that is there already is no error. Durable after [`Disk::sync_dir`] of its parent.
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in no order. Names that are not UTF-8 are left out: none of ours is.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a file for reading and writing; one that is there already is an error. Durable after [`Disk::sync_dir`].
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file that is there.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file over another, in one step. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name; who has it open may read on.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes a lock on a file, which is created if need be, and holds it until the answer is dropped or the process ends.
    ///
    /// Nothing when another holder excludes it. Never waits. An exclusive holder's process id is left in the file.
    fn lock(&self, path: &Path, lock: Lock) -> io::Result<Option<Box<dyn Held>>>;

    /// Bytes that an unprivileged writer may still use in the file system of this directory.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// 128 random bits for a new file.
    fn nonce(&self) -> io::Result<Nonce>;

    /// Many random bits at once, for message ids.
    fn random(&self) -> io::Result<[u8; RANDOM_BYTES]> {
        let mut bytes = [0; RANDOM_BYTES];
        let (pieces, _) = bytes.as_chunks_mut::<16>();
        for piece in pieces {
            *piece = self.nonce()?.0;
        }
        Ok(bytes)
    }
}

/// An open file. Positions are absolute; there is no current position.
pub trait DiskFile: Send + Sync {
    /// Writes all of `bytes` at `offset`, or fails; after a failure any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Reads until `bytes` is full or the file ends, and says how much was read.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads only what needs no waiting: [`io::ErrorKind::WouldBlock`] when it does. May read less than there is.
    fn read_now(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Makes everything written so far durable, with the size needed to read it back.
    ///
    /// A failure is final: what was written since the last success may be lost, and calling again proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// The size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Makes room up to `bytes`, filled with zeros, so that writing there cannot fail for lack of space.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;

    /// Ends the file at `bytes`, which is no more than its size. Durable after [`DiskFile::sync`], at the latest.
    fn cut(&self, bytes: u64) -> io::Result<()>;

    /// Where, from `offset` on, something may stand that is not zero; nothing if all is zero to the end. What lies before need not be
    /// read. A disk that does not know says `offset`.
    fn data_from(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }
}

/// A lock; dropping it lets go.
pub trait Held: Send {}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// How a lock excludes others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// One holder.
    Exclusive,
    /// Any number of holders, none of them exclusive: a look at whether someone writes.
    Shared,
}

/// The longest text file that [`read_text`] takes, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// Reads a short text file: `lock`.
pub(crate) fn read_text(disk: &dyn Disk, path: &Path) -> io::Result<String> {
    let file = disk.open(path, Access::Read)?;
    let mut bytes = vec![0; TEXT_BYTES_MAX];
    let length = file.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
