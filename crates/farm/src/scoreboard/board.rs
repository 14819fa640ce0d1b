//! The file itself: where everything stands, and how it is made, mapped and read.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};
use sys::SharedMap;

use super::notice::{self, NOTICE_BYTES};
use super::{COUNTERS_MAX, Line, View, WorkerState};

/// "GRANGESB", little-endian.
const MAGIC: u64 = u64::from_le_bytes(*b"GRANGESB");
const VERSION: u32 = 1;

// The header.
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 8;
const AT_SLOTS: usize = 12;
const AT_HEADER_BYTES: usize = 16;
const AT_TALLY: usize = 20;
const AT_MANAGER: usize = 24;
const AT_NAMES_BYTES: usize = 28;
const AT_CRASHES: usize = 32;
const AT_CRASH_CURSOR: usize = 40;
const AT_GENERATION: usize = 44;
const AT_ON_DEMAND: usize = 48;
/// What each worker's notice takes; 0 on boards of programs that had none.
const AT_NOTICE_BYTES: usize = 52;
const AT_CRASHED: usize = 64;
const AT_ENDED: usize = 128;
const AT_NAMES: usize = 1024;
const PAGE: usize = 4096;
/// How many crashed workers' process ids are kept.
const CRASHED_KEPT: usize = 16;
/// A worker may hold more connections than another by this part of its own before it leaves new ones to the other.
const UNEVEN_PART: u32 = 4;
/// The same, as long as the other itself leaves new ones to others.
const UNEVEN_PART_WAITING: u32 = 2;
/// How often a notice is read that is not whole.
const NOTICE_READS: u32 = 5;
/// The longest names that a reader believes.
const NAMES_BYTES_MAX: usize = 64 << 10;

// A slot.
const SLOT_BYTES: usize = 512;
const SLOT_PID: usize = 0;
const SLOT_GENERATION: usize = 4;
const SLOT_STATE: usize = 8;
const SLOT_JOBS: usize = 12;
const SLOT_CONNECTIONS: usize = 16;
const SLOT_CAPACITY: usize = 20;
const SLOT_JOBS_DONE: usize = 24;
const SLOT_LOAD: usize = 32;
const SLOT_ACTIVE_AT: usize = 40;
const SLOT_WAITING: usize = 48;
const SLOT_LISTENERS: usize = 64;
const SLOT_COUNTERS: usize = 128;

/// Gauges of connections by listener: one for TCP together, one for each named socket.
pub(crate) const LISTENERS_MAX: usize = 16;
/// A worker that was running for more than so many thousandths of the last second is busy.
pub(crate) const BUSY_LOAD: u32 = 750;
/// The gauge of TCP connections.
pub(crate) const TCP_GAUGE: usize = 0;
/// The one of the job port; named sockets are in between.
pub(crate) const JOBS_GAUGE: usize = LISTENERS_MAX - 1;
/// Keys that the tally of a farm with TCP listeners holds.
pub(crate) const TALLY_BUCKETS: usize = 16_384;

/// The sizes of a scoreboard's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) slots: usize,
    pub(crate) tally_buckets: usize,
    header_bytes: usize,
    notice_bytes: usize,
}

impl Geometry {
    fn slots_end(&self) -> usize {
        self.header_bytes + self.slots * SLOT_BYTES
    }

    fn notices(&self) -> usize {
        let counts = self.tally_buckets * 2;
        (self.slots_end() + self.tally_buckets * 8 + self.slots * counts).next_multiple_of(8)
    }

    fn notice(&self, slot: usize) -> usize {
        self.notices() + slot * self.notice_bytes
    }

    fn length(&self) -> usize {
        self.notice(self.slots).next_multiple_of(PAGE)
    }
}

#[derive(Serialize, Deserialize)]
struct Names {
    farm: String,
    counters: Vec<String>,
}

/// A farm's scoreboard, mapped.
#[derive(Debug)]
pub(crate) struct Board {
    map: SharedMap,
    file: File,
    geometry: Geometry,
    farm: String,
    counters: usize,
    counter_names: Vec<String>,
    /// An open file of its own, locked as long as the manager lives: how a reader knows that the file is not a dead farm's.
    alive: Option<File>,
}

