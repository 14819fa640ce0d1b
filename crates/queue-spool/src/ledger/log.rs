//! The ledger's files as they are found: which there are, where each ends, and from which one to replay.
//!
//! Replay begins at the newest log whose checkpoint is complete and goes through all later ones. What is damaged is passed over
//! and told of: a ledger that knows less is a ledger all the same, and requeue finds the messages it forgot. Each log's head
//! says up to where the one before had been synced, and each frame how far its own log was: with these, a torn end of a power
//! cut is known from damage. Behind a torn end nothing is read, nor does it make a checkpoint complete.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};

use queue::{LedgerError, Record};

use crate::codec::{self, FileHead, FileKind, HEAD_BYTES, Mended};
use crate::disk::{Access, Disk, DiskFile};
use crate::ledger::frame::{FrameKind, Frames, Stretch, gone_of, standing_of};
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
    /// What had been synced and holds no valid frame.
    pub(crate) damage: Vec<Stretch>,
    /// The torn end, if valid frames stand behind it, which are not read.
    torn: Option<Stretch>,
    /// Whether a bit of its head is wrong.
    mended: Mended,
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
    /// What is damaged or missing, and may hold what the ledger should know.
    pub(crate) damage: Vec<LedgerDamage>,
    /// Files that look like logs and cannot be read as such.
    pub(crate) unreadable: Vec<u64>,
    /// Whether all that is replayed is known to be durable, up to where the last log ends.
    pub(crate) certainty: Certainty,
}

/// A place where the ledger is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LedgerDamage {
    /// The log.
    pub(crate) log: u64,
    /// Where it begins.
    pub(crate) offset: u64,
    /// How much it is; 0 when that is not known.
    pub(crate) bytes: u64,
    /// What is wrong.
    pub(crate) what: &'static str,
    /// Whether it may have been left by a power cut, of what had never been synced.
    pub(crate) may_be_torn: bool,
}

/// Says in the log what is damaged.
pub(crate) fn report(layout: &Layout, damage: &[LedgerDamage]) {
    for one in damage {
        let (file, what) = (layout.log(one.log), one.what);
        let (file, offset, bytes) = (file.display(), one.offset, one.bytes);
        if one.may_be_torn {
            tracing::warn!(%file, offset, bytes, what, "the ledger was torn by a power cut, or is damaged: what stands behind had not been synced, and is not read");
        } else {
            tracing::error!(%file, offset, bytes, what, "the ledger is damaged: what it said there is lost, and mail that it told of may be routed and delivered again");
        }
    }
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
    // A number that no head has room for is none of ours.
    let ours = |sequence: &u64| *sequence < u64::from(u32::MAX);
    let mut sequences: Vec<_> = names.iter().filter_map(|name| log_of(name)).filter(ours).collect();
    sequences.sort_unstable();
    let next = sequences.last().map_or(1, |last| last + 1);
    let (mut logs, mut unused, mut unreadable) = (Vec::<Log>::new(), Vec::new(), Vec::new());
    for sequence in sequences {
        match read(disk, &layout.log(sequence), sequence)? {
            Looked::Log(log) => logs.push(*log),
            Looked::Unused => unused.push(sequence),
            Looked::Unreadable => unreadable.push(sequence),
        }
    }
    let Chain { mut logs, aside, missing } = Chain::of(logs);
    walk_all(layout, &mut logs)?;
    let whole = logs
        .iter()
        .rposition(|log| log.begins_ended_checkpoint(&logs) && log.is_checkpoint_whole());
    // A checkpoint of which a part is lost is worth less than the logs before it, if there are any left.
    let start = whole.unwrap_or(0);
    // What went before a checkpoint that ended has been removed, whatever became of the checkpoint since.
    let ended = logs.iter().rev().find(|log| log.begins_ended_checkpoint(&logs));
    let ended = ended.map_or(0, |log| log.sequence);
    let replayed = logs.get(start..).unwrap_or_default();
    let mut damage = damage_of(replayed);
    let missing = missing.into_iter().filter(|log| *log > ended);
    damage.extend(missing.filter(|log| !unreadable.contains(log)).map(|log| LedgerDamage {
        log,
        offset: 0,
        bytes: 0,
        what: "it is missing",
        may_be_torn: false,
    }));
    damage.extend(unreadable.iter().map(|log| LedgerDamage {
        log: *log,
        offset: 0,
        bytes: 0,
        what: "its head cannot be read",
        may_be_torn: false,
    }));
    damage.sort_by_key(|one| (one.log, one.offset));
    let certainty = match damage.is_empty() {
        true => certainty(replayed),
        false => Certainty::Unproven,
    };
    Ok(Found { logs, start, aside, unused, next, damage, unreadable, certainty })
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
    /// Logs that later ones follow and that are not there. The one with the next lower number takes the place of such a one.
    missing: Vec<u64>,
}

