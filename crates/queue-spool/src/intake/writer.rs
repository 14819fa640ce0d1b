//! The machine that writes segments: events in, disk operations out, group commit between.
//!
//! ```text
//!            Draft ─▶ batch ─ write at once ─▶ Drafted
//!                                   (a sync that is due begins in the turn after these answers have left)
//!           Commit ─▶ batch ─ write ─ sync, when most who could share it have come, or
//!                                     `sync_spacing` after the last began ─▶ Committed, all of the batch
//!
//!  none ── first record ──▶ growing ── full, or idle ──▶ closing ── no draft open ──▶ sealed (footer synced)
//!                              └── a write or sync failed ──▶ given up; trouble until a new segment has synced ──▶ sealed as it was before
//! ```
//!
//! What must hold: no commit is answered before a sync that began after its write has succeeded; after a failed sync, or a
//! failed write of records, no record is written to that file, and its footer lists only what had been synced before; an accept record and its
//! body stand in one segment, or the body in a file that was synced, with its directory, before.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::MessageId;
use queue::{Accept, IntakeError};

use crate::codec::{self, Entry, FileHead, FileKind, HEAD_BYTES, Kept, Kind, NewRecord, Nonce};
use crate::disk::{Disk, DiskFile};
pub(crate) use crate::intake::events::refusal;
pub use crate::intake::events::{Answer, CommitBody, Event, Health, Limits};
use crate::place::{Home, Layout, MessagePlace, RecordPlace, SegmentName};
use crate::read::{AcceptLineRef, BodyAt};
use crate::stripe::{Hold, Unsealed};
use crate::thread::{Machine, Next, Now};

/// A batch larger than this is written before it is complete.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// The most zeros that a segment is filled with ahead of its records. A sync that finds its file no longer than the last one left it
/// writes data alone; one that finds it grown writes the file system's records too, and waits for its journal.
const FILL_BYTES_MAX: u64 = 1 << 20;
/// A fill ends at a multiple of this: a page.
const FILL_ALIGNMENT: u64 = 4096;
/// Batches of which a fill does not hold so many are not worth one.
const FILL_BATCHES_MIN: u64 = 4;
/// With each sync a part of this size of the company is forgotten, so that it follows what is in work.
const COMPANY_FADES: u32 = 16;
/// How long after a failure a new segment is tried; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// A segment takes records for this many times `seal_after` at most: requeue sees no segment that grows, and a lost hint waits so long.
const SEAL_AFTER_TIMES: u32 = 5;
/// The longest wait between two tries to open a new segment, or to seal one.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The only writer of one stripe.
pub struct Writer<T> {
    disk: Arc<dyn Disk>,
    layout: Layout,
    limits: Limits,
    hold: Hold,
    current: Option<Growing>,
    /// Segments that take no more records and are not sealed: drafts in them are open, or the seal failed.
    closing: Vec<Growing>,
    /// Encoded records that stand behind `current.end`.
    batch: Vec<u8>,
    /// Drafts that are neither accepted nor dropped.
    open_drafts: HashMap<MessageId, SegmentName>,
    /// Drafts in the batch.
    drafts: Vec<(T, RecordPlace)>,
    /// Commits that are not synced.
    commits: Vec<(T, MessagePlace, Entry)>,
    sync_began: Option<Instant>,
    /// How many messages were in work at once of late, if anybody said: [`Event::Company`].
    company: Option<u32>,
    /// Whether a sync is due that waits only until the drafts written before it have been answered.
    owes_sync: bool,
    trouble: Option<Trouble>,
    /// How long the next failure is waited out: longer each time, until a commit has synced.
    retry_delay: Duration,
    seal_retry_at: Option<Instant>,
}

