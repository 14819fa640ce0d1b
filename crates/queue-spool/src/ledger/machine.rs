//! The machine that writes the ledger: batches in, one write a turn, a sync when something waits for it.
//!
//! ```text
//!  well ── begin ──▶ checkpoint in a new log ── end, synced ──▶ well; older logs unlinked
//!    └─ a write or sync failed ─▶ failed ── begin ──▶ checkpoint in a new log; nothing is reported as synced
//!                                   ▲                     │ until its end has synced ─▶ well
//!                                   └── failed again ─────┘
//! ```
//!
//! A sync is done beside the turns: records are written, and reported as written, while it is under way. It proves what was
//! written before it began, and no other log is begun before it has ended.
//!
//! What must hold: nothing is reported as synced whose sync did not succeed; after a failure nothing at all, until a
//! checkpoint in a new log has synced. A log is unlinked only when a newer checkpoint is complete and synced. Space is
//! given back only for messages whose end is synced.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use queue::{Handle, LedgerError, Record, Standing};

use crate::Settings;
use crate::aside;
use crate::disk::{Disk, DiskFile};
use crate::ledger::frame::{
    FRAME_BYTES_MAX, FrameKind, gone_payload, push_frame, standing_payload,
};
use crate::ledger::log::{Certainty, Found, Log, failed};
use crate::ledger::logs::{Current, Logs, Previous, Room};
use crate::ledger::reclaim;
use crate::ledger::standing::{self, Again, Checked, Ending, Standings, slot_at};
use crate::place::{Layout, Place, SegmentName};
use crate::thread::{Machine, Next, Now, lock};

/// Segments whose standing is saved in one turn of a checkpoint.
const STANDINGS_PER_TURN: usize = 16;
/// Messages that are looked at while whoever appends is kept waiting.
const SLOTS_PER_LOOK: usize = 1024;
/// Ends of messages that are said again in one frame of a checkpoint.
const ENDINGS_PER_FRAME: usize = 10_000;
/// How long it takes until segments without a footer are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// How much is written until room that could not be made is asked for again.
const GROW_AGAIN_BYTES: u64 = 256 << 10;
/// How long it takes until a spare log that could not be made is tried again.
const SPARE_AGAIN: Duration = Duration::from_secs(5);
/// While events keep coming, one turn in so many does a chore; one without events always does.
const CHORE_EVERY_TURNS: u32 = 8;
/// How long the machine waits before the first look, so that one look serves many messages.
const LOOK_FIRST: Duration = Duration::from_millis(500);

/// What is known of every message, shared by whoever appends and the machine that gives space back.
#[derive(Clone, Default)]
pub struct Book {
    pub(crate) standings: Arc<Mutex<Standings>>,
}

impl Book {
    /// Encodes records for [`Event::Append`] and takes note of what they say.
    pub fn append<T>(&self, mark: u64, records: &[Record]) -> io::Result<Event<T>> {
        let mut payload = Vec::with_capacity(256 * records.len());
        for record in records {
            serde_json::to_writer(&mut payload, record)?;
            payload.push(b'\n');
        }
        if payload.len() > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut standings = lock(&self.standings);
        let endings = records
            .iter()
            .filter_map(|record| standings.apply(record, standing::Mark::Retiring))
            .map(Ended)
            .collect();
        Ok(Event::Append { mark, payload, endings })
    }

    /// What is known of a message.
    pub fn standing(&self, handle: &Handle) -> Standing {
        lock(&self.standings).standing(handle)
    }
}

/// What is asked of the ledger's thread. `T` is whoever waits for the end of a checkpoint.
pub enum Event<T> {
    /// Write these records.
    Append {
        /// Their place in the order.
        mark: u64,
        /// As JSON, one a line.
        payload: Vec<u8>,
        /// What to do when they are synced.
        endings: Vec<Ended>,
    },
    /// Somebody waits for the sync of everything up to here.
    Want(u64),
    /// Begin a checkpoint.
    Begin,
    /// End it.
    End(T),
}

/// A message whose end is in a record; opaque outside the crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended(pub(crate) Ending);

