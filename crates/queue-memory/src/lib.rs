//! A queue in memory, for tests and for the simulation.
//!
//! [`Memory`] is one store; what it opens shares its content, as processes share a spool. Nothing waits, nothing is
//! drawn at random, and no clock is read: two runs that do the same get the same ids and handles. It keeps to the
//! contracts of crate `queue`, which its conformance suite proves, and holds nothing beyond the process.

#![forbid(unsafe_code)]

mod ledger;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use mail::{MessageId, Timestamp};
use queue::{
    Accept, Accepted, Body, Compaction, Draft, Handle, Intake, IntakeError, Ledger, LedgerError,
    Listed, Local, NothingToCompact, ReadError, Reader, Recovery, Segment, SizeHint, Stored,
};

use ledger::{MemoryLedger, Records};

/// The store's name in handles.
const STORE: &str = "memory";
/// The largest piece of a body that a reader hands out, in bytes.
const PIECE_BYTES_MAX: usize = 256 << 10;

/// A store. Clones share it.
#[derive(Clone, Default)]
pub struct Memory(Rc<Store>);

#[derive(Default)]
struct Store {
    /// Messages that are not retired.
    messages: RefCell<BTreeMap<MessageId, Message>>,
    drafts: RefCell<BTreeMap<MessageId, Bytes>>,
    /// One segment for each acceptor that there was, and whether it still is.
    segments: RefCell<Vec<Presence>>,
    records: Records,
    ids: Cell<u64>,
    trouble: RefCell<Option<IntakeError>>,
}

struct Message {
    accepted: Accepted,
    body: Bytes,
    segment: usize,
    /// Its place in the order of acceptance.
    order: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Living,
    Gone,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens it for accepting; each call is another acceptor with a segment of its own.
    pub fn intake(&self) -> Rc<dyn Intake> {
        let mut segments = self.0.segments.borrow_mut();
        segments.push(Presence::Living);
        Rc::new(MemoryIntake(Rc::new(Acceptor {
            store: self.0.clone(),
            segment: segments.len() - 1,
        })))
    }

    /// Opens it for reading.
    pub fn reader(&self) -> Rc<dyn Reader> {
        Rc::new(MemoryReader(self.0.clone()))
    }

    /// Opens it for listing.
    pub fn recovery(&self) -> Rc<dyn Recovery> {
        Rc::new(MemoryRecovery(self.0.clone()))
    }

    /// Opens it for compacting: there is never anything to do, as each message's space is its own.
    pub fn compaction(&self) -> Rc<dyn Compaction> {
        Rc::new(NothingToCompact(|handle: &Handle| parts(handle).is_some()))
    }

    /// Opens its ledger; [`LedgerError::Held`] while another is open.
    pub fn ledger(&self) -> Result<Rc<dyn Ledger>, LedgerError> {
        Ok(Rc::new(MemoryLedger::open(self.0.clone())?))
    }

    /// From now on no draft begins and no commit succeeds, for this reason; nothing ends the trouble.
    pub fn set_trouble(&self, trouble: Option<IntakeError>) {
        *self.0.trouble.borrow_mut() = trouble;
    }

    /// How many messages it holds that are not retired.
    pub fn messages(&self) -> usize {
        self.0.messages.borrow().len()
    }
}

impl Store {
    fn check(&self) -> Result<(), IntakeError> {
        self.trouble.borrow().clone().map_or(Ok(()), Err)
    }

    /// Ids that sort in the order in which they were made.
    fn next_id(&self) -> MessageId {
        let number = self.ids.get() + 1;
        self.ids.set(number);
        MessageId::new(Timestamp::from_millis(number), number)
    }
}

fn handle(kind: char, id: MessageId) -> Handle {
    Handle::parse(&format!("{STORE}:{kind}.{id}")).expect("an id makes a well-formed handle")
}

/// The kind and id that a handle of this store names.
fn parts(handle: &Handle) -> Option<(char, MessageId)> {
    let (STORE, name) = handle.parts() else { return None };
    let (kind, id) = name.split_once('.')?;
    let kind = match kind {
        "m" => 'm',
        "d" => 'd',
        _ => return None,
    };
    Some((kind, id.parse().ok()?))
}

struct MemoryIntake(Rc<Acceptor>);

/// Lives as long as its drafts and commits do.
struct Acceptor {
    store: Rc<Store>,
    segment: usize,
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if let Some(presence) = self.store.segments.borrow_mut().get_mut(self.segment) {
            *presence = Presence::Gone;
        }
    }
}

