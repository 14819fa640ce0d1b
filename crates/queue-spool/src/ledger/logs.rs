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
    /// What a checkpoint takes, as far as the last one shows.
    checkpoint_bytes: u64,
    spare: Option<Spare>,
    next: u64,
}

/// A log that holds nothing yet, with room for a checkpoint.
struct Spare {
    sequence: u64,
    file: Arc<dyn DiskFile>,
    /// Up to where room has been made.
    allocated: u64,
}

/// Whether a log without room made for it will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// It will not.
    Needed,
    /// On a full disk it will: better a ledger that may stop than one that cannot be opened.
    Wished,
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
    /// Where more room is asked for again after it could not be made.
    pub(crate) grow_again_at: u64,
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
        let mut logs = Self { disk, layout, log_bytes, checkpoint_bytes: 0, spare: None, next };
        // Only the one that nothing was begun behind keeps the order of the numbers.
        for sequence in unused {
            let path = logs.layout.log(sequence);
            match logs.disk.open(&path, Access::Write) {
                Ok(file) if sequence.checked_add(1) == Some(next) => {
                    let allocated = file.size().unwrap_or(0);
                    logs.spare = Some(Spare { sequence, file: Arc::from(file), allocated });
                }
                _ => drop(logs.disk.unlink(&path)),
            }
        }
        logs
    }

    /// Begins the spare log, or a new one, behind another: its head is synced.
    pub(crate) fn begin(
        &mut self,
        now: Now,
        previous: Previous,
        room: Room,
    ) -> Result<Current, LedgerError> {
        let spare = match self.spare.take() {
            Some(spare) => spare,
            None => self.make(room)?,
        };
        let Spare { sequence, file, .. } = spare;
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
                let grow_again_at = 0;
                Ok(Current { sequence, file, nonce, end, synced: end, allocated, grow_again_at })
            }
            Err(error) => {
                // It holds no record; recovery takes it for unused when it cannot be removed.
                let _ = self.disk.unlink(&path);
                Err(failed(&path, error))
            }
        }
    }

    /// Takes note of what a checkpoint took: the next may take as much.
    pub(crate) fn expect(&mut self, checkpoint_bytes: u64) {
        self.checkpoint_bytes = checkpoint_bytes;
    }

    /// Whether there is a spare log with room for a checkpoint.
    pub(crate) fn has_spare(&self) -> bool {
        self.spare.as_ref().is_some_and(|spare| spare.allocated >= self.spare_bytes())
    }

    fn spare_bytes(&self) -> u64 {
        self.checkpoint_bytes.saturating_add(self.log_bytes)
    }

    /// Sees to it that there is a spare log, with room for a checkpoint.
    pub(crate) fn make_spare(&mut self) -> Result<(), LedgerError> {
        let target = self.spare_bytes();
        match &mut self.spare {
            None => self.spare = Some(self.make(Room::Needed)?),
            Some(spare) if spare.allocated < target => {
                let grown = spare.file.preallocate(target).and_then(|()| spare.file.sync());
                grown.map_err(|error| failed(&self.layout.log(spare.sequence), error))?;
                spare.allocated = target;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Removes a log that was begun and holds nothing that counts. Says whether it is gone.
    pub(crate) fn remove(&self, sequence: u64) -> bool {
        let path = self.layout.log(sequence);
        let removed = self.disk.unlink(&path);
        removed
            .inspect_err(|error| {
                tracing::warn!(file = %path.display(), %error, "cannot remove a log");
            })
            .is_ok()
    }

    fn make(&mut self, room: Room) -> Result<Spare, LedgerError> {
        let (sequence, target) = (self.next, self.spare_bytes());
        self.next += 1;
        let path = self.layout.log(sequence);
        let made = self.disk.create(&path).and_then(|file| {
            let allocated = match file.preallocate(target) {
                Err(error) if room == Room::Wished => {
                    tracing::warn!(%error, "the ledger goes on without room made for it");
                    file.size()?
                }
                done => done.map(|()| target)?,
            };
            file.sync()?;
            self.disk.sync_dir(&self.layout.ledger())?;
            Ok(Spare { sequence, file: Arc::from(file), allocated })
        });
        match made {
            Ok(spare) => Ok(spare),
            Err(error) => {
                let _ = self.disk.unlink(&path);
                Err(failed(&path, error))
            }
        }
    }
}
