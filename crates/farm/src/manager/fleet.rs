//! The workers of a farm: how many there shall be, starting them, hearing them, ending them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sys::{Ended, Process, Signal, Spawn};

use super::{Manager, Mode, Poke, worker_identity};
use crate::handover::{
    self, DrainReason, HandedSocket, HandedTcp, MANAGER_VARIABLE, ToManager, ToWorker, Told,
    WORKER_VARIABLE, WorkerHandover,
};
use crate::scoreboard::{Board, WorkerState};
use crate::succession::STATE_VARIABLE;

/// Too many spare workers for so long: one is drained, then the next after as long again.
const SURPLUS: Duration = Duration::from_secs(10);
/// Passes of an on-demand farm begin at least so far apart, whoever asks.
const PASS_SPACING: Duration = Duration::from_secs(1);

/// A worker that is not ready after so long is told of; it may have much to read, so nothing else is done about it.
const START_LONG: Duration = Duration::from_secs(600);

/// A worker process.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) process: Process,
    pub(super) control: OwnedFd,
    pub(super) slot: usize,
    pub(super) board: Rc<Board>,
    pub(super) generation: u32,
    pub(super) state: WorkerState,
    pub(super) busy: bool,
    /// To be drained as soon as its successors are ready: of an old generation, or worn.
    pub(super) superseded: bool,
    /// Its end of the socketpair is closed; only its death is waited for.
    pub(super) deaf: bool,
    pub(super) was_ready: bool,
    pub(super) kill_at: Option<Instant>,
    pub(super) killed: bool,
    pub(super) told: Option<(u32, Vec<u32>)>,
    pub(super) started: Instant,
    /// It was told of, because its start takes long.
    pub(super) is_late: bool,
    /// When it was asked whether it is there; nothing once it has said anything.
    pub(super) probed: Option<Instant>,
}

impl Child {
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn name(&self) -> String {
        self.board.worker_name(self.slot)
    }

    /// Counts as one of the workers that the farm shall have.
    pub(super) fn is_current(&self) -> bool {
        !self.superseded && self.state != WorkerState::Draining
    }

    /// What it has in hand: jobs and sessions.
    pub(super) fn jobs(&self) -> u32 {
        self.board.slot(self.slot).jobs().load(Relaxed)
    }

    /// Takes jobs or stands by, and is to go on doing so.
    pub(super) fn serves(&self) -> bool {
        self.is_current() && self.state.is_up()
    }
}

/// The earliest of several times.
#[derive(Default)]
pub(super) struct Wake(Option<Instant>);

impl Wake {
    pub(super) fn at(&mut self, when: Instant) {
        self.0 = Some(self.0.map_or(when, |earliest| earliest.min(when)));
    }
}

