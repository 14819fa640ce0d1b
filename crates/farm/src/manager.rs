//! The manager of one farm: a poll loop over signals, child processes and one socketpair per worker.
//!
//! ```text
//!            started          Ready               Drain, or its own SIGTERM
//!   (slot) ─────────▶ Starting ─────▶ Ready ──────────────────────▶ Draining ──▶ (ended; killed when over time)
//!                        │ (Standby, in between, when another host does its work)
//!                        │              │ superseded: reload, jobs_max; serves on until its
//!                        ▼              ▼ successors are ready
//!                     crashed        crashed ─▶ replaced after the farm's back-off
//! ```

mod backoff;
mod fleet;
mod poke;
mod probe;
mod reload;
mod succession;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use socket::Address;
use sys::{Interest, Signal, SignalFd};

pub(crate) use backoff::Backoff;
use fleet::Child;
use poke::Poke;

use crate::Workers;
use crate::handover::{
    self, FromSupervisor, MANAGER_VARIABLE, ManagerHandover, ToSupervisor, Told,
};
use crate::notify::Notifier;
use crate::scoreboard::Board;
use crate::setup::{self, Owners};
use crate::succession::{inherited, rehearsal};

/// Everything a manager knows of its farm. None of it is about mail.
#[derive(Debug, Clone)]
pub struct Farm {
    /// The farm's name, as in `ps`, logs and the scoreboard's file name.
    pub name: String,
    /// Apache's settings.
    pub workers: Workers,
    /// Named sockets to bind, each for one conversation.
    pub sockets: Vec<NamedSocket>,
    /// TCP listeners to bind, or to take over from the supervisor by name.
    pub tcp: Vec<TcpListen>,
    /// Where jobs of other hosts are taken, over TLS; to bind, or to take over from the supervisor. Needs `keys`.
    pub jobs: Option<SocketAddr>,
    /// Who may ask there: for each socket's name the farms of which a host's certificate must name one. A socket that is not named here
    /// is asked on this host alone.
    pub callers: BTreeMap<String, Vec<String>>,
    /// The directory of this host's keys.
    pub keys: Option<PathBuf>,
    /// Where other farms are asked, by their names; those that are not here are asked in `run_dir/sockets`. A path is a directory of
    /// sockets. Addresses of hosts need `keys`.
    pub places: BTreeMap<String, Vec<Address>>,
    /// The settings handed to each worker, as JSON, in a sealed memfd.
    pub settings: Vec<u8>,
    /// What of them a farm of one takes at a reload while it runs; for any other change its worker is replaced.
    pub in_place: InPlace,
    /// Names of the counters in the scoreboard, in order.
    pub counters: Vec<String>,
    /// Where sockets, scoreboards and locks are.
    pub run_dir: PathBuf,
    /// The directory whose `instance` file names the `run_dir` in charge of it.
    pub data_dir: PathBuf,
    /// Workers run as this user and group, when the manager is root.
    pub user: Option<(u32, u32)>,
    /// Group that may connect to admin sockets, besides root.
    pub admin_group: Option<u32>,
    /// How the farm runs.
    pub mode: Mode,
    /// How long draining may take at a stop before workers are killed.
    pub drain: Duration,
    /// How long workers of an old generation may go on after a reload: their sessions run to their end.
    pub drain_reload: Duration,
    /// A socket such as `requeue.requeue`, asked when a worker of this farm crashed: by one request whose method is what follows
    /// the last dot, with the parameter `reason`.
    pub on_crash: Option<String>,
}

/// What of its settings a worker takes while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InPlace {
    /// All of them.
    All,
    /// The member of that name.
    Member(String),
}

/// How a farm runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Between `workers.start` and `workers.max` workers, by spare capacity.
    Elastic,
    /// Exactly one worker; a new one starts only when the old one has ended.
    One,
    /// A worker is started for one pass when someone connects, at start, and at this interval.
    OnDemand {
        /// Time between passes nobody asked for.
        every: Duration,
    },
}

/// A named socket to bind in `run_dir/sockets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSocket {
    /// The file's name: `router.route`.
    pub name: String,
    /// Whether it is an admin socket, in `sockets/admin`.
    pub admin: bool,
}

/// A TCP address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpListen {
    /// The name by which the stage knows it.
    pub name: String,
    /// The address.
    pub address: SocketAddr,
}

impl Farm {
    /// Everything that it listens on over TCP.
    pub fn listens(&self) -> impl Iterator<Item = TcpListen> {
        let jobs = self.jobs.map(|address| TcpListen { name: JOBS.to_owned(), address });
        self.tcp.iter().cloned().chain(jobs)
    }

