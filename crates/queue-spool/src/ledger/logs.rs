//! Making logs: the next one is always preallocated, so that a full disk cannot stop outcomes from being written.

use std::sync::Arc;

use queue::LedgerError;

use crate::codec::{FileHead, FileKind, HEAD_BYTES, Nonce};
use crate::disk::{Access, Disk, DiskFile};
use crate::ledger::log::failed;
use crate::place::Layout;
use crate::thread::Now;

/// Where new logs come from.
pub(crate) struct Logs {
    disk: Arc<dyn Disk>,
    layout: Layout,
    log_bytes: u64,
    spare: Option<(u64, Arc<dyn DiskFile>)>,
    next: u64,
}

/// The log behind which another begins.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Previous {
    /// Its number; 0 when there is none.
    pub(crate) sequence: u64,
    /// Up to where it has been synced.
    pub(crate) synced: u64,
}

/// The log that is being written.
pub(crate) struct Current {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) nonce: Nonce,
    /// Where the next frame goes.
    pub(crate) end: u64,
    /// Up to where it has been synced.
    pub(crate) synced: u64,
    /// Up to where room has been made.
    pub(crate) allocated: u64,
}

impl Logs {
    /// Keeps one of the `unused` logs that were found: on a full disk it could not be made anew. Removes the others.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        layout: Layout,
        log_bytes: u64,
        next: u64,
        unused: Vec<u64>,
    ) -> Self {
        let mut logs = Self { disk, layout, log_bytes, spare: None, next };
        // Only the one that nothing was begun behind keeps the order of the numbers.
        for sequence in unused {
            let path = logs.layout.log(sequence);
            match logs.disk.open(&path, Access::Write) {
                Ok(file) if sequence + 1 == next => logs.spare = Some((sequence, Arc::from(file))),
                _ => drop(logs.disk.unlink(&path)),
            }
        }
        logs
    }

    /// Begins the spare log, or a new one, behind another: its head is synced.
    pub(crate) fn begin(&mut self, now: Now, previous: Previous) -> Result<Current, LedgerError> {
        self.make_spare()?;
        let (sequence, file) = self.spare.take().expect("a spare was made");
        let path = self.layout.log(sequence);
        let begun = self.disk.nonce().and_then(|nonce| {
            let head = FileHead {
                kind: FileKind::Log,
                nonce,
                number: sequence,
                created_at: now.wall,
                previous_number: u32::try_from(previous.sequence).unwrap_or(u32::MAX),
                previous_synced: previous.synced,
            };
            file.write_at(&head.encode(), 0)?;
            file.sync()?;
            Ok((nonce, file.size()?))
        });
        match begun {
            Ok((nonce, allocated)) => {
                let end = HEAD_BYTES as u64;
                Ok(Current { sequence, file, nonce, end, synced: end, allocated })
            }
            Err(error) => {
                // It holds no record; recovery takes it for unused when it cannot be removed.
                let _ = self.disk.unlink(&path);
                Err(failed(&path, error))
            }
        }
    }

    /// Sees to it that there is a spare log.
    pub(crate) fn make_spare(&mut self) -> Result<(), LedgerError> {
        if self.spare.is_some() {
            return Ok(());
        }
        let sequence = self.next;
        self.next += 1;
        let path = self.layout.log(sequence);
        let made = self.disk.create(&path).and_then(|file| {
            file.preallocate(self.log_bytes)?;
            file.sync()?;
            self.disk.sync_dir(&self.layout.ledger())?;
            Ok(Arc::from(file))
        });
        match made {
            Ok(file) => {
                self.spare = Some((sequence, file));
                Ok(())
            }
            Err(error) => {
                let _ = self.disk.unlink(&path);
                Err(failed(&path, error))
            }
        }
    }
}
