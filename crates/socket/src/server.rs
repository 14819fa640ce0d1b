//! The serving end: takes requests from its connections and answers them in any order.

mod caller;
mod door;
mod hand;
mod requests;
mod responder;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::frame::{self, Id};
use crate::lease::{self, Lease};
use crate::link::{self, Half, Link, Sink};
use crate::peer::{self, Faith};
use crate::stream::{Stream, TlsStream};
use crate::{Access, Conversation, ErrorObject, codes};

pub use self::caller::{Caller, Who};
pub use self::door::Door;
pub use self::hand::Hand;
pub use self::responder::{Gate, Responder};

/// How many requests a connection may have outstanding, unless set otherwise.
pub const WINDOW: u32 = 256;
/// How many bytes of requests a connection may have outstanding, unless set otherwise.
pub const WINDOW_BYTES: usize = 4 << 20;
/// The most connections one server holds.
const CONNECTIONS_MAX: usize = 4096;
/// After so many lines that could not be read the connection is closed.
const MALFORMED_MAX: u32 = 16;
/// A client that was told `drain` and has all its answers is given so long to close.
const DRAIN_CLOSE: Duration = Duration::from_secs(1);
/// A draining server looks for connections to close when something has ended, and this often.
const DRAIN_TICK: Duration = Duration::from_secs(1);

/// What a worker does with the requests of a conversation.
///
/// `call` runs on the runtime's thread and must not wait: it answers at once, or keeps the responder and answers later
/// (from a task, or when another conversation's answer arrives).
pub trait Service<C: Conversation>: 'static {
    /// Takes one request.
    fn call(&self, request: C::Request, responder: Responder<C>);

    /// A connection has ended, whose number [`Caller`] gave with each of its requests.
    fn gone(&self, connection: u64) {
        let _ = connection;
    }
}

/// Counts requests in hand, for a scoreboard.
pub trait Gauge: 'static {
    /// A request was taken.
    fn begun(&self);
    /// It was answered, or its connection has gone and its responder too.
    fn ended(&self);
}

/// How a server presents itself.
#[derive(Clone)]
pub struct ServerSettings {
    /// This worker's name, as in `ps` and logs: `router/2`.
    pub worker: String,
    /// How many requests a connection may have outstanding.
    pub window: u32,
    /// How many bytes of requests a connection may have outstanding; a lone request may be longer.
    pub window_bytes: usize,
    /// How many ready workers the farm has.
    pub workers: u32,
    /// Process ids of workers of the farm that crashed lately.
    pub crashed: Vec<u32>,
    /// Who may connect.
    pub access: Access,
    /// Is told of each request in hand.
    pub gauge: Option<Rc<dyn Gauge>>,
    /// What the worker has in hand; shared by all its servers, so that what goes alone is alone.
    pub hand: Rc<Hand>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            worker: format!("{}", std::process::id()),
            window: WINDOW,
            window_bytes: WINDOW_BYTES,
            workers: 1,
            crashed: Vec::new(),
            access: Access::default(),
            gauge: None,
            hand: Rc::default(),
        }
    }
}

/// Serves one conversation on any number of connections. Cheap to clone.
pub struct Server<C: Conversation> {
    inner: Rc<Inner<C>>,
}

/// A server of whatever conversation, for one who only starts and stops them.
pub trait Serving {
    /// Takes no more requests: tells the peers, answers what crosses with `not taken`, and closes each connection when its last
    /// answer has gone.
    fn drain(&self);
    /// Tells the peers how many workers are ready, and which crashed lately.
    fn set_workers(&self, workers: u32, crashed: &[u32]);
    /// Connections that are up.
    fn connections(&self) -> usize;
    /// Requests that are not answered yet.
    fn outstanding(&self) -> usize;
}

struct Inner<C: Conversation> {
    service: Rc<dyn Service<C>>,
    settings: ServerSettings,
    connections: RefCell<Vec<Rc<Connection<C>>>>,
    outstanding: Cell<usize>,
    workers: Cell<u32>,
    crashed: RefCell<Vec<u32>>,
    draining: Cell<bool>,
    /// A task closes connections that have drained.
    closing: Cell<bool>,
    /// A connection has gone, or, while it drains, a request was answered.
    ended: Notify,
    count: Cell<u64>,
}

struct Connection<C: Conversation> {
    server: Rc<Inner<C>>,
    link: Rc<Link>,
    caller: Caller,
    version: Cell<Option<u32>>,
    /// Its client is to be asked for how long what it asks may be acted on.
    lease: OnceCell<Rc<Lease>>,
    outstanding: Cell<u32>,
    outstanding_bytes: Cell<usize>,
    malformed: Cell<u32>,
    /// Takes no more requests: its server drains, or its peer is believed no more.
    draining: Cell<bool>,
    idle_since: Cell<Option<Instant>>,
}

#[derive(Serialize)]
struct Hello<'a> {
    conversation: &'a str,
    versions: &'a [u32],
    features: [&'a str; 0],
    window: u32,
    window_bytes: usize,
    worker: &'a str,
    pid: u32,
    workers: u32,
    crashed: &'a [u32],
}