struct Growing {
    segment: SegmentName,
    file: Arc<dyn DiskFile>,
    nonce: Nonce,
    /// Where the next record goes.
    end: u64,
    /// Where the file ends: zeros stand between. The largest number once they found no room: this file gets no more of them.
    filled: u64,
    /// Accept records that are synced.
    entries: Vec<Entry>,
    /// Drafts that are neither accepted nor dropped.
    drafts: u32,
    begun_at: Instant,
    last_record_at: Instant,
    state: Soundness,
    /// Bodies of their own whose records are in it and were refused.
    refused_bodies: Vec<MessageId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Soundness {
    Sound,
    /// A write or sync failed: no record is written to it again. Once another segment has synced it is unlinked if nothing in it
    /// was accepted, else it gets a footer of what was accepted before: nothing that was refused is found in it then.
    Broken,
}

struct Trouble {
    error: IntakeError,
    retry_at: Instant,
}

impl<T: Send + 'static> Writer<T> {
    /// A writer for the stripe that is held.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        layout: Layout,
        limits: Limits,
        mut hold: Hold,
        at: Instant,
    ) -> Self {
        let closing = hold.unsealed.drain(..).map(|left| Growing::adopted(left, at)).collect();
        Self {
            disk,
            layout,
            limits,
            hold,
            current: None,
            closing,
            batch: Vec::new(),
            open_drafts: HashMap::new(),
            drafts: Vec::new(),
            commits: Vec::new(),
            sync_began: None,
            company: None,
            owes_sync: false,
            trouble: None,
            retry_delay: RETRY_FIRST,
            seal_retry_at: Some(at),
        }
    }

    fn on_event(&mut self, event: Event<T>, now: Now, answers: &mut Vec<Answer<T>>) {
        match event {
            Event::Draft { id, body, waiter } => self.draft(id, &body, waiter, now, answers),
            Event::Commit { id, accept, body, waiter } => {
                match self.commit(id, &accept, body, now) {
                    Ok((place, entry)) => self.commits.push((waiter, place, entry)),
                    Err(error) => answers.push(Answer::Committed(waiter, Err(error))),
                }
            }
            Event::Release(id) => self.release(id),
            Event::Company(company) => self.company = self.company.max(Some(company)),
            Event::Look => answers.push(self.health()),
        }
        if self.batch.len() >= BATCH_BYTES_MAX {
            self.write(now, answers);
        }
    }

    fn draft(
        &mut self,
        id: MessageId,
        body: &[u8],
        waiter: T,
        now: Now,
        answers: &mut Vec<Answer<T>>,
    ) {
        let encoded = self.growing(now).and_then(|()| {
            check_size(body.len())?;
            self.encode(Kind::Draft, id, now, |buffer, _| {
                buffer.extend_from_slice(body);
                Ok(0)
            })
        });
        match encoded {
            Ok(place) => {
                if let Some(current) = &mut self.current {
                    current.drafts += 1;
                }
                self.open_drafts.insert(id, place.segment);
                self.drafts.push((waiter, place));
            }
            Err(error) => answers.push(Answer::Drafted(waiter, Err(error))),
        }
    }

    fn commit(
        &mut self,
        id: MessageId,
        accept: &Accept,
        body: CommitBody,
        now: Now,
    ) -> Result<(MessagePlace, Entry), IntakeError> {
        let written = self.growing(now).and_then(|()| self.commit_body(id, accept, &body, now));
        self.release(id);
        match written {
            Ok((record, kept)) => {
                let place = MessagePlace { record, body: kept, home: Home::Segment };
                let RecordPlace { offset, length, .. } = record;
                let accepted_at = accept.accepted_at;
                Ok((place, Entry { offset, length, id, accepted_at, body: kept }))
            }
            Err(error) => {
                // No byte of the accept record was written, so nothing names the file.
                if let CommitBody::File { .. } = body {
                    self.remove_body(id);
                }
                Err(error)
            }
        }
    }

    fn commit_body(
        &mut self,
        id: MessageId,
        accept: &Accept,
        body: &CommitBody,
        now: Now,
    ) -> Result<(RecordPlace, Kept), IntakeError> {
        let copy;
        let (kind, at, size, bytes): (_, _, _, &[u8]) = match body {
            CommitBody::Whole(bytes) => (Kind::Message, BodyAt::Here, bytes.len() as u64, bytes),
            CommitBody::Drafted(draft) if self.is_current(draft.segment) => {
                let at = BodyAt::Record { offset: draft.offset, length: draft.length };
                (Kind::Accept, at, u64::from(draft.length) - HEAD_BYTES as u64, &[])
            }
            // Its segment is full: the message is written as a whole into the present one.
            CommitBody::Drafted(draft) => {
                copy = self.read_draft(draft)?;
                (Kind::Message, BodyAt::Here, copy.len() as u64, &copy)
            }
            CommitBody::File { nonce, size } => {
                (Kind::Accept, BodyAt::File { nonce: nonce.to_string() }, *size, &[])
            }
        };
        check_size(bytes.len())?;
        let kept = match body {
            CommitBody::File { .. } => Kept::Apart,
            _ => Kept::Within,
        };
        let record = self.encode(kind, id, now, |buffer, start| {
            let line = AcceptLineRef { id, size, body: at, accept };
            serde_json::to_writer(&mut *buffer, &line)
                .map_err(|error| refusal("accept record".into(), error.into()))?;
            let accept_bytes = buffer.len() - start;
            check_size(accept_bytes + bytes.len())?;
            buffer.extend_from_slice(bytes);
            Ok(accept_bytes as u32)
        })?;
        Ok((record, kept))
    }

    /// Adds a record to the batch; `fill` writes the payload and gives the length of its accept record.
    fn encode(
        &mut self,
        kind: Kind,
        id: MessageId,
        now: Now,
        fill: impl FnOnce(&mut Vec<u8>, usize) -> Result<u32, IntakeError>,
    ) -> Result<RecordPlace, IntakeError> {
        let current = self.current.as_mut().expect("a segment was opened before");
        let start = codec::begin_record(&mut self.batch);
        let accept_bytes = match fill(&mut self.batch, start + HEAD_BYTES) {
            Ok(accept_bytes) => accept_bytes,
            Err(error) => {
                self.batch.truncate(start);
                return Err(error);
            }
        };
        let offset = current.end + start as u64;
        let record = NewRecord { kind, id, accept_bytes };
        let length = codec::end_record(&mut self.batch, start, record, &current.nonce, offset);
        current.last_record_at = now.at;
        Ok(RecordPlace { segment: current.segment, offset, length, id })
    }

    fn is_current(&self, segment: SegmentName) -> bool {
        self.current.as_ref().is_some_and(|current| current.segment == segment)
    }

    fn read_draft(&self, place: &RecordPlace) -> Result<Vec<u8>, IntakeError> {
        let lost = |error| refusal("a draft of an earlier segment".into(), error);
        let gone = || lost(io::ErrorKind::InvalidData.into());
        let segment = self
            .closing
            .iter()
            .find(|closing| closing.segment == place.segment)
            .ok_or_else(gone)?;
        let mut bytes = vec![0; place.length as usize];
        let count = segment.file.read_at(&mut bytes, place.offset).map_err(lost)?;
        bytes.truncate(count);
        match codec::whole_record(&bytes, &segment.nonce, place.offset) {
            Some(head) if head.id == place.id && head.kind == Kind::Draft => {
                bytes.drain(..HEAD_BYTES);
                Ok(bytes)
            }
            _ => Err(gone()),
        }
    }

    /// A draft has been accepted or dropped: its segment waits for one less.
    fn release(&mut self, id: MessageId) {
        let Some(name) = self.open_drafts.remove(&id) else { return };
        let segments = self.current.iter_mut().chain(&mut self.closing);
        for segment in segments.filter(|segment| segment.segment == name) {
            segment.drafts = segment.drafts.saturating_sub(1);
        }
    }

    fn remove_body(&self, id: MessageId) {
        let path = self.layout.body(self.hold.stripe, id);
        if let Err(error) = self.disk.unlink(&path) {
            tracing::warn!(id = %id, %error, "cannot remove a body file; adoption will");
        }
    }

    fn health(&self) -> Answer<T> {
        Answer::Health(Health {
            trouble: self.trouble.as_ref().map(|trouble| trouble.error.clone()),
            free_bytes: self.disk.free_bytes(&self.hold.dir).ok(),
        })
    }
}

