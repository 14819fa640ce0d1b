//! `grange run`: binds the TCP listeners, starts a manager for each farm, and restarts one that dies.
//!
//! Farms start one after the other, in the plan's order: the next when the one before has said that it is ready, or a moment later: one
//! that has much to load keeps nobody waiting. They stop in the reverse order. The supervisor holds the TCP listeners, so a manager's death refuses nobody.

mod succession;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sys::{Interest, Process, Signal, SignalFd, Spawn};

use crate::handover::{
    self, FromSupervisor, HandedTcp, MANAGER_VARIABLE, ManagerHandover, ToSupervisor, Told,
};
use crate::manager::{Backoff, ManagerError, TcpListen};
use crate::notify::Notifier;
use crate::setup::{self, Mark, Owners};
use crate::succession::{STATE_VARIABLE, inherited, rehearsal};

/// A farm that has not said that it is ready holds up the next for so long.
const READY_WAIT: Duration = Duration::from_millis(100);
/// At a stop, a manager that has not ended holds up the stop of the next for so long.
const STOP_WAIT: Duration = Duration::from_secs(3);
/// At a stop, managers that have not ended after so long are killed.
const STOP_ALL: Duration = Duration::from_secs(60);
/// When all managers have ended, orphaned workers are waited for so long.
const ORPHANS_WAIT: Duration = Duration::from_secs(10);

/// What the supervisor starts.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Farms in the order of their starting.
    pub farms: Vec<String>,
    /// TCP listeners by farm, bound here so that a manager's death loses no connection.
    pub tcp: Vec<(String, TcpListen)>,
    /// Arguments of `grange farm NAME` besides the name: the configuration's path.
    pub arguments: Vec<String>,
    /// Where sockets, scoreboards and locks are.
    pub run_dir: PathBuf,
    /// The directory whose `instance` file names the `run_dir` in charge of it.
    pub data_dir: PathBuf,
    /// Workers run as this user and group, when the supervisor is root.
    pub user: Option<(u32, u32)>,
    /// Group that may connect to admin sockets, besides root.
    pub admin_group: Option<u32>,
}

/// Runs until SIGTERM or SIGINT; SIGHUP is passed on after `reload` has found the configuration good. On SIGUSR2 it goes on as the
/// program that is named by whoever asked ([`crate::upgrade`]), and so do its managers. Call it before any thread is started.
///
/// # Errors
///
/// [`ManagerError::Setup`] when it cannot begin; nothing was started then.
pub fn run(
    plan: Plan,
    reload: &mut dyn FnMut() -> Result<Plan, String>,
) -> Result<(), ManagerError> {
    if let Some(result) = rehearsal(&plan.run_dir, &plan.data_dir) {
        return result;
    }
    let mut supervisor = Supervisor::begin(plan)?;
    supervisor
        .run(reload)
        .map_err(|error| ManagerError::Setup(format!("the supervisor cannot go on: {error}")))
}

struct Supervisor {
    plan: Plan,
    signals: SignalFd,
    tcp: BTreeMap<SocketAddr, TcpListener>,
    farms: Vec<Farm>,
    stopping: Option<Stopping>,
    told_ready: bool,
    notifier: Notifier,
    instance: File,
    mark: Mark,
}

/// One farm's manager, running or to be started.
struct Farm {
    name: String,
    manager: Option<Manager>,
    backoff: Backoff,
    /// It was started at least once; only then does the next farm start.
    begun: Option<Instant>,
    ready: bool,
    /// No longer in the plan: it is stopped, not restarted, and then forgotten.
    leaves: bool,
}

struct Manager {
    process: Process,
    control: OwnedFd,
    deaf: bool,
    terminated: bool,
}

struct Stopping {
    kill_at: Instant,
    /// The farm that was told last.
    told: Option<String>,
    /// When the next is told, if that one has not ended by then.
    next_at: Instant,
    killed: bool,
}