/// What the ledger's thread answers.
pub enum Answer<T> {
    /// Everything up to here has been handed to the system.
    Written(u64),
    /// Everything up to here is synced.
    Synced(u64),
    /// A write or sync has failed.
    Failed(LedgerError),
    /// Whether the log is there, with room, that the next checkpoint begins.
    Spare(Spare),
    /// To [`Event::End`].
    Ended(T, Result<(), LedgerError>),
}

/// Whether a log is preallocated for the next checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Spare {
    /// Not now: the disk may be full, and a checkpoint had better wait.
    #[default]
    Missing,
    /// It is there.
    There,
}

/// The machine's settings.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A sync begins no sooner than this after the last one began.
    pub sync_spacing: Duration,
    /// A sync begins this long after the first unsynced record at the latest.
    pub sync_after: Duration,
    /// What a log is preallocated with, and grown by.
    pub log_bytes: u64,
}

impl Limits {
    /// As the settings say.
    pub fn of(settings: &Settings) -> Self {
        Self {
            sync_spacing: settings.sync_spacing.0,
            sync_after: settings.ledger_sync_after.0,
            log_bytes: settings.ledger_bytes.0,
        }
    }
}

/// The only writer of the ledger.
pub struct LedgerMachine<T> {
    disk: Arc<dyn Disk>,
    layout: Layout,
    limits: Limits,
    standings: Arc<Mutex<Standings>>,
    current: Current,
    /// The log before the current one, if that was begun after a failure: until its checkpoint has synced it holds nothing
    /// that anybody relies on.
    before: Option<Current>,
    logs: Logs,
    /// Logs before the current one.
    older: Vec<u64>,
    /// Those of them that are damaged: they are set aside, not removed.
    damaged: Vec<u64>,
    /// What was asked and not done yet: a checkpoint that is to begin waits for the end of a sync, and all behind it.
    waiting: VecDeque<Event<T>>,
    batch: Vec<u8>,
    /// The last record that was taken, written, synced, and waited for.
    taken: u64,
    written: u64,
    synced: u64,
    wanted: u64,
    first_unsynced_at: Option<Instant>,
    sync_began: Option<Instant>,
    syncing: Option<Syncing>,
    failure: Option<LedgerError>,
    /// Of what was replayed; of what was written since, syncs are proof.
    certainty: Certainty,
    checkpoint: Option<Checkpoint<T>>,
    /// Ends of messages, by the record that says so.
    endings: VecDeque<(u64, Ending)>,
    look_at: Option<Instant>,
    chores: VecDeque<Chore>,
    /// Segments that could not be given back, to be tried again at the next look.
    again: Vec<SegmentName>,
    /// Turns with events since the last chore.
    busy_turns: u32,
    /// When the spare log is to be made.
    spare_at: Option<Instant>,
}

/// What is to be done when there is time.
enum Chore {
    /// See whether a segment has been sealed.
    Look(SegmentName),
    /// Give back a segment in which every message has ended.
    RemoveSegment(SegmentName),
    /// Give back what belonged to one message alone.
    RemoveFiles(Ending),
    /// Remove a log from before the last checkpoint.
    RemoveLog(u64),
}

/// A sync that is under way, and what it proves if it succeeds.
struct Syncing {
    /// The file, until its sync has begun.
    file: Option<Arc<dyn DiskFile>>,
    /// Up to where the log had been written.
    end: u64,
    /// The last record that had been written.
    written: u64,
    /// Whether the end of the present checkpoint had been written.
    ends_checkpoint: bool,
    /// Whether the log failed meanwhile: all who wait have been told so, and a success tells nobody anything.
    void: bool,
}

struct Checkpoint<T> {
    /// The log that it begins.
    begins: u64,
    /// Segments whose standing is still to be saved.
    to_save: Vec<SegmentName>,
    /// Who waits for its end, once that is asked for.
    ending: Option<T>,
}