impl Board {
    /// Makes the file anew, whatever was there, and renames it into place.
    pub(crate) fn create(
        path: &Path,
        farm: &str,
        counters: &[String],
        slots: usize,
        tally_buckets: usize,
    ) -> io::Result<Self> {
        if counters.len() > COUNTERS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many counters"));
        }
        let names = Names { farm: farm.to_owned(), counters: counters.to_vec() };
        let names = serde_json::to_vec(&names)?;
        let header_bytes = (AT_NAMES + names.len()).next_multiple_of(PAGE);
        let notice_bytes = NOTICE_BYTES;
        let geometry = Geometry { slots, tally_buckets, header_bytes, notice_bytes };
        let temporary = temporary(path)?;
        let file = File::options().read(true).write(true).create_new(true).open(&temporary)?;
        file.set_permissions(PermissionsExt::from_mode(0o644))?;
        sys::fallocate(&file, 0, geometry.length() as u64)?;
        file.write_all_at(&names, AT_NAMES as u64)?;
        let alive = File::open(&temporary)?;
        if !sys::flock(&alive, sys::Lock::Exclusive)? {
            // Readers would take this farm for dead as long as it lives.
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "somebody locked the scoreboard",
            ));
        }
        let map = SharedMap::new(&file, geometry.length())?;
        let counter_names = counters.to_vec();
        let counters = counters.len();
        let farm = farm.to_owned();
        let alive = Some(alive);
        let this = Self { map, file, geometry, farm, counters, counter_names, alive };
        this.map.half(AT_VERSION).store(VERSION, Relaxed);
        this.map.half(AT_SLOTS).store(slots as u32, Relaxed);
        this.map.half(AT_HEADER_BYTES).store(header_bytes as u32, Relaxed);
        this.map.half(AT_TALLY).store(tally_buckets as u32, Relaxed);
        this.map.half(AT_MANAGER).store(std::process::id(), Relaxed);
        this.map.half(AT_NAMES_BYTES).store(names.len() as u32, Relaxed);
        this.map.half(AT_NOTICE_BYTES).store(notice_bytes as u32, Relaxed);
        this.map.word(AT_MAGIC).store(MAGIC, Relaxed);
        std::fs::rename(&temporary, path)?;
        Ok(this)
    }

    /// Maps the scoreboard that the manager handed over.
    pub(crate) fn of(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let header = Header::read(&file)?;
        let map = SharedMap::new(&file, header.geometry.length())?;
        let counters = header.names.counters.len();
        let farm = header.names.farm;
        let counter_names = header.names.counters;
        let geometry = header.geometry;
        Ok(Self { map, file, geometry, farm, counters, counter_names, alive: None })
    }

    /// Maps the scoreboard that this manager made before it executed another program, with the open file that says that it lives.
    pub(crate) fn adopt(fd: OwnedFd, alive: OwnedFd) -> io::Result<Self> {
        Ok(Self { alive: Some(File::from(alive)), ..Self::of(fd)? })
    }

    /// The open file by which readers know that the manager lives, if this is the manager.
    pub(crate) fn alive(&self) -> Option<BorrowedFd<'_>> {
        self.alive.as_ref().map(File::as_fd)
    }

    pub(crate) fn counter_names(&self) -> &[String] {
        &self.counter_names
    }

    /// Says which generation the manager starts now, and whether only when somebody asks.
    pub(crate) fn describe(&self, generation: u32, on_demand: bool) {
        self.map.half(AT_ON_DEMAND).store(on_demand.into(), Relaxed);
        self.map.half(AT_GENERATION).store(generation, Relaxed);
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot<'_>> {
        (0..self.geometry.slots).map(|index| self.slot(index))
    }

    /// The slot of that number, which must be below the geometry's slots.
    pub(crate) fn slot(&self, index: usize) -> Slot<'_> {
        assert!(index < self.geometry.slots, "a slot's number is below the number of slots");
        Slot { board: self, index, base: self.geometry.header_bytes + index * SLOT_BYTES }
    }

    pub(crate) fn slot_count(&self) -> usize {
        self.geometry.slots
    }

    pub(crate) fn tally_buckets(&self) -> usize {
        self.geometry.tally_buckets
    }

    /// Whether workers can leave notices on it.
    pub(crate) fn has_notices(&self) -> bool {
        self.geometry.notice_bytes > 0
    }

    pub(crate) fn tally_key(&self, bucket: usize) -> &AtomicU64 {
        self.map.word(self.geometry.slots_end() + bucket * 8)
    }

    pub(crate) fn tally_count(&self, slot: usize, bucket: usize) -> &AtomicU16 {
        let buckets = self.geometry.tally_buckets;
        let counts = self.geometry.slots_end() + buckets * 8;
        self.map.quarter(counts + (slot * buckets + bucket) * 2)
    }

    /// Ready workers of a generation.
    pub(crate) fn ready(&self, generation: u32) -> u32 {
        let ready = self.slots().filter(|slot| slot.is_ready_of(generation));
        ready.count() as u32
    }

    /// Counts a crash and keeps its process id among the last ones.
    pub(crate) fn crashed(&self, pid: u32, to_blame: bool) {
        self.map.word(AT_CRASHES).fetch_add(1, Relaxed);
        if to_blame {
            let cursor = self.map.half(AT_CRASH_CURSOR).fetch_add(1, Relaxed) as usize;
            self.map.half(AT_CRASHED + cursor % CRASHED_KEPT * 4).store(pid, Relaxed);
        }
    }

    /// A process has this number now: it no longer names the one that crashed.
    pub(crate) fn forget_crash(&self, pid: u32) {
        for index in 0..CRASHED_KEPT {
            let kept = self.map.half(AT_CRASHED + index * 4);
            if kept.load(Relaxed) == pid {
                kept.store(0, Relaxed);
            }
        }
    }

    /// Process ids of workers that crashed lately.
    pub(crate) fn recent_crashes(&self) -> Vec<u32> {
        let kept = (0..CRASHED_KEPT).map(|index| self.map.half(AT_CRASHED + index * 4));
        kept.map(|pid| pid.load(Relaxed)).filter(|pid| *pid != 0).collect()
    }

    /// Takes the history of the board that this one replaces, as far as its counters have the same names.
    pub(crate) fn continue_from(&self, old: &Board) {
        self.map.word(AT_CRASHES).store(old.map.word(AT_CRASHES).load(Relaxed), Relaxed);
        for pid in old.recent_crashes() {
            let cursor = self.map.half(AT_CRASH_CURSOR).fetch_add(1, Relaxed) as usize;
            self.map.half(AT_CRASHED + cursor % CRASHED_KEPT * 4).store(pid, Relaxed);
        }
        for (counter, place) in self.places_of(old) {
            self.ended(place).store(old.ended(counter).load(Relaxed), Relaxed);
        }
    }

    /// The counters of another board that this one has too: their numbers there, and here.
    fn places_of(&self, other: &Board) -> impl Iterator<Item = (usize, usize)> {
        other.counter_names.iter().enumerate().filter_map(|(counter, name)| {
            Some((counter, self.counter_names.iter().position(|own| own == name)?))
        })
    }

    fn ended(&self, counter: usize) -> &AtomicU64 {
        self.map.word(AT_ENDED + counter * 8)
    }

    /// Adds an ended worker's counters to the totals of `self`, and frees its slot, which may be on an older board.
    pub(crate) fn retire(&self, slot: &Slot<'_>) {
        for (counter, place) in self.places_of(slot.board) {
            let value = slot.word(SLOT_COUNTERS + counter * 8).load(Relaxed);
            self.ended(place).fetch_add(value, Relaxed);
        }
        for bucket in 0..slot.board.tally_buckets() {
            slot.board.tally_count(slot.index, bucket).store(0, Relaxed);
        }
        slot.clear();
    }
}