impl Farm {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            manager: None,
            backoff: Backoff::default(),
            begun: None,
            ready: false,
            leaves: false,
        }
    }

    /// Whether the farms after it may start.
    fn lets_others_start(&self, now: Instant) -> bool {
        self.ready || self.begun.is_some_and(|begun| now >= begun + READY_WAIT)
    }
}

/// Complains if another supervisor runs one of these farms: its managers would stand in the way of ours for as long as it lives. Those
/// that a dead one has left are waited for.
fn refuse_second(plan: &Plan) -> Result<(), ManagerError> {
    let others = setup::supervisors(&plan.run_dir)
        .map_err(failed("look for other supervisors of this run_dir"))?;
    let Some(other) = others.first() else { return Ok(()) };
    for farm in &plan.farms {
        if setup::lock_farm(&plan.run_dir, farm).is_err() {
            return Err(ManagerError::Setup(format!(
                "the farm {farm} runs already in {}, under process {other} or another",
                plan.run_dir.display()
            )));
        }
    }
    Ok(())
}

impl Supervisor {
    fn begin(plan: Plan) -> Result<Self, ManagerError> {
        let signals =
            [Signal::Terminate, Signal::Interrupt, Signal::Hangup, Signal::Upgrade, Signal::Child];
        let signals = SignalFd::new(&signals).map_err(failed("take signals"))?;
        // Executed by its open file, it would be named after a number.
        let _ = sys::name_process("grange");
        sys::raise_open_files().map_err(failed("raise the limit of open files"))?;
        sys::become_subreaper().map_err(failed("adopt orphaned workers"))?;
        let user = plan.user.filter(|_| sys::effective_ids().0 == 0);
        setup::prepare_run_dir(&plan.run_dir, Owners { user, admin_group: plan.admin_group })?;
        if let Some(left) = inherited().map_err(failed("take up what was left"))? {
            return succession::adopt(plan, signals, left);
        }
        let instance = setup::lock_instance(&plan.data_dir, &plan.run_dir, user)?;
        refuse_second(&plan)?;
        let mark = Mark::make(&plan.run_dir)?;
        let mut this = Self {
            farms: plan.farms.iter().map(|name| Farm::new(name)).collect(),
            signals,
            tcp: BTreeMap::new(),
            stopping: None,
            told_ready: false,
            notifier: Notifier::new(Instant::now()),
            instance,
            mark,
            plan,
        };
        this.tcp = this.bind(&this.plan, setup::bind_tcp_at_start)?;
        Ok(this)
    }

    /// The listeners of a plan: those that there are already, and new ones.
    fn bind(
        &self,
        plan: &Plan,
        bind: fn(&TcpListen) -> Result<TcpListener, ManagerError>,
    ) -> Result<BTreeMap<SocketAddr, TcpListener>, ManagerError> {
        let mut bound = BTreeMap::new();
        for (_, listen) in &plan.tcp {
            let listener = match self.tcp.get(&listen.address).map(TcpListener::try_clone) {
                Some(Ok(listener)) => listener,
                Some(Err(error)) => {
                    let what = format!("cannot keep the listener on {}: {error}", listen.address);
                    return Err(ManagerError::Setup(what));
                }
                None => bind(listen)?,
            };
            bound.insert(listen.address, listener);
        }
        Ok(bound)
    }

    fn run(&mut self, reload: &mut dyn FnMut() -> Result<Plan, String>) -> io::Result<()> {
        loop {
            let now = Instant::now();
            let wake = self.adjust(now);
            if self.stopping.is_some() && self.farms.iter().all(|farm| farm.manager.is_none()) {
                break;
            }
            self.wait(wake)?;
            self.take_signals(reload);
            for index in 0..self.farms.len() {
                self.hear(index);
            }
            self.reap();
        }
        self.wait_for_orphans()
    }

