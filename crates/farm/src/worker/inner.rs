//! The state of a worker: what it was given, what it has in hand, whether it drains.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket::Serving;
use sys::SignalFd;
use tls::KeysError;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::NamedTcp;
use super::jobs::Jobs;
use super::tally::Tally;
use crate::handover::{self, DrainReason, ToManager, WorkerHandover};
use crate::manager::JOBS;
use crate::scoreboard::{BUSY_LOAD, Board, JOBS_GAUGE, Slot, TCP_GAUGE, WorkerState};

/// While draining, answers that others owe us, which come without telling, are looked for this often …
const DRAIN_TICK: Duration = Duration::from_millis(20);
/// … but this often while jobs or connections are in hand: their end is told.
const DRAIN_LOOK: Duration = Duration::from_secs(1);

/// Begins to accept, when the worker is ready.
pub(super) type Begin = Box<dyn FnOnce(&Rc<Inner>)>;

pub(super) struct Inner {
    pub(super) given: WorkerHandover,
    pub(super) board: Board,
    pub(super) control: OwnedFd,
    pub(super) signals: Cell<Option<SignalFd>>,
    named: RefCell<Vec<Option<(String, bool, UnixListener)>>>,
    tcp: RefCell<Vec<NamedTcp>>,
    addresses: Vec<(String, SocketAddr)>,
    pub(super) servers: RefCell<Vec<Rc<dyn Serving>>>,
    /// What its servers have in hand, all together.
    pub(super) hand: Rc<socket::Hand>,
    pub(super) jobs: Jobs,
    pub(super) begin: RefCell<Vec<Begin>>,
    pub(super) is_ready: Cell<bool>,
    /// Whether it hears its manager and signals.
    pub(super) hears: Cell<bool>,
    pub(super) accepting: RefCell<Vec<AbortHandle>>,
    /// Why it drains, and when it is killed.
    pub(super) drain: Cell<Option<(DrainReason, Instant)>>,
    pub(super) new_settings: RefCell<Option<Vec<u8>>>,
    watchers: RefCell<Vec<Waker>>,
    in_hand: Cell<u32>,
    pub(super) tcp_connections: Cell<u32>,
    connections: Cell<u32>,
    worn: Cell<bool>,
    busy: Cell<bool>,
    /// Something was done since the meter last looked.
    pub(super) touched: Cell<bool>,
    /// Wakes the meter when the worker was idle.
    pub(super) meter: Notify,
    pub(super) metering: Cell<bool>,
    /// There is room for another connection.
    pub(super) room: Notify,
    /// The last job, or the last connection, in hand has ended.
    ended: Notify,
    pub(super) tally: Tally,
}

impl Inner {
    pub(super) fn new(
        given: WorkerHandover,
        board: Board,
        control: OwnedFd,
        signals: Option<SignalFd>,
        named: Vec<(String, bool, UnixListener)>,
        tcp: Vec<NamedTcp>,
    ) -> Result<Self, KeysError> {
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        let mut port = None;
        for (name, fd) in tcp {
            let listener = TcpListener::from(fd);
            // Asked of the socket: a configured port 0 is a real one here.
            let address = listener.local_addr();
            if name == JOBS {
                port = address.ok().map(|address| (OwnedFd::from(listener), address));
                continue;
            }
            addresses.extend(address.ok().map(|address| (name.clone(), address)));
            // Accepted connections have it from their listener, so that none needs a call for it.
            if let Err(error) = sys::send_at_once(&listener) {
                tracing::warn!(listener = %name, %error, "cannot set TCP_NODELAY");
            }
            listeners.push((name, OwnedFd::from(listener)));
        }
        Ok(Self {
            board,
            control,
            signals: Cell::new(signals),
            named: RefCell::new(named.into_iter().map(Some).collect()),
            tcp: RefCell::new(listeners),
            addresses,
            servers: RefCell::default(),
            hand: Rc::default(),
            jobs: Jobs::new(&given, port)?,
            begin: RefCell::default(),
            is_ready: Cell::new(false),
            hears: Cell::new(false),
            accepting: RefCell::default(),
            drain: Cell::new(None),
            new_settings: RefCell::default(),
            watchers: RefCell::default(),
            in_hand: Cell::new(0),
            tcp_connections: Cell::new(0),
            connections: Cell::new(0),
            worn: Cell::new(false),
            busy: Cell::new(false),
            touched: Cell::new(false),
            meter: Notify::new(),
            metering: Cell::new(false),
            room: Notify::new(),
            ended: Notify::new(),
            tally: Tally::default(),
            given,
        })
    }

