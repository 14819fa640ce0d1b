//! File systems of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};

use crate::{is_root, run, until};

/// A file system in memory, mounted for as long as this lives.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts one with these options. Only root can.
    pub fn tmpfs(path: PathBuf, options: &str) -> Self {
        assert!(is_root(), "mounting needs root: run cargo xtask test as root");
        std::fs::create_dir_all(&path).expect("a mount point");
        let output =
            run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(path)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Bytes that are free for anybody.
    pub fn free_bytes(&self) -> u64 {
        let figures = rustix::fs::statvfs(&self.0).expect("it is mounted");
        figures.f_bavail * figures.f_frsize
    }

    /// Fills it up to so many free bytes, with a file of that name.
    pub fn fill(&self, name: &str, leave_bytes: u64) -> PathBuf {
        let path = self.0.join(name);
        let file = std::fs::File::create(&path).expect("a file of our own");
        // Others may take room meanwhile.
        until(&format!("{leave_bytes} bytes are left"), || {
            let bytes = self.free_bytes().saturating_sub(leave_bytes);
            let end = file.metadata().expect("our own file").len();
            let done = bytes == 0 || fallocate(&file, FallocateFlags::empty(), end, bytes).is_ok();
            done.then_some(())
        });
        path
    }

    /// Changes its options.
    pub fn remount(&self, options: &str) -> bool {
        let options = format!("remount,{options}");
        run(Command::new("mount").args(["-o", &options]).arg(&self.0)).status.success()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Something may still be looking at it.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}