    fn wait(&self, wake: Option<Instant>) -> io::Result<()> {
        let mut interests = vec![Interest::new(self.signals.as_fd())];
        for manager in self.farms.iter().filter_map(|farm| farm.manager.as_ref()) {
            if !manager.deaf {
                interests.push(Interest::new(manager.control.as_fd()));
            }
        }
        let timeout = wake.map(|wake| wake.saturating_duration_since(Instant::now()));
        sys::poll(&mut interests, timeout)?;
        Ok(())
    }

    /// Does what is due now; returns when to look again.
    fn adjust(&mut self, now: Instant) -> Option<Instant> {
        let mut wakes = vec![self.notifier.ping(now)];
        if self.stopping.is_some() {
            wakes.push(Some(self.stop_next(now)));
        } else {
            for index in 0..self.farms.len() {
                wakes.push(self.start_if_due(index, now));
                let Some(farm) = self.farms.get(index).filter(|farm| !farm.lets_others_start(now))
                else {
                    continue;
                };
                wakes.push(farm.begun.map(|begun| begun + READY_WAIT));
                break;
            }
            self.tell_ready();
        }
        wakes.into_iter().flatten().min()
    }

    /// Starts a farm's manager if it has none and its back-off is over.
    fn start_if_due(&mut self, index: usize, now: Instant) -> Option<Instant> {
        let farm =
            self.farms.get_mut(index).filter(|farm| farm.manager.is_none() && !farm.leaves)?;
        if let Some(until) = farm.backoff.waits_until(now) {
            return Some(until);
        }
        farm.begun.get_or_insert(now);
        let name = farm.name.clone();
        match self.start(&name) {
            Ok(manager) => {
                tracing::info!(farm = %name, pid = manager.process.pid(), "manager started");
                if let Some(farm) = self.farms.get_mut(index) {
                    farm.manager = Some(manager);
                }
                None
            }
            Err(error) => {
                tracing::error!(farm = %name, %error, "cannot start a manager");
                let farm = self.farms.get_mut(index)?;
                Some(now + farm.backoff.crashed(now))
            }
        }
    }

    fn start(&self, name: &str) -> io::Result<Manager> {
        let (control, theirs) = sys::packet::pair()?;
        let mut arguments = vec!["grange".to_owned(), "farm".to_owned(), name.to_owned()];
        arguments.extend(self.plan.arguments.iter().cloned());
        let mut spawn = Spawn::new(arguments)
            .without_variable(STATE_VARIABLE)
            .without_variable("NOTIFY_SOCKET")
            .without_variable("WATCHDOG_USEC")
            .without_variable("WATCHDOG_PID");
        let number = spawn.descriptor(theirs.as_fd());
        let mut tcp = Vec::new();
        for (listen, listener) in self.listeners_of(name) {
            let fd = spawn.descriptor(listener.as_fd());
            tcp.push(HandedTcp { name: listen.name.clone(), address: listen.address, fd });
        }
        let handover = ManagerHandover { control: number, tcp };
        let memory = sys::sealed_memfd("grange-manager", &serde_json::to_vec(&handover)?)?;
        let number = spawn.descriptor(memory.as_fd());
        let process = spawn.variable(MANAGER_VARIABLE, number.to_string()).start()?;
        Ok(Manager { process, control, deaf: false, terminated: false })
    }

    fn listeners_of(&self, farm: &str) -> impl Iterator<Item = (&TcpListen, &TcpListener)> {
        let ours = self.plan.tcp.iter().filter(move |(name, _)| name == farm);
        ours.filter_map(|(_, listen)| Some((listen, self.tcp.get(&listen.address)?)))
    }

    fn tell_ready(&mut self) {
        if !self.told_ready && self.farms.iter().all(|farm| farm.ready) {
            self.told_ready = true;
            tracing::info!(farms = self.farms.len(), "all farms are ready");
            setup::settle();
            self.notifier.ready();
        }
    }