impl AsFd for Board {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// One worker's part of the scoreboard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot<'a> {
    board: &'a Board,
    index: usize,
    base: usize,
}

impl Slot<'_> {
    fn half(&self, offset: usize) -> &AtomicU32 {
        self.board.map.half(self.base + offset)
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        self.board.map.word(self.base + offset)
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Whether no worker has it.
    pub(crate) fn is_free(&self) -> bool {
        self.half(SLOT_STATE).load(Relaxed) == 0
    }

    /// Gives the slot to a worker that is about to be started.
    pub(crate) fn take(&self, generation: u32, capacity: u32) {
        self.clear();
        self.half(SLOT_GENERATION).store(generation, Relaxed);
        self.half(SLOT_CAPACITY).store(capacity, Relaxed);
        self.set_state(WorkerState::Starting);
    }

    pub(crate) fn clear(&self) {
        for offset in (0..SLOT_BYTES).step_by(8) {
            self.word(offset).store(0, Relaxed);
        }
        self.set_notice("");
    }

    /// What the worker has to tell; nothing is the empty text.
    pub(crate) fn set_notice(&self, text: &str) {
        let board = self.board;
        if board.has_notices() {
            let base = board.geometry.notice(self.index);
            notice::write(text, |number| board.map.word(base + number * 8));
        }
    }

    pub(crate) fn set_pid(&self, pid: u32) {
        self.half(SLOT_PID).store(pid, Relaxed);
    }

    pub(crate) fn set_state(&self, state: WorkerState) {
        let number = match state {
            WorkerState::Starting => 1,
            WorkerState::Ready => 2,
            WorkerState::Draining => 3,
            WorkerState::Standby => 4,
        };
        self.half(SLOT_STATE).store(number, Relaxed);
    }

    fn is_ready_of(&self, generation: u32) -> bool {
        state(self.half(SLOT_STATE).load(Relaxed)) == Some(WorkerState::Ready)
            && self.half(SLOT_GENERATION).load(Relaxed) == generation
    }

    pub(crate) fn jobs(&self) -> &AtomicU32 {
        self.half(SLOT_JOBS)
    }

    pub(crate) fn jobs_done(&self) -> &AtomicU64 {
        self.word(SLOT_JOBS_DONE)
    }

    pub(crate) fn connections(&self) -> &AtomicU32 {
        self.half(SLOT_CONNECTIONS)
    }

    pub(crate) fn load(&self) -> &AtomicU32 {
        self.half(SLOT_LOAD)
    }

    pub(crate) fn active_at(&self) -> &AtomicU64 {
        self.word(SLOT_ACTIVE_AT)
    }

    /// Connections of one listener: [`TCP_GAUGE`], or a named socket's number.
    pub(crate) fn gauge(&self, listener: usize) -> &AtomicU32 {
        self.half(SLOT_LISTENERS + listener % LISTENERS_MAX * 4)
    }

    pub(crate) fn counter(&self, counter: usize) -> &AtomicU64 {
        assert!(counter < self.board.counters, "a counter has a name in the composer's list");
        self.word(SLOT_COUNTERS + counter * 8)
    }

    /// Says whether this worker leaves connections of that listener to others for a moment.
    pub(crate) fn set_waiting(&self, listener: usize, waits: bool) {
        let bit = 1 << (listener % LISTENERS_MAX);
        let waiting = self.half(SLOT_WAITING);
        if waits {
            waiting.fetch_or(bit, Relaxed)
        } else {
            waiting.fetch_and(!bit, Relaxed)
        };
    }

    fn is_waiting(&self, listener: usize) -> bool {
        self.half(SLOT_WAITING).load(Relaxed) & (1 << (listener % LISTENERS_MAX)) != 0
    }

    /// Whether a ready worker of the same generation, with room, holds so many fewer connections of that listener than this one
    /// that it should take the next.
    ///
    /// TCP connections may come by the thousand a second, and shall not be kept waiting for the sake of one more or less: the other
    /// must also have time to take one, and hold a quarter fewer, or half if it just leaves them to others itself. A farm's senders
    /// are few, and count on the worker with the fewest.
    pub(crate) fn should_wait(&self, listener: usize) -> bool {
        let ours = self.gauge(listener).load(Relaxed);
        let is_tcp = listener == TCP_GAUGE;
        let slack = |other: &Slot<'_>| match other.is_waiting(listener) {
            _ if !is_tcp => 0,
            true => ours / UNEVEN_PART_WAITING,
            false => ours / UNEVEN_PART,
        };
        let generation = self.half(SLOT_GENERATION).load(Relaxed);
        self.board.slots().any(|other| {
            other.index != self.index
                && other.gauge(listener).load(Relaxed).saturating_add(slack(&other)) < ours
                && other.is_ready_of(generation)
                && !(is_tcp && other.load().load(Relaxed) > BUSY_LOAD)
                && other.gauge(TCP_GAUGE).load(Relaxed) < other.half(SLOT_CAPACITY).load(Relaxed)
        })
    }
}