/// Opening, writing, syncing, giving up.
impl<T: Send + 'static> Writer<T> {
    /// Sees to it that there is a segment to write to.
    fn growing(&mut self, now: Now) -> Result<(), IntakeError> {
        if let Some(trouble) = &self.trouble {
            return Err(trouble.error.clone());
        }
        if self.current.is_none() {
            self.open(now).inspect_err(|error| self.get_into_trouble(error.clone(), now))?;
        }
        Ok(())
    }

    fn open(&mut self, now: Now) -> Result<(), IntakeError> {
        let failed = |error| refusal("cannot begin a segment".into(), error);
        let segment = self.hold.next_segment(&*self.disk).map_err(failed)?;
        let path = self.layout.segment(segment);
        let file: Arc<dyn DiskFile> = Arc::from(self.disk.create(&path).map_err(failed)?);
        let begun = self.disk.nonce().and_then(|nonce| {
            let head = FileHead {
                kind: FileKind::Segment,
                nonce,
                number: segment.sequence,
                created_at: now.wall,
                previous_number: 0,
                previous_synced: 0,
            };
            file.write_at(&head.encode(), 0)?;
            file.sync()?;
            self.disk.sync_dir(&self.hold.dir)?;
            Ok(nonce)
        });
        match begun {
            Ok(nonce) => {
                let end = HEAD_BYTES as u64;
                self.current = Some(Growing::new(segment, file, nonce, end, now.at));
                Ok(())
            }
            Err(error) => {
                // It never held a record; what cannot be removed now is removed by adoption.
                let _ = self.disk.unlink(&path);
                Err(failed(error))
            }
        }
    }

    /// Writes the batch and answers the drafts in it.
    fn write(&mut self, now: Now, answers: &mut Vec<Answer<T>>) {
        let Some(current) = self.current.as_mut().filter(|_| !self.batch.is_empty()) else {
            return;
        };
        if let Err(error) = current.file.write_at(&self.batch, current.end) {
            let context = format!("cannot write to segment {}", current.segment);
            return self.give_up(refusal(context, error), now, answers);
        }
        let length = self.batch.len() as u64;
        current.end += length;
        current.fill(length);
        self.batch.clear();
        self.batch.shrink_to(2 * BATCH_BYTES_MAX);
        let drafted = self.drafts.drain(..);
        answers.extend(drafted.map(|(waiter, place)| Answer::Drafted(waiter, Ok(place))));
    }

    /// Syncs what has been written and answers the commits.
    fn sync(&mut self, now: Now, answers: &mut Vec<Answer<T>>) {
        let Some(current) = self.current.as_mut() else { return };
        self.sync_began = Some(now.at);
        self.company = self.company.map(|company| company - company.div_ceil(COMPANY_FADES));
        if let Err(error) = current.file.sync() {
            let context = format!("cannot sync segment {}", current.segment);
            return self.give_up(refusal(context, error), now, answers);
        }
        self.retry_delay = RETRY_FIRST;
        for (waiter, place, entry) in self.commits.drain(..) {
            current.entries.push(entry);
            answers.push(Answer::Committed(waiter, Ok(place)));
        }
        if current.end >= self.limits.segment_bytes {
            self.closing.extend(self.current.take());
        }
    }

    /// A write or sync failed: nobody who waits for this segment is told success, and it is not written to again.
    fn give_up(&mut self, error: IntakeError, now: Now, answers: &mut Vec<Answer<T>>) {
        self.batch.clear();
        for (waiter, place) in std::mem::take(&mut self.drafts) {
            self.release(place.id);
            answers.push(Answer::Drafted(waiter, Err(error.clone())));
        }
        let mut refused_bodies = Vec::new();
        for (waiter, _, entry) in self.commits.drain(..) {
            if entry.body == Kept::Apart {
                refused_bodies.push(entry.id);
            }
            answers.push(Answer::Committed(waiter, Err(error.clone())));
        }
        if let Some(mut broken) = self.current.take() {
            broken.state = Soundness::Broken;
            broken.refused_bodies = refused_bodies;
            self.closing.push(broken);
        }
        self.get_into_trouble(error, now);
        answers.push(self.health());
    }

    fn get_into_trouble(&mut self, error: IntakeError, now: Now) {
        tracing::error!(%error, "the queue takes no mail until a new segment has synced");
        self.wait_out(error, now);
    }

    fn wait_out(&mut self, error: IntakeError, now: Now) {
        self.trouble = Some(Trouble { error, retry_at: now.at + self.retry_delay });
        self.retry_delay = (2 * self.retry_delay).min(RETRY_MAX);
    }

    /// Tries again to open a segment, when it is time.
    fn mend(&mut self, now: Now, answers: &mut Vec<Answer<T>>) {
        if self.trouble.as_ref().is_none_or(|trouble| trouble.retry_at > now.at) {
            return;
        }
        match self.open(now) {
            Ok(()) => {
                self.trouble = None;
                tracing::info!("the queue takes mail again");
                answers.push(self.health());
            }
            Err(error) => {
                self.wait_out(error, now);
                answers.push(self.health());
            }
        }
    }

    /// Closes the current segment when nothing has come for long, or when it has grown for long; or when drafts alone have
    /// filled it, for which no sync is ever due.
    fn close_current(&mut self, now: Now) {
        let idle = self.idle_at().is_some_and(|at| at <= now.at);
        let full = self.current.as_ref().is_some_and(|current| {
            self.commits.is_empty()
                && self.batch.is_empty()
                && current.end >= self.limits.segment_bytes
        });
        if idle || full {
            self.closing.extend(self.current.take());
        }
    }

    /// When the current segment is to be closed whatever its size; nothing while records of it are not synced.
    fn idle_at(&self) -> Option<Instant> {
        let current =
            self.current.as_ref().filter(|_| self.commits.is_empty() && self.batch.is_empty())?;
        let old = current.begun_at + self.limits.seal_after * SEAL_AFTER_TIMES;
        let idle = (current.drafts == 0).then(|| current.last_record_at + self.limits.seal_after);
        Some(idle.map_or(old, |idle| idle.min(old)))
    }

    /// Seals what is closed and has no open draft.
    fn seal(&mut self, now: Now) {
        if self.seal_retry_at.is_some_and(|at| at > now.at) {
            return;
        }
        self.seal_retry_at = None;
        let (mut kept, mut refused_bodies) = (Vec::new(), Vec::new());
        for segment in self.closing.drain(..) {
            let in_trouble = segment.state == Soundness::Broken && self.trouble.is_some();
            if segment.drafts > 0 || in_trouble && !segment.entries.is_empty() {
                kept.push(segment);
            } else if let Err(error) = segment.seal(&*self.disk, &self.layout) {
                // Trying again proves nothing of a footer whose sync failed. It need not: all that a footer lists was synced
                // before it, and without it adoption finds the same, and perhaps what was refused.
                tracing::warn!(segment = %segment.segment, %error, "cannot seal a segment yet");
                self.seal_retry_at = Some(now.at + RETRY_MAX);
                kept.push(segment);
            } else {
                refused_bodies.extend(segment.refused_bodies);
            }
        }
        self.closing = kept;
        // Nothing names them any more.
        refused_bodies.into_iter().for_each(|id| self.remove_body(id));
    }

    fn sync_at(&self) -> Option<Instant> {
        self.sync_began.map(|began| began + self.limits.sync_spacing)
    }

    /// Whether commits have waited long enough for others to share their sync, or few others can come.
    fn is_sync_due(&self, now: Now) -> bool {
        let is_joined = self.company.is_some_and(|company| is_joined(self.commits.len(), company));
        !self.commits.is_empty() && (is_joined || self.sync_at().is_none_or(|at| at <= now.at))
    }
}