    /// Whoever asks other hosts, or is asked by them, must be able to show who it is.
    pub(crate) fn check_keys(&self) -> Result<(), ManagerError> {
        let is_remote = |address: &Address| matches!(address, Address::Tcp { .. });
        let asks = self.places.values().flatten().any(is_remote);
        if self.keys.is_none() && (asks || self.jobs.is_some()) {
            let what = format!("the farm {} works with other hosts, and has no keys", self.name);
            return Err(ManagerError::Setup(what));
        }
        Ok(())
    }
}

/// The name of a farm's job port among its TCP listeners; sessions are not taken there.
pub const JOBS: &str = "jobs";

/// Why a manager ended.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// Something the operator must mend: a port in use, a directory's mode, another instance.
    #[error("{0}")]
    Setup(String),
}

/// Asks for the farm anew: the configuration was changed.
type Reload<'a> = &'a mut dyn FnMut() -> Result<Farm, String>;

/// Runs a farm until SIGTERM, or until the supervisor's socketpair ends. `reload` is asked for the farm anew on SIGHUP; an error is
/// logged and the old one stays. On SIGUSR2 it goes on as the program that is named by whoever asked ([`crate::upgrade`]). Call it
/// before any thread is started.
///
/// # Errors
///
/// [`ManagerError::Setup`] when the farm cannot begin; nothing was started then.
pub fn run(farm: Farm, reload: Reload<'_>) -> Result<(), ManagerError> {
    if let Some(result) = rehearsal(&farm.run_dir, &farm.data_dir) {
        return result;
    }
    Manager::begin(farm, reload)?.run()
}

struct Manager<'a> {
    farm: Farm,
    settings: Box<RawValue>,
    reload: Reload<'a>,
    signals: SignalFd,
    /// The supervisor's end, if there is one.
    upward: Option<OwnedFd>,
    /// TCP listeners that the supervisor bound, by address.
    inherited: BTreeMap<SocketAddr, Rc<TcpListener>>,
    sockets: Vec<(NamedSocket, UnixListener)>,
    tcp: Vec<(TcpListen, Rc<TcpListener>)>,
    board: Rc<Board>,
    generation: u32,
    children: Vec<Child>,
    /// How many workers the farm shall have now.
    wanted: u32,
    backoff: Backoff,
    /// Since when there have been too many spare workers.
    surplus_since: Option<Instant>,
    /// On demand: when the next pass is due.
    next_pass: Instant,
    last_pass: Option<Instant>,
    /// When workers are probed next.
    next_probe: Instant,
    poke: Option<Poke>,
    told_ready: bool,
    notifier: Notifier,
    stopping: bool,
    /// Held as long as the manager lives.
    locks: [File; 2],
}

/// What [`Manager::wait`] found ready.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Upward,
    Control(u32),
    Ended(u32),
    Demand,
    Poke,
}

