//! The ledger's files as they are found: which there are, where each ends, and from which one to replay.
//!
//! Replay begins at the newest log whose checkpoint is complete and goes through all later ones. Each log's head says up
//! to where the one before had been synced: damage before that point is an error; what lies behind is taken as far as it
//! is whole. In the last log, a torn end is expected.

use std::path::Path;
use std::sync::{Arc, Mutex};

use queue::{LedgerError, Record};

use crate::codec::{FileHead, FileKind, HEAD_BYTES};
use crate::disk::{Access, Disk, DiskFile};
use crate::ledger::frame::{FrameKind, Frames, gone_of, standing_of};
use crate::ledger::record::Decoder;
use crate::ledger::standing::{Ending, Mark, Standings};
use crate::place::{Layout, log_of};
use crate::thread::lock;

/// A log that holds frames.
pub(crate) struct Log {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) head: FileHead,
    /// Where its last valid frame ends.
    pub(crate) end: u64,
    /// Whether it begins with a checkpoint.
    begins_checkpoint: bool,
    /// The logs whose checkpoints end here.
    ends: Vec<u64>,
    /// Where its own checkpoint ends, if that ends here.
    checkpoint_end: Option<u64>,
    /// Up to where frames behind `end` say that it had been synced.
    synced_beyond: u64,
    /// Up to where its own frames say so: a sync that failed may have lost what lies behind, though the cache has it.
    synced: u64,
    /// Where the last frame ends that says anything.
    said: u64,
}

/// The ledger as it was found.
pub(crate) struct Found {
    /// The logs that follow each other, oldest first.
    pub(crate) logs: Vec<Log>,
    /// Where replay begins, as an index of `logs`.
    pub(crate) start: usize,
    /// Logs that say nothing of interest; to be removed with the old ones.
    pub(crate) aside: Vec<u64>,
    /// Preallocated logs that hold nothing.
    pub(crate) unused: Vec<u64>,
    /// The number that no log has had.
    pub(crate) next: u64,
    /// Whether all that is replayed is known to be durable, up to where the last log ends.
    pub(crate) certainty: Certainty,
}

/// Whether what was read may be in the cache alone, its sync having failed before the process died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// Every frame is followed by one that says it had been synced.
    Durable,
    /// Not every one: nothing may be given back for what they say until a checkpoint has synced.
    Unproven,
}

pub(crate) fn failed(what: &Path, error: std::io::Error) -> LedgerError {
    LedgerError::Io { context: what.display().to_string(), source: Arc::new(error) }
}

/// Reads every log and finds where to begin.
pub(crate) fn find(disk: &dyn Disk, layout: &Layout) -> Result<Found, LedgerError> {
    let dir = layout.ledger();
    let names = disk.list(&dir).map_err(|error| failed(&dir, error))?;
    let mut sequences: Vec<_> = names.iter().filter_map(|name| log_of(name)).collect();
    sequences.sort_unstable();
    let Some(next) = sequences.last().map_or(Some(1), |last| last.checked_add(1)) else {
        return Err(LedgerError::Damaged(format!("{} has no free number", dir.display())));
    };
    let (mut logs, mut unused) = (Vec::<Log>::new(), Vec::new());
    for sequence in sequences {
        match read(disk, &layout.log(sequence), sequence)? {
            Some(log) => logs.push(log),
            None => unused.push(sequence),
        }
    }
    let Chain { logs, aside, broken_at } = Chain::of(logs);
    let start = match logs.iter().rposition(|log| log.begins_complete_checkpoint(&logs)) {
        Some(start) => start,
        None => match broken_at {
            None => 0,
            Some(missing) => {
                let path = layout.log(missing);
                return Err(LedgerError::Damaged(format!("{} is missing", path.display())));
            }
        },
    };
    check_joints(logs.get(start..).unwrap_or_default(), layout)?;
    if let Some(last) = logs.last().filter(|last| last.synced_beyond > last.end) {
        return Err(damaged(&layout.log(last.sequence), last.end));
    }
    let certainty = certainty(logs.get(start..).unwrap_or_default());
    Ok(Found { logs, start, aside, unused, next, certainty })
}

/// How often the logs are listed anew when one that was listed is gone.
const LIST_TRIES: u32 = 4;