impl<T: Send + 'static> LedgerMachine<T> {
    /// Goes on behind what was found and replayed, in a new log.
    pub(crate) fn go_on(
        disk: Arc<dyn Disk>,
        layout: Layout,
        limits: Limits,
        standings: Arc<Mutex<Standings>>,
        found: Found,
        endings: Vec<Ending>,
        now: Now,
    ) -> Result<Self, LedgerError> {
        survey(&*disk, &layout, &standings).map_err(|error| failed(&layout.intake(), error))?;
        // What was replayed is acted on: it should not be lost to a power cut afterwards. This is no proof, though: what a
        // failed sync of an earlier life has lost, the cache still shows.
        let dir = layout.ledger();
        disk.sync_dir(&dir).map_err(|error| failed(&dir, error))?;
        if let Some(last) = found.logs.last() {
            last.file.sync().map_err(|error| failed(&layout.log(last.sequence), error))?;
        }
        for log in &found.unreadable {
            let path = layout.log(*log);
            if let Err(error) = aside::file(&*disk, &layout, &path, "its head cannot be read") {
                tracing::warn!(file = %path.display(), %error, "cannot set a damaged log aside");
            }
        }
        let previous = found.logs.last().map_or(Previous::default(), |log| Previous {
            sequence: log.sequence,
            synced: log.synced(),
        });
        let mut logs =
            Logs::new(disk.clone(), layout.clone(), limits.log_bytes, found.next, found.unused);
        logs.expect(found.logs.get(found.start).map_or(0, Log::checkpoint_bytes));
        let current = logs.begin(now, previous, Room::Wished)?;
        let spare_at = match logs.make_spare() {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot preallocate the ledger's next file");
                Some(now.at + SPARE_AGAIN)
            }
        };
        Ok(Self {
            disk,
            layout,
            limits,
            standings,
            current,
            before: None,
            logs,
            damaged: found
                .logs
                .iter()
                .filter(|log| log.is_damaged())
                .map(|log| log.sequence)
                .collect(),
            older: found.logs.iter().map(|log| log.sequence).chain(found.aside).collect(),
            waiting: VecDeque::new(),
            batch: Vec::new(),
            taken: 0,
            written: 0,
            synced: 0,
            wanted: 0,
            first_unsynced_at: None,
            sync_began: None,
            syncing: None,
            failure: None,
            certainty: found.certainty,
            checkpoint: None,
            endings: endings.into_iter().map(|ending| (0, ending)).collect(),
            look_at: Some(now.at),
            chores: VecDeque::new(),
            again: Vec::new(),
            busy_turns: 0,
            spare_at,
        })
    }

    /// Whether the next checkpoint's log is there.
    pub(crate) fn spare(&self) -> Spare {
        if self.logs.has_spare() { Spare::There } else { Spare::Missing }
    }

    fn on_event(&mut self, event: Event<T>, now: Now, answers: &mut Vec<Answer<T>>) {
        match event {
            Event::Append { mark, payload, endings } => {
                self.taken = mark;
                let endings = endings.into_iter().map(|ending| (mark, ending.0));
                self.endings.extend(endings);
                // Lost to the log, not to the scheduler, whose checkpoint will hold it.
                if self.is_writing() {
                    self.push(FrameKind::Records, &payload);
                    self.first_unsynced_at.get_or_insert(now.at);
                }
            }
            Event::Want(mark) => self.wanted = self.wanted.max(mark),
            Event::Begin => {
                if let Err(error) = self.begin_checkpoint(now, answers) {
                    self.fail(error, answers);
                }
            }
            Event::End(waiter) => self.end_checkpoint(waiter, answers),
        }
    }

    /// Does what was asked, but for a checkpoint that must wait.
    fn take_events(&mut self, now: Now, answers: &mut Vec<Answer<T>>) {
        while let Some(event) = self
            .waiting
            .pop_front_if(|event| self.syncing.is_none() || !matches!(event, Event::Begin))
        {
            self.on_event(event, now, answers);
        }
    }

    fn push(&mut self, kind: FrameKind, payload: &[u8]) {
        let Current { nonce, end, synced, .. } = &self.current;
        push_frame(&mut self.batch, kind, payload, nonce, *end, *synced);
    }

    fn begin_checkpoint(
        &mut self,
        now: Now,
        answers: &mut Vec<Answer<T>>,
    ) -> Result<(), LedgerError> {
        assert!(self.syncing.is_none(), "what a sync proves is said of the present log");
        if self.failure.is_none() {
            self.write(answers);
        }
        if self.failure.is_none() {
            self.sync_and_wait(now, answers);
        }
        if self.failure.is_some() {
            // What these records said is in the scheduler's memory and in our standings: the checkpoint says it anew. Of a
            // message that was moved its snapshot does: until that is synced, it may live where it was.
            let mut standings = lock(&self.standings);
            let ended = self.endings.iter().map(|(_, ending)| ending);
            ended
                .filter(|ending| matches!(ending, Ending::Retired(_)))
                .for_each(|ending| standings.ended(ending));
        }
        if let Some(abandoned) = self.checkpoint.take().and_then(|checkpoint| checkpoint.ending) {
            let error = io::Error::other("another checkpoint was begun");
            answers.push(Answer::Ended(abandoned, Err(failed(Path::new("checkpoint"), error))));
        }
        self.batch.clear();
        self.abandon();
        if self.failure.is_none()
            && let Err(error) = self.logs.make_spare()
        {
            // The current log may have room left: without a new one it goes on there.
            tracing::warn!(%error, "no checkpoint can be begun");
            self.spare_at = Some(now.at + SPARE_AGAIN);
            return Ok(());
        }
        let previous = Previous { sequence: self.current.sequence, synced: self.current.synced };
        let begun = self.logs.begin(now, previous, Room::Needed)?;
        let before = std::mem::replace(&mut self.current, begun);
        self.before = self.failure.is_some().then_some(before);
        self.spare_at = Some(now.at);
        answers.push(Answer::Spare(Spare::Missing));
        self.older.push(previous.sequence);
        self.push(FrameKind::Begin, &[]);
        self.repeat_ends();
        let (to_save, gone) = {
            let standings = lock(&self.standings);
            (standings.to_save(), gone_payload(standings.gone()))
        };
        if !gone.is_empty() {
            self.push(FrameKind::Gone, &gone);
        }
        self.checkpoint = Some(Checkpoint { begins: self.current.sequence, to_save, ending: None });
        Ok(())
    }

    /// Says again, in the log of a checkpoint, what is not durably gone though it was given back, and gives it back again.
    fn repeat_ends(&mut self) {
        let files = survey(&*self.disk, &self.layout, &self.standings).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look which segments are gone for good");
            lock(&self.standings).ended_files().collect()
        });
        match records_of(&files) {
            Ok(frames) => {
                frames.iter().for_each(|payload| self.push(FrameKind::Records, payload));
            }
            Err(error) => tracing::error!(%error, "cannot say again which messages have ended"),
        }
        // Not before this checkpoint, or what came before it, has synced.
        self.chores.extend(files.into_iter().map(Chore::RemoveFiles));
    }

    fn end_checkpoint(&mut self, waiter: T, answers: &mut Vec<Answer<T>>) {
        match &mut self.checkpoint {
            Some(checkpoint) if checkpoint.ending.is_none() => {
                let begins = checkpoint.begins;
                checkpoint.ending = Some(waiter);
                self.save_standings(usize::MAX);
                self.push(FrameKind::End, &begins.to_le_bytes());
            }
            _ => {
                let error = self.failure.clone().unwrap_or_else(|| {
                    failed(Path::new("checkpoint"), io::Error::other("none was begun"))
                });
                answers.push(Answer::Ended(waiter, Err(error)));
            }
        }
    }

    /// Saves what is known of some segments, those whose turn it is in a checkpoint.
    fn save_standings(&mut self, segments_max: usize) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        let keep = checkpoint.to_save.len().saturating_sub(segments_max);
        for segment in checkpoint.to_save.split_off(keep) {
            let (mut retired, mut moved) = lock(&self.standings).saved(segment);
            if !retired.is_empty() || !moved.is_empty() {
                let payload = standing_payload(segment, &mut retired, &mut moved);
                self.push(FrameKind::Standing, &payload);
            }
        }
    }

    /// Writes the batch.
    fn write(&mut self, answers: &mut Vec<Answer<T>>) {
        if !self.batch.is_empty() {
            let end = self.current.end + self.batch.len() as u64;
            self.grow(end);
            if let Err(error) = self.current.file.write_at(&self.batch, self.current.end) {
                let path = self.layout.log(self.current.sequence);
                return self.fail(failed(&path, error), answers);
            }
            self.current.end = end;
            self.batch.clear();
        }
        if self.taken > self.written {
            self.written = self.taken;
            answers.push(Answer::Written(self.written));
        }
    }

    /// Keeps room ahead of what is written, so that a disk that fills up is noticed before it stops us.
    fn grow(&mut self, end: u64) {
        let ahead = self.limits.log_bytes / 2;
        if end.saturating_add(ahead) <= self.current.allocated || end < self.current.grow_again_at {
            return;
        }
        let target = end.saturating_add(self.limits.log_bytes);
        match self.current.file.preallocate(target) {
            Ok(()) => self.current.allocated = target,
            Err(error) => {
                tracing::warn!(%error, "cannot give the ledger more room");
                self.current.grow_again_at = end.saturating_add(GROW_AGAIN_BYTES);
            }
        }
    }

    /// Notes what a sync that begins now will prove. Everything has been written.
    fn begin_sync(&mut self, now: Now) {
        self.first_unsynced_at = None;
        self.sync_began = Some(now.at);
        self.syncing = Some(Syncing {
            file: Some(self.current.file.clone()),
            end: self.current.end,
            written: self.written,
            ends_checkpoint: self.is_ending(),
            void: false,
        });
    }

    fn end_sync(&mut self, now: Now, result: io::Result<()>, answers: &mut Vec<Answer<T>>) {
        let Some(syncing) = self.syncing.take().filter(|syncing| !syncing.void) else { return };
        if let Err(error) = result {
            let path = self.layout.log(self.current.sequence);
            return self.fail(failed(&path, error), answers);
        }
        self.current.synced = syncing.end;
        let complete = self.checkpoint.take_if(|_| syncing.ends_checkpoint);
        if let Some(checkpoint) = complete {
            self.failure = None;
            self.before = None;
            self.logs.expect(syncing.end);
            self.spare_at = Some(now.at);
            self.certainty = Certainty::Durable;
            self.chores.extend(self.older.drain(..).map(Chore::RemoveLog));
            answers.extend(checkpoint.ending.map(|waiter| Answer::Ended(waiter, Ok(()))));
        }
        if self.failure.is_none() {
            self.synced = syncing.written;
            answers.push(Answer::Synced(self.synced));
            self.give_back(now);
        }
    }

    /// Syncs within the turn, where nothing can go on before.
    fn sync_and_wait(&mut self, now: Now, answers: &mut Vec<Answer<T>>) {
        self.begin_sync(now);
        let result = self.current.file.sync();
        self.end_sync(now, result, answers);
    }

    /// Nothing that is not synced will be: all who wait are told, and the next checkpoint begins anew.
    fn fail(&mut self, error: LedgerError, answers: &mut Vec<Answer<T>>) {
        tracing::error!(%error, "the ledger cannot be written; nothing is dispatched until a checkpoint has synced");
        self.batch.clear();
        self.first_unsynced_at = None;
        if let Some(syncing) = &mut self.syncing {
            syncing.void = true;
        }
        if let Some(waiter) = self.checkpoint.take().and_then(|checkpoint| checkpoint.ending) {
            answers.push(Answer::Ended(waiter, Err(error.clone())));
        }
        self.failure = Some(error.clone());
        self.abandon();
        answers.push(Answer::Failed(error));
    }

    /// Removes the current log if it was begun after a failure and its checkpoint came to nothing: it takes space that the
    /// next one may need. Nothing is written to the log before it, which the next one follows.
    fn abandon(&mut self) {
        let Some(before) = self.before.take() else { return };
        let vain = std::mem::replace(&mut self.current, before).sequence;
        self.older.retain(|sequence| *sequence != self.current.sequence);
        if !self.logs.remove(vain) {
            self.older.push(vain);
        }
    }
}