#[derive(Serialize)]
struct WorkersChanged<'a> {
    workers: u32,
    crashed: &'a [u32],
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Deserialize)]
struct Use {
    version: u32,
    #[serde(default)]
    leased: bool,
}

impl<C: Conversation> Clone for Server<C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<C: Conversation> Server<C> {
    /// Makes a server without connections.
    pub fn new(service: Rc<dyn Service<C>>, settings: ServerSettings) -> Self {
        let inner = Inner {
            service,
            connections: RefCell::default(),
            outstanding: Cell::new(0),
            workers: Cell::new(settings.workers),
            crashed: RefCell::new(settings.crashed.clone()),
            draining: Cell::new(false),
            closing: Cell::new(false),
            ended: Notify::new(),
            count: Cell::new(0),
            settings,
        };
        Self { inner: Rc::new(inner) }
    }

    /// Takes a connection of this host: checks who it is, says `hello`, and serves it until it ends; `guard` is kept as long.
    pub fn take(&self, stream: UnixStream, guard: Option<Box<dyn Any>>) {
        let peer = match sys::peer_identity(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(conversation = C::NAME, %error, "cannot tell who connects");
                return;
            }
        };
        let is_allowed = self.inner.settings.access.allows(&peer);
        let refusal = (!is_allowed).then(|| format!("user {} may not use this socket", peer.uid));
        let who = Who::Local { uid: peer.uid, pid: peer.pid };
        self.begin(Stream::Unix(stream), who, refusal, guard);
    }

    /// Takes a connection of another host, whose certificate allows it.
    fn take_tls(&self, stream: TlsStream, faith: Faith, guard: Option<Box<dyn Any>>) {
        let who = Who::Host { name: faith.identity().host.as_str().into() };
        let stream = Stream::Tls(Box::new(stream));
        let Some(connection) = self.begin(stream, who, None, guard) else { return };
        let connection = Rc::downgrade(&connection);
        tokio::task::spawn_local(async move {
            let is_up = || connection.upgrade().is_some_and(|connection| connection.link.is_up());
            faith.lost(is_up).await;
            if let Some(connection) = connection.upgrade() {
                connection.server.begin_drain_of(&connection);
            }
            peer::answers_waited_for(is_up).await;
            if let Some(connection) = connection.upgrade() {
                connection.link.close();
            }
        });
    }

    fn begin(
        &self,
        stream: Stream,
        who: Who,
        refusal: Option<String>,
        guard: Option<Box<dyn Any>>,
    ) -> Option<Rc<Connection<C>>> {
        let server = self.inner.clone();
        let (link, half) = Link::new(stream);
        let refusal = refusal.or_else(|| server.refuses().map(str::to_owned));
        if let Some(refusal) = refusal {
            tracing::warn!(conversation = C::NAME, peer = %who, reason = %refusal, "refused a connection");
            refuse_connection(link, half, refusal);
            return None;
        }
        let number = server.count.get() + 1;
        server.count.set(number);
        let connection = Rc::new(Connection {
            server: server.clone(),
            link,
            caller: Caller { who, connection: number },
            version: Cell::new(None),
            lease: OnceCell::new(),
            outstanding: Cell::new(0),
            outstanding_bytes: Cell::new(0),
            malformed: Cell::new(0),
            draining: Cell::new(false),
            idle_since: Cell::new(None),
        });
        server.connections.borrow_mut().push(connection.clone());
        connection.hello();
        let this = connection.clone();
        tokio::task::spawn_local(async move {
            let _guard = guard;
            let end = link::run(&this.link, half, &this).await;
            tracing::debug!(conversation = C::NAME, peer = %this.caller.who, %end, "a peer has gone");
            server.connections.borrow_mut().retain(|other| !Rc::ptr_eq(other, &this));
            server.service.gone(this.caller.connection);
            server.ended.notify_waiters();
        });
        Some(connection)
    }

    /// Resolves when no connection is left.
    pub async fn emptied(&self) {
        while !self.inner.connections.borrow().is_empty() {
            self.inner.ended.notified().await;
        }
    }
}

/// Tells a peer why it is not served, and closes; it need not read that.
fn refuse_connection(link: Rc<Link>, half: Half, refusal: String) {
    struct Deaf;
    impl Sink for Deaf {
        fn line(&self, _line: &[u8], _now: Instant) -> bool {
            true
        }
        fn too_long(&self) {}
    }
    let error = ErrorObject::new(codes::INVALID_REQUEST, refusal);
    link.append(|out| frame::write_error(out, None, &error));
    link.close_when_flushed();
    tokio::task::spawn_local(async move {
        let _ = tokio::time::timeout(DRAIN_CLOSE, link::run(&link, half, &Deaf)).await;
        link.close();
    });
}

impl<C: Conversation> Serving for Server<C> {
    fn drain(&self) {
        if !self.inner.draining.replace(true) {
            for connection in self.inner.all() {
                self.inner.begin_drain_of(&connection);
            }
        }
    }

