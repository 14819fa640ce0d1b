//! The job port of a worker: other hosts shake hands here, and are handed to the server of the conversation that they ask for.
//!
//! ```text
//! accepted ─▶ shaking hands ── certificate and conversation fit ─▶ Server: hello …
//!                 │  └── they do not: refused with a reason
//!                 └── too slow, or pushed out by HANDSHAKES_MAX that came after it: dropped
//! ```

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustls::ServerConnection;
use tls::Keys;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::{Server, refuse_connection};
use crate::Conversation;
use crate::link::Link;
use crate::peer::{self, Faith};
use crate::stream::{Stream, TlsStream};

/// How long a peer may take to shake hands.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// So many may shake hands at once. Whoever has begun longest ago makes room for the next: those who mean it are done in no time.
const HANDSHAKES_MAX: usize = 64;
/// Those who are refused are told of in the log so often at most.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Takes connections of other hosts. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    inner: Rc<Inner>,
}

struct Inner {
    keys: Rc<Keys>,
    rooms: RefCell<Vec<Room>>,
    shaking: RefCell<VecDeque<(u64, AbortHandle)>>,
    count: Cell<u64>,
    told: Cell<Option<Instant>>,
    untold: Cell<u64>,
}

/// A conversation behind the door.
struct Room {
    protocol: Vec<u8>,
    callers: Vec<String>,
    server: Rc<dyn Opens>,
}

/// A server of whatever conversation that takes connections of other hosts.
trait Opens {
    /// Takes a connection whose certificate allows it.
    fn open(&self, stream: TlsStream, faith: Faith, guard: Option<Box<dyn Any>>);
}

impl<C: Conversation> Opens for Server<C> {
    fn open(&self, stream: TlsStream, faith: Faith, guard: Option<Box<dyn Any>>) {
        self.take_tls(stream, faith, guard);
    }
}

/// Why a peer was not let in.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it took longer than ten seconds to shake hands")]
    Slow,
    #[error("no handshake: {0}")]
    Handshake(#[source] io::Error),
    #[error("its certificate does not say who it is: {0}")]
    Identity(#[source] tls::IdentityError),
    #[error("it asks for no conversation")]
    NoConversation,
}

impl Door {
    /// Makes a door that nothing is behind yet.
    pub fn new(keys: Rc<Keys>) -> Self {
        Self {
            inner: Rc::new(Inner {
                keys,
                rooms: RefCell::default(),
                shaking: RefCell::default(),
                count: Cell::new(0),
                told: Cell::new(None),
                untold: Cell::new(0),
            }),
        }
    }

    /// Lets a socket's conversation be asked for (`router.route`), by hosts whose certificate names one of these farms.
    pub fn add<C: Conversation>(&self, socket: &str, callers: Vec<String>, server: &Server<C>) {
        let (protocol, server) = (peer::protocol(socket), Rc::new(server.clone()));
        self.inner.rooms.borrow_mut().push(Room { protocol, callers, server });
    }

    /// Takes a connection: shakes hands, and hands it to the server that is asked for. `guard` is kept as long as it lives.
    pub fn take(&self, stream: TcpStream, address: SocketAddr, guard: Option<Box<dyn Any>>) {
        let this = self.inner.clone();
        let number = this.count.get() + 1;
        this.count.set(number);
        let task = tokio::task::spawn_local(async move {
            let let_in = this.let_in(stream, address, guard);
            if tokio::time::timeout(HANDSHAKE_WAIT, let_in).await.is_err() {
                this.tell(address, &Refusal::Slow);
            }
            this.shaking.borrow_mut().retain(|(other, _)| *other != number);
        });
        let mut shaking = self.inner.shaking.borrow_mut();
        shaking.push_back((number, task.abort_handle()));
        if shaking.len() > HANDSHAKES_MAX
            && let Some((_, oldest)) = shaking.pop_front()
        {
            oldest.abort();
        }
    }
}

impl Inner {
    async fn let_in(&self, stream: TcpStream, address: SocketAddr, guard: Option<Box<dyn Any>>) {
        let (stream, faith) = match self.shake_hands(stream).await {
            Ok(shaken) => shaken,
            Err(refusal) => return self.tell(address, &refusal),
        };
        let asked = stream.session().alpn_protocol().unwrap_or_default();
        let rooms = self.rooms.borrow();
        let Some(room) = rooms.iter().find(|room| room.protocol == asked) else {
            return self.tell(address, &Refusal::NoConversation);
        };
        let identity = faith.identity();
        if !room.callers.iter().any(|farm| identity.may_run(farm)) {
            let refusal = format!(
                "host {} may not use this socket: its certificate names {:?}, and one of {:?} is wanted",
                identity.host, identity.farms, room.callers
            );
            tracing::warn!(%address, reason = %refusal, "refused a connection");
            let (link, half) = Link::new(Stream::Tls(Box::new(stream)));
            return refuse_connection(link, half, refusal);
        }
        let server = room.server.clone();
        drop(rooms);
        server.open(stream, faith, guard);
    }

    async fn shake_hands(&self, stream: TcpStream) -> Result<(TlsStream, Faith), Refusal> {
        peer::watch(&stream).map_err(Refusal::Handshake)?;
        let protocols = self.rooms.borrow().iter().map(|room| room.protocol.clone()).collect();
        let session = ServerConnection::new(self.keys.server(protocols))
            .map_err(|error| Refusal::Handshake(io::Error::other(error)))?;
        let stream = TlsStream::begin(stream, session.into()).await.map_err(Refusal::Handshake)?;
        let faith = Faith::of(&stream, &self.keys).map_err(Refusal::Identity)?;
        Ok((stream, faith))
    }

    /// Tells of a peer that was not let in; not of each, if there are many.
    fn tell(&self, address: SocketAddr, refusal: &Refusal) {
        let now = Instant::now();
        if self.told.get().is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            self.untold.set(self.untold.get() + 1);
            return;
        }
        self.told.set(Some(now));
        let others = self.untold.replace(0);
        tracing::warn!(%address, reason = %refusal, others, "not let in");
    }
}

#[cfg(test)]
mod tests;
