//! A simulated machine on which acceptors and a scheduler live, die and live again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{MessageId, Timestamp};
use queue::conformance::{accept, pattern, routed};
use queue::{Accepted, Handle, Record, Routed, Standing};

use crate::codec::{HEAD_BYTES, Kind};
use crate::disk::simulated::SimulatedDisk;
use crate::disk::{Disk, DiskFile, Held};
use crate::intake::bodies::{self, Bodies};
use crate::intake::writer::{self, CommitBody, Writer};
use crate::ledger::machine::{self as ledger, Book, LedgerMachine};
use crate::place::{
    BodyPlace, Layout, MessagePlace, Place, RecordPlace, StripeFile, stripe_file_of,
};
use crate::read::{
    BLOCK_BYTES, BlockReader, BodyAt, Fault, OpenFile, Pieces, accept_line, check_record,
    draft_bytes, home_of,
};
use crate::thread::{Machine, Next, Now};
use crate::{Settings, Spool};

/// Whoever waits: the message, or a checkpoint.
pub(super) type Waiter = MessageId;

pub(super) const DIR: &str = "/";

/// The disk, the time, and what everybody was told.
pub(super) struct World {
    pub(super) disk: SimulatedDisk,
    pub(super) spool: Spool,
    pub(super) now: Now,
    random: u64,
    ids: u64,
    /// What was ever given to the store, told or not.
    pub(super) bodies: BTreeMap<MessageId, Vec<u8>>,
    /// Messages whose client was told `250`.
    pub(super) accepted: BTreeMap<MessageId, Handle>,
    /// Commits and drafts that were refused.
    pub(super) refused: u64,
    /// Messages for which `Retired` was ever appended.
    pub(super) retiring: BTreeMap<MessageId, Handle>,
    /// Records that were reported as synced: routings and ends.
    pub(super) routed: BTreeMap<MessageId, Handle>,
    pub(super) retired: BTreeMap<MessageId, Handle>,
}

/// One acceptor.
pub(super) struct Acceptor {
    pub(super) writer: Writer<Waiter>,
    pub(super) bodies: Bodies<Waiter>,
    drafted: BTreeMap<MessageId, crate::place::RecordPlace>,
}

/// The scheduler, as far as the ledger sees it.
pub(super) struct Scheduler {
    pub(super) machine: LedgerMachine<Waiter>,
    pub(super) book: Book,
    pub(super) live: BTreeMap<MessageId, Routed>,
    appended: Vec<(u64, Record)>,
    pub(super) mark: u64,
    pub(super) written: u64,
    pub(super) spare: ledger::Spare,
    pub(super) failed: bool,
    /// Messages that the present checkpoint is still to write.
    checkpoint: Option<Vec<MessageId>>,
    pub(super) syncs: Syncs,
    _held: Box<dyn Held>,
}

/// Syncs of a machine that are done beside its turns.
#[derive(Default)]
pub(super) struct Syncs {
    pub(super) pace: Pace,
    under_way: Option<UnderWay>,
}

/// How long a sync takes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Pace {
    /// No turn passes meanwhile.
    #[default]
    AtOnce,
    /// The disk is done at once and the machine hears of it after other turns, which the sync does not cover.
    ToldLate,
    /// The disk does it after other turns.
    DoneLate,
}

enum UnderWay {
    Done(std::io::Result<()>),
    Waiting(Arc<dyn DiskFile>),
}

impl Syncs {
    fn begin(&mut self, file: Arc<dyn DiskFile>) {
        assert!(self.under_way.is_none(), "one sync at a time");
        self.under_way = Some(match self.pace {
            Pace::AtOnce | Pace::ToldLate => UnderWay::Done(file.sync()),
            Pace::DoneLate => UnderWay::Waiting(file),
        });
    }

    fn end(&mut self) -> Option<std::io::Result<()>> {
        Some(match self.under_way.take()? {
            UnderWay::Done(result) => result,
            UnderWay::Waiting(file) => file.sync(),
        })
    }
}