    pub(super) fn slot(&self) -> Slot<'_> {
        self.board.slot(self.given.slot)
    }

    /// Takes a named socket: the gauge of its connections, whether it is an admin socket, its listener.
    pub(super) fn take_named(&self, name: &str) -> Option<(usize, bool, OwnedFd)> {
        let mut named = self.named.borrow_mut();
        let found = |slot: &Option<(String, bool, UnixListener)>| {
            slot.as_ref().is_some_and(|(known, ..)| known == name)
        };
        let index = named.iter().position(found)?;
        let (_, admin, listener) = named.get_mut(index)?.take()?;
        Some((1 + index % (JOBS_GAUGE - 1), admin, listener.into()))
    }

    pub(super) fn take_tcp(&self, name: &str) -> Option<OwnedFd> {
        let mut tcp = self.tcp.borrow_mut();
        let index = tcp.iter().position(|(known, _)| known == name)?;
        Some(tcp.remove(index).1)
    }

    pub(super) fn tcp_addresses(&self) -> Vec<(String, SocketAddr)> {
        self.addresses.clone()
    }

    pub(super) fn at_ready(self: &Rc<Self>, begin: Begin) {
        if self.is_ready.get() {
            begin(self);
        } else {
            self.begin.borrow_mut().push(begin);
        }
    }

    pub(super) fn ready_workers(&self) -> u32 {
        self.board.ready(self.given.generation).max(1)
    }

    pub(super) fn workers_changed(&self, ready: u32, crashed: &[u32]) {
        let servers = self.servers.borrow().clone();
        for server in servers {
            server.set_workers(ready, crashed);
        }
    }

    pub(super) fn tell(&self, message: &ToManager) {
        if let Err(error) = handover::tell(&self.control, message, &[]) {
            tracing::warn!(worker = %self.given.worker, %error, "cannot tell the manager");
        }
    }

    // ── waiting for a change ──

    /// Waits until something is there.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| match look() {
            Some(found) => Poll::Ready(found),
            None => {
                let mut watchers = self.watchers.borrow_mut();
                if !watchers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    watchers.push(cx.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }

    pub(super) fn changed(&self) {
        for waker in self.watchers.take() {
            waker.wake();
        }
    }

    /// Waits until something in hand may have ended.
    pub(super) async fn wait_for_an_end(&self) {
        let holds = self.in_hand.get() > 0 || self.connections.get() > 0;
        let tick = if holds { DRAIN_LOOK } else { DRAIN_TICK };
        let _ = tokio::time::timeout(tick, self.ended.notified()).await;
    }

    // ── draining ──

    /// Begins to drain, or to drain for a graver reason.
    pub(super) fn begin_drain(&self, reason: DrainReason, within: Duration) {
        let ends = Instant::now() + within;
        let (reason, ends) = match self.drain.get() {
            None => (reason, ends),
            Some((DrainReason::Stop, before)) => (DrainReason::Stop, before.min(ends)),
            Some((DrainReason::Retire, before)) => (reason, before.min(ends)),
        };
        if self.drain.replace(Some((reason, ends))).is_none() {
            tracing::info!(worker = %self.given.worker, ?reason, jobs = self.in_hand.get(), connections = self.tcp_connections.get(), "draining");
            self.slot().set_state(WorkerState::Draining);
            for task in self.accepting.take() {
                task.abort();
            }
            self.named.take();
            self.tcp.take();
            self.jobs.close();
            let servers = self.servers.borrow().clone();
            for server in servers {
                server.drain();
            }
        }
        self.changed();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_hand.get() == 0
            && self.tcp_connections.get() == 0
            && self.servers.borrow().iter().all(|server| server.connections() == 0)
            && !self.jobs.waits()
    }

    // ── what is in hand ──

    fn add_jobs(&self, jobs: u32) {
        self.in_hand.set(jobs);
        self.slot().jobs().store(jobs, Relaxed);
        self.touch();
    }

    fn job_begun(&self) {
        self.add_jobs(self.in_hand.get() + 1);
    }

    fn job_ended(&self) {
        self.add_jobs(self.in_hand.get() - 1);
        if self.in_hand.get() == 0 {
            self.ended.notify_waiters();
        }
        let done = self.slot().jobs_done().fetch_add(1, Relaxed) + 1;
        let jobs_max = self.given.jobs_max;
        if jobs_max > 0 && done >= jobs_max && !self.worn.replace(true) {
            self.tell(&ToManager::Worn);
        }
    }

    fn add_connections(&self, gauge: usize, add: i32) {
        let all = self.connections.get().wrapping_add_signed(add);
        self.connections.set(all);
        self.slot().connections().store(all, Relaxed);
        let own = self.slot();
        let own = own.gauge(gauge);
        own.store(own.load(Relaxed).wrapping_add_signed(add), Relaxed);
        if gauge == TCP_GAUGE {
            self.tcp_connections.set(self.tcp_connections.get().wrapping_add_signed(add));
        }
        self.touch();
    }

    fn touch(&self) {
        // The clock is read once for each look of the meter, which is every second.
        if !self.touched.replace(true) {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.slot().active_at().store(since.as_millis() as u64, Relaxed);
        }
        if !self.metering.get() {
            self.meter.notify_one();
        }
        self.judge();
    }

    /// Tells the manager when this worker becomes busy (over three quarters of its slots or of the last second) or spare again
    /// (half of both), and not more often.
    pub(super) fn judge(&self) {
        let taken = u64::from(self.in_hand.get().max(self.tcp_connections.get()));
        let slots = u64::from(self.given.concurrency);
        let load = self.slot().load().load(Relaxed);
        let busy = if self.busy.get() {
            taken * 2 > slots || load > 500
        } else {
            taken * 4 > slots * 3 || load > BUSY_LOAD
        };
        if self.busy.replace(busy) != busy && self.is_ready.get() {
            self.tell(&ToManager::Busy(busy));
        }
    }
}

/// Counts the requests of served sockets as jobs.
pub(super) struct JobGauge(pub(super) Weak<Inner>);

impl socket::Gauge for JobGauge {
    fn begun(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.job_begun();
        }
    }

    fn ended(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.job_ended();
        }
    }
}

/// A connection in hand: counts in the scoreboard as long as it lives.
pub struct Connection {
    inner: Rc<Inner>,
    gauge: usize,
}

impl Connection {
    pub(super) fn new(inner: &Rc<Inner>, gauge: usize) -> Self {
        inner.add_connections(gauge, 1);
        Self { inner: inner.clone(), gauge }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.inner.add_connections(self.gauge, -1);
        self.inner.room.notify_waiters();
        if self.inner.connections.get() == 0 {
            self.inner.ended.notify_waiters();
        }
    }
}

/// A job in hand: counts in the scoreboard as long as it lives, then as done.
pub struct Job {
    inner: Rc<Inner>,
}

impl Job {
    pub(super) fn new(inner: &Rc<Inner>) -> Self {
        inner.job_begun();
        Self { inner: inner.clone() }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.inner.job_ended();
    }
}