fn state(number: u32) -> Option<WorkerState> {
    match number {
        1 => Some(WorkerState::Starting),
        2 => Some(WorkerState::Ready),
        3 => Some(WorkerState::Draining),
        4 => Some(WorkerState::Standby),
        _ => None,
    }
}

/// A header as it stands in a file, checked.
struct Header {
    geometry: Geometry,
    names: Names,
    bytes: Vec<u8>,
}

impl Header {
    /// By positions of its own: the open file is shared with workers that start at the same time.
    fn read(file: &File) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut bytes = vec![0; AT_NAMES];
        file.read_exact_at(&mut bytes, 0)?;
        if word(&bytes, AT_MAGIC) != MAGIC || half(&bytes, AT_VERSION) != VERSION {
            return Err(wrong("no scoreboard of this version"));
        }
        let geometry = Geometry {
            slots: half(&bytes, AT_SLOTS) as usize,
            tally_buckets: half(&bytes, AT_TALLY) as usize,
            header_bytes: half(&bytes, AT_HEADER_BYTES) as usize,
            notice_bytes: half(&bytes, AT_NOTICE_BYTES) as usize,
        };
        let names_bytes = half(&bytes, AT_NAMES_BYTES) as usize;
        if geometry.slots > 4096
            || geometry.tally_buckets > 1 << 20
            || names_bytes > NAMES_BYTES_MAX
            || ![0, NOTICE_BYTES].contains(&geometry.notice_bytes)
            || geometry.header_bytes < AT_NAMES + names_bytes
            || !geometry.header_bytes.is_multiple_of(PAGE)
            || geometry.length() as u64 > file.metadata()?.len()
        {
            return Err(wrong("a scoreboard of impossible sizes"));
        }
        let mut names = vec![0; names_bytes];
        file.read_exact_at(&mut names, AT_NAMES as u64)?;
        let names: Names = serde_json::from_slice(&names)?;
        if names.counters.len() > COUNTERS_MAX {
            return Err(wrong("a scoreboard of too many counters"));
        }
        Ok(Self { geometry, names, bytes })
    }
}