    fn set_workers(&self, workers: u32, crashed: &[u32]) {
        let same = self.inner.workers.replace(workers) == workers;
        if same && *self.inner.crashed.borrow() == crashed {
            return;
        }
        *self.inner.crashed.borrow_mut() = crashed.to_vec();
        let params = WorkersChanged { workers, crashed };
        for connection in self.inner.all() {
            connection.link.append(|out| frame::write_notification(out, "workers", &params));
        }
    }

    fn connections(&self) -> usize {
        self.inner.connections.borrow().len()
    }

    fn outstanding(&self) -> usize {
        self.inner.outstanding.get()
    }
}

impl<C: Conversation> Inner<C> {
    fn all(&self) -> Vec<Rc<Connection<C>>> {
        self.connections.borrow().clone()
    }

    /// Why no more connections are taken, if so.
    fn refuses(&self) -> Option<&'static str> {
        if self.connections.borrow().len() >= CONNECTIONS_MAX {
            Some("too many connections")
        } else if self.draining.get() {
            Some("this worker drains")
        } else {
            None
        }
    }

    /// Takes no more requests from a connection, and closes it when its last answer has gone.
    fn begin_drain_of(self: &Rc<Self>, connection: &Connection<C>) {
        if connection.draining.replace(true) {
            return;
        }
        connection.link.append(|out| frame::write_notification(out, "drain", &Nothing {}));
        if !self.closing.replace(true) {
            tokio::task::spawn_local(close_drained(self.clone()));
        }
    }
}

/// Closes draining connections when they are done, until none is left.
async fn close_drained<C: Conversation>(server: Rc<Inner<C>>) {
    loop {
        let mut draining = server.all();
        draining.retain(|connection| connection.draining.get());
        if draining.is_empty() {
            server.closing.set(false);
            return;
        }
        let now = Instant::now();
        draining.iter().for_each(|connection| connection.close_if_done(now));
        drop(draining);
        let _ = tokio::time::timeout(DRAIN_TICK, server.ended.notified()).await;
    }
}

impl<C: Conversation> Connection<C> {
    fn hello(&self) {
        let settings = &self.server.settings;
        let crashed = self.server.crashed.borrow();
        let hello = Hello {
            conversation: C::NAME,
            versions: C::VERSIONS,
            features: [],
            window: settings.window,
            window_bytes: settings.window_bytes,
            worker: &settings.worker,
            pid: std::process::id(),
            workers: self.server.workers.get(),
            crashed: &crashed,
        };
        self.link.append(|out| frame::write_notification(out, "hello", &hello));
    }

    /// Sees to it that the lease is kept while requests are unanswered.
    fn keep_lease(self: &Rc<Self>) {
        if let Some(lease) = self.lease.get() {
            let this = Rc::downgrade(self);
            lease::keep(lease, move || {
                let this = this.upgrade().filter(|this| this.outstanding.get() > 0)?;
                Some(Rc::clone(&this.link))
            });
        }
    }

    /// Closes a drained connection once the client has had time to close it.
    fn close_if_done(&self, now: Instant) {
        if self.outstanding.get() > 0 || !self.link.is_flushed() {
            self.idle_since.set(None);
            return;
        }
        let since = self.idle_since.get().unwrap_or(now);
        self.idle_since.set(Some(since));
        if now.duration_since(since) >= DRAIN_CLOSE {
            self.link.close();
        }
    }

    fn refuse(&self, id: Option<&Id>, code: i32, message: impl Into<String>) {
        let error = ErrorObject::new(code, message);
        self.link.append(|out| frame::write_error(out, id, &error));
    }

    fn choose_version(&self, params: &RawValue, id: Option<&Id>) -> bool {
        let chosen = serde_json::from_str::<Use>(params.get());
        match chosen {
            Ok(Use { version, leased }) if C::VERSIONS.contains(&version) => {
                self.version.set(Some(version));
                if leased {
                    self.lease.get_or_init(Rc::default);
                }
                if let Some(id) = id {
                    self.link.append(|out| frame::write_answer(out, id, &Nothing {}));
                }
                true
            }
            _ => {
                tracing::warn!(
                    conversation = C::NAME,
                    peer = %self.caller.who,
                    chosen = chosen.ok().map(|chosen| chosen.version),
                    spoken = ?C::VERSIONS,
                    "a peer chose no version that is spoken here: connection closed"
                );
                let message = format!("choose one of the versions {:?}", C::VERSIONS);
                self.refuse(id, codes::INVALID_REQUEST, message);
                false
            }
        }
    }

    /// Why a request cannot be taken now, whatever it asks.
    fn obstacle(&self, bytes: usize) -> Option<(i32, &'static str)> {
        let settings = &self.server.settings;
        let outstanding = self.outstanding.get();
        if self.version.get().is_none() {
            Some((codes::INVALID_REQUEST, "choose a version first: method use, params {version}"))
        } else if self.draining.get() {
            Some((codes::NOT_TAKEN, "not taken: this worker drains"))
        } else if outstanding >= settings.window
            || (outstanding > 0 && self.outstanding_bytes.get() + bytes > settings.window_bytes)
        {
            Some((codes::WINDOW, "over the window"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
