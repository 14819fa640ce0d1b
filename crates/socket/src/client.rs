//! The asking end: one connection for each ready worker of a farm, and the one with the fewest unanswered requests first.
//!
//! A farm may be in several places. Each has its own dialling, as below, and its own workers; requests go to the connection with the
//! fewest unanswered over all of them.
//!
//! ```text
//!              wanted ┌──────────────────────────────────────────────┐ lost, or fewer than `workers`
//!   idle ────────────▶│ connecting: connect, hello, use (one a time, │◀──────────────┐
//!                     │ back-off 10 ms … 1 s)                        │               │
//!                     └──────────────────────┬───────────────────────┘               │
//!                                            ▼                                       │
//!                     up: requests and answers ── drain ─▶ draining: answers only ─▶ gone
//! ```

mod connection;
mod dial;
mod place;
mod pool;

use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::{Conversation, ErrorObject, LeaseLeft};

pub use place::{Places, Remote};
use pool::Pool;

/// How much later than the server this end gives up on an answer: the worker gives up first.
const GIVE_UP_LATER: Duration = Duration::from_millis(500);

/// A sender's connections to one farm. Cheap to clone; all clones share the connections.
///
/// Connects when first used, reconnects with back-off, keeps a connection for each ready worker of each place (`hello` and
/// `workers` say how many), and closes those that drain once their answers have come. Requests of one turn leave in one write
/// per connection. When the last clone is dropped the connections are closed, and what is unanswered is `Lost`.
pub struct Client<C: Conversation> {
    pool: Rc<Pool<C>>,
    /// The change that [`Client::changed`] last told of.
    seen: std::cell::Cell<u64>,
}

impl<C: Conversation> Clone for Client<C> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), seen: self.seen.clone() }
    }
}

/// How a client behaves.
#[derive(Clone)]
pub struct ClientSettings {
    /// How long an answer may take by default; sent with each request, and waited for a little longer.
    pub deadline: Duration,
    /// The most requests that wait for room or for a connection in [`Client::call`]; more are refused.
    pub waiting_max: usize,
    /// Says for how long what is asked may be acted on; nothing: for as long as its connection is up. Connections to other hosts are leased
    /// then, and those of this host if there is an end when they are made: see [`crate::Gate`].
    pub lease: Option<LeaseLeft>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(5), waiting_max: 1000, lease: None }
    }
}

/// Options of one request.
#[derive(Debug, Clone, Default)]
pub struct SendOptions {
    /// The deadline the server is told.
    pub deadline: Option<Duration>,
    /// Whether this end too gives up a little after the deadline; otherwise a late answer still counts.
    pub give_up: bool,
    /// Whether the worker is to have nothing else in hand with it; it takes its turn then, and others wait.
    pub alone: bool,
    /// Only this connection will do.
    pub to: Option<PeerId>,
}

/// A connection of a client, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// The far end of a connection, as `hello` told and as it stands.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The connection.
    pub id: PeerId,
    /// The worker's name, `router/2`.
    pub worker: String,
    /// The worker's process, as this client knows it: its process id, where it is on this host. Only to be compared.
    pub pid: u32,
    /// The version that is spoken with it.
    pub version: u32,
    /// How many requests may be outstanding.
    pub window: u32,
    /// How many are.
    pub outstanding: u32,
    /// Whether it takes no more requests: it has said `drain`, or the client has moved.
    pub draining: bool,
}

/// Why a request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No connection is up; a connection is being sought.
    #[error("no worker is connected")]
    Disconnected,
    /// Every connection's window is full.
    #[error("no room in any window")]
    Full,
    /// The request is over a frame's limit.
    #[error("the request is longer than a frame may be")]
    TooLong,
}

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It was not sent.
    #[error(transparent)]
    NotSent(#[from] SendError),
    /// The connection ended first: send elsewhere.
    #[error("the connection to {worker} ended")]
    Lost {
        /// The worker's name.
        worker: String,
        /// Its process, as in [`Peer::pid`]; a later word of its crash names it too.
        pid: u32,
        /// Whether the worker had nothing else in hand, as it said itself when it took the request: if it crashed, then of this.
        /// Never without [`SendOptions::alone`], and not if it never took it.
        alone: bool,
    },
    /// No answer in time: send elsewhere.
    #[error("no answer in time")]
    Deadline,
    /// The server answered with an error.
    #[error(transparent)]
    Refused(ErrorObject),
}

impl<C: Conversation> Client<C> {
    /// Makes a client of the socket at a path, or of several places that serve the same; connects when first used, or at
    /// [`Client::connect`].
    pub fn new(places: impl Into<Places>, settings: ClientSettings) -> Self {
        Self { pool: Pool::new(&places.into(), settings), seen: std::cell::Cell::new(0) }
    }

    /// Begins to connect now, and keeps connected.
    pub fn connect(&self) {
        self.pool.want();
    }

