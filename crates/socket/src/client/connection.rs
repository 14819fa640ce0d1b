//! One connection of a client, from the chosen version to its end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::place::Place;
use super::pool::Pool;
use super::{CallError, Peer, PeerId};
use crate::frame::{self, FRAME_BYTES, Frame, Id};
use crate::lease::Granted;
use crate::link::{Link, Sink};
use crate::{Address, Conversation, ErrorObject, LeaseLeft, codes};

/// After so long without a word, with answers outstanding, the server is pinged; after as long again it is given up.
pub(super) const SILENCE: Duration = Duration::from_secs(15);
/// Clocks do not run quite alike: a lease that was granted is over only so much later.
const CLOCKS_DIFFER: Duration = Duration::from_millis(200);
/// The largest window that is believed.
const WINDOW_MAX: u32 = 65_536;
/// The most workers of a farm that are believed, and so the most connections.
const WORKERS_MAX: u32 = 256;

pub(super) type OnAnswer<C> =
    Box<dyn FnOnce(Result<<C as Conversation>::Answer, CallError>) + 'static>;

/// What a server says first. Only the conversation and its versions are needed; a program of an operator may leave the rest out.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Hello {
    pub(super) conversation: String,
    pub(super) versions: Vec<u32>,
    #[serde(default)]
    window: Option<u32>,
    #[serde(default)]
    window_bytes: Option<usize>,
    #[serde(default)]
    worker: String,
    #[serde(default)]
    pub(super) pid: u32,
    #[serde(flatten)]
    pub(super) farm: FarmState,
    /// The one of the versions that was chosen.
    #[serde(skip)]
    pub(super) version: u32,
}

/// What a server says of its farm, in `hello` and in `workers`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct FarmState {
    #[serde(default = "one")]
    workers: u32,
    #[serde(default)]
    pub(super) crashed: Vec<u32>,
}

fn one() -> u32 {
    1
}

impl FarmState {
    pub(super) fn workers(&self) -> u32 {
        self.workers.clamp(1, WORKERS_MAX)
    }
}

/// A request without an answer yet.
struct Pending<C: Conversation> {
    /// `None` for a ping, and once the caller has given up: the window stays taken until the server has answered.
    on_answer: Option<OnAnswer<C>>,
    bytes: usize,
    expires: Option<Instant>,
    is_ping: bool,
    /// The server has said that it has nothing else in hand.
    is_alone: bool,
}

/// What a server says of a request that is to be alone in its hand.
#[derive(Deserialize)]
struct InHand {
    id: u64,
    alone: bool,
}

pub(super) struct Connection<C: Conversation> {
    pub(super) pool: Weak<Pool<C>>,
    pub(super) link: Rc<Link>,
    pub(super) id: PeerId,
    pub(super) worker: String,
    pub(super) place: Rc<Place>,
    /// The worker's process; see [`Place::process`].
    pub(super) process: u32,
    version: u32,
    pub(super) window: u32,
    window_bytes: usize,
    pending: RefCell<HashMap<u64, Pending<C>, BuildHasherDefault<IdHasher>>>,
    outstanding: Cell<u32>,
    outstanding_bytes: Cell<usize>,
    draining: Cell<bool>,
    next_id: Cell<u64>,
    /// Says for how long what is asked here may be acted on, if the server was told to ask for that.
    lease: Option<LeaseLeft>,
    /// How long the last of what was granted lasts at most.
    granted_until: Cell<Option<Instant>>,
    /// When the server was last heard, or the first of the requests now outstanding was sent.
    heard: Cell<Instant>,
    pinged: Cell<bool>,
}

#[derive(Serialize)]
struct Nothing {}

impl<C: Conversation> Connection<C> {
    pub(super) fn new(
        pool: Weak<Pool<C>>,
        link: Rc<Link>,
        id: PeerId,
        place: Rc<Place>,
        hello: &Hello,
    ) -> Self {
        Self {
            pool,
            link,
            id,
            worker: hello.worker.clone(),
            process: place.process(hello.pid),
            place,
            version: hello.version,
            window: hello.window.unwrap_or(crate::WINDOW).clamp(1, WINDOW_MAX),
            window_bytes: hello.window_bytes.unwrap_or(crate::WINDOW_BYTES),
            pending: RefCell::default(),
            outstanding: Cell::new(0),
            outstanding_bytes: Cell::new(0),
            draining: Cell::new(false),
            next_id: Cell::new(0),
            lease: None,
            granted_until: Cell::new(None),
            heard: Cell::new(Instant::now()),
            pinged: Cell::new(false),
        }
    }

