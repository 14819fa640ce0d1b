//! A worker without a manager, within the process that asks for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use socket::Address;

use super::inner::Inner;
use crate::handover::{self, DrainReason, ToManager, ToWorker, Told, WorkerHandover};
use crate::manager::{Farm, ManagerError};
use crate::scoreboard::{Board, TALLY_BUCKETS};
use crate::setup::{self, Owners};

/// The manager's end of a worker that runs alone. Dropped, it has died: the worker drains.
pub struct Alone {
    control: OwnedFd,
    _lock: File,
    _board: Board,
}

impl Alone {
    /// Tells the worker to drain.
    pub fn drain(&self, reason: DrainReason, within: Duration) {
        self.tell(&ToWorker::Drain { reason, within_ms: within.as_millis() as u64 }, &[]);
    }

    /// Hands new settings over, as a reload of a farm of one does.
    ///
    /// # Errors
    ///
    /// When the system gives no memory file.
    pub fn new_settings(&self, settings: &[u8]) -> std::io::Result<()> {
        let memory = sys::sealed_memfd("grange-settings", settings)?;
        self.tell(&ToWorker::Settings, &[memory.as_fd()]);
        Ok(())
    }

    /// Tells where other farms are from now on.
    ///
    /// # Errors
    ///
    /// When the system gives no memory file.
    pub fn new_places(&self, places: &BTreeMap<String, Vec<Address>>) -> std::io::Result<()> {
        let memory = sys::sealed_memfd("grange-places", &serde_json::to_vec(places)?)?;
        self.tell(&ToWorker::Places, &[memory.as_fd()]);
        Ok(())
    }

    /// Whether the worker has said by now that it is ready. Asked until it says yes, and not after.
    pub fn is_ready(&self) -> bool {
        matches!(handover::told::<ToManager>(&self.control), Ok(Told::Message(ToManager::Ready, _)))
    }

    fn tell(&self, message: &ToWorker, fds: &[std::os::fd::BorrowedFd<'_>]) {
        if let Err(error) = handover::tell(&self.control, message, fds) {
            tracing::warn!(%error, "cannot tell the worker");
        }
    }
}

impl Inner {
    /// Whether this worker is a process of its own, which it may end.
    pub(super) fn ends_itself(&self) -> bool {
        self.given.control >= 0
    }
}

pub(super) fn begin(farm: &Farm) -> Result<(Inner, Alone), ManagerError> {
    let failed = |what: &'static str| {
        move |error: std::io::Error| ManagerError::Setup(format!("cannot {what}: {error}"))
    };
    farm.check_keys()?;
    let owners = Owners { user: None, admin_group: farm.admin_group };
    setup::prepare_run_dir(&farm.run_dir, owners)?;
    let lock = setup::lock_farm(&farm.run_dir, &farm.name)?;
    let path: PathBuf = farm.run_dir.join("scoreboards").join(&farm.name);
    let buckets = if farm.tcp.is_empty() { 0 } else { TALLY_BUCKETS };
    let made = Board::create(&path, &farm.name, &farm.counters, 2, buckets)
        .map_err(failed("make the scoreboard"))?;
    made.slot(0).take(1, farm.workers.concurrency);
    made.slot(0).set_pid(std::process::id());
    let board = made.as_fd().try_clone_to_owned().and_then(Board::of);
    let board = board.map_err(failed("map the scoreboard"))?;
    let mut named = Vec::new();
    for socket in &farm.sockets {
        let listener = setup::bind_named(&farm.run_dir, socket, owners)?;
        named.push((socket.name.clone(), socket.admin, listener));
    }
    let mut tcp = Vec::new();
    for listen in farm.listens() {
        let listener = setup::bind_tcp(&listen)?;
        tcp.push((listen.name, listener.into()));
    }
    let (control, theirs) = sys::packet::pair().map_err(failed("make a socketpair"))?;
    let given = WorkerHandover {
        farm: farm.name.clone(),
        worker: made.worker_name(0),
        slot: 0,
        generation: 1,
        run_dir: farm.run_dir.clone(),
        data_dir: farm.data_dir.clone(),
        control: -1,
        scoreboard: -1,
        sockets: Vec::new(),
        tcp: Vec::new(),
        jobs_max: farm.workers.jobs_max,
        concurrency: farm.workers.concurrency,
        gids: Vec::new(),
        admin_gids: farm.admin_group.into_iter().collect(),
        orphan_ms: farm.drain_reload.as_millis() as u64,
        keys: farm.keys.clone(),
        callers: farm.callers.clone(),
        places: farm.places.clone(),
        settings: crate::manager::settings_json(&farm.settings)?,
    };
    let inner = Inner::new(given, board, theirs, None, named, tcp)
        .map_err(|error| ManagerError::Setup(error.to_string()))?;
    Ok((inner, Alone { control, _lock: lock, _board: made }))
}
