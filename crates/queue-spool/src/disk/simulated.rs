//! A disk in memory that forgets what was not synced, fails when told to, and does the same again for the same seed.
//!
//! What a crash leaves of a file: everything that was synced, and of every later write any 512-byte sectors, of which some
//! end at any byte; a cut that was not synced has been made or not. Of a directory: every change before its last sync, and of the later ones any, or a prefix. A failed sync loses its writes for
//! good, though they can still be read: the cache holds them, and no later sync writes them. Locks end with a crash.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::codec::Nonce;
use crate::disk::{Access, Disk, DiskFile, Held, Lock};
use crate::thread::lock as locked;

mod looks;

pub use looks::As;

/// What a crash tears a write into, in bytes.
const SECTOR_BYTES: usize = 512;

/// The disk. Clones share it.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`: the device failed. A write may have been done in part, a sync has lost what it was to keep.
    Io,
    /// `ENOSPC`. A write may have been done in part.
    Full,
    /// The power goes: this operation may be done in part, and everything fails until [`SimulatedDisk::restart`].
    Crash,
}

struct State {
    random: u64,
    /// Names as processes see them.
    names: BTreeMap<PathBuf, Node>,
    /// Names as they are on the disk.
    durable: BTreeMap<PathBuf, Node>,
    /// Changes of names that are not durable, oldest first.
    changes: Vec<Change>,
    files: HashMap<u64, Content>,
    next_file: u64,
    locks: HashMap<PathBuf, Holders>,
    /// Changing operations so far, and those that are to fail.
    operations: u64,
    faults: HashMap<u64, Fault>,
    crashed: bool,
    life: u64,
    free_bytes: u64,
    /// How long a sync takes.
    sync_takes: Duration,
    /// How much all files together may hold.
    capacity: u64,
    /// How often each file is open: one without a name takes space until nobody has it open.
    open: HashMap<u64, usize>,
    /// Names removed since a simulation last looked.
    unlinked: Vec<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

#[derive(Default)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Writes and cuts since the last sync.
    pending: Vec<Pending>,
}

enum Pending {
    Write(usize, Vec<u8>),
    Cut(usize),
}

impl Pending {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => put(content, *offset, bytes),
            Self::Cut(size) => content.truncate(*size),
        }
    }
}

#[derive(Default)]
struct Holders {
    exclusive: bool,
    shared: usize,
}

impl SimulatedDisk {
    /// An empty disk with a root directory; everything by chance follows from `seed`.
    pub fn new(seed: u64) -> Self {
        let root = BTreeMap::from([(PathBuf::from("/"), Node::Dir)]);
        Self(Arc::new(Mutex::new(State {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            names: root.clone(),
            durable: root,
            changes: Vec::new(),
            files: HashMap::new(),
            next_file: 1,
            locks: HashMap::new(),
            operations: 0,
            faults: HashMap::new(),
            crashed: false,
            life: 0,
            free_bytes: u64::MAX,
            sync_takes: Duration::ZERO,
            capacity: u64::MAX,
            open: HashMap::new(),
            unlinked: Vec::new(),
        })))
    }

    /// Makes every sync of a file wait so long before it is done.
    pub fn set_sync_takes(&self, span: Duration) {
        self.state().sync_takes = span;
    }

    /// Leaves room for so many bytes more; a file that would need more does not grow, and gets `ENOSPC`.
    pub fn set_room(&self, bytes: u64) {
        let mut state = self.state();
        state.capacity = state.used().saturating_add(bytes);
    }

    /// Makes the changing operation that comes `after` so many others fail.
    pub fn fail_after(&self, after: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.operations + after;
        state.faults.insert(at, fault);
    }

    /// Says how much is free; nothing is counted.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().free_bytes = bytes;
    }

    /// Whether the power has gone.
    pub fn is_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Changing operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Loses what was not durable, as if the power had gone now, and goes on. Files opened before are dead.
    pub fn restart(&self) {
        self.state().restart();
    }

    /// Ends every process without a loss of power: the cache stays, locks and open files end.
    pub fn kill(&self) {
        let mut state = self.state();
        state.life += 1;
        state.locks.clear();
        state.faults.clear();
        state.crashed = false;
    }

    /// The files there are, and what they hold.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let state = self.state();
        let file = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(file) => Some((path.clone(), state.files.get(file)?.cached.clone())),
            Node::Dir => None,
        };
        state.names.iter().filter_map(file).collect()
    }

    /// Changes what a file holds, behind everybody's back.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let Some(Node::File(file)) = state.names.get(path).copied() else { return };
        if let Some(content) = state.files.get_mut(&file) {
            change(&mut content.cached);
            content.durable = content.cached.clone();
            content.pending.clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.0)
    }
}