impl Intake for MemoryIntake {
    fn begin(&self, hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError> {
        self.0.store.check()?;
        self.begin_as(self.0.store.next_id(), hint)
    }

    fn begin_as(&self, id: MessageId, _hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError> {
        self.0.store.check()?;
        Ok(Box::new(MemoryDraft {
            acceptor: self.0.clone(),
            id,
            body: Vec::new(),
            state: State::Open,
        }))
    }
}

struct MemoryDraft {
    acceptor: Rc<Acceptor>,
    id: MessageId,
    body: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Finished,
}

impl MemoryDraft {
    fn accept(&mut self, mut accept: Accept) -> Result<Handle, IntakeError> {
        let store = self.acceptor.store.clone();
        store.check()?;
        let body = match accept.replaced_body.take() {
            Some(replaced) => store.draft(&replaced).ok_or_else(|| {
                let source = std::io::Error::from(std::io::ErrorKind::NotFound);
                IntakeError::Io { context: format!("no draft {replaced}"), source: source.into() }
            })?,
            None => match self.state {
                State::Open => Bytes::from(std::mem::take(&mut self.body)),
                State::Finished => store.draft(&handle('d', self.id)).unwrap_or_default(),
            },
        };
        let accepted = Accepted { id: self.id, size: body.len() as u64, accept };
        let segment = self.acceptor.segment;
        let order = store.ids.get() + 1;
        store.ids.set(order);
        store.messages.borrow_mut().insert(self.id, Message { accepted, body, segment, order });
        Ok(handle('m', self.id))
    }
}

impl Store {
    fn draft(&self, handle: &Handle) -> Option<Bytes> {
        let ('d', id) = parts(handle)? else { return None };
        self.drafts.borrow().get(&id).cloned()
    }
}

impl Draft for MemoryDraft {
    fn id(&self) -> MessageId {
        self.id
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        if self.state == State::Finished {
            return Err(IntakeError::Closed);
        }
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    fn room(&mut self) -> Local<'_, Result<(), IntakeError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn finish(&mut self) -> Local<'_, Result<Handle, IntakeError>> {
        if self.state == State::Open {
            self.state = State::Finished;
            let body = Bytes::from(std::mem::take(&mut self.body));
            self.acceptor.store.drafts.borrow_mut().insert(self.id, body);
        }
        Box::pin(std::future::ready(Ok(handle('d', self.id))))
    }

    fn commit(mut self: Box<Self>, accept: Accept) -> Local<'static, Result<Handle, IntakeError>> {
        let accepted = self.accept(accept);
        Box::pin(std::future::ready(accepted))
    }
}

impl Drop for MemoryDraft {
    fn drop(&mut self) {
        self.acceptor.store.drafts.borrow_mut().remove(&self.id);
    }
}

struct MemoryReader(Rc<Store>);

impl MemoryReader {
    fn find(&self, handle: &Handle) -> Result<Stored, ReadError> {
        let gone = |why: &str| ReadError::Gone(handle.clone(), why.into());
        match parts(handle) {
            Some(('m', id)) => {
                let messages = self.0.messages.borrow();
                let message = messages.get(&id).ok_or_else(|| gone("there is no such message"))?;
                let accepted = message.accepted.clone();
                Ok(Stored { accepted, body: Box::new(MemoryBody::new(message.body.clone())) })
            }
            Some(_) => Err(gone("it is a draft")),
            None => Err(ReadError::Foreign(handle.clone())),
        }
    }

    fn find_draft(&self, handle: &Handle) -> Result<Box<dyn Body>, ReadError> {
        if parts(handle).is_none() {
            return Err(ReadError::Foreign(handle.clone()));
        }
        match self.0.draft(handle) {
            Some(body) => Ok(Box::new(MemoryBody::new(body))),
            None => Err(ReadError::Gone(handle.clone(), "there is no such draft".into())),
        }
    }
}

impl Reader for MemoryReader {
    fn open(&self, handle: &Handle) -> Local<'_, Result<Stored, ReadError>> {
        Box::pin(std::future::ready(self.find(handle)))
    }

    fn open_draft(&self, handle: &Handle) -> Local<'_, Result<Box<dyn Body>, ReadError>> {
        Box::pin(std::future::ready(self.find_draft(handle)))
    }
}

struct MemoryBody {
    size: u64,
    rest: Bytes,
}

impl MemoryBody {
    fn new(body: Bytes) -> Self {
        Self { size: body.len() as u64, rest: body }
    }
}

impl Body for MemoryBody {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES_MAX));
        Box::pin(std::future::ready(Ok((!piece.is_empty()).then_some(piece))))
    }
}

struct MemoryRecovery(Rc<Store>);

impl Recovery for MemoryRecovery {
    fn segments(&self, all: bool) -> Local<'_, Result<Vec<Segment>, ReadError>> {
        let segments = self.0.segments.borrow();
        let listed = segments.iter().enumerate();
        let listed = listed.filter(|(_, presence)| all || **presence == Presence::Gone);
        let listed = listed.map(|(number, _)| Segment(number.to_string())).collect();
        Box::pin(std::future::ready(Ok(listed)))
    }

    fn accepted(&self, segment: &Segment) -> Local<'_, Result<Vec<Listed>, ReadError>> {
        let number = segment.0.parse::<usize>().ok();
        let messages = self.0.messages.borrow();
        let mut found: Vec<_> =
            messages.values().filter(|message| Some(message.segment) == number).collect();
        found.sort_by_key(|message| message.order);
        let listed = found.into_iter().map(|message| Listed {
            handle: handle('m', message.accepted.id),
            id: message.accepted.id,
            accepted_at: message.accepted.accept.accepted_at,
        });
        let listed = listed.collect();
        Box::pin(std::future::ready(Ok(listed)))
    }
}