/// Takes note of which segments there are, and gives back anew those that a power cut brought back. Gives the messages that
/// have ended and whose own files are there.
fn survey(
    disk: &dyn Disk,
    layout: &Layout,
    standings: &Mutex<Standings>,
) -> io::Result<Vec<Ending>> {
    let found = reclaim::survey(disk, layout)?;
    let Again { segments, files } = lock(standings).survey(found);
    reclaim::remove_segments(disk, layout, &segments);
    Ok(files)
}

/// The ends of messages as records, for a checkpoint: each text is one frame.
fn records_of(endings: &[Ending]) -> io::Result<Vec<Vec<u8>>> {
    let frame = |endings: &[Ending]| {
        let mut payload = Vec::new();
        for ending in endings {
            let Ending::Retired(place) = ending else { continue };
            let (id, handle) = (place.record.id, Place::Message(*place).handle());
            serde_json::to_writer(&mut payload, &Record::Retired { id, handle })?;
            payload.push(b'\n');
        }
        Ok(payload)
    };
    endings.chunks(ENDINGS_PER_FRAME).map(frame).collect()
}

/// Giving space back: a little every turn, so that no one waits long for a write.
impl<T: Send + 'static> LedgerMachine<T> {
    /// Marks what has ended durably, and notes what nobody needs any more.
    fn give_back(&mut self, now: Now) {
        let mut touched = Vec::new();
        while let Some((_, ending)) = self.endings.pop_front_if(|(mark, _)| *mark <= self.synced) {
            lock(&self.standings).ended(&ending);
            if reclaim::has_files(&ending) {
                self.chores.push_back(Chore::RemoveFiles(ending));
            }
            let (Ending::Retired(place) | Ending::Moved(place)) = ending;
            touched.push(place.record.segment);
        }
        touched.sort_unstable();
        touched.dedup();
        for segment in touched {
            if self.has_ended(segment) {
                self.chores.push_back(Chore::RemoveSegment(segment));
            } else if lock(&self.standings).may_have_ended(segment) {
                self.look_at.get_or_insert(now.at + LOOK_FIRST);
            }
        }
    }

    /// When it is time, notes the segments without open messages, which may have been sealed meanwhile.
    fn look_around(&mut self, now: Now) {
        if self.look_at.is_some_and(|at| at <= now.at) {
            self.look_at = None;
            self.give_back(now);
            self.chores.extend(self.again.drain(..).map(Chore::RemoveSegment));
            self.chores.extend(lock(&self.standings).candidates().into_iter().map(Chore::Look));
        }
    }

    /// Does one thing that nobody waits for.
    fn do_chore(&mut self, now: Now, answers: &mut Vec<Answer<T>>) {
        if !self.may_give_back() {
            return self.make_spare(now, answers);
        }
        self.look_around(now);
        match self.chores.pop_front() {
            None => self.make_spare(now, answers),
            Some(Chore::Look(segment)) => self.look(segment, now),
            Some(Chore::RemoveSegment(segment)) => self.remove_segment(segment, now),
            Some(Chore::RemoveFiles(ending)) => {
                reclaim::remove_files(&*self.disk, &self.layout, &ending);
            }
            Some(Chore::RemoveLog(sequence)) => {
                let path = self.layout.log(sequence);
                let removed = match self.damaged.contains(&sequence) {
                    true => {
                        aside::file(&*self.disk, &self.layout, &path, "a part of it is damaged")
                            .map(drop)
                    }
                    false => self.disk.unlink(&path),
                };
                if let Err(error) = removed {
                    tracing::warn!(file = %path.display(), %error, "cannot remove an old log");
                }
            }
        }
    }

    fn look(&mut self, segment: SegmentName, now: Now) {
        match reclaim::footer(&*self.disk, &self.layout, segment) {
            reclaim::Footer::Sealed(entries) => {
                let slots = standing::slots(&entries);
                lock(&self.standings).sealed(segment, slots);
                if self.has_ended(segment) {
                    self.chores.push_back(Chore::RemoveSegment(segment));
                }
            }
            reclaim::Footer::Missing => lock(&self.standings).forget(segment),
            reclaim::Footer::NotYet => {
                self.look_at.get_or_insert(now.at + LOOK_AGAIN);
            }
        }
    }

    /// Whether every message of a segment has ended. Whoever appends is let in between.
    fn has_ended(&self, segment: SegmentName) -> bool {
        loop {
            match lock(&self.standings).check_ended(segment, SLOTS_PER_LOOK) {
                Checked::Live => return false,
                Checked::Ended => return true,
                Checked::Unsure => {}
            }
        }
    }

    fn remove_segment(&mut self, segment: SegmentName, now: Now) {
        // Noted twice, it is gone by now.
        if !self.has_ended(segment) {
            return;
        }
        if let Err(error) = self.unlink_segment(segment) {
            tracing::warn!(segment = %segment, %error, "cannot give a segment back yet");
            self.again.push(segment);
            self.look_at.get_or_insert(now.at + LOOK_AGAIN);
            return;
        }
        lock(&self.standings).forget(segment);
        self.push(FrameKind::Gone, &gone_payload([segment]));
        self.first_unsynced_at.get_or_insert(now.at);
    }

    fn unlink_segment(&self, segment: SegmentName) -> io::Result<()> {
        // A copy that nobody was told of would outlive all that is known of its message.
        let is_moved = |offset| lock(&self.standings).is_moved((segment, slot_at(offset)));
        reclaim::remove_copies(&*self.disk, &self.layout, segment, is_moved)?;
        match self.disk.unlink(&self.layout.segment(segment)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

impl<T: Send + 'static> LedgerMachine<T> {
    /// Whether the log is being written to at all.
    fn is_writing(&self) -> bool {
        self.failure.is_none() || self.checkpoint.is_some()
    }

    /// Whether the checkpoint is to end with the next sync.
    fn is_ending(&self) -> bool {
        self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.ending.is_some())
    }

    /// When the next sync is to begin; nothing while there is nothing to sync, or one is under way.
    fn sync_at(&self, now: Now) -> Option<Instant> {
        let unsynced = self.current.end > self.current.synced || !self.batch.is_empty();
        if !unsynced || !self.is_writing() || self.syncing.is_some() {
            return None;
        }
        let wanted = self.is_ending() || self.wanted > self.synced;
        let asked = match self.first_unsynced_at {
            Some(first) if !wanted => first + self.limits.sync_after,
            _ => now.at,
        };
        let spaced = self.sync_began.map(|began| began + self.limits.sync_spacing);
        Some(spaced.map_or(asked, |spaced| asked.max(spaced)))
    }

    /// Whether all that says that messages have ended is durable.
    fn may_give_back(&self) -> bool {
        self.failure.is_none() && self.certainty == Certainty::Durable
    }

    fn make_spare(&mut self, now: Now, answers: &mut Vec<Answer<T>>) {
        if self.failure.is_none() && self.spare_at.is_some_and(|at| at <= now.at) {
            self.spare_at = match self.logs.make_spare() {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(%error, "cannot preallocate the ledger's next file");
                    Some(now.at + SPARE_AGAIN)
                }
            };
            answers.push(Answer::Spare(self.spare()));
        }
    }

    fn next(&self, now: Now) -> Next {
        let saving =
            self.checkpoint.as_ref().is_some_and(|checkpoint| !checkpoint.to_save.is_empty());
        let spare_at = self.spare_at.filter(|_| self.failure.is_none());
        let chore_at = match self.may_give_back() {
            false => spare_at,
            true if !self.chores.is_empty() => Some(now.at),
            true => self.look_at.into_iter().chain(spare_at).min(),
        };
        let times = [self.sync_at(now), chore_at, saving.then_some(now.at)];
        times.into_iter().flatten().min().map_or(Next::Event, Next::EventOr)
    }
}