/// Small files, so that every border is crossed often.
pub(super) fn settings() -> Settings {
    Settings {
        segment_bytes: config::ByteSize(16 << 10),
        body_file_bytes_min: config::ByteSize(2 << 10),
        ledger_bytes: config::ByteSize(8 << 10),
        ..Settings::default()
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        let spool = Spool::new(Arc::new(disk.clone()), Path::new(DIR), settings());
        let now = Now { at: Instant::now(), wall: Timestamp::from_millis(1_700_000_000_000) };
        Self {
            disk,
            spool,
            now,
            random: seed.wrapping_mul(0xd134_2543_de82_ef95) | 1,
            ids: 0,
            bodies: BTreeMap::new(),
            accepted: BTreeMap::new(),
            refused: 0,
            retiring: BTreeMap::new(),
            routed: BTreeMap::new(),
            retired: BTreeMap::new(),
        }
    }

    /// A number below `bound`.
    pub(super) fn draw(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % bound
    }

    pub(super) fn wait(&mut self, millis: u64) {
        let span = Duration::from_millis(millis);
        self.now = Now { at: self.now.at + span, wall: self.now.wall.after(span) };
    }

    pub(super) fn new_body(&mut self, length: usize) -> MessageId {
        self.ids += 1;
        let id = MessageId::new(self.now.wall, self.ids);
        self.bodies.insert(id, pattern(length, self.ids as u8));
        id
    }

    pub(super) fn acceptor(&mut self) -> Option<Acceptor> {
        let (writer, bodies, _) = self.spool.intake_machines(self.now).ok()?;
        Some(Acceptor { writer, bodies, drafted: BTreeMap::new() })
    }

    pub(super) fn scheduler(&mut self) -> Result<Scheduler, queue::LedgerError> {
        let mut live = BTreeMap::new();
        let mut apply = |record| match record {
            Record::Routed(it) | Record::Snapshot(it) => drop(live.insert(it.id, *it)),
            Record::Retired { id, .. } => drop(live.remove(&id)),
            Record::Moved { id, handle } => {
                if let Some(message) = live.get_mut(&id) {
                    message.handle = handle;
                }
            }
            _ => {}
        };
        let (machine, book, held) = self.spool.ledger_machine(self.now, &mut apply)?;
        let spare = machine.spare();
        Ok(Scheduler {
            machine,
            book,
            live,
            appended: Vec::new(),
            mark: 0,
            written: 0,
            spare,
            failed: false,
            checkpoint: None,
            syncs: Syncs::default(),
            _held: held,
        })
    }

    /// Checks what must always hold after a start: nothing accepted is lost.
    pub(super) fn check(&self, scheduler: &Scheduler) {
        let layout = Layout::new(Path::new(DIR));
        let listed = self.listed();
        for (id, handle) in &listed {
            assert!(self.bodies.contains_key(id), "{id} was never given to the store");
            let Some(accepted) = self.accepted.get(id) else { continue };
            assert_eq!(accepted, handle, "a message keeps its handle");
        }
        for (id, handle) in &self.accepted {
            let standing = scheduler.book.standing(handle);
            if !self.retiring.contains_key(id) {
                assert_ne!(standing, Standing::Retired, "{id} never ended");
            }
            if self.retired.contains_key(id) {
                assert_eq!(standing, Standing::Retired, "{id} ended durably");
                assert!(!scheduler.live.contains_key(id), "{id} ended durably");
            } else if self.routed.contains_key(id) && !self.retiring.contains_key(id) {
                assert_eq!(standing, Standing::Routed, "{id} was routed durably");
                assert!(scheduler.live.contains_key(id), "{id} was routed durably");
            }
            // What the scheduler still has to deliver must be there, whatever the standing says.
            if standing == Standing::Retired && !scheduler.live.contains_key(id) {
                continue;
            }
            assert!(listed.contains_key(id), "{id} is listed for requeue: {handle}, {standing:?}");
            let Some(Place::Message(place)) = Place::parse(handle) else { panic!("{handle}") };
            let (accepted, mut pieces) = open_message(&self.disk, &layout, &place)
                .unwrap_or_else(|fault| panic!("{id} is readable: {fault:?}"));
            let mut body = Vec::new();
            while let Some(piece) = pieces.next().expect("every piece is readable") {
                body.extend(piece);
            }
            assert!(body == self.bodies[id], "{id} has its body");
            assert_eq!(accepted.id, *id);
        }
    }

    /// The segments there are, and what they hold.
    pub(super) fn segments(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let is_segment = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            matches!(stripe_file_of(name), StripeFile::Segment(_))
        };
        self.disk.files().into_iter().filter(|(path, _)| is_segment(path)).collect()
    }

    /// What recovery lists, of all segments.
    pub(super) fn listed(&self) -> BTreeMap<MessageId, Handle> {
        let layout = Layout::new(Path::new(DIR));
        let mut listed = BTreeMap::new();
        for segment in crate::recovery::list(&self.disk, &layout, true).expect("it can be read") {
            let entries = crate::recovery::accepted(&self.disk, &layout, segment);
            for it in entries.expect("it can be read") {
                assert_eq!(listed.insert(it.id, it.handle), None, "{} is listed twice", it.id);
            }
        }
        listed
    }
}