impl Manager<'_> {
    pub(super) fn ready_count(&self) -> u32 {
        self.children.iter().filter(|child| child.serves()).count() as u32
    }

    /// Does what is due now; returns when to look again if nothing happens before.
    pub(super) fn adjust(&mut self, now: Instant) -> Option<Instant> {
        let mut wake = Wake::default();
        self.kill_overdue(now);
        if !self.stopping {
            match self.farm.mode {
                Mode::Elastic => self.adjust_elastic(now, &mut wake),
                Mode::One => self.adjust_one(now, &mut wake),
                Mode::OnDemand { every } => self.adjust_on_demand(now, every, &mut wake),
            }
        }
        if let Some(poke) = &self.poke {
            if poke.until <= now {
                self.poke = None;
            } else {
                wake.at(poke.until);
            }
        }
        self.tell_of_late(now, &mut wake);
        // Also of those that were told to drain just now.
        let kills = self.children.iter().filter(|child| !child.killed);
        kills.filter_map(|child| child.kill_at).for_each(|kill_at| wake.at(kill_at));
        self.tell_workers();
        wake.0
    }

    fn tell_of_late(&mut self, now: Instant, wake: &mut Wake) {
        let starting = |child: &&mut Child| child.state == WorkerState::Starting && !child.is_late;
        for child in self.children.iter_mut().filter(starting) {
            child.is_late = now >= child.started + START_LONG;
            if child.is_late {
                tracing::warn!(worker = %child.name(), pid = child.pid(), after_s = START_LONG.as_secs(), "a worker is still not ready");
            } else {
                wake.at(child.started + START_LONG);
            }
        }
    }

    fn kill_overdue(&mut self, now: Instant) {
        for child in &mut self.children {
            if child.killed || child.kill_at.is_none_or(|kill_at| kill_at > now) {
                continue;
            }
            child.killed = true;
            tracing::warn!(worker = %child.board.worker_name(child.slot), pid = child.process.pid(), "did not drain in time: killed");
            if let Err(error) = child.process.signal(Signal::Kill) {
                tracing::error!(pid = child.process.pid(), %error, "cannot kill a worker");
            }
        }
    }

    fn adjust_elastic(&mut self, now: Instant, wake: &mut Wake) {
        self.probe(now, wake);
        let current = self.children.iter().filter(|child| child.is_current()).count() as u32;
        let spare =
            self.children.iter().filter(|child| child.serves() && !child.busy).count() as u32;
        let starting = current - self.ready_count();
        let workers = self.farm.workers.clone();
        if spare + starting < workers.spare_min && current >= self.wanted {
            self.wanted = (self.wanted + 1).min(workers.max);
        }
        for _ in current..self.wanted {
            if !self.start_if_allowed(now, wake) {
                break;
            }
        }
        if self.ready_count() >= self.wanted {
            self.drain_superseded(now);
        }
        if spare <= workers.spare_max || self.wanted <= 1 {
            self.surplus_since = None;
            return;
        }
        if self.surplus_since.is_none() {
            self.probe_all(now);
        }
        let since = *self.surplus_since.get_or_insert(now);
        if now.duration_since(since) >= SURPLUS {
            self.surplus_since = None;
            self.wanted -= 1;
            let idle = self.children.iter().rposition(|child| child.serves() && !child.busy);
            if let Some(index) = idle {
                self.drain(index, DrainReason::Retire, now);
            }
        }
        // The next one has a time of its own.
        wake.at(self.surplus_since.map_or(now, |since| since + SURPLUS));
    }

    /// Never two at a time: what a farm of one writes has one writer.
    fn adjust_one(&mut self, now: Instant, wake: &mut Wake) {
        self.drain_superseded(now);
        if self.children.is_empty() {
            self.start_if_allowed(now, wake);
        }
    }

    fn adjust_on_demand(&mut self, now: Instant, every: Duration, wake: &mut Wake) {
        if !self.children.is_empty() {
            return;
        }
        let spaced = self.last_pass.map_or(now, |last| last + PASS_SPACING);
        let due = self.next_pass.max(spaced);
        if due > now {
            wake.at(due);
        } else if self.start_if_allowed(now, wake) {
            self.last_pass = Some(now);
            self.next_pass = now + every;
        }
    }

    /// Whether a connection to one of the sockets would start a pass.
    pub(super) fn watches_demand(&self) -> bool {
        matches!(self.farm.mode, Mode::OnDemand { .. })
            && self.children.is_empty()
            && !self.stopping
            && self.next_pass > Instant::now()
    }

    fn start_if_allowed(&mut self, now: Instant, wake: &mut Wake) -> bool {
        if let Some(until) = self.backoff.waits_until(now) {
            wake.at(until);
            return false;
        }
        let slot = self.board.slots().find(|slot| slot.is_free()).map(|slot| slot.index());
        let Some(slot) = slot else {
            self.make_room(now);
            return false;
        };
        match self.start(slot) {
            Ok(child) => {
                tracing::info!(worker = %child.name(), pid = child.pid(), generation = child.generation, "started");
                self.children.push(child);
                true
            }
            Err(error) => {
                self.board.slot(slot).clear();
                let pause = self.backoff.crashed(now);
                tracing::error!(farm = %self.farm.name, %error, pause_ms = pause.as_millis() as u64, "cannot start a worker");
                wake.at(now + pause);
                false
            }
        }
    }

    /// Workers of old generations have all slots, as after many reloads with sessions that last: the oldest generation is to end
    /// as at a stop, so that the new one need not wait for the end of its time. The one that serves now is left alone.
    fn make_room(&mut self, now: Instant) {
        let soon = now + self.farm.drain;
        let ready = self.children.iter().filter(|child| child.state == WorkerState::Ready);
        let serving = ready.map(|child| child.generation).max();
        let board = self.board.clone();
        let is_old = |child: &Child| {
            Rc::ptr_eq(&child.board, &board)
                && (child.superseded || child.state == WorkerState::Draining)
                && Some(child.generation) != serving
        };
        let ends_soon = |child: &Child| child.kill_at.is_some_and(|kill_at| kill_at <= soon);
        if self.children.iter().any(|child| is_old(child) && ends_soon(child)) {
            return;
        }
        let old = self.children.iter().filter(|child| is_old(child));
        let Some(oldest) = old.map(|child| child.generation).min() else {
            return;
        };
        tracing::warn!(farm = %self.farm.name, generation = oldest, "old generations leave no room for a new worker: the oldest must end");
        for index in 0..self.children.len() {
            let is_it = |child: &&Child| is_old(child) && child.generation == oldest;
            if self.children.get(index).filter(is_it).is_some() {
                self.drain(index, DrainReason::Stop, now);
            }
        }
    }

    fn start(&self, slot: usize) -> io::Result<Child> {
        let name = self.board.worker_name(slot);
        let (control, theirs) = sys::packet::pair()?;
        self.board.slot(slot).take(self.generation, self.farm.workers.concurrency);
        let mut spawn = Spawn::new(["grange", "worker", &name])
            .without_variable(MANAGER_VARIABLE)
            .without_variable(STATE_VARIABLE)
            .without_variable("NOTIFY_SOCKET")
            .without_variable("WATCHDOG_USEC")
            .without_variable("WATCHDOG_PID")
            .identity(worker_identity(&self.farm));
        // The memory file that names the others comes after them, so its number is known last.
        let control_number = spawn.descriptor(theirs.as_fd());
        let scoreboard = spawn.descriptor(self.board.as_fd());
        let mut sockets = Vec::new();
        for (socket, listener) in &self.sockets {
            let fd = spawn.descriptor(listener.as_fd());
            sockets.push(HandedSocket { name: socket.name.clone(), admin: socket.admin, fd });
        }
        let mut tcp = Vec::new();
        for (listen, listener) in &self.tcp {
            let fd = spawn.descriptor(listener.as_fd());
            tcp.push(HandedTcp { name: listen.name.clone(), address: listen.address, fd });
        }
        let (uid, gid) = worker_identity(&self.farm).unwrap_or(sys::effective_ids());
        let handover = WorkerHandover {
            farm: self.farm.name.clone(),
            worker: name,
            slot,
            generation: self.generation,
            run_dir: self.farm.run_dir.clone(),
            data_dir: self.farm.data_dir.clone(),
            control: control_number,
            scoreboard,
            sockets,
            tcp,
            jobs_max: self.farm.workers.jobs_max,
            concurrency: self.farm.workers.concurrency,
            // Members of root's group are no members of the instance.
            gids: if uid == 0 { Vec::new() } else { vec![gid] },
            admin_gids: self.farm.admin_group.into_iter().collect(),
            orphan_ms: self.farm.drain_reload.as_millis() as u64,
            keys: self.farm.keys.clone(),
            callers: self.farm.callers.clone(),
            places: self.farm.places.clone(),
            settings: self.settings.clone(),
        };
        let memory = sys::sealed_memfd("grange-worker", &serde_json::to_vec(&handover)?)?;
        let number = spawn.descriptor(memory.as_fd());
        let process = spawn.variable(WORKER_VARIABLE, number.to_string()).start()?;
        self.board.slot(slot).set_pid(process.pid());
        self.board.forget_crash(process.pid());
        Ok(Child {
            process,
            control,
            slot,
            board: self.board.clone(),
            generation: self.generation,
            state: WorkerState::Starting,
            busy: false,
            superseded: false,
            deaf: false,
            was_ready: false,
            kill_at: None,
            killed: false,
            told: None,
            started: Instant::now(),
            is_late: false,
            probed: None,
        })
    }

    fn drain_superseded(&mut self, now: Instant) {
        for index in 0..self.children.len() {
            let due = self
                .children
                .get(index)
                .is_some_and(|child| child.superseded && child.state != WorkerState::Draining);
            if due {
                self.drain(index, DrainReason::Retire, now);
            }
        }
    }

    pub(super) fn drain_all(&mut self) {
        let now = Instant::now();
        for index in 0..self.children.len() {
            self.drain(index, DrainReason::Stop, now);
        }
    }

    fn drain(&mut self, index: usize, reason: DrainReason, now: Instant) {
        let within = match reason {
            DrainReason::Stop => self.farm.drain,
            DrainReason::Retire => self.farm.drain_reload,
        };
        let Some(child) = self.children.get_mut(index) else {
            return;
        };
        child.state = WorkerState::Draining;
        // It will say so itself, if it is there at all.
        child.board.slot(child.slot).set_state(WorkerState::Draining);
        let kill_at = now + within;
        child.kill_at = Some(child.kill_at.map_or(kill_at, |before| before.min(kill_at)));
        let message = ToWorker::Drain { reason, within_ms: within.as_millis() as u64 };
        if let Err(error) = handover::tell(&child.control, &message, &[]) {
            // It is just dying, or will be killed when its time is over.
            tracing::debug!(pid = child.pid(), %error, "cannot tell a worker to drain");
        }
    }

    /// Tells every worker how many of its generation are ready, and which crashed, when that has changed.
    fn tell_workers(&mut self) {
        let ready_of = |children: &[Child], generation| {
            let ready = children.iter().filter(|child| {
                child.generation == generation && child.state == WorkerState::Ready
            });
            ready.count() as u32
        };
        let crashed = self.board.recent_crashes();
        for index in 0..self.children.len() {
            let Some(generation) = self.children.get(index).map(|child| child.generation) else {
                continue;
            };
            let state = (ready_of(&self.children, generation).max(1), crashed.clone());
            let Some(child) = self.children.get_mut(index) else {
                continue;
            };
            if child.state != WorkerState::Ready || child.told.as_ref() == Some(&state) {
                continue;
            }
            let message = ToWorker::Workers { ready: state.0, crashed: state.1.clone() };
            if handover::tell(&child.control, &message, &[]).is_ok() {
                child.told = Some(state);
            }
        }
    }

    pub(super) fn hear_worker(&mut self, pid: u32) {
        loop {
            let Some(child) = self.children.iter_mut().find(|child| child.pid() == pid) else {
                return;
            };
            match handover::told::<ToManager>(&child.control) {
                Ok(Told::Nothing) => return,
                Ok(Told::Message(message, _)) => self.heard(pid, message),
                Ok(Told::End) => {
                    child.deaf = true;
                    return;
                }
                Err(error) => {
                    tracing::warn!(pid, %error, "cannot understand a worker: it is replaced");
                    child.deaf = true;
                    child.superseded = true;
                    return;
                }
            }
        }
    }

    fn heard(&mut self, pid: u32, message: ToManager) {
        let Some(child) = self.children.iter_mut().find(|child| child.pid() == pid) else {
            return;
        };
        child.probed = None;
        match message {
            ToManager::Here => {}
            ToManager::Ready => {
                child.was_ready = true;
                if matches!(child.state, WorkerState::Starting | WorkerState::Standby) {
                    child.state = WorkerState::Ready;
                }
                tracing::info!(worker = %child.name(), pid, "ready");
            }
            ToManager::Standby => {
                if child.state == WorkerState::Starting {
                    child.state = WorkerState::Standby;
                }
                tracing::info!(worker = %child.name(), pid, "stands by");
            }
            ToManager::Busy(busy) => child.busy = busy,
            ToManager::Worn => {
                tracing::info!(worker = %child.name(), pid, "has done its jobs_max: is replaced");
                child.superseded = true;
            }
            ToManager::Draining => {
                child.state = WorkerState::Draining;
                child.kill_at.get_or_insert(Instant::now() + self.farm.drain);
            }
            ToManager::ComeAgain { after_ms } => {
                let due = Instant::now() + Duration::from_millis(after_ms);
                self.next_pass = self.next_pass.min(due);
            }
        }
    }

    /// Takes note of a worker's end, if it has ended.
    pub(super) fn reap(&mut self, pid: u32) {
        let Some(index) = self.children.iter().position(|child| child.pid() == pid) else {
            return;
        };
        let Some(child) = self.children.get(index) else {
            return;
        };
        let ended = match child.process.ended() {
            Ok(None) => return,
            Ok(Some(ended)) => ended,
            Err(error) => {
                // Somebody else waited for it: that it has gone is sure.
                tracing::error!(pid, %error, "cannot tell how a worker ended");
                Ended::Exit(1)
            }
        };
        // What it still had to say, such as when to come again, came before its end.
        self.hear_worker(pid);
        let child = self.children.remove(index);
        self.board.retire(&child.board.slot(child.slot));
        let on_demand = matches!(self.farm.mode, Mode::OnDemand { .. });
        if on_demand {
            crate::setup::settle();
        }
        let expected = ended == Ended::Exit(0)
            && (child.state == WorkerState::Draining || on_demand)
            || child.killed;
        if expected {
            tracing::info!(worker = %child.name(), pid, "ended");
        } else {
            self.crashed(&child, ended, on_demand);
        }
    }

    fn crashed(&mut self, child: &Child, ended: Ended, on_demand: bool) {
        let now = Instant::now();
        let pid = child.pid();
        // Who killed it knows why; whatever else ended it may be a job's doing.
        let to_blame = child.was_ready && !ended.is_killed() && ended != Ended::Exit(0);
        self.board.crashed(pid, to_blame);
        let pause = self.backoff.crashed(now);
        tracing::error!(worker = %child.name(), pid, ended = %ended, pause_ms = pause.as_millis() as u64, "a worker crashed");
        if on_demand {
            self.next_pass = self.next_pass.min(now + pause);
        }
        if let Some(name) =
            self.farm.on_crash.as_ref().filter(|_| child.was_ready && !self.stopping)
            && self.poke.is_none()
        {
            let reason = format!("{} crashed", child.name());
            match Poke::send(&self.farm.run_dir, name, &reason, now) {
                Ok(poke) => self.poke = Some(poke),
                Err(error) => {
                    tracing::debug!(farm = %self.farm.name, socket = name, %error, "cannot ask after a crash");
                }
            }
        }
    }
}