impl<T: Send + 'static> Machine for LedgerMachine<T> {
    type Event = Event<T>;
    type Answer = Answer<T>;

    fn turn(&mut self, now: Now, events: &mut Vec<Event<T>>, answers: &mut Vec<Answer<T>>) -> Next {
        self.waiting.extend(events.drain(..));
        self.busy_turns += 1;
        if self.waiting.is_empty() || self.busy_turns >= CHORE_EVERY_TURNS {
            self.busy_turns = 0;
            self.do_chore(now, answers);
        }
        self.take_events(now, answers);
        self.save_standings(STANDINGS_PER_TURN);
        if self.is_writing() {
            self.write(answers);
        }
        if self.sync_at(now).is_some_and(|at| at <= now.at) {
            self.begin_sync(now);
        }
        self.next(now)
    }

    fn to_sync(&mut self) -> Option<Arc<dyn DiskFile>> {
        self.syncing.as_mut()?.file.take()
    }

    fn synced(&mut self, now: Now, result: io::Result<()>, answers: &mut Vec<Answer<T>>) {
        self.end_sync(now, result, answers);
    }

    fn close(&mut self, now: Now, answers: &mut Vec<Answer<T>>) {
        self.take_events(now, answers);
        if self.is_writing() {
            self.write(answers);
        }
        if self.is_writing() {
            self.sync_and_wait(now, answers);
        }
        // Says that what came before is durable, so that the next life need not prove it by a checkpoint.
        if self.failure.is_none() {
            self.push(FrameKind::Records, &[]);
            self.write(answers);
        }
    }

    fn is_urgent(_event: &Event<T>) -> bool {
        true
    }
}