/// Opens an accepted message, waiting for the disk.
pub(super) fn open_message(
    disk: &dyn Disk,
    layout: &Layout,
    place: &MessagePlace,
) -> Result<(Accepted, Pieces), Fault> {
    let (path, kind, offset) = home_of(layout, place);
    let file = OpenFile::open(disk, &path, kind)?;
    let id = place.record.id;
    let mut bytes = file.read(offset, place.record.length as usize)?;
    let head = check_record(&file, &bytes, offset, &[Kind::Message, Kind::Accept], id)?;
    let (accepted, at) = accept_line(&bytes, &head)?.accepted();
    let pieces = match at {
        BodyAt::Here => {
            bytes.drain(..HEAD_BYTES + head.accept_bytes as usize);
            Pieces::Whole(Some(bytes))
        }
        BodyAt::Record { offset, length } => {
            let place = RecordPlace { offset, length, ..place.record };
            Pieces::Whole(Some(draft_bytes(&file, &place)?))
        }
        BodyAt::File { nonce } => {
            let body = BodyPlace { stripe: place.record.segment.stripe, id, size: accepted.size };
            Pieces::File(BlockReader::open(disk, layout, &body, Some(&nonce))?)
        }
    };
    Ok((accepted, pieces))
}

/// Lets a machine do all it wants to do now.
fn run<M: Machine>(machine: &mut M, now: Now, events: Vec<M::Event>) -> Vec<M::Answer> {
    run_with(machine, now, events, &mut Syncs::default())
}

/// The same, where a sync may go on when the machine has come to rest.
fn run_with<M: Machine>(
    machine: &mut M,
    now: Now,
    mut events: Vec<M::Event>,
    syncs: &mut Syncs,
) -> Vec<M::Answer> {
    let mut answers = Vec::new();
    for _ in 0..1000 {
        let next = machine.turn(now, &mut events, &mut answers);
        assert!(events.is_empty(), "every event is taken");
        if let Some(file) = machine.to_sync() {
            syncs.begin(file);
        }
        if syncs.pace == Pace::AtOnce
            && let Some(result) = syncs.end()
        {
            machine.synced(now, result, &mut answers);
            continue;
        }
        match next {
            Next::EventOr(at) | Next::RestUntil(at) if at <= now.at => {}
            _ => return answers,
        }
    }
    panic!("a machine does not come to rest");
}

