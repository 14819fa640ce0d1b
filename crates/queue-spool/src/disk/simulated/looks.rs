//! Looks at a simulated disk that no process could take: what a power cut would leave for certain, and what has been removed.

use std::path::{Path, PathBuf};

use super::{Node, SimulatedDisk};

/// As whom a look is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// Whatever processes see: what stays when they are killed.
    Process,
    /// What is synced: what stays when the power goes.
    Disk,
}

impl SimulatedDisk {
    /// Whether these bytes of a file, its size and its name are synced, and are those that processes see.
    pub fn is_durable(&self, path: &Path, offset: u64, length: u64) -> bool {
        let state = self.state();
        let Some(Node::File(file)) = state.names.get(path).copied() else { return false };
        if state.durable.get(path) != Some(&Node::File(file)) {
            return false;
        }
        let Some(content) = state.files.get(&file) else { return false };
        let range = offset as usize..(offset + length) as usize;
        let durable = content.durable.get(range.clone());
        durable.is_some() && durable == content.cached.get(range)
    }

    /// Whether some file in a directory holds these bytes.
    pub fn holds(&self, dir: &Path, bytes: &[u8], seen: As) -> bool {
        let state = self.state();
        let names = if seen == As::Process { &state.names } else { &state.durable };
        let files = names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let mut contents = files.filter_map(|(_, node)| match node {
            Node::File(file) => state.files.get(file),
            Node::Dir => None,
        });
        contents.any(|content| {
            let held = if seen == As::Process { &content.cached } else { &content.durable };
            memmem(held, bytes)
        })
    }

    /// Whether a file has this name, as processes see it.
    pub fn has(&self, path: &Path) -> bool {
        self.state().names.contains_key(path)
    }

    /// The names of all files below a directory.
    pub fn names_below(&self, dir: &Path) -> Vec<PathBuf> {
        let state = self.state();
        let files = state.names.iter().filter(|(_, node)| **node != Node::Dir);
        files.map(|(path, _)| path).filter(|path| path.starts_with(dir)).cloned().collect()
    }

    /// Forgets the failures that were still to come, and that there was only so much room.
    pub fn forget_faults(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.capacity = u64::MAX;
    }

    /// The names that were removed since this was last asked.
    pub fn take_unlinked(&self) -> Vec<PathBuf> {
        std::mem::take(&mut self.state().unlinked)
    }
}

/// Whether `within` holds `bytes`, which begin with a byte that is rare in it.
fn memmem(within: &[u8], bytes: &[u8]) -> bool {
    let Some(first) = bytes.first() else { return true };
    let mut rest = within;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        let Some(behind) = rest.get(at..) else { return false };
        if behind.starts_with(bytes) {
            return true;
        }
        rest = behind.get(1..).unwrap_or_default();
    }
    false
}
