//! The disk of this machine, of which all is in the page cache: reads never turn to another thread, whatever the file system.
//!
//! What the kernel does is not counted, and what the spool does around it is the same on any disk.

use std::io;
use std::path::Path;

use queue_spool::codec::Nonce;
use queue_spool::disk::{Access, Disk, DiskFile, Held, Lock, RealDisk};

/// The disk.
pub(crate) struct CachedDisk;

struct CachedFile(Box<dyn DiskFile>);

fn cached(file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
    Box::new(CachedFile(file))
}

impl Disk for CachedDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.make_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.create(path).map(cached)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path, access).map(cached)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        RealDisk.unlink(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn lock(&self, path: &Path, lock: Lock) -> io::Result<Option<Box<dyn Held>>> {
        RealDisk.lock(path, lock)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(dir)
    }

    fn nonce(&self) -> io::Result<Nonce> {
        Ok(Nonce([7; 16]))
    }
}

impl DiskFile for CachedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn read_now(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    /// Nothing is to outlive the program.
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.0.preallocate(bytes)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.0.cut(bytes)
    }
}
