//! A manager that goes on as another program: what it leaves, and how it takes that up again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sys::{Process, SignalFd};

use super::{
    Backoff, Child, Farm, Manager, ManagerError, NamedSocket, Poke, Reload, TcpListen,
    settings_json,
};
use crate::handover::HandedSocket;
use crate::notify::Notifier;
use crate::scoreboard::{Board, WorkerState};
use crate::setup;
use crate::succession::{self, Listeners, Succession};

/// A manager's state; descriptors by their numbers. Changing what anything here means needs a new version in [`succession`].
#[derive(Serialize, Deserialize)]
pub(super) struct Held {
    run_dir: PathBuf,
    data_dir: PathBuf,
    control: Option<i32>,
    locks: [i32; 2],
    sockets: Vec<HandedSocket>,
    tcp: Vec<(String, SocketAddr)>,
    /// Of the listeners, those that are not the supervisor's.
    own: Vec<SocketAddr>,
    /// The scoreboard, and older ones that workers of old generations still write.
    boards: Vec<i32>,
    alive: i32,
    generation: u32,
    wanted: u32,
    next_pass_in_ms: u64,
    /// It was asking after a crash.
    pokes: bool,
    told_ready: bool,
    children: Vec<HeldChild>,
}

#[derive(Serialize, Deserialize)]
struct HeldChild {
    pid: u32,
    control: i32,
    slot: usize,
    /// Which of the boards.
    board: usize,
    generation: u32,
    state: WorkerState,
    busy: bool,
    superseded: bool,
    deaf: bool,
    was_ready: bool,
    kill_in_ms: Option<u64>,
    killed: bool,
}

impl Manager<'_> {
    /// SIGUSR2: goes on as the program that `run_dir/upgrade` names.
    pub(super) fn upgrade_as_requested(&mut self) {
        let (run_dir, data_dir) = (&self.farm.run_dir, &self.farm.data_dir);
        let program = succession::requested(run_dir).and_then(|program| {
            succession::rehearse(&program, run_dir, data_dir, &mut self.notifier).map(|()| program)
        });
        match program {
            Ok(program) => self.upgrade(&program),
            Err(error) => {
                tracing::error!(farm = %self.farm.name, error, "not upgraded: the old program goes on");
            }
        }
    }

    /// Goes on as another program; returns only when that fails.
    pub(super) fn upgrade(&mut self, program: &File) {
        if self.stopping {
            return;
        }
        tracing::info!(farm = %self.farm.name, "going on as a new program");
        self.notifier.reloading();
        let error = self.execute(program);
        tracing::error!(farm = %self.farm.name, %error, "not upgraded: the old program goes on");
        if self.told_ready {
            self.notifier.ready();
        }
    }

    fn execute(&self, program: &File) -> io::Error {
        let now = Instant::now();
        let in_ms = |when: Instant| when.saturating_duration_since(now).as_millis() as u64;
        let mut succession = Succession::new(program);
        for (address, listener) in &self.inherited {
            succession.keep_tcp(*address, listener);
        }
        let mut own = Vec::new();
        for (listen, listener) in &self.tcp {
            if !self.inherited.contains_key(&listen.address) {
                succession.keep_tcp(listen.address, listener);
                own.push(listen.address);
            }
        }
        let mut sockets = Vec::new();
        for (socket, listener) in &self.sockets {
            let fd = succession.keep(listener.as_fd());
            sockets.push(HandedSocket { name: socket.name.clone(), admin: socket.admin, fd });
        }
        let Some(alive) = self.board.alive() else {
            return io::Error::other("the scoreboard is not ours");
        };
        let mut boards = vec![&self.board];
        let mut children = Vec::new();
        for child in &self.children {
            let known = boards.iter().position(|board| Rc::ptr_eq(board, &child.board));
            let board = known.unwrap_or(boards.len());
            if known.is_none() {
                boards.push(&child.board);
            }
            children.push(HeldChild {
                pid: child.pid(),
                control: succession.keep(child.control.as_fd()),
                slot: child.slot,
                board,
                generation: child.generation,
                state: child.state,
                busy: child.busy,
                superseded: child.superseded,
                deaf: child.deaf,
                was_ready: child.was_ready,
                kill_in_ms: child.kill_at.map(in_ms),
                killed: child.killed,
            });
        }
        let [instance, name] = &self.locks;
        let held = Held {
            run_dir: self.farm.run_dir.clone(),
            data_dir: self.farm.data_dir.clone(),
            control: self.upward.as_ref().map(|upward| succession.keep(upward.as_fd())),
            locks: [succession.keep(instance.as_fd()), succession.keep(name.as_fd())],
            sockets,
            tcp: self.tcp.iter().map(|(tcp, _)| (tcp.name.clone(), tcp.address)).collect(),
            own,
            boards: boards.into_iter().map(|board| succession.keep(board.as_fd())).collect(),
            alive: succession.keep(alive),
            generation: self.generation,
            wanted: self.wanted,
            next_pass_in_ms: in_ms(self.next_pass),
            pokes: self.poke.is_some(),
            told_ready: self.told_ready,
            children,
        };
        succession.execute(&held)
    }

    /// After an upgrade the farm is as after a reload: a new generation, from this program, takes over from the old one.
    pub(super) fn begin_generation(&mut self) -> Result<(), ManagerError> {
        let farm = self.farm.clone();
        self.renew(&farm)?;
        self.supersede();
        if self.told_ready {
            setup::settle();
            self.notifier.ready();
        }
        tracing::info!(farm = %self.farm.name, generation = self.generation, version = env!("CARGO_PKG_VERSION"), "upgraded");
        Ok(())
    }
}