impl Acceptor {
    pub(super) fn commit_small(&mut self, world: &mut World, length: usize) {
        let id = world.new_body(length);
        let body = CommitBody::Whole(world.bodies[&id].clone());
        let accept = Box::new(accept("a@example.test", 2));
        self.write(world, vec![writer::Event::Commit { id, accept, body, waiter: id }]);
    }

    pub(super) fn draft(&mut self, world: &mut World, length: usize) {
        let id = world.new_body(length);
        let body = world.bodies[&id].clone();
        self.write(world, vec![writer::Event::Draft { id, body, waiter: id }]);
    }

    /// Accepts or drops the oldest draft.
    pub(super) fn end_draft(&mut self, world: &mut World, is_accepted: bool) {
        let Some((id, place)) = self.drafted.pop_first() else { return };
        let event = if is_accepted {
            let accept = Box::new(accept("a@example.test", 1));
            writer::Event::Commit { id, accept, body: CommitBody::Drafted(place), waiter: id }
        } else {
            writer::Event::Release(id)
        };
        self.write(world, vec![event]);
    }

    pub(super) fn commit_large(&mut self, world: &mut World, length: usize, is_accepted: bool) {
        let id = world.new_body(length);
        let body = world.bodies[&id].clone();
        let mut events = vec![bodies::Event::Open { id }];
        events.extend(
            body.chunks(BLOCK_BYTES)
                .map(|bytes| bodies::Event::Block { id, bytes: bytes.to_vec() }),
        );
        let accept = Box::new(accept("a@example.test", 1));
        events.push(if is_accepted {
            bodies::Event::Commit { id, accept, waiter: id }
        } else {
            bodies::Event::Abort { id }
        });
        let mut forwarded = Vec::new();
        for answer in run(&mut self.bodies, world.now, events) {
            match answer {
                bodies::Answer::Forward(event) => forwarded.push(event),
                bodies::Answer::Failed(..) => world.refused += 1,
                _ => {}
            }
        }
        self.write(world, forwarded);
    }

    pub(super) fn write(&mut self, world: &mut World, events: Vec<writer::Event<Waiter>>) {
        for answer in run(&mut self.writer, world.now, events) {
            self.take(world, answer);
        }
    }

    fn take(&mut self, world: &mut World, answer: writer::Answer<Waiter>) {
        match answer {
            writer::Answer::Committed(id, Ok(place)) => {
                world.accepted.insert(id, Place::Message(place).handle());
            }
            writer::Answer::Drafted(id, Ok(place)) => drop(self.drafted.insert(id, place)),
            writer::Answer::Committed(_, Err(_)) | writer::Answer::Drafted(_, Err(_)) => {
                world.refused += 1;
            }
            writer::Answer::Health(_) => {}
        }
    }

    pub(super) fn close(mut self, world: &mut World) {
        let mut answers = Vec::new();
        self.writer.close(world.now, &mut answers);
        answers.into_iter().for_each(|answer| self.take(world, answer));
    }
}

impl Scheduler {
    pub(super) fn append(&mut self, world: &mut World, records: &[Record]) {
        if self.failed && self.checkpoint.is_none() {
            return;
        }
        self.mark += 1;
        for record in records {
            self.appended.push((self.mark, record.clone()));
            match record {
                Record::Routed(it) => drop(self.live.insert(it.id, (**it).clone())),
                Record::Retired { id, handle } => {
                    self.live.remove(id);
                    world.retiring.insert(*id, handle.clone());
                }
                Record::Moved { id, handle } => {
                    if let Some(message) = self.live.get_mut(id) {
                        message.handle = handle.clone();
                    }
                }
                _ => {}
            }
        }
        let event = self.book.append(self.mark, records).expect("it is small");
        self.turn(world, vec![event]);
    }