/// The name under which a scoreboard is made, free: readers pass it over ([`is_scoreboard`]), so that none of them holds its
/// lock for a moment just when its manager wants it.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    let temporary = path.with_file_name(name);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(temporary),
    }
}

/// Whether a file of that name is a whole scoreboard, not one that is just being made.
pub(super) fn is_scoreboard(path: &Path) -> bool {
    path.file_name().is_some_and(|name| !name.as_bytes().starts_with(b"."))
}

/// Reads one scoreboard, without mapping it: a reader must not die of a file that shrinks.
pub(super) fn read(path: &PathBuf) -> io::Result<View> {
    let file = File::open(path)?;
    if sys::flock(&file, sys::Lock::Shared)? {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its manager has gone"));
    }
    let header = Header::read(&file)?;
    let mut slots = vec![0; header.geometry.slots * SLOT_BYTES];
    file.read_exact_at(&mut slots, header.geometry.header_bytes as u64)?;
    let counters = header.names.counters.len();
    let farm = header.names.farm;
    let line = |(index, slot): (usize, &[u8])| {
        Some(Line {
            worker: worker_name(&farm, index),
            pid: half(slot, SLOT_PID),
            generation: half(slot, SLOT_GENERATION),
            state: state(half(slot, SLOT_STATE))?,
            jobs: half(slot, SLOT_JOBS),
            connections: half(slot, SLOT_CONNECTIONS),
            capacity: half(slot, SLOT_CAPACITY),
            jobs_done: word(slot, SLOT_JOBS_DONE),
            load: half(slot, SLOT_LOAD),
            active_at: word(slot, SLOT_ACTIVE_AT),
            counters: (0..counters)
                .map(|counter| word(slot, SLOT_COUNTERS + counter * 8))
                .collect(),
            notice: read_notice(&file, &header.geometry, index),
        })
    };
    let workers = slots.chunks(SLOT_BYTES).enumerate().filter_map(line).collect();
    Ok(View {
        manager: half(&header.bytes, AT_MANAGER),
        generation: half(&header.bytes, AT_GENERATION),
        on_demand: half(&header.bytes, AT_ON_DEMAND) != 0,
        ended: (0..counters).map(|counter| word(&header.bytes, AT_ENDED + counter * 8)).collect(),
        crashes: word(&header.bytes, AT_CRASHES),
        counters: header.names.counters,
        workers,
        farm,
    })
}

/// A worker's notice, read again if it was just being written.
fn read_notice(file: &File, geometry: &Geometry, slot: usize) -> Option<String> {
    let mut bytes = vec![0; geometry.notice_bytes];
    for _ in 0..NOTICE_READS {
        file.read_exact_at(&mut bytes, geometry.notice(slot) as u64).ok()?;
        if let Ok(text) = notice::read(&bytes) {
            return text;
        }
    }
    None
}

/// A worker's name: its farm's, and its slot's number from 1.
pub(crate) fn worker_name(farm: &str, slot: usize) -> String {
    format!("{farm}/{}", slot + 1)
}

impl Board {
    /// The name of the worker in a slot.
    pub(crate) fn worker_name(&self, slot: usize) -> String {
        worker_name(&self.farm, slot)
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}