impl Growing {
    fn new(
        segment: SegmentName,
        file: Arc<dyn DiskFile>,
        nonce: Nonce,
        end: u64,
        at: Instant,
    ) -> Self {
        Self {
            segment,
            file,
            nonce,
            end,
            filled: end,
            entries: Vec::new(),
            drafts: 0,
            begun_at: at,
            last_record_at: at,
            state: Soundness::Sound,
            refused_bodies: Vec::new(),
        }
    }

    fn adopted(left: Unsealed, at: Instant) -> Self {
        let Unsealed { segment, file, nonce, end, entries } = left;
        Self { entries, ..Self::new(segment, file, nonce, end, at) }
    }

    /// Goes on with zeros when the last batch, of so many bytes, has made the file longer. All fills together are no longer than the
    /// records.
    fn fill(&mut self, batch: u64) {
        if self.end <= self.filled {
            return;
        }
        self.filled = self.end;
        let ahead = self.end.min(FILL_BYTES_MAX) / FILL_ALIGNMENT * FILL_ALIGNMENT;
        if ahead < batch * FILL_BATCHES_MIN {
            return;
        }
        let until = self.end.next_multiple_of(FILL_ALIGNMENT) + ahead;
        let zeros = vec![0; usize::try_from(until - self.end).unwrap_or(0)];
        // Without room for them the records have theirs; what was written in part is zeros too.
        self.filled = match self.file.write_at(&zeros, self.end) {
            Ok(()) => until,
            Err(_) => u64::MAX,
        };
    }