    /// Has the server told that it must ask for how long it may act.
    pub(super) fn leased(mut self, lease: LeaseLeft) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Answers a server's question whether this end is there, and for how long it stands behind what it asked.
    fn answer_ping(&self, id: &Id) {
        let Some(lease) = &self.lease else {
            return self.link.append(|out| frame::write_answer(out, id, &Nothing {}));
        };
        let granted = Granted::of(lease);
        // The server counts from before it asked: by then what it has is over.
        let until = Instant::now() + granted.span();
        self.granted_until.set(self.granted_until.get().max(Some(until)));
        self.link.append(|out| frame::write_answer(out, id, &granted));
    }

    /// When a server that may be cut off from here acts no more on what it was asked; nothing if it does not now.
    pub(super) fn acts_until(&self) -> Option<Instant> {
        let is_remote = matches!(self.place.address, Address::Tcp { .. });
        let until = self.granted_until.get()? + CLOCKS_DIFFER;
        (is_remote && self.outstanding.get() > 0 && until > Instant::now()).then_some(until)
    }

    pub(super) fn peer(&self) -> Peer {
        Peer {
            id: self.id,
            worker: self.worker.clone(),
            pid: self.process,
            version: self.version,
            window: self.window,
            outstanding: self.outstanding.get(),
            draining: self.draining.get(),
        }
    }

    pub(super) fn outstanding(&self) -> u32 {
        self.outstanding.get()
    }

    pub(super) fn takes_requests(&self) -> bool {
        !self.draining.get() && self.link.is_up()
    }

    /// Whether a request with parameters of so many bytes may be sent. A lone request always may, up to a frame's limit. The
    /// server counts whole lines, so this end never counts less.
    pub(super) fn has_room(&self, params_bytes: usize) -> bool {
        let outstanding = self.outstanding.get();
        let bytes = params_bytes + FRAME_BYTES;
        outstanding < self.window
            && (outstanding == 0 || self.outstanding_bytes.get() + bytes <= self.window_bytes)
    }

    /// Appends a request; the caller has seen that there is room.
    pub(super) fn send(
        &self,
        method: &str,
        (deadline, alone): (Duration, bool),
        params: &[u8],
        expires: Option<Instant>,
        on_answer: OnAnswer<C>,
    ) {
        let id = self.take_id();
        if self.outstanding.get() == 0 {
            self.heard.set(Instant::now());
            self.pinged.set(false);
        }
        let bytes = params.len() + FRAME_BYTES;
        let on_answer = Some(on_answer);
        let pending = Pending { on_answer, bytes, expires, is_ping: false, is_alone: false };
        self.outstanding.set(self.outstanding.get() + 1);
        self.outstanding_bytes.set(self.outstanding_bytes.get() + pending.bytes);
        self.pending.borrow_mut().insert(id, pending);
        let terms = (Some(deadline), alone);
        self.link.append(|out| frame::write_request(out, id, method, terms, params));
    }

    fn take_id(&self) -> u64 {
        let id = self.next_id.get() + 1;
        self.next_id.set(id);
        id
    }

    /// Time passed in which this process did not run.
    pub(super) fn forgive(&self, now: Instant, late: Duration) {
        self.heard.set((self.heard.get() + late).min(now));
    }

    /// Gives up what has expired, pings a silent server, ends a connection that stays silent. Returns when to look again.
    pub(super) fn check_times(&self, now: Instant) -> Option<Instant> {
        if self.outstanding.get() == 0 {
            return None;
        }
        let mut expired = Vec::new();
        let mut next_expires = None;
        for pending in self.pending.borrow_mut().values_mut() {
            match pending.expires {
                Some(expires) if expires <= now => {
                    pending.expires = None;
                    expired.extend(pending.on_answer.take());
                }
                expires => next_expires = next_expires.into_iter().chain(expires).min(),
            }
        }
        for on_answer in expired {
            on_answer(Err(CallError::Deadline));
        }
        if now >= self.heard.get() + SILENCE * 2 {
            tracing::warn!(conversation = C::NAME, peer = %self.worker, place = %self.place.address, "a server is silent: connection given up");
            self.link.close();
            return None;
        }
        if now >= self.heard.get() + SILENCE && !self.pinged.replace(true) {
            let id = self.take_id();
            let (on_answer, expires) = (None, None);
            let ping = Pending { on_answer, bytes: 0, expires, is_ping: true, is_alone: false };
            self.pending.borrow_mut().insert(id, ping);
            self.link.append(|out| frame::write_request(out, id, "ping", (None, false), b"{}"));
        }
        let silent = self.heard.get() + SILENCE * if self.pinged.get() { 2 } else { 1 };
        next_expires.into_iter().chain([silent]).min()
    }