impl State {
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn toss(&mut self) -> bool {
        self.draw() >> 63 == 0
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("the power has gone")) } else { Ok(()) }
    }

    /// Counts a changing operation and says how it is to fail.
    fn operation(&mut self) -> io::Result<Option<Fault>> {
        self.alive()?;
        let fault = self.faults.remove(&self.operations);
        self.operations += 1;
        self.crashed = fault == Some(Fault::Crash);
        Ok(fault)
    }

    /// As [`State::operation`], for those that are done whole or not at all.
    fn whole_operation(&mut self) -> io::Result<()> {
        match self.operation()? {
            Some(fault) => Err(fault.error()),
            None => Ok(()),
        }
    }

    /// What files hold that have a name or are open.
    fn used(&self) -> u64 {
        let named: HashSet<u64> = self
            .names
            .values()
            .filter_map(|node| match node {
                Node::File(file) => Some(*file),
                Node::Dir => None,
            })
            .collect();
        let kept = self.files.iter().filter(|(file, _)| {
            named.contains(file) || self.open.get(file).is_some_and(|count| *count > 0)
        });
        kept.map(|(_, content)| content.cached.len() as u64).sum()
    }

    fn make_room(&mut self, file: u64, length: usize) -> io::Result<()> {
        if self.capacity == u64::MAX {
            return Ok(());
        }
        let growth = length.saturating_sub(self.content(file).cached.len());
        if growth > 0 && self.used().saturating_add(growth as u64) > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn opened(&mut self, disk: &SimulatedDisk, file: u64) -> Box<dyn DiskFile> {
        *self.open.entry(file).or_default() += 1;
        Box::new(SimulatedFile { disk: disk.clone(), file, life: self.life })
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        match path.parent().and_then(|parent| self.names.get(parent)) {
            Some(Node::Dir) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn restart(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let ordered = self.toss();
        for change in changes {
            if self.toss() {
                change.apply(&mut self.durable);
            } else if ordered {
                break;
            }
        }
        // What stands in a directory that is not there is not there.
        let dirs: HashSet<_> = self
            .durable
            .iter()
            .filter(|(_, node)| **node == Node::Dir)
            .map(|(path, _)| path.clone())
            .collect();
        let reachable = |path: &Path| path.ancestors().skip(1).all(|above| dirs.contains(above));
        self.durable.retain(|path, _| reachable(path));
        self.names = self.durable.clone();
        let mut files = std::mem::take(&mut self.files);
        let mut sorted: Vec<_> = files.keys().copied().collect();
        sorted.sort_unstable();
        for file in sorted {
            let Some(content) = files.get_mut(&file) else { continue };
            for pending in std::mem::take(&mut content.pending) {
                let Pending::Write(offset, bytes) = pending else {
                    if self.toss() {
                        pending.apply(&mut content.durable);
                    }
                    continue;
                };
                for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    let kept = match self.draw() % 16 {
                        0..8 => 0,
                        8 => self.draw() as usize % sector.len(),
                        _ => sector.len(),
                    };
                    let (kept, _) = sector.split_at(kept);
                    put(&mut content.durable, offset + number * SECTOR_BYTES, kept);
                }
            }
            content.cached = content.durable.clone();
        }
        self.files = files;
        self.locks.clear();
        self.faults.clear();
        self.crashed = false;
        self.life += 1;
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Link(path, node) => drop(names.insert(path.clone(), *node)),
            Self::Unlink(path) => drop(names.remove(path)),
            Self::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }

    fn dir(&self) -> Option<&Path> {
        let (Self::Link(path, _) | Self::Unlink(path) | Self::Rename(_, path, _)) = self;
        path.parent()
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Io | Self::Crash => io::Error::other("simulated failure of the device"),
            Self::Full => io::ErrorKind::StorageFull.into(),
        }
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    if let Some(place) = content.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

impl Disk for SimulatedDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.names.get(path) == Some(&Node::Dir) {
            return state.alive();
        }
        state.whole_operation()?;
        state.parent_exists(path)?;
        state.change(Change::Link(path.to_owned(), Node::Dir));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        if state.names.get(dir) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.whole_operation()?;
        state.parent_exists(path)?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Content::default());
        state.change(Change::Link(path.to_owned(), Node::File(file)));
        Ok(state.opened(self, file))
    }

    fn open(&self, path: &Path, _access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.alive()?;
        match state.names.get(path).copied() {
            Some(Node::File(file)) => Ok(state.opened(self, file)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole_operation()?;
        let Some(node) = state.names.get(from).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        state.change(Change::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole_operation()?;
        if !matches!(state.names.get(path), Some(Node::File(_))) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.unlinked.push(path.to_owned());
        state.change(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole_operation()?;
        let (inside, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut state.changes)
            .into_iter()
            .partition(|change| change.dir() == Some(dir));
        inside.iter().for_each(|change| change.apply(&mut state.durable));
        state.changes = rest;
        Ok(())
    }

    fn lock(&self, path: &Path, lock: Lock) -> io::Result<Option<Box<dyn Held>>> {
        let mut state = self.state();
        state.alive()?;
        let life = state.life;
        let holders = state.locks.entry(path.to_owned()).or_default();
        match lock {
            Lock::Exclusive if holders.exclusive || holders.shared > 0 => return Ok(None),
            Lock::Shared if holders.exclusive => return Ok(None),
            Lock::Exclusive => holders.exclusive = true,
            Lock::Shared => holders.shared += 1,
        }
        Ok(Some(Box::new(SimulatedLock { disk: self.clone(), path: path.to_owned(), lock, life })))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state();
        state.alive()?;
        Ok(state.free_bytes)
    }

    fn nonce(&self) -> io::Result<Nonce> {
        let mut state = self.state();
        state.alive()?;
        let (low, high) = (state.draw(), state.draw());
        Ok(Nonce((u128::from(low) << 64 | u128::from(high)).to_le_bytes()))
    }
}

struct SimulatedLock {
    disk: SimulatedDisk,
    path: PathBuf,
    lock: Lock,
    life: u64,
}

impl Held for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life != self.life {
            return;
        }
        let holders = state.locks.entry(self.path.clone()).or_default();
        match self.lock {
            Lock::Exclusive => holders.exclusive = false,
            Lock::Shared => holders.shared -= 1,
        }
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    file: u64,
    life: u64,
}

impl SimulatedFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        state.alive()?;
        if state.life == self.life { Ok(state) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        if let Some(count) = self.disk.state().open.get_mut(&self.file) {
            *count = count.saturating_sub(1);
        }
    }
}

impl State {
    fn content(&mut self, file: u64) -> &mut Content {
        self.files.entry(file).or_default()
    }
}

impl DiskFile for SimulatedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let fault = state.operation()?;
        state.make_room(self.file, offset as usize + bytes.len())?;
        let length = match fault {
            None => bytes.len(),
            Some(_) => (state.draw() % (bytes.len() as u64 + 1)) as usize,
        };
        let (written, _) = bytes.split_at(length);
        let content = state.content(self.file);
        put(&mut content.cached, offset as usize, written);
        content.pending.push(Pending::Write(offset as usize, written.to_vec()));
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state()?;
        let cached = &state.content(self.file).cached;
        let rest = cached.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes.split_at_mut(count).0.copy_from_slice(rest.split_at(count).0);
        Ok(count)
    }

    fn read_now(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let sync_takes = self.state()?.sync_takes;
        if !sync_takes.is_zero() {
            std::thread::sleep(sync_takes);
        }
        let mut state = self.state()?;
        match state.operation()? {
            None => {
                let content = state.content(self.file);
                let pending = std::mem::take(&mut content.pending);
                pending.iter().for_each(|pending| pending.apply(&mut content.durable));
                let size = content.cached.len();
                content.durable.resize(size, 0);
                Ok(())
            }
            // The pages are clean now, and what they held is nowhere else.
            Some(fault @ (Fault::Io | Fault::Full)) => {
                let pending = std::mem::take(&mut state.content(self.file).pending);
                for pending in pending {
                    if state.toss() {
                        pending.apply(&mut state.content(self.file).durable);
                    }
                }
                Err(fault.error())
            }
            Some(fault @ Fault::Crash) => Err(fault.error()),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state()?.content(self.file).cached.len() as u64)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state()?;
        if let Some(fault) = state.operation()? {
            return Err(fault.error());
        }
        state.make_room(self.file, bytes as usize)?;
        let content = state.content(self.file);
        if content.cached.len() < bytes as usize {
            content.cached.resize(bytes as usize, 0);
        }
        Ok(())
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state()?;
        if let Some(fault) = state.operation()? {
            return Err(fault.error());
        }
        let content = state.content(self.file);
        content.cached.truncate(bytes as usize);
        content.pending.push(Pending::Cut(bytes as usize));
        Ok(())
    }
}