    fn hear(&mut self, index: usize) {
        let Some(farm) = self.farms.get_mut(index) else {
            return;
        };
        let Some(manager) = farm.manager.as_mut().filter(|manager| !manager.deaf) else {
            return;
        };
        loop {
            match handover::told::<ToSupervisor>(&manager.control) {
                Ok(Told::Nothing) => return,
                Ok(Told::Message(ToSupervisor::Ready, _)) => farm.ready = true,
                Ok(Told::End) | Err(_) => {
                    manager.deaf = true;
                    return;
                }
            }
        }
    }

    fn take_signals(&mut self, reload: &mut dyn FnMut() -> Result<Plan, String>) {
        while let Ok(Some(signal)) = self.signals.take() {
            match signal {
                Signal::Terminate | Signal::Interrupt if self.stopping.is_none() => {
                    tracing::info!("stopping");
                    self.notifier.stopping();
                    let now = Instant::now();
                    let stopping = Stopping {
                        kill_at: now + STOP_ALL,
                        told: None,
                        next_at: now,
                        killed: false,
                    };
                    self.stopping = Some(stopping);
                }
                Signal::Hangup if self.stopping.is_none() => {
                    self.notifier.reloading();
                    let result = reload()
                        .and_then(|plan| self.take_over(plan).map_err(|error| error.to_string()));
                    match result {
                        Ok(()) => tracing::info!("reloading all farms"),
                        Err(error) => {
                            tracing::error!(error, "not reloaded: the old configuration stays");
                        }
                    }
                    if self.told_ready {
                        self.notifier.ready();
                    }
                }
                Signal::Upgrade if self.stopping.is_none() => self.upgrade(),
                _ => {}
            }
        }
    }

    fn take_over(&mut self, plan: Plan) -> Result<(), ManagerError> {
        if plan.run_dir != self.plan.run_dir || plan.data_dir != self.plan.data_dir {
            let what = "run_dir and data_dir change only by a restart".to_owned();
            return Err(ManagerError::Setup(what));
        }
        self.tcp = self.bind(&plan, setup::bind_tcp)?;
        self.plan = plan;
        self.arrange_farms();
        self.tell_managers(None);
        Ok(())
    }

    /// After an upgrade nothing may end this process: an address that cannot be listened on is left out.
    fn bind_leniently(&mut self) {
        let mut bound = BTreeMap::new();
        for (_, listen) in &self.plan.tcp {
            match self.tcp.remove(&listen.address).map_or_else(|| setup::bind_tcp(listen), Ok) {
                Ok(listener) => {
                    bound.insert(listen.address, listener);
                }
                Err(error) => tracing::error!(%error, "left out"),
            }
        }
        self.tcp = bound;
    }

    /// Lets the farms be those of the plan: others leave, new ones are added.
    fn arrange_farms(&mut self) {
        arrange(&mut self.farms, &self.plan.farms);
        for farm in self.farms.iter_mut().filter(|farm| farm.leaves) {
            if let Some(manager) = &mut farm.manager {
                manager.terminate(&farm.name);
            }
        }
        self.farms.retain(|farm| !farm.leaves || farm.manager.is_some());
    }

    /// Tells managers to read the configuration anew, or to go on as another program, which does so too.
    fn tell_managers(&self, program: Option<&File>) {
        for farm in self.farms.iter().filter(|farm| !farm.leaves) {
            let Some(manager) = &farm.manager else {
                continue;
            };
            let mut tcp = Vec::new();
            let mut fds: Vec<_> = program.into_iter().map(AsFd::as_fd).collect();
            for (listen, listener) in self.listeners_of(&farm.name) {
                tcp.push((listen.name.clone(), listen.address));
                fds.push(listener.as_fd());
            }
            let message = match program {
                Some(_) => FromSupervisor::Upgrade { tcp },
                None => FromSupervisor::Reload { tcp },
            };
            if let Err(error) = handover::tell(&manager.control, &message, &fds) {
                tracing::error!(farm = %farm.name, %error, "cannot tell a manager to reload");
            }
        }
    }