/// Takes up what the manager before left.
pub(super) fn adopt<'a>(
    farm: Farm,
    reload: Reload<'a>,
    signals: SignalFd,
    (listeners, held): (Listeners, Option<Held>),
) -> Result<Manager<'a>, ManagerError> {
    let unknown = || "its state is of another version: it must start anew".to_owned();
    let adopted = held.ok_or_else(unknown).and_then(|held| {
        if held.run_dir != farm.run_dir || held.data_dir != farm.data_dir {
            return Err("run_dir and data_dir change only by a restart".to_owned());
        }
        take_up(farm, reload, signals, listeners, held).map_err(|error| error.to_string())
    });
    let mut manager = adopted.map_err(|error| {
        ManagerError::Setup(format!("cannot go on where the program before stopped: {error}"))
    })?;
    manager.begin_generation()?;
    Ok(manager)
}

fn take_up<'a>(
    farm: Farm,
    reload: Reload<'a>,
    signals: SignalFd,
    listeners: Listeners,
    held: Held,
) -> io::Result<Manager<'a>> {
    let now = Instant::now();
    let listeners = listeners.into_iter().map(|(address, listener)| (address, Rc::new(listener)));
    let mut inherited: BTreeMap<SocketAddr, _> = listeners.collect();
    let mut tcp = Vec::new();
    for (name, address) in held.tcp {
        if let Some(listener) = inherited.get(&address) {
            tcp.push((TcpListen { name, address }, listener.clone()));
        }
    }
    inherited.retain(|address, _| !held.own.contains(address));
    let mut sockets = Vec::new();
    for HandedSocket { name, admin, fd } in held.sockets {
        let listener = UnixListener::from(sys::take_descriptor(fd)?);
        sockets.push((NamedSocket { name, admin }, listener));
    }
    let [instance, name] = held.locks.map(sys::take_descriptor);
    let mut boards: Vec<Rc<Board>> = Vec::new();
    for number in held.boards {
        let fd = sys::take_descriptor(number)?;
        boards.push(Rc::new(match boards.is_empty() {
            true => Board::adopt(fd, sys::take_descriptor(held.alive)?)?,
            false => Board::of(fd)?,
        }));
    }
    let mut children = Vec::new();
    for child in held.children {
        children.push(take_up_child(child, &boards, now)?);
    }
    let board = boards.into_iter().next().ok_or_else(|| io::Error::other("no scoreboard"))?;
    Ok(Manager {
        settings: settings_json(&farm.settings).map_err(io::Error::other)?,
        reload,
        signals,
        upward: held.control.map(sys::take_descriptor).transpose()?,
        inherited,
        sockets,
        tcp,
        board,
        generation: held.generation,
        children,
        wanted: held.wanted,
        backoff: Backoff::default(),
        surplus_since: None,
        next_pass: now + Duration::from_millis(held.next_pass_in_ms),
        last_pass: None,
        next_probe: now,
        poke: asks_again(&farm, held.pokes, now),
        told_ready: held.told_ready,
        notifier: Notifier::new(now),
        stopping: false,
        locks: [instance?.into(), name?.into()],
        farm,
    })
}

fn take_up_child(held: HeldChild, boards: &[Rc<Board>], now: Instant) -> io::Result<Child> {
    let board = boards.get(held.board).filter(|board| held.slot < board.slot_count());
    let board = board.ok_or_else(|| io::Error::other("a worker without a line of a scoreboard"))?;
    Ok(Child {
        process: Process::adopt(held.pid)?,
        control: sys::take_descriptor(held.control)?,
        slot: held.slot,
        board: board.clone(),
        generation: held.generation,
        state: held.state,
        busy: held.busy,
        superseded: held.superseded,
        deaf: held.deaf,
        was_ready: held.was_ready,
        kill_at: held.kill_in_ms.map(|ms| now + Duration::from_millis(ms)),
        killed: held.killed,
        told: None,
        started: now,
        is_late: false,
        probed: None,
    })
}

/// A question that was under way at the upgrade is asked again: it only asks for a pass.
fn asks_again(farm: &Farm, pokes: bool, now: Instant) -> Option<Poke> {
    let name = farm.on_crash.as_ref().filter(|_| pokes)?;
    Poke::send(&farm.run_dir, name, &format!("{} crashed", farm.name), now).ok()
}
