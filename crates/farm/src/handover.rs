//! What a manager hands to its worker and a supervisor to its manager, and what they tell each other afterwards.
//!
//! ```text
//! manager ── Workers, Drain, Settings, Places (+ memfd) ─▶ worker
//! manager ◀─ Ready, Standby, Busy, Worn, Draining, ComeAgain ── worker
//!
//! supervisor ── Reload (+ TCP listeners), Upgrade (+ program, TCP listeners) ─▶ manager
//! supervisor ◀─ Ready ───────────────────── manager
//! ```
//!
//! One JSON text per packet. The end of the socketpair means that the other has died. While an upgrade is under way the two ends
//! are of different versions: a word may be added to these, and none may change its meaning.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use socket::Address;
use sys::packet::{self, Received};

/// Names the descriptor of the memory file that tells a worker what it is.
pub(crate) const WORKER_VARIABLE: &str = "GRANGE_WORKER_FD";
/// Names the descriptor of the memory file that tells a manager what its supervisor gives it.
pub(crate) const MANAGER_VARIABLE: &str = "GRANGE_MANAGER_FD";

/// Everything a worker is given: the sealed memory file's content.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkerHandover {
    pub(crate) farm: String,
    /// `router/2`.
    pub(crate) worker: String,
    pub(crate) slot: usize,
    pub(crate) generation: u32,
    pub(crate) run_dir: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) control: i32,
    pub(crate) scoreboard: i32,
    pub(crate) sockets: Vec<HandedSocket>,
    pub(crate) tcp: Vec<HandedTcp>,
    pub(crate) jobs_max: u64,
    pub(crate) concurrency: u32,
    /// Groups whose members may use the named sockets.
    pub(crate) gids: Vec<u32>,
    /// Groups whose members may use the admin sockets.
    pub(crate) admin_gids: Vec<u32>,
    /// How long it may go on when its manager has died.
    pub(crate) orphan_ms: u64,
    /// The directory of this host's keys.
    pub(crate) keys: Option<PathBuf>,
    /// Who may ask at the job port: farms by socket.
    pub(crate) callers: BTreeMap<String, Vec<String>>,
    /// Where other farms are asked.
    pub(crate) places: BTreeMap<String, Vec<Address>>,
    pub(crate) settings: Box<RawValue>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedSocket {
    pub(crate) name: String,
    pub(crate) admin: bool,
    pub(crate) fd: i32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedTcp {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) fd: i32,
}

/// Everything a supervisor gives a manager.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ManagerHandover {
    pub(crate) control: i32,
    pub(crate) tcp: Vec<HandedTcp>,
}

/// Why a worker is to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainReason {
    /// The farm stops: finish what is under way, begin nothing.
    Stop,
    /// A new generation has taken over, or this worker is no longer needed: sessions may run to their end.
    Retire,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToWorker {
    /// How many workers of its generation are ready, and which of any generation crashed lately.
    Workers {
        ready: u32,
        crashed: Vec<u32>,
    },
    Drain {
        reason: DrainReason,
        within_ms: u64,
    },
    /// New settings, in the memory file that comes along.
    Settings,
    /// Other farms are asked elsewhere: where, in the memory file that comes along.
    Places,
    /// Whether it is there: it answers `Here`.
    Probe,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToManager {
    Ready,
    /// It waits until another process elsewhere ends, and is ready only then.
    Standby,
    Busy(bool),
    /// The answer to `Probe`.
    Here,
    /// It has done its `jobs_max`.
    Worn,
    /// It drains by itself: somebody sent it SIGTERM.
    Draining,
    /// On demand: another pass is due after so long.
    ComeAgain {
        after_ms: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FromSupervisor {
    /// Read the configuration anew; these listeners, whose descriptors come along in order, are the farm's from now on.
    Reload { tcp: Vec<(String, SocketAddr)> },
    /// Go on as the program whose open file is the first descriptor that comes along; the others are as in `Reload`.
    Upgrade { tcp: Vec<(String, SocketAddr)> },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToSupervisor {
    Ready,
}

/// What came from the other end.
#[derive(Debug)]
pub(crate) enum Told<T> {
    Message(T, Vec<OwnedFd>),
    Nothing,
    End,
}

/// Tells the other end something, without waiting.
pub(crate) fn tell<T: Serialize>(
    control: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    packet::send(control, &serde_json::to_vec(message)?, fds)
}

/// Takes what the other end told next. What cannot be understood is an error.
pub(crate) fn told<T: DeserializeOwned>(control: impl AsFd) -> io::Result<Told<T>> {
    Ok(match packet::receive(control)? {
        Received::Packet(bytes, fds) => Told::Message(serde_json::from_slice(&bytes)?, fds),
        Received::Nothing => Told::Nothing,
        Received::End => Told::End,
    })
}