    /// Tells managers to stop, the last started first, and at last kills them.
    fn stop_next(&mut self, now: Instant) -> Instant {
        let Some(stopping) = &mut self.stopping else {
            return now;
        };
        if now >= stopping.kill_at {
            if !std::mem::replace(&mut stopping.killed, true) {
                for manager in self.farms.iter().filter_map(|farm| farm.manager.as_ref()) {
                    tracing::error!(pid = manager.process.pid(), "a manager did not end: killed");
                    let _ = manager.process.signal(Signal::Kill);
                }
            }
            return now + STOP_WAIT;
        }
        let told = stopping.told.as_deref();
        let waits =
            self.farms.iter().any(|farm| told == Some(&farm.name) && farm.manager.is_some());
        if !waits || now >= stopping.next_at {
            let next = self.farms.iter_mut().rev().find_map(|farm| {
                let name = &farm.name;
                let manager = farm.manager.as_mut().filter(|manager| !manager.terminated)?;
                Some((name, manager))
            });
            match next {
                Some((name, manager)) => {
                    manager.terminate(name);
                    stopping.told = Some(name.clone());
                    stopping.next_at = now + STOP_WAIT;
                    // Nobody will accept there any more: whoever connects shall know at once.
                    for (_, listen) in self.plan.tcp.iter().filter(|(farm, _)| farm == name) {
                        self.tcp.remove(&listen.address);
                    }
                }
                None => stopping.next_at = stopping.kill_at,
            }
        }
        stopping.next_at.min(stopping.kill_at)
    }

    /// Takes note of every child that has ended: managers, and workers that lost theirs.
    fn reap(&mut self) {
        while let Ok(Some((pid, ended))) = sys::reap_any() {
            let is_it = |farm: &&mut Farm| {
                farm.manager.as_ref().is_some_and(|manager| manager.process.pid() == pid)
            };
            match self.farms.iter_mut().find(is_it) {
                None => tracing::debug!(pid, %ended, "an orphaned worker has ended"),
                Some(farm) => {
                    farm.manager = None;
                    farm.ready = false;
                    if self.stopping.is_some() || farm.leaves {
                        tracing::info!(farm = %farm.name, %ended, "manager ended");
                    } else {
                        let pause = farm.backoff.crashed(Instant::now());
                        tracing::error!(farm = %farm.name, pid, %ended, pause_ms = pause.as_millis() as u64, "a manager died: restarting it");
                    }
                }
            }
        }
        self.farms.retain(|farm| !farm.leaves || farm.manager.is_some());
    }

    /// Nothing outlives the supervisor, unless it hangs for long.
    fn wait_for_orphans(&self) -> io::Result<()> {
        let end = Instant::now() + ORPHANS_WAIT;
        loop {
            match sys::reap_any() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
                Ok(Some(_)) => continue,
                Ok(None) => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!("orphaned workers still drain");
                return Ok(());
            }
            sys::poll(&mut [Interest::new(self.signals.as_fd())], Some(left))?;
            while self.signals.take()?.is_some() {}
        }
    }
}

/// Puts farms in the plan's order, in which they start and, backwards, stop. Those that leave come last: they hold up nobody.
fn arrange(farms: &mut Vec<Farm>, names: &[String]) {
    for name in names {
        if !farms.iter().any(|farm| farm.name == *name) {
            farms.push(Farm::new(name));
        }
    }
    let place = |farm: &Farm| names.iter().position(|name| *name == farm.name);
    for farm in farms.iter_mut() {
        farm.leaves = place(farm).is_none();
    }
    farms.sort_by_key(|farm| place(farm).unwrap_or(usize::MAX));
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> ManagerError {
    move |error| ManagerError::Setup(format!("cannot {what}: {error}"))
}

impl Manager {
    fn terminate(&mut self, farm: &str) {
        self.terminated = true;
        if let Err(error) = self.process.signal(Signal::Terminate) {
            tracing::error!(farm, %error, "cannot tell a manager to stop");
        }
    }
}

#[cfg(test)]
mod tests;