    fn seal(&self, disk: &dyn Disk, layout: &Layout) -> io::Result<()> {
        // Nothing in it was accepted and no draft in it is open.
        if self.entries.is_empty() {
            return disk.unlink(&layout.segment(self.segment));
        }
        let end = match self.state {
            Soundness::Sound => self.end,
            // Some of what failed may be there.
            Soundness::Broken => codec::align(self.file.size()?).max(self.end),
        };
        let unsealed = Unsealed {
            segment: self.segment,
            file: self.file.clone(),
            nonce: self.nonce,
            end,
            entries: self.entries.clone(),
        };
        unsealed.seal()
    }
}

/// Whether so many commits are most of those that can be had for one sync while so many messages are in work.
pub(crate) fn is_joined(commits: usize, company: u32) -> bool {
    2 * commits > company as usize
}

fn check_size(payload: usize) -> Result<(), IntakeError> {
    if payload <= codec::PAYLOAD_BYTES_MAX as usize {
        return Ok(());
    }
    let error = io::Error::new(io::ErrorKind::FileTooLarge, "record is too large");
    Err(refusal(format!("a record of {payload} bytes"), error))
}

impl<T: Send + 'static> Machine for Writer<T> {
    type Event = Event<T>;
    type Answer = Answer<T>;

    fn turn(&mut self, now: Now, events: &mut Vec<Event<T>>, answers: &mut Vec<Answer<T>>) -> Next {
        self.mend(now, answers);
        // Before anything new is taken, so that no flood of drafts puts it off again.
        if std::mem::take(&mut self.owes_sync) && !self.commits.is_empty() {
            self.sync(now, answers);
        }
        for event in events.drain(..) {
            self.on_event(event, now, answers);
        }
        let due = self.is_sync_due(now);
        if due || !self.drafts.is_empty() {
            self.write(now, answers);
        }
        if due && !self.commits.is_empty() {
            // Answers leave at the end of a turn: whoever waits for a write is not kept waiting for a sync.
            self.owes_sync = answers.iter().any(|answer| matches!(answer, Answer::Drafted(..)));
            if !self.owes_sync {
                self.sync(now, answers);
            }
        }
        self.close_current(now);
        self.seal(now);
        self.next(now)
    }

    fn close(&mut self, now: Now, answers: &mut Vec<Answer<T>>) {
        self.write(now, answers);
        if !self.commits.is_empty() {
            self.sync(now, answers);
        }
        self.closing.extend(self.current.take());
        self.closing.iter_mut().for_each(|segment| segment.drafts = 0);
        self.seal_retry_at = None;
        self.seal(now);
    }

    fn is_urgent(event: &Event<T>) -> bool {
        matches!(event, Event::Draft { .. })
    }
}

impl<T: Send + 'static> Writer<T> {
    fn next(&self, now: Now) -> Next {
        if self.owes_sync {
            return Next::RestUntil(now.at);
        }
        if !self.commits.is_empty() {
            return Next::RestUntil(self.sync_at().unwrap_or(now.at));
        }
        let retry = self.trouble.as_ref().map(|trouble| trouble.retry_at);
        let times = [retry, self.idle_at(), self.seal_retry_at];
        times.into_iter().flatten().min().map_or(Next::Event, Next::EventOr)
    }
}