impl<'a> Manager<'a> {
    fn begin(farm: Farm, reload: Reload<'a>) -> Result<Self, ManagerError> {
        let failed = |what: &'static str| {
            move |error: io::Error| ManagerError::Setup(format!("cannot {what}: {error}"))
        };
        let signals =
            [Signal::Terminate, Signal::Interrupt, Signal::Hangup, Signal::Upgrade, Signal::Child];
        let signals = SignalFd::new(&signals).map_err(failed("take signals"))?;
        // Its short name too says which farm it is; a name that cannot be set costs nothing.
        let _ = sys::name_process(&farm.name);
        sys::raise_open_files().map_err(failed("raise the limit of open files"))?;
        let settings = settings_json(&farm.settings)?;
        farm.check_keys()?;
        setup::prepare_run_dir(&farm.run_dir, owners(&farm))?;
        if let Some(left) = inherited().map_err(failed("take up what was left"))? {
            return succession::adopt(farm, reload, signals, left);
        }
        let locks = [
            setup::lock_instance(&farm.data_dir, &farm.run_dir, worker_identity(&farm))?,
            setup::lock_farm(&farm.run_dir, &farm.name)?,
        ];
        let (upward, inherited) =
            take_handover().map_err(failed("take the supervisor's hand-over"))?;
        let board = Rc::new(make_board(&farm)?);
        let now = Instant::now();
        let mut this = Self {
            settings,
            reload,
            signals,
            upward,
            inherited,
            sockets: Vec::new(),
            tcp: Vec::new(),
            board,
            generation: 1,
            children: Vec::new(),
            wanted: farm.workers.start,
            backoff: Backoff::default(),
            surplus_since: None,
            next_pass: now,
            last_pass: None,
            next_probe: now,
            poke: None,
            told_ready: false,
            notifier: Notifier::new(now),
            stopping: false,
            locks,
            farm,
        };
        for listen in this.farm.listens().collect::<Vec<_>>() {
            let listener = this.listener(&listen, setup::bind_tcp_at_start)?;
            this.tcp.push((listen, listener));
        }
        for socket in &this.farm.sockets {
            let listener = setup::bind_named(&this.farm.run_dir, socket, owners(&this.farm))?;
            this.sockets.push((socket.clone(), listener));
        }
        Ok(this)
    }

    /// The supervisor's listener for an address, or one of our own.
    fn listener(
        &self,
        listen: &TcpListen,
        bind: fn(&TcpListen) -> Result<TcpListener, ManagerError>,
    ) -> Result<Rc<TcpListener>, ManagerError> {
        match self.inherited.get(&listen.address) {
            Some(listener) => Ok(listener.clone()),
            None => bind(listen).map(Rc::new),
        }
    }

    fn run(mut self) -> Result<(), ManagerError> {
        tracing::info!(farm = %self.farm.name, "manager runs");
        loop {
            let now = Instant::now();
            let on_demand = matches!(self.farm.mode, Mode::OnDemand { .. });
            self.board.describe(self.generation, on_demand);
            let wake = [self.adjust(now), self.notifier.ping(now)].into_iter().flatten().min();
            self.tell_ready();
            if self.stopping && self.children.is_empty() {
                break;
            }
            let sources = self.wait(wake).map_err(|error| {
                ManagerError::Setup(format!(
                    "the manager of {} cannot wait: {error}",
                    self.farm.name
                ))
            })?;
            for source in sources {
                self.handle(source);
            }
        }
        let _ = std::fs::remove_file(board_path(&self.farm));
        tracing::info!(farm = %self.farm.name, "manager ends");
        Ok(())
    }

    fn wait(&self, wake: Option<Instant>) -> io::Result<Vec<Source>> {
        let mut sources = vec![(Source::Signals, self.signals.as_fd())];
        sources.extend(self.upward.iter().map(|fd| (Source::Upward, fd.as_fd())));
        for child in &self.children {
            sources.push((Source::Ended(child.pid()), child.process.as_fd()));
            if !child.deaf {
                sources.push((Source::Control(child.pid()), child.control.as_fd()));
            }
        }
        if self.watches_demand() {
            sources.extend(self.sockets.iter().map(|(_, fd)| (Source::Demand, fd.as_fd())));
            let jobs = self.tcp.iter().filter(|(listen, _)| listen.name == JOBS);
            sources.extend(jobs.map(|(_, fd)| (Source::Demand, fd.as_fd())));
        }
        sources.extend(self.poke.iter().map(|poke| (Source::Poke, poke.as_fd())));
        let mut interests: Vec<Interest<'_>> =
            sources.iter().map(|(_, fd)| Interest::new(*fd)).collect();
        let timeout = wake.map(|wake| wake.saturating_duration_since(Instant::now()));
        sys::poll(&mut interests, timeout)?;
        let ready = sources.iter().zip(&interests).filter(|(_, interest)| interest.readable);
        Ok(ready.map(|((source, _), _)| *source).collect())
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Signals => self.take_signals(),
            Source::Upward => self.hear_supervisor(),
            Source::Control(pid) => self.hear_worker(pid),
            Source::Ended(pid) => self.reap(pid),
            Source::Demand => self.next_pass = self.next_pass.min(Instant::now()),
            Source::Poke => self.poke = self.poke.take().and_then(Poke::hear),
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.take() {
            match signal {
                Signal::Terminate | Signal::Interrupt => self.stop("a signal"),
                Signal::Hangup => {
                    self.reload_now();
                    setup::settle();
                }
                Signal::Upgrade => self.upgrade_as_requested(),
                // Children are waited for by their pidfds.
                Signal::Child | Signal::Kill => {}
            }
        }
    }

    fn hear_supervisor(&mut self) {
        let Some(upward) = &self.upward else {
            return;
        };
        match handover::told::<FromSupervisor>(upward) {
            Ok(Told::Nothing) => {}
            Ok(Told::Message(FromSupervisor::Reload { tcp }, fds)) => {
                self.inherit(tcp, fds);
                self.reload_now();
                setup::settle();
            }
            Ok(Told::Message(FromSupervisor::Upgrade { tcp }, mut fds)) => {
                if fds.is_empty() {
                    tracing::error!(farm = %self.farm.name, "an upgrade without a program");
                    return;
                }
                let program = File::from(fds.remove(0));
                self.inherit(tcp, fds);
                self.upgrade(&program);
            }
            Ok(Told::End) => {
                self.upward = None;
                self.stop("the supervisor's death");
            }
            Err(error) => {
                tracing::error!(farm = %self.farm.name, %error, "cannot understand the supervisor");
                self.upward = None;
                self.stop("a broken supervisor");
            }
        }
    }

    fn inherit(&mut self, tcp: Vec<(String, SocketAddr)>, fds: Vec<OwnedFd>) {
        let listeners = fds.into_iter().map(|fd| Rc::new(TcpListener::from(fd)));
        let addresses = tcp.into_iter().map(|(_, address)| address);
        self.inherited = addresses.zip(listeners).collect();
    }

    /// Begins to stop: nothing is started any more, every worker drains.
    fn stop(&mut self, why: &str) {
        if self.stopping {
            return;
        }
        tracing::info!(farm = %self.farm.name, why, "stopping");
        self.stopping = true;
        self.notifier.stopping();
        self.poke = None;
        self.drain_all();
        // Nobody will accept any more: whoever connects shall know at once, not wait in a queue.
        for (socket, _) in std::mem::take(&mut self.sockets) {
            let _ = std::fs::remove_file(setup::socket_path(&self.farm.run_dir, &socket));
        }
        self.tcp.clear();
        self.inherited.clear();
    }

    /// Tells the supervisor, once, that the farm has the workers it starts with, ready or standing by.
    fn tell_ready(&mut self) {
        let needed = match self.farm.mode {
            Mode::Elastic => self.farm.workers.start,
            Mode::One => 1,
            Mode::OnDemand { .. } => 0,
        };
        if self.told_ready || self.ready_count() < needed {
            return;
        }
        self.told_ready = true;
        tracing::info!(farm = %self.farm.name, workers = needed, "ready");
        setup::settle();
        self.notifier.ready();
        if let Some(upward) = &self.upward
            && let Err(error) = handover::tell(upward, &ToSupervisor::Ready, &[])
        {
            tracing::warn!(farm = %self.farm.name, %error, "cannot tell the supervisor that the farm is ready");
        }
    }
}

