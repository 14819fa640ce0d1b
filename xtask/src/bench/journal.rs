//! A file system of our own for the queues: ext4 with a journal, in an image on a loop device, for `--journal`.
//!
//! Some machines' disks have no journal, or a host below that syncs for them, and a sync is unusually cheap there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;
use crate::process::{find, succeeds};

/// Bytes of the image; it is sparse.
const SIZE: u64 = 16 << 30;

/// A mounted image.
pub(super) struct Journal {
    image: PathBuf,
    folder: PathBuf,
}

impl Journal {
    /// Makes the image beside `folder` and mounts it there.
    pub(super) fn mount(folder: &Path) -> Result<Self, Failure> {
        let image = folder.with_extension("image");
        std::fs::create_dir_all(folder)?;
        std::fs::File::create(&image)?.set_len(SIZE)?;
        let mkfs = find("mkfs.ext4").ok_or("mkfs.ext4 is not installed (Debian's e2fsprogs)")?;
        // Without lazy initialisation nothing writes beside what is measured.
        let options =
            ["-q", "-F", "-O", "has_journal", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        let journal = Self { image, folder: folder.to_owned() };
        if !succeeds(Command::new(mkfs).args(options).arg(&journal.image))? {
            return Err("mkfs.ext4 failed".into());
        }
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&journal.image).arg(folder);
        if !succeeds(&mut mount)? {
            return Err(
                "the image cannot be mounted; --journal needs root and a loop device".into()
            );
        }
        Ok(journal)
    }

    /// Unmounts it; the image goes too unless it is to be looked at.
    pub(super) fn unmount(self, forget: bool) -> Result<(), Failure> {
        let mut tries = 50;
        // Those that had files open may still be ending.
        while !Command::new("umount").arg(&self.folder).status()?.success() {
            tries -= 1;
            if tries == 0 {
                return Err(format!("{} cannot be unmounted", self.folder.display()).into());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        if forget {
            std::fs::remove_file(&self.image)?;
        } else {
            eprintln!("xtask: they are in {}, a file system", self.image.display());
        }
        Ok(())
    }
}