    /// Goes on at another socket, or at other places: what is sent from now on goes there. Answers that are due from where it was
    /// connected still come, and then those connections close; [`Client::peers`] shows them as draining until then. Connections to
    /// places that stay are kept.
    pub fn move_to(&self, places: impl Into<Places>) {
        self.pool.move_to(&places.into());
    }

    /// Sends if there is room now, and calls `on_answer` once, later, from this thread. Never waits.
    ///
    /// `on_answer` is not called when this fails. A worker that drains may answer [`crate::codes::NOT_TAKEN`]: send elsewhere.
    pub fn send(
        &self,
        request: &C::Request,
        options: SendOptions,
        on_answer: impl FnOnce(Result<C::Answer, CallError>) + 'static,
    ) -> Result<PeerId, SendError> {
        let result = self.pool.send(request, &options, Box::new(on_answer)).map_err(|(e, _)| e);
        if matches!(result, Err(SendError::Disconnected | SendError::Full)) {
            self.pool.count_dropped();
        }
        result
    }

    /// Sends and waits: for a connection, for room, for the answer; all within the deadline. What a draining worker did not
    /// take is sent to another; a lost connection is not tried again, since only the caller knows what that costs.
    pub async fn call(&self, request: &C::Request) -> Result<C::Answer, CallError> {
        self.call_until_taken(request, false, &mut None).await
    }

    /// Sends and waits as [`Client::call`] does: to the connection `to` if it is up and has room, else to whichever is best. Leaves in `to`
    /// the one that it was sent to.
    pub async fn call_at(
        &self,
        request: &C::Request,
        to: &mut Option<PeerId>,
    ) -> Result<C::Answer, CallError> {
        self.call_until_taken(request, false, to).await
    }

    /// Sends and waits as [`Client::call`] does, a request that is to be alone in its worker's hand.
    pub async fn call_alone(&self, request: &C::Request) -> Result<C::Answer, CallError> {
        self.call_until_taken(request, true, &mut None).await
    }

    async fn call_until_taken(
        &self,
        request: &C::Request,
        alone: bool,
        to: &mut Option<PeerId>,
    ) -> Result<C::Answer, CallError> {
        let end = Instant::now() + self.pool.settings.deadline;
        loop {
            let answer = self.pool.call_once(request, alone, to, end).await;
            match answer {
                Err(CallError::Refused(error))
                    if error.code == crate::codes::NOT_TAKEN && Instant::now() < end =>
                {
                    *to = None;
                }
                answer => return answer,
            }
        }
    }

    /// The connections that are up.
    pub fn peers(&self) -> Vec<Peer> {
        self.pool.peers()
    }

    /// Resolves when a connection came, went, began to drain, or room became free, since the last call of this.
    ///
    /// "Room became free" means: a window that was full is so no longer.
    pub async fn changed(&self) {
        poll_fn(|cx| {
            let version = self.pool.version();
            if self.seen.replace(version) != version {
                return Poll::Ready(());
            }
            self.pool.wake_on_change(cx);
            Poll::Pending
        })
        .await;
    }

    /// Calls `on_crash` for each process, as in [`Peer::pid`], of which a server tells that it crashed (not: was killed) with jobs in
    /// hand.
    pub fn on_crash(&self, on_crash: impl Fn(u32) + 'static) {
        self.pool.on_crash(Rc::new(on_crash));
    }

    /// How many sends found no room: the dropped hints.
    pub fn dropped(&self) -> u64 {
        self.pool.dropped()
    }

    /// Requests sent and not answered yet, on all connections.
    pub fn outstanding(&self) -> usize {
        self.pool.outstanding()
    }

    /// Lets somebody look at it, and move it, who shall not keep its connections up.
    pub fn watch(&self) -> Box<dyn Watch> {
        Box::new(Watched(Rc::downgrade(&self.pool)))
    }
}

/// A client of whatever conversation, for one who does not ask with it.
pub trait Watch {
    /// As [`Client::outstanding`] says; 0 once the last clone is dropped.
    fn outstanding(&self) -> usize;
    /// As [`Client::move_to`] does.
    fn move_to(&self, places: Places);
    /// Whether the last clone is dropped.
    fn is_over(&self) -> bool;
    /// Tells clients apart while they live.
    fn id(&self) -> usize;
}

struct Watched<C: Conversation>(Weak<Pool<C>>);

impl<C: Conversation> Watch for Watched<C> {
    fn outstanding(&self) -> usize {
        self.0.upgrade().map_or(0, |pool| pool.outstanding())
    }

    fn move_to(&self, places: Places) {
        if let Some(pool) = self.0.upgrade() {
            pool.move_to(&places);
        }
    }

    fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }

    fn id(&self) -> usize {
        self.0.as_ptr().addr()
    }
}

#[cfg(test)]
mod tests;
