//! Memory shared between processes: sealed texts, and files of atomics.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// The most that [`read_memfd`] reads: 64 MiB, far over any farm's settings.
pub const MEMFD_BYTES_MAX: u64 = 64 << 20;

/// Makes a memory file that holds `content` for ever: it can be neither written, grown nor shrunk by anybody.
pub fn sealed_memfd(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(file.into())
}

/// Reads a whole memory file from its beginning, wherever its position stands. One that is not sealed is refused.
pub fn read_memfd(fd: impl AsFd) -> io::Result<Vec<u8>> {
    let seals = rustix::fs::fcntl_get_seals(fd.as_fd())?;
    if !seals.contains(SealFlags::WRITE) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the memory file is not sealed"));
    }
    let file = File::from(fd.as_fd().try_clone_to_owned()?);
    let length = file.metadata()?.len();
    if length > MEMFD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the memory file is too long"));
    }
    // A position belongs to the open file, which other processes may be reading too.
    let mut content = vec![0; length as usize];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

/// Gives back what this process has touched so far of its program, text and constants; what is needed again is mapped again from
/// the file.
///
/// For a process that has done a lot to begin and will do little from now on: its resident memory then is what its loop
/// uses. Only mappings of a file that cannot be written and of which no page was ever changed, here or in swap, are given back, so
/// that nothing can be lost. Call it while there is one thread.
pub fn give_back_text() -> io::Result<()> {
    let mut mapping = None;
    for line in std::fs::read_to_string("/proc/self/smaps")?.lines() {
        let mut fields = line.split_ascii_whitespace();
        match (fields.next(), fields.next()) {
            // Each mapping's pages that are no longer the file's are told behind it: resident ones first.
            (Some("Anonymous:"), Some(changed)) if changed != "0" => mapping = None,
            (Some("Swap:"), Some("0")) => {
                if let Some((start, end)) = mapping.take() {
                    give_back(start, end)?;
                }
            }
            (Some(range), Some("r-xp" | "r--p")) => {
                let of_a_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
                mapping = range.split_once('-').filter(|_| of_a_file).and_then(|(start, end)| {
                    let parse = |number: &str| usize::from_str_radix(number, 16).ok();
                    Some((parse(start)?, parse(end)?))
                });
            }
            (Some(first), _) if first.contains('-') => mapping = None,
            _ => {}
        }
    }
    Ok(())
}

fn give_back(start: usize, end: usize) -> io::Result<()> {
    let pages = std::ptr::with_exposed_provenance_mut(start);
    let length = end.saturating_sub(start);
    // SAFETY: the range is a private mapping of a file that is not writable and of which no page differs from the file, as the
    // kernel just said; this process never unmaps or changes its program: its pages come back from the file when touched.
    unsafe { Ok(rustix::mm::madvise(pages, length, rustix::mm::Advice::LinuxDontNeed)?) }
}

/// A file mapped shared and writable, of which only atomics are ever handed out.
///
/// The file must keep its length as long as it is mapped: touching a page past the end is a bus error. Room is best
/// reserved with [`crate::fallocate`], for the same reason.
#[derive(Debug)]
pub struct SharedMap {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the map is only reachable through references to atomics, which any thread may use; it is unmapped only on drop.
unsafe impl Send for SharedMap {}
// SAFETY: as above.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Maps the first `length` bytes of a file; fails if the file is shorter.
    pub fn new(file: &File, length: usize) -> io::Result<Self> {
        if length == 0 || file.metadata()?.len() < length as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the file is shorter than its map",
            ));
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        let start = NonNull::new(start.cast::<u8>())
            .ok_or_else(|| io::Error::other("the kernel mapped at address zero"))?;
        Ok(Self { start, length })
    }

    /// The map's length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no byte; never so.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The 64-bit atomic at `offset`, which must be a multiple of 8 within the map.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        let pointer = self.checked(offset, size_of::<u64>());
        // SAFETY: `checked` has shown that the bytes lie in the map and are aligned; the map lives as long as `self`, and all
        // access to it, here and in other processes, is atomic.
        unsafe { AtomicU64::from_ptr(pointer.cast()) }
    }

    /// The 32-bit atomic at `offset`, which must be a multiple of 4 within the map.
    pub fn half(&self, offset: usize) -> &AtomicU32 {
        let pointer = self.checked(offset, size_of::<u32>());
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(pointer.cast()) }
    }

    /// The 16-bit atomic at `offset`, which must be a multiple of 2 within the map.
    pub fn quarter(&self, offset: usize) -> &AtomicU16 {
        let pointer = self.checked(offset, size_of::<u16>());
        // SAFETY: as in `word`.
        unsafe { AtomicU16::from_ptr(pointer.cast()) }
    }

    fn checked(&self, offset: usize, size: usize) -> *mut u8 {
        let fits = offset.checked_add(size).is_some_and(|end| end <= self.length);
        assert!(fits && offset.is_multiple_of(size), "an atomic lies aligned within its map");
        // SAFETY: `offset` was just shown to lie within the map.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and no reference into it outlives `self`. Failure would only leave it mapped.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests;