impl Chain {
    fn of(mut found: Vec<Log>) -> Self {
        let (mut logs, mut missing) = (Vec::new(), Vec::new());
        let mut next = found.pop();
        while let Some(log) = next.take() {
            let previous = u64::from(log.head.previous_number);
            logs.push(log);
            if previous > 0 {
                let at = found.iter().rposition(|log| log.sequence <= previous);
                next = at.map(|at| found.remove(at));
                if next.as_ref().is_none_or(|next| next.sequence != previous) {
                    missing.push(previous);
                }
            }
        }
        logs.reverse();
        Self { logs, aside: found.iter().map(|log| log.sequence).collect(), missing }
    }
}

/// Walks through the logs, each with what the head of the next says of it.
fn walk_all(layout: &Layout, logs: &mut [Log]) -> Result<(), LedgerError> {
    let mut after = (0, 0);
    for (at, log) in logs.iter_mut().enumerate().rev() {
        let (follows, synced) = after;
        let told = if follows == log.sequence { synced } else { 0 };
        let walked = match at {
            0 => log.walk_oldest(told),
            _ => log.walk(told),
        };
        walked.map_err(|error| failed(&layout.log(log.sequence), error))?;
        // One that ends before the point up to where it had been synced when the next was begun has lost its end.
        if told > log.end {
            log.damage.push(Stretch { offset: log.end, bytes: told - log.end });
        }
        after = (u64::from(log.head.previous_number), log.head.previous_synced);
    }
    Ok(())
}

/// What is damaged of the logs that are replayed, or torn.
fn damage_of(replayed: &[Log]) -> Vec<LedgerDamage> {
    let mut found = Vec::new();
    for log in replayed {
        let damaged = log.damage.iter().map(|stretch| (stretch, false));
        let torn = log.torn.iter().map(|stretch| (stretch, true));
        found.extend(damaged.chain(torn).map(|(stretch, may_be_torn)| LedgerDamage {
            log: log.sequence,
            offset: stretch.offset,
            bytes: stretch.bytes,
            what: "no frame there passes its checks",
            may_be_torn,
        }));
    }
    found
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

    /// Whether a bit of its head is wrong.
    pub(crate) fn is_mended(&self) -> bool {
        self.mended == Mended::OneBit
    }

    /// Whether its bytes are to be kept when it is not needed any more.
    pub(crate) fn is_damaged(&self) -> bool {
        self.mended == Mended::OneBit || !self.damage.is_empty()
    }

    /// Up to where it is known to have been synced.
    pub(crate) fn synced(&self) -> u64 {
        self.synced.min(self.end)
    }

    /// Whether it begins with a checkpoint whose end is there.
    fn begins_ended_checkpoint(&self, logs: &[Log]) -> bool {
        self.begins_checkpoint && logs.iter().any(|log| log.ends.contains(&self.sequence))
    }

    /// Whether nothing of its checkpoint is lost.
    fn is_checkpoint_whole(&self) -> bool {
        let end = self.checkpoint_end.unwrap_or(self.end);
        self.damage.iter().all(|stretch| stretch.offset >= end)
    }

    /// As [`Log::walk`], for a log that no older one is left of: those are removed only when a checkpoint has been synced. So its end,
    /// wherever it stands, proves what it ends.
    fn walk_oldest(&mut self, told: u64) -> std::io::Result<()> {
        self.walk(told)?;
        if self.torn.is_some() && self.checkpoint_end.is_none() {
            self.walk(u64::MAX)?;
            self.walk(told.max(self.checkpoint_end.unwrap_or(0)))?;
        }
        Ok(())
    }

    /// Goes through its frames, and takes note of what they are. `told` is up to where others know it to have been synced.
    fn walk(&mut self, told: u64) -> std::io::Result<()> {
        let mut frames = Frames::new(&*self.file, &self.head, told)?;
        let first = frames.offset;
        (self.begins_checkpoint, self.checkpoint_end, self.said) = (false, None, first);
        self.ends.clear();
        loop {
            let at = frames.offset;
            let Some((kind, payload)) = frames.next()? else { break };
            let says_something = kind != FrameKind::Records || !payload.is_empty();
            match kind {
                FrameKind::Begin => self.begins_checkpoint |= at == first,
                FrameKind::End => {
                    let of = payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                    self.ends.extend(of);
                    if of == Some(self.sequence) {
                        self.checkpoint_end = Some(frames.offset);
                    }
                }
                FrameKind::Records | FrameKind::Standing | FrameKind::Gone => {}
            }
            if says_something {
                self.said = frames.offset;
            }
        }
        (self.end, self.synced) = (frames.offset, frames.synced);
        (self.damage, self.torn) = (frames.damage, frames.torn);
        Ok(())
    }
}

