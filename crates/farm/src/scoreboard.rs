//! The scoreboard: a file of atomics in `run_dir`, one cache line per worker, then its counters. Anyone may read it.
//!
//! ```text
//! header   magic, version, geometry, manager, crashes, process ids of the last crashes, totals of ended workers,
//!          JSON of the names
//! slots    each: a cache line (pid, generation, state, jobs, connections …), a cache line of connections by
//!          listener, 48 counters
//! tally    keys, then for each slot a count per key (only in farms with TCP listeners)
//! notices  for each slot a short text that its worker leaves for who looks
//! ```
//!
//! The manager makes the file and owns the header; a worker writes its own slot, tally counts and notice. Whoever only reads takes
//! the file's bytes ([`read_all`]) and maps nothing.

mod board;
mod notice;

use std::io;
use std::path::Path;

pub(crate) use board::{BUSY_LOAD, Board, JOBS_GAUGE, Slot, TALLY_BUCKETS, TCP_GAUGE};

/// The most counters a farm may have.
pub const COUNTERS_MAX: usize = 48;

/// What one worker's line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The worker's name, `router/2`.
    pub worker: String,
    /// Its process id.
    pub pid: u32,
    /// Its generation, counted up by every reload.
    pub generation: u32,
    /// What it is doing.
    pub state: WorkerState,
    /// Jobs or sessions in hand.
    pub jobs: u32,
    /// Connections in hand.
    pub connections: u32,
    /// Slots in all.
    pub capacity: u32,
    /// Jobs done since it started.
    pub jobs_done: u64,
    /// How much of the last second its loop was running, in thousandths.
    pub load: u32,
    /// Milliseconds since 1970 when it last did something.
    pub active_at: u64,
    /// The farm's counters, in the order of their names.
    pub counters: Vec<u64>,
    /// What it has to tell, some hundred bytes at most.
    pub notice: Option<String>,
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// Started, not ready yet.
    Starting,
    /// Takes jobs.
    Ready,
    /// Finishes what it has.
    Draining,
    /// Waits, perhaps for ever, until another process elsewhere ends that does what it would do. Its farm counts as started.
    Standby,
}

impl WorkerState {
    /// Whether it has come as far as it can by itself: it takes jobs, or stands by.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Ready | Self::Standby)
    }
}

/// A farm's scoreboard as a reader sees it.
#[derive(Debug, Clone)]
pub struct View {
    /// The farm.
    pub farm: String,
    /// The manager's process id.
    pub manager: u32,
    /// The generation of workers that the manager starts now, counted up by every reload that needs new workers.
    pub generation: u32,
    /// Workers are started for one pass each, when somebody asks or it is time.
    pub on_demand: bool,
    /// Names of the counters.
    pub counters: Vec<String>,
    /// Totals of the counters of workers that have ended.
    pub ended: Vec<u64>,
    /// Workers that crashed since the manager started.
    pub crashes: u64,
    /// The workers.
    pub workers: Vec<Line>,
}

/// Reads every farm's scoreboard in `run_dir`. Left out: a farm whose manager has gone, and files that are no scoreboards.
///
/// # Errors
///
/// When the directory cannot be read; a `run_dir` where no farm ever ran is an error of kind `NotFound`.
pub fn read_all(run_dir: &Path) -> io::Result<Vec<View>> {
    let mut views = Vec::new();
    for entry in run_dir.join("scoreboards").read_dir()? {
        let path = entry?.path();
        if board::is_scoreboard(&path)
            && let Ok(view) = board::read(&path)
        {
            views.push(view);
        }
    }
    views.sort_by(|one, other| one.farm.cmp(&other.farm));
    Ok(views)
}

impl View {
    /// A counter's total over the workers that are and those that were.
    pub fn total(&self, counter: &str) -> Option<u64> {
        let index = self.counters.iter().position(|name| name == counter)?;
        let running = self.workers.iter().filter_map(|line| line.counters.get(index));
        Some(self.ended.get(index).copied().unwrap_or(0) + running.sum::<u64>())
    }
}

#[cfg(test)]
mod tests;
