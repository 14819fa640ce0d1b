//! What a worker process is to its stage.

mod accept;
mod alone;
mod control;
mod inner;
mod jobs;
mod tally;

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use socket::{Access, Client, ClientSettings, Conversation, Server, ServerSettings, Service};
use sys::{Signal, SignalFd};

pub use alone::Alone;
use inner::Inner;
pub use inner::{Connection, Job};

use crate::handover::{DrainReason, ToManager, WORKER_VARIABLE, WorkerHandover};
use crate::scoreboard::{Board, TCP_GAUGE, WorkerState};

/// A worker that resigned is to end at once; the time in which a manager would kill it is that of a stop.
const RESIGNED: Duration = Duration::from_secs(10);

/// This process as a worker of its farm. Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    inner: Rc<Inner>,
}

/// Why a worker could not begin.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The process was not started by a manager.
    #[error("not started by a farm manager: {0}")]
    NotStarted(String),
    /// The settings that the manager handed over do not fit this program.
    #[error("cannot read the settings handed over: {0}")]
    Settings(#[source] serde_json::Error),
    /// The farm has no listener of that name.
    #[error("this farm was given no listener {0}")]
    NoListener(String),
    /// This host's keys cannot be used.
    #[error(transparent)]
    Keys(#[from] tls::KeysError),
    /// The system refused.
    #[error("{context}")]
    Io {
        /// What was being done.
        context: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl Worker {
    /// Takes up the role that the manager gave this process: descriptors, scoreboard line, title. Call before any thread is
    /// started; call within the runtime is not needed.
    ///
    /// From here on a panic anywhere in the process aborts it, and SIGTERM makes it drain.
    pub fn start() -> Result<Self, WorkerError> {
        let not_started = |why: &str| WorkerError::NotStarted(why.to_owned());
        let variable = std::env::var(WORKER_VARIABLE)
            .map_err(|_| not_started(&format!("{WORKER_VARIABLE} is not set")))?;
        let number = variable.parse().map_err(|_| not_started("its variable is no number"))?;
        let read = || sys::read_memfd(sys::take_descriptor(number)?);
        let text = read().map_err(failed("reading what the manager handed over"))?;
        let handover: WorkerHandover = serde_json::from_slice(&text)
            .map_err(|error| not_started(&format!("cannot read the hand-over: {error}")))?;
        abort_on_panic();
        sys::name_process(&handover.worker).map_err(failed("taking a name"))?;
        sys::raise_open_files().map_err(failed("raising the limit of open files"))?;
        let signals = [Signal::Terminate, Signal::Interrupt, Signal::Hangup];
        let signals = SignalFd::new(&signals).map_err(failed("taking signals"))?;
        let take = |fd| sys::take_descriptor(fd).map_err(failed("taking a descriptor"));
        let board =
            Board::of(take(handover.scoreboard)?).map_err(failed("mapping the scoreboard"))?;
        // The manager writes it too, perhaps later than a reader finds this worker ready.
        board.slot(handover.slot).set_pid(std::process::id());
        let control = take(handover.control)?;
        let mut named = Vec::new();
        for socket in &handover.sockets {
            named.push((socket.name.clone(), socket.admin, UnixListener::from(take(socket.fd)?)));
        }
        let mut tcp = Vec::new();
        for listener in &handover.tcp {
            tcp.push((listener.name.clone(), take(listener.fd)?));
        }
        let inner = Inner::new(handover, board, control, Some(signals), named, tcp)?;
        Ok(Self { inner: Rc::new(inner) })
    }

    /// The farm's name: `smtpserver`, or the channel's.
    pub fn farm(&self) -> &str {
        &self.inner.given.farm
    }

    /// The worker's name: `router/2`.
    pub fn name(&self) -> &str {
        &self.inner.given.worker
    }

    /// Sessions or jobs this worker may hold at once (`workers.concurrency`).
    pub fn concurrency(&self) -> u32 {
        self.inner.given.concurrency
    }

    /// The settings that the farm's composer gave, as a value.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T, WorkerError> {
        serde_json::from_str(self.inner.given.settings.get()).map_err(WorkerError::Settings)
    }

    /// Serves a conversation on the named socket that the manager bound (`router.route`), and to other hosts that may ask it. Begins
    /// to accept at [`Worker::ready`].
    ///
    /// Its requests in hand are counted as jobs by themselves; each connection's window is the worker's concurrency.
    pub fn serve<C: Conversation>(
        &self,
        socket: &str,
        service: Rc<dyn Service<C>>,
    ) -> Result<(), WorkerError> {
        let window = self.inner.given.concurrency;
        self.serve_window(socket, service, window, socket::WINDOW_BYTES)
    }

    /// Serves as [`Worker::serve`] does, with another window: so many requests and bytes outstanding on each connection.
    pub fn serve_window<C: Conversation>(
        &self,
        socket: &str,
        service: Rc<dyn Service<C>>,
        window: u32,
        window_bytes: usize,
    ) -> Result<(), WorkerError> {
        let missing = || WorkerError::NoListener(socket.to_owned());
        let (gauge, admin, listener) = self.inner.take_named(socket).ok_or_else(missing)?;
        let given = &self.inner.given;
        let gids = if admin { given.admin_gids.clone() } else { given.gids.clone() };
        let settings = ServerSettings {
            worker: given.worker.clone(),
            window,
            window_bytes,
            workers: self.inner.ready_workers(),
            crashed: self.inner.board.recent_crashes(),
            access: Access { uids: Vec::new(), gids },
            gauge: Some(Rc::new(inner::JobGauge(Rc::downgrade(&self.inner)))),
            hand: Rc::clone(&self.inner.hand),
        };
        let server = Server::new(service, settings);
        self.inner.jobs.serve(socket, &server);
        self.inner.servers.borrow_mut().push(Rc::new(server.clone()));
        self.inner.at_ready(accept::Accept { listener, gauge, limited: false }.unix(server));
        Ok(())
    }

    /// The TCP listeners that this farm was given: the name each was given by the composer, and its address.
    pub fn tcp_listeners(&self) -> Vec<(String, SocketAddr)> {
        self.inner.tcp_addresses()
    }

    /// Accepts on a TCP listener, spreading evenly over the farm's workers, and hands each connection to `take`. Begins at
    /// [`Worker::ready`], ends when draining begins; stays below the worker's concurrency.
    pub fn accept(
        &self,
        listener: &str,
        take: impl Fn(tokio::net::TcpStream, SocketAddr, Connection) + 'static,
    ) -> Result<(), WorkerError> {
        let missing = || WorkerError::NoListener(listener.to_owned());
        let listener = self.inner.take_tcp(listener).ok_or_else(missing)?;
        self.inner.at_ready(accept::Accept { listener, gauge: TCP_GAUGE, limited: true }.tcp(take));
        Ok(())
    }

    /// The address of the job port, at which other hosts ask, if there is one.
    pub fn job_port(&self) -> Option<SocketAddr> {
        self.inner.jobs.address
    }

    /// The directory with what outlives processes.
    pub fn data_dir(&self) -> &Path {
        &self.inner.given.data_dir
    }

    /// A client of another farm's socket (`scheduler.enqueue`, `admin/scheduler.admin`), or of an absolute path. It connects where
    /// that farm is, in the same `run_dir` or on other hosts, and goes with it when a reload says that it is elsewhere.
    pub fn client<C: Conversation>(&self, socket: &str, settings: ClientSettings) -> Client<C> {
        let client = Client::new(self.inner.jobs.find(socket), settings);
        self.inner.jobs.hold(&client, socket);
        client
    }

    /// Lets a client that [`Worker::client`] made go on at another socket.
    pub fn move_client<C: Conversation>(&self, client: &Client<C>, socket: &str) {
        client.move_to(self.inner.jobs.find(socket));
        self.inner.jobs.hold(client, socket);
    }

    /// Tells the manager that this worker is ready, and begins to accept. Call it within the runtime, once.
    pub fn ready(&self) {
        assert!(!self.inner.is_ready.replace(true), "a worker becomes ready once");
        self.set_state(WorkerState::Ready);
        self.hear();
        self.inner.tell(&ToManager::Ready);
        self.inner.workers_changed(self.inner.ready_workers(), &self.inner.board.recent_crashes());
        for begin in self.inner.begin.take().into_iter().chain(self.inner.jobs.begin()) {
            begin(&self.inner);
        }
    }

    /// Begins to hear the manager and signals. [`Worker::ready`] does, too: it is for a worker that has much to load before, and is to
    /// learn meanwhile that it is to stop. Call it within the runtime.
    pub fn hear(&self) {
        if !self.inner.hears.replace(true) {
            control::spawn(&self.inner);
        }
    }

    /// Tells the manager that this worker does nothing until another process, on another host perhaps, has ended: its farm counts as
    /// started. It hears the manager, and accepts nothing: who connects waits in the listeners' queues, until [`Worker::ready`] or
    /// for ever.
    pub fn stand_by(&self) {
        self.hear();
        self.set_state(WorkerState::Standby);
        self.inner.tell(&ToManager::Standby);
    }

    /// Shows that this worker stands by no longer and is about to be ready.
    pub fn take_over(&self) {
        self.set_state(WorkerState::Starting);
    }

    /// This worker may do its work no longer and is about to end, through no fault of its own: the manager is told to start another,
    /// which is no crash. Peers are told to send nothing more.
    pub fn resign(&self) {
        self.hear();
        self.inner.tell(&ToManager::Draining);
        self.inner.begin_drain(DrainReason::Stop, RESIGNED);
    }

    fn set_state(&self, state: WorkerState) {
        if !self.is_draining() {
            self.inner.slot().set_state(state);
        }
    }

    /// Resolves when draining begins: no new connections or jobs come; finish what is in hand, then return from the stage.
    pub async fn draining(&self) {
        self.inner.until(|| self.is_draining().then_some(())).await;
    }

    /// Resolves when the farm stops, be it after it began to drain for another reason: sessions end at the next opportunity.
    pub async fn stopping(&self) {
        let stops = || self.drain_reason() == Some(DrainReason::Stop);
        self.inner.until(|| stops().then_some(())).await;
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.inner.drain.get().is_some()
    }

    /// Why this worker drains, if it does: at [`DrainReason::Stop`] sessions finish what is under way, at
    /// [`DrainReason::Retire`] they may run to their end.
    pub fn drain_reason(&self) -> Option<DrainReason> {
        self.inner.drain.get().map(|(reason, _)| reason)
    }

    /// When a draining worker is killed if it has not ended.
    pub fn drain_ends(&self) -> Option<Instant> {
        self.inner.drain.get().map(|(_, ends)| ends)
    }

    /// Does work that may be cut off at any point, until it is done or draining begins.
    pub async fn until_draining(&self, work: impl Future<Output = ()>) {
        let mut work = std::pin::pin!(work);
        let mut draining = std::pin::pin!(self.draining());
        std::future::poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => draining.as_mut().poll(context),
        })
        .await;
    }

    /// Resolves when draining has begun and nothing is in hand any more: no connection, no job, no unanswered request. What was
    /// served is let go of then, with all that it holds.
    pub async fn drained(&self) {
        self.draining().await;
        while !self.inner.is_idle() {
            self.inner.wait_for_an_end().await;
        }
        self.inner.servers.take();
        // Those who accepted were told to end; their turn to do so comes now.
        tokio::task::yield_now().await;
    }

    /// Resolves when the manager hands new settings to a farm of one (reload in place); gives the raw JSON.
    pub async fn new_settings<T: DeserializeOwned>(&self) -> Result<T, WorkerError> {
        let text = self.inner.until(|| self.inner.new_settings.take()).await;
        serde_json::from_slice(&text).map_err(WorkerError::Settings)
    }

    /// Counts a job in hand.
    ///
    /// A farm that serves sessions counts its messages or sessions so; after `workers.jobs_max` the worker is replaced.
    pub fn job(&self) -> Job {
        Job::new(&self.inner)
    }

    /// Adds to one of the farm's counters, named by its position in the composer's list of counter names.
    pub fn count(&self, counter: usize, add: u64) {
        self.inner.slot().counter(counter).fetch_add(add, std::sync::atomic::Ordering::Relaxed);
    }

    /// Sets one of the farm's counters, as for a gauge.
    pub fn gauge(&self, counter: usize, value: u64) {
        self.inner.slot().counter(counter).store(value, std::sync::atomic::Ordering::Relaxed);
    }

    /// Leaves a short text for whoever looks how the farm stands, such as what is out of order and may right itself; it stands until it
    /// is changed, taken back, or the worker ends. Of more than some five hundred bytes the end is cut off.
    pub fn notice(&self, text: Option<&str>) {
        self.inner.slot().set_notice(text.unwrap_or_default());
    }

    /// Connections in hand in all workers of this farm: TCP's, of all generations.
    pub fn connections_in_farm(&self) -> u32 {
        let connections = |slot: crate::scoreboard::Slot<'_>| {
            slot.gauge(TCP_GAUGE).load(std::sync::atomic::Ordering::Relaxed)
        };
        self.inner.board.slots().map(connections).sum()
    }

    /// Counts `key` (a client's address, hashed) as present once more in this worker, and says how often it now is present in all
    /// workers of the farm. Forgotten by itself when the worker dies. When the table is full the key is counted in this worker only.
    pub fn tally_enter(&self, key: u64) -> u32 {
        self.inner.tally.enter(&self.inner.board, self.inner.given.slot, key)
    }

    /// Counts `key` once less.
    pub fn tally_leave(&self, key: u64) {
        self.inner.tally.leave(&self.inner.board, self.inner.given.slot, key);
    }

    /// Whether a worker of this farm crashed, as far back as its manager remembers; whoever lost jobs with it may be about to say so.
    pub fn has_crashed_lately(&self) -> bool {
        !self.inner.board.recent_crashes().is_empty()
    }

    /// Asks the manager of an on-demand farm for another pass after so long, sooner than its interval.
    pub fn come_again(&self, after: Duration) {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.inner.tell(&ToManager::ComeAgain { after_ms });
    }

    /// A worker without a manager, within this process: for a stage's own tests, and for tools. `farm` is set up as a manager
    /// would; the [`Alone`] is the manager's end.
    ///
    /// # Errors
    ///
    /// What a manager's start would say.
    pub fn alone(
        farm: &crate::manager::Farm,
    ) -> Result<(Self, Alone), crate::manager::ManagerError> {
        let (inner, alone) = alone::begin(farm)?;
        Ok((Self { inner: Rc::new(inner) }, alone))
    }

    /// Runs a stage's future to its end on the runtime that workers have: one thread, tasks that are not `Send`.
    ///
    /// # Errors
    ///
    /// When the runtime cannot be made.
    pub fn block_on<F: Future>(stage: F) -> Result<F::Output, WorkerError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .map_err(failed("making the runtime"))?;
        Ok(runtime.block_on(stage))
    }
}

fn failed(context: &'static str) -> impl Fn(std::io::Error) -> WorkerError {
    move |source| WorkerError::Io { context: context.to_owned(), source }
}

/// A panic is a broken invariant of ours: the process ends, loudly, and the manager counts it.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        tracing::error!(panic = %panic, "a bug: this worker aborts");
        std::process::abort();
    }));
}

/// A listening descriptor with its name.
type NamedTcp = (String, OwnedFd);

#[cfg(test)]
mod tests;