fn damaged(path: &Path, offset: u64) -> LedgerError {
    LedgerError::Damaged(format!("{} at byte {offset}", path.display()))
}

/// What a file that is named like a log turned out to be.
enum Looked {
    /// A log.
    Log(Box<Log>),
    /// It was preallocated and not begun.
    Unused,
    /// Something else, or its head is lost.
    Unreadable,
}

/// Opens one log; nothing is known yet of what stands behind its head.
fn read(disk: &dyn Disk, path: &Path, sequence: u64) -> Result<Looked, LedgerError> {
    let broken = |error| failed(path, error);
    let file: Arc<dyn DiskFile> = match disk.open(path, Access::Read) {
        Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(Looked::Unreadable),
        file => Arc::from(file.map_err(broken)?),
    };
    let mut bytes = [0; HEAD_BYTES];
    let length = file.read_at(&mut bytes, 0).map_err(broken)?;
    let bytes = bytes.split_at(length).0;
    if let Some(version) = codec::newer_version(bytes) {
        let path = path.display();
        return Err(LedgerError::Damaged(format!("{path} has format {version}, a newer one")));
    }
    let Some((head, mended)) = FileHead::decode_or_mend(bytes) else {
        let unused = holds_nothing(&*file).map_err(broken)?;
        return Ok(if unused { Looked::Unused } else { Looked::Unreadable });
    };
    if head.kind != FileKind::Log || head.number != sequence {
        return Ok(Looked::Unreadable);
    }
    if mended == Mended::OneBit {
        tracing::error!(file = %path.display(), "a bit of the ledger's head is wrong; it is read all the same");
    }
    let end = HEAD_BYTES as u64;
    Ok(Looked::Log(Box::new(Log {
        sequence,
        file,
        head,
        end,
        begins_checkpoint: false,
        ends: Vec::new(),
        checkpoint_end: None,
        damage: Vec::new(),
        torn: None,
        mended,
        synced: end,
        said: end,
    })))
}

/// Whether nothing was ever written behind the head: the head is synced before the first frame is written.
fn holds_nothing(file: &dyn DiskFile) -> std::io::Result<bool> {
    Ok(first_not_zero(file, HEAD_BYTES as u64)?.is_none())
}

/// The first byte from an offset on that is not zero.
fn first_not_zero(file: &dyn DiskFile, mut offset: u64) -> std::io::Result<Option<u64>> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let Some(data) = file.data_from(offset)? else { return Ok(None) };
        offset = data;
        let count = file.read_at(&mut bytes, offset)?;
        if count == 0 {
            return Ok(None);
        }
        if let Some(at) = bytes.iter().take(count).position(|byte| *byte != 0) {
            return Ok(Some(offset + at as u64));
        }
        offset += count as u64;
    }
}

/// What stands between the frames of a log and behind the last, and should be zero: the first place where it is not.
#[derive(Debug, Default)]
pub(crate) struct Around {
    /// Between two frames.
    pub(crate) padding: Option<u64>,
    /// Behind the last.
    pub(crate) behind: Option<u64>,
}

/// Looks at what no sum of a log covers.
pub(crate) fn around_frames(log: &Log) -> std::io::Result<Around> {
    let mut around = Around::default();
    let mut frames = Frames::new(&*log.file, &log.head, log.end)?;
    let mut bytes = [0; 32];
    while frames.offset < log.end {
        let Some((_, payload)) = frames.next()? else { break };
        let padding = payload.len().next_multiple_of(bytes.len()) - payload.len();
        let from = frames.offset - padding as u64;
        let count = log.file.read_at(bytes.split_at_mut(padding).0, from)?;
        let found = bytes.iter().take(count).position(|byte| *byte != 0);
        around.padding = around.padding.or(found.map(|at| from + at as u64));
    }
    around.behind = first_not_zero(&*log.file, log.end)?;
    Ok(around)
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
    let mut frames = Frames::new(&*log.file, &log.head, log.end).map_err(broken)?;
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