/// What the supervisor handed over, if there is one.
type Handed = (Option<OwnedFd>, BTreeMap<SocketAddr, Rc<TcpListener>>);

fn take_handover() -> io::Result<Handed> {
    let Some(variable) = std::env::var_os(MANAGER_VARIABLE) else {
        return Ok((None, BTreeMap::new()));
    };
    let number = variable.to_str().and_then(|text| text.parse().ok());
    let number =
        number.ok_or_else(|| io::Error::other(format!("{MANAGER_VARIABLE} is no number")))?;
    let memory = sys::take_descriptor(number)?;
    let handed: ManagerHandover = serde_json::from_slice(&sys::read_memfd(&memory)?)?;
    let control = sys::take_descriptor(handed.control)?;
    let mut inherited = BTreeMap::new();
    for tcp in handed.tcp {
        let listener = TcpListener::from(sys::take_descriptor(tcp.fd)?);
        inherited.insert(tcp.address, Rc::new(listener));
    }
    Ok((Some(control), inherited))
}

pub(crate) fn settings_json(settings: &[u8]) -> Result<Box<RawValue>, ManagerError> {
    serde_json::from_slice(settings).map_err(|error| {
        ManagerError::Setup(format!("the settings for the workers are no JSON: {error}"))
    })
}

/// The user and group of workers: given up root, or whoever we are.
fn worker_identity(farm: &Farm) -> Option<(u32, u32)> {
    farm.user.filter(|_| sys::effective_ids().0 == 0)
}

fn owners(farm: &Farm) -> Owners {
    Owners { user: worker_identity(farm), admin_group: farm.admin_group }
}

fn board_path(farm: &Farm) -> PathBuf {
    farm.run_dir.join("scoreboards").join(&farm.name)
}

/// So many whole generations may overlap while sessions of the old ones run to their end …
const GENERATIONS: usize = 4;
/// … and so many workers more.
const SLOTS_MORE: usize = 4;

fn slots_needed(farm: &Farm) -> usize {
    farm.workers.max as usize * GENERATIONS + SLOTS_MORE
}

fn tally_buckets(farm: &Farm) -> usize {
    if farm.tcp.is_empty() { 0 } else { crate::scoreboard::TALLY_BUCKETS }
}

fn make_board(farm: &Farm) -> Result<Board, ManagerError> {
    let path = board_path(farm);
    Board::create(&path, &farm.name, &farm.counters, slots_needed(farm), tally_buckets(farm))
        .map_err(|error| {
            ManagerError::Setup(format!("cannot make the scoreboard {}: {error}", path.display()))
        })
}