    /// Routes some accepted message that is not known, or ends one that is.
    pub(super) fn work(&mut self, world: &mut World) {
        let unknown = world.accepted.iter().find(|(id, handle)| {
            !self.live.contains_key(id) && self.book.standing(handle) == Standing::Unknown
        });
        let unknown = unknown.map(|(id, handle)| (*id, handle.clone()));
        match unknown {
            Some((id, handle)) if self.live.len() < 20 => {
                self.append(world, &[routed(id, &handle, 1)]);
            }
            _ => {
                let ended: Vec<_> = self.live.values().take(15).cloned().collect();
                let records: Vec<_> = ended
                    .into_iter()
                    .map(|it| Record::Retired { id: it.id, handle: it.handle })
                    .collect();
                self.append(world, &records);
            }
        }
    }

    pub(super) fn sync(&mut self, world: &mut World) {
        self.turn(world, vec![ledger::Event::Want(self.mark)]);
    }

    /// Goes one step further with a checkpoint, beginning and ending it.
    pub(super) fn checkpoint(&mut self, world: &mut World) {
        let Some(left) = &mut self.checkpoint else {
            self.checkpoint = Some(self.live.keys().copied().collect());
            return self.turn(world, vec![ledger::Event::Begin]);
        };
        let snapshot = loop {
            match left.pop() {
                None => break None,
                Some(id) => match self.live.get(&id) {
                    None => {}
                    Some(message) => break Some(message.clone()),
                },
            }
        };
        match snapshot {
            Some(message) => self.append(world, &[Record::Snapshot(Box::new(message))]),
            None => {
                let waiter = MessageId::new(Timestamp::default(), 0);
                self.turn(world, vec![ledger::Event::End(waiter)]);
            }
        }
    }

    pub(super) fn turn(&mut self, world: &mut World, events: Vec<ledger::Event<Waiter>>) {
        let answers = run_with(&mut self.machine, world.now, events, &mut self.syncs);
        answers.into_iter().for_each(|answer| self.take(world, answer));
    }

    /// Says how long syncs take from now on, one that is under way too.
    pub(super) fn set_pace(&mut self, world: &mut World, pace: Pace) {
        self.syncs.pace = pace;
        self.end_sync(world);
    }

    fn end_sync(&mut self, world: &mut World) {
        if let Some(result) = self.syncs.end() {
            let mut answers = Vec::new();
            self.machine.synced(world.now, result, &mut answers);
            answers.into_iter().for_each(|answer| self.take(world, answer));
        }
    }

    fn take(&mut self, world: &mut World, answer: ledger::Answer<Waiter>) {
        match answer {
            ledger::Answer::Written(mark) => self.written = mark,
            ledger::Answer::Spare(spare) => self.spare = spare,
            ledger::Answer::Synced(mark) => {
                assert!(!self.failed, "nothing is synced after a failure, before a checkpoint is");
                self.note_synced(world, mark);
            }
            ledger::Answer::Failed(_) => {
                self.failed = true;
                self.checkpoint = None;
            }
            ledger::Answer::Ended(_, Ok(())) => {
                self.failed = false;
                self.checkpoint = None;
            }
            ledger::Answer::Ended(_, Err(_)) => self.checkpoint = None,
        }
    }

    fn note_synced(&mut self, world: &mut World, synced: u64) {
        let (durable, rest) =
            std::mem::take(&mut self.appended).into_iter().partition(|(mark, _)| *mark <= synced);
        self.appended = rest;
        let durable: Vec<(u64, Record)> = durable;
        for (_, record) in durable {
            match record {
                Record::Routed(it) => drop(world.routed.insert(it.id, it.handle)),
                Record::Retired { id, handle } => drop(world.retired.insert(id, handle)),
                _ => {}
            }
        }
    }

    pub(super) fn close(mut self, world: &mut World) {
        self.end_sync(world);
        let mut answers = Vec::new();
        self.machine.close(world.now, &mut answers);
        answers.into_iter().for_each(|answer| self.take(world, answer));
    }
}