    /// Fails everything that is unanswered; the connection is over.
    pub(super) fn lose_all(&self) {
        let pending = self.pending.take();
        self.outstanding.set(0);
        self.outstanding_bytes.set(0);
        for Pending { on_answer, is_alone: alone, .. } in pending.into_values() {
            if let Some(on_answer) = on_answer {
                let (worker, pid) = (self.worker.clone(), self.process);
                on_answer(Err(CallError::Lost { worker, pid, alone }));
            }
        }
    }

    /// Takes an answer; says whether the connection goes on.
    fn answered(&self, id: &Id, answer: impl FnOnce() -> Result<C::Answer, CallError>) -> bool {
        let pending = match id {
            Id::Number(number) => self.pending.borrow_mut().remove(number),
            Id::Text(_) => None,
        };
        let Some(pending) = pending else {
            tracing::warn!(conversation = C::NAME, peer = %self.worker, place = %self.place.address, "a server answered what was not asked: connection closed");
            return false;
        };
        if pending.is_ping {
            return true;
        }
        let was_full = !self.has_room(1);
        self.outstanding.set(self.outstanding.get() - 1);
        self.outstanding_bytes.set(self.outstanding_bytes.get() - pending.bytes);
        if let Some(on_answer) = pending.on_answer {
            on_answer(answer());
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.room_became_free(was_full);
        }
        self.close_if_over();
        true
    }

    /// Closes a connection that takes no more requests, once all answers have come.
    fn close_if_over(&self) {
        if !self.takes_requests() && self.outstanding.get() == 0 {
            self.link.close_when_flushed();
        }
    }

    /// Takes no more requests, and closes once all answers have come.
    pub(super) fn begin_drain(&self, pool: &Pool<C>) {
        self.draining.set(true);
        pool.lost_one();
        pool.changed();
        self.close_if_over();
    }

    /// Takes no more requests, since its peer is believed no more.
    pub(super) fn end_soon(&self) {
        match self.pool.upgrade() {
            Some(pool) => self.begin_drain(&pool),
            None => self.link.close(),
        }
    }

    fn notified(&self, method: &str, params: &RawValue) {
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        match method {
            "drain" => self.begin_drain(&pool),
            "workers" => match serde_json::from_str::<FarmState>(params.get()) {
                Ok(state) => pool.farm_changed(&self.place, &state),
                Err(error) => {
                    tracing::warn!(conversation = C::NAME, peer = %self.worker, %error, "cannot read how many workers there are");
                }
            },
            "in_hand" => {
                if let Ok(InHand { id, alone }) = serde_json::from_str(params.get())
                    && let Some(pending) = self.pending.borrow_mut().get_mut(&id)
                {
                    pending.is_alone = alone;
                }
            }
            _ => {}
        }
    }
}

impl<C: Conversation> Sink for Connection<C> {
    fn line(&self, line: &[u8], now: Instant) -> bool {
        self.heard.set(now);
        self.pinged.set(false);
        if let Some((id, result)) = frame::plain_answer(line)
            && let Ok(answer) = serde_json::from_str(result)
        {
            return self.answered(&Id::Number(id), || Ok(answer));
        }
        match frame::parse(line) {
            Ok(Frame::Answer { id, result }) => self.answered(&id, || read_answer::<C>(result)),
            Ok(Frame::Error { id: Some(id), error }) => {
                self.answered(&id, || Err(CallError::Refused(error)))
            }
            Ok(Frame::Notification { method, params }) => {
                self.notified(&method, params);
                true
            }
            Ok(Frame::Request { id, method, .. }) => {
                if method == "ping" {
                    self.answer_ping(&id);
                } else {
                    let error = ErrorObject::new(codes::METHOD, "nothing is served here but ping");
                    self.link.append(|out| frame::write_error(out, Some(&id), &error));
                }
                true
            }
            Ok(Frame::Error { id: None, error }) => {
                tracing::warn!(conversation = C::NAME, peer = %self.worker, place = %self.place.address, error = ?error.message, code = error.code, "a server could not read us: connection closed");
                false
            }
            Err(malformed) => {
                tracing::warn!(conversation = C::NAME, peer = %self.worker, place = %self.place.address, error = ?malformed.error.message, "a server sends no frames: connection closed");
                false
            }
        }
    }

    fn too_long(&self) {
        tracing::warn!(conversation = C::NAME, peer = %self.worker, place = %self.place.address, "a server sent a line that is too long: connection closed");
    }
}

fn read_answer<C: Conversation>(result: &RawValue) -> Result<C::Answer, CallError> {
    serde_json::from_str(result.get()).map_err(|error| {
        tracing::warn!(conversation = C::NAME, error = ?error.to_string(), "cannot read an answer");
        let message = frame::shortened(&format!("cannot read the answer: {error}"));
        CallError::Refused(ErrorObject::new(codes::INTERNAL, message))
    })
}

/// Hashes our own consecutive ids by spreading them.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }
    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio: neighbours fall far from each other.
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