/// As [`find`], beside a living scheduler: a checkpoint may remove a log between its listing and its opening.
pub(crate) fn find_beside_writer(disk: &dyn Disk, layout: &Layout) -> Result<Found, LedgerError> {
    let mut tries = 1;
    loop {
        match find(disk, layout) {
            Err(LedgerError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && tries < LIST_TRIES =>
            {
                tries += 1;
            }
            found => return found,
        }
    }
}

/// The logs that follow each other up to the newest, by what their heads say of the one before.
struct Chain {
    logs: Vec<Log>,
    /// Those that no later one follows: begun in vain, or removed before a power cut brought them back.
    aside: Vec<u64>,
    /// The log that the oldest one follows, when it is not there.
    broken_at: Option<u64>,
}

impl Chain {
    fn of(mut found: Vec<Log>) -> Self {
        let mut logs = Vec::new();
        let mut broken_at = None;
        let mut next = found.pop();
        while let Some(log) = next.take() {
            let previous = u64::from(log.head.previous_number);
            logs.push(log);
            if previous > 0 {
                let at = found.iter().position(|log| log.sequence == previous);
                next = at.map(|at| found.remove(at));
                broken_at = next.is_none().then_some(previous);
            }
        }
        logs.reverse();
        Self { logs, aside: found.iter().map(|log| log.sequence).collect(), broken_at }
    }
}

/// Checks that no log is damaged before the point up to where it had been synced when the next one was begun.
fn check_joints(replayed: &[Log], layout: &Layout) -> Result<(), LedgerError> {
    for (log, after) in replayed.iter().zip(replayed.iter().skip(1)) {
        if after.head.previous_synced > log.end {
            return Err(damaged(&layout.log(log.sequence), log.end));
        }
    }
    Ok(())
}

fn certainty(replayed: &[Log]) -> Certainty {
    let followed = replayed.iter().zip(replayed.iter().skip(1));
    let mut proven = followed.map(|(log, after)| log.said <= after.head.previous_synced);
    let last = replayed.last().is_none_or(|last| last.said <= last.synced);
    if last && proven.all(|proven| proven) { Certainty::Durable } else { Certainty::Unproven }
}

impl Log {
    /// What its checkpoint took, if it begins with one.
    pub(crate) fn checkpoint_bytes(&self) -> u64 {
        if self.begins_checkpoint { self.checkpoint_end.unwrap_or(self.end) } else { 0 }
    }

    /// Up to where it is known to have been synced.
    pub(crate) fn synced(&self) -> u64 {
        self.synced.min(self.end)
    }

    fn begins_complete_checkpoint(&self, logs: &[Log]) -> bool {
        self.begins_checkpoint && logs.iter().any(|log| log.ends.contains(&self.sequence))
    }
}

fn damaged(path: &Path, offset: u64) -> LedgerError {
    LedgerError::Damaged(format!("{} at byte {offset}", path.display()))
}

/// Reads one log; nothing when it was preallocated and not begun.
fn read(disk: &dyn Disk, path: &Path, sequence: u64) -> Result<Option<Log>, LedgerError> {
    let broken = |error| failed(path, error);
    let file: Arc<dyn DiskFile> = Arc::from(disk.open(path, Access::Read).map_err(broken)?);
    let mut bytes = [0; HEAD_BYTES];
    let length = file.read_at(&mut bytes, 0).map_err(broken)?;
    let Some(head) = FileHead::decode(bytes.split_at(length).0) else {
        return if holds_nothing(&*file).map_err(broken)? {
            Ok(None)
        } else {
            Err(damaged(path, 0))
        };
    };
    if head.kind != FileKind::Log || head.number != sequence {
        return Err(LedgerError::Damaged(format!("{} is no such log", path.display())));
    }
    let mut frames = Frames::new(&*file, &head).map_err(broken)?;
    let (mut begins_checkpoint, mut ends, mut checkpoint_end) = (false, Vec::new(), None);
    let first = frames.offset;
    let mut said = first;
    loop {
        let at = frames.offset;
        let Some((kind, payload)) = frames.next().map_err(broken)? else { break };
        let says_something = kind != FrameKind::Records || !payload.is_empty();
        match kind {
            FrameKind::Begin => begins_checkpoint |= at == first,
            FrameKind::End => {
                let of = payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                ends.extend(of);
                checkpoint_end = (of == Some(sequence)).then_some(frames.offset).or(checkpoint_end);
            }
            FrameKind::Records | FrameKind::Standing | FrameKind::Gone => {}
        }
        if says_something {
            said = frames.offset;
        }
    }
    let synced = frames.synced;
    let (end, synced_beyond) = (frames.offset, frames.synced_beyond().map_err(broken)?);
    Ok(Some(Log {
        sequence,
        file,
        head,
        end,
        begins_checkpoint,
        ends,
        checkpoint_end,
        synced_beyond,
        synced,
        said,
    }))
}

/// Whether nothing was ever written behind the head: the head is synced before the first frame is written.
fn holds_nothing(file: &dyn DiskFile) -> std::io::Result<bool> {
    let mut bytes = vec![0; 64 << 10];
    let mut offset = HEAD_BYTES as u64;
    loop {
        let Some(data) = file.data_from(offset)? else { return Ok(true) };
        offset = data;
        let count = file.read_at(&mut bytes, offset)?;
        if count == 0 {
            return Ok(true);
        }
        if bytes.split_at(count).0.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        offset += count as u64;
    }
}

/// Hands over the records of one log in order, and takes note of what they say of messages.
pub(crate) fn replay(
    log: &Log,
    layout: &Layout,
    standings: &Mutex<Standings>,
    apply: &mut dyn FnMut(Record),
    endings: &mut Vec<Ending>,
) -> Result<(), LedgerError> {
    let path = layout.log(log.sequence);
    let broken = |error| failed(&path, error);
    let mut frames = Frames::new(&*log.file, &log.head).map_err(broken)?;
    let mut decoder = Decoder::default();
    while frames.offset < log.end {
        let malformed = damaged(&path, frames.offset);
        let Some((kind, payload)) = frames.next().map_err(broken)? else { break };
        match kind {
            FrameKind::Records => {
                for line in payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let record = decoder.record(line).map_err(|_| malformed.clone())?;
                    // Not held while the scheduler looks at the record: it may ask for a standing.
                    endings.extend(lock(standings).apply(&record, Mark::Retired));
                    apply(record);
                }
            }
            FrameKind::Standing => {
                let (segment, retired, moved) = standing_of(payload).ok_or(malformed)?;
                lock(standings).load(segment, retired, moved);
            }
            FrameKind::Gone => {
                let gone = gone_of(payload).ok_or(malformed)?;
                gone.into_iter().for_each(|segment| lock(standings).forget(segment));
            }
            FrameKind::Begin | FrameKind::End => {}
        }
    }
    Ok(())
}
